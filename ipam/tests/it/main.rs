//! Assignment and release over the memory store.

mod assign;
mod beside;
mod calico;
mod cooldown;
mod few;
mod interleave;
mod leftovers;
mod orders;
mod races;
mod release;
mod reserved;
mod stale;
mod steps;
mod tunnel;
mod turns;
mod world;
