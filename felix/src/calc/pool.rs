//! IP pools: which encapsulation and which export rule hold for a prefix.

use std::collections::{BTreeMap, BTreeSet};

use api::key::Key;
use api::pool::{AllowedUse, EncapMode, IPPoolSpec};
use ipnet::IpNet;
use prefix_trie::joint::JointPrefixMap;

use super::problem::{Problem, Reason, Subject};
use super::settings::ClusterRoutes;
use crate::rules::Family;

/// How packets to another node's part of a pool travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encap {
    Plain,
    Vxlan(Reach),
    Ipip(Reach),
}

/// Where a tunnel is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    Always,
    CrossSubnet,
}

/// What a pool says about the prefixes inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pool {
    pub(super) encap: Encap,
    pub(super) exported: bool,
    /// What its addresses send out of all pools is masqueraded.
    nat_outgoing: bool,
    /// Every node with a part of it gets an address for its tunnel device.
    pub(super) names_tunnels: bool,
    /// Only for Services: no destination of pods' own addresses.
    services_only: bool,
}

impl Pool {
    /// Whether routes to other nodes' parts of it come from blocks; otherwise they come from BGP.
    pub(super) const fn is_routed_by_blocks(self, owned: ClusterRoutes) -> bool {
        match self.encap {
            Encap::Vxlan(_) => true,
            Encap::Ipip(_) => owned.ipip(),
            Encap::Plain => owned.plain(),
        }
    }

    /// Whether routes into it may come from BGP; `of_bgp` is what BGPConfiguration says, if anything.
    pub(super) fn may_come_from_bgp(self, of_bgp: Option<ClusterRoutes>) -> bool {
        of_bgp.is_none_or(|of_bgp| match self.encap {
            Encap::Vxlan(_) => false,
            Encap::Ipip(_) => of_bgp.ipip(),
            Encap::Plain => of_bgp.plain(),
        })
    }

    fn of(spec: &IPPoolSpec) -> Self {
        let encap = match (reach(spec.vxlan_mode), reach(spec.ipip_mode)) {
            (Some(reach), _) => Encap::Vxlan(reach),
            // There is no IPIP for IPv6.
            (None, Some(reach)) if matches!(spec.cidr, IpNet::V4(_)) => Encap::Ipip(reach),
            (None, _) => Encap::Plain,
        };
        Self {
            encap,
            exported: !spec.disable_bgp_export,
            nat_outgoing: spec.nat_outgoing,
            names_tunnels: !spec.disabled
                && (spec.allowed_uses.as_deref())
                    .is_none_or(|uses| uses.is_empty() || uses.contains(&AllowedUse::Tunnel)),
            services_only: spec.allowed_uses.as_deref() == Some(&[AllowedUse::LoadBalancer]),
        }
    }
}

const fn reach(mode: EncapMode) -> Option<Reach> {
    match mode {
        EncapMode::Never => None,
        EncapMode::Always => Some(Reach::Always),
        EncapMode::CrossSubnet => Some(Reach::CrossSubnet),
    }
}

/// All pools. Of two with the same range the first by name counts; inside each other, the smaller one.
#[derive(Default)]
pub(super) struct Pools {
    by_key: BTreeMap<Key, (IpNet, Pool)>,
    by_range: BTreeMap<IpNet, BTreeSet<Key>>,
    trie: JointPrefixMap<IpNet, Pool>,
}

impl Pools {
    /// Returns the ranges for which something changed.
    pub(super) fn update(&mut self, key: &Key, spec: Option<&IPPoolSpec>) -> Vec<IpNet> {
        let new = spec.map(|spec| (spec.cidr.trunc(), Pool::of(spec)));
        if self.by_key.get(key) == new.as_ref() {
            return Vec::new();
        }
        let mut ranges = Vec::new();
        if let Some((range, _)) = self.by_key.remove(key) {
            if let Some(keys) = self.by_range.get_mut(&range) {
                keys.remove(key);
                if keys.is_empty() {
                    self.by_range.remove(&range);
                }
            }
            ranges.push(range);
        }
        if let Some((range, pool)) = new {
            self.by_key.insert(key.clone(), (range, pool));
            self.by_range.entry(range).or_default().insert(key.clone());
            ranges.push(range);
        }
        for range in &ranges {
            self.trie.remove(range);
            if let Some(pool) = self.first(range) {
                self.trie.insert(*range, pool);
            }
        }
        ranges
    }

