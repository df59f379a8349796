//! A cluster and, on its rack, the machine of a top-of-rack router.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Output, Stdio};
use std::time::Duration;

use interop::bird::{self, BgpProtocol, Bird};
use interop::eventually;
use ipnet::IpNet;
use lab::{Lab, Options, Pod, Programs, Route, Site};

/// The cluster's AS.
pub(crate) const CLUSTER: u32 = 64512;
/// The router's, where it is another one.
pub(crate) const TOR: u32 = 65001;
/// What the router announces, besides a default route.
pub(crate) const OUTSIDE: &str = "203.0.113.0/24";
/// A host in [`OUTSIDE`], on the router itself.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// Routes learnt by BGP carry BIRD's protocol number, as Calico's do.
const PROTO_BIRD: u8 = 12;

/// A cluster with one pod a node, and the router's machine without a daemon.
pub(crate) struct Place {
    pub(crate) lab: Lab,
    pub(crate) tor: Site,
}

impl Place {
    pub(crate) fn start(programs: Programs, nodes: usize) -> Self {
        let options = Options {
            nodes,
            patience: Duration::from_secs(60),
            // The routers know the pods' addresses: what they see is to be those.
            environment: vec![(
                "CALICO_IPV4POOL_NAT_OUTGOING".to_owned(),
                "false".to_owned(),
            )],
            ..Options::default()
        };
        let mut lab = Lab::start(options, programs).unwrap_or_else(|error| panic!("{error}"));
        let tor = lab.topology.attach("tor", 9, 1).unwrap();
        tor.namespace
            .netlink()
            .unwrap()
            .add_address("lo", ipnet::Ipv4Net::from(HOST))
            .unwrap();
        lab.fill_pods(1)
            .unwrap_or_else(|errors| panic!("{errors:?}"));
        lab.converge().unwrap_or_else(|why| panic!("{why}"));
        Self { lab, tor }
    }

    /// BIRD's configuration: a session with every node, named like the node, in AS `asn`.
    pub(crate) fn bird_config(&self, asn: u32, options: &str) -> String {
        self.bird_config_of(&self.tor, asn, options)
    }

    /// The same of another machine of the rack.
    pub(crate) fn bird_config_of(&self, router: &Site, asn: u32, options: &str) -> String {
        let mut text = format!(
            "{}protocol static outside {{ ipv4; route {OUTSIDE} unreachable; route 0.0.0.0/0 unreachable; }}\n",
            bird::head(ipv4(router))
        );
        for site in &self.lab.topology.sites {
            let session = BgpProtocol {
                name: &site.name,
                local: (ipv4(router), asn),
                neighbor: (ipv4(site), CLUSTER),
                options,
            };
            text.push_str(&session.to_string());
        }
        text
    }

    pub(crate) fn start_bird(&self, asn: u32, options: &str) -> Bird {
        Bird::start("tor", &self.tor.namespace, &self.bird_config(asn, options)).unwrap()
    }

    /// A BGPPeer named `tor`; `more` is further lines of its spec.
    pub(crate) fn peer(&self, asn: u32, more: &str) -> String {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata:\n  name: tor\nspec:\n  peerIP: {}\n  asNumber: {asn}\n{more}",
            self.tor.address
        )
    }

    /// `tortiectl` with the environment of an operator's shell.
    pub(crate) fn ctl(&self, arguments: &[&str], stdin: &str) -> Output {
        let store = self.lab.options.store.operators_environment();
        let mut child = std::process::Command::new(self.lab.programs().ctl())
            .args(arguments)
            .env_clear()
            .envs(store)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().expect("piped");
        input.write_all(stdin.as_bytes()).unwrap();
        drop(input);
        child.wait_with_output().unwrap()
    }

    /// `tortiectl apply -f -`, which must succeed.
    pub(crate) fn apply(&self, manifest: &str) {
        let output = self.ctl(&["apply", "-f", "-"], manifest);
        assert!(output.status.success(), "{output:?}");
    }

    /// `tortiectl delete bgppeer tor`, which must succeed.
    pub(crate) fn delete_peer(&self) {
        let output = self.ctl(&["delete", "bgppeer", "tor"], "");
        assert!(output.status.success(), "{output:?}");
    }

    pub(crate) fn sites(&self) -> &[Site] {
        &self.lab.topology.sites
    }

    /// The pod of a node.
    pub(crate) fn pod(&self, site: &Site) -> &Pod {
        let pods = &self.lab.pods;
        pods.iter()
            .find(|pod| pod.node == site.name)
            .expect("a pod on each node")
    }

    /// The block of a node's pod.
    pub(crate) fn block(&self, site: &Site) -> String {
        self.lab
            .options
            .block_of(self.pod(site).address)
            .to_string()
    }

    /// Waits until BIRD has each node's block from that node, the node as next hop.
    #[track_caller]
    pub(crate) fn wait_blocks(&self, bird: &Bird) {
        for site in self.sites() {
            bird.wait_route(&site.name, &self.block(site), site.address);
        }
    }

    /// Waits until every node's kernel has what the router announces, through the router.
    #[track_caller]
    pub(crate) fn wait_outside_in_fibs(&self) {
        for site in self.sites() {
            for prefix in [OUTSIDE, "0.0.0.0/0"] {
                self.wait_fib(site, prefix, Some(self.tor.address));
            }
        }
    }

    /// Waits until a node's kernel has the BGP route through `gateway`, or, with `None`, has no BGP route to the prefix.
    #[track_caller]
    pub(crate) fn wait_fib(&self, site: &Site, prefix: &str, gateway: Option<IpAddr>) {
        let what = format!("{} has {prefix} by BGP via {gateway:?}", site.name);
        let wanted: Vec<IpAddr> = gateway.into_iter().collect();
        eventually(&what, || {
            let routes = learned(site, prefix);
            let gateways: Vec<IpAddr> = routes.iter().flat_map(Route::gateways).collect();
            if gateways == wanted && routes.len() == wanted.len() {
                Ok(())
            } else {
                Err(format!("{routes:?}\n{}", lab::log_end(&site.name)))
            }
        });
    }
}

fn ipv4(site: &Site) -> Ipv4Addr {
    site.net4().expect("clusters with BIRD speak IPv4").addr()
}

/// The kernel's BGP routes to a prefix on a node.
pub(crate) fn learned(site: &Site, prefix: &str) -> Vec<Route> {
    let prefix: IpNet = prefix.parse().unwrap();
    let mut routes = site.namespace.netlink().unwrap().routes().unwrap();
    routes.retain(|route| route.destination == prefix && route.protocol == PROTO_BIRD);
    routes
}
