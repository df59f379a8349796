//! Path attributes (RFC 4271 §5), decoded.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::types::{AfiSafi, Asn, RouterId};

pub mod as_path;
pub(in crate::wire) mod codec;
pub mod community;
pub mod reference;
pub(in crate::wire) mod table;

use as_path::AsPath;
use community::{Community, ExtendedCommunity, LargeCommunity};

/// The attributes that routes share, in the form the RIB interns: equal sets are equal values with equal hashes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PathAttributes {
    /// ORIGIN.
    pub origin: Origin,
    /// AS_PATH, merged with AS4_PATH when the peer writes 2-octet AS numbers (RFC 6793 §4.2.3).
    pub as_path: AsPath,
    /// Next hop of the routes that have these attributes. The decoder leaves it empty, since one UPDATE may carry two
    /// ([`Reach::next_hop`](super::update::Reach)); the RIB sets it before it interns. Only an IPv4 next hop is
    /// written with the attributes, as NEXT_HOP; an IPv6 one stands in MP_REACH_NLRI.
    pub next_hop: Option<NextHop>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF; never there from an eBGP peer.
    pub local_pref: Option<u32>,
    /// ATOMIC_AGGREGATE is present.
    pub atomic_aggregate: bool,
    /// AGGREGATOR, merged with AS4_AGGREGATOR like AS_PATH.
    pub aggregator: Option<Aggregator>,
    /// COMMUNITIES (RFC 1997), as received.
    pub communities: Box<[Community]>,
    /// ORIGINATOR_ID (RFC 4456 §8); never there from an eBGP peer.
    pub originator_id: Option<RouterId>,
    /// CLUSTER_LIST (RFC 4456 §8), nearest cluster first; never there from an eBGP peer.
    pub cluster_list: Box<[Ipv4Addr]>,
    /// EXTENDED COMMUNITIES (RFC 4360), as received.
    pub extended_communities: Box<[ExtendedCommunity]>,
    /// LARGE_COMMUNITY (RFC 8092), repeated ones removed.
    pub large_communities: Box<[LargeCommunity]>,
    /// Optional transitive attributes that are passed on unseen, by rising code.
    pub unknown: Box<[RawAttribute]>,
    /// Which of the optional transitive ones above are partial.
    pub partial: Partial,
}

impl PathAttributes {
    /// OTC (RFC 9234 §5): the AS from which on a route may go to customers only.
    pub fn only_to_customers(&self) -> Option<Asn> {
        let otc = |raw: &&RawAttribute| raw.code == AttributeCode::OTC;
        let value = &self.unknown.iter().find(otc)?.value;
        Some(Asn(u32::from_be_bytes((**value).try_into().ok()?)))
    }

    /// Sets OTC, where there is none.
    pub fn set_only_to_customers(&mut self, asn: Asn) {
        let mut unknown = std::mem::take(&mut self.unknown).into_vec();
        unknown.push(RawAttribute {
            flags: table::OPTIONAL_TRANSITIVE,
            code: AttributeCode::OTC,
            value: asn.0.to_be_bytes().into(),
        });
        unknown.sort_by_key(|raw| raw.code);
        self.unknown = unknown.into();
    }
}

/// Optional transitive attributes whose Partial bit is set: a speaker on the way did not know them. Nobody may clear it
/// (RFC 4271 §5). Of AGGREGATOR, COMMUNITIES, EXTENDED COMMUNITIES, LARGE_COMMUNITY; unknown ones have it in their flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Partial(u8);

impl Partial {
    const CODES: [AttributeCode; 4] = [
        AttributeCode::AGGREGATOR,
        AttributeCode::COMMUNITIES,
        AttributeCode::EXTENDED_COMMUNITIES,
        AttributeCode::LARGE_COMMUNITY,
    ];

    fn bit(code: AttributeCode) -> u8 {
        let bits = Self::CODES.iter().zip([1, 2, 4, 8]);
        let mut found = bits.filter(|(known, _)| **known == code);
        found.next().map_or(0, |(_, bit)| bit)
    }

