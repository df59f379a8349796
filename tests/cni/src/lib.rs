//! What the CNI specification asks of a plugin, point by point.
//!
//! [`POINTS`] is the specification as a table: each row has its section, what it says, and a check that calls the plugin as a container
//! runtime does and looks into the kernel with the lab's own reader. The plugin is whatever a network configuration list names: ours
//! with an agent behind it, or Debian's `ptp`. The library knows nothing of either.
//!
//! ```text
//! Subject (conflist, plugin directories, machine) ──► examine ──► Finding per point: holds, breaks (why), does not apply
//! ```
//!
//! Sources: CNI specification 1.1.0, and for versions before it the shapes of their results.

mod points;
mod result;
mod runtime;
mod suite;

pub use points::POINTS;
pub use result::{Kernel, shape_fault};
pub use runtime::{Container, Network, Said};
pub use suite::{Delegate, Finding, Outcome, Point, Room, Subject, breaches, examine, table};
