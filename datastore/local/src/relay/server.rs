//! Serving a store to the other processes of a machine.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::key::Key;
use datastore::store::{Listing, Store, StoreError, WatchEvent};
use datastore::version::Cursor;
use futures_util::future::{FutureExt, Shared};
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use super::{MESSAGE_BYTES_MAX, convert};
use crate::generated as wire;
use crate::generated::relay_server::{Relay, RelayServer};

/// A part of a listing goes out when its values have this many bytes, or it has this many objects.
const LIST_PART_BYTES: usize = 1 << 20;
const LIST_PART_OBJECTS: usize = 1024;

/// Events in one message of a watch, at most.
const WATCH_PART_EVENTS: usize = 64;

/// Why a socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody listens there already.
    #[error("{}: another process listens there", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket stands there.
    #[error("{}: exists and is no socket; remove it or choose another path", path.display())]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{}: cannot {doing}", path.display())]
    System {
        /// The path.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// Listens at `path` for processes of the same user, in place of a socket that a process left behind, making its folder
/// where that is missing. Needs a tokio runtime.
pub async fn bind(path: &Path) -> Result<UnixListener, BindError> {
    let failed = |doing| {
        move |source| BindError::System {
            path: path.to_owned(),
            doing,
            source,
        }
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed("make its folder"))?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(BindError::NoSocket {
                path: path.to_owned(),
            });
        }
        Ok(_) => match UnixStream::connect(path).await {
            Ok(_) => {
                return Err(BindError::InUse {
                    path: path.to_owned(),
                });
            }
            Err(_) => std::fs::remove_file(path).map_err(failed("remove the old socket"))?,
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("look at it")(error)),
    }
    let listener = UnixListener::bind(path).map_err(failed("listen"))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .map_err(failed("set its mode"))?;
    Ok(listener)
}

/// Serves `store`, which must do a plan as a whole, until `stop` is done: then watches end, requests under way are
/// answered, and it returns.
///
/// # Panics
/// When the store carries plans out step by step: the relay has no word for a plan that is half done.
pub async fn serve(
    store: Arc<dyn Store>,
    listener: UnixListener,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), tonic::transport::Error> {
    assert!(
        store.folds(),
        "the relay serves stores that do a plan as a whole"
    );
    let (stopping, stopped) = oneshot::channel::<()>();
    let service = Service {
        store,
        stopped: stopped.map(drop as fn(_)).shared(),
    };
    let relay = RelayServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    tonic::transport::Server::default()
        .serve_with_incoming_shutdown(
            relay,
            UnixListenerStream::new(listener),
            stop.map(move |()| drop(stopping)),
        )
        .await
}

type Stopped = Shared<
    futures_util::future::Map<oneshot::Receiver<()>, fn(Result<(), oneshot::error::RecvError>)>,
>;

struct Service {
    store: Arc<dyn Store>,
    stopped: Stopped,
}

#[tonic::async_trait]
impl Relay for Service {
    type ListStream = BoxStream<'static, Result<wire::ListResponse, Status>>;
    type WatchStream = BoxStream<'static, Result<wire::WatchResponse, Status>>;

    async fn get(
        &self,
        request: Request<wire::GetRequest>,
    ) -> Result<Response<wire::GetResponse>, Status> {
        let key = convert::key(request.into_inner().key).map_err(malformed)?;
        let object = self
            .store
            .get(&key)
            .await
            .map_err(|e| convert::status(&e))?;
        Ok(Response::new(wire::GetResponse {
            object: object.map(convert::object_to_wire),
        }))
    }

    async fn list(
        &self,
        request: Request<wire::ListRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let request = request.into_inner();
        let kind = convert::kind(request.kind).map_err(malformed)?;
        let failed = |error| convert::status(&error);
        let parts = if request.names_only {
            named(self.store.names(kind).await.map_err(failed)?)
        } else {
            let scope = convert::scope(request.node);
            parts(self.store.list(kind, &scope).await.map_err(failed)?)
        };
        Ok(Response::new(Box::pin(stream::iter(
            parts.into_iter().map(Ok),
        ))))
    }

