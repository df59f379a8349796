//! Assignment and release over the memory store.

mod assign;
mod interleave;
mod leftovers;
mod races;
mod release;
mod steps;
mod tunnel;
mod world;
