//! The embedded store as a process of its own.

fn main() {}
