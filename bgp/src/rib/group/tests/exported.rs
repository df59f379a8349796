//! What becomes of attribute sets on their way out.

use super::*;

#[test]
fn a_change_that_a_group_does_not_show_is_not_sent_and_leaves_one_attribute_set() {
    let mut bench = Bench::new(2);
    let (sender, receiver) = (bench.peers[0], bench.peers[1]);
    // MULTI_EXIT_DISC of one neighbour is not for another (RFC 4271 §5.1.4).
    let ebgp = GroupKey {
        kind: PeerKind::Ebgp,
        ..key()
    };
    bench.rib.join(receiver, ebgp);
    let sent = |bench: &mut Bench| {
        let mut out = Vec::new();
        bench.rib.transmit(receiver, 10_000, &mut out);
        out.len()
    };
    bench.announce(sender, 1, 5, 0);
    assert!(sent(&mut bench) > 0);
    bench.announce(sender, 1, 6, 0);
    assert_eq!(sent(&mut bench), 0, "only the MED is another");
    bench.announce(sender, 1, 6, 2);
    assert!(sent(&mut bench) > 0, "two communities more");
    assert_eq!(bench.rib.table.attribute_sets(), 1);
}

/// The attributes that a peer of another AS is sent of one route, under these edits.
fn sent_to_ebgp(edits: Vec<Edit>) -> PathAttributes {
    let mut bench = Bench::new(2);
    let (sender, receiver) = (bench.peers[0], bench.peers[1]);
    let term = Term {
        name: "test".into(),
        matches: Vec::new(),
        edits,
        verdict: Verdict::Accept,
    };
    let ebgp = GroupKey {
        kind: PeerKind::Ebgp,
        policy: RoutePolicy {
            terms: vec![term],
            ..RoutePolicy::accept_all()
        },
        ..key()
    };
    bench.rib.join(receiver, ebgp);
    bench.announce(sender, 1, 5, 0);
    let mut out = Vec::new();
    bench.rib.transmit(receiver, 10_000, &mut out);
    let body = Bytes::copy_from_slice(&out[HEADER_LENGTH..whole_messages(&out, 1)]);
    // As iBGP, so that nothing that is there is taken out.
    let context = ReceiveContext {
        peer: PeerKind::Ibgp,
        peer_asn: Asn(1),
        asn_width: AsnWidth::Four,
        families: [FAMILY].into(),
        add_paths: BTreeSet::new(),
        ipv6_next_hops: false,
        first_as: FirstAsCheck::Off,
    };
    let update = decode_update(&body, &context).expect("in order");
    update.attributes.expect("an announcement")
}

#[test]
fn what_is_for_our_own_as_only_goes_to_no_other_even_by_policy() {
    let transitive = ExtendedCommunity([0, 2, 0, 1, 0, 0, 0, 1]);
    let non_transitive = ExtendedCommunity([0x40, 2, 0, 1, 0, 0, 0, 1]);
    let sent = sent_to_ebgp(vec![
        Edit::SetLocalPref(300),
        Edit::SetExtendedCommunities(vec![transitive, non_transitive]),
        Edit::SetMed(Some(9)),
    ]);
    assert_eq!(sent.local_pref, None, "RFC 4271 §5.1.5");
    assert_eq!(*sent.extended_communities, [transitive], "RFC 4360 §6");
    assert_eq!(sent.med, Some(9), "this one is for neighbours");
    assert_eq!((sent.originator_id, sent.cluster_list.len()), (None, 0));
}
