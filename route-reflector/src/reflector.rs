//! The tasks of a reflector: the node's, but for dataplane, CNI and what keeps the host's addresses.

use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use anyhow::{Context, bail};
use api::admin::Status;
use api::key::{Key, Kind};
use api::object::Object;
use api::params::Params;
use datastore::scope::Scope;
use felix::calc::{Graph, KernelFacts, LearnedRoutes, Listen, Settings};
use node::agent::seed;
use node::health::{Health, Loop, REPORT_EVERY};
use node::instance::{self, HostLock};
use node::mailbox::{self, mailbox};
use node::passwords::PasswordTask;
use node::serve::{Serve, finish};
use node::startup::host::{LiveHost, kernel_hostname};
use node::startup::{Identity, Startup, StartupError, Waits};
use node::store::Opened;
use node::task::admin::Admin;
use node::task::bgp::BgpTask;
use node::task::calc::{CalcTask, CalcView, Inbox, cluster};
use node::task::dataplane::DataplaneView;
use node::task::endpoint_status::Endpoints;
use node::task::watch::{OnDemand, WatchTask};
use node::telemetry::Metrics;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::Arguments;
use crate::resources::Resources;

/// What a reflector needs of the datastore. It never asks for pods and blocks.
const KINDS: [Kind; 5] = [
    Kind::IPPool,
    Kind::Node,
    Kind::BGPConfiguration,
    Kind::BGPPeer,
    Kind::BGPFilter,
];
/// Values taken at once from a mailbox that nobody needs.
const BATCH: usize = 1024;

/// Where the objects come from.
enum Source {
    Store(Opened),
    Files(Resources),
}

/// Runs until the token is cancelled.
pub(crate) async fn run(
    params: Params,
    arguments: Arguments,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let named = arguments.node.as_deref().or(params.nodename.as_deref());
    let started = node::task::timestamp(SystemTime::now()).rfc3339();
    let holder = instance::holder("tortie-rr", named, &started);
    let _lock = HostLock::take(&arguments.admin_socket, &holder)?;
    let (identity, source) = match arguments.resources {
        Some(path) => {
            let resources = Resources::read(path).context("--resources")?;
            let named = arguments.node.or_else(|| params.nodename.clone());
            let identity = identity_of(&resources, named)?;
            (identity, Source::Files(resources))
        }
        None => {
            let named = arguments
                .node
                .or_else(|| params.node_name(None, &kernel_hostname()));
            let name = named.ok_or(StartupError::NoName)?;
            let opened = node::store::open(&params).await?;
            let kubernetes = opened.kubernetes().await?;
            let host = LiveHost::read(&params)
                .await
                .context("reading the host's interfaces")?;
            let startup = Startup {
                waits: Waits::default(),
                params: &params,
                host: &host,
                store: Arc::clone(&opened.store),
                kubernetes,
            };
            let identity = tokio::select! {
                identity = startup.announce(name) => identity?,
                () = cancel.cancelled() => return Ok(()),
            };
            (identity, Source::Store(opened))
        }
    };
    info!(
        node = identity.name,
        address = identity.ipv4.map(tracing::field::display),
        "route reflector started"
    );
    start(params, identity, source, &arguments.admin_socket, cancel).await
}

/// Which Node of the files it is, and its address.
fn identity_of(resources: &Resources, named: Option<String>) -> anyhow::Result<Identity> {
    let content = resources.content();
    let name = match named {
        Some(name) => name,
        None => content.only_reflector().map_err(|why| {
            anyhow::anyhow!("which Node is this? Name it with --node or NODENAME: {why}")
        })?,
    };
    let key = Key::new(Kind::Node, name.as_str());
    let node = match content
        .objects
        .get(&key)
        .map(|found| (&found.place, &found.object))
    {
        Some((_, Ok(Object::Node(node)))) => node,
        Some((place, Err(why))) => bail!("{place}: {key}: {why}"),
        Some((_, Ok(_))) | None => bail!("{key} does not stand in the resources"),
    };
    let bgp = node.spec.bgp.as_ref();
    if bgp.is_none_or(|bgp| bgp.ipv4_address.is_none() && bgp.ipv6_address.is_none()) {
        bail!("{key}: spec.bgp.ipv4Address: missing: it is where the reflector listens");
    }
    Ok(Identity {
        ipv4: bgp.and_then(|bgp| bgp.ipv4_address),
        ipv6: bgp.and_then(|bgp| bgp.ipv6_address),
        router_id: None,
        name,
    })
}

fn graph_settings(params: &Params, name: &str, source: &Source) -> Settings {
    // The kernel is not this process's: whether pods' devices filter does not matter.
    let mut settings = Settings::from_params(name, params, &KernelFacts::default());
    settings.vxlan_enabled = Some(false);
    settings.ipip_enabled = Some(false);
    // No packet passes, and peers hear of the best path only.
    settings.multipath = 1;
    // Nor would one to a Service's address be translated here.
    settings.announces_services = false;
    if matches!(source, Source::Files(_)) {
        settings.learned_routes = LearnedRoutes::All;
        settings.listen = Listen::NodeAddresses;
    }
    settings
}

