//! The host's own routes decide which BGP next hops are used.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use ipnet::Ipv4Net;
use lab::{Lab, NetNs, NetlinkError, Options, Topology, established_peers};

use crate::{ctl, options, with_programs};

const OUTSIDE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(203, 0, 113, 0), 24);
const N1: Ipv4Addr = Ipv4Addr::new(10, 10, 1, 11);
/// Each top-of-rack router, and the node by which n1 reaches it.
const WAYS: [(Ipv4Addr, Ipv4Addr); 2] = [
    (Ipv4Addr::new(10, 10, 1, 6), Ipv4Addr::new(10, 10, 1, 12)),
    (Ipv4Addr::new(10, 10, 1, 7), Ipv4Addr::new(10, 10, 1, 13)),
];

fn host(address: Ipv4Addr) -> Ipv4Net {
    Ipv4Net::from(address)
}

/// Moves n1 to a smaller network, without the routers and without a default route: it reaches each by a route of its own.
fn part(topology: &Topology) -> io::Result<()> {
    let change = || -> Result<(), NetlinkError> {
        let mut netlink = topology.sites[0].namespace.netlink().map_err(|source| {
            let what = "open a netlink socket".to_owned();
            NetlinkError { what, source }
        })?;
        let (large, small) = (Ipv4Net::new_assert(N1, 24), Ipv4Net::new_assert(N1, 29));
        netlink.delete_address("eth0", large)?;
        netlink.add_address("eth0", small)?;
        for (router, by) in WAYS {
            netlink.add_route(host(router), by)?;
        }
        Ok(())
    };
    change().map_err(|error| io::Error::other(format!("{}: {}", error.what, error.source)))
}

/// Where n1's kernel sends packets for the outside.
fn gateways(namespace: &NetNs) -> Vec<IpAddr> {
    let routes = namespace.netlink().unwrap().routes().unwrap();
    let outside = routes
        .into_iter()
        .filter(|route| route.destination == OUTSIDE.into());
    let mut found: Vec<IpAddr> = outside.flat_map(|route| route.gateways()).collect();
    found.sort_unstable();
    found
}

fn wait_for_gateways(lab: &Lab, expected: &[Ipv4Addr]) {
    let namespace = &lab.topology.sites[0].namespace;
    let deadline = Instant::now() + lab.options.patience;
    let there = lab::wait_until(deadline, || {
        (gateways(namespace) == *expected).then_some(())
    });
    let found = gateways(namespace);
    let said = lab::log_end("n1");
    assert!(there.is_some(), "{found:?}, expected {expected:?}\n{said}");
}

/// What `tortiectl bgp routes` says of the path by a next hop.
fn standing(lab: &Lab, next_hop: Ipv4Addr) -> String {
    let output = ctl(lab, &["bgp", "routes"]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let outside = OUTSIDE.to_string();
    let line = text.lines().find(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some(&outside) && words.next() == Some(&next_hop.to_string())
    });
    line.unwrap_or_else(|| panic!("no path by {next_hop} in\n{text}"))
        .to_owned()
}

#[test]
fn a_next_hop_without_a_route_leaves_the_fib_at_once_and_comes_back_with_it() {
    crate::tors::needs_bird();
    with_programs(
        "next_hops::a_next_hop_without_a_route_leaves_the_fib_at_once_and_comes_back_with_it",
        |programs| {
            let options = Options {
                tors: 2,
                ..options()
            };
            let lab =
                Lab::start_with(options, programs, part).unwrap_or_else(|error| panic!("{error}"));
            let both = WAYS.map(|(_, by)| by);
            wait_for_gateways(&lab, &both);

            let [(first, by_first), (_, by_second)] = WAYS;
            let namespace = &lab.topology.sites[0].namespace;
            let mut netlink = namespace.netlink().unwrap();
            netlink.delete_route(host(first)).unwrap();
            wait_for_gateways(&lab, &[by_second]);
            // The hold time is 240 s: nothing but the route has told of the loss.
            assert!(
                established_peers(namespace)
                    .unwrap()
                    .contains(&first.into())
            );
            let said = standing(&lab, first);
            assert!(
                said.contains(&format!("next hop {first} unreachable: no route")),
                "{said}"
            );

            netlink.add_route(host(first), by_first).unwrap();
            wait_for_gateways(&lab, &both);
            let said = standing(&lab, first);
            assert!(!said.contains("unreachable"), "{said}");

            // With its device every way is gone, and the kernel tells of none of them.
            netlink.set_down("eth0").unwrap();
            wait_for_gateways(&lab, &[]);
            // The kernel took the routes away by itself: the agent hears of it a moment later.
            let deadline = std::time::Instant::now() + lab.options.patience;
            let loss = format!("next hop {first} unreachable");
            let known = lab::wait_until(deadline, || {
                standing(&lab, first).contains(&loss).then_some(())
            });
            assert!(known.is_some(), "{}", standing(&lab, first));
            netlink.set_up("eth0").unwrap();
            for (router, by) in WAYS {
                netlink.add_route(host(router), by).unwrap();
            }
            wait_for_gateways(&lab, &both);
        },
    );
}
