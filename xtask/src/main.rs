//! One front door for the developers' chores.

fn main() {}
