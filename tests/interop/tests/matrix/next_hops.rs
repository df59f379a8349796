//! IPv4 prefixes with IPv6 next hops (RFC 8950).

use std::net::{IpAddr, Ipv6Addr};

use bgp::config::PeerConfig;
use bgp::types::AfiSafi;
use bgp_io::Command;
use interop::plan::{Announced, Plan};
use interop::{FAR, FAR6, NEAR, NEAR6, config, peer};
use ipnet::Ipv6Net;

use crate::place::{
    BLOCK, OURS, OUTSIDE, Place, SECOND, THEIRS, carries_both_ways, learned, prefix,
};

/// Our side of an IPv6 session for IPv4 prefixes.
fn with_ipv6_next_hops() -> PeerConfig {
    let mut there = peer(FAR6, THEIRS, NEAR6);
    there.families = [AfiSafi::Ipv4Unicast].into();
    there.options.ipv6_next_hops = true;
    there
}

daemons_test!(
    ipv4_prefixes_go_both_ways_over_an_ipv6_session,
    [bird2, frr]
);
fn ipv4_prefixes_go_both_ways_over_an_ipv6_session(place: &Place) {
    let outside = Announced {
        next_hop: Some(IpAddr::V6(FAR6)),
        ..Announced::new(OUTSIDE)
    };
    let plan = Plan::new(THEIRS, FAR, NEAR, OURS)
        .announcing(outside)
        .with(|neighbour| {
            (neighbour.address, neighbour.local) = (IpAddr::V6(NEAR6), IpAddr::V6(FAR6));
            neighbour.ipv6_next_hops = true;
        });
    let daemon = place.start(&plan);
    let mut configured = config(OURS, NEAR, [with_ipv6_next_hops()]);
    configured.listen_addresses = [IpAddr::V6(NEAR6)].into();
    let mut ours = place.ours(configured, &[BLOCK, SECOND]);
    carries_both_ways(&*daemon, &mut ours, NEAR6.into(), FAR6.into());
    ours.stop();
}

daemons_test!(
    ipv4_prefixes_go_both_ways_over_link_local_addresses,
    [bird2]
);
fn ipv4_prefixes_go_both_ways_over_link_local_addresses(place: &Place) {
    let [near, far] = [1, 2].map(|host| Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, host));
    for (namespace, address) in [(&place.near, near), (&place.far, far)] {
        let subnet = Ipv6Net::new(address, 64).unwrap();
        let mut netlink = namespace.netlink().unwrap();
        netlink.add_address6("eth0", subnet).unwrap();
    }
    let links = place.near.netlink().unwrap().links().unwrap();
    let link = links.iter().find(|link| link.name == "eth0").unwrap();
    let plan = Plan::new(THEIRS, FAR, NEAR, OURS)
        .announcing(Announced::new(OUTSIDE))
        .with(|neighbour| {
            (neighbour.address, neighbour.local) = (IpAddr::V6(near), IpAddr::V6(far));
            neighbour.interface = Some("eth0");
            neighbour.ipv6_next_hops = true;
        });
    let daemon = place.start(&plan);
    let mut there = with_ipv6_next_hops();
    (there.address, there.local_address) = (IpAddr::V6(far), Some(IpAddr::V6(near)));
    there.options.scope_id = link.index;
    let mut ours = place.ours(config(OURS, NEAR, [there]), &[BLOCK]);
    let block = daemon.wait_seen(BLOCK, |_| true);
    assert_eq!(block.as_path, [OURS], "{block:?}");
    assert_eq!(learned(&mut ours, OUTSIDE), [IpAddr::V6(far)]);
    ours.tell(Command::Originate(prefix(BLOCK), None));
    daemon.wait_gone(BLOCK);
    ours.stop();
}
