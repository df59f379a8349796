//! Random calls for attachments whose names come close to each other, over a store in memory: each leaves exactly what it
//! is about, and what no agent finished is collected by the GC of its own network.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::attachment::AttachmentId;
use api::key::Kind;
use api::object::Object;
use api::pool::{IPPool, IPPoolSpec};
use proptest::prelude::*;

use super::*;

const NETWORKS: [&str; 3] = ["a", "a.b", "B"];
const CONTAINERS: [&str; 4] = ["c", "b.c", "C", "web"];
const INTERFACES: [&str; 2] = ["eth0", "net1"];

#[derive(Clone, Debug)]
enum Step {
    Add(usize),
    /// The agent dies when the address is written.
    AddHalf(usize),
    Del(usize),
    /// GC of a network; the runtime names what it knows of the attachments that have this bit.
    Gc(usize, u32),
}

fn step() -> impl Strategy<Value = Step> {
    let attachments = NETWORKS.len() * CONTAINERS.len() * INTERFACES.len();
    prop_oneof![
        4 => (0..attachments).prop_map(Step::Add),
        1 => (0..attachments).prop_map(Step::AddHalf),
        3 => (0..attachments).prop_map(Step::Del),
        2 => (0..NETWORKS.len(), any::<u32>()).prop_map(|(network, bits)| Step::Gc(network, bits)),
    ]
}

fn all() -> Vec<AttachmentId> {
    let mut all = Vec::new();
    for network in NETWORKS {
        for container_id in CONTAINERS {
            for ifname in INTERFACES {
                all.push(AttachmentId {
                    network: network.to_owned(),
                    container_id: container_id.to_owned(),
                    ifname: ifname.to_owned(),
                });
            }
        }
    }
    all
}

/// A call about an attachment; the container `web` is a pod's.
fn call(command: &str, of: &AttachmentId) -> Request {
    let mut json = serde_json::json!({
        "command": command,
        "network": of.network,
        "container_id": of.container_id,
        "ifname": of.ifname,
    });
    if of.container_id == "web" {
        json["pod"] = serde_json::json!({"namespace": "default", "name": "web"});
    }
    serde_json::from_value(json).unwrap()
}

/// What there should be: the address of each attachment, and whether it has an endpoint.
type Model = BTreeMap<AttachmentId, (IpAddr, bool)>;

struct World {
    pods: Pods,
    store: Arc<MemoryStore>,
    model: Model,
    _view: watch::Sender<CalcView>,
}

impl World {
    async fn new() -> Self {
        let (mut pods, view, store) = starting();
        // No device of the machine that runs the test begins like this.
        pods.interface_prefix = "zz-t".to_owned();
        view.send_modify(|view| view.in_sync = true);
        let spec = IPPoolSpec {
            cidr: "10.0.0.0/24".parse().unwrap(),
            ..serde_json::from_value(serde_json::json!({"cidr": "10.0.0.0/24"})).unwrap()
        };
        let pool = IPPool::new(&Key::new(Kind::IPPool, "pool"), spec);
        let pool = Object::IPPool(pool);
        crate::startup::objects::create(&*store, pool)
            .await
            .unwrap();
        Self {
            pods,
            store,
            model: Model::new(),
            _view: view,
        }
    }

    /// Whether another network has given the container this interface: the kernel would refuse it.
    fn is_taken(&self, of: &AttachmentId) -> bool {
        let same = |other: &AttachmentId| {
            (&other.container_id, &other.ifname) == (&of.container_id, &of.ifname)
                && other.network != of.network
        };
        self.model
            .iter()
            .any(|(other, (_, has_endpoint))| *has_endpoint && same(other))
    }

