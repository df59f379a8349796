//! Who conforms.

use std::time::Duration;

use cni_conformance::{Delegate, Outcome, Subject, breaches, examine, table};
use lab::{Families, Topology};
use serde_json::json;

use crate::{needs, network, one_node, ours, stand_in, with_programs};

#[test]
fn our_plugin_does_what_the_specification_says_at_each_point() {
    let name = "conformance::our_plugin_does_what_the_specification_says_at_each_point";
    with_programs(name, |programs| {
        let lab = one_node(programs);
        stand_in("recording-ipam");
        let findings = examine(&ours(&lab.topology.sites[0]), |_| true).unwrap();
        println!("{}", table(&findings));
        assert_eq!(breaches(&findings), []);
        let applies = |outcome: &Outcome| !matches!(outcome, Outcome::NotApplicable);
        assert!(findings.iter().all(|finding| applies(&finding.outcome)));
    });
}

/// What the reference plugin of Debian 12 (1.1.1) does not do. A newer one may.
const NOT_DONE_BY_PTP: &[&str] = &[
    // Both interfaces have a route to one gateway, which the kernel takes once.
    "a container may be added again with another interface name",
    "what earlier plugins of the list made is passed on",
];

#[test]
fn debians_ptp_passes_where_the_suite_is_right() {
    needs("ptp");
    needs("host-local");
    let name = "conformance::debians_ptp_passes_where_the_suite_is_right";
    with_programs(name, |_| {
        let topology = Topology::build(1, 1, Families::V4).unwrap();
        std::fs::create_dir_all(crate::PLUGINS).unwrap();
        stand_in("recording-ipam");
        let plugin = json!({"type": "ptp", "ipam": {
            "type": "host-local", "dataDir": "/run/tortie-lab/host-local",
            "ranges": [[{"subnet": "10.98.0.0/29"}]], "routes": [{"dst": "0.0.0.0/0"}],
        }});
        let ptp = Subject {
            network: network(&topology.sites[0], plugin),
            addresses: 5,
            patience: Duration::from_secs(60),
            host_prefix: "veth",
            delegate: Some(Delegate {
                kind: "recording-ipam".to_owned(),
                address: "10.99.0.5/24",
                gateway: "10.99.0.1",
            }),
        };
        let findings = examine(&ptp, |_| true).unwrap();
        println!("{}", table(&findings));
        let broken: Vec<_> = breaches(&findings)
            .into_iter()
            .filter(|(says, _)| !NOT_DONE_BY_PTP.contains(says))
            .collect();
        assert_eq!(broken, []);
    });
}
