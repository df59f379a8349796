//! A policy that changes: what members are told of it.

use super::*;

#[test]
fn a_changed_policy_is_not_compared_with_routes_whose_peer_is_gone() {
    let mut bench = Bench::new(3);
    let (sender, second, receiver) = (bench.peers[0], bench.peers[1], bench.peers[2]);
    bench.join(receiver);
    for n in 0..6 {
        bench.announce(sender, n, 1, 0);
        bench.announce(second, n, 2, 0);
    }
    bench.check();
    bench.change(receiver, 2);
    (0..6).for_each(|n| bench.withdraw(sender, n));
    bench.rib.table.remove_source(sender);
    bench.check();
    assert_eq!(bench.receivers[&receiver].table[&net(1)], 2);
}

#[test]
fn a_route_that_goes_while_policies_change_twice_is_withdrawn() {
    let mut bench = Bench::new(3);
    let (sender, receiver, other) = (bench.peers[0], bench.peers[1], bench.peers[2]);
    bench.join(other);
    bench.change(other, 3);
    bench.join(receiver);
    bench.announce(sender, 1, 1, 0);
    bench.check();
    assert!(bench.receivers[&receiver].table.contains_key(&net(1)));
    bench.change(receiver, 3);
    bench.withdraw(sender, 1);
    while !bench.transmit(other, 10_000) {}
    bench.change(receiver, 1);
    while bench.rib.is_interrupted() {
        bench.rib.resume(1);
    }
    bench.check();
    while bench.rib.is_interrupted() {
        bench.rib.resume(1);
    }
    while bench.rib.table.poll_change().is_some() {}
    assert!(bench.rib.table.ids_in_use().is_empty(), "nothing names it");
}

#[test]
fn a_route_told_before_the_first_pass_came_to_it_is_withdrawn() {
    let mut bench = Bench::new(4);
    bench.rib.slice = 1;
    let (sender, receiver) = (bench.peers[0], bench.peers[2]);
    bench.join(receiver);
    bench.announce(sender, 0, 0, 0);
    bench.change(receiver, 1);
    bench.announce(sender, 11, 0, 0);
    bench.change(receiver, 0);
    bench.transmit(receiver, 1);
    assert!(bench.receivers[&receiver].table.contains_key(&net(11)));
    bench.withdraw(sender, 11);
    bench.check();
}

#[test]
fn a_changed_policy_sends_what_it_changes_and_nothing_else() {
    let mut bench = Bench::new(2);
    let (sender, receiver) = (bench.peers[0], bench.peers[1]);
    bench.rib.slice = 2;
    bench.join(receiver);
    (0..12).for_each(|n| bench.announce(sender, n, 1, 0));
    bench.check();
    for (number, changed) in [(2, 4), (0, 4), (1, 6), (0, 6), (3, 12)] {
        let told = bench.receivers.get_mut(&receiver).expect("a member");
        told.messages.clear();
        bench.change(receiver, number);
        bench.check();
        let mut prefixes = 0;
        for message in &bench.receivers[&receiver].messages {
            if let Message::Update(update) = message {
                prefixes += update.unreach.iter().flatten().count();
                prefixes += update.reach.iter().flat_map(|reach| &reach.nlri).count();
            }
        }
        assert_eq!(prefixes, changed, "policy {number}");
    }
}
