//! Each thing that the rows guard, broken: the check must fail and name the cell.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::wanted::Wanted;
use super::{Demand, leftovers_of, row};
use crate::netlink::{Hop, Link, Neighbour, Route, RouteKind};
use crate::options::{Mode, Options};
use crate::proof::tables::Tables;
use crate::topology::Families;

const POD: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 0, 2));
const OWNER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 10, 1, 12));
const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 10, 1, 1));
const TUNNEL: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 0, 65));
const ETH0: u32 = 2;
const TUNL0: u32 = 3;
const VXLAN: u32 = 4;
const CALI: u32 = 5;
const TUNNEL_MAC: [u8; 6] = [0x66, 0, 0, 0, 0, 1];

fn block() -> IpNet {
    IpNet::new(IpAddr::from([192, 168, 0, 64]), 26).unwrap()
}

fn link(index: u32, name: &str, mtu_bytes: u32) -> Link {
    Link {
        index,
        name: name.to_owned(),
        up: true,
        mtu_bytes,
        mac: String::new(),
    }
}

fn hop(gateway: Option<IpAddr>, oif: u32, onlink: bool) -> Hop {
    Hop {
        gateway,
        oif: Some(oif),
        onlink,
    }
}

fn route(destination: IpNet, protocol: u8, metric: u32, hops: &[Hop]) -> Route {
    Route {
        destination,
        hops: hops.to_vec(),
        kind: RouteKind::Unicast,
        scope_link: false,
        protocol,
        table: 254,
        metric,
        mtu_bytes: None,
    }
}

/// A node with a pod's device and both tunnels, one of which leads to OWNER.
fn tables(pod_mtu: u32, routes: Vec<Route>) -> Tables {
    Tables {
        routes,
        links: vec![
            link(ETH0, "eth0", 1500),
            link(TUNL0, "tunl0", 1480),
            link(VXLAN, "vxlan.calico", 1450),
            link(CALI, "cali0", pod_mtu),
        ],
        neighbours: vec![Neighbour {
            ifindex: VXLAN,
            address: Some(TUNNEL),
            mac: Some(TUNNEL_MAC),
        }],
        fdb: vec![Neighbour {
            ifindex: VXLAN,
            address: Some(OWNER),
            mac: Some(TUNNEL_MAC),
        }],
    }
}

/// A destination with the tables in which its route is right.
struct Case {
    demand: Demand,
    tables: Tables,
}

impl Case {
    fn new(what: &'static str, wanted: Wanted, tables: Tables) -> Self {
        let destination = tables.routes[0].destination;
        let demand = Demand {
            what,
            destination,
            owner: "owner".to_owned(),
            alone: what != "outside",
            wanted,
        };
        let case = Self { demand, tables };
        assert_eq!(row("n1", &case.tables, &case.demand).fault, None);
        case
    }

    /// The check fails after this change, and says so of this cell.
    #[track_caller]
    fn breaks(&self, expected: &str, change: impl FnOnce(&mut Tables)) {
        let mut tables = self.tables.clone();
        change(&mut tables);
        let row = row("n1", &tables, &self.demand);
        let cell = format!(
            "FIB of n1: {} {}",
            self.demand.what, self.demand.destination
        );
        let fault = row.fault.unwrap_or_else(|| panic!("{} passes", row.found));
        assert_eq!(fault, format!("{cell} (owner) {expected}"));
    }
}

fn pod() -> Case {
    let route = Route {
        scope_link: true,
        ..route(IpNet::from(POD), 3, 1024, &[hop(None, CALI, false)])
    };
    let options = Options {
        mode: Mode::Vxlan,
        ..Options::default()
    };
    Case::new("pod", Wanted::pod(&options, POD), tables(1450, vec![route]))
}

fn remote(mode: Mode, same_rack: bool, route: Route) -> Case {
    let next_hop = if same_rack { OWNER } else { GATEWAY };
    let wanted = Wanted::remote_block(mode, same_rack, OWNER, next_hop);
    Case::new("block", wanted, tables(1500, vec![route]))
}

