//! Watches: lines of JSON, and what becomes of the stream.
//!
//! ```text
//! contains? ─► GET …?watch ─► lines ─► changes, bookmarks
//!    ▲                          │
//!    └── the server ended it ◄──┤ as it does every few minutes: goes on at the last line
//!                               ├─ 410: Gone
//!                               └─ lost, silent beyond its time: Unavailable
//! ```

use std::collections::VecDeque;
use std::sync::Arc;

use api::key::Kind;
use datastore::scope::Scope;
use datastore::store::{Change, StoreError, WatchEvent};
use datastore::version::{Cursor, Version};
use futures_core::stream::BoxStream;
use futures_util::stream::{self, StreamExt};
use serde::Deserialize;
use serde_json::value::RawValue;
use tracing::warn;

use crate::client::{Error, Status};
use crate::group::Group;
use crate::lines::Lines;
use crate::store::{Seen, Shared, store_error};

type Event = Result<WatchEvent, StoreError>;

/// A line.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Bookmark {
    metadata: BookmarkMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BookmarkMetadata {
    resource_version: String,
}

struct Following {
    shared: Arc<Shared>,
    kind: Kind,
    scope: Scope,
    group: Group,
    at: Cursor,
    lines: Option<Lines>,
    /// Up to where endpoints' files are told, and what says that there are more.
    files: Option<(u64, tokio::sync::watch::Receiver<u64>)>,
    ready: VecDeque<Event>,
    ended: bool,
}

/// Every change of a kind within a scope after `after`.
pub(crate) fn follow(
    shared: Arc<Shared>,
    kind: Kind,
    scope: Scope,
    after: Cursor,
) -> BoxStream<'static, Event> {
    let kept = shared.kept.as_ref();
    // All of them, again and again: what a watch before has told may be any part.
    let files = kept
        .filter(|_| kind == Kind::WorkloadEndpoint)
        .map(|kept| (0, kept.follow()));
    let following = Following {
        kind,
        scope,
        group: Group::Crd,
        at: after,
        lines: None,
        files,
        ready: VecDeque::new(),
        ended: false,
        shared,
    };
    stream::unfold(following, |mut following| async move {
        let event = following.next().await?;
        Some((event, following))
    })
    .boxed()
}

impl Following {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.ended |= event.is_err();
                return Some(event);
            }
            if self.ended {
                return None;
            }
            if let Err(error) = self.step().await {
                self.ready.push_back(Err(error));
            }
        }
    }

    async fn step(&mut self) -> Result<(), StoreError> {
        let Some(lines) = &mut self.lines else {
            self.group = self.shared.group(self.kind).await?;
            let opened = open(&self.shared, self.kind, &self.scope, &self.at).await?;
            self.lines = Some(opened);
            self.take_files();
            return Ok(());
        };
        tokio::select! {
            more = lines.read() => match more.map_err(store_error)? {
                true => self.take_lines(),
                // The server ended it: it goes on where it was.
                false => {
                    self.lines = None;
                    Ok(())
                }
            },
            () = another(self.files.as_mut()) => {
                self.take_files();
                Ok(())
            }
        }
    }

    fn take_files(&mut self) {
        let (Some((told, _)), Some(kept)) = (&mut self.files, &self.shared.kept) else {
            return;
        };
        let (changes, latest) = kept.changes(&self.scope, *told);
        *told = latest;
        let events = changes
            .into_iter()
            .map(|change| Ok(WatchEvent::Change(change, self.at.clone())));
        self.ready.extend(events);
    }

    fn take_lines(&mut self) -> Result<(), StoreError> {
        while let Some(line) = self.lines.as_mut().and_then(Lines::line) {
            let event = self.event(&line)?;
            self.at = event.cursor().clone();
            self.ready.push_back(Ok(event));
        }
        Ok(())
    }

    fn event(&self, line: &[u8]) -> Result<WatchEvent, StoreError> {
        let unreadable = |error: &dyn std::fmt::Display| {
            StoreError::Unavailable(format!("a line of the watch of {}: {error}", self.kind).into())
        };
        let line: Line<'_> = serde_json::from_slice(line).map_err(|error| unreadable(&error))?;
        let object = line.object.get();
        if line.kind == "ERROR" {
            let status: Status = serde_json::from_str(object).unwrap_or_default();
            return Err(self.refused(status));
        }
        let mark: Bookmark = serde_json::from_str(object).map_err(|error| unreadable(&error))?;
        let number = mark.metadata.resource_version.parse();
        let number: u64 = number.map_err(|error| unreadable(&error))?;
        let cursor = match self.at.store() {
            Some(store) => Cursor::of(number, store),
            None => Cursor::from(number),
        };
        let change = match line.kind.as_str() {
            "ADDED" | "MODIFIED" | "DELETED" => self.change(&line.kind, object),
            _ => None,
        };
        Ok(match change {
            Some(change) => WatchEvent::Change(change, cursor),
            None => WatchEvent::Bookmark(cursor),
        })
    }

    fn change(&self, line_kind: &str, object: &str) -> Option<Change> {
        let seen = self.shared.read(self.group, self.kind, object.as_bytes());
        let Seen {
            key,
            object,
            number,
            life,
        } = match seen {
            Ok(seen) => seen,
            Err(error) => {
                warn!(kind = %self.kind, %error, "object left out");
                return None;
            }
        };
        match object {
            Some(object) if line_kind != "DELETED" => Some(Change::Put(object)),
            _ => {
                let version = if self.kind == Kind::WorkloadEndpoint {
                    Version::of(number, &life)
                } else {
                    Version::end_of(&life, number.saturating_sub(1))
                };
                let key = key?;
                if self.kind == Kind::WorkloadEndpoint && line_kind == "DELETED" {
                    self.shared.seen_pods.forget(&key);
                }
                Some(Change::Delete { key, version })
            }
        }
    }

    fn refused(&self, status: Status) -> StoreError {
        refused(&self.at, Error::Refused(status))
    }
}

async fn another(files: Option<&mut (u64, tokio::sync::watch::Receiver<u64>)>) {
    if let Some((_, latest)) = files
        && latest.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

fn refused(at: &Cursor, error: Error) -> StoreError {
    match error {
        Error::Refused(status) if status.code == 410 => StoreError::Gone { wanted: at.clone() },
        error => store_error(error),
    }
}

async fn open(
    shared: &Shared,
    kind: Kind,
    scope: &Scope,
    at: &Cursor,
) -> Result<Lines, StoreError> {
    if !shared.contains(at).await? {
        return Err(StoreError::Diverged { wanted: at.clone() });
    }
    let Some(path) = shared.all(kind, scope).await? else {
        return Ok(Lines::never());
    };
    let number = at.number().unwrap_or_default();
    let path = format!("{path}resourceVersion={number}");
    let lines = Lines::open(&shared.client, &path).await;
    lines.map_err(|error| refused(at, error))
}
