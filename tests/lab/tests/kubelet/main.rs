//! Real kubelets with containerd on the lab's machines.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set up its place fails where it stands"
)]

#[macro_use]
extern crate harness;

mod cleanup;
mod daemonset;
mod install;
mod skeleton;

use std::path::Path;
use std::time::Duration;

use lab::Families;
use lab::kubelet::{self, KubeletCluster};

fn main() -> std::process::ExitCode {
    harness::run()
}

/// How long anything may take on a shared machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// Runs `body` with a cluster of two nodes in a private world; `name` is the test's full name. Whatever the test did, nothing of it
/// is left afterwards.
fn with_cluster(
    name: &str,
    families: Families,
    images: &[&Path],
    body: impl FnOnce(KubeletCluster),
) {
    if !lab::is_inside() {
        if let Err(reason) = kubelet::available() {
            harness::skip("kubelet", &reason);
        }
        kubelet::sweep().unwrap();
    }
    lab::in_namespaces(name, || {
        let cluster = KubeletCluster::start(2, families, images, PATIENCE);
        body(cluster.unwrap_or_else(|error| panic!("{error}")));
    });
    if !lab::is_inside() {
        assert_eq!(kubelet::sweep().unwrap(), Vec::<std::path::PathBuf>::new());
    }
}

/// As [`with_cluster`], with this project's image on the nodes.
fn with_product(name: &str, families: Families, body: impl FnOnce(KubeletCluster)) {
    if !lab::is_inside() {
        if let Err(reason) = kubelet::available() {
            harness::skip("kubelet", &reason);
        }
        kubelet::build_image(PROFILE).unwrap_or_else(|error| panic!("{error}"));
    }
    with_cluster(name, families, &[&kubelet::image(PROFILE)], body);
}

/// What the tests themselves are built with.
const PROFILE: &str = "dev";
