//! Other BGP daemons against ours, each in a network namespace of `lab`.
//!
//! What a test asserts it reads from the other daemon's own table or from the kernel, never from our status. Two kinds of tests use this
//! library: those of the whole agent (`lab`'s cluster with a foreign router on its rack) and those of the speaker alone, with every
//! daemon in turn.

pub mod bird;
mod daemon;
mod eventually;
pub mod exabgp;
pub mod frr;
pub mod gobgp;
mod joined;
pub mod plan;
mod process;
pub mod scripted;
mod speaker;

pub use daemon::{Daemon, Kind, Seen, Unseen};
pub use eventually::eventually;
pub use joined::{FAR, FAR6, NEAR, NEAR6, joined};
pub use speaker::{Begin, OurSpeaker, config, peer};
