//! The thread that writes: it takes all transactions that wait and commits them together.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use datastore::store::{KeyValue, Op, Revision, StoreError, WatchEvent};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, Table};
use tokio::sync::{mpsc, oneshot};

use super::format::{self, FLOOR, LOG, LoadError, META, OBJECTS, REVISION};
use super::{Published, Shown, Snapshot};

/// Transactions in one commit, at most: bounds how long the first of them waits.
const GROUP_TRANSACTIONS: usize = 256;

/// How often a file that failed is opened again.
const REOPEN_EVERY: Duration = Duration::from_millis(200);

/// A transaction and who waits for it.
pub(super) struct Job {
    pub(super) ops: Vec<Op>,
    pub(super) reply: oneshot::Sender<Result<Revision, StoreError>>,
}

/// The owner of the file.
pub(super) struct Writer {
    /// Absent after an error, until the file could be opened again.
    pub(super) database: Option<Database>,
    pub(super) path: PathBuf,
    pub(super) revision: Revision,
    pub(super) log_entries: u64,
    pub(super) log_entries_max: u64,
    pub(super) published: Arc<Published>,
}

type Answer = Result<Revision, StoreError>;

/// A group of transactions, done but not yet committed.
struct Group {
    answers: Vec<Answer>,
    changes: Vec<(Revision, Vec<WatchEvent>)>,
    log_entries: u64,
}

impl Writer {
    /// Works until all senders are gone.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        loop {
            let jobs = match next_group(&mut queue, self.database.is_some()) {
                Ok(jobs) => jobs,
                Err(Ended) => break,
            };
            let (ops, replies): (Vec<_>, Vec<_>) =
                jobs.into_iter().map(|job| (job.ops, job.reply)).unzip();
            let answers = match self.commit(ops) {
                Ok(answers) => answers,
                Err(error) => {
                    let reason: Arc<str> = format!("{}: {error}", self.path.display()).into();
                    if self.database.take().is_some() {
                        tracing::error!(path = %self.path.display(), %error, "commit failed; opening the file again");
                    }
                    self.published.show(Shown::Failed(Arc::clone(&reason)));
                    vec![Err(StoreError::Unavailable(reason)); replies.len()]
                }
            };
            for (reply, answer) in replies.into_iter().zip(answers) {
                // Who asked may have gone; the transaction stands all the same.
                let _ = reply.send(answer);
            }
            if self.database.is_none() {
                self.reopen();
            }
        }
        self.published.show(Shown::Closed);
    }

    /// After an error redb answers nothing but that there was one, until the file is opened anew. What of the failed
    /// commit reached the file is found out from its log.
    fn reopen(&mut self) {
        match self.try_reopen() {
            Ok(()) => tracing::info!(path = %self.path.display(), "the file works again"),
            Err(error) => {
                tracing::debug!(path = %self.path.display(), %error, "the file cannot be opened again yet");
                let reason = format!("{}: {error}", self.path.display());
                self.published.show(Shown::Failed(reason.into()));
            }
        }
    }

    fn try_reopen(&mut self) -> Result<(), LoadError> {
        // Not created: a file that is gone is not an empty store.
        let database = super::builder().open(&self.path)?;
        let opened = format::load(
            &database,
            usize::try_from(self.log_entries_max).unwrap_or(1),
        )?;
        if opened.revision < self.revision {
            return Err(LoadError::Contents(format!(
                "it stands at revision {}, before {} which was answered",
                opened.revision, self.revision
            )));
        }
        let changes = format::log_after(&opened.snapshot.transaction, self.revision)?;
        self.log_entries = opened.log_entries;
        for (revision, events) in changes {
            self.published.history.append(revision, events, 0);
            self.revision = revision;
        }
        self.published.show(Shown::Snapshot(opened.snapshot));
        self.database = Some(database);
        Ok(())
    }

    /// Does all transactions in their order, each of them whole or not at all, in one commit.
    fn commit(&mut self, jobs: Vec<Vec<Op>>) -> Result<Vec<Answer>, redb::Error> {
        let Some(database) = &self.database else {
            return Err(redb::Error::PreviousIo);
        };
        let mut transaction = database.begin_write()?;
        transaction
            .set_durability(Durability::Immediate)
            .map_err(redb::Error::from)?;
        let group = {
            let mut objects = transaction.open_table(OBJECTS)?;
            let mut log = transaction.open_table(LOG)?;
            let mut meta = transaction.open_table(META)?;
            let mut group = apply_all(&mut objects, self.revision, jobs)?;
            if let Some((revision, _)) = group.changes.last() {
                meta.insert(REVISION, *revision)?;
                group.log_entries = self.log_entries + write_log(&mut log, &group.changes)?;
                if let Some(floor) = self.trim_log(&mut log, &mut group.log_entries)? {
                    meta.insert(FLOOR, floor)?;
                }
            }
            group
        };
        if group.changes.is_empty() {
            transaction.abort()?;
            return Ok(group.answers);
        }
        transaction.commit()?;
        self.publish(group.changes)?;
        self.log_entries = group.log_entries;
        Ok(group.answers)
    }

    /// Drops whole revisions from the log's old end until it is short enough; answers the last one dropped.
    fn trim_log(
        &self,
        log: &mut Table<'_, (u64, u32), &'static [u8]>,
        entries: &mut u64,
    ) -> Result<Option<Revision>, redb::Error> {
        let mut floor = None;
        loop {
            let Some(oldest) = log.first()?.map(|(key, _)| key.value().0) else {
                return Ok(floor);
            };
            if *entries <= self.log_entries_max && floor != Some(oldest) {
                return Ok(floor);
            }
            log.pop_first()?;
            *entries -= 1;
            floor = Some(oldest);
        }
    }

    /// Shows a commit to watches first and readers second: a revision that was listed can always be watched from.
    fn publish(&mut self, changes: Vec<(Revision, Vec<WatchEvent>)>) -> Result<(), redb::Error> {
        for (revision, events) in changes {
            self.published.history.append(revision, events, 0);
            self.revision = revision;
        }
        let Some(database) = &self.database else {
            return Err(redb::Error::PreviousIo);
        };
        self.published.show(Shown::Snapshot(Snapshot {
            transaction: Arc::new(database.begin_read()?),
            revision: self.revision,
        }));
        Ok(())
    }
}

