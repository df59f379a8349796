//! What a receiver holds, and how far that is from what it must hold.

use std::ops::Range;
use std::rc::Rc;

use anyhow::Context;

/// Tag by prefix number; 0 is no route.
pub type Contents = Rc<Vec<u32>>;

/// A receiver's routes.
#[derive(Debug)]
pub struct Table {
    held: Vec<u32>,
    expected: Contents,
    /// Prefixes that its peer announces itself: they say nothing.
    own: Range<u32>,
    wrong: usize,
}

impl Table {
    /// Empty, as it must be.
    #[must_use]
    pub fn new(prefixes: usize) -> Self {
        Self {
            held: vec![0; prefixes],
            expected: Rc::new(vec![0; prefixes]),
            own: 0..0,
            wrong: 0,
        }
    }

    /// That of a peer which announces these prefixes itself.
    #[must_use]
    pub fn without(mut self, own: Range<u32>) -> Self {
        self.own = own;
        self
    }

    /// From now on it must hold this.
    pub fn expect(&mut self, expected: &Contents) {
        self.expected = Rc::clone(expected);
        self.count();
    }

    /// Forgets all routes.
    pub fn clear(&mut self) {
        self.held.fill(0);
        self.count();
    }

    fn count(&mut self) {
        self.wrong = self.all_wrong().count();
    }

    fn all_wrong(&self) -> impl Iterator<Item = (u32, u32, u32)> {
        let pairs = (0..).zip(self.held.iter().zip(self.expected.iter()));
        pairs
            .filter(|(number, (held, expected))| held != expected && !self.own.contains(number))
            .map(|(number, (held, expected))| (number, *held, *expected))
    }

    /// A prefix has this tag now, or none.
    ///
    /// # Errors
    /// When nobody announces such a prefix.
    pub fn set(&mut self, prefix: u32, tag: Option<u32>) -> anyhow::Result<()> {
        let index = prefix as usize;
        let (Some(held), Some(expected)) = (self.held.get_mut(index), self.expected.get(index))
        else {
            return Err(anyhow::anyhow!("prefix number {prefix}")).context("nobody announced it");
        };
        let counts = !self.own.contains(&prefix);
        let before = counts && *held != *expected;
        *held = tag.unwrap_or(0);
        let after = counts && *held != *expected;
        self.wrong = self.wrong + usize::from(after) - usize::from(before);
        Ok(())
    }

    /// The first prefix that is not as it must be, with the tag it has and the tag it must have.
    #[must_use]
    pub fn first_wrong(&self) -> Option<(u32, u32, u32)> {
        self.all_wrong().next()
    }

    /// Prefixes that are not as they must be.
    #[must_use]
    pub const fn wrong(&self) -> usize {
        self.wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_right_only_when_every_prefix_is() {
        let mut table = Table::new(3);
        table.expect(&Rc::new(vec![5, 6, 0]));
        assert_eq!(table.wrong(), 2);
        table.set(0, Some(5)).unwrap();
        table.set(1, Some(9)).unwrap();
        table.set(2, Some(1)).unwrap();
        assert_eq!(table.wrong(), 2);
        assert_eq!(table.first_wrong(), Some((1, 9, 6)));
        table.set(1, Some(6)).unwrap();
        table.set(2, None).unwrap();
        assert_eq!(table.wrong(), 0);
        assert!(table.set(3, None).is_err());
    }

    #[test]
    fn what_the_peer_announces_itself_is_neither_right_nor_wrong() {
        let mut table = Table::new(3).without(1..2);
        table.expect(&Rc::new(vec![5, 6, 7]));
        assert_eq!(table.wrong(), 2);
        table.set(1, Some(9)).unwrap();
        table.set(0, Some(5)).unwrap();
        assert_eq!((table.wrong(), table.first_wrong()), (1, Some((2, 0, 7))));
    }
}
