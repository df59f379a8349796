//! Each thing that can be wrong among blocks, affinities and handles: what a check says of it, that nobody gets an address
//! of it that is another's, and what is left once pods have come and gone and garbage was looked for.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use api::key::Kind;
use ipam::Ipam;
use ipam::collect::looks::{Done, Looks};
use serde_json::{Value, json};

use crate::world::{World, now, request, seconds};

const BLOCK: &str = "10.0.0.0/30";
const GRACE: Duration = Duration::from_secs(900);

/// What stands in the store besides two nodes, a pool and an address of the other node's pod.
type Put = fn(&World);

struct Anomaly {
    what: &'static str,
    put: Put,
    /// What the check says, as the beginning of a line; of faults and of what is half done.
    said: &'static str,
    /// What is said in the end; empty: it is mended.
    stays: &'static str,
}

fn affinity(world: &World, node: &str, state: &str, deleted: &str) {
    world.put(
        Kind::BlockAffinity,
        &format!("{node}-10-0-0-0-30"),
        json!({"node": node, "state": state, "cidr": BLOCK, "deleted": deleted, "type": "host"}),
    );
}

/// A block with an address for each handle.
fn block(world: &World, cidr: &str, owner: &str, handles: &[&str]) {
    let cidr = cidr.parse().expect("a CIDR");
    let made = ipam::block::new_block(cidr, format!("host:{owner}"), seconds(1));
    let mut made = made.expect("a block");
    for handle in handles {
        let who =
            serde_json::from_value(json!({"handle_id": handle, "secondary": {"note": "old"}}));
        let who = who.expect("an attribute");
        ipam::block::take_next(&mut made, &who, &ipam::reserved::Reserved::default());
        let counts = json!({"handleID": handle, "block": {cidr.to_string(): 1}});
        world.put(Kind::IPAMHandle, handle, counts);
    }
    world.put(Kind::IPAMBlock, &api::ipam::block_name(cidr), json!(made));
}

/// Another node's block around [`BLOCK`], in use.
fn larger_block(world: &World) {
    block(world, "10.0.0.0/29", "n2", &["n2.old"]);
    let claim = json!({"node": "n2", "state": "confirmed", "cidr": "10.0.0.0/29", "deleted": "false", "type": "host"});
    world.put(Kind::BlockAffinity, "n2-10-0-0-0-29", claim);
}

fn tombstone(world: &World) {
    block(world, BLOCK, "n9", &[]);
    let mut spec = json!(
        world
            .blocks()
            .into_iter()
            .find(|block| block.cidr.to_string() == BLOCK)
    );
    spec["deleted"] = json!(true);
    world.put(Kind::IPAMBlock, "10-0-0-0-30", spec);
}

const ANOMALIES: [Anomaly; 13] = [
    Anomaly {
        what: "a claim without its block",
        put: |world| affinity(world, "n1", "confirmed", "false"),
        said: "BlockAffinity(n1-10-0-0-0-30): is confirmed, and block 10.0.0.0/30 does not exist",
        stays: "",
    },
    Anomaly {
        what: "a pending claim without its block",
        put: |world| affinity(world, "n1", "pending", "false"),
        said: "BlockAffinity(n1-10-0-0-0-30): is pending, and block 10.0.0.0/30 does not exist",
        stays: "",
    },
    Anomaly {
        what: "a pending claim with its block",
        put: |world| {
            affinity(world, "n1", "pending", "false");
            block(world, BLOCK, "n1", &[]);
        },
        said: "BlockAffinity(n1-10-0-0-0-30): is pending",
        stays: "",
    },
    Anomaly {
        what: "a claim that was being given up",
        put: |world| affinity(world, "n1", "pendingDeletion", "false"),
        said: "BlockAffinity(n1-10-0-0-0-30): is pendingDeletion, and block 10.0.0.0/30 does not exist",
        stays: "",
    },
    Anomaly {
        what: "a claim on another node's block",
        put: |world| {
            affinity(world, "n1", "confirmed", "false");
            affinity(world, "n2", "confirmed", "false");
            block(world, BLOCK, "n2", &["n2.old"]);
        },
        said: "BlockAffinity(n1-10-0-0-0-30): claims 10.0.0.0/30, which is host:n2's",
        stays: "",
    },
    Anomaly {
        what: "a claim of a node that does not exist",
        put: |world| {
            affinity(world, "n9", "pending", "false");
        },
        said: "BlockAffinity(n9-10-0-0-0-30): is pending, and block 10.0.0.0/30 does not exist",
        stays: "",
    },
    Anomaly {
        what: "a block without its claim",
        put: |world| block(world, BLOCK, "n1", &["n1.old"]),
        said: "IPAMBlock(10-0-0-0-30): is host:n1's, which has no affinity for it",
        stays: "",
    },
    Anomaly {
        what: "an empty block over another",
        put: |world| {
            larger_block(world);
            affinity(world, "n1", "confirmed", "false");
            block(world, BLOCK, "n1", &[]);
        },
        said: "IPAMBlock(10-0-0-0-30): overlaps 10.0.0.0/29",
        stays: "",
    },
    Anomaly {
        what: "a block in use over another",
        put: |world| {
            larger_block(world);
            affinity(world, "n1", "confirmed", "false");
            block(world, BLOCK, "n1", &["n1.old"]);
        },
        said: "IPAMBlock(10-0-0-0-30): overlaps 10.0.0.0/29",
        stays: "IPAMBlock(10-0-0-0-30): overlaps 10.0.0.0/29",
    },
    Anomaly {
        what: "a handle that counts too much",
        put: |world| {
            let counts = json!({"handleID": "Net.Gone", "block": {BLOCK: 2}});
            world.put(Kind::IPAMHandle, "net.gone", counts);
        },
        said: "IPAMHandle(net.gone): counts 2 addresses in block 10.0.0.0/30, which has 0",
        stays: "",
    },
    Anomaly {
        what: "a block that is marked as deleted",
        put: tombstone,
        said: "IPAMBlock(10-0-0-0-30): is marked as deleted and still there",
        stays: "",
    },
    Anomaly {
        what: "a claim that is marked as deleted",
        put: |world| affinity(world, "n1", "pendingDeletion", "true"),
        said: "BlockAffinity(n1-10-0-0-0-30): is marked as deleted and still there",
        stays: "",
    },
    Anomaly {
        what: "a handle that is marked as deleted",
        put: |world| {
            let counts = json!({"handleID": "net.gone", "block": {BLOCK: 1}, "deleted": true});
            world.put(Kind::IPAMHandle, "net.gone", counts);
        },
        said: "IPAMHandle(net.gone): is marked as deleted and still there",
        stays: "",
    },
];

