//! Packets that a node does not take: tunnels' of strangers, pods' under foreign addresses, pods' to their own node.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::{Duration, Instant};

use ipnet::{Ipv4Net, Ipv6Net};
use lab::{Capture, Families, Lab, Mode, NetNs, Options, Packet, Pod, Site, wait_until};

use crate::{apply, converged, ctl, options, with_programs};

const VXLAN_PORT: u16 = 4789;
const VNI: u32 = 4096;

fn socket(namespace: &NetNs, address: impl Into<IpAddr>) -> UdpSocket {
    let address = address.into();
    let socket = namespace.run(|| UdpSocket::bind((address, 0)).unwrap());
    socket.set_read_timeout(Some(options().patience)).unwrap();
    socket
}

/// One UDP packet with an empty checksum in IPv4, Ethernet and VXLAN: what a VXLAN device would send.
fn encapsulated(mac: [u8; 6], from: (IpAddr, u16), to: (IpAddr, u16), payload: u8) -> Vec<u8> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (from.0, to.0) else {
        panic!("of IPv4: {from:?} {to:?}");
    };
    let udp = [
        &from.1.to_be_bytes()[..],
        &to.1.to_be_bytes(),
        &9_u16.to_be_bytes(),
        &[0, 0, payload],
    ]
    .concat();
    let length = u16::try_from(20 + udp.len()).unwrap();
    let mut ip = [
        &[0x45, 0][..],
        &length.to_be_bytes(),
        &[0, 0, 0, 0, 64, 17, 0, 0],
    ]
    .concat();
    ip.extend(source.octets());
    ip.extend(destination.octets());
    let words = ip.chunks(2);
    let sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let vni = (VNI << 8).to_be_bytes();
    let ethernet = [&mac[..], &[2, 0, 0, 0, 0, 9], &[8, 0]].concat();
    [&[8, 0, 0, 0][..], &vni, &ethernet, &ip, &udp].concat()
}

/// Which of the packets, sent in order, arrive: by their places. The last one must.
fn arrivals(sends: &[&dyn Fn(u8)], at: &UdpSocket) -> Vec<u8> {
    for (number, send) in (0_u8..).zip(sends) {
        send(number);
    }
    let last = u8::try_from(sends.len() - 1).unwrap();
    let mut seen = Vec::new();
    while seen.last() != Some(&last) {
        let mut packet = [0; 1];
        at.recv_from(&mut packet)
            .unwrap_or_else(|error| panic!("after {seen:?}: {error}"));
        seen.push(packet[0]);
    }
    seen
}

/// Waits until what arrives is this.
fn comes_to(wanted: &[u8], when: &str, arrive: impl Fn() -> Vec<u8>) {
    let deadline = Instant::now() + options().patience;
    let mut last = Vec::new();
    let reached = wait_until(deadline, || {
        last = arrive();
        (last == wanted).then_some(())
    });
    assert!(reached.is_some(), "{when}: {last:?} arrive, not {wanted:?}");
}

fn run_ctl(lab: &Lab, arguments: &[&str]) {
    let output = ctl(lab, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

fn set(lab: &Lab, setting: &str) {
    set_in(lab, "default", setting);
}

fn set_in(lab: &Lab, configuration: &str, setting: &str) {
    let patch = format!("{{\"spec\": {setting}}}");
    run_ctl(
        lab,
        &["patch", "felixconfiguration", configuration, "-p", &patch],
    );
}

fn mac_of(site: &Site, device: &str) -> [u8; 6] {
    let links = site.namespace.netlink().unwrap().links().unwrap();
    let link = links.into_iter().find(|link| link.name == device);
    let mac = link.unwrap().mac;
    let octets = mac
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16).unwrap());
    octets.collect::<Vec<u8>>().try_into().unwrap()
}

