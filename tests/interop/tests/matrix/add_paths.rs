//! Several paths of one prefix on one session (RFC 7911).

use std::net::{IpAddr, Ipv4Addr};

use bgp::config::{AddPaths, PeerConfig};
use bgp_io::{Command, Output};
use interop::plan::{Neighbour, Plan};
use interop::{Begin, FAR, NEAR, OurSpeaker, config, peer};
use ipnet::Ipv4Net;

use crate::place::{BLOCK, NEAR_THIRD, OURS, Place, THIRD, prefix};

fn with_add_paths(mut peer: PeerConfig) -> PeerConfig {
    peer.options.add_paths = AddPaths {
        receive: true,
        send: true,
    };
    peer
}

daemons_test!(
    it_takes_every_path_that_we_reflect_and_their_withdrawals,
    [bird2, bird1, frr, gobgp]
);
fn it_takes_every_path_that_we_reflect_and_their_withdrawals(place: &Place) {
    let plan = Plan::new(OURS, FAR, NEAR, OURS).with(|neighbour| neighbour.add_paths = true);
    let daemon = place.start(&plan);
    let client = config(OURS, THIRD, [peer(NEAR_THIRD, OURS, THIRD)]);
    let own = [prefix(BLOCK)];
    let third = OurSpeaker::start(&place.third(), Begin::Fresh, client, &own).unwrap();
    let mut reflector = config(
        OURS,
        NEAR,
        [
            with_add_paths(peer(FAR, OURS, NEAR)),
            peer(THIRD, OURS, NEAR_THIRD),
        ],
    );
    for peer in reflector.peers.values_mut() {
        peer.route_reflector_client = true;
    }
    reflector.listen_addresses.insert(IpAddr::V4(NEAR_THIRD));
    let ours = place.ours(reflector, &[BLOCK]);
    let [near, far] = [NEAR, THIRD].map(IpAddr::V4);
    daemon.wait_next_hops(BLOCK, &[near, far]);
    // The best one goes, and comes back.
    ours.tell(Command::Originate(prefix(BLOCK), None));
    daemon.wait_next_hops(BLOCK, &[far]);
    crate::place::originate(&ours, BLOCK, NEAR);
    daemon.wait_next_hops(BLOCK, &[near, far]);
    third.tell(Command::Originate(prefix(BLOCK), None));
    daemon.wait_next_hops(BLOCK, &[near]);
    third.stop();
    ours.stop();
}

daemons_test!(
    we_use_every_path_that_it_reflects,
    [bird2, bird1, frr, gobgp]
);
fn we_use_every_path_that_it_reflects(place: &Place) {
    let clients = [Ipv4Addr::new(10, 0, 0, 3), Ipv4Addr::new(10, 0, 0, 4)];
    let mut plan = Plan::new(OURS, FAR, NEAR, OURS).with(|neighbour| {
        neighbour.client = true;
        neighbour.add_paths = true;
    });
    for client in clients {
        let subnet = Ipv4Net::new(client, 24).unwrap();
        let mut netlink = place.near.netlink().unwrap();
        netlink.add_address("eth0", subnet).unwrap();
        plan.neighbours.push(Neighbour {
            address: IpAddr::V4(client),
            add_paths: false,
            ..plan.neighbours[0].clone()
        });
    }
    let _daemon = place.start(&plan);
    let others =
        clients.map(|client| place.ours(config(OURS, client, [peer(FAR, OURS, client)]), &[BLOCK]));
    let mut own = config(OURS, NEAR, [with_add_paths(peer(FAR, OURS, NEAR))]);
    own.multipath = 4;
    let mut ours = place.ours(own, &[]);
    uses(&mut ours, &clients);
    others[0].tell(Command::Originate(prefix(BLOCK), None));
    uses(&mut ours, &clients[1..]);
    others.into_iter().for_each(OurSpeaker::stop);
    ours.stop();
}

/// Waits until exactly these next hops are used.
fn uses(speaker: &mut OurSpeaker, wanted: &[Ipv4Addr]) {
    let wanted: Vec<IpAddr> = wanted.iter().copied().map(IpAddr::V4).collect();
    let what = format!("{BLOCK} by {wanted:?}");
    speaker.wait_for(&what, |output| match output {
        Output::Route(change) if change.prefix == prefix(BLOCK) => {
            let best = change.best.as_ref()?;
            (best.next_hops == wanted).then_some(())
        }
        _ => None,
    });
}
