//! Elements of address sets, and the tables that they are in.

use std::net::IpAddr;

use super::Reconciler;
use super::entry::{Entry, Held};
use crate::desired::{ElementKey, Row, RowKey, RowKind};
use crate::kernel::Op;
use crate::rules::{Family, Rules};

impl Reconciler {
    /// Whether a family's table is in the kernel as it is wanted.
    pub(super) fn table_stands(&self, family: Family) -> bool {
        let entry = self.entries.get(&RowKey::Rules(family));
        entry.is_some_and(|entry| entry.programmed)
    }

    fn elements(&self, family: Family) -> impl Iterator<Item = (&ElementKey, &Entry)> {
        let first = RowKey::Element(ElementKey {
            family,
            set: "".into(),
            addr: IpAddr::from([0; 4]),
        });
        let entries = self.entries.from(&first);
        entries.map_while(move |(key, entry)| match key {
            RowKey::Element(key) if key.family == family => Some((key, entry)),
            _ => None,
        })
    }

    /// The table stands, or no longer: elements that waited for that.
    pub(super) fn review_elements(&mut self, family: Family) {
        let keys: Vec<ElementKey> = self.elements(family).map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.review(&RowKey::Element(key));
        }
    }

    /// The agent's own rules stand, or no longer.
    pub(super) fn review_leftovers(&mut self) {
        let leftovers = self.of_kind(RowKind::Leftover);
        let keys: Vec<RowKey> = leftovers.map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.review(&key);
        }
    }

    /// A table's operation, with the elements to be written with it: those that are wanted, and those that are there and must
    /// not be deleted (yet). `None` for an operation on something else.
    pub(super) fn with_elements(&self, op: &Op) -> Option<Op> {
        let Op::Set(Row::Rules(family, rules)) = op else {
            return None;
        };
        let (family, rules) = (*family, rules.clone());
        let sets = rules.ruleset.as_ref().map(|ruleset| &ruleset.address_sets);
        let belongs = |key: &ElementKey| sets.is_some_and(|sets| sets.contains(&*key.set));
        let stays = |entry: &Entry| {
            let kept = !self.deletes.any || (self.keeps_unasked && !entry.asked_for);
            entry.is_wanted() || (!entry.is_absent() && kept)
        };
        let elements = self.elements(family);
        let elements = elements.filter(|(key, entry)| belongs(key) && stays(entry));
        let elements = elements.map(|(key, _)| key.clone()).collect();
        Some(Op::Set(Row::Rules(family, Rules { elements, ..rules })))
    }

    /// Takes from a table that was written the elements that were written with it.
    pub(super) fn elements_were_set(&mut self, row: Row) -> Row {
        let Row::Rules(family, mut rules) = row else {
            return row;
        };
        let elements = std::mem::take(&mut rules.elements);
        self.elements_are(family, &elements);
        Row::Rules(family, rules)
    }

    /// The table's address sets hold these now, sorted, and no others.
    pub(super) fn elements_are(&mut self, family: Family, elements: &[ElementKey]) {
        let keys: Vec<ElementKey> = self.elements(family).map(|(key, _)| key.clone()).collect();
        for key in keys {
            let is_there = elements.binary_search(&key).is_ok();
            self.edit(&RowKey::Element(key.clone()), |entry| {
                entry.written |= is_there;
                entry.hold(match is_there {
                    true => Held::Has(Row::Element(key)),
                    false => Held::Absent,
                });
            });
        }
    }
}
