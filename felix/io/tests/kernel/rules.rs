//! Packet rules: what they do to packets, and what the kernel shows of them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::Command;

use felix::desired::{AddrKey, Row, RowKey};
use felix::kernel::KernelEvent;
use felix::rules::{Action, Chain, Family, Hook, Match, OUTPUT, POSTROUTING, Rule, Rules, Ruleset};
use felix_io::{Table, netns};

use crate::namespace::kernel_test;
use crate::node::{Node, Pod, bound, events_until, give, ip, net};

const WORLD: &str = "10.0.0.2";
const NODE: &str = "10.0.0.1";

/// A node with a pod, and a socket in the world beyond it.
struct Place {
    node: Node,
    pod: Pod,
    world: UdpSocket,
}

impl Place {
    async fn new() -> Self {
        let node = Node::new().await;
        let world = || node.world.try_clone().unwrap();
        give(world(), "world0", &format!("{WORLD}/24")).await;
        let pod = node.pod(1).await;
        let world = bound(world(), ip(WORLD)).await;
        Self { node, pod, world }
    }

    /// Who the world takes for the sender of a packet of the pod.
    async fn seen(&self) -> SocketAddr {
        sent(self.pod.netns(), self.world.local_addr().unwrap()).await;
        self.world.recv_from(&mut [0; 16]).unwrap().1
    }

    async fn rules(&self, family: Family) -> Option<Rules> {
        match self
            .node
            .rows(Table::Rules)
            .await
            .remove(&RowKey::Rules(family))?
        {
            Row::Rules(_, rules) => Some(rules),
            other => panic!("{other:?}"),
        }
    }
}

async fn sent(from: OwnedFd, to: SocketAddr) {
    let sent = netns::run(from, move || {
        let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
        socket.send_to(b"hello", to).unwrap();
    });
    sent.await.unwrap();
}

fn base(name: &'static str, kind: &'static str, number: u32, rules: Vec<Rule>) -> Chain {
    Chain {
        name,
        hook: Some(Hook {
            kind,
            number,
            priority: 110,
        }),
        rules,
    }
}

/// A pool's NAT-outgoing with this action.
fn nat_outgoing(matches: Vec<Match>, action: Action) -> Ruleset {
    let inner = Rule {
        matches: [
            vec![Match::Source("masq"), Match::NotDestination("pools")],
            matches,
        ]
        .concat(),
        action,
    };
    let jump = Rule {
        matches: Vec::new(),
        action: Action::Jump("nat-outgoing"),
    };
    Ruleset {
        sets: BTreeMap::from([
            ("masq", vec![net("10.65.0.0/16")]),
            ("pools", vec![net("10.64.0.0/15"), net("192.168.0.0/16")]),
        ]),
        chains: vec![
            Chain {
                name: "nat-outgoing",
                hook: None,
                rules: vec![inner],
            },
            base("nat-POSTROUTING", "nat", POSTROUTING, vec![jump]),
        ],
        ..Ruleset::default()
    }
}

fn row(ruleset: Ruleset) -> Row {
    Row::Rules(Family::V4, ruleset.into())
}

kernel_test!(the_world_sees_the_node_and_other_pods_see_the_pod, async {
    let place = Place::new().await;
    assert_eq!(place.seen().await.ip(), place.pod.addr, "no rules yet");
    place
        .node
        .set(row(nat_outgoing(Vec::new(), Action::Masquerade(None))))
        .await;
    assert_eq!(place.seen().await.ip(), ip(NODE));
    let other = place.node.pod(2).await;
    let server = crate::workload::listener(other.netns(), other.addr).await;
    let seen = crate::workload::exchange(place.pod.netns(), &server)
        .await
        .seen;
    assert_eq!(seen, place.pod.addr, "no translation inside the pools");
    place.node.remove(row(Ruleset::default())).await;
    assert_eq!(place.rules(Family::V4).await, None);
    assert_eq!(
        place.seen().await.ip(),
        place.pod.addr,
        "the rules are gone"
    );
});

