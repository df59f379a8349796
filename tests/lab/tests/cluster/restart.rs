//! An agent dies and comes back: the packets do not notice.

use std::time::{Duration, Instant};

use lab::{Lab, Programs, Route, RouteMonitor, Stream};

use crate::{converged, options, route_monitors, with_programs};

const PER_SECOND: u32 = 100;
/// How long the agent is away: long enough for its peers to notice and for packets to be lost if anything was.
const AWAY: Duration = Duration::from_secs(2);

#[test]
fn killing_an_agent_loses_no_packet_and_its_return_deletes_no_route() {
    with_programs(
        "restart::killing_an_agent_loses_no_packet_and_its_return_deletes_no_route",
        |programs| goes_unnoticed(programs, |lab| lab.kill_agent(0).unwrap()),
    );
}

#[test]
fn stopping_an_agent_loses_no_packet_and_its_return_deletes_no_route() {
    with_programs(
        "restart::stopping_an_agent_loses_no_packet_and_its_return_deletes_no_route",
        |programs| {
            goes_unnoticed(programs, |lab| {
                let status = lab.terminate_agent(0).unwrap();
                assert!(status.success(), "{status}");
            });
        },
    );
}

/// Ends the agent of n1 while numbered packets run, and starts it again.
fn goes_unnoticed(programs: Programs, end: impl Fn(&mut Lab)) {
    let mut lab = Lab::start(options(), programs).unwrap_or_else(|error| panic!("{error}"));
    lab.fill_pods(2)
        .unwrap_or_else(|errors| panic!("{errors:?}"));
    converged(&mut lab);
    assert!(lab.prove().faults.is_empty());

    let mut monitors = route_monitors(&lab);
    let of = |node: &str, name: &str| {
        lab.pods
            .iter()
            .find(|pod| pod.node == node && pod.name == name)
            .expect("two pods a node")
    };
    let stream = |from, to| Stream::between(from, to, PER_SECOND).unwrap();
    let streams = [
        stream(of("n2", "p0"), of("n3", "p0")),
        stream(of("n1", "p0"), of("n2", "p1")),
        stream(of("n3", "p1"), of("n1", "p1")),
        stream(of("n1", "p0"), of("n1", "p1")),
    ];
    end(&mut lab);
    let told =
        |monitor: &mut RouteMonitor, time| monitor.deleted_until(Instant::now() + time).unwrap();
    let mut deleted = told(&mut monitors[0], AWAY);
    lab.restart_agent(0)
        .unwrap_or_else(|error| panic!("{error}"));
    converged(&mut lab);
    deleted.extend(told(&mut monitors[0], AWAY));
    assert_eq!(
        deleted,
        Vec::<Route>::new(),
        "routes deleted on the ended agent's node"
    );

    for stream in streams {
        let outcome = stream.finish().unwrap();
        assert!(outcome.sent > u64::from(PER_SECOND), "{outcome:?}");
        assert!(outcome.lost.is_empty(), "{outcome:?}");
    }
    for (site, monitor) in lab.topology.sites.iter().zip(&mut monitors) {
        assert_eq!(
            told(monitor, Duration::ZERO),
            Vec::<Route>::new(),
            "routes deleted on {}",
            site.name
        );
    }
    assert!(lab.prove().faults.is_empty(), "{:#?}", lab.prove().faults);
}
