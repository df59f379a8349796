//! The agent as a whole: which tasks there are, what joins them, in which order they begin and end.

use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use api::admin::Status;
use api::key::Kind;
use api::params::{Backend, Params};
use datastore::scope::Scope;
use felix::calc::{Graph, KernelFacts, Settings};
use felix::desired::SysctlKey;
use felix::reconcile::Reconciler;
use felix_io::Kernel;
use felix_io::workload::Threads;
use ipam::Ipam;
use prometheus_client::registry::Registry;
use regex::Regex;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::health::Health;
use crate::instance::{self, HostLock, Instance};
use crate::kubernetes::Kubernetes;
use crate::mailbox::{self, mailbox};
use crate::passwords::PasswordTask;
use crate::serve::{Serve, Starting, finish};
use crate::socket::Socket;
use crate::startup::address::Host as _;
use crate::startup::host::{LiveHost, breaks_checksums, kernel_hostname, kernel_release};
use crate::startup::tunnel::announcement::Accepting;
use crate::startup::{Identity, Started, Startup, StartupError, Waits, files};
use crate::store::Opened;
use crate::task::admin::Admin;
use crate::task::bgp::{Asker, BgpTask, DownKey};
use crate::task::calc::cluster::Live;
use crate::task::calc::{CalcTask, CalcView, Inbox, cluster};
use crate::task::cni::addresses::Addresses;
use crate::task::cni::locks::Locks;
use crate::task::cni::{CniTask, Pods};
use crate::task::collector::Collector;
use crate::task::completion::Completion;
use crate::task::dataplane::{Adopted, DataplaneTask, DataplaneView, WAITS, Wait};
use crate::task::endpoint_status::{EndpointStatusTask, Endpoints};
use crate::task::keeper::Keeper;
use crate::task::namesake::Namesake;
use crate::task::node_status::{NodeStatusTask, Sources};
use crate::task::timestamp;
use crate::task::token::{self, TokenTask};
use crate::task::watch::{OnDemand, WatchTask};
use crate::task::without_effect::WithoutEffect;
use crate::telemetry::{self, Metrics};

/// Runs the agent until the token is cancelled. What was set up in the kernel stays.
pub async fn run(params: Params, cancel: CancellationToken) -> anyhow::Result<()> {
    telemetry::set_severity(params.startup_log_level);
    let name = params.node_name(files::read_nodename(&params).as_deref(), &kernel_hostname());
    let started = SystemTime::now();
    let instance = Instance::new(timestamp(started).rfc3339()).context("naming this run")?;
    let host = LiveHost::read(&params)
        .await
        .context("reading the host's interfaces")?;
    let opened = crate::store::open(&params).await?;
    let kubernetes = opened.kubernetes().await?;
    // Before anything is written or the store is asked: what another agent of this host has is not to be touched.
    let holder = instance::holder("tortie-node", name.as_deref(), &instance.started);
    let _lock = HostLock::take(Path::new(api::admin::SOCKET_PATH), &holder)?;
    let name = name.ok_or(StartupError::NoName)?;
    let startup = Startup {
        waits: Waits::default(),
        params: &params,
        host: &host,
        store: Arc::clone(&opened.store),
        kubernetes: kubernetes.clone(),
    };
    let ipam = Arc::new(Ipam::new(Arc::clone(&opened.store), name.clone()));
    let (metrics, registry) = Metrics::new(&name);
    let registry = Arc::new(registry);
    let starting = Starting {
        params: &params,
        admin_socket: Path::new(api::admin::SOCKET_PATH),
        note: files::notes().read,
        waits: startup.waits.clone(),
        metrics: metrics.clone(),
        registry: Arc::clone(&registry),
    };
    let Started {
        identity,
        may_lack_others,
    } = tokio::select! {
        started = starting.beside(startup.run(name, &ipam)) => started?,
        () = cancel.cancelled() => return Ok(()),
    };
    let settings = startup.settings(&identity.name).await?;
    telemetry::set_severity(settings.log_severity_screen);
    info!(
        node = identity.name,
        address = identity.ipv4.map(tracing::field::display),
        address6 = identity.ipv6.map(tracing::field::display),
        router_id = identity.router_id.map(tracing::field::display),
        "node started"
    );
    let host_mtu_bytes = Regex::new(&settings.mtu_iface_pattern)
        .ok()
        .and_then(|pattern| host.mtu_bytes(&pattern));
    let agent = Agent {
        params: Arc::new(settings),
        identity,
        may_lack_others,
        ipam,
        metrics,
        registry,
        instance,
        started,
        opened,
        kubernetes,
        last_mtu_bytes: files::read_mtu().or(host_mtu_bytes),
        has_ipv6: host.has_ipv6(),
        cancel,
    };
    agent.run().await
}

