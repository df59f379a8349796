//! One prefix, all facts, one route: the longest-prefix join and its precedence.
//!
//! First match wins:
//!
//! | # | prefix is | route |
//! |---|---|---|
//! | 1 | address of a pod of this node, unless another one announces it as moving there | `dev cali… scope link` |
//! | 2 | address of a tunnel device of this node | none: the kernel's local table has it |
//! | 3 | address of a BGP peer with a gateway of its own | via that gateway |
//! | 4 | address that another node has outside its own blocks | to that node, as the pool says |
//! | 5 | block of this node | blackhole, so that unused addresses do not follow the default route |
//! | 6 | block of another node | to that node, as the pool says |
//! | 7 | in a range of Services' addresses | none: who translates them does so before packets are routed |
//! | 8 | anything BGP knows, unless the pool's routes come from blocks | via the BGP next hops |
//!
//! A tunnel is used once the other node's object names the address of its device, which says that packets are accepted there.
//! Until then, and where BGP is to lead and does not (yet), packets take another way that the other node accepts
//! ([`Facts::instead`]): so a pool's mode changes without a gap, whenever the nodes hear of it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::params::Backend;
use bgp::route::BestRoute;
use ipnet::IpNet;

use super::bgp_route::BgpRoutes;
use super::block::Blocks;
use super::family::PerFamily;
use super::host::{Host, HostFamily};
use super::local::{Local, LocalFamily, Tunnel, Uplink};
use super::object::Objects;
use super::pool::{Encap, Pool, Pools, Reach};
use super::problem::Reason;
use super::service::Services;
use super::settings::{ClusterRoutes, Settings};
use super::underlay::Underlay;
use super::workload::{Workload, Workloads};
use crate::desired::{IfName, NextHop, RouteKey, RouteKind, RouteSpec};
use crate::ownership::{IPIP_DEVICE, PROTOCOL_BGP, vxlan_device};
use crate::rules::Family;

/// `RT_SCOPE_UNIVERSE` and `RT_SCOPE_LINK` of rtnetlink(7).
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;

/// Metric and LOCAL_PREF of a route add up to this.
const LOCAL_PREF_BASE: u32 = 2_147_483_647;

/// Everything a route depends on.
pub(super) struct Facts<'a> {
    pub(super) settings: &'a Settings,
    pub(super) remote_protocol: u8,
    pub(super) local: &'a Local,
    pub(super) pools: &'a Pools,
    pub(super) hosts: &'a BTreeMap<String, Host>,
    pub(super) workloads: &'a Workloads,
    pub(super) blocks: &'a Blocks,
    pub(super) bgp: &'a BgpRoutes,
    pub(super) underlay: &'a Underlay,
    pub(super) objects: &'a Objects,
    pub(super) services: &'a Services,
    /// What BGPConfiguration says of pools' routes.
    pub(super) of_bgp: Option<ClusterRoutes>,
    /// Metric of routes that are not elevated.
    pub(super) normal: PerFamily<u32>,
    /// Of this node only pods keep their routes.
    pub(super) withdraws: bool,
}

/// What becomes of a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    Nothing,
    Route(RouteKey, RouteSpec),
    /// Another way than the pool asks for, and why.
    Instead(RouteKey, RouteSpec, Reason),
    Skipped(Reason),
}

