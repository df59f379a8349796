//! Network, container and interface together name what an ADD made: whoever shares a part of it keeps its own.

use std::net::Ipv4Addr;

use lab::{Lab, Mode, NetNs, Options, Sandbox, Site, make_sandbox, wait_until};
use serde_json::{Value, json};

use crate::plugin::{
    call, configuration, devices, devices_become, fails, holds, one_node, sandboxes, stored,
    succeeds,
};
use crate::{ctl, options, with_programs};

fn of_network(name: &str) -> Value {
    let mut configuration = configuration();
    configuration["name"] = name.into();
    configuration
}

fn address(result: &Value) -> Ipv4Addr {
    let text = result["ips"][0]["address"].as_str().unwrap_or_default();
    let host = text.strip_suffix("/32");
    host.and_then(|host| host.parse().ok())
        .unwrap_or_else(|| panic!("no address in {result}"))
}

/// Whether the node reaches an address of a pod.
fn reaches(site: &Site, target: Ipv4Addr) -> bool {
    let mut pinger = lab::Pinger::open(&site.namespace, 7).unwrap();
    pinger.ping(target, options().patience).unwrap().is_some()
}

/// Names of the links inside a pod.
fn links(pod: &NetNs) -> Vec<String> {
    let links = pod.netlink().unwrap().links().unwrap();
    links.into_iter().map(|link| link.name).collect()
}

fn interface(sandbox: &Sandbox, ifname: &str) -> Sandbox {
    Sandbox {
        ifname: ifname.to_owned(),
        ..sandbox.clone()
    }
}

#[test]
fn gc_of_one_network_leaves_the_pods_of_others_alone() {
    let name = "attachments::gc_of_one_network_leaves_the_pods_of_others_alone";
    with_programs(name, |programs| {
        let lab = one_node(programs, "192.168.0.0/24");
        let site = lab.topology.sites[0].clone();
        let pods = sandboxes(&site, 3);
        // Names that begin alike, the second with the separator of a handle in it.
        let networks = ["k8s-pod-network", "k8s-pod-network.second", "second"];
        let addresses: Vec<Ipv4Addr> = pods
            .iter()
            .zip(networks)
            .map(|((pod, _), network)| address(&succeeds(&site, pod, "ADD", &of_network(network))))
            .collect();
        let collect = |network: &str| {
            let mut nothing_valid = of_network(network);
            nothing_valid["cni.dev/valid-attachments"] = json!([]);
            succeeds(&site, &pods[0].0, "GC", &nothing_valid);
        };
        collect("third");
        holds(&lab, 3);
        collect("k8s-pod-network");
        holds(&lab, 2);
        assert!(reaches(&site, addresses[1]) && reaches(&site, addresses[2]));
        collect("k8s-pod-network.second");
        holds(&lab, 1);
        assert!(reaches(&site, addresses[2]));
        collect("second");
        holds(&lab, 0);
    });
}

#[test]
fn gc_removes_a_device_without_an_endpoint_only_in_its_own_network() {
    let name = "attachments::gc_removes_a_device_without_an_endpoint_only_in_its_own_network";
    with_programs(name, |programs| {
        let lab = one_node(programs, "192.168.0.0/24");
        let site = lab.topology.sites[0].clone();
        let (pod, _namespace) = make_sandbox(&site, "pod").unwrap();
        succeeds(&site, &pod, "ADD", &configuration());
        // As when the store lost it.
        let endpoint = stored(&lab, "workloadendpoints")[0]["metadata"]["name"].clone();
        let deleted = ctl(
            &lab,
            &["delete", "workloadendpoint", endpoint.as_str().unwrap()],
        );
        assert!(deleted.status.success(), "{deleted:?}");
        let collect = |network: &str, valid: Value| {
            let mut configuration = of_network(network);
            configuration["cni.dev/valid-attachments"] = valid;
            succeeds(&site, &pod, "GC", &configuration);
        };
        let container = &pod.container_id;
        collect("second", json!([]));
        collect(
            "k8s-pod-network",
            json!([{"containerID": container, "ifname": "eth0"}]),
        );
        assert_eq!(devices(&site).len(), 1, "the runtime has the pod");
        collect("k8s-pod-network", json!([]));
        holds(&lab, 0);
    });
}

