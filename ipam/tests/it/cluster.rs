//! A cluster in which everything happens at any time: nodes with agents, kernels and runtimes over one store, pods that come
//! and go, agents and machines that die, answers that are lost or late, and all looks for garbage. One seed decides.
//!
//! Time is virtual. The promises that the collection of garbage builds on are kept: an ADD ends within a grace, and so does a
//! request whose answer does not come.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use api::ipam::AllocationAttribute;
use api::key::{Key, Kind};
use bytes::Bytes;
use datastore::memory::{Fault, MemoryStore, Request};
use datastore::store::{Expect, Op, Store, StoreError};
use futures_util::future::join;
use ipam::collect::looks::{Done, Looks};
use ipam::{AssignError, AssignRequest, Ipam};
use serde_json::json;

use crate::interleave::{Comparing, Order, Slow, Task, once};
use crate::trusting::Trusting;
use crate::world::{World, request, seconds};

/// For how long something must have been of no use.
const GRACE: Duration = Duration::from_secs(900);

/// What is done wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    None,
    /// Writes are done whatever stands there.
    NoComparison,
    /// What is found twice is garbage.
    NoGrace,
    /// Neither endpoints nor devices are looked at.
    NoEvidence,
}

/// How a run is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    pub(crate) seed: u64,
    /// Whether the store does plans as a whole.
    pub(crate) folds: bool,
    /// Events and polls.
    pub(crate) moves: usize,
    pub(crate) sabotage: Sabotage,
}

/// Who has an address: what is on the network, or on its way there.
#[derive(Default)]
struct Belief {
    /// Handle → node and address.
    held: BTreeMap<String, (usize, String)>,
    problems: BTreeSet<String>,
}

/// What lives on a machine.
struct Node {
    name: String,
    /// Its own way to the store.
    client: MemoryStore,
    agent: Rc<Agent>,
    /// Handles of the pods whose devices the kernel has.
    devices: Rc<RefCell<BTreeSet<String>>>,
    is_down: bool,
    is_gone: bool,
}

/// One life of an agent.
struct Agent {
    ipam: Arc<Ipam>,
    store: Arc<dyn Store>,
    /// Away while it looks.
    looks: RefCell<Option<Looks>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pod {
    Adding,
    Up,
    /// An ADD or DEL failed, or its agent died: the runtime calls DEL again, or forgets the pod.
    Broken,
    Deleting,
}

struct Running {
    node: usize,
    task: Task<'static>,
    /// For ADDs: when it began.
    add_since: Option<u64>,
}

/// The cluster.
pub(crate) struct Cluster {
    pub(crate) world: World,
    way: Way,
    order: Order,
    clock: Rc<Cell<u64>>,
    nodes: Vec<Node>,
    /// By handle: its node and how it is.
    pods: Rc<RefCell<BTreeMap<String, (usize, Pod)>>>,
    belief: Rc<RefCell<Belief>>,
    running: Vec<Running>,
    /// Endpoints of pods that are gone: Kubernetes deletes them some time.
    to_vanish: Vec<Key>,
    pods_made: usize,
    seen_revision: Option<u64>,
}

impl Cluster {
    pub(crate) fn new(way: Way) -> Self {
        let mut order = Order::new(way.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5DEE_CE66);
        let world = World::new(&[("a", "10.0.0.0/28", 30), ("b", "10.1.0.0/30", 31)]);
        let strict = order.below(2) == 0;
        world.config(json!({"strictAffinity": strict, "autoAllocateBlocks": true}));
        world.put(
            Kind::ClusterInformation,
            "default",
            json!({"clusterGUID": "c"}),
        );
        let mut cluster = Self {
            world,
            way,
            order,
            clock: Rc::new(Cell::new(100_000)),
            nodes: Vec::new(),
            pods: Rc::default(),
            belief: Rc::default(),
            running: Vec::new(),
            to_vanish: Vec::new(),
            pods_made: 0,
            seen_revision: None,
        };
        for number in 0..3 {
            let name = format!("n{number}");
            cluster.world.put(Kind::Node, &name, json!({}));
            let client = cluster.world.store.client();
            client.set_folds(way.folds);
            cluster.fault_at_random(&client);
            let agent = Rc::new(cluster.agent(&client, &name));
            cluster.nodes.push(Node {
                name,
                client,
                agent,
                devices: Rc::default(),
                is_down: false,
                is_gone: false,
            });
        }
        cluster
    }

