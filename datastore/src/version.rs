//! When something was written: opaque stamps that only their store can make.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Which write made an object what it is. Each write of each object has one of its own, which is never used again, not
/// even after the object was deleted and made anew.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(Stamp);

/// How far the changes of one kind are known: where a watch goes on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cursor(Stamp);

/// Of a store that counts, or a text that says nothing but whether it is the same.
#[derive(Clone, Debug)]
enum Stamp {
    /// `17`.
    Number(u64),
    /// `17@life`: a number, and whose: one life of an object, from its making to its deletion, or one of the store.
    Of {
        number: u64,
        life: Arc<str>,
    },
    /// `17+@life`: the end of that life, some time after this number.
    End {
        after: u64,
        life: Arc<str>,
    },
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
        Self::counted(text).unwrap_or_else(|| Self::Text(text.into()))
    }

    fn counted(text: &str) -> Option<Self> {
        // A number written otherwise, with zeros in front, would not come out as it came in.
        let number = |text: &str| {
            let number: u64 = text.parse().ok()?;
            (text == format!("{number}")).then_some(number)
        };
        let Some((count, life)) = text.split_once('@') else {
            return number(text).map(Self::Number);
        };
        let life: Arc<str> = (!life.is_empty()).then_some(life)?.into();
        match count.strip_suffix('+') {
            Some(after) => number(after).map(|after| Self::End { after, life }),
            None => number(count).map(|number| Self::Of { number, life }),
        }
    }

    /// What makes it the same as another: a life ends once. The order is for maps.
    fn identity(&self) -> (u8, u64, &str) {
        match self {
            Self::Number(number) => (0, *number, ""),
            Self::Of { number, life } => (1, *number, life),
            Self::End { life, .. } => (2, 0, life),
            Self::Text(text) => (3, 0, text),
        }
    }

    /// The number, and whether the moment is after it.
    const fn place(&self) -> Option<(u64, bool)> {
        match self {
            Self::Number(number) | Self::Of { number, .. } => Some((*number, false)),
            Self::End { after, .. } => Some((*after, true)),
            Self::Text(_) => None,
        }
    }

    fn life(&self) -> Option<&str> {
        match self {
            Self::Of { life, .. } | Self::End { life, .. } => Some(life),
            Self::Number(_) | Self::Text(_) => None,
        }
    }

    fn order(&self, other: &Self) -> Order {
        if self == other {
            return Order::Same;
        }
        let same_life = self.life().is_some() && self.life() == other.life();
        match (self, other) {
            (Self::Of { .. }, Self::End { .. }) if same_life => return Order::Older,
            (Self::End { .. }, Self::Of { .. }) if same_life => return Order::Newer,
            _ => {}
        }
        match self.order_of_places(other) {
            // Two lives do not share a number, unless they are of two stores.
            Order::Same if self.life().is_some() && other.life().is_some() => Order::Unknown,
            order => order,
        }
    }

    fn order_of_places(&self, other: &Self) -> Order {
        match (self.place(), other.place()) {
            (Some(one), Some(other)) => match one.cmp(&other) {
                Ordering::Less => Order::Older,
                Ordering::Equal => Order::Same,
                Ordering::Greater => Order::Newer,
            },
            _ if self == other => Order::Same,
            _ => Order::Unknown,
        }
    }

    const fn number(&self) -> Option<u64> {
        match self {
            Self::Number(number) | Self::Of { number, .. } => Some(*number),
            Self::End { .. } | Self::Text(_) => None,
        }
    }
}

impl PartialEq for Stamp {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for Stamp {}

impl Hash for Stamp {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl PartialOrd for Stamp {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Stamp {
    fn cmp(&self, other: &Self) -> Ordering {
        self.identity().cmp(&other.identity())
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Of { number, life } => write!(f, "{number}@{life}"),
            Self::End { after, life } => write!(f, "{after}+@{life}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl Version {
    /// The version that a store wrote as this text. Decimal numbers can be ordered.
    pub fn read(text: &str) -> Self {
        Self(Stamp::read(text))
    }

    /// A write that a store counted, within one life of its object: another life's is another version even where a store
    /// that was emptied counts anew. `life` is not empty.
    pub fn of(number: u64, life: &str) -> Self {
        let life = life.into();
        Self(Stamp::Of { number, life })
    }

    /// The deletion that ended a life of an object. A store that does not count deletions knows that it came `after` a
    /// number.
    pub fn end_of(life: &str, after: u64) -> Self {
        let life = life.into();
        Self(Stamp::End { after, life })
    }

    /// The life it is of, for the store that made it.
    pub fn life(&self) -> Option<&str> {
        self.0.life()
    }

    /// How `self` stands to `other`, of the same object. Of different ones that are alive the order is that of the writes.
    pub fn order(&self, other: &Self) -> Order {
        self.0.order(&other.0)
    }

    /// Whether this write came after `other`; unknown is no.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        self.order(other) == Order::Newer
    }

    /// How this write stands to what is known at `cursor`: `Newer` is not known there yet.
    pub fn order_at(&self, cursor: &Cursor) -> Order {
        self.0.order_of_places(&cursor.0)
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

    /// How far a store had counted, and which one.
    pub fn of(number: u64, store: &str) -> Self {
        let life = store.into();
        Self(Stamp::Of { number, life })
    }

    /// The store it is of, for the store that made it.
    pub fn store(&self) -> Option<&str> {
        self.0.life()
    }

    /// How `self` stands to `other`, of the same store and kind.
    pub fn order(&self, other: &Self) -> Order {
        if self.0.life() == other.0.life() {
            self.0.order(&other.0)
        } else {
            Order::Unknown
        }
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

    #[test]
    fn a_life_ends_after_all_its_writes_and_before_the_next_life() {
        let (early, late) = (Version::of(5, "a"), Version::of(9, "a"));
        let (told, seen) = (Version::end_of("a", 5), Version::end_of("a", 11));
        let next = Version::of(12, "b");
        assert_eq!(told, seen, "a life ends once");
        for (one, other, order) in [
            (&early, &late, Order::Older),
            (&late, &told, Order::Older),
            (&told, &seen, Order::Same),
            (&told, &next, Order::Older),
            (&next, &seen, Order::Newer),
            (&Version::of(5, "a"), &Version::of(5, "b"), Order::Unknown),
            (&Version::from(5), &Version::of(5, "b"), Order::Same),
        ] {
            assert_eq!(one.order(other), order, "{one} {other}");
            assert_eq!(&Version::read(&one.to_string()), one);
        }
        let at = |number| Cursor::of(number, "cluster");
        assert_eq!(early.order_at(&at(5)), Order::Same);
        assert_eq!(seen.order_at(&at(11)), Order::Newer);
        assert_eq!(seen.order_at(&at(12)), Order::Older);
        assert_eq!(at(5).order(&at(6)), Order::Older);
        assert_eq!(at(5).order(&Cursor::of(6, "other")), Order::Unknown);
        assert_eq!(Version::read("5@").to_string(), "5@");
    }
}
