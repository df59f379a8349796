//! Nodes, racks and pods as network namespaces on one machine.
//!
//! A library for tests, and the pieces of `cargo lab`. Its checks read the kernel, the wire and what receivers saw; they share no code
//! with the product, so that one mistake cannot hide in both. It deliberately knows nothing of the product's inside: it starts the built
//! programs and calls the plugin as a container runtime does.
//!
//! Everything happens in a private world ([`in_namespaces`]) that vanishes with its process 1.

mod cluster;
mod enter;
pub mod faults;
mod kept;
mod kube;
pub mod kubelet;
mod launch;
mod netlink;
mod netns;
mod options;
mod probe;
mod programs;
mod progress;
mod proof;
mod reflectors;
mod report;
mod run;
mod runtime;
mod store;
mod switch;
mod sys;
mod topology;
mod tors;
mod traffic;
pub mod uml;
mod wait;
pub mod wire;

pub use cluster::{Lab, LabError, log_end, log_path};
pub use enter::{BASE, Inside, as_init, in_namespaces, is_inside, prepare, refusal_advice};
pub use kept::{Kept, KeptError, KeptNode};
pub use kube::Kube;
pub use launch::{Kernel, Output, launch};
pub use netlink::{
    Hop, Link, Neighbour, NeighbourTable, Netlink, NetlinkError, Route, RouteChange, RouteEvent,
    RouteKind, RouteMonitor,
};
pub use netns::NetNs;
pub use options::{Mode, Options, Path, Sabotage, Store};
pub use probe::bulk::Bulk;
pub use probe::capture::{Capture, Content, Packet};
pub use probe::ping::Pinger;
pub use probe::stream::{Outcome, Stream};
pub use probe::tcp::{Seen, SourceReporter, ask_source, ask_source_here};
pub use programs::{Programs, ProgramsError};
pub use progress::Progress;
pub use proof::Proof;
pub use proof::fib::FibRow;
pub use proof::matrix::Cell;
pub use proof::sessions::{SessionEnd, established_peers};
pub use reflectors::Reflector;
pub use report::{NodeReport, PacketCounts, PingCounts, Quantiles, Report, SessionCounts};
pub use run::{Run, RunError, has_nft, run};
pub use runtime::{
    PLUGIN_DIRECTORY, Pod, RuntimeError, Sandbox, as_plugin_call, call_plugin, make_sandbox,
    plugin_configuration, remove_sandbox,
};
pub use store::{FILE as STORE_FILE, SOCKET as STORE_SOCKET};
pub use topology::{Families, Rack, Site, Topology};
pub use tors::{Tor, find_bird};
pub use traffic::{HEALED_AFTER, Traffic};
pub use wait::until as wait_until;
