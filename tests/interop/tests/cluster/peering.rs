//! A BGPPeer comes and goes; packets follow.

use std::time::Duration;

use interop::bird::{BirdRoute, Start};
use interop::eventually;
use lab::{Pinger, SourceReporter, ask_source};

use crate::place::{CLUSTER, HOST, OUTSIDE, Place, TOR};
use crate::with_bird;

const ANSWER: Duration = Duration::from_secs(5);

/// What all pods' routes are announced with, by name and by value.
const COMMUNITIES: &str = r#"{"apiVersion": "projectcalico.org/v3", "kind": "BGPConfiguration", "metadata": {"name": "default"},
    "spec": {"communities": [{"name": "rack", "value": "64512:100"}],
             "prefixAdvertisements": [{"cidr": "192.168.0.0/16", "communities": ["rack", "64512:7:9"]}]}}"#;

/// From the router to every pod and, with the pod's own address, from every pod to a host that only the router knows.
fn check_packets(place: &Place) {
    let mut pinger = Pinger::open(&place.tor.namespace, 7).unwrap();
    let reporter = SourceReporter::open(&place.tor.namespace, HOST).unwrap();
    for site in place.sites() {
        let pod = place.pod(site);
        assert!(
            pinger.ping(pod.address, ANSWER).unwrap().is_some(),
            "the router pings {}",
            pod.label()
        );
        let seen = ask_source(&pod.namespace, reporter.address(), ANSWER).unwrap();
        assert_eq!(seen.source, pod.address, "{}", pod.label());
    }
}

#[test]
fn an_external_router_gets_every_block_and_its_routes_reach_every_fib() {
    with_bird(
        "peering::an_external_router_gets_every_block_and_its_routes_reach_every_fib",
        |programs| {
            let place = Place::start(programs, 2);
            let mut bird = place.start_bird(TOR, "graceful restart off;");
            place.apply(&place.peer(TOR, ""));
            place.wait_blocks(&bird);
            place.wait_outside_in_fibs();
            check_packets(&place);
            let block = bird.wait_route(
                "n1",
                &place.block(&place.sites()[0]),
                place.sites()[0].address,
            );
            assert_eq!(block.attribute("as_path"), CLUSTER.to_string(), "{block:?}");

            place.apply(COMMUNITIES);
            eventually("blocks have the communities of their range", || {
                let has_both = |route: &BirdRoute| {
                    route.attribute("community") == "(64512,100)"
                        && route.attribute("large_community") == "(64512, 7, 9)"
                };
                let routes = bird.routes_from("n1");
                (routes.iter().any(has_both))
                    .then_some(())
                    .ok_or_else(|| format!("{routes:#?}"))
            });

            // Without graceful restart a dead router's routes must go, and come back with it.
            bird.kill().unwrap();
            for site in place.sites() {
                place.wait_fib(site, OUTSIDE, None);
            }
            bird.restart(Start::Fresh).unwrap();
            place.wait_blocks(&bird);
            place.wait_outside_in_fibs();
            check_packets(&place);

            place.delete_peer();
            for site in place.sites() {
                bird.wait_no_route(&site.name);
                place.wait_fib(site, OUTSIDE, None);
                place.wait_fib(site, "0.0.0.0/0", None);
                assert_ne!(bird.session(&site.name), "Established");
            }
        },
    );
}

#[test]
fn an_internal_router_of_one_node_gets_that_nodes_block_only() {
    with_bird(
        "peering::an_internal_router_of_one_node_gets_that_nodes_block_only",
        |programs| {
            let place = Place::start(programs, 2);
            let [first, second] = place.sites() else {
                unreachable!("two were asked for");
            };
            let bird = place.start_bird(CLUSTER, "");
            place.apply(&place.peer(CLUSTER, "  node: n1\n"));
            let block = bird.wait_route("n1", &place.block(first), first.address);
            assert_eq!(block.attribute("as_path"), "", "{block:?}");
            place.wait_fib(first, OUTSIDE, Some(place.tor.address));
            // RFC 4271 §9.2: what an internal peer said is not said to other internal peers.
            assert_eq!(bird.routes_from("n1").len(), 1, "{:?}", bird.routes());
            assert_eq!(bird.routes_from("n2"), [], "{:?}", bird.routes());
            place.wait_fib(second, OUTSIDE, None);

            // The same object for the other node: one session goes, one comes.
            place.apply(&place.peer(CLUSTER, "  node: n2\n"));
            bird.wait_route("n2", &place.block(second), second.address);
            bird.wait_no_route("n1");
            place.wait_fib(first, OUTSIDE, None);
            place.wait_fib(second, OUTSIDE, Some(place.tor.address));

            place.delete_peer();
            bird.wait_no_route("n2");
            place.wait_fib(second, OUTSIDE, None);
        },
    );
}

