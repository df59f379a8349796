//! Rows of the wanted kernel. A key is the kernel's own key; a spec is everything else that must match.

mod text;

use std::cmp::Ordering;
use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};

use crate::rules::{Family, Rules};

/// Name of a network device, at most 15 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IfName(pub Arc<str>);

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for IfName {
    fn from(name: &str) -> Self {
        Self(Arc::from(name))
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// One row of the wanted kernel: key and value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    /// A device this agent creates (never a pod's).
    Link(IfName, LinkSpec),
    /// The MAC of a device that this agent does not create: a pod's host end.
    Mac(IfName, Mac),
    /// An address on a device.
    Addr(AddrKey),
    /// A permanent neighbour (ARP, NDP).
    Neigh(NeighKey, Mac),
    /// A permanent forwarding entry of a VXLAN device: where a MAC's owner is reached.
    Fdb(FdbKey, IpAddr),
    /// A next-hop object of the kernel, which routes name instead of their next hop.
    NextHop(NextHopId, NextHopSpec),
    /// A route.
    Route(RouteKey, RouteSpec),
    /// The agent's nftables table of a family.
    Rules(Family, Rules),
    /// An address in one of that table's sets of addresses.
    Element(ElementKey),
    /// What Felix left in the packet filter: never wanted, only seen.
    Leftover(Leftover),
    /// A file under `/proc/sys`.
    Sysctl(SysctlKey, Arc<str>),
}

/// The key of a [`Row`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "as in Row")]
pub enum RowKey {
    Link(IfName),
    Mac(IfName),
    Addr(AddrKey),
    Neigh(NeighKey),
    Fdb(FdbKey),
    NextHop(NextHopId),
    Route(RouteKey),
    Rules(Family),
    Element(ElementKey),
    Leftover(Leftover),
    Sysctl(SysctlKey),
}

impl Row {
    /// Its key.
    pub fn key(&self) -> RowKey {
        match self {
            Self::Link(name, _) => RowKey::Link(name.clone()),
            Self::Mac(name, _) => RowKey::Mac(name.clone()),
            Self::Addr(key) => RowKey::Addr(key.clone()),
            Self::Neigh(key, _) => RowKey::Neigh(key.clone()),
            Self::Fdb(key, _) => RowKey::Fdb(key.clone()),
            Self::NextHop(id, _) => RowKey::NextHop(*id),
            Self::Route(key, _) => RowKey::Route(key.clone()),
            Self::Rules(family, _) => RowKey::Rules(*family),
            Self::Element(key) => RowKey::Element(key.clone()),
            Self::Leftover(leftover) => RowKey::Leftover(leftover.clone()),
            Self::Sysctl(key, _) => RowKey::Sysctl(key.clone()),
        }
    }
}

/// What a [`Row`] is about: the unit in which the kernel is read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "as in Row")]
pub enum RowKind {
    Link,
    Mac,
    Addr,
    Neigh,
    Fdb,
    NextHop,
    Route,
    Rules,
    Element,
    Leftover,
    Sysctl,
}

impl RowKind {
    /// Each, in the order of keys.
    pub const ALL: [Self; 11] = [
        Self::Link,
        Self::Mac,
        Self::Addr,
        Self::Neigh,
        Self::Fdb,
        Self::NextHop,
        Self::Route,
        Self::Rules,
        Self::Element,
        Self::Leftover,
        Self::Sysctl,
    ];
}

impl RowKey {
    /// The key before which there is none of the kind. Kinds stand one after the other in the order of keys.
    pub(crate) fn least(kind: RowKind) -> Self {
        let (ifname, text) = (IfName::from(""), || Arc::from(""));
        let addr = IpAddr::from([0; 4]);
        let net = IpNet::from(Ipv4Net::default());
        match kind {
            RowKind::Link => Self::Link(ifname),
            RowKind::Mac => Self::Mac(ifname),
            RowKind::Addr => Self::Addr(AddrKey { ifname, addr: net }),
            RowKind::Neigh => Self::Neigh(NeighKey { ifname, addr }),
            RowKind::Fdb => Self::Fdb(FdbKey {
                ifname,
                mac: Mac([0; 6]),
            }),
            RowKind::NextHop => Self::NextHop(NextHopId(0)),
            RowKind::Route => Self::Route(RouteKey {
                table: 0,
                dst: net,
                tos: 0,
                metric: 0,
            }),
            RowKind::Rules => Self::Rules(Family::V4),
            RowKind::Element => Self::Element(ElementKey {
                family: Family::V4,
                set: text(),
                addr,
            }),
            RowKind::Leftover => Self::Leftover(Leftover::ArpTable),
            RowKind::Sysctl => Self::Sysctl(SysctlKey(text())),
        }
    }

    /// Its kind.
    pub const fn kind(&self) -> RowKind {
        match self {
            Self::Link(_) => RowKind::Link,
            Self::Mac(_) => RowKind::Mac,
            Self::Addr(_) => RowKind::Addr,
            Self::Neigh(_) => RowKind::Neigh,
            Self::Fdb(_) => RowKind::Fdb,
            Self::NextHop(_) => RowKind::NextHop,
            Self::Route(_) => RowKind::Route,
            Self::Rules(_) => RowKind::Rules,
            Self::Element(_) => RowKind::Element,
            Self::Leftover(_) => RowKind::Leftover,
            Self::Sysctl(_) => RowKind::Sysctl,
        }
    }
}

/// A tunnel device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkSpec {
    /// `ip link add NAME type vxlan id VNI dstport PORT local LOCAL dev PARENT`, MAC and MTU set, up.
    Vxlan {
        /// VXLAN network identifier, 24 bits.
        vni: u32,
        /// UDP port.
        port: u16,
        /// Outer source address.
        local: IpAddr,
        /// Device below it.
        parent: Parent,
        /// Own MAC.
        mac: Mac,
        /// MTU in bytes; `None` leaves it to the kernel, which takes the parent's less the encapsulation's.
        mtu_bytes: Option<u32>,
        /// Who computes the checksums of what is sent.
        checksums: Checksums,
    },
    /// `tunl0`, the kernel's fallback IPIP device, up.
    Ipip {
        /// MTU in bytes.
        mtu_bytes: Option<u32>,
    },
}

