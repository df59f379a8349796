//! What every store must do, as one suite that each of them runs.
//!
//! The suite panics at the first thing that is not so, naming it. It waits for watches without a limit of its own: run
//! it under a deadline.

mod plans;
mod reads;
mod watches;
mod writes;

use std::sync::Arc;

use api::key::{Key, Kind};
use bytes::Bytes;

use crate::plan::Plan;
use crate::scope::Scope;
use crate::store::{Change, Expect, KeyValue, Listing, Op, Store, StoreError};
use crate::version::Version;

/// How many changes the stores under test must keep, about: the suite writes past it to see compaction.
pub const HISTORY_ENTRIES: usize = 64;

/// Runs the suite. `make_store` gives a new, empty store each time, which keeps about [`HISTORY_ENTRIES`] changes.
///
/// # Panics
/// When a store does not do what it must.
pub async fn run<F, Made>(make_store: F)
where
    F: Fn() -> Made,
    Made: Future<Output = Arc<dyn Store>>,
{
    run_compacting(make_store, async || {}).await;
}

/// As [`run`], of a store that forgets changes only when it is told to: `compact` makes the last one that was made forget
/// all of them.
///
/// # Panics
/// When a store does not do what it must.
pub async fn run_compacting<F, Made>(make_store: F, compact: impl AsyncFn())
where
    F: Fn() -> Made,
    Made: Future<Output = Arc<dyn Store>>,
{
    writes::create_needs_absence(&*make_store().await).await;
    writes::compare_and_set_names_key_and_current_value(&*make_store().await).await;
    writes::deletes_obey_conditions(&*make_store().await).await;
    writes::checks_compare_and_write_nothing(&*make_store().await).await;
    writes::versions_are_never_used_again(&*make_store().await).await;
    writes::of_two_racing_writes_one_wins(&*make_store().await).await;
    writes::values_come_back_as_they_were(&*make_store().await).await;
    plans::stages_come_one_after_the_other(&*make_store().await).await;
    plans::what_cannot_be_meant_is_refused(&*make_store().await).await;
    plans::a_failed_plan_says_what_was_done(&*make_store().await).await;
    plans::folded_plans_are_whole_or_nothing(&*make_store().await).await;
    reads::listings_are_ordered_and_of_one_kind_and_scope(&*make_store().await).await;
    reads::names_are_those_of_the_listing(&*make_store().await).await;
    reads::listings_never_show_half_a_folded_plan(&*make_store().await).await;
    reads::a_store_knows_what_was_read_from_it_and_nothing_else(&*make_store().await).await;
    watches::see_everything_once_in_order(&*make_store().await).await;
    watches::see_only_their_kind_and_scope(&*make_store().await).await;
    watches::resume_where_they_were(&*make_store().await).await;
    watches::compacted_changes_are_gone(&*make_store().await, compact).await;
    watches::cursors_of_another_store_have_diverged(&*make_store().await).await;
}

async fn list(store: &dyn Store, kind: Kind) -> Listing {
    store.list(kind, &Scope::All).await.expect("list works")
}

async fn get(store: &dyn Store, key: &Key) -> Option<KeyValue> {
    store.get(key).await.expect("get works")
}

/// Writes, and answers the version.
async fn write(store: &dyn Store, op: Op) -> Version {
    match store.write(op.clone()).await {
        Ok(Some(change)) => {
            assert_eq!(change.key(), op.key(), "an answer is about its key");
            change.version().clone()
        }
        other => panic!("{op:?} must change something: {other:?}"),
    }
}

async fn commit(store: &dyn Store, stages: Vec<Vec<Op>>) -> Vec<Change> {
    let plan = Plan { stages };
    match store.commit(plan.clone()).await {
        Ok(changes) => changes,
        Err(error) => panic!("{plan:?} must go through: {error}"),
    }
}

fn conflict<T: std::fmt::Debug + PartialEq>(
    answer: Result<T, StoreError>,
    key: &Key,
    current: Option<&KeyValue>,
    what: &str,
) {
    let wanted = Err(StoreError::Conflict {
        key: key.clone(),
        current: current.cloned().map(Box::new),
    });
    assert_eq!(
        answer, wanted,
        "{what} is a conflict that names the key and what stands there"
    );
}

fn pool(name: &str) -> Key {
    Key::new(Kind::IPPool, name)
}

fn node(name: &str) -> Key {
    Key::new(Kind::Node, name)
}

fn put(key: &Key, value: &str, expect: Expect) -> Op {
    Op::Put {
        key: key.clone(),
        value: Bytes::copy_from_slice(value.as_bytes()),
        expect,
    }
}

fn delete(key: &Key, expect: Expect) -> Op {
    Op::Delete {
        key: key.clone(),
        expect,
    }
}

fn check(key: &Key, expect: Expect) -> Op {
    Op::Check {
        key: key.clone(),
        expect,
    }
}
