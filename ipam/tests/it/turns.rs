//! Calls of one node's tasks that overlap.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use api::key::Key;
use datastore::delegate::{Delegate, Delegating};
use datastore::memory::MemoryStore;
use datastore::store::{KeyValue, Store, StoreError};
use futures_util::future::BoxFuture;
use ipam::Ipam;

use crate::world::{World, now, request};

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

#[test]
fn what_an_assignment_found_out_outlives_a_question_that_began_before_it() {
    let world = World::new(&[("pool", "10.9.0.0/24", 26)]);
    let gate = Arc::new(Delegating(Gate {
        store: world.store.clone(),
        of: "vxlan-tunnel-addr",
        closed: AtomicBool::new(true),
    }));
    let store: Arc<dyn Store> = Arc::clone(&gate) as Arc<dyn Store>;
    let ipam = Ipam::new(store, "n1");
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
