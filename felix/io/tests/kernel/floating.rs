//! Floating addresses, prefixes that a pod may send under, and what nobody translated of Services' addresses.

use std::net::SocketAddr;

use felix::desired::Row;
use felix::rules::{
    Action, Chain, FORWARD, Family, Hook, Match, OUTPUT, POSTROUTING, PREROUTING, Rule, Ruleset,
};

use crate::namespace::kernel_test;
use crate::node::{Node, bound, give, ip, net, route, set_in, sysctl, via};
use crate::rules::nft;

const WORLD: &str = "10.0.0.2";
const FLOATING: &str = "198.51.100.5";

fn base(name: &'static str, kind: &'static str, number: u32, rules: Vec<Rule>) -> Chain {
    Chain {
        name,
        hook: Some(Hook {
            kind,
            number,
            priority: if kind == "nat" { -100 } else { 0 },
        }),
        rules,
    }
}

fn rule(matches: Vec<Match>, action: Action) -> Rule {
    Rule { matches, action }
}

kernel_test!(
    a_floating_address_leads_to_its_pod_and_the_pod_to_itself,
    async {
        let node = Node::new().await;
        let world = || node.world.try_clone().unwrap();
        give(world(), "world0", &format!("{WORLD}/24")).await;
        let pod = node.pod(1).await;
        let own = net(&format!("{}/32", pod.addr));
        let to_pod = |name, hook| {
            let matches = vec![Match::DestinationWithin(net(&format!("{FLOATING}/32")))];
            base(
                name,
                "nat",
                hook,
                vec![rule(matches, Action::DestinationNat(pod.addr))],
            )
        };
        let itself = vec![Match::SourceWithin(own), Match::DestinationWithin(own)];
        let from_itself = rule(itself, Action::SourceNat(ip(FLOATING), None));
        let ruleset = Ruleset {
            chains: vec![
                to_pod("nat-PREROUTING", PREROUTING),
                to_pod("nat-OUTPUT", OUTPUT),
                base("nat-POSTROUTING", "nat", POSTROUTING, vec![from_itself]),
            ],
            ..Ruleset::default()
        };
        node.set(Row::Rules(Family::V4, ruleset.into())).await;
        let at = bound(pod.netns(), pod.addr).await;
        let to = SocketAddr::new(ip(FLOATING), at.local_addr().unwrap().port());
        // The world, the node and the pod itself; the world's packets come by the node.
        give(world(), "lo", "203.0.113.1/32").await;
        let way = route(&format!("{FLOATING}/32"), via("10.0.0.1", "world0"));
        set_in(world(), way).await;
        let from_world = bound(world(), ip(WORLD)).await;
        let from_node = bound(crate::namespace::own(), ip("10.0.0.1")).await;
        let from_pod = bound(pod.netns(), pod.addr).await;
        for (from, seen_as) in [
            (&from_world, ip(WORLD)),
            (&from_node, ip("10.0.0.1")),
            (&from_pod, ip(FLOATING)),
        ] {
            from.send_to(b"x", to).unwrap();
            let seen = at.recv_from(&mut [0; 4]).unwrap().1;
            assert_eq!(seen.ip(), seen_as);
            // The answer comes from whom it was sent to.
            at.send_to(b"y", seen).unwrap();
            assert_eq!(from.recv_from(&mut [0; 4]).unwrap().1, to);
        }
        if let Some(text) = nft(&["list", "table", "ip", "calico"]) {
            for part in ["ip daddr 198.51.100.5 dnat to 10.65.0.1", "snat to"] {
                assert!(text.contains(part), "{part}:\n{text}");
            }
        }
    }
);

