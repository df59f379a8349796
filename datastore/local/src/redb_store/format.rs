//! What stands in the file.
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | `format`, `revision`, `floor` | number |
//! | `objects` | plural kind, NUL, namespace, NUL, name | revision (8 bytes, big-endian), JSON |
//! | `log` | revision, place in its transaction | 1 (written) or 0 (deleted), length of the key (4 bytes, big-endian), key, JSON |

use std::collections::BTreeSet;
use std::sync::Arc;

use api::key::{Key, Kind};
use bytes::Bytes;
use datastore::history::History;
use datastore::store::{KeyValue, Op, Revision, StoreError, WatchEvent};
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
const FORMAT: &str = "format";
const FORMAT_NOW: u64 = 1;

/// What a file holds when it is opened.
pub(super) struct Opened {
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
    transaction.commit()?;

    let transaction = database.begin_read()?;
    let meta = transaction.open_table(META)?;
    let number = |name| -> Result<u64, redb::Error> {
        Ok(meta.get(name)?.map_or(0, |number| number.value()))
    };
    let (revision, floor) = (number(REVISION)?, number(FLOOR)?);
    let log_entries = transaction.open_table(LOG)?.len()?;
    let history = History::new(floor, entries_max);
    for (made, events) in log_after(&transaction, 0)? {
        if made <= history.latest() {
            return Err(LoadError::Contents(format!(
                "its log holds revision {made} below its floor"
            )));
        }
        history.append(made, events, 0);
    }
    if history.latest() != revision {
        return Err(LoadError::Contents(format!(
            "it stands at revision {revision}, its log at {}",
            history.latest()
        )));
    }
    Ok(Opened {
        history,
        snapshot: Snapshot {
            transaction: Arc::new(transaction),
            revision,
        },
        revision,
        log_entries,
    })
}

/// The changes after `revision` that the log still has.
pub(super) fn log_after(
    transaction: &ReadTransaction,
    revision: Revision,
) -> Result<Vec<(Revision, Vec<WatchEvent>)>, LoadError> {
    let log = transaction.open_table(LOG)?;
    let mut changes: Vec<(Revision, Vec<WatchEvent>)> = Vec::new();
    for row in log.range((revision.saturating_add(1), 0)..)? {
        let (key, value) = row?;
        let (made, _) = key.value();
        let event = decode_event(made, value.value())
            .ok_or_else(|| LoadError::Contents(format!("the log of revision {made} is damaged")))?;
        match changes.last_mut() {
            Some((last, events)) if *last == made => events.push(event),
            _ => changes.push((made, vec![event])),
        }
    }
    Ok(changes)
}

/// What the file cannot keep apart is refused at the door.
pub(super) fn refuse_unstorable(ops: &[Op]) -> Result<(), StoreError> {
    for key in ops.iter().map(Op::key) {
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
        revision: u64::from_be_bytes(*revision),
    })
}

pub(super) fn encode_event(event: &WatchEvent) -> Option<Vec<u8>> {
    let (tag, json): (u8, &[u8]) = match event {
        WatchEvent::Put(object) => (1, &object.value),
        WatchEvent::Delete { .. } => (0, &[]),
        WatchEvent::Progress(_) => return None,
    };
    let key = encode_key(event.key()?);
    let mut row = Vec::with_capacity(5 + key.len() + json.len());
    row.push(tag);
    row.extend_from_slice(&u32::try_from(key.len()).ok()?.to_be_bytes());
    row.extend_from_slice(key.as_bytes());
    row.extend_from_slice(json);
    Some(row)
}

fn decode_event(revision: Revision, row: &[u8]) -> Option<WatchEvent> {
    let (tag, rest) = row.split_first()?;
    let (len, rest) = rest.split_first_chunk()?;
    let (key, json) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
    let key = decode_key(std::str::from_utf8(key).ok()?)?;
    match tag {
        1 => Some(WatchEvent::Put(KeyValue {
            key,
            value: Bytes::copy_from_slice(json),
            revision,
        })),
        0 => Some(WatchEvent::Delete { key, revision }),
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
    kinds: &[Kind],
) -> Result<Vec<KeyValue>, redb::Error> {
    let objects = transaction.open_table(OBJECTS)?;
    let mut items = Vec::new();
    let kinds: BTreeSet<Kind> = kinds.iter().copied().collect();
    for kind in kinds {
        let from = format!("{}\0", kind.plural());
        let to = format!("{}\u{1}", kind.plural());
        for row in objects.range(from.as_str()..to.as_str())? {
            let (key, value) = row?;
            let key = decode_key(key.value())
                .ok_or_else(|| redb::Error::Corrupted(format!("{:?} is no key", key.value())))?;
            items.push(decode_object(key, value.value())?);
        }
    }
    Ok(items)
}
