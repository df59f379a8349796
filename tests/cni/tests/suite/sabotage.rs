//! A plugin that breaks one point fails at that point.

use std::time::Duration;

use cni_conformance::{Outcome, POINTS, Subject, examine, table};
use serde_json::json;

use crate::{one_node, ours, stand_in, with_programs};

/// What is broken, and the points that must fail for it.
const BROKEN: &[(&str, &[&str])] = &[
    (
        "takes-a-default-interface",
        &["a missing variable is error 4"],
    ),
    (
        "takes-any-container-id",
        &["a bad container id or interface name is error 4"],
    ),
    (
        "refuses-unknown-args",
        &["CNI_ARGS with IgnoreUnknown may hold anything"],
    ),
    (
        "refuses-unknown-keys",
        &["unknown keys of args and runtimeConfig are passed over"],
    ),
    (
        "reads-anything",
        &["a configuration that cannot be read is error 6"],
    ),
    (
        "takes-any-name",
        &["a configuration without a valid name is error 7"],
    ),
    (
        "takes-any-version",
        &["a version that is not offered is error 1"],
    ),
    ("talks", &["ADD makes what its result says"]),
    ("invents-a-mac", &["ADD makes what its result says"]),
    (
        "knows-one-version",
        &["the result has the shape of the configuration's version"],
    ),
    (
        "overwrites",
        &["ADD fails where the interface exists and leaves it alone"],
    ),
    (
        "knows-one-interface",
        &["a container may be added again with another interface name"],
    ),
    (
        "gives-one-address-to-all",
        &["different containers may be added at once"],
    ),
    (
        "forgets-what-came-before",
        &["what earlier plugins of the list made is passed on"],
    ),
    (
        "deletes-nothing",
        &[
            "DEL removes what ADD made",
            "the delegate's DEL follows, also when the namespace is gone",
        ],
    ),
    (
        "deletes-once",
        &["DEL may be called again and for what was never added"],
    ),
    (
        "needs-a-namespace",
        &["DEL works without CNI_NETNS and after the namespace is gone"],
    ),
    (
        "needs-the-result",
        &["DEL works with prevResult and without"],
    ),
    (
        "keeps-addresses",
        &[
            "DEL gives addresses back",
            "DEL works without CNI_NETNS and after the namespace is gone",
        ],
    ),
    ("deletes-everybody", &["DEL leaves other containers alone"]),
    (
        "prints-ok",
        &[
            "CHECK after ADD succeeds and prints nothing",
            "CHECK needs prevResult",
        ],
    ),
    (
        "checks-nothing",
        &[
            "CHECK needs prevResult",
            "CHECK fails when the interface is gone",
            "CHECK fails when an address is gone",
            "CHECK fails when a route is gone",
            "the delegate's CHECK follows",
        ],
    ),
    (
        "allows-nothing-else",
        &["CHECK allows for what later plugins add"],
    ),
    (
        "checks-in-any-version",
        &["CHECK of a version before 0.4.0 is error 1"],
    ),
    (
        "prints-its-status",
        &["STATUS says nothing when ADD can be served"],
    ),
    (
        "collects-nothing",
        &["GC removes what is not listed and keeps what is"],
    ),
    (
        "collects-everything",
        &["GC removes what is not listed and keeps what is"],
    ),
    (
        "collects-in-any-version",
        &["GC and STATUS of a version before 1.1.0 are error 1"],
    ),
    (
        "hides-variables",
        &["the delegate gets the whole configuration and the same variables"],
    ),
    (
        "leaves-the-delegate",
        &[
            "the delegate's DEL follows, also when the namespace is gone",
            "the delegate's CHECK follows",
            "the delegate's STATUS and GC follow",
        ],
    ),
    (
        "keeps-what-was-given",
        &["after a failed ADD the delegate's DEL follows"],
    ),
];

/// Points that no wrapper can break without the suite noticing before: without versions there is nothing to examine; what a failed
/// ADD leaves is the same as what a DEL leaves.
const UNBROKEN: &[&str] = &[
    "VERSION needs no other variable",
    "after a failed ADD and its DEL nothing is left",
];

#[test]
fn each_point_fails_for_a_plugin_that_breaks_it() {
    for point in POINTS {
        let named = BROKEN
            .iter()
            .any(|(_, points)| points.contains(&point.says));
        assert!(
            named != UNBROKEN.contains(&point.says),
            "{:?} is broken by nobody, or named twice",
            point.says
        );
    }
    let name = "sabotage::each_point_fails_for_a_plugin_that_breaks_it";
    with_programs(name, |programs| {
        let lab = one_node(programs);
        stand_in("recording-ipam");
        let subject = ours(&lab.topology.sites[0]);
        for (fault, points) in BROKEN {
            let kind = format!("broken-{fault}");
            stand_in(&kind);
            let mut broken: Subject = subject.clone();
            // What never comes need not be waited for long.
            broken.patience = Duration::from_secs(2);
            broken.network.list["plugins"][0]["type"] = json!(kind);
            broken.network.list["plugins"][0]["wraps"] = json!("calico");
            let findings = examine(&broken, |point| points.contains(&point.says)).unwrap();
            println!("{fault}\n{}", table(&findings));
            assert_eq!(
                findings.len(),
                points.len(),
                "{fault}: a point has another name"
            );
            for finding in findings {
                assert!(
                    matches!(finding.outcome, Outcome::Breaks(_)),
                    "{fault} passes for {:?}",
                    finding.says
                );
            }
            // What it left must not be in the next one's way.
            lab_is_clean(&subject);
        }
    });
}

/// Collects what a broken plugin left.
fn lab_is_clean(subject: &Subject) {
    let mut network = subject.network.clone();
    network.list["cniVersion"] = json!("1.1.0");
    network.collect(&[]).unwrap();
}
