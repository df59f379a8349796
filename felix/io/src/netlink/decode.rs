//! The kernel's objects as events and rows. What the rows cannot say is skipped: another owner's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::sync::Arc;

use felix::desired::{
    AddrKey, FdbKey, Hops, IfName, LinkSpec, Mac, NeighKey, NextHop, NextHopId, Parent, RouteKey,
    RouteKind, RouteSpec, Row, RowKey,
};
use felix::kernel::{KernelEvent, LinkState};
use ipnet::IpNet;

use super::netconf;
use super::nexthop::{self, Hop, NextHops};
use super::uapi::*;
use super::wire::{Attr, Attrs, Message, ip, u16_at, u32_at};

/// What is known of devices by index: names, and which tunnels have been up; and of next-hop objects by number.
///
/// Names are asked for once each. An index that has no device any more has no name: the object that
/// bears it is gone with the device.
#[derive(Default)]
pub(crate) struct Names {
    names: BTreeMap<u32, Option<IfName>>,
    tunnels_up: BTreeSet<u32>,
    pub(crate) next_hops: NextHops,
    /// Routes' only next hops as they were read, so that routes share them: each in the place that follows from it, if no other is there.
    alone: Vec<Option<(Hop, Hops)>>,
    /// Those of a route that has none.
    nowhere: Hops,
}

/// Next hops that are remembered at most.
const ALONE: usize = 1024;

impl Names {
    /// Knows these devices.
    pub(crate) fn new(links: &[Link]) -> Self {
        let mut names = Self::default();
        for link in links {
            names.learn(link.state.ifindex, &link.state.ifname);
            if link.admin_up && link.is_tunnel() {
                names.tunnels_up.insert(link.state.ifindex);
            }
        }
        names
    }

    /// Knows these next-hop objects.
    pub(crate) fn knowing(next_hops: NextHops) -> Self {
        Self {
            next_hops,
            ..Self::default()
        }
    }

    /// The name of `ifindex` in the namespace of the socket.
    pub(crate) fn of(&mut self, socket: impl AsFd, ifindex: u32) -> Option<IfName> {
        self.names
            .entry(ifindex)
            .or_insert_with(|| {
                let name = rustix::net::netdevice::index_to_name(socket, ifindex).ok()?;
                Some(IfName::from(name.as_str()))
            })
            .clone()
    }

    /// A next hop with its device's name; `None` when that has none any more.
    fn named(&mut self, socket: impl AsFd + Copy, hop: Hop) -> Option<NextHop> {
        named(hop, &mut |ifindex| self.of(socket, ifindex))
    }

    /// The same as the only one of a route.
    fn alone(&mut self, socket: impl AsFd + Copy, hop: Hop) -> Option<Hops> {
        let place = hop.number() % ALONE;
        if let Some(Some((known, hops))) = self.alone.get(place)
            && *known == hop
        {
            return Some(hops.clone());
        }
        let hops = Hops::from(vec![self.named(socket, hop.clone())?]);
        self.alone.resize(ALONE, None);
        self.alone[place] = Some((hop, hops.clone()));
        Some(hops)
    }

    /// The next hops of the object of this number, if it is known.
    fn behind(&self, object: Option<u32>) -> Option<Vec<Hop>> {
        self.next_hops.hops(object?)
    }

    /// Learns a name; returns the one it had.
    fn learn(&mut self, ifindex: u32, name: &IfName) -> Option<IfName> {
        let known = self.names.insert(ifindex, Some(name.clone())).flatten();
        if known.as_ref() != Some(name) {
            self.alone.clear();
        }
        known
    }

    fn forget(&mut self, ifindex: u32) {
        self.alone.clear();
        self.names.remove(&ifindex);
        self.tunnels_up.remove(&ifindex);
    }
}

