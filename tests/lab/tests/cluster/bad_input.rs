//! Bad input: an error of its own for each, and nothing half-made.

use std::path::PathBuf;
use std::time::Instant;

use lab::{Families, Lab, Mode, Options, Sandbox, Site, call_plugin, make_sandbox};
use serde_json::Value;

use crate::telemetry::{metric, metrics};
use crate::{apply, converged, ctl, options, with_programs};

/// An agent with these variables must end with an error that has all these words.
fn agent_refuses(lab: &Lab, environment: &[(&str, &str)], words: &[&str]) {
    let (status, said) = lab
        .try_agent(0, environment)
        .unwrap_or_else(|error| panic!("{environment:?}: {error}"));
    assert_eq!(status.code(), Some(1), "{environment:?}: {said}");
    for word in words {
        assert!(
            said.contains(word),
            "{environment:?}: no \"{word}\" in: {said}"
        );
    }
    let mut netlink = lab.topology.sites[0].namespace.netlink().unwrap();
    let links = netlink.links().unwrap();
    assert!(
        links
            .iter()
            .all(|link| ["lo", "eth0"].contains(&&*link.name) || !link.up),
        "{environment:?}: {links:?}"
    );
    assert_eq!(stored(lab), "", "{environment:?}");
}

/// `kind/name` of every object in the store.
fn stored(lab: &Lab) -> String {
    let kinds = [
        "ippools",
        "nodes",
        "bgpconfigurations",
        "ipamconfigs",
        "ipamblocks",
        "blockaffinities",
        "ipamhandles",
        "workloadendpoints",
    ];
    let listed = |kind: &str| {
        let output = ctl(lab, &["get", kind, "-A", "-o", "name"]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    kinds.into_iter().map(listed).collect()
}

#[test]
fn a_wrong_pool_in_the_environment_ends_the_agent_with_variable_value_and_rule() {
    let name =
        "bad_input::a_wrong_pool_in_the_environment_ends_the_agent_with_variable_value_and_rule";
    with_programs(name, |programs| {
        let lab = Lab::without_agents(
            Options {
                nodes: 1,
                ..options()
            },
            programs,
        )
        .unwrap();
        agent_refuses(
            &lab,
            &[("CALICO_IPV4POOL_CIDR", "192.168.0.0/999")],
            &["CALICO_IPV4POOL_CIDR", "192.168.0.0/999"],
        );
        agent_refuses(
            &lab,
            &[("CALICO_IPV4POOL_BLOCK_SIZE", "19")],
            &["CALICO_IPV4POOL_BLOCK_SIZE", "19", "20", "32"],
        );
        agent_refuses(
            &lab,
            &[("CALICO_IPV4POOL_BLOCK_SIZE", "33")],
            &["CALICO_IPV4POOL_BLOCK_SIZE", "33", "20", "32"],
        );
        agent_refuses(
            &lab,
            &[("CALICO_IPV4POOL_IPIP", "Sometimes")],
            &[
                "CALICO_IPV4POOL_IPIP",
                "Sometimes",
                "Always",
                "CrossSubnet",
                "Never",
            ],
        );
        agent_refuses(
            &lab,
            &[
                ("CALICO_IPV4POOL_IPIP", "Always"),
                ("CALICO_IPV4POOL_VXLAN", "Always"),
            ],
            &["CALICO_IPV4POOL_IPIP", "CALICO_IPV4POOL_VXLAN"],
        );
        let address = lab.topology.sites[0].address;
        let around = ipnet::IpNet::new(address, 16).unwrap().trunc().to_string();
        agent_refuses(
            &lab,
            &[("CALICO_IPV4POOL_CIDR", &around)],
            &[
                "CALICO_IPV4POOL_CIDR",
                &around,
                &address.to_string(),
                "eth0",
                "allowed",
            ],
        );
    });
}

#[test]
fn a_pool_that_overlaps_another_is_refused_with_both_ranges() {
    with_programs(
        "bad_input::a_pool_that_overlaps_another_is_refused_with_both_ranges",
        |programs| {
            let lab = Lab::start(
                Options {
                    nodes: 1,
                    ..options()
                },
                programs,
            )
            .unwrap_or_else(|error| panic!("{error}"));
            let file = "/run/tortie-lab/overlap.yaml";
            let pool = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: second\nspec:\n  cidr: 192.168.128.0/17\n";
            std::fs::write(file, pool).unwrap();
            let output = ctl(&lab, &["apply", "-f", file]);
            assert!(!output.status.success(), "{output:?}");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                said.contains("192.168.128.0/17") && said.contains("192.168.0.0/16"),
                "{said}"
            );
            let pools = ctl(&lab, &["get", "ippools"]);
            assert!(
                !String::from_utf8_lossy(&pools.stdout).contains("192.168.128.0/17"),
                "{pools:?}"
            );
        },
    );
}

/// Calls ADD and expects an error object with this code and all `words`.
fn add_fails(
    site: &Site,
    sandbox: &Sandbox,
    configuration: Option<&str>,
    code: u64,
    words: &[&str],
) {
    let output = call_plugin(site, sandbox, "ADD", configuration).unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success(), "{said}");
    let error: Value =
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    assert_eq!(error["code"], code, "{said}");
    for word in words {
        assert!(said.contains(word), "no \"{word}\" in: {said}");
    }
    let links = site.namespace.netlink().unwrap().links().unwrap();
    assert!(
        links.iter().all(|link| !link.name.starts_with("cali")),
        "{said}: {links:?}"
    );
}

