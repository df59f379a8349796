//! What Kubernetes knows about the cluster and about this node, before anything is written.

use std::net::IpAddr;

use ipnet::IpNet;

use super::address::{Family, Host, HostInterface};
use super::cluster::random_octets;
use super::{Startup, StartupError};
use crate::kubernetes::{KubernetesError, NodeFacts, cluster_cidrs, pod_subnets};

/// What start-up needs of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ClusterFacts {
    /// Ranges of pods, as far as they are known without asking for Nodes.
    pub(super) ranges: PodRanges,
    /// Words for ClusterInformation's clusterType.
    pub(super) types: Vec<&'static str>,
    /// For an IPv6 range that no other cluster has.
    pub(super) random: [u8; 5],
}

/// Ranges that the cluster gives its pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PodRanges {
    /// At most one of a family.
    pub(super) cluster: Vec<IpNet>,
    /// Where they come from.
    pub(super) source: &'static str,
    /// Those of single Nodes, where the cluster's are not known. What they are parts of may grow with the next Node.
    pub(super) nodes: Vec<IpNet>,
}

impl PodRanges {
    /// The cluster's range of a family.
    pub(super) fn of(&self, family: Family) -> Option<IpNet> {
        let mut ranges = self.cluster.iter();
        let found = ranges.find(|range| Family::of(range.addr()) == family);
        found.copied()
    }
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
    /// Asks Kubernetes who made the cluster, and for the ranges of pods that it was made with.
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
            facts.ranges.cluster = text.map(|text| pod_subnets(text)).unwrap_or_default();
            facts.ranges.source = "podSubnet in ConfigMap kube-system/kubeadm-config";
        }
        if config_map(RANCHER).await?.is_some() {
            facts.types.push("rancher");
        }
        Ok(facts)
    }

    /// The ranges of pods for a pool that is to be made: those that are known, else what kube-controller-manager was started with,
    /// else those of the Nodes that exist.
    pub(super) async fn pod_ranges(&self, known: &PodRanges) -> Result<PodRanges, StartupError> {
        let Some(kubernetes) = self
            .kubernetes
            .as_ref()
            .filter(|_| known.cluster.is_empty())
        else {
            return Ok(known.clone());
        };
        let lines = kubernetes.controller_managers().await;
        let lines = lines.map_err(asking("reading Pods of kube-controller-manager".to_owned()))?;
        let mut found: Vec<Vec<IpNet>> = lines.iter().map(|words| cluster_cidrs(words)).collect();
        found.retain(|ranges| !ranges.is_empty());
        found.dedup();
        if let [cluster] = found.as_slice() {
            return Ok(PodRanges {
                cluster: cluster.clone(),
                source: "--cluster-cidr of kube-controller-manager",
                nodes: Vec::new(),
            });
        }
        let nodes = kubernetes.pod_cidrs().await;
        let nodes = nodes.map_err(asking("reading spec.podCIDRs of the Nodes".to_owned()))?;
        Ok(PodRanges {
            nodes,
            ..PodRanges::default()
        })
    }

    /// Refuses names that Kubernetes has no Node of: kubelet makes them.
    pub(super) async fn check_kubernetes_node(&self, name: &str) -> Result<(), StartupError> {
        let Some(kubernetes) = &self.kubernetes else {
            return Ok(());
        };
        for name in [Some(name), self.params.kubernetes_node.as_deref()] {
            let Some(name) = name else { continue };
            let node = kubernetes.node(name).await;
            let node = node.map_err(asking(format!("reading Node {name}")))?;
            if node.is_none() {
                return Err(StartupError::NoKubernetesNode {
                    name: name.to_owned(),
                });
            }
        }
        Ok(())
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
