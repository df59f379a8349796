//! Pods of this node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::endpoint::WorkloadEndpoint;
use api::ipam::IPAMBlockSpec;
use api::key::Key;
use api::selector::Selector;
use ipnet::IpNet;

use super::host::parse_mac;
use super::problem::{Problem, Reason, Subject};
use crate::desired::{IfName, Mac};

/// What the graph uses of a WorkloadEndpoint object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Workload {
    pub(super) ifname: IfName,
    /// Of the pod's side.
    pub(super) mac: Option<Mac>,
    pub(super) addrs: BTreeSet<IpAddr>,
    /// Floating addresses, and the own ones that they stand for.
    pub(super) floating: BTreeMap<IpAddr, IpAddr>,
    pub(super) labels: BTreeMap<String, String>,
    /// Prefixes under which it may send besides its addresses.
    pub(super) sources: BTreeSet<IpNet>,
    holder: Holder,
}

impl Workload {
    /// Addresses under which it is reached.
    fn reached_at(&self, floating: bool) -> impl Iterator<Item = IpAddr> + '_ {
        let others = self.floating.keys().filter(move |_| floating);
        self.addrs.iter().chain(others).copied()
    }
}

/// Under which IPAM handle a workload has its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Holder {
    Handle(String),
    /// Calico's endpoints do not say it; its handles end in the container's id.
    Container(String),
}

impl Holder {
    fn of(endpoint: &WorkloadEndpoint) -> Self {
        match endpoint.handle_id() {
            Some(handle) => Self::Handle(handle.to_owned()),
            None => Self::Container(endpoint.spec.container_id.clone()),
        }
    }

    /// Handles are compared without case, as the names of their objects are.
    fn has(&self, handle: &str) -> bool {
        match self {
            Self::Handle(own) => own.eq_ignore_ascii_case(handle),
            Self::Container(id) => handle
                .rsplit_once('.')
                .is_some_and(|(_, of)| of.eq_ignore_ascii_case(id)),
        }
    }
}

/// Workloads of this node. Of two with the same address that one has it which IPAM gave it to: the other is stale, left
/// by an agent or a runtime that died. Where IPAM knows neither, the first by name has it.
#[derive(Debug, Default)]
pub(super) struct Workloads {
    by_key: BTreeMap<Key, Workload>,
    /// Whether floating addresses count.
    floating: bool,
    by_addr: BTreeMap<IpAddr, BTreeSet<Key>>,
    by_ifname: BTreeMap<IfName, BTreeSet<Key>>,
    /// Address → handle that has it on this node, by block.
    handles: BTreeMap<IpAddr, (Key, String)>,
    problems: BTreeMap<Key, Vec<Problem>>,
}

/// What a change of one endpoint touches.
#[derive(Debug, Default)]
pub(super) struct Touched {
    pub(super) addrs: BTreeSet<IpAddr>,
    pub(super) ifnames: BTreeSet<IfName>,
    /// Whether packet rules follow from it.
    pub(super) rules: bool,
}

impl Workloads {
    /// Whether pods are reached under floating addresses from now on.
    pub(super) fn count_floating(&mut self, floating: bool) {
        if self.floating == floating {
            return;
        }
        self.floating = floating;
        self.by_addr.clear();
        for (key, workload) in &self.by_key {
            for addr in workload.reached_at(floating) {
                self.by_addr.entry(addr).or_default().insert(key.clone());
            }
        }
    }

    pub(super) fn update(&mut self, key: &Key, endpoint: Option<&WorkloadEndpoint>) -> Touched {
        let mut touched = Touched::default();
        self.problems.remove(key);
        let new = endpoint.and_then(|endpoint| self.read(key, endpoint));
        if self.by_key.get(key) == new.as_ref() {
            return touched;
        }
        let of_rules = |workload: Option<&Workload>| {
            let own = workload.map(|found| (found.floating.clone(), found.sources.clone()));
            own.filter(|own| !own.0.is_empty() || !own.1.is_empty())
        };
        touched.rules = of_rules(self.by_key.get(key)) != of_rules(new.as_ref());
        if let Some(old) = self.by_key.remove(key) {
            for addr in old.reached_at(self.floating) {
                unindex(&mut self.by_addr, &addr, key);
                touched.addrs.insert(addr);
            }
            unindex(&mut self.by_ifname, &old.ifname, key);
            touched.ifnames.insert(old.ifname);
        }
        if let Some(new) = new {
            for addr in new.reached_at(self.floating) {
                self.by_addr.entry(addr).or_default().insert(key.clone());
                touched.addrs.insert(addr);
            }
            let ifname = new.ifname.clone();
            self.by_ifname
                .entry(ifname.clone())
                .or_default()
                .insert(key.clone());
            touched.ifnames.insert(ifname);
            self.by_key.insert(key.clone(), new);
        }
        touched
    }

