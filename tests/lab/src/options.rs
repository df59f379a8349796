//! What a lab is asked to be.

use std::net::IpAddr;
use std::time::Duration;

use clap::ValueEnum;
use ipnet::IpNet;

use crate::topology::{Families, Site};

/// How packets between nodes travel. The lab only translates it to the agents' environment and knows what to expect in the FIB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Plain routes learnt by BGP.
    #[default]
    Bgp,
    /// VXLAN between all nodes.
    Vxlan,
    /// VXLAN between racks, plain routes within one.
    VxlanCrosssubnet,
    /// IP in IP between all nodes.
    Ipip,
    /// IP in IP between racks, plain routes within one.
    IpipCrosssubnet,
}

impl Mode {
    /// The mode's name on the command line and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bgp => "bgp",
            Self::Vxlan => "vxlan",
            Self::VxlanCrosssubnet => "vxlan-crosssubnet",
            Self::Ipip => "ipip",
            Self::IpipCrosssubnet => "ipip-crosssubnet",
        }
    }

    /// Value of CALICO_IPV4POOL_IPIP.
    #[must_use]
    pub fn ipip(self) -> &'static str {
        match self {
            Self::Ipip => "Always",
            Self::IpipCrosssubnet => "CrossSubnet",
            Self::Bgp | Self::Vxlan | Self::VxlanCrosssubnet => "Never",
        }
    }

    /// Value of CALICO_IPV4POOL_VXLAN.
    #[must_use]
    pub fn vxlan(self) -> &'static str {
        match self {
            Self::Vxlan => "Always",
            Self::VxlanCrosssubnet => "CrossSubnet",
            Self::Bgp | Self::Ipip | Self::IpipCrosssubnet => "Never",
        }
    }

    /// The path between two nodes, by whether they share a rack.
    #[must_use]
    pub fn path(self, same_rack: bool) -> Path {
        match self {
            Self::Bgp => Path::Plain,
            Self::Vxlan => Path::Vxlan,
            Self::Ipip => Path::Ipip,
            Self::VxlanCrosssubnet | Self::IpipCrosssubnet if same_rack => Path::Plain,
            Self::VxlanCrosssubnet => Path::Vxlan,
            Self::IpipCrosssubnet => Path::Ipip,
        }
    }
}

/// Where the cluster's objects are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Store {
    /// The embedded store.
    #[default]
    Local,
    /// A real Kubernetes API server.
    Kube,
}

impl Store {
    /// The store's name on the command line and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Kube => "kube",
        }
    }

    /// Value of DATASTORE_TYPE.
    #[must_use]
    pub fn datastore_type(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Kube => "kubernetes",
        }
    }

    /// The variables by which programs find it.
    #[must_use]
    pub fn environment(self) -> [(&'static str, String); 2] {
        let kind = ("DATASTORE_TYPE", self.datastore_type().to_owned());
        match self {
            Self::Local => [
                kind,
                ("TORTIE_STORE", format!("unix:{}", crate::store::SOCKET)),
            ],
            Self::Kube => [kind, ("KUBECONFIG", crate::kube::KUBECONFIG.to_owned())],
        }
    }

    /// The same for an operator, who may do what agents may not.
    #[must_use]
    pub fn operators_environment(self) -> [(&'static str, String); 2] {
        let [kind, (name, agents)] = self.environment();
        match self {
            Self::Local => [kind, (name, agents)],
            Self::Kube => [kind, (name, crate::kube::OPERATORS_KUBECONFIG.to_owned())],
        }
    }
}

/// How a packet gets from one node to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// As it is.
    Plain,
    /// In VXLAN.
    Vxlan,
    /// In IPv4.
    Ipip,
}

/// A fault that a test of the lab's own checks asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sabotage {
    /// The first node loses the route to the last node's block.
    Route,
    /// The first node masquerades what its pods send to other nodes.
    Masquerade,
    /// No BGP connection between the first and the last node.
    Session,
}

/// The IPv6 pool, and the prefix length of its blocks: what CALICO_IPV6POOL_BLOCK_SIZE is by default.
const POOL_V6: &str = "fd00:192:168::/48";
const POOL_V6_BLOCK_SIZE: u8 = 122;