#[test]
fn a_stale_containers_del_leaves_the_pods_new_device_even_without_an_endpoint() {
    let name =
        "attachments::a_stale_containers_del_leaves_the_pods_new_device_even_without_an_endpoint";
    with_programs(name, |programs| {
        let lab = one_node(programs, "192.168.0.0/24");
        let site = lab.topology.sites[0].clone();
        let pods = sandboxes(&site, 2);
        let old = &pods[0].0;
        // A pod made anew under its name: the same device name, another container.
        let new = Sandbox {
            pod_name: old.pod_name.clone(),
            pod_uid: None,
            ..pods[1].0.clone()
        };
        succeeds(&site, old, "ADD", &configuration());
        succeeds(&site, &new, "ADD", &configuration());
        let endpoint = stored(&lab, "workloadendpoints")[0]["metadata"]["name"].clone();
        let delete = ["delete", "workloadendpoint", endpoint.as_str().unwrap()];
        let deleted = ctl(&lab, &delete);
        assert!(deleted.status.success(), "{deleted:?}");
        succeeds(&site, old, "DEL", &configuration());
        assert_eq!(devices(&site).len(), 1);
        let words = ["eth0", "k8s-pod-network"];
        fails(&site, &new, "ADD", &of_network("second"), 101, &words);
        assert_eq!(devices(&site).len(), 1);
        succeeds(&site, &new, "DEL", &configuration());
        holds(&lab, 0);
    });
}

#[test]
fn two_interfaces_of_a_pod_have_each_their_device_handle_and_address() {
    let name = "attachments::two_interfaces_of_a_pod_have_each_their_device_handle_and_address";
    with_programs(name, |programs| {
        let lab = one_node(programs, "192.168.0.0/24");
        let site = lab.topology.sites[0].clone();
        let first_network = of_network("k8s-pod-network");
        for (index, network) in ["k8s-pod-network", "second"].into_iter().enumerate() {
            let (pod, namespace) = make_sandbox(&site, &format!("p{index}")).unwrap();
            let net1 = interface(&pod, "net1");
            let second = of_network(network);
            let own = address(&succeeds(&site, &pod, "ADD", &first_network));
            let result = succeeds(&site, &net1, "ADD", &second);
            let other = address(&result);
            assert_ne!(own, other);
            assert_eq!(result["interfaces"][1]["name"], "net1");
            holds(&lab, 2);
            let both = |name: &str| links(&namespace).contains(&name.to_owned());
            assert!(both("eth0") && both("net1"), "{:?}", links(&namespace));
            assert!(reaches(&site, own) && reaches(&site, other));
            let mut with_result = second.clone();
            with_result["prevResult"] = result;
            succeeds(&site, &net1, "CHECK", &with_result);

            // The runtime knows the first interface only.
            if network == "second" {
                let mut valid = second.clone();
                valid["cni.dev/valid-attachments"] = json!([]);
                succeeds(&site, &pod, "GC", &valid);
            } else {
                succeeds(&site, &net1, "DEL", &second);
                succeeds(&site, &net1, "DEL", &second);
            }
            holds(&lab, 1);
            assert!(both("eth0") && reaches(&site, own));
            let again = address(&succeeds(&site, &net1, "ADD", &second));
            assert!(reaches(&site, again) && reaches(&site, own));
            succeeds(&site, &pod, "DEL", &first_network);
            holds(&lab, 1);
            assert!(both("net1"));
            succeeds(&site, &net1, "DEL", &second);
            holds(&lab, 0);
        }
    });
}

#[test]
fn an_interface_that_another_network_gave_is_refused_and_stays() {
    let name = "attachments::an_interface_that_another_network_gave_is_refused_and_stays";
    with_programs(name, |programs| {
        let lab = one_node(programs, "192.168.0.0/24");
        let site = lab.topology.sites[0].clone();
        let (pod, _namespace) = make_sandbox(&site, "pod").unwrap();
        let own = address(&succeeds(&site, &pod, "ADD", &configuration()));
        let second = of_network("second");
        let words = ["eth0", "CNI_IFNAME", "k8s-pod-network"];
        fails(&site, &pod, "ADD", &second, 101, &words);
        holds(&lab, 1);
        assert!(reaches(&site, own));
        // As a runtime does after a failed ADD.
        succeeds(&site, &pod, "DEL", &second);
        holds(&lab, 1);
        assert!(reaches(&site, own));
        succeeds(&site, &pod, "DEL", &configuration());
        holds(&lab, 0);
    });
}

#[test]
fn containers_whose_ids_begin_alike_live_side_by_side() {
    let name = "attachments::containers_whose_ids_begin_alike_live_side_by_side";
    with_programs(name, |programs| {
        let lab = one_node(programs, "192.168.0.0/24");
        let site = lab.topology.sites[0].clone();
        let ids = ["my-container-a", "my-container-b", "my-container-b.c"];
        let pods: Vec<(Sandbox, NetNs)> = sandboxes(&site, ids.len())
            .into_iter()
            .zip(ids)
            .map(|((sandbox, namespace), id)| {
                let sandbox = Sandbox {
                    container_id: id.to_owned(),
                    pod_name: String::new(),
                    ..sandbox
                };
                (sandbox, namespace)
            })
            .collect();
        let addresses: Vec<Ipv4Addr> = pods
            .iter()
            .map(|(pod, _)| address(&succeeds(&site, pod, "ADD", &configuration())))
            .collect();
        holds(&lab, ids.len());
        assert!(addresses.iter().all(|address| reaches(&site, *address)));
        succeeds(&site, &pods[0].0, "DEL", &configuration());
        holds(&lab, ids.len() - 1);
        assert!(reaches(&site, addresses[1]) && reaches(&site, addresses[2]));
    });
}