kernel_test!(
    translations_take_the_address_and_ports_they_are_given,
    async {
        let place = Place::new().await;
        let udp = || vec![Match::Protocol(17)];
        let set = async |matches, action| place.node.set(row(nat_outgoing(matches, action))).await;
        set(udp(), Action::Masquerade(Some(2000..=2001))).await;
        let seen = place.seen().await;
        assert_eq!(seen.ip(), ip(NODE));
        assert!((2000..=2001).contains(&seen.port()), "{seen}");
        set(udp(), Action::SourceNat(ip("10.0.0.77"), Some(3000..=3001))).await;
        let seen = place.seen().await;
        assert_eq!(seen.ip(), ip("10.0.0.77"));
        assert!((3000..=3001).contains(&seen.port()), "{seen}");
        set(Vec::new(), Action::SourceNat(ip("10.0.0.78"), None)).await;
        assert_eq!(place.seen().await.ip(), ip("10.0.0.78"));
        // Another device, another protocol: the rule is not for this packet.
        for matches in [
            vec![Match::OutputDevice("eth1".into())],
            vec![Match::OutputDevice("eth".into())],
            vec![Match::Protocol(6)],
        ] {
            set(matches, Action::Masquerade(None)).await;
            assert_eq!(place.seen().await.ip(), place.pod.addr);
        }
        for pattern in ["eth0", "eth+", "+"] {
            set(
                vec![Match::OutputDevice(pattern.into())],
                Action::Masquerade(None),
            )
            .await;
            assert_eq!(place.seen().await.ip(), ip(NODE), "{pattern}");
        }
    }
);

kernel_test!(
    only_a_source_of_another_device_is_masqueraded_into_a_tunnel,
    async {
        let place = Place::new().await;
        // The node's own packets: from eth0's address by eth0, and from another device's.
        let own = Row::Addr(AddrKey {
            ifname: "lo".into(),
            addr: net("10.99.0.1/32"),
        });
        place.node.set(own).await;
        let rule = Rule {
            matches: vec![
                Match::OutputDevice("eth0".into()),
                Match::SourceOfAnotherDevice,
            ],
            action: Action::Masquerade(None),
        };
        let chain = base("nat-POSTROUTING", "nat", POSTROUTING, vec![rule]);
        let chains = vec![chain];
        place
            .node
            .set(row(Ruleset {
                chains,
                ..Ruleset::default()
            }))
            .await;
        let to = place.world.local_addr().unwrap();
        let seen = |from: IpAddr| {
            let socket = UdpSocket::bind((from, 0)).unwrap();
            socket.send_to(b"hello", to).unwrap();
            let from = socket.local_addr().unwrap();
            (from, place.world.recv_from(&mut [0; 16]).unwrap().1)
        };
        let (from, shown) = seen(ip(NODE));
        assert_eq!(from, shown, "its own address and port stay");
        assert_eq!(seen(ip("10.99.0.1")).1.ip(), ip(NODE));
        assert_eq!(
            place.seen().await.ip(),
            place.pod.addr,
            "a pod's is no local source"
        );
    }
);

