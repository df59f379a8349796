use std::sync::Arc;

use api::params::Params;
use datastore::memory::MemoryStore;

use super::super::tests::Fake as FakeHost;
use super::*;
use crate::kubernetes::fake::Fake;

/// What start-up finds out with these variables.
async fn found(kubernetes: &Arc<Fake>) -> Result<ClusterFacts, StartupError> {
    let params = Params::from_env([]).unwrap();
    let host = FakeHost(Vec::new());
    let startup = Startup {
        params: &params,
        host: &host,
        store: Arc::new(MemoryStore::new()),
        kubernetes: Some(Arc::clone(kubernetes) as _),
    };
    startup.cluster_facts().await
}

fn ranges(facts: &ClusterFacts) -> Vec<String> {
    facts.pod_cidrs.iter().map(ToString::to_string).collect()
}

fn with_nodes() -> Arc<Fake> {
    let fake = Arc::new(Fake::default());
    for (name, cidr) in [("n1", "10.244.0.0/24"), ("n2", "10.244.1.0/24")] {
        let facts = NodeFacts {
            internal_ips: vec!["10.0.0.7".parse().unwrap()],
            pod_cidrs: vec![cidr.parse().unwrap()],
        };
        fake.content().nodes.insert(name.to_owned(), facts);
    }
    fake
}

#[tokio::test]
async fn kubeadms_pod_subnet_comes_before_the_ranges_of_the_nodes() {
    let fake = with_nodes();
    let facts = found(&fake).await.unwrap();
    assert_eq!(ranges(&facts), ["10.244.0.0/23"]);
    assert!(facts.source.contains("podCIDRs"), "{}", facts.source);
    assert!(facts.types.is_empty());
    let text = "networking:\n  podSubnet: 10.244.0.0/16,fd00:10:244::/56\n";
    let data = [("ClusterConfiguration".to_owned(), text.to_owned())];
    let named = |name: &str| ("kube-system".to_owned(), name.to_owned());
    let kubeadm = (named("kubeadm-config"), data.into());
    let rancher = (named("full-cluster-state"), [].into());
    fake.content().config_maps.extend([kubeadm, rancher]);
    let facts = found(&fake).await.unwrap();
    assert_eq!(ranges(&facts), ["10.244.0.0/16", "fd00:10:244::/56"]);
    assert!(facts.source.contains("kubeadm-config"), "{}", facts.source);
    assert_eq!(facts.types, ["kubeadm", "rancher"]);
}

#[tokio::test]
async fn an_api_server_that_does_not_answer_ends_the_start_with_what_was_asked() {
    let fake = with_nodes();
    fake.fail(1);
    let error = found(&fake).await.unwrap_err();
    let said = format!("{error}: {}", std::error::Error::source(&error).unwrap());
    assert!(said.contains("kube-system/kubeadm-config"), "{said}");
    assert!(said.contains("does not answer"), "{said}");
}

#[tokio::test]
async fn the_internal_ip_is_of_the_kubernetes_node_that_the_reference_names() {
    for (reference, node, expected) in [
        (None, "n1", &["10.0.0.7"][..]),
        (None, "n9", &[]),
        (Some("n2"), "n9", &["10.0.0.7"]),
    ] {
        let method = ("IP_AUTODETECTION_METHOD", "kubernetes-internal-ip");
        let reference = reference.map(|name| ("CALICO_K8S_NODE_REF", name));
        let variables = [method].into_iter().chain(reference);
        let owned = variables.map(|(name, text)| (name.to_owned(), text.to_owned()));
        let params = Params::from_env(owned).unwrap();
        let host = FakeHost(Vec::new());
        let startup = Startup {
            params: &params,
            host: &host,
            store: Arc::new(MemoryStore::new()),
            kubernetes: Some(with_nodes()),
        };
        let known = startup.known_host(node).await.unwrap();
        let known = known.internal_ips().unwrap();
        let shown: Vec<String> = known.iter().map(ToString::to_string).collect();
        assert_eq!(shown, expected);
    }
}