impl Facts<'_> {
    /// Whether the agent has to do with a destination's family.
    pub(super) fn is_supported(&self, dst: &IpNet) -> bool {
        self.settings.ipv6_support || family_of(dst) == Family::V4
    }

    pub(super) fn plan(&self, dst: IpNet) -> Plan {
        if !self.is_supported(&dst) {
            return Plan::Nothing;
        }
        let node = self.settings.node_name.as_str();
        let is_address = dst.prefix_len() == dst.max_prefix_len();
        if is_address {
            if let Some(workload) = self.workloads.at(&dst.addr()) {
                let elsewhere = self.moved_away(dst);
                return elsewhere.unwrap_or_else(|| self.to_workload(dst, workload));
            }
            if self.local.tunnel_prefixes().any(|own| own == dst) {
                return Plan::Nothing;
            }
            if self.underlay.gatewayed().any(|peer| peer == dst) {
                return self.to_peer(dst);
            }
        }
        let pool = self.pools.covering(&dst);
        let by_blocks = self.routed_by_blocks(&dst, pool);
        match self.blocks.borrower(&dst) {
            Some(borrower) if borrower != node && by_blocks => {
                return self.to_node(dst, pool, borrower);
            }
            Some(_) | None => {}
        }
        if self.blocks.is_local(node, &dst) {
            return if is_address {
                Plan::Nothing
            } else {
                self.blackhole(dst, by_blocks)
            };
        }
        if by_blocks {
            return match self.blocks.owner(&dst) {
                Some(owner) => self.to_node(dst, pool, owner),
                None => Plan::Nothing,
            };
        }
        if pool.is_some_and(|pool| !pool.may_come_from_bgp(self.of_bgp)) {
            return Plan::Nothing;
        }
        let plan = match self.bgp.at(&dst) {
            Some(_) if self.services.ranges().hold(&dst) => Plan::Nothing,
            Some(best) => self.via_bgp(dst, pool, best),
            None => Plan::Nothing,
        };
        match plan {
            Plan::Route(..) | Plan::Instead(..) => plan,
            Plan::Nothing | Plan::Skipped(_) => self.before_bgp(dst, pool).unwrap_or(plan),
        }
    }

    /// The former tunnel of a pool without one, while this node still has it.
    fn before_bgp(&self, dst: IpNet, pool: Option<Pool>) -> Option<Plan> {
        if pool.map(|pool| pool.encap) != Some(Encap::Plain) {
            return None;
        }
        let is_former = |tunnel: Option<Tunnel>| tunnel.is_some_and(|tunnel| !tunnel.is_asked_for);
        if !is_former(self.local_of(&dst).vxlan) && !is_former(self.local.ipip) {
            return None;
        }
        let node = self
            .blocks
            .borrower(&dst)
            .or_else(|| self.blocks.owner(&dst))?;
        let host = self
            .hosts
            .get(node)
            .filter(|_| node != self.settings.node_name)?;
        match self.by_tunnel(dst, node, host, is_former) {
            Plan::Route(key, spec) => Some(Plan::Instead(key, spec, Reason::NotByBgp)),
            _ => None,
        }
    }

    /// Through a tunnel that both this node and another one have.
    fn by_tunnel(
        &self,
        dst: IpNet,
        node: &str,
        host: &Host,
        usable: impl Fn(Option<Tunnel>) -> bool,
    ) -> Plan {
        let family = family_of(&dst);
        let of_family = &host.families[family];
        if usable(self.local_of(&dst).vxlan) && of_family.vxlan.is_some() {
            return self.over_vxlan(dst, node, of_family);
        }
        match host.address(family) {
            Some(addr)
                if family == Family::V4 && usable(self.local.ipip) && host.ipip.is_some() =>
            {
                self.over_ipip(dst, addr)
            }
            Some(_) | None => Plan::Nothing,
        }
    }

    /// The way to another node that does not (yet) say that it accepts packets through the tunnel of the pool: another tunnel,
    /// or what BGP says.
    fn instead(&self, dst: IpNet, node: &str, host: &Host) -> Plan {
        let reason = Reason::OwnerHasNoTunnelAddress {
            node: node.to_owned(),
        };
        let other = self.by_tunnel(dst, node, host, |tunnel| tunnel.is_some());
        let plain = || self.bgp.at(&dst).map(|best| self.via_bgp(dst, None, best));
        match (other, plain) {
            (Plan::Route(key, spec), _) => Plan::Instead(key, spec, reason),
            (_, plain) => match plain() {
                Some(Plan::Route(key, spec)) => Plan::Instead(key, spec, reason),
                _ => Plan::Skipped(reason),
            },
        }
    }

    /// Whether the route comes from blocks: by the encapsulation of the pool. Otherwise it comes from BGP. Blocks that no
    /// pool covers any more are reached through VXLAN where the nodes have it: the underlay may not know their addresses.
    fn routed_by_blocks(&self, dst: &IpNet, pool: Option<Pool>) -> bool {
        match pool {
            Some(pool) => pool.is_routed_by_blocks(self.settings.cluster_routes),
            None => self.local_of(dst).vxlan.is_some() && self.has_vxlan_owner(dst),
        }
    }

    /// Whether a block, or an address outside its owner's blocks, is a node's with a VXLAN address.
    fn has_vxlan_owner(&self, dst: &IpNet) -> bool {
        let blocks = self.blocks;
        let owner = blocks.borrower(dst).or_else(|| blocks.owner(dst));
        let host = owner.and_then(|owner| self.hosts.get(owner));
        host.is_some_and(|host| host.families[family_of(dst)].vxlan.is_some())
    }

    /// What this node has of a destination's family.
    fn local_of(&self, dst: &IpNet) -> &LocalFamily {
        &self.local.families[family_of(dst)]
    }

    fn to_workload(&self, dst: IpNet, workload: &Workload) -> Plan {
        let (scope, prefsrc) = match dst {
            IpNet::V4(_) => (
                SCOPE_LINK,
                self.settings.device_route_source.map(IpAddr::V4),
            ),
            IpNet::V6(_) => (
                SCOPE_UNIVERSE,
                self.settings.device_route_source6.map(IpAddr::V6),
            ),
        };
        let spec = RouteSpec {
            scope,
            object: None,
            prefsrc,
            ..unicast(
                self.settings.device_route_protocol,
                vec![device(&workload.ifname)],
            )
        };
        let metric = self.settings.normal_route_metric;
        Plan::Route(self.settings.route_key(dst, metric), spec)
    }

    /// The way to an address of this node that another one announces before all others, as a pod moves there alive.
    fn moved_away(&self, dst: IpNet) -> Option<Plan> {
        let pool = self.pools.covering(&dst);
        let by_bgp = !self.routed_by_blocks(&dst, pool)
            && pool.is_none_or(|pool| pool.may_come_from_bgp(self.of_bgp));
        let best = self
            .bgp
            .at(&dst)
            .filter(|best| by_bgp && best.local_pref > local_pref(self.normal[family_of(&dst)]))?;
        let plan = self.via_bgp(dst, pool, best);
        matches!(plan, Plan::Route(..)).then_some(plan)
    }

    fn to_peer(&self, dst: IpNet) -> Plan {
        match self.underlay.by_gateway(dst.addr()) {
            Ok(hop) => {
                let metric = self.settings.normal_route_metric;
                let spec = unicast(PROTOCOL_BGP, vec![hop]);
                Plan::Route(self.settings.route_key(dst, metric), spec)
            }
            Err(loss) => Plan::Skipped(Reason::NextHopLost(loss)),
        }
    }

    fn blackhole(&self, dst: IpNet, by_blocks: bool) -> Plan {
        let protocol = if by_blocks {
            self.remote_protocol
        } else if self.settings.backend == Backend::Bgp {
            PROTOCOL_BGP
        } else {
            return Plan::Nothing;
        };
        let spec = RouteSpec {
            kind: RouteKind::Blackhole,
            ..unicast(protocol, Vec::new())
        };
        Plan::Route(self.settings.route_key(dst, 0), spec)
    }

    fn to_node(&self, dst: IpNet, pool: Option<Pool>, node: &str) -> Plan {
        let host = self.hosts.get(node);
        let family = family_of(&dst);
        let Some((host, addr)) = host.and_then(|host| Some((host, host.address(family)?))) else {
            return Plan::Skipped(Reason::OwnerUnknown {
                node: node.to_owned(),
            });
        };
        match pool.map(|pool| pool.encap) {
            Some(Encap::Vxlan(reach)) => match self.direct(dst, addr, reach) {
                Some(plan) => plan,
                None if host.families[family].vxlan.is_none() => self.instead(dst, node, host),
                None => self.over_vxlan(dst, node, &host.families[family]),
            },
            Some(Encap::Ipip(reach)) => match self.direct(dst, addr, reach) {
                Some(plan) => plan,
                None if host.ipip.is_none() && pool.is_some_and(|pool| pool.names_tunnels) => {
                    self.instead(dst, node, host)
                }
                None => self.over_ipip(dst, addr),
            },
            None if host.families[family].vxlan.is_some()
                && self.local_of(&dst).vxlan.is_some() =>
            {
                self.over_vxlan(dst, node, &host.families[family])
            }
            Some(Encap::Plain) | None => match &self.local_of(&dst).uplink {
                Uplink::Device(uplink) => self.on_link(dst, addr, uplink),
                Uplink::Routed => match self.underlay.look_up(addr) {
                    Ok((hops, _)) => {
                        let spec = unicast(self.remote_protocol, hops);
                        Plan::Route(self.settings.route_key(dst, 0), spec)
                    }
                    Err(loss) => Plan::Skipped(Reason::NextHopLost(loss)),
                },
                Uplink::Unknown => Plan::Skipped(self.no_uplink(&dst)),
            },
        }
    }

    fn no_uplink(&self, dst: &IpNet) -> Reason {
        match self.local_of(dst).net {
            Some(net) => Reason::NoParent {
                address: net.addr(),
            },
            None => Reason::OwnNodeLacks {
                field: "address of this family",
            },
        }
    }

    /// A route without tunnel, when the pool and the subnets allow it. While the device of this node's address is not
    /// known the tunnel is taken: it works either way.
    fn direct(&self, dst: IpNet, addr: IpAddr, reach: Reach) -> Option<Plan> {
        let Uplink::Device(uplink) = &self.local_of(&dst).uplink else {
            return None;
        };
        (reach == Reach::CrossSubnet && self.local.shares_subnet(addr))
            .then(|| self.on_link(dst, addr, uplink))
    }

    fn on_link(&self, dst: IpNet, addr: IpAddr, uplink: &IfName) -> Plan {
        let spec = unicast(self.remote_protocol, vec![onlink(addr, uplink.clone())]);
        Plan::Route(self.settings.route_key(dst, 0), spec)
    }

    fn over_vxlan(&self, dst: IpNet, node: &str, host: &HostFamily) -> Plan {
        let Some(tunnel) = host.vxlan else {
            return Plan::Skipped(Reason::OwnerHasNoTunnelAddress {
                node: node.to_owned(),
            });
        };
        let device_name = IfName::from(vxlan_device(family_of(&dst)));
        let protocol = self.settings.device_route_protocol;
        let spec = if dst == IpNet::from(tunnel) {
            RouteSpec {
                scope: SCOPE_LINK,
                ..unicast(protocol, vec![device(&device_name)])
            }
        } else {
            RouteSpec {
                mtu_bytes: self.local_of(&dst).vxlan.and_then(|vxlan| vxlan.mtu_bytes),
                ..unicast(protocol, vec![onlink(tunnel, device_name)])
            }
        };
        Plan::Route(self.settings.route_key(dst, 0), spec)
    }

    fn over_ipip(&self, dst: IpNet, addr: IpAddr) -> Plan {
        let spec = RouteSpec {
            mtu_bytes: self.local.ipip.and_then(|ipip| ipip.mtu_bytes),
            ..unicast(
                self.remote_protocol,
                vec![onlink(addr, IfName::from(IPIP_DEVICE))],
            )
        };
        Plan::Route(self.settings.route_key(dst, 0), spec)
    }

    fn via_bgp(&self, dst: IpNet, pool: Option<Pool>, best: &BestRoute) -> Plan {
        let metric = bgp_metric(best.local_pref);
        let is_tunnelled = |next_hop| match pool.map(|pool| pool.encap) {
            Some(Encap::Ipip(reach)) => {
                reach == Reach::Always || !self.local.shares_subnet(next_hop)
            }
            Some(_) | None => false,
        };
        if let Some(id) = self.objects.of(&best.next_hops)
            && !best.next_hops.iter().copied().any(is_tunnelled)
        {
            let spec = RouteSpec {
                object: Some(id),
                ..unicast(PROTOCOL_BGP, Vec::new())
            };
            return Plan::Route(self.settings.route_key(dst, metric), spec);
        }
        let hop = |next_hop: &IpAddr| match is_tunnelled(*next_hop) {
            true => vec![onlink(*next_hop, IfName::from(IPIP_DEVICE))],
            false => self.underlay.resolve(*next_hop),
        };
        let mut next_hops: Vec<NextHop> = best.next_hops.iter().flat_map(hop).collect();
        next_hops.sort();
        next_hops.dedup();
        if next_hops.is_empty() {
            return Plan::Skipped(Reason::NextHopUnreachable {
                next_hops: best.next_hops.clone(),
            });
        }
        Plan::Route(
            self.settings.route_key(dst, metric),
            unicast(PROTOCOL_BGP, next_hops),
        )
    }
}

