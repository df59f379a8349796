//! Any message: its type, its decoding by type, its header when sent.

use std::fmt;

use bytes::Bytes;

use crate::wire::notification::Notification;
use crate::wire::open::Open;
use crate::wire::refresh::RouteRefresh;
use crate::wire::update::{ReceiveContext, Update, decode_update};

/// Octets of the header (RFC 4271 §4.1).
pub const HEADER_LENGTH: usize = 19;
/// Longest message without the extended message capability (RFC 4271 §4).
pub const MAX_LENGTH: usize = 4096;
/// Longest message with it (RFC 8654 §3).
pub const MAX_EXTENDED_LENGTH: usize = 65535;

/// Message type (RFC 4271 §4.1, RFC 2918 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageType {
    /// 1
    Open,
    /// 2
    Update,
    /// 3
    Notification,
    /// 4
    Keepalive,
    /// 5
    RouteRefresh,
}

impl MessageType {
    /// The type octet.
    pub const fn code(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Update => 2,
            Self::Notification => 3,
            Self::Keepalive => 4,
            Self::RouteRefresh => 5,
        }
    }

    /// The type of an octet; `None` when there is no such type.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Open),
            2 => Some(Self::Update),
            3 => Some(Self::Notification),
            4 => Some(Self::Keepalive),
            5 => Some(Self::RouteRefresh),
            _ => None,
        }
    }
}

impl fmt::Display for MessageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "OPEN",
            Self::Update => "UPDATE",
            Self::Notification => "NOTIFICATION",
            Self::Keepalive => "KEEPALIVE",
            Self::RouteRefresh => "ROUTE-REFRESH",
        })
    }
}

/// One whole message whose header is in order; the body shares the framer's buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawMessage {
    /// Its type.
    pub kind: MessageType,
    /// What follows the header.
    pub body: Bytes,
}

/// A decoded message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// OPEN.
    Open(Open),
    /// UPDATE, after RFC 7606's actions were applied.
    Update(Update),
    /// NOTIFICATION.
    Notification(Notification),
    /// KEEPALIVE.
    Keepalive,
    /// ROUTE-REFRESH.
    RouteRefresh(RouteRefresh),
}

impl Message {
    /// Decodes a body by its type.
    ///
    /// # Errors
    /// The NOTIFICATION that ends the session.
    pub fn decode(raw: &RawMessage, context: &ReceiveContext) -> Result<Self, Notification> {
        Ok(match raw.kind {
            MessageType::Open => Self::Open(Open::decode(&raw.body)?),
            MessageType::Update => Self::Update(decode_update(&raw.body, context)?),
            MessageType::Notification => Self::Notification(Notification::decode(&raw.body)?),
            MessageType::Keepalive => Self::Keepalive,
            MessageType::RouteRefresh => Self::RouteRefresh(RouteRefresh::decode(&raw.body)?),
        })
    }
}

/// Appends a KEEPALIVE (RFC 4271 §4.4).
pub fn write_keepalive(out: &mut Vec<u8>) {
    write_message(out, MessageType::Keepalive, &[]);
}

/// Appends a header and the body.
///
/// # Panics
/// When the whole is longer than 65535 octets: writers of bodies keep to their limit.
pub(super) fn write_message(out: &mut Vec<u8>, kind: MessageType, body: &[u8]) {
    let start = begin_message(out, kind);
    out.extend_from_slice(body);
    end_message(out, start);
}

/// Appends a header without a length; returns where the message starts.
pub(super) fn begin_message(out: &mut Vec<u8>, kind: MessageType) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0xff; 16]);
    out.extend_from_slice(&[0, 0, kind.code()]);
    start
}

/// Sets the length of the message that starts at `start` and ends at the end of `out`.
pub(super) fn end_message(out: &mut [u8], start: usize) {
    let length = out.len().saturating_sub(start);
    patch_u16(out, start.saturating_add(16), length);
}

/// Overwrites two octets that were written before.
///
/// # Panics
/// When `value` does not fit or the place was never written: errors of the caller, which keeps to its limits.
pub(super) fn patch_u16(out: &mut [u8], at: usize, value: usize) {
    let value = u16::try_from(value).expect("lengths are kept below 65536 by message limits");
    out.get_mut(at..at.saturating_add(2))
        .expect("the place was written before")
        .copy_from_slice(&value.to_be_bytes());
}
