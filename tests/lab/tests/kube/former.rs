//! Two nodes as Calico leaves them when its DaemonSet goes: its objects in the API server, and in the kernels the devices, routes,
//! neighbours and packet rules of living pods. BIRD 2 stands for Calico's own BIRD, with the same protocols and filters.
//!
//! Source: the forms of calico-node 3.32, and where a row says so those of 3.31 and before.

use std::net::{IpAddr, Ipv4Addr};
use std::process::{Child, Stdio};

use lab::{Lab, Mode, NetNs, Options, Pod, Programs, Site, find_bird, make_sandbox};
use serde_json::{Value, json};

/// In Calico's pool, next to each other and not where an agent of ours would begin.
const POOL: &str = "192.168.0.0/16";
/// VXLAN's overhead below that of the lab's racks.
const VXLAN_MTU: &str = "1450";

/// A node's part of the cluster.
struct Part {
    block: &'static str,
    tunnel: Ipv4Addr,
    /// 66 and the first five octets of the SHA-1 of the node's name.
    tunnel_mac: &'static str,
    /// Device, `cali` and eleven digits of the SHA-1 of `default.` and the pod's name, address and the pod's MAC.
    pods: [(&'static str, Ipv4Addr, &'static str); 2],
}

/// Of n1 and n2, whose pods are named `p0-n1`, `p1-n1`, `p0-n2` and `p1-n2`.
const PARTS: [Part; 2] = [
    Part {
        block: "192.168.77.64/26",
        tunnel: Ipv4Addr::new(192, 168, 77, 64),
        tunnel_mac: "66:40:b3:ea:b6:3f",
        pods: [
            (
                "calif38cec30e7c",
                Ipv4Addr::new(192, 168, 77, 71),
                "3a:00:00:00:01:00",
            ),
            (
                "calic29284dc280",
                Ipv4Addr::new(192, 168, 77, 66),
                "3a:00:00:00:01:01",
            ),
        ],
    },
    Part {
        block: "192.168.201.0/26",
        tunnel: Ipv4Addr::new(192, 168, 201, 9),
        tunnel_mac: "66:40:24:34:76:fc",
        pods: [
            (
                "cali15df9e7f0c6",
                Ipv4Addr::new(192, 168, 201, 0),
                "3a:00:00:00:02:00",
            ),
            (
                "calid26ea5a4020",
                Ipv4Addr::new(192, 168, 201, 63),
                "3a:00:00:00:02:01",
            ),
        ],
    },
];

/// Which Calico it was.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// Routes of pods, and those by BGP, have metric 1024.
    V3_32,
    /// They have metric 0.
    V3_31,
}

/// The cluster of a former Calico. Its processes end with it.
pub(crate) struct Former {
    pub(crate) lab: Lab,
    pub(crate) agents: Vec<Option<Child>>,
}

impl Former {
    /// Of a lab on which nothing runs yet.
    pub(crate) fn of(lab: Lab) -> Self {
        Self {
            lab,
            agents: Vec::new(),
        }
    }

    /// Two pods on each node, connected and known to everybody; no agent of ours.
    pub(crate) fn start(options: Options, programs: Programs, version: Version) -> Self {
        let options = Options {
            nodes: 2,
            pool: POOL.to_owned(),
            ..options
        };
        let lab = Lab::without_agents(options, programs).unwrap_or_else(|error| panic!("{error}"));
        let mut former = Self::of(lab);
        let sites = former.lab.topology.sites.clone();
        let mtu = match former.lab.options.mode {
            Mode::Vxlan => VXLAN_MTU,
            _ => "1500",
        };
        for (site, part) in sites.iter().zip(&PARTS) {
            prepare_node(site);
            for (number, pod) in part.pods.iter().enumerate() {
                let pod = connect(site, number, *pod, (version, mtu));
                former.lab.pods.push(pod);
            }
            packet_rules(site, part);
        }
        former.write_objects();
        if former.lab.options.mode == Mode::Vxlan {
            for (here, there) in [(0, 1), (1, 0)] {
                tunnel(&sites[here], &PARTS[here], &sites[there], &PARTS[there]);
            }
        } else {
            for here in [0, 1] {
                let bird = spawn_bird(&sites, here, version);
                former.agents.push(Some(bird));
            }
        }
        former
    }

    /// The former agent's processes on a node end, as a container's do in which BIRD is to restart gracefully: killed.
    pub(crate) fn stop(&mut self, node: usize) {
        if let Some(mut bird) = self.agents.get_mut(node).and_then(Option::take) {
            bird.kill().unwrap();
            bird.wait().unwrap();
        }
    }

