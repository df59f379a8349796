//! Changes of several objects that belong together.
//!
//! ```text
//! stage 1: affinity pending, handle ─► stage 2: block ─► stage 3: affinity confirmed
//!          any order                        │                 each stage only after the one before it
//!                                           └ fails: stages 1 stands, the next plan repairs it
//! ```
//! A plan is written such that after any subset of a stage's steps the objects are sound for others to see. A store
//! without transactions does it stage by stage, the steps of a stage side by side; one that has them does the plan's sum
//! at once: [`fold`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use api::key::Key;
use futures_util::stream::{self, StreamExt};

use crate::store::{Change, Expect, Op, StoreError};
use crate::version::Version;

/// Steps of a stage that are under way at a time. Each costs a round trip: a node that adds many pods at once has as many
/// handles to write.
pub const STEPS_AT_A_TIME: usize = 16;

/// Stages of steps. Within a stage each key stands once and the order does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order in which they are carried out.
    pub stages: Vec<Vec<Op>>,
}

/// A plan that was not carried out to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Failed {
    /// What was changed before.
    pub done: Vec<Change>,
    /// Why it ended. After [`StoreError::Unavailable`] steps of the stage that are not in `done` may have taken effect, or
    /// may yet.
    #[source]
    pub error: StoreError,
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self {
            done: Vec::new(),
            error,
        }
    }
}

impl Plan {
    /// A plan of one stage.
    pub fn at_once(ops: Vec<Op>) -> Self {
        Self { stages: vec![ops] }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.stages.iter().all(Vec::is_empty)
    }

    /// Its steps, in order.
    pub fn ops(&self) -> impl Iterator<Item = &Op> {
        self.stages.iter().flatten()
    }
}

/// What a plan comes to when it is done as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Net {
    /// The object is written.
    Put(bytes::Bytes),
    /// The object is deleted, and another one is made under its name.
    Anew(bytes::Bytes),
    /// The object is deleted.
    Delete,
    /// The object is only compared, or made and unmade.
    Nothing,
}

/// The sum of a plan: what must hold of each key at the beginning, and what is made of it in the end. The keys are in
/// the order in which they first stand in the plan.
///
/// # Errors
/// [`StoreError::Refused`] for a key that stands twice in a stage, and for [`Expect::Own`] of a key that no earlier stage
/// writes.
pub fn fold(plan: Plan) -> Result<Vec<(Key, Expect, Net)>, StoreError> {
    let mut sum: Vec<(Key, Expect, Net)> = Vec::new();
    let mut place: BTreeMap<Key, usize> = BTreeMap::new();
    for stage in plan.stages {
        refuse_repeated_keys(&stage)?;
        for op in stage {
            let known = place.get(op.key()).copied();
            let (key, expect, net) = match op {
                Op::Put { key, value, expect } => (key, expect, Some(Net::Put(value))),
                Op::Delete { key, expect } => (key, expect, Some(Net::Delete)),
                Op::Check { key, expect } => (key, expect, None),
            };
            match known.and_then(|at| sum.get_mut(at)) {
                Some((_, first, so_far)) => follow(&key, first, so_far, &expect, net)?,
                None if expect == Expect::Own => return Err(refuse_own(&key)),
                None => {
                    place.insert(key.clone(), sum.len());
                    sum.push((key, expect, net.unwrap_or(Net::Nothing)));
                }
            }
        }
    }
    Ok(sum)
}

/// Takes in a further step on a key.
fn follow(
    key: &Key,
    first: &mut Expect,
    so_far: &mut Net,
    expect: &Expect,
    net: Option<Net>,
) -> Result<(), StoreError> {
    let fits = match (expect, &so_far) {
        (Expect::Any, _)
        | (Expect::Own, Net::Put(_) | Net::Anew(_))
        | (Expect::Absent, Net::Delete) => true,
        // Two looks at the beginning.
        (other, Net::Nothing) if first == other || *first == Expect::Any => {
            *first = other.clone();
            *other != Expect::Own
        }
        _ => false,
    };
    if !fits {
        return Err(refuse_own(key));
    }
    if let Some(net) = net {
        let made_here = *first == Expect::Absent;
        *so_far = match (net, &so_far) {
            (Net::Delete, _) if made_here => Net::Nothing,
            (Net::Put(value), Net::Delete | Net::Anew(_)) => Net::Anew(value),
            (net, _) => net,
        };
    }
    Ok(())
}

fn refuse_own(key: &Key) -> StoreError {
    StoreError::Refused(
        format!("{key}: a stage expects what no earlier stage of the same plan leaves").into(),
    )
}

