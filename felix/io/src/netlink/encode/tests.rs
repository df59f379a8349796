//! What this writes is, octet by octet, what the crate netlink-packet-route writes of the same message.

use std::convert::Infallible;

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop as Hop, RouteNextHopFlags,
    RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::*;

/// Indexes of the devices.
fn index(name: &IfName) -> u32 {
    match &*name.0 {
        "eth0" => 2,
        "vxlan.calico" => 0x0102_0304,
        other => panic!("{other}"),
    }
}

fn ours(fill: impl FnOnce(&mut Batch)) -> Vec<u8> {
    let mut batch = Batch::default();
    fill(&mut batch);
    let mut octets = Vec::new();
    batch.copy(0, 7, &mut octets);
    octets
}

fn theirs(message: RouteNetlinkMessage, flags: u16) -> Vec<u8> {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    message.header.sequence_number = 7;
    message.finalize();
    let mut octets = vec![0; message.buffer_len()];
    message.serialize(&mut octets);
    octets
}

fn of_family(addr: IpAddr) -> AddressFamily {
    match addr {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// Gateway and device of a next hop.
fn hop_attributes(key: &RouteKey, hop: &NextHop) -> Vec<RouteAttribute> {
    let gateway = hop.gateway.map(|gateway| match gateway {
        gateway if gateway.is_ipv4() == key.dst.addr().is_ipv4() => {
            RouteAttribute::Gateway(gateway.into())
        }
        IpAddr::V4(addr) => RouteAttribute::Via(RouteVia::Inet(addr)),
        IpAddr::V6(addr) => RouteAttribute::Via(RouteVia::Inet6(addr)),
    });
    gateway.into_iter().collect()
}

fn message(key: &RouteKey, spec: &RouteSpec, is_set: bool) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = of_family(key.dst.addr());
    message.header.destination_prefix_length = key.dst.prefix_len();
    message.header.tos = key.tos;
    message.header.table = u8::try_from(key.table).unwrap_or(0);
    message.header.protocol = spec.protocol.into();
    message.header.scope = RouteScope::from(spec.scope);
    message.header.kind = match spec.kind {
        RouteKind::Unicast => RouteType::Unicast,
        RouteKind::Blackhole => RouteType::BlackHole,
        RouteKind::Unreachable => RouteType::Unreachable,
        RouteKind::Prohibit => RouteType::Prohibit,
    };
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Destination(key.dst.network().into()));
    if key.table > 255 {
        attributes.push(RouteAttribute::Table(key.table));
    }
    if key.metric != 0 {
        attributes.push(RouteAttribute::Priority(key.metric));
    }
    match &*spec.next_hops {
        [] => {}
        [hop] => {
            if hop.onlink && is_set {
                message.header.flags = RouteFlags::Onlink;
            }
            attributes.extend(hop_attributes(key, hop));
            attributes.extend(hop.ifname.as_ref().map(index).map(RouteAttribute::Oif));
        }
        many => {
            let hops = many.iter().map(|hop| {
                let mut one = Hop::default();
                if hop.onlink {
                    one.flags = RouteNextHopFlags::Onlink;
                }
                one.interface_index = hop.ifname.as_ref().map_or(0, index);
                one.attributes = hop_attributes(key, hop);
                one
            });
            attributes.push(RouteAttribute::MultiPath(hops.collect()));
        }
    }
    attributes.extend(spec.object.map(|id| RouteAttribute::NhId(id.0)));
    if is_set {
        let prefsrc = spec
            .prefsrc
            .map(|addr| RouteAttribute::PrefSource(addr.into()));
        attributes.extend(prefsrc);
        let mtu = spec.mtu_bytes.map(|mtu| vec![RouteMetric::Mtu(mtu)]);
        attributes.extend(mtu.map(RouteAttribute::Metrics));
    }
    message
}

