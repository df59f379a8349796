//! The cluster: nodes, their store, the network between them, one clock.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::attachment::{AttachmentId, FIRST_INTERFACE};
use api::endpoint::{WorkloadEndpoint, WorkloadEndpointSpec, endpoint_name};
use api::key::{Key, Kind};
use api::object::Object;
use api::pool::AllowedUse;
use bgp::action::Action;
use bgp::types::ConnId;
use datastore::memory::MemoryStore;
use datastore::store::{Expect, Op, Store};
use felix::desired::IfName;
use ipam::{AssignRequest, Ipam, Timestamp, Wanted};
use ipnet::IpNet;

use crate::executor;
use crate::kernel::Kernel;
use crate::net::{Arrival, End, Network, NodeIndex};
use crate::node::{Agent, Node, Pod, Start};
use crate::rng::Rng;

/// Rounds without an end mean that two machines answer each other for ever.
const ROUNDS_MAX: u32 = 10_000;

/// A cluster under virtual time.
pub struct World {
    /// Virtual now.
    pub now: Instant,
    /// The store's own side: never struck by a node's faults.
    pub store: MemoryStore,
    /// Network.
    pub net: Network,
    /// Nodes.
    pub nodes: Vec<Node>,
    /// Chance.
    pub rng: Rng,
    store_seen: u64,
}

impl World {
    /// An empty cluster. `epoch` is any instant: all times are relative to it.
    pub fn new(seed: u64, epoch: Instant) -> Self {
        let mut rng = Rng::new(seed);
        Self {
            now: epoch,
            store: MemoryStore::new(),
            net: Network::new(rng.next()),
            nodes: Vec::new(),
            rng,
            store_seen: 0,
        }
    }

    /// Writes an object, as an operator would.
    pub fn apply(&mut self, object: &Object) {
        let put = Op::Put {
            key: object.key(),
            value: object.encode().into(),
            expect: Expect::Any,
        };
        executor::run(self.store.write(put)).expect("the store's own side has no faults");
    }

    /// A node joins: it writes its Node object and starts its agent.
    pub fn add_node(
        &mut self,
        name: &str,
        address: &str,
        tunnel_addr: Option<IpAddr>,
    ) -> NodeIndex {
        let address: IpNet = address.parse().expect("a literal of the scenario");
        self.apply(&node_object(name, address, tunnel_addr));
        self.join(name, address)
    }

    /// A node's object names this address of its tunnel device, as the agent's Keeper writes it.
    pub fn name_tunnel(&mut self, index: NodeIndex, tunnel_addr: Option<IpAddr>) {
        let node = &self.nodes[index];
        self.apply(&node_object(&node.name, node.address, tunnel_addr));
    }

    /// A route reflector joins: a node with a cluster ID and the label `route-reflector`.
    pub fn add_reflector(&mut self, name: &str, address: &str, cluster_id: Ipv4Addr) -> NodeIndex {
        let address: IpNet = address.parse().expect("a literal of the scenario");
        let mut object = node_object(name, address, None);
        if let Object::Node(node) = &mut object {
            let label = ("route-reflector".to_owned(), "true".to_owned());
            node.metadata.labels.extend([label]);
            if let Some(bgp) = &mut node.spec.bgp {
                bgp.route_reflector_cluster_id = Some(cluster_id);
            }
        }
        self.apply(&object);
        self.join(name, address)
    }

    /// Starts the agent of a node that the store knows.
    fn join(&mut self, name: &str, address: IpNet) -> NodeIndex {
        let kernel = Kernel::new("eth0", address);
        let store = self.store.client();
        // Nodes of both kinds live in one cluster.
        store.set_folds(self.rng.below(2) == 0);
        self.nodes.push(Node {
            name: name.to_owned(),
            address,
            ipam: Ipam::new(Arc::new(store.clone()), name),
            store,
            kernel,
            pods: std::collections::BTreeMap::new(),
            agent: None,
            lost: false,
            accepted: 0,
            events: Vec::new(),
            awake: true,
            deadline: None,
        });
        let index = self.nodes.len() - 1;
        self.start_agent(index, Start::Fresh);
        index
    }

