//! Which addresses a request gets: decided over a draft, without I/O.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::ipam::AllocationAttribute;
use api::key::Key;
use api::pool::IPPool;
use ipnet::IpNet;
use serde_json::Map;

use crate::block::{self, host_affinity};
use crate::draft::{Draft, Look};
use crate::error::{AssignError, Family, PoolRefused};
use crate::pools::{self, Asker};
use crate::request::{AssignRequest, Assignment, Wanted};
use crate::search::{Pick, Slots, Source, find};
use crate::time::Timestamp;
use crate::view::{Extent, Known, View, block_key, handle_key};

/// The decision needs more than the view holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Halt {
    /// This object.
    Read(Key),
    /// At least this much.
    Widen(Extent),
}

/// A request was not planned.
#[derive(Debug)]
pub(crate) enum Stop {
    Halt(Halt),
    Error(AssignError),
}

impl From<AssignError> for Stop {
    fn from(error: AssignError) -> Self {
        Self::Error(error)
    }
}

impl From<Halt> for Stop {
    fn from(halt: Halt) -> Self {
        Self::Halt(halt)
    }
}

/// Plans every request in turn; each sees what the ones before it took.
pub(crate) fn assign_all(
    draft: &mut Draft<'_>,
    node: &str,
    requests: &[AssignRequest],
) -> Result<Vec<Result<Assignment, AssignError>>, Stop> {
    repair(draft, node);
    let mut results = Vec::with_capacity(requests.len());
    for request in requests {
        results.push(match assign(draft, node, request) {
            Ok(assignment) => Ok(assignment),
            Err(Stop::Halt(halt)) => return Err(Stop::Halt(halt)),
            // A part of the store may be out of date: only the whole of it says no.
            Err(Stop::Error(_)) if draft.view().extent() < Extent::All => {
                return Err(Halt::Widen(Extent::All).into());
            }
            // Nor before it is known that the handle has nothing yet.
            Err(Stop::Error(_)) if matches!(draft.handle(&request.handle_id), Known::Unknown) => {
                return Err(Stop::Halt(Halt::Read(handle_key(&request.handle_id))));
            }
            Err(Stop::Error(error)) => Err(error),
        });
    }
    Ok(results)
}

/// Nothing, if the view holds this much.
pub(crate) fn need(draft: &Draft<'_>, extent: Extent) -> Result<(), Halt> {
    if draft.view().extent() < extent {
        return Err(Halt::Widen(extent));
    }
    Ok(())
}

/// Finishes what a crashed claim or release of this node left behind, as far as it is in the way.
///
/// An affinity whose block went to somebody else, or to nobody, is void, as is one without a block that lies over another
/// block; one that was being given up and whose block is gone is given up. One with an empty block that shares addresses with
/// another is withdrawn with the block, as is one that is not confirmed where no pool would make its empty block now. One whose
/// block is missing, or not yet confirmed, is completed when the block is used.
fn repair(draft: &mut Draft<'_>, node: &str) {
    use api::ipam::AffinityState::{Confirmed, PendingDeletion};
    let host = host_affinity(node);
    for (name, affinity) in draft.affinities_of(node) {
        let cidr = affinity.cidr;
        let (void, withdrawn) = match draft.block(cidr) {
            Known::Present(found) if found.spec.affinity.as_deref() == Some(&host) => {
                let is_stray =
                    affinity.state != Confirmed && !is_made_by_a_pool(draft.view(), cidr);
                let is_unused = draft.cooldown().is_empty(&found.spec);
                let goes = is_unused && (is_stray || draft.is_shared(cidr));
                (goes, goes)
            }
            Known::Present(_) => (true, false),
            Known::Absent => {
                let void = affinity.state == PendingDeletion || draft.overlapping(cidr).is_some();
                (void, false)
            }
            Known::Unreadable(_) | Known::Unknown => (false, false),
        };
        if withdrawn {
            draft.delete_block(cidr);
        }
        if void {
            draft.delete_affinity(&name);
        }
    }
}

/// Whether a pool is cut into blocks of which `cidr` is one.
fn is_made_by_a_pool(view: &View, cidr: IpNet) -> bool {
    view.pools()
        .any(|pool| pool.spec.cidr.contains(&cidr) && pool.spec.block_len() == cidr.prefix_len())
}