fn hop(gateway: Option<&str>, ifname: Option<&str>, onlink: bool) -> NextHop {
    NextHop {
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        ifname: ifname.map(IfName::from),
        onlink,
    }
}

fn next_hops() -> Vec<Vec<NextHop>> {
    let eth = Some("eth0");
    vec![
        Vec::new(),
        vec![hop(None, eth, false)],
        vec![hop(Some("10.0.0.3"), None, false)],
        vec![hop(Some("10.65.1.0"), Some("vxlan.calico"), true)],
        vec![hop(Some("fd00::3"), eth, false)],
        vec![
            hop(Some("10.0.0.3"), eth, false),
            hop(Some("10.65.1.0"), Some("vxlan.calico"), true),
        ],
        vec![
            hop(Some("fd00::3"), eth, false),
            hop(Some("fd00::4"), None, false),
            hop(None, eth, false),
        ],
    ]
}

#[test]
fn routes_are_the_octets_that_the_crate_writes() {
    let mut compared = 0;
    for dst in [
        "0.0.0.0/0",
        "10.65.1.0/26",
        "10.65.1.7/32",
        "::/0",
        "fd00:65::/122",
    ] {
        for (table, tos, metric) in [(254, 0, 0), (254, 8, 1024), (1000, 0, u32::MAX)] {
            let key = RouteKey {
                table,
                dst: dst.parse().unwrap(),
                tos,
                metric,
            };
            for next_hops in next_hops() {
                for (kind, protocol, object, source, mtu_bytes) in [
                    (RouteKind::Unicast, 12, None, None, None),
                    (
                        RouteKind::Unicast,
                        80,
                        Some(NextHopId(0x5fff_fffe)),
                        Some("10.0.0.1"),
                        None,
                    ),
                    (RouteKind::Blackhole, 12, None, None, Some(1400)),
                    (RouteKind::Unreachable, 3, None, Some("fd00::1"), Some(9000)),
                ] {
                    let spec = RouteSpec {
                        kind,
                        scope: if next_hops.is_empty() { 253 } else { 0 },
                        protocol,
                        next_hops: next_hops.clone().into(),
                        object,
                        prefsrc: source.map(|source| source.parse().unwrap()),
                        mtu_bytes,
                    };
                    let mut resolve = |name: &IfName| Ok::<u32, Infallible>(index(name));
                    let set = ours(|batch| {
                        let Ok(()) = set_route(batch, &key, &spec, &mut resolve);
                    });
                    let expected = RouteNetlinkMessage::NewRoute(message(&key, &spec, true));
                    assert_eq!(set, theirs(expected, SET), "{key:?} {spec:?}");
                    let removal = ours(|batch| {
                        let Ok(()) = remove_route(batch, &key, &spec, &mut resolve);
                    });
                    let expected = RouteNetlinkMessage::DelRoute(message(&key, &spec, false));
                    assert_eq!(removal, theirs(expected, 0), "{key:?} {spec:?}");
                    compared += 2;
                }
            }
        }
    }
    assert_eq!(compared, 5 * 3 * 7 * 4 * 2);
}

#[test]
fn addresses_are_the_octets_that_the_crate_writes() {
    for (text, flags) in [
        ("10.65.0.0/32", AddressHeaderFlags::empty()),
        ("fd00::1/128", AddressHeaderFlags::Nodad),
    ] {
        let key = AddrKey {
            ifname: "eth0".into(),
            addr: text.parse().unwrap(),
        };
        let addr = key.addr.addr();
        let message = |flags| {
            let mut message = AddressMessage::default();
            message.header.family = of_family(addr);
            message.header.prefix_len = key.addr.prefix_len();
            message.header.flags = flags;
            message.header.index = 2;
            message.attributes = vec![
                AddressAttribute::Local(addr),
                AddressAttribute::Address(addr),
            ];
            message
        };
        let set = RouteNetlinkMessage::NewAddress(message(flags));
        assert_eq!(ours(|batch| set_addr(batch, &key, 2)), theirs(set, SET));
        let removal = RouteNetlinkMessage::DelAddress(message(AddressHeaderFlags::empty()));
        assert_eq!(
            ours(|batch| remove_addr(batch, &key, 2)),
            theirs(removal, 0)
        );
    }
}

