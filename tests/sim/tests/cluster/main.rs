//! Scenarios of whole clusters. `SIM_SEED=<n> cargo test -p sim <name>` replays one.

mod ipam_race;
mod mesh;
mod reflectors;
mod vxlan;

use std::time::Instant;

use api::metadata::{Metadata, Resource, api_version};
use api::object::Object;
use api::pool::{EncapMode, IPPoolSpec};
use sim::world::World;

/// Where virtual time begins.
#[expect(
    clippy::disallowed_methods,
    reason = "an Instant cannot be made otherwise; everything is relative to it"
)]
fn epoch() -> Instant {
    Instant::now()
}

/// The run's seed, printed.
#[expect(
    clippy::disallowed_methods,
    reason = "the seed to replay comes from outside"
)]
fn seed(own: u64) -> u64 {
    sim::rng::seed(std::env::var("SIM_SEED").ok().as_deref(), own)
}

/// A world with one pool.
fn world(own_seed: u64, cidr: &str, vxlan: EncapMode) -> World {
    let mut world = World::new(seed(own_seed), epoch());
    world.apply(&pool(cidr, vxlan));
    world
}

fn pool(cidr: &str, vxlan: EncapMode) -> Object {
    let spec = serde_json_pool(cidr, vxlan);
    Object::IPPool(Resource {
        api_version: api_version(),
        kind: "IPPool".to_owned(),
        metadata: Metadata {
            name: "default-ipv4-ippool".to_owned(),
            ..Default::default()
        },
        spec,
        extra: std::iter::empty().collect(),
    })
}

fn serde_json_pool(cidr: &str, vxlan: EncapMode) -> IPPoolSpec {
    IPPoolSpec {
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
    }
}
