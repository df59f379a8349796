//! Our agents beside each other and beside Calico, in every order of their steps, with a crash, a lost or a late answer
//! between any two: nobody gets an address that another has, or from a block that is another's, and what is left half done
//! is put right by the next plans.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use api::ipam::{AffinityState, affinity_name};
use api::key::Kind;
use datastore::delegate::Delegating;
use datastore::memory::MemoryStore;
use ipam::{AssignError, Ipam};
use ipnet::IpNet;
use serde_json::json;

use crate::calico::Calico;
use crate::interleave::once;
use crate::orders::{Actor, Choices, Mishap, Sabotage, Stepped, explore, run};
use crate::world::{World, now, request, seconds};

const ONE: &str = "10.0.0.0/30";

const ALL: [Mishap; 3] = [Mishap::Crash, Mishap::LostReply, Mishap::Late];

/// How a scene is played.
#[derive(Clone, Copy)]
struct Way {
    folds: bool,
    /// Changes between actors, at most.
    changes: usize,
    mishaps: &'static [Mishap],
    sabotage: Sabotage,
}

/// What the actors believe, and what went wrong.
#[derive(Clone, Default)]
struct Belief(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    /// Handle → node and address.
    held: BTreeMap<String, (String, String)>,
    problems: Vec<String>,
}

impl Belief {
    fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        change(&mut self.0.lock().expect("one thread"))
    }

    fn given(&self, node: &str, handle: &str, address: String) {
        self.with(|all| {
            if let Some((other, _)) = all.held.iter().find(|(_, (_, held))| *held == address) {
                let problem = format!("{address} was given to {handle} while {other} has it");
                all.problems.push(problem);
            }
            all.held
                .insert(handle.to_owned(), (node.to_owned(), address));
        });
    }

    fn given_up(&self, handle: &str) {
        self.with(|all| all.held.remove(handle));
    }
}

/// A store, agents of ours and Calico's, and what they believe.
struct Scene {
    world: World,
    choices: Choices,
    way: Way,
    belief: Belief,
    strict: bool,
}

impl Scene {
    fn new(choices: &Choices, way: Way, pools: &[(&str, &str, u8)], strict: bool) -> Self {
        let world = World::new(pools);
        world.config(json!({"strictAffinity": strict, "autoAllocateBlocks": true}));
        Self {
            world,
            choices: choices.clone(),
            way,
            belief: Belief::default(),
            strict,
        }
    }

    fn store(&self) -> &MemoryStore {
        &self.world.store
    }

    /// An agent that may have a mishap.
    fn agent(&self, node: &str) -> Ipam {
        self.agent_with(node, self.way.mishaps)
    }

    /// An agent that has none.
    fn steady(&self, node: &str) -> Ipam {
        self.agent_with(node, &[])
    }

    fn agent_with(&self, node: &str, mishaps: &[Mishap]) -> Ipam {
        let store = Stepped::new(self.store(), &self.choices, mishaps);
        let store = store.folding(self.way.folds).sabotaged(self.way.sabotage);
        Ipam::new(Arc::new(Delegating(store)), node)
    }

    fn calico(&self, node: &str) -> Calico {
        Calico::new(self.store(), node)
    }