#[test]
fn neighbours_and_forwarding_entries_are_the_octets_that_the_crate_writes() {
    let mac = Mac([0x66, 0, 0, 0, 0, 2]);
    for addr in ["10.65.1.0", "fd00::7"] {
        let addr: IpAddr = addr.parse().unwrap();
        let message = |family, state, flags, attributes| {
            let mut message = NeighbourMessage::default();
            message.header.family = family;
            message.header.ifindex = 2;
            message.header.state = state;
            message.header.flags = flags;
            message.attributes = attributes;
            message
        };
        let none = NeighbourFlags::empty();
        let own = NeighbourFlags::Own;
        let destination = NeighbourAttribute::Destination(addr.into());
        let link = NeighbourAttribute::LinkLayerAddress(mac.0.to_vec());
        let key = NeighKey {
            ifname: "eth0".into(),
            addr,
        };
        let both = vec![destination.clone(), link.clone()];
        let set = message(of_family(addr), NeighbourState::Permanent, none, both);
        let set = theirs(RouteNetlinkMessage::NewNeighbour(set), SET);
        assert_eq!(ours(|batch| set_neigh(batch, &key, mac, 2)), set);
        let removal = vec![destination.clone()];
        let removal = message(of_family(addr), NeighbourState::None, none, removal);
        let removal = theirs(RouteNetlinkMessage::DelNeighbour(removal), 0);
        assert_eq!(ours(|batch| remove_neigh(batch, &key, 2)), removal);
        let key = FdbKey {
            ifname: "eth0".into(),
            mac,
        };
        let both = vec![link, destination];
        let bridge = AddressFamily::Bridge;
        let set = message(bridge, NeighbourState::Permanent, own, both.clone());
        let set = theirs(RouteNetlinkMessage::NewNeighbour(set), SET);
        assert_eq!(ours(|batch| set_fdb(batch, &key, addr, 2)), set);
        let removal = message(bridge, NeighbourState::None, own, both);
        let removal = theirs(RouteNetlinkMessage::DelNeighbour(removal), 0);
        assert_eq!(ours(|batch| remove_fdb(batch, &key, addr, 2)), removal);
    }
}

/// A message about a device, which is to be up.
fn device(index: u32, flags: LinkFlags, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = flags;
    message.header.change_mask = flags;
    message.attributes = attributes;
    message
}

