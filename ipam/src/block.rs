//! One block: which slot is whose. Pure operations; who may do them is decided elsewhere.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use api::ipam::{AllocationAttribute, IPAMBlockSpec};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::Map;

use crate::reserved::Reserved;
use crate::time::Timestamp;

/// The largest block: 4096 addresses (/20 or /116).
pub const BLOCK_SLOTS_MAX: usize = 4096;

/// The first address of `cidr` as a number.
pub fn first(cidr: IpNet) -> u128 {
    number(cidr.network())
}

/// The last address of `cidr` as a number.
pub fn last(cidr: IpNet) -> u128 {
    number(cidr.broadcast())
}

/// An address as a number.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

/// The `len`-long prefix of the family of `like` that starts at `start`; absent when the numbers do not fit.
pub fn prefix(like: IpNet, start: u128, len: u8) -> Option<IpNet> {
    match like {
        IpNet::V4(_) => {
            let address = Ipv4Addr::from(u32::try_from(start).ok()?);
            Ipv4Net::new(address, len).ok().map(IpNet::V4)
        }
        IpNet::V6(_) => Ipv6Net::new(Ipv6Addr::from(start), len).ok().map(IpNet::V6),
    }
}

/// Number of slots of a block; absent above [`BLOCK_SLOTS_MAX`].
pub fn slots(cidr: IpNet) -> Option<usize> {
    let host_bits = cidr.max_prefix_len() - cidr.prefix_len();
    1_usize
        .checked_shl(u32::from(host_bits))
        .filter(|slots| host_bits < 32 && *slots <= BLOCK_SLOTS_MAX)
}

/// The slot of `address` in `cidr`.
pub fn ordinal(cidr: IpNet, address: IpAddr) -> Option<usize> {
    if !cidr.contains(&address) {
        return None;
    }
    usize::try_from(number(address) - first(cidr)).ok()
}

/// The address of slot `ordinal`, as a host prefix.
pub fn address(cidr: IpNet, ordinal: usize) -> Option<IpNet> {
    let start = first(cidr).checked_add(u128::try_from(ordinal).ok()?)?;
    prefix(cidr, start, cidr.max_prefix_len()).filter(|net| cidr.contains(&net.addr()))
}

/// `host:<node>`, as a block names its owner.
pub fn host_affinity(node: &str) -> String {
    format!("host:{node}")
}

/// An empty block. `None` for a CIDR that makes no block.
pub fn new_block(cidr: IpNet, affinity: String, now: Timestamp) -> Option<IPAMBlockSpec> {
    let slots = slots(cidr)?;
    Some(IPAMBlockSpec {
        cidr,
        affinity: Some(affinity),
        affinity_claim_time: Some(now.rfc3339()),
        allocations: vec![None; slots],
        unallocated: (0..slots).collect(),
        attributes: Vec::new(),
        sequence_number: now.unix_nanos(),
        sequence_number_for_allocation: BTreeMap::new(),
        deleted: false,
        strict_affinity: false,
        extra: Map::new(),
    })
}

/// What is wrong with a stored block, if anything: such a block is left alone.
pub fn fault(block: &IPAMBlockSpec) -> Option<String> {
    let Some(slots) = slots(block.cidr) else {
        return Some(format!(
            "cidr {}: allowed: at most {BLOCK_SLOTS_MAX} addresses",
            block.cidr
        ));
    };
    if block.allocations.len() != slots {
        let found = block.allocations.len();
        return Some(format!("allocations has {found} entries; allowed: {slots}"));
    }
    let attributes = block.attributes.len();
    if let Some(index) = block
        .allocations
        .iter()
        .flatten()
        .find(|i| **i >= attributes)
    {
        return Some(format!(
            "allocations refers to attribute {index} of {attributes}"
        ));
    }
    let mut seen = vec![false; slots];
    for ordinal in &block.unallocated {
        match seen.get_mut(*ordinal) {
            None => {
                return Some(format!(
                    "unallocated holds {ordinal}; allowed: below {slots}"
                ));
            }
            Some(true) => return Some(format!("unallocated holds {ordinal} twice")),
            Some(slot) => *slot = true,
        }
        if block.allocations[*ordinal].is_some() {
            return Some(format!("{ordinal} is both allocated and unallocated"));
        }
    }
    let taken = block.allocations.iter().flatten().count();
    if taken + block.unallocated.len() != slots {
        let free = block.unallocated.len();
        return Some(format!(
            "{taken} allocated and {free} unallocated of {slots}"
        ));
    }
    None
}

