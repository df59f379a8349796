//! Who a request is about: names, and the endpoint's object.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::attachment::AttachmentId;
use api::endpoint::{WorkloadEndpoint, WorkloadEndpointSpec, endpoint_name};
use api::key::{Key, Kind};
use api::object::Object;
use cni::protocol::{Pod, Request};
use datastore::store::KeyValue;
use felix::desired::{IfName, Mac};
use felix_io::workload::{PodNetwork, Routing};
use ipnet::IpNet;

use super::lend;

/// Names of what an ADD makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// What the runtime calls it by.
    pub(super) attachment: AttachmentId,
    /// The endpoint.
    pub(super) key: Key,
    /// Host side device.
    pub(super) host_ifname: IfName,
    pod: Option<Pod>,
    /// The plugin that connects it, where it is not ours.
    plugin: Option<String>,
}

impl Identity {
    /// From the runtime's request.
    pub(super) fn new(node: &str, interface_prefix: &str, request: &Request) -> Self {
        let attachment = request.attachment();
        let (namespace, workload, host_ifname) = match &request.pod {
            Some(pod) => (
                pod.namespace.as_str(),
                pod.name.as_str(),
                attachment.pod_interface_name(interface_prefix, &pod.namespace, &pod.name),
            ),
            None => (
                "default",
                request.container_id.as_str(),
                attachment.container_interface_name(interface_prefix),
            ),
        };
        let name = endpoint_name(node, request.orchestrator(), workload, &request.ifname);
        Self {
            key: Key::namespaced(Kind::WorkloadEndpoint, namespace, name),
            host_ifname: IfName::from(host_ifname.as_str()),
            pod: request.pod.clone(),
            plugin: Some(request.plugin.clone()).filter(|plugin| !plugin.is_empty()),
            attachment,
        }
    }

    /// Whether nothing but the container's id names it.
    pub(super) const fn is_outside_kubernetes(&self) -> bool {
        self.pod.is_none()
    }

    /// UID of its Pod; empty where the runtime does not say it.
    pub(super) fn pod_uid(&self) -> &str {
        let pod = self.pod.as_ref();
        pod.and_then(|pod| pod.uid.as_deref()).unwrap_or_default()
    }

    /// A MAC for the pod's end that follows from the attachment, so that the endpoint can be written before the device is made: unicast,
    /// locally administered (IEEE 802, clause 8.4).
    pub(super) fn pod_mac(&self) -> Mac {
        // FNV-1a.
        let path = self.attachment.path();
        let hash = path.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let [a, b, c, d, e, f, g, h] = hash.to_be_bytes();
        Mac([(a ^ g) & 0xfe | 0x02, b ^ h, c, d, e, f])
    }

    /// What is configured inside the pod.
    pub(super) fn network(&self, addresses: Vec<IpAddr>) -> PodNetwork {
        PodNetwork {
            routing: if self.attachment.is_first() {
                Routing::Main
            } else {
                Routing::BySource
            },
            ..PodNetwork::new(addresses)
        }
    }

    /// What IPAM notes about the address. `pod` and `namespace` only for the addresses that Kubernetes knows:
    /// calico-kube-controllers frees one that it does not find among its pod's. Parts that the handle does not tell apart
    /// stand beside it.
    pub(super) fn attributes(&self, node: &str) -> BTreeMap<String, String> {
        if let Some(plugin) = &self.plugin {
            return lend::attributes(node, &self.attachment, plugin);
        }
        let mut attributes = BTreeMap::from([("node".to_owned(), node.to_owned())]);
        let attachment = &self.attachment;
        if let Some(pod) = self.pod.as_ref().filter(|_| attachment.is_first()) {
            attributes.insert("pod".to_owned(), pod.name.clone());
            attributes.insert("namespace".to_owned(), pod.namespace.clone());
        }
        attributes.extend(attributes_beside_handle(attachment));
        attributes
    }

