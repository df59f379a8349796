//! Requests to the API server, and what it answers.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use http::response::Parts;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use kube::client::Body;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;
use tracing::debug;

use crate::connection;
use crate::credentials::Credentials;
use crate::group::Group;
use crate::settings::{Settings, SettingsError};

const JSON: &str = "application/json";
/// A server that cannot answer so answers the whole object.
const METADATA: &str =
    "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(15);
/// How often a server that is busy (429) is asked again, and how long is waited at most in between.
const BUSY_ATTEMPTS: u32 = 4;
const BUSY_WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// How errors begin that a server passes on from its etcd.
const GRPC: &str = "rpc error: ";
/// Credentials are read anew at most this often.
const REOPEN_EVERY: Duration = Duration::from_secs(2);

/// An API server. Cheap to clone; clones share its connection.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    open: Mutex<Open>,
    pub(crate) group: tokio::sync::OnceCell<Group>,
}

struct Open {
    client: kube::Client,
    credentials: Credentials,
    since: Instant,
    /// Counts how often it was opened.
    times: u64,
}

/// Why a request has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No answer, or one that says that the server cannot answer now. What was to be changed may be, or may yet.
    #[error("API server: {0}")]
    Unavailable(String),
    /// The server's answer.
    #[error("{0}")]
    Refused(Status),
}

/// The API server's own words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Status {
    /// HTTP status.
    pub code: u16,
    /// `NotFound`, `Conflict`, `AlreadyExists`, `Invalid`, …
    pub reason: String,
    /// In words.
    pub message: String,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

/// How a patch says what changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patch {
    /// RFC 7386: fields that are given, `null` removes one.
    Merge,
    /// As `Merge`, lists by their elements' keys. Not for custom resources.
    Strategic,
    /// RFC 6902: operations, all of them or none; one whose `test` fails is refused with 422.
    Json,
    /// Server-side apply, as this field manager.
    Apply(&'static str),
}

impl Error {
    /// Whether the server says that there is no such object.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code == 404)
    }

    /// Whether a test of a JSON patch did not hold.
    pub fn is_failed_test(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code == 422)
    }

    /// Whether somebody else was quicker, or the name is taken.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code == 409)
    }
}

impl Client {
    /// A client. Nothing is asked yet; the files that the settings name are read.
    ///
    /// # Errors
    /// Settings that lead to no server, and files that cannot be read.
    pub async fn new(settings: Settings) -> Result<Self, SettingsError> {
        let group = match &settings.api_group {
            Some(name) => Some(Group::read(name)?),
            None => None,
        };
        let (client, credentials) = connection::open(&settings).await?;
        Ok(Self {
            inner: Arc::new(Inner {
                settings,
                open: Mutex::new(Open {
                    client,
                    credentials,
                    since: Instant::now(),
                    times: 1,
                }),
                group: tokio::sync::OnceCell::new_with(group),
            }),
        })
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// Reads an object, or a list of them: `/api/v1/nodes/n1`. `None`: there is none.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn get(&self, path: &str) -> Result<Option<Value>, Error> {
        match self.request(Method::GET, path, None).await {
            Ok(body) => parse(&body).map(Some),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes an object: `/api/v1/namespaces/default/configmaps`, or `…/serviceaccounts/a/token`.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn create(&self, path: &str, object: &Value) -> Result<Value, Error> {
        let body = object.to_string().into_bytes();
        parse(&self.request(Method::POST, path, Some(body)).await?)
    }

    /// Writes an object; with `metadata.resourceVersion` only where that one stands.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn replace(&self, path: &str, object: &Value) -> Result<Value, Error> {
        let body = object.to_string().into_bytes();
        parse(&self.request(Method::PUT, path, Some(body)).await?)
    }

    /// Changes some fields of an object: `/api/v1/nodes/n1/status`.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn patch(&self, path: &str, patch: Patch, fields: &Value) -> Result<Value, Error> {
        let body = fields.to_string().into_bytes();
        parse(&self.patch_bytes(path, patch, body).await?)
    }

