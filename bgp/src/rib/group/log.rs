//! UPDATEs that all members take, each at its own pace.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use ipnet::IpNet;

use crate::rib::group::member::Member;
use crate::rib::source::SourceId;
use crate::rib::table::Table;
use crate::types::{AfiSafi, Asn, PathId};
use crate::wire::attr::AsnWidth;
use crate::wire::message::HEADER_LENGTH;
use crate::wire::update::{FirstAsCheck, PeerKind, ReceiveContext, decode_update};

/// Chunks that some member has not taken.
#[derive(Debug)]
pub(super) struct Log {
    /// The family of prefixes with path identifiers.
    add_paths: Option<AfiSafi>,
    chunks: VecDeque<Chunk>,
    octets: usize,
    /// Sequence number of the first chunk.
    start: u64,
    /// Octets beyond which the first chunk goes, whoever needs it.
    pub(super) limit: usize,
}

/// UPDATEs packed at one time.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) bytes: Vec<u8>,
    pub(super) parts: Vec<Part>,
    /// Of the first pass: nothing for members in transition.
    pub(super) first_pass: bool,
    /// Members that have not taken all of it.
    pub(super) readers: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    audience: Audience,
    end: usize,
}

/// For whom a part of a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Audience {
    All,
    Except(SourceId),
    Only(SourceId),
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

impl Chunk {
    /// What was written since the last part is for this audience; nothing written makes no part.
    pub(super) fn close_part(&mut self, audience: Audience) {
        let end = self.bytes.len();
        if self.parts.last().map_or(0, |part| part.end) < end {
            self.parts.push(Part { audience, end });
        }
    }

    pub(super) fn is_for(&self, member: &Member) -> bool {
        !self.first_pass || member.transition.is_none()
    }
}

impl Log {
    /// Without chunks. The family is given if its prefixes have path identifiers.
    pub(super) const fn new(add_paths: Option<AfiSafi>) -> Self {
        Self {
            add_paths,
            chunks: VecDeque::new(),
            octets: 0,
            start: 0,
            limit: 0,
        }
    }

    /// Sequence number of the chunk that comes next.
    pub(super) fn end(&self) -> u64 {
        self.start + self.chunks.len() as u64
    }

    /// Octets of all chunks.
    #[cfg(test)]
    pub(super) const fn octets(&self) -> usize {
        self.octets
    }

    fn index(&self, chunk: u64) -> usize {
        usize::try_from(chunk - self.start).expect("a log is in memory")
    }

    pub(super) fn push(&mut self, mut chunk: Chunk, readers: usize) {
        chunk.readers = readers;
        chunk.bytes.shrink_to_fit();
        self.octets += chunk.bytes.len();
        self.chunks.push_back(chunk);
    }

    /// Chunks from this one on have one reader less.
    pub(super) fn remove_reader(&mut self, from: u64) {
        let unread = self.index(from);
        for chunk in self.chunks.iter_mut().skip(unread) {
            chunk.readers -= 1;
        }
    }

    /// Copies whole messages of one chunk to `out` until that has `end` octets; true when the member has all of the chunk.
    pub(super) fn copy(
        &mut self,
        peer: SourceId,
        member: &mut Member,
        end: usize,
        out: &mut Vec<u8>,
    ) -> bool {
        let index = self.index(member.chunk);
        let chunk = &mut self.chunks[index];
        let is_for_member = chunk.is_for(member);
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
                    return false;
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
        true
    }

    /// Prefixes in what a member has not taken, with the numbers of their paths.
    pub(super) fn unread(&self, member: &Member) -> Vec<(IpNet, u16)> {
        let first = self.index(member.chunk);
        let mut prefixes = Vec::new();
        for (index, chunk) in self.chunks.iter().enumerate().skip(first) {
            if chunk.is_for(member) {
                let taken = if index == first { member.offset } else { 0 };
                prefixes.extend(prefixes_in(self.add_paths, &chunk.bytes[taken..]));
            }
        }
        prefixes
    }

    /// Removes what everybody has, and what is too much: the members that still need it miss its prefixes.
    pub(super) fn trim(&mut self, table: &mut Table, members: &mut BTreeMap<SourceId, Member>) {
        while let Some(chunk) = self.chunks.front() {
            if chunk.readers > 0 && self.octets <= self.limit {
                break;
            }
            if chunk.readers > 0 {
                let prefixes = prefixes_in(self.add_paths, &chunk.bytes);
                let behind = |member: &&mut Member| member.chunk == self.start;
                for member in members.values_mut().filter(behind) {
                    if chunk.is_for(member) {
                        let prefixes = prefixes.iter();
                        prefixes.for_each(|(prefix, number)| {
                            member.miss_prefix(table, *prefix, *number)
                        });
                    }
                    member.chunk += 1;
                    member.offset = 0;
                }
            }
            if let Some(chunk) = self.chunks.pop_front() {
                self.octets -= chunk.bytes.len();
                self.start += 1;
            }
        }
        if self.chunks.is_empty() {
            self.chunks.shrink_to_fit();
        }
    }
}

/// Prefixes announced or withdrawn in UPDATEs that we wrote ourselves. They are read from there, since few are asked for.
fn prefixes_in(add_paths: Option<AfiSafi>, bytes: &[u8]) -> Vec<(IpNet, u16)> {
    let context = ReceiveContext {
        peer: PeerKind::Ibgp,
        peer_asn: Asn::TRANS,
        asn_width: AsnWidth::Four,
        families: [AfiSafi::Ipv4Unicast, AfiSafi::Ipv6Unicast].into(),
        add_paths: add_paths.into_iter().collect(),
        ipv6_next_hops: true,
        first_as: FirstAsCheck::Off,
    };
    let numbered = |(path_id, prefix)| (prefix, number_of(path_id));
    let mut prefixes = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (message, tail) = rest.split_at(whole_messages(rest, 1));
        let body = Bytes::copy_from_slice(&message[HEADER_LENGTH..]);
        let update = decode_update(&body, &context).expect("own UPDATEs are in order");
        let reach = update.reach.iter().map(|reach| &reach.nlri);
        for nlri in update.unreach.iter().chain(reach) {
            prefixes.extend(nlri.paths().map(numbered));
        }
        rest = tail;
    }
    prefixes
}

/// The path identifier that a path of this number is sent with: never 0, which some take for none.
pub(super) fn path_id_of(number: u16) -> PathId {
    PathId(u32::from(number) + 1)
}

fn number_of(PathId(id): PathId) -> u16 {
    // Without identifiers it is 0 everywhere.
    u16::try_from(id.saturating_sub(1)).expect("we made it of a number")
}

/// Octets of the whole messages at the start of `bytes` that reach `room`, at least one message.
pub(super) fn whole_messages(bytes: &[u8], room: usize) -> usize {
    let mut octets = 0;
    while octets < bytes.len() && octets < room {
        octets += usize::from(u16::from_be_bytes([bytes[octets + 16], bytes[octets + 17]]));
    }
    octets
}
