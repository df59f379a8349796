//! A second agent on a host, and a second host of one node name.

use std::time::Instant;

use lab::{Lab, Options, call_plugin, make_sandbox, wait_until};
use serde_json::Value;

use crate::plugin::{call, configuration, one_node, succeeds};
use crate::{ctl, options, with_programs};

#[test]
fn a_second_agent_of_a_host_ends_and_says_who_runs_there() {
    let name = "instances::a_second_agent_of_a_host_ends_and_says_who_runs_there";
    with_programs(name, |programs| {
        let mut lab = one_node(programs, "192.168.0.0/24");
        let site = lab.topology.sites[0].clone();
        for environment in [&[][..], &[("NODENAME", "n2")]] {
            let (status, said) = lab
                .try_agent(0, environment)
                .unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(status.code(), Some(1), "{said}");
            for word in [
                "another agent runs on this host",
                "tortie-node of node n1",
                "process",
            ] {
                assert!(said.contains(word), "no {word:?} in {said}");
            }
        }
        // The first one has lost neither of its sockets.
        let (pod, _namespace) = make_sandbox(&site, "pod").unwrap();
        succeeds(&site, &pod, "ADD", &configuration());
        lab.wait_ready(0).unwrap_or_else(|error| panic!("{error}"));
        // However it ends, the next one starts.
        lab.kill_agent(0).unwrap();
        lab.restart_agent(0)
            .unwrap_or_else(|error| panic!("{error}"));
    });
}

/// What `tortiectl node status -o json` says on a machine.
fn problems(lab: &Lab, site: usize) -> String {
    let site = &lab.topology.sites[site];
    let output = site
        .namespace
        .command(lab.programs().ctl())
        .args(["node", "status"])
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn two_hosts_of_one_node_name_both_say_so() {
    let name = "instances::two_hosts_of_one_node_name_both_say_so";
    with_programs(name, |programs| {
        let options = Options {
            nodes: 2,
            environment: vec![("NODENAME".to_owned(), "twin".to_owned())],
            ..options()
        };
        let patience = options.patience;
        let lab = Lab::start(options, programs).unwrap_or_else(|error| panic!("{error}"));
        for node in 0..2 {
            let site = &lab.topology.sites[node];
            let reported = wait_until(Instant::now() + patience, || {
                problems(&lab, node)
                    .contains("another agent runs as node twin")
                    .then_some(())
            });
            assert!(
                reported.is_some(),
                "{}: {}",
                site.name,
                problems(&lab, node)
            );
            let health = site
                .namespace
                .command(lab.programs().node())
                .args(["health", "-felix-ready"])
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&health.stderr).into_owned();
            assert!(!health.status.success() && said.contains("twin"), "{said}");
            let log = std::fs::read_to_string(lab::log_path(&site.name)).unwrap();
            assert!(log.contains("two agents, one node name"), "{log}");
            let (pod, _namespace) = make_sandbox(site, "pod").unwrap();
            let status = call_plugin(site, &pod, "STATUS", Some(&configuration().to_string()));
            let status: Value = serde_json::from_slice(&status.unwrap().stdout).unwrap();
            assert_eq!(status["code"], 51, "{status}");
        }
        // They do not answer each other's writes at once, for ever.
        let writes = |_: usize| -> u64 {
            let output = ctl(&lab, &["get", "node", "twin", "-o", "json"]);
            let node: Value = serde_json::from_slice(&output.stdout).unwrap();
            let version = node["metadata"]["resourceVersion"].as_str().unwrap();
            version.parse().unwrap()
        };
        let seen: Vec<u64> = (0..50).map(writes).collect();
        assert!(seen[49] - seen[0] < 20, "{seen:?}");
    });
}

#[test]
fn a_socket_that_somebody_removed_is_there_again() {
    let name = "instances::a_socket_that_somebody_removed_is_there_again";
    with_programs(name, |programs| {
        let lab = one_node(programs, "192.168.0.0/24");
        let site = lab.topology.sites[0].clone();
        let (pod, _namespace) = make_sandbox(&site, "pod").unwrap();
        site.namespace.run(|| {
            for socket in ["tortie-cni.sock", "tortie-admin.sock"] {
                std::fs::remove_file(format!("/var/run/calico/{socket}")).unwrap();
            }
        });
        let deadline = Instant::now() + lab.options.patience;
        let added = wait_until(deadline, || {
            let output = call(&site, &pod, "ADD", &configuration());
            output.status.success().then_some(())
        });
        assert!(added.is_some(), "{}", lab::log_end("n1"));
        let asked = wait_until(deadline, || {
            problems(&lab, 0).contains("Node n1").then_some(())
        });
        assert!(asked.is_some(), "{}", problems(&lab, 0));
    });
}
