//! Just enough BGP to be somebody's peer: OPEN, KEEPALIVE, UPDATE of IPv4 unicast, ROUTE-REFRESH.

use std::net::Ipv4Addr;

use anyhow::{Context, bail, ensure};

/// Octets of a message's header.
pub const HEADER: usize = 19;
/// Longest message.
const LONGEST: usize = 4096;
/// Hold time offered: no phase lasts as long without a keepalive.
const HOLD_SECONDS: u16 = 240;
/// The first prefix is 20.0.0.0/24.
const FIRST_PREFIX: u32 = 0x14_0000;

/// The AS of everybody.
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

/// Appends an OPEN with the capabilities IPv4 unicast, route refresh and 4-octet AS numbers.
pub fn write_open(out: &mut Vec<u8>, router_id: Ipv4Addr) {
    let mut body = vec![4];
    body.extend(ASN.to_be_bytes());
    body.extend(HOLD_SECONDS.to_be_bytes());
    body.extend(router_id.octets());
    let mut capabilities = vec![1, 4, 0, 1, 0, 1, 2, 0, 65, 4, 0, 0];
    capabilities.extend(ASN.to_be_bytes());
    body.extend([16, 2, 14]);
    body.extend(capabilities);
    message(out, 1, &body);
}

/// Appends a KEEPALIVE.
pub fn write_keepalive(out: &mut Vec<u8>) {
    message(out, 4, &[]);
}

/// Appends a ROUTE-REFRESH of IPv4 unicast (RFC 2918).
pub fn write_refresh(out: &mut Vec<u8>) {
    message(out, 5, &[0, 1, 0, 1]);
}

/// Appends UPDATEs that announce the prefixes with these numbers. `set` makes paths differ, `tag` is the community.
pub fn write_reach(
    out: &mut Vec<u8>,
    next_hop: Ipv4Addr,
    set: u32,
    tag: u32,
    prefixes: impl IntoIterator<Item = u32>,
) {
    let mut attributes = vec![0x40, 1, 1, 0];
    attributes.extend([0x40, 2, 14, 2, 3]);
    for asn in [65_000, 100_000 + set, 200_000 + set % 97] {
        attributes.extend(asn.to_be_bytes());
    }
    attributes.extend([0x40, 3, 4]);
    attributes.extend(next_hop.octets());
    attributes.extend([0x40, 5, 4, 0, 0, 0, 100]);
    attributes.extend([0xc0, 8, 4]);
    attributes.extend(tag.to_be_bytes());
    let mut head = vec![0, 0];
    let length = u16::try_from(attributes.len()).expect("attributes are few");
    head.extend(length.to_be_bytes());
    head.extend(attributes);
    let mut body = head.clone();
    for prefix in prefixes {
        body.extend(encoded(prefix));
        if body.len() + HEADER + 4 > LONGEST {
            message(out, 2, &body);
            body.truncate(head.len());
        }
    }
    if body.len() > head.len() {
        message(out, 2, &body);
    }
}

/// Appends UPDATEs that withdraw the prefixes with these numbers.
pub fn write_unreach(out: &mut Vec<u8>, prefixes: impl IntoIterator<Item = u32>) {
    let mut fields = Vec::new();
    let mut flush = |fields: &mut Vec<u8>| {
        if !fields.is_empty() {
            let length = u16::try_from(fields.len()).expect("flushed before it is full");
            let mut body = length.to_be_bytes().to_vec();
            body.append(fields);
            body.extend([0, 0]);
            message(out, 2, &body);
        }
    };
    for prefix in prefixes {
        fields.extend(encoded(prefix));
        if fields.len() + HEADER + 8 > LONGEST {
            flush(&mut fields);
        }
    }
    flush(&mut fields);
}

fn encoded(prefix: u32) -> [u8; 4] {
    let [_, a, b, c] = (FIRST_PREFIX + prefix).to_be_bytes();
    [24, a, b, c]
}

/// Reads an UPDATE's body: calls `set` with each prefix's number and its tag, `None` for a withdrawal.
///
/// # Errors
/// When a length is wrong, a prefix none of ours, or a route without its tag.
pub fn read_update(body: &[u8], mut set: impl FnMut(u32, Option<u32>)) -> anyhow::Result<()> {
    let (withdrawn, rest) = counted(body).context("withdrawn routes")?;
    let (attributes, reach) = counted(rest).context("path attributes")?;
    each_prefix(withdrawn, |prefix| set(prefix, None))?;
    if !reach.is_empty() {
        let tag = tag(attributes)?;
        each_prefix(reach, |prefix| set(prefix, Some(tag)))?;
    }
    Ok(())
}

fn counted(bytes: &[u8]) -> anyhow::Result<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_at_checked(2).context("no length")?;
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    rest.split_at_checked(length)
        .context("the length exceeds the message")
}

fn each_prefix(field: &[u8], mut set: impl FnMut(u32)) -> anyhow::Result<()> {
    let (prefixes, rest) = field.as_chunks::<4>();
    ensure!(rest.is_empty(), "{field:02x?} are no /24 prefixes");
    for [bits, a, b, c] in prefixes {
        let prefix = u32::from_be_bytes([0, *a, *b, *c]).checked_sub(FIRST_PREFIX);
        match prefix {
            Some(prefix) if *bits == 24 => set(prefix),
            _ => bail!("nobody announced {a}.{b}.{c}.0/{bits}"),
        }
    }
    Ok(())
}

/// The value of COMMUNITIES, which holds one.
fn tag(mut attributes: &[u8]) -> anyhow::Result<u32> {
    while let [flags, code, rest @ ..] = attributes {
        let (value, rest) = if flags & 0x10 == 0 {
            let (length, rest) = rest.split_first().context("attribute without a length")?;
            rest.split_at_checked(usize::from(*length))
                .context("attribute is cut")?
        } else {
            counted(rest)?
        };
        if let (8, [a, b, c, d]) = (*code, value) {
            return Ok(u32::from_be_bytes([*a, *b, *c, *d]));
        }
        attributes = rest;
    }
    bail!("a route came without its community")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Vec<(u32, Option<u32>)> {
        let mut seen = Vec::new();
        let mut rest = bytes;
        while let Some((message, length)) = next_message(rest).unwrap() {
            let Message::Update(body) = message else {
                panic!("{message:?}");
            };
            read_update(body, |prefix, tag| seen.push((prefix, tag))).unwrap();
            rest = &rest[length..];
        }
        assert!(rest.is_empty());
        seen
    }

    #[test]
    fn what_is_announced_and_withdrawn_is_read_back_over_many_messages() {
        let mut bytes = Vec::new();
        write_reach(&mut bytes, Ipv4Addr::new(198, 18, 0, 2), 7, 99, 0..5000);
        let expected: Vec<_> = (0..5000).map(|prefix| (prefix, Some(99))).collect();
        assert_eq!(read(&bytes), expected);
        bytes.clear();
        write_unreach(&mut bytes, 0..5000);
        let expected: Vec<_> = (0..5000).map(|prefix| (prefix, None)).collect();
        assert_eq!(read(&bytes), expected);
    }
}
