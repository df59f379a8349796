//! Assignment and release over the memory store.

mod anomalies;
mod assign;
mod beside;
mod calico;
mod cluster;
mod companion;
mod cooldown;
mod few;
mod garbage;
mod interleave;
mod leftovers;
mod orders;
mod races;
mod release;
mod reserved;
mod stale;
mod steps;
mod trusting;
mod tunnel;
mod turns;
mod world;
