//! Next hops that the speaker asks about: found where a plain reading of the host's routes finds them, each question
//! answered once, each change told once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bgp::route::Reachability;
use ipnet::IpNet;
use proptest::prelude::*;

use super::super::{Graph, NextHopLoss, Settings};
use super::world::{World, addr, link, route};
use crate::desired::{IfName, RouteKind, Row, RowKey};
use crate::kernel::KernelEvent;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn told(graph: &mut Graph) -> Vec<(IpAddr, Reachability)> {
    graph.flush();
    std::iter::from_fn(|| graph.poll_next_hop()).collect()
}

fn losses(graph: &Graph) -> Vec<(IpAddr, String)> {
    let lost = graph.lost_next_hops();
    lost.map(|(next_hop, loss)| (next_hop, loss.to_string()))
        .collect()
}

const fn at_cost(cost: u32) -> Reachability {
    Reachability::Reachable { cost }
}

fn with_metric(row: Row, metric: u32) -> Row {
    match row {
        Row::Route(key, spec) => {
            let key = crate::desired::RouteKey { metric, ..key };
            Row::Route(key, spec)
        }
        row => row,
    }
}

fn of_kind(row: Row, kind: RouteKind) -> Row {
    match row {
        Row::Route(key, mut spec) => {
            spec.kind = kind;
            spec.next_hops = crate::desired::Hops::default();
            Row::Route(key, spec)
        }
        row => row,
    }
}

#[test]
fn a_next_hop_is_answered_once_the_host_is_known_and_never_called_absent_before() {
    let mut world = World::new(Settings::new("n1"));
    world.graph.handle_next_hop_watch(ip("10.0.0.9"), true);
    assert_eq!(told(&mut world.graph), []);
    assert_eq!(losses(&world.graph), []);
    for kind in Graph::KINDS {
        world.graph.handle_in_sync(kind);
    }
    assert_eq!(told(&mut world.graph), [], "the kernel was not read yet");
    world.kernel(&link("eth0", true, 1500));
    world.kernel(&addr("eth0", "10.0.0.1/24"));
    world.graph.handle_kernel_in_sync();
    assert_eq!(told(&mut world.graph), [(ip("10.0.0.9"), at_cost(0))]);
    assert!(world.graph.in_sync());
}

#[test]
fn the_cost_is_the_metric_of_the_hosts_route_and_nothing_in_a_connected_network() {
    let mut world = World::started();
    let slow = with_metric(route("10.9.0.0/16", "10.0.0.253", "eth0"), 300);
    let fast = with_metric(route("10.9.0.0/16", "10.0.0.252", "eth0"), 20);
    world.kernel(&KernelEvent::RowSet(slow));
    for next_hop in ["10.0.0.9", "10.9.0.3", "192.0.2.1"] {
        world.graph.handle_next_hop_watch(ip(next_hop), true);
    }
    let first = [
        (ip("10.0.0.9"), at_cost(0)),
        (ip("10.9.0.3"), at_cost(300)),
        (ip("192.0.2.1"), at_cost(0)),
    ];
    assert_eq!(told(&mut world.graph), first);
    world.kernel(&KernelEvent::RowSet(fast.clone()));
    assert_eq!(told(&mut world.graph), [(ip("10.9.0.3"), at_cost(20))]);
    world.kernel(&KernelEvent::RowGone(fast.key()));
    assert_eq!(told(&mut world.graph), [(ip("10.9.0.3"), at_cost(300))]);
    assert_eq!(told(&mut world.graph), []);
}

#[test]
fn a_loss_says_why_and_the_return_ends_it() {
    let mut world = World::started();
    let default = route("0.0.0.0/0", "10.0.0.254", "eth0");
    world.kernel(&KernelEvent::RowGone(default.key()));
    let next_hop = ip("10.0.0.9");
    world.graph.handle_next_hop_watch(next_hop, true);
    world.graph.handle_next_hop_watch(ip("10.0.0.1"), true);
    world.graph.handle_next_hop_watch(ip("10.9.0.3"), true);
    told(&mut world.graph);
    let why = |world: &World, next_hop: IpAddr| {
        let lost = losses(&world.graph);
        let found = lost.into_iter().find(|(at, _)| *at == next_hop);
        found.map(|(_, why)| why)
    };
    assert_eq!(why(&world, next_hop), None);
    let own = "it is an address of this host";
    assert_eq!(why(&world, ip("10.0.0.1")).as_deref(), Some(own));
    assert_eq!(why(&world, ip("10.9.0.3")).as_deref(), Some("no route"));
    let text = world.problems();
    assert!(
        text.contains(&"next hop 10.9.0.3: unreachable: no route".to_owned()),
        "{text:?}"
    );

    world.kernel(&link("eth0", false, 1500));
    let lost = [(next_hop, Reachability::Unreachable)];
    assert_eq!(told(&mut world.graph), lost);
    assert_eq!(
        why(&world, next_hop).as_deref(),
        Some("device eth0 is down")
    );
    world.kernel(&link("eth0", true, 1500));
    assert_eq!(told(&mut world.graph), [(next_hop, at_cost(0))]);

    let hole = of_kind(
        route("10.0.0.8/29", "10.0.0.2", "eth0"),
        RouteKind::Unreachable,
    );
    world.kernel(&KernelEvent::RowSet(hole.clone()));
    assert_eq!(told(&mut world.graph), lost);
    let dropped = "the route 10.0.0.8/29 drops its packets";
    assert_eq!(why(&world, next_hop).as_deref(), Some(dropped));
    world.kernel(&KernelEvent::RowGone(hole.key()));
    assert_eq!(told(&mut world.graph), [(next_hop, at_cost(0))]);

    world.kernel(&KernelEvent::HostAddrGone {
        ifname: IfName::from("eth0"),
        addr: "10.0.0.1/24".parse().unwrap(),
    });
    assert_eq!(told(&mut world.graph), lost);
    assert_eq!(why(&world, next_hop).as_deref(), Some("no route"));
}

