//! Measures what it costs to connect pods ([`cni`]), to write into the kernel ([`dataplane`]), and BGP daemons: one process plays all
//! peers of a daemon, times each phase until the last receiver holds exactly what it must, and reads from /proc what the daemon spent on
//! it.
//!
//! ```text
//!  senders (10.99.1.n) ──► daemon under test (10.99.0.1) ──► receivers (10.99.2.n)
//!        └──────────────── one thread, epoll: load.rs ─────────────┘
//! ```
//! The peers speak a BGP of their own, [`wire`], which shares nothing with the speaker they measure. Every route carries a community
//! that names sender, attribute set and version, so a phase that ended is a correctness test that passed. Nothing here asserts times.
//! The program `bench-floor` is measured as if it were a daemon: it only copies, so that its times are the kernel's and the bench's.
//!
//! Standards: RFC 4271, 2918 (refresh), 4456 (in most scenarios every peer is a reflector's client), 4760, 6793.

pub mod attacks;
pub mod client;
pub mod cni;
pub mod daemon;
pub mod dataplane;
pub mod facts;
pub mod load;
pub mod place;
pub mod plan;
pub mod prefixes;
pub mod random;
pub mod report;
pub mod routes;
pub mod scenario;
pub mod table;
pub mod usage;
pub mod wire;
pub mod world;