/// What a check says.
fn said(world: &World) -> Vec<String> {
    let items = world.store.objects();
    let looked = ipam::check::look(&items);
    let all = looked.faults.into_iter().chain(looked.leftovers);
    all.map(|fault| format!("{}: {}", fault.key, fault.what))
        .collect()
}

/// Two nodes give each an address and take it back, until every address was given; then they look for garbage.
fn live_on(world: &World, folds: bool) -> Vec<String> {
    let mut problems = Vec::new();
    let agents: Vec<Arc<Ipam>> = ["n1", "n2"]
        .map(|node| {
            let client = world.store.client();
            client.set_folds(folds);
            Arc::new(Ipam::new(Arc::new(client), node))
        })
        .into();
    let mut looks: Vec<Looks> = agents
        .iter()
        .map(|agent| Looks::new(Arc::clone(agent), GRACE))
        .collect();
    let mut given: Vec<(usize, String)> = Vec::new();
    let held: Vec<String> = world
        .taken()
        .into_iter()
        .map(|(address, _)| address)
        .collect();
    for round in 0..12 {
        for (at, agent) in agents.iter().enumerate() {
            let handle = format!("net.{at}.{round}");
            let mut wanted = request(&handle);
            wanted.now = seconds(100_000 + round);
            if let Ok(assigned) = now(agent.assign(wanted)) {
                let address = assigned.outcome.addresses[0].addr().to_string();
                let twice = world
                    .taken()
                    .iter()
                    .filter(|(of, _)| *of == address)
                    .count()
                    > 1;
                if held.contains(&address) || twice {
                    problems.push(format!("{address} was given to {handle} and is another's"));
                }
                given.push((at, handle));
            }
        }
    }
    for (at, handle) in given {
        now(agents[at].release_by_handle(&handle, seconds(101_000))).expect("the store works");
    }
    for round in 0..6 {
        for looks in &mut looks {
            let at = seconds(102_000 + round * GRACE.as_secs());
            let devices = async { Ok::<_, Infallible>(|_: &_| false) };
            let mut done = Done::default();
            now(looks.at_own(devices, at, &mut done)).expect("the store works");
            if now(looks.is_elected(at)).expect("the store works") {
                now(looks.at_cluster(at, &mut done)).expect("the store works");
            }
        }
    }
    problems
}

fn world(folds: bool) -> World {
    let world = World::that_folds(folds, &[("p", "10.0.0.0/28", 30)]);
    world.config(json!({"strictAffinity": true, "autoAllocateBlocks": true}));
    world.put(
        Kind::ClusterInformation,
        "default",
        json!({"clusterGUID": "c"}),
    );
    for node in ["n1", "n2"] {
        world.put(Kind::Node, node, json!({}));
    }
    world
}

#[test]
fn each_anomaly_is_said_and_mended_and_nobody_gets_anothers_address() {
    for folds in [true, false] {
        assert_eq!(said(&world(folds)), Vec::<String>::new());
        for anomaly in &ANOMALIES {
            let world = world(folds);
            (anomaly.put)(&world);
            let before = said(&world);
            assert!(
                before.contains(&anomaly.said.to_owned()),
                "{}: {before:#?}",
                anomaly.what
            );
            let problems = live_on(&world, folds);
            assert_eq!(problems, Vec::<String>::new(), "{}", anomaly.what);
            let after = said(&world);
            let expected: Vec<&str> = Some(anomaly.stays)
                .filter(|s| !s.is_empty())
                .into_iter()
                .collect();
            assert_eq!(after, expected, "{}, folds {folds}", anomaly.what);
        }
    }
}

/// The table notices what it is to notice: a claim that is mended by nobody is said.
#[test]
fn what_is_not_mended_is_said() {
    let world = world(true);
    affinity(&world, "n1", "pending", "false");
    let value: Value = json!(said(&world));
    assert_eq!(value.as_array().map(Vec::len), Some(1));
}
