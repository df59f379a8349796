//! What manifests/ holds, before a real API server: it is taken, it says what it should, and it may no more than it needs.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set up its place fails where it stands"
)]

#[macro_use]
extern crate harness;

mod definitions;
mod overlays;
mod rights;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use kube_lab::ApiServer;
use serde_json::Value;

fn main() -> std::process::ExitCode {
    kube_lab::run()
}

/// A path below manifests/.
fn manifests(path: &str) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../manifests");
    root.join(path).display().to_string()
}

/// The shared server, with our definitions.
fn server() -> Arc<ApiServer> {
    static DEFINED: Mutex<bool> = Mutex::new(false);

    let server = kube_lab::shared();
    let mut defined = DEFINED.lock().unwrap_or_else(PoisonError::into_inner);
    if !*defined {
        let crds = manifests("crds");
        let strictly = ["apply", "--server-side", "--validate=strict", "-k"];
        server.kubectl(&[&strictly[..], &[&crds]].concat()).unwrap();
        let established = ["wait", "--for=condition=Established", "--timeout=120s"];
        server
            .kubectl(&[&established[..], &["crd", "--all"]].concat())
            .unwrap();
        *defined = true;
    }
    server
}

/// What kubectl prints as JSON.
fn json(server: &ApiServer, arguments: &[&str]) -> Value {
    let text = server
        .kubectl(&[arguments, &["--output=json"]].concat())
        .unwrap();
    serde_json::from_str(&text).unwrap()
}
