//! The lab's own pieces, each against the kernel.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set up its place fails where it stands"
)]

#[macro_use]
extern crate harness;

use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net};
use lab::{
    Bulk, Capture, Content, NetNs, Netlink, Packet, Pinger, RouteChange, RouteMonitor,
    SourceReporter, Stream, ask_source, wait_until,
};

fn main() -> std::process::ExitCode {
    harness::run()
}

const SECOND: Duration = Duration::from_secs(1);
/// How long something that is to come may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
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
            assert!(pinger.ping(B, PATIENCE).unwrap().is_some());
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
                ask_source(&a, reporter.address(), PATIENCE).unwrap().source,
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
            .find(Instant::now() + PATIENCE, |packet| packet.destination == B)
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
fn a_transfer_that_is_cut_off_says_so() {
    lab::in_namespaces("a_transfer_that_is_cut_off_says_so", || {
        let (a, b) = pair();
        let whole = Bulk::start("whole", &a, &b, B, PATIENCE).unwrap();
        let arrives = |bulk: &Bulk| {
            let some = || (bulk.arrived() > 0).then_some(());
            wait_until(Instant::now() + PATIENCE, some).is_some()
        };
        assert!(arrives(&whole));
        assert_eq!(whole.finish(), None);

        let cut = Bulk::start("cut", &a, &b, B, SECOND).unwrap();
        assert!(arrives(&cut));
        a.netlink()
            .unwrap()
            .delete_route(Ipv4Net::new(A, 24).unwrap())
            .unwrap();
        let fault = cut.finish().unwrap();
        assert!(fault.starts_with("cut: "), "{fault}");
    });
}

#[test]
fn a_monitor_hears_a_route_come_and_go() {
    lab::in_namespaces("a_monitor_hears_a_route_come_and_go", || {
        let (a, _b) = pair();
        let mut monitor = RouteMonitor::open(&a).unwrap();
        let mut netlink = a.netlink().unwrap();
        let block: IpNet = "192.168.64.0/26".parse().unwrap();
        let started = Instant::now();
        netlink.add_route(block, B).unwrap();
        let event = monitor
            .wait_for(started + PATIENCE, |event| event.route.destination == block)
            .unwrap()
            .expect("a notification");
        assert_eq!(
            (event.change, event.route.hops[0].gateway),
            (RouteChange::Added, Some(B.into()))
        );
        assert!(event.at >= started);
        netlink.delete_route(block).unwrap();
        let gone = monitor
            .wait_for(started + PATIENCE, |event| {
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
        Pinger::open(&a, 7).unwrap().ping(B, PATIENCE).unwrap();
        let packet = capture
            .find(Instant::now() + PATIENCE, |packet| {
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

#[test]
fn hundreds_of_pings_at_once_lose_no_reply_in_the_pingers_own_buffer() {
    let name = "hundreds_of_pings_at_once_lose_no_reply_in_the_pingers_own_buffer";
    lab::in_namespaces(name, || {
        let a = NetNs::new("a").unwrap();
        // All of 127.0.0.0/8 answers, and each socket gets a copy of what the other sends and gets.
        let targets: Vec<IpAddr> = (1..=500_u32)
            .map(|number| Ipv4Addr::from(0x7f00_0000 + number).into())
            .collect();
        let mut first = Pinger::open(&a, 1).unwrap();
        let mut second = Pinger::open(&a, 2).unwrap();
        std::thread::scope(|scope| {
            for pinger in [&mut first, &mut second] {
                let targets = &targets;
                scope.spawn(move || {
                    let answers = pinger.ping_all(targets, 10 * SECOND);
                    let lost = answers.values().filter(|answer| answer.is_err()).count();
                    assert_eq!((answers.len(), lost), (targets.len(), 0));
                });
            }
        });
    });
}

#[test]
fn an_established_connection_of_port_179_is_a_session_at_both_ends_and_a_listener_is_none() {
    let name =
        "an_established_connection_of_port_179_is_a_session_at_both_ends_and_a_listener_is_none";
    lab::in_namespaces(name, || {
        let (a, b) = pair();
        let peers = |of: &NetNs| lab::established_peers(of).unwrap();
        // For both families, as an agent's: the kernel lists its connections among IPv6's.
        let listener = b.run(|| TcpListener::bind(("::", 179))).unwrap();
        assert!(peers(&a).is_empty() && peers(&b).is_empty());
        let connected = a.run(|| TcpStream::connect((B, 179))).unwrap();
        let accepted = listener.accept().unwrap();
        assert_eq!((peers(&a), peers(&b)), (vec![B.into()], vec![A.into()]));
        drop((connected, accepted));
        assert!(peers(&a).is_empty() && peers(&b).is_empty());
    });
}

#[test]
fn a_deleted_route_is_reported_until_the_deadline_and_none_when_none_was() {
    let name = "a_deleted_route_is_reported_until_the_deadline_and_none_when_none_was";
    lab::in_namespaces(name, || {
        let (a, _b) = pair();
        let mut netlink = a.netlink().unwrap();
        let block: IpNet = "192.168.64.0/26".parse().unwrap();
        let mut monitor = RouteMonitor::open(&a).unwrap();
        let soon = || Instant::now() + Duration::from_millis(100);
        netlink.add_route(block, B).unwrap();
        assert_eq!(monitor.deleted_until(soon()).unwrap(), []);
        // Somebody else's thread, while it listens.
        std::thread::scope(|scope| {
            let listening = scope.spawn(|| monitor.deleted_until(Instant::now() + 5 * SECOND));
            netlink.delete_route(block).unwrap();
            let deleted = listening.join().unwrap().unwrap();
            let destinations: Vec<IpNet> = deleted.iter().map(|route| route.destination).collect();
            assert_eq!(destinations, [block]);
        });
    });
}

#[test]
fn a_capture_tells_tunnelled_packets_from_plain_ones() {
    lab::in_namespaces("a_capture_tells_tunnelled_packets_from_plain_ones", || {
        let (a, b) = pair();
        let mut capture = Capture::open(&b).unwrap();
        let socket = a.run(|| UdpSocket::bind((A, 0))).unwrap();
        // VNI 4096, then a frame of type IPv4 whose packet goes from 192.168.0.1 to 192.168.0.2 in protocol 253.
        let mut vxlan = vec![8, 0, 0, 0, 0, 0x10, 0, 0];
        vxlan.extend([2; 12]);
        vxlan.extend([8, 0]);
        vxlan.extend([0x45, 0, 0, 20, 0, 0, 0, 0, 64, 253, 0, 0]);
        vxlan.extend([192, 168, 0, 1, 192, 168, 0, 2]);
        socket.send_to(&vxlan, (B, 4789)).unwrap();
        socket.send_to(&vxlan, (B, 4788)).unwrap();
        let mut next = |port: u16| {
            let mut is_to_port = |packet: &Packet| match packet.content {
                Content::Ports { destination, .. } => destination == port,
                Content::Vxlan { .. } => port == 4789,
                Content::Ipip(_) | Content::Other => false,
            };
            let found = capture.find(Instant::now() + PATIENCE, &mut is_to_port);
            found.unwrap().expect("it was sent").content
        };
        let Content::Vxlan {
            vni: 4096,
            inner: Some(inner),
        } = next(4789)
        else {
            panic!("not seen as VXLAN");
        };
        assert_eq!(inner.source, Ipv4Addr::new(192, 168, 0, 1));
        assert_eq!(inner.destination, Ipv4Addr::new(192, 168, 0, 2));
        let data = vxlan.len();
        assert!(matches!(next(4788), Content::Ports { data: seen, .. } if seen == data));
    });
}