    fn first(&self, range: &IpNet) -> Option<Pool> {
        let key = self.by_range.get(range)?.first()?;
        self.by_key.get(key).map(|(_, pool)| *pool)
    }

    /// The innermost pool that the whole prefix lies in.
    pub(super) fn covering(&self, prefix: &IpNet) -> Option<Pool> {
        self.trie.get_lpm(prefix).map(|(_, pool)| *pool)
    }

    /// Whether a pool of a family uses VXLAN.
    pub(super) fn vxlan(&self, family: Family) -> bool {
        self.by_key.values().any(|(range, pool)| {
            Family::of(range.addr()) == family && matches!(pool.encap, Encap::Vxlan(_))
        })
    }

    pub(super) fn ipip(&self) -> bool {
        self.by_key
            .values()
            .any(|(_, pool)| matches!(pool.encap, Encap::Ipip(_)))
    }

    /// Ranges and whether they are exported, the innermost first.
    pub(super) fn export_rules(&self) -> Vec<(IpNet, bool)> {
        let mut rules: Vec<(IpNet, bool)> = self
            .by_range
            .keys()
            .filter_map(|range| self.first(range).map(|pool| (*range, pool.exported)))
            .collect();
        rules.sort_by_key(|(range, _)| (std::cmp::Reverse(range.prefix_len()), *range));
        rules
    }

    /// Ranges with `natOutgoing`.
    pub(super) fn masqueraded(&self) -> impl Iterator<Item = IpNet> + '_ {
        let pools = self.by_range.keys();
        pools
            .filter(|range| self.first(range).is_some_and(|pool| pool.nat_outgoing))
            .copied()
    }

    /// Whether there are pools of pods and each is routed by blocks.
    pub(super) fn all_routed_by_blocks(&self, owned: ClusterRoutes) -> bool {
        let mut of_workloads = self
            .by_range
            .keys()
            .filter_map(|range| self.first(range))
            .filter(|pool| !pool.services_only)
            .peekable();
        of_workloads.peek().is_some() && of_workloads.all(|pool| pool.is_routed_by_blocks(owned))
    }

    /// Ranges of pods and tunnels.
    pub(super) fn of_workloads(&self) -> impl Iterator<Item = IpNet> + '_ {
        let pools = self.by_range.keys();
        pools
            .filter(|range| self.first(range).is_some_and(|pool| !pool.services_only))
            .copied()
    }

    /// Pools of a range that another has, or within another that encapsulates otherwise.
    pub(super) fn problems(&self) -> impl Iterator<Item = Problem> + '_ {
        self.twice().chain(self.inside())
    }

    fn inside(&self) -> impl Iterator<Item = Problem> + '_ {
        self.by_range.iter().filter_map(|(range, keys)| {
            let (outer_range, outer) = self.trie.get_lpm(&range.supernet()?)?;
            let first = keys.first()?;
            let own = self.by_key.get(first).map(|(_, pool)| *pool)?;
            if own.encap == outer.encap {
                return None;
            }
            Some(Problem {
                subject: Subject::Object(first.clone()),
                field: "spec.cidr",
                reason: Reason::Inside {
                    range: *range,
                    outer_range,
                    outer: self.by_range.get(&outer_range)?.first()?.clone(),
                },
            })
        })
    }

    fn twice(&self) -> impl Iterator<Item = Problem> + '_ {
        self.by_range.iter().flat_map(|(range, keys)| {
            let of = keys.first();
            keys.iter().skip(1).filter_map(move |key| {
                Some(Problem {
                    subject: Subject::Object(key.clone()),
                    field: "spec.cidr",
                    reason: Reason::Duplicate {
                        value: range.to_string(),
                        of: of?.clone(),
                    },
                })
            })
        })
    }
}
