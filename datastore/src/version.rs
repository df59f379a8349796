//! When something was written: opaque stamps that only their store can make.

use std::fmt;
use std::sync::Arc;

/// Which write made an object what it is. Each write of each object has one of its own, which is never used again, not
/// even after the object was deleted and made anew.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(Stamp);

/// How far the changes of one kind are known: where a watch goes on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cursor(Stamp);

/// A counting store's number, or a text that says nothing but whether it is the same. The derived order is for maps.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Stamp {
    Number(u64),
    Text(Arc<str>),
}

/// How one stamp stands to another of the same store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Made before it.
    Older,
    /// The same.
    Same,
    /// Made after it.
    Newer,
    /// The store's stamps do not tell.
    Unknown,
}

impl Stamp {
    fn read(text: &str) -> Self {
        match text.parse() {
            // A number written otherwise, with zeros in front, would not come out as it came in.
            Ok(number) if text == format!("{number}") => Self::Number(number),
            _ => Self::Text(text.into()),
        }
    }

    fn order(&self, other: &Self) -> Order {
        match (self, other) {
            (one, other) if one == other => Order::Same,
            (Self::Number(one), Self::Number(other)) if one < other => Order::Older,
            (Self::Number(_), Self::Number(_)) => Order::Newer,
            _ => Order::Unknown,
        }
    }

    const fn number(&self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(_) => None,
        }
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl Version {
    /// The version that a store wrote as this text. Decimal numbers can be ordered.
    pub fn read(text: &str) -> Self {
        Self(Stamp::read(text))
    }

    /// How `self` stands to `other`, of the same store.
    pub fn order(&self, other: &Self) -> Order {
        self.0.order(&other.0)
    }

    /// Whether this write came after `other`; unknown is no.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        self.order(other) == Order::Newer
    }

    /// How this write stands to what is known at `cursor`: `Newer` is not known there yet.
    pub fn order_at(&self, cursor: &Cursor) -> Order {
        self.0.order(&cursor.0)
    }

    /// The number, for the store that made it.
    pub const fn number(&self) -> Option<u64> {
        self.0.number()
    }
}

impl Cursor {
    /// The cursor that a store wrote as this text.
    pub fn read(text: &str) -> Self {
        Self(Stamp::read(text))
    }

    /// How `self` stands to `other`, of the same store and kind.
    pub fn order(&self, other: &Self) -> Order {
        self.0.order(&other.0)
    }

    /// The number, for the store that made it.
    pub const fn number(&self) -> Option<u64> {
        self.0.number()
    }
}

impl From<u64> for Version {
    fn from(number: u64) -> Self {
        Self(Stamp::Number(number))
    }
}

impl From<u64> for Cursor {
    fn from(number: u64) -> Self {
        Self(Stamp::Number(number))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_ordered_and_texts_are_only_the_same_or_not() {
        let read = Version::read;
        for (one, other, order) in [
            ("9", "10", Order::Older),
            ("10", "10", Order::Same),
            ("18446744073709551615", "10", Order::Newer),
            ("a", "a", Order::Same),
            ("a", "b", Order::Unknown),
            ("010", "10", Order::Unknown),
            ("18446744073709551616", "10", Order::Unknown),
        ] {
            assert_eq!(read(one).order(&read(other)), order, "{one} {other}");
            assert_eq!(read(one).to_string(), one);
        }
        assert_eq!(read("5").order_at(&Cursor::read("4")), Order::Newer);
    }
}