fn plain() -> Case {
    let route = route(block(), 12, 1024, &[hop(Some(GATEWAY), ETH0, false)]);
    remote(Mode::Bgp, false, route)
}

fn vxlan() -> Case {
    let route = Route {
        mtu_bytes: Some(1450),
        ..route(block(), 3, 0, &[hop(Some(TUNNEL), VXLAN, true)])
    };
    remote(Mode::Vxlan, true, route)
}

#[test]
fn a_pods_route_without_device_on_another_device_or_with_other_attributes_is_wrong() {
    let pod = pod();
    pod.breaks("has no route", |tables| tables.routes.clear());
    pod.breaks("has 2 routes", |tables| {
        let mut second = tables.routes[0].clone();
        second.metric = 0;
        tables.routes.push(second);
    });
    pod.breaks("has no device", |tables| tables.routes[0].hops.clear());
    pod.breaks("has no device", |tables| {
        tables.routes[0].hops[0].oif = None
    });
    pod.breaks("leads to interface 77, which is not there", |tables| {
        tables.routes[0].hops[0].oif = Some(77);
    });
    pod.breaks("leads to eth0, expected a device cali…", |tables| {
        tables.routes[0].hops[0].oif = Some(ETH0);
    });
    pod.breaks("leads to cali0, which is not operationally up", |tables| {
        tables.links[3].up = false;
    });
    pod.breaks("is not a plain route", |tables| {
        tables.routes[0].scope_link = false;
    });
    pod.breaks("is not a plain route", |tables| {
        tables.routes[0].hops[0].gateway = Some(OWNER);
    });
    pod.breaks("is of type Blackhole, expected Unicast", |tables| {
        tables.routes[0].kind = RouteKind::Blackhole;
    });
    pod.breaks("leads to cali0 of MTU 1500, expected 1450", |tables| {
        tables.links[3].mtu_bytes = 1500;
    });
    pod.breaks("sets the MTU 1400, expected none", |tables| {
        tables.routes[0].mtu_bytes = Some(1400);
    });
    pod.breaks("is made by protocol 12, expected 3", |tables| {
        tables.routes[0].protocol = 12;
    });
    pod.breaks("has the metric 0, expected 1024", |tables| {
        tables.routes[0].metric = 0;
    });
}

#[test]
fn a_plain_route_by_another_way_or_with_other_attributes_is_wrong() {
    let plain = plain();
    let way = "goes via 10.10.1.12 on eth0, expected via 10.10.1.1 on eth0";
    plain.breaks(way, |tables| {
        tables.routes[0].hops[0].gateway = Some(OWNER);
    });
    let device = "goes via 10.10.1.1 on tunl0, expected via 10.10.1.1 on eth0";
    plain.breaks(device, |tables| {
        tables.routes[0].hops[0].oif = Some(TUNL0);
    });
    let none = "goes via nothing on eth0, expected via 10.10.1.1 on eth0";
    plain.breaks(none, |tables| tables.routes[0].hops[0].gateway = None);
    let two = "goes via 10.10.1.1 and 10.10.1.12 on eth0 and eth0, expected via 10.10.1.1 on eth0";
    plain.breaks(two, |tables| {
        tables.routes[0].hops.push(hop(Some(OWNER), ETH0, false));
    });
    plain.breaks("is onlink", |tables| tables.routes[0].hops[0].onlink = true);
    plain.breaks("is made by protocol 80, expected 12", |tables| {
        tables.routes[0].protocol = 80;
    });
    plain.breaks("has the metric 32, expected 1024", |tables| {
        tables.routes[0].metric = 32;
    });
    plain.breaks("sets the MTU 1450, expected none", |tables| {
        tables.routes[0].mtu_bytes = Some(1450);
    });
    plain.breaks("leads to eth0, which is not operationally up", |tables| {
        tables.links[0].up = false;
    });
}

