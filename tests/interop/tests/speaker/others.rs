//! One session each with FRR and GoBGP: their decoders are not BIRD's.

use interop::frr::Frr;
use interop::gobgp::GoBgp;
use interop::{Begin, FAR, NEAR, OurSpeaker, config, eventually, joined, peer};
use lab::NetNs;

use crate::{OURS, OUTSIDE, THEIRS, learned, prefix};

const BLOCK: &str = "192.168.7.0/26";

fn our_speaker(near: &NetNs) -> OurSpeaker {
    let configured = config(OURS, NEAR, [peer(FAR, THEIRS, NEAR)]);
    OurSpeaker::start(near, Begin::Fresh, configured, &[prefix(BLOCK)]).unwrap()
}

#[test]
fn frr_learns_our_prefix_and_keeps_it_while_we_restart() {
    if !Frr::is_there() {
        lab::skipped("frr", "no bgpd and vtysh (Debian: frr)");
        return;
    }
    lab::in_namespaces(
        "others::frr_learns_our_prefix_and_keeps_it_while_we_restart",
        || {
            let (near, far) = joined().unwrap();
            let frr = Frr::start(
                &far,
                &format!(
                    "router bgp {THEIRS}\n bgp router-id {FAR}\n no bgp ebgp-requires-policy\n \
                     no bgp network import-check\n bgp graceful-restart\n \
                     neighbor {NEAR} remote-as {OURS}\n neighbor {NEAR} timers connect 1\n \
                     address-family ipv4 unicast\n  network {OUTSIDE}\n exit-address-family\n"
                ),
            )
            .unwrap();
            let mut ours = our_speaker(&near);
            let path = frr.wait_path(BLOCK);
            assert_eq!(path["aspath"]["string"], OURS.to_string(), "{path:#}");
            assert_eq!(path["nexthops"][0]["ip"], NEAR.to_string(), "{path:#}");
            assert_eq!(path["origin"], "IGP", "{path:#}");
            assert_eq!(learned(&mut ours, OUTSIDE), FAR);

            ours.stop();
            eventually("bgpd keeps it as stale", || {
                let path = frr.wait_path(BLOCK);
                match path["stale"] == true {
                    true => Ok(()),
                    false => Err(format!("{path:#}")),
                }
            });
            let configured = config(OURS, NEAR, [peer(FAR, THEIRS, NEAR)]);
            let ours =
                OurSpeaker::start(&near, Begin::Restarting, configured, &[prefix(BLOCK)]).unwrap();
            eventually("it is fresh again", || {
                let path = frr.wait_path(BLOCK);
                match path["stale"].is_null() {
                    true => Ok(()),
                    false => Err(format!("{path:#}")),
                }
            });
            ours.stop();
        },
    );
}

#[test]
fn gobgp_learns_our_prefix_and_we_learn_its() {
    if !GoBgp::is_there() {
        lab::skipped("gobgp", "no gobgpd and gobgp (Debian: gobgpd)");
        return;
    }
    lab::in_namespaces("others::gobgp_learns_our_prefix_and_we_learn_its", || {
        let (near, far) = joined().unwrap();
        let gobgp = GoBgp::start(
            &far,
            &format!(
                "[global.config]\nas = {THEIRS}\nrouter-id = \"{FAR}\"\n\
                 [[neighbors]]\n[neighbors.config]\nneighbor-address = \"{NEAR}\"\npeer-as = {OURS}\n\
                 [[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"ipv4-unicast\"\n"
            ),
        )
        .unwrap();
        gobgp
            .ask(&format!(
                "global rib add {OUTSIDE} origin igp med 5 community 65001:7"
            ))
            .unwrap();
        let mut ours = our_speaker(&near);
        let path = gobgp.wait_path(BLOCK);
        let attribute = |code: u64| {
            let all = path["attrs"].as_array().cloned().unwrap_or_default();
            all.into_iter()
                .find(|attribute| attribute["type"] == code)
                .unwrap_or_default()
        };
        assert_eq!(attribute(1)["value"], 0, "ORIGIN: {path:#}");
        assert_eq!(
            attribute(2)["as_paths"][0]["asns"][0],
            OURS,
            "AS_PATH: {path:#}"
        );
        assert_eq!(
            attribute(3)["nexthop"],
            NEAR.to_string(),
            "NEXT_HOP: {path:#}"
        );
        assert_eq!(learned(&mut ours, OUTSIDE), FAR);
        ours.stop();
    });
}
