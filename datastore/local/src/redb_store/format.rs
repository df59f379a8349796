//! What stands in the file.
//!
//! Each time the file is opened its revisions go on far above the last one, by a step that nobody can guess: an older copy
//! of the file never gives out a revision that the lost one had given out, and knows which ones it did give out itself.
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | `format`, `revision`, `floor`, `begun`, `id_high`, `id_low` | number |
//! | `runs` | first revision of an earlier run | its last revision |
//! | `objects` | plural kind, NUL, namespace, NUL, name | revision (8 bytes, big-endian), JSON |
//! | `log` | revision, place in its transaction | 1 (written) or 0 (deleted), length of the key (4 bytes, big-endian), key, JSON |

use std::hash::{BuildHasher, RandomState};
use std::ops::RangeInclusive;
use std::sync::Arc;

use api::key::{Key, Kind};
use bytes::Bytes;
use datastore::history::{History, Revision};
use datastore::plan::Plan;
use datastore::scope::Scope;
use datastore::store::{Change, KeyValue, Op, StoreError};
use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    TableDefinition,
};

use super::Snapshot;

pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
pub(super) const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
pub(super) const LOG: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("log");

pub(super) const REVISION: &str = "revision";
pub(super) const FLOOR: &str = "floor";
const RUNS: TableDefinition<'_, u64, u64> = TableDefinition::new("runs");
const BEGUN: &str = "begun";
const ID: [&str; 2] = ["id_high", "id_low"];
const FORMAT: &str = "format";
const FORMAT_NOW: u64 = 1;

/// Runs remembered, at most: what was read in an older one counts as read from another store.
const RUNS_MAX: u64 = 1000;

/// How far above the last revision the next run begins, at least.
const RUN_STEP: u64 = 1 << 32;

/// What a file holds when it is opened.
pub(super) struct Opened {
    pub(super) identity: String,
    /// The last revision of the run before this one.
    pub(super) ended: Revision,
    /// The first revision of this run, and the runs before it.
    pub(super) begun: Revision,
    pub(super) earlier: Vec<RangeInclusive<Revision>>,
    pub(super) history: History,
    pub(super) snapshot: Snapshot,
    pub(super) revision: Revision,
    pub(super) log_entries: u64,
}

/// Why a file is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error(transparent)]
    Redb(Box<redb::Error>),
    #[error("not a store of this release: {0}")]
    Contents(String),
}

impl<E: Into<redb::Error>> From<E> for LoadError {
    fn from(error: E) -> Self {
        Self::Redb(Box::new(error.into()))
    }
}

/// Makes the tables of a new file, checks those of an old one, and reads the log.
pub(super) fn load(database: &Database, entries_max: usize) -> Result<Opened, LoadError> {
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        let objects = transaction.open_table(OBJECTS)?;
        transaction.open_table(LOG)?;
        let format = meta.get(FORMAT)?.map(|number| number.value());
        match format {
            Some(FORMAT_NOW) => {}
            Some(other) => {
                return Err(LoadError::Contents(format!(
                    "its format is {other}, this release reads {FORMAT_NOW}"
                )));
            }
            None if objects.is_empty()? => {
                meta.insert(FORMAT, FORMAT_NOW)?;
            }
            None => return Err(LoadError::Contents("it names no format".to_owned())),
        }
    }
    let (ended, begun) = begin_run(&transaction)?;
    transaction.commit()?;

    let transaction = database.begin_read()?;
    let meta = transaction.open_table(META)?;
    let number = |name| -> Result<u64, redb::Error> {
        Ok(meta.get(name)?.map_or(0, |number| number.value()))
    };
    let floor = number(FLOOR)?;
    let log_entries = transaction.open_table(LOG)?.len()?;
    let history = History::new(floor, entries_max);
    for (made, changes) in log_after(&transaction, 0)? {
        if made <= history.latest() {
            return Err(LoadError::Contents(format!(
                "its log holds revision {made} below its floor"
            )));
        }
        history.append(made, changes, 0);
    }
    if history.latest() > ended {
        return Err(LoadError::Contents(format!(
            "it stands at revision {ended}, its log at {}",
            history.latest()
        )));
    }
    let mut earlier = Vec::new();
    for row in transaction.open_table(RUNS)?.iter()? {
        let (first, last) = row?;
        earlier.push(first.value()..=last.value());
    }
    history.continue_from(begun, earlier.clone());
    let identity = format!("{:016x}{:016x}", number(ID[0])?, number(ID[1])?);
    Ok(Opened {
        identity,
        ended,
        begun,
        earlier,
        history,
        snapshot: Snapshot {
            transaction: Arc::new(transaction),
            revision: begun,
        },
        revision: begun,
        log_entries,
    })
}

/// Closes the run of revisions that ended and begins another. Answers the last revision of the one and the first of the
/// other.
fn begin_run(transaction: &redb::WriteTransaction) -> Result<(Revision, Revision), redb::Error> {
    let mut meta = transaction.open_table(META)?;
    let mut runs = transaction.open_table(RUNS)?;
    let number = |meta: &redb::Table<'_, &str, u64>, name| -> Result<Option<u64>, redb::Error> {
        Ok(meta.get(name)?.map(|number| number.value()))
    };
    for name in ID {
        if number(&meta, name)?.is_none() {
            meta.insert(name, random())?;
        }
    }
    let ended = number(&meta, REVISION)?;
    if let Some(ended) = ended {
        runs.insert(number(&meta, BEGUN)?.unwrap_or(0), ended)?;
        while runs.len()? > RUNS_MAX {
            runs.pop_first()?;
        }
    }
    let begun = ended.unwrap_or(0) + RUN_STEP + (random() >> 32);
    if ended.is_none() {
        // Nothing was given out before.
        meta.insert(FLOOR, begun)?;
    }
    meta.insert(REVISION, begun)?;
    meta.insert(BEGUN, begun)?;
    Ok((ended.unwrap_or(begun), begun))
}

