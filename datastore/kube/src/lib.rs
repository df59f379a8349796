//! The store over an API server of Kubernetes, where Calico keeps its objects: custom resources, annotations of Nodes and
//! of Pods.
//!
//! ```text
//! Store ─► store ─► custom: IPPool, IPAMBlock, …   as Calico writes them, metadata included
//!            │      node:   Node ⇄ annotations of the Kubernetes Node, patched field by field
//!            │      pod:    WorkloadEndpoint ⇄ annotations of the Pod; the rest in files of this node (kept)
//!            ▼
//!          client ─► one HTTP/2 connection, re-made when its peer is dead or its credentials are refused
//! ```
//! An API server compares and writes one object at a time, and has no transactions: [`Store::folds`] is no. Versions are
//! resource versions together with the object's UID, cursors are resource versions together with the cluster's (the UID of
//! the namespace `kube-system`): a store that was emptied or replaced is told from the one that was read.
//!
//! Not here: whether objects are valid (`api`), what is watched and how often a lost server is asked again (`node`).
//!
//! [`Store::folds`]: datastore::store::Store::folds
#![forbid(unsafe_code)]

pub mod client;
mod cluster;
mod connection;
mod credentials;
mod custom;
mod group;
mod kept;
mod lines;
mod metadata;
mod node;
mod pod;
mod secrets;
mod service;
pub mod settings;
mod store;
mod watch;

pub use client::{Client, Error, Patch, Status};
pub use cluster::Endpoint;
pub use secrets::Secret;
pub use settings::Settings;
pub use store::{KubeStore, Options};
