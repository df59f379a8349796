//! Objects that nobody checked before they were stored: what a node cannot do with them is told, and the rest goes on.

use std::time::Instant;

use lab::{Lab, Options, wait_until};
use serde_json::json;

use crate::traffic::ctl;
use crate::{options, with_programs};

/// Waits until the node's status has a line with all these words.
fn is_told(lab: &Lab, words: &[&str]) {
    let mut said = String::new();
    let found = wait_until(Instant::now() + lab.options.patience, || {
        let status = ctl(lab, 0, &["node", "status"]);
        said = String::from_utf8_lossy(&status.stdout).into_owned();
        let line = |line: &str| words.iter().all(|word| line.contains(word));
        said.lines().any(line).then_some(())
    });
    assert!(found.is_some(), "{words:?}: {said}\n{}", lab::log_end("n1"));
}

#[test]
fn what_no_node_can_do_is_told_with_object_field_and_value_and_pods_go_on() {
    let name =
        "bad_objects::what_no_node_can_do_is_told_with_object_field_and_value_and_pods_go_on";
    with_programs(name, |programs| {
        let one = Options {
            nodes: 1,
            ..options()
        };
        let mut lab = Lab::start(one, programs).unwrap_or_else(|error| panic!("{error}"));
        lab.fill_pods(2)
            .unwrap_or_else(|errors| panic!("{errors:?}"));
        let pool = json!({
            "apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool",
            "metadata": {"name": "inside"},
            "spec": {"cidr": "192.168.128.0/17", "vxlanMode": "Always", "nodeSelector": "!all()"},
        });
        lab.kube().server.apply(&pool.to_string()).unwrap();
        let words = [
            "inside",
            "192.168.128.0/17",
            "must not overlap",
            "192.168.0.0/16",
        ];
        is_told(&lab, &words);
        let settings = r#"--patch={"spec": {"vxlanMTU": 20, "interfacePrefix": "tortie"}}"#;
        let patch = [
            "patch",
            "felixconfigurations.crd.projectcalico.org",
            "default",
            "--type=merge",
            settings,
        ];
        lab.kube().server.kubectl(&patch).unwrap();
        is_told(&lab, &["default", "vxlanMTU", "20", "68 to 65535"]);
        is_told(&lab, &["default", "interfacePrefix", "tortie"]);
        assert_eq!(lab.prove().faults, Vec::<String>::new());
        lab.add_pod(0).unwrap_or_else(|error| panic!("{error}"));
    });
}