#[test]
fn a_runtime_that_lost_the_pods_name_still_deletes_what_its_container_has() {
    let name =
        "attachments::a_runtime_that_lost_the_pods_name_still_deletes_what_its_container_has";
    with_programs(name, |programs| {
        let lab = one_node(programs, "192.168.0.0/24");
        let site = lab.topology.sites[0].clone();
        let pods = sandboxes(&site, 2);
        let [_, kept] = [0, 1]
            .map(|index: usize| address(&succeeds(&site, &pods[index].0, "ADD", &configuration())));
        let nameless = Sandbox {
            pod_uid: None,
            pod_name: String::new(),
            ..pods[0].0.clone()
        };
        succeeds(&site, &nameless, "DEL", &configuration());
        holds(&lab, 1);
        assert!(reaches(&site, kept));
    });
}

#[test]
fn a_stale_endpoint_does_not_keep_its_address_from_a_new_pod() {
    let name = "attachments::a_stale_endpoint_does_not_keep_its_address_from_a_new_pod";
    with_programs(name, |programs| {
        let lab = one_node(programs, "192.168.0.0/24");
        let site = lab.topology.sites[0].clone();
        let (first, _namespace) = make_sandbox(&site, "first").unwrap();
        let taken = address(&succeeds(&site, &first, "ADD", &configuration()));
        // Addresses are given in order, so that the next one is known; the endpoint's name sorts before every other.
        let next = Ipv4Addr::from(u32::from(taken) + 1);
        let stale = json!({
            "apiVersion": "projectcalico.org/v3",
            "kind": "WorkloadEndpoint",
            "metadata": {"name": "n1-k8s-a-eth0", "namespace": "default"},
            "spec": {
                "node": "n1",
                "orchestrator": "k8s",
                "pod": "a",
                "endpoint": "eth0",
                "containerID": "gone",
                "ipNetworks": [format!("{next}/32")],
                "interfaceName": "caligone",
                "mac": "02:00:00:00:00:01",
            },
        });
        let path = "/run/tortie-lab/stale.json";
        site.namespace
            .run(|| std::fs::write(path, stale.to_string()))
            .unwrap();
        let applied = ctl(&lab, &["apply", "-f", path]);
        assert!(applied.status.success(), "{applied:?}");
        let (second, _namespace) = make_sandbox(&site, "second").unwrap();
        let given = address(&succeeds(&site, &second, "ADD", &configuration()));
        assert_eq!(given, next, "the test's own assumption");
        assert!(reaches(&site, given));
    });
}

/// MTU of a pod's device, as its own kernel has it.
fn mtu(pod: &NetNs) -> u32 {
    let links = pod.netlink().unwrap().links().unwrap();
    let eth0 = links.into_iter().find(|link| link.name == "eth0").unwrap();
    eth0.mtu_bytes
}

#[test]
fn a_pod_made_while_the_agent_starts_has_the_tunnels_mtu_and_the_nodes_pool() {
    let name =
        "attachments::a_pod_made_while_the_agent_starts_has_the_tunnels_mtu_and_the_nodes_pool";
    with_programs(name, |programs| {
        let options = Options {
            nodes: 1,
            mode: Mode::Vxlan,
            ..options()
        };
        let patience = options.patience;
        let mut lab = Lab::start(options, programs).unwrap_or_else(|error| panic!("{error}"));
        let site = lab.topology.sites[0].clone();
        let file = "/var/lib/calico/mtu";
        let written = || {
            site.namespace
                .run(|| std::fs::read_to_string(file).unwrap_or_default())
        };
        let known = wait_until(std::time::Instant::now() + patience, || {
            (written() == "1450").then_some(())
        });
        assert!(known.is_some(), "{file}: {:?}", written());
        for (round, (pod, namespace)) in sandboxes(&site, 6).iter().enumerate() {
            lab.kill_agent(0).unwrap();
            lab.start_agent(0).unwrap_or_else(|error| panic!("{error}"));
            let answer = wait_until(std::time::Instant::now() + patience, || {
                assert_eq!(written(), "1450", "the last known MTU stays");
                let output = call(&site, pod, "ADD", &configuration());
                let said = String::from_utf8_lossy(&output.stdout).into_owned();
                (!said.contains("\"code\":11")).then_some((output.status.success(), said))
            });
            assert!(matches!(&answer, Some((true, _))), "{answer:?}");
            assert_eq!(mtu(namespace), 1450, "round {round}");
        }
        assert_eq!(devices(&site).len(), 6);
        devices_become(&site, 6);
        assert_eq!(stored(&lab, "workloadendpoints").len(), 6);
    });
}