pub(crate) fn assign(
    draft: &mut Draft<'_>,
    node: &str,
    request: &AssignRequest,
) -> Result<Assignment, Stop> {
    let held = held(draft, &request.handle_id)?;
    let mut picks = Vec::new();
    let mut result = Assignment::default();
    match &request.wanted {
        Wanted::Address(address) => {
            if held.iter().any(|net| net.addr() == *address) {
                result.addresses.push(IpNet::from(*address));
            } else {
                picks.push(pick_address(draft, node, request, *address)?);
            }
        }
        Wanted::Any { ipv4, ipv6, pools } => {
            for (family, count) in [(Family::V4, *ipv4), (Family::V6, *ipv6)] {
                let of_family = held.iter().filter(|net| Family::of(net.addr()) == family);
                let kept: Vec<IpNet> = of_family.copied().take(count).collect();
                let missing = count - kept.len();
                result.addresses.extend(kept);
                if missing > 0 {
                    let eligible = eligible(draft.view(), node, request, family, pools)?;
                    picks.extend(find(draft, node, &eligible, family, missing, request.now)?);
                }
            }
        }
    }
    result.pools = result
        .addresses
        .iter()
        .map(|net| pool_of(draft.view(), net.addr()).map_or_else(String::new, name_of))
        .collect();
    result.existing = picks.is_empty();
    if !picks.is_empty() {
        take(draft, node, request, picks, &mut result);
        let mut given: Vec<_> = result
            .addresses
            .drain(..)
            .zip(result.pools.drain(..))
            .collect();
        given.sort_by_key(|(net, _)| net.addr().is_ipv6());
        (result.addresses, result.pools) = given.into_iter().unzip();
    }
    Ok(result)
}

/// The addresses a handle has. A handle that was never looked at is taken for a new one: if it is not, the write
/// conflicts and tells what there is.
pub(crate) fn held(draft: &Draft<'_>, handle_id: &str) -> Result<Vec<IpNet>, Stop> {
    let blocks: Vec<String> = match draft.handle(handle_id) {
        Known::Present(handle) => handle.spec.block.keys().cloned().collect(),
        Known::Absent | Known::Unknown => return Ok(Vec::new()),
        Known::Unreadable(reason) => {
            return Err(Stop::Error(corrupt(&handle_key(handle_id), reason)));
        }
    };
    let mut held = Vec::new();
    for cidr in blocks.iter().filter_map(|cidr| cidr.parse::<IpNet>().ok()) {
        match draft.block(cidr) {
            Known::Present(found) => {
                let ordinals = block::held_by(&found.spec, handle_id);
                held.extend(ordinals.into_iter().filter_map(|o| block::address(cidr, o)));
            }
            Known::Absent => {}
            Known::Unknown => return Err(Stop::Halt(Halt::Read(block_key(cidr)))),
            Known::Unreadable(reason) => {
                return Err(Stop::Error(corrupt(&block_key(cidr), reason)));
            }
        }
    }
    Ok(held)
}

fn corrupt(key: &Key, reason: &str) -> AssignError {
    AssignError::Corrupt {
        object: key.to_string(),
        reason: reason.into(),
    }
}

pub(crate) fn name_of(pool: &IPPool) -> String {
    pool.metadata.name.clone()
}

fn pool_of(view: &View, address: IpAddr) -> Option<&IPPool> {
    view.pools().find(|pool| pool.spec.cidr.contains(&address))
}

