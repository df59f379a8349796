//! Encoding of requests and reading of answers: struct headers of rtnetlink(7), then attributes of length, type, value, padded to 4.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;
pub(crate) const RTM_GETLINK: u16 = 18;
pub(crate) const RTM_NEWADDR: u16 = 20;
pub(crate) const RTM_DELADDR: u16 = 21;
pub(crate) const RTM_GETADDR: u16 = 22;
pub(crate) const RTM_NEWROUTE: u16 = 24;
pub(crate) const RTM_DELROUTE: u16 = 25;
pub(crate) const RTM_GETROUTE: u16 = 26;
pub(crate) const RTM_NEWNEIGH: u16 = 28;
pub(crate) const RTM_GETNEIGH: u16 = 30;
pub(crate) const RTM_NEWRULE: u16 = 32;

const RTM_GETNEIGHTBL: u16 = 66;
pub(crate) const RTM_NEWNEIGHTBL: u16 = 64;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const TCP_ESTABLISHED: u32 = 1;

pub(crate) const IFLA_ADDRESS: u16 = 1;
pub(crate) const IFLA_IFNAME: u16 = 3;
pub(crate) const IFLA_MTU: u16 = 4;
pub(crate) const IFLA_MASTER: u16 = 10;
pub(crate) const IFLA_OPERSTATE: u16 = 16;
pub(crate) const IFLA_LINKINFO: u16 = 18;
pub(crate) const IFLA_NET_NS_FD: u16 = 28;
pub(crate) const IFLA_INFO_KIND: u16 = 1;
pub(crate) const IFLA_INFO_DATA: u16 = 2;
pub(crate) const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_NODAD: u8 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
pub(crate) const RTA_GATEWAY: u16 = 5;
pub(crate) const RTA_PRIORITY: u16 = 6;
const RTA_METRICS: u16 = 8;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
pub(crate) const NDA_DST: u16 = 1;
pub(crate) const NDA_LLADDR: u16 = 2;
const NDTA_NAME: u16 = 1;
const NDTA_THRESH3: u16 = 4;
const NDTA_STATS: u16 = 7;
const FRA_DST: u16 = 1;
const FRA_PRIORITY: u16 = 6;
const FRA_IP_PROTO: u16 = 22;
pub(crate) const FRA_SPORT_RANGE: u16 = 23;
pub(crate) const FRA_DPORT_RANGE: u16 = 24;

pub(crate) const TABLE_MAIN: u32 = 254;
/// The kernel's own note on one destination (a path MTU), not a route anybody wrote.
const RTM_F_CLONED: u32 = 0x200;
const RTNH_F_ONLINK: u32 = 4;
const RTAX_MTU: u16 = 2;
const SCOPE_LINK: u8 = 253;
const SCOPE_NOWHERE: u8 = 255;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;
const RTN_BLACKHOLE: u8 = 6;
const FR_ACT_BLACKHOLE: u8 = 6;
const NUD_PERMANENT: u16 = 0x80;
const IFF_UP: u32 = 1;
const IF_OPER_UP: u8 = 6;

/// A message under construction.
pub(crate) struct Request {
    kind: u16,
    body: Vec<u8>,
}

impl Request {
    fn new(kind: u16, header: &[u8]) -> Self {
        Self {
            kind,
            body: header.to_vec(),
        }
    }

    /// `struct ifinfomsg`: family, pad, type (2), index (4), flags (4), change mask (4).
    pub(crate) fn link(kind: u16, index: u32, up: bool) -> Self {
        let flags = if up { IFF_UP } else { 0 };
        let mut header = vec![0; 4];
        header.extend(index.to_ne_bytes());
        header.extend(flags.to_ne_bytes());
        header.extend(flags.to_ne_bytes());
        Self::new(kind, &header)
    }

    /// As [`Request::link`], to take a link down.
    pub(crate) fn link_down(index: u32) -> Self {
        let mut header = vec![0; 4];
        header.extend(index.to_ne_bytes());
        header.extend(0_u32.to_ne_bytes());
        header.extend(IFF_UP.to_ne_bytes());
        Self::new(RTM_NEWLINK, &header)
    }

    /// `struct ifaddrmsg`: family, prefix length, flags, scope, index (4).
    pub(crate) fn address(kind: u16, index: u32, address: Ipv4Net) -> Self {
        let mut header = vec![libc::AF_INET as u8, address.prefix_len(), 0, 0];
        header.extend(index.to_ne_bytes());
        Self::new(kind, &header)
            .ipv4(IFA_LOCAL, address.addr())
            .ipv4(IFA_ADDRESS, address.addr())
    }