/// Who computes the checksums of the packets that a device sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksums {
    /// Whoever it is now: hardware, by the kernel's default. Wanted, it matches either, as an operator may have turned that off.
    #[default]
    AsIs,
    /// The kernel (`ethtool -K DEVICE tx off`): hardware gets those of inner packets wrong with Linux 5.7 and before.
    Kernel,
}

/// The device below a VXLAN device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parent {
    /// Not known. A wanted device is not made then, and one that exists is left as it is: no operation says this.
    Unknown,
    /// None: the host's routes lead to each remote end.
    Routed,
    /// This one.
    Device(IfName),
}

/// Key of an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddrKey {
    /// Device.
    pub ifname: IfName,
    /// Address and prefix length.
    pub addr: IpNet,
}

/// Key of a neighbour.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NeighKey {
    /// Device.
    pub ifname: IfName,
    /// Address.
    pub addr: IpAddr,
}

/// Key of a forwarding entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FdbKey {
    /// VXLAN device.
    pub ifname: IfName,
    /// MAC of the remote tunnel endpoint.
    pub mac: Mac,
}

/// Key of a route, as the kernel has it. In order of table, family, destination, type of service and metric.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteKey {
    /// Table; 254 is `main`.
    pub table: u32,
    /// Destination.
    pub dst: IpNet,
    /// Type of service.
    pub tos: u8,
    /// Metric; IPv6 shows 1024 for 0.
    pub metric: u32,
}

impl RouteKey {
    /// Numbers in whose order keys of a table and family are. Maps of a million routes compare little else.
    fn rest(&self) -> u64 {
        let length = u64::from(self.dst.prefix_len());
        length << 40 | u64::from(self.tos) << 32 | u64::from(self.metric)
    }
}

impl Ord for RouteKey {
    fn cmp(&self, other: &Self) -> Ordering {
        if self.table != other.table {
            return self.table.cmp(&other.table);
        }
        let by_addr = match (&self.dst, &other.dst) {
            (IpNet::V4(net), IpNet::V4(other)) => {
                u32::from(net.addr()).cmp(&u32::from(other.addr()))
            }
            (IpNet::V6(net), IpNet::V6(other)) => {
                u128::from(net.addr()).cmp(&u128::from(other.addr()))
            }
            (IpNet::V4(_), IpNet::V6(_)) => Ordering::Less,
            (IpNet::V6(_), IpNet::V4(_)) => Ordering::Greater,
        };
        by_addr.then_with(|| self.rest().cmp(&other.rest()))
    }
}

