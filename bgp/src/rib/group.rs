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

/// Most prefixes packed, walked or repaid at a time.
const SLICE: usize = 8192;
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
    /// By prefix id: what was packed last.
    sent: Vec<Option<Sent>>,
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
    walk: Option<Walk>,
    owes_end_of_rib: bool,
}

/// A member on its way from one group to another.
#[derive(Debug)]
pub(crate) struct Moving {
    private: VecDeque<Bytes>,
    owed: BTreeSet<IpNet>,
    walk: Option<Walk>,
    owes_end_of_rib: bool,
}

/// A pass through everything sent.
#[derive(Clone, Copy, Debug)]
struct Walk {
    next: usize,
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
    pub(crate) fn new(key: GroupKey) -> Self {
        Self {
            key,
            sent: Vec::new(),
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

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Adds a member that holds nothing.
    pub(crate) fn join(&mut self, peer: SourceId) {
        // While nothing was packed, everything is still to come by the log.
        let all_to_come = self.sent.is_empty();
        let walk = Walk {
            next: 0,
            enhanced: false,
        };
        let moving = Moving {
            private: VecDeque::new(),
            owed: BTreeSet::new(),
            walk: (!all_to_come).then_some(walk),
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
            walk: moving.walk,
            owes_end_of_rib: moving.owes_end_of_rib,
        };
        self.members.insert(peer, member);
    }

    /// What a member takes along to another group: what it was not told yet, and what that group says otherwise.
    pub(crate) fn moving(&self, table: &Table, peer: SourceId, to: &Self) -> Moving {
        let member = &self.members[&peer];
        let mut owed = member.owed.clone();
        let unread = chunk_index(member.chunk, self.log_start);
        for (index, chunk) in self.log.iter().enumerate().skip(unread) {
            let read = if index == unread { member.offset } else { 0 };
            owed.extend(prefixes_in(&chunk.bytes[read..], &self.key));
        }
        for index in 0..self.sent.len().max(to.sent.len()) {
            let id = PrefixId(u32::try_from(index).expect("ids are 32 bit"));
            let is_changed = self.is_dirty.get(index) == Some(&true);
            if is_changed || self.told(table, peer, id) != to.told(table, peer, id) {
                owed.insert(table.prefix(id));
            }
        }
        Moving {
            private: member.private.clone(),
            owed,
            walk: member.walk.map(|walk| Walk { next: 0, ..walk }),
            owes_end_of_rib: member.owes_end_of_rib,
        }
    }

    pub(crate) fn leave(&mut self, peer: SourceId) {
        if let Some(member) = self.members.remove(&peer) {
            self.owing_end_of_rib -= usize::from(member.owes_end_of_rib);
            for chunk in self
                .log
                .iter_mut()
                .skip(chunk_index(member.chunk, self.log_start))
            {
                chunk.readers -= 1;
            }
            self.trim_log();
        }
    }

    /// Gives everything back that the group holds.
    pub(crate) fn dissolve(mut self, table: &mut Table) {
        for id in std::mem::take(&mut self.dirty) {
            table.unhold(id);
        }
        for (index, sent) in std::mem::take(&mut self.sent).into_iter().enumerate() {
            if let Some(sent) = sent {
                table.release(sent.attributes);
                table.unhold(PrefixId(u32::try_from(index).expect("ids are 32 bit")));
            }
        }
    }

    /// The state of a prefix is to be told to every member.
    pub(crate) fn mark_dirty(
        &mut self,
        table: &mut Table,
        id: PrefixId,
        woken: &mut Vec<SourceId>,
    ) {
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
            if enhanced {
                member.push_refresh(family, RefreshKind::Begin);
            }
            member.walk = Some(Walk { next: 0, enhanced });
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

    fn ids_sent(&self) -> impl Iterator<Item = (PrefixId, Sent)> {
        (0u32..)
            .map(PrefixId)
            .zip(&self.sent)
            .filter_map(|(id, sent)| sent.map(|sent| (id, sent)))
    }

    /// Prefixes that a member was or will be sent.
    pub(crate) fn advertised(&self, peer: SourceId) -> usize {
        self.ids_sent()
            .filter(|(_, sent)| sent.source != peer)
            .count()
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

    /// Appends messages for a member until `out` has `end` octets.
    pub(crate) fn transmit(
        &mut self,
        table: &mut Table,
        peer: SourceId,
        end: usize,
        end_of_rib: bool,
        out: &mut Vec<u8>,
    ) -> Transmitted {
        loop {
            if out.len() >= end {
                return Transmitted::Full;
            }
            let Some(member) = self.members.get_mut(&peer) else {
                return Transmitted::Drained;
            };
            if let Some(message) = member.private.pop_front() {
                out.extend_from_slice(&message);
            } else if member.chunk < self.log_start + self.log.len() as u64 {
                self.copy_from_log(peer, end, out);
            } else if !self.dirty.is_empty() {
                self.pack(table);
            } else if !member.owed.is_empty() {
                self.repay(table, peer);
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
        for part in &chunk.parts {
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
