//! Planned kernel operations carried out: netlink, sysctl, namespaces, veth.
//!
//! ```text
//! felix::Reconciler ── Vec<Op> ──► Kernel::apply ──► one thread: program socket, /proc/sys
//!                   ◄─ results ──┘
//! felix::Reconciler ◄─ KernelEvent ── Kernel::dump (read back) and Kernel::events (notifications)
//! CNI ADD ──► workload::Attachment ──► one of workload::Threads: host namespace, then the pod's
//! ```
//!
//! It decides nothing: what to write comes as [`felix::kernel::Op`], what is there goes back as
//! [`felix::kernel::KernelEvent`], each refusal with the kernel's own words. It keeps no tables;
//! the kernel is read again whenever somebody needs to know.
//!
//! Sources: rtnetlink(7), netlink(7), `linux/rtnetlink.h`, `linux/if_link.h`, `linux/neighbour.h`.

pub mod conntrack;
pub mod host;
pub mod kernel;
pub mod netns;
pub mod sysctl;
pub mod workload;

mod netlink;
mod sys;
mod xtables;

pub use kernel::{Kernel, Table};
pub use netlink::monitor::decode;
