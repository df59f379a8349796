//! bgpd's configuration, as far as the tests write it.

use std::fmt::{self, Write};
use std::net::IpAddr;

use bgp::types::AfiSafi;

use crate::plan::{Announced, Graceful, Neighbour, Plan};

pub(super) fn of(plan: &Plan) -> Result<String, fmt::Error> {
    let mut text = "log stdout\ndebug bgp neighbor-events\ndebug bgp graceful-restart\n".to_owned();
    // Before the networks that they are for: a network without its map is none until later.
    maps(&mut text, plan)?;
    write!(
        text,
        "router bgp {}\n \
         bgp router-id {}\n \
         no bgp ebgp-requires-policy\n \
         no bgp network import-check\n \
         no bgp default ipv4-unicast\n",
        plan.asn, plan.router_id
    )?;
    match plan.neighbours.iter().map(|neighbour| neighbour.graceful).max() {
        Some(Graceful::OverNotifications) => text.push_str(
            " bgp graceful-restart\n bgp graceful-restart restart-time 60\n bgp graceful-restart preserve-fw-state\n \
             bgp graceful-restart notification\n no bgp hard-administrative-reset\n",
        ),
        Some(Graceful::On) => text.push_str(
            " bgp graceful-restart\n bgp graceful-restart restart-time 60\n bgp graceful-restart preserve-fw-state\n \
             no bgp graceful-restart notification\n",
        ),
        Some(Graceful::Off) | None => text.push_str(" bgp graceful-restart-disable\n"),
    }
    for neighbour in &plan.neighbours {
        session(&mut text, neighbour)?;
    }
    for (family, word) in [
        (AfiSafi::Ipv4Unicast, "ipv4"),
        (AfiSafi::Ipv6Unicast, "ipv6"),
    ] {
        writeln!(text, " address-family {word} unicast")?;
        for neighbour in &plan.neighbours {
            if !neighbour.families.contains(&family) {
                continue;
            }
            let address = neighbour.address;
            writeln!(text, "  neighbor {address} activate")?;
            if neighbour.add_paths {
                writeln!(text, "  neighbor {address} addpath-tx-all-paths")?;
            }
            if neighbour.client {
                writeln!(text, "  neighbor {address} route-reflector-client")?;
            }
            // An IPv6 next hop of an IPv4 prefix is what the session has anyway.
            let next_hop = plan.routes_of(family).find_map(|route| route.next_hop);
            if let Some(next_hop) = next_hop.filter(|_| !neighbour.ipv6_next_hops) {
                writeln!(text, "  neighbor {address} route-map NEXTHOP{next_hop} out")?;
            }
        }
        for (n, route) in plan.routes_of(family).enumerate() {
            writeln!(text, "  network {} route-map {word}{n}", route.prefix)?;
        }
        text.push_str(" exit-address-family\n");
    }
    text.push_str("exit\n");
    Ok(text)
}

fn maps(text: &mut String, plan: &Plan) -> fmt::Result {
    for (family, word) in [
        (AfiSafi::Ipv4Unicast, "ipv4"),
        (AfiSafi::Ipv6Unicast, "ipv6"),
    ] {
        for (n, route) in plan.routes_of(family).enumerate() {
            writeln!(text, "route-map {word}{n} permit 10")?;
            edits(text, route)?;
            text.push_str("exit\n");
        }
        if let Some(next_hop) = plan.routes_of(family).find_map(|route| route.next_hop) {
            let set = match next_hop {
                IpAddr::V4(_) => "ip next-hop",
                IpAddr::V6(_) => "ipv6 next-hop global",
            };
            writeln!(
                text,
                "route-map NEXTHOP{next_hop} permit 10\n set {set} {next_hop}\nexit"
            )?;
        }
    }
    Ok(())
}

fn session(text: &mut String, neighbour: &Neighbour) -> fmt::Result {
    let Neighbour {
        address,
        asn,
        local,
        hold_time,
        ..
    } = neighbour;
    writeln!(text, " neighbor {address} remote-as {asn}")?;
    writeln!(
        text,
        " neighbor {address} timers {} {hold_time}",
        hold_time / 3
    )?;
    writeln!(text, " neighbor {address} timers connect 1")?;
    writeln!(text, " neighbor {address} update-source {local}")?;
    if let Some(key) = neighbour.key {
        writeln!(text, " neighbor {address} password {key}")?;
    }
    if neighbour.ttl_security {
        writeln!(text, " neighbor {address} ttl-security hops 1")?;
    }
    if let Some(role) = neighbour.role {
        let word = match role {
            "rs" => "rs-server",
            role => role,
        };
        writeln!(text, " neighbor {address} local-role {word}")?;
    }
    if neighbour.ipv6_next_hops {
        writeln!(text, " neighbor {address} capability extended-nexthop")?;
    }
    assert!(
        neighbour.four_octet,
        "bgpd always offers four-octet numbers"
    );
    Ok(())
}

fn edits(text: &mut String, route: &Announced) -> fmt::Result {
    if !route.communities.is_empty() {
        text.push_str(" set community");
        for (high, low) in &route.communities {
            write!(text, " {high}:{low}")?;
        }
        text.push('\n');
    }
    if !route.large.is_empty() {
        text.push_str(" set large-community");
        for (global, one, two) in &route.large {
            write!(text, " {global}:{one}:{two}")?;
        }
        text.push('\n');
    }
    if !route.targets.is_empty() {
        text.push_str(" set extcommunity rt");
        for (asn, value) in &route.targets {
            write!(text, " {asn}:{value}")?;
        }
        text.push('\n');
    }
    if let Some(med) = route.med {
        writeln!(text, " set metric {med}")?;
    }
    if let Some(asn) = route.behind {
        writeln!(text, " set as-path prepend {asn}")?;
    }
    Ok(())
}