    /// The endpoint's object.
    pub(super) fn endpoint(&self, node: &str, addresses: &[IpNet], pod_mac: Mac) -> Object {
        let orchestrator = if self.pod.is_some() { "k8s" } else { "cni" };
        let workload = match &self.pod {
            Some(_) => String::new(),
            None => self.attachment.container_id.clone(),
        };
        let profiles = match &self.pod {
            Some(pod) => vec![format!("kns.{}", pod.namespace)],
            None => Vec::new(),
        };
        let mut labels = BTreeMap::from([
            (
                "projectcalico.org/namespace".to_owned(),
                self.key.namespace.clone(),
            ),
            (
                "projectcalico.org/orchestrator".to_owned(),
                orchestrator.to_owned(),
            ),
        ]);
        labels.retain(|_, value| value.len() < 64);
        let spec = WorkloadEndpointSpec {
            orchestrator: orchestrator.to_owned(),
            workload,
            node: node.to_owned(),
            pod: self
                .pod
                .as_ref()
                .map_or_else(String::new, |pod| pod.name.clone()),
            ip_networks: addresses
                .iter()
                .map(|net| IpNet::from(net.addr()))
                .collect(),
            profiles,
            interface_name: self.host_ifname.to_string(),
            mac: pod_mac.to_string(),
            ..WorkloadEndpointSpec::default()
        };
        let mut endpoint = WorkloadEndpoint::new(&self.key, spec);
        endpoint.set_attachment(&self.attachment);
        endpoint.metadata.labels = labels;
        endpoint.metadata.uid = self.pod.as_ref().and_then(|pod| pod.uid.clone());
        Object::WorkloadEndpoint(endpoint)
    }
}

// Attributes of an allocation that say what its handle does not.
pub(super) const NETWORK: &str = "network";
pub(super) const CONTAINER: &str = "containerID";
pub(super) const INTERFACE: &str = "interface";

/// What is noted about an attachment's address because its handle does not say it.
pub(crate) fn attributes_beside_handle(attachment: &AttachmentId) -> BTreeMap<String, String> {
    if attachment.handle_id() == attachment.calicos_handle_id() {
        return BTreeMap::new();
    }
    let parts = [
        (NETWORK, &attachment.network),
        (CONTAINER, &attachment.container_id),
        (INTERFACE, &attachment.ifname),
    ];
    let owned = |(name, value): (&str, &String)| (name.to_owned(), value.clone());
    parts.map(owned).into()
}

/// An endpoint in the store.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// As it was read: what a delete compares with.
    pub(super) stored: KeyValue,
    endpoint: WorkloadEndpoint,
}

impl Record {
    /// `None` when it is no endpoint that can be read.
    pub(super) fn read(stored: KeyValue) -> Option<Self> {
        match Object::decode(&stored.key, &stored.value) {
            Ok(Object::WorkloadEndpoint(endpoint)) => Some(Self { stored, endpoint }),
            Ok(_) | Err(_) => None,
        }
    }

    /// Its key.
    pub(super) const fn key(&self) -> &Key {
        &self.stored.key
    }

    /// Whether it is an endpoint of this node.
    pub(super) fn is_on(&self, node: &str) -> bool {
        self.endpoint.spec.node == node
    }

    /// Whether it is this attachment's.
    pub(super) fn is_of(&self, attachment: &AttachmentId) -> bool {
        self.endpoint.is_of(attachment)
    }

    /// Whether it does not say whose it is: then its name decides.
    pub(super) const fn names_no_container(&self) -> bool {
        self.endpoint.spec.container_id.is_empty()
    }

    /// Whether it is of the same container's interface, whatever the network.
    pub(super) fn is_of_interface(&self, attachment: &AttachmentId) -> bool {
        let spec = &self.endpoint.spec;
        spec.container_id == attachment.container_id && spec.endpoint == attachment.ifname
    }

    /// Whether it is of the attachment that `other` is of.
    pub(super) fn is_same_attachment(&self, other: &Self) -> bool {
        let of = |record: &Self| {
            let spec = &record.endpoint.spec;
            (
                record.network().map(str::to_owned),
                spec.container_id.clone(),
                spec.endpoint.clone(),
            )
        };
        of(self) == of(other)
    }

    /// Name of its network; `None` when Calico wrote it.
    pub(super) fn network(&self) -> Option<&str> {
        self.endpoint.network()
    }

    /// What it is, as part of `network`.
    pub(super) fn attachment_in(&self, network: &str) -> AttachmentId {
        AttachmentId {
            network: network.to_owned(),
            container_id: self.endpoint.spec.container_id.clone(),
            ifname: self.endpoint.spec.endpoint.clone(),
        }
    }

    /// The handle of its addresses, as part of `network`.
    pub(super) fn handle_id(&self, network: &str) -> String {
        match self.endpoint.handle_id() {
            Some(handle) => handle.to_owned(),
            None => self.attachment_in(network).calicos_handle_id(),
        }
    }

    /// Host side device.
    pub(super) fn host_ifname(&self) -> IfName {
        IfName::from(self.endpoint.spec.interface_name.as_str())
    }

