//! A store in another process, reached through its socket.

use std::error::Error as _;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::key::{Key, Kind};
use datastore::plan::{Failed, Plan};
use datastore::scope::Scope;
use datastore::store::{Change, KeyValue, Listing, Op, Store, StoreError, WatchEvent};
use datastore::version::Cursor;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

use super::{MESSAGE_BYTES_MAX, convert};
use crate::generated as wire;
use crate::generated::relay_client::RelayClient;

/// How long one request may take before it counts as unanswered.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);

/// A store that does not answer a ping within this time is given up, and its watches end.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_DEADLINE: Duration = Duration::from_secs(10);

/// A store in another process. Clones share one connection, made at the first request and again after each loss.
///
/// A watch ends with [`StoreError::Unavailable`] when the connection is lost; started again from the last cursor it
/// delivered, it goes on where it was, also when the store was restarted in between.
#[derive(Clone, Debug)]
pub struct RelayStore {
    relay: RelayClient<Channel>,
    socket: Arc<Path>,
    deadline: Duration,
}

impl RelayStore {
    /// A client of the store that listens at `socket`; nothing is connected yet.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        let socket: Arc<Path> = socket.into().into();
        let path = Arc::clone(&socket);
        let connector = tower::service_fn(move |_: Uri| {
            let path = Arc::clone(&path);
            async move { UnixStream::connect(&*path).await.map(TokioIo::new) }
        });
        // The name is sent as `:authority` and means nothing on a Unix socket.
        let channel = Endpoint::from_static("http://store.invalid")
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_DEADLINE)
            .connect_with_connector_lazy(connector);
        Self {
            relay: RelayClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
            socket,
            deadline: REQUEST_DEADLINE,
        }
    }

    /// Gives requests another time to be answered in; 10 s otherwise.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    async fn within_deadline<T>(
        &self,
        doing: &str,
        request: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout(self.deadline, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(status)) => Err(self.error(&status)),
            Err(_) => Err(self.unavailable(format_args!(
                "{doing} was not answered within {:?}",
                self.deadline
            ))),
        }
    }

    fn error(&self, status: &Status) -> StoreError {
        if status.code() == Code::InvalidArgument {
            return StoreError::Refused(status.message().into());
        }
        let mut reason = status.message().to_owned();
        let mut source = status.source();
        while let Some(error) = source {
            let text = error.to_string();
            if !reason.contains(&text) {
                write!(reason, ": {text}").expect("writing to a String never fails");
            }
            source = error.source();
        }
        self.unavailable(format_args!("{reason}"))
    }

    fn unavailable(&self, reason: std::fmt::Arguments<'_>) -> StoreError {
        StoreError::Unavailable(format!("unix:{}: {reason}", self.socket.display()).into())
    }

    fn malformed(&self, error: &convert::Malformed) -> StoreError {
        self.unavailable(format_args!("the store's answer is malformed: {error}"))
    }

    fn decode(
        &self,
        message: Result<wire::WatchResponse, Status>,
    ) -> Vec<Result<WatchEvent, StoreError>> {
        match message {
            Err(status) => vec![Err(self.error(&status))],
            Ok(message) => {
                let wanted = Cursor::read(&message.wanted);
                let end = match message.end() {
                    wire::WatchEnd::Unspecified => None,
                    wire::WatchEnd::Gone => Some(Err(StoreError::Gone { wanted })),
                    wire::WatchEnd::Diverged => Some(Err(StoreError::Diverged { wanted })),
                };
                let events = message
                    .events
                    .into_iter()
                    .map(|event| convert::event(event).map_err(|error| self.malformed(&error)));
                events.chain(end).collect()
            }
        }
    }

    /// The messages of a listing.
    async fn ask_list(
        &self,
        request: wire::ListRequest,
    ) -> Result<Vec<wire::ListResponse>, StoreError> {
        let mut relay = self.relay.clone();
        self.within_deadline("list", async move {
            let mut stream = relay.list(request).await?.into_inner();
            let mut parts = Vec::new();
            while let Some(part) = stream.message().await? {
                parts.push(part);
            }
            Ok(parts)
        })
        .await
    }

    async fn ask_identity(
        &self,
        cursor: Option<&Cursor>,
    ) -> Result<wire::IdentityResponse, StoreError> {
        let mut relay = self.relay.clone();
        let request = wire::IdentityRequest {
            cursor: cursor.map(ToString::to_string),
        };
        let answer = self.within_deadline("identity", relay.identity(request));
        Ok(answer.await?.into_inner())
    }
}

