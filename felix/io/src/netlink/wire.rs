//! Netlink framing: messages into a batch, datagrams into messages and attributes.
//!
//! ```text
//!  0               4       6       8           12          16
//!  +---------------+-------+-------+-----------+-----------+------------------+
//!  | length        | type  | flags | sequence  | port      | payload, padded  |
//!  +---------------+-------+-------+-----------+-----------+------------------+
//!  attribute: length (2, with header), type (2), payload, padded to 4
//! ```
//! All numbers are in the machine's byte order unless a name says otherwise (`netlink(7)`).

use std::net::IpAddr;

use super::uapi::{NLM_F_ACK, NLM_F_REQUEST};

/// Bytes of a message's header.
pub(crate) const HEADER_BYTES: usize = 16;

/// Kernel's attribute type bits: nested and byte-order flags cut off.
const TYPE_MASK: u16 = 0x3fff;
/// The flag that a nested attribute carries.
pub(crate) const NESTED: u16 = 0x8000;

/// Messages that go out in one datagram.
#[derive(Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

impl Batch {
    /// Adds one acknowledged request; `fill` writes what follows the header.
    pub(crate) fn request(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Writer<'_>)) {
        self.message(kind, flags | NLM_F_REQUEST | NLM_F_ACK, fill);
    }

    /// Adds one message with exactly these flags.
    pub(crate) fn message(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Writer<'_>)) {
        let start = self.bytes.len();
        self.starts.push(start);
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        fill(&mut Writer {
            bytes: &mut self.bytes,
        });
        let length =
            u32::try_from(self.bytes.len() - start).expect("a message is a few hundred bytes");
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Number of messages.
    pub(crate) fn len(&self) -> usize {
        self.starts.len()
    }

    /// Size of all messages.
    pub(crate) fn bytes_len(&self) -> usize {
        self.bytes.len()
    }

    /// Copies message `index` to `out` under sequence number `sequence`.
    pub(crate) fn copy(&self, index: usize, sequence: u32, out: &mut Vec<u8>) {
        let start = self.starts[index];
        let end = self
            .starts
            .get(index + 1)
            .copied()
            .unwrap_or(self.bytes.len());
        let at = out.len();
        out.extend_from_slice(&self.bytes[start..end]);
        out[at + 8..at + 12].copy_from_slice(&sequence.to_ne_bytes());
    }
}

/// Writes fixed parts and attributes of one message.
pub(crate) struct Writer<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Writer<'_> {
    /// `struct ifinfomsg`.
    pub(crate) fn ifinfo(&mut self, family: u8, ifindex: u32, flags: u32, change: u32) {
        self.bytes.extend_from_slice(&[family, 0, 0, 0]);
        self.bytes.extend_from_slice(&ifindex.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&change.to_ne_bytes());
    }

    /// `struct ifaddrmsg`.
    pub(crate) fn ifaddr(&mut self, family: u8, prefix_len: u8, flags: u8, ifindex: u32) {
        self.bytes
            .extend_from_slice(&[family, prefix_len, flags, 0]);
        self.bytes.extend_from_slice(&ifindex.to_ne_bytes());
    }

    /// `struct ndmsg`.
    pub(crate) fn neigh(&mut self, family: u8, ifindex: u32, state: u16, flags: u8) {
        self.bytes.extend_from_slice(&[family, 0, 0, 0]);
        self.bytes.extend_from_slice(&ifindex.to_ne_bytes());
        self.bytes.extend_from_slice(&state.to_ne_bytes());
        self.bytes.extend_from_slice(&[flags, 0]);
    }

    /// `struct nhmsg`.
    pub(crate) fn next_hop_object(&mut self, family: u8, protocol: u8, flags: u32) {
        self.bytes.extend_from_slice(&[family, 0, protocol, 0]);
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
    }

    /// `struct rtmsg`.
    pub(crate) fn route(&mut self, head: RouteHead) {
        let RouteHead {
            family,
            dst_len,
            tos,
            table,
            protocol,
            scope,
            kind,
            flags,
        } = head;
        self.bytes
            .extend_from_slice(&[family, dst_len, 0, tos, table, protocol, scope, kind]);
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
    }

    /// `struct fib_rule_hdr` of a rule that matches a source prefix.
    pub(crate) fn rule(&mut self, family: u8, src_len: u8, action: u8) {
        self.bytes
            .extend_from_slice(&[family, 0, src_len, 0, 0, 0, 0, action]);
        self.bytes.extend_from_slice(&0_u32.to_ne_bytes());
    }

    /// `struct rtnexthop` and its attributes.
    pub(crate) fn next_hop(&mut self, flags: u8, ifindex: u32, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0, flags, 0]);
        self.bytes.extend_from_slice(&ifindex.to_ne_bytes());
        fill(self);
        self.close(start);
    }

    /// An attribute.
    pub(crate) fn attr(&mut self, kind: u16, payload: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(payload);
        self.close(start);
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    /// A 32-bit attribute.
    pub(crate) fn attr_u32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_ne_bytes());
    }

    /// A 32-bit attribute in network order.
    pub(crate) fn attr_be32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_be_bytes());
    }

    /// `struct nfgenmsg`.
    pub(crate) fn nfgen(&mut self, family: u8, resource: u16) {
        let [high, low] = resource.to_be_bytes();
        self.bytes.extend_from_slice(&[family, 0, high, low]);
    }

    /// A zero-terminated text.
    pub(crate) fn attr_str(&mut self, kind: u16, value: &str) {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.attr(kind, &bytes);
    }

    /// An address in network order, 4 or 16 bytes.
    pub(crate) fn attr_ip(&mut self, kind: u16, addr: IpAddr) {
        match addr {
            IpAddr::V4(v4) => self.attr(kind, &v4.octets()),
            IpAddr::V6(v6) => self.attr(kind, &v6.octets()),
        }
    }

    /// A nested attribute.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        self.block(kind | NESTED, fill);
    }

    /// A nested attribute without the flag that says so, which is younger than routes are.
    pub(crate) fn block(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        fill(self);
        self.close(start);
    }

    /// Writes the length of what began at `start`.
    fn close(&mut self, start: usize) {
        let length = u16::try_from(self.bytes.len() - start).expect("an attribute is below 64 KiB");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }
}

