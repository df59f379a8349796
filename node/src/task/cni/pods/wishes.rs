//! What annotations of a Pod and its namespace change of a request.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::pod::Wishes;
use cni::protocol::Request;
use cni::spec::error::{CniError, Code};
use ipnet::IpNet;

use super::Pods;
use super::endpoint::Identity;
use super::error::store_error;

/// Labels of a pod's namespace; `None` where nobody knows them.
pub(super) type NamespaceLabels = Option<BTreeMap<String, String>>;

impl Pods {
    /// The request as the annotations of a Kubernetes pod and of its namespace have it, and the namespace's labels, where they
    /// are known. They are about the pod's first interface.
    pub(super) async fn with_wishes(
        &self,
        request: &Request,
        pod: &Identity,
    ) -> Result<(Request, NamespaceLabels), CniError> {
        if pod.is_outside_kubernetes() || !pod.attachment.is_first() {
            return Ok((request.clone(), None));
        }
        let words = self.store.pod_words(&pod.key, pod.pod_uid()).await;
        let Some(words) = words.map_err(|error| store_error(&error))? else {
            return Ok((request.clone(), None));
        };
        let refused = |text: String| {
            let of = request.pod.as_ref();
            let of = of.map_or_else(String::new, |pod| {
                format!("Pod {}/{} or its namespace: ", pod.namespace, pod.name)
            });
            CniError::new(Code::INVALID_CONFIG, format!("{of}{text}"))
        };
        let wishes = words.wishes().map_err(|fault| refused(fault.to_string()))?;
        let request = follow(request.clone(), wishes).map_err(refused)?;
        Ok((request, Some(words.namespace_labels)))
    }
}

/// Changes a request; the error says which annotation cannot be followed, and why.
fn follow(mut request: Request, wishes: Wishes) -> Result<Request, String> {
    let other_ipam = !request.given.is_empty();
    let needs_ipam = |name: &str| {
        format!(
            "annotation cni.projectcalico.org/{name}: another IPAM plugin gives the addresses of this network; allowed: with \
             ipam.type \"calico-ipam\""
        )
    };
    for (name, pools, into) in [
        ("ipv4pools", wishes.ipv4_pools, &mut request.ipam.ipv4_pools),
        ("ipv6pools", wishes.ipv6_pools, &mut request.ipam.ipv6_pools),
    ] {
        if let Some(pools) = pools {
            if other_ipam {
                return Err(needs_ipam(name));
            }
            *into = pools;
        }
    }
    if let Some((ipv4, ipv6)) = wishes.families.filter(|_| !other_ipam) {
        (request.ipam.assign_ipv4, request.ipam.assign_ipv6) = (ipv4, ipv6);
    }
    // What they lead to is the agent's: it follows the Pod's annotation.
    if !wishes.floating_ips.is_empty() && !request.features.floating_ips {
        let text = "annotation cni.projectcalico.org/floatingIPs: allowed: where feature_control.floating_ips is true";
        return Err(text.to_owned());
    }
    if !wishes.addresses.is_empty() {
        if other_ipam {
            return Err(needs_ipam("ipAddrs"));
        }
        has_families(&mut request, &wishes.addresses);
        request.ips = wishes.addresses;
        request.ip = None;
    }
    if !wishes.addresses_without_ipam.is_empty() {
        if !request.features.ip_addrs_no_ipam {
            let text = "annotation cni.projectcalico.org/ipAddrsNoIpam: allowed: where feature_control.ip_addrs_no_ipam is true";
            return Err(text.to_owned());
        }
        if other_ipam {
            return Err(needs_ipam("ipAddrsNoIpam"));
        }
        has_families(&mut request, &wishes.addresses_without_ipam);
        let given = wishes.addresses_without_ipam.into_iter();
        request.given = given.map(IpNet::from).collect();
    }
    if let Some(mac) = wishes.mac {
        request.mac = Some(mac);
    }
    Ok(request)
}

/// The pod has the families of the addresses that it asks for.
fn has_families(request: &mut Request, addresses: &[IpAddr]) {
    let has = |of_ipv4: bool| addresses.iter().any(|address| address.is_ipv4() == of_ipv4);
    (request.ipam.assign_ipv4, request.ipam.assign_ipv6) = (has(true), has(false));
}

#[cfg(test)]
mod tests {
    use api::pod::PodWords;

    use super::*;

    fn request(more: serde_json::Value) -> Request {
        let mut json = serde_json::json!({
            "command": "ADD", "network": "n", "container_id": "c", "ifname": "eth0",
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            json[key] = value.clone();
        }
        serde_json::from_value(json).unwrap()
    }

    fn wished(name: &str, text: &str) -> Wishes {
        let name = format!("cni.projectcalico.org/{name}");
        let words = PodWords {
            annotations: [(name, text.to_owned())].into(),
            ..PodWords::default()
        };
        words.wishes().unwrap()
    }

    #[test]
    fn annotations_go_before_the_networks_configuration() {
        let configured = serde_json::json!({
            "ip": "10.0.0.9",
            "ipam": {"assign_ipv4": true, "assign_ipv6": false, "ipv4_pools": ["a"]},
        });
        let follow = |name: &str, text: &str| {
            super::follow(request(configured.clone()), wished(name, text)).unwrap()
        };
        assert_eq!(follow("ipv4pools", r#"["b"]"#).ipam.ipv4_pools, ["b"]);
        let families = follow("ipFamilies", r#"["IPv6"]"#).ipam;
        assert!(!families.assign_ipv4 && families.assign_ipv6);
        let asked = follow("ipAddrs", r#"["fd00::1"]"#);
        assert_eq!(
            (asked.ip, asked.ips),
            (None, vec!["fd00::1".parse().unwrap()])
        );
        assert!(asked.ipam.assign_ipv6 && !asked.ipam.assign_ipv4);
        let mac = follow("hwAddr", "02:00:00:00:00:01").mac;
        assert_eq!(mac, Some([2, 0, 0, 0, 0, 1]));
    }

    #[test]
    fn what_the_network_does_not_allow_is_refused_by_name() {
        let no_ipam = ("ipAddrsNoIpam", r#"["10.0.0.1"]"#);
        let floating = ("floatingIPs", r#"["10.0.0.1"]"#);
        let allowed = |feature: &str| serde_json::json!({"features": {feature: true}});
        let other = serde_json::json!({"given": ["10.9.0.1/32"]});
        let cases = [
            (
                no_ipam,
                serde_json::json!({}),
                "feature_control.ip_addrs_no_ipam",
            ),
            (
                floating,
                serde_json::json!({}),
                "feature_control.floating_ips",
            ),
            (("ipAddrs", r#"["10.0.0.1"]"#), other.clone(), "calico-ipam"),
            (("ipv4pools", r#"["a"]"#), other, "calico-ipam"),
        ];
        for ((name, text), configured, word) in cases {
            let error = follow(request(configured), wished(name, text)).expect_err(name);
            assert!(error.contains(name) && error.contains(word), "{error}");
        }
        let floats = follow(
            request(allowed("floating_ips")),
            wished(floating.0, floating.1),
        );
        assert!(floats.is_ok(), "{floats:?}");
        let given = follow(
            request(allowed("ip_addrs_no_ipam")),
            wished(no_ipam.0, no_ipam.1),
        );
        assert_eq!(given.unwrap().given, ["10.0.0.1/32".parse().unwrap()]);
    }
}