/// What the tasks are made from.
struct Agent {
    params: Arc<Params>,
    identity: Identity,
    /// What other nodes have may not stand in the datastore yet: what leads to them in the kernel stays.
    may_lack_others: bool,
    ipam: Arc<Ipam>,
    metrics: Metrics,
    registry: Arc<Registry>,
    instance: Instance,
    started: SystemTime,
    opened: Opened,
    kubernetes: Option<Arc<dyn Kubernetes>>,
    /// MTU for pods while the graph knows none: the last one known, else the host's.
    last_mtu_bytes: Option<u32>,
    has_ipv6: bool,
    cancel: CancellationToken,
}

impl Agent {
    /// Starts every task, waits for the end and for each of them.
    async fn run(self) -> anyhow::Result<()> {
        let health = Health::new(Instant::now(), self.started);
        let metrics = self.metrics.clone();
        let settings = self.graph_settings();
        let mut tasks = JoinSet::new();

        let (calc_inbox, calc_facts) = Inbox::new();
        let (desired_in, desired) = mailbox();
        // Full: the CNI requests wait.
        let (waits_in, waits) = mpsc::channel(WAITS);
        let (calc_view_in, calc_view) = watch::channel(CalcView::default());
        let (dataplane_view_in, dataplane_view) = watch::channel(DataplaneView::default());
        let (accepting_in, accepting) = watch::channel(Accepting::new());

        // Subscribed before the first read, so that no change falls between.
        let kernel = Kernel::open().context("opening the kernel's netlink sockets")?;
        let events = kernel
            .events()
            .context("subscribing to the kernel's notifications")?;
        let (adopted_in, adopted) = oneshot::channel();
        let (felix, live) =
            cluster::Settings::live(self.identity.name.clone(), Arc::clone(&self.params));
        let mut reconciler = Reconciler::new(settings.ownership());
        if self.may_lack_others {
            reconciler.keep_unasked();
        }
        let dataplane = DataplaneTask {
            reconciler,
            kernel,
            events,
            desired,
            waits,
            calc: calc_inbox.clone(),
            view: dataplane_view_in,
            accepting: accepting_in,
            health: health.clone(),
            metrics: metrics.clone(),
            live: live.clone(),
            cancel: self.cancel.clone(),
        };
        tasks.spawn(dataplane.run(adopted_in));

        let speaks_bgp = self.params.backend == Backend::Bgp;
        let (down, down_out) = mailbox();
        let (passwords, wanted_passwords) = PasswordTask::new(
            &self.params,
            self.opened.secrets.clone(),
            calc_inbox.clone(),
            self.cancel.clone(),
        );
        tasks.spawn(passwords.run());
        let (endpoints_in, endpoints) = watch::channel(Endpoints::new());
        let calc = CalcTask {
            graph: Graph::new(settings.clone()),
            inbox: calc_facts,
            dataplane: desired_in,
            bgp: speaks_bgp.then_some(down),
            view: calc_view_in,
            settings: felix,
            endpoints: endpoints_in,
            wanted_passwords,
            health: health.clone(),
            metrics: metrics.clone(),
            cancel: self.cancel.clone(),
        };
        tasks.spawn(calc.run());

        let watcher = WatchTask {
            store: Arc::clone(&self.opened.store),
            kinds: watched_kinds(&self.identity.name),
            on_demand: OnDemand {
                kinds: Graph::ON_DEMAND.map(|kind| (kind, Scope::All)).to_vec(),
                from_the_start: !self.params.advertise_cluster_ips.is_empty(),
            },
            calc: calc_inbox.clone(),
            ipam: Some(Arc::clone(&self.ipam)),
            socket: self.opened.place.clone(),
            node: self.identity.name.clone(),
            health: health.clone(),
            notes: Some(files::notes()),
            cancel: self.cancel.clone(),
        };
        tasks.spawn(watcher.run());

        let bgp = self
            .start_bgp(
                &mut tasks,
                adopted,
                down_out,
                &calc_inbox,
                &health,
                &metrics,
            )
            .await;
        let keeper = Keeper {
            params: Arc::clone(&self.params),
            node: self.identity.name.clone(),
            store: Arc::clone(&self.opened.store),
            ipam: Arc::clone(&self.ipam),
            kubernetes: self.kubernetes.clone(),
            view: calc_view.clone(),
            accepting,
            calc: calc_inbox.clone(),
            last_mtu_bytes: self.last_mtu_bytes,
            health: health.clone(),
            cancel: self.cancel.clone(),
        };
        tasks.spawn(keeper.run());
        if self.params.backend != Backend::None {
            tasks.spawn(self.namesake(&calc_view, &health).run());
        }

        tasks.spawn(self.node_status(bgp.clone(), &health).run());
        let without_effect = self.without_effect(&health, &metrics);
        if let Some(prefix) = &self.params.endpoint_status_path_prefix {
            let status = EndpointStatusTask {
                directory: Path::new(prefix).join("endpoint-status"),
                endpoints: endpoints.clone(),
                view: calc_view.clone(),
                settings: settings.clone(),
                waits: waits_in.clone(),
                cancel: self.cancel.clone(),
            };
            tasks.spawn(status.run());
        }
        tasks.spawn(
            self.collector(&calc_inbox, &calc_view, &health, &metrics, &settings)
                .run(),
        );
        let serving = Serving {
            ipam: Arc::clone(&self.ipam),
            endpoints,
            calc: calc_inbox,
            calc_view: calc_view.clone(),
            waits: waits_in,
            settings,
            health: health.clone(),
            metrics,
        };
        self.serve_pods(&mut tasks, serving)?;
        let admin = Arc::new(Admin {
            status: self.status(&health),
            live: live.clone(),
            health,
            bgp,
            calc: calc_view,
            dataplane: dataplane_view,
        });
        tasks.spawn(self.completion(&admin).run());
        tasks.spawn(without_effect.run());
        if let Some(token) = self.token() {
            tasks.spawn(token.run());
        }
        tasks.spawn(follow_severity(live.clone(), self.cancel.clone()));
        let serve = Serve {
            live: &live,
            admin_socket: Path::new(api::admin::SOCKET_PATH),
            cancel: &self.cancel,
        };
        serve
            .start(&mut tasks, admin, Arc::clone(&self.registry))
            .await?;
        finish(tasks, &self.cancel).await
    }

