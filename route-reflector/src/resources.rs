//! Follows the files of `--resources` and tells the calculation what changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use api::key::Key;
use felix::calc::Graph;
use node::task::calc::{Inbox, Seen, Since, State};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::files::{Content, read_all};

/// How often the files are read. They are small, and their content is what is compared: no change of a file is missed,
/// whatever its time stamp says.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The files and what was last read of them.
pub(crate) struct Resources {
    path: PathBuf,
    texts: BTreeMap<PathBuf, String>,
    content: Content,
    /// Faults that were reported, so that each is reported once.
    reported: BTreeSet<String>,
    changes: u64,
}

impl Resources {
    /// Reads the files for the first time.
    pub(crate) fn read(path: PathBuf) -> std::io::Result<Self> {
        let texts = read_all(&path)?;
        let content = Content::of(&texts);
        let mut resources = Self {
            path,
            texts,
            content,
            reported: BTreeSet::new(),
            changes: 1,
        };
        resources.tell_faults(resources.content.faults.clone());
        Ok(resources)
    }

    pub(crate) fn content(&self) -> &Content {
        &self.content
    }

    /// Gives everything, then every change, until the token is cancelled.
    pub(crate) async fn follow(mut self, calc: Inbox, cancel: CancellationToken) {
        for (key, state) in states(&self.content) {
            let since = Since::Write(self.changes.into());
            calc.object(key, Seen { since, state });
        }
        for kind in Graph::KINDS {
            calc.in_sync(kind, self.changes.into());
        }
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => self.look(&calc),
                () = cancel.cancelled() => return,
            }
        }
    }

    fn look(&mut self, calc: &Inbox) {
        let texts = match read_all(&self.path) {
            Ok(texts) => texts,
            // A folder that is not there for a moment takes no session down.
            Err(error) => {
                self.tell_faults(vec![format!("{error}; going on with what was read before")]);
                return;
            }
        };
        if texts == self.texts {
            return;
        }
        self.texts = texts;
        self.changes += 1;
        let content = Content::of(&self.texts);
        self.tell_faults(content.faults.clone());
        let before = std::mem::replace(&mut self.content, content);
        let since = || Since::Write(self.changes.into());
        let mut changed = 0;
        for (key, state) in states(&self.content) {
            let old = before.objects.get(&key).map(|found| &found.object);
            if old != self.content.objects.get(&key).map(|found| &found.object) {
                changed += 1;
                let since = since();
                calc.object(key, Seen { since, state });
            }
        }
        for key in before.objects.into_keys() {
            if !self.content.objects.contains_key(&key) {
                changed += 1;
                let state = State::Absent;
                let since = since();
                calc.object(key, Seen { since, state });
            }
        }
        info!(path = %self.path.display(), changed, "resources changed");
    }

    fn tell_faults(&mut self, faults: Vec<String>) {
        let faults: BTreeSet<String> = faults.into_iter().collect();
        for fault in faults.difference(&self.reported) {
            warn!(reason = fault, "resources");
        }
        self.reported = faults;
    }
}

fn states(content: &Content) -> Vec<(Key, State)> {
    let state = |found: &crate::files::Found| match &found.object {
        Ok(object) => State::Present(Box::new(object.clone())),
        Err(why) => State::Invalid(format!("{}: {why}", found.place).into()),
    };
    content
        .objects
        .iter()
        .map(|(key, found)| (key.clone(), state(found)))
        .collect()
}
