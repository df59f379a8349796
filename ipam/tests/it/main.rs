//! Assignment and release over the memory store.

mod assign;
mod world;