/// A device with all that is needed to tell whether it is the wanted one.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) state: LinkState,
    /// IFF_UP alone.
    pub(crate) admin_up: bool,
    /// `IFLA_OPERSTATE`.
    pub(crate) operstate: u8,
    /// `IFLA_IFALIAS`; empty when it has none.
    pub(crate) alias: String,
    /// `IFLA_GROUP`.
    pub(crate) group: u32,
    /// The parameters, for VXLAN devices.
    pub(crate) vxlan: Option<Vxlan>,
}

impl Link {
    /// Whether it is of a kind that [`LinkSpec`] describes.
    fn is_tunnel(&self) -> bool {
        matches!(self.state.kind.as_deref(), Some("vxlan" | "ipip"))
    }
}

/// Parameters of a VXLAN device that cannot be changed later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Vxlan {
    pub(crate) vni: u32,
    pub(crate) port: u16,
    pub(crate) local: Option<IpAddr>,
    pub(crate) parent: u32,
}

/// Turns one object or notification into events.
pub(crate) fn events(
    message: &Message<'_>,
    socket: impl AsFd + Copy,
    names: &mut Names,
    out: &mut Vec<KernelEvent>,
) {
    match message.kind {
        RTM_NEWLINK => new_link(message, socket, names, out),
        RTM_DELLINK => gone_link(message, names, out),
        RTM_NEWADDR | RTM_DELADDR => addr(message, socket, names, out),
        RTM_NEWROUTE => {
            let route = RouteRead::of(message).and_then(|read| read.row(socket, names));
            out.extend(route.map(|(key, spec)| KernelEvent::RowSet(Row::Route(key, spec))));
        }
        RTM_NEWNEXTHOP | RTM_DELNEXTHOP => {
            let changed = names.next_hops.notified(message);
            out.extend(changed.then_some(KernelEvent::RoutesChanged));
            let row = nexthop::row(message, &mut |ifindex| names.of(socket, ifindex));
            out.extend(row.map(|(id, spec)| match message.kind {
                RTM_DELNEXTHOP => KernelEvent::RowGone(RowKey::NextHop(id)),
                _ => KernelEvent::RowSet(Row::NextHop(id, spec)),
            }));
        }
        RTM_DELROUTE => {
            let key = RouteRead::of(message).map(|read| RowKey::Route(read.key));
            out.extend(key.map(KernelEvent::RowGone));
        }
        RTM_NEWNETCONF => netconf::events(message, |ifindex| names.of(socket, ifindex), out),
        RTM_NEWNEIGH | RTM_DELNEIGH => out.extend(neigh(message, socket, names)),
        _ => {}
    }
}

/// A device; `None` for messages of bridge ports and the like, which also bear RTM_NEWLINK.
pub(crate) fn link(message: &Message<'_>) -> Option<Link> {
    let payload = message.payload;
    if payload.first() != Some(&AF_UNSPEC) {
        return None;
    }
    let hardware = u16_at(payload, 2)?;
    let ifindex = u32_at(payload, 4).filter(|index| *index != 0)?;
    let flags = u32_at(payload, 8)?;
    let mut name = None;
    let mut link = Link {
        state: LinkState {
            ifname: IfName::from(""),
            ifindex,
            up: flags & (IFF_UP | IFF_RUNNING) == IFF_UP | IFF_RUNNING,
            mtu_bytes: 0,
            mac: None,
            kind: None,
        },
        admin_up: flags & IFF_UP != 0,
        operstate: 0,
        alias: String::new(),
        group: 0,
        vxlan: None,
    };
    for attr in Attrs::after(payload, 16) {
        match attr.kind {
            IFLA_IFNAME => {
                let known = attr.text().filter(|name| (1..16).contains(&name.len()));
                name = known.map(IfName::from);
            }
            IFLA_MTU => link.state.mtu_bytes = attr.u32()?,
            IFLA_ADDRESS if hardware == ARPHRD_ETHER => link.state.mac = attr.mac().map(Mac),
            IFLA_OPERSTATE => link.operstate = attr.u8()?,
            IFLA_IFALIAS => link.alias = attr.text().unwrap_or_default().to_owned(),
            IFLA_GROUP => link.group = attr.u32()?,
            IFLA_LINKINFO => link_info(attr, &mut link),
            _ => {}
        }
    }
    link.state.ifname = name?;
    Some(link)
}

