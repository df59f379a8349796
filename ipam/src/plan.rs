//! Which addresses a request gets: decided over a draft, without I/O.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::ipam::{AllocationAttribute, IPAMBlockSpec};
use api::key::Key;
use api::pool::IPPool;
use ipnet::IpNet;
use serde_json::Map;

use crate::block::{self, first, host_affinity, last};
use crate::candidates::{candidates, fnv1_32};
use crate::draft::Draft;
use crate::error::{AssignError, Family, PoolRefused};
use crate::pools::{self, Asker};
use crate::request::{AssignRequest, Assignment, Wanted};
use crate::time::Timestamp;
use crate::view::{Known, View, block_key, handle_key};

/// Blocks a node may own when `maxBlocksPerHost` is 0.
pub(crate) const BLOCKS_PER_HOST_DEFAULT: u32 = 20;

/// How long an empty block stays with its node before another may take it over, in seconds.
const RECLAIM_AFTER_SECONDS: u64 = 60;

/// The decision needs more than the view holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Halt {
    /// This object.
    Read(Key),
    /// All blocks and affinities.
    Reload,
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

/// Slots to take from one block.
struct Pick {
    block: IpNet,
    pool: String,
    source: Source,
    slots: Slots,
}

/// How a block comes to be used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// It is the node's.
    Own,
    /// It is nobody's, or the node's without an affinity object.
    Claim,
    /// It was another node's, and empty.
    Reclaim,
    /// It stays another node's.
    Borrow,
}

enum Slots {
    Next(usize),
    This(usize),
}

/// Plans every request in turn; each sees what the ones before it took.
pub(crate) fn assign_all(
    draft: &mut Draft<'_>,
    node: &str,
    requests: &[AssignRequest],
) -> Result<Vec<Result<Assignment, AssignError>>, Stop> {
    mend(draft, node);
    let mut results = Vec::with_capacity(requests.len());
    for request in requests {
        results.push(match assign(draft, node, request) {
            Ok(assignment) => Ok(assignment),
            Err(Stop::Halt(halt)) => return Err(Stop::Halt(halt)),
            // A part of the store may be out of date: only the whole of it says no.
            Err(Stop::Error(_)) if !draft.view().is_full() => return Err(Stop::Halt(Halt::Reload)),
            Err(Stop::Error(error)) => Err(error),
        });
    }
    Ok(results)
}

