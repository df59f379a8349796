//! What runtimes may ask for beside the specification, and routes of other IPAM plugins.

use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::Path;

use cni_conformance::{Container, Kernel, Network};
use lab::Site;
use serde_json::{Value, json};

use crate::{PLUGINS, needs, network, one_node, stand_in, with_programs};

fn ours(site: &Site, ipam: Value) -> Network {
    let plugin =
        json!({"type": "calico", "ipam": ipam, "capabilities": {"ips": true, "mac": true}});
    network(site, plugin)
}

/// Destinations of a container's routes through the host.
fn destinations(container: &Container) -> Vec<String> {
    let routes = Kernel::read(&container.namespace).unwrap().routes;
    let through = routes.iter().filter(|route| {
        let gateway = route.hops.first().and_then(|hop| hop.gateway);
        gateway.is_some()
    });
    let mut found: Vec<String> = through.map(|route| route.destination.to_string()).collect();
    found.sort();
    found
}

#[test]
fn a_runtime_chooses_address_and_mac() {
    let name = "conventions::a_runtime_chooses_address_and_mac";
    with_programs(name, |programs| {
        let lab = one_node(programs);
        let site = &lab.topology.sites[0];
        let mut network = ours(site, json!({"type": "calico-ipam"}));
        network.list["plugins"][0]["num_queues"] = json!(3);
        let container = Container::new(site, "chosen").unwrap();
        let runtime = json!({"ips": ["192.168.0.3/30"], "mac": "02:00:5e:aa:bb:cc"});
        let result = network.add(&container, &runtime);
        let result = result.unwrap_or_else(|error| panic!("{error:#}"));
        assert_eq!(result["ips"][0]["address"], "192.168.0.3/32");
        let inside = Kernel::read(&container.namespace).unwrap();
        let mac = inside.link("eth0").map(|link| link.mac.clone());
        assert_eq!(mac.as_deref(), Some("02:00:5e:aa:bb:cc"));
        let shown = container
            .namespace
            .command("ip")
            .args(["-d", "link", "show", "eth0"])
            .output();
        let shown = String::from_utf8(shown.unwrap().stdout).unwrap();
        assert!(shown.contains("numtxqueues 3 numrxqueues 3"), "{shown}");
        let mut pinger = lab::Pinger::open(&site.namespace, 5).unwrap();
        let address = Ipv4Addr::new(192, 168, 0, 3);
        let answer = pinger.ping(address, lab.options.patience).unwrap();
        assert!(answer.is_some(), "the MAC is known to the host");
        let other = Container::new(site, "other").unwrap();
        let refused = network
            .add(&other, &runtime)
            .expect_err("it is given already");
        assert!(
            format!("{refused:#}").contains("192.168.0.3"),
            "{refused:#}"
        );
        network.del(&container, &runtime, None).unwrap();
        network.add(&other, &runtime).unwrap();
    });
}

#[test]
fn routes_of_another_ipam_plugin_are_the_pods_and_are_checked() {
    let name = "conventions::routes_of_another_ipam_plugin_are_the_pods_and_are_checked";
    with_programs(name, |programs| {
        let lab = one_node(programs);
        stand_in("recording-ipam");
        let site = &lab.topology.sites[0];
        for (name, beside, expected) in [
            ("only", false, &["10.0.0.0/8", "172.16.0.0/12"][..]),
            (
                "beside",
                true,
                &["0.0.0.0/0", "10.0.0.0/8", "172.16.0.0/12"][..],
            ),
        ] {
            let ipam = json!({
                "type": "recording-ipam", "record": format!("/run/tortie-lab/{name}"),
                "address": "10.99.0.5/24", "gateway": "10.99.0.1",
                "routes": [{"dst": "10.0.0.0/8"}, {"dst": "172.16.0.0/12", "gw": "10.99.0.1"}],
            });
            let mut network = ours(site, ipam);
            network.list["plugins"][0]["include_default_routes"] = json!(beside);
            let container = Container::new(site, name).unwrap();
            let result = network.add(&container, &Value::Null);
            let result = result.unwrap_or_else(|error| panic!("{error:#}"));
            assert_eq!(destinations(&container), expected);
            let check = || network.check(&container, &Value::Null, &result);
            check().unwrap_or_else(|error| panic!("{error:#}"));
            let mut netlink = container.namespace.netlink().unwrap();
            let lost: ipnet::Ipv4Net = "172.16.0.0/12".parse().unwrap();
            netlink.delete_route(lost).unwrap();
            let error = check().expect_err("a route is gone");
            assert!(format!("{error:#}").contains("172.16.0.0/12"), "{error:#}");
            network.del(&container, &Value::Null, None).unwrap();
        }
    });
}

