//! What the plugin prints, with the real agent behind it, beside what the pod's kernel has.

use lab::{NetNs, Sandbox, Site, make_sandbox};
use serde_json::{Value, json};

use crate::plugin::{configuration, holds, one_node, succeeds};
use crate::with_programs;

fn of_version(version: &str) -> Value {
    let mut configuration = configuration();
    configuration["cniVersion"] = version.into();
    configuration
}

/// The result that the specification wants of this version (section 5 and its older editions).
fn expected(version: &str, host: &Value, pod: &Sandbox, namespace: &NetNs, address: &str) -> Value {
    let links = namespace.netlink().unwrap().links().unwrap();
    let eth0 = links.iter().find(|link| link.name == "eth0").unwrap();
    let ip = format!("{address}/32");
    if matches!(version, "0.1.0" | "0.2.0") {
        return json!({"cniVersion": version, "ip4": {"ip": ip}, "dns": {}});
    }
    let mut inside = json!({
        "name": "eth0",
        "mac": eth0.mac,
        "sandbox": pod.netns_path,
    });
    if version == "1.1.0" {
        inside["mtu"] = eth0.mtu_bytes.into();
    }
    let mut ips = json!([{"address": ip, "interface": 1}]);
    if version.starts_with("0.") {
        ips[0]["version"] = "4".into();
    }
    json!({
        "cniVersion": version,
        "interfaces": [host, inside],
        "ips": ips,
        "dns": {},
    })
}

/// The pod's one IPv4 address, from its kernel.
fn address(namespace: &NetNs) -> String {
    let addresses = namespace.netlink().unwrap().addresses().unwrap();
    let own: Vec<String> = addresses
        .iter()
        .filter(|address| address.is_ipv4() && !address.is_loopback())
        .map(ToString::to_string)
        .collect();
    assert_eq!(own.len(), 1, "{own:?}");
    own[0].clone()
}

/// The node's end of a pod, from its kernel: the only one there is.
fn host_end(site: &Site) -> Value {
    let links = site.namespace.netlink().unwrap().links().unwrap();
    let names: Vec<String> = links
        .into_iter()
        .map(|link| link.name)
        .filter(|name| name.starts_with("cali"))
        .collect();
    assert_eq!(names.len(), 1, "{names:?}");
    json!({"name": names[0]})
}

#[test]
fn each_versions_result_says_what_the_kernel_has() {
    let name = "results::each_versions_result_says_what_the_kernel_has";
    with_programs(name, |programs| {
        let lab = one_node(programs, "192.168.0.0/24");
        let site = lab.topology.sites[0].clone();
        for version in [
            "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
        ] {
            let (pod, namespace) = make_sandbox(&site, version).unwrap();
            let mut configuration = of_version(version);
            let result = succeeds(&site, &pod, "ADD", &configuration);
            let address = address(&namespace);
            let host = host_end(&site);
            let expected = expected(version, &host, &pod, &namespace, &address);
            assert_eq!(result, expected, "{version}");
            configuration["prevResult"] = result;
            if !matches!(version, "0.1.0" | "0.2.0" | "0.3.0" | "0.3.1") {
                succeeds(&site, &pod, "CHECK", &configuration);
            }
            succeeds(&site, &pod, "DEL", &configuration);
            holds(&lab, 0);
        }
    });
}