    fn completion(&self, admin: &Arc<Admin>) -> Completion {
        let admin = Arc::clone(admin);
        let node = self.params.kubernetes_node.as_ref();
        Completion {
            ready: Box::new(move || {
                let admin = Arc::clone(&admin);
                Box::pin(async move { admin.network_ready().await })
            }),
            node: node.unwrap_or(&self.identity.name).clone(),
            kubernetes: self.kubernetes.clone(),
            shutdown_file: self.params.shutdown_timestamp_file.clone().into(),
            cancel: self.cancel.clone(),
        }
    }

    fn collector(
        &self,
        calc: &Inbox,
        view: &watch::Receiver<CalcView>,
        health: &Health,
        metrics: &Metrics,
        settings: &Settings,
    ) -> Collector {
        Collector {
            interface_prefix: self.interface_prefix(),
            blocks_from: settings.blocks_from,
            ipam: Arc::clone(&self.ipam),
            calc: calc.clone(),
            kubernetes: self.kubernetes.clone(),
            view: view.clone(),
            health: health.clone(),
            may_lack_others: self.may_lack_others,
            grace: self.params.ipam_leak_grace_period,
            metrics: metrics.clone(),
            cancel: self.cancel.clone(),
        }
    }

    /// Beginning of the names of the devices that are made for pods.
    fn interface_prefix(&self) -> String {
        let prefixes = &self.params.interface_prefixes;
        prefixes
            .first()
            .cloned()
            .unwrap_or_else(|| "cali".to_owned())
    }

