//! What a release changes: decided over a draft, without I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::ipam::IPAMBlockSpec;
use ipnet::IpNet;

use crate::block::{self, host_affinity};
use crate::companion::{Companion, Laid};
use crate::draft::Draft;
use crate::plan::{Halt, Stop, need};
use crate::request::{ReleaseAddress, ReleaseRefused, Released};
use crate::view::{Extent, Known, block_key, handle_key};

/// Frees all addresses of each handle; one result a handle. A handle that does not exist has none.
pub(crate) fn release_handles(
    draft: &mut Draft<'_>,
    handle_ids: &[String],
) -> Result<Vec<Vec<IpAddr>>, Stop> {
    let free_all = |handle_id: &String| {
        let all = held(draft, handle_id)?;
        Ok(release_handle(draft, handle_id, &all)?.released)
    };
    handle_ids.iter().map(free_all).collect()
}

/// The addresses of each handle as they stand now; one result a handle. A handle that does not exist has none.
pub(crate) fn held_by_handles(
    draft: &Draft<'_>,
    handle_ids: &[String],
) -> Result<Vec<Vec<ReleaseAddress>>, Stop> {
    handle_ids.iter().map(|id| held(draft, id)).collect()
}

/// Frees what was held by each handle when it was looked at, with the companion at its place; one result a handle. A handle whose
/// companion was refused is left as it is.
pub(crate) fn release_with(
    draft: &mut Draft<'_>,
    looks: &[(String, Vec<ReleaseAddress>)],
    companions: &[Option<Companion>],
) -> Result<Vec<(Released, Laid)>, Stop> {
    let mut all = Vec::with_capacity(looks.len());
    for (number, (handle_id, looked_at)) in looks.iter().enumerate() {
        let companion = companions.get(number).and_then(Option::as_ref);
        let laid = companion.map_or(Laid::None, |found| found.lay(draft, &[]));
        let released = match &laid {
            Laid::Not(_) => Released::default(),
            Laid::None | Laid::Over(_) => release_handle(draft, handle_id, looked_at)?,
        };
        all.push((released, laid));
    }
    Ok(all)
}

/// The addresses that a handle has, each as it stands now.
pub(crate) fn held(draft: &Draft<'_>, handle_id: &str) -> Result<Vec<ReleaseAddress>, Stop> {
    let blocks: Vec<IpNet> = match draft.handle(handle_id) {
        Known::Present(handle) => blocks_of(handle.spec.block.keys()),
        Known::Unknown => return Err(Stop::Halt(Halt::Read(handle_key(handle_id)))),
        Known::Absent | Known::Unreadable(_) => return Ok(Vec::new()),
    };
    let mut held = Vec::new();
    for cidr in blocks {
        match draft.block(cidr) {
            Known::Present(found) => held.extend(held_in(&found.spec, handle_id)),
            Known::Unknown => return Err(Stop::Halt(Halt::Read(block_key(cidr)))),
            Known::Absent | Known::Unreadable(_) => {}
        }
    }
    Ok(held)
}

fn held_in(found: &IPAMBlockSpec, handle_id: &str) -> impl Iterator<Item = ReleaseAddress> {
    let ordinals = block::held_by(found, handle_id).into_iter();
    ordinals.filter_map(move |ordinal| {
        Some(ReleaseAddress {
            address: block::address(found.cidr, ordinal)?.addr(),
            handle_id: Some(handle_id.to_owned()),
            sequence_number: block::sequence_number(found, ordinal),
        })
    })
}

fn blocks_of<'a>(names: impl Iterator<Item = &'a String>) -> Vec<IpNet> {
    names.filter_map(|name| name.parse().ok()).collect()
}