    /// As [`Request::address`], an IPv6 address without the wait for other holders of it (IFA_F_NODAD; RFC 4862 §5.4).
    pub(crate) fn address6(kind: u16, index: u32, address: Ipv6Net) -> Self {
        let mut header = vec![libc::AF_INET6 as u8, address.prefix_len(), IFA_F_NODAD, 0];
        header.extend(index.to_ne_bytes());
        Self::new(kind, &header)
            .bytes(IFA_LOCAL, &address.addr().octets())
            .bytes(IFA_ADDRESS, &address.addr().octets())
    }

    /// `struct rtmsg`: family, destination length, source length, TOS, table, protocol, scope, type, flags (4).
    pub(crate) fn route(kind: u16, destination: IpNet) -> Self {
        let header = [
            family_of(destination.addr()),
            destination.prefix_len(),
            0,
            0,
            TABLE_MAIN as u8,
            RTPROT_STATIC,
            0,
            RTN_UNICAST,
            0,
            0,
            0,
            0,
        ];
        Self::new(kind, &header).ip(RTA_DST, destination.network())
    }

    /// A deletion that matches any protocol, scope and type.
    pub(crate) fn delete_route(destination: IpNet) -> Self {
        let header = [
            family_of(destination.addr()),
            destination.prefix_len(),
            0,
            0,
            TABLE_MAIN as u8,
            0,
            SCOPE_NOWHERE,
            0,
            0,
            0,
            0,
            0,
        ];
        Self::new(RTM_DELROUTE, &header).ip(RTA_DST, destination.network())
    }

    /// `struct ndmsg`: family, pad (3), index (4), state (2), flags, type.
    pub(crate) fn neighbour(index: u32) -> Self {
        let mut header = vec![libc::AF_INET as u8, 0, 0, 0];
        header.extend(index.to_ne_bytes());
        header.extend(NUD_PERMANENT.to_ne_bytes());
        header.extend([0, RTN_UNICAST]);
        Self::new(RTM_NEWNEIGH, &header)
    }

    /// `struct fib_rule_hdr`: family, destination length, source length, TOS, table, reserved (2), action, flags (4).
    pub(crate) fn blackhole_rule(peer: IpAddr, port_attribute: u16, port: u16) -> Self {
        let (family, peer) = match peer {
            IpAddr::V4(peer) => (libc::AF_INET, peer.octets().to_vec()),
            IpAddr::V6(peer) => (libc::AF_INET6, peer.octets().to_vec()),
        };
        let bits = peer.len() as u8 * 8;
        let header = [
            family as u8,
            bits,
            0,
            0,
            0,
            0,
            0,
            FR_ACT_BLACKHOLE,
            0,
            0,
            0,
            0,
        ];
        let range = [port.to_ne_bytes(), port.to_ne_bytes()].concat();
        Self::new(RTM_NEWRULE, &header)
            .bytes(FRA_DST, &peer)
            .u32(FRA_PRIORITY, 10)
            .bytes(FRA_IP_PROTO, &[libc::IPPROTO_TCP as u8])
            .bytes(port_attribute, &range)
    }

    /// Of both families.
    pub(crate) fn list_routes() -> Self {
        Self::new(
            RTM_GETROUTE,
            &[libc::AF_UNSPEC as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        )
    }

    pub(crate) fn list_addresses() -> Self {
        Self::new(RTM_GETADDR, &[libc::AF_UNSPEC as u8, 0, 0, 0, 0, 0, 0, 0])
    }

    pub(crate) fn list_neighbours(family: i32) -> Self {
        Self::new(
            RTM_GETNEIGH,
            &[family as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        )
    }

    /// `struct ndtmsg`: family, pad (3).
    pub(crate) fn list_neighbour_tables() -> Self {
        Self::new(RTM_GETNEIGHTBL, &[libc::AF_INET as u8, 0, 0, 0])
    }

    /// `struct inet_diag_req_v2`: family, protocol, extensions, pad, states (4, a mask), then a socket's identity (48), here any.
    pub(crate) fn established_sockets(family: i32) -> Self {
        let mut header = vec![family as u8, libc::IPPROTO_TCP as u8, 0, 0];
        header.extend((1_u32 << TCP_ESTABLISHED).to_ne_bytes());
        header.resize(56, 0);
        Self::new(SOCK_DIAG_BY_FAMILY, &header)
    }

    /// Appends one attribute.
    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).expect("the lab's attributes are short");
        self.body.extend(length.to_ne_bytes());
        self.body.extend(kind.to_ne_bytes());
        self.bytes_raw(value)
    }

    /// Appends bytes and pads to 4.
    pub(crate) fn bytes_raw(mut self, value: &[u8]) -> Self {
        self.body.extend(value);
        self.body.resize(self.body.len().next_multiple_of(4), 0);
        self
    }

