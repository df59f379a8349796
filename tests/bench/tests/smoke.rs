//! The harness at a tiny size, against our own speaker.

use bench::daemon::Kind;
use bench::plan::{Phase, Plan};
use bench::scenario;
use bench::world::World;

#[test]
fn every_phase_ends_with_every_receiver_holding_what_it_must() {
    let plan = Plan {
        name: "smoke",
        senders: 2,
        prefixes: 50,
        sets: 5,
        receivers: 3,
        phases: &[
            Phase::Establish,
            Phase::Announce,
            Phase::Readvertise,
            Phase::Refresh,
            Phase::OneChange,
            Phase::Flap,
            Phase::Withdraw,
        ],
    };
    // Asked for here so that it is built before this runs.
    let speaker = env!("CARGO_BIN_EXE_bench-speaker");
    assert!(std::path::Path::new(speaker).is_file());
    let directory = std::env::temp_dir().join(format!("tortie-bench-smoke-{}", std::process::id()));
    let measured = scenario::run(&plan, Kind::Tortie, World::LOOPBACK, &directory)
        .unwrap_or_else(|error| panic!("{error:#}"));
    std::fs::remove_dir_all(&directory).unwrap();
    let phases: Vec<Phase> = measured.iter().map(|measured| measured.phase).collect();
    assert_eq!(phases, plan.phases);
    assert!(measured.iter().all(|measured| measured.peak_kib > 0));
}
