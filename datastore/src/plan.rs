//! Changes of several objects that belong together.
//!
//! ```text
//! stage 1: affinity pending, handle ─► stage 2: block ─► stage 3: affinity confirmed
//!          any order                        │                 each stage only after the one before it
//!                                           └ fails: stages 1 stands, the next plan repairs it
//! ```
//! A plan is written such that after any of its steps the objects are sound for others to see. A store without
//! transactions does it step by step; one that has them does the plan's sum at once: [`fold`].

use std::collections::BTreeMap;

use api::key::Key;

use crate::store::{Change, Expect, Op, StoreError};
use crate::version::Version;

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
    /// Why it ended. After [`StoreError::Unavailable`] the step itself may have taken effect, or may yet.
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

/// Carries a plan out one step after the other.
///
/// # Errors
/// The first step that failed, and what was done before it. A plan that cannot be folded is refused before its first.
pub async fn step_by_step<Write, Written>(write: Write, plan: Plan) -> Result<Vec<Change>, Failed>
where
    Write: Fn(Op) -> Written,
    Written: Future<Output = Result<Option<Change>, StoreError>>,
{
    fold(plan.clone())?;
    let mut done: Vec<Change> = Vec::new();
    let mut own: BTreeMap<Key, Version> = BTreeMap::new();
    for op in plan.stages.into_iter().flatten() {
        let op = match (op.expect(), own.get(op.key())) {
            (Expect::Own, Some(version)) => {
                let version = version.clone();
                op.expecting(Expect::Version(version))
            }
            _ => op,
        };
        match write(op).await {
            Ok(Some(change)) => {
                own.insert(change.key().clone(), change.version().clone());
                done.push(change);
            }
            Ok(None) => {}
            Err(error) => return Err(Failed { done, error }),
        }
    }
    Ok(done)
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
}
