//! Serving a store to the other processes of a machine.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datastore::store::{Listing, Store, StoreError, WatchEvent};
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

/// Changes in one message of a watch, at most.
const WATCH_PART_CHANGES: usize = 64;

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

/// Serves `store` until `stop` is done: then watches end, requests under way are answered, and it returns.
pub async fn serve(
    store: Arc<dyn Store>,
    listener: UnixListener,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), tonic::transport::Error> {
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
        let kinds = convert::kinds(request.into_inner().kinds).map_err(malformed)?;
        let listing = self
            .store
            .list(&kinds)
            .await
            .map_err(|e| convert::status(&e))?;
        Ok(Response::new(Box::pin(stream::iter(
            parts(listing).into_iter().map(Ok),
        ))))
    }

    async fn transact(
        &self,
        request: Request<wire::TransactRequest>,
    ) -> Result<Response<wire::TransactResponse>, Status> {
        use wire::transact_response::Outcome;
        let ops = request
            .into_inner()
            .ops
            .into_iter()
            .map(convert::op)
            .collect::<Result<_, _>>()
            .map_err(malformed)?;
        let outcome = match self.store.transact(ops).await {
            Ok(revision) => Outcome::Revision(revision),
            Err(StoreError::Conflict { key, current }) => Outcome::Conflict(wire::Conflict {
                key: Some(convert::key_to_wire(&key)),
                current: current.map(|object| convert::object_to_wire(*object)),
            }),
            Err(error) => return Err(convert::status(&error)),
        };
        Ok(Response::new(wire::TransactResponse {
            outcome: Some(outcome),
        }))
    }

    async fn watch(
        &self,
        request: Request<wire::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        let kinds = convert::kinds(request.kinds).map_err(malformed)?;
        let changes = self.store.watch(kinds, request.after);
        let messages = changes
            .take_until(self.stopped.clone())
            .ready_chunks(WATCH_PART_CHANGES)
            .flat_map(|ready| stream::iter(messages(ready)));
        Ok(Response::new(Box::pin(messages)))
    }
}

fn malformed(error: convert::Malformed) -> Status {
    Status::invalid_argument(error.to_string())
}

/// Changes as one message, and what ends the watch as the next.
fn messages(
    ready: Vec<Result<WatchEvent, StoreError>>,
) -> Vec<Result<wire::WatchResponse, Status>> {
    let mut changes = Vec::with_capacity(ready.len());
    let mut end = None;
    for item in ready {
        match item {
            Ok(event) => changes.push(convert::event_to_wire(event)),
            Err(StoreError::Gone { wanted, oldest }) => {
                end = Some(Ok(wire::WatchResponse {
                    changes: Vec::new(),
                    gone: Some(wire::Gone { wanted, oldest }),
                }));
            }
            Err(error) => end = Some(Err(convert::status(&error))),
        }
    }
    let first = (!changes.is_empty()).then_some(Ok(wire::WatchResponse {
        changes,
        gone: None,
    }));
    first.into_iter().chain(end).collect()
}

fn parts(listing: Listing) -> Vec<wire::ListResponse> {
    let revision = listing.revision;
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
                revision,
            });
        }
    }
    if !part.is_empty() || parts.is_empty() {
        parts.push(wire::ListResponse {
            items: part,
            revision,
        });
    }
    parts
}
