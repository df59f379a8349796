//! Route reflection (RFC 4456), the daemon as a client and as none.

use std::net::{IpAddr, Ipv4Addr};

use bgp::config::Config;
use bgp_io::{Command, Output};
use interop::plan::{Announced, Neighbour, Plan};
use interop::{Begin, FAR, NEAR, OurSpeaker, config, peer};
use ipnet::Ipv4Net;

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

daemons_test!(
    what_it_reflects_reaches_its_clients_of_ours,
    [bird2, bird1, frr, gobgp]
);
fn what_it_reflects_reaches_its_clients_of_ours(place: &Place) {
    let second = Ipv4Addr::new(10, 0, 0, 3);
    let subnet = Ipv4Net::new(second, 24).unwrap();
    place
        .near
        .netlink()
        .unwrap()
        .add_address("eth0", subnet)
        .unwrap();
    let mut plan = Plan::new(OURS, FAR, NEAR, OURS).with(|neighbour| neighbour.client = true);
    plan.neighbours.push(Neighbour {
        address: IpAddr::V4(second),
        ..plan.neighbours[0].clone()
    });
    let daemon = place.start(&plan);
    let mut ours = place.ours(config(OURS, NEAR, [peer(FAR, OURS, NEAR)]), &[]);
    let other = config(OURS, second, [peer(FAR, OURS, second)]);
    let other = place.ours(other, &[BLOCK]);
    // Its originator is the other client, and the cluster is the daemon's: neither is a loop for us.
    assert_eq!(learned(&mut ours, BLOCK), [IpAddr::V4(second)]);
    daemon.wait_seen(BLOCK, |_| true);
    other.tell(Command::Originate(prefix(BLOCK), None));
    ours.wait_for("it goes", |output| match output {
        Output::Route(change) if change.prefix == prefix(BLOCK) => {
            change.best.is_none().then_some(())
        }
        _ => None,
    });
    other.stop();
    ours.stop();
}
