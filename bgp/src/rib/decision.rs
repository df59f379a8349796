//! The decision process of one prefix (RFC 4271 §9.1.2.2, RFC 4456 §9): elimination by steps over the whole set.
//!
//! Comparing MULTI_EXIT_DISC only within one neighbouring AS is no total order, so routes are never compared pairwise
//! to find "the better one": each step removes all that it must and reports them. The result depends on the set only.

use std::net::IpAddr;

use smallvec::SmallVec;

use crate::status::DecisionStep;

/// What the steps look at, of one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) own: bool,
    pub(crate) reachable: bool,
    pub(crate) local_pref: u32,
    /// RFC 4271 §9.1.2.2 a: an AS_SET counts once.
    pub(crate) as_path_length: u32,
    pub(crate) origin: u8,
    /// Absent counts as 0.
    pub(crate) med: u32,
    /// RFC 4271 §9.1.2.2 c: first AS of the path; when the path is empty or begins with a set, that of an eBGP peer, and
    /// `None` from iBGP, where the route is our own AS's.
    pub(crate) neighbour_as: Option<u32>,
    pub(crate) ebgp: bool,
    pub(crate) interior_cost: u32,
    /// BGP Identifier of the peer, or ORIGINATOR_ID if the path has one.
    pub(crate) router_id: u32,
    pub(crate) cluster_list_length: u32,
    pub(crate) peer_address: IpAddr,
    /// Tells peers apart that share an address: the port, then the number of the source.
    pub(crate) peer_instance: (u16, u32),
    /// Tells the paths of one peer apart (RFC 7911).
    pub(crate) path_id: u32,
}

type Alive = SmallVec<[usize; 8]>;

/// Removes candidates.
type Step = fn(&[Candidate], &mut Alive);

/// One row per step: what it is called, and the candidates it keeps.
const STEPS: [(DecisionStep, Step); 11] = [
    (DecisionStep::OwnRoute, own_route),
    (DecisionStep::NextHopReachable, next_hop_reachable),
    (DecisionStep::LocalPref, local_pref),
    (DecisionStep::AsPathLength, as_path_length),
    (DecisionStep::Origin, origin),
    (DecisionStep::MultiExitDisc, multi_exit_disc),
    (DecisionStep::EbgpOverIbgp, ebgp_over_ibgp),
    (DecisionStep::InteriorCost, interior_cost),
    (DecisionStep::RouterId, router_id),
    (DecisionStep::ClusterListLength, cluster_list_length),
    (DecisionStep::PeerAddress, peer_address),
];

/// Chooses the best of `candidates`, calling `removed` for each of the others with the step it lost at. `None` when no
/// candidate is usable.
pub(crate) fn decide(
    candidates: &[Candidate],
    mut removed: impl FnMut(usize, DecisionStep),
) -> Option<usize> {
    if let [only] = candidates {
        if !only.reachable {
            removed(0, DecisionStep::NextHopReachable);
            return None;
        }
        return Some(0);
    }
    let mut alive: Alive = (0..candidates.len()).collect();
    let mut before: Alive = SmallVec::new();
    for (step, keep) in STEPS {
        if alive.is_empty() || (alive.len() == 1 && step > DecisionStep::NextHopReachable) {
            break;
        }
        before.clone_from(&alive);
        keep(candidates, &mut alive);
        if alive.len() < before.len() {
            // What is left is in the order in which it was.
            let mut left = alive.iter().peekable();
            for index in &before {
                if left.next_if_eq(&index).is_none() {
                    removed(*index, step);
                }
            }
        }
    }
    debug_assert!(alive.len() <= 1, "sources differ");
    alive.first().copied()
}

fn keep_lowest<K: Ord>(candidates: &[Candidate], alive: &mut Alive, key: impl Fn(&Candidate) -> K) {
    if let Some(lowest) = alive.iter().map(|index| key(&candidates[*index])).min() {
        alive.retain(|index| key(&candidates[*index]) == lowest);
    }
}