kernel_test!(a_pod_sends_under_a_prefix_that_is_let_through, async {
    let node = Node::new().await;
    let world = || node.world.try_clone().unwrap();
    give(world(), "world0", &format!("{WORLD}/24")).await;
    let pod = node.pod(1).await;
    let mut senders = Vec::new();
    for addr in ["192.0.2.9", "192.0.3.9"] {
        give(pod.netns(), "lo", &format!("{addr}/32")).await;
        senders.push(bound(pod.netns(), ip(addr)).await);
    }
    senders.push(bound(pod.netns(), pod.addr).await);
    for key in ["all", "cali00000000001"] {
        let key = format!("net/ipv4/conf/{key}/rp_filter");
        node.set(sysctl(&key, "0")).await;
    }
    let at = bound(world(), ip(WORLD)).await;
    let device = || Match::InputDevice("cali00000000001".into());
    let rules = vec![
        rule(
            vec![device(), Match::SourceWithin(net("192.0.2.0/24"))],
            Action::Return,
        ),
        rule(vec![device(), Match::NoReversePath], Action::Drop),
    ];
    let mut chain = base("raw-PREROUTING", "filter", PREROUTING, rules);
    chain.hook.as_mut().unwrap().priority = -300;
    let ruleset = Ruleset {
        chains: vec![chain],
        ..Ruleset::default()
    };
    node.set(Row::Rules(Family::V4, ruleset.into())).await;
    for sender in &senders {
        sender.send_to(b"x", at.local_addr().unwrap()).unwrap();
    }
    let seen = || at.recv_from(&mut [0; 4]).unwrap().1.ip().to_string();
    assert_eq!(
        [seen(), seen()],
        ["192.0.2.9".to_owned(), pod.addr.to_string()]
    );
});

kernel_test!(
    what_nobody_translated_of_services_addresses_is_dropped_or_refused,
    async {
        let node = Node::new().await;
        let world = || node.world.try_clone().unwrap();
        // The router sends what is for Services to the node, whose default route leads back.
        give(world(), "world0", &format!("{WORLD}/24")).await;
        let way = route("10.96.0.0/12", via("10.0.0.1", "world0"));
        set_in(world(), way).await;
        let ruleset = |action| Ruleset {
            sets: [("services", vec![net("10.96.0.0/12")])].into(),
            chains: vec![base(
                "filter-FORWARD",
                "filter",
                FORWARD,
                vec![rule(vec![Match::Destination("services")], action)],
            )],
            ..Ruleset::default()
        };
        node.set(Row::Rules(Family::V4, ruleset(Action::Reject).into()))
            .await;
        // A redirect counts against how often the kernel tells a sender of an error.
        for device in ["all", "eth0"] {
            let key = format!("net/ipv4/conf/{device}/send_redirects");
            node.set(sysctl(&key, "0")).await;
        }
        let pod = node.pod(1).await;
        for (namespace, addr) in [(world(), ip(WORLD)), (pod.netns(), pod.addr)] {
            let socket = bound(namespace, addr).await;
            socket.connect(("10.96.0.10", 53)).unwrap();
            socket.send(b"x").unwrap();
            let error = socket.recv(&mut [0; 4]).unwrap_err();
            assert_eq!(
                error.kind(),
                std::io::ErrorKind::ConnectionRefused,
                "{addr}"
            );
        }
        // Now the world is where the node's default route leads, and has the address.
        give(world(), "lo", "10.96.0.10/32").await;
        let at = bound(world(), ip("0.0.0.0")).await;
        let port = at.local_addr().unwrap().port();
        let from = bound(pod.netns(), pod.addr).await;
        let arrived = || {
            for (number, to) in ["10.96.0.10", WORLD].into_iter().enumerate() {
                let number = u8::try_from(number).unwrap();
                from.send_to(&[number], (to, port)).unwrap();
            }
            let mut seen = Vec::new();
            while seen.last() != Some(&1) {
                let mut packet = [9; 1];
                at.recv_from(&mut packet).unwrap();
                seen.push(packet[0]);
            }
            seen
        };
        node.set(Row::Rules(Family::V4, ruleset(Action::Drop).into()))
            .await;
        assert_eq!(arrived(), [1]);
        // What is translated has another destination by then.
        let mut translated = ruleset(Action::Drop);
        let service = vec![Match::DestinationWithin(net("10.96.0.10/32"))];
        let to = rule(service, Action::DestinationNat(ip(WORLD)));
        let chain = base("nat-PREROUTING", "nat", PREROUTING, vec![to]);
        translated.chains.push(chain);
        node.set(Row::Rules(Family::V4, translated.into())).await;
        let from = bound(pod.netns(), pod.addr).await;
        from.send_to(&[0], ("10.96.0.10", port)).unwrap();
        assert_eq!(at.recv_from(&mut [9; 1]).unwrap().1.ip(), pod.addr);
    }
);