    pub(crate) fn string(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    pub(crate) fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    pub(crate) fn ipv4(self, kind: u16, value: Ipv4Addr) -> Self {
        self.ip(kind, value.into())
    }

    pub(crate) fn ip(self, kind: u16, value: IpAddr) -> Self {
        match value {
            IpAddr::V4(value) => self.bytes(kind, &value.octets()),
            IpAddr::V6(value) => self.bytes(kind, &value.octets()),
        }
    }

    /// Appends an attribute whose value is built by `inner`.
    pub(crate) fn nest(self, kind: u16, inner: impl FnOnce(Self) -> Self) -> Self {
        let nested = inner(Self {
            kind: 0,
            body: Vec::new(),
        });
        self.bytes(kind, &nested.body)
    }

    /// The whole message with `struct nlmsghdr`: length (4), type (2), flags (2), sequence (4), port (4).
    pub(crate) fn finish(self, flags: u16, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(16 + self.body.len()).expect("the lab's requests are short");
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(self.kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(self.body);
        message
    }
}

/// One message of a received datagram.
pub(crate) struct Part<'a> {
    pub(crate) kind: u16,
    pub(crate) sequence: u32,
    pub(crate) payload: &'a [u8],
}

/// The messages of a datagram; stops at the first malformed one.
pub(crate) fn split(mut datagram: &[u8]) -> impl Iterator<Item = Part<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(datagram, 0)? as usize;
        let message = datagram.get(..length)?;
        let part = Part {
            kind: u16_at(message, 4)?,
            sequence: u32_at(message, 8)?,
            payload: message.get(16..)?,
        };
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
        Some(part)
    })
}

/// The attributes after a header of `header` bytes, as (type without flag bits, value).
fn attributes(payload: &[u8], header: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = payload.get(header..).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let value = rest.get(4..length)?;
        let kind = u16_at(rest, 2)? & 0x3fff;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(crate) fn i32_at_start(bytes: &[u8]) -> i32 {
    u32_at(bytes, 0).map_or(-libc::EIO, u32::cast_signed)
}

fn family_of(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

/// An address of the family that its length says.
fn ip_of(value: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(value).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from))
        .ok()
}

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index in its namespace.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Whether the operational state (RFC 2863) is up, or the device keeps none and is administratively up.
    pub up: bool,
    /// MTU in bytes.
    pub mtu_bytes: u32,
    /// MAC address as `aa:bb:cc:dd:ee:ff`; empty when it has none.
    pub mac: String,
}

impl Link {
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        let mut link = Self {
            index: u32_at(payload, 4)?,
            name: String::new(),
            up: false,
            mtu_bytes: 0,
            mac: String::new(),
        };
        let flags = u32_at(payload, 8)?;
        for (kind, value) in attributes(payload, 16) {
            match kind {
                IFLA_IFNAME => {
                    link.name = String::from_utf8_lossy(value)
                        .trim_end_matches('\0')
                        .to_owned()
                }
                IFLA_ADDRESS => {
                    let octets: Vec<String> =
                        value.iter().map(|octet| format!("{octet:02x}")).collect();
                    link.mac = octets.join(":");
                }
                IFLA_MTU => link.mtu_bytes = u32_at(value, 0)?,
                IFLA_OPERSTATE => {
                    link.up = match value.first() {
                        Some(&IF_OPER_UP) => true,
                        Some(0) => flags & IFF_UP != 0,
                        _ => false,
                    }
                }
                _ => {}
            }
        }
        Some(link)
    }
}

/// The address of an interface: for IPv6 the kernel has only `IFA_ADDRESS`.
pub(crate) fn parse_local_address(payload: &[u8]) -> Option<IpAddr> {
    let find = |wanted: u16| {
        let mut all = attributes(payload, 8);
        all.find(|(kind, _)| *kind == wanted)
            .and_then(|(_, value)| ip_of(value))
    };
    find(IFA_LOCAL).or_else(|| find(IFA_ADDRESS))
}

/// What the kernel does with a packet that meets the route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// Forward it.
    Unicast,
    /// Drop it silently.
    Blackhole,
    /// Anything else, with the kernel's number.
    Other(u8),
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination prefix.
    pub destination: IpNet,
    /// Where packets go, as the kernel lists them: none of a blackhole, several of a multipath route.
    pub hops: Vec<Hop>,
    /// Unicast, blackhole, ...
    pub kind: RouteKind,
    /// `scope link`: the destination is on the link itself.
    pub scope_link: bool,
    /// Who made it (`RTPROT_*`).
    pub protocol: u8,
    /// Routing table.
    pub table: u32,
    /// Priority: of several routes to one destination the lowest counts.
    pub metric: u32,
    /// The path MTU that the route sets, in bytes.
    pub mtu_bytes: Option<u32>,
}

/// One way of a [`Route`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hop {
    /// The next machine, when it is not the destination itself.
    pub gateway: Option<IpAddr>,
    /// Output interface's index.
    pub oif: Option<u32>,
    /// The gateway counts as a neighbour on the interface, whatever its subnet.
    pub onlink: bool,
}