/// Finishes what a crashed claim or release of this node left behind, as far as it is in the way.
///
/// A claim whose block went to somebody else, or to nobody, is void; one that was being given up and whose block is
/// gone is given up. A claim whose block is missing, or not yet confirmed, is completed when the block is used.
fn mend(draft: &mut Draft<'_>, node: &str) {
    use api::ipam::AffinityState::PendingDeletion;
    let host = host_affinity(node);
    for (name, affinity) in draft.affinities_of(node) {
        let void = match draft.block(affinity.cidr) {
            Known::Present(found) => found.spec.affinity.as_deref() != Some(&host),
            Known::Absent => affinity.state == PendingDeletion,
            Known::Unreadable(_) | Known::Unknown => false,
        };
        if void {
            draft.delete_affinity(&name);
        }
    }
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

fn name_of(pool: &IPPool) -> String {
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
    let judged: Vec<_> = if named.is_empty() {
        of_family()
            .map(|pool| (pool, pools::selected(pool, asker)))
            .collect()
    } else {
        let usable = |pool| (pool, pools::usable(pool, request.allowed_use));
        named.into_iter().map(usable).collect()
    };
    for (pool, verdict) in judged {
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

/// Finds `count` free slots: in the node's own blocks, then in newly claimed ones, then in those of others.
fn find(
    draft: &Draft<'_>,
    node: &str,
    eligible: &[&IPPool],
    family: Family,
    count: usize,
    now: Timestamp,
) -> Result<Vec<Pick>, Stop> {
    let mut search = Search {
        draft,
        node,
        host: host_affinity(node),
        eligible,
        missing: count,
        picks: Vec::new(),
    };
    let owned = search.own(family)?;
    if search.missing == 0 {
        return Ok(search.picks);
    }
    if !draft.view().is_full() {
        return Err(Stop::Halt(Halt::Reload));
    }
    search.claim(owned, now)?;
    if search.missing > 0 && !draft.view().config().strict_affinity {
        search.borrow();
    }
    if search.missing > 0 {
        return Err(Stop::Error(AssignError::Exhausted {
            node: node.to_owned(),
            family,
            pools: eligible.iter().map(|pool| name_of(pool)).collect(),
        }));
    }
    Ok(search.picks)
}

struct Search<'d, 'v> {
    draft: &'d Draft<'v>,
    node: &'d str,
    host: String,
    eligible: &'d [&'v IPPool],
    missing: usize,
    picks: Vec<Pick>,
}

impl Search<'_, '_> {
    fn pool(&self, cidr: IpNet) -> Option<String> {
        let pool = self
            .eligible
            .iter()
            .find(|pool| pool.spec.cidr.contains(&cidr))?;
        Some(name_of(pool))
    }

    fn pick(&mut self, block: IpNet, pool: String, source: Source, room: usize) {
        let count = room.min(self.missing);
        if count > 0 {
            self.missing -= count;
            self.picks.push(Pick {
                block,
                pool,
                source,
                slots: Slots::Next(count),
            });
        }
    }

    /// Takes what is free in the node's own blocks; answers how many blocks of the family it owns.
    fn own(&mut self, family: Family) -> Result<u32, Halt> {
        let mut owned = 0;
        for (_, affinity) in self.draft.affinities_of(self.node) {
            let cidr = affinity.cidr;
            if Family::of(cidr.addr()) != family {
                continue;
            }
            owned += 1;
            let Some(pool) = self.pool(cidr) else {
                continue;
            };
            let (source, room) = match self.draft.block(cidr) {
                Known::Present(found) => (Source::Own, found.spec.unallocated.len()),
                Known::Absent => (Source::Claim, block::slots(cidr).unwrap_or(0)),
                Known::Unreadable(_) => continue,
                Known::Unknown => return Err(Halt::Read(block_key(cidr))),
            };
            self.pick(cidr, pool, source, room);
        }
        Ok(owned)
    }

    /// Claims blocks, free ones first, then empty ones of other nodes, up to the limit.
    fn claim(&mut self, mut owned: u32, now: Timestamp) -> Result<(), AssignError> {
        let config = self.draft.view().config();
        let limit = match config.max_blocks_per_host {
            0 => BLOCKS_PER_HOST_DEFAULT,
            limit => limit,
        };
        let over_limit = AssignError::BlockLimit {
            node: self.node.to_owned(),
            limit,
        };
        if owned >= limit {
            return Err(over_limit);
        }
        if !config.auto_allocate_blocks {
            return Ok(());
        }
        let mut taken = self.taken();
        for pool in self.eligible {
            let block_len = pool.spec.block_len();
            for cidr in candidates(pool.spec.cidr, block_len, self.seed(pool, now)) {
                if self.missing == 0 {
                    return Ok(());
                }
                let Some(room) = self.claimable(&taken, cidr) else {
                    continue;
                };
                if owned >= limit {
                    return Err(over_limit);
                }
                owned += 1;
                taken.insert(first(cidr), last(cidr));
                self.pick(cidr, name_of(pool), Source::Claim, room);
            }
        }
        let empty: Vec<IpNet> = self
            .draft
            .blocks()
            .filter(|(_, found)| reclaimable(&found.spec, &self.host, now))
            .map(|(cidr, _)| cidr)
            .collect();
        for cidr in empty {
            let (Some(pool), Some(room)) = (self.pool(cidr), block::slots(cidr)) else {
                continue;
            };
            if self.missing == 0 {
                return Ok(());
            }
            if owned >= limit {
                return Err(over_limit);
            }
            owned += 1;
            self.pick(cidr, pool, Source::Reclaim, room);
        }
        Ok(())
    }

    /// Blocks of one address are taken in turn, starting from the time: the same node would always meet its own.
    fn seed(&self, pool: &IPPool, now: Timestamp) -> u64 {
        if pool.spec.block_len() == pool.spec.cidr.max_prefix_len() {
            now.unix_nanos()
        } else {
            u64::from(fnv1_32(self.node))
        }
    }

    /// First and last address of what is there, so that a candidate of another size is not laid over it.
    fn taken(&self) -> BTreeMap<u128, u128> {
        let family = self.eligible.first().map(|pool| pools::family(pool));
        self.draft
            .blocks()
            .map(|(cidr, _)| cidr)
            .chain(self.picks.iter().map(|pick| pick.block))
            .filter(|cidr| Some(Family::of(cidr.addr())) == family)
            .map(|cidr| (first(cidr), last(cidr)))
            .collect()
    }

    /// The number of free slots if `cidr` can be made the node's.
    fn claimable(&self, taken: &BTreeMap<u128, u128>, cidr: IpNet) -> Option<usize> {
        match self.draft.block(cidr) {
            // The node's, but its affinity got lost.
            Known::Present(found) => {
                let is_ours = found.spec.affinity.as_deref() == Some(&self.host);
                let picked = self.picks.iter().any(|pick| pick.block == cidr);
                let room = found.spec.unallocated.len();
                (is_ours && !picked && room > 0).then_some(room)
            }
            Known::Absent => {
                let below = taken.range(..=last(cidr)).next_back();
                let overlaps = below.is_some_and(|(_, end)| *end >= first(cidr));
                if overlaps { None } else { block::slots(cidr) }
            }
            Known::Unreadable(_) | Known::Unknown => None,
        }
    }

    fn borrow(&mut self) {
        let foreign: Vec<(IpNet, usize)> = self
            .draft
            .blocks()
            .filter(|(_, found)| match found.spec.affinity.as_deref() {
                None => true,
                Some(owner) => owner.starts_with("host:") && owner != self.host,
            })
            .map(|(cidr, found)| (cidr, found.spec.unallocated.len()))
            .collect();
        for (cidr, room) in foreign {
            let picked = self.picks.iter().any(|pick| pick.block == cidr);
            if let Some(pool) = self.pool(cidr).filter(|_| !picked) {
                self.pick(cidr, pool, Source::Borrow, room);
            }
        }
    }
}

/// Whether another node's block may be taken over.
fn reclaimable(found: &IPAMBlockSpec, host: &str, now: Timestamp) -> bool {
    let of_other_node = found
        .affinity
        .as_deref()
        .is_none_or(|owner| owner.starts_with("host:") && owner != host);
    let old = match found.affinity_claim_time.as_deref() {
        None => true,
        Some(text) => Timestamp::parse_rfc3339(text)
            .is_some_and(|claimed| now.since(claimed).as_secs() >= RECLAIM_AFTER_SECONDS),
    };
    of_other_node && old && block::is_empty(found)
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
    let existing = draft.blocks().find(|(cidr, _)| cidr.contains(&address));
    let Some((cidr, found)) = existing else {
        if !view.is_full() {
            return Err(Stop::Halt(Halt::Reload));
        }
        let block_len = pool.spec.block_len();
        let cidr = IpNet::new(address, block_len)
            .map_err(|_| not_in_pool(vec![(name_of(pool), PoolRefused::BlockSize(block_len))]))?
            .trunc();
        if let Known::Unreadable(reason) = draft.block(cidr) {
            return Err(Stop::Error(corrupt(&block_key(cidr), reason)));
        }
        return pick_slot(cidr, pool, Source::Claim, address);
    };
    let owner = found.spec.affinity.as_deref();
    let ordinal = block::ordinal(cidr, address);
    if let Some(holder) = ordinal.and_then(|ordinal| block::holder(&found.spec, ordinal)) {
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
    for pick in picks {
        let Pick {
            block: cidr,
            pool,
            source,
            slots,
        } = pick;
        draft.rely_on_pool(&pool);
        own(draft, node, cidr, source, request.now);
        if matches!(source, Source::Claim | Source::Reclaim) {
            result.claimed.push(cidr);
        }
        let spec = draft
            .edit_block(cidr)
            .expect("a picked block stands in the draft or was just made");
        let ordinals: Vec<usize> = match slots {
            Slots::Next(count) => (0..count)
                .filter_map(|_| block::take_next(spec, &who))
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
                draft.put_block(made.expect("only CIDRs with slots are picked"));
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
    blocks.extend(draft.blocks().map(|(cidr, _)| cidr).filter(of_added));
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