    fn without_effect(&self, health: &Health, metrics: &Metrics) -> WithoutEffect {
        let node = self.params.kubernetes_node.as_ref();
        WithoutEffect {
            kubernetes: self.kubernetes.clone(),
            node: node.unwrap_or(&self.identity.name).clone(),
            store: Arc::clone(&self.opened.store),
            health: health.clone(),
            metrics: metrics.clone(),
            cancel: self.cancel.clone(),
        }
    }

    fn token(&self) -> Option<TokenTask> {
        let kubernetes = self.kubernetes.clone()?;
        self.params.manage_cni.then(|| TokenTask {
            kubernetes,
            service_account: self.params.cni_service_account.clone(),
            refresh: self.params.cni_token_refresh_interval,
            directory: token::DIRECTORY.into(),
            own_account: token::OWN_ACCOUNT.into(),
            cancel: self.cancel.clone(),
        })
    }

    fn namesake(&self, view: &watch::Receiver<CalcView>, health: &Health) -> Namesake {
        Namesake {
            instance: self.instance.clone(),
            node: self.identity.name.clone(),
            store: Arc::clone(&self.opened.store),
            view: view.clone(),
            health: health.clone(),
            every: self.params.autodetect_poll_interval,
            cancel: self.cancel.clone(),
        }
    }

    fn node_status(&self, bgp: Option<Asker>, health: &Health) -> NodeStatusTask {
        let sources = Sources {
            bgp,
            router_id: self.identity.router_id,
            health: health.clone(),
        };
        NodeStatusTask {
            node: self.identity.name.clone(),
            store: Arc::clone(&self.opened.store),
            facts: Box::new(move |classes| Box::pin(sources.clone().ask(classes))),
            cancel: self.cancel.clone(),
        }
    }

    fn graph_settings(&self) -> Settings {
        let key = SysctlKey("net/ipv4/conf/default/rp_filter".into());
        let rp_filter = felix_io::sysctl::read(&key).unwrap_or_else(|error| {
            warn!(%error, "taking rp_filter=1 for pods' devices");
            "1".to_owned()
        });
        let kernel = KernelFacts {
            rp_filter: rp_filter.into(),
            has_ipv6: self.has_ipv6,
            breaks_checksums: breaks_checksums(&kernel_release()),
            has_next_hop_objects: felix_io::kernel::has_next_hop_objects().unwrap_or_else(
                |error| {
                    warn!(%error, "cannot ask for next-hop objects: going without");
                    false
                },
            ),
        };
        Settings::from_params(self.identity.name.clone(), &self.params, &kernel)
    }

