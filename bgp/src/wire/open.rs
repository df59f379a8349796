//! OPEN (RFC 4271 §4.2).

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;

use crate::types::{AfiSafi, Asn, RouterId};
use crate::wire::capability::{AddPathFamily, Capability, GracefulRestart, NextHopFamily};
use crate::wire::family::Family;
use crate::wire::message::{MessageType, write_message};
use crate::wire::notification::Notification;
use crate::wire::reader::{ReadError, Reader};

const VERSION: u8 = 4;
/// Optional parameter that holds capabilities (RFC 5492 §4).
const CAPABILITIES: u8 = 2;
/// Marks the extended form of optional parameters (RFC 9072 §2).
const EXTENDED: u8 = 255;

/// An OPEN message.
///
/// ```text
/// +---------------+-------------------------------+
/// |  version, 4   |             my AS             |
/// +---------------+---------------+---------------+---------------+
/// |           hold time           |         BGP identifier
/// +-------------------------------+-------------------------------+
///                                 | params length | parameters ...
/// +-------------------------------+---------------+---------------+
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The sender's AS: capability 65 when it is there, else the 2-octet field. Never 0 (RFC 7607).
    pub asn: Asn,
    /// Hold Time in whole seconds: 0, or at least 3 s.
    pub hold_time: Duration,
    /// BGP Identifier, never 0 (RFC 6286 §2.1).
    pub router_id: RouterId,
    /// Capabilities in the order received, repeated ones included.
    pub capabilities: Vec<Capability>,
}

impl Open {
    /// Reads the body of a message. Whether AS and identifier suit the peer is for the session to judge.
    ///
    /// # Errors
    /// 2/x as RFC 4271 §6.2 says; 2/0 for malformed parameters and capabilities.
    pub fn decode(body: &Bytes) -> Result<Self, Notification> {
        let mut reader = Reader::new(body);
        let short = |_: ReadError| Notification::bad_body_length(body.len());
        let version = reader.u8().map_err(short)?;
        if version != VERSION {
            return Err(Notification::unsupported_version());
        }
        let short_asn = reader.u16().map_err(short)?;
        let hold_seconds = reader.u16().map_err(short)?;
        let identifier = reader.ipv4().map_err(short)?;
        let parameters_length = reader.u8().map_err(short)?;
        let capabilities = decode_parameters(&mut reader, parameters_length)?;

        let asn = four_octet_as(&capabilities).unwrap_or(Asn(u32::from(short_asn)));
        if asn == Asn(0) || short_asn == 0 {
            return Err(Notification::bad_peer_as());
        }
        if matches!(hold_seconds, 1 | 2) {
            return Err(Notification::unacceptable_hold_time());
        }
        if identifier == Ipv4Addr::UNSPECIFIED {
            return Err(Notification::bad_identifier());
        }
        Ok(Self {
            asn,
            hold_time: Duration::from_secs(u64::from(hold_seconds)),
            router_id: RouterId(identifier),
            capabilities,
        })
    }

    /// Appends the whole message. The 2-octet field is AS_TRANS for a larger number; the caller adds
    /// [`Capability::FourOctetAs`] itself. Parameters take the extended form only when they need it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let short_asn = u16::try_from(self.asn.0).unwrap_or(23456);
        let hold_seconds = u16::try_from(self.hold_time.as_secs()).unwrap_or(u16::MAX);
        let mut body = vec![VERSION];
        body.extend_from_slice(&short_asn.to_be_bytes());
        body.extend_from_slice(&hold_seconds.to_be_bytes());
        body.extend_from_slice(&self.router_id.0.octets());