    /// The first pod's node forgets the way to it.
    pub(crate) fn lose_a_route(&self) {
        let site = &self.lab.topology.sites[0];
        let words = format!("ip route del {}", self.lab.pods[0].address);
        run(&site.namespace, &words);
    }

    /// What Calico's start-up, tunnel allocator and CNI plugin write.
    fn write_objects(&mut self) {
        let vxlan = self.lab.options.mode == Mode::Vxlan;
        let mut objects = vec![
            object(
                "ClusterInformation",
                "default",
                json!({
                    "calicoVersion": "v3.32.1", "clusterGUID": "0123456789abcdef0123456789abcdef",
                    "clusterType": "k8s,bgp,kubeadm,kdd", "datastoreReady": true, "variant": "Calico",
                }),
            ),
            object(
                "FelixConfiguration",
                "default",
                json!({"bpfConnectTimeLoadBalancing": "TCP", "logSeverityScreen": "Info"}),
            ),
            object(
                "IPPool",
                "default-ipv4-ippool",
                json!({
                    "allowedUses": ["Workload", "Tunnel"], "assignmentMode": "Automatic", "blockSize": 26, "cidr": POOL,
                    "ipipMode": "Never", "natOutgoing": true, "nodeSelector": "all()",
                    "vxlanMode": if vxlan { "Always" } else { "Never" },
                }),
            ),
        ];
        let sites = self.lab.topology.sites.clone();
        for (site, part) in sites.iter().zip(&PARTS) {
            let name = &site.name;
            let pods: Vec<&Pod> = self
                .lab
                .pods
                .iter()
                .filter(|pod| pod.node == *name)
                .collect();
            let dashes = part.block.replace(['.', '/'], "-");
            objects.push(block(site, part, &pods, vxlan));
            objects.push(object("BlockAffinity", &format!("{name}-{dashes}"), json!({
                "cidr": part.block, "deleted": "false", "node": name, "state": "confirmed", "type": "host",
            })));
            let handles = pods
                .iter()
                .map(|pod| handle(pod))
                .chain(vxlan.then(|| tunnel_handle(site)));
            for handle in handles {
                let spec = json!({"block": {part.block: 1}, "deleted": false, "handleID": handle});
                objects.push(object("IPAMHandle", &handle.to_lowercase(), spec));
            }
        }
        let objects: Vec<String> = objects.iter().map(Value::to_string).collect();
        let kube = self.lab.kube();
        kube.server.apply(&objects.join("\n---\n")).unwrap();
        self.annotate_nodes();
        self.write_pods();
    }

    fn annotate_nodes(&mut self) {
        let vxlan = self.lab.options.mode == Mode::Vxlan;
        let sites = self.lab.topology.sites.clone();
        let kube = self.lab.kube();
        for (site, part) in sites.iter().zip(&PARTS) {
            let mut notes = vec![format!("projectcalico.org/IPv4Address={}/24", site.address)];
            if vxlan {
                notes.push(format!(
                    "projectcalico.org/IPv4VXLANTunnelAddr={}",
                    part.tunnel
                ));
            }
            let words: Vec<&str> = notes.iter().map(String::as_str).collect();
            let annotate = [&["annotate", "node", &site.name], words.as_slice()].concat();
            kube.server.kubectl(&annotate).unwrap();
        }
    }

    fn write_pods(&mut self) {
        let sites = self.lab.topology.sites.clone();
        for pod in self.lab.pods.clone() {
            let site = sites.iter().find(|site| site.name == pod.node).unwrap();
            let kube = self.lab.kube();
            let name = pod.sandbox().pod_name.clone();
            kube.create_pod(site, &name).unwrap();
            let notes = [
                format!(
                    "cni.projectcalico.org/containerID={}",
                    pod.sandbox().container_id
                ),
                format!("cni.projectcalico.org/podIP={}/32", pod.address),
                format!("cni.projectcalico.org/podIPs={}/32", pod.address),
            ];
            let words: Vec<&str> = notes.iter().map(String::as_str).collect();
            let annotate = [&["annotate", "pod", &name], words.as_slice()].concat();
            kube.server.kubectl(&annotate).unwrap();
            kube.pod_runs(&name, &[pod.address]).unwrap();
        }
    }
}

