//! Which addresses of Services this node announces, and which ranges of theirs no route of the kernel leads to.
//!
//! A range is announced as a whole by every node, without any Service. Of a Service, this node announces by itself:
//!
//! | # | first that holds | its addresses |
//! |---|---|---|
//! | 1 | the node is opted out; the Service has no cluster address, or is an ExternalName | none |
//! | 2 | `externalTrafficPolicy` is not Local, and a range is one load balancer or external address of it | all, also without endpoints |
//! | 3 | it is not Local, and ranges are announced as wholes | none |
//! | 4 | it is not Local | all, if there is a ready endpoint anywhere |
//! | 5 | it is Local | all, if this node has a ready endpoint |
//!
//! Each family is decided by its own addresses and endpoints. All is made from what there is now: nothing is remembered of what
//! a Service or its endpoints were.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::bgp::{BGPConfigurationSpec, ServiceRange};
use api::key::{Key, Kind};
use api::service::{EXCLUDE_NODE, EndpointSlice, Service, load_balancer_ips};
use ipnet::IpNet;

use super::Graph;
use super::dirty::Dirty;
use super::host::Host;
use super::settings::Settings;
use crate::rules::Family;

impl Graph {
    /// Whether all Services and endpoints were told.
    pub(super) fn services_synced(&self) -> bool {
        Self::ON_DEMAND
            .iter()
            .all(|kind| self.synced.contains(kind))
    }

    /// Which addresses of Services are announced. Ranges follow from what the configuration of the speaker follows from.
    pub(super) fn flush_services(&mut self, dirty: &mut Dirty) {
        if dirty.peers {
            let config = self.bgp_configs.get("default");
            let own = self.hosts.get(&self.settings.node_name);
            let ranges = Ranges::of(&self.settings, config, own);
            if let Some(wholes) = self.services.set_ranges(ranges) {
                dirty.prefixes.extend(wholes);
                dirty.bgp_prefixes = true;
                dirty.all_services = true;
            }
        }
        if dirty.all_services {
            dirty.services.extend(self.services.keys());
        }
        let known = self.services_synced();
        for service in &dirty.services {
            dirty.prefixes.extend(self.services.review(service, known));
        }
    }
}

/// Ranges of Services' addresses, and what this node does with them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges {
    cluster: Vec<IpNet>,
    external: Vec<IpNet>,
    load_balancer: Vec<IpNet>,
    /// Ranges of load balancers are announced as wholes.
    aggregated: bool,
    /// This node announces Services.
    announces: bool,
}

impl Ranges {
    /// `config` is the BGPConfiguration `default`; the one of the node says nothing of Services.
    pub(super) fn of(
        settings: &Settings,
        config: Option<&BGPConfigurationSpec>,
        own: Option<&Host>,
    ) -> Self {
        let nets = |ranges: &[ServiceRange]| -> Vec<IpNet> {
            ranges.iter().map(|range| range.cidr.trunc()).collect()
        };
        let of_config = |part: fn(&BGPConfigurationSpec) -> &[ServiceRange]| {
            config.map(|config| nets(part(config))).unwrap_or_default()
        };
        let is_excluded = own.is_some_and(|own| {
            own.labels
                .get(EXCLUDE_NODE)
                .is_some_and(|value| value == "true")
        });
        let cluster = match &settings.service_cluster_ranges[..] {
            [] => of_config(|config| &config.service_cluster_ips),
            ranges => ranges.iter().map(IpNet::trunc).collect(),
        };
        let aggregation =
            config.and_then(|config| config.service_load_balancer_aggregation.as_deref());
        Self {
            cluster,
            external: of_config(|config| &config.service_external_ips),
            load_balancer: of_config(|config| &config.service_load_balancer_ips),
            aggregated: aggregation != Some("Disabled"),
            announces: settings.announces_services && own.is_some() && !is_excluded,
        }
    }

    /// Whether Services must be known.
    pub(super) fn ask_for_services(&self) -> bool {
        self.announces && self.all().next().is_some()
    }

    fn all(&self) -> impl Iterator<Item = &IpNet> {
        let kinds = [&self.cluster, &self.external, &self.load_balancer];
        kinds.into_iter().flatten()
    }