/// Frees addresses of a handle that are still as they were looked at. What it has besides stays, and is refused where it was
/// looked at: it was given out anew in the meantime.
fn release_handle(
    draft: &mut Draft<'_>,
    handle_id: &str,
    looked_at: &[ReleaseAddress],
) -> Result<Released, Stop> {
    let mut done = Released::default();
    let counts: BTreeMap<String, u32> = match draft.handle(handle_id) {
        Known::Present(handle) => handle.spec.block.clone(),
        Known::Unknown => return Err(Stop::Halt(Halt::Read(handle_key(handle_id)))),
        Known::Absent if draft.view().is_tombstone(&handle_key(handle_id)) => {
            // Whoever marked it as deleted has not come to it.
            draft.set_handle(handle_id, BTreeMap::new());
            return Ok(done);
        }
        Known::Absent | Known::Unreadable(_) => return Ok(done),
    };
    let mut kept = BTreeMap::new();
    for cidr in blocks_of(counts.keys()) {
        let now: Vec<ReleaseAddress> = match draft.block(cidr) {
            Known::Present(found) => held_in(&found.spec, handle_id).collect(),
            Known::Absent => Vec::new(),
            Known::Unknown => return Err(Stop::Halt(Halt::Read(block_key(cidr)))),
            // What the block says of the handle cannot be read: the handle still says that something is there.
            Known::Unreadable(_) => {
                kept.insert(cidr.to_string(), 1);
                continue;
            }
        };
        let mut ordinals = Vec::new();
        let mut stays = 0;
        for held in now {
            let look = looked_at.iter().find(|look| look.address == held.address);
            match look {
                Some(look) if look.sequence_number == held.sequence_number => {
                    ordinals.extend(block::ordinal(cidr, held.address));
                    done.released.push(held.address);
                    continue;
                }
                Some(look) => done.refused.push((
                    held.address,
                    ReleaseRefused::SequenceNumber {
                        found: held.sequence_number,
                        expected: look.sequence_number.unwrap_or_default(),
                    },
                )),
                None => {}
            }
            stays += 1;
        }
        if stays > 0 {
            kept.insert(cidr.to_string(), stays);
        }
        let counted = counts.get(&cidr.to_string());
        if ordinals.is_empty() && counted.is_some_and(|counted| *counted > stays) {
            // Either the handle counts too much, or the block is another than is remembered.
            draft.rely_on_block(cidr);
        }
        free(draft, cidr, &ordinals);
    }
    draft.set_handle(handle_id, kept);
    Ok(done)
}

/// Frees single addresses if they are still what the caller looked at. Needs a full view.
pub(crate) fn release_addresses(
    draft: &mut Draft<'_>,
    wanted: &[ReleaseAddress],
) -> Result<Released, Stop> {
    need(draft, Extent::All)?;
    let mut done = Released::default();
    for item in wanted {
        let address = item.address;
        let found = draft.block_with(address)?;
        let Some((cidr, ordinal, holder)) = found.and_then(|(cidr, found)| {
            let ordinal = block::ordinal(cidr, address)?;
            let holder = block::holder(&found.spec, ordinal)?;
            // What cools down is nobody's.
            let holder = Some(holder).filter(|holder| holder.released_at().is_none())?;
            Some((
                cidr,
                ordinal,
                check_holder(&found.spec, ordinal, holder, item),
            ))
        }) else {
            done.unallocated.push(address);
            continue;
        };
        match holder {
            Err(refused) => done.refused.push((address, refused)),
            Ok(handle_id) => {
                if let Some(handle_id) = &handle_id
                    && matches!(draft.handle(handle_id), Known::Unknown)
                {
                    return Err(Stop::Halt(Halt::Read(handle_key(handle_id))));
                }
                free(draft, cidr, &[ordinal]);
                if let Some(handle_id) = &handle_id {
                    count_anew(draft, handle_id, cidr);
                }
                done.released.push(address);
            }
        }
    }
    Ok(done)
}

fn check_holder(
    found: &IPAMBlockSpec,
    ordinal: usize,
    holder: &api::ipam::AllocationAttribute,
    wanted: &ReleaseAddress,
) -> Result<Option<String>, ReleaseRefused> {
    if let Some(expected) = &wanted.handle_id
        && !block::is_handle(holder, expected)
    {
        return Err(ReleaseRefused::Handle {
            holder: holder.handle_id.clone(),
            expected: expected.clone(),
        });
    }
    let number = block::sequence_number(found, ordinal);
    match wanted.sequence_number {
        Some(expected) if number != Some(expected) => Err(ReleaseRefused::SequenceNumber {
            found: number,
            expected,
        }),
        _ => Ok(holder.handle_id.clone()),
    }
}

