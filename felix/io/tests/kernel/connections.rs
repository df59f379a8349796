//! Tracked connections of addresses that move.

use std::collections::BTreeSet;

use felix::desired::Row;
use felix::rules::{Action, Chain, FORWARD, Family, Hook, Match, Rule, Ruleset};
use felix_io::conntrack;

use crate::namespace::kernel_test;
use crate::node::{Node, Pod, bound};

/// A rule that has connections tracked.
fn tracking() -> Row {
    let rule = Rule {
        matches: vec![Match::Established],
        action: Action::Return,
    };
    let chain = Chain {
        name: "filter-FORWARD",
        hook: Some(Hook {
            kind: "filter",
            number: FORWARD,
            priority: 0,
        }),
        rules: vec![rule],
    };
    let ruleset = Ruleset {
        chains: vec![chain],
        ..Ruleset::default()
    };
    Row::Rules(Family::V4, ruleset.into())
}

/// One packet from a pod to another one.
async fn sent(from: &Pod, to: &Pod) {
    let at = bound(to.netns(), to.addr).await;
    let from = bound(from.netns(), from.addr).await;
    from.send_to(b"hello", at.local_addr().unwrap()).unwrap();
    at.recv_from(&mut [0; 8]).unwrap();
}

/// Addresses of the tracked connections of pods, as the kernel's own list has them.
fn tracked() -> Option<Vec<String>> {
    let text = std::fs::read_to_string("/proc/thread-self/net/nf_conntrack").ok()?;
    let field = |line: &str, name: &str| {
        let mut words = line.split(' ').filter_map(|word| word.strip_prefix(name));
        words.next().unwrap_or_default().to_owned()
    };
    let of_pods = text.lines().filter(|line| line.contains("src=10.65."));
    let mut found: Vec<String> = of_pods
        .map(|line| format!("{}>{}", field(line, "src="), field(line, "dst=")))
        .collect();
    found.sort();
    Some(found)
}

kernel_test!(
    connections_that_an_address_began_or_answers_are_forgotten_and_no_others,
    async {
        let node = Node::new().await;
        node.set(tracking()).await;
        let (one, two, three) = (node.pod(1).await, node.pod(2).await, node.pod(3).await);
        for (from, to) in [(&one, &two), (&two, &three), (&three, &one)] {
            sent(from, to).await;
        }
        let Some(before) = tracked() else {
            harness::skip(
                "conntrack",
                "the kernel does not list tracked connections in /proc/net/nf_conntrack",
            );
        };
        assert_eq!(
            before,
            [
                "10.65.0.1>10.65.0.2",
                "10.65.0.2>10.65.0.3",
                "10.65.0.3>10.65.0.1"
            ]
        );
        let gone = BTreeSet::from([one.addr]);
        assert_eq!(conntrack::forget(gone.clone()).await.unwrap(), 2);
        assert_eq!(tracked().unwrap(), ["10.65.0.2>10.65.0.3"]);
        assert_eq!(conntrack::forget(gone).await.unwrap(), 0);
    }
);
