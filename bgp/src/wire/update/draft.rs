//! An UPDATE while its attributes are read: what was found, and what was wrong.

use std::net::Ipv4Addr;

use bytes::Bytes;

use crate::types::Asn;
use crate::wire::attr::as_path::AsPath;
use crate::wire::attr::table::{self, TakenFrom};
use crate::wire::attr::{Aggregator, AsnWidth, AttributeCode, PathAttributes, RawAttribute};
use crate::wire::nlri::Nlri;
use crate::wire::notification::Notification;
use crate::wire::reader::Reader;
use crate::wire::update::{Action, Fault, PeerKind, Reach, Reason, ReceiveContext};

/// One attribute as it stands in the message.
#[derive(Clone, Copy, Debug)]
pub(in crate::wire) struct Received<'a> {
    /// Attribute flags.
    pub(in crate::wire) flags: u8,
    /// Type code.
    pub(in crate::wire) code: AttributeCode,
    /// The value.
    pub(in crate::wire) value: &'a [u8],
    /// Flags, code, length and value: the data of a NOTIFICATION.
    pub(in crate::wire) whole: &'a [u8],
}

/// Why a decoder gave up: with the action of its row, or with its own.
#[derive(Debug)]
pub(in crate::wire) struct Flaw {
    /// What is wrong.
    pub(in crate::wire) reason: Reason,
    /// What it calls for when not what the row says.
    pub(in crate::wire) action: Option<Action>,
}

impl From<Reason> for Flaw {
    fn from(reason: Reason) -> Self {
        Self {
            reason,
            action: None,
        }
    }
}

/// What has been read of an UPDATE.
#[derive(Debug)]
pub(in crate::wire) struct Draft<'a> {
    /// The whole body, which NLRI are slices of.
    pub(in crate::wire) body: &'a Bytes,
    /// Attributes that go over as they are.
    pub(in crate::wire) attributes: PathAttributes,
    /// NEXT_HOP, which counts only for the NLRI field.
    pub(in crate::wire) next_hop: Option<Ipv4Addr>,
    /// Routes of MP_REACH_NLRI.
    pub(in crate::wire) reach: Option<Reach>,
    /// Routes of MP_UNREACH_NLRI.
    pub(in crate::wire) unreach: Option<Nlri>,
    /// AS4_PATH.
    pub(in crate::wire) as4_path: Option<AsPath>,
    /// AS4_AGGREGATOR.
    pub(in crate::wire) as4_aggregator: Option<Aggregator>,
    /// Attributes passed on unseen.
    pub(in crate::wire) unknown: Vec<RawAttribute>,
    /// Codes that stood in the message.
    pub(in crate::wire) seen: Seen,
    /// Codes of which a repetition was noted; a message has room for thousands.
    repeated: Seen,
    /// What was wrong.
    pub(in crate::wire) faults: Vec<Fault>,
    /// The NOTIFICATION of the first fault that is more than a discard, should it have to end the session.
    pub(in crate::wire) reset: Option<Notification>,
}

impl<'a> Draft<'a> {
    /// Nothing read yet.
    pub(in crate::wire) fn new(body: &'a Bytes) -> Self {
        Self {
            body,
            attributes: PathAttributes::default(),
            next_hop: None,
            reach: None,
            unreach: None,
            as4_path: None,
            as4_aggregator: None,
            unknown: Vec::new(),
            seen: Seen::default(),
            repeated: Seen::default(),
            faults: Vec::new(),
            reset: None,
        }
    }

    /// Reads the path attributes field.
    ///
    /// # Errors
    /// The NOTIFICATION of the first fault whose action is a session reset.
    pub(in crate::wire) fn read_attributes(
        &mut self,
        field: &'a [u8],
        context: &ReceiveContext,
    ) -> Result<(), Notification> {
        let mut reader = Reader::new(field);
        while !reader.is_empty() {
            match next_attribute(&mut reader) {
                Ok(received) => self.read_attribute(&received, context)?,
                // RFC 7606 §4: what follows cannot be found; the NLRI field still can.
                Err((code, reason)) => {
                    self.fault(code, reason, Action::TreatAsWithdraw, &[])?;
                    break;
                }
            }
        }
        self.unknown.sort_by_key(|attribute| attribute.code);
        self.attributes.unknown = std::mem::take(&mut self.unknown).into();
        if context.asn_width == AsnWidth::Two {
            self.merge_as4();
        }
        Ok(())
    }

    /// Notes what is wrong.
    ///
    /// # Errors
    /// The NOTIFICATION when the action is a session reset. `whole` is the attribute for its data.
    pub(in crate::wire) fn fault(
        &mut self,
        attribute: Option<AttributeCode>,
        reason: Reason,
        action: Action,
        whole: &[u8],
    ) -> Result<(), Notification> {
        if action == Action::SessionReset {
            return Err(reason.notification(attribute, whole));
        }
        if action > Action::Discard && self.reset.is_none() {
            self.reset = Some(reason.notification(attribute, whole));
        }
        self.faults.push(Fault {
            attribute,
            reason,
            action,
        });
        Ok(())
    }

    /// The attribute is the only one in the message.
    pub(in crate::wire) fn is_only(&self, code: AttributeCode) -> bool {
        self.seen.count() == 1 && self.seen.contains(code)
    }

