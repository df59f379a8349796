//! The layers of ARCHITECTURE.md, compared with what the manifests say.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::bail;

use crate::metadata::{Package, Tree};

/// Own package → own packages it may depend on, tests included. A new edge is a change of the design: write it here
/// and in ARCHITECTURE.md, with the reason in the commit.
const ALLOWED: &[(&str, &[&str])] = &[
    ("api", &[]),
    ("bgp", &[]),
    ("datastore", &["api"]),
    ("felix", &["api", "bgp"]),
    ("ipam", &["api", "datastore"]),
    ("bgp-io", &["bgp", "harness"]),
    ("felix-io", &["api", "bgp", "felix", "harness"]),
    (
        "datastore-kube",
        &["api", "datastore", "harness", "ipam", "kube-lab"],
    ),
    ("datastore-local", &["api", "datastore"]),
    ("cni", &["api"]),
    (
        "ctl",
        &[
            "api",
            "datastore",
            "datastore-kube",
            "datastore-local",
            "harness",
            "ipam",
            "kube-lab",
        ],
    ),
    (
        "node",
        &[
            "api",
            "bgp",
            "bgp-io",
            "cni",
            "datastore",
            "datastore-kube",
            "datastore-local",
            "felix",
            "felix-io",
            "harness",
            "ipam",
            "kube-lab",
        ],
    ),
    (
        "route-reflector",
        &["api", "datastore", "felix", "harness", "node"],
    ),
    ("sim", &["api", "bgp", "cni", "datastore", "felix", "ipam"]),
    (
        "bench",
        &[
            "api",
            "bgp",
            "bgp-io",
            "datastore",
            "datastore-kube",
            "datastore-local",
            "felix",
            "felix-io",
            "harness",
            "lab",
        ],
    ),
    ("harness", &["harness-macros"]),
    ("harness-macros", &[]),
    ("kube-lab", &["harness"]),
    ("lab", &["harness", "kube-lab"]),
    ("cni-conformance", &["harness", "lab"]),
    ("interop", &["bgp", "bgp-io", "harness", "lab"]),
    ("xtask", &["api", "harness"]),
];

/// Packages without sockets, files, clocks, threads.
const PURE: &[&str] = &["api", "bgp", "datastore", "felix", "ipam", "sim"];

/// What must not stand below a pure package, however deep.
const IMPURE: &[&str] = &[
    "tokio",
    "mio",
    "socket2",
    "rustix",
    "netlink-sys",
    "tonic",
    "hyper",
    "redb",
    "kube",
    "rand",
    "getrandom",
];

/// Fails with every edge that is not in the table.
pub(crate) fn check(tree: &Tree) -> anyhow::Result<()> {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    let mut faults = Vec::new();
    for member in tree.members() {
        let Some(may) = allowed.get(member.name.as_str()) else {
            faults.push(format!(
                "package {} has no row in xtask/src/layers.rs",
                member.name
            ));
            continue;
        };
        faults.extend(
            own_edges(member)
                .filter(|to| !may.contains(&to.as_str()))
                .map(|to| {
                    format!(
                        "{} depends on {to}: not one of its layer's edges ({may:?})",
                        member.name
                    )
                }),
        );
        faults.extend(unpinned(member));
        if PURE.contains(&member.name.as_str()) {
            faults.extend(impure_below(tree, member));
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    bail!("the layers do not hold:\n  {}", faults.join("\n  "))
}

fn own_edges(package: &Package) -> impl Iterator<Item = String> + '_ {
    package
        .dependencies
        .iter()
        .filter(|dependency| dependency.path.is_some())
        .map(|dependency| dependency.name.clone())
}

fn unpinned(package: &Package) -> impl Iterator<Item = String> + '_ {
    package
        .dependencies
        .iter()
        .filter(|dependency| dependency.path.is_none() && !dependency.req.starts_with('='))
        .map(|dependency| {
            format!(
                "{}: {} = {:?} is not pinned exactly",
                package.name, dependency.name, dependency.req
            )
        })
}

fn impure_below(tree: &Tree, package: &Package) -> Vec<String> {
    let by_id = tree.by_id();
    let mut seen = BTreeSet::new();
    let mut todo = vec![package.id.as_str()];
    let mut faults = Vec::new();
    while let Some(id) = todo.pop() {
        if !seen.insert(id) {
            continue;
        }
        let below = by_id[id];
        if IMPURE.contains(&below.name.as_str()) {
            faults.push(format!(
                "{} is pure, but has {} below it",
                package.name, below.name
            ));
        }
        if let Some(node) = tree.node(id) {
            todo.extend(
                node.deps
                    .iter()
                    .filter(|edge| edge.is_normal())
                    .map(|edge| edge.pkg.as_str()),
            );
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(edge_to: &str) -> Tree {
        let json = serde_json::json!({
            "packages": [{
                "id": "api 1", "name": "api", "version": "1.0.0", "license": null,
                "dependencies": [{"name": edge_to, "req": "*", "path": "/somewhere"}],
            }],
            "workspace_members": ["api 1"],
            "resolve": {"nodes": [{"id": "api 1", "deps": []}]},
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn an_edge_against_the_layers_is_named() {
        let error = check(&tree("node")).unwrap_err().to_string();
        assert!(error.contains("api depends on node"), "{error}");
    }

    #[test]
    fn a_runtime_below_a_pure_package_is_named() {
        let mut tree = tree("datastore");
        tree.packages.push(
            serde_json::from_value(serde_json::json!({
                "id": "tokio 1", "name": "tokio", "version": "1.0.0", "license": null, "dependencies": [],
            }))
            .unwrap(),
        );
        tree.resolve.nodes[0].deps.push(
            serde_json::from_value(serde_json::json!({
                "pkg": "tokio 1", "dep_kinds": [{"kind": null}],
            }))
            .unwrap(),
        );
        let error = check(&tree).unwrap_err().to_string();
        assert!(
            error.contains("api is pure, but has tokio below it"),
            "{error}"
        );
    }
}
