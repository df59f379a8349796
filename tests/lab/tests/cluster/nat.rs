//! NAT-outgoing: which source the world beyond the cluster sees.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Instant;

use lab::{Lab, Mode, NetNs, Options, Site, SourceReporter, ask_source, wait_until};

use crate::{converged, ctl, options, with_programs};

/// A socket in a namespace; it may be used from anywhere.
fn socket(namespace: &NetNs, address: IpAddr) -> UdpSocket {
    let socket = namespace.run(|| UdpSocket::bind((address, 0)).unwrap());
    socket.set_read_timeout(Some(options().patience)).unwrap();
    socket
}

/// The source that `to` sees of a packet of `from`.
fn seen(from: &UdpSocket, to: &UdpSocket) -> SocketAddr {
    from.send_to(b"hello", to.local_addr().unwrap()).unwrap();
    to.recv_from(&mut [0; 16]).unwrap().1
}

fn patch_pool(lab: &Lab, patch: &str) {
    let output = ctl(
        lab,
        &["patch", "ippool", "default-ipv4-ippool", "-p", patch],
    );
    assert!(output.status.success(), "{output:?}");
}

/// How many connections of an address the node tracks.
fn tracked(site: &Site, address: IpAddr) -> usize {
    let list = || std::fs::read_to_string("/proc/thread-self/net/nf_conntrack");
    let text = site.namespace.run(list).unwrap_or_default();
    let source = format!("src={address} ");
    text.lines().filter(|line| line.contains(&source)).count()
}

fn nft(site: &Site, arguments: &[&str]) -> Option<String> {
    let output = site
        .namespace
        .run(|| Command::new("nft").args(arguments).output());
    let output = output.ok()?;
    assert!(output.status.success(), "{output:?}");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn the_world_sees_a_pods_node_and_the_cluster_sees_the_pod() {
    with_programs(
        "nat::the_world_sees_a_pods_node_and_the_cluster_sees_the_pod",
        |programs| {
            let mut lab = Lab::start(
                Options {
                    nodes: 2,
                    environment: vec![(
                        "FELIX_DEFAULTENDPOINTTOHOSTACTION".to_owned(),
                        "ACCEPT".to_owned(),
                    )],
                    ..options()
                },
                programs,
            )
            .unwrap_or_else(|error| panic!("{error}"));
            for node in 0..2 {
                lab.add_pod(node).unwrap_or_else(|error| panic!("{error}"));
            }
            converged(&mut lab);
            // A machine that knows nothing of pods: an answer comes to the node's address only.
            let world = lab.topology.attach("world", 250, 1).unwrap();
            let reporter = SourceReporter::open(&world.namespace, world.address).unwrap();
            let node = lab.topology.sites[0].address;
            let (pod, far) = (&lab.pods[0], &lab.pods[1]);
            let ask = |target| {
                let seen = ask_source(&pod.namespace, target, options().patience);
                seen.unwrap_or_else(|error| panic!("{error}")).source
            };
            assert_eq!(ask(reporter.address()), node);
            let in_cluster = SourceReporter::open(&far.namespace, far.address).unwrap();
            assert_eq!(ask(in_cluster.address()), pod.address, "between pods");
            let own = &lab.topology.sites[0];
            let on_node = SourceReporter::open(&own.namespace, own.address).unwrap();
            assert_eq!(ask(on_node.address()), pod.address, "to its own node");

            // Whatever somebody does to the rules is undone, and the pool's word is followed.
            let at_world = socket(&world.namespace, world.address);
            // A flow that is known keeps its translation: each look is a new one.
            let of_pod = || socket(&pod.namespace, pod.address);
            let sees = |wanted: IpAddr, when: &str| {
                let deadline = Instant::now() + options().patience;
                let reached = wait_until(deadline, || {
                    (seen(&of_pod(), &at_world).ip() == wanted).then_some(())
                });
                assert!(reached.is_some(), "{when}: {wanted} was not seen");
            };
            patch_pool(&lab, r#"{"spec": {"natOutgoing": false}}"#);
            sees(pod.address, "natOutgoing off");
            patch_pool(&lab, r#"{"spec": {"natOutgoing": true}}"#);
            sees(node, "natOutgoing on again");
            for change in [
                vec!["delete", "table", "ip", "calico"],
                vec!["flush", "chain", "ip", "calico", "nat-cali-nat-outgoing"],
            ] {
                if nft(own, &change).is_none() {
                    harness::skip(
                        "nft",
                        "no program `nft` (package nftables): somebody else who writes rules",
                    );
                }
                sees(node, &change.join(" "));
            }
            // Without its agent the node goes on; a new one finds its table as it should be and leaves it alone.
            let handles = || nft(own, &["-a", "list", "table", "ip", "calico"]).unwrap();
            let before = handles();
            let fresh = of_pod();
            lab.kill_agent(0).unwrap();
            assert_eq!(seen(&fresh, &at_world).ip(), node);
            lab.restart_agent(0)
                .unwrap_or_else(|error| panic!("{error}"));
            converged(&mut lab);
            let own = &lab.topology.sites[0];
            assert_eq!(
                nft(own, &["-a", "list", "table", "ip", "calico"]).unwrap(),
                before
            );
            // Whoever gets the pod's address next does not inherit its connections.
            let address = lab.pods[0].address;
            if tracked(own, address) == 0 {
                harness::skip(
                    "conntrack",
                    "the kernel does not list tracked connections in /proc/net/nf_conntrack",
                );
            }
            lab.delete_pods()
                .unwrap_or_else(|errors| panic!("{errors:?}"));
            let own = &lab.topology.sites[0];
            let forgotten = wait_until(Instant::now() + options().patience, || {
                (tracked(own, address) == 0).then_some(())
            });
            assert!(
                forgotten.is_some(),
                "connections of {address} outlive their pod"
            );
        },
    );
}

#[test]
fn a_nodes_own_packets_enter_the_tunnel_with_the_tunnels_address() {
    with_programs(
        "nat::a_nodes_own_packets_enter_the_tunnel_with_the_tunnels_address",
        |programs| {
            let mut lab = Lab::start(
                Options {
                    nodes: 2,
                    mode: Mode::Vxlan,
                    ..options()
                },
                programs,
            )
            .unwrap_or_else(|error| panic!("{error}"));
            lab.add_pod(1).unwrap_or_else(|error| panic!("{error}"));
            converged(&mut lab);
            let site = &lab.topology.sites[0];
            let far = lab
                .pods
                .iter()
                .find(|pod| pod.node == lab.topology.sites[1].name)
                .unwrap();
            let at_pod = socket(&far.namespace, far.address);
            // An answer to the node's own address would not come back through the tunnel.
            let of_node = socket(&site.namespace, site.address);
            let shown = seen(&of_node, &at_pod);
            let pool: ipnet::Ipv4Net = options().pool.parse().unwrap();
            assert!(
                matches!(shown.ip(), IpAddr::V4(addr) if pool.contains(&addr)),
                "{shown}"
            );
            assert!(shown.port() > 4789, "{shown}: not a port of VXLAN");
            at_pod.send_to(b"hello", shown).unwrap();
            assert_eq!(of_node.recv_from(&mut [0; 16]).unwrap().0, 5, "the answer");
        },
    );
}