fn refuse_repeated_keys(ops: &[Op]) -> Result<(), StoreError> {
    let mut seen = std::collections::BTreeSet::new();
    for op in ops {
        if !seen.insert(op.key()) {
            let key = op.key();
            return Err(StoreError::Refused(
                format!("{key} stands twice in one stage; each key may stand once").into(),
            ));
        }
    }
    Ok(())
}

/// Carries a plan out stage by stage, the steps of a stage side by side, [`STEPS_AT_A_TIME`] at most. A step that fails
/// keeps those of its stage from being begun that have not been; those under way are waited for.
///
/// # Errors
/// What failed, and what was done before it and beside it. Of several failures of a stage that one is answered which leaves
/// open what was done, else the first. A plan that cannot be folded is refused before its first step.
pub async fn step_by_step<Write, Written>(write: Write, plan: Plan) -> Result<Vec<Change>, Failed>
where
    Write: Fn(Op) -> Written + Sync,
    Written: Future<Output = Result<Option<Change>, StoreError>> + Send,
{
    fold(plan.clone())?;
    let mut done: Vec<Change> = Vec::new();
    let mut own: BTreeMap<Key, Version> = BTreeMap::new();
    for ops in plan.stages {
        let stage = ops.into_iter().map(|op| resolved(op, &own)).collect();
        let mut failed: Option<StoreError> = None;
        for answer in at_once(&write, stage).await {
            match answer {
                Ok(Some(change)) => {
                    own.insert(change.key().clone(), change.version().clone());
                    done.push(change);
                }
                Ok(None) => {}
                Err(error) => failed = Some(worse(failed, error)),
            }
        }
        if let Some(error) = failed {
            return Err(Failed { done, error });
        }
    }
    Ok(done)
}

/// What earlier stages made of the key takes the place of [`Expect::Own`].
fn resolved(op: Op, own: &BTreeMap<Key, Version>) -> Op {
    match (op.expect(), own.get(op.key())) {
        (Expect::Own, Some(version)) => op.expecting(Expect::Version(version.clone())),
        _ => op,
    }
}

/// The answers of a stage's steps, in the steps' order, of those that were begun.
async fn at_once<Write, Written>(
    write: &Write,
    stage: Vec<Op>,
) -> Vec<Result<Option<Change>, StoreError>>
where
    Write: Fn(Op) -> Written + Sync,
    Written: Future<Output = Result<Option<Change>, StoreError>> + Send,
{
    let failed = &AtomicBool::new(false);
    let steps = stage.into_iter().map(|op| async move {
        if failed.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let answer = write(op).await;
        failed.fetch_or(answer.is_err(), Ordering::Relaxed);
        answer
    });
    stream::iter(steps)
        .buffered(STEPS_AT_A_TIME)
        .collect()
        .await
}

/// Of two failures the one that leaves open what was done.
fn worse(first: Option<StoreError>, second: StoreError) -> StoreError {
    match (first, second) {
        (Some(first), second) => match second {
            StoreError::Unavailable(_) if !matches!(first, StoreError::Unavailable(_)) => second,
            _ => first,
        },
        (None, second) => second,
    }
}

#[cfg(test)]
mod tests {
    use api::key::Kind;
    use bytes::Bytes;

    use super::*;

    fn put(name: &str, value: &'static str, expect: Expect) -> Op {
        Op::Put {
            key: Key::new(Kind::IPPool, name),
            value: Bytes::from_static(value.as_bytes()),
            expect,
        }
    }

    fn delete(name: &str, expect: Expect) -> Op {
        let key = Key::new(Kind::IPPool, name);
        Op::Delete { key, expect }
    }

    fn check(name: &str, expect: Expect) -> Op {
        let key = Key::new(Kind::IPPool, name);
        Op::Check { key, expect }
    }

    fn folded(stages: Vec<Vec<Op>>) -> Result<Vec<(Expect, Net)>, StoreError> {
        let sum = fold(Plan { stages })?;
        Ok(sum.into_iter().map(|(_, e, net)| (e, net)).collect())
    }

