//! A router that says that it is leaving before it goes (RFC 8326).

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use interop::bird::Bird;
use interop::eventually;
use ipnet::Ipv4Net;
use lab::{Pinger, Route, Site};

use crate::place::{HOST, OUTSIDE, Place, TOR, learned};
use crate::with_bird;

/// No answer within this time is none.
const ANSWER: Duration = Duration::from_secs(5);
/// Rounds of packets before and after each step.
const ROUNDS: usize = 50;

/// Hosts that both routers have. The kernel chooses among routers by address, so some are asked by way of each.
fn hosts() -> impl Iterator<Item = Ipv4Addr> {
    let [a, b, c, _] = HOST.octets();
    (1..=8).map(move |n| Ipv4Addr::new(a, b, c, n))
}

fn peer(name: &str, router: &Site) -> String {
    format!(
        "kind: BGPPeer
metadata:
  name: {name}
  annotations: {{networking.tortie.dev/bgp-graceful-shutdown: \"true\"}}
spec: {{peerIP: {}, asNumber: {TOR}}}
",
        router.address
    )
}

#[test]
fn of_two_routers_the_one_that_says_so_before_it_goes_takes_no_packet_with_it() {
    with_bird(
        "leaving::of_two_routers_the_one_that_says_so_before_it_goes_takes_no_packet_with_it",
        |programs| {
            let place = Place::start(programs, 1);
            let site = &place.sites()[0];
            let second = place.lab.topology.attach("tor2", 10, 1).unwrap();
            for router in [&place.tor, &second] {
                let mut netlink = router.namespace.netlink().unwrap();
                for host in hosts().filter(|host| router.address == second.address || *host != HOST)
                {
                    netlink.add_address("lo", Ipv4Net::from(host)).unwrap();
                }
            }
            let options = "graceful restart off;";
            let config = place.bird_config(TOR, options);
            let mut leaving = place.start_bird(TOR, options);
            let other = place.bird_config_of(&second, TOR, options);
            let _staying = Bird::start("tor2", &second.namespace, &other).unwrap();
            place.apply(&peer("tor", &place.tor));
            place.apply(&peer("tor2", &second));
            let mut both = [place.tor.address, second.address];
            both.sort_unstable();
            eventually("both routers are used side by side", || {
                let routes = learned(site, OUTSIDE);
                let mut gateways: Vec<IpAddr> = routes.iter().flat_map(Route::gateways).collect();
                gateways.sort_unstable();
                let done = gateways == both;
                done.then_some(()).ok_or_else(|| format!("{routes:?}"))
            });

            let (ended, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
            let targets: Vec<IpAddr> = hosts().map(IpAddr::V4).collect();
            let mut pinger = Pinger::open(&place.pod(site).namespace, 11).unwrap();
            std::thread::scope(|scope| {
                let packets = scope.spawn(|| {
                    let mut lost = Vec::new();
                    while !ended.load(Ordering::SeqCst) {
                        let answers = pinger.ping_all(&targets, ANSWER);
                        lost.extend(answers.into_iter().filter(|(_, answer)| answer.is_err()));
                        rounds.fetch_add(1, Ordering::SeqCst);
                    }
                    lost
                });
                let more = || {
                    let from = rounds.load(Ordering::SeqCst);
                    eventually("packets go on", || {
                        let now = rounds.load(Ordering::SeqCst);
                        let enough = now >= from + ROUNDS;
                        enough
                            .then_some(())
                            .ok_or_else(|| format!("{now} rounds, from {from}"))
                    });
                };
                more();
                let says_so = config.replace(
                    "export where source = RTS_STATIC;",
                    "export filter { if source != RTS_STATIC then reject; bgp_community.add((65535,0)); accept; };",
                );
                assert_ne!(says_so, config);
                leaving.configure(&says_so).unwrap();
                for prefix in [OUTSIDE, "0.0.0.0/0"] {
                    place.wait_fib(site, prefix, Some(second.address));
                }
                more();
                leaving.kill().unwrap();
                let mut netlink = place.tor.namespace.netlink().unwrap();
                netlink.set_down("eth0").unwrap();
                more();
                ended.store(true, Ordering::SeqCst);
                let lost = packets.join().unwrap();
                assert!(lost.is_empty(), "of {rounds:?} rounds: {lost:?}");
            });
        },
    );
}
