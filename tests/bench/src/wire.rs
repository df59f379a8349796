//! Just enough BGP to be somebody's peer: OPEN, KEEPALIVE, UPDATE of IPv4 or IPv6 unicast, ROUTE-REFRESH.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, bail, ensure};

use crate::plan::Family;
use crate::prefixes::Prefixes;
use crate::routes::is_tag;

/// Octets of a message's header.
pub const HEADER: usize = 19;
/// Longest message.
const LONGEST: usize = 4096;
/// Hold time offered: many times what lies between two KEEPALIVEs, so that no session ends while the machine is busy.
const HOLD_SECONDS: u16 = 240;
/// Octets of the lengths around an UPDATE's attributes and in a multiprotocol attribute, with room to spare.
const ROOM_FOR_LENGTHS: usize = 16;
const UNICAST: u8 = 1;
const AS_PATH: u8 = 2;
/// Segment type of AS_PATH.
const AS_SEQUENCE: u8 = 2;
const NEXT_HOP: u8 = 3;
const COMMUNITIES: u8 = 8;
const MP_REACH_NLRI: u8 = 14;
const MP_UNREACH_NLRI: u8 = 15;

/// The AS of the daemon, and of its clients.
pub const ASN: u16 = 64512;

/// A received message, as far as anybody here cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// The daemon's OPEN.
    Open,
    /// Routes: the body.
    Update(&'a [u8]),
    /// The daemon is displeased: code and subcode.
    Notification(u8, u8),
    /// KEEPALIVE.
    Keepalive,
    /// ROUTE-REFRESH, which peers like ours need not answer.
    Refresh,
}

/// Splits the first message off `bytes`; `None` when it is not whole yet.
///
/// # Errors
/// When these are not BGP's bytes.
pub fn next_message(bytes: &[u8]) -> anyhow::Result<Option<(Message<'_>, usize)>> {
    let Some(header) = bytes.get(..HEADER) else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
    ensure!(
        header[..16] == [0xff; 16] && (HEADER..=LONGEST).contains(&length),
        "the daemon's message has the header {header:02x?}"
    );
    let Some(body) = bytes.get(HEADER..length) else {
        return Ok(None);
    };
    let message = match (header[18], body) {
        (1, _) => Message::Open,
        (2, _) => Message::Update(body),
        (3, [code, subcode, ..]) => Message::Notification(*code, *subcode),
        (4, _) => Message::Keepalive,
        (5, _) => Message::Refresh,
        (kind, _) => bail!("the daemon sent a message of type {kind}"),
    };
    Ok(Some((message, length)))
}

fn message(out: &mut Vec<u8>, kind: u8, body: &[u8]) {
    let length = u16::try_from(HEADER + body.len()).expect("bodies are made to fit");
    out.extend([0xff; 16]);
    out.extend(length.to_be_bytes());
    out.push(kind);
    out.extend(body);
}

/// Appends an OPEN with the capabilities of one family, route refresh and 4-octet AS numbers.
pub fn write_open(out: &mut Vec<u8>, asn: u16, router_id: Ipv4Addr, family: Family) {
    let mut body = vec![4];
    body.extend(asn.to_be_bytes());
    body.extend(HOLD_SECONDS.to_be_bytes());
    body.extend(router_id.octets());
    let mut capabilities = vec![1, 4, 0, afi(family), 0, UNICAST, 2, 0, 65, 4, 0, 0];
    capabilities.extend(asn.to_be_bytes());
    body.extend([16, 2, 14]);
    body.extend(capabilities);
    message(out, 1, &body);
}

/// Appends a KEEPALIVE.
pub fn write_keepalive(out: &mut Vec<u8>) {
    message(out, 4, &[]);
}

/// Appends a ROUTE-REFRESH of a family's unicast (RFC 2918).
pub fn write_refresh(out: &mut Vec<u8>, family: Family) {
    message(out, 5, &[0, afi(family), 0, UNICAST]);
}

