//! Prefixes as UPDATEs carry them (RFC 4271 §4.3, RFC 4760 §5).

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use bytes::Bytes;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::types::{AfiSafi, PathId};
use crate::wire::reader::Reader;

/// Received prefixes of one family, still in the received buffer, known to be well-formed.
///
/// ```text
/// +---------------+-----------------------------------------------+
/// |  length, bits |  prefix, as many octets as the bits need
/// +---------------+-----------------------------------------------+
/// ```
///
/// Where path identifiers were agreed on, four octets of it stand before each length (RFC 7911 §3).
#[derive(Clone, PartialEq, Eq)]
pub struct Nlri {
    family: AfiSafi,
    ids: PathIds,
    bytes: Bytes,
    /// Some prefix is not unicast.
    suspicious: bool,
}

/// Whether prefixes have path identifiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathIds {
    /// They have none.
    Absent,
    /// Each has one.
    Present,
}

/// What is written as one prefix.
pub trait Entry: Copy {
    /// The prefix.
    fn prefix(self) -> IpNet;
    /// What stands before it.
    fn path_id(self) -> Option<PathId>;
}

impl Entry for IpNet {
    fn prefix(self) -> IpNet {
        self
    }

    fn path_id(self) -> Option<PathId> {
        None
    }
}

impl Entry for (Option<PathId>, IpNet) {
    fn prefix(self) -> IpNet {
        self.1
    }

    fn path_id(self) -> Option<PathId> {
        self.0
    }
}

/// Why a prefix cannot be read; what follows it cannot be found either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// More bits than an address has.
    #[error("prefix length {bits} exceeds {max}")]
    Length {
        /// The length octet.
        bits: u8,
        /// 32 or 128.
        max: u8,
    },
    /// The field ends inside a path identifier.
    #[error("{left} octets left of a path identifier of 4")]
    PathId {
        /// Octets there were.
        left: usize,
    },
    /// The field ends inside the prefix.
    #[error("prefix of length {bits} needs {needed} octets, {left} left")]
    Short {
        /// The length octet.
        bits: u8,
        /// Octets it takes.
        needed: usize,
        /// Octets there were.
        left: usize,
    },
}

impl Nlri {
    /// Checks the syntax of a whole field.
    ///
    /// # Errors
    /// The first prefix that cannot be read.
    pub fn new(family: AfiSafi, ids: PathIds, bytes: Bytes) -> Result<Self, PrefixError> {
        let mut reader = Reader::new(&bytes);
        let mut suspicious = false;
        let max = max_bits(family);
        while !reader.is_empty() {
            take_path_id(&mut reader, ids)?;
            let (bits, octets) = take_prefix(&mut reader, max)?;
            suspicious |= !is_unicast(family, bits, octets);
        }
        Ok(Self {
            family,
            ids,
            bytes,
            suspicious,
        })
    }

    /// Takes out multicast and link-local prefixes, which no unicast route can have (RFC 4271 §6.3).
    pub(super) fn remove_not_unicast(&mut self) -> Vec<IpNet> {
        let mut removed = Vec::new();
        if !self.suspicious {
            return removed;
        }
        let mut kept = Vec::with_capacity(self.bytes.len());
        for (path_id, prefix) in self.paths() {
            let unicast = match prefix {
                IpNet::V4(net) => {
                    is_unicast(self.family, net.prefix_len(), &net.network().octets())
                }
                IpNet::V6(net) => {
                    is_unicast(self.family, net.prefix_len(), &net.network().octets())
                }
            };
            if unicast {
                let path_id = (self.ids == PathIds::Present).then_some(path_id);
                write_prefix(&mut kept, self.family, (path_id, prefix));
            } else {
                removed.push(prefix);
            }
        }
        self.bytes = kept.into();
        self.suspicious = false;
        removed
    }

    /// The family of every prefix.
    pub const fn family(&self) -> AfiSafi {
        self.family
    }

    /// There is no prefix.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The prefixes in the order received, host bits cleared.
    pub fn iter(&self) -> NlriIter<'_> {
        NlriIter(self.paths())
    }

    /// The same with the path identifier of each, [`PathId::ONLY`] where there are none.
    pub fn paths(&self) -> PathsIter<'_> {
        PathsIter {
            family: self.family,
            ids: self.ids,
            reader: Reader::new(&self.bytes),
        }
    }
}

impl fmt::Debug for Nlri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

impl<'a> IntoIterator for &'a Nlri {
    type Item = IpNet;
    type IntoIter = NlriIter<'a>;

    fn into_iter(self) -> NlriIter<'a> {
        self.iter()
    }
}

/// Iterator of [`Nlri::iter`].
#[derive(Clone, Debug)]
pub struct NlriIter<'a>(PathsIter<'a>);

impl Iterator for NlriIter<'_> {
    type Item = IpNet;

    fn next(&mut self) -> Option<IpNet> {
        self.0.next().map(|(_, prefix)| prefix)
    }
}