impl PartialOrd for RouteKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Value of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSpec {
    /// What happens to packets.
    pub kind: RouteKind,
    /// Scope: 0 universe, 253 link.
    pub scope: u8,
    /// Routing protocol number: 3 boot, 12 bird, 80 Felix's remote routes.
    pub protocol: u8,
    /// Next hops; empty for a blackhole, and where `object` says it.
    pub next_hops: Hops,
    /// One of the agent's own next-hop objects. What stands in others' objects is in `next_hops`.
    pub object: Option<NextHopId>,
    /// Preferred source address.
    pub prefsrc: Option<IpAddr>,
    /// MTU attribute, bytes.
    pub mtu_bytes: Option<u32>,
}

/// Next hops of a route, in order. A clone is the same ones: very many routes have few.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hops(Arc<[NextHop]>);

impl Deref for Hops {
    type Target = [NextHop];

    fn deref(&self) -> &[NextHop] {
        &self.0
    }
}

impl From<Vec<NextHop>> for Hops {
    fn from(hops: Vec<NextHop>) -> Self {
        if hops.is_empty() {
            // Takes no memory.
            return Self::default();
        }
        Self(hops.into())
    }
}

impl FromIterator<NextHop> for Hops {
    fn from_iter<I: IntoIterator<Item = NextHop>>(hops: I) -> Self {
        Self(hops.into_iter().collect())
    }
}

/// What a route does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteKind {
    /// Forwards.
    Unicast,
    /// Drops silently.
    Blackhole,
    /// Drops, and says that the host cannot be reached. Never wanted, but seen.
    Unreachable,
    /// Drops, and says that it is forbidden. Never wanted, but seen.
    Prohibit,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NextHop {
    /// Gateway.
    pub gateway: Option<IpAddr>,
    /// Device; the kernel finds it by the gateway when absent.
    pub ifname: Option<IfName>,
    /// The gateway is taken to be on the device's link.
    pub onlink: bool,
}

/// Number of a next-hop object (`ip nexthop`), unique in the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NextHopId(pub u32);

impl NextHopId {
    /// The agent's own numbers: other programs count from 1.
    const FIRST: u32 = 0x5000_0000;
    const LAST: u32 = 0x5fff_ffff;
    /// From here on they are those of groups: in the order of numbers a group comes after its members.
    const FIRST_GROUP: u32 = 0x5800_0000;

    /// That of BGP next hops which routes have together, in any order: of the one alone, or of the group. The same in every process, so that
    /// an agent that starts anew finds its predecessor's object; two sets may have the same.
    pub fn of(next_hops: &[IpAddr]) -> Self {
        // FNV-1a.
        let fold = |hash: u32, octet: &u8| (hash ^ u32::from(*octet)).wrapping_mul(0x0100_0193);
        let of_one = |next_hop: &IpAddr| match next_hop {
            IpAddr::V4(addr) => addr.octets().iter().fold(0x811c_9dc5, fold),
            IpAddr::V6(addr) => addr.octets().iter().fold(0x811c_9dc5, fold),
        };
        let hash = match next_hops {
            [alone] => of_one(alone),
            together => {
                let mut hashes: Vec<u32> = together.iter().map(of_one).collect();
                hashes.sort_unstable();
                let octets = hashes.iter().flat_map(|hash| hash.to_be_bytes());
                octets.fold(0x811c_9dc5, |hash, octet| fold(hash, &octet))
            }
        };
        let of_kind = hash & (Self::FIRST_GROUP - Self::FIRST - 1);
        Self(match next_hops {
            [_] => Self::FIRST | of_kind,
            _ => Self::FIRST_GROUP | of_kind,
        })
    }

    /// Whether it is one of the agent's own numbers.
    pub const fn is_own(self) -> bool {
        matches!(self.0, Self::FIRST..=Self::LAST)
    }
}

/// Value of a next-hop object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHopSpec {
    /// Routing protocol number: who made it.
    pub protocol: u8,
    /// Where it leads.
    pub leads: Leads,
}

