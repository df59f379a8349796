//! What annotations of Pods and namespaces ask for, on a real API server.

use std::net::{IpAddr, Ipv4Addr};

use lab::{
    Lab, NetNs, Options, Sandbox, Site, call_plugin, make_sandbox, plugin_configuration,
    remove_sandbox,
};
use serde_json::{Value, json};

use crate::{options, with_programs};

/// Makes a Pod with these annotations of Calico's, and has the plugin add it.
fn add(lab: &mut Lab, name: &str, annotations: &Value, configuration: &Value) -> Added {
    let site = lab.topology.sites[0].clone();
    let (sandbox, namespace) = make_sandbox(&site, name).unwrap();
    let mut written = json!({});
    for (key, value) in annotations.as_object().into_iter().flatten() {
        written[format!("cni.projectcalico.org/{key}")] = value.clone();
    }
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": sandbox.pod_name, "annotations": written},
        "spec": {"nodeName": site.name, "containers": [{"name": "c", "image": "none"}]},
    });
    lab.kube().server.apply(&pod.to_string()).unwrap();
    let output = call_plugin(&site, &sandbox, "ADD", Some(&configuration.to_string())).unwrap();
    let said = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    Added {
        site,
        sandbox,
        namespace,
        said,
    }
}

struct Added {
    site: Site,
    sandbox: Sandbox,
    namespace: NetNs,
    said: Value,
}

impl Added {
    fn address(&self) -> Ipv4Addr {
        let text = self.said["ips"][0]["address"].as_str().unwrap_or_default();
        let host = text.split('/').next().unwrap_or_default();
        host.parse().unwrap_or_else(|_| panic!("{}", self.said))
    }

    fn is_reached(&self) -> bool {
        let mut pinger = lab::Pinger::open(&self.site.namespace, 3).unwrap();
        let patience = options().patience;
        pinger.ping(self.address(), patience).unwrap().is_some()
    }

    fn mac(&self) -> String {
        let links = self.namespace.netlink().unwrap().links().unwrap();
        let eth0 = links.into_iter().find(|link| link.name == "eth0").unwrap();
        eth0.mac
    }

    /// It was refused with this code and these words, and has nothing.
    fn is_refused(&self, code: u64, words: &[&str]) {
        assert_eq!(self.said["code"], code, "{}", self.said);
        let text = self.said.to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
        let links = self.namespace.netlink().unwrap().links().unwrap();
        assert!(links.iter().all(|link| link.name == "lo"), "{links:?}");
    }
}

/// The addresses that blocks say are given to pods.
fn given(lab: &mut Lab) -> usize {
    let handles = ["get", "ipamhandles.crd.projectcalico.org", "--output=name"];
    let handles = lab.kube().server.kubectl(&handles).unwrap();
    handles
        .lines()
        .filter(|line| !line.contains("tunnel"))
        .count()
}

fn annotate_namespace(lab: &mut Lab, annotation: &str) {
    let words = [
        "annotate",
        "namespace",
        "default",
        "--overwrite",
        annotation,
    ];
    lab.kube().server.kubectl(&words).unwrap();
}

#[test]
fn pods_and_namespaces_choose_pools_addresses_and_macs() {
    let name = "annotations::pods_and_namespaces_choose_pools_addresses_and_macs";
    with_programs(name, |programs| {
        let options = Options {
            nodes: 1,
            environment: vec![(
                "FELIX_DEFAULTENDPOINTTOHOSTACTION".to_owned(),
                "ACCEPT".to_owned(),
            )],
            ..options()
        };
        let mut lab = Lab::start(options, programs).unwrap_or_else(|error| panic!("{error}"));
        let second = json!({
            "apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool",
            "metadata": {"name": "second"},
            // Nobody has it who does not ask for it.
            "spec": {"cidr": "10.66.0.0/24", "blockSize": 28, "nodeSelector": "!all()"},
        });
        lab.kube().server.apply(&second.to_string()).unwrap();
        let text = plugin_configuration(&lab.topology.sites[0]).unwrap();
        let plain: Value = serde_json::from_str(&text).unwrap();
        let is_second = |address: Ipv4Addr| address.octets()[..3] == [10, 66, 0];

        let chosen = add(
            &mut lab,
            "pool",
            &json!({"ipv4pools": "[\"second\"]"}),
            &plain,
        );
        assert!(is_second(chosen.address()) && chosen.is_reached());
        let asked = json!({"ipAddrs": "[\"192.168.7.77\"]", "hwAddr": "02:00:5e:10:20:30"});
        let wanted = add(&mut lab, "wanted", &asked, &plain);
        assert_eq!(wanted.address(), Ipv4Addr::new(192, 168, 7, 77));
        assert_eq!(wanted.mac(), "02:00:5e:10:20:30");
        assert!(wanted.is_reached());
        assert_eq!(given(&mut lab), 2);
        add(&mut lab, "twice", &asked, &plain).is_refused(100, &["192.168.7.77"]);

        // What is written to the namespace counts for the next pod.
        annotate_namespace(
            &mut lab,
            "cni.projectcalico.org/ipv4pools=[\"10.66.0.0/24\"]",
        );
        assert!(is_second(
            add(&mut lab, "namespaces", &json!({}), &plain).address()
        ));
        let own = json!({"ipv4pools": "[\"192.168.0.0/16\"]"});
        assert!(!is_second(add(&mut lab, "own", &own, &plain).address()));
        annotate_namespace(&mut lab, "cni.projectcalico.org/ipv4pools-");
        assert!(!is_second(
            add(&mut lab, "neither", &json!({}), &plain).address()
        ));
        assert_eq!(given(&mut lab), 5);

        for (name, annotations, words) in [
            (
                "bad",
                json!({"ipv4pools": "second"}),
                ["ipv4pools", "JSON list", "bad-n1"],
            ),
            (
                "none",
                json!({"ipAddrsNoIpam": "[\"10.99.0.9\"]"}),
                ["ipAddrsNoIpam", "ip_addrs_no_ipam", "none-n1"],
            ),
            (
                "six",
                json!({"floatingIPs": "[\"10.99.0.9\"]"}),
                ["floatingIPs", "floating_ips", "six-n1"],
            ),
        ] {
            add(&mut lab, name, &annotations, &plain).is_refused(7, &words);
        }
        let mut allowed = plain.clone();
        allowed["feature_control"] = json!({"ip_addrs_no_ipam": true});
        let outside = json!({"ipAddrsNoIpam": "[\"10.99.0.9\"]"});
        let outside = add(&mut lab, "outside", &outside, &allowed);
        assert_eq!(
            IpAddr::from(outside.address()),
            IpAddr::from([10, 99, 0, 9])
        );
        assert!(outside.is_reached());
        assert_eq!(given(&mut lab), 5, "IPAM does not know it");

        // Its address is free again once it is gone.
        let deleted = call_plugin(&wanted.site, &wanted.sandbox, "DEL", Some(&text)).unwrap();
        assert!(deleted.status.success(), "{deleted:?}");
        remove_sandbox(&wanted.site, &wanted.sandbox).unwrap();
        let again = add(&mut lab, "again", &asked, &plain);
        assert_eq!(again.address(), Ipv4Addr::new(192, 168, 7, 77));
    });
}
