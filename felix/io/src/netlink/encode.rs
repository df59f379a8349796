//! Messages to the kernel: operations on rows with one message each (routes, MACs, addresses, neighbours, forwarding entries), tunnel
//! devices, pairs of devices and rules.

use std::net::IpAddr;

use felix::desired::{
    AddrKey, FdbKey, IfName, Mac, NeighKey, NextHop, NextHopId, RouteKey, RouteKind, RouteSpec,
};
use ipnet::IpNet;

use super::decode::Vxlan;
use super::uapi::*;
use super::wire::{Batch, RouteHead, Writer};

/// Finds the index of a device; the error is the caller's.
pub(crate) type Resolve<'a, E> = &'a mut dyn FnMut(&IfName) -> Result<u32, E>;

const SET: u16 = NLM_F_CREATE | NLM_F_REPLACE;

/// Family number of an address.
pub(crate) fn family(addr: IpAddr) -> u8 {
    match addr {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

/// Creates or replaces a route: the destination never lacks one in between.
pub(crate) fn set_route<E>(
    batch: &mut Batch,
    key: &RouteKey,
    spec: &RouteSpec,
    resolve: Resolve<'_, E>,
) -> Result<(), E> {
    let hops = resolved(spec, resolve)?;
    let onlink = match hops.as_slice() {
        [(hop, _)] if hop.onlink => u32::from(RTNH_F_ONLINK),
        _ => 0,
    };
    batch.request(RTM_NEWROUTE, SET, |writer| {
        writer.route(RouteHead {
            protocol: spec.protocol,
            scope: spec.scope,
            kind: kind(spec.kind),
            flags: onlink,
            ..head(key)
        });
        route_key(writer, key);
        next_hops(writer, key, &hops);
        if let Some(id) = spec.object {
            writer.attr_u32(RTA_NH_ID, id.0);
        }
        if let Some(prefsrc) = spec.prefsrc {
            writer.attr_ip(RTA_PREFSRC, prefsrc);
        }
        if let Some(mtu) = spec.mtu_bytes {
            writer.block(RTA_METRICS, |writer| writer.attr_u32(RTAX_MTU, mtu));
        }
    });
    Ok(())
}

/// Removes a route. The kernel takes an IPv4 metric of 0 as "the lowest there is": type, protocol, scope and next hops
/// are named, so that it finds this route only. Of several next hops one may be dead with its device; then none is named.
pub(crate) fn remove_route<E>(
    batch: &mut Batch,
    key: &RouteKey,
    spec: &RouteSpec,
    resolve: Resolve<'_, E>,
) -> Result<(), E> {
    let hops = match resolved(spec, resolve) {
        Err(_) if spec.next_hops.len() > 1 => Vec::new(),
        hops => hops?,
    };
    batch.request(RTM_DELROUTE, 0, |writer| {
        writer.route(RouteHead {
            protocol: spec.protocol,
            scope: spec.scope,
            kind: kind(spec.kind),
            ..head(key)
        });
        route_key(writer, key);
        next_hops(writer, key, &hops);
        if let Some(id) = spec.object {
            writer.attr_u32(RTA_NH_ID, id.0);
        }
    });
    Ok(())
}

/// Creates or replaces a next-hop object that leads to a next hop: routes that name it lead there from then on.
pub(crate) fn set_next_hop(
    batch: &mut Batch,
    id: NextHopId,
    protocol: u8,
    hop: &NextHop,
    ifindex: u32,
) {
    let flags = if hop.onlink { RTNH_F_ONLINK } else { 0 };
    let family = hop.gateway.map_or(AF_INET, family);
    batch.request(RTM_NEWNEXTHOP, SET, |writer| {
        writer.next_hop_object(family, protocol, flags.into());
        writer.attr_u32(NHA_ID, id.0);
        if let Some(gateway) = hop.gateway {
            writer.attr_ip(NHA_GATEWAY, gateway);
        }
        writer.attr_u32(NHA_OIF, ifindex);
    });
}

/// The same of a group: `struct nexthop_grp` is a number (4 bytes), a weight less one, and 3 reserved bytes.
pub(crate) fn set_group(batch: &mut Batch, id: NextHopId, protocol: u8, members: &[NextHopId]) {
    let group = members.iter().flat_map(|member| {
        let [a, b, c, d] = member.0.to_ne_bytes();
        [a, b, c, d, 0, 0, 0, 0]
    });
    let group: Vec<u8> = group.collect();
    batch.request(RTM_NEWNEXTHOP, SET, |writer| {
        writer.next_hop_object(AF_UNSPEC, protocol, 0);
        writer.attr_u32(NHA_ID, id.0);
        writer.attr(NHA_GROUP, &group);
    });
}

/// Removes a next-hop object, and with it the routes that name it.
pub(crate) fn remove_next_hop(batch: &mut Batch, id: NextHopId) {
    batch.request(RTM_DELNEXTHOP, 0, |writer| {
        writer.next_hop_object(AF_UNSPEC, 0, 0);
        writer.attr_u32(NHA_ID, id.0);
    });
}

/// The next hops with the indexes of their devices.
fn resolved<'a, E>(
    spec: &'a RouteSpec,
    resolve: Resolve<'_, E>,
) -> Result<Vec<(&'a NextHop, Option<u32>)>, E> {
    let hops = spec.next_hops.iter();
    hops.map(|hop| Ok((hop, hop.ifname.as_ref().map(&mut *resolve).transpose()?)))
        .collect()
}

const fn kind(kind: RouteKind) -> u8 {
    match kind {
        RouteKind::Unicast => RTN_UNICAST,
        RouteKind::Blackhole => RTN_BLACKHOLE,
        RouteKind::Unreachable => RTN_UNREACHABLE,
        RouteKind::Prohibit => RTN_PROHIBIT,
    }
}

fn head(key: &RouteKey) -> RouteHead {
    RouteHead {
        family: family(key.dst.addr()),
        dst_len: key.dst.prefix_len(),
        tos: key.tos,
        table: u8::try_from(key.table).unwrap_or(RT_TABLE_UNSPEC),
        ..RouteHead::default()
    }
}

fn route_key(writer: &mut Writer<'_>, key: &RouteKey) {
    writer.attr_ip(RTA_DST, key.dst.network());
    if u8::try_from(key.table).is_err() {
        writer.attr_u32(RTA_TABLE, key.table);
    }
    if key.metric != 0 {
        writer.attr_u32(RTA_PRIORITY, key.metric);
    }
}

fn next_hops(writer: &mut Writer<'_>, key: &RouteKey, hops: &[(&NextHop, Option<u32>)]) {
    match hops {
        [] => {}
        [(hop, ifindex)] => next_hop(writer, key, hop, *ifindex),
        many => writer.block(RTA_MULTIPATH, |writer| {
            for (hop, ifindex) in many {
                let flags = if hop.onlink { RTNH_F_ONLINK } else { 0 };
                writer.next_hop(flags, ifindex.unwrap_or(0), |writer| {
                    next_hop(writer, key, hop, None);
                });
            }
        }),
    }
}

fn next_hop(writer: &mut Writer<'_>, key: &RouteKey, hop: &NextHop, ifindex: Option<u32>) {
    if let Some(gateway) = hop.gateway {
        if family(gateway) == family(key.dst.addr()) {
            writer.attr_ip(RTA_GATEWAY, gateway);
        } else {
            // RFC 8950 next hops: struct rtvia is the family (2 bytes) and the address.
            let mut via = u16::from(family(gateway)).to_ne_bytes().to_vec();
            match gateway {
                IpAddr::V4(v4) => via.extend_from_slice(&v4.octets()),
                IpAddr::V6(v6) => via.extend_from_slice(&v6.octets()),
            }
            writer.attr(RTA_VIA, &via);
        }
    }
    if let Some(ifindex) = ifindex {
        writer.attr_u32(RTA_OIF, ifindex);
    }
}

/// Sets the MAC of a device.
pub(crate) fn set_mac(batch: &mut Batch, mac: Mac, ifindex: u32) {
    batch.request(RTM_SETLINK, 0, |writer| {
        writer.ifinfo(AF_UNSPEC, ifindex, 0, 0);
        writer.attr(IFLA_ADDRESS, &mac.0);
    });
}

/// Creates or refreshes an address. IPv6 ones skip duplicate address detection: they are the
/// node's own by allocation.
pub(crate) fn set_addr(batch: &mut Batch, key: &AddrKey, ifindex: u32) {
    addr(batch, RTM_NEWADDR, SET, key, ifindex);
}

/// Removes an address.
pub(crate) fn remove_addr(batch: &mut Batch, key: &AddrKey, ifindex: u32) {
    addr(batch, RTM_DELADDR, 0, key, ifindex);
}

fn addr(batch: &mut Batch, kind: u16, flags: u16, key: &AddrKey, ifindex: u32) {
    let ip = key.addr.addr();
    let address_flags = if ip.is_ipv6() && kind == RTM_NEWADDR {
        IFA_F_NODAD
    } else {
        0
    };
    batch.request(kind, flags, |writer| {
        writer.ifaddr(family(ip), key.addr.prefix_len(), address_flags, ifindex);
        writer.attr_ip(IFA_LOCAL, ip);
        writer.attr_ip(IFA_ADDRESS, ip);
    });
}

/// Creates or replaces a permanent neighbour.
pub(crate) fn set_neigh(batch: &mut Batch, key: &NeighKey, mac: Mac, ifindex: u32) {
    batch.request(RTM_NEWNEIGH, SET, |writer| {
        writer.neigh(family(key.addr), ifindex, NUD_PERMANENT, 0);
        writer.attr_ip(NDA_DST, key.addr);
        writer.attr(NDA_LLADDR, &mac.0);
    });
}

/// Removes a neighbour.
pub(crate) fn remove_neigh(batch: &mut Batch, key: &NeighKey, ifindex: u32) {
    batch.request(RTM_DELNEIGH, 0, |writer| {
        writer.neigh(family(key.addr), ifindex, 0, 0);
        writer.attr_ip(NDA_DST, key.addr);
    });
}

/// Creates or replaces a permanent forwarding entry of a VXLAN device.
pub(crate) fn set_fdb(batch: &mut Batch, key: &FdbKey, remote: IpAddr, ifindex: u32) {
    batch.request(RTM_NEWNEIGH, SET, |writer| {
        writer.neigh(AF_BRIDGE, ifindex, NUD_PERMANENT, NTF_SELF);
        writer.attr(NDA_LLADDR, &key.mac.0);
        writer.attr_ip(NDA_DST, remote);
    });
}

/// Removes one remote of a forwarding entry; the entry goes with its last.
pub(crate) fn remove_fdb(batch: &mut Batch, key: &FdbKey, remote: IpAddr, ifindex: u32) {
    batch.request(RTM_DELNEIGH, 0, |writer| {
        writer.neigh(AF_BRIDGE, ifindex, 0, NTF_SELF);
        writer.attr(NDA_LLADDR, &key.mac.0);
        writer.attr_ip(NDA_DST, remote);
    });
}

/// A VXLAN device to be made. IFF_UP here makes it appear up, in one notification.
pub(crate) fn vxlan_device(
    writer: &mut Writer<'_>,
    name: &IfName,
    wanted: &Vxlan,
    mac: Mac,
    mtu_bytes: Option<u32>,
) {
    writer.ifinfo(AF_UNSPEC, 0, IFF_UP, IFF_UP);
    writer.attr_str(IFLA_IFNAME, &name.0);
    writer.attr(IFLA_ADDRESS, &mac.0);
    if let Some(mtu_bytes) = mtu_bytes {
        writer.attr_u32(IFLA_MTU, mtu_bytes);
    }
    writer.block(IFLA_LINKINFO, |writer| {
        writer.attr_str(IFLA_INFO_KIND, "vxlan");
        writer.block(IFLA_INFO_DATA, |writer| {
            writer.attr_u32(IFLA_VXLAN_ID, wanted.vni);
            writer.attr(IFLA_VXLAN_PORT, &wanted.port.to_be_bytes());
            if wanted.parent != 0 {
                writer.attr_u32(IFLA_VXLAN_LINK, wanted.parent);
            }
            match wanted.local {
                Some(local @ IpAddr::V4(_)) => writer.attr_ip(IFLA_VXLAN_LOCAL, local),
                Some(local @ IpAddr::V6(_)) => writer.attr_ip(IFLA_VXLAN_LOCAL6, local),
                None => {}
            }
        });
    });
}

/// An IPIP device to be made.
pub(crate) fn ipip_device(writer: &mut Writer<'_>, name: &IfName) {
    writer.ifinfo(AF_UNSPEC, 0, 0, 0);
    writer.attr_str(IFLA_IFNAME, &name.0);
    writer.block(IFLA_LINKINFO, |writer| {
        writer.attr_str(IFLA_INFO_KIND, "ipip");
    });
}

/// One end of a pair of devices to be made.
pub(crate) struct VethEnd<'a> {
    pub(crate) name: &'a IfName,
    /// The kernel chooses one else.
    pub(crate) mac: Option<Mac>,
    /// The kernel's 1500 else.
    pub(crate) mtu_bytes: Option<u32>,
    /// Transmit and receive queues, as many of each.
    pub(crate) queues: u32,
}

