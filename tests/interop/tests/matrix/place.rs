//! Where a feature is tried: our namespace, the daemon's, and one of a third speaker's.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;

use bgp::config::{Config, PeerConfig};
use bgp::event::{DownReason, Event, NotificationText};
use bgp::route::Origination;
use bgp_io::{Command, Output};
use interop::plan::{Announced, Plan};
use interop::{Begin, Daemon, FAR, Kind, NEAR, OurSpeaker, Seen, config, joined, peer};
use ipnet::{IpNet, Ipv4Net};
use lab::NetNs;

/// Our AS.
pub(crate) const OURS: u32 = 64512;
/// The daemon's, where it is another one.
pub(crate) const THEIRS: u32 = 65001;
/// A prefix of ours.
pub(crate) const BLOCK: &str = "192.168.7.0/26";
/// Another one.
pub(crate) const SECOND: &str = "192.168.8.0/26";
/// What the daemon announces.
pub(crate) const OUTSIDE: &str = "203.0.113.0/24";
/// LOCAL_PREF of own routes: what Calico gives the routes of a node.
pub(crate) const OWN_PREFERENCE: u32 = 2_147_482_623;
/// Our end of the cable to the third speaker.
pub(crate) const NEAR_THIRD: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);
/// The third speaker's.
pub(crate) const THIRD: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 2);

/// Runs a feature's body with a daemon, in a private world; says so when the daemon is not there.
pub(crate) fn run(module: &str, daemon: &str, kind: Kind, body: fn(&Place)) {
    if let Some((id, install)) = kind.missing() {
        harness::skip(id, install);
    }
    let (_, within) = module.split_once("::").expect("a module of this program");
    lab::in_namespaces(&format!("{within}::{daemon}"), || {
        let (near, far) = joined().unwrap();
        body(&Place { kind, near, far });
    });
}

/// Two joined namespaces and which daemon is tried.
pub(crate) struct Place {
    pub(crate) kind: Kind,
    pub(crate) near: NetNs,
    pub(crate) far: NetNs,
}

impl Place {
    /// Starts the daemon in its namespace.
    pub(crate) fn start(&self, plan: &Plan) -> Box<dyn Daemon> {
        self.kind.start(&self.far, plan).unwrap()
    }

    /// Starts our speaker with those own prefixes.
    pub(crate) fn ours(&self, config: Config, own: &[&str]) -> OurSpeaker {
        let own: Vec<IpNet> = own.iter().copied().map(prefix).collect();
        OurSpeaker::start(&self.near, Begin::Fresh, config, &own).unwrap()
    }

    /// A third speaker's namespace, joined to ours by a cable of its own.
    pub(crate) fn third(&self) -> NetNs {
        let third = NetNs::new("third").unwrap();
        let mut in_near = self.near.netlink().unwrap();
        in_near
            .add_veth("eth1", "eth0", third.fd().as_raw_fd(), [2, 0, 0, 0, 1, 2])
            .unwrap();
        let mut in_third = third.netlink().unwrap();
        for (netlink, link, address) in [
            (&mut in_near, "eth1", NEAR_THIRD),
            (&mut in_third, "eth0", THIRD),
        ] {
            let subnet = Ipv4Net::new(address, 24).unwrap();
            netlink.add_address(link, subnet).unwrap();
            netlink.set_up(link).unwrap();
        }
        third
    }
}

/// The plan of an external daemon with one IPv4 session and [`OUTSIDE`].
pub(crate) fn external() -> Plan {
    Plan::new(THEIRS, FAR, NEAR, OURS).announcing(Announced::new(OUTSIDE))
}

/// Our side of [`external`], changed.
pub(crate) fn with_external(change: impl FnOnce(&mut PeerConfig)) -> Config {
    let mut peer = peer(FAR, THEIRS, NEAR);
    change(&mut peer);
    config(OURS, NEAR, [peer])
}

pub(crate) fn prefix(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// Announces a prefix with a next hop.
pub(crate) fn originate(speaker: &OurSpeaker, text: &str, next_hop: impl Into<IpAddr>) {
    let origination = Origination {
        prefix: prefix(text),
        next_hop: Some(next_hop.into()),
        local_pref: None,
    };
    speaker.tell(Command::Originate(prefix(text), Some(origination)));
}

/// Waits for the best route of a prefix; its next hops.
#[track_caller]
pub(crate) fn learned(speaker: &mut OurSpeaker, wanted: &str) -> Vec<IpAddr> {
    let wanted = prefix(wanted);
    speaker.wait_for(&format!("a route to {wanted}"), |output| match output {
        Output::Route(change) if change.prefix == wanted => {
            change.best.as_ref().map(|best| best.next_hops.clone())
        }
        _ => None,
    })
}

/// [`BLOCK`] and [`SECOND`] are at the daemon by way of `near`, with our AS alone in their path, and [`OUTSIDE`] is here by way of
/// `far`; [`SECOND`] goes from there when it is withdrawn, and nothing else. Answers what [`BLOCK`] is there.
#[track_caller]
pub(crate) fn carries_both_ways(
    daemon: &(dyn Daemon + 'static),
    ours: &mut OurSpeaker,
    near: IpAddr,
    far: IpAddr,
) -> Seen {
    let block = daemon.wait_seen(BLOCK, |_| true);
    assert_eq!(block.as_path, [OURS], "{block:?}");
    assert_eq!(block.next_hop, Some(near), "{block:?}");
    assert_eq!(learned(ours, OUTSIDE), [far]);
    daemon.wait_seen(SECOND, |_| true);
    ours.tell(Command::Originate(prefix(SECOND), None));
    daemon.wait_gone(SECOND);
    daemon.wait_seen(BLOCK, |seen| *seen == block)
}

/// Waits until a session ends; why, and whether routes are kept.
#[track_caller]
pub(crate) fn down(speaker: &mut OurSpeaker) -> (DownReason, bool) {
    speaker.wait_for("the session ends", |output| match output {
        Output::Event(Event::SessionDown {
            reason,
            routes_kept,
            ..
        }) => Some((reason.clone(), *routes_kept)),
        _ => None,
    })
}

/// The NOTIFICATION that we sent, of a session's end.
#[track_caller]
pub(crate) fn sent(reason: DownReason) -> NotificationText {
    match reason {
        DownReason::NotificationSent(text) => text,
        other => panic!("no NOTIFICATION was sent: {other}"),
    }
}

/// The NOTIFICATION that we received.
#[track_caller]
pub(crate) fn received(reason: DownReason) -> NotificationText {
    match reason {
        DownReason::NotificationReceived(text) => text,
        other => panic!("no NOTIFICATION was received: {other}"),
    }
}

pub(crate) fn is_session_up(output: &Output) -> Option<()> {
    matches!(output, Output::Event(Event::SessionUp { .. })).then_some(())
}