#[test]
fn a_pool_that_is_not_exported_is_withdrawn_from_the_router() {
    with_bird(
        "peering::a_pool_that_is_not_exported_is_withdrawn_from_the_router",
        |programs| {
            let place = Place::start(programs, 1);
            let bird = place.start_bird(TOR, "graceful restart off;");
            place.apply(&place.peer(TOR, ""));
            place.wait_blocks(&bird);
            let output = place.ctl(&["get", "ippool", "-o", "yaml"], "");
            let pool = String::from_utf8(output.stdout).unwrap();
            let hidden = pool.replace("cidr:", "disableBGPExport: true\n    cidr:");
            assert_ne!(pool, hidden, "the pool is there");
            place.apply(&hidden);
            bird.wait_no_route("n1");
            assert_eq!(bird.session("n1"), "Established");
            place.apply(&pool);
            place.wait_blocks(&bird);
        },
    );
}

/// A BGPFilter named `tor`; `rules` are its lists.
fn filter(rules: &str) -> String {
    format!("kind: BGPFilter\nmetadata: {{name: tor}}\nspec: {{{rules}}}\n")
}

#[test]
fn an_edited_filter_takes_routes_from_the_router_and_from_the_fib_and_gives_them_back() {
    with_bird(
        "peering::an_edited_filter_takes_routes_from_the_router_and_from_the_fib_and_gives_them_back",
        |programs| {
            let place = Place::start(programs, 1);
            let site = &place.sites()[0];
            let bird = place.start_bird(TOR, "graceful restart off;");
            place.apply(&filter(""));
            place.apply(&place.peer(TOR, "  filters: [tor]\n"));
            place.wait_blocks(&bird);
            place.wait_outside_in_fibs();

            let reject = |prefix: &str| {
                format!("[{{action: Reject, matchOperator: Equal, cidr: {prefix}}}]")
            };
            let block = place.block(site);
            place.apply(&filter(&format!(
                "exportV4: {}, importV4: {}",
                reject(&block),
                reject(OUTSIDE)
            )));
            bird.wait_no_route(&site.name);
            place.wait_fib(site, OUTSIDE, None);
            // What the rules do not name stays.
            place.wait_fib(site, "0.0.0.0/0", Some(place.tor.address));
            assert_eq!(bird.session(&site.name), "Established");

            // By device: the next hops of what the router says and of the default route are behind eth0.
            let rule =
                |device: &str| format!("importV4: [{{action: Reject, interface: {device}}}]");
            place.apply(&filter(&rule("eth*")));
            place.wait_fib(site, "0.0.0.0/0", None);
            bird.wait_route(&site.name, &block, site.address);
            place.apply(&filter(&rule("eth9")));
            place.wait_outside_in_fibs();
            place.wait_fib(site, "0.0.0.0/0", Some(place.tor.address));
            assert_eq!(bird.session(&site.name), "Established");

            let longer_path = "operations: [{prependASPath: {prefix: [64999, 64998]}}]";
            place.apply(&filter(&format!(
                "exportV4: [{{action: Accept, matchOperator: In, cidr: {block}, {longer_path}}}]"
            )));
            place.wait_outside_in_fibs();
            let told = bird.wait_route(&site.name, &block, site.address);
            assert_eq!(
                told.attribute("as_path"),
                format!("64999 64998 {CLUSTER}"),
                "{told:?}"
            );
        },
    );
}

#[test]
fn a_router_hears_that_a_drained_node_is_leaving_and_still_reaches_its_pods() {
    with_bird(
        "peering::a_router_hears_that_a_drained_node_is_leaving_and_still_reaches_its_pods",
        |programs| {
            let place = Place::start(programs, 1);
            let site = &place.sites()[0];
            let bird = place.start_bird(TOR, "graceful restart off;");
            place.apply(&place.peer(TOR, ""));
            place.wait_blocks(&bird);
            place.wait_outside_in_fibs();
            let block = place.block(site);
            let communities = |wanted: &str| {
                eventually("the block's communities are those wanted", || {
                    let route = bird.wait_route(&site.name, &block, site.address);
                    (route.attribute("community") == wanted)
                        .then_some(())
                        .ok_or_else(|| format!("{route:#?}"))
                });
                assert_eq!(bird.session(&site.name), "Established");
                check_packets(&place);
            };
            let drain = |arguments: &[&str]| {
                let all = [&["node", "drain", site.name.as_str()], arguments].concat();
                let output = place.ctl(&all, "");
                assert!(output.status.success(), "{output:?}");
            };
            drain(&["--last-resort-only"]);
            communities("(65535,0)");
            // The pod is still there, so its block is.
            drain(&["--after", "0s"]);
            communities("(65535,0)");
            drain(&["--undo"]);
            communities("");
        },
    );
}
