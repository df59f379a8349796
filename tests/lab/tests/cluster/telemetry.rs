//! What the agent says about itself, against what the lab knows.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use lab::{Lab, Options, wait_until};
use serde_json::Value;

use crate::{converged, ctl, options, with_programs};

/// FELIX_PROMETHEUSMETRICSPORT's default.
const METRICS_PORT: u16 = 9091;

pub(crate) fn metrics(lab: &Lab) -> String {
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

pub(crate) fn metric(text: &str, name: &str) -> Option<u64> {
    let line = text
        .lines()
        .find(|line| line.split(' ').next() == Some(name))?;
    line.split(' ').nth(1)?.parse().ok()
}

/// Routes of the first machine that agents make: boot (3), BGP (12), IPIP (80).
fn agents_routes(lab: &Lab) -> u64 {
    let mut netlink = lab.topology.sites[0].namespace.netlink().unwrap();
    let routes = netlink.routes().unwrap();
    let ours = |route: &&lab::Route| {
        [3, 12, 80].contains(&route.protocol) && route.destination.prefix_len() > 0
    };
    routes.iter().filter(ours).count().try_into().unwrap()
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
            // Three pods, the own block's blackhole, the other node's block; one block from the peer.
            let routes = agents_routes(&lab);
            assert_eq!(routes, 5);
            let established = lab::established_peers(&lab.topology.sites[0].namespace)
                .unwrap()
                .len();
            let established = u64::try_from(established).unwrap();
            assert_eq!(established, 1);
            let expected = [
                ("felix_active_local_endpoints", 3),
                ("felix_cluster_num_workload_endpoints", 6),
                ("felix_cluster_num_hosts", 2),
                ("felix_route_table_num_routes", routes),
                ("bgp_sessions_up", established),
                ("bgp_sessions_down", 0),
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

/// What `tortie-node health` says on the first machine: whether it is well, and what is printed.
fn health(lab: &Lab, checks: &[&str]) -> (bool, String) {
    let site = &lab.topology.sites[0];
    let environment = lab.options.environment_of(site);
    let output = site
        .namespace
        .command(lab.programs().node())
        .arg("health")
        .args(checks)
        .envs(environment)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), said)
}

#[test]
fn health_follows_the_kernel_the_store_and_the_peers() {
    let name = "telemetry::health_follows_the_kernel_the_store_and_the_peers";
    with_programs(name, |programs| {
        let options = Options {
            nodes: 3,
            environment: ["FELIX_HEALTHENABLED", "WAIT_FOR_DATASTORE"]
                .map(|name| (name.to_owned(), "true".to_owned()))
                .into(),
            ..options()
        };
        let mut lab = Lab::start(options, programs).unwrap_or_else(|error| panic!("{error}"));
        converged(&mut lab);
        let well = (true, String::new());
        assert_eq!(health(&lab, &[]), well);
        let all = "-threshold-time=1h";
        let one = "-threshold-time=0s";
        assert_eq!(health(&lab, &["-bird-live", "-bird-ready", all]), well);

        // Without one of two peers: not all sessions stand, but one does.
        lab.kill_agent(2).unwrap();
        let away = lab.topology.sites[2].address.to_string();
        let deadline = Instant::now() + lab.options.patience;
        let seen = wait_until(deadline, || {
            let (ready, said) = health(&lab, &["-bird-ready", all]);
            (!ready && said.contains(&away)).then_some(())
        });
        assert!(seen.is_some(), "{:?}", health(&lab, &["-bird-ready", all]));
        assert_eq!(health(&lab, &["-bird-ready", one]), well);

        lab.kill_agent(1).unwrap();
        let deadline = Instant::now() + lab.options.patience;
        let seen = wait_until(deadline, || {
            (!health(&lab, &["-bird-ready", one]).0).then_some(())
        });
        assert!(seen.is_some(), "{:?}", health(&lab, &["-bird-ready", one]));
        assert_eq!(health(&lab, &["-felix-live", "-felix-ready"]), well);

        // An agent that starts without its store is not ready before the store answers.
        lab.kill_agent(0).unwrap();
        assert!(!health(&lab, &[]).0, "there is no agent");
        lab.kill_store().unwrap();
        lab.start_agent(0).unwrap();
        assert!(!health(&lab, &["-felix-ready"]).0);
        lab.restart_store()
            .unwrap_or_else(|error| panic!("{error}"));
        let deadline = Instant::now() + lab.options.patience;
        let ready = wait_until(deadline, || health(&lab, &[]).0.then_some(()));
        assert!(ready.is_some(), "{:?}", health(&lab, &[]));
    });
}