    fn read_attribute(
        &mut self,
        received: &Received<'a>,
        context: &ReceiveContext,
    ) -> Result<(), Notification> {
        let Received {
            flags, code, whole, ..
        } = *received;
        if !self.seen.insert(code) {
            // RFC 7606 §3 g.
            let action = match code {
                AttributeCode::MP_REACH_NLRI | AttributeCode::MP_UNREACH_NLRI => {
                    Action::SessionReset
                }
                _ => Action::Discard,
            };
            if !self.repeated.insert(code) {
                return Ok(());
            }
            return self.fault(Some(code), Reason::Repeated, action, whole);
        }
        let Some(row) = table::row(code) else {
            return self.read_unknown(received);
        };
        match row.taken_from {
            TakenFrom::Ibgp if context.peer == PeerKind::Ebgp => {
                return self.fault(Some(code), Reason::FromEbgp, Action::Discard, whole);
            }
            TakenFrom::TwoOctetPeer if context.asn_width == AsnWidth::Four => {
                let reason = Reason::FromFourOctetPeer;
                return self.fault(Some(code), reason, Action::Discard, whole);
            }
            TakenFrom::Any | TakenFrom::Ibgp | TakenFrom::TwoOctetPeer => {}
        }
        if flags & (table::OPTIONAL | table::TRANSITIVE) != row.flags {
            let reason = Reason::Flags {
                found: flags,
                required: row.flags,
            };
            self.fault(Some(code), reason, Action::TreatAsWithdraw, whole)?;
            // The value of other attributes has no use any more; these two say what to withdraw.
            if !matches!(
                code,
                AttributeCode::MP_REACH_NLRI | AttributeCode::MP_UNREACH_NLRI
            ) {
                return Ok(());
            }
        }
        match (row.decode)(self, received, context) {
            Ok(()) => {
                if flags & table::PARTIAL != 0 {
                    self.attributes.partial.insert(code);
                }
                Ok(())
            }
            Err(flaw) => {
                let action = flaw.action.unwrap_or(row.malformed);
                self.fault(Some(code), flaw.reason, action, whole)
            }
        }
    }

    /// RFC 4271 §5, §6.3: optional transitive attributes are passed on as partial, other optional ones are dropped.
    fn read_unknown(&mut self, received: &Received<'a>) -> Result<(), Notification> {
        let bits = received.flags & (table::OPTIONAL | table::TRANSITIVE | table::PARTIAL);
        if bits & table::OPTIONAL == 0 {
            let (code, whole) = (Some(received.code), received.whole);
            return self.fault(code, Reason::UnknownWellKnown, Action::SessionReset, whole);
        }
        if bits & table::TRANSITIVE != 0 {
            self.unknown.push(RawAttribute {
                flags: bits | table::PARTIAL,
                code: received.code,
                value: received.value.into(),
            });
        }
        Ok(())
    }

    /// RFC 6793 §4.2.3.
    fn merge_as4(&mut self) {
        let as4_path = self.as4_path.take();
        let as4_aggregator = self.as4_aggregator.take();
        if let Some(aggregator) = self.attributes.aggregator {
            if aggregator.asn != Asn::TRANS {
                // A speaker that knows nothing of AS4_* has aggregated since: both are out of date.
                return;
            }
            self.attributes.aggregator = as4_aggregator.or(self.attributes.aggregator);
        }
        if let Some(as4_path) = as4_path {
            self.attributes.as_path = self.attributes.as_path.merge_as4(&as4_path);
        }
    }
}

fn next_attribute<'a>(
    reader: &mut Reader<'a>,
) -> Result<Received<'a>, (Option<AttributeCode>, Reason)> {
    let start = reader.peek();
    let left = start.len();
    let header_short = |needed| (None, Reason::Overrun { needed, left });
    let flags = reader.u8().map_err(|_| header_short(3))?;
    let code = reader.u8().map_err(|_| header_short(3))?;
    let (header, length) = if flags & table::EXTENDED_LENGTH == 0 {
        let length = reader.u8().map_err(|_| header_short(3))?;
        (3, usize::from(length))
    } else {
        let length = reader.u16().map_err(|_| header_short(4))?;
        (4, usize::from(length))
    };
    let code = AttributeCode(code);
    let needed = length.saturating_add(header);
    let overrun = |_| (Some(code), Reason::Overrun { needed, left });
    let value = reader.take(length).map_err(overrun)?;
    Ok(Received {
        flags,
        code,
        value,
        whole: start.get(..needed).unwrap_or(start),
    })
}

/// The set of attribute codes in one message.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::wire) struct Seen {
    bits: [u64; 4],
}

impl Seen {
    /// Adds a code; `false` when it was there before.
    fn insert(&mut self, code: AttributeCode) -> bool {
        let Some(word) = self.bits.get_mut(usize::from(code.0 >> 6)) else {
            return false;
        };
        let bit = 1 << (code.0 & 63);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// The code stood in the message.
    pub(in crate::wire) fn contains(&self, code: AttributeCode) -> bool {
        let word = self.bits.get(usize::from(code.0 >> 6)).copied();
        word.unwrap_or_default() & (1 << (code.0 & 63)) != 0
    }

    /// How many codes there were.
    pub(in crate::wire) fn count(&self) -> u32 {
        self.bits.iter().map(|word| word.count_ones()).sum()
    }
}
