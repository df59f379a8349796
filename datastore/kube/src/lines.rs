//! The stream of lines that a watch is, from its opening to its end.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use kube::client::Body;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::client::{Client, Error, lost, with_jitter};

/// The server is asked to end a watch after about this time; silence much beyond it means that nobody is there.
const LIFE: Duration = Duration::from_secs(240);
const SILENCE: Duration = Duration::from_secs(30);
/// A watch that the server ended sooner than this, without a word, is not begun anew at once.
const SHORT: Duration = Duration::from_secs(1);

pub(crate) struct Lines {
    /// `None`: nothing will ever come.
    body: Option<Body>,
    rest: BytesMut,
    since: Instant,
    ends: Instant,
    count: u64,
}

impl Lines {
    /// Opens a watch. `path` has parameters, the last of them `resourceVersion`.
    pub(crate) async fn open(client: &Client, path: &str) -> Result<Self, Error> {
        let life = with_jitter(LIFE);
        let path = format!(
            "{path}&watch=1&allowWatchBookmarks=true&timeoutSeconds={}",
            life.as_secs()
        );
        let body = client.stream(&path).await?;
        Ok(Self {
            ends: Instant::now() + life + SILENCE,
            body: Some(body),
            ..Self::never()
        })
    }

    /// The watch of what never changes.
    pub(crate) fn never() -> Self {
        let since = Instant::now();
        Self {
            body: None,
            rest: BytesMut::new(),
            since,
            ends: since,
            count: 0,
        }
    }

    /// Reads more; `false` at the end. May be dropped while it waits.
    pub(crate) async fn read(&mut self) -> Result<bool, Error> {
        let Some(body) = &mut self.body else {
            return std::future::pending().await;
        };
        match tokio::time::timeout_at(self.ends, body.frame()).await {
            Err(_) => Err(Error::Unavailable(
                "the watch goes on beyond its time: nobody is there".to_owned(),
            )),
            Ok(None) if self.count == 0 && self.since.elapsed() < SHORT => {
                Err(Error::Unavailable("the watch ended at once".to_owned()))
            }
            Ok(None) => Ok(false),
            Ok(Some(Err(error))) => Err(lost(&error)),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    self.rest.extend_from_slice(&data);
                }
                Ok(true)
            }
        }
    }

    /// The next whole line.
    pub(crate) fn line(&mut self) -> Option<BytesMut> {
        let end = self.rest.iter().position(|byte| *byte == b'\n')?;
        let line = self.rest.split_to(end);
        self.rest.advance(1);
        self.count += 1;
        Some(line)
    }
}

/// A watch of objects of one of Kubernetes' own kinds, which goes on where it was when the server ends it, as it does every few minutes.
pub(crate) struct Watch {
    client: Client,
    /// With parameters, or `?` alone, before the `resourceVersion`.
    path: String,
    version: String,
    lines: Lines,
}

/// What a watch tells.
#[derive(Deserialize)]
pub(crate) struct Event<T> {
    /// `ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK`.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) object: T,
}

/// An object that says as of when it is.
pub(crate) trait Versioned {
    fn resource_version(&self) -> &str;
}

impl Watch {
    pub(crate) async fn open(client: &Client, path: &str, version: String) -> Result<Self, Error> {
        Ok(Self {
            lines: Self::lines(client, path, &version).await?,
            client: client.clone(),
            path: path.to_owned(),
            version,
        })
    }

    async fn lines(client: &Client, path: &str, version: &str) -> Result<Lines, Error> {
        Lines::open(client, &format!("{path}resourceVersion={version}")).await
    }

    /// The next event; `None` when changes were missed: what there is must be listed again.
    pub(crate) async fn next<T: DeserializeOwned + Versioned>(
        &mut self,
    ) -> Result<Option<Event<T>>, Error> {
        loop {
            if let Some(line) = self.lines.line() {
                // An error is no event.
                let event: Option<Event<T>> = serde_json::from_slice(&line).ok();
                if let Some(event) = &event {
                    self.version = event.object.resource_version().to_owned();
                }
                return Ok(event);
            }
            if !self.lines.read().await? {
                self.lines = Self::lines(&self.client, &self.path, &self.version).await?;
            }
        }
    }
}
