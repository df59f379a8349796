//! What the accounts may: as much as they need and no more.

use kube_lab::ApiServer;

use crate::{manifests, server};

/// `resource` is `type`, `type:subresource` or `type/name`, with `@namespace` where it is not kube-system.
fn may(server: &ApiServer, account: &str, verb: &str, resource: &str) -> bool {
    let account = format!("--as=system:serviceaccount:kube-system:{account}");
    let (resource, namespace) = resource
        .split_once('@')
        .unwrap_or((resource, "kube-system"));
    let (resource, subresource) = resource.split_once(':').unwrap_or((resource, ""));
    let namespace = format!("--namespace={namespace}");
    let subresource = format!("--subresource={subresource}");
    // Exit code 1 says no.
    server
        .kubectl(&[
            "auth",
            "can-i",
            verb,
            resource,
            &account,
            &namespace,
            &subresource,
        ])
        .is_ok_and(|said| said.starts_with("yes"))
}

#[test]
fn the_accounts_may_what_they_need_and_no_more() {
    let server = server();
    for folder in ["base/rbac.yaml", "route-reflector/rbac.yaml"] {
        let strictly = ["apply", "--server-side", "--validate=strict", "-f"];
        server
            .kubectl(&[&strictly[..], &[&manifests(folder)]].concat())
            .unwrap();
    }
    let granted = |account: &str, rights: &[(&str, &str)], wanted: bool| {
        for (verb, resource) in rights {
            assert_eq!(
                may(&server, account, verb, resource),
                wanted,
                "{account}: {verb} {resource}"
            );
        }
    };
    let needed = [
        ("watch", "nodes"),
        ("patch", "nodes:status"),
        ("watch", "pods@default"),
        ("watch", "namespaces"),
        ("patch", "pods:status@default"),
        ("get", "configmaps/kubeadm-config"),
        ("watch", "secrets/bgp-passwords"),
        ("create", "ippools.crd.projectcalico.org"),
        ("watch", "bgppeers.crd.projectcalico.org"),
        ("update", "ipamblocks.crd.projectcalico.org"),
        ("delete", "blockaffinities.crd.projectcalico.org"),
        ("create", "ipamhandles.crd.projectcalico.org"),
        ("list", "ipamhandles.crd.projectcalico.org"),
        ("update", "caliconodestatuses.crd.projectcalico.org:status"),
        ("list", "networkpolicies.networking.k8s.io@default"),
        ("list", "globalnetworkpolicies.crd.projectcalico.org"),
        (
            "get",
            "kubecontrollersconfigurations.crd.projectcalico.org/default",
        ),
    ];
    granted("calico-node", &needed, true);
    let not_needed = [
        ("update", "nodes"),
        ("delete", "nodes"),
        ("update", "pods@default"),
        ("delete", "pods@default"),
        ("create", "pods"),
        ("list", "secrets"),
        ("get", "secrets"),
        ("get", "secrets/other"),
        ("get", "secrets/bgp-passwords@default"),
        ("get", "configmaps/other"),
        ("get", "configmaps/kubeadm-config@default"),
        ("update", "namespaces/default"),
        ("watch", "ipamhandles.crd.projectcalico.org"),
        ("update", "bgppeers.crd.projectcalico.org"),
        ("create", "caliconodestatuses.crd.projectcalico.org"),
        ("delete", "ippools.crd.projectcalico.org"),
        (
            "list",
            "kubecontrollersconfigurations.crd.projectcalico.org",
        ),
        ("create", "serviceaccounts:token"),
        ("delete", "networkpolicies.networking.k8s.io@default"),
        ("list", "customresourcedefinitions.apiextensions.k8s.io"),
    ];
    granted("calico-node", &not_needed, false);
    let needed = [
        ("watch", "nodes"),
        ("patch", "nodes:status"),
        ("watch", "bgpfilters.crd.projectcalico.org"),
    ];
    granted("tortie-rr", &needed, true);
    let not_needed = [
        ("update", "nodes"),
        ("list", "pods"),
        ("list", "ipamblocks.crd.projectcalico.org"),
        ("update", "ippools.crd.projectcalico.org"),
        ("get", "secrets"),
    ];
    granted("tortie-rr", &not_needed, false);
}
