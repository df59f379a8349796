//! Between the store's types and the messages of the protocol.

use api::key::{Key, Kind};
use datastore::plan::Plan;
use datastore::scope::Scope;
use datastore::store::{Change, Expect, KeyValue, Op, StoreError, WatchEvent};
use datastore::version::{Cursor, Version};

use crate::generated as wire;

/// A message that is no store's operation: a field is missing or names an unknown kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The field of this name.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// The kind.
    #[error("kind {0:?} is not known to this release")]
    Kind(String),
}

pub(super) fn kind(name: String) -> Result<Kind, Malformed> {
    Kind::from_name(&name).ok_or(Malformed::Kind(name))
}

pub(super) fn scope_to_wire(scope: &Scope) -> Option<String> {
    match scope {
        Scope::All => None,
        Scope::Node(node) => Some(node.clone()),
    }
}

pub(super) fn scope(node: Option<String>) -> Scope {
    node.map_or(Scope::All, Scope::Node)
}

pub(super) fn key_to_wire(key: &Key) -> wire::Key {
    wire::Key {
        kind: key.kind.name().to_owned(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
    }
}

pub(super) fn key(key: Option<wire::Key>) -> Result<Key, Malformed> {
    let key = key.ok_or(Malformed::Missing("key"))?;
    Ok(Key {
        kind: kind(key.kind)?,
        namespace: key.namespace,
        name: key.name,
    })
}

pub(super) fn object_to_wire(object: KeyValue) -> wire::KeyValue {
    wire::KeyValue {
        key: Some(key_to_wire(&object.key)),
        value: object.value,
        version: object.version.to_string(),
    }
}

pub(super) fn object(object: wire::KeyValue) -> Result<KeyValue, Malformed> {
    Ok(KeyValue {
        key: key(object.key)?,
        value: object.value,
        version: Version::read(&object.version),
    })
}

pub(super) fn op_to_wire(op: Op) -> wire::Op {
    use wire::expect::Condition;
    use wire::op::Action;
    let key = Some(key_to_wire(op.key()));
    let condition = match op.expect() {
        Expect::Any => None,
        Expect::Absent => Some(Condition::Absent(true)),
        Expect::Version(version) => Some(Condition::Version(version.to_string())),
        Expect::Own => Some(Condition::Own(true)),
    };
    let action = match op {
        Op::Put { value, .. } => Action::Put(value),
        Op::Delete { .. } => Action::Delete(true),
        Op::Check { .. } => Action::Check(true),
    };
    wire::Op {
        key,
        expect: condition.map(|condition| wire::Expect {
            condition: Some(condition),
        }),
        action: Some(action),
    }
}

pub(super) fn op(op: wire::Op) -> Result<Op, Malformed> {
    use wire::expect::Condition;
    use wire::op::Action;
    let key = key(op.key)?;
    let expect = match op.expect {
        None => Expect::Any,
        // An unknown kind of condition must not pass as none.
        Some(expect) => match expect.condition.ok_or(Malformed::Missing("condition"))? {
            Condition::Absent(_) => Expect::Absent,
            Condition::Version(version) => Expect::Version(Version::read(&version)),
            Condition::Own(_) => Expect::Own,
        },
    };
    Ok(match op.action.ok_or(Malformed::Missing("action"))? {
        Action::Put(value) => Op::Put { key, value, expect },
        Action::Delete(_) => Op::Delete { key, expect },
        Action::Check(_) => Op::Check { key, expect },
    })
}

pub(super) fn plan_to_wire(plan: Plan) -> wire::CommitRequest {
    let stages = plan.stages.into_iter().map(|ops| wire::Stage {
        ops: ops.into_iter().map(op_to_wire).collect(),
    });
    wire::CommitRequest {
        stages: stages.collect(),
    }
}

pub(super) fn plan(request: wire::CommitRequest) -> Result<Plan, Malformed> {
    let stages = request.stages.into_iter();
    let stages = stages.map(|stage| stage.ops.into_iter().map(op).collect());
    Ok(Plan {
        stages: stages.collect::<Result<_, _>>()?,
    })
}

pub(super) fn change_to_wire(change: Change) -> wire::Change {
    use wire::change::Change as Wire;
    wire::Change {
        change: Some(match change {
            Change::Put(object) => Wire::Put(object_to_wire(object)),
            Change::Delete { key, version } => Wire::Delete(wire::Deletion {
                key: Some(key_to_wire(&key)),
                version: version.to_string(),
            }),
        }),
    }
}

pub(super) fn change(change: wire::Change) -> Result<Change, Malformed> {
    use wire::change::Change as Wire;
    Ok(match change.change.ok_or(Malformed::Missing("change"))? {
        Wire::Put(put) => Change::Put(object(put)?),
        Wire::Delete(deletion) => Change::Delete {
            key: key(deletion.key)?,
            version: Version::read(&deletion.version),
        },
    })
}

/// What a plan changed, or the object whose condition failed and what stands there.
type Committed = (Vec<Change>, Option<(Key, Option<KeyValue>)>);

pub(super) fn committed_to_wire(
    changes: Vec<Change>,
    conflict: Option<(Key, Option<KeyValue>)>,
) -> wire::CommitResponse {
    wire::CommitResponse {
        changes: changes.into_iter().map(change_to_wire).collect(),
        conflict: conflict.map(|(key, current)| wire::Conflict {
            key: Some(key_to_wire(&key)),
            current: current.map(object_to_wire),
        }),
    }
}

pub(super) fn committed(response: wire::CommitResponse) -> Result<Committed, Malformed> {
    let changes = response.changes.into_iter().map(change);
    let changes = changes.collect::<Result<_, _>>()?;
    let conflict = match response.conflict {
        Some(conflict) => Some((
            key(conflict.key)?,
            conflict.current.map(object).transpose()?,
        )),
        None => None,
    };
    Ok((changes, conflict))
}

pub(super) fn event_to_wire(event: WatchEvent) -> wire::Event {
    let cursor = event.cursor().to_string();
    wire::Event {
        change: event.change().map(change_to_wire),
        cursor,
    }
}

pub(super) fn event(event: wire::Event) -> Result<WatchEvent, Malformed> {
    let cursor = Cursor::read(&event.cursor);
    Ok(match event.change {
        Some(found) => WatchEvent::Change(change(found)?, cursor),
        None => WatchEvent::Bookmark(cursor),
    })
}

/// A store's error as a status; a conflict and the end of a watch have messages of their own.
pub(super) fn status(error: &StoreError) -> tonic::Status {
    match error {
        StoreError::Unavailable(reason) => tonic::Status::unavailable(&**reason),
        StoreError::Refused(reason) => tonic::Status::invalid_argument(&**reason),
        StoreError::Conflict { .. } => tonic::Status::aborted(error.to_string()),
        StoreError::Gone { .. } | StoreError::Diverged { .. } => {
            tonic::Status::out_of_range(error.to_string())
        }
    }
}
