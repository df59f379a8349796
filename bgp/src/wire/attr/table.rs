//! The one table of path attributes: what is known about each, and in which order they are written.
//!
//! Flag checks, RFC 7606 actions, names, the order of encoding and the page for readers follow from the rows; a new attribute is a new row,
//! its pair of functions in [`codec`](super::codec) and its field in [`PathAttributes`].
//!
//! Places kept: AIGP (26) and OTC (35) are rows to come. Add-path (RFC 7911) changes [`Nlri`](crate::wire::nlri),
//! RFC 8950 the next hop of [`multiprotocol`](crate::wire::update), long-lived graceful restart (RFC 9494) two
//! communities and a capability; none of them needs a row.

use crate::wire::attr::{AsnWidth, AttributeCode, PathAttributes, codec};
use crate::wire::update::draft::{Draft, Flaw, Received};
use crate::wire::update::{Action, ReceiveContext, multiprotocol};

/// Optional bit of the attribute flags.
pub(in crate::wire) const OPTIONAL: u8 = 0x80;
/// Transitive bit.
pub(in crate::wire) const TRANSITIVE: u8 = 0x40;
/// Partial bit.
pub(in crate::wire) const PARTIAL: u8 = 0x20;
/// Extended Length bit.
pub(in crate::wire) const EXTENDED_LENGTH: u8 = 0x10;

/// What is known about one attribute.
pub(in crate::wire) struct Row {
    /// Type code.
    pub(in crate::wire) code: AttributeCode,
    /// Name in the registry.
    pub(in crate::wire) name: &'static str,
    /// Optional and Transitive bits as they must be. Others make the attribute malformed and the routes withdrawn,
    /// whatever `malformed` says (RFC 7606 §3 c).
    pub(in crate::wire) flags: u8,
    /// What a malformed value calls for (RFC 7606 §7), unless its decoder says otherwise.
    pub(in crate::wire) malformed: Action,
    /// Whom it is taken from.
    pub(in crate::wire) taken_from: TakenFrom,
    /// Reads the value.
    pub(in crate::wire) decode: Decode,
    /// Appends the value and says whether the attribute is to be sent at all.
    pub(in crate::wire) encode: fn(&PathAttributes, AsnWidth, &mut Vec<u8>) -> bool,
}

/// Reads a value into the draft.
pub(in crate::wire) type Decode =
    for<'a> fn(&mut Draft<'a>, &Received<'a>, &ReceiveContext) -> Result<(), Flaw>;

/// Whom an attribute is taken from; from others it is discarded unseen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::wire) enum TakenFrom {
    /// Every peer.
    Any,
    /// iBGP peers (RFC 7606 §7.5, §7.9, §7.10).
    Ibgp,
    /// Peers that write 2-octet AS numbers (RFC 6793 §6).
    TwoOctetPeer,
}

const WELL_KNOWN: u8 = TRANSITIVE;
pub(in crate::wire) const OPTIONAL_TRANSITIVE: u8 = OPTIONAL | TRANSITIVE;

/// Attribute codes that other modules name.
impl AttributeCode {
    /// ORIGIN.
    pub const ORIGIN: Self = Self(1);
    /// AS_PATH.
    pub const AS_PATH: Self = Self(2);
    /// NEXT_HOP.
    pub const NEXT_HOP: Self = Self(3);
    /// AGGREGATOR.
    pub const AGGREGATOR: Self = Self(7);
    /// COMMUNITIES.
    pub const COMMUNITIES: Self = Self(8);
    /// MP_REACH_NLRI.
    pub const MP_REACH_NLRI: Self = Self(14);
    /// MP_UNREACH_NLRI.
    pub const MP_UNREACH_NLRI: Self = Self(15);
    /// EXTENDED COMMUNITIES.
    pub const EXTENDED_COMMUNITIES: Self = Self(16);
    /// LARGE_COMMUNITY.
    pub const LARGE_COMMUNITY: Self = Self(32);
    /// OTC.
    pub const OTC: Self = Self(35);

    /// The registry's name; `None` for codes that it does not list or that are not met.
    pub fn name(self) -> Option<&'static str> {
        row(self).map(|row| row.name).or_else(|| {
            let place = PLACES.iter().find(|(code, _)| *code == self.0)?;
            Some(place.1)
        })
    }
}

/// The row of a code; `None` for attributes that are not known here.
pub(in crate::wire) fn row(code: AttributeCode) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.code == code)
}

/// Attributes without a row, so that they are shown by name.
pub(in crate::wire) const PLACES: [(u8, &str); 8] = [
    (22, "PMSI_TUNNEL"),
    (23, "Tunnel Encapsulation"),
    (24, "Traffic Engineering"),
    (26, "AIGP"),
    (27, "PE Distinguisher Labels"),
    (29, "BGP-LS"),
    (33, "BGPsec_Path"),
    (40, "BGP Prefix-SID"),
];