    fn agent(&self, client: &MemoryStore, name: &str) -> Agent {
        let comparing = match self.way.sabotage {
            Sabotage::NoComparison => Comparing::No,
            Sabotage::None | Sabotage::NoGrace | Sabotage::NoEvidence => Comparing::Yes,
        };
        let slow: Arc<dyn Store> = Arc::new(Slow::new(client, comparing));
        let grace = match self.way.sabotage {
            Sabotage::NoGrace => Duration::ZERO,
            Sabotage::None | Sabotage::NoComparison | Sabotage::NoEvidence => GRACE,
        };
        let store = match self.way.sabotage {
            Sabotage::NoEvidence => Arc::new(Trusting::new(slow)),
            Sabotage::None | Sabotage::NoGrace | Sabotage::NoComparison => slow,
        };
        let ipam = Arc::new(Ipam::new(Arc::clone(&store), name));
        let looks = RefCell::new(Some(Looks::new(Arc::clone(&ipam), grace)));
        Agent { ipam, store, looks }
    }

    /// One of thirty requests fares badly. What comes late is a write of addresses.
    fn fault_at_random(&mut self, client: &MemoryStore) {
        let seed = self.order.below(1 << 30) as u64;
        let mut order = Order::new(seed);
        client.set_fault_plan(move |request| {
            if order.below(30) > 0 {
                return None;
            }
            let is_of_addresses = match request {
                Request::Write(op) => op.key().kind != Kind::WorkloadEndpoint,
                Request::Commit(_) => true,
                _ => false,
            };
            match order.below(4) {
                0 => Some(Fault::Unavailable),
                1 => Some(Fault::LostReply),
                2 => Some(Fault::Conflict),
                _ => is_of_addresses.then_some(Fault::Late),
            }
        });
    }

    /// Lets everything happen, then lets it come to rest; answers what went wrong.
    pub(crate) fn run(mut self) -> BTreeSet<String> {
        for _ in 0..self.way.moves {
            if self.running.is_empty() || self.order.below(5) == 0 {
                self.event();
            } else {
                let index = self.order.below(self.running.len());
                self.poll(index);
            }
            self.look();
        }
        self.settle();
        let found = crate::garbage::left_over(&self.world, &self.living(), &self.believed());
        let mut belief = self.belief.borrow_mut();
        belief.problems.extend(found);
        std::mem::take(&mut belief.problems)
    }

    fn living(&self) -> BTreeSet<String> {
        let living = self.nodes.iter().filter(|node| !node.is_gone);
        living.map(|node| node.name.clone()).collect()
    }

    /// Address → handle.
    fn believed(&self) -> BTreeMap<String, String> {
        let belief = self.belief.borrow();
        let held = belief.held.iter();
        held.map(|(handle, (_, address))| (address.clone(), handle.clone()))
            .collect()
    }

    fn poll(&mut self, index: usize) {
        let mut context = Context::from_waker(Waker::noop());
        let running = &mut self.running[index];
        if running.task.as_mut().poll(&mut context).is_ready() {
            drop(self.running.swap_remove(index));
        }
    }

    /// Something begins or befalls the cluster.
    fn event(&mut self) {
        self.clock
            .set(self.clock.get() + self.order.below(10) as u64);
        let node = self.order.below(self.nodes.len());
        match self.order.below(24) {
            0..=7 => self.begin_add(node),
            8..=12 => self.begin_del(),
            13..=17 => {
                self.wait_half_a_grace();
                self.begin_look(node);
            }
            18 => self.end_agent(node),
            19 => {
                let is_down = !self.nodes[node].is_down;
                self.nodes[node].is_down = is_down;
                self.nodes[node].client.set_down(is_down);
            }
            20 => self.end_or_begin_machine(node),
            21 => self.forget_pod(),
            22 => self.vanish(),
            _ => self.world.store.deliver_late(),
        }
    }

    /// Unless an ADD would take longer than a grace. No request does.
    fn wait_half_a_grace(&self) {
        let later = self.clock.get() + GRACE.as_secs() / 2;
        let mut began = self.running.iter().filter_map(|running| running.add_since);
        if began.all(|since| later - since < GRACE.as_secs()) {
            self.world.store.deliver_late();
            self.clock.set(later);
        }
    }

    fn start(&mut self, node: usize, add_since: Option<u64>, task: Task<'static>) {
        self.running.push(Running {
            node,
            task,
            add_since,
        });
    }

