//! The store dies and comes back: what runs goes on, what is new waits and says for what.

use std::time::Instant;

use lab::{Lab, Mode, Options, Pod, RouteChange, Stream, call_plugin, make_sandbox, wait_until};
use serde_json::Value;

use crate::{converged, ctl, options, route_monitors, with_programs};

const PER_SECOND: u32 = 100;

/// Asks for a pod that cannot be served now.
fn is_told_to_try_again(lab: &Lab, node: usize, pod: &str) {
    let site = &lab.topology.sites[node];
    let (sandbox, _namespace) = make_sandbox(site, pod).unwrap();
    let output = call_plugin(site, &sandbox, "ADD", None).unwrap();
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(error["code"], 11, "{error}");
    let text = error["msg"].as_str().unwrap_or_default();
    assert!(text.contains("unix:/run/tortie-lab/store.sock"), "{error}");
    let output = call_plugin(site, &sandbox, "DEL", None).unwrap();
    assert!(
        !output.status.success(),
        "its address is not known to be free"
    );
}

#[test]
fn a_store_that_dies_and_comes_back_costs_no_route_and_no_packet() {
    let name = "outage::a_store_that_dies_and_comes_back_costs_no_route_and_no_packet";
    with_programs(name, |programs| {
        let mut lab = Lab::start(
            Options {
                nodes: 2,
                // Here routes to the other node's blocks come from the store.
                mode: Mode::Vxlan,
                block_size: 31,
                ..options()
            },
            programs,
        )
        .unwrap_or_else(|error| panic!("{error}"));
        lab.fill_pods(1)
            .unwrap_or_else(|errors| panic!("{errors:?}"));
        converged(&mut lab);
        assert!(lab.prove().faults.is_empty(), "{:#?}", lab.prove().faults);
        let mut monitors = route_monitors(&lab);
        let stream = |from: &Pod, to: &Pod| Stream::between(from, to, PER_SECOND).unwrap();
        let streams = [
            stream(&lab.pods[0], &lab.pods[1]),
            stream(&lab.pods[1], &lab.pods[0]),
        ];

        for pod in ["first", "second"] {
            lab.kill_store().unwrap();
            is_told_to_try_again(&lab, 0, pod);
            is_told_to_try_again(&lab, 1, pod);
            lab.restart_store()
                .unwrap_or_else(|error| panic!("{error}"));
            // The log has no second line within a minute.
            let is_back = wait_until(Instant::now() + options().patience, || {
                let output = ctl(&lab, &["node", "status"]);
                let said = String::from_utf8_lossy(&output.stdout).into_owned();
                (output.status.success() && !said.contains("cannot be read")).then_some(())
            });
            assert!(is_back.is_some(), "{}", lab::log_end("n1"));
            // Both agents write, and both hear of what the other wrote: two pods are at least one block more.
            for node in [0, 0, 1, 1] {
                lab.add_pod(node).unwrap_or_else(|error| panic!("{error}"));
            }
            converged(&mut lab);
        }
        // An agent that starts after the store's return finds everything there.
        lab.kill_agent(1).unwrap();
        lab.restart_agent(1)
            .unwrap_or_else(|error| panic!("{error}"));
        converged(&mut lab);

        for (site, monitor) in lab.topology.sites.iter().zip(&mut monitors) {
            let deleted = monitor
                .wait_for(Instant::now(), |event| event.change == RouteChange::Deleted)
                .unwrap();
            assert!(deleted.is_none(), "{}: {deleted:?}", site.name);
        }
        for stream in streams {
            let outcome = stream.finish().unwrap();
            assert!(outcome.sent > 0 && outcome.lost.is_empty(), "{outcome:?}");
        }
        assert!(lab.prove().faults.is_empty(), "{:#?}", lab.prove().faults);
    });
}

#[test]
fn an_agent_waits_for_a_store_that_comes_later() {
    with_programs(
        "outage::an_agent_waits_for_a_store_that_comes_later",
        |programs| {
            let mut lab = Lab::start(
                Options {
                    nodes: 1,
                    environment: vec![("WAIT_FOR_DATASTORE".to_owned(), "true".to_owned())],
                    ..options()
                },
                programs,
            )
            .unwrap_or_else(|error| panic!("{error}"));
            lab.add_pod(0).unwrap_or_else(|error| panic!("{error}"));
            lab.kill_agent(0).unwrap();
            lab.kill_store().unwrap();
            lab.start_agent(0).unwrap_or_else(|error| panic!("{error}"));
            let log = lab::log_path("n1");
            let waits = wait_until(Instant::now() + options().patience, || {
                std::fs::read_to_string(&log)
                    .is_ok_and(|text| text.contains("waiting for the datastore"))
                    .then_some(())
            });
            assert!(waits.is_some(), "{}", lab::log_end("n1"));
            lab.restart_store()
                .unwrap_or_else(|error| panic!("{error}"));
            lab.wait_ready(0).unwrap_or_else(|error| panic!("{error}"));
            lab.add_pod(0).unwrap_or_else(|error| panic!("{error}"));
            converged(&mut lab);
        },
    );
}