/// Whether no address of the block is taken.
pub fn is_empty(block: &IPAMBlockSpec) -> bool {
    block.allocations.iter().all(Option::is_none)
}

/// Who holds slot `ordinal`.
pub fn holder(block: &IPAMBlockSpec, ordinal: usize) -> Option<&AllocationAttribute> {
    let index = (*block.allocations.get(ordinal)?)?;
    block.attributes.get(index)
}

/// Slots that somebody holds, and who, in order.
pub fn held(block: &IPAMBlockSpec) -> impl Iterator<Item = (usize, &AllocationAttribute)> {
    let slots = 0..block.allocations.len();
    slots.filter_map(|ordinal| Some((ordinal, holder(block, ordinal)?)))
}

/// The block's number when slot `ordinal` was given out.
pub fn sequence_number(block: &IPAMBlockSpec, ordinal: usize) -> Option<u64> {
    let numbers = &block.sequence_number_for_allocation;
    numbers.get(&ordinal.to_string()).copied()
}

/// Whether a handle holds what bears this attribute: an address that cools down is nobody's. Handles are compared as the
/// names of their objects are: without case.
pub fn is_handle(attribute: &AllocationAttribute, handle_id: &str) -> bool {
    let held = attribute.handle_id.as_deref();
    held.is_some_and(|held| held.eq_ignore_ascii_case(handle_id))
        && attribute.released_at().is_none()
}

/// The slots `handle_id` holds, in order.
pub fn held_by(block: &IPAMBlockSpec, handle_id: &str) -> Vec<usize> {
    held(block)
        .filter(|(_, by)| is_handle(by, handle_id))
        .map(|(ordinal, _)| ordinal)
        .collect()
}

/// Takes the free slot that was released longest ago (never used ones first, in order) and is not reserved.
pub fn take_next(
    block: &mut IPAMBlockSpec,
    who: &AllocationAttribute,
    reserved: &Reserved,
) -> Option<usize> {
    let cidr = block.cidr;
    let is_open =
        |ordinal: &usize| address(cidr, *ordinal).is_some_and(|net| !reserved.contains(net.addr()));
    let ordinal = block.unallocated.iter().copied().find(is_open)?;
    take(block, ordinal, who).then_some(ordinal)
}

/// Takes slot `ordinal`; false when it is not free.
pub fn take(block: &mut IPAMBlockSpec, ordinal: usize, who: &AllocationAttribute) -> bool {
    let Some(place) = block.unallocated.iter().position(|free| *free == ordinal) else {
        return false;
    };
    block.unallocated.remove(place);
    let index = attribute_index(block, who.clone());
    block.allocations[ordinal] = Some(index);
    let number = block.sequence_number;
    block
        .sequence_number_for_allocation
        .insert(ordinal.to_string(), number);
    true
}

/// Where the attribute stands; equal ones stand once.
fn attribute_index(block: &mut IPAMBlockSpec, who: AllocationAttribute) -> usize {
    match block.attributes.iter().position(|known| *known == who) {
        Some(index) => index,
        None => {
            block.attributes.push(who);
            block.attributes.len() - 1
        }
    }
}

/// Puts another attribute on a slot that is taken. Its number is no allocation's any more; the former attribute stays, until
/// [`free`] closes up.
pub(crate) fn hand_over(block: &mut IPAMBlockSpec, ordinal: usize, to: AllocationAttribute) {
    let index = attribute_index(block, to);
    block.allocations[ordinal] = Some(index);
    block
        .sequence_number_for_allocation
        .remove(&ordinal.to_string());
}

/// Frees slots; those not taken are left as they are. Freed slots are the last to be taken again. Attributes that nobody
/// refers to any more go, and the indexes close up.
pub fn free(block: &mut IPAMBlockSpec, ordinals: &[usize]) {
    for ordinal in ordinals {
        if let Some(slot @ Some(_)) = block.allocations.get_mut(*ordinal) {
            *slot = None;
            block.unallocated.push(*ordinal);
            block
                .sequence_number_for_allocation
                .remove(&ordinal.to_string());
        }
    }
    let mut kept = Vec::new();
    let mut new_index = vec![None; block.attributes.len()];
    for (index, attribute) in block.attributes.drain(..).enumerate() {
        if block.allocations.contains(&Some(index)) {
            new_index[index] = Some(kept.len());
            kept.push(attribute);
        }
    }
    block.attributes = kept;
    for slot in &mut block.allocations {
        *slot = slot.and_then(|index| new_index.get(index).copied().flatten());
    }
}

#[cfg(test)]
mod tests;
