//! Adj-RIB-Out of all peers with one export treatment: attributes are computed and UPDATEs encoded once, then copied to
//! each peer at the peer's own pace.
//!
//! ```text
//!  changed prefixes ─► pack ─► log of chunks ─┬─► peer at the end of the log
//!  (a set: the newest state counts)           ├─► peer some chunks behind
//!       sent: what the log has said last ─────┴─► peer still walking through all of it (new, or refreshing)
//! ```
//! Nothing is packed before some peer has room. A chunk is freed when the last peer has taken it; a peer that falls too
//! far behind leaves the log and keeps only the set of prefixes it is owed, so memory is bounded.
//!
//! A new group goes through the table in slices, too; what it has not come to yet needs no mark when it changes. A peer that
//! comes from another group is told the differences (`transit.rs`).
//!
//! A peer never gets its own routes back: a part of a chunk has an [`Audience`]. When the best route of a prefix moves
//! to a peer of the group, that peer alone gets a withdrawal of what it was sent before.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use ipnet::IpNet;

use crate::config::{NextHopMode, RoutePolicy};
use crate::event::ExportRefusal;
use crate::rib::Transmitted;
use crate::rib::source::SourceId;
use crate::rib::table::{AttributesId, PrefixId, Table};
use crate::types::{AfiSafi, Asn};
use crate::wire::attr::AsnWidth;
use crate::wire::message::HEADER_LENGTH;
use crate::wire::refresh::{RefreshKind, RouteRefresh};
use crate::wire::update::encode::{MessageLimit, write_end_of_rib};
use crate::wire::update::{FirstAsCheck, PeerKind, ReceiveContext, decode_update};

mod pack;
mod transit;

use transit::Moving;
pub(crate) use transit::Transit;

/// Slices that one transmission works through before it lets others have their turn.
const SLICES_AT_ONCE: usize = 2;
/// Octets of the log that a peer may be behind.
const LOG_OCTETS_MAX: usize = 16 << 20;

/// Everything that decides how routes look when they are sent. Peers that agree in it share one Adj-RIB-Out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupKey {
    pub(crate) family: AfiSafi,
    pub(crate) kind: PeerKind,
    /// AS put in front towards eBGP.
    pub(crate) local_asn: Asn,
    /// Next hop "self".
    pub(crate) local_address: IpAddr,
    pub(crate) next_hop: NextHopMode,
    pub(crate) client: bool,
    pub(crate) cluster_id: Ipv4Addr,
    pub(crate) width: AsnWidth,
    pub(crate) limit: MessageLimit,
    pub(crate) policy: RoutePolicy,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Group {
    key: GroupKey,
    /// Tells the groups apart for as long as there are any.
    serial: u64,
    /// Prefixes from this id on have not been packed yet, in the first pass through the table.
    unscanned: Option<usize>,
    /// Some of those have been packed all the same, because they changed.
    out_of_order: bool,
    /// Most prefixes packed, walked, compared or repaid at a time.
    slice: usize,
    /// Members of other groups that are told the differences to what this one said.
    followers: usize,
    /// Prefixes packed since [`Self::take_repacked`], while there are followers.
    repacked: Vec<PrefixId>,
    /// By prefix id: what was packed last.
    sent: Vec<Option<Sent>>,
    /// How many of these there are, and how many of each source.
    sent_count: usize,
    sent_of: Vec<usize>,
    dirty: Vec<PrefixId>,
    is_dirty: Vec<bool>,
    log: VecDeque<Chunk>,
    log_octets: usize,
    /// Sequence number of the first chunk in the log.
    log_start: u64,
    members: BTreeMap<SourceId, Member>,
    /// Members with [`Member::owes_end_of_rib`].
    owing_end_of_rib: usize,
    withheld: Vec<Withheld>,
}

/// What was sent, by the route that it was made of: made again, it is the same, for as long as the prefix is not among the
/// changed ones its route is the best one still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sent {
    attributes: AttributesId,
    source: SourceId,
}

/// UPDATEs packed at one time.
#[derive(Debug, Default)]
struct Chunk {
    bytes: Vec<u8>,
    parts: Vec<Part>,
    /// Of the first pass: nothing for members that are told differences.
    first_pass: bool,
    /// Members that have not taken all of it.
    readers: usize,
}