#[test]
fn the_agents_own_routes_carry_no_next_hop() {
    let mut world = World::started();
    let default = route("0.0.0.0/0", "10.0.0.254", "eth0");
    world.kernel(&KernelEvent::RowGone(default.key()));
    let mut own = route("10.9.0.0/16", "10.0.0.2", "eth0");
    if let Row::Route(_, spec) = &mut own {
        spec.protocol = 12;
    }
    world.kernel(&KernelEvent::RowSet(own));
    world.graph.handle_next_hop_watch(ip("10.9.0.3"), true);
    let lost = [(ip("10.9.0.3"), Reachability::Unreachable)];
    assert_eq!(told(&mut world.graph), lost);
}

#[test]
fn a_question_asked_again_is_answered_again_and_one_taken_back_is_not() {
    let mut world = World::started();
    let next_hop = ip("10.0.0.9");
    world.graph.handle_next_hop_watch(next_hop, true);
    assert_eq!(told(&mut world.graph), [(next_hop, at_cost(0))]);
    world.graph.handle_next_hop_watch(next_hop, false);
    world.kernel(&link("eth0", false, 1500));
    assert_eq!(told(&mut world.graph), []);
    assert_eq!(losses(&world.graph), []);
    world.graph.handle_next_hop_watch(next_hop, true);
    world.graph.handle_next_hop_watch(next_hop, false);
    world.graph.handle_next_hop_watch(next_hop, true);
    assert_eq!(
        told(&mut world.graph),
        [(next_hop, Reachability::Unreachable)]
    );
    world.graph.handle_next_hop_watch(next_hop, true);
    assert_eq!(
        told(&mut world.graph),
        [(next_hop, Reachability::Unreachable)]
    );
}

const DEVICES: [&str; 2] = ["eth0", "eth1"];
const ADDRS: [&str; 3] = ["10.0.0.1/24", "10.0.1.1/24", "10.0.0.129/25"];
const DESTINATIONS: [&str; 4] = ["0.0.0.0/0", "10.0.0.0/16", "10.0.0.0/24", "10.0.0.9/32"];
const NEXT_HOPS: [&str; 5] = ["10.0.0.9", "10.0.0.200", "10.0.1.9", "10.0.2.9", "10.0.0.1"];

#[derive(Clone, Debug)]
enum Step {
    Link(usize, Option<bool>),
    Addr(usize, usize, bool),
    /// Destination, metric, kind with device, or absent.
    Route(usize, u32, Option<(RouteKind, usize)>),
    Watch(usize, bool),
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    let kinds = prop_oneof![
        4 => Just(RouteKind::Unicast),
        1 => Just(RouteKind::Blackhole),
        1 => Just(RouteKind::Unreachable),
        1 => Just(RouteKind::Prohibit),
    ];
    prop_oneof![
        (
            0..DEVICES.len(),
            proptest::option::weighted(0.8, any::<bool>())
        )
            .prop_map(|(device, up)| Step::Link(device, up)),
        (0..DEVICES.len(), 0..ADDRS.len(), any::<bool>())
            .prop_map(|(device, addr, there)| Step::Addr(device, addr, there)),
        (
            0..DESTINATIONS.len(),
            0..3_u32,
            proptest::option::of((kinds, 0..DEVICES.len()))
        )
            .prop_map(|(dst, metric, spec)| Step::Route(dst, metric, spec)),
        (0..NEXT_HOPS.len(), proptest::bool::weighted(0.7))
            .prop_map(|(next_hop, used)| Step::Watch(next_hop, used)),
        Just(Step::Flush),
    ]
}

