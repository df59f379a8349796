//! Two speakers over real sockets on the loopback.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set up its place fails where it stands"
)]

#[macro_use]
extern crate harness;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bgp::config::{
    Config, DynamicRange, NextHopMode, Password, PeerConfig, PeerOptions, RoutePolicy,
};
use bgp::event::{DownReason, Event};
use bgp::route::{Origination, RouteChange};
use bgp::speaker::Speaker;
use bgp::types::{AfiSafi, Asn, PeerName, RouterId};
use bgp_io::{Command, Output};
use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

fn main() -> std::process::ExitCode {
    harness::run()
}

/// Longer than anything here takes on a slow machine; nothing waits for its end.
const PATIENCE: Duration = Duration::from_secs(30);

const FIRST: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));
const SECOND: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
/// Of own routes: an address of the loopback is refused as a next hop.
const NEXT_HOP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

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
            next_hop: Some(NEXT_HOP),
            local_pref: None,
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

    async fn route_without_reset(&mut self, prefix: &str) {
        let prefix: IpNet = prefix.parse().expect("a prefix");
        self.expect("route", |output| match output {
            Output::Route(change) if change.prefix == prefix => Some(()),
            Output::Event(event @ Event::SessionDown { .. }) => panic!("{event:?}"),
            _ => None,
        })
        .await;
    }

    /// Of the only peer.
    async fn last_error(&self) -> Option<DownReason> {
        let (answer, asked) = oneshot::channel();
        self.command(Command::Peers(answer)).await;
        let mut peers = asked.await.expect("the driver answers");
        peers.pop().expect("a peer").last_error
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

#[test]
async fn routes_cross_a_session_and_stay_when_the_process_behind_it_stops() {
    let (mut first, mut second, second_config) = pair(|_| ()).await;
    first.session_up().await;
    second.session_up().await;
    second.originate("10.1.0.0/26").await;
    let change = first.route("10.1.0.0/26").await;
    assert_eq!(change.best.expect("announced").next_hops, vec![NEXT_HOP]);
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

#[test]
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

fn key(text: &str) -> Option<Password> {
    Some(Password(text.into()))
}

/// Sessions stand, or this kernel has no keys and the test is skipped.
async fn up_with_md5(first: &mut Running, second: &mut Running) {
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
        harness::skip(
            "md5",
            "this kernel has no TCP MD5 signatures (CONFIG_TCP_MD5SIG)",
        );
    }
    assert!(matches!(begun, Event::SessionUp { .. }), "{begun:?}");
    first.session_up().await;
}

/// A session of `running` does not come about for want of the right key.
async fn connecting_takes_too_long(running: &mut Running) {
    running
        .expect("attempt without an answer", |output| match output {
            Output::Event(Event::SessionUp { .. }) => panic!("the key is wrong"),
            Output::Event(Event::ConnectionFailed { reason, .. }) => {
                (reason == DownReason::ConnectTimedOut).then_some(())
            }
            _ => None,
        })
        .await;
}

fn set_key(config: &mut Config, password: Option<&Password>) {
    for peer in config.peers.values_mut() {
        peer.password = password.cloned();
    }
}

#[test]
async fn a_session_with_md5_stands_and_one_with_another_key_does_not() {
    let (mut first, mut second, mut second_config) =
        pair(|peer| peer.password = key("secret")).await;
    up_with_md5(&mut first, &mut second).await;
    // Another hold time makes another session of it.
    set_key(&mut second_config, key("other").as_ref());
    for peer in second_config.peers.values_mut() {
        peer.hold_time = Duration::from_secs(60);
    }
    second.config(&second_config).await;
    connecting_takes_too_long(&mut second).await;
    set_key(&mut second_config, key("secret").as_ref());
    second.config(&second_config).await;
    second.session_up().await;
    first.stop().await;
    second.stop().await;
}

#[test]
async fn a_session_that_stands_goes_on_when_both_ends_change_the_key() {
    let (mut first, mut second, mut second_config) = pair(|peer| peer.password = key("one")).await;
    up_with_md5(&mut first, &mut second).await;
    let mut first_config = config(FIRST, peer(SECOND, 179, true));
    // Another key, none, the first one; and the other way round, who changes first.
    for (number, password) in [key("two"), None, key("three")].into_iter().enumerate() {
        set_key(&mut first_config, password.as_ref());
        set_key(&mut second_config, password.as_ref());
        if number == 1 {
            second.config(&second_config).await;
            first.config(&first_config).await;
        } else {
            first.config(&first_config).await;
            second.config(&second_config).await;
        }
        let (there, back) = (format!("10.1.{number}.0/24"), format!("10.2.{number}.0/24"));
        second.originate(&there).await;
        first.route_without_reset(&there).await;
        first.originate(&back).await;
        second.route_without_reset(&back).await;
    }
    first.stop().await;
    second.stop().await;
}

#[test]
async fn a_key_that_only_one_end_changes_ends_the_session_by_the_hold_timer() {
    let mut ends = tokio::task::JoinSet::new();
    for (before, after) in [
        (key("one"), key("two")),
        (None, key("one")),
        (key("one"), None),
    ] {
        let mut waiting = peer(SECOND, 179, true);
        waiting.hold_time = Duration::from_secs(3);
        waiting.password = after;
        let (mut first, mut second, _) = pair(|peer| {
            peer.password.clone_from(&before);
            peer.hold_time = Duration::from_secs(3);
        })
        .await;
        up_with_md5(&mut first, &mut second).await;
        first.config(&config(FIRST, waiting)).await;
        // The answer tells that the key is set.
        assert_eq!(first.last_error().await, None);
        second.originate("10.1.0.0/24").await;
        ends.spawn(async move {
            let end = first
                .expect("session end", |output| match output {
                    Output::Event(Event::SessionDown { reason, .. }) => Some(reason),
                    Output::Route(change) => panic!("{change:?} came with another key"),
                    _ => None,
                })
                .await;
            first.stop().await;
            second.stop().await;
            end
        });
    }
    for reason in ends.join_all().await {
        let DownReason::NotificationSent(sent) = &reason else {
            panic!("{reason}");
        };
        assert_eq!(sent.code, 4, "{reason}");
    }
}

#[test]
async fn peers_of_a_range_need_its_key_and_go_on_with_another_one() {
    let mut template = peer(SECOND, 179, true);
    template.password = key("one");
    template.local_address = None;
    template.options.dynamic = Some(DynamicRange {
        range: "127.0.0.0/28".parse().unwrap(),
        limit: 8,
    });
    let mut first_config = config(FIRST, template);
    let mut first = Running::fresh(1);
    first.config(&first_config).await;
    let port = first.listening().await.port();
    let mut second_config = config(SECOND, peer(FIRST, port, false));
    set_key(&mut second_config, key("one").as_ref());
    let mut second = Running::fresh(2);
    second.config(&second_config).await;
    up_with_md5(&mut first, &mut second).await;
    let third_address: IpAddr = "127.0.0.3".parse().unwrap();
    let mut connecting = peer(FIRST, port, false);
    connecting.local_address = Some(third_address);
    let mut third_config = config(third_address, connecting);
    let mut third = Running::fresh(3);
    for wrong in [key("two"), None] {
        set_key(&mut third_config, wrong.as_ref());
        third.config(&third_config).await;
        connecting_takes_too_long(&mut third).await;
    }
    set_key(&mut first_config, key("two").as_ref());
    first.config(&first_config).await;
    set_key(&mut second_config, key("two").as_ref());
    second.config(&second_config).await;
    second.originate("10.1.0.0/24").await;
    first.route_without_reset("10.1.0.0/24").await;
    set_key(&mut third_config, key("two").as_ref());
    third.config(&third_config).await;
    third.session_up().await;
    for running in [first, second, third] {
        running.stop().await;
    }
}

#[test]
async fn a_key_the_system_refuses_is_told_with_the_socket_and_seen_in_the_peers_status() {
    let mut waiting = peer(SECOND, 179, true);
    waiting.password = key(&"k".repeat(81));
    let mut first = Running::fresh(1);
    first.config(&config(FIRST, waiting)).await;
    let event = first
        .event("refusal", |event| {
            matches!(event, Event::SocketRefused { .. })
        })
        .await;
    let Event::SocketRefused { peer, fault } = event else {
        unreachable!("that was asked for");
    };
    assert_eq!(&*peer.0, "peer");
    assert!(fault.starts_with("listening on 127.0.0.1:"), "{fault}");
    let rest = "TCP MD5 key for 127.0.0.2/32: TCP MD5 key of 81 bytes: at most 80 are allowed";
    assert!(fault.ends_with(rest), "{fault}");
    let error = first.last_error().await;
    assert_eq!(error, Some(DownReason::SocketRefused(fault)));
    first.stop().await;
}

#[test]
async fn a_source_address_that_is_not_ours_is_named_in_the_peers_status() {
    let mut connecting = peer(FIRST, 179, false);
    connecting.local_address = Some("192.0.2.1".parse().unwrap());
    let mut second = Running::fresh(2);
    second.config(&config(SECOND, connecting)).await;
    let event = second
        .event("failed connection", |event| {
            matches!(event, Event::ConnectionFailed { .. })
        })
        .await;
    assert!(
        matches!(event, Event::ConnectionFailed { is_news: true, .. }),
        "{event:?}"
    );
    let error = second.last_error().await.expect("an error").to_string();
    assert!(
        error.starts_with("connecting failed: source address 192.0.2.1: "),
        "{error}"
    );
    second.stop().await;
}

#[test]
async fn a_session_with_ttl_security_stands() {
    let (mut first, second, _) = pair(|peer| peer.ttl_security = Some(1)).await;
    first.session_up().await;
    first.stop().await;
    second.stop().await;
}

#[test]
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

/// TCP sockets of this namespace that listen on a port, as the kernel lists them: addresses.
fn listening_in_kernel(port: u16) -> Vec<Ipv4Addr> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let listens = table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, state) = (fields.next()?, fields.nth(1)?);
        let (address, at) = local.split_once(':')?;
        let here = state == "0A" && u16::from_str_radix(at, 16).ok()? == port;
        here.then(|| Ipv4Addr::from(u32::from_str_radix(address, 16).unwrap().to_ne_bytes()))
    });
    listens.collect()
}

