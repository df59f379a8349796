//! Communities: RFC 1997, RFC 4360, RFC 8092.

use std::fmt;
use std::str::FromStr;

/// A community (RFC 1997): the upper half is an AS number, the lower half its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Community(pub u32);

impl Community {
    /// Not beyond the AS, or the confederation.
    pub const NO_EXPORT: Self = Self(0xffff_ff01);
    /// Not to any peer.
    pub const NO_ADVERTISE: Self = Self(0xffff_ff02);
    /// Not beyond the AS, members of a confederation included.
    pub const NO_EXPORT_SUBCONFED: Self = Self(0xffff_ff03);
    /// Last resort of a session about to go down (RFC 8326).
    pub const GRACEFUL_SHUTDOWN: Self = Self(0xffff_0000);
    /// Discard traffic to the prefix (RFC 7999).
    pub const BLACKHOLE: Self = Self(0xffff_029a);

    /// The upper half.
    pub const fn high(self) -> u16 {
        let [a, b, _, _] = self.0.to_be_bytes();
        u16::from_be_bytes([a, b])
    }

    /// The lower half.
    pub const fn low(self) -> u16 {
        let [_, _, a, b] = self.0.to_be_bytes();
        u16::from_be_bytes([a, b])
    }
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NO_EXPORT => f.write_str("no-export"),
            Self::NO_ADVERTISE => f.write_str("no-advertise"),
            Self::NO_EXPORT_SUBCONFED => f.write_str("no-export-subconfed"),
            Self::GRACEFUL_SHUTDOWN => f.write_str("graceful-shutdown"),
            Self::BLACKHOLE => f.write_str("blackhole"),
            Self(_) => write!(f, "{}:{}", self.high(), self.low()),
        }
    }
}

/// An extended community (RFC 4360), eight octets passed on as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExtendedCommunity(pub [u8; 8]);

impl ExtendedCommunity {
    /// May cross AS borders (the T bit is clear, RFC 4360 §2).
    pub const fn is_transitive(self) -> bool {
        let [kind, ..] = self.0;
        kind & 0x40 == 0
    }
}

impl fmt::Display for ExtendedCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", u64::from_be_bytes(self.0))
    }
}

/// A large community (RFC 8092).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LargeCommunity {
    /// Global Administrator: an AS number.
    pub global: u32,
    /// Local Data Part 1.
    pub local1: u32,
    /// Local Data Part 2.
    pub local2: u32,
}

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.global, self.local1, self.local2)
    }
}

/// Why a text is no community.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("community {text:?}: must be {allowed}")]
pub struct CommunityError {
    text: String,
    allowed: &'static str,
}

impl FromStr for Community {
    type Err = CommunityError;

    /// Reads `65000:100`.
    fn from_str(text: &str) -> Result<Self, CommunityError> {
        let halves = text.split_once(':').and_then(|(high, low)| {
            let high = high.parse::<u16>().ok()?;
            let low = low.parse::<u16>().ok()?;
            Some(Self((u32::from(high) << 16) | u32::from(low)))
        });
        halves.ok_or_else(|| CommunityError {
            text: text.to_owned(),
            allowed: "two numbers from 0 to 65535, as in 65000:100",
        })
    }
}

impl FromStr for LargeCommunity {
    type Err = CommunityError;

    /// Reads `65000:100:200`.
    fn from_str(text: &str) -> Result<Self, CommunityError> {
        let refused = || CommunityError {
            text: text.to_owned(),
            allowed: "three numbers from 0 to 4294967295, as in 65000:100:200",
        };
        let mut parts = text.split(':').map(str::parse::<u32>);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Ok(global)), Some(Ok(local1)), Some(Ok(local2)), None) => Ok(Self {
                global,
                local1,
                local2,
            }),
            _ => Err(refused()),
        }
    }
}
