//! Top-of-rack routers that run BIRD.

use lab::{Families, Options};

use crate::{options, run, with_programs};

/// Leaves the test as skipped without the routers' program.
pub(crate) fn needs_bird() {
    if lab::find_bird().is_none() {
        harness::skip(
            "bird",
            "no program `bird` on PATH or in /usr/sbin (Debian: bird2)",
        );
    }
}

/// Two routers and three nodes in as many racks; what is proved before and after one router is away.
fn one_of_two_may_die(racks: u8, families: Families) {
    let run = run(Options {
        tors: 2,
        racks,
        families,
        ..options()
    });
    // The FIB's rows are among what was proved: of each family a default route and another, each with both next hops, before all others.
    assert!(run.report.faults.is_empty(), "{:#?}", run.report.faults);
    let of_each_family = if families == Families::Both { 2 } else { 1 };
    assert_eq!(run.report.sessions.expected, 3 * 2 * of_each_family);
    assert_eq!(
        run.report.sessions.established,
        run.report.sessions.expected
    );
    let packets = run.report.tor_killed.unwrap();
    assert!(packets.sent > 500, "{packets:?}");
    assert_eq!(packets.lost, 0);
}

#[test]
fn two_top_of_rack_routers_are_used_side_by_side() {
    needs_bird();
    with_programs(
        "tors::two_top_of_rack_routers_are_used_side_by_side",
        |_| one_of_two_may_die(1, Families::V4),
    );
}

#[test]
fn two_top_of_rack_routers_of_a_cluster_of_ipv6_alone_are_used_side_by_side() {
    needs_bird();
    with_programs(
        "tors::two_top_of_rack_routers_of_a_cluster_of_ipv6_alone_are_used_side_by_side",
        |_| one_of_two_may_die(1, Families::V6),
    );
}

#[test]
fn one_of_two_routers_dies_and_pods_of_different_racks_lose_nothing() {
    needs_bird();
    with_programs(
        "tors::one_of_two_routers_dies_and_pods_of_different_racks_lose_nothing",
        |_| one_of_two_may_die(2, Families::Both),
    );
}
