//! Everything that can go wrong goes wrong, in an order and at times that the seed decides; at rest all holds.

use std::time::Duration;

use api::pool::EncapMode;
use datastore::memory::Fault;
use felix::desired::{Row, RowKey};
use felix::kernel::OpError;
use sim::check;
use sim::node::Start;
use sim::rng::Rng;
use sim::world::World;

use super::NONE;

const NODES: usize = 4;
const STEPS: usize = 40;

/// What may happen to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strike {
    AddPod,
    RemovePod,
    Kill,
    Restart,
    StoreConflicts,
    StoreUnavailable,
    StoreLosesReplies,
    StoreIsLate,
    LateWritesCome,
    StoreAway,
    StoreBack,
    WatchesBreak,
    WatchesLag,
    WritesRefused,
    RouteTaken,
    Overrun,
    Reset,
    Isolate,
    Rejoin,
}

const ALL: [Strike; 19] = [
    Strike::AddPod,
    Strike::RemovePod,
    Strike::Kill,
    Strike::Restart,
    Strike::StoreConflicts,
    Strike::StoreUnavailable,
    Strike::StoreLosesReplies,
    Strike::StoreIsLate,
    Strike::LateWritesCome,
    Strike::StoreAway,
    Strike::StoreBack,
    Strike::WatchesBreak,
    Strike::WatchesLag,
    Strike::WritesRefused,
    Strike::RouteTaken,
    Strike::Overrun,
    Strike::Reset,
    Strike::Isolate,
    Strike::Rejoin,
];

fn below(rng: &mut Rng, bound: usize) -> usize {
    let bound = u64::try_from(bound).expect("a small number");
    usize::try_from(rng.below(bound)).expect("below a small number")
}

/// Strikes, and says what that did.
struct Scenario {
    world: World,
    rng: Rng,
    log: Vec<String>,
    pods_made: usize,
    /// ADDs and DELs that failed: the runtime calls DEL until it succeeds.
    to_remove: Vec<(usize, String)>,
}

impl Scenario {
    fn strike(&mut self) {
        let index = below(&mut self.rng, self.world.nodes.len());
        let strike = ALL[below(&mut self.rng, ALL.len())];
        let count = below(&mut self.rng, 4) + 1;
        if self.world.nodes[index].lost {
            return;
        }
        self.log.push(format!("{strike:?} n{} {count}", index + 1));
        let world = &mut self.world;
        let now = world.now;
        match strike {
            Strike::AddPod => self.add_pod(index),
            Strike::RemovePod => self.remove_pod(index),
            Strike::Kill => world.kill_agent(index),
            Strike::Restart => {
                world.kill_agent(index);
                world.start_agent(index, Start::Restart);
            }
            Strike::StoreConflicts => world.nodes[index].store.fail_next(count, Fault::Conflict),
            Strike::StoreUnavailable => {
                world.nodes[index]
                    .store
                    .fail_next(count, Fault::Unavailable);
            }
            Strike::StoreLosesReplies => {
                world.nodes[index].store.fail_next(count, Fault::LostReply);
            }
            Strike::StoreIsLate => world.nodes[index].store.fail_next(count, Fault::Late),
            Strike::LateWritesCome => world.store.deliver_late(),
            Strike::StoreAway => world.nodes[index].store.set_down(true),
            Strike::StoreBack => world.nodes[index].store.set_down(false),
            Strike::WatchesBreak => world.nodes[index].store.break_watches(),
            Strike::WatchesLag => {
                let steps = u64::try_from(count * 50).expect("a small number");
                world.nodes[index].store.delay_watches(steps);
            }
            Strike::WritesRefused => {
                let busy = OpError::Kernel {
                    errno: 16,
                    text: "Device or resource busy".into(),
                };
                world.nodes[index].kernel.refuse_next(vec![busy; count]);
            }
            Strike::RouteTaken => self.take_route(index),
            Strike::Overrun => {
                // Only reading everything again shows what is gone.
                self.take_route(index);
                self.world.nodes[index].kernel.overrun();
            }
            Strike::Reset => world.net.reset(now, index, (index + count) % NODES),
            Strike::Isolate => world.isolate(index),
            Strike::Rejoin => world.rejoin(index),
        }
        self.world.nodes[index].awake = true;
    }