async fn start(
    params: Params,
    identity: Identity,
    source: Source,
    admin_socket: &Path,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let health = Health::new(Instant::now(), SystemTime::now());
    let (metrics, registry) = Metrics::new(&identity.name);
    let mut tasks = JoinSet::new();
    let (calc_inbox, facts) = Inbox::new();
    let (desired_in, desired) = mailbox();
    let (down, down_out) = mailbox();
    let (view_in, view) = watch::channel(CalcView::default());
    let settings = graph_settings(&params, &identity.name, &source);
    let secrets = match &source {
        Source::Store(opened) => opened.secrets.clone(),
        Source::Files(_) => None,
    };
    let (passwords, wanted_passwords) =
        PasswordTask::new(&params, secrets, calc_inbox.clone(), cancel.clone());
    tasks.spawn(passwords.run());
    let calc = CalcTask {
        graph: Graph::new(settings),
        inbox: facts,
        dataplane: desired_in,
        bgp: Some(down),
        settings: cluster::Settings::fixed(identity.name.clone(), Arc::new(params.clone())),
        // No pod lives here.
        endpoints: watch::channel(Endpoints::new()).0,
        wanted_passwords,
        view: view_in,
        health: health.clone(),
        metrics: metrics.clone(),
        cancel: cancel.clone(),
    };
    tasks.spawn(calc.run());

    // There is no kernel to write: what would be written is let go, and best routes go nowhere but to peers.
    health.set_first_apply_done();
    calc_inbox.whole_kernel(Vec::new());
    tasks.spawn(let_go(desired, Some(health.clone()), cancel.clone()));
    let (routes_inbox, routes) = Inbox::new();
    tasks.spawn(let_go(routes, None, cancel.clone()));
    let speaker = BgpTask {
        // Peers may still hold what a former process sent, also one on another machine, and keep it until all of it is sent
        // again (RFC 4724 §4.1). No packet passes here, so all still forwards. A peer that holds nothing waits for nobody.
        restarting: true,
        seed: seed(&identity.name),
        down: down_out,
        calc: routes_inbox,
        health: health.clone(),
        metrics,
        cancel: cancel.clone(),
    };
    let (asker, speaking) = speaker.start();
    tasks.spawn(speaking);

    match source {
        Source::Store(opened) => {
            for kind in Graph::KINDS
                .into_iter()
                .filter(|kind| !KINDS.contains(kind))
            {
                calc_inbox.in_sync(kind, 0.into());
            }
            let watcher = WatchTask {
                store: opened.store,
                kinds: KINDS.map(|kind| (kind, Scope::All)).to_vec(),
                on_demand: OnDemand::default(),
                calc: calc_inbox,
                ipam: None,
                socket: opened.place,
                node: identity.name.clone(),
                health: health.clone(),
                notes: None,
                cancel: cancel.clone(),
            };
            tasks.spawn(watcher.run());
        }
        Source::Files(resources) => {
            tasks.spawn(resources.follow(calc_inbox, cancel.clone()));
        }
    }

    let (_, dataplane) = watch::channel(DataplaneView::default());
    let (_, live) = watch::channel(Arc::new(params));
    let admin = Arc::new(Admin {
        status: Status {
            node: identity.name,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: node::task::timestamp(health.started()).rfc3339(),
            ipv4_address: identity.ipv4,
            router_id: identity.router_id,
            backend: "route reflector".to_owned(),
            ..Status::default()
        },
        live: live.clone(),
        health,
        bgp: Some(asker),
        calc: view,
        dataplane,
    });
    if let Some(folder) = admin_socket.parent() {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let serve = Serve {
        live: &live,
        admin_socket,
        cancel: &cancel,
    };
    serve.start(&mut tasks, admin, Arc::new(registry)).await?;
    finish(tasks, &cancel).await
}

/// Empties a mailbox. `health` is told that this goes on when probes ask for the loop it stands in for.
async fn let_go<K: Eq + std::hash::Hash + Clone, V>(
    mut pending: mailbox::Receiver<K, V>,
    health: Option<Health>,
    cancel: CancellationToken,
) {
    let mut tick = tokio::time::interval(REPORT_EVERY);
    loop {
        tokio::select! {
            batch = pending.take(BATCH) => if batch.is_none() {
                // Its writer has ended, which ends the process or follows from its end.
                cancel.cancelled().await;
                return;
            },
            _ = tick.tick() => {}
            () = cancel.cancelled() => return,
        }
        if let Some(health) = &health {
            health.report(Loop::Dataplane, Instant::now());
        }
    }
}
