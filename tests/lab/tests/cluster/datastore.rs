//! What the datastore says to all agents: settings, and its lock.

use std::process::Output;
use std::time::Instant;

use lab::{Lab, Options, Pod, call_plugin, make_sandbox, wait_until};
use serde_json::Value;

use crate::{apply, converged, ctl, options, with_programs};

/// A machine with an agent and a pod.
fn one_pod(programs: lab::Programs) -> Lab {
    let options = Options {
        nodes: 1,
        ..options()
    };
    let mut lab = Lab::start(options, programs).unwrap_or_else(|error| panic!("{error}"));
    lab.fill_pods(1)
        .unwrap_or_else(|errors| panic!("{errors:?}"));
    converged(&mut lab);
    lab
}

fn succeeds(output: &Output) {
    assert!(output.status.success(), "{output:?}");
}

/// Metrics of the kernel's routes to a pod.
fn metrics(lab: &Lab, pod: &Pod) -> Vec<u32> {
    let mut netlink = lab.topology.sites[0].namespace.netlink().unwrap();
    let routes = netlink.routes().unwrap();
    let to_pod = |route: &&lab::Route| {
        route.destination.prefix_len() == 32 && route.destination.addr() == pod.address
    };
    routes
        .iter()
        .filter(to_pod)
        .map(|route| route.metric)
        .collect()
}

