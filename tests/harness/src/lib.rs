//! The harness of tests that not every machine can run.
//!
//! libtest decides before a program runs what is ignored, and shows nothing of a test that passes, so that a skip looks like a pass. This
//! one counts a skipped test as ignored, repeats the reasons below the `test result:` line, and leaves a record from which the run's last
//! program (`xtask/tests/skipped.rs`) sums up. With `CI=true` a skip is a failure, unless docs/testing.md lists its id.
//!
//! ```text
//! #[macro_use]
//! extern crate harness;                // in the root of a test program that has `harness = false` in its manifest
//! fn main() -> std::process::ExitCode { harness::run() }
//! #[test] fn name() { if … { harness::skip("id", "what is missing here") } … }
//! ```
//!
//! A test that needs a place of its own (namespaces, another kernel) starts its program again there: [`Inner`].

mod allowed;
mod inner;
mod record;
mod run;
mod skip;

pub use harness_macros::test;
pub use inner::Inner;
#[doc(hidden)]
pub use inventory;
pub use record::{Skipped, closing_lines, of_this_run};
pub use run::{Test, plain, run, run_side_by_side, waits};
pub use skip::skip;