#[test]
fn a_node_takes_tunnel_packets_of_nodes_only() {
    let name = "filter::a_node_takes_tunnel_packets_of_nodes_only";
    with_programs(name, |programs| {
        let some = Options {
            nodes: 2,
            mode: Mode::Vxlan,
            ..options()
        };
        let mut lab = Lab::start(some, programs).unwrap_or_else(|error| panic!("{error}"));
        for node in 0..2 {
            lab.add_pod(node).unwrap_or_else(|error| panic!("{error}"));
        }
        converged(&mut lab);
        let world = lab.topology.attach("world", 250, 1).unwrap();
        let (here, there) = (&lab.topology.sites[0], &lab.topology.sites[1]);
        let pod_of = |site: &Site| lab.pods.iter().find(|pod| pod.node == site.name).unwrap();
        let (pod, far) = (pod_of(here), pod_of(there));
        let at_pod = socket(&pod.namespace, pod.address);
        let to = (pod.address, at_pod.local_addr().unwrap().port());
        let mac = mac_of(here, "vxlan.calico");
        let outer = (here.address, VXLAN_PORT);
        let forge = |from: &UdpSocket, number| {
            let packet = encapsulated(mac, (far.address, 99), to, number);
            from.send_to(&packet, outer).unwrap();
        };
        let stranger = socket(&world.namespace, world.address);
        let node = socket(&there.namespace, there.address);
        let (of_stranger, of_node) = (|n| forge(&stranger, n), |n| forge(&node, n));
        let arrive = || arrivals(&[&of_stranger, &of_node], &at_pod);
        assert_eq!(arrive(), [1], "a stranger's packet is not taken");
        // One that the operator names, live.
        set(
            &lab,
            &format!("{{\"externalNodesList\": [\"{}/31\"]}}", world.address),
        );
        comes_to(&[0, 1], "named", arrive);
        set(&lab, "{\"externalNodesList\": null}");
        comes_to(&[1], "no longer named", arrive);
        // One that joins.
        let manifest = format!(
            "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {{name: world}}\nspec: {{bgp: {{ipv4Address: {}/24}}}}\n",
            world.address
        );
        apply(&lab, &manifest);
        comes_to(&[0, 1], "a node by now", arrive);
        run_ctl(&lab, &["delete", "node", "world"]);
        comes_to(&[1], "no node any more", arrive);
    });
}

#[test]
fn pods_send_under_their_own_addresses_and_to_their_node_as_the_setting_says() {
    let name = "filter::pods_send_under_their_own_addresses_and_to_their_node_as_the_setting_says";
    with_programs(name, |programs| {
        let some = Options {
            nodes: 2,
            families: Families::Both,
            ..options()
        };
        let mut lab = Lab::start(some, programs).unwrap_or_else(|error| panic!("{error}"));
        for node in 0..2 {
            lab.add_pod(node).unwrap_or_else(|error| panic!("{error}"));
        }
        converged(&mut lab);
        let site = &lab.topology.sites[0];
        let pod = lab.pods.iter().find(|pod| pod.node == site.name).unwrap();
        let far = lab.pods.iter().find(|pod| pod.node != site.name).unwrap();
        let foreign = Ipv4Addr::new(10, 99, 9, 9);
        let mut netlink = pod.namespace.netlink().unwrap();
        netlink.add_address("lo", Ipv4Net::from(foreign)).unwrap();
        let foreign6: Ipv6Addr = "fd99::9".parse().unwrap();
        netlink.add_address6("lo", Ipv6Net::from(foreign6)).unwrap();
        let send = |from: &UdpSocket, to, number| {
            from.send_to(&[number], to).unwrap();
        };
        for (own, foreign, far_address) in [
            (pod.address, IpAddr::from(foreign), far.address),
            (
                pod.address6.unwrap().into(),
                foreign6.into(),
                far.address6.unwrap().into(),
            ),
        ] {
            let (own, spoofing) = (socket(&pod.namespace, own), socket(&pod.namespace, foreign));
            let at_far = socket(&far.namespace, far_address);
            let to_far = at_far.local_addr().unwrap();
            let spoofed = |n| send(&spoofing, to_far, n);
            let honest = |n| send(&own, to_far, n);
            assert_eq!(arrivals(&[&spoofed, &honest], &at_far), [1], "{foreign}");
        }
        let own = socket(&pod.namespace, pod.address);

        // To its node: answers only, which shows by a question of the node that comes last.
        let at_node = socket(&site.namespace, site.address);
        let to_node = at_node.local_addr().unwrap();
        let asks = |_| {
            at_node.send_to(&[0], own.local_addr().unwrap()).unwrap();
            own.recv_from(&mut [0; 1]).unwrap();
        };
        let reaches = || {
            let fresh = socket(&pod.namespace, pod.address);
            let of_itself = |n| send(&fresh, to_node, n);
            let answer = |n| {
                asks(n);
                send(&own, to_node, n);
            };
            arrivals(&[&of_itself, &answer], &at_node)
        };
        assert_eq!(reaches(), [0, 1], "as the agent's start has set it");
        let of_node = format!("node.{}", site.name);
        let act = |action: &str| {
            let setting = format!("{{\"defaultEndpointToHostAction\": \"{action}\"}}");
            set_in(&lab, &of_node, &setting);
        };
        act("Drop");
        comes_to(&[1], "DROP", reaches);
        act("Accept");
        comes_to(&[0, 1], "ACCEPT", reaches);
        act("Drop");
        comes_to(&[1], "DROP again", reaches);
        what_is_for_services_goes_no_further(&lab, pod, far);
    });
}

