use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn who(handle: &str, pod: &str) -> AllocationAttribute {
    AllocationAttribute {
        handle_id: Some(handle.to_owned()),
        secondary: BTreeMap::from([("pod".to_owned(), pod.to_owned())]),
        extra: Map::new(),
    }
}

fn empty(cidr: &str) -> IPAMBlockSpec {
    let now = Timestamp::from_unix(Duration::from_secs(1));
    new_block(cidr.parse().unwrap(), host_affinity("n1"), now).unwrap()
}

#[test]
fn a_new_block_has_every_slot_free_in_order() {
    let block = empty("10.0.0.64/26");
    assert_eq!(block.unallocated, (0..64).collect::<Vec<_>>());
    assert_eq!(block.sequence_number, 1_000_000_000);
    assert_eq!(
        block.affinity_claim_time.as_deref(),
        Some("1970-01-01T00:00:01Z")
    );
    assert_eq!(fault(&block), None);
    assert_eq!(
        address(block.cidr, 63),
        Some("10.0.0.127/32".parse().unwrap())
    );
    assert_eq!(address(block.cidr, 64), None);
    assert_eq!(ordinal(block.cidr, "10.0.0.70".parse().unwrap()), Some(6));
    assert_eq!(ordinal(block.cidr, "10.0.0.1".parse().unwrap()), None);
}

#[test]
fn sizes_up_to_4096_make_a_block_and_larger_ones_do_not() {
    for (cidr, expected) in [
        ("10.0.0.0/20", Some(4096)),
        ("10.0.0.0/19", None),
        ("0.0.0.0/0", None),
        ("10.0.0.1/32", Some(1)),
        ("fd00::/116", Some(4096)),
        ("fd00::/64", None),
        ("::/0", None),
    ] {
        assert_eq!(slots(cidr.parse().unwrap()), expected, "{cidr}");
    }
}

#[test]
fn a_released_address_is_the_last_to_be_given_out_again() {
    let mut block = empty("10.0.0.0/30");
    assert_eq!(
        take_next(&mut block, &who("a", "a"), &Reserved::default()),
        Some(0)
    );
    assert_eq!(
        take_next(&mut block, &who("b", "b"), &Reserved::default()),
        Some(1)
    );
    free(&mut block, &[0]);
    let order: Vec<_> =
        std::iter::from_fn(|| take_next(&mut block, &who("c", "c"), &Reserved::default()))
            .collect();
    assert_eq!(order, [2, 3, 0]);
    assert_eq!(
        take_next(&mut block, &who("c", "c"), &Reserved::default()),
        None
    );
}

#[test]
fn equal_attributes_are_shared_and_unused_ones_go() {
    let mut block = empty("10.0.0.0/29");
    for handle in ["a", "b", "a", "c"] {
        take_next(&mut block, &who(handle, "p"), &Reserved::default()).unwrap();
    }
    assert_eq!(block.allocations[..4], [Some(0), Some(1), Some(0), Some(2)]);
    free(&mut block, &[0, 2]);
    assert_eq!(block.attributes, [who("b", "p"), who("c", "p")]);
    assert_eq!(block.allocations[..4], [None, Some(0), None, Some(1)]);
    assert_eq!(held_by(&block, "C"), [3]);
}

#[test]
fn what_contradicts_itself_is_named() {
    let mut block = empty("10.0.0.0/30");
    block.unallocated.push(7);
    assert!(fault(&block).unwrap().contains("unallocated holds 7"));
    let mut block = empty("10.0.0.0/30");
    block.allocations[2] = Some(3);
    assert!(fault(&block).unwrap().contains("attribute 3 of 0"));
    let mut block = empty("10.0.0.0/30");
    block.allocations.pop();
    assert!(fault(&block).unwrap().contains("3 entries; allowed: 4"));
}

proptest! {
    #[test]
    fn no_order_of_taking_and_freeing_breaks_a_block(
        steps in prop::collection::vec((any::<bool>(), 0_usize..16, 0_usize..4), 0..200)
    ) {
        let mut block = empty("10.0.0.0/28");
        let mut model: BTreeMap<usize, String> = BTreeMap::new();
        for (taking, slot, handle) in steps {
            let handle = format!("h{handle}");
            if taking {
                let free_before = !model.contains_key(&slot);
                prop_assert_eq!(take(&mut block, slot, &who(&handle, "p")), free_before);
                if free_before {
                    model.insert(slot, handle);
                }
            } else {
                free(&mut block, &[slot]);
                model.remove(&slot);
            }
            block.sequence_number += 1;
            prop_assert_eq!(fault(&block), None);
            for ordinal in 0..16 {
                let held = holder(&block, ordinal).and_then(|by| by.handle_id.as_deref());
                prop_assert_eq!(held, model.get(&ordinal).map(String::as_str));
            }
            let referred = block.allocations.iter().flatten().max().map_or(0, |i| i + 1);
            prop_assert_eq!(block.attributes.len(), referred);
            prop_assert_eq!(block.sequence_number_for_allocation.len(), model.len());
        }
    }
}