    /// An agent that gives the pod an address; one that gets none is given up.
    fn add<'a>(&self, ipam: &'a Ipam, node: &'a str, handle: &'a str, at: u64) -> Actor<'a> {
        let belief = self.belief.clone();
        Box::pin(async move {
            let mut wanted = request(handle);
            wanted.now = seconds(at);
            match ipam.assign(wanted).await {
                Ok(given) => {
                    let address = given.outcome.addresses[0].addr().to_string();
                    belief.given(node, handle, address);
                }
                Err(AssignError::Exhausted { .. } | AssignError::Store(_)) => {
                    // It may be down: then the runtime asks again, which the end does.
                    let _ = ipam.release_by_handle(handle, seconds(1_000)).await;
                }
                Err(other) => belief.with(|all| all.problems.push(other.to_string())),
            }
        })
    }

    fn del<'a>(&self, ipam: &'a Ipam, handle: &'a str) -> Actor<'a> {
        let belief = self.belief.clone();
        Box::pin(async move {
            belief.given_up(handle);
            let _ = ipam.release_by_handle(handle, seconds(1_000)).await;
        })
    }

    /// What has no answer yet may be done at any time.
    fn postman(&self) -> Actor<'static> {
        let store = self.store().clone();
        Box::pin(async move {
            once().await;
            store.deliver_late();
        })
    }

    /// Plays the actors, lets everybody go on after it, and answers what is wrong.
    fn play(self, mut actors: Vec<Actor<'_>>, nodes: &[&str]) -> Vec<String> {
        if self.way.mishaps.contains(&Mishap::Late) {
            actors.push(self.postman());
        }
        run(actors, &self.choices, self.way.changes, || self.look());
        self.store().deliver_late();
        self.look();
        self.put_right(nodes);
        self.look();
        self.look_at_the_end();
        self.belief.with(|all| std::mem::take(&mut all.problems))
    }

    /// After each step: who has an address has it in the store, and in a block of its node's when it must.
    fn look(&self) {
        if self.belief.with(|all| all.held.is_empty()) {
            return;
        }
        let blocks = self.world.blocks();
        self.belief.with(|all| {
            for (handle, (node, address)) in &all.held {
                let address: std::net::IpAddr = address.parse().expect("an address");
                let holder = blocks.iter().find_map(|found| {
                    let ordinal = ipam::block::ordinal(found.cidr, address)?;
                    let by = ipam::block::holder(found, ordinal)?;
                    (by.handle_id.as_deref() == Some(handle)).then_some(found)
                });
                let owner = holder.map(|found| found.affinity.clone().unwrap_or_default());
                let wanted = format!("host:{node}");
                match owner {
                    None => all.problems.push(format!("{handle} has lost {address}")),
                    Some(owner) if self.strict && owner != wanted => all
                        .problems
                        .push(format!("{handle} has {address}, which is {owner}'s")),
                    Some(_) => {}
                }
            }
        });
    }

    /// The nodes' agents start anew and serve a pod each; the runtime gives up every pod that has no address.
    fn put_right(&self, nodes: &[&str]) {
        let handles: Vec<String> = self.world.handles().into_keys().collect();
        for node in nodes {
            let ipam = self.world.ipam(node);
            let probe = format!("probe-{node}");
            let mut wanted = request(&probe);
            wanted.now = seconds(10_000);
            match now(ipam.assign(wanted)) {
                Ok(given) => {
                    let address = given.outcome.addresses[0].addr().to_string();
                    self.belief.given(node, &probe, address);
                }
                Err(AssignError::Exhausted { .. }) => {}
                Err(other) => self.belief.with(|all| all.problems.push(other.to_string())),
            }
            self.look();
            self.belief.given_up(&probe);
            let lost = handles
                .iter()
                .filter(|handle| handle.starts_with(node))
                .filter(|handle| self.belief.with(|all| !all.held.contains_key(*handle)));
            let gone: Vec<String> = lost.cloned().chain([probe]).collect();
            if let Err(error) = now(ipam.release_by_handles(&gone, seconds(1_000))) {
                self.belief.with(|all| all.problems.push(error.to_string()));
            }
        }
    }

    /// Nothing is left of what was given up or not done.
    fn look_at_the_end(&self) {
        let mut problems: Vec<String> = ipam::check::faults(&self.store().objects())
            .into_iter()
            .map(|fault| format!("{}: {}", fault.key, fault.what))
            .collect();
        let held = self.belief.with(|all| all.held.clone());
        let believed: BTreeMap<&str, &str> = held
            .iter()
            .map(|(handle, (_, address))| (handle.as_str(), address.as_str()))
            .collect();
        let taken = self.world.taken();
        let stored: BTreeMap<&str, &str> = taken
            .iter()
            .map(|(address, handle)| (handle.as_str(), address.as_str()))
            .collect();
        if stored != believed || taken.len() != stored.len() {
            problems.push(format!("taken {taken:?}, believed {believed:?}"));
        }
        let handles = self.world.handles();
        if !handles
            .keys()
            .map(String::as_str)
            .eq(believed.keys().copied())
        {
            problems.push(format!("handles {handles:?}, believed {believed:?}"));
        }
        let affinities = self.world.affinities();
        for affinity in &affinities {
            let owner = self
                .world
                .blocks()
                .into_iter()
                .find(|b| b.cidr == affinity.cidr);
            let is_owner =
                owner.is_some_and(|b| b.affinity == Some(format!("host:{}", affinity.node)));
            if !is_owner || affinity.state != AffinityState::Confirmed || affinity.deleted == "true"
            {
                problems.push(format!("left over: {affinity:?}"));
            }
        }
        for block in self.world.blocks() {
            let of_it = |affinity: &&api::ipam::BlockAffinitySpec| affinity.cidr == block.cidr;
            let claims = affinities.iter().filter(of_it).count();
            let is_kept = block.affinity.is_some() || !ipam::block::is_empty(&block);
            if block.deleted || !is_kept || claims != usize::from(block.affinity.is_some()) {
                problems.push(format!("left over: {} of {:?}", block.cidr, block.affinity));
            }
        }
        self.belief.with(|all| all.problems.extend(problems));
    }
}

