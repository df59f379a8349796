//! Graceful restart of either side under traffic (RFC 4724).

use std::time::{Duration, Instant};

use interop::bird::Start;
use interop::eventually;
use ipnet::IpNet;
use lab::{RouteChange, RouteMonitor, Stream};

use crate::place::{HOST, OUTSIDE, Place, TOR};
use crate::with_bird;

const PER_SECOND: u32 = 100;
const GRACEFUL: &str = "graceful restart on; graceful restart time 60;";

/// Deletions that were told so far, of one prefix or of all.
fn deletions(monitor: &mut RouteMonitor, of: Option<IpNet>) -> Vec<String> {
    let deleted = monitor.deleted_until(Instant::now()).unwrap();
    deleted
        .iter()
        .filter(|route| of.is_none_or(|prefix| route.destination == prefix))
        .map(|route| format!("{route:?}"))
        .collect()
}

#[test]
fn the_router_forwards_to_a_node_whose_agent_was_killed_and_comes_back() {
    with_bird(
        "restart::the_router_forwards_to_a_node_whose_agent_was_killed_and_comes_back",
        |programs| {
            let mut place = Place::start(programs, 2);
            let bird = place.start_bird(TOR, GRACEFUL);
            place.apply(&place.peer(TOR, ""));
            place.wait_blocks(&bird);
            place.wait_outside_in_fibs();
            let site = place.sites()[0].clone();
            let (block, pod) = (place.block(&site), place.pod(&site).clone());
            let net: IpNet = block.parse().unwrap();
            eventually("the router's kernel has the block", || {
                let routes = place.tor.namespace.netlink().unwrap().routes().unwrap();
                match routes.iter().any(|route| route.destination == net) {
                    true => Ok(()),
                    false => Err(format!("{routes:?}")),
                }
            });

            let mut router = RouteMonitor::open(&place.tor.namespace).unwrap();
            let mut node = RouteMonitor::open(&site.namespace).unwrap();
            let tor = &place.tor.namespace;
            let inward = Stream::start("in", tor, &pod.namespace, pod.address, PER_SECOND).unwrap();
            let outward = Stream::start("out", &pod.namespace, tor, HOST, PER_SECOND).unwrap();

            place.lab.kill_agent(0).unwrap();
            eventually("BIRD notices", || match bird.session("n1").as_str() {
                "Established" => Err("still established".to_owned()),
                _ => Ok(()),
            });
            let said = bird.describe("n1");
            assert!(said.contains("Neighbor graceful restart active"), "{said}");
            bird.wait_route("n1", &block, site.address);

            place
                .lab
                .restart_agent(0)
                .unwrap_or_else(|error| panic!("{error}"));
            bird.wait_established("n1");
            eventually("our End-of-RIB ends the restart", || {
                let said = bird.describe("n1");
                match said.contains("graceful restart active") {
                    true => Err(said),
                    false => Ok(()),
                }
            });
            bird.wait_route("n1", &block, site.address);
            place.wait_outside_in_fibs();

            for stream in [inward, outward] {
                let outcome = stream.finish().unwrap();
                assert!(
                    outcome.sent > 5,
                    "the stream did not run across it: {outcome:?}"
                );
                assert!(outcome.lost.is_empty(), "{outcome:?}");
            }
            assert_eq!(
                deletions(&mut router, Some(net)),
                Vec::<String>::new(),
                "in the router's kernel"
            );
            assert_eq!(
                deletions(&mut node, None),
                Vec::<String>::new(),
                "in the node's kernel"
            );
        },
    );
}

#[test]
fn the_fibs_keep_a_restarting_routers_routes() {
    with_bird(
        "restart::the_fibs_keep_a_restarting_routers_routes",
        |programs| {
            let place = Place::start(programs, 2);
            let mut bird = place.start_bird(TOR, GRACEFUL);
            place.apply(&place.peer(TOR, ""));
            place.wait_blocks(&bird);
            place.wait_outside_in_fibs();
            let mut monitors: Vec<RouteMonitor> = place
                .sites()
                .iter()
                .map(|site| RouteMonitor::open(&site.namespace).unwrap())
                .collect();
            let site = &place.sites()[0];
            let pod = place.pod(site);
            let tor = &place.tor.namespace;
            let outward = Stream::start("out", &pod.namespace, tor, HOST, PER_SECOND).unwrap();

            bird.kill().unwrap();
            for site in place.sites() {
                eventually(
                    "the session ends on our side, too",
                    || match lab::established_peers(&site.namespace)
                        .unwrap()
                        .contains(&place.tor.address)
                    {
                        true => Err(site.name.clone()),
                        false => Ok(()),
                    },
                );
            }
            bird.restart(Start::Recover).unwrap();
            place.wait_blocks(&bird);
            for site in place.sites() {
                eventually("BIRD's recovery is over", || {
                    let said = bird.ask("show status").map_err(|error| error.to_string())?;
                    match said.contains("raceful restart") {
                        true => Err(format!("{said}\n{}", bird.describe(&site.name))),
                        false => Ok(()),
                    }
                });
                bird.wait_established(&site.name);
            }
            place.wait_outside_in_fibs();
            for (site, monitor) in place.sites().iter().zip(&mut monitors) {
                assert_eq!(
                    deletions(monitor, None),
                    Vec::<String>::new(),
                    "on {}",
                    site.name
                );
            }
            let outcome = outward.finish().unwrap();
            assert!(
                outcome.sent > 5,
                "the stream did not run across it: {outcome:?}"
            );
            assert!(outcome.lost.is_empty(), "{outcome:?}");

            // What it no longer announces after its return goes at once.
            let without = place
                .bird_config(TOR, GRACEFUL)
                .replace(&format!("route {OUTSIDE} unreachable;"), "");
            let deadline = Instant::now() + Duration::from_secs(30);
            bird.configure(&without).unwrap();
            for monitor in &mut monitors {
                let gone = monitor
                    .wait_for(deadline, |event| event.change == RouteChange::Deleted)
                    .unwrap();
                assert_eq!(
                    gone.map(|event| event.route.destination.to_string()),
                    Some(OUTSIDE.to_owned())
                );
            }
        },
    );
}