    /// Starts a node's agent.
    pub fn start_agent(&mut self, index: NodeIndex, start: Start) {
        let seed = self.rng.next();
        let node = &mut self.nodes[index];
        node.ipam = Ipam::new(Arc::new(node.store.clone()), node.name.clone());
        node.awake = true;
        node.agent = Some(Agent::start(
            self.now,
            seed,
            &node.name,
            &mut node.kernel,
            start,
        ));
        self.settle();
    }

    /// Kills a node's agent: its connections end, its kernel stays as it is. What it asked of the store is done by the time
    /// that its successor runs.
    pub fn kill_agent(&mut self, index: NodeIndex) {
        self.store.deliver_late();
        self.nodes[index].agent = None;
        self.nodes[index].deadline = None;
        self.net.close_all(self.now, index);
    }

    /// A pod is made on a node, as CNI ADD makes it. Answers its address.
    pub fn add_pod(&mut self, index: NodeIndex, pod: &str) -> Result<IpNet, ipam::AssignError> {
        let node = &self.nodes[index];
        let assigned = executor::run(node.ipam.assign(request(&node.name, pod)))?;
        let address = assigned.outcome.addresses[0];
        self.attach(index, pod, address);
        Ok(address)
    }

    /// The rest of an ADD once the address is known.
    pub fn attach(&mut self, index: NodeIndex, pod: &str, address: IpNet) {
        let ifname =
            attachment(&self.nodes[index].name, pod).pod_interface_name("cali", "default", pod);
        let endpoint = endpoint(&self.nodes[index].name, pod, &ifname, address);
        let object = Object::WorkloadEndpoint(endpoint);
        self.apply(&object);
        let node = &mut self.nodes[index];
        node.kernel.add_link(&ifname, Some("veth"));
        let ifname = IfName::from(ifname.as_str());
        node.pods.insert(pod.to_owned(), Pod { address, ifname });
        if let Some(agent) = &mut node.agent {
            node.awake = true;
            agent.echo(&object.key(), Some(&object));
        }
        self.settle();
    }

    /// A pod goes from a node, as CNI DEL removes it: its device and endpoint, and then its address.
    pub fn remove_pod(&mut self, index: NodeIndex, pod: &str) -> Result<(), ipam::AssignError> {
        let node = &self.nodes[index];
        let handle = attachment(&node.name, pod).handle_id();
        let key = endpoint_key(&node.name, pod);
        self.remove(&key);
        let node = &mut self.nodes[index];
        if let Some(pod) = node.pods.remove(pod) {
            node.kernel.remove_link(&pod.ifname.0);
        }
        if let Some(agent) = &mut node.agent {
            node.awake = true;
            agent.echo(&key, None);
        }
        self.settle();
        // The rules keep no released address: the time does not matter.
        let ipam = &self.nodes[index].ipam;
        let released = executor::run(ipam.release_by_handle(&handle, ipam::Timestamp::default()));
        released.map(drop)
    }

    /// Deletes an object, as an operator would; nothing when it is not there.
    pub fn remove(&mut self, key: &Key) {
        let delete = Op::Delete {
            key: key.clone(),
            expect: Expect::Any,
        };
        // Refused when it is gone already.
        let _ = executor::run(self.store.write(delete));
    }

    /// A machine is lost for good with its pods, and its operator deletes its Node and their endpoints.
    pub fn lose_node(&mut self, index: NodeIndex) {
        self.kill_agent(index);
        self.isolate(index);
        let node = &mut self.nodes[index];
        node.lost = true;
        let name = node.name.clone();
        for pod in std::mem::take(&mut node.pods).into_keys() {
            self.remove(&endpoint_key(&name, &pod));
        }
        self.remove(&Key::new(Kind::Node, &name));
        self.settle();
    }

