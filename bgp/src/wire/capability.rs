//! Capabilities (RFC 5492), the negotiable part of an OPEN.

use std::time::Duration;

use bytes::Bytes;

use crate::types::{AfiSafi, Asn};
use crate::wire::family::Family;
use crate::wire::reader::{ReadError, Reader};

/// One capability. Codes that are not listed, long-lived graceful restart (71) and FQDN (73) among them, are kept as
/// [`Capability::Unknown`].
///
/// ```text
/// +---------------+---------------+-------------------------------+
/// |     code      |    length     |  value (variable) ...
/// +---------------+---------------+-------------------------------+
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capability {
    /// 1: the family is spoken (RFC 4760 §8).
    Multiprotocol(Family),
    /// 2: ROUTE-REFRESH is answered (RFC 2918).
    RouteRefresh,
    /// 5: families whose prefixes may have next hops of another family (RFC 8950 §4).
    ExtendedNextHop(Vec<NextHopFamily>),
    /// 6: messages of up to 65535 octets are received (RFC 8654).
    ExtendedMessage,
    /// 9: what the sender is to us, a code of [`Role`](crate::types::Role) or none (RFC 9234 §4.1).
    Role(u8),
    /// 64 (RFC 4724, RFC 8538).
    GracefulRestart(GracefulRestart),
    /// 65: the sender's AS in full (RFC 6793).
    FourOctetAs(Asn),
    /// 69: path identifiers, by family (RFC 7911 §4).
    AddPath(Vec<AddPathFamily>),
    /// 70: BoRR and EoRR are understood (RFC 7313).
    EnhancedRouteRefresh,
    /// Any other.
    Unknown {
        /// Capability code.
        code: u8,
        /// Its value.
        value: Bytes,
    },
}

/// One entry of [`Capability::ExtendedNextHop`].
///
/// ```text
/// +-------------------------------+-------------------------------+-------------------------------+
/// |           NLRI AFI            |           NLRI SAFI           |         next hop AFI          |
/// +-------------------------------+-------------------------------+-------------------------------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHopFamily {
    /// The prefixes' family.
    pub family: Family,
    /// AFI that their next hops may have.
    pub next_hop_afi: u16,
}

/// Graceful Restart (RFC 4724 §3).
///
/// ```text
/// +-------+-----------------------+
/// |R|N|   |  restart time, 12 bit |
/// +-------+-----------------------+-------------------------------+
/// |              AFI              |     SAFI      |F|             |  per family
/// +-------------------------------+---------------+---------------+
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct GracefulRestart {
    /// R: the sender has restarted; do not wait for its End-of-RIB before you send.
    pub restarting: bool,
    /// N: routes are kept across NOTIFICATIONs and hold timer expiry too (RFC 8538 §2).
    pub notification: bool,
    /// Restart Time in whole seconds, at most 4095.
    pub time: Duration,
    /// Families whose routes are kept; empty says only that End-of-RIB is sent.
    pub families: Vec<GracefulFamily>,
}

/// One family of [`GracefulRestart`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GracefulFamily {
    /// The family.
    pub family: Family,
    /// F: forwarding state was preserved over the restart.
    pub forwarding: bool,
}

/// One family of [`Capability::AddPath`].
///
/// ```text
/// +-------------------------------+---------------+---------------+
/// |              AFI              |     SAFI      | send/receive  |
/// +-------------------------------+---------------+---------------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddPathFamily {
    /// The family.
    pub family: Family,
    /// The sender of the OPEN can take several paths.
    pub receive: bool,
    /// It can send them.
    pub send: bool,
}

impl NextHopFamily {
    /// IPv6 next hops of IPv4 unicast prefixes.
    pub const IPV6_OF_IPV4: Self = Self {
        family: Family { afi: 1, safi: 1 },
        next_hop_afi: 2,
    };
}

impl GracefulRestart {
    /// The family's entry, if the sender keeps its routes.
    pub fn family(&self, family: AfiSafi) -> Option<GracefulFamily> {
        let family = Family::from(family);
        self.families
            .iter()
            .copied()
            .find(|entry| entry.family == family)
    }
}

impl Capability {
    /// Capability code.
    pub const fn code(&self) -> u8 {
        match self {
            Self::Multiprotocol(_) => 1,
            Self::RouteRefresh => 2,
            Self::ExtendedNextHop(_) => 5,
            Self::ExtendedMessage => 6,
            Self::Role(_) => 9,
            Self::GracefulRestart(_) => 64,
            Self::FourOctetAs(_) => 65,
            Self::AddPath(_) => 69,
            Self::EnhancedRouteRefresh => 70,
            Self::Unknown { code, .. } => *code,
        }
    }

