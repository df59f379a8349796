//! Between the store's types and the messages of the protocol.

use api::key::{Key, Kind};
use datastore::store::{Expect, KeyValue, Op, StoreError, WatchEvent};

use crate::generated as wire;

/// A message that is no store's operation: a field is missing or names an unknown kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("kind {0:?} is not known to this release")]
    Kind(String),
}

pub(super) fn kinds_to_wire(kinds: &[Kind]) -> Vec<String> {
    kinds.iter().map(|kind| kind.name().to_owned()).collect()
}

pub(super) fn kinds(names: Vec<String>) -> Result<Vec<Kind>, Malformed> {
    names
        .into_iter()
        .map(|name| Kind::from_name(&name).ok_or(Malformed::Kind(name)))
        .collect()
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
        kind: Kind::from_name(&key.kind).ok_or(Malformed::Kind(key.kind))?,
        namespace: key.namespace,
        name: key.name,
    })
}

pub(super) fn object_to_wire(object: KeyValue) -> wire::KeyValue {
    wire::KeyValue {
        key: Some(key_to_wire(&object.key)),
        value: object.value,
        revision: object.revision,
    }
}

pub(super) fn object(object: wire::KeyValue) -> Result<KeyValue, Malformed> {
    Ok(KeyValue {
        key: key(object.key)?,
        value: object.value,
        revision: object.revision,
    })
}

pub(super) fn op_to_wire(op: Op) -> wire::Op {
    use wire::expect::Condition;
    use wire::op::Action;
    let key = Some(key_to_wire(op.key()));
    let condition = match op.expect() {
        Expect::Any => None,
        Expect::Absent => Some(Condition::Absent(true)),
        Expect::Revision(revision) => Some(Condition::Revision(revision)),
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
            Condition::Revision(revision) => Expect::Revision(revision),
        },
    };
    Ok(match op.action.ok_or(Malformed::Missing("action"))? {
        Action::Put(value) => Op::Put { key, value, expect },
        Action::Delete(_) => Op::Delete { key, expect },
        Action::Check(_) => Op::Check { key, expect },
    })
}

pub(super) fn event_to_wire(event: WatchEvent) -> wire::Change {
    use wire::change::Change;
    wire::Change {
        change: Some(match event {
            WatchEvent::Put(object) => Change::Put(object_to_wire(object)),
            WatchEvent::Delete { key, revision } => Change::Delete(wire::Deletion {
                key: Some(key_to_wire(&key)),
                revision,
            }),
            WatchEvent::Progress(revision) => Change::Progress(revision),
        }),
    }
}

pub(super) fn event(change: wire::Change) -> Result<WatchEvent, Malformed> {
    use wire::change::Change;
    Ok(match change.change.ok_or(Malformed::Missing("change"))? {
        Change::Put(put) => WatchEvent::Put(object(put)?),
        Change::Delete(deletion) => WatchEvent::Delete {
            key: key(deletion.key)?,
            revision: deletion.revision,
        },
        Change::Progress(revision) => WatchEvent::Progress(revision),
    })
}

/// A store's error as a status; a conflict and a compacted revision have messages of their own.
pub(super) fn status(error: &StoreError) -> tonic::Status {
    match error {
        StoreError::Unavailable(reason) => tonic::Status::unavailable(&**reason),
        StoreError::Refused(reason) => tonic::Status::invalid_argument(&**reason),
        StoreError::Conflict { .. } => tonic::Status::aborted(error.to_string()),
        StoreError::Gone { .. } => tonic::Status::out_of_range(error.to_string()),
    }
}