/// What can be played.
type Play = fn(&Choices, Way) -> Vec<String>;

fn cidr(text: &str) -> IpNet {
    text.parse().expect("a CIDR")
}

/// Two agents, one block, and nobody may borrow.
fn two_agents_and_one_block(choices: &Choices, way: Way) -> Vec<String> {
    let scene = Scene::new(choices, way, &[("p", ONE, 30)], true);
    let (one, two) = (scene.agent("n1"), scene.steady("n2"));
    let actors = vec![
        scene.add(&one, "n1", "n1.a", 1_000),
        scene.add(&two, "n2", "n2.a", 1_000),
    ];
    scene.play(actors, &["n1", "n2"])
}

/// A node's agent that has a block looks for another by the blocks' names, and so does another node's.
fn a_second_block_is_claimed(choices: &Choices, way: Way) -> Vec<String> {
    let scene = Scene::new(choices, way, &[("p", "10.0.0.0/31", 32)], true);
    let (one, two) = (scene.agent("n1"), scene.steady("n2"));
    let (old, new) = (
        scene.add(&one, "n1", "n1.old", 1_000),
        scene.add(&one, "n1", "n1.new", 1_000),
    );
    let ours = async move {
        old.await;
        new.await;
    };
    let actors = vec![Box::pin(ours), scene.add(&two, "n2", "n2.a", 1_000)];
    scene.play(actors, &["n1", "n2"])
}

/// One node's agent claims, Calico on another node claims the same block and gives an address of it.
fn an_agent_and_calico_claim_one_block(choices: &Choices, way: Way) -> Vec<String> {
    let scene = Scene::new(choices, way, &[("p", ONE, 30)], true);
    let (one, calico, belief) = (scene.agent("n1"), scene.calico("c1"), scene.belief.clone());
    let theirs = async move {
        if calico.claim(cidr(ONE)).await
            && let Some(address) = calico.assign(cidr(ONE), "c1.a", true).await
        {
            belief.given("c1", "c1.a", address);
        }
    };
    let actors = vec![scene.add(&one, "n1", "n1.a", 1_000), Box::pin(theirs)];
    scene.play(actors, &["n1", "c1"])
}

/// Calico's controllers take an empty block away from a node whose agent gives an address of it.
fn a_block_is_taken_away_while_it_is_used(choices: &Choices, way: Way) -> Vec<String> {
    let scene = Scene::new(choices, way, &[("p", ONE, 30)], true);
    let (one, controllers) = (scene.agent("n1"), scene.calico("n1"));
    now(scene.world.ipam("n1").assign(request("n1.old"))).expect("there is room");
    now(scene
        .world
        .ipam("n1")
        .release_by_handle("n1.old", seconds(1_000)))
    .expect("it works");
    let theirs = async move {
        controllers.release_empty_affinity(cidr(ONE)).await;
    };
    let actors = vec![scene.add(&one, "n1", "n1.a", 1_000), Box::pin(theirs)];
    scene.play(actors, &["n1"])
}

/// A pod goes and another comes, while Calico's controllers free what they saw of the first.
fn a_stale_release_meets_the_next_pod(choices: &Choices, way: Way) -> Vec<String> {
    let scene = Scene::new(choices, way, &[("p", "10.0.0.0/32", 32)], true);
    let one = scene.agent("n1");
    now(scene.world.ipam("n1").assign(request("n1.old"))).expect("there is room");
    let seen = scene.world.blocks();
    let number = seen[0].sequence_number_for_allocation["0"];
    let (controllers, block) = (scene.calico("kube-controllers"), seen[0].cidr);
    let theirs = async move {
        controllers.release(block, "n1.old", Some(number)).await;
    };
    let (del, add) = (
        scene.del(&one, "n1.old"),
        scene.add(&one, "n1", "n1.new", 1_000),
    );
    let ours = async move {
        del.await;
        add.await;
    };
    scene.play(vec![Box::pin(ours), Box::pin(theirs)], &["n1"])
}

/// An agent borrows the last address of Calico's block while Calico gives it away.
fn the_last_address_is_borrowed(choices: &Choices, way: Way) -> Vec<String> {
    let scene = Scene::new(choices, way, &[("p", "10.0.0.0/32", 32)], false);
    let (one, calico, belief) = (scene.agent("n1"), scene.calico("c1"), scene.belief.clone());
    let block = cidr("10.0.0.0/32");
    run(
        vec![Box::pin(async {
            scene.calico("c1").claim(block).await;
        })],
        &Choices::default(),
        0,
        || {},
    );
    let theirs = async move {
        if let Some(address) = calico.assign(block, "c1.a", true).await {
            belief.given("c1", "c1.a", address);
        }
    };
    let actors = vec![scene.add(&one, "n1", "n1.a", 1_010), Box::pin(theirs)];
    scene.play(actors, &["n1", "c1"])
}

