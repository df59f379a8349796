//! What it takes to write routes and packet rules into the kernel: the agent's own way (`felix::Reconciler` and `felix-io`, fed as the
//! agent's task feeds them) beside senders that keep no account, `ip -batch` and the crate rtnetlink.
//!
//! ```text
//! bench ── for each work, way and run ──► unshare --net bench dataplane --inside … ──► this namespace's kernel
//! ```
//! Each is measured in a process and a network namespace of its own: seconds, CPU seconds (the kernel's work for it included) and the
//! most memory that was resident. Prefixes and their peers follow from the seed, and each is counted in the kernel when it is done.

mod crates;
mod inside;
mod network;
mod other;
mod ours;
mod outside;
mod raw;
mod report;
mod rules;

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

pub use outside::{Arguments, run};
pub use report::Report;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Work {
    /// Routes by gateway are added to an empty table.
    Add,
    /// The kernel is read again while every route is as it is wanted.
    Resync,
    /// The same again and again, as an idle agent does now and then.
    Idle,
    /// All routes lead to one peer, which is then reached another way.
    Move,
    /// The NAT-outgoing rules of a thousand pools are replaced by others.
    Rules,
}

/// By what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// The agent's reconciler and netlink, with the notifications of the kernel read as the agent does.
    Tortie,
    /// The same without next-hop objects.
    Classic,
    /// The same without notifications.
    Deaf,
    /// Messages made and sent in batches of 500 by a loop that keeps nothing.
    Raw,
    /// `ip -batch`, `ip route show`, `nft -f`.
    Ip,
    /// `ip nexthop replace` on the agent's object, with nobody who listens: what the kernel takes.
    Object,
    /// rtnetlink, one request at a time.
    Rtnetlink,
    /// netlink-proto under it, batches of 100 requests.
    Proto,
}

impl Work {
    /// The ways that can do it.
    #[must_use]
    pub const fn ways(self) -> &'static [Way] {
        match self {
            Self::Add => &[
                Way::Tortie,
                Way::Classic,
                Way::Deaf,
                Way::Raw,
                Way::Ip,
                Way::Rtnetlink,
                Way::Proto,
            ],
            Self::Resync => &[Way::Tortie, Way::Classic, Way::Raw, Way::Ip, Way::Rtnetlink],
            Self::Idle => &[Way::Tortie, Way::Raw],
            Self::Move => &[
                Way::Tortie,
                Way::Classic,
                Way::Raw,
                Way::Ip,
                Way::Object,
                Way::Proto,
            ],
            Self::Rules => &[Way::Tortie, Way::Ip],
        }
    }
}

/// Readings of [`Work::Idle`].
const READINGS: u32 = 10;

/// What was spent on a piece of work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spent {
    /// From the first request to the last answer.
    pub seconds: f64,
    /// Of the process, in user and kernel mode.
    pub cpu_seconds: f64,
    /// VmHWM; of [`Work::Idle`] VmRSS.
    pub peak_mib: f64,
}

macro_rules! shown_by_its_value {
    ($($kind:ty),*) => {$(
        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let value = self.to_possible_value();
                f.write_str(value.as_ref().map_or("?", clap::builder::PossibleValue::get_name))
            }
        }
    )*};
}
shown_by_its_value!(Work, Way);