/// The host as a plain list of facts.
#[derive(Debug, Default)]
struct Host {
    links: BTreeMap<&'static str, bool>,
    addrs: BTreeSet<(&'static str, IpNet)>,
    routes: BTreeMap<(IpNet, u32), (RouteKind, &'static str)>,
}

impl Host {
    fn up(&self, device: &str) -> bool {
        self.links.get(device) == Some(&true)
    }

    /// The best of all ways to `to`: longest prefix, connected first, lowest metric.
    fn look_up(&self, to: IpAddr) -> Reachability {
        let connected = self
            .addrs
            .iter()
            .filter(|(device, _)| self.up(device))
            .map(|(_, net)| (net.trunc(), 0_u32, 0_u32, true));
        let routes = self
            .routes
            .iter()
            .filter(|(_, (kind, device))| *kind != RouteKind::Unicast || self.up(device))
            .map(|((net, metric), (kind, _))| (*net, 1, *metric, *kind == RouteKind::Unicast));
        let best = connected
            .chain(routes)
            .filter(|(net, ..)| net.contains(&to))
            .min_by_key(|(net, class, metric, _)| (u8::MAX - net.prefix_len(), *class, *metric));
        let own = self.addrs.iter().any(|(_, net)| net.addr() == to);
        match best {
            Some((_, _, cost, true)) if !own => Reachability::Reachable { cost },
            _ => Reachability::Unreachable,
        }
    }

    fn apply(&mut self, step: &Step) -> Option<KernelEvent> {
        match step {
            Step::Link(device, Some(up)) => {
                self.links.insert(DEVICES[*device], *up);
                Some(link(DEVICES[*device], *up, 1500))
            }
            Step::Link(device, None) => {
                let device = DEVICES[*device];
                self.links.remove(device);
                self.addrs.retain(|(at, _)| *at != device);
                Some(KernelEvent::LinkGone(IfName::from(device)))
            }
            Step::Addr(device, at, there) => {
                let net: IpNet = ADDRS[*at].parse().unwrap();
                let device = DEVICES[*device];
                if *there {
                    self.addrs.insert((device, net));
                    Some(addr(device, ADDRS[*at]))
                } else {
                    self.addrs.remove(&(device, net));
                    Some(KernelEvent::HostAddrGone {
                        ifname: IfName::from(device),
                        addr: net,
                    })
                }
            }
            Step::Route(dst, metric, spec) => {
                let key = (DESTINATIONS[*dst].parse().unwrap(), *metric);
                let row = |device| {
                    let plain = route(DESTINATIONS[*dst], "10.0.0.254", device);
                    with_metric(plain, *metric)
                };
                match spec {
                    Some((kind, device)) => {
                        let device = DEVICES[*device];
                        self.routes.insert(key, (*kind, device));
                        let row = row(device);
                        Some(KernelEvent::RowSet(match kind {
                            RouteKind::Unicast => row,
                            kind => of_kind(row, *kind),
                        }))
                    }
                    None => {
                        self.routes.remove(&key);
                        let key: RowKey = row("eth0").key();
                        Some(KernelEvent::RowGone(key))
                    }
                }
            }
            Step::Watch(..) | Step::Flush => None,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_the_speaker_knows_is_what_a_plain_reading_of_the_routes_says(
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let mut graph = Graph::new(Settings::new("n1"));
        for kind in Graph::KINDS {
            graph.handle_in_sync(kind);
        }
        graph.handle_kernel_in_sync();
        let mut host = Host::default();
        let mut asked = BTreeSet::new();
        let mut known: BTreeMap<IpAddr, Reachability> = BTreeMap::new();
        for step in steps.iter().chain([&Step::Flush]) {
            if let Some(event) = host.apply(step) {
                graph.handle_kernel_event(&event);
            }
            match step {
                Step::Watch(at, used) => {
                    let next_hop = ip(NEXT_HOPS[*at]);
                    graph.handle_next_hop_watch(next_hop, *used);
                    // The speaker starts from nothing with each question.
                    known.remove(&next_hop);
                    if *used { asked.insert(next_hop); } else { asked.remove(&next_hop); }
                }
                Step::Flush => {
                    for (next_hop, reachability) in told(&mut graph) {
                        prop_assert!(asked.contains(&next_hop), "{next_hop} was not asked about");
                        let before = known.insert(next_hop, reachability);
                        prop_assert_ne!(before, Some(reachability), "{} was told twice", next_hop);
                    }
                    let expected: BTreeMap<IpAddr, Reachability> =
                        asked.iter().map(|at| (*at, host.look_up(*at))).collect();
                    prop_assert_eq!(&known, &expected);
                    let lost: Vec<IpAddr> = graph.lost_next_hops().map(|(at, _)| at).collect();
                    let unreachable: Vec<IpAddr> = expected
                        .into_iter()
                        .filter(|(_, found)| *found == Reachability::Unreachable)
                        .map(|(at, _)| at)
                        .collect();
                    prop_assert_eq!(lost, unreachable);
                    let own_is_told = graph
                        .lost_next_hops()
                        .all(|(at, loss)| (*loss == NextHopLoss::OwnAddress)
                            == host.addrs.iter().any(|(_, net)| net.addr() == at));
                    prop_assert!(own_is_told);
                }
                Step::Link(..) | Step::Addr(..) | Step::Route(..) => {}
            }
        }
    }
}
