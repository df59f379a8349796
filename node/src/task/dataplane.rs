//! The dataplane's task: owner of the reconciler and of the kernel's sockets.

use api::admin::Problem;

/// What the dataplane tells about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataplaneView {
    /// Rows wanted in the kernel.
    pub rows_wanted: usize,
    /// Of these, rows that are not there yet.
    pub rows_pending: usize,
    /// Rows the kernel refuses, and why.
    pub problems: Vec<Problem>,
}
