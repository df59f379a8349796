//! What Kubernetes knows about the cluster and about this node, before anything is written.

use std::net::IpAddr;

use ipnet::IpNet;
use tracing::warn;

use super::address::{Family, Host, HostInterface};
use super::cluster::random_octets;
use super::{Startup, StartupError};
use crate::kubernetes::{KubernetesError, NodeFacts, covering, pod_subnets};

/// What start-up needs of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ClusterFacts {
    /// Ranges that the cluster gives its pods, at most one of a family.
    pub(super) pod_cidrs: Vec<IpNet>,
    /// Where they come from.
    pub(super) source: &'static str,
    /// Words for ClusterInformation's clusterType.
    pub(super) types: Vec<&'static str>,
    /// For an IPv6 range that no other cluster has.
    pub(super) random: [u8; 5],
}

/// The ConfigMap that kubeadm keeps its ClusterConfiguration in.
const KUBEADM: (&str, &str) = ("kube-system", "kubeadm-config");
/// The ConfigMap that Rancher keeps its cluster's state in.
const RANCHER: (&str, &str) = ("kube-system", "full-cluster-state");

/// The host as Kubernetes knows it.
pub(super) struct KnownHost<'a> {
    host: &'a dyn Host,
    internal_ips: Option<Vec<IpAddr>>,
}

impl Host for KnownHost<'_> {
    fn interfaces(&self) -> &[HostInterface] {
        self.host.interfaces()
    }

    fn source_towards(&self, destination: &str, family: Family) -> Option<IpAddr> {
        self.host.source_towards(destination, family)
    }

    fn internal_ips(&self) -> Option<&[IpAddr]> {
        self.internal_ips.as_deref()
    }

    fn has_ipv6(&self) -> bool {
        self.host.has_ipv6()
    }
}

impl Startup<'_> {
    /// Asks Kubernetes for the pods' ranges: kubeadm's, else what holds the ranges of the Nodes.
    pub(super) async fn cluster_facts(&self) -> Result<ClusterFacts, StartupError> {
        let mut facts = ClusterFacts {
            random: random_octets(),
            ..ClusterFacts::default()
        };
        let Some(kubernetes) = &self.kubernetes else {
            return Ok(facts);
        };
        let config_map = async |(namespace, name): (&'static str, &'static str)| {
            let found = kubernetes.config_map(namespace, name).await;
            found.map_err(asking(format!("reading ConfigMap {namespace}/{name}")))
        };
        if let Some(data) = config_map(KUBEADM).await? {
            facts.types.push("kubeadm");
            let text = data.get("ClusterConfiguration");
            facts.pod_cidrs = text.map(|text| pod_subnets(text)).unwrap_or_default();
            facts.source = "podSubnet in ConfigMap kube-system/kubeadm-config";
        }
        if config_map(RANCHER).await?.is_some() {
            facts.types.push("rancher");
        }
        if facts.pod_cidrs.is_empty() {
            match kubernetes.pod_cidrs().await {
                Ok(ranges) => {
                    facts.pod_cidrs = covering(&ranges);
                    facts.source = "spec.podCIDRs of the Kubernetes Nodes that exist now";
                }
                // Nothing depends on it that the variable does not decide better.
                Err(error) => warn!(%error, "reading spec.podCIDRs of the Kubernetes Nodes"),
            }
        }
        Ok(facts)
    }

    /// The Kubernetes Node that this node is; `None` outside of Kubernetes.
    pub(super) async fn kubernetes_node(
        &self,
        name: &str,
    ) -> Result<Option<NodeFacts>, StartupError> {
        let Some(kubernetes) = &self.kubernetes else {
            return Ok(None);
        };
        let name = self.params.kubernetes_node.as_deref().unwrap_or(name);
        let node = kubernetes.node(name).await;
        let node = node.map_err(asking(format!("reading Node {name}")))?;
        Ok(Some(node.unwrap_or_default()))
    }

    /// The host, with the Kubernetes Node's addresses where a method of detection asks for them.
    pub(super) async fn known_host(&self, name: &str) -> Result<KnownHost<'_>, StartupError> {
        let asks = |method: &String| method == "kubernetes-internal-ip";
        let params = self.params;
        let node =
            if asks(&params.ip_autodetection_method) || asks(&params.ip6_autodetection_method) {
                self.kubernetes_node(name).await?
            } else {
                None
            };
        Ok(KnownHost {
            host: self.host,
            internal_ips: node.map(|node| node.internal_ips),
        })
    }
}

fn asking(doing: String) -> impl FnOnce(KubernetesError) -> StartupError {
    move |source| StartupError::Kubernetes { doing, source }
}

#[cfg(test)]
mod tests;