#[test]
fn tunnel_devices_are_the_octets_that_the_crate_writes() {
    let new = NLM_F_CREATE | NLM_F_EXCL;
    let mac = Mac([0x66, 0, 0, 0, 0, 2]);
    for (local, parent, mtu_bytes) in [("10.0.0.1", 2, Some(1450)), ("fd00::1", 0, None)] {
        let wanted = Vxlan {
            vni: 4096,
            port: 4789,
            local: Some(local.parse().unwrap()),
            parent,
        };
        let name = IfName::from("vxlan.calico");
        let mut data = vec![InfoVxlan::Id(4096), InfoVxlan::Port(4789)];
        data.extend((parent != 0).then_some(InfoVxlan::Link(parent)));
        data.push(match local.parse().unwrap() {
            IpAddr::V4(local) => InfoVxlan::Local(local),
            IpAddr::V6(local) => InfoVxlan::Local6(local),
        });
        let mut attributes = vec![
            LinkAttribute::IfName("vxlan.calico".to_owned()),
            LinkAttribute::Address(mac.0.to_vec()),
        ];
        attributes.extend(mtu_bytes.map(LinkAttribute::Mtu));
        attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vxlan),
            LinkInfo::Data(InfoData::Vxlan(data)),
        ]));
        let expected = device(0, LinkFlags::Up, attributes);
        let made = ours(|batch| {
            batch.request(RTM_NEWLINK, new, |writer| {
                vxlan_device(writer, &name, &wanted, mac, mtu_bytes);
            });
        });
        let expected = theirs(RouteNetlinkMessage::NewLink(expected), new);
        assert_eq!(made, expected, "{local}");
    }
    let made = ours(|batch| {
        batch.request(RTM_NEWLINK, NLM_F_CREATE, |writer| {
            ipip_device(writer, &IfName::from("tunl0"));
        });
    });
    let attributes = vec![
        LinkAttribute::IfName("tunl0".to_owned()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::IpIp)]),
    ];
    let expected = RouteNetlinkMessage::NewLink(device(0, LinkFlags::empty(), attributes));
    assert_eq!(made, theirs(expected, NLM_F_CREATE));
    for mtu_bytes in [None, Some(1480)] {
        let raised = ours(|batch| {
            batch.request(RTM_NEWLINK, 0, |writer| raised_device(writer, 2, mtu_bytes));
        });
        let attributes = mtu_bytes.map(LinkAttribute::Mtu).into_iter().collect();
        let expected = RouteNetlinkMessage::NewLink(device(2, LinkFlags::Up, attributes));
        assert_eq!(raised, theirs(expected, 0), "{mtu_bytes:?}");
    }
}

#[test]
fn pairs_of_devices_are_the_octets_that_the_crate_writes() {
    let (host, pod) = (IfName::from("cali0123456789a"), IfName::from("eth0"));
    for (mac, mtu_bytes) in [(None, None), (Some(Mac([2, 0, 0, 0, 0, 7])), Some(1450))] {
        let attributes = |name: &IfName, mac: Option<Mac>| {
            let mut attributes = vec![LinkAttribute::IfName(name.to_string())];
            attributes.extend(mtu_bytes.map(LinkAttribute::Mtu));
            attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
            attributes.push(LinkAttribute::NumTxQueues(1));
            attributes.push(LinkAttribute::NumRxQueues(1));
            attributes
        };
        let mut of_pod = attributes(&pod, mac);
        of_pod.push(LinkAttribute::NetNsFd(9));
        let peer = device(0, LinkFlags::empty(), of_pod);
        let host_mac = Mac([0xee; 6]);
        let mut of_host = attributes(&host, Some(host_mac));
        of_host.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        let new = NLM_F_CREATE | NLM_F_EXCL;
        let end = |name, mac| VethEnd {
            name,
            mac,
            mtu_bytes,
            queues: 1,
        };
        let made = ours(|batch| {
            batch.request(RTM_NEWLINK, new, |writer| {
                veth_pair(writer, &end(&host, Some(host_mac)), &end(&pod, mac), 9);
            });
        });
        let expected = device(0, LinkFlags::empty(), of_host);
        let expected = theirs(RouteNetlinkMessage::NewLink(expected), new);
        assert_eq!(made, expected, "{mac:?}");
    }
}

#[test]
fn rules_are_the_octets_that_the_crate_writes() {
    for (addr, length) in [("10.65.1.7", 32), ("fd00::7", 128)] {
        let addr: IpAddr = addr.parse().unwrap();
        let mut message = RuleMessage::default();
        message.header.family = of_family(addr);
        message.header.src_len = length;
        message.header.action = RuleAction::ToTable;
        message.attributes = vec![
            RuleAttribute::Source(addr),
            RuleAttribute::Priority(32765),
            RuleAttribute::Table(70_000),
        ];
        let rule = ours(|batch| {
            batch.request(RTM_NEWRULE, SET, |writer| {
                source_rule(writer, addr, 32765, 70_000);
            });
        });
        let expected = theirs(RouteNetlinkMessage::NewRule(message), SET);
        assert_eq!(rule, expected, "{addr}");
    }
}
