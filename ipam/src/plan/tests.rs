//! What a new block costs, counted.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use api::ipam::{AllocationAttribute, affinity_name, block_name};
use api::key::Kind;
use api::pool::AllowedUse;
use bytes::Bytes;
use datastore::store::KeyValue;
use datastore::version::Version;
use serde_json::{Value, json};

use super::*;
use crate::reserved::Reserved;
use crate::view::View;

/// The hash of "n1" points at this block of the pool: see `candidates`.
fn first_candidate(pool: IpNet) -> IpNet {
    let seed = u64::from(crate::candidates::fnv1_32("n1"));
    let first = crate::candidates::candidates(pool, 26, seed).next();
    first.expect("the pool holds blocks")
}

fn item(kind: Kind, name: &str, spec: &Value) -> KeyValue {
    let object = json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": kind.name(),
        "metadata": {"name": name},
        "spec": spec,
    });
    KeyValue {
        key: Key::new(kind, name),
        value: Bytes::from(object.to_string()),
        version: Version::from(1),
    }
}

/// A pool of 16,384 blocks, of which `count` are other nodes', from the one on at which n1 looks first.
fn items(pool: IpNet, count: u32) -> Vec<KeyValue> {
    let start = u32::try_from(block::first(first_candidate(pool))).expect("it is IPv4");
    let mut items = vec![item(
        Kind::IPPool,
        "p",
        &json!({"cidr": pool, "blockSize": 26}),
    )];
    let base = u32::try_from(block::first(pool)).expect("it is IPv4");
    for index in 0..count {
        let address = base + (start - base + index * 64) % (1 << 20);
        let cidr: IpNet = format!("{}/26", Ipv4Addr::from(address))
            .parse()
            .expect("it is a CIDR");
        let node = format!("m{index}");
        let mut made = block::new_block(cidr, host_affinity(&node), Timestamp::default())
            .expect("it has 64 slots");
        block::take_next(
            &mut made,
            &AllocationAttribute::default(),
            &Reserved::default(),
        );
        let spec = serde_json::to_value(&made).expect("it is JSON");
        items.push(item(Kind::IPAMBlock, &block_name(cidr), &spec));
        let spec = json!({"node": node, "cidr": cidr, "state": "confirmed", "deleted": "false"});
        let name = affinity_name(&node, cidr);
        items.push(item(Kind::BlockAffinity, &name, &spec));
    }
    items
}

fn request(wanted: Wanted) -> AssignRequest {
    AssignRequest {
        node_labels: BTreeMap::new(),
        namespace_labels: None,
        handle_id: "h".to_owned(),
        attributes: BTreeMap::new(),
        allowed_use: AllowedUse::Workload,
        wanted,
        now: Timestamp::default(),
    }
}

#[test]
fn a_new_block_decodes_none_of_the_other_nodes_blocks_and_affinities() {
    let pool: IpNet = "10.0.0.0/12".parse().expect("it is a CIDR");
    let items = items(pool, 2_000);
    let mut view = View::full(&items);
    let mut draft = Draft::new(&view, &[], Timestamp::default());
    let one = request(Wanted::one_ipv4());
    let given = assign_all(&mut draft, "n1", &[one]).expect("the view is full");
    let given = given[0].as_ref().expect("the pool has room");
    assert_eq!(given.claimed.len(), 1);
    assert!(!draft.into_plan(true).is_empty());
    assert_eq!(view.decoded(), 0);
    view.narrow("n1");
    assert_eq!(view.blocks().count(), 0);
}

#[test]
fn an_address_by_name_decodes_the_one_block_that_holds_it() {
    let pool: IpNet = "10.0.0.0/12".parse().expect("it is a CIDR");
    let items = items(pool, 100);
    let view = View::full(&items);
    let mut draft = Draft::new(&view, &[], Timestamp::default());
    let second = block::address(first_candidate(pool), 1).expect("it has 64 slots");
    let one = request(Wanted::Address(second.addr()));
    let given = assign_all(&mut draft, "n1", &[one]).expect("the view is full");
    assert_eq!(given[0].as_ref().expect("it is free").addresses, [second]);
    assert_eq!(view.decoded(), 1);
}
