//! Annotations of a BGPPeer that are about its sessions.

use api::key::{Key, Kind};
use api::object::Object;
use bgp::config::{AddPaths, PeerConfig, PeerOptions, RoutePolicy};
use bgp::policy::{Edit, Verdict};
use bgp::types::{AfiSafi, Role};
use serde_json::json;

use super::world::{World, bgp_filter, bgp_peer, object};

/// A node with one BGPPeer, which has annotations; the names of these without what all begin with.
fn with(peer_ip: &str, annotations: &[(&str, &str)]) -> World {
    let mut world = World::started();
    world.put(object(
        Key::new(Kind::Node, "n1"),
        &json!({"bgp": {"ipv4Address": "10.0.0.1/24", "ipv6Address": "fd00::1/64"}}),
    ));
    world.put(bgp_filter(
        "both",
        json!({"importV4": [{"action": "Reject"}], "exportV6": [{"action": "Accept"}]}),
    ));
    let spec = json!({"peerIP": peer_ip, "asNumber": 65001, "filters": ["both"]});
    let (key, mut peer) = bgp_peer("rack", spec);
    if let Object::BGPPeer(peer) = &mut peer {
        for (name, value) in annotations {
            let name = format!("networking.tortie.dev/bgp-{name}");
            peer.metadata.annotations.insert(name, (*value).to_owned());
        }
    }
    world.put((key, peer));
    world.flush();
    world
}

fn peer(world: &World, name: &str) -> Option<PeerConfig> {
    let config = world.config.as_ref().expect("the node speaks BGP");
    let mut found = config.peers.iter().filter(|(known, _)| &*known.0 == name);
    found.next().map(|(_, peer)| peer.clone())
}

#[test]
fn each_annotation_reaches_its_session() {
    let plain = peer(&with("10.0.0.200", &[]), "Global_10_0_0_200").expect("a session");
    let world = with(
        "10.0.0.200",
        &[
            ("add-paths", "both"),
            ("connect-retry-time", "30s"),
            ("enforce-first-as", "true"),
            ("extended-next-hop", "true"),
            ("graceful-shutdown", "true"),
            ("hold-time", "9s"),
            ("prefix-limit", "100"),
            ("prefix-warning", "80"),
            ("require-policy", "true"),
            ("role", "customer"),
            ("role-strict", "true"),
            ("shutdown", "moved to rack 7"),
        ],
    );
    let given = peer(&world, "Global_10_0_0_200").expect("a session");
    let expected = PeerConfig {
        connect_retry_time: std::time::Duration::from_secs(30),
        hold_time: std::time::Duration::from_secs(9),
        prefix_limit: Some(100),
        import: RoutePolicy {
            last: vec![Edit::LastResortIfLeaving],
            ..plain.import.clone()
        },
        options: PeerOptions {
            add_paths: AddPaths {
                receive: true,
                send: true,
            },
            enforce_first_as: true,
            ipv6_next_hops: true,
            prefix_warning: Some(80),
            require_policy: true,
            role: Some(Role::Customer),
            strict_role: true,
            shutdown: true,
            shutdown_text: Some("moved to rack 7".into()),
            ..plain.options.clone()
        },
        ..plain
    };
    assert_eq!(given, expected);
    let no_hold_time = with("10.0.0.200", &[("hold-time", "0s")]);
    let none = peer(&no_hold_time, "Global_10_0_0_200").expect("a session");
    assert!(none.hold_time.is_zero());
}

#[test]
fn an_annotation_that_is_not_known_or_has_no_use_holds_the_session_down_and_is_told() {
    for (name, value, told) in [
        ("add-path", "both", "bgp-add-path: not known"),
        (
            "add-paths",
            "yes",
            "bgp-add-paths: \"yes\": must be receive, send or both",
        ),
        (
            "hold-time",
            "2s",
            "bgp-hold-time: \"2s\": must be 0s, for none, or a time of 3s to 65535s",
        ),
        (
            "prefix-limit",
            "0",
            "bgp-prefix-limit: \"0\": must be a number from 1 on",
        ),
    ] {
        let world = with("10.0.0.200", &[(name, value)]);
        assert_eq!(peer(&world, "Global_10_0_0_200"), None);
        let text = world.problems().join("\n");
        assert!(
            text.contains("metadata.annotations") && text.contains(told),
            "{text}"
        );
    }
}

#[test]
fn an_ipv6_session_with_ipv4_prefixes_has_the_filters_of_both_families() {
    let world = with("fd00::200", &[("extended-next-hop", "true")]);
    let session = peer(&world, "Global_fd00__200").expect("a session");
    let both = [AfiSafi::Ipv4Unicast, AfiSafi::Ipv6Unicast];
    assert_eq!(session.families, both.into());
    let verdict = |terms: &[bgp::policy::Term], at: usize| {
        let term = terms.get(at).expect("a rule of the filter");
        let matches = format!("{:?}", term.matches);
        (term.verdict, matches)
    };
    let (import, matches) = verdict(&session.import.terms, 0);
    assert_eq!(import, Verdict::Reject);
    assert!(matches.contains("0.0.0.0/0"), "{matches}");
    let (export, matches) = verdict(&session.export.terms, 0);
    assert_eq!(export, Verdict::Accept);
    assert!(matches.contains("::/0"), "{matches}");
}