    /// Whether a destination is a Service's, so that no learned route to it goes into the kernel.
    pub(super) fn hold(&self, dst: &IpNet) -> bool {
        self.all().any(|range| range.contains(dst))
    }

    /// What is announced as a whole.
    pub(super) fn aggregates(&self) -> impl Iterator<Item = IpNet> + '_ {
        let wide = |range: &&IpNet| !is_address(range);
        let load_balancer = self.load_balancer.iter().filter(|_| self.aggregated);
        let all = (self.cluster.iter())
            .chain(self.external.iter().filter(wide))
            .chain(load_balancer.filter(wide));
        all.filter(|_| self.announces).copied()
    }

    /// Ranges of which a route reflector passes on what it learned.
    pub(super) fn reflected(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.load_balancer.iter().chain(&self.external).copied()
    }
}

fn is_address(range: &IpNet) -> bool {
    range.prefix_len() == range.max_prefix_len()
}

/// What is used of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    local: bool,
    cluster: Vec<IpAddr>,
    external: Vec<IpAddr>,
    /// None unless the type is LoadBalancer.
    load_balancer: Vec<IpAddr>,
}

impl Facts {
    /// `None` for a Service that is never announced.
    fn of(service: &Service) -> Option<Self> {
        let spec = &service.spec;
        let of_kind = ["ClusterIP", "NodePort", "LoadBalancer", ""].contains(&spec.kind.as_str());
        (of_kind && !spec.cluster_ips.is_empty()).then(|| Self {
            local: spec.external_traffic_policy.as_deref() == Some("Local"),
            cluster: spec.cluster_ips.clone(),
            external: spec.external_ips.clone(),
            load_balancer: load_balancer_ips(service)
                .filter(|_| spec.kind == "LoadBalancer")
                .collect(),
        })
    }

    /// The addresses of a family that this node announces.
    fn announced(&self, ranges: &Ranges, family: Family, ready: Ready) -> Vec<IpAddr> {
        let of_family = |all: &[IpAddr]| -> Vec<IpAddr> {
            let all = all.iter().copied();
            all.filter(|addr| Family::of(*addr) == family).collect()
        };
        let within = |all: &[IpAddr], ranges: &[IpNet]| -> Vec<IpAddr> {
            let all = of_family(all).into_iter();
            all.filter(|addr| ranges.iter().any(|range| range.contains(addr)))
                .collect()
        };
        let named = |all: &[IpAddr], ranges: &[IpNet]| {
            let single = |addr: &IpAddr| ranges.contains(&IpNet::from(*addr));
            of_family(all).iter().any(single)
        };
        let everywhere = named(&self.load_balancer, &ranges.load_balancer)
            || named(&self.external, &ranges.external);
        let announced = if self.local {
            ready.here
        } else {
            everywhere || (!ranges.aggregated && ready.anywhere)
        };
        if !announced {
            return Vec::new();
        }
        let mut all = match ranges.cluster.is_empty() {
            true => Vec::new(),
            false => of_family(&self.cluster),
        };
        all.extend(within(&self.external, &ranges.external));
        all.extend(within(&self.load_balancer, &ranges.load_balancer));
        all
    }
}

/// Where ready endpoints of a family are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ready {
    anywhere: bool,
    here: bool,
}

/// What is used of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Slice {
    service: Key,
    family: Family,
    ready: Ready,
}

impl Slice {
    /// `None` for one of no Service, or of names in the place of addresses.
    fn of(key: &Key, slice: &EndpointSlice, node: &str) -> Option<Self> {
        let spec = &slice.spec;
        let family = match spec.address_type.as_str() {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            _ => return None,
        };
        (!spec.service.is_empty()).then(|| Self {
            service: Key::namespaced(Kind::Service, key.namespace.as_str(), spec.service.as_str()),
            family,
            ready: Ready {
                anywhere: spec.ready,
                here: spec.nodes.contains(node),
            },
        })
    }
}

