//! The suite on our plugin and on Debian's, and lists of several plugins as runtimes run them.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set up its place fails where it stands"
)]

#[macro_use]
extern crate harness;

mod chain;
mod conformance;
mod conventions;
mod killed;
mod sabotage;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cni_conformance::{Delegate, Network, Subject};
use lab::{Lab, Options, Programs, Site};
use serde_json::{Value, json};

/// Where the plugins of Debian's containernetworking-plugins are.
const DEBIANS: &str = "/usr/lib/cni";
/// Where those of a test are, besides ours.
const PLUGINS: &str = "/run/tortie-lab/cni-bin";

fn main() -> std::process::ExitCode {
    harness::run()
}

/// Runs `body` in a private world, with the product's programs built before. `name` is the test's full name.
fn with_programs(name: &str, body: impl FnOnce(Programs)) {
    if !lab::is_inside() {
        Programs::build(lab::Store::Local).unwrap_or_else(|error| panic!("{error}"));
    }
    lab::in_namespaces(name, || body(Programs::find().expect("built a moment ago")));
}

/// Skips a test that needs one of Debian's plugins, where it is missing.
fn needs(plugin: &str) {
    if !lab::is_inside() && !Path::new(DEBIANS).join(plugin).exists() {
        let missing = format!("no {DEBIANS}/{plugin} (Debian: containernetworking-plugins)");
        harness::skip("host-local", &missing);
    }
}

/// A machine with our agent, and a pool of four addresses.
fn one_node(programs: Programs) -> Lab {
    let options = Options {
        nodes: 1,
        pool: "192.168.0.0/30".to_owned(),
        block_size: 30,
        patience: Duration::from_secs(60),
        ..Options::default()
    };
    Lab::start(options, programs).unwrap_or_else(|error| panic!("{error}"))
}

/// Puts the stand-in among the plugins under a name.
fn stand_in(name: &str) {
    let program = env!("CARGO_BIN_EXE_cni-stand-in");
    symlink(program, Path::new(PLUGINS).join(name)).unwrap();
}

/// A network of one plugin.
fn network(site: &Site, plugin: Value) -> Network {
    Network {
        site: site.clone(),
        directories: vec![PathBuf::from(PLUGINS), PathBuf::from(DEBIANS)],
        list: json!({"name": "k8s-pod-network", "cniVersion": "1.0.0", "plugins": [plugin]}),
    }
}

/// Our plugin with the agent's addresses.
fn ours(site: &Site) -> Subject {
    Subject {
        network: network(
            site,
            json!({"type": "calico", "ipam": {"type": "calico-ipam"}}),
        ),
        addresses: 4,
        patience: Duration::from_secs(60),
        host_prefix: "cali",
        delegate: Some(Delegate {
            kind: "recording-ipam".to_owned(),
            address: "10.99.0.5/24",
            gateway: "10.99.0.1",
        }),
    }
}