impl Drop for Former {
    fn drop(&mut self) {
        for node in 0..self.agents.len() {
            self.stop(node);
        }
    }
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "crd.projectcalico.org/v1", "kind": kind,
        "metadata": {"name": name, "annotations": {"projectcalico.org/metadata": "{\"creationTimestamp\":null}"}},
        "spec": spec,
    })
}

fn handle(pod: &Pod) -> String {
    format!("k8s-pod-network.{}", pod.sandbox().container_id)
}

fn tunnel_handle(site: &Site) -> String {
    format!("vxlan-tunnel-addr-{}", site.name)
}

/// The node's block, with its pods' addresses and its tunnel's.
fn block(site: &Site, part: &Part, pods: &[&Pod], vxlan: bool) -> Value {
    let base = part
        .block
        .split('/')
        .next()
        .and_then(|base| base.parse::<Ipv4Addr>().ok());
    let base = u32::from(base.unwrap());
    let mut owners: Vec<(IpAddr, Value)> = pods
        .iter()
        .map(|pod| {
            let owner = json!({"handle_id": handle(pod), "secondary": {
                "namespace": "default", "node": site.name, "pod": pod.sandbox().pod_name, "timestamp": "2026-08-22 06:33:20 +0000 UTC",
            }});
            (pod.address, owner)
        })
        .collect();
    if vxlan {
        let secondary = json!({"node": site.name, "type": "vxlanTunnelAddress"});
        owners.push((
            part.tunnel.into(),
            json!({"handle_id": tunnel_handle(site), "secondary": secondary}),
        ));
    }
    let (mut allocations, mut numbers) = (vec![Value::Null; 64], json!({}));
    for (index, (address, _)) in owners.iter().enumerate() {
        let IpAddr::V4(address) = *address else {
            panic!("{address} is in no block of IPv4");
        };
        let slot = u32::from(address) - base;
        allocations[slot as usize] = json!(index);
        numbers[slot.to_string()] = json!(1_787_380_400_123_456_700_u64 + index as u64);
    }
    let free: Vec<usize> = (0..64)
        .filter(|slot| allocations[*slot].is_null())
        .collect();
    let attributes: Vec<&Value> = owners.iter().map(|(_, owner)| owner).collect();
    object(
        "IPAMBlock",
        &part.block.replace(['.', '/'], "-"),
        json!({
            "affinity": format!("host:{}", site.name), "allocations": allocations, "attributes": attributes, "cidr": part.block,
            "deleted": false, "sequenceNumber": 1_787_380_400_123_456_789_u64, "sequenceNumberForAllocation": numbers,
            "strictAffinity": false, "unallocated": free,
        }),
    )
}

