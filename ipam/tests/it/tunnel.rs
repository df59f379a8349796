use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use api::key::Kind;
use datastore::memory::Request;
use ipam::tunnel::{TunnelKind, TunnelRequest};
use ipam::{AssignError, Wanted};
use serde_json::json;

use crate::world::{World, assign, now, request, seconds, wanting};

fn vxlan(world: &World, name: &str, cidr: &str) {
    world.pool(name, json!({"cidr": cidr, "vxlanMode": "Always"}));
}

fn ensure(
    world: &World,
    kind: TunnelKind,
    current: Option<IpAddr>,
) -> Result<Option<IpAddr>, AssignError> {
    let request = TunnelRequest {
        kind,
        node_labels: BTreeMap::new(),
        current,
        now: seconds(1),
    };
    let ipam = world.ipam("n1");
    let ensured = now(ipam.ensure_tunnel_address(&request))?.outcome;
    world.assert_sound();
    // The Node is written.
    let released = now(ipam.release_ips(&ensured.all_but(ensured.wanted), seconds(1_000)))?;
    assert!(released.outcome.refused.is_empty(), "{released:?}");
    world.assert_sound();
    Ok(ensured.wanted)
}

#[test]
fn a_pool_with_a_tunnel_gives_the_node_an_address_under_the_tunnels_handle() {
    let world = World::new(&[("plain", "10.9.0.0/24", 26)]);
    vxlan(&world, "overlay", "10.0.0.0/24");
    let address = ensure(&world, TunnelKind::VxlanV4, None).unwrap().unwrap();
    let taken = world.taken();
    assert_eq!(
        taken,
        [(address.to_string(), "vxlan-tunnel-addr-n1".to_owned())]
    );
    assert!(address.to_string().starts_with("10.0.0."));
    let secondary = &world.blocks()[0].attributes[0].secondary;
    assert_eq!(secondary["type"], "vxlanTunnelAddress");
    assert_eq!(secondary["node"], "n1");
    // No pool uses the other tunnels.
    assert_eq!(ensure(&world, TunnelKind::Ipip, None), Ok(None));
    assert_eq!(ensure(&world, TunnelKind::VxlanV6, None), Ok(None));
}

#[test]
fn each_tunnel_has_its_handle_its_attribute_and_its_pools() {
    for (kind, pool, handle, attribute) in [
        (
            TunnelKind::Ipip,
            json!({"cidr": "10.0.0.0/24", "ipipMode": "CrossSubnet"}),
            "ipip-tunnel-addr-n1",
            "ipipTunnelAddress",
        ),
        (
            TunnelKind::VxlanV4,
            json!({"cidr": "10.0.0.0/24", "vxlanMode": "CrossSubnet"}),
            "vxlan-tunnel-addr-n1",
            "vxlanTunnelAddress",
        ),
        (
            TunnelKind::VxlanV6,
            json!({"cidr": "fd00::/120", "blockSize": 122, "vxlanMode": "Always"}),
            "vxlan-v6-tunnel-addr-n1",
            "vxlanV6TunnelAddress",
        ),
    ] {
        for (refused, value) in [
            ("disabled", json!(true)),
            ("allowedUses", json!(["Workload"])),
            ("nodeSelector", json!("rack == 'r9'")),
        ] {
            let world = World::new(&[]);
            let mut spec = pool.clone();
            spec[refused] = value;
            world.pool("p", spec);
            assert_eq!(ensure(&world, kind, None), Ok(None), "{refused}");
        }
        let world = World::new(&[]);
        world.pool("p", pool);
        let address = ensure(&world, kind, None).unwrap().unwrap();
        assert_eq!(world.taken(), [(address.to_string(), handle.to_owned())]);
        let secondary = &world.blocks()[0].attributes[0].secondary;
        assert_eq!(secondary["type"], attribute);
        assert_eq!(secondary["node"], "n1");
        for other in [TunnelKind::Ipip, TunnelKind::VxlanV4, TunnelKind::VxlanV6] {
            if other != kind {
                assert_eq!(ensure(&world, other, None), Ok(None), "{other:?}");
            }
        }
    }
}

#[test]
fn to_keep_an_address_the_blocks_of_the_cluster_are_not_read() {
    let world = World::new(&[]);
    vxlan(&world, "overlay", "10.0.0.0/24");
    let current = ensure(&world, TunnelKind::VxlanV4, None).unwrap();
    let ipam = world.ipam("n1");
    let ask = |kind, current| {
        let request = TunnelRequest {
            kind,
            node_labels: BTreeMap::new(),
            current,
            now: seconds(1),
        };
        now(ipam.ensure_tunnel_address(&request))
            .unwrap()
            .outcome
            .wanted
    };
    // The first question of an agent reads what is its own.
    assert_eq!(ask(TunnelKind::VxlanV4, current), current);
    let lists = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&lists);
    world.store.set_fault_plan(move |asked| {
        if matches!(asked, Request::List(_)) {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        None
    });
    assert_eq!(ask(TunnelKind::VxlanV4, current), current);
    for unused in [TunnelKind::Ipip, TunnelKind::VxlanV6] {
        assert_eq!(ask(unused, None), None);
    }
    assert_eq!(lists.load(Ordering::Relaxed), 0);
}

#[test]
fn the_address_is_kept_while_its_pool_uses_the_tunnel() {
    let world = World::new(&[]);
    vxlan(&world, "overlay", "10.0.0.0/24");
    let first = ensure(&world, TunnelKind::VxlanV4, None).unwrap();
    let revision = world.store.revision();
    assert_eq!(ensure(&world, TunnelKind::VxlanV4, first), Ok(first));
    // The agent died before it wrote the Node.
    assert_eq!(ensure(&world, TunnelKind::VxlanV4, None), Ok(first));
    assert_eq!(world.store.revision(), revision);
}

