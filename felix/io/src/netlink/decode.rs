//! The kernel's objects as events and rows. What the rows cannot say is skipped: another owner's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::sync::Arc;

use felix::desired::{
    AddrKey, FdbKey, IfName, LinkSpec, Mac, NeighKey, NextHop, NextHopId, Parent, RouteKey,
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
}

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

    /// Learns a name; returns the one it had.
    fn learn(&mut self, ifindex: u32, name: &IfName) -> Option<IfName> {
        self.names.insert(ifindex, Some(name.clone())).flatten()
    }

    fn forget(&mut self, ifindex: u32) {
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
            let id = next_hop_id(message);
            let object = match id.map(NextHopId).filter(|id| id.is_own()) {
                Some(own) => Some(Named::Own(own)),
                None => id.and_then(|id| names.next_hops.hops(id)).map(Named::Other),
            };
            let route = route(message, object, &mut |ifindex| names.of(socket, ifindex));
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
            out.extend(route_key(message).map(|key| KernelEvent::RowGone(RowKey::Route(key))));
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

/// The key of a route of table main that forwards or drops.
fn route_key(message: &Message<'_>) -> Option<RouteKey> {
    let [family, dst_len, src_len, tos, table, _, _, kind] = *message.payload.first_chunk()?;
    let flags = u32_at(message.payload, 8)?;
    if src_len != 0 || flags & RTM_F_CLONED != 0 || route_kind(kind).is_none() {
        return None;
    }
    let attrs = Attrs::after(message.payload, 12);
    let table = attrs
        .find(RTA_TABLE)
        .and_then(Attr::u32)
        .unwrap_or(u32::from(table));
    if table != u32::from(RT_TABLE_MAIN) {
        return None;
    }
    let unspecified = match family {
        AF_INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AF_INET6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let dst = attrs.find(RTA_DST).map_or(Some(unspecified), Attr::ip)?;
    Some(RouteKey {
        table,
        dst: IpNet::new(dst, dst_len).ok()?.trunc(),
        tos,
        metric: attrs.find(RTA_PRIORITY).and_then(Attr::u32).unwrap_or(0),
    })
}

/// The next-hop object of a route.
fn next_hop_id(message: &Message<'_>) -> Option<u32> {
    Attrs::after(message.payload, 12)
        .find(RTA_NH_ID)
        .and_then(Attr::u32)
}

/// The next-hop object of a route.
enum Named {
    /// One of the agent's own.
    Own(NextHopId),
    /// What another one comes to.
    Other(Vec<Hop>),
}

/// A route; `object` is its next-hop object, if it has one that is known.
fn route(
    message: &Message<'_>,
    object: Option<Named>,
    name: &mut dyn FnMut(u32) -> Option<IfName>,
) -> Option<(RouteKey, RouteSpec)> {
    let key = route_key(message)?;
    let [_, _, _, _, _, protocol, scope, kind] = *message.payload.first_chunk()?;
    let flags = *message.payload.get(8)?;
    let attrs = Attrs::after(message.payload, 12);
    let kind = route_kind(kind)?;
    // IPv6 shows `lo` as the device of a blackhole; it leads nowhere all the same.
    let own = match object {
        Some(Named::Own(id)) => Some(id),
        Some(Named::Other(_)) | None => None,
    };
    // The kernel names the next hops that the object had when the route was notified, and is silent when it gets others.
    let next_hops = if kind != RouteKind::Unicast || own.is_some() {
        Vec::new()
    } else if let Some(multipath) = attrs.find(RTA_MULTIPATH) {
        multipath_hops(multipath.payload, name)?
    } else if let (None, Some(Named::Other(object))) = (attrs.find(RTA_OIF), object) {
        object
            .into_iter()
            .map(|hop| named(hop, name))
            .collect::<Option<_>>()?
    } else {
        let onlink = flags & RTNH_F_ONLINK != 0;
        let ifindex = attrs.find(RTA_OIF).and_then(Attr::u32);
        vec![next_hop(attrs, ifindex, onlink, name)?]
    };
    let mtu = attrs
        .find(RTA_METRICS)
        .and_then(|metrics| metrics.nested().find(RTAX_MTU));
    let spec = RouteSpec {
        kind,
        scope,
        protocol,
        next_hops,
        object: own,
        prefsrc: attrs.find(RTA_PREFSRC).and_then(Attr::ip),
        mtu_bytes: mtu.and_then(Attr::u32),
    };
    Some((key, spec))
}

fn next_hop(
    attrs: Attrs<'_>,
    ifindex: Option<u32>,
    onlink: bool,
    name: &mut dyn FnMut(u32) -> Option<IfName>,
) -> Option<NextHop> {
    let via = |attr: Attr<'_>| ip(attr.payload.get(2..)?);
    let hop = Hop {
        gateway: attrs
            .find(RTA_GATEWAY)
            .and_then(Attr::ip)
            .or(attrs.find(RTA_VIA).and_then(via)),
        ifindex,
        onlink,
    };
    named(hop, name)
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
        let onlink = *hop.get(2)? & RTNH_F_ONLINK != 0;
        let ifindex = Some(u32_at(hop, 4)?);
        hops.push(next_hop(Attrs::after(hop, 8), ifindex, onlink, name)?);
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