#[derive(Clone, Copy, Debug)]
struct Part {
    audience: Audience,
    end: usize,
}

/// For whom a part of a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Audience {
    All,
    Except(SourceId),
    Only(SourceId),
}

#[derive(Debug)]
struct Member {
    /// Chunk to read next, and the place in it.
    chunk: u64,
    offset: usize,
    /// For this member alone, to be sent before anything else.
    private: VecDeque<Bytes>,
    /// Prefixes whose present state it must be told.
    owed: BTreeSet<IpNet>,
    transit: Option<Transit>,
    walk: Option<Walk>,
    owes_end_of_rib: bool,
}

/// A pass through everything sent.
#[derive(Clone, Copy, Debug)]
struct Walk {
    next: usize,
    /// What follows comes by the log.
    end: usize,
    /// EoRR follows (RFC 7313 §4).
    enhanced: bool,
}

/// A route that could not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Withheld {
    pub(crate) prefix: IpNet,
    pub(crate) reason: ExportRefusal,
}

impl Audience {
    fn includes(self, peer: SourceId) -> bool {
        match self {
            Self::All => true,
            Self::Except(other) => other != peer,
            Self::Only(other) => other == peer,
        }
    }
}

impl Group {
    pub(crate) fn new(key: GroupKey, serial: u64, slice: usize) -> Self {
        Self {
            key,
            serial,
            unscanned: Some(0),
            out_of_order: false,
            slice,
            followers: 0,
            repacked: Vec::new(),
            sent: Vec::new(),
            sent_count: 0,
            sent_of: Vec::new(),
            dirty: Vec::new(),
            is_dirty: Vec::new(),
            log: VecDeque::new(),
            log_octets: 0,
            log_start: 0,
            members: BTreeMap::new(),
            owing_end_of_rib: 0,
            withheld: Vec::new(),
        }
    }

    pub(crate) const fn key(&self) -> &GroupKey {
        &self.key
    }

    pub(crate) const fn family(&self) -> AfiSafi {
        self.key.family
    }

    pub(crate) fn has(&self, peer: SourceId) -> bool {
        self.members.contains_key(&peer)
    }

    pub(crate) const fn serial(&self) -> u64 {
        self.serial
    }

    /// Nobody needs the group any more.
    pub(crate) fn is_unused(&self) -> bool {
        self.members.is_empty() && self.followers == 0
    }

    /// Adds a member that holds nothing.
    pub(crate) fn join(&mut self, peer: SourceId) {
        // What was not packed yet is still to come by the log.
        let walk = Walk {
            next: 0,
            end: self
                .unscanned
                .filter(|_| !self.out_of_order)
                .unwrap_or(usize::MAX),
            enhanced: false,
        };
        let moving = Moving {
            private: VecDeque::new(),
            owed: BTreeSet::new(),
            former: None,
            transit: None,
            walk: (walk.end > 0).then_some(walk),
            owes_end_of_rib: true,
        };
        self.admit(peer, moving);
    }

    /// Adds a member that comes from another group.
    pub(crate) fn admit(&mut self, peer: SourceId, moving: Moving) {
        self.owing_end_of_rib += usize::from(moving.owes_end_of_rib);
        let member = Member {
            chunk: self.log_end(),
            offset: 0,
            private: moving.private,
            owed: moving.owed,
            transit: moving.transit,
            walk: moving.walk,
            owes_end_of_rib: moving.owes_end_of_rib,
        };
        self.members.insert(peer, member);
    }

    /// Removes a member; returns where it came from if it was not told all the differences yet.
    pub(crate) fn leave(&mut self, peer: SourceId) -> Option<Transit> {
        let member = self.members.remove(&peer)?;
        self.owing_end_of_rib -= usize::from(member.owes_end_of_rib);
        for chunk in self
            .log
            .iter_mut()
            .skip(chunk_index(member.chunk, self.log_start))
        {
            chunk.readers -= 1;
        }
        self.trim_log();
        member.transit
    }