#[test]
fn a_vxlan_route_to_another_end_or_with_other_attributes_is_wrong() {
    let vxlan = vxlan();
    let end = "goes via 192.168.0.65 on vxlan.calico to tunnel end 10.10.1.1, expected vxlan.calico to 10.10.1.12";
    vxlan.breaks(end, |tables| tables.fdb[0].address = Some(GATEWAY));
    let nowhere = "goes via 192.168.0.65 on vxlan.calico to tunnel end nowhere, expected vxlan.calico to 10.10.1.12";
    vxlan.breaks(nowhere, |tables| tables.neighbours.clear());
    vxlan.breaks(nowhere, |tables| tables.fdb[0].mac = Some([0; 6]));
    let direct =
        "goes via 10.10.1.12 on eth0 to tunnel end nowhere, expected vxlan.calico to 10.10.1.12";
    vxlan.breaks(direct, |tables| {
        tables.routes[0].hops[0] = hop(Some(OWNER), ETH0, true);
    });
    vxlan.breaks("is not onlink", |tables| {
        tables.routes[0].hops[0].onlink = false
    });
    vxlan.breaks("sets the MTU none, expected 1450", |tables| {
        tables.routes[0].mtu_bytes = None;
    });
    vxlan.breaks(
        "leads to vxlan.calico of MTU 1500, expected 1450",
        |tables| {
            tables.links[2].mtu_bytes = 1500;
        },
    );
    vxlan.breaks("is made by protocol 80, expected 3", |tables| {
        tables.routes[0].protocol = 80;
    });
    vxlan.breaks("has no next hop", |tables| {
        tables.routes[0].hops[0].gateway = None
    });
}

#[test]
fn routes_through_ipip_and_direct_ones_beside_a_tunnel_have_attributes_of_their_own() {
    let through = Route {
        mtu_bytes: Some(1480),
        ..route(block(), 80, 0, &[hop(Some(OWNER), TUNL0, true)])
    };
    let ipip = remote(Mode::IpipCrosssubnet, false, through);
    ipip.breaks("leads to tunl0 of MTU 1500, expected 1480", |tables| {
        tables.links[1].mtu_bytes = 1500;
    });
    ipip.breaks("is not onlink", |tables| {
        tables.routes[0].hops[0].onlink = false
    });
    ipip.breaks("sets the MTU none, expected 1480", |tables| {
        tables.routes[0].mtu_bytes = None;
    });
    let direct = route(block(), 80, 0, &[hop(Some(OWNER), ETH0, true)]);
    for mode in [Mode::VxlanCrosssubnet, Mode::IpipCrosssubnet] {
        let beside = remote(mode, true, direct.clone());
        beside.breaks("is made by protocol 12, expected 80", |tables| {
            tables.routes[0].protocol = 12;
        });
    }
}

#[test]
fn an_own_block_that_is_not_dropped_is_wrong() {
    let mut dropped = route(block(), 80, 0, &[]);
    dropped.kind = RouteKind::Blackhole;
    let own = Case::new(
        "block",
        Wanted::own_block(Mode::Vxlan, block()),
        tables(1450, vec![dropped]),
    );
    own.breaks("has no route", |tables| tables.routes.clear());
    own.breaks("is of type Unicast, expected Blackhole", |tables| {
        tables.routes[0].kind = RouteKind::Unicast;
    });
    own.breaks("is made by protocol 12, expected 80", |tables| {
        tables.routes[0].protocol = 12;
    });
}

