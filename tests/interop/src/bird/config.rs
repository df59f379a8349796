//! BIRD's configuration language, as far as the tests write it.

use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv4Addr};

use bgp::types::AfiSafi;

use super::Version;
use crate::plan::{Announced, Graceful, Neighbour, Plan};

/// What every configuration begins with: the log, the devices and their subnets (an iBGP next hop is resolved by them), and the kernel's
/// main table, which gets what BGP learned.
#[must_use]
pub fn head(router_id: Ipv4Addr) -> String {
    format!(
        "log stderr all;\n\
         debug protocols {{ states, events }};\n\
         router id {router_id};\n\
         protocol device {{ scan time 1; }}\n\
         protocol direct {{ ipv4; }}\n\
         protocol kernel {{ persist; ipv4 {{ import none; export where source = RTS_BGP; }}; }}\n"
    )
}

/// The rest of [`head`] for IPv6.
const HEAD6: &str = "protocol direct { ipv6; }\n\
     protocol kernel { persist; ipv6 { import none; export where source = RTS_BGP; }; }\n";

/// A BGP session, printed as a `protocol bgp` block. It gives what it has from static routes and accepts all.
#[derive(Clone, Debug)]
pub struct BgpProtocol<'a> {
    /// Its name in BIRD.
    pub name: &'a str,
    /// BIRD's own address and AS.
    pub local: (Ipv4Addr, u32),
    /// The peer's.
    pub neighbor: (Ipv4Addr, u32),
    /// More statements, e.g. `graceful restart off;`.
    pub options: &'a str,
}

/// Short timers: a test waits for the reconnection, not for a minute.
const TIMERS: &str = "connect delay time 1; connect retry time 2; error wait time 1, 2;";

impl fmt::Display for BgpProtocol<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            local: (own, own_asn),
            neighbor: (peer, peer_asn),
            options,
        } = self;
        writeln!(
            f,
            "protocol bgp {name} {{\n\
             local {own} as {own_asn};\n\
             neighbor {peer} as {peer_asn};\n\
             {TIMERS}\n\
             {options}\n\
             ipv4 {{ import all; export where source = RTS_STATIC; }};\n\
             }}"
        )
    }
}

/// The name of a plan's `n`-th session.
pub(super) fn session_name(n: usize) -> String {
    format!("s{n}")
}

/// A whole configuration.
pub(super) fn of(version: Version, plan: &Plan) -> String {
    match version {
        Version::Two => two(plan),
        Version::One => one(plan),
    }
    .expect("a String takes everything")
}

fn two(plan: &Plan) -> Result<String, fmt::Error> {
    let mut text = head(plan.router_id);
    text.push_str(HEAD6);
    for (family, word) in [
        (AfiSafi::Ipv4Unicast, "ipv4"),
        (AfiSafi::Ipv6Unicast, "ipv6"),
    ] {
        write!(text, "protocol static outside_{word} {{ {word};")?;
        for route in plan.routes_of(family) {
            static_route(&mut text, route)?;
        }
        text.push_str("}\n");
    }
    for (n, neighbour) in plan.neighbours.iter().enumerate() {
        begin_session(&mut text, n, neighbour, plan)?;
        text.push_str("enable extended messages on;\n");
        let add_paths = add_paths(neighbour);
        for family in &neighbour.families {
            let word = match family {
                AfiSafi::Ipv4Unicast => "ipv4",
                AfiSafi::Ipv6Unicast => "ipv6",
            };
            let extended = match family {
                AfiSafi::Ipv4Unicast if neighbour.ipv6_next_hops => "extended next hop on;",
                AfiSafi::Ipv4Unicast | AfiSafi::Ipv6Unicast => "",
            };
            let next_hop = plan
                .routes_of(*family)
                .find_map(|route| route.next_hop)
                .map_or_else(String::new, |address| {
                    format!("next hop address {address};")
                });
            writeln!(
                text,
                "{word} {{ import all; {add_paths} {extended} {next_hop} export {}; }};",
                exported(plan)
            )?;
        }
        text.push_str("}\n");
    }
    Ok(text)
}

