//! Packets that rules stop, and sets whose elements change one by one.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use felix::desired::{ElementKey, Row};
use felix::kernel::{KernelEvent, Op};
use felix::rules::{Action, Chain, Family, Hook, INPUT, Match, PREROUTING, Rule, Rules, Ruleset};
use felix_io::Table;

use crate::namespace::kernel_test;
use crate::node::{Node, bound, events_until, give, ip};
use crate::rules::nft;

const NODE: &str = "10.0.0.1";
const WORLD: &str = "10.0.0.2";
const STRANGER: &str = "10.0.0.3";
const UDP: u8 = 17;

fn filter(number: u32, priority: i32, rules: Vec<(Vec<Match>, Action)>) -> Ruleset {
    let rules = rules.into_iter();
    let chain = Chain {
        name: "filter",
        hook: Some(Hook {
            kind: "filter",
            number,
            priority,
        }),
        rules: rules
            .map(|(matches, action)| Rule { matches, action })
            .collect(),
    };
    Ruleset {
        chains: vec![chain],
        ..Ruleset::default()
    }
}

fn element(addr: &str) -> ElementKey {
    ElementKey {
        family: Family::V4,
        set: "nodes".into(),
        addr: ip(addr),
    }
}

/// Sends one packet from each socket, in order; which of them arrive, by their place. The last one must.
fn arrivals(from: &[&UdpSocket], at: &UdpSocket, to: SocketAddr) -> Vec<u8> {
    for (number, socket) in (0_u8..).zip(from) {
        // A packet that is dropped on its way out is an error here.
        let _ = socket.send_to(&[number], to);
    }
    let last = u8::try_from(from.len() - 1).unwrap();
    let mut seen = Vec::new();
    while seen.last() != Some(&last) {
        let mut packet = [0; 1];
        at.recv_from(&mut packet)
            .unwrap_or_else(|error| panic!("after {seen:?}: {error}"));
        seen.push(packet[0]);
    }
    seen
}

kernel_test!(
    packets_of_a_tunnel_are_taken_from_elements_of_the_set_that_change_one_by_one,
    async {
        let node = Node::new().await;
        let world = || node.world.try_clone().unwrap();
        for addr in [WORLD, STRANGER] {
            give(world(), "world0", &format!("{addr}/24")).await;
        }
        // What stands for VXLAN's port, and another one.
        let (tunnel, other) = (
            bound(crate::namespace::own(), ip(NODE)).await,
            bound(crate::namespace::own(), ip(NODE)).await,
        );
        let known = bound(world(), ip(WORLD)).await;
        let stranger = bound(world(), ip(STRANGER)).await;
        let to = tunnel.local_addr().unwrap();
        let rule = vec![
            Match::Protocol(UDP),
            Match::DestinationPort(to.port()),
            Match::NotSource("nodes"),
            Match::ToHost,
        ];
        let mut ruleset = filter(INPUT, 0, vec![(rule, Action::Drop)]);
        ruleset.address_sets.insert("nodes");
        let wanted = Rules::from(ruleset.clone());
        let written = Rules {
            elements: vec![element(WORLD)],
            ..wanted.clone()
        };
        let mut events = node.kernel.events().unwrap();
        node.set(Row::Rules(Family::V4, written)).await;
        let all = [&known, &stranger, &known];
        assert_eq!(arrivals(&all, &tunnel, to), [0, 2]);
        let elsewhere = other.local_addr().unwrap();
        assert_eq!(arrivals(&all, &other, elsewhere), [0, 1, 2], "another port");
        // One more, and one less; others notice.
        events_until(&mut events, |event| *event == KernelEvent::RulesChanged).await;
        node.set(Row::Element(element(STRANGER))).await;
        events_until(&mut events, |event| *event == KernelEvent::RulesChanged).await;
        assert_eq!(arrivals(&all, &tunnel, to), [0, 1, 2]);
        node.set(Row::Element(element(STRANGER))).await;
        node.remove(Row::Element(element(WORLD))).await;
        node.remove(Row::Element(element(WORLD))).await;
        assert_eq!(arrivals(&[&known, &stranger], &tunnel, to), [1]);
        // The rules were not written for that.
        let rows = node.rows(Table::Rules).await;
        let shown = rows.values().find_map(|row| match row {
            Row::Rules(_, rules) => Some(rules.shown.clone()),
            _ => None,
        });
        assert_eq!(shown, Some(wanted.shown));
        let elements = rows.values().filter(|row| matches!(row, Row::Element(_)));
        assert_eq!(
            elements.collect::<Vec<_>>(),
            [&Row::Element(element(STRANGER))]
        );
        if let Some(text) = nft(&["list", "table", "ip", "calico"]) {
            for part in [
                "elements = { 10.0.0.3 }",
                "ip saddr != @nodes fib daddr type local counter packets",
            ] {
                assert!(text.contains(part), "{part}:\n{text}");
            }
        }
    }
);