    /// Its addresses.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        let networks = &self.endpoint.spec.ip_networks;
        networks.iter().map(IpNet::addr).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(pod: Option<(&str, &str)>, network: &str, ifname: &str) -> Request {
        let mut json = serde_json::json!({
            "command": "ADD",
            "cni_version": "1.0.0",
            "network": network,
            "container_id": "0123456789abcdef",
            "ifname": ifname,
        });
        if let Some((namespace, name)) = pod {
            json["pod"] = serde_json::json!({"namespace": namespace, "name": name});
        }
        serde_json::from_value(json).unwrap()
    }

    fn identity(pod: Option<(&str, &str)>, network: &str, ifname: &str) -> Identity {
        Identity::new("n1", "cali", &request(pod, network, ifname))
    }

    fn record(identity: &Identity) -> Record {
        let object = identity.endpoint("n1", &["10.0.0.1/26".parse().unwrap()], Mac([2; 6]));
        Record::read(KeyValue {
            key: object.key(),
            value: object.encode().into(),
            version: 1.into(),
        })
        .unwrap()
    }

    const WEB: Option<(&str, &str)> = Some(("default", "web-0"));

    #[test]
    fn kubernetes_pod_is_named_as_calico_names_it() {
        let identity = identity(WEB, "k8s-pod-network", "eth0");
        let endpoint = Key::namespaced(Kind::WorkloadEndpoint, "default", "n1-k8s-web--0-eth0");
        assert_eq!(identity.key, endpoint);
        assert_eq!(identity.host_ifname, IfName::from("cali0d7763386da"));
        let attributes = [("namespace", "default"), ("node", "n1"), ("pod", "web-0")];
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        assert_eq!(identity.attributes("n1"), attributes.map(owned).into());
    }

    #[test]
    fn an_attachments_mac_is_its_own_a_unicast_one_and_always_the_same() {
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..1000 {
            let mut request = request(WEB, "k8s-pod-network", "eth0");
            request.container_id = format!("{number:064x}");
            let Mac(mac) = Identity::new("n1", "cali", &request).pod_mac();
            assert_eq!(mac[0] & 3, 2, "{mac:x?}");
            assert_eq!(Identity::new("n2", "x", &request).pod_mac(), Mac(mac));
            assert!(seen.insert(mac), "{mac:x?}");
        }
    }

    #[test]
    fn container_outside_kubernetes_is_named_by_its_id() {
        let identity = identity(None, "k8s-pod-network", "eth0");
        let name = "n1-cni-0123456789abcdef-eth0";
        let endpoint = Key::namespaced(Kind::WorkloadEndpoint, "default", name);
        assert_eq!(identity.key, endpoint);
    }

    #[test]
    fn a_further_interface_shares_nothing_with_the_first_and_kubernetes_is_not_told_of_it() {
        for pod in [None, WEB] {
            let first = identity(pod, "k8s-pod-network", "eth0");
            let further = identity(pod, "k8s-pod-network", "net1");
            assert_ne!(first.key, further.key);
            assert_ne!(first.host_ifname, further.host_ifname);
            assert_ne!(first.attachment.handle_id(), further.attachment.handle_id());
            let attributes = further.attributes("n1");
            assert!(!attributes.contains_key("pod") && !attributes.contains_key("namespace"));
            assert_eq!(attributes[INTERFACE], "net1");
            assert!(!record(&first).is_of(&further.attachment));
        }
    }

    #[test]
    fn a_record_leads_back_to_what_it_was_written_for() {
        for (pod, ifname) in [(None, "eth0"), (WEB, "eth0"), (WEB, "net1")] {
            let identity = identity(pod, "k8s-pod-network", ifname);
            let record = record(&identity);
            assert!(record.is_on("n1") && record.is_of(&identity.attachment));
            assert_eq!(record.attachment_in("k8s-pod-network"), identity.attachment);
            assert_eq!(
                record.handle_id("k8s-pod-network"),
                identity.attachment.handle_id()
            );
            assert_eq!(record.host_ifname(), identity.host_ifname);
            assert_eq!(record.addresses(), ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        }
    }

    #[test]
    fn another_networks_call_for_the_same_interface_is_about_something_else() {
        let record = record(&identity(WEB, "k8s-pod-network", "eth0"));
        let other = identity(WEB, "second-net", "eth0").attachment;
        assert!(record.is_of_interface(&other) && !record.is_of(&other));
    }
}
