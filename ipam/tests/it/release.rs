use std::net::IpAddr;

use api::key::Kind;
use ipam::Wanted;
use ipam::request::{ReleaseAddress, ReleaseRefused};
use serde_json::json;

use crate::world::{World, assign, now, request, seconds, texts, wanting};

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn only(text: &str) -> ReleaseAddress {
    ReleaseAddress {
        address: address(text),
        handle_id: None,
        sequence_number: None,
    }
}

#[test]
fn releasing_what_nobody_has_is_success_and_writes_nothing() {
    let world = World::new(&[("default", "10.0.0.0/24", 26)]);
    let revision = world.store.revision();
    let released = now(world
        .ipam("n1")
        .release_by_handle("never.seen", seconds(1_000)))
    .unwrap();
    assert!(released.outcome.is_empty() && released.written.is_empty());
    assert_eq!(world.store.revision(), revision);
}

#[test]
fn a_released_handle_leaves_the_block_to_its_node_and_no_handle_object() {
    let world = World::new(&[("default", "10.0.0.0/24", 26)]);
    let ipam = world.ipam("n1");
    assign(&ipam, request("net.A")).unwrap();
    let released = now(ipam.release_by_handle("net.a", seconds(1_000))).unwrap();
    assert_eq!(released.outcome, [address("10.0.0.128")]);
    assert!(world.taken().is_empty() && world.handles().is_empty());
    assert_eq!((world.blocks().len(), world.affinities().len()), (1, 1));
    assert!(
        now(ipam.release_by_handle("net.a", seconds(1_000)))
            .unwrap()
            .outcome
            .is_empty()
    );
    world.assert_sound();
}

#[test]
fn an_address_is_released_only_if_it_is_still_the_one_that_was_looked_at() {
    let world = World::new(&[("default", "10.0.0.0/30", 30)]);
    let ipam = world.ipam("n1");
    assign(&ipam, request("a")).unwrap();
    let number = world.blocks()[0].sequence_number_for_allocation["0"];
    // In the meantime: released, and given out again to the same name.
    now(ipam.release_by_handle("a", seconds(1_000))).unwrap();
    for handle in ["x", "y", "z", "a"] {
        assign(&ipam, request(handle)).unwrap();
    }
    let stale = ReleaseAddress {
        handle_id: Some("a".to_owned()),
        sequence_number: Some(number),
        ..only("10.0.0.0")
    };
    let other = ReleaseAddress {
        handle_id: Some("a".to_owned()),
        ..only("10.0.0.1")
    };
    let done = now(ipam.release_ips(&[stale, other], seconds(1_000)))
        .unwrap()
        .outcome;
    assert!(done.released.is_empty());
    let [
        (_, ReleaseRefused::SequenceNumber { expected, .. }),
        (_, ReleaseRefused::Handle { holder, .. }),
    ] = &done.refused[..]
    else {
        panic!("{done:?}");
    };
    assert_eq!((*expected, holder.as_deref()), (number, Some("x")));

    let fresh = ReleaseAddress {
        handle_id: Some("A".to_owned()),
        sequence_number: Some(world.blocks()[0].sequence_number_for_allocation["0"]),
        ..only("10.0.0.0")
    };
    let done = now(ipam.release_ips(&[fresh, only("10.0.0.1"), only("10.9.0.1")], seconds(1_000)))
        .unwrap();
    assert_eq!(
        done.outcome.released,
        [address("10.0.0.0"), address("10.0.0.1")]
    );
    assert_eq!(done.outcome.unallocated, [address("10.9.0.1")]);
    assert_eq!(world.handles().keys().collect::<Vec<_>>(), ["y", "z"]);
    world.assert_sound();
}

#[test]
fn a_leaving_node_gives_up_its_blocks() {
    let world = World::new(&[("default", "10.0.0.0/24", 30)]);
    let ipam = world.ipam("n1");
    let wanted = ipam::Wanted::Any {
        ipv4: 6,
        ipv6: 0,
        pools: Vec::new(),
    };
    assign(&ipam, wanting("a", wanted)).unwrap();
    assign(&world.ipam("n2"), request("other")).unwrap();
    let taken = world.taken();
    let in_second = taken
        .iter()
        .filter(|(_, h)| h == "a")
        .nth(4)
        .unwrap()
        .0
        .clone();
    let in_third = taken
        .iter()
        .filter(|(_, h)| h == "a")
        .nth(5)
        .unwrap()
        .0
        .clone();
    now(ipam.release_ips(&[only(&in_second), only(&in_third)], seconds(1_000))).unwrap();

    let kept = now(ipam.release_host_affinities("n1", true, seconds(1_000)))
        .unwrap()
        .outcome;
    assert_eq!((kept.released.len(), kept.in_use.len()), (1, 1));
    world.assert_sound();
    let left = now(world
        .ipam("n2")
        .release_host_affinities("n1", false, seconds(1_000)))
    .unwrap();
    assert_eq!(left.outcome.released.len(), 1);
    assert!(
        world
            .affinities()
            .iter()
            .all(|affinity| affinity.node == "n2")
    );
    assert_eq!(world.taken().len(), 5, "addresses in use stay");
    // The last address of a block that is nobody's takes the block with it.
    now(ipam.release_by_handle("a", seconds(1_000))).unwrap();
    assert_eq!(world.blocks().len(), 1);
    world.assert_sound();
    assert_eq!(
        now(ipam.release_host_affinities("n1", true, seconds(1_000)))
            .unwrap()
            .written,
        []
    );
}

