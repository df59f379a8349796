//! The whole product under a User Mode Linux kernel: IPIP, and timers at their true values.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set up its place fails where it stands"
)]

#[macro_use]
extern crate harness;

use std::path::Path;
use std::time::{Duration, Instant};

use lab::uml::Clock;
use lab::{Lab, Mode, Options, Programs, Progress, RouteChange, RouteMonitor};

fn main() -> std::process::ExitCode {
    harness::run()
}

/// Runs `body` in a private world of a guest, with the programs built before.
fn in_guest(name: &str, clock: Clock, body: impl FnOnce(Programs)) {
    if !lab::uml::is_guest() {
        Programs::build().unwrap_or_else(|error| panic!("{error}"));
    }
    lab::uml::in_uml(name, Path::new(env!("CARGO_BIN_EXE_lab")), clock, || {
        lab::in_namespaces(name, || body(Programs::find().expect("built a moment ago")));
    });
}

fn options() -> Options {
    Options {
        patience: Duration::from_secs(120),
        ..Options::default()
    }
}

/// Everything that `cargo lab` proves.
fn holds(options: Options) {
    let mut run = lab::run(options, Progress::new()).unwrap_or_else(|error| panic!("{error}"));
    println!("{}", run.tables);
    run.tear_down(Progress::new());
    assert_eq!(run.report.faults, Vec::<String>::new());
}

#[test]
fn ipip_connects_two_racks() {
    in_guest("ipip_connects_two_racks", Clock::Real, |_| {
        holds(Options {
            mode: Mode::Ipip,
            racks: 2,
            ..options()
        });
    });
}

#[test]
fn ipip_between_racks_and_plain_routes_within() {
    in_guest(
        "ipip_between_racks_and_plain_routes_within",
        Clock::Real,
        |_| {
            holds(Options {
                mode: Mode::IpipCrosssubnet,
                racks: 2,
                ..options()
            });
        },
    );
}

/// Two nodes with a pod each, converged; and how long after `fault` on the second the first loses the route to its block.
fn route_lasts(programs: Programs, fault: impl FnOnce(&mut Lab)) -> Duration {
    let two = Options {
        nodes: 2,
        pods: 1,
        ..options()
    };
    let mut lab = Lab::start(two, programs).unwrap_or_else(|error| panic!("{error}"));
    lab.fill_pods(1)
        .unwrap_or_else(|errors| panic!("{errors:?}"));
    let converged = lab
        .wait_converged()
        .unwrap_or_else(|error| panic!("{error}"));
    assert!(converged.is_some(), "{:#?}", lab.prove().faults);
    let block = lab
        .blocks()
        .into_iter()
        .find(|(_, owner)| owner.name == "n2")
        .map(|(block, _)| block)
        .unwrap();
    let mut monitor = RouteMonitor::open(&lab.site("n1").namespace).unwrap();
    let began = Instant::now();
    fault(&mut lab);
    let gone = monitor
        .wait_for(began + Duration::from_secs(1000), |event| {
            event.change == RouteChange::Deleted && event.route.destination == block
        })
        .unwrap();
    assert!(gone.is_some(), "the route to {block} outlived everything");
    began.elapsed()
}

#[test]
fn a_silent_peer_loses_its_routes_at_the_end_of_the_hold_time_of_240_s() {
    in_guest(
        "a_silent_peer_loses_its_routes_at_the_end_of_the_hold_time_of_240_s",
        Clock::Jumping,
        |programs| {
            let lasted = route_lasts(programs, |lab| lab.freeze_agent(1).unwrap());
            // The timer started with the last KEEPALIVE, at most a third of the hold time before the silence.
            let (least, most) = (Duration::from_secs(159), Duration::from_secs(241));
            assert!(least < lasted && lasted < most, "{lasted:?}");
        },
    );
}

#[test]
fn a_dead_agents_routes_go_at_the_end_of_the_restart_time_of_120_s() {
    in_guest(
        "a_dead_agents_routes_go_at_the_end_of_the_restart_time_of_120_s",
        Clock::Jumping,
        |programs| {
            let lasted = route_lasts(programs, |lab| lab.kill_agent(1).unwrap());
            let (least, most) = (Duration::from_secs(119), Duration::from_secs(122));
            assert!(least < lasted && lasted < most, "{lasted:?}");
        },
    );
}