const fn afi(family: Family) -> u8 {
    match family {
        Family::V4 => 1,
        Family::V6 => 2,
    }
}

/// The path attributes of an announcement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// AS_PATH: one AS_SEQUENCE.
    pub path: Vec<u32>,
    /// NEXT_HOP, or that of MP_REACH_NLRI.
    pub next_hop: IpAddr,
    /// LOCAL_PREF, within an AS.
    pub preference: Option<u32>,
    /// COMMUNITIES.
    pub communities: Vec<u32>,
}

impl Attributes {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![0x40, 1, 1, 0];
        let numbers = |numbers: &[u32]| numbers.iter().flat_map(|n| n.to_be_bytes()).collect();
        let path: Vec<u8> = numbers(&self.path);
        let count = u8::try_from(self.path.len()).expect("paths are short");
        out.extend([0x40, 2, 2 + 4 * count, 2, count]);
        out.extend(path);
        if let IpAddr::V4(next_hop) = self.next_hop {
            out.extend([0x40, 3, 4]);
            out.extend(next_hop.octets());
        }
        if let Some(preference) = self.preference {
            out.extend([0x40, 5, 4]);
            out.extend(preference.to_be_bytes());
        }
        let communities: Vec<u8> = numbers(&self.communities);
        let length = u8::try_from(communities.len()).expect("communities are few");
        out.extend([0xc0, 8, length]);
        out.extend(communities);
        out
    }
}

/// Appends UPDATEs that announce the prefixes with these numbers.
pub fn write_reach(
    out: &mut Vec<u8>,
    attributes: &Attributes,
    prefixes: &Prefixes,
    numbers: impl IntoIterator<Item = u32>,
) {
    let encoded = attributes.encode();
    let mut multiprotocol = Vec::new();
    if let IpAddr::V6(next_hop) = attributes.next_hop {
        multiprotocol.extend([0, afi(Family::V6), UNICAST, 16]);
        multiprotocol.extend(next_hop.octets());
        multiprotocol.push(0);
    }
    let room = LONGEST - HEADER - encoded.len() - multiprotocol.len() - ROOM_FOR_LENGTHS;
    batches(prefixes, numbers, room, |batch| {
        let mut fields = encoded.clone();
        if !multiprotocol.is_empty() {
            fields.extend([0x90, MP_REACH_NLRI]);
            fields.extend(short(multiprotocol.len() + batch.len()));
            fields.extend(&multiprotocol);
            fields.extend(batch);
        }
        let mut body = vec![0, 0];
        body.extend(short(fields.len()));
        body.extend(fields);
        if multiprotocol.is_empty() {
            body.extend(batch);
        }
        message(out, 2, &body);
    });
}

/// Appends UPDATEs that withdraw the prefixes with these numbers.
pub fn write_unreach(
    out: &mut Vec<u8>,
    family: Family,
    prefixes: &Prefixes,
    numbers: impl IntoIterator<Item = u32>,
) {
    let room = LONGEST - HEADER - ROOM_FOR_LENGTHS;
    batches(prefixes, numbers, room, |batch| {
        let mut body = Vec::new();
        match family {
            Family::V4 => {
                body.extend(short(batch.len()));
                body.extend(batch);
                body.extend([0, 0]);
            }
            Family::V6 => {
                body.extend([0, 0]);
                body.extend(short(4 + 3 + batch.len()));
                body.extend([0x90, MP_UNREACH_NLRI]);
                body.extend(short(3 + batch.len()));
                body.extend([0, afi(family), UNICAST]);
                body.extend(batch);
            }
        }
        message(out, 2, &body);
    });
}

fn short(length: usize) -> [u8; 2] {
    let length = u16::try_from(length).expect("messages are made to fit");
    length.to_be_bytes()
}

