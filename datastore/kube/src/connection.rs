//! The connection: HTTP/2 over TLS, all requests side by side in it. Against a server or proxy that only speaks HTTP/1.1,
//! a few connections.

use std::time::Duration;

use http::{Request, Response};
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ConfigExt};
use tower::{BoxError, ServiceBuilder};

use crate::credentials::Credentials;
use crate::settings::{Settings, SettingsError};

/// How long the server may take to be reached.
const CONNECT: Duration = Duration::from_secs(5);
/// A connection is asked this often whether its other end is there, and given up when that does not answer in time.
const PING_EVERY: Duration = Duration::from_secs(15);
const PING_PATIENCE: Duration = Duration::from_secs(10);
/// Idle connections that are kept where one does not do.
const IDLE_MAX: usize = 4;

/// How often a request is sent, at most, that connections did not take which the server closed.
const TAKEN_ATTEMPTS: u32 = 5;

/// A client that connects at its first request, and who it says it is.
pub(crate) async fn open(
    settings: &Settings,
) -> Result<(kube::Client, Credentials), SettingsError> {
    let config = settings.load().await?;
    let credentials = Credentials::of(&config.auth_info);
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(CONNECT));
    http.set_keepalive(Some(PING_EVERY));
    let mut tls = HttpsConnectorBuilder::new()
        .with_tls_config(config.rustls_client_config()?)
        .https_or_http();
    if let Some(name) = &config.tls_server_name
        && let Ok(name) = name.clone().try_into()
    {
        tls = tls.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    let connector = tls.enable_http1().enable_http2().wrap_connector(http);
    let client: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(IDLE_MAX)
        .http2_keep_alive_interval(PING_EVERY)
        .http2_keep_alive_timeout(PING_PATIENCE)
        .http2_keep_alive_while_idle(true)
        .build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(client);
    let client = kube::Client::new(service, config.default_namespace.clone());
    Ok((client, credentials))
}

/// Sends a request, and again by another connection where the first one was closed and the server says that it did not take it.
pub(crate) async fn send(
    client: &kube::Client,
    request: impl Fn() -> Request<Body>,
) -> kube::Result<Response<Body>> {
    let mut attempt = 1;
    loop {
        match client.send(request()).await {
            Err(error) if attempt < TAKEN_ATTEMPTS && not_taken(&error) => attempt += 1,
            answer => return answer,
        }
    }
}

/// Whether the server closed the connection in order (GOAWAY with `NO_ERROR`) and took nothing of this request: RFC 9113 section 6.8.
/// So it does to who is refused with 401, and now and then to everybody, that clients spread over several servers
/// (`--goaway-chance`); other requests of the connection go down with it.
fn not_taken(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(|error| {
        error.downcast_ref::<h2::Error>().is_some_and(|error| {
            error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR)
        })
    })
}