    /// Marks an attribute; one that is not listed above is not marked.
    pub fn insert(&mut self, code: AttributeCode) {
        self.0 |= Self::bit(code);
    }

    /// The attribute is marked.
    pub fn contains(self, code: AttributeCode) -> bool {
        self.0 & Self::bit(code) != 0
    }

    /// One bit for each, from the lowest on in the order of [`Partial`]'s list.
    pub(crate) const fn bits(self) -> u8 {
        self.0
    }

    pub(crate) const fn from_bits(bits: u8) -> Self {
        Self(bits & 0b1111)
    }
}

/// ORIGIN (RFC 4271 §5.1.1), in order of preference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// 0: interior to the originating AS.
    #[default]
    Igp,
    /// 1: learned by EGP.
    Egp,
    /// 2: learned by other means.
    Incomplete,
}

impl Origin {
    /// The attribute's octet.
    pub const fn code(self) -> u8 {
        match self {
            Self::Igp => 0,
            Self::Egp => 1,
            Self::Incomplete => 2,
        }
    }

    /// The origin of an octet; `None` for an undefined one.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Igp),
            1 => Some(Self::Egp),
            2 => Some(Self::Incomplete),
            _ => None,
        }
    }
}

/// A next hop: of NEXT_HOP (RFC 4271 §5.1.3), or of MP_REACH_NLRI with its link-local companion (RFC 2545 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NextHop {
    /// IPv4.
    V4(Ipv4Addr),
    /// IPv6.
    V6 {
        /// The global address, or a link-local one when it stands alone.
        global: Ipv6Addr,
        /// The link-local address beside it.
        link_local: Option<Ipv6Addr>,
    },
}

impl NextHop {
    /// The address to resolve.
    pub const fn address(&self) -> IpAddr {
        match self {
            Self::V4(address) => IpAddr::V4(*address),
            Self::V6 { global, .. } => IpAddr::V6(*global),
        }
    }

    /// It is an address of one link only, without a global one.
    pub const fn is_link_local(&self) -> bool {
        match self {
            Self::V4(_) => false,
            Self::V6 { global, .. } => global.is_unicast_link_local(),
        }
    }

    /// As it is for peers on other links.
    pub const fn without_link_local(self) -> Self {
        match self {
            Self::V4(_) => self,
            Self::V6 { global, .. } => Self::V6 {
                global,
                link_local: None,
            },
        }
    }

    /// The family of the address, which need not be that of the routes (RFC 8950).
    pub const fn family(&self) -> AfiSafi {
        match self {
            Self::V4(_) => AfiSafi::Ipv4Unicast,
            Self::V6 { .. } => AfiSafi::Ipv6Unicast,
        }
    }
}

impl From<IpAddr> for NextHop {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(global) => Self::V6 {
                global,
                link_local: None,
            },
        }
    }
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address().fmt(f)
    }
}

/// AGGREGATOR (RFC 4271 §5.1.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Aggregator {
    /// AS that formed the aggregate; never 0 (RFC 7607).
    pub asn: Asn,
    /// Its speaker.
    pub router_id: RouterId,
}

/// An attribute that is passed on without being looked at.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RawAttribute {
    /// Attribute flags, the length bit cleared, Partial set when the attribute is not known here.
    pub flags: u8,
    /// Type code.
    pub code: AttributeCode,
    /// Value.
    pub value: Box<[u8]>,
}

impl fmt::Debug for RawAttribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} flags {:#04x} ", self.code, self.flags)?;
        self.value
            .iter()
            .try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

/// Attribute type code; shown by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttributeCode(pub u8);

/// How wide AS numbers are in AS_PATH and AGGREGATOR (RFC 6793 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsnWidth {
    /// The peer did not offer 4-octet AS numbers.
    Two,
    /// Both sides did.
    Four,
}

impl fmt::Display for AttributeCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "attribute {}", self.0),
        }
    }
}