fn link_info(info: Attr<'_>, link: &mut Link) {
    link.state.kind = info
        .nested()
        .find(IFLA_INFO_KIND)
        .and_then(Attr::text)
        .map(Arc::from);
    if link.state.kind.as_deref() == Some("vxlan") {
        link.vxlan = info.nested().find(IFLA_INFO_DATA).map(|data| {
            let data = data.nested();
            let local = data
                .find(IFLA_VXLAN_LOCAL)
                .or_else(|| data.find(IFLA_VXLAN_LOCAL6));
            Vxlan {
                vni: data.find(IFLA_VXLAN_ID).and_then(Attr::u32).unwrap_or(0),
                port: data
                    .find(IFLA_VXLAN_PORT)
                    .and_then(Attr::u16_be)
                    .unwrap_or(0),
                local: local.and_then(Attr::ip),
                parent: data.find(IFLA_VXLAN_LINK).and_then(Attr::u32).unwrap_or(0),
            }
        });
    }
}

/// A tunnel device's row is there while the device is up: one that is taken down is gone, so that
/// it is repaired. One that is being made appears down first, which is no loss.
fn new_link(
    message: &Message<'_>,
    socket: impl AsFd + Copy,
    names: &mut Names,
    out: &mut Vec<KernelEvent>,
) {
    let Some(link) = link(message) else { return };
    let (name, ifindex) = (link.state.ifname.clone(), link.state.ifindex);
    if let Some(old) = names.learn(ifindex, &name)
        && old != name
    {
        out.push(KernelEvent::LinkGone(old));
    }
    out.push(KernelEvent::Link(link.state.clone()));
    if !link.is_tunnel() {
        return;
    }
    if !link.admin_up {
        if names.tunnels_up.remove(&ifindex) {
            out.push(KernelEvent::RowGone(RowKey::Link(name)));
        }
        return;
    }
    names.tunnels_up.insert(ifindex);
    let mtu_bytes = Some(link.state.mtu_bytes);
    let spec = match (link.vxlan, link.state.mac) {
        (None, _) => Some(LinkSpec::Ipip { mtu_bytes }),
        (
            Some(Vxlan {
                vni,
                port,
                local: Some(local),
                parent,
            }),
            Some(mac),
        ) => {
            let parent = match parent {
                0 => Some(Parent::Routed),
                parent => names.of(socket, parent).map(Parent::Device),
            };
            let checksums = super::link::checksums(socket, &name);
            parent.map(|parent| LinkSpec::Vxlan {
                vni,
                port,
                local,
                parent,
                mac,
                mtu_bytes,
                checksums,
            })
        }
        // Made by somebody else without a local address.
        (Some(_), _) => None,
    };
    out.extend(spec.map(|spec| KernelEvent::RowSet(Row::Link(name, spec))));
}

fn gone_link(message: &Message<'_>, names: &mut Names, out: &mut Vec<KernelEvent>) {
    let Some(link) = link(message) else { return };
    names.forget(link.state.ifindex);
    let tunnel = link.is_tunnel();
    let name = link.state.ifname;
    out.push(KernelEvent::LinkGone(name.clone()));
    if tunnel {
        out.push(KernelEvent::RowGone(RowKey::Link(name)));
    }
}

/// Index, address and prefix length of an address object.
pub(crate) fn addr_fields(message: &Message<'_>) -> Option<(u32, IpNet)> {
    let prefix_len = *message.payload.get(1)?;
    let ifindex = u32_at(message.payload, 4)?;
    let attrs = Attrs::after(message.payload, 8);
    let addr = attrs
        .find(IFA_LOCAL)
        .or_else(|| attrs.find(IFA_ADDRESS))?
        .ip()?;
    Some((ifindex, IpNet::new(addr, prefix_len).ok()?))
}

