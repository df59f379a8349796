//! The CNI plugin: specification types, agent socket protocol, thin client.
//!
//! ```text
//! runtime ── environment, stdin ──► plugin ──► client ── one frame + netns descriptor ──► agent
//! runtime ◄── JSON, exit code ───── plugin ◄── client ◄── one frame ──────────────────────┘
//! ```
//!
//! The plugin does no work of its own: the agent holds the datastore, makes the veth pair and writes the route, so a
//! call costs no TLS session and no API discovery. The plugin opens `CNI_NETNS` and hands the descriptor over, because
//! the agent lives in a mount namespace where that path does not exist.
//!
//! [`install`] is the other thing the program does: it puts itself and its configuration on the host.
//!
//! Source: CNI specification 1.1.0, <https://github.com/containernetworking/cni/blob/main/SPEC.md>.

pub mod client;
mod delegate;
pub mod gates;
pub mod install;
pub mod netns;
pub mod plugin;
pub mod protocol;
pub mod socket;
pub mod spec;
pub mod upgrade;
