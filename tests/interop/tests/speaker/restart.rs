//! Graceful restart (RFC 4724) with BIRD: each side in each role, observed in the other's table and kernel.

use std::time::Duration;

use bgp::event::Event;
use bgp_io::Output;
use interop::bird::{Bird, Start};
use interop::{Begin, FAR, NEAR, OurSpeaker, config, eventually, peer};
use lab::{RouteChange, RouteMonitor};

use crate::{OURS, OUTSIDE, THEIRS, bird_config, is_session_up, learned, prefix, with_bird};

const BLOCK: &str = "192.168.7.0/26";
const DROPPED: &str = "192.168.8.0/26";
const GRACEFUL: &str = "graceful restart on; graceful restart time 60;";

#[test]
fn bird_keeps_our_routes_while_we_restart_and_drops_what_we_no_longer_have() {
    with_bird(
        "restart::bird_keeps_our_routes_while_we_restart_and_drops_what_we_no_longer_have",
        |near, far| {
            let bird = Bird::start("tor", &far, &bird_config(THEIRS, GRACEFUL, "")).unwrap();
            let configured = || config(OURS, NEAR, [peer(FAR, THEIRS, NEAR)]);
            let both = [prefix(BLOCK), prefix(DROPPED)];
            let ours = OurSpeaker::start(&near, Begin::Fresh, configured(), &both).unwrap();
            bird.wait_route("ours", BLOCK, NEAR);
            bird.wait_route("ours", DROPPED, NEAR);
            let wanted = [
                "192.168.7.0/26".parse().unwrap(),
                "192.168.8.0/26".parse().unwrap(),
            ];
            eventually("BIRD's kernel has both", || {
                let routes = far.netlink().unwrap().routes().unwrap();
                let has = |net| routes.iter().any(|route| route.destination == net);
                if wanted.iter().all(|net| has(*net)) {
                    Ok(())
                } else {
                    Err(format!("{routes:?}"))
                }
            });
            let mut kernel = RouteMonitor::open(&far).unwrap();

            ours.stop();
            eventually("BIRD notices", || match bird.session("ours").as_str() {
                "Established" => Err("still established".to_owned()),
                _ => Ok(()),
            });
            assert_eq!(bird.routes_from("ours").len(), 2, "{:?}", bird.routes());
            assert!(
                bird.describe("ours")
                    .contains("Neighbor graceful restart active"),
                "{}",
                bird.describe("ours")
            );

            let mut ours =
                OurSpeaker::start(&near, Begin::Restarting, configured(), &both[..1]).unwrap();
            ours.wait_for("the session stands", is_session_up);
            // BIRD sweeps stale routes when our End-of-RIB comes: the deletion is the only event.
            let deadline = std::time::Instant::now() + Duration::from_secs(30);
            let gone = kernel
                .wait_for(deadline, |event| event.change == RouteChange::Deleted)
                .unwrap()
                .expect("End-of-RIB removes what was not sent again");
            assert_eq!(gone.route.destination, wanted[1]);
            bird.wait_route("ours", BLOCK, NEAR);
            let later = kernel.wait(Duration::ZERO).unwrap();
            assert!(
                later.iter().all(|event| event.change == RouteChange::Added),
                "{later:?}"
            );
            ours.stop();
        },
    );
}

#[test]
fn we_keep_birds_routes_while_it_restarts() {
    with_bird(
        "restart::we_keep_birds_routes_while_it_restarts",
        |near, far| {
            let routes = format!("route {OUTSIDE} unreachable;");
            let mut bird =
                Bird::start("tor", &far, &bird_config(THEIRS, GRACEFUL, &routes)).unwrap();
            let configured = config(OURS, NEAR, [peer(FAR, THEIRS, NEAR)]);
            let mut ours =
                OurSpeaker::start(&near, Begin::Fresh, configured, &[prefix(BLOCK)]).unwrap();
            assert_eq!(learned(&mut ours, OUTSIDE), FAR);
            bird.wait_established("ours");

            bird.kill().unwrap();
            let mut lost = Vec::new();
            let kept = ours.wait_for("the session goes down", |output| match output {
                Output::Event(Event::SessionDown { routes_kept, .. }) => Some(*routes_kept),
                _ => None,
            });
            assert!(kept);
            bird.restart(Start::Recover).unwrap();
            ours.wait_for("the session comes back and its table is whole", |output| {
                match output {
                    Output::Route(change) if change.best.is_none() => lost.push(change.prefix),
                    Output::Event(Event::EndOfRib { .. }) => return Some(()),
                    _ => {}
                }
                None
            });
            assert_eq!(lost, [], "withdrawn in between");
            bird.wait_route("ours", BLOCK, NEAR);
            ours.stop();
        },
    );
}

#[test]
fn without_graceful_restart_a_dead_birds_routes_go_and_come_back_with_it() {
    with_bird(
        "restart::without_graceful_restart_a_dead_birds_routes_go_and_come_back_with_it",
        |near, far| {
            let routes = format!("route {OUTSIDE} unreachable;");
            let off = "graceful restart off;";
            let mut bird = Bird::start("tor", &far, &bird_config(THEIRS, off, &routes)).unwrap();
            let configured = config(OURS, NEAR, [peer(FAR, THEIRS, NEAR)]);
            let mut ours =
                OurSpeaker::start(&near, Begin::Fresh, configured, &[prefix(BLOCK)]).unwrap();
            assert_eq!(learned(&mut ours, OUTSIDE), FAR);
            bird.wait_established("ours");
            bird.kill().unwrap();
            ours.wait_for("the route goes", |output| match output {
                Output::Route(change) if change.best.is_none() => Some(()),
                _ => None,
            });
            bird.restart(Start::Fresh).unwrap();
            assert_eq!(learned(&mut ours, OUTSIDE), FAR);
            bird.wait_route("ours", BLOCK, NEAR);
            ours.stop();
        },
    );
}
