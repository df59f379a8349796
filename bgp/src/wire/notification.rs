//! NOTIFICATION (RFC 4271 §4.5): why a session ends, in words the peer understands.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use crate::types::AfiSafi;
use crate::wire::family::Family;
use crate::wire::message::{HEADER_LENGTH, MAX_LENGTH, MessageType, write_message};
use crate::wire::reader::Reader;

mod names;

/// An error that ends a session, as it is sent and received.
///
/// ```text
/// +---------------+---------------+-------------------------------+
/// |  error code   | error subcode |  data (variable) ...
/// +---------------+---------------+-------------------------------+
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Notification {
    /// Error code (RFC 4271 §6).
    pub code: u8,
    /// Error subcode, 0 when there is none.
    pub subcode: u8,
    /// What the code's section says it holds.
    pub data: Bytes,
}

/// Longest shutdown communication in octets (RFC 9003 §2).
const SHUTDOWN_TEXT_MAX: usize = 255;

impl Notification {
    /// Message Header Error.
    pub const HEADER: u8 = 1;
    /// OPEN Message Error.
    pub const OPEN: u8 = 2;
    /// UPDATE Message Error.
    pub const UPDATE: u8 = 3;
    /// Hold Timer Expired.
    pub const HOLD_TIMER: u8 = 4;
    /// Finite State Machine Error.
    pub const FSM: u8 = 5;
    /// Cease.
    pub const CEASE: u8 = 6;
    /// ROUTE-REFRESH Message Error (RFC 7313 §5).
    pub const REFRESH: u8 = 7;
    /// Send Hold Timer Expired (RFC 9687 §3).
    pub const SEND_HOLD_TIMER: u8 = 8;
    /// Cease subcode Hard Reset (RFC 8538 §3).
    pub(crate) const HARD_RESET: u8 = 9;

    /// Any error. The named constructors below say what belongs into `data`.
    pub fn new(code: u8, subcode: u8, data: impl Into<Bytes>) -> Self {
        Self {
            code,
            subcode,
            data: data.into(),
        }
    }

    /// Reads the body of a message.
    ///
    /// # Errors
    /// 1/2 when it is shorter than two octets.
    pub fn decode(body: &Bytes) -> Result<Self, Self> {
        let mut reader = Reader::new(body);
        let bad_length = |_| Self::bad_body_length(body.len());
        let code = reader.u8().map_err(bad_length)?;
        let subcode = reader.u8().map_err(bad_length)?;
        Ok(Self::new(
            code,
            subcode,
            Bytes::copy_from_slice(reader.rest()),
        ))
    }