    /// Deletes an object, under the conditions that `options` (`DeleteOptions`) names.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn delete(&self, path: &str, options: &Value) -> Result<Value, Error> {
        let body = options.to_string().into_bytes();
        parse(&self.request(Method::DELETE, path, Some(body)).await?)
    }

    /// Any request with a JSON body.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Bytes, Error> {
        self.answered(method, path, JSON, JSON, body).await
    }

    /// The metadata alone of the objects that a path lists.
    pub(crate) async fn metadata_of_all(&self, path: &str) -> Result<Bytes, Error> {
        let accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        self.answered(Method::GET, path, JSON, accept, None).await
    }

    /// As [`Client::request`], of which only the object's metadata is answered: what was written need not be encoded, sent and
    /// read once more.
    pub(crate) async fn request_for_metadata(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Bytes, Error> {
        self.answered(method, path, JSON, METADATA, Some(body))
            .await
    }

    /// As [`Client::patch`], of which only the object's metadata is answered.
    pub(crate) async fn patch_for_metadata(
        &self,
        path: &str,
        patch: Patch,
        body: Vec<u8>,
    ) -> Result<Bytes, Error> {
        self.patch_answered(path, patch, METADATA, body).await
    }

    pub(crate) async fn patch_bytes(
        &self,
        path: &str,
        patch: Patch,
        body: Vec<u8>,
    ) -> Result<Bytes, Error> {
        self.patch_answered(path, patch, JSON, body).await
    }

    async fn patch_answered(
        &self,
        path: &str,
        patch: Patch,
        accept: &'static str,
        body: Vec<u8>,
    ) -> Result<Bytes, Error> {
        let (kind, path) = match patch {
            Patch::Merge => ("application/merge-patch+json", path.to_owned()),
            Patch::Strategic => ("application/strategic-merge-patch+json", path.to_owned()),
            Patch::Json => ("application/json-patch+json", path.to_owned()),
            Patch::Apply(manager) => (
                "application/apply-patch+yaml",
                format!("{path}?fieldManager={manager}&force=true"),
            ),
        };
        self.answered(Method::PATCH, &path, kind, accept, Some(body))
            .await
    }

    /// Which of Calico's API groups the cluster has.
    pub(crate) async fn group(&self) -> Result<Group, Error> {
        let found = self
            .inner
            .group
            .get_or_try_init(|| Group::discover(self))
            .await?;
        Ok(*found)
    }

    async fn answered(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        accept: &'static str,
        body: Option<Vec<u8>>,
    ) -> Result<Bytes, Error> {
        let body = body.map(Bytes::from);
        let mut attempt = 0;
        loop {
            attempt += 1;
            let request = || build(&method, path, kind, accept, body.clone());
            let whole = async {
                let response = self.send(request).await?;
                let (parts, body) = response.into_parts();
                let body = body.collect().await.map_err(|error| lost(&error))?;
                Ok((parts, body.to_bytes()))
            };
            let (parts, body) = match tokio::time::timeout(ANSWER, whole).await {
                Ok(answer) => answer?,
                Err(_) => {
                    let seconds = ANSWER.as_secs();
                    let text = format!("{method} {path}: no answer after {seconds} s");
                    return Err(Error::Unavailable(text));
                }
            };
            if parts.status.is_success() {
                return Ok(body);
            }
            if busy(&parts, attempt, path).await {
                continue;
            }
            return Err(self.refusal(parts.status, &body, path).await);
        }
    }

    /// A request whose answer is a stream of lines; the caller sees to it that it does not wait for ever.
    pub(crate) async fn stream(&self, path: &str) -> Result<Body, Error> {
        let silent = || Error::Unavailable(format!("GET {path}: no answer in time"));
        let mut attempt = 0;
        loop {
            attempt += 1;
            let request = || build(&Method::GET, path, JSON, JSON, None);
            let response = tokio::time::timeout(ANSWER, self.send(request)).await;
            let (parts, body) = response.map_err(|_| silent())??.into_parts();
            if parts.status.is_success() {
                return Ok(body);
            }
            if busy(&parts, attempt, path).await {
                continue;
            }
            let body = tokio::time::timeout(ANSWER, body.collect()).await;
            let body = body.map_err(|_| silent())?.map_err(|error| lost(&error))?;
            return Err(self.refusal(parts.status, &body.to_bytes(), path).await);
        }
    }

    /// What an answer that is no success says; why we are not known, the server does not say.
    async fn refusal(&self, status: StatusCode, body: &[u8], path: &str) -> Error {
        let refused = refusal(status, body, path);
        if status != StatusCode::UNAUTHORIZED {
            return refused;
        }
        let open = self.inner.open.lock().await;
        let why = open.credentials.refused(SystemTime::now());
        match refused {
            Error::Unavailable(text) => Error::Unavailable(format!("{text}: {why}")),
            refused @ Error::Refused(_) => refused,
        }
    }

    /// Sends a request. Where the server does not know who we are, once more with what the files say now.
    async fn send(
        &self,
        request: impl Fn() -> Request<Body>,
    ) -> Result<http::Response<Body>, Error> {
        let (client, times) = {
            let open = self.inner.open.lock().await;
            (open.client.clone(), open.times)
        };
        let answer = connection::send(&client, &request).await;
        let refused = match &answer {
            Ok(response) => response.status() == StatusCode::UNAUTHORIZED,
            // Certificates may have been replaced, on either side.
            Err(_) => true,
        };
        if !refused || !self.reopen(times).await {
            return answer.map_err(|error| lost(&error));
        }
        match answer {
            Ok(_) => {
                let client = self.inner.open.lock().await.client.clone();
                let answer = connection::send(&client, &request).await;
                answer.map_err(|error| lost(&error))
            }
            // Whether it was done is not known: the caller decides.
            Err(error) => Err(lost(&error)),
        }
    }

    /// Whether there is another connection now than at the time `times`.
    async fn reopen(&self, times: u64) -> bool {
        let mut open = self.inner.open.lock().await;
        if open.times != times {
            return true;
        }
        if open.since.elapsed() < REOPEN_EVERY {
            return false;
        }
        match connection::open(&self.inner.settings).await {
            Ok((client, credentials)) => {
                *open = Open {
                    client,
                    credentials,
                    since: Instant::now(),
                    times: times + 1,
                };
                true
            }
            Err(error) => {
                debug!(
                    error = chain(&error),
                    "credentials for the API server could not be read again"
                );
                open.since = Instant::now();
                false
            }
        }
    }
}