        let mut capabilities = Vec::new();
        for capability in &self.capabilities {
            capability.encode(&mut capabilities);
        }
        match u8::try_from(capabilities.len()) {
            Ok(0) => body.push(0),
            Ok(length @ 1..=253) => {
                body.extend_from_slice(&[length.saturating_add(2), CAPABILITIES, length]);
            }
            Ok(254..) | Err(_) => {
                let length = u16::try_from(capabilities.len()).expect("an OPEN has 4096 octets");
                body.extend_from_slice(&[EXTENDED, EXTENDED]);
                body.extend_from_slice(&length.saturating_add(3).to_be_bytes());
                body.push(CAPABILITIES);
                body.extend_from_slice(&length.to_be_bytes());
            }
        }
        body.extend_from_slice(&capabilities);
        write_message(out, MessageType::Open, &body);
    }

    /// Families spoken by the sender: those of capability 1; IPv4 unicast when that capability is absent
    /// (RFC 4760 §8). Families that are unknown here are left out.
    pub fn families(&self) -> BTreeSet<AfiSafi> {
        let mut offered = false;
        let mut families = BTreeSet::new();
        for capability in &self.capabilities {
            if let Capability::Multiprotocol(family) = capability {
                offered = true;
                families.extend(family.known());
            }
        }
        if !offered {
            families.insert(AfiSafi::Ipv4Unicast);
        }
        families
    }

    /// The sender writes AS numbers with 4 octets (RFC 6793).
    pub fn has_four_octet_as(&self) -> bool {
        four_octet_as(&self.capabilities).is_some()
    }

    /// The sender answers ROUTE-REFRESH (RFC 2918).
    pub fn has_route_refresh(&self) -> bool {
        self.capabilities.contains(&Capability::RouteRefresh)
    }

    /// The sender understands BoRR and EoRR (RFC 7313).
    pub fn has_enhanced_route_refresh(&self) -> bool {
        self.capabilities
            .contains(&Capability::EnhancedRouteRefresh)
    }

    /// The sender receives messages of up to 65535 octets (RFC 8654).
    pub fn has_extended_message(&self) -> bool {
        self.capabilities.contains(&Capability::ExtendedMessage)
    }

    /// What is said of several paths of a family; the last word counts (RFC 7911 §4).
    pub fn add_path(&self, family: AfiSafi) -> Option<AddPathFamily> {
        let family = Family::from(family);
        let entries = self
            .capabilities
            .iter()
            .filter_map(|capability| match capability {
                Capability::AddPath(families) => Some(families),
                _ => None,
            });
        let mut said = entries.flatten().filter(|entry| entry.family == family);
        said.next_back().copied()
    }

    /// The sender takes IPv6 next hops of IPv4 prefixes (RFC 8950 §4).
    pub fn has_ipv6_next_hops(&self) -> bool {
        let wanted = NextHopFamily::IPV6_OF_IPV4;
        self.capabilities.iter().any(|capability| {
            matches!(capability, Capability::ExtendedNextHop(entries) if entries.contains(&wanted))
        })
    }

    /// What the sender says it is to us, each time that it does (RFC 9234 §4.1).
    pub fn roles(&self) -> impl Iterator<Item = u8> + '_ {
        let capabilities = self.capabilities.iter();
        capabilities.filter_map(|capability| match capability {
            Capability::Role(code) => Some(*code),
            _ => None,
        })
    }

    /// Graceful Restart; the last one when it is repeated (RFC 4724 §3).
    pub fn graceful_restart(&self) -> Option<&GracefulRestart> {
        self.capabilities
            .iter()
            .rev()
            .find_map(|capability| match capability {
                Capability::GracefulRestart(restart) => Some(restart),
                _ => None,
            })
    }
}

fn four_octet_as(capabilities: &[Capability]) -> Option<Asn> {
    capabilities.iter().find_map(|capability| match capability {
        Capability::FourOctetAs(asn) => Some(*asn),
        _ => None,
    })
}

/// Reads optional parameters in the short form or in that of RFC 9072 §2:
///
/// ```text
/// +---------------+---------------+-------------------------------+
/// | length, 255   |   type, 255   |  extended length              |
/// +---------------+---------------+---------------+---------------+
/// |     type      |            length             |  value ...
/// +---------------+-------------------------------+---------------+
/// ```
fn decode_parameters(
    reader: &mut Reader<'_>,
    parameters_length: u8,
) -> Result<Vec<Capability>, Notification> {
    let malformed = |_: ReadError| Notification::malformed_open();
    let extended = parameters_length != 0 && reader.peek().first() == Some(&EXTENDED);
    let mut parameters = if extended {
        reader.u8().map_err(malformed)?;
        let length = reader.u16().map_err(malformed)?;
        reader.sub(usize::from(length))
    } else {
        reader.sub(usize::from(parameters_length))
    }
    .map_err(malformed)?;
    reader.finish().map_err(malformed)?;

    let mut capabilities = Vec::new();
    while !parameters.is_empty() {
        let kind = parameters.u8().map_err(malformed)?;
        let length = if extended {
            parameters.u16().map(usize::from)
        } else {
            parameters.u8().map(usize::from)
        }
        .map_err(malformed)?;
        let mut value = parameters.sub(length).map_err(malformed)?;
        if kind != CAPABILITIES {
            return Err(Notification::unsupported_parameter());
        }
        while !value.is_empty() {
            capabilities.push(Capability::decode(&mut value).map_err(malformed)?);
        }
    }
    Ok(capabilities)
}