    fn begin_add(&mut self, node: usize) {
        if self.nodes[node].is_gone {
            return;
        }
        let handle = format!("net.p{}", self.pods_made);
        self.pods_made += 1;
        self.pods
            .borrow_mut()
            .insert(handle.clone(), (node, Pod::Adding));
        let add = Call {
            node,
            node_name: self.nodes[node].name.clone(),
            handle,
            agent: Rc::clone(&self.nodes[node].agent),
            devices: Rc::clone(&self.nodes[node].devices),
            belief: Rc::clone(&self.belief),
            pods: Rc::clone(&self.pods),
            clock: Rc::clone(&self.clock),
        };
        let now = self.clock.get();
        self.start(node, Some(now), Box::pin(add.add()));
    }

    fn begin_del(&mut self) {
        let pods = self.pods.borrow();
        let may_go =
            |(_, (_, pod)): &(&String, &(usize, Pod))| matches!(pod, Pod::Up | Pod::Broken);
        let candidates: Vec<(String, usize)> = pods
            .iter()
            .filter(may_go)
            .map(|(handle, (node, _))| (handle.clone(), *node))
            .collect();
        drop(pods);
        if candidates.is_empty() {
            return;
        }
        let (handle, node) = candidates[self.order.below(candidates.len())].clone();
        let del = self.call_of(&handle, node);
        self.start(node, None, Box::pin(del.del()));
    }

    fn call_of(&self, handle: &str, node: usize) -> Call {
        let mut pods = self.pods.borrow_mut();
        pods.insert(handle.to_owned(), (node, Pod::Deleting));
        Call {
            node,
            node_name: self.nodes[node].name.clone(),
            handle: handle.to_owned(),
            agent: Rc::clone(&self.nodes[node].agent),
            devices: Rc::clone(&self.nodes[node].devices),
            belief: Rc::clone(&self.belief),
            pods: Rc::clone(&self.pods),
            clock: Rc::clone(&self.clock),
        }
    }

    fn begin_look(&mut self, node: usize) {
        if self.nodes[node].is_gone {
            return;
        }
        let agent = Rc::clone(&self.nodes[node].agent);
        let Some(looks) = agent.looks.borrow_mut().take() else {
            return;
        };
        let devices = Rc::clone(&self.nodes[node].devices);
        let now = self.clock.get();
        let sees_devices = self.way.sabotage != Sabotage::NoEvidence;
        let look = look(agent, looks, devices, sees_devices, now);
        self.start(node, None, Box::pin(look));
    }

    /// The process dies; another takes its place.
    fn end_agent(&mut self, node: usize) {
        self.running.retain(|running| running.node != node);
        for (of, pod) in self.pods.borrow_mut().values_mut() {
            if *of == node && matches!(pod, Pod::Adding | Pod::Deleting) {
                *pod = Pod::Broken;
            }
        }
        let (client, name) = (&self.nodes[node].client, &self.nodes[node].name);
        self.nodes[node].agent = Rc::new(self.agent(client, name));
    }

    /// The machine goes with all that is on it, and its Node; or it comes back.
    fn end_or_begin_machine(&mut self, node: usize) {
        let name = self.nodes[node].name.clone();
        if self.nodes[node].is_gone {
            self.world.put(Kind::Node, &name, json!({}));
            self.nodes[node].is_gone = false;
            return;
        }
        self.end_agent(node);
        self.nodes[node].is_gone = true;
        self.nodes[node].devices.borrow_mut().clear();
        let mut belief = self.belief.borrow_mut();
        belief.held.retain(|_, (of, _)| *of != node);
        let mut pods = self.pods.borrow_mut();
        let gone = pods.iter().filter(|(_, (of, _))| *of == node);
        let gone = gone.map(|(handle, _)| endpoint_key(&name, handle));
        self.to_vanish.extend(gone);
        pods.retain(|_, (of, _)| *of != node);
        self.world.delete(Kind::Node, &name);
    }

    /// The runtime loses sight of a pod whose ADD or DEL failed; its namespace and its device end.
    fn forget_pod(&mut self) {
        let mut pods = self.pods.borrow_mut();
        let broken = pods.iter().find(|(_, (_, pod))| *pod == Pod::Broken);
        let Some((handle, (node, _))) = broken.map(|(handle, pod)| (handle.clone(), *pod)) else {
            return;
        };
        pods.remove(&handle);
        self.nodes[node].devices.borrow_mut().remove(&handle);
        self.belief.borrow_mut().held.remove(&handle);
        let name = &self.nodes[node].name;
        self.to_vanish.push(endpoint_key(name, &handle));
    }

    /// Kubernetes deletes a Pod whose containers are gone.
    fn vanish(&mut self) {
        if let Some(key) = self.to_vanish.pop() {
            let expect = Expect::Any;
            let op = Op::Delete { key, expect };
            crate::world::now(self.world.store.write(op)).expect("unconditional");
        }
    }