/// Runs a program of the machine in a namespace, words apart by blanks.
fn run(namespace: &NetNs, words: &str) {
    let mut words = words.split(' ');
    let program = words.next().unwrap();
    let mut command = namespace.command(program);
    command
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .args(words)
        .stdin(Stdio::null());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

fn prepare_node(site: &Site) {
    site.namespace
        .set_sysctl("net/ipv4/ip_forward", "1")
        .unwrap();
}

/// What Calico's plugin makes, and Felix keeps.
fn connect(
    site: &Site,
    number: usize,
    pod: (&str, Ipv4Addr, &str),
    (version, mtu): (Version, &str),
) -> Pod {
    let (device, address, mac) = pod;
    let name = format!("p{number}");
    let (sandbox, inside) = make_sandbox(site, &name).unwrap_or_else(|error| panic!("{error}"));
    let host = &site.namespace;
    run(
        host,
        &format!(
            "ip link add {device} address ee:ee:ee:ee:ee:ee mtu {mtu} type veth peer name eth0 address {mac} mtu {mtu} netns cni-{name}"
        ),
    );
    for words in [
        format!("ip address add {address}/32 dev eth0"),
        "ip link set eth0 up".to_owned(),
        "ip route add 169.254.1.1 dev eth0 scope link".to_owned(),
        "ip route add default via 169.254.1.1 dev eth0".to_owned(),
    ] {
        run(&inside, &words);
    }
    run(host, &format!("ip link set {device} up"));
    for (key, value) in [
        (format!("conf/{device}/route_localnet"), "1"),
        (format!("conf/{device}/proxy_arp"), "1"),
        (format!("conf/{device}/forwarding"), "1"),
        (format!("conf/{device}/rp_filter"), "1"),
        (format!("neigh/{device}/proxy_delay"), "0"),
    ] {
        host.set_sysctl(&format!("net/ipv4/{key}"), value).unwrap();
    }
    let metric = match version {
        Version::V3_32 => " metric 1024",
        Version::V3_31 => "",
    };
    run(
        host,
        &format!("ip route add {address} dev {device} scope link proto boot{metric}"),
    );
    run(
        host,
        &format!("ip neighbour replace {address} lladdr {mac} dev {device} nud permanent"),
    );
    Pod::connected(site, &name, sandbox, inside, address)
}

/// Felix's device, and what it keeps of the other node.
fn tunnel(here: &Site, own: &Part, there: &Site, other: &Part) {
    let (address, far, block, mac) = (own.tunnel, other.tunnel, other.block, other.tunnel_mac);
    for words in [
        format!(
            "ip link add vxlan.calico address {} mtu {VXLAN_MTU} type vxlan id 4096 dstport 4789 local {} dev eth0",
            own.tunnel_mac, here.address
        ),
        format!("ip address add {address}/32 dev vxlan.calico"),
        "ip link set vxlan.calico up".to_owned(),
        format!("ip neighbour add {far} lladdr {mac} dev vxlan.calico nud permanent"),
        format!(
            "bridge fdb add {mac} dst {} dev vxlan.calico self permanent",
            there.address
        ),
        format!("ip route add {block} via {far} dev vxlan.calico onlink proto 3 mtu {VXLAN_MTU}"),
        format!("ip route add blackhole {} proto 80", own.block),
    ] {
        run(&here.namespace, &words);
    }
}

/// The rules that Felix leaves, as far as they are about packets between pods: devices that it did not know are shut.
fn packet_rules(site: &Site, part: &Part) {
    let known = part.pods.map(|(device, _, _)| device).join(", ");
    let rules = format!(
        "table ip calico {{
  set cali40masq-ipam-pools {{ type ipv4_addr; flags interval; elements = {{ {POOL} }} }}
  chain filter-FORWARD {{
    type filter hook forward priority 0; policy accept;
    iifname \"cali*\" iifname != {{ {known} }} counter drop comment \"cali:Sx5p0jbqB1fhuXrU; Unknown interface\"
    oifname \"cali*\" oifname != {{ {known} }} counter drop comment \"cali:4TbRVVcxvLFvy5Fv; Unknown interface\"
  }}
  chain nat-POSTROUTING {{ type nat hook postrouting priority 110; jump nat-cali-nat-outgoing; }}
  chain nat-cali-nat-outgoing {{
    ip saddr @cali40masq-ipam-pools ip daddr != @cali40masq-ipam-pools counter masquerade fully-random comment \"cali:flqWnvo8yq4ULQLa\"
  }}
}}"
    );
    let mut command = site.namespace.command("nft");
    command
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .arg(rules);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// As confd renders it for a mesh of two.
fn spawn_bird(sites: &[Site], here: usize, version: Version) -> Child {
    let (own, peer) = (&sites[here], &sites[1 - here]);
    let (preference, metric) = match version {
        Version::V3_32 => ("bgp_local_pref = 2147482623;", "krt_metric = 1024;"),
        Version::V3_31 => ("", ""),
    };
    let text = format!(
        "log stderr all;
router id {address};
protocol device {{ scan time 2; }}
protocol direct {{ interface -\"cali*\", \"*\"; ipv4; }}
protocol static blocks {{ ipv4; route {block} blackhole; }}
protocol kernel {{
  learn; persist; scan time 2; graceful restart; merge paths on; metric 0;
  ipv4 {{
    import all;
    export filter {{
      if source = RTS_STATIC then accept;
      if source = RTS_BGP then {{ {metric} accept; }}
      reject;
    }};
  }};
}}
protocol bgp Mesh {{
  local {address} as 64512;
  neighbor {peer} as 64512;
  multihop;
  graceful restart;
  connect delay time 1; connect retry time 1; error wait time 1, 2;
  ipv4 {{
    import all; gateway recursive; add paths on;
    export filter {{ if source = RTS_STATIC then {{ {preference} accept; }} reject; }};
  }};
}}
",
        address = own.address,
        peer = peer.address,
        block = PARTS[here].block,
    );
    let folder = std::path::Path::new(lab::BASE);
    let path = folder.join(format!("former-{}.conf", own.name));
    std::fs::write(&path, text).unwrap();
    let log = std::fs::File::create(folder.join(format!("log/former-{}.log", own.name))).unwrap();
    let mut command = own.namespace.command(find_bird().unwrap());
    command
        .args(["-f", "-s"])
        .arg(folder.join(format!("former-{}.ctl", own.name)));
    command
        .arg("-c")
        .arg(path)
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}