    /// Reads one capability.
    ///
    /// # Errors
    /// When a length does not suit the code.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, ReadError> {
        let code = reader.u8()?;
        let length = reader.u8()?;
        let mut value = reader.sub(usize::from(length))?;
        let capability = match code {
            1 => {
                let afi = value.u16()?;
                // The octet between AFI and SAFI is reserved and not to be looked at.
                value.u8()?;
                let safi = value.u8()?;
                Self::Multiprotocol(Family { afi, safi })
            }
            2 => Self::RouteRefresh,
            5 => decode_extended_next_hop(value.rest()),
            6 => Self::ExtendedMessage,
            9 => Self::Role(value.u8()?),
            64 => Self::GracefulRestart(decode_graceful_restart(&mut value)?),
            65 => Self::FourOctetAs(Asn(value.u32()?)),
            69 => decode_add_path(value.rest()),
            70 => Self::EnhancedRouteRefresh,
            _ => Self::Unknown {
                code,
                value: Bytes::copy_from_slice(value.rest()),
            },
        };
        value.finish()?;
        Ok(capability)
    }

    /// Appends the capability. A value longer than 255 octets is cut at its last whole entry.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut value = Vec::new();
        match self {
            Self::Multiprotocol(family) => {
                value.extend_from_slice(&family.afi.to_be_bytes());
                value.extend_from_slice(&[0, family.safi]);
            }
            Self::RouteRefresh | Self::ExtendedMessage | Self::EnhancedRouteRefresh => {}
            Self::GracefulRestart(restart) => encode_graceful_restart(restart, &mut value),
            Self::ExtendedNextHop(entries) => {
                for entry in entries.iter().take(42) {
                    value.extend_from_slice(&entry.family.afi.to_be_bytes());
                    value.extend_from_slice(&u16::from(entry.family.safi).to_be_bytes());
                    value.extend_from_slice(&entry.next_hop_afi.to_be_bytes());
                }
            }
            Self::Role(code) => value.push(*code),
            Self::FourOctetAs(asn) => value.extend_from_slice(&asn.0.to_be_bytes()),
            Self::AddPath(families) => {
                for entry in families.iter().take(63) {
                    value.extend_from_slice(&entry.family.afi.to_be_bytes());
                    let directions = u8::from(entry.receive) | u8::from(entry.send) << 1;
                    value.extend_from_slice(&[entry.family.safi, directions]);
                }
            }
            Self::Unknown { value: raw, .. } => value.extend(raw.iter().take(255)),
        }
        let length = u8::try_from(value.len()).expect("every arm keeps to 255 octets");
        out.extend_from_slice(&[self.code(), length]);
        out.extend_from_slice(&value);
    }
}

/// A SAFI of more than 255 there is not: such an entry says nothing. Half an entry leaves the capability not understood.
fn decode_extended_next_hop(value: &[u8]) -> Capability {
    let (entries, rest) = value.as_chunks::<6>();
    if !rest.is_empty() {
        return Capability::Unknown {
            code: 5,
            value: Bytes::copy_from_slice(value),
        };
    }
    let entries = entries.iter().filter_map(|[a, b, c, d, e, f]| {
        let parts = [[*a, *b], [*c, *d], [*e, *f]];
        let [afi, safi, next_hop_afi] = parts.map(u16::from_be_bytes);
        let safi = u8::try_from(safi).ok()?;
        Some(NextHopFamily {
            family: Family { afi, safi },
            next_hop_afi,
        })
    });
    Capability::ExtendedNextHop(entries.collect())
}

/// RFC 7911 §4: with another value than 1 to 3, or half an entry, the capability is not understood.
fn decode_add_path(value: &[u8]) -> Capability {
    let (entries, rest) = value.as_chunks::<4>();
    let families = entries.iter().map(|[high, low, safi, directions]| {
        (1..=3).contains(directions).then(|| AddPathFamily {
            family: Family {
                afi: u16::from_be_bytes([*high, *low]),
                safi: *safi,
            },
            receive: directions & 1 != 0,
            send: directions & 2 != 0,
        })
    });
    match families.collect() {
        Some(families) if rest.is_empty() => Capability::AddPath(families),
        Some(_) | None => Capability::Unknown {
            code: 69,
            value: Bytes::copy_from_slice(value),
        },
    }
}

fn decode_graceful_restart(value: &mut Reader<'_>) -> Result<GracefulRestart, ReadError> {
    let head = value.u16()?;
    let mut families = Vec::new();
    while !value.is_empty() {
        let afi = value.u16()?;
        let safi = value.u8()?;
        let flags = value.u8()?;
        families.push(GracefulFamily {
            family: Family { afi, safi },
            forwarding: flags & 0x80 != 0,
        });
    }
    Ok(GracefulRestart {
        restarting: head & 0x8000 != 0,
        notification: head & 0x4000 != 0,
        time: Duration::from_secs(u64::from(head & 0x0fff)),
        families,
    })
}

fn encode_graceful_restart(restart: &GracefulRestart, value: &mut Vec<u8>) {
    let seconds = u16::try_from(restart.time.as_secs().min(0x0fff)).unwrap_or(0x0fff);
    let flags = (u16::from(restart.restarting) << 15) | (u16::from(restart.notification) << 14);
    value.extend_from_slice(&(flags | seconds).to_be_bytes());
    for entry in restart.families.iter().take(63) {
        value.extend_from_slice(&entry.family.afi.to_be_bytes());
        value.extend_from_slice(&[entry.family.safi, u8::from(entry.forwarding) << 7]);
    }
}
