//! The real program against an embedded store served by the test, and against an agent played by the test.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

#[path = "program/agent.rs"]
mod agent;
#[path = "program/ipam.rs"]
mod ipam_commands;
#[path = "program/support.rs"]
mod support;
#[path = "program/verbs.rs"]
mod verbs;

use serde_json::Value;
use support::{Directory, MANIFEST, err, out, run, with_store};

#[test]
fn what_is_applied_is_shown_and_deleted() {
    with_store("round", |ctl| {
        let applied = ctl(&["apply", "-f", "-"], MANIFEST);
        assert!(applied.status.success(), "{}", err(&applied));
        assert_eq!(out(&applied), "Successfully applied 3 resource(s)\n");
        assert_eq!(
            err(&applied),
            "note: IPAMConfig(default): spec.kubeVirtVMAddressPersistence is kept and has no effect in this version\n"
        );

        let peers = out(&ctl(&["get", "bgpPeer"], ""));
        let lines: Vec<&str> = peers.lines().collect();
        assert_eq!(
            lines[0].split_whitespace().collect::<Vec<_>>(),
            ["NAME", "PEERIP", "NODE", "ASN"]
        );
        assert_eq!(
            lines[1].split_whitespace().collect::<Vec<_>>(),
            ["tor", "192.0.2.1", "(global)", "65000"]
        );

        let pool: Value =
            serde_json::from_slice(&ctl(&["get", "pool", "first", "-o", "json"], "").stdout)
                .unwrap();
        assert_eq!(pool["spec"]["assignmentMode"], "Manual", "{pool}");
        assert!(pool["metadata"]["resourceVersion"].is_string(), "{pool}");

        // What `get` prints can be applied again.
        let yaml = out(&ctl(&["get", "pool", "first", "-o", "yaml"], ""));
        let again = ctl(&["apply", "-f", "-"], &yaml);
        assert_eq!(
            out(&again),
            "Successfully applied 1 'IPPool' resource(s)\n",
            "{}",
            err(&again)
        );
        assert_eq!(
            out(&ctl(&["get", "pools", "-o", "name"], "")),
            "ippool/first\n"
        );

        let deleted = ctl(&["delete", "bgppeer", "tor"], "");
        assert_eq!(
            out(&deleted),
            "Successfully deleted 1 'BGPPeer' resource(s)\n"
        );
        let gone = ctl(&["get", "bgppeer", "tor"], "");
        assert_eq!(gone.status.code(), Some(1));
        assert_eq!(err(&gone), "resource does not exist: BGPPeer(tor)\n");
    });
}

#[test]
fn nothing_is_written_when_one_object_of_a_manifest_is_wrong() {
    with_store("wrong", |ctl| {
        let wrong = format!(
            "{MANIFEST}\n---\nkind: IPPool\nmetadata: {{name: bad}}\nspec: {{cidr: 10.1.0.0/16, blockSize: 19}}\n"
        );
        let output = ctl(&["apply", "-f", "-"], &wrong);
        assert_eq!(output.status.code(), Some(1));
        let said = err(&output);
        for word in ["IPPool(bad)", "spec.blockSize", "19", "20 to 32"] {
            assert!(said.contains(word), "no {word:?} in {said}");
        }
        assert_eq!(out(&ctl(&["get", "ippools", "-o", "name"], "")), "");
    });
}

#[test]
fn every_wrong_field_of_a_pool_is_named_with_its_value_and_rule() {
    with_store("fields", |ctl| {
        for (spec, words) in [
            ("cidr: 10.1.0.0/99", ["spec.cidr", "10.1.0.0/99"].as_slice()),
            (
                "cidr: 10.1.0.0/16, blocksize: 26, vxlan: true",
                &["spec.blocksize", "blockSize is", "spec.vxlan", "vxlanMode"],
            ),
            (
                "cidr: 10.1.0.0/16, blockSize: 33",
                &["spec.blockSize", "33", "20 to 32"],
            ),
            (
                "cidr: 10.1.0.0/16, vxlanMode: Sometimes",
                &["vxlanMode", "Sometimes", "Always", "CrossSubnet", "Never"],
            ),
            (
                "cidr: 10.1.0.0/16, ipipMode: Always, vxlanMode: CrossSubnet",
                &["ipipMode", "vxlanMode", "Always", "CrossSubnet", "Never"],
            ),
        ] {
            let pool = format!("kind: IPPool\nmetadata: {{name: bad}}\nspec: {{{spec}}}\n");
            let output = ctl(&["apply", "-f", "-"], &pool);
            let said = err(&output);
            assert_eq!(output.status.code(), Some(1), "{spec}: {said}");
            for word in words {
                assert!(said.contains(word), "{spec}: no {word:?} in: {said}");
            }
        }
        assert_eq!(out(&ctl(&["get", "ippools", "-o", "name"], "")), "");
    });
}

