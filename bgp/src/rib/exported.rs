//! Attribute sets as the peers of a group are sent them, each known by an id.
//!
//! What is kept of a set is what it was made of: the attributes in the Loc-RIB, how they were learned, and which edits of the
//! group's policy applied. None of that changes, so the set made again is the same octets, and it takes 28 octets, whatever its
//! own length. Whether a peer has something to be told is one comparison of ids, and where these differ one of hashes: what
//! differs in its making may look alike.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use crate::policy::{Applied, changes, edit};
use crate::rib::export::{NotFor, export, remove_internal};
use crate::rib::group::GroupKey;
use crate::rib::source::Provenance;
use crate::rib::table::{AttributesId, Table};
use crate::wire::attr::{NextHop, PathAttributes};
use crate::wire::update::encode::append_attributes;

/// A dense number for an exported set of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ExportId(NonZeroU32);

/// What an exported set is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Recipe {
    pub(crate) attributes: AttributesId,
    pub(crate) from: Provenance,
    /// Place among the sets of edits that the policy has made.
    pub(crate) edits: u32,
}

/// A set as it is written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Encoded {
    pub(crate) next_hop: NextHop,
    /// Path attributes without MP_REACH_NLRI.
    pub(crate) block: Vec<u8>,
}

/// The exported sets of one group.
#[derive(Debug)]
pub(crate) struct Exports {
    slots: Vec<Slot>,
    /// Slots that nothing refers to.
    free: Vec<ExportId>,
    /// By number of the attributes: the set made of them last, if it is in use still. Where one attribute set makes several, by
    /// edits or by source, a set may be made again under another id.
    latest: Vec<Option<ExportId>>,
    edits: Vec<Applied>,
    places: BTreeMap<Applied, u32>,
}

#[derive(Debug)]
struct Slot {
    recipe: Recipe,
    references: u32,
    /// Of the encoded set.
    hash: u32,
}

impl ExportId {
    fn new(index: usize) -> Self {
        let number = u32::try_from(index + 1).ok().and_then(NonZeroU32::new);
        Self(number.expect("memory ends before ids do"))
    }

    const fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

impl Encoded {
    /// Writes into `block`, for the sake of its memory.
    pub(crate) fn new(exported: &PathAttributes, key: &GroupKey, mut block: Vec<u8>) -> Self {
        block.clear();
        append_attributes(exported, key.width, &mut block);
        let next_hop = exported.next_hop.expect("export sets the next hop");
        Self { next_hop, block }
    }
}

impl Exports {
    pub(crate) fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            latest: Vec::new(),
            edits: vec![Applied::new()],
            places: BTreeMap::new(),
        }
    }

    /// Place of a set of edits; that of none is 0.
    pub(crate) fn edits(&mut self, applied: &Applied) -> u32 {
        if applied.is_empty() {
            return 0;
        }
        if let Some(place) = self.places.get(applied) {
            return *place;
        }
        let place = u32::try_from(self.edits.len()).expect("memory ends before ids do");
        self.edits.push(applied.clone());
        self.places.insert(applied.clone(), place);
        place
    }

    /// The id of a set, with one reference for the caller. `block` is what the recipe makes.
    pub(crate) fn acquire(&mut self, table: &mut Table, recipe: Recipe, block: &[u8]) -> ExportId {
        let place = recipe.attributes.index();
        if self.latest.len() <= place {
            self.latest.resize(place + 1, None);
        }
        if let Some(id) = self.latest[place] {
            let slot = &mut self.slots[id.index()];
            if slot.references > 0 && slot.recipe == recipe {
                slot.references += 1;
                return id;
            }
        }
        table.retain(recipe.attributes);
        let slot = Slot {
            recipe,
            references: 1,
            hash: table.hash(block),
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.slots[id.index()] = slot;
                id
            }
            None => {
                self.slots.push(slot);
                ExportId::new(self.slots.len() - 1)
            }
        };
        self.latest[place] = Some(id);
        id
    }

    pub(crate) fn retain(&mut self, id: ExportId) {
        let slot = &mut self.slots[id.index()];
        assert!(slot.references > 0, "{id:?} is free");
        slot.references += 1;
    }

    pub(crate) fn release(&mut self, table: &mut Table, id: ExportId) {
        let slot = &mut self.slots[id.index()];
        assert!(slot.references > 0, "{id:?} is free");
        slot.references -= 1;
        if slot.references > 0 {
            return;
        }
        let attributes = slot.recipe.attributes;
        self.free.push(id);
        table.release(attributes);
    }

    /// A set as it is written. `key` is the group's.
    pub(crate) fn encoded(&self, table: &Table, key: &GroupKey, id: ExportId) -> Encoded {
        let recipe = &self.slots[id.index()].recipe;
        let applied = &self.edits[recipe.edits as usize];
        let received = table.attributes(recipe.attributes).unpack();
        let made = exported(received, &recipe.from, key, applied);
        let made = made.expect("it was made once");
        Encoded::new(&made, key, Vec::with_capacity(128))
    }

    /// Of the encoded set; sets that look alike have one hash.
    pub(crate) fn hash(&self, id: ExportId) -> u32 {
        self.slots[id.index()].hash
    }

    /// Gives memory back that a flood of sets took.
    pub(crate) fn trim(&mut self) {
        let used = |slot: &Slot| slot.references > 0;
        let end = self.slots.iter().rposition(used).map_or(0, |last| last + 1);
        self.slots.truncate(end);
        self.slots.shrink_to_fit();
        self.free.retain(|id| id.index() < end);
        self.free.shrink_to_fit();
        for latest in &mut self.latest {
            *latest = latest.filter(|id| id.index() < end);
        }
        let last = self.latest.iter().rposition(Option::is_some);
        self.latest.truncate(last.map_or(0, |last| last + 1));
        self.latest.shrink_to_fit();
    }

    /// Number of sets in use.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

/// Turns attributes as they stand in the Loc-RIB into those to send, with the edits of the terms that applied.
///
/// # Errors
/// Why routes with these attributes are not for the group.
pub(crate) fn exported(
    attributes: PathAttributes,
    from: &Provenance,
    to: &GroupKey,
    applied: &Applied,
) -> Result<PathAttributes, NotFor> {
    let mut sent = export(attributes, from, to)?;
    if changes(&to.policy, applied, &sent) {
        edit(&to.policy, applied, &mut sent);
        remove_internal(&mut sent, to.kind);
    }
    Ok(sent)
}
