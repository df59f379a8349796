//! ROUTE-REFRESH (RFC 2918, RFC 7313).

use bytes::Bytes;

use crate::types::AfiSafi;
use crate::wire::family::Family;
use crate::wire::message::{MessageType, write_message};
use crate::wire::notification::Notification;
use crate::wire::reader::Reader;

/// A ROUTE-REFRESH without outbound route filters.
///
/// ```text
///  0                   1                   2                   3
/// +-------------------------------+---------------+---------------+
/// |              AFI              |    subtype    |     SAFI      |
/// +-------------------------------+---------------+---------------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRefresh {
    /// The family asked for; one that was not negotiated is to be ignored (RFC 2918 §4).
    pub family: Family,
    /// What it says.
    pub kind: RefreshKind,
}

/// Message subtype (RFC 7313 §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshKind {
    /// 0: send everything again.
    Request,
    /// 1: Beginning of Route Refresh.
    Begin,
    /// 2: End of Route Refresh.
    End,
    /// Any other; to be ignored (RFC 7313 §5).
    Unknown(u8),
}

impl RouteRefresh {
    /// A message for a family of ours.
    pub fn new(family: AfiSafi, kind: RefreshKind) -> Self {
        Self {
            family: family.into(),
            kind,
        }
    }

    /// Reads the body of a message.
    ///
    /// # Errors
    /// 7/1 for BoRR and EoRR of a wrong length (RFC 7313 §5), 1/2 for a wrong length otherwise.
    pub fn decode(body: &Bytes) -> Result<Self, Notification> {
        let mut reader = Reader::new(body);
        let bad_length = |_| Notification::bad_body_length(body.len());
        let afi = reader.u16().map_err(bad_length)?;
        let subtype = reader.u8().map_err(bad_length)?;
        let safi = reader.u8().map_err(bad_length)?;
        let kind = match subtype {
            0 => RefreshKind::Request,
            1 => RefreshKind::Begin,
            2 => RefreshKind::End,
            other => RefreshKind::Unknown(other),
        };
        match (reader.finish(), kind) {
            (Ok(()), _) | (Err(_), RefreshKind::Unknown(_)) => Ok(Self {
                family: Family { afi, safi },
                kind,
            }),
            (Err(_), RefreshKind::Begin | RefreshKind::End) => {
                let mut message = Vec::new();
                write_message(&mut message, MessageType::RouteRefresh, body);
                Err(Notification::refresh_bad_length(message))
            }
            // Outbound route filters (RFC 5291) would follow; that capability is never offered.
            (Err(error), RefreshKind::Request) => Err(bad_length(error)),
        }
    }

    /// Appends the whole message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let [afi_high, afi_low] = self.family.afi.to_be_bytes();
        let subtype = match self.kind {
            RefreshKind::Request => 0,
            RefreshKind::Begin => 1,
            RefreshKind::End => 2,
            RefreshKind::Unknown(subtype) => subtype,
        };
        let body = [afi_high, afi_low, subtype, self.family.safi];
        write_message(out, MessageType::RouteRefresh, &body);
    }
}
