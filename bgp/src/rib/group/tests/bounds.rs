//! What peers can make a group keep, in octets, and what is left when they are done.

use super::*;

/// Announces this many prefixes, each with a set of about 3,600 octets of its own.
fn announce_long(bench: &mut Bench, count: u32) {
    let sender = bench.peers[0];
    (0..count).for_each(|n| bench.announce(sender, n, n, 900));
}

/// Octets that the Adj-RIBs-Out keep beside what they say of each prefix.
fn buffered(bench: &Bench) -> usize {
    let pending = |member: &Member| size_of::<Place>() * member.pending.capacity();
    let of_group = |group: &Group| {
        let members: usize = group.members.values().map(pending).sum();
        group.log.octets() + members
    };
    bench.rib.groups.iter().map(of_group).sum()
}

#[test]
fn peers_that_come_at_once_and_do_not_read_cost_next_to_nothing_with_long_sets() {
    let mut bench = Bench::new(12);
    announce_long(&mut bench, 2000);
    let peers = bench.peers.clone();
    peers[1..11].iter().for_each(|peer| bench.join(*peer));
    for peer in &peers[1..11] {
        // The socket takes this much, and then nothing.
        bench.transmit(*peer, 64 << 10);
        let octets = buffered(&bench);
        assert!(octets < 2 * CHUNK_OCTETS, "{octets} octets");
    }
    // One that comes later is told by prefix, while all others sleep.
    bench.join(peers[11]);
    while !bench.transmit(peers[11], 64 << 10) {
        let octets = buffered(&bench);
        assert!(octets < LOG_OCTETS_IN_ALL + CHUNK_OCTETS, "{octets} octets");
    }
    bench.check();
    assert_eq!(buffered(&bench), 0, "everybody has everything");
}

#[test]
fn the_logs_of_many_groups_share_one_bound() {
    let mut bench = Bench::new(9);
    let peers = bench.peers.clone();
    for (number, peer) in peers[1..].iter().enumerate() {
        bench.join(*peer);
        bench.drain();
        bench.change(*peer, 1 + number % 2);
        bench.drain();
    }
    assert_eq!(bench.rib.groups.len(), 2);
    let each = bench.rib.groups[0].log.limit;
    assert_eq!(each * bench.rib.groups.len(), LOG_OCTETS_IN_ALL);
    bench.rib.groups[0].share_log(1000);
    assert_eq!(bench.rib.groups[0].log.limit, LOG_OCTETS_LEAST);
}

#[test]
fn a_transmission_stops_at_its_room_whatever_the_length_of_the_sets() {
    let mut bench = Bench::new(3);
    announce_long(&mut bench, 300);
    let (first, second) = (bench.peers[1], bench.peers[2]);
    bench.join(first);
    bench.check();
    bench.join(second);
    let mut out = Vec::new();
    bench.rib.transmit(second, 10_000, &mut out);
    assert!(
        (10_000..10_000 + 4096).contains(&out.len()),
        "{}",
        out.len()
    );
}

#[test]
fn refreshes_of_a_peer_that_does_not_read_are_one_refresh() {
    let mut bench = Bench::new(2);
    let (sender, receiver) = (bench.peers[0], bench.peers[1]);
    (0..100).for_each(|n| bench.announce(sender, n, n % 10, 0));
    bench.join(receiver);
    bench.check();
    let told = bench.receivers.get_mut(&receiver).expect("a member");
    told.messages.clear();
    (0..1000).for_each(|_| bench.rib.refresh(receiver, FAMILY, true));
    assert_eq!(buffered(&bench), 0);
    bench.check();
    let told = &bench.receivers[&receiver];
    for kind in [RefreshKind::Begin, RefreshKind::End] {
        let marker = Message::RouteRefresh(RouteRefresh::new(FAMILY, kind));
        assert_eq!(told.count(|message| *message == marker), 1, "{kind:?}");
    }
}

#[test]
fn memory_goes_back_after_a_flood() {
    let mut bench = Bench::new(2);
    let (sender, receiver) = (bench.peers[0], bench.peers[1]);
    bench.join(receiver);
    (0..10).for_each(|n| bench.announce(sender, n, n, 0));
    bench.check();
    (10..20_000).for_each(|n| bench.announce(sender, n, n, 0));
    bench.check();
    let full = bench.rib.groups[0].sent.capacity();
    (10..20_000).for_each(|n| bench.withdraw(sender, n));
    bench.check();
    while bench.rib.table.poll_change().is_some() {}
    bench.withdraw(sender, 9);
    bench.check();
    assert!(full >= 20_000);
    assert!(bench.rib.table.ids_end() < 100);
    let group = &bench.rib.groups[0];
    assert!(group.sent.capacity() < 100 && group.dirty.capacity() < 100);
    // The ids that are left are used as before.
    (100..200).for_each(|n| bench.announce(sender, n, n, 0));
    bench.check();
}

#[test]
fn a_peer_that_comes_back_with_another_router_id_is_named_by_it() {
    let mut bench = Bench::new(2);
    let (sender, receiver) = (bench.peers[0], bench.peers[1]);
    bench.join(receiver);
    (0..3).for_each(|n| bench.announce(sender, n, 1, 0));
    bench.check();
    let told = bench.receivers.get_mut(&receiver).expect("a member");
    told.messages.clear();
    let new = RouterId(Ipv4Addr::new(10, 77, 0, 1));
    let provenance = crate::rib::source::Provenance {
        router_id: new,
        ..bench.rib.table.provenance(sender)
    };
    bench.rib.table.set_provenance(sender, &provenance);
    while bench.rib.has_work() {
        bench.rib.sweep(2);
        bench.rib.decide(2);
    }
    bench.check();
    let mut told = Vec::new();
    for message in &bench.receivers[&receiver].messages {
        if let Message::Update(update) = message {
            let attributes = update.attributes.as_ref().expect("an announcement");
            assert_eq!(attributes.originator_id, Some(new));
            told.extend(update.reach.iter().flat_map(|reach| &reach.nlri));
        }
    }
    told.sort_unstable();
    assert_eq!(told, [net(0), net(1), net(2)]);
}