/// Such a router sends no End-of-RIB: its UPDATEs and the KEEPALIVE after them say that it has sent all.
#[test]
fn routes_of_a_router_without_graceful_restart_outlive_our_death_until_it_has_sent_its_own() {
    with_bird(
        "restart::routes_of_a_router_without_graceful_restart_outlive_our_death_until_it_has_sent_its_own",
        |programs| {
            let mut place = Place::start(programs, 2);
            let options = "graceful restart off; hold time 12;";
            let bird = place.start_bird(TOR, options);
            place.apply(&place.peer(TOR, ""));
            place.wait_blocks(&bird);
            place.wait_outside_in_fibs();
            let site = place.sites()[0].clone();
            let pod = place.pod(&site).clone();
            let mut node = RouteMonitor::open(&site.namespace).unwrap();
            let tor = &place.tor.namespace;
            let outward = Stream::start("out", &pod.namespace, tor, HOST, PER_SECOND).unwrap();

            place.lab.kill_agent(0).unwrap();
            eventually("BIRD notices", || match bird.session("n1").as_str() {
                "Established" => Err("still established".to_owned()),
                _ => Ok(()),
            });
            let config = place.bird_config(TOR, options);
            let without = config.replace(&format!("route {OUTSIDE} unreachable;"), "");
            bird.configure(&without).unwrap();
            place
                .lab
                .restart_agent(0)
                .unwrap_or_else(|error| panic!("{error}"));
            bird.wait_route("n1", &place.block(&site), site.address);
            place.wait_fib(&site, OUTSIDE, None);
            place.wait_fib(&site, "0.0.0.0/0", Some(place.tor.address));
            let gone = node.deleted_until(Instant::now()).unwrap();
            let gone: Vec<String> = gone
                .iter()
                .map(|route| route.destination.to_string())
                .collect();
            assert_eq!(
                gone,
                [OUTSIDE],
                "what it announces no more, and nothing else"
            );
            let outcome = outward.finish().unwrap();
            assert!(
                outcome.sent > 5,
                "the stream did not run across it: {outcome:?}"
            );
            assert!(outcome.lost.is_empty(), "{outcome:?}");
        },
    );
}

/// The counter-test: what the tests above watch would show the fault.
#[test]
fn a_router_without_graceful_restart_drops_a_dead_agents_block_and_packets_are_missed() {
    with_bird(
        "restart::a_router_without_graceful_restart_drops_a_dead_agents_block_and_packets_are_missed",
        |programs| {
            let mut place = Place::start(programs, 1);
            let bird = place.start_bird(TOR, "graceful restart off;");
            place.apply(&place.peer(TOR, ""));
            place.wait_blocks(&bird);
            let site = place.sites()[0].clone();
            let (block, pod) = (place.block(&site), place.pod(&site).clone());
            let net: IpNet = block.parse().unwrap();
            let mut router = RouteMonitor::open(&place.tor.namespace).unwrap();
            let tor = &place.tor.namespace;
            let inward = Stream::start("in", tor, &pod.namespace, pod.address, PER_SECOND).unwrap();
            place.lab.kill_agent(0).unwrap();
            let deadline = Instant::now() + Duration::from_secs(30);
            let gone = router
                .wait_for(deadline, |event| {
                    event.change == RouteChange::Deleted && event.route.destination == net
                })
                .unwrap();
            assert!(gone.is_some(), "{}", bird.describe("n1"));
            place
                .lab
                .restart_agent(0)
                .unwrap_or_else(|error| panic!("{error}"));
            bird.wait_route("n1", &block, site.address);
            let outcome = inward.finish().unwrap();
            assert!(!outcome.lost.is_empty(), "{outcome:?}");
        },
    );
}