    /// A block was written, or is gone. Gives the addresses that went from one workload to another.
    pub(super) fn update_block(
        &mut self,
        key: &Key,
        block: Option<&IPAMBlockSpec>,
        node: &str,
    ) -> Vec<IpAddr> {
        let shared = |addr: &IpAddr| self.by_addr.get(addr).is_some_and(|keys| keys.len() > 1);
        let before: Vec<(IpAddr, Option<Key>)> = self
            .by_addr
            .keys()
            .filter(|addr| shared(addr))
            .map(|addr| (*addr, self.key_at(addr).cloned()))
            .collect();
        self.handles.retain(|_, (of, _)| of != key);
        if let Some(block) = block.filter(|block| !block.deleted) {
            let held = handles(block, node).map(|(addr, handle)| (addr, (key.clone(), handle)));
            self.handles.extend(held);
        }
        before
            .into_iter()
            .filter(|(addr, was)| self.key_at(addr) != was.as_ref())
            .map(|(addr, _)| addr)
            .collect()
    }

    fn read(&mut self, key: &Key, endpoint: &WorkloadEndpoint) -> Option<Workload> {
        let spec = &endpoint.spec;
        let mut problems = Vec::new();
        let mut refuse = |field, why: String| {
            problems.push(Problem {
                subject: Subject::Object(key.clone()),
                field,
                reason: Reason::Invalid(why.into()),
            });
        };
        let mut addrs = BTreeSet::new();
        for net in &spec.ip_networks {
            if net.prefix_len() == net.max_prefix_len() {
                addrs.insert(net.addr());
            } else {
                refuse(
                    "spec.ipNetworks",
                    format!("{net}: a pod's address must be a /32 or /128"),
                );
            }
        }
        let mut floating = BTreeMap::new();
        for nat in &spec.ip_nats {
            if addrs.contains(&nat.internal) && nat.external.is_ipv4() == nat.internal.is_ipv4() {
                floating.insert(nat.external, nat.internal);
            } else {
                refuse(
                    "spec.ipNATs",
                    format!(
                        "{} for {}: internalIP must be one of the pod's addresses, externalIP of the same family",
                        nat.external, nat.internal
                    ),
                );
            }
        }
        let mac = parse_mac(&spec.mac);
        if mac.is_none() {
            refuse("spec.mac", format!("{:?} is no MAC address", spec.mac));
        }
        let named = !spec.interface_name.is_empty() && spec.interface_name.len() <= 15;
        if !named {
            refuse(
                "spec.interfaceName",
                format!("{:?}: must be 1 to 15 bytes", spec.interface_name),
            );
        }
        if !problems.is_empty() {
            self.problems.insert(key.clone(), problems);
        }
        named.then(|| Workload {
            ifname: IfName::from(spec.interface_name.as_str()),
            mac,
            addrs,
            floating,
            labels: endpoint.metadata.labels.clone(),
            sources: spec
                .allow_spoofed_source_prefixes
                .iter()
                .map(IpNet::trunc)
                .collect(),
            holder: Holder::of(endpoint),
        })
    }

    pub(super) fn key_at(&self, addr: &IpAddr) -> Option<&Key> {
        let keys = self.by_addr.get(addr)?;
        let holds = |key: &&Key| {
            let handle = self.handles.get(addr).map(|(_, handle)| handle.as_str());
            let workload = self.by_key.get(*key);
            handle
                .zip(workload)
                .is_some_and(|(handle, workload)| workload.holder.has(handle))
        };
        let mut given = keys.iter().filter(|_| keys.len() > 1).filter(holds);
        given.next().or_else(|| keys.first())
    }