/// Where a next-hop object leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leads {
    /// To one next hop.
    To(NextHop),
    /// By any of these objects, each as often as the others; in the order of their numbers. None of them is a group.
    Over(Vec<NextHopId>),
}

impl NextHopSpec {
    /// The next hop, where it leads to one.
    pub const fn hop(&self) -> Option<&NextHop> {
        match &self.leads {
            Leads::To(hop) => Some(hop),
            Leads::Over(_) => None,
        }
    }

    /// The objects that it needs.
    pub fn members(&self) -> &[NextHopId] {
        match &self.leads {
            Leads::To(_) => &[],
            Leads::Over(members) => members,
        }
    }

    /// Its device.
    pub fn ifname(&self) -> Option<&IfName> {
        self.hop()?.ifname.as_ref()
    }
}

/// Key of an address in a set of the agent's nftables table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ElementKey {
    /// Family of the table.
    pub family: Family,
    /// The set's name.
    pub set: Arc<str>,
    /// The address.
    pub addr: IpAddr,
}

/// What Calico's Felix leaves in the packet filter, besides the table that has the name of the agent's. Its chains drop what comes
/// from devices that it did not know. In the order in which they can be removed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Leftover {
    /// The nftables table `arp calico-arp`.
    ArpTable,
    /// Chains `cali-…` in an nftables table of somebody else's, as iptables-nft writes it, and the rules there that lead to them or
    /// bear Felix's comment.
    Chains(Family, Arc<str>),
    /// The same in a table of iptables as it was before nftables.
    Legacy(Family, Arc<str>),
    /// A set of ipset(8).
    IpSet(Arc<str>),
}

/// A sysctl: path below `/proc/sys`, parts joined by `/` (`net/ipv4/conf/cali0/proxy_arp`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SysctlKey(pub Arc<str>);

const CONNTRACK_ACCT: &str = "net/netfilter/nf_conntrack_acct";

impl SysctlKey {
    /// Whether connection tracking counts packets and bytes. There once something has loaded it: the agent's rules do.
    pub fn conntrack_acct() -> Self {
        Self(CONNTRACK_ACCT.into())
    }

    /// Whether it is [`SysctlKey::conntrack_acct`].
    pub(crate) fn is_of_conntrack(&self) -> bool {
        *self.0 == *CONNTRACK_ACCT
    }

    /// A device's IPv4 setting: `rp_filter`, `proxy_arp`, ….
    pub fn of_ipv4(ifname: impl std::fmt::Display, name: &str) -> Self {
        Self(format!("net/ipv4/conf/{ifname}/{name}").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_stand_one_after_the_other_and_the_least_key_of_each_before_its_others() {
        let kinds = RowKind::ALL;
        assert!(kinds.is_sorted());
        let least: Vec<RowKey> = kinds.into_iter().map(RowKey::least).collect();
        assert!(least.iter().map(RowKey::kind).eq(kinds));
        assert!(least.is_sorted());
        let (ifname, addr) = (IfName::from("a"), IpAddr::from([0; 16]));
        let some = [
            RowKey::Link(ifname.clone()),
            RowKey::Mac(ifname.clone()),
            RowKey::Addr(AddrKey {
                ifname: ifname.clone(),
                addr: addr.into(),
            }),
            RowKey::Neigh(NeighKey {
                ifname: ifname.clone(),
                addr,
            }),
            RowKey::Fdb(FdbKey {
                ifname,
                mac: Mac([0; 6]),
            }),
            RowKey::NextHop(NextHopId(1)),
            RowKey::Route(RouteKey {
                table: 1,
                dst: IpNet::from(Ipv4Net::default()),
                tos: 0,
                metric: 0,
            }),
            RowKey::Rules(Family::V6),
            RowKey::Element(ElementKey {
                family: Family::V4,
                set: "a".into(),
                addr: [0; 4].into(),
            }),
            RowKey::Leftover(Leftover::IpSet("".into())),
            RowKey::Sysctl(SysctlKey("a".into())),
        ];
        for (least, some) in least.iter().zip(&some) {
            assert!(least < some, "{least:?} {some:?}");
        }
        for (some, next) in some.iter().zip(least.iter().skip(1)) {
            assert!(some < next, "{some:?} {next:?}");
        }
    }
}
