//! Other BGP daemons against ours, each in a network namespace of `lab`.
//!
//! What a test asserts it reads from the other daemon's own table or from the kernel, never from our status. Two kinds of tests use this
//! library: those of the whole agent (`lab`'s cluster with a foreign router on its rack) and those of the speaker alone, on two joined
//! namespaces, for what no resource can configure yet.

pub mod bird;
mod daemon;
mod eventually;
pub mod frr;
pub mod gobgp;
mod joined;
mod speaker;

pub use eventually::eventually;
pub use joined::{FAR, NEAR, joined};
pub use speaker::{Begin, OurSpeaker, config, peer};