#[test]
fn an_address_outside_every_pool_that_qualifies_is_replaced() {
    let world = World::new(&[]);
    vxlan(&world, "overlay", "10.0.0.0/24");
    let first = ensure(&world, TunnelKind::VxlanV4, None).unwrap();
    world.pool(
        "overlay",
        json!({"cidr": "10.0.0.0/24", "vxlanMode": "Always", "disabled": true}),
    );
    vxlan(&world, "second", "10.1.0.0/24");
    let second = ensure(&world, TunnelKind::VxlanV4, first).unwrap().unwrap();
    assert!(second.to_string().starts_with("10.1.0."));
    assert_eq!(world.taken().len(), 1);
    world.delete(Kind::IPPool, "second");
    assert_eq!(ensure(&world, TunnelKind::VxlanV4, Some(second)), Ok(None));
    assert!(world.taken().is_empty() && world.handles().is_empty());
}

#[test]
fn an_address_that_became_a_pods_is_left_to_the_pod() {
    let world = World::new(&[]);
    vxlan(&world, "overlay", "10.0.0.0/24");
    let pods: IpAddr = "10.0.0.9".parse().unwrap();
    assign(&world.ipam("n1"), wanting("pod", Wanted::Address(pods))).unwrap();
    let given = ensure(&world, TunnelKind::VxlanV4, Some(pods)).unwrap();
    assert_ne!(given, Some(pods));
    assert_eq!(world.taken().len(), 2);
}

#[test]
fn an_address_nobody_holds_is_taken_again() {
    let world = World::new(&[]);
    vxlan(&world, "overlay", "10.0.0.0/24");
    let known: IpAddr = "10.0.0.9".parse().unwrap();
    assert_eq!(
        ensure(&world, TunnelKind::VxlanV4, Some(known)),
        Ok(Some(known))
    );
    // Old versions left it allocated, without handle and attributes.
    let world = World::new(&[]);
    world.pool(
        "overlay",
        json!({"cidr": "10.0.0.0/30", "blockSize": 30, "ipipMode": "Always"}),
    );
    world.put(
        Kind::IPAMBlock,
        "10-0-0-0-30",
        json!({
            "cidr": "10.0.0.0/30", "affinity": "host:n1", "allocations": [null, null, 0, null],
            "unallocated": [0, 1, 3], "attributes": [{}],
        }),
    );
    let old: IpAddr = "10.0.0.2".parse().unwrap();
    assert_eq!(ensure(&world, TunnelKind::Ipip, Some(old)), Ok(Some(old)));
    let expected = [("10.0.0.2".to_owned(), "ipip-tunnel-addr-n1".to_owned())];
    assert_eq!(world.taken(), expected);
}

#[test]
fn a_failed_replacement_keeps_the_address_the_node_has() {
    let world = World::new(&[]);
    vxlan(&world, "overlay", "10.0.0.0/24");
    let first = ensure(&world, TunnelKind::VxlanV4, None).unwrap();
    world.pool("overlay", json!({"cidr": "10.0.0.0/24"}));
    world.pool(
        "full",
        json!({"cidr": "10.1.0.0/32", "blockSize": 32, "vxlanMode": "Always"}),
    );
    world.config(json!({"strictAffinity": true, "autoAllocateBlocks": true}));
    let pod = Wanted::Address("10.1.0.0".parse().unwrap());
    assign(&world.ipam("n2"), wanting("pod", pod)).unwrap();
    assert!(ensure(&world, TunnelKind::VxlanV4, first).is_err());
    let held: Vec<_> = world
        .taken()
        .into_iter()
        .map(|(address, _)| address)
        .collect();
    assert!(held.contains(&first.unwrap().to_string()), "{held:?}");
    assign(&world.ipam("n1"), request("pod2")).unwrap();
}

#[test]
fn nothing_is_released_before_the_node_says_something_else() {
    let world = World::new(&[]);
    vxlan(&world, "overlay", "10.0.0.0/24");
    let first = ensure(&world, TunnelKind::VxlanV4, None).unwrap();
    world.pool("overlay", json!({"cidr": "10.0.0.0/24"}));
    let ask = |world: &World| {
        let request = TunnelRequest {
            kind: TunnelKind::VxlanV4,
            node_labels: BTreeMap::new(),
            current: first,
            now: seconds(1),
        };
        now(world.ipam("n1").ensure_tunnel_address(&request))
            .unwrap()
            .outcome
    };
    let none = ask(&world);
    assert_eq!((none.wanted, world.taken().len()), (None, 1));
    // The agent died before it wrote the Node; then another pool uses the tunnel.
    vxlan(&world, "second", "10.1.0.0/24");
    let second = ask(&world);
    assert_eq!((second.held.len(), world.taken().len()), (2, 2));
    assert_ne!(second.wanted, first);
    assert_eq!(ask(&world), second, "asked again it is the same");
    // One that was given out anew in between is not released.
    let mut stale = second.all_but(second.wanted);
    assert_eq!(stale.len(), 1);
    stale[0].sequence_number = stale[0].sequence_number.map(|number| number + 1);
    let refused = now(world.ipam("n1").release_ips(&stale, seconds(1_000)))
        .unwrap()
        .outcome;
    assert_eq!((refused.refused.len(), world.taken().len()), (1, 2));
}
