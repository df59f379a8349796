//! Scenarios of whole clusters. `SIM_SEED=<n> cargo test -p sim <name>` replays one.

mod checks;
mod drain;
mod endpoints;
mod faults;
mod filters;
mod ipam_race;
mod mesh;
mod next_hops;
mod reflectors;
mod services;
mod switch;
mod vxlan;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::{Duration, Instant};

use api::key::{Key, Kind};
use api::object::Object;
use api::pool::{EncapMode, IPPool, IPPoolSpec};
use sim::check;
use sim::world::World;

/// No faults.
const NONE: [String; 0] = [];

/// Where virtual time begins.
#[expect(
    clippy::disallowed_methods,
    reason = "an Instant cannot be made otherwise; everything is relative to it"
)]
fn epoch() -> Instant {
    Instant::now()
}

/// The run's seed, printed: a new one each time, or `SIM_SEED`.
fn seed() -> u64 {
    sim::rng::seed(seed_to_replay().as_deref(), RandomState::new().hash_one(0))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the seed to replay comes from outside"
)]
fn seed_to_replay() -> Option<String> {
    std::env::var("SIM_SEED").ok()
}

/// Runs a scenario with so many seeds, or with the one to replay.
fn for_seeds(count: usize, mut scenario: impl FnMut(u64)) {
    let count = seed_to_replay().map_or(count, |_| 1);
    for _ in 0..count {
        scenario(seed());
    }
}

/// A world with one pool.
fn world(cidr: &str, vxlan: EncapMode) -> World {
    world_of(seed(), cidr, vxlan)
}

/// As [`world`], with this seed.
fn world_of(seed: u64, cidr: &str, vxlan: EncapMode) -> World {
    let mut world = World::new(seed, epoch());
    world.apply(&pool(cidr, vxlan));
    world
}

fn pool(cidr: &str, vxlan: EncapMode) -> Object {
    let spec = IPPoolSpec {
        cidr: cidr.parse().expect("a literal"),
        block_size: None,
        ipip_mode: EncapMode::Never,
        vxlan_mode: vxlan,
        nat_outgoing: false,
        disabled: false,
        disable_bgp_export: false,
        node_selector: None,
        allowed_uses: None,
        extra: std::iter::empty().collect(),
    };
    let key = Key::new(Kind::IPPool, "default-ipv4-ippool");
    Object::IPPool(IPPool::new(&key, spec))
}

/// No kernel lost a route since it was last asked.
fn no_route_was_removed(world: &mut World) {
    for node in &mut world.nodes {
        let removed = node.kernel.take_removed_routes();
        assert!(removed.is_empty(), "{} deleted {removed:?}", node.name);
    }
}

/// After a death: every pod is reached within the Restart Time, and after it `lost` (`n1 -> n2/p0`) is not.
fn routes_last_for_the_restart_time(world: &mut World, lost: &str) {
    world.run_for(Duration::from_secs(100));
    assert_eq!(
        check::reachability(world),
        NONE,
        "within the Restart Time of 120 s"
    );
    world.run_for(Duration::from_secs(60));
    let faults = check::reachability(world);
    assert!(
        faults.iter().any(|fault| fault.starts_with(lost)),
        "{faults:?}"
    );
}

/// Nodes n1, n2, … of one subnet with a pod each.
fn add_nodes_with_a_pod(world: &mut World, count: usize) {
    for n in 1..=count {
        let index = world.add_node(&format!("n{n}"), &format!("10.0.0.{n}/24"), None);
        world.add_pod(index, "p0").expect("the pool has room");
    }
}

/// Lets sessions come up, so many ends of them, and routes settle.
fn converge(world: &mut World, ends: usize) {
    let up = world.run_until(Duration::from_secs(60), |world| {
        check::sessions(world) == ends
    });
    assert!(
        up,
        "{} of {ends} ends of sessions are established",
        check::sessions(world)
    );
    world.run_for(Duration::from_secs(5));
}
