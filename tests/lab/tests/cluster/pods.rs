//! Many pods.

use lab::{Lab, Options, Pod, SourceReporter, ask_source};

use crate::{converged, options, with_programs};

const PODS: usize = 1000;

/// TCP segments that a namespace had to send again (RFC 2012, tcpRetransSegs).
fn retransmitted(pod: &Pod) -> u64 {
    let text = pod
        .namespace
        .run(|| std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap());
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let names = lines.next().expect("names").split(' ');
    let values = lines.next().expect("values").split(' ');
    let field = names
        .zip(values)
        .find(|(name, _)| *name == "RetransSegs")
        .expect("in every kernel");
    field.1.parse().unwrap()
}

#[test]
fn none_of_a_thousand_pods_waits_for_its_first_connection() {
    with_programs(
        "pods::none_of_a_thousand_pods_waits_for_its_first_connection",
        |programs| {
            // 1,000 addresses are 16 blocks of 64; a node may have 20.
            let mut lab = Lab::start(
                Options {
                    nodes: 2,
                    ..options()
                },
                programs,
            )
            .unwrap_or_else(|error| panic!("{error}"));
            let anchor = lab
                .add_pod(1)
                .unwrap_or_else(|error| panic!("{error}"))
                .clone();
            let near = lab
                .add_pod(0)
                .unwrap_or_else(|error| panic!("{error}"))
                .clone();
            converged(&mut lab);
            // A pod of the same node: no other node's route is in play.
            let reporter = SourceReporter::open(&near.namespace, near.address).unwrap();
            let mut stalled = Vec::new();
            for _ in 1..PODS {
                let pod = lab.add_pod(0).unwrap_or_else(|error| panic!("{error}"));
                let seen =
                    ask_source(&pod.namespace, reporter.address(), options().patience).unwrap();
                assert_eq!(seen.source, pod.address);
                if retransmitted(pod) > 0 {
                    stalled.push((pod.label(), seen.took));
                }
            }
            assert!(
                stalled.is_empty(),
                "{} of {PODS} had to send their SYN again: {stalled:?}",
                stalled.len()
            );
            converged(&mut lab);
            let far = SourceReporter::open(&anchor.namespace, anchor.address).unwrap();
            let last = lab.pods.last().expect("just made");
            assert_eq!(
                ask_source(&last.namespace, far.address(), options().patience)
                    .unwrap()
                    .source,
                last.address
            );
        },
    );
}