    /// Appends the whole message; data beyond 4096 octets of message is cut off.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let room = MAX_LENGTH.saturating_sub(HEADER_LENGTH).saturating_sub(2);
        let mut body = vec![self.code, self.subcode];
        body.extend(self.data.iter().take(room));
        write_message(out, MessageType::Notification, &body);
    }

    // Message header errors, RFC 4271 §6.1.

    /// 1/1 Connection Not Synchronized: the marker is not all ones.
    pub fn not_synchronized() -> Self {
        Self::new(Self::HEADER, 1, Bytes::new())
    }

    /// 1/2 Bad Message Length, with the length field.
    pub fn bad_length(length: u16) -> Self {
        Self::new(Self::HEADER, 2, length.to_be_bytes().to_vec())
    }

    /// 1/2 Bad Message Length, from the octets of a body.
    pub fn bad_body_length(octets: usize) -> Self {
        Self::bad_length(u16::try_from(octets.saturating_add(HEADER_LENGTH)).unwrap_or(u16::MAX))
    }

    /// 1/3 Bad Message Type, with the type field.
    pub fn bad_type(code: u8) -> Self {
        Self::new(Self::HEADER, 3, vec![code])
    }

    // OPEN errors, RFC 4271 §6.2.

    /// 2/0 Unspecific: an optional parameter or capability is malformed.
    pub fn malformed_open() -> Self {
        Self::new(Self::OPEN, 0, Bytes::new())
    }

    /// 2/1 Unsupported Version Number, with the version that is spoken: 4.
    pub fn unsupported_version() -> Self {
        Self::new(Self::OPEN, 1, vec![0, 4])
    }

    /// 2/2 Bad Peer AS.
    pub fn bad_peer_as() -> Self {
        Self::new(Self::OPEN, 2, Bytes::new())
    }

    /// 2/3 Bad BGP Identifier.
    pub fn bad_identifier() -> Self {
        Self::new(Self::OPEN, 3, Bytes::new())
    }

    /// 2/11 Role Mismatch (RFC 9234 §4.2).
    pub fn role_mismatch() -> Self {
        Self::new(Self::OPEN, 11, Bytes::new())
    }

    /// 2/4 Unsupported Optional Parameter.
    pub fn unsupported_parameter() -> Self {
        Self::new(Self::OPEN, 4, Bytes::new())
    }

    /// 2/6 Unacceptable Hold Time.
    pub fn unacceptable_hold_time() -> Self {
        Self::new(Self::OPEN, 6, Bytes::new())
    }

    /// 2/7 Unsupported Capability (RFC 5492 §5), with the capabilities that are required, encoded as in an OPEN.
    pub fn unsupported_capability(capabilities: impl Into<Bytes>) -> Self {
        Self::new(Self::OPEN, 7, capabilities)
    }

    // UPDATE errors, RFC 4271 §6.3. `attribute` is the whole attribute: flags, type, length, value.

    /// 3/1 Malformed Attribute List.
    pub fn malformed_attribute_list() -> Self {
        Self::new(Self::UPDATE, 1, Bytes::new())
    }

    /// 3/2 Unrecognized Well-known Attribute.
    pub fn unrecognized_well_known(attribute: &[u8]) -> Self {
        Self::new(Self::UPDATE, 2, attribute.to_vec())
    }

    /// 3/3 Missing Well-known Attribute, with its type code.
    pub fn missing_well_known(code: u8) -> Self {
        Self::new(Self::UPDATE, 3, vec![code])
    }

    /// 3/4 Attribute Flags Error.
    pub fn attribute_flags(attribute: &[u8]) -> Self {
        Self::new(Self::UPDATE, 4, attribute.to_vec())
    }

    /// 3/5 Attribute Length Error.
    pub fn attribute_length(attribute: &[u8]) -> Self {
        Self::new(Self::UPDATE, 5, attribute.to_vec())
    }

    /// 3/6 Invalid ORIGIN Attribute.
    pub fn invalid_origin(attribute: &[u8]) -> Self {
        Self::new(Self::UPDATE, 6, attribute.to_vec())
    }

    /// 3/8 Invalid NEXT_HOP Attribute.
    pub fn invalid_next_hop(attribute: &[u8]) -> Self {
        Self::new(Self::UPDATE, 8, attribute.to_vec())
    }

    /// 3/9 Optional Attribute Error.
    pub fn optional_attribute(attribute: &[u8]) -> Self {
        Self::new(Self::UPDATE, 9, attribute.to_vec())
    }

    /// 3/10 Invalid Network Field.
    pub fn invalid_network_field() -> Self {
        Self::new(Self::UPDATE, 10, Bytes::new())
    }

    /// 3/11 Malformed AS_PATH.
    pub fn malformed_as_path() -> Self {
        Self::new(Self::UPDATE, 11, Bytes::new())
    }

    // Timers and the state machine.

    /// 4/0 Hold Timer Expired, RFC 4271 §6.5.
    pub fn hold_timer_expired() -> Self {
        Self::new(Self::HOLD_TIMER, 0, Bytes::new())
    }

    /// 8/0 Send Hold Timer Expired, RFC 9687 §3.
    pub fn send_hold_timer_expired() -> Self {
        Self::new(Self::SEND_HOLD_TIMER, 0, Bytes::new())
    }

    /// 5/0 Unspecified FSM error.
    pub fn fsm_unspecified() -> Self {
        Self::new(Self::FSM, 0, Bytes::new())
    }

    /// 5/1 Receive Unexpected Message in OpenSent State, with its type (RFC 6608 §4).
    pub fn unexpected_in_open_sent(message: MessageType) -> Self {
        Self::new(Self::FSM, 1, vec![message.code()])
    }

    /// 5/2 Receive Unexpected Message in OpenConfirm State, with its type (RFC 6608 §4).
    pub fn unexpected_in_open_confirm(message: MessageType) -> Self {
        Self::new(Self::FSM, 2, vec![message.code()])
    }

    /// 5/3 Receive Unexpected Message in Established State, with its type (RFC 6608 §4).
    pub fn unexpected_in_established(message: MessageType) -> Self {
        Self::new(Self::FSM, 3, vec![message.code()])
    }

    /// 7/1 Invalid Message Length of a ROUTE-REFRESH, with the whole message (RFC 7313 §5).
    pub fn refresh_bad_length(message: impl Into<Bytes>) -> Self {
        Self::new(Self::REFRESH, 1, message)
    }

    // Cease, RFC 4486 §3.

    /// 6/1 Maximum Number of Prefixes Reached, with the family and the limit.
    pub fn max_prefixes(family: AfiSafi, limit: u32) -> Self {
        let family = Family::from(family);
        let mut data = BytesMut::with_capacity(7);
        data.put_u16(family.afi);
        data.put_u8(family.safi);
        data.put_u32(limit);
        Self::new(Self::CEASE, 1, data.freeze())
    }

    /// 6/2 Administrative Shutdown, with a text for the peer's operator (RFC 9003), cut at 255 octets.
    pub fn administrative_shutdown(text: &str) -> Self {
        Self::new(Self::CEASE, 2, communication(text))
    }

    /// 6/3 Peer De-configured.
    pub fn peer_deconfigured() -> Self {
        Self::new(Self::CEASE, 3, Bytes::new())
    }

    /// 6/4 Administrative Reset, with a text as for a shutdown.
    pub fn administrative_reset(text: &str) -> Self {
        Self::new(Self::CEASE, 4, communication(text))
    }

    /// 6/5 Connection Rejected.
    pub fn connection_rejected() -> Self {
        Self::new(Self::CEASE, 5, Bytes::new())
    }

    /// 6/6 Other Configuration Change.
    pub fn configuration_change() -> Self {
        Self::new(Self::CEASE, 6, Bytes::new())
    }

    /// 6/7 Connection Collision Resolution.
    pub fn collision_resolution() -> Self {
        Self::new(Self::CEASE, 7, Bytes::new())
    }

    /// 6/8 Out of Resources.
    pub fn out_of_resources() -> Self {
        Self::new(Self::CEASE, 8, Bytes::new())
    }

    /// 6/9 Hard Reset: `reason` with the promise that routes are not to be kept (RFC 8538 §3.1).
    pub fn hard_reset(reason: &Self) -> Self {
        let mut data = vec![reason.code, reason.subcode];
        data.extend_from_slice(&reason.data);
        Self::new(Self::CEASE, Self::HARD_RESET, data)
    }

    /// The receiver must not keep the sender's routes although Graceful Restart with the N bit was negotiated.
    pub const fn is_hard_reset(&self) -> bool {
        self.code == Self::CEASE && self.subcode == Self::HARD_RESET
    }

    /// The sender wants its end of the routes gone at once, whatever was agreed on restarts: a limit was passed, the peer
    /// is shut down or removed. To a peer with the N bit it says so by a Hard Reset (RFC 8538 §3.1).
    pub const fn wants_routes_gone(&self) -> bool {
        self.code == Self::CEASE && matches!(self.subcode, 1..=3)
    }

    /// What a Hard Reset carries; `None` for other errors and for an empty one.
    pub fn hard_reset_reason(&self) -> Option<Self> {
        if !self.is_hard_reset() {
            return None;
        }
        Self::decode(&self.data).ok()
    }

    /// The text of a shutdown or reset (RFC 9003); `None` when there is none or it is no UTF-8 of the stated length.
    pub fn communication(&self) -> Option<&str> {
        if self.code != Self::CEASE || !matches!(self.subcode, 2 | 4) {
            return None;
        }
        let mut reader = Reader::new(&self.data);
        let length = reader.u8().ok().filter(|length| *length > 0)?;
        let text = reader.take(usize::from(length)).ok()?;
        std::str::from_utf8(text).ok()
    }
}