    /// Who is on the network has its address in the store, and what stands there makes sense.
    fn look(&mut self) {
        let revision = self.world.store.revision();
        if self.seen_revision.replace(revision) == Some(revision) {
            return;
        }
        let stored: BTreeMap<String, String> = self.world.taken().into_iter().collect();
        let mut belief = self.belief.borrow_mut();
        let Belief { held, problems } = &mut *belief;
        for (handle, (node, address)) in held {
            match stored.get(address) {
                Some(holder) if holder == handle => {}
                holder => {
                    let problem =
                        format!("{address} is {handle}'s on n{node}, the store says {holder:?}");
                    problems.insert(problem);
                }
            }
        }
        for fault in ipam::check::faults(&self.world.store.objects()) {
            problems.insert(format!("{}: {}", fault.key, fault.what));
        }
    }

    /// All that is wrong ends, all that was begun is done, and everybody looks for garbage for as long as it takes.
    fn settle(&mut self) {
        for node in &mut self.nodes {
            node.client.set_fault_plan(|_| None);
            node.client.set_down(false);
            node.is_down = false;
        }
        if self.nodes.iter().all(|node| node.is_gone) {
            self.end_or_begin_machine(0);
        }
        self.world.store.deliver_late();
        self.run_to_the_end();
        for node in 0..self.nodes.len() {
            if self.order.below(2) == 0 {
                self.end_agent(node);
            }
        }
        let broken: Vec<(String, usize)> = self
            .pods
            .borrow()
            .iter()
            .filter(|(_, (_, pod))| *pod != Pod::Up)
            .map(|(handle, (node, _))| (handle.clone(), *node))
            .collect();
        for (handle, node) in broken {
            if self.order.below(2) == 0 {
                let del = self.call_of(&handle, node);
                self.start(node, None, Box::pin(del.del()));
            } else {
                self.forget_pod();
            }
        }
        self.run_to_the_end();
        while !self.to_vanish.is_empty() {
            self.vanish();
        }
        self.serve_one_each();
        for _ in 0..10 {
            let later = self.clock.get() + GRACE.as_secs() / 2 + 1;
            self.clock.set(later);
            for node in 0..self.nodes.len() {
                self.begin_look(node);
                self.run_to_the_end();
            }
        }
        self.look();
    }

    /// A pod comes and goes on each node: what its agent's predecessors left of claims is put right.
    fn serve_one_each(&mut self) {
        for node in 0..self.nodes.len() {
            self.begin_add(node);
            self.run_to_the_end();
            let probe = format!("net.p{}", self.pods_made - 1);
            if self.pods.borrow().contains_key(&probe) {
                let del = self.call_of(&probe, node);
                self.start(node, None, Box::pin(del.del()));
                self.run_to_the_end();
            }
        }
    }

    fn run_to_the_end(&mut self) {
        while !self.running.is_empty() {
            let index = self.order.below(self.running.len());
            self.poll(index);
            self.look();
        }
    }
}

/// A call of the plugin for one pod.
struct Call {
    node: usize,
    node_name: String,
    handle: String,
    agent: Rc<Agent>,
    devices: Rc<RefCell<BTreeSet<String>>>,
    belief: Rc<RefCell<Belief>>,
    pods: Rc<RefCell<BTreeMap<String, (usize, Pod)>>>,
    clock: Rc<Cell<u64>>,
}

/// Ends with the call: what has no device then is on no network.
struct OnItsWay<'a>(&'a Call);

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        if !self.0.devices.borrow().contains(&self.0.handle) {
            self.0.belief.borrow_mut().held.remove(&self.0.handle);
        }
    }
}

impl Call {
    fn request(&self) -> AssignRequest {
        let part = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let attributes = [
            ("pod", self.handle.as_str()),
            ("namespace", "shop"),
            ("node", self.node_name.as_str()),
        ];
        AssignRequest {
            attributes: attributes.map(part).into(),
            now: seconds(self.clock.get()),
            ..request(&self.handle)
        }
    }

    fn given(&self, address: String) {
        let mut belief = self.belief.borrow_mut();
        let Belief { held, problems } = &mut *belief;
        if let Some((other, _)) = held.iter().find(|(_, (_, of))| *of == address) {
            problems.insert(format!(
                "{address} was given to {} while {other} has it",
                self.handle
            ));
        }
        held.insert(self.handle.clone(), (self.node, address));
    }

    fn is_now(&self, pod: Option<Pod>) {
        let mut pods = self.pods.borrow_mut();
        match pod {
            Some(pod) => pods.insert(self.handle.clone(), (self.node, pod)),
            None => pods.remove(&self.handle),
        };
    }

