//! What each daemon is told: its best fair configuration for the same peers. docs/performance.md says what is set and why.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::Ipv4Net;

use super::Kind;
use crate::plan::{Family, Peers, Plan};
use crate::wire::ASN;
use crate::world::{Peer, World};

/// Everything that a configuration says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setting<'a> {
    pub(super) plan: &'a Plan,
    pub(super) world: World,
    pub(super) peers: &'a [Peer],
    pub(super) directory: &'a Path,
}

/// The text of the configuration file.
pub(super) fn config(kind: Kind, setting: Setting<'_>) -> String {
    match kind {
        Kind::Tortie | Kind::Floor => tortie(setting),
        Kind::Bird1 => bird1(setting),
        Kind::Bird | Kind::Bird3 => bird(setting),
        Kind::Frr => frr(setting),
        Kind::Gobgp | Kind::Rustybgp => gobgp(setting),
        Kind::Openbgpd => openbgpd(setting),
    }
}

/// The lines of all peers after `head`.
fn with_peers(head: String, setting: Setting<'_>, line: impl Fn(usize, &Peer) -> String) -> String {
    let lines = setting.peers.iter().enumerate();
    lines.fold(head, |text, (number, peer)| text + &line(number, peer))
}

fn tortie(setting: Setting<'_>) -> String {
    let daemon = setting.world.daemon(setting.plan.family);
    let family = match setting.plan.family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    };
    let head = format!(
        "{} {daemon} {} {family} {}\n",
        setting.world.router_id(),
        setting.world.port,
        setting.plan.terms
    );
    with_peers(head, setting, |_, peer| {
        format!("{} {}\n", peer.address, peer.asn)
    })
}

/// What a session is, in BIRD's words.
const fn bird_session(peers: Peers) -> &'static str {
    match peers {
        Peers::Reflected => "rr client;",
        Peers::External => "next hop self;",
    }
}

/// A filter with the plan's terms, and what is exported.
fn bird_policy(plan: &Plan) -> (String, &'static str) {
    if plan.terms == 0 {
        return (String::new(), "all");
    }
    let terms =
        (0..plan.terms).map(|number| format!("if net ~ [ {}+ ] then reject;\n", unused(number)));
    let terms: String = terms.collect();
    (
        format!("filter policy {{\n{terms}accept;\n}}\n"),
        "filter policy",
    )
}

/// A prefix that nobody announces.
#[must_use]
pub fn unused(number: u16) -> Ipv4Net {
    let [high, low] = number.to_be_bytes();
    let net = Ipv4Net::new(Ipv4Addr::new(203, high, low, 0), 24);
    net.expect("24 bits")
}

fn bird1(setting: Setting<'_>) -> String {
    let (policy, export) = bird_policy(setting.plan);
    let daemon = setting.world.daemon(setting.plan.family);
    let head = format!(
        "router id {};\n\
         listen bgp address {daemon} port 179;\n\
         protocol device {{}}\n\
         table links;\n\
         protocol direct {{ table links; interface \"nexthops\"; }}\n\
         template bgp common {{\n\
           local {daemon} as {ASN};\n\
           {} passive on; multihop; hold time 240;\n\
           igp table links; import all; export {export};\n\
         }}\n",
        setting.world.router_id(),
        bird_session(setting.plan.peers)
    );
    let head = policy + &head;
    with_peers(head, setting, |number, peer| {
        let Peer { address, asn, .. } = peer;
        format!("protocol bgp p{number} from common {{ neighbor {address} as {asn}; }}\n")
    })
}

fn bird(setting: Setting<'_>) -> String {
    let (policy, export) = bird_policy(setting.plan);
    let daemon = setting.world.daemon(setting.plan.family);
    let channel = match setting.plan.family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    };
    // The next hop is the channel's matter here, and the client the session's.
    let (session, of_channel) = match setting.plan.peers {
        Peers::Reflected => (bird_session(Peers::Reflected), ""),
        Peers::External => ("", bird_session(Peers::External)),
    };
    let head = format!(
        "router id {};\n\
         protocol device {{}}\n\
         {channel} table links;\n\
         protocol direct {{ {channel} {{ table links; }}; interface \"nexthops\"; }}\n\
         template bgp common {{\n\
           local {daemon} as {ASN};\n\
           {session} passive on; multihop; hold time 240;\n\
           {channel} {{ igp table links; import all; export {export}; {of_channel} }};\n\
         }}\n",
        setting.world.router_id()
    );
    let head = policy + &head;
    with_peers(head, setting, |number, peer| {
        let Peer { address, asn, .. } = peer;
        format!("protocol bgp p{number} from common {{ neighbor {address} as {asn}; }}\n")
    })
}

