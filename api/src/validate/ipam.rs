//! Rules of `IPAMConfig`, `IPReservation`, `IPAMBlock`, `BlockAffinity` and `IPAMHandle`.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{Fault, check_masked};
use crate::ipam::{
    BlockAffinity, COOLDOWN_SECONDS_MAX, IPAMBlock, IPAMBlockSpec, IPAMConfig, IPAMHandle,
    IPReservation, block_name,
};
use crate::node::address_with_len;

pub(crate) fn check_config(config: &IPAMConfig, faults: &mut Vec<Fault>) {
    let config = &config.spec;
    if !config.strict_affinity && !config.auto_allocate_blocks {
        faults.push(Fault::new(
            "spec.autoAllocateBlocks",
            &false,
            "must be true, unless spec.strictAffinity is",
        ));
    }
    if config.ip_cooldown_seconds > COOLDOWN_SECONDS_MAX {
        faults.push(Fault::new(
            "spec.ipCooldownSeconds",
            &config.ip_cooldown_seconds,
            format!("must be 0 to {COOLDOWN_SECONDS_MAX}"),
        ));
    }
    if !config.strict_affinity && config.max_blocks_per_host > 0 {
        faults.push(Fault::new(
            "spec.maxBlocksPerHost",
            &config.max_blocks_per_host,
            "must be 0, unless spec.strictAffinity is true",
        ));
    }
}

pub(crate) fn check_reservation(reservation: &IPReservation, faults: &mut Vec<Fault>) {
    for (index, text) in reservation.spec.reserved_cidrs.iter().enumerate() {
        if address_with_len(text).is_none() {
            faults.push(Fault::new(
                format!("spec.reservedCIDRs[{index}]"),
                text,
                "must be a range such as 10.0.0.0/28, or an address",
            ));
        }
    }
}

pub(crate) fn check_block(block: &IPAMBlock, faults: &mut Vec<Fault>) {
    let spec = &block.spec;
    check_masked("spec.cidr", spec.cidr, faults);
    let wanted = block_name(spec.cidr);
    if block.metadata.name != wanted {
        faults.push(Fault::new(
            "metadata.name",
            &block.metadata.name,
            format!("must be {wanted}, made of spec.cidr"),
        ));
    }
    if let Some(affinity) = &spec.affinity {
        let owner = affinity
            .strip_prefix("host:")
            .or_else(|| affinity.strip_prefix("virtual:"));
        if owner.is_none_or(str::is_empty) {
            faults.push(Fault::new(
                "spec.affinity",
                affinity,
                "must be `host:` and a node's name, or `virtual:` and a name",
            ));
        }
    }
    check_slots(spec, faults);
}

fn check_slots(block: &IPAMBlockSpec, faults: &mut Vec<Fault>) {
    let host_bits = block.cidr.max_prefix_len() - block.cidr.prefix_len();
    let lens = match block.cidr {
        IpNet::V4(_) => "20 to 32",
        IpNet::V6(_) => "116 to 128",
    };
    if host_bits > 12 {
        faults.push(Fault::new(
            "spec.cidr",
            &block.cidr,
            format!("must have a prefix length of {lens}"),
        ));
        return;
    }
    let size = 1_usize << host_bits;
    if block.allocations.len() != size {
        faults.push(Fault::new(
            "spec.allocations",
            &block.allocations.len(),
            format!(
                "must have {size} entries, one for each address of {}",
                block.cidr
            ),
        ));
        return;
    }
    for (ordinal, slot) in block.allocations.iter().enumerate() {
        if slot.is_some_and(|index| index >= block.attributes.len()) {
            faults.push(Fault::new(
                format!("spec.allocations[{ordinal}]"),
                slot,
                format!(
                    "must be below {}, the number of spec.attributes",
                    block.attributes.len()
                ),
            ));
        }
    }
    let mut seen = BTreeSet::new();
    for (place, ordinal) in block.unallocated.iter().enumerate() {
        let free = block.allocations.get(*ordinal) == Some(&None);
        if !free || !seen.insert(*ordinal) {
            faults.push(Fault::new(
                format!("spec.unallocated[{place}]"),
                ordinal,
                "must be the ordinal of a free address, and stand once",
            ));
        }
    }
}

pub(crate) fn check_affinity(affinity: &BlockAffinity, faults: &mut Vec<Fault>) {
    let affinity = &affinity.spec;
    check_masked("spec.cidr", affinity.cidr, faults);
    if affinity.node.is_empty() {
        faults.push(Fault::absent("spec.node", "must be given"));
    }
    if !["host", "virtual"].contains(&affinity.affinity_type.as_str()) {
        faults.push(Fault::new(
            "spec.type",
            &affinity.affinity_type,
            "must be one of host, virtual",
        ));
    }
}

pub(crate) fn check_handle(handle: &IPAMHandle, faults: &mut Vec<Fault>) {
    let handle = &handle.spec;
    if handle.handle_id.is_empty() {
        faults.push(Fault::absent("spec.handleID", "must be given"));
    }
    for block in handle.block.keys() {
        if block.parse::<IpNet>().is_err() {
            faults.push(Fault::new(
                "spec.block",
                block,
                "must name blocks by their ranges, such as 10.0.0.0/26",
            ));
        }
    }
}