fn addr(message: &Message<'_>, socket: impl AsFd, names: &mut Names, out: &mut Vec<KernelEvent>) {
    let Some((ifindex, addr)) = addr_fields(message) else {
        return;
    };
    let Some(ifname) = names.of(socket, ifindex) else {
        return;
    };
    let key = AddrKey {
        ifname: ifname.clone(),
        addr,
    };
    if message.kind == RTM_NEWADDR {
        out.push(KernelEvent::HostAddr { ifname, addr });
        out.push(KernelEvent::RowSet(Row::Addr(key)));
    } else {
        out.push(KernelEvent::HostAddrGone { ifname, addr });
        out.push(KernelEvent::RowGone(RowKey::Addr(key)));
    }
}

fn route_kind(kind: u8) -> Option<RouteKind> {
    match kind {
        RTN_UNICAST => Some(RouteKind::Unicast),
        RTN_BLACKHOLE => Some(RouteKind::Blackhole),
        RTN_UNREACHABLE => Some(RouteKind::Unreachable),
        RTN_PROHIBIT => Some(RouteKind::Prohibit),
        _ => None,
    }
}

/// What a message says of a route of table main that forwards or drops: `struct rtmsg` and its attributes, each looked at once. Tables of a
/// million routes are read this way.
struct RouteRead<'a> {
    key: RouteKey,
    kind: RouteKind,
    scope: u8,
    protocol: u8,
    /// The only next hop, where there is one.
    hop: Hop,
    multipath: Option<&'a [u8]>,
    /// Number of its next-hop object.
    object: Option<u32>,
    prefsrc: Option<IpAddr>,
    mtu_bytes: Option<u32>,
}

impl<'a> RouteRead<'a> {
    fn of(message: &Message<'a>) -> Option<Self> {
        let [family, dst_len, src_len, tos, table, protocol, scope, kind] =
            *message.payload.first_chunk()?;
        let flags = u32_at(message.payload, 8)?;
        if src_len != 0 || flags & RTM_F_CLONED != 0 {
            return None;
        }
        let mut table = u32::from(table);
        let mut dst = match family {
            AF_INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            AF_INET6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => return None,
        };
        let mut read = Self {
            key: RouteKey {
                table: u32::from(RT_TABLE_MAIN),
                dst: IpNet::from(dst),
                tos,
                metric: 0,
            },
            kind: route_kind(kind)?,
            scope,
            protocol,
            hop: Hop {
                gateway: None,
                ifindex: None,
                onlink: flags & u32::from(RTNH_F_ONLINK) != 0,
            },
            multipath: None,
            object: None,
            prefsrc: None,
            mtu_bytes: None,
        };
        for attr in Attrs::after(message.payload, 12) {
            match attr.kind {
                RTA_DST => dst = attr.ip()?,
                RTA_TABLE => table = attr.u32()?,
                RTA_PRIORITY => read.key.metric = attr.u32()?,
                RTA_NH_ID => read.object = attr.u32(),
                RTA_PREFSRC => read.prefsrc = attr.ip(),
                RTA_MULTIPATH => read.multipath = Some(attr.payload),
                RTA_METRICS => read.mtu_bytes = attr.nested().find(RTAX_MTU).and_then(Attr::u32),
                _ => read.hop.take(attr),
            }
        }
        read.key.dst = IpNet::new(dst, dst_len).ok()?.trunc();
        (table == u32::from(RT_TABLE_MAIN)).then_some(read)
    }

    /// The route with its devices' names; `None` when one has no name any more.
    fn row(self, socket: impl AsFd + Copy, names: &mut Names) -> Option<(RouteKey, RouteSpec)> {
        let own = self.object.map(NextHopId).filter(|id| id.is_own());
        // IPv6 shows `lo` as the device of a blackhole; it leads nowhere all the same. The kernel names the next hops that an object had
        // when the route was notified, and is silent when it gets others.
        let next_hops = if self.kind != RouteKind::Unicast || own.is_some() {
            names.nowhere.clone()
        } else if let Some(multipath) = self.multipath {
            let name = &mut |ifindex| names.of(socket, ifindex);
            multipath_hops(multipath, name)?.into()
        } else if let (None, Some(hops)) = (self.hop.ifindex, names.behind(self.object)) {
            let hops = hops.into_iter().map(|hop| names.named(socket, hop));
            hops.collect::<Option<Vec<NextHop>>>()?.into()
        } else {
            names.alone(socket, self.hop)?
        };
        let spec = RouteSpec {
            kind: self.kind,
            scope: self.scope,
            protocol: self.protocol,
            next_hops,
            object: own,
            prefsrc: self.prefsrc,
            mtu_bytes: self.mtu_bytes,
        };
        Some((self.key, spec))
    }
}

