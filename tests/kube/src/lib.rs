//! A real Kubernetes API server over a real etcd, for tests: the programs that `.ci/setup` builds into `~/.cache/tortie/kube`, as child
//! processes that end with the test, in a directory that goes with them. Nothing of ours is used, so that a fault of ours cannot hide:
//! what a test looks at it reads with kubectl.
//!
//! ```text
//! test ── kubectl, the tested client ──TLS──► kube-apiserver ──TLS──► etcd
//!              └──TLS──► Proxy: slow, silent, cut ──┘
//! ```
//!
//! **Sharing.** A start takes 3 s and 300 MB, so a test program starts one server for all its tests: its `main` is [`run`], its tests
//! call [`shared`] and work in namespaces or on objects whose names are their own. A test that kills, empties or restarts something, or
//! needs other [`Options`], starts its own [`ApiServer`].
//!
//! ```text
//! #[macro_use]
//! extern crate harness;                // `harness = false` in the manifest
//! fn main() -> std::process::ExitCode { kube_lab::run() }
//! #[test] fn name() { let server = kube_lab::shared(); server.apply("…"); … }
//! ```

mod api_server;
mod certificates;
mod controllers;
mod directory;
mod error;
mod faults;
mod kubectl;
mod metrics;
mod options;
mod process;
mod programs;
mod proxy;
mod shared;
mod sys;
mod tokens;

pub use api_server::ApiServer;
pub use certificates::{Authority, Credentials, Subject, Validity};
pub use controllers::Controllers;
pub use error::Error;
pub use faults::{Copy, Part};
pub use options::{Options, Place, Ports, User};
pub use process::{Keeper, Process};
pub use programs::{Missing, Programs, available, required};
pub use proxy::{Proxy, Weather};
pub use shared::{run, shared};