kernel_test!(thousands_of_elements_change_in_one_call, async {
    let node = Node::new().await;
    let ruleset = Ruleset {
        address_sets: ["nodes"].into(),
        ..Ruleset::default()
    };
    node.set(Row::Rules(Family::V4, ruleset.into())).await;
    let keys: Vec<Row> = (0..3000_u32)
        .map(|number| IpAddr::from((0x0a40_0000 + number).to_be_bytes()))
        .map(|addr| Row::Element(element(&addr.to_string())))
        .collect();
    let ok = |results: Vec<(_, Result<(), _>)>| results.iter().all(|(_, result)| result.is_ok());
    assert!(ok(node
        .kernel
        .apply(keys.iter().cloned().map(Op::Set).collect())
        .await));
    let count = async || {
        let rows = node.rows(Table::Rules).await;
        rows.values()
            .filter(|row| matches!(row, Row::Element(_)))
            .count()
    };
    assert_eq!(count().await, 3000);
    // One that is not there does not keep the others.
    let absent = Op::Remove(Row::Element(element("192.0.2.1")));
    let ops = keys[..1000].iter().cloned().map(Op::Remove);
    assert!(ok(node
        .kernel
        .apply([absent].into_iter().chain(ops).collect())
        .await));
    assert_eq!(count().await, 2000);
    // And one that cannot be written is the only one that is not.
    let nowhere = ElementKey {
        set: "elsewhere".into(),
        ..element("192.0.2.1")
    };
    let ops = vec![Op::Set(Row::Element(nowhere)), Op::Set(keys[0].clone())];
    let results = node.kernel.apply(ops).await;
    assert!(results[0].1.is_err() && results[1].1.is_ok(), "{results:?}");
});

kernel_test!(a_pod_sends_under_its_own_address_only, async {
    let node = Node::new().await;
    let world = || node.world.try_clone().unwrap();
    give(world(), "world0", &format!("{WORLD}/24")).await;
    let (pod, other) = (node.pod(1).await, node.pod(2).await);
    // Of a pod of the same node, of a pool, of the world: what sysctl rp_filter does not stop, either.
    let foreign = [
        other.addr.to_string(),
        "10.65.9.9".to_owned(),
        "192.0.2.9".to_owned(),
    ];
    let mut sockets = Vec::new();
    for addr in &foreign {
        give(pod.netns(), "lo", &format!("{addr}/32")).await;
        sockets.push(bound(pod.netns(), ip(addr)).await);
    }
    let own = bound(pod.netns(), pod.addr).await;
    let from: Vec<&UdpSocket> = sockets.iter().chain([&own]).collect();
    let at = bound(world(), ip(WORLD)).await;
    let to = at.local_addr().unwrap();
    node.set(crate::node::sysctl("net/ipv4/conf/all/rp_filter", "0"))
        .await;
    let key = "net/ipv4/conf/cali00000000001/rp_filter";
    node.set(crate::node::sysctl(key, "0")).await;
    assert_eq!(arrivals(&from, &at, to), [0, 1, 2, 3], "nobody looks");
    let rule = vec![Match::InputDevice("cali+".into()), Match::NoReversePath];
    let ruleset = filter(PREROUTING, -300, vec![(rule, Action::Drop)]);
    node.set(Row::Rules(Family::V4, ruleset.into())).await;
    assert_eq!(arrivals(&from, &at, to), [3]);
    if let Some(text) = nft(&["list", "table", "ip", "calico"]) {
        let rule = "iifname \"cali*\" fib saddr . iif oif";
        assert!(text.contains(rule), "{text}");
    }
});

kernel_test!(a_pod_gets_answers_of_its_node_and_nothing_else, async {
    let node = Node::new().await;
    let pod = node.pod(1).await;
    let at_node = bound(crate::namespace::own(), ip(NODE)).await;
    let at_pod = bound(pod.netns(), pod.addr).await;
    let (of_node, of_pod) = (at_node.local_addr().unwrap(), at_pod.local_addr().unwrap());
    assert_eq!(arrivals(&[&at_pod], &at_node, of_node), [0]);
    let from_pods = || Match::InputDevice("cali+".into());
    let rules = vec![
        (vec![from_pods(), Match::Established], Action::Return),
        (vec![from_pods()], Action::Drop),
    ];
    node.set(Row::Rules(Family::V4, filter(INPUT, 0, rules).into()))
        .await;
    // A new flow is asked about, one that the node began is not.
    let fresh = bound(pod.netns(), pod.addr).await;
    let asking = bound(crate::namespace::own(), ip(NODE)).await;
    assert_eq!(arrivals(&[&asking], &at_pod, of_pod), [0]);
    fresh.send_to(&[7], asking.local_addr().unwrap()).unwrap();
    assert_eq!(
        arrivals(&[&at_pod], &asking, asking.local_addr().unwrap()),
        [0],
        "the answer alone"
    );
    if let Some(text) = nft(&["list", "table", "ip", "calico"]) {
        let rule = "ct state established,related return";
        assert!(text.contains(rule), "{text}");
    }
});
