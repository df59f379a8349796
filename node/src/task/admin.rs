//! Sockets for people and probes: the admin socket, health, metrics.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use api::admin::{Peer, Problem, Route, Setting, Status};
use api::params::Params;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::health::{BGP_START_WINDOW, Health, Mesh, THRESHOLD_MS};
use crate::task::bgp::{Asker, status};
use crate::task::calc::CalcView;
use crate::task::calc::cluster::Live;
use crate::task::dataplane::DataplaneView;
use crate::telemetry::render;

/// What the answers are made of.
pub struct Admin {
    /// Parts of `/status` that do not change.
    pub status: Status,
    /// `/config`: the settings in force.
    pub live: Live,
    /// Facts for probes.
    pub health: Health,
    /// The speaker, when there is one.
    pub bgp: Option<Asker>,
    /// The calculation's newest account of itself.
    pub calc: watch::Receiver<CalcView>,
    /// The dataplane's newest account of itself.
    pub dataplane: watch::Receiver<DataplaneView>,
}

type Shared = Arc<Admin>;

/// Routes of the admin socket.
pub fn admin_routes(admin: Shared) -> Router {
    Router::new()
        .route("/status", get(get_status))
        .route("/bgp/peers", get(get_peers))
        .route("/bgp/routes", get(get_routes))
        .route("/problems", get(get_problems))
        .route("/config", get(get_config))
        .route("/datastore/accept", post(accept_datastore))
        .route("/health/felix-live", get(get_liveness))
        .route("/health/felix-ready", get(get_readiness))
        .route("/health/bird-live", get(get_bgp_live))
        .route("/health/bird-ready", get(get_bgp_ready))
        .route("/health/bird6-ready", get(get_bgp6_ready))
        .with_state(admin)
}

/// `/config`: every setting, with where it comes from.
fn settings_shown(params: &Params) -> Vec<Setting> {
    params
        .settings()
        .iter()
        .map(|setting| Setting {
            name: setting.row.names[0].to_owned(),
            value: setting.text.clone(),
            origin: setting.origin.to_string(),
        })
        .collect()
}

/// `/liveness` and `/readiness`, as Felix has them.
pub fn health_routes(admin: Shared) -> Router {
    Router::new()
        .route("/liveness", get(get_liveness))
        .route("/readiness", get(get_readiness))
        .with_state(admin)
}

/// `/metrics`.
pub fn metrics_routes(registry: Arc<Registry>) -> Router {
    Router::new()
        .route("/metrics", get(get_metrics))
        .with_state(registry)
}

impl Admin {
    async fn peers(&self) -> Vec<Peer> {
        let Some(bgp) = &self.bgp else {
            return Vec::new();
        };
        let (now, wall) = (Instant::now(), SystemTime::now());
        let peers = bgp.peers().await.unwrap_or_default();
        peers
            .iter()
            .map(|peer| status::peer(peer, now, wall))
            .collect()
    }

    /// Whether the sessions with the peers of a family stand that are waited for; within `window` after the start, all of them.
    pub async fn bgp_ready(
        &self,
        window: Duration,
        of_family: fn(&IpAddr) -> bool,
    ) -> Result<(), String> {
        let Some(bgp) = &self.bgp else {
            return Err("BGP is not running on this node".to_owned());
        };
        if let Some(failed) = bgp.listen_problems().first() {
            let Problem { subject, reason } = failed;
            return Err(format!("BGP is not ready: {subject}: {reason}"));
        }
        let mut peers = self.peers().await;
        peers.retain(|peer| of_family(&peer.address));
        let mesh = if self.calc.borrow().blocks_lead_to_pods {
            Mesh::Beside
        } else {
            Mesh::LeadsToPods
        };
        self.health.bgp_ready(&peers, mesh, window, Instant::now())
    }

    /// Whether the node's network is there: all that the probes ask, and every session.
    pub async fn network_ready(&self) -> Result<(), String> {
        self.health.ready(Instant::now())?;
        match self.bgp {
            Some(_) => self.bgp_ready(Duration::MAX, |_| true).await,
            None => Ok(()),
        }
    }

    async fn problems(&self) -> Vec<Problem> {
        let mut problems = self.calc.borrow().problems.clone();
        problems.extend(self.dataplane.borrow().problems.iter().cloned());
        problems.extend(self.health.namesake().map(|reason| Problem {
            subject: format!("Node({})", self.status.node),
            reason,
        }));
        let datastore = [
            self.health.datastore_unknown(),
            self.health.datastore_lost(),
        ];
        problems.extend(datastore.into_iter().flatten().map(|reason| Problem {
            subject: "datastore".to_owned(),
            reason,
        }));
        problems.extend(kept(self.health.objects_kept()));
        problems.extend(self.health.without_effect());
        if let Some(bgp) = &self.bgp {
            problems.extend(bgp.problems().await);
        }
        problems
    }
}