#[test]
fn routes_of_ipv6_have_metrics_devices_and_mtus_of_their_own() {
    let pod = IpAddr::from([0xfd00, 0x192, 0, 0, 0, 0, 0, 2]);
    let block = IpNet::new(IpAddr::from([0xfd00, 0x192, 0, 0, 0, 0, 0, 0x40]), 122).unwrap();
    let (end, tunnel) = (IpAddr::from([0xfd00, 0x10, 0, 0, 0, 0, 0, 2]), block.addr());
    let options = Options {
        mode: Mode::Vxlan,
        families: Families::Both,
        ..Options::default()
    };
    let of_pod = route(IpNet::from(pod), 3, 1024, &[hop(None, CALI, false)]);
    let case = Case::new(
        "pod",
        Wanted::pod(&options, pod),
        tables(1430, vec![of_pod]),
    );
    case.breaks("leads to cali0 of MTU 1450, expected 1430", |tables| {
        tables.links[3].mtu_bytes = 1450;
    });

    let through = Route {
        mtu_bytes: Some(1430),
        ..route(block, 3, 1024, &[hop(Some(tunnel), VXLAN, true)])
    };
    let mut with_device = tables(1430, vec![through]);
    with_device.links[2] = link(VXLAN, "vxlan-v6.calico", 1430);
    with_device.neighbours[0].address = Some(tunnel);
    with_device.fdb[0].address = Some(end);
    let wanted = Wanted::remote_block(Mode::Vxlan, false, end, end);
    let case = Case::new("block", wanted, with_device);
    case.breaks("has the metric 0, expected 1024", |tables| {
        tables.routes[0].metric = 0;
    });
    let nowhere = "goes via fd00:192::40 on vxlan-v6.calico to tunnel end nowhere, expected vxlan-v6.calico to fd00:10::2";
    case.breaks(nowhere, |tables| tables.neighbours.clear());

    let mut dropped = route(block, 80, 1024, &[hop(None, 1, false)]);
    dropped.kind = RouteKind::Blackhole;
    let wanted = Wanted::own_block(Mode::Vxlan, block);
    let case = Case::new("block", wanted, tables(1430, vec![dropped]));
    case.breaks("leads somewhere", |tables| {
        tables.routes[0].hops[0].gateway = Some(end);
    });
}

#[test]
fn the_routers_routes_must_use_all_that_live_and_none_else_before_all_others() {
    let hops = [
        hop(Some(OWNER), ETH0, false),
        hop(Some(GATEWAY), ETH0, false),
    ];
    let both = route(IpNet::default(), 12, 2_147_483_547, &hops);
    let last_resort = route(
        IpNet::default(),
        4,
        4_294_967_040,
        &[hop(Some(GATEWAY), ETH0, false)],
    );
    let wanted = Wanted::by_bgp(vec![GATEWAY, OWNER]);
    let tors = Case::new("outside", wanted, tables(1500, vec![both, last_resort]));
    let one = "goes via 10.10.1.12 on eth0, expected via 10.10.1.1 and 10.10.1.12 on eth0";
    tors.breaks(one, |tables| tables.routes[0].hops.truncate(1));
    let resort = "goes via 10.10.1.1 on eth0, expected via 10.10.1.1 and 10.10.1.12 on eth0";
    tors.breaks(resort, |tables| tables.routes[1].metric = 0);
    tors.breaks("is made by protocol 4, expected 12", |tables| {
        tables.routes[0].protocol = 4;
    });
}

#[test]
fn a_device_a_route_or_a_neighbour_of_a_former_pod_is_left_behind() {
    let mut dropped = route(IpNet::from(POD), 12, 0, &[]);
    dropped.kind = RouteKind::Blackhole;
    let mut clean = tables(1500, vec![dropped]);
    clean.links.pop();
    let left = |change: &dyn Fn(&mut Tables)| {
        let mut tables = clean.clone();
        change(&mut tables);
        leftovers_of("n1", &tables, &[POD])
    };
    assert_eq!(left(&|_| ()), Vec::<String>::new());
    let after = "after DEL of all pods n1 still has";
    assert_eq!(
        left(&|tables| tables.links.push(link(CALI, "cali0", 1500))),
        [format!("{after} the device cali0")]
    );
    let again = route(IpNet::from(POD), 3, 1024, &[hop(None, CALI, false)]);
    assert_eq!(
        left(&|tables| tables.routes.push(again.clone())),
        [format!("{after} the route {POD}/32")]
    );
    assert_eq!(
        left(&|tables| tables.neighbours[0].address = Some(POD)),
        [format!("{after} the neighbour {POD}")]
    );
}