    /// Devices and addresses of selected workloads, of each the first address of a family.
    pub(super) fn selected(&self, selector: &Selector) -> Vec<(&IfName, IpAddr)> {
        let mut selected = Vec::new();
        for (key, workload) in &self.by_key {
            if !selector.matches(&workload.labels) {
                continue;
            }
            for v4 in [true, false] {
                let mut addrs = workload.addrs.iter();
                if let Some(addr) = addrs.find(|addr| addr.is_ipv4() == v4)
                    && self.key_at(addr) == Some(key)
                {
                    selected.push((&workload.ifname, *addr));
                }
            }
        }
        selected
    }

    /// The workload that has an address.
    pub(super) fn at(&self, addr: &IpAddr) -> Option<&Workload> {
        self.by_key.get(self.key_at(addr)?)
    }

    /// Floating addresses that count, and the pods' own that they stand for.
    pub(super) fn floating(&self) -> impl Iterator<Item = (IpAddr, IpAddr)> + '_ {
        let asked = self.by_key.iter().filter(|_| self.floating);
        let asked =
            asked.flat_map(|(key, found)| found.floating.iter().map(move |pair| (key, pair)));
        // Of two that ask for one address one has it.
        let has = |key: &Key, external: &IpAddr| self.key_at(external) == Some(key);
        asked.filter_map(move |(key, (external, own))| {
            has(key, external).then_some((*external, *own))
        })
    }

    /// Devices whose pods may send under prefixes that are not theirs, and these.
    pub(super) fn sources(&self) -> impl Iterator<Item = (&IfName, IpNet)> + '_ {
        let all = self.by_key.values();
        all.flat_map(|found| found.sources.iter().map(|prefix| (&found.ifname, *prefix)))
    }

    /// Devices whose pods may send under prefixes that are not theirs.
    pub(super) fn spoofing(&self) -> impl Iterator<Item = &IfName> + '_ {
        let all = self.by_key.values();
        all.filter(|found| !found.sources.is_empty())
            .map(|found| &found.ifname)
    }

    /// Whether a device's pod may send under prefixes that are not its own.
    pub(super) fn has_sources(&self, ifname: &IfName) -> bool {
        let keys = self.by_ifname.get(ifname).into_iter().flatten();
        keys.filter_map(|key| self.by_key.get(key))
            .any(|found| !found.sources.is_empty())
    }

    pub(super) fn has_device(&self, ifname: &IfName) -> bool {
        self.by_ifname.contains_key(ifname)
    }

    pub(super) fn addrs(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.by_addr.keys().map(|addr| IpNet::from(*addr))
    }

    pub(super) fn addrs_inside(&self, range: &IpNet) -> impl Iterator<Item = IpNet> + '_ {
        self.by_addr
            .range(range.network()..=range.broadcast())
            .map(|(addr, _)| IpNet::from(*addr))
    }

    pub(super) fn problems(&self) -> impl Iterator<Item = Problem> + '_ {
        let shared = self.by_addr.iter().filter(|(_, keys)| keys.len() > 1);
        let duplicates = shared.flat_map(|(addr, keys)| {
            let of = self.key_at(addr);
            let others = keys.iter().filter(move |key| Some(*key) != of);
            others.filter_map(move |key| {
                Some(Problem {
                    subject: Subject::Object(key.clone()),
                    field: "spec.ipNetworks",
                    reason: Reason::Duplicate {
                        value: addr.to_string(),
                        of: of?.clone(),
                    },
                })
            })
        });
        self.problems.values().flatten().cloned().chain(duplicates)
    }
}

/// The addresses of a block that a node has, and their handles.
fn handles<'a>(
    block: &'a IPAMBlockSpec,
    node: &'a str,
) -> impl Iterator<Item = (IpAddr, String)> + 'a {
    let slots = super::block::addresses(block.cidr.trunc());
    let held = block.allocations.iter().zip(slots);
    held.filter_map(move |(slot, addr)| {
        let held = block.attributes.get((*slot)?)?;
        let ours = held.secondary.get("node").map(String::as_str) == Some(node);
        let ours = ours && held.released_at().is_none();
        ours.then(|| held.handle_id.clone())?
            .map(|handle| (addr.addr(), handle))
    })
}

fn unindex<K: Ord>(index: &mut BTreeMap<K, BTreeSet<Key>>, at: &K, key: &Key) {
    if let Some(keys) = index.get_mut(at) {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(at);
        }
    }
}
