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
use std::time::Duration;

use api::key::Kind;
use bytes::{Buf, BytesMut};
use datastore::scope::Scope;
use datastore::store::{Change, StoreError, WatchEvent};
use datastore::version::{Cursor, Version};
use futures_core::stream::BoxStream;
use futures_util::stream::{self, StreamExt};
use http_body_util::BodyExt;
use kube::client::Body;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;
use tracing::warn;

use crate::client::{Error, Status, lost, with_jitter};
use crate::group::Group;
use crate::store::{Seen, Shared, store_error};

/// The server is asked to end a watch after about this time; silence much beyond it means that nobody is there.
const LIFE: Duration = Duration::from_secs(240);
const SILENCE: Duration = Duration::from_secs(30);
/// A watch that the server ended sooner than this, without a word, is not begun anew at once.
const SHORT: Duration = Duration::from_secs(1);

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
    connection: Option<Connection>,
    /// Up to where endpoints' files are told, and what says that there are more.
    files: Option<(u64, tokio::sync::watch::Receiver<u64>)>,
    ready: VecDeque<Event>,
    ended: bool,
}

struct Connection {
    /// `None`: nothing will ever come.
    body: Option<Body>,
    rest: BytesMut,
    since: Instant,
    ends: Instant,
    lines: u64,
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
        connection: None,
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
        let Some(connection) = &mut self.connection else {
            self.group = self.shared.group(self.kind).await?;
            let opened = open(&self.shared, self.kind, &self.scope, &self.at).await?;
            self.connection = Some(opened);
            self.take_files();
            return Ok(());
        };
        tokio::select! {
            more = connection.read() => match more? {
                true => self.take_lines(),
                false => {
                    let connection = self.connection.take();
                    let short = connection.is_some_and(|connection| {
                        connection.lines == 0 && connection.since.elapsed() < SHORT
                    });
                    match short {
                        true => Err(StoreError::Unavailable("the watch ended at once".into())),
                        false => Ok(()),
                    }
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
        while let Some(line) = self.connection.as_mut().and_then(Connection::line) {
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
                key.map(|key| Change::Delete { key, version })
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
) -> Result<Connection, StoreError> {
    if !shared.contains(at).await? {
        return Err(StoreError::Diverged { wanted: at.clone() });
    }
    let life = with_jitter(LIFE);
    let body = match shared.all(kind, scope).await? {
        None => None,
        Some(path) => {
            let path = format!(
                "{path}watch=1&allowWatchBookmarks=true&resourceVersion={}&timeoutSeconds={}",
                at.number().unwrap_or_default(),
                life.as_secs()
            );
            let body = shared.client.stream(&path).await;
            Some(body.map_err(|error| refused(at, error))?)
        }
    };
    let since = Instant::now();
    Ok(Connection {
        body,
        rest: BytesMut::new(),
        since,
        ends: since + life + SILENCE,
        lines: 0,
    })
}

impl Connection {
    /// Reads more; `false` at the end. May be dropped while it waits.
    async fn read(&mut self) -> Result<bool, StoreError> {
        let Some(body) = &mut self.body else {
            return std::future::pending().await;
        };
        match tokio::time::timeout_at(self.ends, body.frame()).await {
            Err(_) => Err(StoreError::Unavailable(
                "the watch goes on beyond its time: nobody is there".into(),
            )),
            Ok(None) => Ok(false),
            Ok(Some(Err(error))) => Err(store_error(lost(&error))),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    self.rest.extend_from_slice(&data);
                }
                Ok(true)
            }
        }
    }

    /// The next whole line.
    fn line(&mut self) -> Option<BytesMut> {
        let end = self.rest.iter().position(|byte| *byte == b'\n')?;
        let line = self.rest.split_to(end);
        self.rest.advance(1);
        self.lines += 1;
        Some(line)
    }
}
