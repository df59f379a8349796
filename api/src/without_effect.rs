//! What a cluster asks of its network that this version does not do: policy, eBPF, WireGuard. It is said wherever an
//! operator looks, so that nobody loses isolation in silence.

use serde_json::Value;

use crate::admin::Problem;
use crate::felix::FelixConfiguration;

/// A resource of an API server whose objects have no effect.
#[derive(Debug)]
pub struct Resource {
    /// As in a manifest.
    pub kind: &'static str,
    /// Groups and versions it may be had in; the first that the cluster has counts.
    pub group_versions: &'static [&'static str],
    /// Its name in a path.
    pub plural: &'static str,
    /// What its objects do not do.
    means: &'static str,
}

const CALICO: &[&str] = &["crd.projectcalico.org/v1", "projectcalico.org/v3"];
const NO_POLICY: &str = "this version enforces no policy, and what they keep apart is open";

/// Every such resource.
pub static RESOURCES: [Resource; 7] = [
    Resource {
        kind: "NetworkPolicy",
        group_versions: &["networking.k8s.io/v1"],
        plural: "networkpolicies",
        means: NO_POLICY,
    },
    Resource {
        kind: "ClusterNetworkPolicy",
        group_versions: &["policy.networking.k8s.io/v1alpha2"],
        plural: "clusternetworkpolicies",
        means: NO_POLICY,
    },
    Resource {
        kind: "AdminNetworkPolicy",
        group_versions: &["policy.networking.k8s.io/v1alpha1"],
        plural: "adminnetworkpolicies",
        means: NO_POLICY,
    },
    Resource {
        kind: "BaselineAdminNetworkPolicy",
        group_versions: &["policy.networking.k8s.io/v1alpha1"],
        plural: "baselineadminnetworkpolicies",
        means: NO_POLICY,
    },
    Resource {
        kind: "Calico NetworkPolicy",
        group_versions: CALICO,
        plural: "networkpolicies",
        means: NO_POLICY,
    },
    Resource {
        kind: "GlobalNetworkPolicy",
        group_versions: CALICO,
        plural: "globalnetworkpolicies",
        means: NO_POLICY,
    },
    Resource {
        kind: "HostEndpoint",
        group_versions: CALICO,
        plural: "hostendpoints",
        means: "this version filters no packets of hosts",
    },
];

impl Resource {
    /// What is said of so many objects; nothing of none.
    pub fn problem(&self, count: u64) -> Option<Problem> {
        let objects = match count {
            0 => return None,
            1 => "1 object has".to_owned(),
            more => format!("{more} objects have"),
        };
        Some(Problem {
            subject: self.kind.to_owned(),
            reason: format!("{objects} no effect: {}", self.means),
        })
    }
}

/// Fields of a FelixConfiguration that change a node's dataplane as a whole, and what is there in their place.
const SETTINGS: [(&str, &str); 3] = [
    (
        "bpfEnabled",
        "there is no eBPF dataplane in this version; packets take the kernel's own way",
    ),
    (
        "wireguardEnabled",
        "there is no WireGuard in this version; packets between nodes are not encrypted",
    ),
    (
        "wireguardEnabledV6",
        "there is no WireGuard in this version; packets between nodes are not encrypted",
    ),
];

/// What is said of an object's settings.
pub fn settings(config: &FelixConfiguration) -> Vec<Problem> {
    let on = |field: &str| match config.spec.fields.get(field) {
        Some(Value::Bool(on)) => *on,
        Some(Value::String(text)) => text.eq_ignore_ascii_case("true"),
        _ => false,
    };
    let fields = SETTINGS.iter().filter(|(field, _)| on(field));
    fields
        .map(|(field, why)| Problem {
            subject: format!("FelixConfiguration({})", config.metadata.name),
            reason: format!("spec.{field} = true has no effect: {why}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_are_counted_in_words_and_none_are_no_problem() {
        let policy = &RESOURCES[0];
        assert_eq!(policy.problem(0), None);
        let said = |count| policy.problem(count).unwrap().reason;
        assert!(
            said(1).starts_with("1 object has no effect: "),
            "{}",
            said(1)
        );
        assert!(
            said(2).starts_with("2 objects have no effect: "),
            "{}",
            said(2)
        );
    }

    #[test]
    fn ebpf_and_wireguard_are_problems_only_where_they_are_asked_for() {
        let config = |spec: Value| -> Vec<String> {
            let object = json!({"metadata": {"name": "default"}, "spec": spec});
            let config = serde_json::from_value(object).expect("a FelixConfiguration");
            let problems = settings(&config);
            problems.into_iter().map(|problem| problem.reason).collect()
        };
        let said = config(json!({"bpfEnabled": true, "wireguardEnabled": true}));
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].starts_with("spec.bpfEnabled = true has no effect: "));
        assert!(said[1].contains("not encrypted"));
        let none = json!({"bpfEnabled": false, "wireguardEnabled": null, "bpfLogLevel": "Debug"});
        assert!(config(none).is_empty());
    }

    /// The kinds that are kept for Calico and those that are said to have no effect must not drift apart.
    #[test]
    fn calicos_resources_have_definitions() {
        let defined: Vec<String> = crate::crd::definitions()
            .into_iter()
            .map(|(plural, _)| plural)
            .collect();
        for resource in RESOURCES.iter().filter(|one| one.group_versions == CALICO) {
            assert!(defined.iter().any(|plural| plural == resource.plural));
        }
    }
}