    /// Gives back a slice of what the group holds; false when nothing is left.
    pub(crate) fn dissolve(&mut self, table: &mut Table, budget: usize) -> bool {
        let kept = self.dirty.len().saturating_sub(budget);
        for id in self.dirty.drain(kept..) {
            table.unhold(id);
        }
        let kept = self.sent.len().saturating_sub(budget);
        for (index, sent) in self.sent.drain(kept..).enumerate() {
            if let Some(sent) = sent {
                let id = u32::try_from(kept + index).expect("ids are 32 bit");
                table.release(sent.attributes);
                table.unhold(PrefixId(id));
            }
        }
        !self.dirty.is_empty() || !self.sent.is_empty()
    }

    /// The state of a prefix is to be told to every member.
    pub(crate) fn mark_dirty(
        &mut self,
        table: &mut Table,
        id: PrefixId,
        woken: &mut Vec<SourceId>,
    ) {
        let yet_to_come = self.unscanned.is_some_and(|first| id.index() >= first);
        if yet_to_come {
            if self.followers == 0 {
                return;
            }
            self.out_of_order = true;
        }
        if self.is_dirty.len() <= id.index() {
            self.is_dirty.resize(table.ids_end(), false);
        }
        if std::mem::replace(&mut self.is_dirty[id.index()], true) {
            return;
        }
        if self.dirty.is_empty() {
            woken.extend(self.members.keys());
        }
        table.hold(id);
        self.dirty.push(id);
    }

    pub(crate) fn refresh(&mut self, peer: SourceId, enhanced: bool) {
        let family = self.key.family;
        if let Some(member) = self.members.get_mut(&peer) {
            // It has not begun: what a peer asks again without reading is one answer, however often.
            let asked_again = |walk: Walk| walk.next == 0 && walk.end == usize::MAX;
            if member
                .walk
                .is_some_and(|walk| asked_again(walk) && walk.enhanced == enhanced)
            {
                return;
            }
            if enhanced {
                member.push_refresh(family, RefreshKind::Begin);
            }
            member.walk = Some(Walk {
                next: 0,
                end: usize::MAX,
                enhanced,
            });
        }
    }