/// A pair of devices to be made: the peer is born in the network namespace of this descriptor.
pub(crate) fn veth_pair(
    writer: &mut Writer<'_>,
    end: &VethEnd<'_>,
    peer: &VethEnd<'_>,
    netns: i32,
) {
    veth_end(writer, end);
    writer.block(IFLA_LINKINFO, |writer| {
        writer.attr_str(IFLA_INFO_KIND, "veth");
        writer.block(IFLA_INFO_DATA, |writer| {
            writer.block(VETH_INFO_PEER, |writer| {
                veth_end(writer, peer);
                writer.attr_u32(IFLA_NET_NS_FD, netns.cast_unsigned());
            });
        });
    });
}

fn veth_end(writer: &mut Writer<'_>, end: &VethEnd<'_>) {
    writer.ifinfo(AF_UNSPEC, 0, 0, 0);
    writer.attr_str(IFLA_IFNAME, &end.name.0);
    if let Some(mtu_bytes) = end.mtu_bytes {
        writer.attr_u32(IFLA_MTU, mtu_bytes);
    }
    if let Some(Mac(mac)) = end.mac {
        writer.attr(IFLA_ADDRESS, &mac);
    }
    writer.attr_u32(IFLA_NUM_TX_QUEUES, end.queues);
    writer.attr_u32(IFLA_NUM_RX_QUEUES, end.queues);
}

/// A device to be up, with this MTU.
pub(crate) fn raised_device(writer: &mut Writer<'_>, ifindex: u32, mtu_bytes: Option<u32>) {
    writer.ifinfo(AF_UNSPEC, ifindex, IFF_UP, IFF_UP);
    if let Some(mtu_bytes) = mtu_bytes {
        writer.attr_u32(IFLA_MTU, mtu_bytes);
    }
}

/// A rule that packets from an address take this table.
pub(crate) fn source_rule(writer: &mut Writer<'_>, addr: IpAddr, priority: u32, table: u32) {
    writer.rule(family(addr), IpNet::from(addr).prefix_len(), FR_ACT_TO_TBL);
    writer.attr_ip(FRA_SRC, addr);
    writer.attr_u32(FRA_PRIORITY, priority);
    writer.attr_u32(FRA_TABLE, table);
}

#[cfg(test)]
mod tests;
