//! What it costs to connect pods: the product's own programs on the lab's machines, over the embedded store or over a real API server
//! with etcd, all on one machine.
//!
//! ```text
//! bench ── the plugin, as a runtime calls it ──► tortie-node of n1 ──► API server ── etcd
//!   │                                                  │ BGP
//!   └── route notifications of n2's kernel ◄── tortie-node of n2
//! ```
//! Each scenario has a world of its own (a PID namespace), which is gone with it. What a pod's object says, kubectl writes between the
//! timed calls, as its user, its scheduler and its kubelet would.

mod beside;
mod call;
mod cluster;
mod cycles;
mod floor;
mod large;
mod many;
mod outside;
mod report;
mod scenario;
mod spent;

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

pub use lab::Store;
pub use outside::{Arguments, run};
pub use report::Report;
pub use scenario::inside;

/// What is measured in one world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scenario {
    /// ADD and DEL, one at a time, in a block that is half full.
    Pods,
    /// ADD and DEL, eight at a time.
    Parallel,
    /// ADD that claims a new block, until the block's route is in the other node's FIB.
    Claims,
    /// 100 nodes and 2,900 pods: memory, and what an idle minute costs. Only with an API server.
    Many,
    /// ADD and DEL by this plugin, and by the reference plugins ptp and bridge with host-local, where they are installed. Only with the
    /// embedded store.
    Beside,
    /// ADD, claim, borrowing and DEL before others have 10,000 blocks and 100,000 handles, and beside them. Only with the embedded store.
    Large,
    /// Memory and the store's file over 9,000 pods that come and go. Only with the embedded store.
    Cycles,
}

impl Scenario {
    /// Whether a store can be measured so.
    #[must_use]
    pub fn is_for(self, store: Store) -> bool {
        match self {
            Self::Pods | Self::Parallel | Self::Claims => true,
            Self::Many => store == Store::Kube,
            Self::Beside | Self::Large | Self::Cycles => store == Store::Local,
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.write_str(
            value
                .as_ref()
                .map_or("?", clap::builder::PossibleValue::get_name),
        )
    }
}
