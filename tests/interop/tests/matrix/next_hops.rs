//! IPv4 prefixes with IPv6 next hops (RFC 8950).

use std::net::IpAddr;

use bgp::config::PeerConfig;
use bgp::types::AfiSafi;
use bgp_io::Command;
use interop::plan::{Announced, Plan};
use interop::{FAR, FAR6, NEAR, NEAR6, config, peer};

use crate::place::{BLOCK, OURS, OUTSIDE, Place, SECOND, THEIRS, learned, prefix};

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
    let block = daemon.wait_seen(BLOCK, |_| true);
    assert_eq!(block.as_path, [OURS], "{block:?}");
    assert_eq!(block.next_hop, Some(IpAddr::V6(NEAR6)), "{block:?}");
    assert_eq!(learned(&mut ours, OUTSIDE), [IpAddr::V6(FAR6)]);
    daemon.wait_seen(SECOND, |_| true);
    ours.tell(Command::Originate(prefix(SECOND), None));
    daemon.wait_gone(SECOND);
    daemon.wait_seen(BLOCK, |seen| *seen == block);
    ours.stop();
}