/// Fields of `struct rtmsg` that are used.
#[derive(Clone, Copy, Default)]
pub(crate) struct RouteHead {
    pub(crate) family: u8,
    pub(crate) dst_len: u8,
    pub(crate) tos: u8,
    pub(crate) table: u8,
    pub(crate) protocol: u8,
    pub(crate) scope: u8,
    pub(crate) kind: u8,
    pub(crate) flags: u32,
}

/// One message of a datagram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) payload: &'a [u8],
}

/// Messages of a datagram; ends at the first that does not fit.
pub(crate) struct Messages<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let length = usize::try_from(u32_at(self.0, 0)?).ok()?;
        let payload = self.0.get(HEADER_BYTES..length)?;
        let message = Message {
            kind: u16_at(self.0, 4)?,
            flags: u16_at(self.0, 6)?,
            sequence: u32_at(self.0, 8)?,
            payload,
        };
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }
}

/// One attribute.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attr<'a> {
    pub(crate) kind: u16,
    pub(crate) payload: &'a [u8],
}

impl<'a> Attr<'a> {
    pub(crate) fn u8(self) -> Option<u8> {
        self.payload.first().copied()
    }

    pub(crate) fn u16_be(self) -> Option<u16> {
        self.payload
            .first_chunk()
            .map(|bytes| u16::from_be_bytes(*bytes))
    }

    pub(crate) fn u32(self) -> Option<u32> {
        u32_at(self.payload, 0)
    }

    pub(crate) fn u32_be(self) -> Option<u32> {
        self.payload
            .first_chunk()
            .map(|bytes| u32::from_be_bytes(*bytes))
    }

    pub(crate) fn ip(self) -> Option<IpAddr> {
        ip(self.payload)
    }

    pub(crate) fn mac(self) -> Option<[u8; 6]> {
        self.payload.try_into().ok()
    }

    /// The text up to the first zero; `None` if it is not UTF-8.
    pub(crate) fn text(self) -> Option<&'a str> {
        let end = self
            .payload
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(self.payload.len());
        std::str::from_utf8(self.payload.get(..end)?).ok()
    }

    /// What is nested in it.
    pub(crate) fn nested(self) -> Attrs<'a> {
        Attrs(self.payload)
    }
}

/// Attributes; ends at the first that does not fit.
#[derive(Clone, Copy)]
pub(crate) struct Attrs<'a>(&'a [u8]);

impl<'a> Attrs<'a> {
    /// Attributes of `payload` after a fixed part of `skip` bytes.
    pub(crate) fn after(payload: &'a [u8], skip: usize) -> Self {
        Self(payload.get(skip..).unwrap_or_default())
    }

    /// The first attribute of this type.
    pub(crate) fn find(mut self, kind: u16) -> Option<Attr<'a>> {
        Iterator::find(&mut self, |attr| attr.kind == kind)
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = Attr<'a>;

    fn next(&mut self) -> Option<Attr<'a>> {
        let length = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & TYPE_MASK;
        let payload = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Attr { kind, payload })
    }
}

/// 16 bits at `at`, in the machine's order.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|chunk| u16::from_ne_bytes(*chunk))
}

/// 32 bits at `at`, in the machine's order.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|chunk| u32::from_ne_bytes(*chunk))
}

/// An address of 4 or 16 bytes.
pub(crate) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk::<4>().map(|octets| IpAddr::from(*octets)),
        16 => bytes
            .first_chunk::<16>()
            .map(|octets| IpAddr::from(*octets)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut batch = Batch::default();
        batch.request(24, 0x500, |writer| {
            writer.route(RouteHead {
                family: 2,
                dst_len: 32,
                ..RouteHead::default()
            });
            writer.attr_ip(1, "10.0.0.1".parse().unwrap());
            writer.nest(8, |writer| writer.attr_u32(2, 1400));
            writer.attr_str(3, "abc");
        });
        let mut bytes = Vec::new();
        batch.copy(0, 7, &mut bytes);
        let messages: Vec<_> = Messages(&bytes).collect();
        assert_eq!(messages.len(), 1);
        assert_eq!(
            (messages[0].kind, messages[0].flags, messages[0].sequence),
            (24, 0x505, 7)
        );
        let attrs = Attrs::after(messages[0].payload, 12);
        assert_eq!(
            attrs.find(1).unwrap().ip(),
            Some("10.0.0.1".parse().unwrap())
        );
        assert_eq!(
            attrs.find(8).unwrap().nested().find(2).unwrap().u32(),
            Some(1400)
        );
        assert_eq!(attrs.find(3).unwrap().text(), Some("abc"));
    }

    #[test]
    fn a_cut_datagram_ends_the_iteration_instead_of_reading_past_it() {
        let mut batch = Batch::default();
        batch.request(16, 0, |writer| writer.attr_str(3, "eth0"));
        let mut bytes = Vec::new();
        batch.copy(0, 1, &mut bytes);
        for cut in 0..bytes.len() {
            assert_eq!(Messages(&bytes[..cut]).count(), 0, "cut at {cut}");
        }
        for cut in 0..9 {
            assert_eq!(
                Attrs::after(&bytes[16..16 + cut], 0).count(),
                0,
                "cut at {cut}"
            );
        }
    }
}