    async fn take(&mut self, step: &Step) {
        let all = all();
        match step {
            Step::Add(index) if !self.is_taken(&all[*index]) => self.add(&all[*index], true).await,
            Step::AddHalf(index) if !self.is_taken(&all[*index]) => {
                self.add(&all[*index], false).await;
            }
            Step::Add(_) | Step::AddHalf(_) => {}
            Step::Del(index) => {
                self.pods.del(&call("DEL", &all[*index])).await.unwrap();
                self.model.remove(&all[*index]);
            }
            Step::Gc(network, bits) => {
                let network = NETWORKS[*network];
                let keeps = |of: &AttachmentId| {
                    let at = all.iter().position(|other| other == of).unwrap();
                    of.network != network || bits & (1 << at) != 0
                };
                let mut request = call("GC", &all[0]);
                request.network = network.to_owned();
                request.valid_attachments = all
                    .iter()
                    .filter(|of| of.network == network && keeps(of))
                    .map(|of| cni::protocol::Attachment {
                        container_id: of.container_id.clone(),
                        ifname: of.ifname.clone(),
                    })
                    .collect();
                self.pods.gc(&request).await.unwrap();
                let kept_by_container = |of: &AttachmentId| {
                    // Without an endpoint a handle of Calico's form does not say of which interface it is.
                    of.handle_id() == of.calicos_handle_id()
                        && all.iter().any(|other| {
                            other.network == of.network
                                && other.container_id == of.container_id
                                && keeps(other)
                        })
                };
                self.model.retain(|of, (_, has_endpoint)| {
                    keeps(of) || (!*has_endpoint && kept_by_container(of))
                });
            }
        }
        self.compare().await;
    }

    async fn add(&mut self, of: &AttachmentId, has_endpoint: bool) {
        let request = call("ADD", of);
        let identity = self.pods.identify(&request).unwrap();
        let assignment = self.pods.assign(&request, &identity, &None).await.unwrap();
        let address = assignment.addresses[0].addr();
        let has_endpoint = has_endpoint
            || self
                .model
                .get(of)
                .is_some_and(|(_, has_endpoint)| *has_endpoint);
        if has_endpoint {
            let mac = felix::desired::Mac([2; 6]);
            let object = identity.endpoint("n1", &assignment.addresses, mac);
            let standing = self.pods.standing(&identity).await.unwrap();
            self.pods.write_endpoint(object, standing).await.unwrap();
        }
        if let Some((before, _)) = self.model.insert(of.clone(), (address, has_endpoint)) {
            assert_eq!(before, address, "the same attachment has the same address");
        }
        let addresses: BTreeSet<IpAddr> = self.model.values().map(|(addr, _)| *addr).collect();
        assert_eq!(
            addresses.len(),
            self.model.len(),
            "one address, one attachment"
        );
    }

    /// The store has what the model has, and nothing else.
    async fn compare(&self) {
        let (mut endpoints, mut held, mut handles) =
            (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        for item in self.store.objects() {
            match Object::decode(&item.key, &item.value).unwrap() {
                Object::WorkloadEndpoint(endpoint) => {
                    let addr = endpoint.spec.ip_networks[0].addr();
                    endpoints.insert(addr, endpoint.handle_id().unwrap().to_owned());
                }
                Object::IPAMBlock(block) => {
                    for ordinal in 0..block.spec.allocations.len() {
                        if let Some(holder) = ipam::block::holder(&block.spec, ordinal) {
                            let addr = ipam::block::address(block.spec.cidr, ordinal).unwrap();
                            held.insert(addr.addr(), holder.handle_id.clone().unwrap());
                        }
                    }
                }
                Object::IPAMHandle(handle) => {
                    handles.insert(handle.spec.handle_id);
                }
                _ => {}
            }
        }
        let expected = |with_endpoint: bool| -> BTreeMap<IpAddr, String> {
            self.model
                .iter()
                .filter(|(_, (_, has_endpoint))| *has_endpoint || !with_endpoint)
                .map(|(of, (addr, _))| (*addr, of.handle_id()))
                .collect()
        };
        assert_eq!(endpoints, expected(true), "endpoints");
        assert_eq!(held, expected(false), "addresses");
        assert_eq!(handles, expected(false).into_values().collect(), "handles");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn each_call_is_about_its_own_attachment_only(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            for step in &steps {
                world.take(step).await;
            }
            for network in 0..NETWORKS.len() {
                world.take(&Step::Gc(network, 0)).await;
            }
            assert!(world.model.is_empty(), "nothing leaks: {:?}", world.model);
        });
    }
}
