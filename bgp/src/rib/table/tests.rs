use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use proptest::prelude::*;

use super::*;
use crate::route::Reachability;

const FAMILY: AfiSafi = AfiSafi::Ipv4Unicast;
/// Stands for the routes that keep the next hops watched.
const PINNED: u32 = 1000;

fn net(n: u32) -> IpNet {
    IpNet::V4(Ipv4Net::new(Ipv4Addr::from_bits(n << 8), 24).expect("24 bits"))
}

fn hop(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 2, n)
}

fn source(number: u8) -> Source {
    Source {
        peer: None,
        kind: PeerKind::Ibgp,
        asn: Asn(1),
        address: IpAddr::V4(Ipv4Addr::new(10, 0, 1, number)),
        port: 179,
        router_id: RouterId(Ipv4Addr::new(10, 0, 1, number)),
        client: false,
        deferred: false,
        held: Default::default(),
    }
}

/// A path as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    local_pref: u32,
    hop: u8,
    stale: bool,
}

/// The table, and what it should say.
struct Bench {
    table: Table,
    /// By number of peer.
    sources: Vec<SourceId>,
    wanted: BTreeMap<(u32, usize), Wanted>,
    unreachable: BTreeSet<u8>,
}

impl Bench {
    fn new() -> Self {
        let mut table = Table::new(3);
        let sources = (0..3).map(|n| table.add_source(source(n))).collect();
        let mut bench = Self {
            table,
            sources,
            wanted: BTreeMap::new(),
            unreachable: BTreeSet::new(),
        };
        for n in 0..2 {
            bench.put(SourceId::OWN, PINNED + u32::from(n), 1, n);
        }
        bench
    }

    fn put(&mut self, source: SourceId, prefix: u32, local_pref: u32, next_hop: u8) {
        let attributes = self.table.acquire(&PathAttributes {
            next_hop: Some(NextHop::V4(hop(next_hop))),
            local_pref: Some(local_pref),
            ..PathAttributes::default()
        });
        let announced = self.table.announce(net(prefix), source, attributes, None);
        assert_eq!(announced, Ok(()));
        self.table.release(attributes);
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Announce(peer, prefix, local_pref, hop) => {
                self.put(self.sources[peer], prefix, local_pref, hop);
                let stale = false;
                let path = Wanted {
                    local_pref,
                    hop,
                    stale,
                };
                self.wanted.insert((prefix, peer), path);
            }
            Step::Withdraw(peer, prefix) => {
                self.table.withdraw(net(prefix), self.sources[peer]);
                self.wanted.remove(&(prefix, peer));
            }
            Step::EndSession(peer, retained) => {
                self.table.end_session(self.sources[peer], FAMILY, retained);
                self.wanted
                    .retain(|(_, of), path| *of != peer || (retained && !path.stale));
                for ((_, of), path) in &mut self.wanted {
                    path.stale |= *of == peer;
                }
            }
            Step::EndRetention(peer) => {
                let stale = |of: usize, path: &Wanted| of == peer && path.stale;
                let count = self
                    .wanted
                    .iter()
                    .filter(|((_, of), path)| stale(*of, path));
                let count = count.count();
                self.wanted.retain(|(_, of), path| !stale(*of, path));
                let ended = self.table.end_retention(self.sources[peer], FAMILY);
                assert_eq!(ended, count);
            }
            Step::Replace(peer) => {
                self.table.remove_source(self.sources[peer]);
                let number = u8::try_from(peer).expect("few");
                self.sources[peer] = self.table.add_source(source(number));
                self.wanted.retain(|(_, of), _| *of != peer);
            }
            Step::NextHop(next_hop, reachable) => {
                let reachability = if reachable {
                    self.unreachable.remove(&next_hop);
                    Reachability::default()
                } else {
                    self.unreachable.insert(next_hop);
                    Reachability::Unreachable
                };
                self.table.set_next_hop(hop(next_hop).into(), reachability);
            }
            Step::Sweep(budget) => assert!(self.table.sweep(budget).is_empty()),
            Step::Decide => {
                if let Some(id) = self.table.next_undecided() {
                    self.table.decide(id);
                    assert_eq!(self.best(id), self.wanted_best(id), "decided just now");
                    self.table.free_if_unused(id);
                }
            }
        }
    }

    /// Number of the peer whose route is the best one.
    fn best(&self, id: PrefixId) -> Option<usize> {
        let best = self.table.best(id)?;
        self.sources
            .iter()
            .position(|source| *source == best.source)
    }

    fn wanted_best(&self, id: PrefixId) -> Option<usize> {
        let of_prefix =
            |((prefix, _), _): &(&(u32, usize), &Wanted)| net(*prefix) == self.table.prefix(id);
        self.wanted
            .iter()
            .filter(of_prefix)
            .filter(|(_, path)| !self.unreachable.contains(&path.hop))
            .max_by_key(|((_, peer), path)| (path.local_pref, std::cmp::Reverse(*peer)))
            .map(|((_, peer), _)| *peer)
    }

    /// Numbers and views are right at every moment, however far the sweep is.
    fn check_views(&self) {
        for (peer, id) in self.sources.iter().enumerate() {
            let counts = self.table.source(*id).counts(FAMILY);
            let of_peer = |((_, of), _): &(&(u32, usize), &Wanted)| *of == peer;
            let paths: Vec<_> = self.wanted.iter().filter(of_peer).collect();
            assert_eq!(counts.received(), paths.len());
            assert_eq!(counts.accepted(), paths.len());
            let stale = paths.iter().filter(|(_, path)| path.stale).count();
            assert_eq!(counts.stale(), stale);
        }
        let mut seen = BTreeMap::new();
        for (prefix, explained) in self.table.view(0, usize::MAX).0 {
            for one in explained {
                if let Some(peer) = self.sources.iter().position(|id| *id == one.path.source) {
                    seen.insert((prefix, peer), one.stale);
                }
            }
        }
        let wanted = self.wanted.iter();
        let wanted: BTreeMap<_, _> = wanted
            .map(|((prefix, peer), path)| ((net(*prefix), *peer), path.stale))
            .collect();
        assert_eq!(seen, wanted);
    }

    fn finish(&mut self) {
        while self.table.is_sweeping() {
            self.table.sweep(usize::MAX);
        }
        while self.table.has_undecided() {
            self.apply(Step::Decide);
        }
        while self.table.poll_change().is_some() {}
        self.table.sweep(0);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Announce(usize, u32, u32, u8),
    Withdraw(usize, u32),
    EndSession(usize, bool),
    EndRetention(usize),
    Replace(usize),
    NextHop(u8, bool),
    Sweep(usize),
    Decide,
}