/// Of both families: what a pod sends to a service that nobody translates leaves its node, unless that is in a range of services.
fn what_is_for_services_goes_no_further(lab: &Lab, pod: &Pod, far: &Pod) {
    let services: [IpAddr; 2] = ["10.96.0.9".parse().unwrap(), "fd96::9".parse().unwrap()];
    let leaves = |service: IpAddr| {
        let mut pairs = pod.addresses().zip(far.addresses());
        let (own, far) = pairs
            .find(|(own, _)| own.is_ipv4() == service.is_ipv4())
            .unwrap();
        let mut capture = Capture::open(&lab.topology.racks[0].switch).unwrap();
        let from = socket(&pod.namespace, own);
        for to in [service, far] {
            from.send_to(&[0], (to, 9)).unwrap();
        }
        let deadline = Instant::now() + options().patience;
        let one = |packet: &Packet| [service, far].contains(&packet.destination);
        let first = capture.find(deadline, one).unwrap();
        first.unwrap().destination == service
    };
    let comes_to = |wanted: bool, when: &str| {
        let deadline = Instant::now() + options().patience;
        for service in services {
            let reached = wait_until(deadline, || (leaves(service) == wanted).then_some(()));
            assert!(reached.is_some(), "{when}: {service}: not {wanted}");
        }
    };
    comes_to(true, "no range");
    let manifest = "apiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata: {name: default}\nspec:\n  serviceClusterIPs: [{cidr: 10.96.0.0/12}, {cidr: 'fd96::/108'}]\n";
    apply(lab, manifest);
    comes_to(false, "Drop");
    set(lab, "{\"serviceLoopPrevention\": \"Reject\"}");
    for service in services {
        let own = pod
            .addresses()
            .find(|own| own.is_ipv4() == service.is_ipv4());
        let deadline = Instant::now() + options().patience;
        let told = wait_until(deadline, || {
            let from = socket(&pod.namespace, own.unwrap());
            from.set_read_timeout(Some(Duration::from_millis(100)))
                .unwrap();
            from.connect((service, 9)).unwrap();
            from.send(&[0]).unwrap();
            let error = from.recv(&mut [0; 1]).unwrap_err();
            (error.kind() == std::io::ErrorKind::ConnectionRefused).then_some(())
        });
        assert!(told.is_some(), "Reject: {service}");
    }
    set(lab, "{\"serviceLoopPrevention\": \"Disabled\"}");
    comes_to(true, "Disabled");
}

/// A program of the machine in a node's namespace; `None` where it is not installed.
fn run_on(site: &Site, words: &str) -> Option<String> {
    let mut words = words.split(' ');
    let mut command = site.namespace.command(words.next()?);
    command
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .args(words);
    let output = command.output().ok()?;
    assert!(output.status.success(), "{command:?}: {output:?}");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn chains_that_felix_left_go_and_those_of_others_stay() {
    let name = "filter::chains_that_felix_left_go_and_those_of_others_stay";
    with_programs(name, |programs| {
        let some = Options {
            nodes: 2,
            ..options()
        };
        let mut lab = Lab::start(some, programs).unwrap_or_else(|error| panic!("{error}"));
        lab.add_pod(1).unwrap_or_else(|error| panic!("{error}"));
        lab.kill_agent(0).unwrap();
        let site = lab.topology.sites[0].clone();
        // Root's alone, also in another user's namespaces.
        let lists_legacy = std::fs::read("/proc/net/ip_tables_names").map_or_else(
            |error| error.kind() != ErrorKind::PermissionDenied,
            |_| true,
        );
        let programs = ["iptables-nft", "iptables-legacy"];
        for program in programs {
            // Devices of pods that Felix did not know are shut.
            for rule in [
                "-N cali-FORWARD",
                "-A cali-FORWARD -i cali+ -j DROP",
                "-A cali-FORWARD -o cali+ -j DROP",
                "-I FORWARD 1 -m comment --comment cali:wUHhoiAYhphO9Mso -j cali-FORWARD",
                "-N KUBE-FORWARD",
                "-A FORWARD -j KUBE-FORWARD",
            ] {
                if !lists_legacy || run_on(&site, &format!("{program} -w {rule}")).is_none() {
                    harness::skip(
                        "iptables",
                        "no program `iptables`, which wrote Felix's rules, or a user who may not list its tables",
                    );
                }
            }
        }
        // Another program's chain that drops what it does not accept itself.
        for words in [
            "add table inet firewall",
            "add chain inet firewall forward { type filter hook forward priority 0 ; policy drop ; }",
            "add rule inet firewall forward accept",
        ] {
            run_on(&site, &format!("nft {words}"));
        }
        lab.restart_agent(0)
            .unwrap_or_else(|error| panic!("{error}"));
        lab.add_pod(0).unwrap_or_else(|error| panic!("{error}"));
        // Its pod reaches the other one.
        converged(&mut lab);
        for program in programs {
            let left = run_on(&site, &format!("{program}-save")).unwrap();
            assert!(!left.contains("cali"), "{program}: {left}");
            assert!(
                left.contains("-A FORWARD -j KUBE-FORWARD"),
                "{program}: {left}"
            );
        }
    });
}