    /// In the order of the agent: the address, the device, the endpoint; undone when it fails.
    async fn add(self) {
        let given = self.agent.ipam.assign(self.request()).await;
        let address = match given {
            Ok(given) => given.outcome.addresses[0].addr().to_string(),
            Err(AssignError::Exhausted { .. } | AssignError::BlockLimit { .. }) => {
                return self.is_now(None);
            }
            Err(AssignError::Store(StoreError::Unavailable(_))) => {
                return self.is_now(Some(Pod::Broken));
            }
            Err(other) => {
                self.belief.borrow_mut().problems.insert(other.to_string());
                return self.is_now(Some(Pod::Broken));
            }
        };
        self.given(address.clone());
        let way = OnItsWay(&self);
        the_kernel_works().await;
        self.devices.borrow_mut().insert(self.handle.clone());
        the_kernel_works().await;
        let spec = json!({
            "node": self.node_name, "orchestrator": "k8s", "endpoint": "eth0", "pod": self.handle,
            "interfaceName": "cali1", "ipNetworks": [format!("{address}/32")],
        });
        let key = endpoint_key(&self.node_name, &self.handle);
        let metadata = json!({"name": key.name, "namespace": "shop"});
        let value = json!({"kind": "WorkloadEndpoint", "metadata": metadata, "spec": spec});
        let put = Op::Put {
            key,
            value: Bytes::from(value.to_string()),
            expect: Expect::Absent,
        };
        if self.agent.store.write(put).await.is_ok() {
            return self.is_now(Some(Pod::Up));
        }
        self.devices.borrow_mut().remove(&self.handle);
        drop(way);
        self.is_now(Some(Pod::Broken));
        if self.delete_endpoint().await.is_ok() {
            // It is tried; the runtime's DEL is what counts.
            let _ = self.release().await;
        }
    }

    async fn del(self) {
        self.devices.borrow_mut().remove(&self.handle);
        self.belief.borrow_mut().held.remove(&self.handle);
        let handles = [self.handle.clone()];
        let (deleted, held) = join(self.delete_endpoint(), self.agent.ipam.held(&handles)).await;
        let (Ok(()), Ok(mut held)) = (deleted, held) else {
            return self.is_now(Some(Pod::Broken));
        };
        let looks = [(self.handle.clone(), held.pop().unwrap_or_default())];
        let now = seconds(self.clock.get());
        match self.agent.ipam.release_held(&looks, now).await {
            Ok(_) => self.is_now(None),
            Err(_) => self.is_now(Some(Pod::Broken)),
        }
    }

    async fn release(&self) -> Result<(), AssignError> {
        let handles = [self.handle.clone()];
        let held = self.agent.ipam.held(&handles).await?.pop();
        let looks = [(self.handle.clone(), held.unwrap_or_default())];
        let now = seconds(self.clock.get());
        self.agent.ipam.release_held(&looks, now).await?;
        Ok(())
    }

    async fn delete_endpoint(&self) -> Result<(), StoreError> {
        let delete = Op::Delete {
            key: endpoint_key(&self.node_name, &self.handle),
            expect: Expect::Any,
        };
        self.agent.store.write(delete).await?;
        Ok(())
    }
}

/// Others go on meanwhile.
async fn the_kernel_works() {
    for _ in 0..12 {
        once().await;
    }
}

fn endpoint_key(node: &str, handle: &str) -> Key {
    let name = format!("{node}-k8s-{handle}-eth0");
    Key::namespaced(Kind::WorkloadEndpoint, "shop", name)
}

/// Both looks of an agent.
async fn look(
    agent: Rc<Agent>,
    mut looks: Looks,
    devices: Rc<RefCell<BTreeSet<String>>>,
    sees_devices: bool,
    now: u64,
) {
    let now = seconds(now);
    let devices = async {
        once().await;
        let known = devices.borrow().clone();
        Ok::<_, Infallible>(move |held: &AllocationAttribute| {
            let handle = held.handle_id.as_deref().unwrap_or_default();
            sees_devices && known.contains(handle)
        })
    };
    // What is not answered is looked at the next time.
    let _ = looks.at_own(devices, now, &mut Done::default()).await;
    match looks.is_elected(now).await {
        Ok(true) => {
            let _ = looks.at_cluster(now, &mut Done::default()).await;
        }
        Ok(false) => looks.forget_cluster(),
        Err(_) => {}
    }
    *agent.looks.borrow_mut() = Some(looks);
}