/// Sets what a handle counts in a block to what it has there.
fn count_anew(draft: &mut Draft<'_>, handle_id: &str, cidr: IpNet) {
    let Known::Present(handle) = draft.handle(handle_id) else {
        return;
    };
    let mut counts = handle.spec.block.clone();
    let held = match draft.block(cidr) {
        Known::Present(found) => block::held_by(&found.spec, handle_id).len(),
        Known::Absent | Known::Unreadable(_) | Known::Unknown => 0,
    };
    match u32::try_from(held) {
        Ok(held) if held > 0 => counts.insert(cidr.to_string(), held),
        _ => counts.remove(&cidr.to_string()),
    };
    draft.set_handle(handle_id, counts);
}

/// Frees slots; a block that is nobody's and empty goes.
fn free(draft: &mut Draft<'_>, cidr: IpNet, ordinals: &[usize]) {
    if ordinals.is_empty() {
        return;
    }
    let cooldown = draft.cooldown();
    if let Some(spec) = draft.edit_block(cidr) {
        cooldown.release(spec, ordinals);
        if spec.affinity.is_none() && cooldown.is_empty(spec) {
            draft.delete_block(cidr);
        }
    }
}

/// What becomes of a node's blocks when it leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostReleased {
    /// Blocks that are nobody's now; the empty ones are deleted.
    pub released: Vec<IpNet>,
    /// Blocks kept because addresses in them are taken and only empty ones were to go.
    pub in_use: Vec<IpNet>,
}

/// Gives up a block that is `node`'s, empty and at this number; whether it is.
pub(crate) fn release_block(
    draft: &mut Draft<'_>,
    node: &str,
    cidr: IpNet,
    sequence_number: u64,
) -> Result<bool, Stop> {
    match draft.block(cidr) {
        Known::Present(found) => {
            let is_same = found.spec.affinity.as_deref() == Some(&host_affinity(node))
                && found.spec.sequence_number == sequence_number
                && draft.cooldown().is_empty(&found.spec);
            if !is_same {
                return Ok(false);
            }
        }
        Known::Absent | Known::Unreadable(_) => return Ok(false),
        Known::Unknown => return Err(Stop::Halt(Halt::Read(block_key(cidr)))),
    }
    draft.delete_block(cidr);
    for (name, claim) in draft.affinities_of(node) {
        if claim.cidr == cidr {
            draft.delete_affinity(&name);
        }
    }
    Ok(true)
}

/// Gives up a node's claims. Needs a full view.
pub(crate) fn release_host(
    draft: &mut Draft<'_>,
    node: &str,
    only_empty: bool,
) -> Result<HostReleased, Stop> {
    need(draft, Extent::All)?;
    let host = host_affinity(node);
    let affinities = draft.affinities_of(node);
    let of_host = |found: &IPAMBlockSpec| found.affinity.as_deref() == Some(&host);
    let mut cidrs: BTreeSet<IpNet> = affinities.iter().map(|(_, a)| a.cidr).collect();
    let blocks = draft.blocks_of(&host);
    cidrs.extend(blocks.map(|(cidr, _)| cidr));
    let mut done = HostReleased::default();
    for cidr in cidrs {
        if let Known::Present(found) = draft.block(cidr)
            && of_host(&found.spec)
        {
            if draft.cooldown().is_empty(&found.spec) {
                draft.delete_block(cidr);
            } else if only_empty {
                done.in_use.push(cidr);
                continue;
            } else if let Some(spec) = draft.edit_block(cidr) {
                spec.affinity = None;
                spec.affinity_claim_time = None;
            }
        }
        for (name, _) in affinities.iter().filter(|(_, a)| a.cidr == cidr) {
            draft.delete_affinity(name);
        }
        done.released.push(cidr);
    }
    Ok(done)
}
