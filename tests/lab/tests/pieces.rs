//! The lab's own pieces, each against the kernel.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set up its place fails where it stands"
)]

#[macro_use]
extern crate harness;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use lab::{
    Capture, Content, NetNs, Netlink, Pinger, RouteChange, RouteMonitor, SourceReporter, Stream,
    ask_source,
};

fn main() -> std::process::ExitCode {
    harness::run()
}

const SECOND: Duration = Duration::from_secs(1);
const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

/// Two namespaces joined by a veth pair: `a` has 10.0.0.1, `b` has 10.0.0.2.
fn pair() -> (NetNs, NetNs) {
    let a = NetNs::new("a").unwrap();
    let b = NetNs::new("b").unwrap();
    let mut in_a = a.netlink().unwrap();
    in_a.add_veth(
        "eth0",
        "eth0",
        std::os::fd::AsRawFd::as_raw_fd(b.fd()),
        [2, 0, 0, 0, 0, 2],
    )
    .unwrap();
    for (netlink, address) in [(&mut in_a, A), (&mut b.netlink().unwrap(), B)] {
        netlink
            .add_address("eth0", Ipv4Net::new(address, 24).unwrap())
            .unwrap();
        netlink.set_up("eth0").unwrap();
    }
    for end in [&a, &b] {
        end.wait_link_up("eth0", 10 * SECOND).unwrap();
    }
    (a, b)
}

#[test]
fn a_new_namespace_holds_only_loopback() {
    lab::in_namespaces("a_new_namespace_holds_only_loopback", || {
        let links = NetNs::new("empty")
            .unwrap()
            .netlink()
            .unwrap()
            .links()
            .unwrap();
        let plain: Vec<_> = links.iter().filter(|link| link.name == "lo").collect();
        assert_eq!(plain.len(), 1, "{links:?}");
        assert!(plain[0].up, "{links:?}");
    });
}

#[test]
fn the_private_world_is_a_pid_namespace_of_its_own_with_private_directories() {
    lab::in_namespaces(
        "the_private_world_is_a_pid_namespace_of_its_own_with_private_directories",
        || {
            assert_eq!(std::process::id(), 1);
            assert_eq!(
                std::fs::read_link("/proc/self").unwrap().to_str(),
                Some("1")
            );
            for directory in [
                "/run/calico",
                "/var/lib/calico",
                "/var/run/calico",
                "/etc/cni/net.d",
            ] {
                assert_eq!(
                    std::fs::read_dir(directory).unwrap().count(),
                    0,
                    "{directory}"
                );
            }
            assert!(
                std::fs::read_to_string("/etc/passwd").is_ok(),
                "the machine's other files stay visible"
            );
        },
    );
}

#[test]
fn ping_is_answered_by_a_neighbour_and_not_by_a_missing_address() {
    lab::in_namespaces(
        "ping_is_answered_by_a_neighbour_and_not_by_a_missing_address",
        || {
            let (a, _b) = pair();
            let mut pinger = Pinger::open(&a, 7).unwrap();
            assert!(pinger.ping(B, SECOND).unwrap().is_some());
            assert!(
                pinger
                    .ping(Ipv4Addr::new(10, 0, 0, 9), Duration::from_millis(100))
                    .unwrap()
                    .is_none()
            );
        },
    );
}

#[test]
fn the_receiver_of_an_exchange_reports_the_senders_address() {
    lab::in_namespaces(
        "the_receiver_of_an_exchange_reports_the_senders_address",
        || {
            let (a, b) = pair();
            let reporter = SourceReporter::open(&b, B).unwrap();
            assert_eq!(
                ask_source(&a, reporter.address(), SECOND).unwrap().source,
                A
            );
        },
    );
}

#[test]
fn a_stream_counts_what_arrives_and_what_does_not() {
    lab::in_namespaces("a_stream_counts_what_arrives_and_what_does_not", || {
        let (a, b) = pair();
        let mut monitor = Capture::open(&b).unwrap();
        let whole = Stream::start("whole", &a, &b, B, 500).unwrap();
        let reached = monitor
            .find(Instant::now() + SECOND, |packet| packet.destination == B)
            .unwrap();
        assert!(reached.is_some());
        let whole = whole.finish().unwrap();
        assert!(whole.sent > 0 && whole.lost.is_empty(), "{whole:?}");

        let cut = Stream::start("cut", &a, &b, B, 500).unwrap();
        a.netlink()
            .unwrap()
            .delete_route(Ipv4Net::new(A, 24).unwrap())
            .unwrap();
        // Packets are numbered while the route is away: the capture's silence is the wait.
        monitor.drain().unwrap();
        monitor
            .find(Instant::now() + Duration::from_millis(50), |_| false)
            .unwrap();
        let cut = cut.finish().unwrap();
        assert!(!cut.lost.is_empty(), "{cut:?}");
    });
}

#[test]
fn a_monitor_hears_a_route_come_and_go() {
    lab::in_namespaces("a_monitor_hears_a_route_come_and_go", || {
        let (a, _b) = pair();
        let mut monitor = RouteMonitor::open(&a).unwrap();
        let mut netlink = a.netlink().unwrap();
        let block: Ipv4Net = "192.168.64.0/26".parse().unwrap();
        let started = Instant::now();
        netlink.add_route(block, B).unwrap();
        let event = monitor
            .wait_for(started + SECOND, |event| event.route.destination == block)
            .unwrap()
            .expect("a notification");
        assert_eq!(
            (event.change, event.route.hops[0].gateway),
            (RouteChange::Added, Some(B))
        );
        assert!(event.at >= started);
        netlink.delete_route(block).unwrap();
        let gone = monitor
            .wait_for(started + SECOND, |event| {
                event.change == RouteChange::Deleted
            })
            .unwrap();
        assert_eq!(gone.expect("a notification").route.destination, block);
    });
}

#[test]
fn a_capture_shows_ping_packets_with_their_addresses() {
    lab::in_namespaces("a_capture_shows_ping_packets_with_their_addresses", || {
        let (a, b) = pair();
        let mut capture = Capture::open(&b).unwrap();
        Pinger::open(&a, 7).unwrap().ping(B, SECOND).unwrap();
        let packet = capture
            .find(Instant::now() + SECOND, |packet| {
                packet.source == A && packet.destination == B
            })
            .unwrap()
            .expect("the echo request");
        assert_eq!(
            (i32::from(packet.protocol), packet.content),
            (1, Content::Other)
        );
    });
}

#[test]
fn a_blocked_port_lets_no_connection_through() {
    lab::in_namespaces("a_blocked_port_lets_no_connection_through", || {
        let (a, b) = pair();
        let reporter = SourceReporter::open(&b, B).unwrap();
        a.netlink()
            .unwrap()
            .block_tcp(B, reporter.address().port())
            .unwrap();
        ask_source(&a, reporter.address(), Duration::from_millis(100)).unwrap_err();
    });
}

#[test]
fn commands_run_inside_the_namespace() {
    lab::in_namespaces("commands_run_inside_the_namespace", || {
        let (a, _b) = pair();
        let output = a.command("cat").arg("/proc/net/dev").output().unwrap();
        assert!(
            String::from_utf8_lossy(&output.stdout).contains("eth0"),
            "{output:?}"
        );
        assert!(
            Netlink::open()
                .unwrap()
                .links()
                .unwrap()
                .iter()
                .all(|link| link.name != "eth0")
        );
    });
}