kernel_test!(
    the_kernel_shows_what_was_written_and_what_others_changed,
    async {
        let place = Place::new().await;
        let mut events = place.node.kernel.events().unwrap();
        let mut ruleset = nat_outgoing(Vec::new(), Action::Masquerade(None));
        let untracked = Rule {
            matches: vec![Match::Protocol(17), Match::DestinationPort(4789)],
            action: Action::NoTrack,
        };
        let back = Rule {
            matches: Vec::new(),
            action: Action::Return,
        };
        ruleset
            .chains
            .push(base("raw-OUTPUT", "filter", OUTPUT, vec![untracked, back]));
        let wanted = Rules::from(ruleset.clone());
        place.node.set(row(ruleset.clone())).await;
        events_until(&mut events, |event| *event == KernelEvent::RulesChanged).await;
        assert_eq!(place.rules(Family::V4).await.unwrap().shown, wanted.shown);
        assert_eq!(place.rules(Family::V6).await, None);
        // Written over what is there already: no element or rule twice.
        place.node.set(row(ruleset.clone())).await;
        assert_eq!(place.rules(Family::V4).await.unwrap().shown, wanted.shown);
        // IPv6 beside it.
        let v6 = Ruleset {
            sets: BTreeMap::from([("masq6", vec![net("fd65::/64")])]),
            chains: vec![base(
                "nat-POSTROUTING",
                "nat",
                POSTROUTING,
                vec![Rule {
                    matches: vec![Match::Source("masq6"), Match::NotDestination("masq6")],
                    action: Action::Masquerade(None),
                }],
            )],
            ..Ruleset::default()
        };
        place
            .node
            .set(Row::Rules(Family::V6, v6.clone().into()))
            .await;
        assert_eq!(
            place.rules(Family::V6).await.unwrap().shown,
            Rules::from(v6).shown
        );
        // Another program reads and writes the same.
        let Some(text) = nft(&["list", "table", "ip", "calico"]) else {
            harness::skip(
                "nft",
                "no program `nft` (package nftables): another reader of the rules",
            );
        };
        for line in [
            "elements = { 10.65.0.0/16 }",
            "ip saddr @masq ip daddr != @pools masquerade fully-random comment \"cali:",
            "type nat hook postrouting priority srcnat + 10; policy accept;",
            "udp dport 4789 notrack comment \"cali:",
        ] {
            assert!(text.contains(line), "{line}:\n{text}");
        }
        for change in [
            "flush chain ip calico nat-outgoing",
            "add rule ip calico nat-outgoing counter",
            "add element ip calico masq { 10.66.0.0/16 }",
            "delete element ip calico pools { 192.168.0.0/16 }",
            "add chain ip calico mine",
        ] {
            nft(&change.split(' ').collect::<Vec<_>>()).unwrap();
            events_until(&mut events, |event| *event == KernelEvent::RulesChanged).await;
            let shown = place.rules(Family::V4).await.unwrap().shown;
            assert_ne!(shown, wanted.shown, "{change}");
            place.node.set(row(ruleset.clone())).await;
            assert_eq!(place.rules(Family::V4).await.unwrap().shown, wanted.shown);
        }
        // A foreign table is not the agent's business.
        nft(&["add", "table", "ip", "foreign"]).unwrap();
        place.node.remove(row(ruleset)).await;
        assert_eq!(place.rules(Family::V4).await, None);
        assert!(nft(&["list", "table", "ip", "foreign"]).is_some());
    }
);

kernel_test!(a_set_of_many_prefixes_is_written_and_read_back, async {
    let node = Node::new().await;
    // Every other /24: none can be joined with another.
    let prefixes = (0..2500_u32).map(|n| net(&format!("10.{}.{}.0/24", n / 128, n % 128 * 2)));
    let ruleset = Ruleset {
        sets: BTreeMap::from([("many", prefixes.collect())]),
        ..Ruleset::default()
    };
    let wanted = Rules::from(ruleset.clone());
    node.set(row(ruleset)).await;
    let Some(Row::Rules(_, rules)) = node
        .rows(Table::Rules)
        .await
        .remove(&RowKey::Rules(Family::V4))
    else {
        panic!("no table");
    };
    assert_eq!(rules.shown, wanted.shown);
    assert_eq!(wanted.shown.len(), 5001);
});

/// Output of `nft`; `None` where it is not installed.
pub(crate) fn nft(args: &[&str]) -> Option<String> {
    let output = Command::new("nft").args(args).output().ok()?;
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nft {args:?}: {error}");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}