/// All Services.
#[derive(Debug, Default)]
pub(super) struct Services {
    services: BTreeMap<Key, Facts>,
    slices: BTreeMap<Key, Slice>,
    /// Service → its slices.
    slices_of: BTreeMap<Key, BTreeSet<Key>>,
    ranges: Ranges,
    /// Service → what is announced of it.
    announced: BTreeMap<Key, BTreeSet<IpNet>>,
    /// Address → how many Services it is announced for.
    holders: BTreeMap<IpNet, usize>,
}

impl Services {
    pub(super) const fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    /// The Service to look at again, if anything changed.
    pub(super) fn update_service(&mut self, key: &Key, service: Option<&Service>) -> Option<Key> {
        let new = service.and_then(Facts::of);
        if self.services.get(key) == new.as_ref() {
            return None;
        }
        match new {
            Some(new) => self.services.insert(key.clone(), new),
            None => self.services.remove(key),
        };
        Some(key.clone())
    }

    /// The Services to look at again.
    pub(super) fn update_slice(
        &mut self,
        key: &Key,
        slice: Option<&EndpointSlice>,
        node: &str,
    ) -> Vec<Key> {
        let new = slice.and_then(|slice| Slice::of(key, slice, node));
        if self.slices.get(key) == new.as_ref() {
            return Vec::new();
        }
        let mut touched = Vec::new();
        if let Some(old) = self.slices.remove(key) {
            if let Some(slices) = self.slices_of.get_mut(&old.service) {
                slices.remove(key);
                if slices.is_empty() {
                    self.slices_of.remove(&old.service);
                }
            }
            touched.push(old.service);
        }
        if let Some(new) = new {
            let slices = self.slices_of.entry(new.service.clone()).or_default();
            slices.insert(key.clone());
            touched.push(new.service.clone());
            self.slices.insert(key.clone(), new);
        }
        touched
    }

    /// Other ranges: what was announced as a whole before or is now, if they differ. Each Service is to be looked at again.
    pub(super) fn set_ranges(&mut self, ranges: Ranges) -> Option<BTreeSet<IpNet>> {
        if self.ranges == ranges {
            return None;
        }
        let old = std::mem::replace(&mut self.ranges, ranges);
        Some(old.aggregates().chain(self.ranges.aggregates()).collect())
    }

    /// Every Service that is known or announced.
    pub(super) fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        self.services.keys().chain(self.announced.keys()).cloned()
    }

    /// Decides anew about one Service; `known` when all Services and endpoints were told. Returns the addresses about which
    /// something changed.
    pub(super) fn review(&mut self, key: &Key, known: bool) -> Vec<IpNet> {
        let now = match self.services.get(key) {
            Some(facts) if known && self.ranges.announces => {
                let of_family = |family| {
                    let ready = self.ready(key, family);
                    facts.announced(&self.ranges, family, ready)
                };
                let all = Family::ALL.into_iter().flat_map(of_family);
                all.map(IpNet::from).collect()
            }
            Some(_) | None => BTreeSet::new(),
        };
        let before = match now.is_empty() {
            true => self.announced.remove(key),
            false => self.announced.insert(key.clone(), now.clone()),
        };
        let before = before.unwrap_or_default();
        for gone in before.difference(&now) {
            if let Some(count) = self.holders.get_mut(gone) {
                *count -= 1;
                if *count == 0 {
                    self.holders.remove(gone);
                }
            }
        }
        for new in now.difference(&before) {
            *self.holders.entry(*new).or_default() += 1;
        }
        before.symmetric_difference(&now).copied().collect()
    }

    fn ready(&self, service: &Key, family: Family) -> Ready {
        let slices = self.slices_of.get(service).into_iter().flatten();
        let of_family = slices
            .filter_map(|slice| self.slices.get(slice))
            .filter(|slice| slice.family == family);
        of_family.fold(Ready::default(), |sum, slice| Ready {
            anywhere: sum.anywhere || slice.ready.anywhere,
            here: sum.here || slice.ready.here,
        })
    }

    /// Whether this node announces a prefix because of Services.
    pub(super) fn announces(&self, prefix: &IpNet) -> bool {
        self.holders.contains_key(prefix) || self.ranges.aggregates().any(|range| range == *prefix)
    }

    /// All that is announced.
    pub(super) fn prefixes(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.holders.keys().copied().chain(self.ranges.aggregates())
    }
}
