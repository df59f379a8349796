//! The calculation graph: objects, BGP routes and the host's own links into rows of the wanted kernel, the speaker's
//! configuration and the prefixes to announce.

#![allow(dead_code)]

mod changes;
mod problem;
mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::key::{Key, Kind};
use api::object::Object;
use bgp::config::Config;
use bgp::route::{Origination, RouteChange};
use ipnet::IpNet;

use crate::desired::{Row, RowKey};
use crate::kernel::KernelEvent;
use changes::Changes;
pub use problem::{Problem, Reason, Subject};
pub use settings::{ClusterRoutes, Settings};

/// The calculation graph of one node.
///
/// Facts go in through `handle_*` in any order and number; [`flush`](Self::flush) works them off; the `poll_*` outputs
/// then hold what changed, at most one value a key. Outputs depend on the present facts only, never on their order.
/// Nothing comes out before [`in_sync`](Self::in_sync).
#[derive(Debug)]
pub struct Graph {
    settings: Settings,
    invalid: BTreeMap<Key, Arc<str>>,
    synced: BTreeSet<Kind>,
    rows: Changes<RowKey, Row>,
    originations: Changes<IpNet, Origination>,
}

impl Graph {
    /// Kinds of object that must be listed completely before anything comes out.
    pub const KINDS: [Kind; 7] = [
        Kind::IPPool,
        Kind::Node,
        Kind::BGPConfiguration,
        Kind::BGPPeer,
        Kind::WorkloadEndpoint,
        Kind::IPAMBlock,
        Kind::BlockAffinity,
    ];

    /// A graph that knows nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            invalid: BTreeMap::new(),
            synced: BTreeSet::new(),
            rows: Changes::default(),
            originations: Changes::default(),
        }
    }

    /// An object was written, or is gone (`None`). Kinds the graph has no use for are ignored.
    pub fn handle_update(&mut self, key: &Key, object: Option<&Object>) {
        let _ = object;
        self.invalid.remove(key);
    }

    /// An object cannot be read or does not validate: it counts as absent, and [`problems`](Self::problems) says why.
    pub fn handle_invalid(&mut self, key: &Key, reason: Arc<str>) {
        self.handle_update(key, None);
        self.invalid.insert(key.clone(), reason);
    }

    /// All objects of this kind that existed at the start have been given.
    pub fn handle_in_sync(&mut self, kind: Kind) {
        self.synced.insert(kind);
    }

    /// The best BGP route of a prefix changed.
    pub fn handle_bgp_route(&mut self, change: RouteChange) {
        let _ = change;
    }

    /// The host's links, addresses and routes changed. Every event may be given, also about the agent's own rows.
    pub fn handle_kernel_event(&mut self, event: &KernelEvent) {
        let _ = event;
    }

    /// The host is being read again: what is not told until [`handle_kernel_in_sync`](Self::handle_kernel_in_sync) is
    /// gone by then.
    pub fn handle_kernel_resync(&mut self) {}

    /// All links, addresses and routes of the host have been given.
    pub fn handle_kernel_in_sync(&mut self) {}

    /// Whether all facts of the start are known: from the next flush on what is not wanted may be deleted.
    pub fn in_sync(&self) -> bool {
        Self::KINDS.iter().all(|kind| self.synced.contains(kind))
    }

    /// Works off what was handled since the last flush.
    pub fn flush(&mut self) {}

    /// A row of the wanted kernel that changed; `None` in the pair when it is no longer wanted.
    pub fn poll_desired(&mut self) -> Option<(RowKey, Option<Row>)> {
        self.rows.poll()
    }

    /// The speaker's configuration, when it changed. Nothing while the node has no address, or does not speak BGP.
    pub fn poll_bgp_config(&mut self) -> Option<Config> {
        None
    }

    /// A prefix to announce, or no longer to announce.
    pub fn poll_originate(&mut self) -> Option<(IpNet, Option<Origination>)> {
        self.originations.poll()
    }

    /// Whether every prefix this node announces has been polled: from then on the speaker may send End-of-RIB.
    pub fn originations_complete(&self) -> bool {
        self.in_sync() && self.originations.is_read()
    }

    /// What is skipped, and why, sorted.
    pub fn problems(&self) -> Vec<Problem> {
        self.invalid
            .iter()
            .map(|(key, why)| Problem {
                subject: Subject::Object(key.clone()),
                field: "",
                reason: Reason::Invalid(why.clone()),
            })
            .collect()
    }

    /// MTU for pods: the smallest of the tunnels in use, else the host's; `None` while the host's is not known.
    pub fn pod_mtu_bytes(&self) -> Option<u32> {
        None
    }

    /// Its settings.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }
}
