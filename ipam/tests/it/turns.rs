//! Calls of one node's tasks that overlap.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use api::key::{Key, Kind};
use datastore::delegate::{Delegate, Delegating};
use datastore::memory::MemoryStore;
use datastore::scope::Scope;
use datastore::store::{Change, KeyValue, Store, StoreError};
use futures_util::future::BoxFuture;
use ipam::Ipam;
use ipam::tunnel::{TunnelKind, TunnelRequest};
use serde_json::json;

use crate::world::{World, now, request, seconds};

/// A store that lets questions for one object wait.
struct Gate {
    store: MemoryStore,
    /// Part of the name of the objects that are asked for.
    of: &'static str,
    closed: AtomicBool,
}

impl Delegate for Gate {
    fn inner(&self) -> &dyn Store {
        &self.store
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<KeyValue>, StoreError>> {
        Box::pin(async move {
            poll_fn(|_| {
                let waits = key.name.contains(self.of) && self.closed.load(Ordering::Relaxed);
                if waits {
                    Poll::Pending
                } else {
                    Poll::Ready(())
                }
            })
            .await;
            self.store.get(key).await
        })
    }
}

/// The IPAM of a node whose questions for objects of such names wait.
fn gated(world: &World, of: &'static str) -> (Arc<Delegating<Gate>>, Ipam) {
    let gate = Arc::new(Delegating(Gate {
        store: world.store.clone(),
        of,
        closed: AtomicBool::new(true),
    }));
    let ipam = Ipam::new(Arc::clone(&gate) as Arc<dyn Store>, "n1");
    (gate, ipam)
}

/// The pool gets another mode.
fn to_vxlan(world: &World) {
    let spec = json!({"cidr": "10.9.0.0/24", "blockSize": 26, "vxlanMode": "Always"});
    world.pool("pool", spec);
}

#[test]
fn what_an_assignment_found_out_outlives_a_question_that_began_before_it() {
    let world = World::new(&[("pool", "10.9.0.0/24", 26)]);
    let (gate, ipam) = gated(&world, "vxlan-tunnel-addr");
    let handles = ["h".to_owned()];
    // The block is remembered as it is now.
    now(ipam.assign(request("g"))).unwrap();

    // As the task asks that keeps the node's tunnel address.
    let tunnels = ["vxlan-tunnel-addr-n1".to_owned()];
    let mut keeper = pin!(ipam.held(&tunnels));
    let mut plugin = pin!(ipam.assign(request("h")));
    let mut context = Context::from_waker(Waker::noop());
    assert!(keeper.as_mut().poll(&mut context).is_pending());
    let given = plugin.as_mut().poll(&mut context);
    gate.closed.store(false, Ordering::Relaxed);
    assert!(keeper.as_mut().poll(&mut context).is_ready());
    let given = match given {
        Poll::Ready(given) => given,
        Poll::Pending => now(plugin),
    };
    let address = given.unwrap().outcome.addresses[0].addr();
    let held = now(ipam.held(&handles)).unwrap();
    assert_eq!(held[0].len(), 1, "{held:?}");
    assert_eq!(held[0][0].address, address);
}

/// A pool's mode changes while a question waits for the store: what the watch tells then is not lost with its answer.
#[test]
fn a_pool_that_changes_while_a_question_waits_is_known_after_it() {
    for is_remembered in [true, false] {
        let world = World::new(&[("pool", "10.9.0.0/24", 26)]);
        let (gate, ipam) = gated(&world, "-tunnel-addr");
        if is_remembered {
            now(ipam.assign(request("g"))).unwrap();
        }
        let tunnels = ["ipip-tunnel-addr-n1".to_owned()];
        let mut keeper = pin!(ipam.held(&tunnels));
        let mut context = Context::from_waker(Waker::noop());
        assert!(keeper.as_mut().poll(&mut context).is_pending());
        to_vxlan(&world);
        let pools = now(world.store.list(Kind::IPPool, &Scope::All)).unwrap();
        ipam.observe(&Change::Put(pools.items[0].clone()));
        gate.closed.store(false, Ordering::Relaxed);
        assert!(keeper.as_mut().poll(&mut context).is_ready());
        assert!(
            vxlan_address(&ipam).is_some(),
            "remembered: {is_remembered}"
        );
    }
}

/// What is to be forgotten is not remembered again by a question that began before.
#[test]
fn what_was_forgotten_while_a_question_waits_is_read_again_after_it() {
    let world = World::new(&[("pool", "10.9.0.0/24", 26)]);
    let (gate, ipam) = gated(&world, "-tunnel-addr");
    now(ipam.assign(request("g"))).unwrap();
    let tunnels = ["ipip-tunnel-addr-n1".to_owned()];
    let mut keeper = pin!(ipam.held(&tunnels));
    let mut context = Context::from_waker(Waker::noop());
    assert!(keeper.as_mut().poll(&mut context).is_pending());
    to_vxlan(&world);
    ipam.forget();
    gate.closed.store(false, Ordering::Relaxed);
    assert!(keeper.as_mut().poll(&mut context).is_ready());
    assert!(vxlan_address(&ipam).is_some());
}

/// What the tunnel address is to be.
fn vxlan_address(ipam: &Ipam) -> Option<std::net::IpAddr> {
    let asked = now(ipam.ensure_tunnel_address(&TunnelRequest {
        kind: TunnelKind::VxlanV4,
        node_labels: [].into(),
        current: None,
        now: seconds(0),
    }));
    asked.expect("the store answers").outcome.wanted
}