/// Iterator of [`Nlri::paths`].
#[derive(Clone, Debug)]
pub struct PathsIter<'a> {
    family: AfiSafi,
    ids: PathIds,
    reader: Reader<'a>,
}

impl Iterator for PathsIter<'_> {
    type Item = (PathId, IpNet);

    fn next(&mut self) -> Option<(PathId, IpNet)> {
        if self.reader.is_empty() {
            return None;
        }
        // The syntax was checked by `Nlri::new`, so no error ends the walk early.
        let path_id = take_path_id(&mut self.reader, self.ids).ok()?;
        let prefix = match self.family {
            AfiSafi::Ipv4Unicast => {
                let (bits, octets) = take_prefix(&mut self.reader, 32).ok()?;
                let address = Ipv4Addr::from(padded::<4>(octets));
                Ipv4Net::new(address, bits)
                    .ok()
                    .map(|net| IpNet::V4(net.trunc()))
            }
            AfiSafi::Ipv6Unicast => {
                let (bits, octets) = take_prefix(&mut self.reader, 128).ok()?;
                let address = Ipv6Addr::from(padded::<16>(octets));
                Ipv6Net::new(address, bits)
                    .ok()
                    .map(|net| IpNet::V6(net.trunc()))
            }
        };
        Some((path_id, prefix?))
    }
}

/// Most octets a prefix of the family takes.
pub(super) const fn max_prefix_octets(family: AfiSafi) -> usize {
    match family {
        AfiSafi::Ipv4Unicast => 5,
        AfiSafi::Ipv6Unicast => 17,
    }
}

/// Octets that [`write_prefix`] appends.
pub(super) fn prefix_octets(entry: impl Entry) -> usize {
    path_id_octets(entry) + 1 + usize::from(entry.prefix().prefix_len().div_ceil(8))
}

/// Octets of its path identifier.
pub(super) fn path_id_octets(entry: impl Entry) -> usize {
    entry.path_id().map_or(0, |_| 4)
}

/// Appends one prefix.
///
/// # Panics
/// When the prefix is of another family, which its owner's table rules out.
pub(super) fn write_prefix(out: &mut Vec<u8>, family: AfiSafi, entry: impl Entry) {
    if let Some(PathId(id)) = entry.path_id() {
        out.extend_from_slice(&id.to_be_bytes());
    }
    let prefix = entry.prefix();
    let bits = prefix.prefix_len();
    let octets = usize::from(bits.div_ceil(8));
    out.push(bits);
    match (family, prefix) {
        (AfiSafi::Ipv4Unicast, IpNet::V4(net)) => {
            out.extend(net.network().octets().iter().take(octets));
        }
        (AfiSafi::Ipv6Unicast, IpNet::V6(net)) => {
            out.extend(net.network().octets().iter().take(octets));
        }
        (AfiSafi::Ipv4Unicast, IpNet::V6(_)) | (AfiSafi::Ipv6Unicast, IpNet::V4(_)) => {
            panic!("{prefix} stands among prefixes of another family")
        }
    }
}

const fn max_bits(family: AfiSafi) -> u8 {
    match family {
        AfiSafi::Ipv4Unicast => 32,
        AfiSafi::Ipv6Unicast => 128,
    }
}

/// Not inside 224.0.0.0/4, ff00::/8, fe80::/10.
const fn is_unicast(family: AfiSafi, bits: u8, octets: &[u8]) -> bool {
    match (family, octets) {
        (AfiSafi::Ipv4Unicast, [first, ..]) => !(bits >= 4 && *first & 0xf0 == 0xe0),
        (AfiSafi::Ipv6Unicast, [0xff, ..]) => bits < 8,
        (AfiSafi::Ipv6Unicast, [0xfe, second, ..]) => !(bits >= 10 && *second & 0xc0 == 0x80),
        (AfiSafi::Ipv4Unicast | AfiSafi::Ipv6Unicast, _) => true,
    }
}

fn take_path_id(reader: &mut Reader<'_>, ids: PathIds) -> Result<PathId, PrefixError> {
    if ids == PathIds::Absent {
        return Ok(PathId::ONLY);
    }
    let left = reader.remaining();
    let id = reader.u32().map_err(|_| PrefixError::PathId { left })?;
    Ok(PathId(id))
}

fn take_prefix<'a>(reader: &mut Reader<'a>, max: u8) -> Result<(u8, &'a [u8]), PrefixError> {
    let bits = reader.u8().unwrap_or_default();
    if bits > max {
        return Err(PrefixError::Length { bits, max });
    }
    let needed = usize::from(bits.div_ceil(8));
    let left = reader.remaining();
    let octets = reader
        .take(needed)
        .map_err(|_| PrefixError::Short { bits, needed, left })?;
    Ok((bits, octets))
}

fn padded<const N: usize>(octets: &[u8]) -> [u8; N] {
    let mut full = [0; N];
    for (to, from) in full.iter_mut().zip(octets) {
        *to = *from;
    }
    full
}
