//! Where free slots are: the node's own blocks first, then blocks to claim, then those of others.

use std::collections::BTreeMap;

use api::ipam::{AffinityState, IPAMBlockSpec};
use api::pool::IPPool;
use ipnet::IpNet;

use crate::block::{self, first, host_affinity, last};
use crate::candidates::{candidates, fnv1_32};
use crate::draft::Draft;
use crate::error::{AssignError, Family};
use crate::plan::{Halt, Stop, name_of, need};
use crate::pools;
use crate::time::Timestamp;
use crate::view::{Extent, Known, affinity_key, block_key};

/// Blocks a node may own when `maxBlocksPerHost` is 0.
pub(crate) const BLOCKS_PER_HOST_DEFAULT: u32 = 20;

/// How long an empty block stays with its node before another may take it over, in seconds.
const RECLAIM_AFTER_SECONDS: u64 = 60;

/// How many blocks of others are read one by one before all are read.
const FEW: usize = 16;

/// Slots to take from one block.
pub(crate) struct Pick {
    pub(crate) block: IpNet,
    pub(crate) pool: String,
    pub(crate) source: Source,
    pub(crate) slots: Slots,
}

/// How a block comes to be used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// It is the node's.
    Own,
    /// It is nobody's, or the node's without an affinity object.
    Claim,
    /// It was another node's, and empty.
    Reclaim,
    /// It stays another node's.
    Borrow,
}

pub(crate) enum Slots {
    Next(usize),
    This(usize),
}

