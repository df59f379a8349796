//! What the agent says about itself, against what the lab knows.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use lab::{Lab, Options, wait_until};
use serde_json::Value;

use crate::{converged, ctl, options, with_programs};

/// FELIX_PROMETHEUSMETRICSPORT's default.
const METRICS_PORT: u16 = 9091;

fn metrics(lab: &Lab) -> String {
    lab.topology.sites[0].namespace.run(|| {
        let mut stream = TcpStream::connect(("127.0.0.1", METRICS_PORT)).unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    })
}

fn metric(text: &str, name: &str) -> Option<u64> {
    let line = text
        .lines()
        .find(|line| line.split(' ').next() == Some(name))?;
    line.split(' ').nth(1)?.parse().ok()
}

#[test]
fn metrics_and_status_count_what_is_there() {
    with_programs(
        "telemetry::metrics_and_status_count_what_is_there",
        |programs| {
            let switched_on = ("FELIX_PROMETHEUSMETRICSENABLED", "true");
            let options = Options {
                nodes: 2,
                environment: vec![(switched_on.0.to_owned(), switched_on.1.to_owned())],
                ..options()
            };
            let patience = options.patience;
            let mut lab = Lab::start(options, programs).unwrap_or_else(|error| panic!("{error}"));
            lab.fill_pods(3)
                .unwrap_or_else(|errors| panic!("{errors:?}"));
            converged(&mut lab);
            // Three pods, the own block's blackhole, the other node's block; one block and one session from the peer.
            let expected = [
                ("felix_active_local_endpoints", 3),
                ("felix_cluster_num_workload_endpoints", 6),
                ("felix_cluster_num_hosts", 2),
                ("felix_route_table_num_routes", 5),
                ("bgp_routes", 1),
                ("cni_add_duration_seconds_count", 3),
            ];
            let counted = wait_until(Instant::now() + patience, || {
                let text = metrics(&lab);
                expected
                    .iter()
                    .all(|(name, value)| metric(&text, name) == Some(*value))
                    .then_some(())
            });
            assert!(
                counted.is_some(),
                "{expected:?} are not in\n{}",
                metrics(&lab)
            );

            let status = ctl(&lab, &["node", "status", "-o", "json"]);
            let status: Value = serde_json::from_slice(&status.stdout).unwrap();
            let status = &status["status"];
            assert!(status["rowsWanted"].as_u64() > Some(5), "{status}");
            assert_eq!(status["rowsPending"], 0, "{status}");
            assert_eq!(status["localEndpoints"], 3, "{status}");
        },
    );
}
