use serde_json::Map;

use super::*;
use crate::reserved::Reserved;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix(Duration::from_secs(seconds))
}

fn held_by(node: &str, handle: &str, parts: &[&str]) -> AllocationAttribute {
    let part = |name: &&str| ((*name).to_owned(), "x".to_owned());
    let mut secondary: BTreeMap<String, String> = parts.iter().map(part).collect();
    secondary.insert("node".to_owned(), node.to_owned());
    AllocationAttribute {
        handle_id: Some(handle.to_owned()),
        secondary,
        extra: Map::new(),
    }
}

const POD: &[&str] = &["pod", "namespace"];
const INTERFACE: &[&str] = &["network", "containerID", "interface"];

/// A block of `owner`'s, with one address for each holder.
fn block_of(cidr: &str, owner: &str, holders: &[AllocationAttribute]) -> IPAMBlockSpec {
    let affinity = block::host_affinity(owner);
    let mut made = block::new_block(cidr.parse().unwrap(), affinity, at(1)).unwrap();
    for holder in holders {
        block::take_next(&mut made, holder, &Reserved::default()).unwrap();
    }
    made
}

/// The last number of each address, and what else there is in words.
fn words(found: &BTreeSet<Garbage>) -> Vec<String> {
    let word = |garbage: &Garbage| match garbage {
        Garbage::Address { address, .. } => address.to_string(),
        Garbage::Block { cidr, .. } => cidr.to_string(),
        Garbage::Claim { name, .. } | Garbage::Handle { name, .. } => name.clone(),
        Garbage::Node(name) => name.clone(),
        Garbage::Tombstone { key, .. } => key.name.clone(),
    };
    found.iter().map(word).collect()
}

#[test]
fn a_node_finds_addresses_of_its_pods_and_interfaces_that_nobody_uses() {
    let mut tunnel = held_by("n1", "vxlan-tunnel-addr-n1", &[]);
    let kind = ("type".to_owned(), "vxlanTunnelAddress".to_owned());
    tunnel.secondary.extend([kind]);
    let holders = [
        held_by("n1", "lives", POD),
        held_by("n1", "left", POD),
        held_by("n1", "left.net1", INTERFACE),
        // Nobody says what these are.
        held_by("n1", "by.hand", &[]),
        held_by("n2", "borrowed", POD),
        tunnel,
        // It keeps its address while it is off.
        held_by("n1", "machine", &["pod", "namespace", "vmi-name"]),
        // Of what other plugins connect nobody would hear.
        held_by(
            "n1",
            "lent",
            &["network", "containerID", "interface", PLUGIN],
        ),
        // Of two addresses one is used.
        held_by("n1", "two", POD),
        held_by("n1", "two", POD),
    ];
    let blocks = [block_of("10.0.0.0/28", "n1", &holders)];
    let used: [IpAddr; 2] = ["10.0.0.0", "10.0.0.8"].map(|text| text.parse().unwrap());
    let found = of_node("n1", &blocks, Cooldown::default(), |address, _| {
        used.contains(&address)
    });
    assert_eq!(words(&found), ["10.0.0.1", "10.0.0.2"]);
}

#[test]
fn a_node_gives_up_empty_blocks_and_keeps_one() {
    let pod = [held_by("n1", "a", POD)];
    let cidrs = ["10.0.0.0/30", "10.0.0.4/30", "10.0.0.8/30"];
    let some = |used: usize| {
        let one =
            |(at, cidr): (usize, &&str)| block_of(cidr, "n1", if at < used { &pod } else { &[] });
        let blocks: Vec<IPAMBlockSpec> = cidrs.iter().enumerate().map(one).collect();
        words(&of_node("n1", &blocks, Cooldown::default(), |_, _| true))
    };
    assert_eq!(some(1), cidrs[1..]);
    assert_eq!(some(0), cidrs[..2]);
    assert_eq!(some(3), [""; 0]);
}

#[test]
fn what_a_node_that_is_gone_had_is_found_and_what_its_pods_use_stays() {
    let mut tunnel = held_by("gone", "vxlan-tunnel-addr-gone", &[]);
    let kind = ("type".to_owned(), "vxlanTunnelAddress".to_owned());
    tunnel.secondary.extend([kind]);
    // With its node everybody goes whom another plugin had connected there.
    let lent = |node| {
        held_by(
            node,
            "lent",
            &["network", "containerID", "interface", PLUGIN],
        )
    };
    let holders = [
        held_by("gone", "a", POD),
        held_by("gone", "b", POD),
        tunnel,
        lent("gone"),
    ];
    let borrowers = [
        held_by("n1", "own", POD),
        held_by("n2", "far", POD),
        lent("n2"),
    ];
    let cluster = Cluster {
        nodes: ["n1", "n2"].map(str::to_owned).into(),
        affinities: vec![BlockAffinitySpec::confirmed(
            "left",
            "10.0.1.0/30".parse().unwrap(),
        )],
        blocks: vec![
            block_of("10.0.0.0/30", "gone", &holders),
            block_of("10.0.0.4/30", "n1", &borrowers),
        ],
        handles: ["a", "b", "own", "far", "orphan", "vxlan-tunnel-addr-gone"]
            .map(str::to_owned)
            .into(),
        ..Cluster::default()
    };
    assert_eq!(Vec::from_iter(cluster.nodes_gone()), ["gone", "left"]);
    assert_eq!(Vec::from_iter(cluster.to_be_asked()), ["gone", "n2"]);
    let used: IpAddr = "10.0.0.1".parse().unwrap();
    let found = cluster.garbage("n1", |address, _| address == used);
    assert_eq!(
        words(&found),
        [
            "10.0.0.0", "10.0.0.2", "10.0.0.3", "10.0.0.5", "gone", "left"
        ]
    );
    assert_eq!(
        Vec::from_iter(cluster.handles_without_address()),
        ["orphan"]
    );
    // Who does not find itself does not know the nodes.
    assert!(cluster.garbage("n3", |_, _| false).is_empty());
}

#[test]
fn garbage_is_ripe_after_the_grace_and_a_second_look_unless_it_changed() {
    let address = |sequence_number: u64| Garbage::Address {
        address: "10.0.0.1".parse().unwrap(),
        handle_id: "a".to_owned(),
        sequence_number: Some(sequence_number),
    };
    let grace = Duration::from_secs(900);
    let mut list = Watchlist::default();
    let mut look = |number: u64, time: u64| {
        !list
            .look([address(number)].into(), at(time), grace)
            .is_empty()
    };
    assert!(!look(1, 0));
    assert!(!look(1, 899));
    assert!(look(1, 900));
    // Given out anew.
    assert!(!look(2, 900));
    assert!(!look(2, 1799));
    // Not found once.
    assert!(list.look(BTreeSet::new(), at(1799), grace).is_empty());
    let mut look = |number: u64, time: u64| {
        !list
            .look([address(number)].into(), at(time), grace)
            .is_empty()
    };
    assert!(!look(2, 1800));
    // Without a grace it takes two looks all the same.
    let mut list = Watchlist::default();
    assert!(
        list.look([address(1)].into(), at(0), Duration::ZERO)
            .is_empty()
    );
    assert_eq!(
        list.look([address(1)].into(), at(0), Duration::ZERO).len(),
        1
    );
}