fn step() -> impl Strategy<Value = Step> {
    let peer = 0..3usize;
    prop_oneof![
        6 => (peer.clone(), 0..8u32, 0..3u32, 0..2u8)
            .prop_map(|(peer, prefix, pref, hop)| Step::Announce(peer, prefix, pref, hop)),
        2 => (peer.clone(), 0..8u32).prop_map(|(peer, prefix)| Step::Withdraw(peer, prefix)),
        2 => (peer.clone(), any::<bool>()).prop_map(|(peer, kept)| Step::EndSession(peer, kept)),
        1 => peer.clone().prop_map(Step::EndRetention),
        1 => peer.prop_map(Step::Replace),
        1 => (0..2u8, any::<bool>()).prop_map(|(hop, reachable)| Step::NextHop(hop, reachable)),
        4 => (1..5usize).prop_map(Step::Sweep),
        5 => Just(Step::Decide),
    ]
}

proptest! {
    #[test]
    fn however_far_the_sweep_is_nothing_dead_is_chosen_counted_or_shown(
        steps in prop::collection::vec(step(), 0..80),
    ) {
        let mut bench = Bench::new();
        for step in steps {
            bench.apply(step);
            bench.check_views();
        }
        bench.finish();
        bench.check_views();
        for id in bench.table.ids_in_use() {
            if bench.table.prefix(id) < net(PINNED) {
                assert_eq!(bench.best(id), bench.wanted_best(id));
                let stale = bench.table.best(id).is_some_and(|best| best.stale);
                let wanted = bench.best(id).and_then(|peer| {
                    let of = |(prefix, by): &(u32, usize)| net(*prefix) == bench.table.prefix(id) && *by == peer;
                    bench.wanted.iter().find(|(key, _)| of(key)).map(|(_, path)| path.stale)
                });
                assert_eq!(stale, wanted == Some(true));
            }
        }
        for peer in 0..3 {
            bench.apply(Step::EndSession(peer, false));
        }
        bench.finish();
        prop_assert_eq!(bench.table.ids_in_use().len(), 2, "the pinned ones");
        prop_assert_eq!(bench.table.attribute_sets(), 2);
        prop_assert!(bench.table.leaving.is_empty());
    }
}

#[test]
fn a_dead_path_stays_dead_over_more_sessions_than_its_number_can_count() {
    let mut bench = Bench::new();
    for round in 0..600 {
        bench.apply(Step::Announce(0, round, 1, 0));
        bench.apply(Step::EndSession(0, false));
        bench.check_views();
    }
    assert!(
        bench.table.is_sweeping(),
        "nothing but the sessions themselves cleaned up"
    );
    bench.finish();
    assert_eq!(bench.table.ids_in_use().len(), 2, "the pinned ones");
}

#[test]
fn a_source_number_is_free_again_only_when_no_best_route_names_it() {
    let mut bench = Bench::new();
    let old = bench.sources[0];
    bench.apply(Step::Announce(0, 1, 1, 0));
    bench.apply(Step::Decide);
    bench.finish();
    bench.apply(Step::Replace(0));
    assert_ne!(bench.sources[0], old);
    bench.finish();
    assert_eq!(bench.table.add_source(source(9)), old);
}