    #[test]
    fn the_first_condition_and_the_last_value_of_a_key_count() {
        let five = || Expect::Version(5.into());
        let value = |text: &'static str| Net::Put(Bytes::from_static(text.as_bytes()));
        for (stages, sum) in [
            (
                vec![
                    vec![put("a", "1", Expect::Absent)],
                    vec![put("a", "2", Expect::Own)],
                ],
                (Expect::Absent, value("2")),
            ),
            (
                vec![
                    vec![delete("a", five())],
                    vec![put("a", "2", Expect::Absent)],
                ],
                (five(), Net::Anew(Bytes::from_static(b"2"))),
            ),
            (
                vec![vec![put("a", "1", five())], vec![delete("a", Expect::Own)]],
                (five(), Net::Delete),
            ),
            (
                vec![
                    vec![put("a", "1", Expect::Absent)],
                    vec![delete("a", Expect::Own)],
                ],
                (Expect::Absent, Net::Nothing),
            ),
            (
                vec![vec![check("a", five())], vec![check("a", five())]],
                (five(), Net::Nothing),
            ),
        ] {
            assert_eq!(folded(stages), Ok(vec![sum]));
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for stages in [
            vec![vec![put("a", "1", Expect::Own)]],
            vec![vec![put("a", "1", Expect::Any), delete("a", Expect::Any)]],
            vec![
                vec![put("a", "1", Expect::Absent)],
                vec![put("a", "2", Expect::Absent)],
            ],
            vec![
                vec![delete("a", Expect::Any)],
                vec![put("a", "2", Expect::Own)],
            ],
            vec![
                vec![check("a", Expect::Absent)],
                vec![put("a", "2", Expect::Own)],
            ],
        ] {
            let refused = folded(stages.clone());
            assert!(matches!(refused, Err(StoreError::Refused(_))), "{stages:?}");
        }
    }
    /// A store's answers to a stage: which names fail, and how. Each step waits once, so that all are begun.
    fn carried_out(
        names: &[&str],
        failure: impl Fn(&str) -> Option<StoreError> + Sync,
    ) -> (Result<Vec<Change>, Failed>, Vec<String>) {
        let begun = std::sync::Mutex::new(Vec::new());
        let write = |op: Op| {
            let name = op.key().name.clone();
            begun.lock().unwrap().push(name.clone());
            let failure = failure(&name);
            async move {
                let mut waited = false;
                std::future::poll_fn(|context| {
                    context.waker().wake_by_ref();
                    match std::mem::replace(&mut waited, true) {
                        true => std::task::Poll::Ready(()),
                        false => std::task::Poll::Pending,
                    }
                })
                .await;
                let version = 7.into();
                let key = op.key().clone();
                failure.map_or(Ok(Some(Change::Delete { key, version })), Err)
            }
        };
        let stage = names.iter().map(|name| put(name, "1", Expect::Any));
        let plan = Plan {
            stages: vec![stage.collect(), vec![put("after", "1", Expect::Any)]],
        };
        let answer = futures_util::FutureExt::now_or_never(async {
            let mut carried = Box::pin(step_by_step(write, plan));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            loop {
                if let std::task::Poll::Ready(answer) = carried.as_mut().poll(&mut context) {
                    return answer;
                }
            }
        });
        (
            answer.expect("nothing else is waited for"),
            begun.into_inner().unwrap(),
        )
    }

    #[test]
    fn the_steps_of_a_stage_are_done_side_by_side_and_the_next_stage_after_all_of_them() {
        let (answer, begun) = carried_out(&["a", "b", "c"], |_| None);
        let changed = answer.unwrap();
        let order: Vec<_> = changed.iter().map(|change| &change.key().name).collect();
        assert_eq!(order, ["a", "b", "c", "after"]);
        assert_eq!(begun, ["a", "b", "c", "after"]);
    }

    #[test]
    fn a_step_that_fails_does_not_hide_what_was_done_beside_it() {
        let conflict = |name: &str| StoreError::Conflict {
            key: Key::new(Kind::IPPool, name),
            current: None,
        };
        let unavailable = || StoreError::Unavailable("gone".into());
        let (answer, begun) = carried_out(&["a", "b", "c", "d"], |name| match name {
            "a" => Some(conflict("a")),
            "c" => Some(unavailable()),
            _ => None,
        });
        let failed = answer.unwrap_err();
        assert_eq!(
            failed.error,
            unavailable(),
            "it is open whether \"c\" was done"
        );
        let done: Vec<_> = failed
            .done
            .iter()
            .map(|change| &change.key().name)
            .collect();
        assert_eq!(done, ["b", "d"]);
        assert_eq!(begun, ["a", "b", "c", "d"], "no later stage");
        let (answer, _) = carried_out(&["a", "b"], |name| Some(conflict(name)));
        assert_eq!(answer.unwrap_err().error, conflict("a"));
    }

    #[test]
    fn no_more_steps_are_begun_than_may_be_under_way_and_none_after_a_failure() {
        let names: Vec<String> = (0..STEPS_AT_A_TIME + 4)
            .map(|n| format!("s{n:02}"))
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let failed = |name: &str| (name == "s00").then(|| StoreError::Refused("no".into()));
        let (answer, begun) = carried_out(&names, failed);
        assert_eq!(answer.unwrap_err().done.len(), STEPS_AT_A_TIME - 1);
        assert_eq!(begun.len(), STEPS_AT_A_TIME);
    }
}