/// What to build.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of nodes.
    pub nodes: usize,
    /// Pods per node.
    pub pods: usize,
    /// Encapsulation.
    pub mode: Mode,
    /// The mode that was in force when the pods were made, where that was another one: pods keep its MTU.
    pub pods_mode: Option<Mode>,
    /// What nodes and pods have addresses of.
    pub families: Families,
    /// Where objects are kept.
    pub store: Store,
    /// Real kubelets run the pods, and the DaemonSet of manifests/ the agents.
    pub kubelets: bool,
    /// Number of racks, 1 or 2.
    pub racks: u8,
    /// Number of route reflectors, 0 to 4; without one the nodes are a full mesh. They are machines of the first rack.
    pub reflectors: u8,
    /// Number of top-of-rack routers that run BIRD, 0 to 4. They are machines of the first rack.
    pub tors: u8,
    /// Value of CALICO_IPV4POOL_CIDR.
    pub pool: String,
    /// Value of CALICO_IPV4POOL_BLOCK_SIZE: prefix length.
    pub block_size: u8,
    /// AS number of the cluster.
    pub asn: u32,
    /// How long each stage may take before it counts as failed.
    pub patience: Duration,
    /// More variables for every agent.
    pub environment: Vec<(String, String)>,
    /// A fault to bring in, for tests of the checks.
    pub sabotage: Option<Sabotage>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: 3,
            pods: 2,
            mode: Mode::Bgp,
            pods_mode: None,
            families: Families::V4,
            store: Store::Local,
            kubelets: false,
            racks: 1,
            reflectors: 0,
            tors: 0,
            pool: "192.168.0.0/16".to_owned(),
            block_size: 26,
            asn: 64512,
            patience: Duration::from_secs(30),
            environment: Vec::new(),
            sabotage: None,
        }
    }
}

impl Options {
    /// The block that a pod's address belongs to.
    #[must_use]
    pub fn block_of(&self, address: IpAddr) -> IpNet {
        let length = if address.is_ipv4() {
            self.block_size
        } else {
            POOL_V6_BLOCK_SIZE
        };
        IpNet::new(address, length).unwrap_or_default().trunc()
    }

    /// How packets to addresses of this family travel: there is no IPIP for IPv6.
    #[must_use]
    pub fn mode_of(&self, address: IpAddr) -> Mode {
        match self.mode {
            Mode::Ipip | Mode::IpipCrosssubnet if address.is_ipv6() => Mode::Bgp,
            mode => mode,
        }
    }

    /// The whole environment of a machine's agent, besides PATH.
    #[must_use]
    pub fn environment_of(&self, site: &Site) -> Vec<(String, String)> {
        let asn = self.asn.to_string();
        let block_size = self.block_size.to_string();
        let address = site.net4().map(|net| net.addr().to_string());
        let address6 = site.net6().map(|net| net.to_string());
        let mut all: Vec<(String, String)> = [
            ("NODENAME", site.name.as_str()),
            ("AS", &asn),
            ("CALICO_NETWORKING_BACKEND", "bird"),
        ]
        .into_iter()
        .chain(match address.as_deref() {
            Some(address) => vec![
                ("IP", address),
                ("CALICO_IPV4POOL_CIDR", &self.pool),
                ("CALICO_IPV4POOL_BLOCK_SIZE", &block_size),
                ("CALICO_IPV4POOL_IPIP", self.mode.ipip()),
                ("CALICO_IPV4POOL_VXLAN", self.mode.vxlan()),
            ],
            None => vec![
                ("IP", "none"),
                ("CALICO_IPV4POOL_CIDR", "none"),
                // There is no IPv4 address to take it from.
                ("CALICO_ROUTER_ID", "hash"),
            ],
        })
        .chain(match address6.as_deref() {
            Some(address6) => vec![
                ("IP6", address6),
                ("FELIX_IPV6SUPPORT", "true"),
                ("CALICO_IPV6POOL_CIDR", POOL_V6),
                ("CALICO_IPV6POOL_VXLAN", self.mode.vxlan()),
            ],
            // As Calico's manifests have it: nodes speak IPv4.
            None => vec![("FELIX_IPV6SUPPORT", "false")],
        })
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
        let store = self.store.environment();
        all.extend(store.map(|(name, value)| (name.to_owned(), value)));
        for (name, value) in &self.environment {
            all.retain(|(known, _)| known != name);
            all.push((name.clone(), value.clone()));
        }
        all
    }
}
