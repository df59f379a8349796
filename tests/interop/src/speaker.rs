//! Our speaker with its sockets, alone: no store, no calculation, no kernel routes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bgp::config::{Config, NextHopMode, PeerConfig, PeerOptions, RoutePolicy};
use bgp::route::Origination;
use bgp::speaker::Speaker;
use bgp::types::{AfiSafi, Asn, PeerName, RouterId};
use bgp_io::{Command, Output};
use ipnet::IpNet;
use lab::NetNs;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Only a fault meets this deadline.
const DEADLINE: Duration = Duration::from_secs(30);
/// Outputs that wait for the test; the tests' tables are small.
const ROOM: usize = 1024;
/// Decides jitter only.
const SEED: u64 = 1;

/// How the speaker comes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// With nothing to recover.
    Fresh,
    /// As one whose kernel routes still forward (RFC 4724 §4.1).
    Restarting,
}

/// A running speaker in a namespace.
pub struct OurSpeaker {
    commands: mpsc::Sender<Command>,
    outputs: mpsc::Receiver<Output>,
    cancel: CancellationToken,
    thread: JoinHandle<()>,
    waiting: Runtime,
}

impl OurSpeaker {
    /// Starts it with its configuration and the prefixes it announces.
    ///
    /// # Errors
    /// When a runtime cannot be made.
    pub fn start(
        namespace: &NetNs,
        begin: Begin,
        config: Config,
        own: &[IpNet],
    ) -> io::Result<Self> {
        let (commands, commands_in) = mpsc::channel(ROOM);
        let (outputs_out, outputs) = mpsc::channel(ROOM);
        let cancel = CancellationToken::new();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let cancelled = cancel.clone().cancelled_owned();
        let thread = namespace.spawn(move || {
            let now = Instant::now();
            let speaker = match begin {
                Begin::Fresh => Speaker::new(SEED, now),
                Begin::Restarting => Speaker::restarting(SEED, now),
            };
            runtime.block_on(bgp_io::run(speaker, commands_in, outputs_out, cancelled));
        });
        let speaker = Self {
            commands,
            outputs,
            cancel,
            thread,
            waiting: Builder::new_current_thread().enable_time().build()?,
        };
        speaker.tell(Command::Config(Box::new(config)));
        for &prefix in own {
            let origination = Origination {
                prefix,
                next_hop: None,
                local_pref: None,
            };
            speaker.tell(Command::Originate(prefix, Some(origination)));
        }
        speaker.tell(Command::OriginationsComplete);
        Ok(speaker)
    }

    /// Tells it something.
    ///
    /// # Panics
    /// When it is gone.
    pub fn tell(&self, command: Command) {
        self.commands
            .blocking_send(command)
            .expect("the speaker runs until it is stopped");
    }

    /// Reads outputs until one is what the test waits for.
    ///
    /// # Panics
    /// When none came within 30 s: with all that came.
    #[track_caller]
    pub fn wait_for<T>(&mut self, what: &str, mut wanted: impl FnMut(&Output) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        let mut seen = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let outputs = &mut self.outputs;
            let next = self
                .waiting
                .block_on(async { tokio::time::timeout(left, outputs.recv()).await });
            let Ok(Some(output)) = next else {
                panic!("not within {DEADLINE:?}: {what}\nseen: {seen:#?}");
            };
            if let Some(found) = wanted(&output) {
                return found;
            }
            seen.push(output);
        }
    }

    /// What it said that was not read yet.
    pub fn unread(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.outputs.try_recv().ok()).collect()
    }

    /// Stops it as the agent is stopped: its connections close without a NOTIFICATION.
    ///
    /// # Panics
    /// When it did.
    pub fn stop(self) {
        self.cancel.cancel();
        drop(self.outputs);
        self.thread.join().expect("the speaker does not panic");
    }
}

/// A speaker of `asn` at `address`, with the default timers.
#[must_use]
pub fn config(asn: u32, address: Ipv4Addr, peers: impl IntoIterator<Item = PeerConfig>) -> Config {
    let name = |peer: &PeerConfig| PeerName(format!("Global_{}", peer.address).into());
    Config {
        asn: Asn(asn),
        router_id: RouterId(address),
        listen_port: 179,
        listen_addresses: BTreeSet::from([IpAddr::V4(address)]),
        cluster_id: None,
        restart_time: Duration::from_secs(120),
        deferral_time: Duration::from_secs(240),
        multipath: 1,
        peers: peers
            .into_iter()
            .map(|peer| (name(&peer), peer))
            .collect::<BTreeMap<_, _>>(),
    }
}

/// A peer as the agent configures one from a BGPPeer that says nothing special.
#[must_use]
pub fn peer(address: impl Into<IpAddr>, asn: u32, local_address: impl Into<IpAddr>) -> PeerConfig {
    PeerConfig {
        address: address.into(),
        port: 179,
        local_address: Some(local_address.into()),
        asn: Asn(asn),
        local_asn: None,
        families: BTreeSet::from([AfiSafi::Ipv4Unicast]),
        passive: false,
        hold_time: Duration::from_secs(240),
        connect_retry_time: Duration::from_secs(1),
        password: None,
        ttl_security: None,
        multihop: true,
        route_reflector_client: false,
        next_hop: NextHopMode::Auto,
        allow_own_as: 0,
        graceful_restart: true,
        restart_time: None,
        prefix_limit: None,
        import: RoutePolicy::accept_all(),
        export: RoutePolicy::accept_all(),
        options: PeerOptions::default(),
    }
}