/// Finds `count` free slots: in the node's own blocks, then in newly claimed ones, then in those of others.
pub(crate) fn find(
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
    need(draft, Extent::Names)?;
    let owned = search.claim(owned, now)?;
    if search.missing > 0 && draft.view().extent() < Extent::All {
        search.use_a_few(owned, now)?;
    }
    if search.missing == 0 {
        return Ok(search.picks);
    }
    // From here on every block is read and decoded.
    need(draft, Extent::All)?;
    search.take_over(owned, now)?;
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

    /// Of a block that shares addresses with another none is taken: each may be somebody's there.
    fn pick(&mut self, block: IpNet, pool: String, source: Source, room: usize) {
        let count = room.min(self.missing);
        if count > 0 && !self.draft.is_shared(block) {
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
            if self.missing == 0 {
                continue;
            }
            let Some(pool) = self.pool(cidr) else {
                continue;
            };
            let is_confirmed = affinity.state == AffinityState::Confirmed;
            let (source, room) = match self.draft.block(cidr) {
                // Whoever left it half done may have met another block on its addresses.
                Known::Present(_) if !is_confirmed => {
                    need(self.draft, Extent::Names)?;
                    (Source::Own, free(self.draft, cidr))
                }
                Known::Present(_) => (Source::Own, free(self.draft, cidr)),
                // An affinity alone owns nothing: its block is made only where no other block lies.
                Known::Absent => {
                    need(self.draft, Extent::Names)?;
                    if self.draft.overlapping(cidr).is_some() {
                        continue;
                    }
                    (Source::Claim, unreserved(self.draft, cidr))
                }
                Known::Unreadable(_) => continue,
                Known::Unknown => return Err(Halt::Read(block_key(cidr))),
            };
            self.pick(cidr, pool, source, room);
        }
        Ok(owned)
    }

    /// How many blocks the node may own.
    fn limit(&self) -> u32 {
        match self.draft.view().config().max_blocks_per_host {
            0 => BLOCKS_PER_HOST_DEFAULT,
            limit => limit,
        }
    }

    /// Fails when a node that owns so many may have no other.
    fn may_own_one_more(&self, owned: u32) -> Result<(), AssignError> {
        let limit = self.limit();
        if owned < limit {
            return Ok(());
        }
        Err(AssignError::BlockLimit {
            node: self.node.to_owned(),
            limit,
        })
    }

    /// Claims blocks that nobody has, up to the limit; answers how many the node owns then.
    fn claim(&mut self, mut owned: u32, now: Timestamp) -> Result<u32, AssignError> {
        self.may_own_one_more(owned)?;
        if !self.draft.view().config().auto_allocate_blocks {
            return Ok(owned);
        }
        let mut taken = self.taken();
        for pool in self.eligible {
            let block_len = pool.spec.block_len();
            let mut all = candidates(pool.spec.cidr, block_len, self.seed(pool, now));
            while let Some(cidr) = all.next() {
                if self.missing == 0 {
                    return Ok(owned);
                }
                if let Some(end) = self.draft.view().reserved().end_of_all(cidr) {
                    all.skip_to_end_of(end);
                    continue;
                }
                let Some(room) = self.claimable(&taken, cidr) else {
                    continue;
                };
                self.may_own_one_more(owned)?;
                owned += 1;
                taken.insert(first(cidr), last(cidr));
                self.pick(cidr, name_of(pool), Source::Claim, room);
            }
        }
        Ok(owned)
    }

    /// Takes over empty blocks of other nodes, up to the limit.
    fn take_over(&mut self, mut owned: u32, now: Timestamp) -> Result<(), Stop> {
        if !self.draft.view().config().auto_allocate_blocks {
            return Ok(());
        }
        let empty: Vec<IpNet> = self
            .draft
            .blocks()
            .filter(|(_, found)| self.may_be_taken_over(&found.spec, now))
            .map(|(cidr, _)| cidr)
            .collect();
        for cidr in empty {
            if let Known::Present(found) = self.draft.block(cidr) {
                self.know_the_claim_on(&found.spec)?;
            }
            let room = unreserved(self.draft, cidr);
            let Some(pool) = self.pool(cidr).filter(|_| room > 0) else {
                continue;
            };
            if self.missing == 0 {
                return Ok(());
            }
            self.may_own_one_more(owned)?;
            owned += 1;
            self.pick(cidr, pool, Source::Reclaim, room);
        }
        Ok(())
    }

    /// The claim of whoever had a block goes with it, and must be known for that.
    fn know_the_claim_on(&self, found: &IPAMBlockSpec) -> Result<(), Halt> {
        match owner_of(found).map(|owner| affinity_key(owner, found.cidr)) {
            Some(claim) if !self.draft.view().was_looked_at(&claim) => Err(Halt::Read(claim)),
            Some(_) | None => Ok(()),
        }
    }

    fn may_be_taken_over(&self, found: &IPAMBlockSpec, now: Timestamp) -> bool {
        reclaimable(found, &self.host, now)
            && self.draft.cooldown().is_empty(found)
            && !self.draft.is_doubtful(found.cidr)
    }

    /// Of many blocks of others a few are looked at one by one, before all are read: in a large cluster these are more than
    /// a pod should wait for. The first that is empty or has room will do.
    fn use_a_few(&mut self, owned: u32, now: Timestamp) -> Result<(), Halt> {
        let config = self.draft.view().config();
        let may_own = config.auto_allocate_blocks && owned < self.limit();
        for cidr in self.a_few(now) {
            if self.missing == 0 {
                return Ok(());
            }
            let found = match self.draft.block(cidr) {
                Known::Present(found) => &found.spec,
                Known::Unknown => return Err(Halt::Read(block_key(cidr))),
                Known::Absent | Known::Unreadable(_) => continue,
            };
            let Some(pool) = self.pool(cidr) else {
                continue;
            };
            if may_own && self.may_be_taken_over(found, now) {
                self.know_the_claim_on(found)?;
                let room = unreserved(self.draft, cidr);
                self.pick(cidr, pool, Source::Reclaim, room);
                return Ok(());
            }
            if !config.strict_affinity && self.may_be_borrowed_from(found) {
                let room = free_of(self.draft, found);
                self.pick(cidr, pool, Source::Borrow, room);
            }
        }
        Ok(())
    }

    /// Some blocks of the pools, others each time; none where they are so few that all may as well be read.
    fn a_few(&self, now: Timestamp) -> Vec<IpNet> {
        let host = &self.host;
        let others = self.draft.block_cidrs().filter(|cidr| {
            let known = matches!(self.draft.block(*cidr), Known::Present(found)
                if found.spec.affinity.as_ref() == Some(host));
            !known && self.pool(*cidr).is_some()
        });
        let mut others: Vec<IpNet> = others.collect();
        if others.len() <= FEW {
            return Vec::new();
        }
        others.sort_unstable();
        let seconds = now.unix_nanos() / 1_000_000_000;
        let turn = u64::from(fnv1_32(self.node)).wrapping_add(seconds);
        let places = u64::try_from(others.len()).unwrap_or(u64::MAX);
        others.rotate_left(usize::try_from(turn % places).unwrap_or(0));
        others.truncate(FEW);
        others
    }

    fn may_be_borrowed_from(&self, found: &IPAMBlockSpec) -> bool {
        let of_another = match found.affinity.as_deref() {
            None => true,
            Some(owner) => owner.starts_with("host:") && owner != self.host,
        };
        of_another && !self.draft.is_doubtful(found.cidr)
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
            .block_cidrs()
            .chain(self.picks.iter().map(|pick| pick.block))
            .filter(|cidr| Some(Family::of(cidr.addr())) == family)
            .map(|cidr| (first(cidr), last(cidr)))
            .collect()
    }

    /// The number of free slots if `cidr` can be made the node's.
    fn claimable(&self, taken: &BTreeMap<u128, u128>, cidr: IpNet) -> Option<usize> {
        if self.draft.is_doubtful(cidr) || self.draft.is_foreign(cidr, &self.host) {
            return None;
        }
        match self.draft.block(cidr) {
            // The node's, but its affinity got lost.
            Known::Present(found) => {
                let is_ours = found.spec.affinity.as_deref() == Some(&self.host);
                let picked = self.picks.iter().any(|pick| pick.block == cidr);
                let room = free_of(self.draft, &found.spec);
                (is_ours && !picked && room > 0).then_some(room)
            }
            Known::Absent => {
                let below = taken.range(..=last(cidr)).next_back();
                let overlaps = below.is_some_and(|(_, end)| *end >= first(cidr));
                let room = unreserved(self.draft, cidr);
                (!overlaps && room > 0).then_some(room)
            }
            Known::Unreadable(_) | Known::Unknown => None,
        }
    }

    fn borrow(&mut self) {
        let foreign: Vec<(IpNet, usize)> = self
            .draft
            .blocks()
            .filter(|(_, found)| self.may_be_borrowed_from(&found.spec))
            .map(|(cidr, found)| (cidr, free_of(self.draft, &found.spec)))
            .collect();
        for (cidr, room) in foreign {
            let picked = self.picks.iter().any(|pick| pick.block == cidr);
            if let Some(pool) = self.pool(cidr).filter(|_| !picked) {
                self.pick(cidr, pool, Source::Borrow, room);
            }
        }
    }
}

