//! The thread that writes: it takes all transactions that wait and commits them together.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::key::Key;
use datastore::history::Revision;
use datastore::plan::{Net, Plan, fold};
use datastore::store::{Change, Expect, KeyValue, StoreError};
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
    pub(super) plan: Plan,
    pub(super) reply: oneshot::Sender<Answer>,
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

pub(super) type Answer = Result<Vec<Change>, StoreError>;

/// A group of transactions, done but not yet committed.
struct Group {
    answers: Vec<Answer>,
    changes: Vec<(Revision, Vec<Change>)>,
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
            let (plans, replies): (Vec<_>, Vec<_>) =
                jobs.into_iter().map(|job| (job.plan, job.reply)).unzip();
            let answers = match self.commit(plans) {
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
        if opened.ended < self.revision {
            return Err(LoadError::Contents(format!(
                "it stands at revision {}, before {} which was answered",
                opened.ended, self.revision
            )));
        }
        let missed = format::log_after(&opened.snapshot.transaction, self.revision)?;
        self.log_entries = opened.log_entries;
        let history = &self.published.history;
        for (revision, changes) in missed {
            history.append(revision, changes, 0);
        }
        history.continue_from(opened.begun, opened.earlier);
        self.revision = opened.revision;
        self.published.show(Shown::Snapshot(opened.snapshot));
        self.database = Some(database);
        Ok(())
    }

    /// Does all transactions in their order, each of them whole or not at all, in one commit.
    fn commit(&mut self, plans: Vec<Plan>) -> Result<Vec<Answer>, redb::Error> {
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
            let mut group = apply_all(&mut objects, self.revision, plans)?;
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
    fn publish(&mut self, commits: Vec<(Revision, Vec<Change>)>) -> Result<(), redb::Error> {
        for (revision, changes) in commits {
            self.published.history.append(revision, changes, 0);
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
    plans: Vec<Plan>,
) -> Result<Group, redb::Error> {
    let mut group = Group {
        answers: Vec::with_capacity(plans.len()),
        changes: Vec::new(),
        log_entries: 0,
    };
    for plan in plans {
        let sum = match fold(plan) {
            Ok(sum) => sum,
            Err(refused) => {
                group.answers.push(Err(refused));
                continue;
            }
        };
        if let Some(conflict) = first_conflict(objects, &sum)? {
            group.answers.push(Err(conflict));
            continue;
        }
        let changes = apply(objects, revision + 1, sum)?;
        if !changes.is_empty() {
            revision += 1;
            group.changes.push((revision, changes.clone()));
        }
        group.answers.push(Ok(changes));
    }
    Ok(group)
}

fn first_conflict(
    objects: &Table<'_, &'static str, &'static [u8]>,
    sum: &[(Key, Expect, Net)],
) -> Result<Option<StoreError>, redb::Error> {
    for (key, expect, _) in sum {
        let current = match objects.get(format::encode_key(key).as_str())? {
            Some(row) => Some(format::decode_object(key.clone(), row.value())?),
            None => None,
        };
        if !expect.holds(current.as_ref().map(|object| &object.version), None) {
            return Ok(Some(StoreError::Conflict {
                key: key.clone(),
                current: current.map(Box::new),
            }));
        }
    }
    Ok(None)
}

fn apply(
    objects: &mut Table<'_, &'static str, &'static [u8]>,
    revision: Revision,
    sum: Vec<(Key, Expect, Net)>,
) -> Result<Vec<Change>, redb::Error> {
    let mut changes = Vec::with_capacity(sum.len());
    for (key, _, net) in sum {
        let row = format::encode_key(&key);
        match net {
            Net::Put(value) | Net::Anew(value) => {
                let stored = format::encode_object(revision, &value);
                objects.insert(row.as_str(), stored.as_slice())?;
                let version = revision.into();
                changes.push(Change::Put(KeyValue {
                    key,
                    value,
                    version,
                }));
            }
            Net::Delete => {
                if objects.remove(row.as_str())?.is_some() {
                    let version = revision.into();
                    changes.push(Change::Delete { key, version });
                }
            }
            Net::Nothing => {}
        }
    }
    Ok(changes)
}

fn write_log(
    log: &mut Table<'_, (u64, u32), &'static [u8]>,
    commits: &[(Revision, Vec<Change>)],
) -> Result<u64, redb::Error> {
    let mut written = 0;
    for (revision, changes) in commits {
        for (place, row) in (0..).zip(changes.iter().filter_map(format::encode_change)) {
            log.insert((*revision, place), row.as_slice())?;
            written += 1;
        }
    }
    Ok(written)
}