    /// Does all that can be done at this instant.
    pub fn settle(&mut self) {
        if self.store_seen != self.store.revision() {
            self.store_seen = self.store.revision();
            self.nodes.iter_mut().for_each(|node| node.awake = true);
        }
        for _ in 0..ROUNDS_MAX {
            let mut moved = false;
            while let Some((to, arrival)) = self.net.arrive(self.now) {
                moved = true;
                self.nodes[to].awake = true;
                self.arrive(to, arrival);
            }
            for index in 0..self.nodes.len() {
                let due = self.nodes[index].deadline.is_some_and(|at| at <= self.now);
                if self.nodes[index].awake || due {
                    let more = self.turn(index);
                    moved |= more;
                    let node = &mut self.nodes[index];
                    node.awake = more;
                    node.deadline = node.agent.as_ref().and_then(Agent::deadline);
                }
            }
            if !moved {
                return;
            }
        }
        panic!("the machines do not come to rest at one instant");
    }

    fn turn(&mut self, index: NodeIndex) -> bool {
        let now = self.now;
        let node = &mut self.nodes[index];
        let Some(agent) = &mut node.agent else {
            return false;
        };
        let mut moved = agent.read_store(now, &node.store);
        if agent.deadline().is_some_and(|at| at <= now) {
            moved = true;
            agent.speaker.handle_timeout(now);
            agent.reconciler.handle_timeout(now);
        }
        moved |= agent.turn(now, &mut node.kernel, &mut node.events);
        while let Some((conn, bytes)) = self.nodes[index]
            .agent
            .as_mut()
            .and_then(|a| a.poll_bytes(now))
        {
            moved |= !bytes.is_empty();
            self.net.send(now, End { node: index, conn }, &bytes);
        }
        while let Some(action) = self.nodes[index]
            .agent
            .as_mut()
            .and_then(Agent::poll_action)
        {
            moved = true;
            self.act(index, action);
        }
        moved
    }

    fn act(&mut self, index: NodeIndex, action: Action) {
        let now = self.now;
        match action {
            Action::Connect(request) => {
                let from = End {
                    node: index,
                    conn: request.conn,
                };
                let local = SocketAddr::new(self.nodes[index].address.addr(), 40_000);
                let to = self.node_at(request.remote.ip());
                match to.filter(|to| self.nodes[*to].agent.is_some()) {
                    Some(to) => self.net.connect(now, from, to, request.remote, local),
                    None => self.net.refuse(now, index, from),
                }
            }
            Action::Close { conn, farewell } => {
                let end = End { node: index, conn };
                self.net.send(now, end, &farewell);
                self.net.close(now, end);
            }
        }
    }

    fn arrive(&mut self, to: NodeIndex, arrival: Arrival) {
        let now = self.now;
        let node = &mut self.nodes[to];
        match (arrival, &mut node.agent) {
            (
                Arrival::Syn {
                    from,
                    remote,
                    local,
                },
                agent,
            ) => {
                if !self.net.is_connecting(from) {
                    return;
                }
                node.accepted += 1;
                let conn = ConnId::incoming(node.accepted);
                // What the connecting side calls local is remote here.
                match agent
                    .as_mut()
                    .map(|agent| agent.speaker.handle_accepted(now, conn, local, remote))
                {
                    Some(Ok(())) => self.net.accept(now, from, End { node: to, conn }),
                    Some(Err(_)) | None => self.net.refuse(now, to, from),
                }
            }
            (_, None) => {}
            (Arrival::Connected { at }, Some(agent)) => {
                let local = SocketAddr::new(node.address.addr(), 40_000);
                agent.speaker.handle_connected(now, at.conn, local);
            }
            (Arrival::Refused { at }, Some(agent)) => {
                agent
                    .speaker
                    .handle_connect_failed(now, at.conn, "connection refused");
            }
            (Arrival::Data { at, bytes }, Some(agent)) => {
                agent.speaker.handle_bytes(now, at.conn, &bytes);
            }
            (Arrival::Fin { at }, Some(agent)) => agent.speaker.handle_closed(now, at.conn),
        }
    }