    /// Somebody else deletes a route.
    fn take_route(&mut self, index: usize) {
        let kernel = &mut self.world.nodes[index].kernel;
        let keys = kernel.rows().map(Row::key);
        let routes: Vec<RowKey> = keys.filter(|key| matches!(key, RowKey::Route(_))).collect();
        if !routes.is_empty() {
            kernel.remove_foreign(&routes[below(&mut self.rng, routes.len())]);
        }
    }

    fn add_pod(&mut self, index: usize) {
        self.pods_made += 1;
        let name = format!("q{}", self.pods_made);
        if self.world.add_pod(index, &name).is_err() {
            self.to_remove.push((index, name));
        }
    }

    fn remove_pod(&mut self, index: usize) {
        let pods = &self.world.nodes[index].pods;
        if pods.is_empty() {
            return;
        }
        let at = below(&mut self.rng, pods.len());
        let name = pods.keys().nth(at).expect("below their number").clone();
        if self.world.remove_pod(index, &name).is_err() {
            self.to_remove.push((index, name));
        }
    }

    /// Every fault ends; dead agents are started again.
    fn heal(&mut self) {
        self.world.store.deliver_late();
        for index in 0..self.world.nodes.len() {
            let world = &mut self.world;
            if world.nodes[index].lost {
                continue;
            }
            world.rejoin(index);
            let node = &mut world.nodes[index];
            node.store.set_fault_plan(|_| None);
            node.store.set_down(false);
            node.store.delay_watches(0);
            node.kernel.refuse_no_more();
            node.awake = true;
            if node.agent.is_none() {
                world.start_agent(index, Start::Restart);
            }
        }
        for (index, name) in std::mem::take(&mut self.to_remove) {
            // The faults that were still to come strike here.
            while self.world.remove_pod(index, &name).is_err() {
                self.world.store.deliver_late();
            }
        }
        self.world.store.deliver_late();
    }
}

fn scenario(seed: u64) -> Scenario {
    let mut world = super::world_of(seed, "192.168.0.0/16", EncapMode::Never);
    super::add_nodes_with_a_pod(&mut world, NODES);
    super::converge(&mut world, NODES * (NODES - 1));
    Scenario {
        rng: Rng::new(seed),
        world,
        log: Vec::new(),
        pods_made: 0,
        to_remove: Vec::new(),
    }
}

/// Waits until all holds again, with this many nodes.
#[track_caller]
fn rests(scenario: &mut Scenario, seed: u64, nodes: usize) {
    let world = &mut scenario.world;
    let at_rest = world.run_until(Duration::from_secs(1800), |world| {
        check::sessions(world) == nodes * (nodes - 1) && check::all(world).is_empty()
    });
    assert!(
        at_rest,
        "seed {seed}: {} ends of sessions, {:#?} after {:#?}",
        check::sessions(world),
        check::all(world),
        scenario.log
    );
}

#[test]
fn after_any_faults_of_store_kernel_network_and_agents_all_holds_again() {
    super::for_seeds(12, |seed| {
        let mut scenario = scenario(seed);
        for _ in 0..STEPS {
            scenario.strike();
            let pause = scenario.rng.below(20_000);
            scenario.world.run_for(Duration::from_millis(pause));
            let faults = check::addresses(&scenario.world);
            assert_eq!(faults, NONE, "seed {seed} after {:#?}", scenario.log);
        }
        scenario.heal();
        rests(&mut scenario, seed, NODES);
        let leaks = check::leaks(&scenario.world);
        assert_eq!(leaks, NONE, "seed {seed} after {:#?}", scenario.log);
    });
}

#[test]
fn a_lost_node_takes_no_route_of_others_with_it_and_leaves_none() {
    super::for_seeds(4, |seed| {
        let mut scenario = scenario(seed);
        let lost = below(&mut scenario.rng, NODES);
        let pod = scenario.world.nodes[lost].pods["p0"].address.addr();
        scenario.world.lose_node(lost);
        for _ in 0..60 {
            scenario.world.run_for(Duration::from_secs(5));
            assert_eq!(check::reachability(&scenario.world), NONE, "seed {seed}");
        }
        rests(&mut scenario, seed, NODES - 1);
        for (index, node) in scenario.world.nodes.iter().enumerate() {
            assert!(
                index == lost || node.kernel.look_up(pod).is_none(),
                "{}",
                node.name
            );
        }
    });
}