fn one(plan: &Plan) -> Result<String, fmt::Error> {
    let mut text = format!(
        "log stderr all;\n\
         debug protocols {{ states, events }};\n\
         router id {};\n\
         protocol device {{ scan time 1; }}\n\
         protocol direct {{ }}\n\
         protocol kernel {{ persist; import none; export where source = RTS_BGP; }}\n\
         protocol static outside {{ ",
        plan.router_id
    );
    for route in &plan.routes {
        static_route(&mut text, route)?;
    }
    text.push_str("}\n");
    for (n, neighbour) in plan.neighbours.iter().enumerate() {
        assert_eq!(
            neighbour.families.len(),
            1,
            "BIRD 1.6 has one family a process"
        );
        begin_session(&mut text, n, neighbour, plan)?;
        let add_paths = add_paths(neighbour);
        writeln!(
            text,
            "{add_paths} import all; export {};\n}}",
            exported(plan)
        )?;
    }
    Ok(text)
}

const fn add_paths(neighbour: &Neighbour) -> &'static str {
    if neighbour.add_paths {
        "add paths on;"
    } else {
        ""
    }
}

fn exported(plan: &Plan) -> &'static str {
    if plan.neighbours.iter().any(|neighbour| neighbour.client) {
        "where source ~ [RTS_STATIC, RTS_BGP]"
    } else {
        "where source = RTS_STATIC"
    }
}

fn begin_session(text: &mut String, n: usize, neighbour: &Neighbour, plan: &Plan) -> fmt::Result {
    let Neighbour {
        address,
        asn,
        local,
        hold_time,
        ..
    } = neighbour;
    writeln!(
        text,
        "protocol bgp {} {{\nlocal {local} as {};\nneighbor {address} as {asn};\n{TIMERS}\nhold time {hold_time};",
        session_name(n),
        plan.asn
    )?;
    if let Some(interface) = neighbour.interface {
        writeln!(text, "interface \"{interface}\";")?;
    }
    if let Some(key) = neighbour.key {
        writeln!(text, "password \"{key}\";")?;
    }
    if neighbour.ttl_security {
        text.push_str("ttl security on;\n");
    }
    if neighbour.client {
        text.push_str("rr client;\n");
    }
    if let Some(role) = neighbour.role {
        writeln!(text, "local role {};", role.replace('-', "_"))?;
    }
    if !neighbour.four_octet {
        text.push_str("enable as4 off;\n");
    }
    text.push_str(match neighbour.graceful {
        Graceful::Off => "graceful restart off;\n",
        Graceful::On | Graceful::OverNotifications => {
            "graceful restart on; graceful restart time 60;\n"
        }
    });
    Ok(())
}

fn static_route(text: &mut String, route: &Announced) -> fmt::Result {
    write!(text, "route {} unreachable {{ ", route.prefix)?;
    for (high, low) in &route.communities {
        write!(text, "bgp_community.add(({high}, {low})); ")?;
    }
    for (global, one, two) in &route.large {
        write!(text, "bgp_large_community.add(({global}, {one}, {two})); ")?;
    }
    for (asn, value) in &route.targets {
        write!(text, "bgp_ext_community.add((rt, {asn}, {value})); ")?;
    }
    if let Some(med) = route.med {
        write!(text, "bgp_med = {med}; ")?;
    }
    if let Some(asn) = route.behind {
        write!(text, "bgp_path.prepend({asn}); ")?;
    }
    if let (Some(IpAddr::V4(address)), IpAddr::V4(_)) = (route.next_hop, route.prefix.addr()) {
        write!(text, "bgp_next_hop = {address}; ")?;
    }
    writeln!(text, "}};")
}