/// The prefixes on the wire, in parts of at most `room` octets.
fn batches(
    prefixes: &Prefixes,
    numbers: impl IntoIterator<Item = u32>,
    room: usize,
    mut each: impl FnMut(&[u8]),
) {
    let mut batch: Vec<u8> = Vec::new();
    for number in numbers {
        let prefix = prefixes.encode(number);
        if batch.len() + prefix.as_ref().len() > room {
            each(&batch);
            batch.clear();
        }
        batch.extend(prefix.as_ref());
    }
    if !batch.is_empty() {
        each(&batch);
    }
}

/// What an UPDATE says of the routes it announces, as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach<'a> {
    /// The community that names sender, attribute set and version.
    pub tag: u32,
    /// Value of AS_PATH; empty when there is none.
    path: &'a [u8],
    /// Value of NEXT_HOP, or the field of MP_REACH_NLRI; empty when there is none.
    next_hop: &'a [u8],
}

impl Reach<'_> {
    /// Checks that AS_PATH is one AS_SEQUENCE of these.
    ///
    /// # Errors
    /// When it is not: with what came.
    pub fn check_path(&self, expected: impl Iterator<Item = u32> + Clone) -> anyhow::Result<()> {
        if let [AS_SEQUENCE, count, numbers @ ..] = self.path
            && let (numbers, []) = numbers.as_chunks::<4>()
            && numbers.len() == usize::from(*count)
            && numbers
                .iter()
                .map(|number| u32::from_be_bytes(*number))
                .eq(expected.clone())
        {
            return Ok(());
        }
        bail!(
            "the route with the community {:#x} came with the AS_PATH {:02x?} in place of {:?}",
            self.tag,
            self.path,
            expected.collect::<Vec<_>>()
        )
    }

    /// Checks the next hop. One of IPv6 may have a link-local address behind it (RFC 2545).
    ///
    /// # Errors
    /// When it is another: with what came.
    pub fn check_next_hop(&self, expected: IpAddr) -> anyhow::Result<()> {
        let same = match expected {
            IpAddr::V4(expected) => self.next_hop == expected.octets(),
            IpAddr::V6(expected) => {
                matches!(self.next_hop.len(), 16 | 32)
                    && self.next_hop.starts_with(&expected.octets())
            }
        };
        ensure!(
            same,
            "the route with the community {:#x} came with the next hop {:02x?} in place of {expected}",
            self.tag,
            self.next_hop
        );
        Ok(())
    }
}

/// Reads an UPDATE's body: calls `set` with each prefix's number and its tag, `None` for a withdrawal. Returns what it says of the
/// routes that it announces; `None` when it only withdraws.
///
/// # Errors
/// When a length is wrong, a prefix none of ours, or a route without its tag.
pub fn read_update<'a>(
    body: &'a [u8],
    family: Family,
    prefixes: &Prefixes,
    mut set: impl FnMut(u32, Option<u32>),
) -> anyhow::Result<Option<Reach<'a>>> {
    let (withdrawn, rest) = counted(body).context("withdrawn routes")?;
    let (attributes, announced) = counted(rest).context("path attributes")?;
    let mut fields = Fields {
        withdrawn,
        announced,
        tag: None,
        path: &[],
        next_hop: &[],
    };
    fields.read(attributes)?;
    if family == Family::V6 {
        ensure!(
            withdrawn.is_empty() && announced.is_empty(),
            "IPv4 routes in a session of IPv6"
        );
    }
    prefixes.decode(fields.withdrawn, |number| set(number, None))?;
    if fields.announced.is_empty() {
        return Ok(None);
    }
    let tag = fields.tag.context("a route came without its community")?;
    prefixes.decode(fields.announced, |number| set(number, Some(tag)))?;
    Ok(Some(Reach {
        tag,
        path: fields.path,
        next_hop: fields.next_hop,
    }))
}

struct Fields<'a> {
    withdrawn: &'a [u8],
    announced: &'a [u8],
    tag: Option<u32>,
    path: &'a [u8],
    next_hop: &'a [u8],
}