#[test]
async fn an_address_follows_another_on_the_same_port_without_a_refused_connection() {
    let mut running = Running::fresh(5);
    let mut config = config(FIRST, peer(SECOND, 179, true));
    running.config(&config).await;
    let port = running.listening().await.port();
    config.listen_port = port;
    running.config(&config).await;
    let address = running.listening().await;
    assert_eq!(address, SocketAddr::new(FIRST, port), "no port 0 any more");

    let stop = Arc::new(AtomicBool::new(false));
    let connected = Arc::new(AtomicUsize::new(0));
    let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&connected));
    let connecting = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            match std::net::TcpStream::connect(address) {
                Ok(_) => drop(counted.fetch_add(1, Ordering::Relaxed)),
                // A handshake with the old socket that was not over when it went.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
                Err(error) => panic!("somebody listens at any time: {error}"),
            }
        }
    });
    let mut rounds = 0;
    while !connecting.is_finished() && (rounds < 20 || connected.load(Ordering::Relaxed) < 20) {
        rounds += 1;
        for addresses in [BTreeSet::new(), BTreeSet::from([FIRST])] {
            let wanted = addresses.first().copied();
            config.listen_addresses = addresses;
            running.config(&config).await;
            let wanted = wanted.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            assert_eq!(running.listening().await, SocketAddr::new(wanted, port));
        }
    }
    // An answer comes after the old socket is gone.
    running.last_error().await;
    stop.store(true, Ordering::Relaxed);
    connecting.join().expect("no connection was refused");
    assert_eq!(listening_in_kernel(port), [Ipv4Addr::LOCALHOST]);
    let other = std::net::TcpListener::bind((FIRST, port));
    assert!(other.is_err(), "nobody shares the port");
    running.stop().await;
}
