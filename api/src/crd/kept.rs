//! Kinds of Calico's that have no effect in this version. Their definitions are there so that a cluster's objects survive,
//! whole.

use super::Names;
use crate::kinds::Printed;

const TIER_AND_ORDER: &[Printed] = &[
    Printed("Tier", "string", ".spec.tier"),
    Printed("Order", "number", ".spec.order"),
];

const fn cluster(kind: &'static str, plural: &'static str) -> Names<'static> {
    Names {
        kind,
        plural,
        short_names: &[],
        namespaced: false,
        status: false,
        columns: &[],
    }
}

const fn namespaced(kind: &'static str, plural: &'static str) -> Names<'static> {
    Names {
        namespaced: true,
        ..cluster(kind, plural)
    }
}

pub(super) static KINDS: [Names<'static>; 10] = [
    Names {
        short_names: &["kcc", "kccs"],
        status: true,
        ..cluster(
            "KubeControllersConfiguration",
            "kubecontrollersconfigurations",
        )
    },
    Names {
        short_names: &["gnp", "cgnp"],
        columns: TIER_AND_ORDER,
        ..cluster("GlobalNetworkPolicy", "globalnetworkpolicies")
    },
    Names {
        short_names: &["gns"],
        ..cluster("GlobalNetworkSet", "globalnetworksets")
    },
    Names {
        short_names: &["hep", "heps"],
        columns: &[
            Printed("Node", "string", ".spec.node"),
            Printed("Interface", "string", ".spec.interfaceName"),
        ],
        ..cluster("HostEndpoint", "hostendpoints")
    },
    Names {
        short_names: &["cnp", "caliconetworkpolicy"],
        columns: TIER_AND_ORDER,
        ..namespaced("NetworkPolicy", "networkpolicies")
    },
    namespaced("NetworkSet", "networksets"),
    Names {
        short_names: &["sgnp"],
        columns: TIER_AND_ORDER,
        ..cluster("StagedGlobalNetworkPolicy", "stagedglobalnetworkpolicies")
    },
    Names {
        short_names: &["sknp"],
        ..namespaced(
            "StagedKubernetesNetworkPolicy",
            "stagedkubernetesnetworkpolicies",
        )
    },
    Names {
        short_names: &["scnp", "snp"],
        columns: TIER_AND_ORDER,
        ..namespaced("StagedNetworkPolicy", "stagednetworkpolicies")
    },
    Names {
        status: true,
        columns: &[
            Printed("Order", "integer", ".spec.order"),
            Printed("DefaultAction", "string", ".spec.defaultAction"),
        ],
        ..cluster("Tier", "tiers")
    },
];