#[test]
fn overlapping_pool_is_refused_with_both_ranges() {
    with_store("overlap", |ctl| {
        assert!(ctl(&["apply", "-f", "-"], MANIFEST).status.success());
        let second = "kind: IPPool\nmetadata: {name: second}\nspec: {cidr: 10.48.128.0/17}\n";
        let output = ctl(&["apply", "-f", "-"], second);
        assert_eq!(output.status.code(), Some(1));
        let said = err(&output);
        assert!(
            said.contains("10.48.128.0/17") && said.contains("10.48.0.0/16"),
            "{said}"
        );
        assert_eq!(
            out(&ctl(&["get", "ippools", "-o", "name"], "")),
            "ippool/first\n"
        );
    });
}

#[test]
fn range_and_block_size_of_a_pool_stay() {
    with_store("stay", |ctl| {
        assert!(ctl(&["apply", "-f", "-"], MANIFEST).status.success());
        let other = MANIFEST.replace("10.48.0.0/16", "10.49.0.0/16");
        let output = ctl(&["apply", "-f", "-"], &other);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            err(&output).contains("must stay 10.48.0.0/16"),
            "{}",
            err(&output)
        );
    });
}

#[test]
fn create_refuses_what_exists_unless_it_is_skipped() {
    with_store("create", |ctl| {
        assert!(ctl(&["create", "-f", "-"], MANIFEST).status.success());
        let again = ctl(&["create", "-f", "-"], MANIFEST);
        assert_eq!(again.status.code(), Some(1));
        assert!(
            err(&again).contains("resource already exists: IPPool(first)"),
            "{}",
            err(&again)
        );
        assert!(
            ctl(&["create", "--skip-exists", "-f", "-"], MANIFEST)
                .status
                .success()
        );
    });
}

#[test]
fn empty_manifest_and_unknown_kind_are_named() {
    with_store("empty", |ctl| {
        assert_eq!(
            err(&ctl(&["apply", "-f", "-"], "")),
            "No resources specified\n"
        );
        let unknown = ctl(&["get", "pods"], "");
        assert_eq!(unknown.status.code(), Some(1));
        assert!(err(&unknown).contains("\"pods\"") && err(&unknown).contains("IPPool"));
    });
}

#[test]
fn store_that_does_not_answer_is_named() {
    let directory = Directory::new("nostore");
    let output = run(&directory.file("store.sock"), &["get", "nodes"], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("store.sock"), "{}", err(&output));
}

#[test]
fn what_a_change_of_a_pool_means_for_its_pods_is_said_before() {
    with_store("in-use", |ctl| {
        let pool = |more: &str| {
            format!(
                "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: p}}\n\
                 spec: {{cidr: 10.1.0.0/16, natOutgoing: true{more}}}\n"
            )
        };
        let endpoint = "apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\n\
             metadata: {name: n1-k8s-web-eth0, namespace: default}\n\
             spec: {node: n1, orchestrator: k8s, pod: web, endpoint: eth0, interfaceName: cali1, \
             ipNetworks: [10.1.0.5/32]}\n";
        let warned = |output: &std::process::Output| {
            assert!(output.status.success(), "{}", err(output));
            err(output)
                .lines()
                .any(|line| line.starts_with("warning: IPPool(p): in use by 1 pod on 1 node."))
        };
        assert!(!warned(&ctl(&["apply", "-f", "-"], &pool(""))));
        assert!(
            !warned(&ctl(&["apply", "-f", "-"], &pool(", disabled: true"))),
            "no pod"
        );
        ctl(&["apply", "-f", "-"], &pool(""));
        let applied = ctl(&["apply", "-f", "-"], endpoint);
        assert!(applied.status.success(), "{}", err(&applied));
        assert!(!warned(&ctl(&["apply", "-f", "-"], &pool(""))), "as it was");
        assert!(warned(&ctl(
            &["apply", "-f", "-"],
            &pool(", disabled: true")
        )));
        assert!(warned(&ctl(
            &["apply", "-f", "-"],
            &pool(", vxlanMode: Always")
        )));
        assert!(warned(&ctl(&["delete", "ippool", "p"], "")));
    });
}
