//! Empty: see `tests/decoders.rs`.