/// The node that owns a block.
fn owner_of(found: &IPAMBlockSpec) -> Option<&str> {
    found.affinity.as_deref()?.strip_prefix("host:")
}

/// How many addresses of a block may be given to who asks for any.
fn free(draft: &Draft<'_>, cidr: IpNet) -> usize {
    match draft.block(cidr) {
        Known::Present(found) => free_of(draft, &found.spec),
        Known::Absent | Known::Unreadable(_) | Known::Unknown => 0,
    }
}

fn free_of(draft: &Draft<'_>, found: &IPAMBlockSpec) -> usize {
    let reserved = draft.view().reserved();
    let cooled = draft.cooldown().over(found);
    if reserved.count_in(found.cidr) == 0 {
        return found.unallocated.len() + cooled.len();
    }
    let ordinals = found.unallocated.iter().chain(&cooled);
    let addresses = ordinals.filter_map(|ordinal| block::address(found.cidr, *ordinal));
    addresses
        .filter(|net| !reserved.contains(net.addr()))
        .count()
}

/// How many addresses a new block would have for who asks for any.
fn unreserved(draft: &Draft<'_>, cidr: IpNet) -> usize {
    let reserved = draft.view().reserved().count_in(cidr);
    let reserved = usize::try_from(reserved).unwrap_or(usize::MAX);
    block::slots(cidr).unwrap_or(0).saturating_sub(reserved)
}

/// Whether another node's block may be taken over once it is empty.
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
    of_other_node && old
}