/// By rising code, which is the order they are written in (RFC 4271 §5).
pub(in crate::wire) static ROWS: [Row; 19] = [
    Row {
        code: AttributeCode::ORIGIN,
        name: "ORIGIN",
        flags: WELL_KNOWN,
        malformed: Action::TreatAsWithdraw,
        taken_from: TakenFrom::Any,
        decode: codec::decode_origin,
        encode: codec::encode_origin,
    },
    Row {
        code: AttributeCode::AS_PATH,
        name: "AS_PATH",
        flags: WELL_KNOWN,
        malformed: Action::TreatAsWithdraw,
        taken_from: TakenFrom::Any,
        decode: codec::decode_as_path,
        encode: codec::encode_as_path,
    },
    Row {
        code: AttributeCode::NEXT_HOP,
        name: "NEXT_HOP",
        flags: WELL_KNOWN,
        malformed: Action::TreatAsWithdraw,
        taken_from: TakenFrom::Any,
        decode: codec::decode_next_hop,
        encode: codec::encode_next_hop,
    },
    Row {
        code: AttributeCode(4),
        name: "MULTI_EXIT_DISC",
        flags: OPTIONAL,
        malformed: Action::TreatAsWithdraw,
        taken_from: TakenFrom::Any,
        decode: codec::decode_med,
        encode: codec::encode_med,
    },
    Row {
        code: AttributeCode(5),
        name: "LOCAL_PREF",
        flags: WELL_KNOWN,
        malformed: Action::TreatAsWithdraw,
        taken_from: TakenFrom::Ibgp,
        decode: codec::decode_local_pref,
        encode: codec::encode_local_pref,
    },
    Row {
        code: AttributeCode(6),
        name: "ATOMIC_AGGREGATE",
        flags: WELL_KNOWN,
        malformed: Action::Discard,
        taken_from: TakenFrom::Any,
        decode: codec::decode_atomic_aggregate,
        encode: codec::encode_atomic_aggregate,
    },
    Row {
        code: AttributeCode::AGGREGATOR,
        name: "AGGREGATOR",
        flags: OPTIONAL_TRANSITIVE,
        malformed: Action::Discard,
        taken_from: TakenFrom::Any,
        decode: codec::decode_aggregator,
        encode: codec::encode_aggregator,
    },
    Row {
        code: AttributeCode::COMMUNITIES,
        name: "COMMUNITIES",
        flags: OPTIONAL_TRANSITIVE,
        malformed: Action::TreatAsWithdraw,
        taken_from: TakenFrom::Any,
        decode: codec::decode_communities,
        encode: codec::encode_communities,
    },
    Row {
        code: AttributeCode(9),
        name: "ORIGINATOR_ID",
        flags: OPTIONAL,
        malformed: Action::TreatAsWithdraw,
        taken_from: TakenFrom::Ibgp,
        decode: codec::decode_originator_id,
        encode: codec::encode_originator_id,
    },
    Row {
        code: AttributeCode(10),
        name: "CLUSTER_LIST",
        flags: OPTIONAL,
        malformed: Action::TreatAsWithdraw,
        taken_from: TakenFrom::Ibgp,
        decode: codec::decode_cluster_list,
        encode: codec::encode_cluster_list,
    },
    Row {
        code: AttributeCode::MP_REACH_NLRI,
        name: "MP_REACH_NLRI",
        flags: OPTIONAL,
        // Stands for what is too short to name a family; later errors disable that family.
        malformed: Action::SessionReset,
        taken_from: TakenFrom::Any,
        decode: multiprotocol::decode_reach,
        // Written with the prefixes, before all others (RFC 7606 §5.1).
        encode: |_, _, _| false,
    },
    Row {
        code: AttributeCode::MP_UNREACH_NLRI,
        name: "MP_UNREACH_NLRI",
        flags: OPTIONAL,
        malformed: Action::SessionReset,
        taken_from: TakenFrom::Any,
        decode: multiprotocol::decode_unreach,
        encode: |_, _, _| false,
    },
    Row {
        code: AttributeCode::EXTENDED_COMMUNITIES,
        name: "EXTENDED COMMUNITIES",
        flags: OPTIONAL_TRANSITIVE,
        malformed: Action::TreatAsWithdraw,
        taken_from: TakenFrom::Any,
        decode: codec::decode_extended_communities,
        encode: codec::encode_extended_communities,
    },
    Row {
        code: AttributeCode(17),
        name: "AS4_PATH",
        flags: OPTIONAL_TRANSITIVE,
        malformed: Action::Discard,
        taken_from: TakenFrom::TwoOctetPeer,
        decode: codec::decode_as4_path,
        encode: codec::encode_as4_path,
    },
    Row {
        code: AttributeCode(18),
        name: "AS4_AGGREGATOR",
        flags: OPTIONAL_TRANSITIVE,
        malformed: Action::Discard,
        taken_from: TakenFrom::TwoOctetPeer,
        decode: codec::decode_as4_aggregator,
        encode: codec::encode_as4_aggregator,
    },
    Row {
        code: AttributeCode(25),
        name: "IPv6 EXTENDED COMMUNITIES",
        flags: OPTIONAL_TRANSITIVE,
        malformed: Action::TreatAsWithdraw,
        taken_from: TakenFrom::Any,
        decode: codec::decode_ipv6_extended_communities,
        // Kept and written with the unknown ones.
        encode: |_, _, _| false,
    },
    Row {
        code: AttributeCode::LARGE_COMMUNITY,
        name: "LARGE_COMMUNITY",
        flags: OPTIONAL_TRANSITIVE,
        malformed: Action::TreatAsWithdraw,
        taken_from: TakenFrom::Any,
        decode: codec::decode_large_communities,
        encode: codec::encode_large_communities,
    },
    Row {
        code: AttributeCode::OTC,
        name: "OTC",
        flags: OPTIONAL_TRANSITIVE,
        malformed: Action::TreatAsWithdraw,
        taken_from: TakenFrom::Any,
        decode: codec::decode_otc,
        // Kept and written with the unknown ones: few routes have it, and few sessions look at it.
        encode: |_, _, _| false,
    },
    Row {
        code: AttributeCode(128),
        name: "ATTR_SET",
        flags: OPTIONAL_TRANSITIVE,
        malformed: Action::TreatAsWithdraw,
        taken_from: TakenFrom::Any,
        decode: codec::decode_attr_set,
        encode: |_, _, _| false,
    },
];