fn frr(setting: Setting<'_>) -> String {
    let family = match setting.plan.family {
        Family::V4 => "ipv4 unicast",
        Family::V6 => "ipv6 unicast",
    };
    let (asn, session, of_family) = match setting.plan.peers {
        Peers::Reflected => (
            ASN.to_string(),
            "",
            "neighbor peers route-reflector-client\n",
        ),
        Peers::External => (
            "external".to_owned(),
            "no bgp ebgp-requires-policy\nneighbor peers disable-connected-check\n",
            "neighbor peers next-hop-self\n",
        ),
    };
    let mut text = format!(
        "router bgp {ASN}\n\
         bgp router-id {}\n\
         no bgp default ipv4-unicast\n\
         bgp suppress-duplicates\n\
         coalesce-time 0\n\
         neighbor peers peer-group\n\
         neighbor peers remote-as {asn}\n\
         neighbor peers passive\n\
         neighbor peers timers 80 240\n\
         neighbor peers advertisement-interval 0\n\
         {session}",
        setting.world.router_id()
    );
    for Peer { address, .. } in setting.peers {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "neighbor {address} peer-group peers");
    }
    let (lists, policy) = frr_policy(setting.plan);
    lists
        + &text
        + &format!(
            "address-family {family}\nneighbor peers activate\n{of_family}{policy}exit-address-family\n"
        )
}

/// Prefix lists and a route map of the plan's terms, and the line that names it.
fn frr_policy(plan: &Plan) -> (String, &'static str) {
    if plan.terms == 0 {
        return (String::new(), "");
    }
    let mut text = String::new();
    for number in 0..plan.terms {
        let net = unused(number);
        let place = u32::from(number) + 1;
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "ip prefix-list term{number} permit {net} le 32\n\
             route-map policy deny {place}\nmatch ip address prefix-list term{number}\nexit"
        );
    }
    text += "route-map policy permit 60000\nexit\n";
    (text, "neighbor peers route-map policy out\n")
}

fn gobgp(setting: Setting<'_>) -> String {
    let daemon = setting.world.daemon(setting.plan.family);
    let family = match setting.plan.family {
        Family::V4 => "ipv4-unicast",
        Family::V6 => "ipv6-unicast",
    };
    let router_id = setting.world.router_id();
    let session = match setting.plan.peers {
        Peers::Reflected => format!(
            "[neighbors.route-reflector.config]\nroute-reflector-client = true\n\
             route-reflector-cluster-id = \"{router_id}\"\n"
        ),
        Peers::External => {
            "[neighbors.ebgp-multihop.config]\nenabled = true\nmultihop-ttl = 8\n".to_owned()
        }
    };
    let head = format!(
        "[global.config]\nas = {ASN}\nrouter-id = \"{router_id}\"\nlocal-address-list = [\"{daemon}\"]\n"
    );
    with_peers(head, setting, |_, peer| {
        format!(
            "[[neighbors]]\n\
             [neighbors.config]\nneighbor-address = \"{}\"\npeer-as = {}\n\
             [neighbors.timers.config]\nhold-time = 240\nkeepalive-interval = 80\n\
             [neighbors.transport.config]\npassive-mode = true\nlocal-address = \"{daemon}\"\n\
             {session}\
             [[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"{family}\"\n",
            peer.address, peer.asn
        )
    })
}

fn openbgpd(setting: Setting<'_>) -> String {
    let daemon = setting.world.daemon(setting.plan.family);
    let family = match setting.plan.family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    let session = match setting.plan.peers {
        Peers::Reflected => "route-reflector",
        Peers::External => "multihop 8",
    };
    let head = format!(
        "AS {ASN}\nrouter-id {}\nlisten on {daemon}\nfib-update no\nholdtime 240\n\
         socket \"{}\"\nallow from any\nallow to any\n",
        setting.world.router_id(),
        setting.directory.join("ctl").display()
    );
    with_peers(head, setting, |_, peer| {
        format!(
            "neighbor {} {{\nremote-as {}\npassive\n{session}\nannounce {family} unicast\nlocal-address {daemon}\n}}\n",
            peer.address, peer.asn
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::PLANS;

    #[test]
    fn birds_export_without_a_filter_as_the_links_are_in_a_table_of_their_own() {
        let world = World::PRIVATE;
        for plan in PLANS {
            for kind in [Kind::Bird1, Kind::Bird, Kind::Bird3] {
                let peers = world.peers(plan);
                let setting = Setting {
                    plan,
                    world,
                    peers: &peers,
                    directory: Path::new("/"),
                };
                let text = config(kind, setting);
                let exported = if plan.terms == 0 {
                    "export all;"
                } else {
                    "export filter policy;"
                };
                assert!(text.contains(exported), "{text}");
                assert!(!text.contains("where"), "{text}");
                // One line makes the table, one fills it, and one resolves next hops in it.
                let links: Vec<&str> = text
                    .lines()
                    .filter(|line| line.contains("table links;"))
                    .collect();
                let [made, filled, read] = links[..] else {
                    panic!("{text}");
                };
                assert!(made.ends_with("table links;"), "{text}");
                assert!(filled.starts_with("protocol direct"), "{text}");
                assert!(read.contains("igp table links;"), "{text}");
            }
        }
    }
}
