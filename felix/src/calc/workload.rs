//! Pods of this node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::endpoint::WorkloadEndpointSpec;
use api::key::Key;
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
}

/// Workloads of this node. Of two with the same address the first by name has it.
#[derive(Debug, Default)]
pub(super) struct Workloads {
    by_key: BTreeMap<Key, Workload>,
    by_addr: BTreeMap<IpAddr, BTreeSet<Key>>,
    by_ifname: BTreeMap<IfName, BTreeSet<Key>>,
    problems: BTreeMap<Key, Vec<Problem>>,
}

/// What a change of one endpoint touches.
#[derive(Debug, Default)]
pub(super) struct Touched {
    pub(super) addrs: BTreeSet<IpAddr>,
    pub(super) ifnames: BTreeSet<IfName>,
}

impl Workloads {
    pub(super) fn update(&mut self, key: &Key, spec: Option<&WorkloadEndpointSpec>) -> Touched {
        let mut touched = Touched::default();
        self.problems.remove(key);
        let new = spec.and_then(|spec| self.read(key, spec));
        if self.by_key.get(key) == new.as_ref() {
            return touched;
        }
        if let Some(old) = self.by_key.remove(key) {
            for addr in old.addrs {
                unindex(&mut self.by_addr, &addr, key);
                touched.addrs.insert(addr);
            }
            unindex(&mut self.by_ifname, &old.ifname, key);
            touched.ifnames.insert(old.ifname);
        }
        if let Some(new) = new {
            for addr in &new.addrs {
                self.by_addr.entry(*addr).or_default().insert(key.clone());
                touched.addrs.insert(*addr);
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

    fn read(&mut self, key: &Key, spec: &WorkloadEndpointSpec) -> Option<Workload> {
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
        })
    }

    /// The workload that has an address.
    pub(super) fn at(&self, addr: &IpAddr) -> Option<&Workload> {
        let key = self.by_addr.get(addr)?.first()?;
        self.by_key.get(key)
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
        let duplicates = self.by_addr.iter().flat_map(|(addr, keys)| {
            let of = keys.first();
            keys.iter().skip(1).filter_map(move |key| {
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

fn unindex<K: Ord>(index: &mut BTreeMap<K, BTreeSet<Key>>, at: &K, key: &Key) {
    if let Some(keys) = index.get_mut(at) {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(at);
        }
    }
}