fn problems(lab: &Lab) -> String {
    let output = ctl(lab, &["node", "status"]);
    succeeds(&output);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_felixconfiguration_counts_at_once_and_what_waits_for_the_next_start_is_named() {
    let name =
        "datastore::a_felixconfiguration_counts_at_once_and_what_waits_for_the_next_start_is_named";
    with_programs(name, |programs| {
        let mut lab = one_pod(programs);
        let patience = lab.options.patience;
        assert_eq!(metrics(&lab, &lab.pods[0]), [1024]);
        apply(
            &lab,
            "kind: FelixConfiguration\nmetadata: {name: default}\n\
             spec: {ipv4NormalRoutePriority: 99, interfacePrefix: \"cali,tap\"}\n---\n\
             kind: FelixConfiguration\nmetadata: {name: node.n1}\nspec: {ipv4NormalRoutePriority: 777}\n",
        );
        let moved = wait_until(Instant::now() + patience, || {
            (metrics(&lab, &lab.pods[0]) == [777]).then_some(())
        });
        assert!(moved.is_some(), "{:?}", metrics(&lab, &lab.pods[0]));
        let named = wait_until(Instant::now() + patience, || {
            problems(&lab)
                .contains("FELIX_INTERFACEPREFIX")
                .then_some(())
        });
        assert!(named.is_some(), "{}", problems(&lab));
        assert!(
            !problems(&lab).contains("FELIX_IPV4NORMALROUTEPRIORITY"),
            "{}",
            problems(&lab)
        );
        // A new pod waits for the route with the new metric.
        let (sandbox, _namespace) = make_sandbox(&lab.topology.sites[0], "new").unwrap();
        let output = call_plugin(&lab.topology.sites[0], &sandbox, "ADD", None).unwrap();
        assert!(output.status.success(), "{output:?}");

        succeeds_to_end(&mut lab);
        lab.restart_agent(0)
            .unwrap_or_else(|error| panic!("{error}"));
        let quiet = wait_until(Instant::now() + patience, || {
            (!problems(&lab).contains("FELIX_INTERFACEPREFIX")).then_some(())
        });
        assert!(quiet.is_some(), "{}", problems(&lab));
        assert_eq!(metrics(&lab, &lab.pods[0]), [777]);
    });
}

fn succeeds_to_end(lab: &mut Lab) {
    let status = lab.terminate_agent(0).unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn while_the_datastore_is_locked_no_pod_comes_or_goes_and_no_route_changes() {
    let name = "datastore::while_the_datastore_is_locked_no_pod_comes_or_goes_and_no_route_changes";
    with_programs(name, |programs| {
        let lab = one_pod(programs);
        let patience = lab.options.patience;
        let site = &lab.topology.sites[0];
        succeeds(&ctl(&lab, &["datastore", "migrate", "lock"]));
        let locked = wait_until(Instant::now() + patience, || {
            problems(&lab)
                .contains("the datastore is locked")
                .then_some(())
        });
        assert!(locked.is_some(), "{}", problems(&lab));

        // A lock takes no node out of service: probes go on to succeed.
        succeeds(
            &lab.node_program(0, &["health", "-felix-live", "-felix-ready"])
                .unwrap(),
        );

        let (sandbox, _namespace) = make_sandbox(site, "new").unwrap();
        for command in ["ADD", "DEL"] {
            let output = call_plugin(site, &sandbox, command, None).unwrap();
            let error: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(error["code"], 11, "{command}: {error}");
            let text = error["msg"].as_str().unwrap_or_default();
            assert!(text.contains("migrate unlock"), "{error}");
        }

        // An object goes: as it might while objects are carried to another datastore.
        let listed = ctl(&lab, &["get", "wep", "-A", "-o", "name"]);
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let endpoint = listed.trim().trim_start_matches("workloadendpoint/");
        let namespaces = [
            "-o",
            "go-template={{range .items}}{{.metadata.namespace}}{{end}}",
        ];
        let namespace = ctl(&lab, &[&["get", "wep", "-A"], &namespaces[..]].concat());
        let namespace = String::from_utf8_lossy(&namespace.stdout).into_owned();
        succeeds(&ctl(
            &lab,
            &["delete", "wep", endpoint, "-n", namespace.trim()],
        ));
        let seen = wait_until(Instant::now() + patience, || {
            problems(&lab).contains("1 changed objects").then_some(())
        });
        assert!(seen.is_some(), "{}", problems(&lab));
        assert_eq!(metrics(&lab, &lab.pods[0]), [1024]);

        succeeds(&ctl(&lab, &["datastore", "migrate", "unlock"]));
        let gone = wait_until(Instant::now() + patience, || {
            metrics(&lab, &lab.pods[0]).is_empty().then_some(())
        });
        assert!(gone.is_some(), "{}", problems(&lab));
        let output = call_plugin(site, &sandbox, "ADD", None).unwrap();
        assert!(output.status.success(), "{output:?}");
    });
}

#[test]
fn an_agent_that_starts_over_a_locked_datastore_is_alive_and_says_what_it_waits_for() {
    let name = "datastore::an_agent_that_starts_over_a_locked_datastore_is_alive_and_says_what_it_waits_for";
    with_programs(name, |programs| {
        let mut lab = one_pod(programs);
        let options = lab.options.clone();
        lab.options.environment = vec![("FELIX_HEALTHENABLED".to_owned(), "true".to_owned())];
        succeeds(&ctl(&lab, &["datastore", "migrate", "lock"]));
        succeeds_to_end(&mut lab);
        lab.start_agent(0).unwrap_or_else(|error| panic!("{error}"));
        // A kubelet's liveness probe.
        let alive = wait_until(Instant::now() + options.patience, || {
            let live = ["health", "-felix-live", "-bird-live"];
            let output = lab.node_program(0, &live).unwrap();
            output.status.success().then_some(())
        });
        assert!(alive.is_some(), "{}", lab::log_end("n1"));
        let why = "the node is starting: the datastore is locked";
        let ready = lab.node_program(0, &["health", "-felix-ready"]).unwrap();
        let status = ctl(&lab, &["node", "status"]);
        for output in [ready, status] {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success() && said.contains(why), "{output:?}");
        }
        assert_eq!(metrics(&lab, &lab.pods[0]), [1024]);

        succeeds(&ctl(&lab, &["datastore", "migrate", "unlock"]));
        lab.wait_ready(0).unwrap_or_else(|error| panic!("{error}"));
        let ready = wait_until(Instant::now() + options.patience, || {
            let output = lab.node_program(0, &["health", "-felix-ready"]).unwrap();
            output.status.success().then_some(())
        });
        assert!(ready.is_some(), "{}", lab::log_end("n1"));
    });
}