fn own_route(candidates: &[Candidate], alive: &mut Alive) {
    keep_lowest(candidates, alive, |candidate| !candidate.own);
}

fn next_hop_reachable(candidates: &[Candidate], alive: &mut Alive) {
    alive.retain(|index| candidates[*index].reachable);
}

fn local_pref(candidates: &[Candidate], alive: &mut Alive) {
    keep_lowest(candidates, alive, |candidate| !candidate.local_pref);
}

fn as_path_length(candidates: &[Candidate], alive: &mut Alive) {
    keep_lowest(candidates, alive, |candidate| candidate.as_path_length);
}

fn origin(candidates: &[Candidate], alive: &mut Alive) {
    keep_lowest(candidates, alive, |candidate| candidate.origin);
}

fn multi_exit_disc(candidates: &[Candidate], alive: &mut Alive) {
    let by_neighbour = |index: &usize| {
        let candidate = &candidates[*index];
        (candidate.neighbour_as, candidate.med)
    };
    // The lowest of each neighbouring AS; a prefix may have thousands of paths.
    let mut lowest: SmallVec<[(Option<u32>, u32); 8]> = alive.iter().map(by_neighbour).collect();
    lowest.sort_unstable();
    lowest.dedup_by_key(|(neighbour_as, _)| *neighbour_as);
    alive.retain(|index| lowest.binary_search(&by_neighbour(index)).is_ok());
}

fn ebgp_over_ibgp(candidates: &[Candidate], alive: &mut Alive) {
    keep_lowest(candidates, alive, |candidate| !candidate.ebgp);
}

fn interior_cost(candidates: &[Candidate], alive: &mut Alive) {
    keep_lowest(candidates, alive, |candidate| candidate.interior_cost);
}

fn router_id(candidates: &[Candidate], alive: &mut Alive) {
    keep_lowest(candidates, alive, |candidate| candidate.router_id);
}

fn cluster_list_length(candidates: &[Candidate], alive: &mut Alive) {
    keep_lowest(candidates, alive, |candidate| candidate.cluster_list_length);
}

