//! Two speakers over real sockets on the loopback.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp::config::{Config, NextHopMode, Password, PeerConfig, PeerOptions, RoutePolicy};
use bgp::event::{DownReason, Event};
use bgp::route::{Origination, RouteChange};
use bgp::speaker::Speaker;
use bgp::types::{AfiSafi, Asn, PeerName, RouterId};
use bgp_io::{Command, Output};
use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Longer than anything here takes on a slow machine; nothing waits for its end.
const PATIENCE: Duration = Duration::from_secs(30);

const FIRST: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));
const SECOND: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

struct Running {
    commands: mpsc::Sender<Command>,
    outputs: mpsc::Receiver<Output>,
    cancel: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Running {
    fn start(speaker: Speaker) -> Self {
        let (commands, commands_in) = mpsc::channel(16);
        // Room for all there is: a test reads only one of the two.
        let (outputs_out, outputs) = mpsc::channel(65_536);
        let (cancel, cancelled) = oneshot::channel();
        let cancelled = async {
            let _: Result<(), _> = cancelled.await;
        };
        Self {
            commands,
            outputs,
            cancel: Some(cancel),
            task: tokio::spawn(bgp_io::run(speaker, commands_in, outputs_out, cancelled)),
        }
    }

    fn fresh(seed: u64) -> Self {
        Self::start(Speaker::new(seed, Instant::now()))
    }

    async fn command(&self, command: Command) {
        self.commands.send(command).await.expect("the driver runs");
    }

    async fn config(&self, config: &Config) {
        self.command(Command::Config(Box::new(config.clone())))
            .await;
    }

    async fn originate(&self, prefix: &str) {
        let prefix: IpNet = prefix.parse().expect("a prefix");
        let origination = Origination {
            prefix,
            next_hop: None,
        };
        self.command(Command::Originate(prefix, Some(origination)))
            .await;
    }

    async fn expect<T>(&mut self, what: &str, mut pick: impl FnMut(Output) -> Option<T>) -> T {
        let found = async {
            loop {
                let output = self.outputs.recv().await.expect("the driver runs");
                if let Some(found) = pick(output) {
                    return found;
                }
            }
        };
        let found = tokio::time::timeout(PATIENCE, found).await;
        found.unwrap_or_else(|_| panic!("no {what} within {PATIENCE:?}"))
    }

    async fn listening(&mut self) -> SocketAddr {
        self.expect("listening address", |output| match output {
            Output::Listening(address) => Some(address),
            _ => None,
        })
        .await
    }

    async fn route(&mut self, prefix: &str) -> RouteChange {
        let prefix: IpNet = prefix.parse().expect("a prefix");
        self.expect("route", |output| match output {
            Output::Route(change) if change.prefix == prefix => Some(change),
            _ => None,
        })
        .await
    }

    async fn event(&mut self, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
        self.expect(what, |output| match output {
            Output::Event(event) if wanted(&event) => Some(event),
            _ => None,
        })
        .await
    }

    async fn session_up(&mut self) {
        self.event("session", |event| matches!(event, Event::SessionUp { .. }))
            .await;
    }

    async fn stop(mut self) {
        let _: Option<()> = self.cancel.take().and_then(|cancel| cancel.send(()).ok());
        self.task.await.expect("the driver does not panic");
    }
}

fn peer(address: IpAddr, port: u16, passive: bool) -> PeerConfig {
    PeerConfig {
        address,
        port,
        local_address: Some(if address == FIRST { SECOND } else { FIRST }),
        asn: Asn(64512),
        local_asn: None,
        families: [AfiSafi::Ipv4Unicast].into(),
        passive,
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

fn config(own: IpAddr, peer: PeerConfig) -> Config {
    let IpAddr::V4(router_id) = own else {
        panic!("IPv4 only");
    };
    Config {
        asn: Asn(64512),
        router_id: RouterId(router_id),
        listen_port: 0,
        listen_addresses: BTreeSet::from([own]),
        cluster_id: None,
        restart_time: Duration::from_secs(120),
        deferral_time: Duration::from_secs(240),
        multipath: 1,
        peers: BTreeMap::from([(PeerName(Arc::from("peer")), peer)]),
    }
}

/// The first one waits for the second one, which connects; `change` is made to both peers.
async fn pair(change: impl Fn(&mut PeerConfig)) -> (Running, Running, Config) {
    let mut waiting = peer(SECOND, 179, true);
    change(&mut waiting);
    let mut first = Running::fresh(1);
    first.config(&config(FIRST, waiting)).await;
    let port = first.listening().await.port();
    let mut connecting = peer(FIRST, port, false);
    change(&mut connecting);
    let second_config = config(SECOND, connecting);
    let second = Running::fresh(2);
    second.config(&second_config).await;
    (first, second, second_config)
}

#[tokio::test]
async fn routes_cross_a_session_and_stay_when_the_process_behind_it_stops() {
    let (mut first, mut second, second_config) = pair(|_| ()).await;
    first.session_up().await;
    second.session_up().await;
    second.originate("10.1.0.0/26").await;
    let change = first.route("10.1.0.0/26").await;
    assert_eq!(change.best.expect("announced").next_hops, vec![SECOND]);
    first.originate("10.2.0.0/26").await;
    second.route("10.2.0.0/26").await;

    let withdrawn: IpNet = "10.1.0.0/26".parse().unwrap();
    second.command(Command::Originate(withdrawn, None)).await;
    assert_eq!(first.route("10.1.0.0/26").await.best, None);
    second.originate("10.3.0.0/26").await;
    first.route("10.3.0.0/26").await;

    let (answer, asked) = oneshot::channel();
    first.command(Command::Peers(answer)).await;
    let peers = asked.await.unwrap();
    assert_eq!(peers[0].prefixes[&AfiSafi::Ipv4Unicast].received, 1);
    assert_eq!(peers[0].prefixes[&AfiSafi::Ipv4Unicast].advertised, 1);
    let (answer, asked) = oneshot::channel();
    first.command(Command::Routes(answer)).await;
    assert_eq!(asked.await.unwrap().len(), 2);

    second.stop().await;
    let down = first
        .event("session end", |event| {
            matches!(event, Event::SessionDown { .. })
        })
        .await;
    assert!(
        matches!(
            down,
            Event::SessionDown {
                reason: DownReason::TcpClosed,
                routes_kept: true,
                ..
            }
        ),
        "{down:?}"
    );

    let mut second = Running::start(Speaker::restarting(3, Instant::now()));
    second.config(&second_config).await;
    first.session_up().await;
    second.originate("10.3.0.0/26").await;
    second.command(Command::OriginationsComplete).await;
    second
        .event("selection", |event| *event == Event::SelectionComplete)
        .await;
    first
        .event("End-of-RIB", |event| {
            matches!(event, Event::EndOfRib { .. })
        })
        .await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn ten_thousand_routes_cross_and_come_back_to_nothing() {
    let (mut first, second, _) = pair(|_| ()).await;
    first.session_up().await;
    let prefixes: Vec<String> = (0..10_000u32)
        .map(|n| format!("10.{}.{}.0/24", n >> 8, n & 255))
        .collect();
    for prefix in &prefixes {
        second.originate(prefix).await;
    }
    let mut known = 0;
    let mut count = |output| {
        if let Output::Route(change) = output {
            known += if change.best.is_some() { 1 } else { -1 };
        }
        (known == 10_000).then_some(())
    };
    first.expect("all routes", &mut count).await;
    // Another AS number makes another peer of it: the NOTIFICATION takes every route away.
    let mut changed = peer(SECOND, 179, true);
    changed.asn = Asn(65000);
    first.config(&config(FIRST, changed)).await;
    let mut left = 10_000;
    first
        .expect("no routes", |output| {
            if let Output::Route(change) = output {
                assert_eq!(change.best, None);
                left -= 1;
            }
            (left == 0).then_some(())
        })
        .await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn a_session_with_md5_stands_and_one_with_another_key_does_not() {
    let key = |text: &'static str| {
        move |peer: &mut PeerConfig| peer.password = Some(Password(text.into()))
    };
    let (mut first, mut second, mut second_config) = pair(key("secret")).await;
    let begun = second
        .event("session or failure", |event| {
            matches!(
                event,
                Event::SessionUp { .. } | Event::ConnectionFailed { .. }
            )
        })
        .await;
    if let Event::ConnectionFailed { reason, .. } = &begun
        && reason.to_string().contains("os error 92")
    {
        println!("skipped: md5: this kernel has no TCP MD5 signatures (CONFIG_TCP_MD5SIG)");
        assert!(std::env::var_os("CI").is_none(), "nothing is skipped in CI");
        return;
    }
    assert!(matches!(begun, Event::SessionUp { .. }), "{begun:?}");
    first.session_up().await;
    for peer in second_config.peers.values_mut() {
        peer.password = Some(Password("other".into()));
    }
    second.config(&second_config).await;
    // The session that stands keeps its key; the next one has the new key.
    first.originate("198.51.100.0/24").await;
    second.route("198.51.100.0/24").await;
    for peer in second_config.peers.values_mut() {
        peer.hold_time = Duration::from_secs(60);
    }
    second.config(&second_config).await;
    let failed = second
        .event("failed connection", |event| {
            matches!(
                event,
                Event::ConnectionFailed {
                    reason: DownReason::ConnectTimedOut | DownReason::ConnectFailed(_),
                    ..
                }
            )
        })
        .await;
    assert!(matches!(failed, Event::ConnectionFailed { .. }));
    for peer in second_config.peers.values_mut() {
        peer.password = Some(Password("secret".into()));
    }
    second.config(&second_config).await;
    second.session_up().await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn a_session_with_ttl_security_stands() {
    let (mut first, second, _) = pair(|peer| peer.ttl_security = Some(1)).await;
    first.session_up().await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_with_the_reason() {
    let taken = std::net::TcpListener::bind((FIRST, 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let mut running = Running::fresh(4);
    let mut config = config(FIRST, peer(SECOND, 179, true));
    config.listen_port = address.port();
    running.config(&config).await;
    let failed = running
        .expect("failure", |output| match output {
            Output::ListenFailed { address, error } => Some((address, error)),
            _ => None,
        })
        .await;
    assert_eq!(failed.0, address);
    assert!(failed.1.contains("in use"), "{}", failed.1);
    drop(taken);
    assert_eq!(running.listening().await, address, "tried again");
    running.stop().await;
}
