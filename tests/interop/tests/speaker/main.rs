//! Our speaker alone against BIRD 2, FRR and GoBGP, on two joined namespaces: what goes over the wire, read in their tables.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set up its place fails where it stands"
)]

mod attributes;
mod others;
mod restart;

use std::net::Ipv4Addr;

use bgp::event::Event;
use bgp_io::Output;
use interop::bird::{self, BgpProtocol, Bird};
use interop::{FAR, NEAR, OurSpeaker, joined};
use ipnet::IpNet;
use lab::NetNs;

/// Our AS.
const OURS: u32 = 64512;
/// BIRD's, where it is another one.
const THEIRS: u32 = 65001;
/// What BIRD announces.
const OUTSIDE: &str = "203.0.113.0/24";

/// Runs `body` with our namespace and BIRD's, in a private world; says so when BIRD is not there.
fn with_bird(name: &str, body: impl FnOnce(NetNs, NetNs)) {
    if Bird::find().is_none() {
        lab::skipped(
            "bird",
            "no program `bird` on PATH or in /usr/sbin (Debian: bird2)",
        );
        return;
    }
    lab::in_namespaces(name, || {
        let (near, far) = joined().unwrap();
        body(near, far);
    });
}

/// BIRD in AS `own_asn` with one session to us, `ours`, and static routes (`route …;` statements).
fn bird_config(own_asn: u32, options: &str, routes: &str) -> String {
    let session = BgpProtocol {
        name: "ours",
        local: (FAR, own_asn),
        neighbor: (NEAR, OURS),
        options,
    };
    format!(
        "{}protocol static outside {{ ipv4; {routes} }}\n{session}",
        bird::head(FAR)
    )
}

fn prefix(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// Waits for the best route of a prefix; its next hop.
#[track_caller]
fn learned(speaker: &mut OurSpeaker, wanted: &str) -> Ipv4Addr {
    let wanted = prefix(wanted);
    speaker.wait_for(&format!("a route to {wanted}"), |output| match output {
        Output::Route(change) if change.prefix == wanted => {
            match change.best.as_ref()?.next_hops[..] {
                [std::net::IpAddr::V4(next_hop)] => Some(next_hop),
                _ => None,
            }
        }
        _ => None,
    })
}

fn is_session_up(output: &Output) -> Option<()> {
    matches!(output, Output::Event(Event::SessionUp { .. })).then_some(())
}