impl<'a> Fields<'a> {
    fn read(&mut self, mut attributes: &'a [u8]) -> anyhow::Result<()> {
        while let [flags, code, rest @ ..] = attributes {
            let (value, rest) = if flags & 0x10 == 0 {
                let (length, rest) = rest.split_first().context("attribute without a length")?;
                rest.split_at_checked(usize::from(*length))
                    .context("attribute is cut")?
            } else {
                counted(rest)?
            };
            match *code {
                AS_PATH => self.path = value,
                NEXT_HOP => self.next_hop = value,
                COMMUNITIES => {
                    let (communities, _) = value.as_chunks::<4>();
                    let mut communities = communities.iter().map(|c| u32::from_be_bytes(*c));
                    self.tag = communities.find(|community| is_tag(*community));
                }
                MP_REACH_NLRI => {
                    // Address family, then a counted next hop and a reserved octet.
                    let length = usize::from(*value.get(3).context("MP_REACH_NLRI is cut")?);
                    self.next_hop = value.get(4..4 + length).context("MP_REACH_NLRI is cut")?;
                    self.announced = value.get(5 + length..).context("MP_REACH_NLRI is cut")?;
                }
                MP_UNREACH_NLRI => {
                    self.withdrawn = value.get(3..).context("MP_UNREACH_NLRI is cut")?;
                }
                _ => {}
            }
            attributes = rest;
        }
        Ok(())
    }
}

fn counted(bytes: &[u8]) -> anyhow::Result<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_at_checked(2).context("no length")?;
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    rest.split_at_checked(length)
        .context("the length exceeds the message")
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn attributes(next_hop: IpAddr) -> Attributes {
        Attributes {
            path: vec![65_000, 100_007],
            next_hop,
            preference: Some(100),
            communities: vec![99, 0xfd00_0001],
        }
    }

    fn read(bytes: &[u8], family: Family, prefixes: &Prefixes) -> Vec<(u32, Option<u32>)> {
        let mut seen = Vec::new();
        let mut rest = bytes;
        while let Some((message, length)) = next_message(rest).unwrap() {
            let Message::Update(body) = message else {
                panic!("{message:?}");
            };
            read_update(body, family, prefixes, |prefix, tag| {
                seen.push((prefix, tag))
            })
            .unwrap();
            rest = &rest[length..];
        }
        assert!(rest.is_empty());
        seen
    }

    #[test]
    fn what_is_announced_and_withdrawn_is_read_back_over_many_messages() {
        for (family, prefixes, next_hop) in [
            (
                Family::V4,
                Prefixes::PlainV4,
                Ipv4Addr::new(198, 18, 0, 2).into(),
            ),
            (Family::V6, Prefixes::PlainV6, Ipv6Addr::LOCALHOST.into()),
        ] {
            let mut bytes = Vec::new();
            write_reach(&mut bytes, &attributes(next_hop), &prefixes, 0..5000);
            let expected: Vec<_> = (0..5000).map(|prefix| (prefix, Some(99))).collect();
            assert_eq!(read(&bytes, family, &prefixes), expected);
            bytes.clear();
            write_unreach(&mut bytes, family, &prefixes, 0..5000);
            let expected: Vec<_> = (0..5000).map(|prefix| (prefix, None)).collect();
            assert_eq!(read(&bytes, family, &prefixes), expected);
        }
    }

    #[test]
    fn a_route_without_its_tag_is_an_error() {
        let mut bytes = Vec::new();
        let mut untagged = attributes(Ipv4Addr::LOCALHOST.into());
        untagged.communities.remove(0);
        write_reach(&mut bytes, &untagged, &Prefixes::PlainV4, [1]);
        let error = read_update(&bytes[HEADER..], Family::V4, &Prefixes::PlainV4, |_, _| {});
        assert!(error.is_err());
    }
}