    /// Members whose initial table is out and whose End-of-RIB was held back.
    pub(crate) fn members_owing_end_of_rib(&self) -> impl Iterator<Item = SourceId> + '_ {
        let members = (self.owing_end_of_rib > 0).then_some(&self.members);
        members
            .into_iter()
            .flatten()
            .filter(|(_, member)| member.owes_end_of_rib)
            .map(|(peer, _)| *peer)
    }

    /// Prefixes that a member was or will be sent.
    pub(crate) fn advertised(&self, peer: SourceId) -> usize {
        let own = self.sent_of.get(peer.index()).copied().unwrap_or(0);
        self.sent_count - own
    }

    /// Routes that could not be sent, each named for every member.
    pub(crate) fn take_withheld(&mut self) -> Vec<(SourceId, Withheld)> {
        if self.withheld.is_empty() {
            return Vec::new();
        }
        let withheld = std::mem::take(&mut self.withheld);
        let named = |peer: &SourceId| withheld.iter().map(|w| (*peer, *w)).collect::<Vec<_>>();
        self.members.keys().flat_map(named).collect()
    }

    /// Appends messages for a member until `out` has `end` octets. `origin` is the group it comes from, while it is told
    /// the differences.
    pub(crate) fn transmit(
        &mut self,
        table: &mut Table,
        peer: SourceId,
        origin: Option<&Self>,
        end_of_rib: bool,
        (out, end): (&mut Vec<u8>, usize),
    ) -> Transmitted {
        let mut slices = 0;
        loop {
            if out.len() >= end {
                return Transmitted::Full;
            }
            let Some(member) = self.members.get_mut(&peer) else {
                return Transmitted::Drained;
            };
            if let Some(message) = member.private.pop_front() {
                out.extend_from_slice(&message);
                continue;
            }
            if member.chunk < self.log_start + self.log.len() as u64 {
                self.copy_from_log(peer, end, out);
                continue;
            }
            if slices == SLICES_AT_ONCE {
                return Transmitted::Paused;
            }
            slices += 1;
            if !self.dirty.is_empty() || self.unscanned.is_some() {
                self.pack(table);
            } else if !member.owed.is_empty() {
                self.repay(table, peer);
            } else if let (Some(transit), Some(origin)) = (member.transit, origin) {
                self.compare(table, peer, origin, transit);
            } else if let Some(walk) = member.walk {
                self.walk(table, peer, walk);
            } else if member.owes_end_of_rib && end_of_rib {
                member.owes_end_of_rib = false;
                self.owing_end_of_rib -= 1;
                write_end_of_rib(out, self.key.family);
            } else {
                return Transmitted::Drained;
            }
        }
    }

    fn log_end(&self) -> u64 {
        self.log_start + self.log.len() as u64
    }

    /// Copies whole messages of one chunk.
    fn copy_from_log(&mut self, peer: SourceId, end: usize, out: &mut Vec<u8>) {
        let Some(member) = self.members.get_mut(&peer) else {
            return;
        };
        let chunk = &mut self.log[chunk_index(member.chunk, self.log_start)];
        let is_for_member = !chunk.first_pass || member.transit.is_none();
        for part in chunk.parts.iter().filter(|_| is_for_member) {
            if part.end <= member.offset {
                continue;
            }
            if !part.audience.includes(peer) {
                member.offset = part.end;
                continue;
            }
            while member.offset < part.end {
                if out.len() >= end {
                    return;
                }
                let rest = &chunk.bytes[member.offset..part.end];
                let fitting = whole_messages(rest, end - out.len());
                out.extend_from_slice(&rest[..fitting]);
                member.offset += fitting;
            }
        }
        member.chunk += 1;
        member.offset = 0;
        chunk.readers -= 1;
        self.trim_log();
    }

    fn trim_log(&mut self) {
        while let Some(chunk) = self.log.front() {
            if chunk.readers > 0 && self.log_octets <= LOG_OCTETS_MAX {
                break;
            }
            if chunk.readers > 0 {
                self.set_back_laggards();
            }
            if let Some(chunk) = self.log.pop_front() {
                self.log_octets -= chunk.bytes.len();
                self.log_start += 1;
            }
        }
    }

    /// Moves the members that still need the first chunk to the next one, and notes what they are owed for it.
    fn set_back_laggards(&mut self) {
        let Some(chunk) = self.log.front() else {
            return;
        };
        let prefixes = prefixes_in(&chunk.bytes, &self.key);
        for member in self.members.values_mut() {
            if member.chunk == self.log_start {
                member.owed.extend(&prefixes);
                member.chunk += 1;
                member.offset = 0;
            }
        }
    }
}

impl Member {
    fn push_messages(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (message, tail) = rest.split_at(whole_messages(rest, 1));
            self.private.push_back(Bytes::copy_from_slice(message));
            rest = tail;
        }
    }

    fn push_refresh(&mut self, family: AfiSafi, kind: RefreshKind) {
        let mut message = Vec::new();
        RouteRefresh::new(family, kind).encode(&mut message);
        self.private.push_back(message.into());
    }
}

/// Octets of the whole messages at the start of `bytes` that reach `room`, at least one message.
fn whole_messages(bytes: &[u8], room: usize) -> usize {
    let mut octets = 0;
    while octets < bytes.len() && octets < room {
        octets += usize::from(u16::from_be_bytes([bytes[octets + 16], bytes[octets + 17]]));
    }
    octets
}

fn chunk_index(chunk: u64, start: u64) -> usize {
    usize::try_from(chunk - start).expect("a log is in memory")
}

/// Prefixes announced or withdrawn in UPDATEs that we encoded ourselves.
fn prefixes_in(bytes: &[u8], key: &GroupKey) -> Vec<IpNet> {
    let context = ReceiveContext {
        peer: PeerKind::Ibgp,
        peer_asn: key.local_asn,
        asn_width: key.width,
        families: [key.family].into(),
        first_as: FirstAsCheck::Off,
    };
    let mut prefixes = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (message, tail) = rest.split_at(whole_messages(rest, 1));
        let body = Bytes::copy_from_slice(&message[HEADER_LENGTH..]);
        let update = decode_update(&body, &context).expect("own UPDATEs are in order");
        prefixes.extend(update.unreach.iter().flatten());
        prefixes.extend(update.reach.iter().flat_map(|reach| &reach.nlri));
        rest = tail;
    }
    prefixes
}

#[cfg(test)]
mod tests;