#[test]
fn debians_ptp_has_the_agents_addresses_by_calico_ipam() {
    needs("ptp");
    let name = "conventions::debians_ptp_has_the_agents_addresses_by_calico_ipam";
    with_programs(name, |programs| {
        let lab = one_node(programs);
        let site = &lab.topology.sites[0];
        let plugins = Path::new(PLUGINS);
        let ours_is = std::fs::read_link(plugins.join("calico")).unwrap();
        symlink(ours_is, plugins.join("calico-ipam")).unwrap();
        let ipam = json!({"type": "calico-ipam"});
        let mut ptp = network(site, json!({"type": "ptp", "ipam": ipam}));
        ptp.list["name"] = json!("ptp-net");
        let containers = ["a", "b", "c"].map(|name| Container::new(site, name).unwrap());
        let results = [&containers[0], &containers[1]].map(|container| {
            let result = ptp.add(container, &Value::Null);
            result.unwrap_or_else(|error| panic!("{error:#}"))
        });
        let address = |result: &Value| {
            let text = result["ips"][0]["address"].as_str().unwrap();
            text.parse::<ipnet::Ipv4Net>().unwrap()
        };
        let given = results.each_ref().map(address);
        assert_eq!(given.map(|net| net.prefix_len()), [30, 30], "{results:?}");
        assert_eq!(results[0]["ips"][0]["gateway"], "169.254.1.1");
        let from_a = &containers[0].namespace;
        for (from, to) in [
            (&site.namespace, given[0]),
            (&site.namespace, given[1]),
            (from_a, given[1]),
        ] {
            let mut pinger = lab::Pinger::open(from, 5).unwrap();
            let answer = pinger.ping(to.addr(), lab.options.patience).unwrap();
            assert!(answer.is_some(), "{to}");
        }
        // Of one block the agent's own pod has another address.
        let own = ours(site, json!({"type": "calico-ipam"}));
        let result = own.add(&containers[2], &Value::Null).unwrap();
        let third = address(&result);
        assert!(
            given.iter().all(|net| net.addr() != third.addr()),
            "{third}"
        );
        for (container, result) in containers.iter().zip(&results) {
            ptp.check(container, &Value::Null, result)
                .unwrap_or_else(|error| panic!("{error:#}"));
        }
        ptp.del(&containers[0], &Value::Null, None).unwrap();
        let lost = ptp.check(&containers[0], &Value::Null, &results[0]);
        let lost = format!("{:#}", lost.expect_err("its address is taken back"));
        assert!(lost.contains("ptp-net"), "{lost}");
        // Debian's ptp knows no GC: a runtime that does calls the IPAM plugin of one that does the same way.
        let mut alone = network(
            site,
            json!({"type": "calico-ipam", "ipam": {"type": "calico-ipam"}}),
        );
        alone.list["name"] = json!("ptp-net");
        alone.list["cniVersion"] = json!("1.1.0");
        let held = |index: usize| {
            let check = ptp.check(&containers[index], &Value::Null, &results[index]);
            check.is_ok()
        };
        alone.collect(&[&containers[1]]).unwrap();
        assert!(held(1), "it is valid");
        own.check(&containers[2], &Value::Null, &result).unwrap();
        alone.collect(&[]).unwrap();
        assert!(!held(1));
        own.check(&containers[2], &Value::Null, &result).unwrap();
    });
}