#[test]
fn what_others_wrote_into_the_objects_survives() {
    let world = World::new(&[("default", "10.0.0.0/30", 30)]);
    world.put(
        api::key::Kind::IPAMBlock,
        "10-0-0-0-30",
        json!({
            "cidr": "10.0.0.0/30", "affinity": "host:n1", "strictAffinity": false, "deleted": false,
            "allocations": [0, null, null, null], "unallocated": [1, 2, 3], "futureField": {"x": 1},
            "attributes": [{"handle_id": "old", "secondary": {"node": "n1"}, "alternateOwnerAttrs": {"k": "v"}}],
            "sequenceNumber": 17, "sequenceNumberForAllocation": {"0": 16},
        }),
    );
    world.put(
        api::key::Kind::BlockAffinity,
        "n1-10-0-0-0-30",
        json!({"node": "n1", "state": "confirmed", "cidr": "10.0.0.0/30", "deleted": "false", "type": "host"}),
    );
    world.put(
        api::key::Kind::IPAMHandle,
        "old",
        json!({"handleID": "old", "block": {"10.0.0.0/30": 1}, "deleted": false}),
    );
    let given = assign(&world.ipam("n1"), request("new")).unwrap();
    assert_eq!(texts(&given), ["10.0.0.1/32"]);
    let block = &world.blocks()[0];
    assert_eq!(block.extra["futureField"], json!({"x": 1}));
    assert_eq!(
        block.attributes[0].extra["alternateOwnerAttrs"],
        json!({"k": "v"})
    );
    assert_eq!(
        (
            block.sequence_number,
            block.sequence_number_for_allocation["1"]
        ),
        (18, 18)
    );
    world.assert_sound();
}

#[test]
fn a_handle_counts_what_the_block_says_after_a_release() {
    let world = World::new(&[("default", "10.0.0.0/26", 26)]);
    let ipam = world.ipam("n1");
    let two = Wanted::Any {
        ipv4: 2,
        ipv6: 0,
        pools: Vec::new(),
    };
    let given = assign(&ipam, wanting("a", two)).unwrap();
    // As a writer leaves it that stopped half way.
    world.put(
        Kind::IPAMHandle,
        "a",
        json!({"handleID": "a", "block": {"10.0.0.0/26": 5}}),
    );
    let release = |address| ReleaseAddress {
        address,
        handle_id: Some("a".to_owned()),
        sequence_number: None,
    };
    for (address, left) in given.addresses.iter().zip([Some(1), None]) {
        now(world
            .ipam("n1")
            .release_ips(&[release(address.addr())], seconds(1_000)))
        .unwrap();
        let counted = world
            .handles()
            .get("a")
            .map(|handle| handle.block["10.0.0.0/26"]);
        assert_eq!(counted, left);
    }
    world.assert_sound();
}

#[test]
fn a_release_frees_what_was_looked_at_and_nothing_that_was_given_out_since() {
    let world = World::new(&[("pool", "10.0.0.0/24", 26)]);
    let ipam = world.ipam("n1");
    let handle = "net.a".to_owned();
    let given = assign(&ipam, request("net.a")).unwrap();
    let looked = now(ipam.held(&[handle.clone(), "net.none".to_owned()])).unwrap();
    assert_eq!((looked[0].len(), looked[1].len()), (1, 0));
    assert_eq!(looked[0][0].address, given.addresses[0].addr());
    assert!(looked[0][0].sequence_number.is_some());

    // Another agent of the node frees it and gives the same address under the same handle.
    let other = world.ipam("n1");
    now(other.release_by_handle("net.a", seconds(1_000))).unwrap();
    let again = wanting("net.a", Wanted::Address(looked[0][0].address));
    assign(&other, again).unwrap();
    let look = (handle.clone(), looked[0].clone());
    let refused = now(ipam.release_held(std::slice::from_ref(&look), seconds(1_000))).unwrap();
    assert!(refused.outcome[0].released.is_empty());
    assert_eq!(refused.outcome[0].refused.len(), 1, "{refused:?}");
    assert_eq!((world.taken().len(), world.handles().len()), (1, 1));
    world.assert_sound();

    // What it has besides stays, too.
    let looked = now(ipam.held(std::slice::from_ref(&handle)))
        .unwrap()
        .remove(0);
    let second = wanting("net.a", Wanted::Address("10.0.0.9".parse().unwrap()));
    assign(&other, second).unwrap();
    let freed = now(ipam.release_held(&[(handle, looked)], seconds(1_000)))
        .unwrap()
        .outcome;
    assert_eq!((freed[0].released.len(), freed[0].refused.len()), (1, 0));
    assert_eq!(world.taken(), [("10.0.0.9".to_owned(), "net.a".to_owned())]);
    world.assert_sound();
}
