//! Top-of-rack routers that run BIRD.

use lab::Options;

use crate::{options, run, with_programs};

#[test]
fn two_top_of_rack_routers_are_used_side_by_side() {
    if lab::find_bird().is_none() {
        lab::skipped(
            "bird",
            "no program `bird` on PATH or in /usr/sbin (Debian: bird2)",
        );
        return;
    }
    with_programs(
        "tors::two_top_of_rack_routers_are_used_side_by_side",
        |_| {
            let run = run(Options {
                tors: 2,
                ..options()
            });
            // The FIB's rows are among what was proved: a default route and another, each with both next hops.
            assert!(run.report.faults.is_empty(), "{:#?}", run.report.faults);
            // The mesh's six ends, and each node's with both routers.
            assert_eq!(run.report.sessions.expected, 6 + 3 * 2);
            assert_eq!(
                run.report.sessions.established,
                run.report.sessions.expected
            );
        },
    );
}