/// A text with its length octet in front; nothing at all for an empty text.
fn communication(text: &str) -> Bytes {
    let text = text
        .get(..text.floor_char_boundary(SHUTDOWN_TEXT_MAX))
        .unwrap_or_default();
    match u8::try_from(text.len()) {
        Ok(length @ 1..) => {
            let mut data = BytesMut::with_capacity(text.len().saturating_add(1));
            data.put_u8(length);
            data.put_slice(text.as_bytes());
            data.freeze()
        }
        Ok(0) | Err(_) => Bytes::new(),
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{} {}",
            self.code,
            self.subcode,
            names::code(self.code)
        )?;
        if let Some(subcode) = names::subcode(self.code, self.subcode) {
            write!(f, ": {subcode}")?;
        }
        if let Some(text) = self.communication() {
            return write!(f, " ({text:?})");
        }
        if let Some(reason) = self.hard_reset_reason() {
            return write!(f, " ({reason})");
        }
        if (self.code, self.subcode) == (2, 7)
            && let Some(names) = names::capabilities(&self.data)
        {
            return write!(f, " ({names})");
        }
        if !self.data.is_empty() {
            f.write_str(" [")?;
            for octet in self.data.iter().take(32) {
                write!(f, "{octet:02x}")?;
            }
            f.write_str(if self.data.len() > 32 { "…]" } else { "]" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shutdown_text_is_cut_at_a_character_and_read_back() {
        let notification = Notification::administrative_shutdown(&"ä".repeat(200));
        assert_eq!(notification.data.len(), 255);
        assert_eq!(notification.communication(), Some("ä".repeat(127).as_str()));
        assert!(Notification::administrative_shutdown("").data.is_empty());
    }

    #[test]
    fn a_shutdown_text_with_a_false_length_is_no_text() {
        let notification = Notification::new(Notification::CEASE, 2, vec![9, b'x']);
        assert_eq!(notification.communication(), None);
        let notification = Notification::new(Notification::CEASE, 2, vec![1, 0xff]);
        assert_eq!(notification.communication(), None);
    }

    #[test]
    fn a_hard_reset_carries_its_reason() {
        let reason = Notification::max_prefixes(AfiSafi::Ipv6Unicast, 7);
        let reset = Notification::hard_reset(&reason);
        assert!(reset.is_hard_reset());
        assert_eq!(reset.hard_reset_reason(), Some(reason));
        assert_eq!(
            reset.to_string(),
            "6/9 Cease: Hard Reset (6/1 Cease: Maximum Number of Prefixes Reached [00020100000007])"
        );
    }

    #[test]
    fn capabilities_that_are_missed_are_named() {
        let data = vec![1, 4, 0, 2, 0, 1, 9, 1, 3, 200, 0];
        assert_eq!(
            Notification::new(2, 7, data).to_string(),
            "2/7 OPEN Message Error: Unsupported Capability (multiprotocol, AFI 2 SAFI 1; BGP role; capability 200)"
        );
        let cut = Notification::new(2, 7, vec![1, 4, 0]).to_string();
        assert!(cut.ends_with("[010400]"), "{cut}");
    }

    #[test]
    fn an_unknown_code_is_shown_as_numbers() {
        let notification = Notification::new(77, 3, Bytes::new());
        assert_eq!(notification.to_string(), "77/3 Unknown Error");
    }
}