impl Hop {
    /// Takes in an attribute of a route, or of one of its next hops, that is about where it leads. Only one of both forms of a gateway is
    /// given.
    fn take(&mut self, attr: Attr<'_>) {
        match attr.kind {
            RTA_OIF => self.ifindex = attr.u32(),
            RTA_GATEWAY => self.gateway = attr.ip(),
            // RFC 8950: `struct rtvia` is the family (2 bytes) and the address.
            RTA_VIA => self.gateway = attr.payload.get(2..).and_then(ip),
            _ => {}
        }
    }
}

/// `None` when the device has no name any more.
fn named(hop: Hop, name: &mut dyn FnMut(u32) -> Option<IfName>) -> Option<NextHop> {
    let ifname = match hop.ifindex {
        Some(ifindex) => Some(name(ifindex)?),
        None => None,
    };
    Some(NextHop {
        gateway: hop.gateway,
        ifname,
        onlink: hop.onlink,
    })
}

/// `struct rtnexthop`: length (2), flags, hops, index (4), attributes.
fn multipath_hops(
    mut bytes: &[u8],
    name: &mut dyn FnMut(u32) -> Option<IfName>,
) -> Option<Vec<NextHop>> {
    let mut hops = Vec::new();
    while !bytes.is_empty() {
        let length = usize::from(u16_at(bytes, 0)?);
        let hop = bytes.get(..length)?;
        let mut read = Hop {
            gateway: None,
            ifindex: Some(u32_at(hop, 4)?),
            onlink: *hop.get(2)? & RTNH_F_ONLINK != 0,
        };
        for attr in Attrs::after(hop, 8) {
            read.take(attr);
        }
        hops.push(named(read, name)?);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(hops)
}

/// Permanent neighbours and permanent forwarding entries; learned ones come and go without us.
fn neigh(message: &Message<'_>, socket: impl AsFd, names: &mut Names) -> Option<KernelEvent> {
    let payload = message.payload;
    let family = *payload.first()?;
    let state = u16_at(payload, 8)?;
    let flags = *payload.get(10)?;
    let gone = message.kind == RTM_DELNEIGH;
    if flags & NTF_PROXY != 0 || (!gone && state & NUD_PERMANENT == 0) {
        return None;
    }
    let attrs = Attrs::after(payload, 12);
    let mac = attrs.find(NDA_LLADDR).and_then(Attr::mac).map(Mac);
    let addr = attrs.find(NDA_DST).and_then(Attr::ip);
    if family == AF_BRIDGE && (flags & NTF_SELF == 0 || addr.is_none()) {
        // A bridge's entry, or a plain device's own multicast filter.
        return None;
    }
    let ifname = names.of(socket, u32_at(payload, 4)?)?;
    Some(match (family, gone) {
        (AF_BRIDGE, false) => KernelEvent::RowSet(Row::Fdb(FdbKey { ifname, mac: mac? }, addr?)),
        (AF_BRIDGE, true) => KernelEvent::RowGone(RowKey::Fdb(FdbKey { ifname, mac: mac? })),
        (_, false) => KernelEvent::RowSet(Row::Neigh(
            NeighKey {
                ifname,
                addr: addr?,
            },
            mac?,
        )),
        (_, true) => KernelEvent::RowGone(RowKey::Neigh(NeighKey {
            ifname,
            addr: addr?,
        })),
    })
}