    /// The speaker, once it is known whether routes of a former process still forward.
    async fn start_bgp(
        &self,
        tasks: &mut JoinSet<()>,
        adopted: oneshot::Receiver<Adopted>,
        down: mailbox::Receiver<DownKey, bgp_io::Command>,
        calc: &Inbox,
        health: &Health,
        metrics: &Metrics,
    ) -> Option<Asker> {
        if self.params.backend != Backend::Bgp {
            return None;
        }
        let adopted = tokio::select! {
            adopted = adopted => adopted.unwrap_or_default(),
            () = self.cancel.cancelled() => return None,
        };
        let restarting = adopted.routes > 0;
        if restarting {
            info!(
                routes = adopted.routes,
                "BGP restarts: routes of a former process stay until peers have told theirs"
            );
        }
        let task = BgpTask {
            restarting,
            seed: seed(&self.identity.name),
            down,
            calc: calc.clone(),
            health: health.clone(),
            metrics: metrics.clone(),
            cancel: self.cancel.clone(),
        };
        let (asker, speaking) = task.start();
        tasks.spawn(speaking);
        Some(asker)
    }

    fn serve_pods(&self, tasks: &mut JoinSet<()>, serving: Serving) -> anyhow::Result<()> {
        let (addresses, serve_addresses) =
            Addresses::new(serving.ipam, serving.calc.clone(), self.cancel.clone());
        tasks.spawn(serve_addresses);
        let path = Path::new(cni::protocol::SOCKET_PATH);
        let socket =
            Socket::bind(path).with_context(|| format!("listening on {}", path.display()))?;
        let pods = Pods {
            node: self.identity.name.clone(),
            interface_prefix: self.interface_prefix(),
            settings: serving.settings,
            last_mtu_bytes: self.last_mtu_bytes,
            store: Arc::clone(&self.opened.store),
            addresses,
            endpoints: serving.endpoints,
            calc: serving.calc,
            view: serving.calc_view,
            waits: serving.waits,
            health: serving.health,
            locks: Locks::default(),
            written: std::sync::Mutex::default(),
            detached: Notify::new(),
            threads: Threads::open().context("the host's network namespace")?,
        };
        let task = CniTask {
            socket,
            pods: Arc::new(pods),
            metrics: serving.metrics,
            cancel: self.cancel.clone(),
        };
        tasks.spawn(task.run());
        Ok(())
    }

    fn status(&self, health: &Health) -> Status {
        Status {
            node: self.identity.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: crate::task::timestamp(health.started()).rfc3339(),
            ipv4_address: self.identity.ipv4,
            router_id: self.identity.router_id,
            backend: match self.params.backend {
                Backend::Bgp => "bird",
                Backend::Vxlan => "vxlan",
                Backend::None => "none",
            }
            .to_owned(),
            ..Status::default()
        }
    }
}

/// Keeps the log's least severity what the settings say.
async fn follow_severity(mut live: Live, cancel: CancellationToken) {
    loop {
        tokio::select! {
            Ok(()) = live.changed() => {
                telemetry::set_severity(live.borrow_and_update().log_severity_screen);
            }
            () = cancel.cancelled() => return,
        }
    }
}

/// What the CNI task shares with others.
struct Serving {
    ipam: Arc<Ipam>,
    endpoints: watch::Receiver<Endpoints>,
    calc: Inbox,
    calc_view: watch::Receiver<CalcView>,
    waits: mpsc::Sender<Wait>,
    settings: Settings,
    health: Health,
    metrics: Metrics,
}

/// What an agent follows, for its graph and for IPAM: of pods' endpoints only its own.
fn watched_kinds(node: &str) -> Vec<(Kind, Scope)> {
    let scope = |kind| match kind {
        Kind::WorkloadEndpoint => Scope::Node(node.to_owned()),
        _ => Scope::All,
    };
    let kinds = [&Graph::KINDS[..], &cluster::KINDS, &ipam::view::RULES]
        .concat()
        .into_iter();
    kinds.map(|kind| (kind, scope(kind))).collect()
}

/// Jitter's seed: differs between nodes and between starts.
pub fn seed(node: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};

    let mut hasher = DefaultHasher::new();
    node.hash(&mut hasher);
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .hash(&mut hasher);
    hasher.finish()
}
