//! BGPPeers that cannot be: refused before anything is written.

use crate::place::Place;
use crate::with_bird;

/// What is wrong, the spec's lines, and what the refusal must name: field and value.
const WRONG: &[(&str, &str, &[&str])] = &[
    (
        "no address",
        "  peerIP: tor.example\n  asNumber: 65001\n",
        &["peerIP", "tor.example"],
    ),
    (
        "a number out of range",
        "  peerIP: 10.10.1.9\n  asNumber: 4294967296\n",
        &["asNumber", "4294967296"],
    ),
    ("no number at all", "  peerIP: 10.10.1.9\n", &["asNumber"]),
    (
        "two scopes",
        "  peerIP: 10.10.1.9\n  asNumber: 65001\n  node: n1\n  nodeSelector: all()\n",
        &["nodeSelector", "node"],
    ),
    (
        "a selector that does not parse",
        "  peerIP: 10.10.1.9\n  asNumber: 65001\n  nodeSelector: rack ==\n",
        &["nodeSelector", "rack =="],
    ),
    (
        "an unknown next hop mode",
        "  peerIP: 10.10.1.9\n  asNumber: 65001\n  nextHopMode: Sometimes\n",
        &["nextHopMode", "Sometimes"],
    ),
    (
        "no duration",
        "  peerIP: 10.10.1.9\n  asNumber: 65001\n  maxRestartTime: soon\n",
        &["maxRestartTime", "soon"],
    ),
];

#[test]
fn a_malformed_peer_is_refused_with_its_field_and_value() {
    with_bird(
        "refused::a_malformed_peer_is_refused_with_its_field_and_value",
        |programs| {
            let place = Place::start(programs, 1);
            for (what, spec, names) in WRONG {
                let manifest = format!(
                    "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata:\n  name: wrong\nspec:\n{spec}"
                );
                let output = place.ctl(&["apply", "-f", "-"], &manifest);
                assert_eq!(output.status.code(), Some(1), "{what}: {output:?}");
                let said = String::from_utf8_lossy(&output.stderr);
                for name in names.iter().chain(&["wrong"]) {
                    assert!(said.contains(name), "{what}: {name} is not in: {said}");
                }
            }
            let left = place.ctl(&["get", "bgppeer", "-o", "json"], "");
            assert!(left.status.success(), "{left:?}");
            let left = String::from_utf8_lossy(&left.stdout);
            assert!(!left.contains("wrong"), "{left}");
        },
    );
}