/// LOCAL_PREF of an own route of a metric, which Calico calls its priority.
pub(super) const fn local_pref(metric: u32) -> u32 {
    LOCAL_PREF_BASE.saturating_sub(metric)
}

/// Metric of a route from BGP, as nodes of Calico derive it: the higher LOCAL_PREF, the lower. Nodes announce their own with what
/// 1024 is short of [`LOCAL_PREF_BASE`]; a route of another AS comes without and counts as 100.
const fn bgp_metric(local_pref: u32) -> u32 {
    match LOCAL_PREF_BASE.saturating_sub(local_pref) {
        0 => 1,
        metric => metric,
    }
}

fn family_of(dst: &IpNet) -> Family {
    Family::of(dst.addr())
}

fn unicast(protocol: u8, next_hops: Vec<NextHop>) -> RouteSpec {
    RouteSpec {
        kind: RouteKind::Unicast,
        scope: SCOPE_UNIVERSE,
        protocol,
        next_hops: next_hops.into(),
        object: None,
        prefsrc: None,
        mtu_bytes: None,
    }
}

fn device(ifname: &IfName) -> NextHop {
    NextHop {
        gateway: None,
        ifname: Some(ifname.clone()),
        onlink: false,
    }
}

const fn onlink(gateway: IpAddr, ifname: IfName) -> NextHop {
    NextHop {
        gateway: Some(gateway),
        ifname: Some(ifname),
        onlink: true,
    }
}