    async fn commit(
        &self,
        request: Request<wire::CommitRequest>,
    ) -> Result<Response<wire::CommitResponse>, Status> {
        let plan = convert::plan(request.into_inner()).map_err(malformed)?;
        let (changes, conflict) = match self.store.commit(plan).await {
            Ok(changes) => (changes, None),
            Err(failed) => match failed.error {
                StoreError::Conflict { key, current } => {
                    (failed.done, Some((key, current.map(|object| *object))))
                }
                error => return Err(convert::status(&error)),
            },
        };
        Ok(Response::new(convert::committed_to_wire(changes, conflict)))
    }

    async fn identity(
        &self,
        request: Request<wire::IdentityRequest>,
    ) -> Result<Response<wire::IdentityResponse>, Status> {
        let failed = |error| convert::status(&error);
        let identity = self.store.identity().await.map_err(failed)?;
        let contains = match request.into_inner().cursor {
            Some(cursor) => {
                let cursor = Cursor::read(&cursor);
                self.store.contains(&cursor).await.map_err(failed)?
            }
            None => true,
        };
        Ok(Response::new(wire::IdentityResponse {
            identity: identity.as_ref().to_owned(),
            contains,
        }))
    }

    async fn watch(
        &self,
        request: Request<wire::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        let kind = convert::kind(request.kind).map_err(malformed)?;
        let scope = convert::scope(request.node);
        let events = self.store.watch(kind, scope, Cursor::read(&request.after));
        let messages = events
            .take_until(self.stopped.clone())
            .ready_chunks(WATCH_PART_EVENTS)
            .flat_map(|ready| stream::iter(messages(ready)));
        Ok(Response::new(Box::pin(messages)))
    }
}

fn malformed(error: convert::Malformed) -> Status {
    Status::invalid_argument(error.to_string())
}

/// Events as one message, and what ends the watch as the next.
fn messages(
    ready: Vec<Result<WatchEvent, StoreError>>,
) -> Vec<Result<wire::WatchResponse, Status>> {
    let mut events = Vec::with_capacity(ready.len());
    let mut last = None;
    let ended = |end: wire::WatchEnd, wanted: &Cursor| wire::WatchResponse {
        events: Vec::new(),
        end: end.into(),
        wanted: wanted.to_string(),
    };
    for item in ready {
        match item {
            Ok(event) => events.push(convert::event_to_wire(event)),
            Err(StoreError::Gone { wanted }) => {
                last = Some(Ok(ended(wire::WatchEnd::Gone, &wanted)));
            }
            Err(StoreError::Diverged { wanted }) => {
                last = Some(Ok(ended(wire::WatchEnd::Diverged, &wanted)));
            }
            Err(error) => last = Some(Err(convert::status(&error))),
        }
    }
    let first = (!events.is_empty()).then(|| {
        Ok(wire::WatchResponse {
            events,
            ..wire::WatchResponse::default()
        })
    });
    first.into_iter().chain(last).collect()
}

/// Keys as a listing of objects that have nothing else.
fn named(keys: Vec<Key>) -> Vec<wire::ListResponse> {
    let parts = keys.chunks(LIST_PART_OBJECTS).map(|keys| {
        let items = keys.iter().map(|key| wire::KeyValue {
            key: Some(convert::key_to_wire(key)),
            ..wire::KeyValue::default()
        });
        wire::ListResponse {
            items: items.collect(),
            cursor: String::new(),
        }
    });
    parts.collect()
}

fn parts(listing: Listing) -> Vec<wire::ListResponse> {
    let cursor = listing.cursor.to_string();
    let mut parts = Vec::new();
    let mut part = Vec::new();
    let mut bytes = 0;
    for object in listing.items {
        bytes += object.value.len();
        part.push(convert::object_to_wire(object));
        if bytes >= LIST_PART_BYTES || part.len() >= LIST_PART_OBJECTS {
            bytes = 0;
            parts.push(wire::ListResponse {
                items: std::mem::take(&mut part),
                cursor: cursor.clone(),
            });
        }
    }
    if !part.is_empty() || parts.is_empty() {
        parts.push(wire::ListResponse {
            items: part,
            cursor,
        });
    }
    parts
}
