//! The stream of lines that a watch is, from its opening to its end.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use kube::client::Body;
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