/// The pools of `family` to take from, in name order.
fn eligible<'v>(
    view: &'v View,
    node: &str,
    request: &AssignRequest,
    family: Family,
    wanted: &[String],
) -> Result<Vec<&'v IPPool>, AssignError> {
    if let Some(unknown) = wanted
        .iter()
        .find(|wanted| !view.pools().any(|pool| pools::is_named(pool, wanted)))
    {
        return Err(AssignError::UnknownPool {
            wanted: unknown.clone(),
            existing: view.pools().map(name_of).collect(),
        });
    }
    let asker = Asker {
        node_labels: &request.node_labels,
        namespace_labels: request.namespace_labels.as_ref(),
        allowed_use: request.allowed_use,
    };
    let of_family = || view.pools().filter(|pool| pools::family(pool) == family);
    let named: Vec<&IPPool> = of_family()
        .filter(|pool| wanted.iter().any(|wanted| pools::is_named(pool, wanted)))
        .collect();
    let mut eligible = Vec::new();
    let mut refused: Vec<(String, PoolRefused)> = Vec::new();
    let examined: Vec<_> = if named.is_empty() {
        of_family()
            .map(|pool| (pool, pools::selected(pool, asker)))
            .collect()
    } else {
        let usable = |pool| (pool, pools::usable(pool, request.allowed_use));
        named.into_iter().map(usable).collect()
    };
    for (pool, verdict) in examined {
        match verdict {
            Ok(()) => eligible.push(pool),
            Err(reason) => refused.push((name_of(pool), reason)),
        }
    }
    if eligible.is_empty() {
        return Err(AssignError::NoPools {
            node: node.to_owned(),
            family,
            refused,
        });
    }
    Ok(eligible)
}

/// Where the one address asked for is to be taken.
fn pick_address(
    draft: &Draft<'_>,
    node: &str,
    request: &AssignRequest,
    address: IpAddr,
) -> Result<Pick, Stop> {
    let view = draft.view();
    let not_in_pool = |refused| AssignError::NotInPool { address, refused };
    let pool = pool_of(view, address).ok_or_else(|| not_in_pool(Vec::new()))?;
    pools::usable(pool, request.allowed_use)
        .map_err(|reason| not_in_pool(vec![(name_of(pool), reason)]))?;
    let existing = draft.block_with(address)?;
    let Some((cidr, found)) = existing else {
        need(draft, Extent::Names)?;
        let block_len = pool.spec.block_len();
        let cidr = IpNet::new(address, block_len)
            .map_err(|_| not_in_pool(vec![(name_of(pool), PoolRefused::BlockSize(block_len))]))?
            .trunc();
        if let Known::Unreadable(reason) = draft.block(cidr) {
            return Err(Stop::Error(corrupt(&block_key(cidr), reason)));
        }
        if let Some(other) = draft.overlapping(cidr) {
            return Err(Stop::Error(AssignError::Overlap {
                address,
                block: cidr,
                other,
            }));
        }
        return pick_slot(cidr, pool, Source::Claim, address);
    };
    if let Some(other) = draft.shared_with(cidr) {
        return Err(Stop::Error(AssignError::Overlap {
            address,
            block: cidr,
            other,
        }));
    }
    let owner = found.spec.affinity.as_deref();
    let ordinal = block::ordinal(cidr, address);
    let cools = ordinal.and_then(|ordinal| draft.cooldown().left(&found.spec, ordinal));
    if let Some(left) = cools {
        let seconds = left.as_secs();
        return Err(Stop::Error(AssignError::Cooling { address, seconds }));
    }
    let holder = ordinal.and_then(|ordinal| block::holder(&found.spec, ordinal));
    if let Some(holder) = holder.filter(|holder| holder.released_at().is_none()) {
        return Err(Stop::Error(AssignError::InUse {
            address,
            handle: holder.handle_id.clone(),
        }));
    }
    if owner == Some(&host_affinity(node)) {
        return pick_slot(cidr, pool, Source::Own, address);
    }
    if view.config().strict_affinity {
        return Err(Stop::Error(AssignError::ForeignBlock {
            address,
            block: cidr,
            owner: owner.unwrap_or("nobody").to_owned(),
        }));
    }
    pick_slot(cidr, pool, Source::Borrow, address)
}

fn pick_slot(cidr: IpNet, pool: &IPPool, source: Source, address: IpAddr) -> Result<Pick, Stop> {
    let ordinal = block::ordinal(cidr, address)
        .filter(|_| block::slots(cidr).is_some())
        .ok_or_else(|| corrupt(&block_key(cidr), "makes no block that holds the address"))?;
    Ok(Pick {
        block: cidr,
        pool: name_of(pool),
        source,
        slots: Slots::This(ordinal),
    })
}

