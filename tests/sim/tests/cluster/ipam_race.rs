//! Two nodes at once want what only one can have.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use api::pool::EncapMode;
use datastore::delegate::Delegating;
use ipam::Ipam;
use sim::executor::{Yielding, interleave};
use sim::world::request;
use sim::{check, rng::Rng};

type Assigned = Result<ipam::Committed<ipam::Assignment>, ipam::AssignError>;

/// Two nodes take addresses from a pool of one block, in an order that the seed decides. Answers the faults.
fn race(seed: u64) -> Vec<String> {
    let mut world = super::world_of(seed, "192.168.0.0/26", EncapMode::Never);
    world.add_node("n1", "10.0.0.1/24", None);
    world.add_node("n2", "10.0.0.2/24", None);
    let clients: Vec<Ipam> = world
        .nodes
        .iter()
        .map(|node| {
            // As each node's own client carries plans out.
            let store = Arc::new(Delegating(Yielding(Arc::new(node.store.clone()))));
            Ipam::new(store, node.name.clone())
        })
        .collect();
    let futures: Vec<Pin<Box<dyn Future<Output = Assigned> + '_>>> = clients
        .iter()
        .zip(["n1", "n2"])
        .map(|(ipam, node)| {
            Box::pin(ipam.assign(request(node, "p0")))
                as Pin<Box<dyn Future<Output = Assigned> + '_>>
        })
        .collect();
    let results = interleave(&mut Rng::new(seed), futures);
    for (index, result) in results.into_iter().enumerate() {
        let assigned = result.expect("64 addresses are enough for two");
        world.attach(index, "p0", assigned.outcome.addresses[0]);
    }
    world.run_for(Duration::from_secs(30));
    check::all(&world)
}

#[test]
fn two_nodes_race_for_one_block_and_one_owns_it_and_both_pods_are_reached() {
    super::for_seeds(20, |seed| {
        let faults = race(seed);
        assert!(faults.is_empty(), "seed {seed}: {faults:?}");
    });
}
