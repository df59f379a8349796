use std::sync::Arc;

use api::params::Params;
use datastore::memory::MemoryStore;

use super::super::tests::{Fake as FakeHost, over};
use super::*;
use crate::kubernetes::fake::Fake;

/// What start-up finds out: about the cluster, and the ranges for a pool.
async fn found(kubernetes: &Arc<Fake>) -> Result<(ClusterFacts, PodRanges), StartupError> {
    let params = Params::from_env([]).unwrap();
    let host = FakeHost(Vec::new());
    let startup = Startup {
        kubernetes: Some(Arc::clone(kubernetes) as _),
        ..over(&params, &host, MemoryStore::new())
    };
    let facts = startup.cluster_facts().await?;
    let ranges = startup.pod_ranges(&facts.ranges).await?;
    Ok((facts, ranges))
}

fn shown(ranges: &[IpNet]) -> Vec<String> {
    ranges.iter().map(ToString::to_string).collect()
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
async fn kubeadms_pod_subnet_comes_before_the_controller_managers_and_that_before_the_nodes() {
    let fake = with_nodes();
    let (facts, ranges) = found(&fake).await.unwrap();
    assert!(ranges.cluster.is_empty() && facts.types.is_empty());
    assert_eq!(shown(&ranges.nodes), ["10.244.0.0/24", "10.244.1.0/24"]);

    let words = |range: &str| vec![format!("--cluster-cidr={range}")];
    let managers = vec![words("10.244.0.0/16"), Vec::new(), words("10.244.0.0/16")];
    fake.content().controller_managers = managers;
    let (_, ranges) = found(&fake).await.unwrap();
    assert_eq!(shown(&ranges.cluster), ["10.244.0.0/16"]);
    assert!(
        ranges.source.contains("--cluster-cidr"),
        "{}",
        ranges.source
    );
    // Of two that do not agree neither counts.
    fake.content().controller_managers.push(words("10.0.0.0/8"));
    let (_, ranges) = found(&fake).await.unwrap();
    assert!(ranges.cluster.is_empty() && ranges.nodes.len() == 2);

    let text = "networking:\n  podSubnet: 10.32.0.0/16,fd00:10:244::/56\n";
    let data = [("ClusterConfiguration".to_owned(), text.to_owned())];
    let named = |name: &str| ("kube-system".to_owned(), name.to_owned());
    let kubeadm = (named("kubeadm-config"), data.into());
    let rancher = (named("full-cluster-state"), [].into());
    fake.content().config_maps.extend([kubeadm, rancher]);
    let (facts, ranges) = found(&fake).await.unwrap();
    assert_eq!(shown(&ranges.cluster), ["10.32.0.0/16", "fd00:10:244::/56"]);
    assert!(
        ranges.source.contains("kubeadm-config"),
        "{}",
        ranges.source
    );
    assert_eq!(facts.types, ["kubeadm", "rancher"]);
}

/// The first pools of a cluster with these variables and Nodes.
async fn pools(variables: &[(&str, &str)], fake: &Arc<Fake>) -> Result<Vec<String>, StartupError> {
    let owned = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
    let params = Params::from_env(variables.iter().map(owned)).unwrap();
    let host = FakeHost(Vec::new());
    let startup = Startup {
        kubernetes: Some(Arc::clone(fake) as _),
        ..over(&params, &host, MemoryStore::new())
    };
    let facts = startup.cluster_facts().await?;
    let pools = startup.missing_pools(&facts).await?;
    Ok(pools
        .iter()
        .map(|pool| pool.spec.cidr.to_string())
        .collect())
}

#[tokio::test]
async fn no_pool_is_made_of_the_ranges_of_the_first_nodes() {
    let fake = with_nodes();
    let four = ("FELIX_IPV6SUPPORT", "false");
    let error = pools(&[four], &fake).await.unwrap_err().to_string();
    assert!(error.starts_with("CALICO_IPV4POOL_CIDR=\"\""), "{error}");
    for (variable, expected) in [
        (
            ("CALICO_IPV4POOL_CIDR", "10.244.0.0/16"),
            vec!["10.244.0.0/16"],
        ),
        (("CALICO_IPV4POOL_CIDR", "none"), vec![]),
        (("NO_DEFAULT_POOLS", "true"), vec![]),
    ] {
        assert_eq!(pools(&[four, variable], &fake).await.unwrap(), expected);
    }
    fake.content().controller_managers = vec![vec!["--cluster-cidr=10.244.0.0/16".to_owned()]];
    assert_eq!(pools(&[four], &fake).await.unwrap(), ["10.244.0.0/16"]);
    // A cluster whose Nodes have no ranges: Calico's default.
    let fake = Arc::new(Fake::default());
    assert_eq!(pools(&[four], &fake).await.unwrap(), ["192.168.0.0/16"]);
    // What cannot be asked now is not taken for nothing.
    fake.fail(3);
    assert!(pools(&[four], &fake).await.is_err());
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
            kubernetes: Some(with_nodes()),
            ..over(&params, &host, MemoryStore::new())
        };
        let known = startup.known_host(node).await.unwrap();
        let known = known.internal_ips().unwrap();
        let shown: Vec<String> = known.iter().map(ToString::to_string).collect();
        assert_eq!(shown, expected);
    }
}

#[tokio::test]
async fn a_name_that_kubernetes_has_no_node_of_is_refused() {
    for (reference, name, missing) in [
        (None, "n1", None),
        (None, "n9", Some("n9")),
        (Some("n2"), "n1", None),
        (Some("n8"), "n1", Some("n8")),
    ] {
        let reference =
            reference.map(|name: &str| ("CALICO_K8S_NODE_REF".to_owned(), name.to_owned()));
        let params = Params::from_env(reference).unwrap();
        let host = FakeHost(Vec::new());
        let startup = Startup {
            kubernetes: Some(with_nodes()),
            ..over(&params, &host, MemoryStore::new())
        };
        let said = startup
            .check_kubernetes_node(name)
            .await
            .map_err(|error| error.to_string());
        match missing {
            None => assert_eq!(said, Ok(())),
            Some(missing) => {
                let said = said.unwrap_err();
                assert!(
                    said.contains(missing) && said.contains("NODENAME"),
                    "{said}"
                );
            }
        }
    }
}