/// An agent takes over Calico's empty block, which Calico begins to use.
fn an_empty_block_is_taken_over_while_it_is_used(choices: &Choices, way: Way) -> Vec<String> {
    let scene = Scene::new(choices, way, &[("p", ONE, 30)], true);
    let (one, calico, belief) = (scene.agent("n1"), scene.calico("c1"), scene.belief.clone());
    run(
        vec![Box::pin(async {
            scene.calico("c1").claim(cidr(ONE)).await;
        })],
        &Choices::default(),
        0,
        || {},
    );
    let theirs = async move {
        if let Some(address) = calico.assign(cidr(ONE), "c1.a", true).await {
            belief.given("c1", "c1.a", address);
        }
    };
    let actors = vec![scene.add(&one, "n1", "n1.a", 9_000), Box::pin(theirs)];
    scene.play(actors, &["n1", "c1"])
}

/// The pool is cut into smaller blocks while one node claims a large one and another a small one.
fn the_pool_is_cut_anew(choices: &Choices, way: Way) -> Vec<String> {
    let scene = Scene::new(choices, way, &[("p", ONE, 30)], true);
    let (one, two) = (scene.agent("n1"), scene.steady("n2"));
    let world = &scene.world;
    let add = scene.add(&two, "n2", "n2.a", 1_000);
    let (store, pool) = (
        world.store.clone(),
        World::that_folds(true, &[("p", ONE, 31)]),
    );
    let theirs = async move {
        once().await;
        let cut = pool
            .store
            .objects()
            .into_iter()
            .find(|o| o.key.kind == Kind::IPPool);
        let cut = cut.expect("a pool");
        let put = datastore::store::Op::Put {
            key: cut.key,
            value: cut.value,
            expect: datastore::store::Expect::Any,
        };
        datastore::store::Store::write(&store, put)
            .await
            .expect("it works");
        add.await;
    };
    let actors = vec![scene.add(&one, "n1", "n1.a", 1_000), Box::pin(theirs)];
    scene.play(actors, &["n1", "n2"])
}

/// A node's agent gives an address of a block whose tombstones another writer is about to delete.
fn tombstones_are_finished_by_who_marked_them(choices: &Choices, way: Way) -> Vec<String> {
    let scene = Scene::new(choices, way, &[("p", ONE, 30)], true);
    let (one, controllers) = (scene.agent("n1"), scene.calico("n1"));
    let world = &scene.world;
    let name = affinity_name("n1", cidr(ONE));
    world.put(
        Kind::BlockAffinity,
        &name,
        json!({"node": "n1", "state": "confirmed", "cidr": ONE, "deleted": "false", "type": "host"}),
    );
    let made = ipam::block::new_block(cidr(ONE), "host:n1".to_owned(), seconds(1)).expect("one");
    world.put(Kind::IPAMBlock, "10-0-0-0-30", json!(made));
    let theirs = async move {
        controllers.release_empty_affinity(cidr(ONE)).await;
        controllers.release(cidr(ONE), "n1.none", None).await;
    };
    let actors = vec![scene.add(&one, "n1", "n1.a", 1_000), Box::pin(theirs)];
    scene.play(actors, &["n1"])
}

/// An operator takes a node's empty blocks away whose agent is at work.
fn a_node_that_lives_is_released(choices: &Choices, way: Way) -> Vec<String> {
    let scene = Scene::new(choices, way, &[("p", ONE, 30)], true);
    let (one, operator) = (scene.agent("n1"), scene.steady("operator"));
    now(scene.world.ipam("n1").assign(request("n1.old"))).expect("there is room");
    now(scene
        .world
        .ipam("n1")
        .release_by_handle("n1.old", seconds(1_000)))
    .expect("it works");
    let theirs = async move {
        let _ = operator
            .release_host_affinities("n1", true, seconds(1_000))
            .await;
    };
    let actors = vec![scene.add(&one, "n1", "n1.a", 1_000), Box::pin(theirs)];
    scene.play(actors, &["n1"])
}