/// Whether the server did nothing because it is busy (429), and may be asked again: after the wait that it asked for.
async fn busy(parts: &Parts, attempt: u32, path: &str) -> bool {
    if parts.status != StatusCode::TOO_MANY_REQUESTS || attempt >= BUSY_ATTEMPTS {
        return false;
    }
    let asked = parts.headers.get(RETRY_AFTER);
    let asked = asked.and_then(|value| value.to_str().ok()?.parse().ok());
    let wait = asked.map_or(BUSY_WAIT.0, Duration::from_secs);
    debug!(path, ?wait, "the API server is busy");
    tokio::time::sleep(with_jitter(wait.min(BUSY_WAIT.1))).await;
    true
}

fn build(
    method: &Method,
    path: &str,
    kind: &str,
    accept: &'static str,
    body: Option<Bytes>,
) -> Request<Body> {
    let mut request = Request::new(match body {
        Some(body) => Body::from(body),
        None => Body::empty(),
    });
    *request.method_mut() = method.clone();
    *request.uri_mut() = path.parse().unwrap_or_default();
    let headers = request.headers_mut();
    headers.insert(ACCEPT, http::HeaderValue::from_static(accept));
    if let Ok(kind) = kind.parse() {
        headers.insert(CONTENT_TYPE, kind);
    }
    request
}

/// What an answer that is no success says.
fn refusal(status: StatusCode, body: &[u8], path: &str) -> Error {
    let mut said: Status = serde_json::from_slice(body).unwrap_or_else(|_| Status {
        message: String::from_utf8_lossy(body).trim().to_owned(),
        ..Status::default()
    });
    said.code = status.as_u16();
    if status.is_server_error() && said.message.starts_with(GRPC) {
        said.message
            .push_str("; so an API server says that it does not reach its etcd");
    }
    if said.reason.is_empty() && status == StatusCode::NOT_FOUND {
        "NoSuchResource".clone_into(&mut said.reason);
        said.message = format!("the API server has no {path}; are Calico's CRDs installed?");
    }
    // Not for good: other credentials may come, the server may find its feet.
    let passing = status.is_server_error()
        || matches!(
            status,
            StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
        );
    if passing {
        Error::Unavailable(said.to_string())
    } else {
        Error::Refused(said)
    }
}

pub(crate) fn lost(error: &dyn std::error::Error) -> Error {
    let text = chain(error);
    // What follows counts the seconds: who tries again says the same thing once.
    let constant = text.split(": verification time").next();
    Error::Unavailable(constant.unwrap_or(&text).to_owned())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = error.source();
    }
    text
}

fn parse(body: &[u8]) -> Result<Value, Error> {
    serde_json::from_slice(body).map_err(|error| Error::Unavailable(format!("not JSON: {error}")))
}

/// Half to all of it more, so that those who were turned away together do not come back together.
pub(crate) fn with_jitter(wait: Duration) -> Duration {
    let chance = RandomState::new().hash_one(0) % 1000;
    let part = u32::try_from(chance).unwrap_or_default();
    wait + wait * part / 2000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_that_a_server_passes_on_from_its_etcd_name_it() {
        let message = "rpc error: code = Unavailable desc = keepalive ping failed";
        let body = serde_json::json!({"message": message}).to_string();
        let said = |status| refusal(status, body.as_bytes(), "/api/v1/nodes").to_string();
        let passed_on = said(StatusCode::INTERNAL_SERVER_ERROR);
        assert!(passed_on.contains(message), "{passed_on}");
        assert!(passed_on.contains("etcd"), "{passed_on}");
        assert!(!said(StatusCode::FORBIDDEN).contains("etcd"));
    }
}
