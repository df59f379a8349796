//! Lists of several plugins, run as a runtime runs them: results forwards, DEL backwards.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use cni_conformance::{Container, Kernel, Network};
use lab::{Families, Lab, Options, Site, SourceReporter, ask_source, wait_until};
use serde_json::{Value, json};

use crate::{DEBIANS, PLUGINS, needs, with_programs};

const PATIENCE: Duration = Duration::from_secs(60);
/// What the plugin `tuning` gives the container's interface.
const MTU_BYTES: u32 = 1280;

/// Our plugin, then three of Debian's.
fn network(site: &Site) -> Network {
    Network {
        site: site.clone(),
        directories: vec![PathBuf::from(PLUGINS), PathBuf::from(DEBIANS)],
        list: json!({
            "name": "k8s-pod-network",
            "cniVersion": "1.0.0",
            "plugins": [
                {"type": "calico", "policy": {"type": "k8s"},
                 "ipam": {"type": "calico-ipam", "assign_ipv4": "true", "assign_ipv6": "true"}},
                {"type": "portmap", "snat": true, "capabilities": {"portMappings": true}},
                {"type": "bandwidth", "capabilities": {"bandwidth": true}},
                {"type": "tuning", "mtu": MTU_BYTES, "sysctl": {"net.core.somaxconn": "77"}},
            ],
        }),
    }
}

/// A container that answers on one port, what its runtime is asked for, and what ADD said.
struct Served {
    container: Container,
    listeners: Vec<SourceReporter>,
    runtime: Value,
    result: Value,
}

impl Served {
    fn add(network: &Network, name: &str) -> Self {
        let container = Container::new(&network.site, name).unwrap();
        let unspecified = [
            IpAddr::from(Ipv4Addr::UNSPECIFIED),
            IpAddr::from(Ipv6Addr::UNSPECIFIED),
        ];
        let listen = |address| SourceReporter::open(&container.namespace, address).unwrap();
        let listeners = unspecified.map(listen);
        let mappings: Vec<Value> = listeners
            .iter()
            .map(|listener| {
                let port = listener.address().port();
                json!({"hostPort": port, "containerPort": port, "protocol": "tcp"})
            })
            .collect();
        let runtime = json!({
            "portMappings": mappings,
            "bandwidth": {"ingressRate": 80_000_000, "ingressBurst": 8_000_000,
                          "egressRate": 40_000_000, "egressBurst": 8_000_000},
        });
        let result = network
            .add(&container, &runtime)
            .unwrap_or_else(|error| panic!("{error:#}"));
        Self {
            container,
            listeners: listeners.into(),
            runtime,
            result,
        }
    }

    /// Whether each of the host's ports leads to the container, asked from another machine.
    fn answers(&self, lab: &Lab, site: &Site) -> [bool; 2] {
        let host = [site.address, site.address6.unwrap().into()];
        let ask = |index: usize| {
            let target = SocketAddr::new(host[index], self.listeners[index].address().port());
            let asked = ask_source(&lab.topology.router, target, Duration::from_secs(2));
            asked.is_ok()
        };
        [ask(0), ask(1)]
    }
}

/// What a program prints on the machine.
fn printed(site: &Site, program: &str, arguments: &[&str]) -> String {
    let output = site.namespace.command(program).args(arguments).output();
    let output = output.unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// NAT rules of both families that name a container.
fn rules(site: &Site, container: &Container) -> Vec<String> {
    let all = ["iptables-save", "ip6tables-save"].map(|program| printed(site, program, &[]));
    let id = &container.sandbox.container_id;
    let lines = all.iter().flat_map(|text| text.lines());
    lines
        .filter(|line| line.contains(id.as_str()))
        .map(str::to_owned)
        .collect()
}

fn dual_node(programs: lab::Programs) -> Lab {
    let options = Options {
        nodes: 1,
        families: Families::Both,
        patience: PATIENCE,
        ..Options::default()
    };
    Lab::start(options, programs).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn host_ports_lead_to_the_pod_through_a_list_with_portmap_bandwidth_and_tuning() {
    for plugin in ["portmap", "bandwidth", "tuning"] {
        needs(plugin);
    }
    let name = "chain::host_ports_lead_to_the_pod_through_a_list_with_portmap_bandwidth_and_tuning";
    with_programs(name, |programs| {
        let lab = dual_node(programs);
        let site = &lab.topology.sites[0];
        let network = network(site);
        let mut checked = network.clone();
        let plugins = checked.list["plugins"].as_array_mut().unwrap();
        // Version 1.1.1 looks for the rules of IPv4 in ip6tables.
        plugins.retain(|plugin| plugin["type"] != "portmap");
        let (one, other) = (Served::add(&network, "one"), Served::add(&network, "other"));
        for served in [&one, &other] {
            let result = &served.result;
            assert_eq!(result["interfaces"][1]["name"], "eth0", "{result}");
            let inside = Kernel::read(&served.container.namespace).unwrap();
            let mtu = inside.link("eth0").map(|link| link.mtu_bytes);
            assert_eq!(mtu, Some(MTU_BYTES), "{inside:?}");
            assert_eq!(result["ips"].as_array().map(Vec::len), Some(2), "{result}");
            let answers = wait_until(std::time::Instant::now() + PATIENCE, || {
                (served.answers(&lab, site) == [true, true]).then_some(())
            });
            assert!(answers.is_some(), "{:?}", served.answers(&lab, site));
            let device = result["interfaces"][0]["name"].as_str().unwrap();
            let shaped = printed(site, "tc", &["qdisc", "show", "dev", device]);
            assert!(
                shaped.contains("tbf") && shaped.contains("ingress"),
                "{shaped}"
            );
            // Also after tuning has changed what our plugin made.
            checked
                .check(&served.container, &served.runtime, result)
                .unwrap_or_else(|error| panic!("{error:#}"));
        }
        // The runtime has the result of one, and lost that of the other.
        let results = [(&one, Some(&one.result)), (&other, None)];
        for (served, result) in results {
            assert_ne!(rules(site, &served.container), [""; 0]);
            for _ in 0..2 {
                network
                    .del(&served.container, &served.runtime, result)
                    .unwrap_or_else(|error| panic!("{error:#}"));
            }
            assert_eq!(rules(site, &served.container), [""; 0]);
            assert_eq!(served.answers(&lab, site), [false, false]);
            let (container, runtime) = (&served.container, &served.runtime);
            assert!(checked.check(container, runtime, &served.result).is_err());
            if std::ptr::eq(served, &one) {
                assert_eq!(other.answers(&lab, site), [true, true]);
            }
        }
        let gone = wait_until(std::time::Instant::now() + PATIENCE, || {
            let links = site.namespace.netlink().unwrap().links().unwrap();
            let known = |name: &str| ["lo", "eth0"].contains(&name);
            links
                .iter()
                .all(|link| known(&link.name) || !link.up)
                .then_some(())
        });
        assert!(gone.is_some(), "{}", printed(site, "ip", &["link"]));
    });
}