/// The last address of a block that is nobody's goes, and the block with it, while another node borrows from it.
fn a_block_that_is_nobodys_goes(choices: &Choices, way: Way) -> Vec<String> {
    let scene = Scene::new(choices, way, &[("p", ONE, 30)], false);
    let (one, two) = (scene.agent("n1"), scene.steady("n2"));
    now(scene.world.ipam("gone").assign(request("n1.old"))).expect("there is room");
    now(scene
        .world
        .ipam("gone")
        .release_host_affinities("gone", false, seconds(1_000)))
    .expect("it works");
    let actors = vec![
        scene.del(&one, "n1.old"),
        scene.add(&two, "n2", "n2.a", 1_000),
    ];
    scene.play(actors, &["n1", "n2"])
}

/// An agent that was given up for dead is still at work beside its successor.
fn two_agents_of_one_node(choices: &Choices, way: Way) -> Vec<String> {
    let scene = Scene::new(choices, way, &[("p", ONE, 30)], true);
    let (old, new) = (scene.agent("n1"), scene.steady("n1"));
    let actors = vec![
        scene.add(&old, "n1", "n1.a", 1_000),
        scene.add(&new, "n1", "n1.b", 1_000),
    ];
    scene.play(actors, &["n1"])
}

const PLAYS: [(&str, Play); 12] = [
    ("two agents and one block", two_agents_and_one_block),
    (
        "an agent and Calico claim one block",
        an_agent_and_calico_claim_one_block,
    ),
    (
        "a block is taken away while it is used",
        a_block_is_taken_away_while_it_is_used,
    ),
    (
        "a stale release meets the next pod",
        a_stale_release_meets_the_next_pod,
    ),
    ("the last address is borrowed", the_last_address_is_borrowed),
    (
        "an empty block is taken over while it is used",
        an_empty_block_is_taken_over_while_it_is_used,
    ),
    ("the pool is cut anew", the_pool_is_cut_anew),
    (
        "tombstones are finished by who marked them",
        tombstones_are_finished_by_who_marked_them,
    ),
    (
        "a node that lives is released",
        a_node_that_lives_is_released,
    ),
    (
        "a block that is nobody's goes",
        a_block_that_is_nobodys_goes,
    ),
    ("two agents of one node", two_agents_of_one_node),
    ("a second block is claimed", a_second_block_is_claimed),
];

const CALM: Way = Way {
    folds: false,
    changes: 2,
    mishaps: &[],
    sabotage: Sabotage::None,
};

/// More than any play has.
const ORDERS_MAX: usize = 20_000;

#[track_caller]
fn assert_all_end_well(way: Way) {
    let mut failed = Vec::new();
    for (name, play) in PLAYS {
        match explore(ORDERS_MAX, |choices| play(choices, way)) {
            Ok(orders) => println!("{name}: {orders} orders"),
            Err(problem) => failed.push(format!("{name}: {problem}")),
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn in_every_order_of_two_actors_all_ends_well() {
    for folds in [true, false] {
        assert_all_end_well(Way { folds, ..CALM });
    }
}

#[test]
fn with_one_mishap_in_a_whole_plan_all_ends_well() {
    assert_all_end_well(Way {
        folds: true,
        changes: 1,
        mishaps: &ALL,
        ..CALM
    });
}

#[test]
fn with_one_mishap_between_any_two_steps_all_ends_well() {
    assert_all_end_well(Way {
        changes: 1,
        mishaps: &ALL,
        ..CALM
    });
}

#[test]
fn in_orders_drawn_at_random_all_ends_well() {
    for seed in 0..60 {
        for (name, play) in PLAYS {
            let way = Way {
                folds: seed % 2 == 0,
                changes: 1_000,
                mishaps: &ALL,
                ..CALM
            };
            let problems = play(&Choices::drawn(seed), way);
            assert!(problems.is_empty(), "{name}, seed {seed}: {problems:#?}");
        }
    }
}

/// The plays in which a sabotaged agent is noticed.
fn noticed(sabotage: Sabotage, way: Way) -> Vec<&'static str> {
    let way = Way { sabotage, ..way };
    let bad = |play: Play| explore(ORDERS_MAX, |choices| play(choices, way)).is_err();
    let bad = PLAYS.into_iter().filter(|(_, play)| bad(*play));
    bad.map(|(name, _)| name).collect()
}

#[test]
fn each_sabotage_is_noticed() {
    let crash = Way {
        changes: 1,
        mishaps: &[Mishap::Crash],
        ..CALM
    };
    for (sabotage, way) in [
        (Sabotage::NoComparison, CALM),
        (Sabotage::NoLook, CALM),
        (Sabotage::TombstonesKept, CALM),
        (Sabotage::HandlesLast, crash),
    ] {
        let noticed = noticed(sabotage, way);
        println!("{sabotage:?}: {noticed:?}");
        assert!(!noticed.is_empty(), "{sabotage:?}");
    }
}
