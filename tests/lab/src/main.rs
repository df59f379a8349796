//! `cargo lab`: a cluster on one machine that pings.

fn main() {}
