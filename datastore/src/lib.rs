//! Store trait, revisions, watch events, memory store.
//!
//! A store keeps JSON objects under [`api::key::Key`]s. Every write raises one store-wide revision; several keys can be
//! compared and written in one transaction; a watch delivers every change after a revision, in order.
#![forbid(unsafe_code)]

pub mod conformance;
pub mod history;
pub mod memory;
pub mod store;
pub mod watcher;
