//! The store's trait, versions and cursors, plans, watches, the memory store.
//!
//! A store keeps JSON objects under [`api::key::Key`]s. It compares and writes one object at a time; what belongs together
//! is a [`plan::Plan`], which stores with transactions do at once. Listings and watches are of one kind and scope, and go
//! on at a cursor.
#![forbid(unsafe_code)]

pub mod conformance;
pub mod delegate;
pub mod history;
pub mod memory;
pub mod plan;
pub mod scope;
pub mod store;
pub mod version;
pub mod watcher;