/// All senders are gone.
struct Ended;

/// The transactions that wait, at least one. While the file does not work, whatever there is after [`REOPEN_EVERY`].
fn next_group(queue: &mut mpsc::Receiver<Job>, works: bool) -> Result<Vec<Job>, Ended> {
    let mut jobs = Vec::new();
    if works {
        jobs.push(queue.blocking_recv().ok_or(Ended)?);
    } else {
        std::thread::sleep(REOPEN_EVERY);
        if queue.is_closed() && queue.is_empty() {
            return Err(Ended);
        }
    }
    while jobs.len() < GROUP_TRANSACTIONS {
        match queue.try_recv() {
            Ok(job) => jobs.push(job),
            Err(_) => break,
        }
    }
    Ok(jobs)
}

fn apply_all(
    objects: &mut Table<'_, &'static str, &'static [u8]>,
    mut revision: Revision,
    jobs: Vec<Vec<Op>>,
) -> Result<Group, redb::Error> {
    let mut group = Group {
        answers: Vec::with_capacity(jobs.len()),
        changes: Vec::new(),
        log_entries: 0,
    };
    for ops in jobs {
        if let Some(conflict) = first_conflict(objects, &ops)? {
            group.answers.push(Err(conflict));
            continue;
        }
        let events = apply(objects, revision + 1, ops)?;
        if !events.is_empty() {
            revision += 1;
            group.changes.push((revision, events));
        }
        group.answers.push(Ok(revision));
    }
    Ok(group)
}

fn first_conflict(
    objects: &Table<'_, &'static str, &'static [u8]>,
    ops: &[Op],
) -> Result<Option<StoreError>, redb::Error> {
    for op in ops {
        let current = match objects.get(format::encode_key(op.key()).as_str())? {
            Some(row) => Some(format::decode_object(op.key().clone(), row.value())?),
            None => None,
        };
        if !op
            .expect()
            .holds(current.as_ref().map(|object| object.revision))
        {
            return Ok(Some(StoreError::Conflict {
                key: op.key().clone(),
                current: current.map(Box::new),
            }));
        }
    }
    Ok(None)
}

fn apply(
    objects: &mut Table<'_, &'static str, &'static [u8]>,
    revision: Revision,
    ops: Vec<Op>,
) -> Result<Vec<WatchEvent>, redb::Error> {
    let mut events = Vec::with_capacity(ops.len());
    for op in ops {
        match op {
            Op::Put { key, value, .. } => {
                objects.insert(
                    format::encode_key(&key).as_str(),
                    format::encode_object(revision, &value).as_slice(),
                )?;
                events.push(WatchEvent::Put(KeyValue {
                    key,
                    value,
                    revision,
                }));
            }
            Op::Delete { key, .. } => {
                if objects.remove(format::encode_key(&key).as_str())?.is_some() {
                    events.push(WatchEvent::Delete { key, revision });
                }
            }
            Op::Check { .. } => {}
        }
    }
    Ok(events)
}

fn write_log(
    log: &mut Table<'_, (u64, u32), &'static [u8]>,
    changes: &[(Revision, Vec<WatchEvent>)],
) -> Result<u64, redb::Error> {
    let mut written = 0;
    for (revision, events) in changes {
        for (place, row) in (0..).zip(events.iter().filter_map(format::encode_event)) {
            log.insert((*revision, place), row.as_slice())?;
            written += 1;
        }
    }
    Ok(written)
}
