//! After any sequence of faults has ended, every table is what it would be had there been none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use bgp::config::RoutePolicy;
use bgp::policy::{Edit, Match, PrefixRange, Term, Verdict};
use bgp::status::PathStatus;
use bgp::wire::attr::community::Community;
use ipnet::IpNet;

use crate::network::{Network, address, peer_name, prefix};

const SECOND: Duration = Duration::from_secs(1);
const SIZE: usize = 4;

struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn node(&mut self) -> usize {
        usize::try_from(self.roll(SIZE as u64)).expect("small")
    }
}

/// What each node originates, in truth.
type Truth = Vec<BTreeSet<IpNet>>;

fn candidate(dice: &mut Dice, node: usize) -> IpNet {
    // Some prefixes are shared by all nodes, so that best routes move.
    match dice.roll(3) {
        0 => prefix(&format!("192.168.{}.0/24", dice.roll(4))),
        _ => prefix(&format!("10.{node}.{}.0/24", dice.roll(30))),
    }
}

fn shake(network: &mut Network, truth: &mut Truth, dice: &mut Dice, seed: u64) {
    let (a, b) = (dice.node(), dice.node());
    match dice.roll(12) {
        0..=4 => {
            let route = candidate(dice, a);
            if dice.roll(2) == 0 {
                truth[a].insert(route);
                network.originate(a, route);
            } else {
                truth[a].remove(&route);
                network.withdraw(a, route);
            }
        }
        5 => {
            network.kill(a);
            if dice.roll(3) == 0 {
                network.run(Duration::from_secs(dice.roll(150)));
            }
            if dice.roll(2) == 0 {
                network.restart(a, seed);
            } else {
                let fresh = bgp::speaker::Speaker::new(seed, network.now);
                network.nodes[a].fib.clear();
                network.boot(a, fresh);
            }
            let own: Vec<IpNet> = truth[a].iter().copied().collect();
            own.into_iter()
                .for_each(|route| network.originate(a, route));
            let now = network.now;
            network.speaker(a).handle_originations_complete(now);
        }
        6 => {
            network.cut.insert((a, b));
            network.cut.insert((b, a));
        }
        7 => network.cut.clear(),
        8 | 9 => {
            let (import, export) = (policy(dice), policy(dice));
            network.reconfigure(a, |config| {
                if let Some(peer) = config.peers.get_mut(&peer_name(b)) {
                    peer.import = import;
                    peer.export = export;
                }
            });
        }
        _ => network.run(Duration::from_millis(dice.roll(20_000))),
    }
    network.run(Duration::from_millis(dice.roll(50)));
}

/// Lets everything through, or refuses or edits some.
fn policy(dice: &mut Dice) -> RoutePolicy {
    let range = PrefixRange::or_longer(prefix(&format!("10.{}.0.0/16", dice.roll(SIZE as u64))));
    let term = |edits: Vec<Edit>, verdict| Term {
        name: "some".into(),
        matches: vec![Match::Prefix(vec![range])],
        edits,
        verdict,
    };
    let mark = Edit::AddCommunities(vec![Community(7)]);
    let terms = match dice.roll(3) {
        0 => Vec::new(),
        1 => vec![term(Vec::new(), Verdict::Reject)],
        _ => vec![term(vec![mark], Verdict::Accept)],
    };
    RoutePolicy {
        terms,
        ..RoutePolicy::accept_all()
    }
}

fn expected(truth: &Truth, node: usize) -> BTreeMap<IpNet, Vec<IpAddr>> {
    let mut table = BTreeMap::new();
    for prefix in truth.iter().flatten() {
        // Own first, else the lowest router id: node order.
        let owners: Vec<usize> = (0..SIZE)
            .filter(|owner| truth[*owner].contains(prefix))
            .collect();
        let next_hops = if owners.contains(&node) {
            Vec::new()
        } else {
            vec![address(owners[0])]
        };
        table.insert(*prefix, next_hops);
    }
    table
}

fn settles(seed: u64, reflector: bool) {
    let mut network = if reflector {
        Network::reflected(seed, SIZE)
    } else {
        Network::mesh(seed, SIZE)
    };
    (0..SIZE).for_each(|node| network.withdraw(node, crate::network::block(node)));
    let mut truth: Truth = vec![BTreeSet::new(); SIZE];
    let mut dice = Dice(seed);
    for round in 0..40 {
        shake(&mut network, &mut truth, &mut dice, seed * 1000 + round);
    }
    network.cut.clear();
    for node in 0..SIZE {
        network.reconfigure(node, |config| {
            for peer in config.peers.values_mut() {
                peer.import = RoutePolicy::accept_all();
                peer.export = RoutePolicy::accept_all();
            }
        });
    }
    // Longer than hold time, restart time and deferral, which are the longest anything may linger.
    network.run(800 * SECOND);
    for node in 0..SIZE {
        let table: BTreeMap<IpNet, Vec<IpAddr>> = network.nodes[node]
            .fib
            .iter()
            .map(|(prefix, change)| {
                (
                    *prefix,
                    change.best.as_ref().expect("present").next_hops.clone(),
                )
            })
            .collect();
        let expected = expected(&truth, node);
        if reflector {
            // A reflector shows its clients its own choice only, so just the prefixes are the same everywhere.
            let prefixes = |table: &BTreeMap<IpNet, Vec<IpAddr>>| -> BTreeSet<IpNet> {
                table.keys().copied().collect()
            };
            let (have, want) = (prefixes(&table), prefixes(&expected));
            let differing: Vec<&IpNet> = have.symmetric_difference(&want).collect();
            assert!(
                differing.is_empty(),
                "seed {seed}, node {node}: {differing:?}"
            );
        } else {
            assert_eq!(table, expected, "seed {seed}, node {node}");
        }
        for route in network.speaker(node).routes() {
            let marked = |path: &PathStatus| !path.communities.is_empty();
            assert!(
                !route.paths.iter().any(marked),
                "seed {seed}, node {node}: an edit of {} is left",
                route.prefix
            );
        }
        for change in network.nodes[node].fib.values() {
            assert!(
                !change.best.as_ref().expect("present").stale,
                "seed {seed}, node {node}"
            );
        }
    }
}

#[test]
fn a_mesh_settles_after_any_faults() {
    (0..60).for_each(|seed| settles(seed, false));
}

#[test]
fn a_reflected_cluster_settles_after_any_faults() {
    (0..60).for_each(|seed| settles(seed, true));
}
