//! What the agent asks of Kubernetes itself, beside the objects that the datastore translates.
//!
//! The agent asks through a trait, so that what it does with the answers is tested without an API server.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use api::without_effect::Resource;
use futures_util::future::BoxFuture;
use ipnet::IpNet;

/// What an agent asks of Kubernetes.
pub trait Kubernetes: Send + Sync {
    /// Facts of a Kubernetes Node; `None` when there is no such Node.
    fn node<'a>(&'a self, name: &'a str) -> Answer<'a, Option<NodeFacts>>;

    /// `spec.podCIDRs` of all Kubernetes Nodes.
    fn pod_cidrs(&self) -> Answer<'_, Vec<IpNet>>;

    /// `data` of a ConfigMap; `None` when there is none, and when it may not be read.
    fn config_map<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> Answer<'a, Option<BTreeMap<String, String>>>;

    /// Sets one condition of a Kubernetes Node, and leaves the others alone.
    fn set_condition<'a>(&'a self, node: &'a str, condition: &'a Condition) -> Answer<'a, ()>;

    /// A token of a service account of this namespace that is valid about as long as asked for.
    fn token<'a>(&'a self, service_account: &'a str, validity: Duration) -> Answer<'a, Token>;

    /// How many objects a resource has, in the first of its groups that the cluster has. They are not read.
    fn count<'a>(&'a self, resource: &'a Resource) -> Answer<'a, u64>;

    /// Tells whoever looks at a Kubernetes Node that something is not as it seems: an event of type Warning.
    fn warn<'a>(&'a self, node: &'a str, reason: &'a str, message: &'a str) -> Answer<'a, ()>;

    /// Where the API server is and who signed its certificate, for a kubeconfig.
    fn endpoint(&self) -> Endpoint;
}

/// An answer that comes later.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, KubernetesError>>;

/// Why Kubernetes did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KubernetesError {
    /// It does not answer; try again.
    #[error("the API server does not answer: {0}")]
    Unavailable(String),
    /// It refused; trying again does not help until somebody changes something.
    #[error("the API server refused: {0}")]
    Refused(String),
}

/// Facts of a Kubernetes Node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// `status.addresses` of type InternalIP, in their order.
    pub internal_ips: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
}

/// A condition of a Kubernetes Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// `NetworkUnavailable`.
    pub kind: &'static str,
    /// Whether it holds.
    pub status: bool,
    /// Why, in one word.
    pub reason: &'static str,
    /// Why, in words.
    pub message: &'static str,
}

/// The node's network is there.
pub const NETWORK_IS_UP: Condition = Condition {
    kind: "NetworkUnavailable",
    status: false,
    reason: "CalicoIsUp",
    message: "Calico is running on this node",
};

/// The node's network goes.
pub const NETWORK_IS_DOWN: Condition = Condition {
    kind: "NetworkUnavailable",
    status: true,
    reason: "CalicoIsDown",
    message: "Calico is shutting down on this node",
};

/// A token of a service account.
#[derive(Clone)]
pub struct Token {
    /// Its text.
    pub text: String,
    /// From when on it is not valid any more.
    pub expires: SystemTime,
}

/// Where the API server is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// `https://10.96.0.1:443`
    pub server: String,
    /// PEM certificates of its authority, base64; empty when none is needed.
    pub certificate_authority: String,
}

/// The first ranges of pods that a kubeadm cluster was made with, one of each family: `podSubnet` of the ClusterConfiguration.
pub fn pod_subnets(cluster_configuration: &str) -> Vec<IpNet> {
    let mut lines = cluster_configuration.lines();
    let Some(value) = lines.find_map(|line| line.trim().strip_prefix("podSubnet:")) else {
        return Vec::new();
    };
    let value = value.split(" #").next().unwrap_or_default().trim();
    let value = value.trim_matches(|quote| quote == '"' || quote == '\'');
    let ranges: Vec<IpNet> = value
        .split(',')
        .filter_map(|range| range.trim().parse::<IpNet>().ok())
        .map(|range| range.trunc())
        .collect();
    first_of_each_family(&ranges)
}

/// The first range of IPv4 and the first of IPv6.
pub fn first_of_each_family(ranges: &[IpNet]) -> Vec<IpNet> {
    let four = ranges.iter().find(|range| matches!(range, IpNet::V4(_)));
    let six = ranges.iter().find(|range| matches!(range, IpNet::V6(_)));
    four.into_iter().chain(six).copied().collect()
}

/// The smallest range of each family that holds all these; none where it would be more than a network of its own
/// (shorter than /8, or than /16 of IPv6).
pub fn covering(ranges: &[IpNet]) -> Vec<IpNet> {
    let cover = |mut family: Vec<IpNet>, shortest: u8| {
        let first = family.pop()?.trunc();
        family.iter().try_fold(first, |cover, range| {
            let mut cover = cover;
            while !cover.contains(range) {
                cover = cover.supernet()?;
            }
            (cover.prefix_len() >= shortest).then_some(cover)
        })
    };
    let (four, six): (Vec<IpNet>, Vec<IpNet>) = ranges
        .iter()
        .copied()
        .partition(|range| matches!(range, IpNet::V4(_)));
    cover(four, 8).into_iter().chain(cover(six, 16)).collect()
}

#[cfg(feature = "kube")]
pub mod api_server;

#[cfg(test)]
pub(crate) mod fake;

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(ranges: &[IpNet]) -> Vec<String> {
        ranges.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_pod_subnet_of_kubeadm_is_read_for_both_families() {
        let read = |line: &str| {
            let text = format!(
                "apiServer: {{}}\nkind: ClusterConfiguration\nnetworking:\n  dnsDomain: cluster.local\n{line}\n  serviceSubnet: 10.96.0.0/12\n"
            );
            shown(&pod_subnets(&text))
        };
        assert_eq!(read("  podSubnet: 10.244.0.0/16"), ["10.244.0.0/16"]);
        assert_eq!(
            read("  podSubnet: \"fd00:10:244::/56, 10.244.0.0/16,10.245.0.0/16\""),
            ["10.244.0.0/16", "fd00:10:244::/56"]
        );
        assert_eq!(read("  podSubnet: '10.244.1.0/16'"), ["10.244.0.0/16"]);
        for nothing in ["", "  podSubnet: ", "  podSubnet: \"\"", "  podSubnet: x"] {
            assert!(read(nothing).is_empty(), "{nothing}");
        }
    }

    #[test]
    fn the_ranges_of_nodes_are_covered_by_the_smallest_range_of_each_family() {
        let cover = |ranges: &[&str]| {
            let ranges: Vec<IpNet> = ranges.iter().map(|range| range.parse().unwrap()).collect();
            shown(&covering(&ranges))
        };
        assert_eq!(cover(&["10.244.1.0/24"]), ["10.244.1.0/24"]);
        assert_eq!(
            cover(&[
                "10.244.0.0/24",
                "fd00:1::/64",
                "10.244.5.0/24",
                "fd00:1:0:1::/64"
            ]),
            ["10.244.0.0/21", "fd00:1::/63"]
        );
        assert!(cover(&["10.0.0.0/24", "192.168.0.0/24"]).is_empty());
        assert!(cover(&[]).is_empty());
    }
}
