//! Store trait, revisions, watch events, memory store.
#![forbid(unsafe_code)]
