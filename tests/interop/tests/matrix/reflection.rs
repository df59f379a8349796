//! Route reflection (RFC 4456), the daemon as a client and as none.

use std::net::{IpAddr, Ipv4Addr};

use bgp::config::Config;
use bgp_io::Command;
use interop::plan::{Announced, Plan};
use interop::{Begin, FAR, NEAR, OurSpeaker, config, peer};

use crate::place::{
    BLOCK, NEAR_THIRD, OURS, OUTSIDE, OWN_PREFERENCE, Place, THIRD, learned, prefix,
};

const CLUSTER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

/// A reflector for the daemon and the third speaker, each a client or not.
fn reflector(daemon: bool, third: bool) -> Config {
    let mut peers = [peer(FAR, OURS, NEAR), peer(THIRD, OURS, NEAR_THIRD)];
    peers[0].route_reflector_client = daemon;
    peers[1].route_reflector_client = third;
    let mut configured = config(OURS, NEAR, peers);
    configured.cluster_id = Some(CLUSTER);
    configured.listen_addresses.insert(IpAddr::V4(NEAR_THIRD));
    configured
}

daemons_test!(
    what_we_reflect_has_originator_and_cluster_in_its_table,
    [bird2, bird1, frr, gobgp, exabgp]
);
fn what_we_reflect_has_originator_and_cluster_in_its_table(place: &Place) {
    let plan = Plan::new(OURS, FAR, NEAR, OURS).announcing(Announced::new(OUTSIDE));
    let daemon = place.start(&plan);
    let client = config(OURS, THIRD, [peer(NEAR_THIRD, OURS, THIRD)]);
    let own = [prefix(BLOCK)];
    let mut third = OurSpeaker::start(&place.third(), Begin::Fresh, client, &own).unwrap();
    let ours = place.ours(reflector(true, false), &[]);
    for (to_daemon, to_third) in [(true, false), (false, true), (true, true)] {
        ours.tell(Command::Config(Box::new(reflector(to_daemon, to_third))));
        let block = daemon.wait_seen(BLOCK, |_| true);
        assert_eq!(block.next_hop, Some(IpAddr::V4(THIRD)), "{block:?}");
        assert_eq!(block.originator, Some(THIRD), "{block:?}");
        assert_eq!(block.clusters, [CLUSTER], "{block:?}");
        assert_eq!(block.local_pref, Some(OWN_PREFERENCE), "{block:?}");
    }
    assert_eq!(learned(&mut third, OUTSIDE), [IpAddr::V4(FAR)]);
    // RFC 4456 §6: what one non-client says is not for another.
    ours.tell(Command::Config(Box::new(reflector(false, false))));
    daemon.wait_gone(BLOCK);
    third.stop();
    ours.stop();
}