/// Objects that count though they are not in the datastore, as a problem.
fn kept(objects: usize) -> Option<Problem> {
    (objects > 0).then(|| Problem {
        subject: "datastore".to_owned(),
        reason: format!(
            "it was accepted without {objects} objects of other nodes (Nodes, blocks, affinities), which count until this agent \
             starts anew: start it again once every node with pods has written back"
        ),
    })
}

async fn get_status(State(admin): State<Shared>) -> Json<Status> {
    let mut status = admin.status.clone();
    for peer in admin.peers().await {
        *status.sessions.entry(peer.state).or_default() += 1;
    }
    status.datastore_in_sync = admin.health.datastore_in_sync();
    status.dataplane_in_sync = admin.health.first_apply_done();
    status.bgp_selection_complete = admin.health.selection_complete();
    {
        let calc = admin.calc.borrow();
        status.local_endpoints = calc.local_endpoints;
        // Until the object was read, the address of the start.
        status.ipv4_address = calc.node_ipv4.or(status.ipv4_address);
    }
    {
        let dataplane = admin.dataplane.borrow();
        status.rows_wanted = dataplane.rows_wanted;
        status.rows_pending = dataplane.rows_pending;
    }
    status.problems = admin.problems().await.len();
    Json(status)
}

async fn get_peers(State(admin): State<Shared>) -> Json<Vec<Peer>> {
    Json(admin.peers().await)
}

async fn get_routes(State(admin): State<Shared>) -> Json<Vec<Route>> {
    let routes = match &admin.bgp {
        Some(bgp) => bgp.routes().await.unwrap_or_default(),
        None => Vec::new(),
    };
    let calc = admin.calc.borrow();
    let shown = |route| status::route(route, &calc.lost_next_hops);
    Json(routes.iter().map(shown).collect())
}

async fn get_problems(State(admin): State<Shared>) -> Json<Vec<Problem>> {
    Json(admin.problems().await)
}

async fn accept_datastore(State(admin): State<Shared>) -> Response {
    if admin.health.datastore_unknown().is_none() {
        let reason = "the datastore is the one that was read before; there is nothing to accept\n";
        return (StatusCode::CONFLICT, reason).into_response();
    }
    admin.health.accept_datastore();
    (StatusCode::OK, "accepted\n").into_response()
}

async fn get_config(State(admin): State<Shared>) -> Json<Vec<Setting>> {
    Json(settings_shown(&admin.live.borrow()))
}

async fn get_bgp_live(State(admin): State<Shared>) -> Response {
    if admin.bgp.is_none() {
        return verdict(Err("BGP is not running on this node".to_owned()));
    }
    verdict(admin.health.bgp_live(Instant::now()))
}

async fn get_bgp_ready(State(admin): State<Shared>, uri: Uri) -> Response {
    bgp_verdict(&admin, &uri, IpAddr::is_ipv4).await
}

async fn get_bgp6_ready(State(admin): State<Shared>, uri: Uri) -> Response {
    bgp_verdict(&admin, &uri, IpAddr::is_ipv6).await
}

async fn bgp_verdict(admin: &Admin, uri: &Uri, of_family: fn(&IpAddr) -> bool) -> Response {
    let window = match threshold(uri.query()) {
        Ok(window) => window,
        Err(text) => return (StatusCode::BAD_REQUEST, text).into_response(),
    };
    verdict(admin.bgp_ready(window, of_family).await)
}

/// The window that a query names, else the usual one.
fn threshold(query: Option<&str>) -> Result<Duration, String> {
    let Some(query) = query else {
        return Ok(BGP_START_WINDOW);
    };
    query
        .strip_prefix(THRESHOLD_MS)
        .and_then(|rest| rest.strip_prefix('=')?.parse().ok())
        .map(Duration::from_millis)
        .ok_or_else(|| format!("{query:?}: allowed: {THRESHOLD_MS}=NUMBER\n"))
}

async fn get_liveness(State(admin): State<Shared>) -> Response {
    verdict(admin.health.live(Instant::now()))
}

async fn get_readiness(State(admin): State<Shared>) -> Response {
    verdict(admin.health.ready(Instant::now()))
}

async fn get_metrics(State(registry): State<Arc<Registry>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([("content-type", kind)], render(&registry)).into_response()
}

/// 200, or 503 with the reason.
fn verdict(result: Result<(), String>) -> Response {
    match result {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()).into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}
