//! Released addresses that are nobody's yet: for a while others may still send to who had them.
//!
//! In Calico's form: the slot goes on pointing to an attribute, which has a time `releasedAt` and no handle any more. Who
//! looks at the block later finds that the time is over and puts the slot among the free ones.

use std::time::Duration;

use api::ipam::{AllocationAttribute, IPAMBlockSpec, IPAMConfigSpec};

use crate::block::{self, holder};
use crate::time::Timestamp;

/// How long released addresses are kept, and what time it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cooldown {
    kept: Duration,
    now: Timestamp,
}

impl Cooldown {
    /// As the rules have it.
    pub fn of(config: &IPAMConfigSpec, now: Timestamp) -> Self {
        let seconds = config
            .ip_cooldown_seconds
            .min(api::ipam::COOLDOWN_SECONDS_MAX);
        Self {
            kept: Duration::from_secs(seconds.into()),
            now,
        }
    }

    /// How much longer a slot's address cools down; `None` when it does not, or no longer. A time that cannot be read is over.
    pub fn left(self, block: &IPAMBlockSpec, ordinal: usize) -> Option<Duration> {
        let released = holder(block, ordinal)?.released_at()?;
        let passed = self.now.since(Timestamp::parse_rfc3339(released)?);
        self.kept.checked_sub(passed).filter(|left| !left.is_zero())
    }

    /// Slots whose address has cooled down, those first that were released first.
    pub fn over(self, block: &IPAMBlockSpec) -> Vec<usize> {
        let cooling = block::held(block).filter_map(|(ordinal, by)| {
            Some((Timestamp::parse_rfc3339(by.released_at()?), ordinal))
        });
        let mut over: Vec<_> = cooling
            .filter(|(_, ordinal)| self.left(block, *ordinal).is_none())
            .collect();
        over.sort_unstable();
        over.into_iter().map(|(_, ordinal)| ordinal).collect()
    }

    /// Puts slots whose address has cooled down among the free ones; whether there were any.
    pub fn sweep(self, block: &mut IPAMBlockSpec) -> bool {
        let over = self.over(block);
        block::free(block, &over);
        !over.is_empty()
    }

    /// Whether no address is taken but such as have cooled down.
    pub fn is_empty(self, block: &IPAMBlockSpec) -> bool {
        (0..block.allocations.len()).all(|ordinal| match holder(block, ordinal) {
            Some(by) => by.released_at().is_some() && self.left(block, ordinal).is_none(),
            // An index that leads nowhere says that the slot is taken.
            None => block.allocations[ordinal].is_none(),
        })
    }

    /// Takes slots from who holds them: free at once, or once they have cooled down.
    pub fn release(self, block: &mut IPAMBlockSpec, ordinals: &[usize]) {
        if self.kept.is_zero() {
            block::free(block, ordinals);
            return;
        }
        for ordinal in ordinals {
            let Some(held) = holder(block, *ordinal).filter(|held| held.released_at().is_none())
            else {
                continue;
            };
            let mut released = AllocationAttribute {
                handle_id: None,
                ..held.clone()
            };
            released.set_released_at(self.now.rfc3339());
            block::hand_over(block, *ordinal, released);
        }
        block::free(block, &[]);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Map, json};

    use super::*;
    use crate::reserved::Reserved;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix(Duration::from_secs(seconds))
    }

    fn cooldown(kept: u32, now: u64) -> Cooldown {
        let config = IPAMConfigSpec {
            ip_cooldown_seconds: kept,
            ..IPAMConfigSpec::default()
        };
        Cooldown::of(&config, at(now))
    }

    fn who(handle: &str) -> AllocationAttribute {
        AllocationAttribute {
            handle_id: Some(handle.to_owned()),
            secondary: BTreeMap::from([("node".to_owned(), "n1".to_owned())]),
            extra: Map::new(),
        }
    }

    fn block_of(handles: &[&str]) -> IPAMBlockSpec {
        let cidr = "10.0.0.0/30".parse().unwrap();
        let mut made = block::new_block(cidr, block::host_affinity("n1"), at(1)).unwrap();
        for handle in handles {
            block::take_next(&mut made, &who(handle), &Reserved::default()).unwrap();
        }
        made
    }

    #[test]
    fn a_released_address_is_nobodys_and_becomes_free_after_its_time() {
        let mut block = block_of(&["a", "b", "c"]);
        cooldown(30, 100).release(&mut block, &[1]);
        cooldown(30, 110).release(&mut block, &[0]);
        assert_eq!(block::fault(&block), None);
        assert_eq!(block.unallocated, [3]);
        assert!(block::held_by(&block, "b").is_empty());
        let kept = holder(&block, 1).unwrap();
        assert_eq!(kept.handle_id, None);
        assert_eq!(kept.released_at(), Some("1970-01-01T00:01:40Z"));
        assert_eq!(kept.secondary["node"], "n1", "who had it last");
        assert!(!block.sequence_number_for_allocation.contains_key("1"));

        assert_eq!(
            cooldown(30, 129).left(&block, 1),
            Some(Duration::from_secs(1))
        );
        assert!(!cooldown(30, 129).sweep(&mut block));
        assert_eq!(cooldown(30, 130).over(&block), [1]);
        // The one that was released first is given out first; a shorter time counts for those of before, too.
        assert_eq!(cooldown(0, 111).over(&block), [1, 0]);
        assert!(cooldown(30, 140).sweep(&mut block));
        assert_eq!(block.unallocated, [3, 1, 0]);
        assert_eq!(block.attributes.len(), 1);
        assert_eq!(block::fault(&block), None);
    }

    #[test]
    fn a_block_is_empty_once_all_of_it_has_cooled_down() {
        let mut block = block_of(&["a", "b"]);
        assert!(!cooldown(30, 100).is_empty(&block));
        cooldown(30, 100).release(&mut block, &[0, 1]);
        assert!(!cooldown(30, 129).is_empty(&block));
        assert!(cooldown(30, 130).is_empty(&block));
        assert_eq!(block.attributes.len(), 1, "released together");
    }

    #[test]
    fn without_a_cool_down_a_released_address_is_free_at_once() {
        let mut block = block_of(&["a"]);
        cooldown(0, 100).release(&mut block, &[0]);
        assert_eq!(block, {
            let mut again = block_of(&["a"]);
            block::free(&mut again, &[0]);
            again
        });
    }

    #[test]
    fn what_calico_writes_beside_the_time_does_not_make_it_taken() {
        let mut block = block_of(&["a"]);
        block.attributes[0]
            .extra
            .insert("releasedAt".to_owned(), json!("1970-01-01T00:01:40Z"));
        assert!(
            block::held_by(&block, "a").is_empty(),
            "the handle stands there still"
        );
        assert_eq!(cooldown(30, 129).over(&block), [0_usize; 0]);
        assert_eq!(cooldown(30, 130).over(&block), [0]);
        // No time at all: as good as over.
        block.attributes[0]
            .extra
            .insert("releasedAt".to_owned(), json!("soon"));
        assert_eq!(cooldown(30, 0).over(&block), [0]);
        block.attributes[0]
            .extra
            .insert("releasedAt".to_owned(), json!(null));
        assert_eq!(block::held_by(&block, "a"), [0]);
    }
}