#[test]
fn a_bad_call_of_the_plugin_gets_its_code_and_leaves_no_device() {
    with_programs(
        "bad_input::a_bad_call_of_the_plugin_gets_its_code_and_leaves_no_device",
        |programs| {
            let mut lab = Lab::start(
                Options {
                    nodes: 1,
                    ..options()
                },
                programs,
            )
            .unwrap_or_else(|error| panic!("{error}"));
            let site = lab.topology.sites[0].clone();
            let (sandbox, _namespace) = make_sandbox(&site, "bad").unwrap();
            // Codes of the specification: 6 cannot be decoded, 7 invalid configuration, 1 incompatible version, 8 invalid
            // network namespace.
            add_fails(&site, &sandbox, Some("{ not json"), 6, &[]);
            add_fails(
                &site,
                &sandbox,
                Some(r#"{"cniVersion":"1.0.0","type":"calico"}"#),
                7,
                &["name"],
            );
            let version = r#"{"cniVersion":"9.9.9","name":"k8s-pod-network","type":"calico"}"#;
            add_fails(&site, &sandbox, Some(version), 1, &["9.9.9"]);
            let missing = Sandbox {
                netns_path: PathBuf::from("/run/netns/is-not-there"),
                ..sandbox.clone()
            };
            add_fails(&site, &missing, None, 8, &["/run/netns/is-not-there"]);
            let no_namespace = Sandbox {
                netns_path: PathBuf::from("/etc/passwd"),
                ..sandbox.clone()
            };
            add_fails(&site, &no_namespace, None, 8, &["/etc/passwd"]);
            // After all that the address space is untouched: the first real pod works.
            lab.add_pod(0).unwrap_or_else(|error| panic!("{error}"));
            assert!(lab.prove().faults.is_empty(), "{:#?}", lab.prove().faults);
        },
    );
}

#[test]
fn without_an_agent_the_plugin_asks_the_runtime_to_try_again() {
    with_programs(
        "bad_input::without_an_agent_the_plugin_asks_the_runtime_to_try_again",
        |programs| {
            let lab = Lab::without_agents(
                Options {
                    nodes: 1,
                    ..options()
                },
                programs,
            )
            .unwrap();
            let site = &lab.topology.sites[0];
            let (sandbox, _namespace) = make_sandbox(site, "early").unwrap();
            add_fails(site, &sandbox, None, 11, &["tortie-cni.sock"]);
        },
    );
}

/// `tortiectl` must do this.
fn told(lab: &Lab, arguments: &[&str]) {
    let output = ctl(lab, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

/// A pool beside the default one.
fn pool(lab: &Lab, name: &str, spec: &str) {
    let text = format!(
        "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    );
    apply(lab, &text);
}

/// Waits until a node says all these words of one thing, and counts it in its metrics.
fn becomes_a_problem(lab: &Lab, origin: &str, words: &[&str]) {
    let metric_name = format!("tortie_problems{{origin=\"{origin}\"}}");
    let mut said = String::new();
    let found = lab::wait_until(Instant::now() + lab.options.patience, || {
        let status = ctl(lab, &["node", "status"]);
        said = String::from_utf8_lossy(&status.stdout).into_owned();
        let counted = metric(&metrics(lab), &metric_name).unwrap_or(0);
        let line = |line: &str| words.iter().all(|word| line.contains(word));
        (said.lines().any(line) && counted > 0).then_some(())
    });
    assert!(found.is_some(), "{words:?}: {said}\n{}", metrics(lab));
}

#[test]
fn what_a_node_cannot_do_is_a_problem_and_a_metric_and_the_rest_goes_on() {
    let name = "bad_input::what_a_node_cannot_do_is_a_problem_and_a_metric_and_the_rest_goes_on";
    with_programs(name, |programs| {
        let switched_on = ("FELIX_PROMETHEUSMETRICSENABLED", "true");
        let some = Options {
            nodes: 2,
            families: Families::Both,
            environment: vec![(switched_on.0.to_owned(), switched_on.1.to_owned())],
            ..options()
        };
        let mut lab = Lab::start(some, programs).unwrap_or_else(|error| panic!("{error}"));
        lab.fill_pods(1)
            .unwrap_or_else(|errors| panic!("{errors:?}"));
        converged(&mut lab);
        let felix = |lab: &Lab, spec: &str| {
            let patch = format!("{{\"spec\": {spec}}}");
            told(
                lab,
                &["patch", "felixconfiguration", "default", "-p", &patch],
            );
        };

        // What no device can have is not even stored.
        for (spec, words) in [
            (
                "{\"vxlanMTU\": 20}",
                "spec.vxlanMTU = 20: must be 0 (found out) or 68 to 65535",
            ),
            (
                "{\"vxlanMTUV6\": 1279}",
                "spec.vxlanMTUV6 = 1279: must be 0 (found out) or 1280",
            ),
            (
                "{\"interfacePrefix\": \"tortie\"}",
                "spec.interfacePrefix = \"tortie\": must be ",
            ),
        ] {
            let patch = format!("{{\"spec\": {spec}}}");
            let output = ctl(
                &lab,
                &["patch", "felixconfiguration", "default", "-p", &patch],
            );
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success() && said.contains(words), "{said}");
        }
        // One that is too small for IPv6, once something uses it: pods of both families are refused.
        pool(&lab, "small", "{cidr: 10.251.0.0/16, vxlanMode: Always}");
        felix(&lab, "{\"vxlanMTU\": 1000}");
        let words = ["vxlan.calico", "1000", "1280", "FELIX_VXLANMTU"];
        becomes_a_problem(&lab, "Configuration", &words);
        let refused = lab.add_pod(0).unwrap_err().to_string();
        assert!(
            refused.contains("would be 1000") && refused.contains("1280"),
            "{refused}"
        );
        felix(&lab, "{\"vxlanMTU\": null}");
        told(&lab, &["delete", "ippool", "small"]);

        if Lab::check_kernel(Mode::Ipip).is_err() {
            pool(&lab, "tunnelled", "{cidr: 10.250.0.0/16, ipipMode: Always}");
            becomes_a_problem(&lab, "Kernel", &["tunl0", "modprobe ipip"]);
        }
        // All that time the rest has its routes.
        assert_eq!(lab.prove().faults, Vec::<String>::new());
        without_its_right_an_agent_says_so(&mut lab);
    });
}

/// What is in the kernel serves on, what is to be written is a problem, and another agent with the right writes it.
fn without_its_right_an_agent_says_so(lab: &mut Lab) {
    lab.kill_agent(0).unwrap();
    lab.restart_agent_without_net_admin(0)
        .unwrap_or_else(|error| panic!("{error}"));
    let ports = |range: &str| {
        let patch = format!("{{\"spec\": {{\"natPortRange\": {range}}}}}");
        told(
            lab,
            &["patch", "felixconfiguration", "default", "-p", &patch],
        );
    };
    ports("\"40000:50000\"");
    becomes_a_problem(lab, "Kernel", &["table ip calico", "CAP_NET_ADMIN"]);
    assert_eq!(lab.prove().faults, Vec::<String>::new());
    lab.kill_agent(0).unwrap();
    lab.restart_agent(0)
        .unwrap_or_else(|error| panic!("{error}"));
    converged(lab);
    let mut said = String::new();
    let gone = lab::wait_until(Instant::now() + lab.options.patience, || {
        let status = ctl(lab, &["node", "status"]);
        said = String::from_utf8_lossy(&status.stdout).into_owned();
        (status.status.success() && !said.contains("CAP_NET_ADMIN")).then_some(())
    });
    assert!(gone.is_some(), "{said}");
}