    /// The node that owns an address of the rack.
    pub fn node_at(&self, address: IpAddr) -> Option<NodeIndex> {
        self.nodes
            .iter()
            .position(|node| node.address.addr() == address)
    }

    /// Lets this much time pass, stopping at every arrival and deadline.
    pub fn run_for(&mut self, time: Duration) {
        self.run_while(self.now + time, |_| true);
    }

    /// Runs until `done`, at most this long. Whether it was done.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + limit;
        self.run_while(end, |world| !done(world));
        done(self)
    }

    fn run_while(&mut self, end: Instant, mut go_on: impl FnMut(&Self) -> bool) {
        self.settle();
        while go_on(self) {
            let deadlines = self
                .nodes
                .iter()
                .filter_map(|node| node.agent.as_ref()?.deadline());
            let next = deadlines.chain(self.net.next_arrival()).min();
            let Some(next) = next.filter(|next| *next <= end) else {
                self.now = end;
                return;
            };
            self.now = next.max(self.now);
            self.store.step();
            self.settle();
        }
    }

    /// Cuts a node off from all others.
    pub fn isolate(&mut self, index: NodeIndex) {
        for other in (0..self.nodes.len()).filter(|other| *other != index) {
            self.net.block(index, other);
        }
    }

    /// Joins it to them again.
    pub fn rejoin(&mut self, index: NodeIndex) {
        let now = self.now;
        for other in (0..self.nodes.len()).filter(|other| *other != index) {
            self.net.unblock(now, index, other);
        }
    }
}

/// What a pod asks of `ipam`.
pub fn request(node: &str, pod: &str) -> AssignRequest {
    AssignRequest {
        node_labels: std::collections::BTreeMap::new(),
        namespace_labels: None,
        handle_id: attachment(node, pod).handle_id(),
        attributes: std::collections::BTreeMap::new(),
        allowed_use: AllowedUse::Workload,
        wanted: Wanted::Any {
            ipv4: 1,
            ipv6: 0,
            pools: Vec::new(),
        },
        now: Timestamp::from_unix(Duration::from_secs(1_800_000_000)),
    }
}

fn node_object(name: &str, address: IpNet, tunnel_addr: Option<IpAddr>) -> Object {
    let key = Key::new(Kind::Node, name);
    let mut node = api::node::Node::new(&key, api::node::NodeSpec::default());
    node.spec.bgp = Some(api::node::NodeBGPSpec {
        ipv4_address: Some(address),
        ..Default::default()
    });
    node.spec.ipv4_vxlan_tunnel_addr = tunnel_addr.and_then(|addr| match addr {
        IpAddr::V4(addr) => Some(addr),
        IpAddr::V6(_) => None,
    });
    Object::Node(node)
}

fn endpoint(node: &str, pod: &str, ifname: &str, address: IpNet) -> WorkloadEndpoint {
    let spec = WorkloadEndpointSpec {
        orchestrator: "k8s".to_owned(),
        node: node.to_owned(),
        pod: pod.to_owned(),
        ip_networks: vec![address],
        interface_name: ifname.to_owned(),
        mac: "02:00:00:00:00:01".to_owned(),
        ..Default::default()
    };
    let mut endpoint = WorkloadEndpoint::new(&endpoint_key(node, pod), spec);
    endpoint.set_attachment(&attachment(node, pod));
    endpoint
}

/// The first interface of a pod: its container is named by node and pod.
fn attachment(node: &str, pod: &str) -> AttachmentId {
    AttachmentId {
        network: "k8s-pod-network".to_owned(),
        container_id: format!("{node}-{pod}"),
        ifname: FIRST_INTERFACE.to_owned(),
    }
}

/// The key of a pod's endpoint.
pub fn endpoint_key(node: &str, pod: &str) -> Key {
    Key::namespaced(
        Kind::WorkloadEndpoint,
        "default",
        endpoint_name(node, "k8s", pod, "eth0"),
    )
}