impl Store for RelayStore {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<KeyValue>, StoreError>> {
        Box::pin(async move {
            let mut relay = self.relay.clone();
            let request = wire::GetRequest {
                key: Some(convert::key_to_wire(key)),
            };
            let answer = self.within_deadline("get", relay.get(request)).await?;
            answer
                .into_inner()
                .object
                .map(convert::object)
                .transpose()
                .map_err(|error| self.malformed(&error))
        })
    }

    fn list<'a>(
        &'a self,
        kind: Kind,
        scope: &'a Scope,
    ) -> BoxFuture<'a, Result<Listing, StoreError>> {
        Box::pin(async move {
            let request = wire::ListRequest {
                kind: kind.name().to_owned(),
                node: convert::scope_to_wire(scope),
                names_only: false,
            };
            let parts = self.ask_list(request).await?;
            let cursor = match parts.first() {
                Some(part) => Cursor::read(&part.cursor),
                None => {
                    return Err(self.malformed(&convert::Malformed::Missing("the listing")));
                }
            };
            let items = parts
                .into_iter()
                .flat_map(|part| part.items)
                .map(convert::object)
                .collect::<Result<_, _>>()
                .map_err(|error| self.malformed(&error))?;
            Ok(Listing { items, cursor })
        })
    }

    fn names(&self, kind: Kind) -> BoxFuture<'_, Result<Vec<Key>, StoreError>> {
        Box::pin(async move {
            let request = wire::ListRequest {
                kind: kind.name().to_owned(),
                node: None,
                names_only: true,
            };
            let parts = self.ask_list(request).await?;
            let items = parts.into_iter().flat_map(|part| part.items);
            items
                .map(|item| convert::key(item.key))
                .collect::<Result<_, _>>()
                .map_err(|error| self.malformed(&error))
        })
    }

    fn write(&self, op: Op) -> BoxFuture<'_, Result<Option<Change>, StoreError>> {
        Box::pin(async move {
            let plan = Plan::at_once(vec![op]);
            let done = self.commit(plan).await.map_err(|failed| failed.error)?;
            Ok(done.into_iter().next())
        })
    }

    fn commit(&self, plan: Plan) -> BoxFuture<'_, Result<Vec<Change>, Failed>> {
        Box::pin(async move {
            let mut relay = self.relay.clone();
            let request = convert::plan_to_wire(plan);
            let answer = self
                .within_deadline("commit", relay.commit(request))
                .await?
                .into_inner();
            let (done, conflict) =
                convert::committed(answer).map_err(|error| self.malformed(&error))?;
            let Some((key, current)) = conflict else {
                return Ok(done);
            };
            let current = current.map(Box::new);
            Err(Failed {
                done,
                error: StoreError::Conflict { key, current },
            })
        })
    }

    fn folds(&self) -> bool {
        true
    }

    fn identity(&self) -> BoxFuture<'_, Result<Arc<str>, StoreError>> {
        Box::pin(async move { Ok(self.ask_identity(None).await?.identity.into()) })
    }

    fn contains<'a>(&'a self, cursor: &'a Cursor) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move { Ok(self.ask_identity(Some(cursor)).await?.contains) })
    }

    fn watch(
        &self,
        kind: Kind,
        scope: Scope,
        after: Cursor,
    ) -> BoxStream<'static, Result<WatchEvent, StoreError>> {
        let store = self.clone();
        let request = wire::WatchRequest {
            kind: kind.name().to_owned(),
            node: convert::scope_to_wire(&scope),
            after: after.to_string(),
        };
        let opened = async move {
            let mut relay = store.relay.clone();
            match store.within_deadline("watch", relay.watch(request)).await {
                Err(error) => stream::once(async { Err(error) }).boxed(),
                Ok(answer) => {
                    let ended = store.unavailable(format_args!("the store ended the watch"));
                    answer
                        .into_inner()
                        .flat_map(move |message| stream::iter(store.decode(message)))
                        .chain(stream::once(async { Err(ended) }))
                        .boxed()
                }
            }
        };
        // The first error is the last item, whatever else the connection has to say.
        let mut failed = false;
        stream::once(opened)
            .flatten()
            .take_while(move |item| {
                let go_on = !failed;
                failed = item.is_err();
                async move { go_on }
            })
            .boxed()
    }
}
