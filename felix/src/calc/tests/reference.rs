//! The rules for routes read plainly, over all facts at once and without any index: what the graph's are compared with.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::ipam::IPAMBlock;
use api::key::Key;
use api::node::Node;
use api::object::Object;
use api::pool::{EncapMode, IPPoolSpec};
use ipnet::IpNet;

/// The host: one uplink `eth0`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Host {
    /// Up, and its MTU; absent while no such device was told.
    pub(super) link: Option<(bool, u32)>,
    /// It carries 10.0.0.1/24.
    pub(super) addr: bool,
    /// There is a default route via 10.0.0.254.
    pub(super) default: bool,
}

pub(super) struct Facts<'a> {
    pub(super) objects: &'a BTreeMap<Key, Object>,
    pub(super) bgp: &'a BTreeMap<IpNet, Vec<IpAddr>>,
    pub(super) host: Host,
}

macro_rules! all {
    ($facts:expr, $variant:ident) => {
        $facts.objects.values().filter_map(|object| match object {
            Object::$variant(object) => Some(object),
            _ => None,
        })
    };
}

impl Facts<'_> {
    /// Destination → route in the words of iproute2, for node `n1`.
    pub(super) fn routes(&self) -> BTreeMap<IpNet, String> {
        let blocks = all!(self, IPAMBlock).flat_map(|block| {
            let addrs = block.spec.cidr.subnets(32).unwrap();
            addrs.chain([block.spec.cidr])
        });
        let claims = all!(self, BlockAffinity).map(|claim| claim.spec.cidr);
        let pods = all!(self, WorkloadEndpoint).flat_map(|pod| pod.spec.ip_networks.clone());
        let peers = all!(self, BGPPeer).filter(|peer| peer.spec.reachable_by.is_some());
        let peers = peers.filter_map(|peer| peer.spec.peer_ip.parse::<IpAddr>().ok());
        let known: BTreeSet<IpNet> = blocks
            .chain(peers.map(IpNet::from))
            .chain(claims)
            .chain(pods)
            .chain(self.bgp.keys().copied())
            .collect();
        known
            .into_iter()
            .filter_map(|dst| Some((dst, self.route(dst)?)))
            .collect()
    }

    fn node(&self, name: &str) -> Option<&Node> {
        all!(self, Node).find(|node| node.metadata.name == name)
    }

    fn own_net(&self) -> Option<IpNet> {
        self.node("n1")?.spec.bgp.as_ref()?.ipv4_address
    }

    fn pool(&self, dst: IpNet) -> Option<&IPPoolSpec> {
        let mut pools: Vec<_> = all!(self, IPPool)
            .filter(|pool| pool.spec.cidr.contains(&dst))
            .collect();
        pools.sort_by_key(|pool| {
            let length = pool.spec.cidr.prefix_len();
            (std::cmp::Reverse(length), pool.metadata.name.clone())
        });
        pools.first().map(|pool| &pool.spec)
    }

    /// Routes of metric 1024 are better than normal ones.
    fn elevated(&self) -> bool {
        all!(self, BGPConfiguration).any(|config| {
            let normal = config.spec.ipv4_normal_route_priority;
            normal.is_some_and(|normal| normal > 1024)
        })
    }

    fn has_parent(&self) -> bool {
        let own = self.own_net().map(|net| net.addr());
        own == Some("10.0.0.1".parse().unwrap()) && self.host.addr && self.host.link.is_some()
    }

    fn mtu(&self, overhead: u32) -> String {
        match self.host.link {
            Some((_, mtu)) if self.has_parent() => format!(" mtu {}", mtu - overhead),
            _ => String::new(),
        }
    }

    /// The handle under which this node has an address.
    fn handle_of(&self, dst: IpNet) -> Option<String> {
        all!(self, IPAMBlock).find_map(|block| {
            let ordinal = block
                .spec
                .cidr
                .subnets(32)
                .ok()?
                .position(|addr| addr == dst)?;
            let held = &block.spec.attributes[block.spec.allocations[ordinal]?];
            let ours = held.secondary.get("node").is_some_and(|node| node == "n1");
            ours.then(|| held.handle_id.clone())?
        })
    }

    fn route(&self, dst: IpNet) -> Option<String> {
        let single = dst.prefix_len() == 32;
        let pods: Vec<_> = all!(self, WorkloadEndpoint)
            .filter(|pod| pod.spec.node == "n1" && pod.spec.ip_networks.contains(&dst))
            .collect();
        let given =
            |handle: Option<&str>| handle.is_some() && self.handle_of(dst).as_deref() == handle;
        let by_ipam = pods.iter().find(|pod| given(pod.handle_id()));
        let pod = by_ipam.or_else(|| pods.first()).map(|pod| {
            let dev = &pod.spec.interface_name;
            format!("dev {dev} proto 3 scope link metric 1024")
        });
        let own_tunnel = self.tunnel_of("n1");
        let vxlan_on = self.vxlan_on();
        let pool = self.pool(dst);
        let tunnelled = pool.is_some_and(|pool| {
            pool.vxlan_mode != EncapMode::Never || pool.ipip_mode != EncapMode::Never
        });
        let block = all!(self, IPAMBlock).find(|block| block.spec.cidr == dst);
        let holder = self.borrower(dst);
        // The pool of the block was deleted: through VXLAN, where both nodes have it.
        let whose = holder.clone().or_else(|| Some(owner(block?)?.to_owned()));
        let orphaned =
            pool.is_none() && vxlan_on && whose.is_some_and(|node| self.tunnel_of(&node).is_some());
        let deleted = IPPoolSpec {
            vxlan_mode: EncapMode::Always,
            ..all_of(dst)
        };
        let (pool, tunnelled) = if orphaned {
            (Some(&deleted), true)
        } else {
            (pool, tunnelled)
        };
        if let Some(pod) = pod {
            // It moves to the node that announces it before all others.
            let away = self.by_bgp(dst).filter(|_| !tunnelled && self.elevated());
            return Some(away.unwrap_or(pod));
        }
        if vxlan_on && own_tunnel.map(|addr| IpNet::from(IpAddr::V4(addr))) == Some(dst) {
            return None;
        }
        if single && self.gateway(dst.addr()).is_some() {
            let hop = self.by_gateway(dst.addr())?;
            return Some(format!("{hop}proto 12 metric 1024"));
        }
        if tunnelled && let Some(holder) = holder.clone().filter(|holder| holder != "n1") {
            return self.to_node(dst, pool?, &holder);
        }
        if block.and_then(owner) == Some("n1") {
            let protocol = if tunnelled { 80 } else { 12 };
            return (!single).then(|| format!("blackhole proto {protocol}"));
        }
        if tunnelled {
            return self.to_node(dst, pool?, owner(block?)?);
        }
        self.by_bgp(dst).or_else(|| {
            // A pool's former tunnel, while this node's object names its address.
            let whose = holder.or_else(|| Some(owner(block?)?.to_owned()))?;
            let former = pool.is_some() && whose != "n1";
            former.then(|| {
                self.by_tunnel(dst, &whose, !self.vxlan_asked_for(), !self.ipip_asked_for())
            })?
        })
    }

    fn by_bgp(&self, dst: IpNet) -> Option<String> {
        let mut hops: Vec<String> = self
            .bgp
            .get(&dst)?
            .iter()
            .filter_map(|hop| self.resolve(*hop))
            .collect();
        hops.sort();
        hops.dedup();
        let hops: String = hops.concat();
        (!hops.is_empty()).then(|| format!("{hops}proto 12 metric 1024"))
    }

    /// Through a tunnel that both nodes have.
    fn by_tunnel(&self, dst: IpNet, name: &str, vxlan: bool, ipip: bool) -> Option<String> {
        let addr = self.node(name)?.spec.bgp.as_ref()?.ipv4_address?.addr();
        if let Some(tunnel) = self.tunnel_of(name).filter(|_| vxlan && self.vxlan_on()) {
            return Some(self.over_vxlan(dst, tunnel));
        }
        self.ipip_of(name).filter(|_| ipip && self.ipip_on())?;
        Some(self.over_ipip(addr))
    }

    fn over_ipip(&self, addr: IpAddr) -> String {
        let mtu = self.mtu(20);
        format!("via {addr} dev tunl0 onlink proto 80{mtu}")
    }

    fn over_vxlan(&self, dst: IpNet, tunnel: std::net::Ipv4Addr) -> String {
        if IpNet::from(IpAddr::V4(tunnel)) == dst {
            return "dev vxlan.calico proto 3 scope link".to_owned();
        }
        let mtu = self.mtu(50);
        format!("via {tunnel} dev vxlan.calico onlink proto 3{mtu}")
    }

    fn ipip_of(&self, node: &str) -> Option<std::net::Ipv4Addr> {
        self.node(node)?.spec.bgp.as_ref()?.ipv4_ipip_tunnel_addr
    }

    fn ipip_on(&self) -> bool {
        self.ipip_asked_for() || self.ipip_of("n1").is_some()
    }

    fn ipip_asked_for(&self) -> bool {
        all!(self, IPPool).any(|pool| {
            pool.spec.vxlan_mode == EncapMode::Never && pool.spec.ipip_mode != EncapMode::Never
        })
    }

    fn tunnel_of(&self, node: &str) -> Option<std::net::Ipv4Addr> {
        self.node(node)?.spec.ipv4_vxlan_tunnel_addr
    }

    /// A pool asks for VXLAN, or this node still has its address.
    fn vxlan_on(&self) -> bool {
        self.vxlan_asked_for() || self.tunnel_of("n1").is_some()
    }

    fn vxlan_asked_for(&self) -> bool {
        all!(self, IPPool).any(|pool| pool.spec.vxlan_mode != EncapMode::Never)
    }

    /// The node an address is held by, when it is not the owner of the block: the first block by name that says so.
    fn borrower(&self, dst: IpNet) -> Option<String> {
        all!(self, IPAMBlock).find_map(|block| {
            let mut addrs = block.spec.cidr.subnets(32).unwrap();
            let slot = addrs.position(|addr| addr == dst)?;
            let attribute = &block.spec.attributes[block.spec.allocations[slot]?];
            let holder = attribute.secondary.get("node")?;
            (owner(block) != Some(holder.as_str())).then(|| holder.clone())
        })
    }

    fn to_node(&self, dst: IpNet, pool: &IPPoolSpec, name: &str) -> Option<String> {
        let node = self.node(name)?;
        let addr = node.spec.bgp.as_ref()?.ipv4_address?.addr();
        let vxlan = pool.vxlan_mode != EncapMode::Never;
        let mode = if vxlan {
            pool.vxlan_mode
        } else {
            pool.ipip_mode
        };
        let near = self.own_net().is_some_and(|net| net.contains(&addr));
        if mode == EncapMode::CrossSubnet && near && self.has_parent() {
            return Some(format!("via {addr} dev eth0 onlink proto 80"));
        }
        match node.spec.ipv4_vxlan_tunnel_addr {
            Some(tunnel) if vxlan => Some(self.over_vxlan(dst, tunnel)),
            _ if !vxlan && self.ipip_of(name).is_some() => Some(self.over_ipip(addr)),
            // It does not say that it takes packets there.
            _ => (self.by_tunnel(dst, name, true, true)).or_else(|| self.by_bgp(dst)),
        }
    }

    /// The gateway that a BGPPeer names for its address.
    fn gateway(&self, peer: IpAddr) -> Option<&str> {
        self.own_net()?;
        all!(self, BGPPeer)
            .find(|object| object.spec.peer_ip.parse() == Ok(peer))?
            .spec
            .reachable_by
            .as_deref()
    }

    /// The gateways of the test are all in the uplink's network.
    fn by_gateway(&self, peer: IpAddr) -> Option<String> {
        let gateway = self.gateway(peer)?;
        let (up, _) = self.host.link?;
        (up && self.host.addr).then(|| format!("via {gateway} dev eth0 "))
    }

    fn resolve(&self, hop: IpAddr) -> Option<String> {
        let (up, _) = self.host.link?;
        let connected: IpNet = "10.0.0.0/24".parse().unwrap();
        let own: IpAddr = "10.0.0.1".parse().unwrap();
        if !up || (self.host.addr && hop == own) {
            None
        } else if self.gateway(hop).is_some() {
            self.by_gateway(hop)
        } else if self.host.addr && connected.contains(&hop) {
            Some(format!("via {hop} dev eth0 "))
        } else {
            let via = "via 10.0.0.254 dev eth0 ".to_owned();
            self.host.default.then_some(via)
        }
    }
}

/// A pool of this range.
fn all_of(range: IpNet) -> IPPoolSpec {
    let spec = serde_json::json!({"cidr": range});
    serde_json::from_value(spec).expect("a range makes a pool")
}

fn owner(block: &IPAMBlock) -> Option<&str> {
    block.spec.affinity.as_deref()?.strip_prefix("host:")
}
