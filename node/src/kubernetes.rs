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

    /// Words of the command lines of kube-controller-manager, where it runs as a Pod of the cluster; none when Pods may not be
    /// read.
    fn controller_managers(&self) -> Answer<'_, Vec<Vec<String>>>;

    /// Whether Calico's controllers run as Pods of the cluster, which collect what is left of addresses.
    fn kube_controllers(&self) -> Answer<'_, bool>;

    /// `spec.controllers.node.leakGracePeriod` of the KubeControllersConfiguration `default`; `None` where nobody says it, and where it
    /// may not be read.
    fn leak_grace_period(&self) -> Answer<'_, Option<String>>;

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

    /// Where the API server is and who signs its certificate, for a kubeconfig: as the files say it now.
    fn endpoint(&self) -> Answer<'_, Endpoint>;
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
    /// The files that say where it is and who signs its certificate cannot be read.
    #[error("reading where the API server is: {0}")]
    Files(String),
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
    ranges_in(value)
}

/// The first ranges of pods that kube-controller-manager was started with, one of each family: `--cluster-cidr`.
pub fn cluster_cidrs(command_line: &[String]) -> Vec<IpNet> {
    let mut words = command_line.iter();
    while let Some(word) = words.next() {
        if let Some(value) = word.strip_prefix("--cluster-cidr") {
            let value = match value.strip_prefix('=') {
                Some(value) => value,
                None if value.is_empty() => words.next().map_or("", String::as_str),
                None => continue,
            };
            return ranges_in(value.trim_matches(|quote| quote == '"' || quote == '\''));
        }
    }
    Vec::new()
}

/// The first of each family of ranges joined by commas.
fn ranges_in(text: &str) -> Vec<IpNet> {
    let ranges: Vec<IpNet> = text
        .split(',')
        .filter_map(|range| range.trim().parse::<IpNet>().ok())
        .map(|range| range.trunc())
        .collect();
    first_of_each_family(&ranges)
}

/// The first range of IPv4 and the first of IPv6.
fn first_of_each_family(ranges: &[IpNet]) -> Vec<IpNet> {
    let four = ranges.iter().find(|range| matches!(range, IpNet::V4(_)));
    let six = ranges.iter().find(|range| matches!(range, IpNet::V6(_)));
    four.into_iter().chain(six).copied().collect()
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
    fn the_cluster_cidr_of_the_controller_manager_is_read_in_each_form() {
        let read = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            shown(&cluster_cidrs(&words))
        };
        let one = ["10.42.0.0/16"];
        assert_eq!(read(&["--a=b", "--cluster-cidr=10.42.0.0/16"]), one);
        assert_eq!(read(&["--cluster-cidr", "10.42.0.0/16", "--a=b"]), one);
        assert_eq!(
            read(&["--cluster-cidr=\"fd42::/56,10.42.0.0/16\""]),
            ["10.42.0.0/16", "fd42::/56"]
        );
        let others = [
            "--cluster-cidrs=10.42.0.0/16",
            "--service-cluster-ip-range=10.43.0.0/16",
        ];
        assert!(read(&others).is_empty());
        assert!(read(&["--cluster-cidr"]).is_empty());
        assert!(read(&[]).is_empty());
    }
}
