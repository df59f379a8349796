//! The calculation's task: owner of the graph.

pub mod inbox;

pub use inbox::{Inbox, Input, InputKey};

use api::admin::Problem;

/// What the calculation tells about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CalcView {
    /// Pods of this node.
    pub local_endpoints: usize,
    /// Objects that count as absent, and why.
    pub problems: Vec<Problem>,
}