/// From the system's randomness, by way of the standard library's hasher.
fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

/// The changes after `revision` that the log still has.
pub(super) fn log_after(
    transaction: &ReadTransaction,
    revision: Revision,
) -> Result<Vec<(Revision, Vec<Change>)>, LoadError> {
    let log = transaction.open_table(LOG)?;
    let mut changes: Vec<(Revision, Vec<Change>)> = Vec::new();
    for row in log.range((revision.saturating_add(1), 0)..)? {
        let (key, value) = row?;
        let (made, _) = key.value();
        let change = decode_change(made, value.value())
            .ok_or_else(|| LoadError::Contents(format!("the log of revision {made} is damaged")))?;
        match changes.last_mut() {
            Some((last, of_it)) if *last == made => of_it.push(change),
            _ => changes.push((made, vec![change])),
        }
    }
    Ok(changes)
}

/// What the file cannot keep apart is refused at the door.
pub(super) fn refuse_unstorable(plan: &Plan) -> Result<(), StoreError> {
    for key in plan.ops().map(Op::key) {
        if key.namespace.contains('\0') || key.name.contains('\0') {
            return Err(StoreError::Refused(
                format!("{key}: a name cannot hold a NUL character").into(),
            ));
        }
    }
    Ok(())
}

pub(super) fn encode_key(key: &Key) -> String {
    format!("{}\0{}\0{}", key.kind.plural(), key.namespace, key.name)
}

fn decode_key(text: &str) -> Option<Key> {
    let mut parts = text.splitn(3, '\0');
    Some(Key {
        kind: Kind::from_plural(parts.next()?)?,
        namespace: parts.next()?.to_owned(),
        name: parts.next()?.to_owned(),
    })
}

pub(super) fn encode_object(revision: Revision, json: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(8 + json.len());
    row.extend_from_slice(&revision.to_be_bytes());
    row.extend_from_slice(json);
    row
}

pub(super) fn decode_object(key: Key, row: &[u8]) -> Result<KeyValue, redb::Error> {
    let Some((revision, json)) = row.split_first_chunk() else {
        return Err(redb::Error::Corrupted(format!("{key} has no revision")));
    };
    Ok(KeyValue {
        key,
        value: Bytes::copy_from_slice(json),
        version: u64::from_be_bytes(*revision).into(),
    })
}

pub(super) fn encode_change(change: &Change) -> Option<Vec<u8>> {
    let (tag, json): (u8, &[u8]) = match change {
        Change::Put(object) => (1, &object.value),
        Change::Delete { .. } => (0, &[]),
    };
    let key = encode_key(change.key());
    let mut row = Vec::with_capacity(5 + key.len() + json.len());
    row.push(tag);
    row.extend_from_slice(&u32::try_from(key.len()).ok()?.to_be_bytes());
    row.extend_from_slice(key.as_bytes());
    row.extend_from_slice(json);
    Some(row)
}

fn decode_change(revision: Revision, row: &[u8]) -> Option<Change> {
    let (tag, rest) = row.split_first()?;
    let (len, rest) = rest.split_first_chunk()?;
    let (key, json) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
    let key = decode_key(std::str::from_utf8(key).ok()?)?;
    let version = revision.into();
    match tag {
        1 => Some(Change::Put(KeyValue {
            key,
            value: Bytes::copy_from_slice(json),
            version,
        })),
        0 => Some(Change::Delete { key, version }),
        _ => None,
    }
}

pub(super) fn get(
    transaction: &ReadTransaction,
    key: &Key,
) -> Result<Option<KeyValue>, redb::Error> {
    let objects = transaction.open_table(OBJECTS)?;
    match objects.get(encode_key(key).as_str())? {
        Some(row) => decode_object(key.clone(), row.value()).map(Some),
        None => Ok(None),
    }
}

pub(super) fn list(
    transaction: &ReadTransaction,
    kind: Kind,
    scope: &Scope,
) -> Result<Vec<KeyValue>, redb::Error> {
    let mut items = Vec::new();
    for_each(transaction, kind, |key, row| {
        if scope.holds(&key) {
            items.push(decode_object(key, row)?);
        }
        Ok(())
    })?;
    Ok(items)
}

pub(super) fn names(transaction: &ReadTransaction, kind: Kind) -> Result<Vec<Key>, redb::Error> {
    let mut names = Vec::new();
    for_each(transaction, kind, |key, _| {
        names.push(key);
        Ok(())
    })?;
    Ok(names)
}

/// Every row of a kind, in key order.
fn for_each(
    transaction: &ReadTransaction,
    kind: Kind,
    mut take: impl FnMut(Key, &[u8]) -> Result<(), redb::Error>,
) -> Result<(), redb::Error> {
    let objects = transaction.open_table(OBJECTS)?;
    let from = format!("{}\0", kind.plural());
    let to = format!("{}\u{1}", kind.plural());
    for row in objects.range(from.as_str()..to.as_str())? {
        let (key, value) = row?;
        let key = decode_key(key.value())
            .ok_or_else(|| redb::Error::Corrupted(format!("{:?} is no key", key.value())))?;
        take(key, value.value())?;
    }
    Ok(())
}