impl Route {
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        let &[family, length, _, _, table, protocol, scope, kind] = payload.first_chunk::<8>()?;
        let mut address = match i32::from(family) {
            libc::AF_INET => IpAddr::from([0; 4]),
            libc::AF_INET6 => IpAddr::from([0_u8; 16]),
            _ => return None,
        };
        if u32_at(payload, 8)? & RTM_F_CLONED != 0 {
            return None;
        }
        let flags = u32_at(payload, 8)?;
        let mut single = Hop {
            onlink: flags & RTNH_F_ONLINK != 0,
            ..Hop::default()
        };
        let (mut table, mut metric) = (u32::from(table), 0);
        let (mut hops, mut mtu_bytes) = (Vec::new(), None);
        for (attribute, value) in attributes(payload, 12) {
            match attribute {
                RTA_DST => address = ip_of(value)?,
                RTA_GATEWAY => single.gateway = ip_of(value),
                RTA_MULTIPATH => hops = multipath(value)?,
                RTA_OIF => single.oif = u32_at(value, 0),
                RTA_METRICS => {
                    let mtu = attributes(value, 0).find(|(metric, _)| *metric == RTAX_MTU);
                    mtu_bytes = mtu.and_then(|(_, value)| u32_at(value, 0));
                }
                RTA_TABLE => table = u32_at(value, 0)?,
                RTA_PRIORITY => metric = u32_at(value, 0)?,
                _ => {}
            }
        }
        let kind = match kind {
            RTN_UNICAST => RouteKind::Unicast,
            RTN_BLACKHOLE => RouteKind::Blackhole,
            other => RouteKind::Other(other),
        };
        if single.gateway.is_some() || single.oif.is_some() {
            hops.push(single);
        }
        let destination = IpNet::new(address, length).ok()?;
        Some(Self {
            destination,
            hops,
            kind,
            scope_link: scope == SCOPE_LINK,
            protocol,
            table,
            metric,
            mtu_bytes,
        })
    }

    /// The gateways of all hops that have one.
    #[must_use]
    pub fn gateways(&self) -> Vec<IpAddr> {
        self.hops.iter().filter_map(|hop| hop.gateway).collect()
    }
}

/// A list of `struct rtnexthop`: length (2), flags, hops, interface (4), attributes.
fn multipath(mut list: &[u8]) -> Option<Vec<Hop>> {
    let mut hops = Vec::new();
    while !list.is_empty() {
        let length = usize::from(u16_at(list, 0)?);
        let hop = list.get(..length).filter(|hop| hop.len() >= 8)?;
        let gateway = attributes(hop, 8).find(|(attribute, _)| *attribute == RTA_GATEWAY);
        hops.push(Hop {
            gateway: gateway.and_then(|(_, value)| ip_of(value)),
            oif: u32_at(hop, 4),
            onlink: u32::from(hop[2]) & RTNH_F_ONLINK != 0,
        });
        list = list.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(hops)
}

/// A neighbour (ARP) or forwarding-database entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Interface it belongs to.
    pub ifindex: u32,
    /// The neighbour's address; for a VXLAN forwarding entry, the remote tunnel end.
    pub address: Option<IpAddr>,
    /// Hardware address.
    pub mac: Option<[u8; 6]>,
}

impl Neighbour {
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        let mut entry = Self {
            ifindex: u32_at(payload, 4)?,
            address: None,
            mac: None,
        };
        for (kind, value) in attributes(payload, 12) {
            match kind {
                NDA_DST => entry.address = ip_of(value),
                NDA_LLADDR => entry.mac = value.try_into().ok(),
                _ => {}
            }
        }
        Some(entry)
    }
}

/// The kernel's table of ARP entries, one for all network namespaces of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourTable {
    /// The sysctl `net.ipv4.neigh.default.gc_thresh3`: so many entries may be there, permanent ones not counted.
    pub entries_max: u32,
    /// How often an entry was refused since the machine started because the table was full.
    pub refused: u64,
}

impl NeighbourTable {
    /// `None` of other tables than ARP's, and of a device's parameters, which come in messages of their own.
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        let find = |wanted: u16| {
            let mut all = attributes(payload, 4);
            all.find(|(kind, _)| *kind == wanted)
                .map(|(_, value)| value)
        };
        if !find(NDTA_NAME)?.starts_with(b"arp_cache") {
            return None;
        }
        // The last of the eleven numbers of `struct ndt_stats`.
        let refused = find(NDTA_STATS)?.get(80..88)?.try_into().ok()?;
        Some(Self {
            entries_max: u32_at(find(NDTA_THRESH3)?, 0)?,
            refused: u64::from_ne_bytes(refused),
        })
    }
}
