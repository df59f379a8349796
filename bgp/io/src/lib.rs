//! TCP for the speaker: listening, connecting, MD5 and GTSM, byte shuttling.

mod driver;

pub use driver::{Command, Output, run};
