//! Next-hop objects, and the routes and groups that name them.

use super::Reconciler;
use crate::desired::{NextHopId, RowKey};

impl Reconciler {
    /// A route of the kernel names another object than before, or none; or a group does.
    pub(super) fn named_instead(&mut self, before: Option<NextHopId>, now: Option<NextHopId>) {
        if let Some(id) = now {
            *self.named.entry(id).or_default() += 1;
        }
        let Some(id) = before else {
            return;
        };
        let Some(count) = self.named.get_mut(&id) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            self.named.remove(&id);
            self.review(&RowKey::NextHop(id));
        }
    }

    /// The kernel no longer has an object, or perhaps not: its routes went with it, and IPv4's are not notified. A group goes with its last
    /// member, and lacks the others that went.
    pub(super) fn object_lost(&mut self, id: NextHopId) {
        let naming = self.entries.iter();
        let naming =
            naming.filter(|(_, entry)| entry.object() == Some(id) || entry.members().contains(&id));
        let keys: Vec<RowKey> = naming.map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.edit(&key, |entry| {
                entry.disturb();
                entry.mark_stale();
            });
        }
    }
}