/// Does what was picked. Cannot fail: each pick was found free in the same draft.
fn take(
    draft: &mut Draft<'_>,
    node: &str,
    request: &AssignRequest,
    picks: Vec<Pick>,
    result: &mut Assignment,
) {
    let who = attribute(node, request);
    let reserved = draft.view().reserved();
    for pick in picks {
        let Pick {
            block: cidr,
            pool,
            source,
            slots,
        } = pick;
        // One that is the node's was made for its pool, and no other lies over it: what became of the pool since, the
        // caller's watch says.
        let is_settled = source == Source::Own && draft.is_confirmed(node, cidr);
        draft.rely_on_pool(
            &pool,
            if is_settled {
                Look::IfFree
            } else {
                Look::Always
            },
        );
        own(draft, node, cidr, source, request.now);
        if matches!(source, Source::Claim | Source::Reclaim) {
            result.claimed.push(cidr);
        }
        let spec = draft
            .edit_block(cidr)
            .expect("a picked block stands in the draft or was just made");
        let ordinals: Vec<usize> = match slots {
            Slots::Next(count) => (0..count)
                .filter_map(|_| block::take_next(spec, &who, reserved))
                .collect(),
            Slots::This(ordinal) => block::take(spec, ordinal, &who)
                .then_some(ordinal)
                .into_iter()
                .collect(),
        };
        for address in ordinals.into_iter().filter_map(|o| block::address(cidr, o)) {
            result.addresses.push(address);
            result.pools.push(pool.clone());
        }
    }
    count_handle(draft, &request.handle_id, &result.addresses);
}

/// Makes a block the node's, as far as it is to be.
fn own(draft: &mut Draft<'_>, node: &str, cidr: IpNet, source: Source, now: Timestamp) {
    let host = host_affinity(node);
    match source {
        Source::Borrow => {}
        Source::Own => draft.confirm_affinity(node, cidr),
        Source::Claim => {
            draft.confirm_affinity(node, cidr);
            if !matches!(draft.block(cidr), Known::Present(_)) {
                let made = block::new_block(cidr, host, now);
                draft.make_block(made.expect("only CIDRs with slots are picked"));
            }
        }
        Source::Reclaim => {
            let owner = match draft.block(cidr) {
                Known::Present(found) => found.spec.affinity.clone(),
                Known::Absent | Known::Unreadable(_) | Known::Unknown => None,
            };
            if let Some(other) = owner
                .as_deref()
                .and_then(|owner| owner.strip_prefix("host:"))
            {
                for (name, affinity) in draft.affinities_of(other) {
                    if affinity.cidr == cidr {
                        draft.delete_affinity(&name);
                    }
                }
            }
            draft.confirm_affinity(node, cidr);
            if let Some(spec) = draft.edit_block(cidr) {
                spec.affinity = Some(host);
                spec.affinity_claim_time = Some(now.rfc3339());
            }
        }
    }
}

fn attribute(node: &str, request: &AssignRequest) -> AllocationAttribute {
    let mut secondary = request.attributes.clone();
    secondary
        .entry("node".to_owned())
        .or_insert_with(|| node.to_owned());
    secondary
        .entry("timestamp".to_owned())
        .or_insert_with(|| request.now.attribute());
    AllocationAttribute {
        handle_id: Some(request.handle_id.clone()),
        secondary,
        extra: Map::new(),
    }
}

/// Writes into the handle what it has in the blocks it names and in those of `added`.
fn count_handle(draft: &mut Draft<'_>, handle_id: &str, added: &[IpNet]) {
    let mut blocks: Vec<IpNet> = match draft.handle(handle_id) {
        Known::Present(handle) => {
            let cidrs = handle.spec.block.keys();
            cidrs.filter_map(|cidr| cidr.parse().ok()).collect()
        }
        Known::Absent | Known::Unknown | Known::Unreadable(_) => Vec::new(),
    };
    let of_added = |cidr: &IpNet| added.iter().any(|net| cidr.contains(net));
    blocks.extend(draft.block_cidrs().filter(of_added));
    let mut counts = BTreeMap::new();
    for cidr in blocks {
        if let Known::Present(found) = draft.block(cidr) {
            let held = block::held_by(&found.spec, handle_id).len();
            if let Some(count) = u32::try_from(held).ok().filter(|count| *count > 0) {
                counts.insert(cidr.to_string(), count);
            }
        }
    }
    draft.set_handle(handle_id, counts);
}

#[cfg(test)]
mod tests;
