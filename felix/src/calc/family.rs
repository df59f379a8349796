//! What there is once for each address family.

use std::ops::Index;

use crate::rules::Family;

/// A value for IPv4 and one for IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PerFamily<T> {
    v4: T,
    v6: T,
}

impl<T> PerFamily<T> {
    pub(super) fn of(mut value: impl FnMut(Family) -> T) -> Self {
        Self {
            v4: value(Family::V4),
            v6: value(Family::V6),
        }
    }

    /// Both, IPv4 first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        [&self.v4, &self.v6].into_iter()
    }
}

impl<T> Index<Family> for PerFamily<T> {
    type Output = T;

    fn index(&self, family: Family) -> &T {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}