fn peer_address(candidates: &[Candidate], alive: &mut Alive) {
    keep_lowest(candidates, alive, |candidate| {
        (
            candidate.peer_address,
            candidate.peer_instance,
            candidate.path_id,
        )
    });
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn plain(last: u8) -> Candidate {
        Candidate {
            own: false,
            reachable: true,
            local_pref: 100,
            as_path_length: 1,
            origin: 0,
            med: 0,
            neighbour_as: Some(65001),
            ebgp: false,
            interior_cost: 0,
            router_id: u32::from(last),
            cluster_list_length: 0,
            peer_address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)),
            peer_instance: (179, u32::from(last)),
            path_id: 0,
        }
    }

    fn loser_step(change: impl Fn(&mut Candidate)) -> (usize, DecisionStep) {
        let mut worse = plain(1);
        change(&mut worse);
        let mut lost = Vec::new();
        decide(&[worse, plain(2)], |index, step| lost.push((index, step)));
        assert_eq!(lost.len(), 1, "{lost:?}");
        lost[0]
    }

    #[test]
    fn each_step_removes_the_worse_candidate_and_says_so() {
        use DecisionStep as S;
        assert_eq!(
            loser_step(|c| c.reachable = false),
            (0, S::NextHopReachable)
        );
        assert_eq!(loser_step(|c| c.local_pref = 99), (0, S::LocalPref));
        assert_eq!(loser_step(|c| c.as_path_length = 2), (0, S::AsPathLength));
        assert_eq!(loser_step(|c| c.origin = 2), (0, S::Origin));
        assert_eq!(loser_step(|c| c.med = 1), (0, S::MultiExitDisc));
        assert_eq!(loser_step(|c| c.ebgp = true), (1, S::EbgpOverIbgp));
        assert_eq!(loser_step(|c| c.interior_cost = 5), (0, S::InteriorCost));
        assert_eq!(loser_step(|c| c.router_id = 9), (0, S::RouterId));
        assert_eq!(
            loser_step(|c| {
                c.router_id = 2;
                c.cluster_list_length = 1;
            }),
            (0, S::ClusterListLength)
        );
        assert_eq!(loser_step(|c| c.router_id = 2), (1, S::PeerAddress));
        assert_eq!(loser_step(|c| c.own = true), (1, S::OwnRoute));
    }

    #[test]
    fn med_of_different_neighbouring_as_is_not_compared() {
        let mut far = plain(1);
        far.med = 500;
        far.neighbour_as = Some(65002);
        assert_eq!(decide(&[far, plain(2)], |_, _| ()), Some(0));
    }

    #[test]
    fn med_is_compared_among_paths_of_our_own_as() {
        let own = |last, med| Candidate {
            neighbour_as: None,
            med,
            ..plain(last)
        };
        let mut lost = Vec::new();
        let best = decide(&[own(1, 500), own(2, 20), plain(3)], |index, step| {
            lost.push((index, step));
        });
        // Path 1 has the lowest router id and would win otherwise; path 2 and 3 are of different neighbours.
        assert_eq!(best, Some(1));
        assert_eq!(lost[0], (0, DecisionStep::MultiExitDisc));
    }

    #[test]
    fn peers_that_share_an_address_are_told_apart_by_port_then_by_source() {
        let at = |port, source| Candidate {
            peer_instance: (port, source),
            ..plain(1)
        };
        let mut lost = Vec::new();
        let best = decide(&[at(1790, 1), at(179, 2), at(179, 3)], |index, step| {
            lost.push((index, step));
        });
        assert_eq!(best, Some(1));
        let step = DecisionStep::PeerAddress;
        assert_eq!(lost, [(0, step), (2, step)]);
    }

    #[test]
    fn an_unreachable_next_hop_leaves_no_route() {
        let mut gone = plain(1);
        gone.reachable = false;
        assert_eq!(decide(&[gone], |_, _| ()), None);
        assert_eq!(decide(&[gone, gone], |_, _| ()), None);
    }

    fn candidate() -> impl Strategy<Value = Candidate> {
        (
            (any::<bool>(), 0..3u32, 0..3u32, 0..2u8),
            (0..3u32, 1..4u32, any::<bool>(), 0..2u32),
            (0..3u32, 0..3u32),
        )
            .prop_map(
                |(
                    (reachable, local_pref, as_path_length, origin),
                    (med, neighbour, ebgp, interior_cost),
                    (router_id, cluster_list_length),
                )| Candidate {
                    reachable,
                    local_pref,
                    as_path_length,
                    origin,
                    med,
                    neighbour_as: (neighbour < 3).then_some(neighbour),
                    ebgp,
                    interior_cost,
                    router_id,
                    cluster_list_length,
                    ..plain(0)
                },
            )
    }

    proptest! {
        #[test]
        fn the_result_does_not_depend_on_the_order(
            mut candidates in prop::collection::vec(candidate(), 0..7),
            rotate in 0..7usize,
            swap in any::<bool>(),
        ) {
            for (number, candidate) in (0u8..).zip(candidates.iter_mut()) {
                candidate.peer_address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, number));
            }
            let verdict = |set: &[Candidate]| {
                let mut lost = Vec::new();
                let best = decide(set, |index, step| lost.push((set[index].peer_address, step)));
                lost.sort();
                (best.map(|index| set[index].peer_address), lost)
            };
            let first = verdict(&candidates);
            let length = candidates.len().max(1);
            candidates.rotate_left(rotate % length);
            if swap {
                candidates.reverse();
            }
            prop_assert_eq!(first, verdict(&candidates));
        }
    }
}
