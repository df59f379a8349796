//! What every other daemon can be asked, whichever it is.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Child;

use ipnet::IpNet;
use lab::NetNs;

use crate::bird::{Bird, Version};
use crate::eventually;
use crate::exabgp::ExaBgp;
use crate::frr::Frr;
use crate::gobgp::GoBgp;
use crate::plan::Plan;
use crate::process;

/// The daemons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// BIRD 2, one process for both families.
    Bird2,
    /// BIRD 1.6, the base of Calico's: one process a family.
    Bird1,
    /// FRR's bgpd.
    Frr,
    /// GoBGP.
    GoBgp,
    /// ExaBGP: it says what it is told and writes down what it hears; it has no table of its own.
    ExaBgp,
}

impl Kind {
    /// Id of the skip and what to install, when it is not there.
    #[must_use]
    pub fn missing(self) -> Option<(&'static str, &'static str)> {
        let (there, id, install) = match self {
            Self::Bird2 => (
                Bird::find().is_some(),
                "bird",
                "no program `bird` on PATH or in /usr/sbin (Debian: bird2)",
            ),
            Self::Bird1 => (
                Bird::find_version(Version::One).is_some(),
                "bird1",
                "no BIRD 1.6 in TORTIE_BIRD1 or ~/.cache/tortie/bird1 (.ci/setup unpacks Debian's package bird there)",
            ),
            Self::Frr => (Frr::is_there(), "frr", "no bgpd and vtysh (Debian: frr)"),
            Self::GoBgp => (
                GoBgp::is_there(),
                "gobgp",
                "no gobgpd and gobgp (Debian: gobgpd)",
            ),
            Self::ExaBgp => (
                ExaBgp::is_there(),
                "exabgp",
                "no program `exabgp` (Debian: exabgp)",
            ),
        };
        (!there).then_some((id, install))
    }

    /// Starts it in a namespace and waits until it answers.
    ///
    /// # Errors
    /// When its files cannot be written or the program not be started.
    ///
    /// # Panics
    /// When it is not installed, does not answer in time, or cannot do what the plan asks (BIRD 1.6 and both families).
    pub fn start(self, namespace: &NetNs, plan: &Plan) -> io::Result<Box<dyn Daemon>> {
        Ok(match self {
            Self::Bird2 => Box::new(Bird::start_plan(Version::Two, namespace, plan)?),
            Self::Bird1 => Box::new(Bird::start_plan(Version::One, namespace, plan)?),
            Self::Frr => Box::new(Frr::start_plan(namespace, plan)?),
            Self::GoBgp => Box::new(GoBgp::start_plan(namespace, plan)?),
            Self::ExaBgp => Box::new(ExaBgp::start_plan(namespace, plan)?),
        })
    }
}

/// A running daemon. It is killed when dropped.
pub trait Daemon {
    /// What its table has for a prefix that it learned by BGP.
    ///
    /// # Errors
    /// What it has instead, or that it does not answer.
    fn seen(&self, prefix: IpNet) -> Result<Seen, Unseen> {
        let mut paths = self.paths(prefix)?.into_iter();
        paths.next().ok_or_else(|| Unseen::Absent(String::new()))
    }

    /// All that it learned of a prefix, the best one first; at least one.
    ///
    /// # Errors
    /// As [`Self::seen`].
    fn paths(&self, prefix: IpNet) -> Result<Vec<Seen>, Unseen>;

    /// Whether its session with one of our addresses stands.
    ///
    /// # Errors
    /// What it says of the session instead.
    fn established(&self, ours: IpAddr) -> Result<(), String>;

    /// How many UPDATEs, or routes in them, it has counted from us since the session began.
    ///
    /// # Errors
    /// What it says instead.
    fn heard(&self, ours: IpAddr) -> Result<u64, String>;

    /// Makes it ask us for our routes again (RFC 2918).
    ///
    /// # Errors
    /// What it says.
    fn ask_refresh(&self, ours: IpAddr) -> Result<(), String>;

    /// Makes it end the session as its operator would, with a text for ours (RFC 9003).
    ///
    /// # Errors
    /// What it says.
    fn shut_down(&self, ours: IpAddr, text: &str) -> Result<(), String>;

    /// Makes it end the session with a Cease/Administrative Reset, and begin it again.
    ///
    /// # Errors
    /// What it says.
    fn reset(&self, ours: IpAddr) -> Result<(), String>;

    /// Its process.
    fn child(&mut self) -> &mut Child;

    /// Stops it with SIGSTOP: its connections stand, and nothing is said on them.
    ///
    /// # Errors
    /// When it is gone.
    fn freeze(&mut self) -> io::Result<()> {
        process::freeze(self.child().id())
    }

    /// Lets it go on after [`Daemon::freeze`].
    ///
    /// # Errors
    /// When it is gone.
    fn thaw(&mut self) -> io::Result<()> {
        process::thaw(self.child().id())
    }

    /// Kills it with SIGKILL: its connections close without a NOTIFICATION.
    ///
    /// # Errors
    /// When it was gone before.
    fn kill(&mut self) -> io::Result<()> {
        let child = self.child();
        child.kill()?;
        child.wait().map(drop)
    }

    /// Starts it again after [`Daemon::kill`], as a restarting speaker where it can be one, with the same plan.
    ///
    /// # Errors
    /// When the program cannot be started.
    fn restart(&mut self) -> io::Result<()>;

    /// What it says about its sessions, and its log.
    fn said(&self) -> String;
}

impl dyn Daemon {
    /// Waits until its session with one of our addresses stands.
    ///
    /// # Panics
    /// When it does not in time: with what it says.
    #[track_caller]
    pub fn wait_established(&self, ours: IpAddr) {
        eventually(&format!("the session with {ours} stands"), || {
            self.established(ours)
                .map_err(|error| format!("{error}\n{}", self.said()))
        });
    }

    /// Waits until its table has the prefix so that `wanted` is content, and returns what it has.
    ///
    /// # Panics
    /// When it does not in time: with what it has.
    #[track_caller]
    pub fn wait_seen(&self, prefix: &str, mut wanted: impl FnMut(&Seen) -> bool) -> Seen {
        let prefix: IpNet = prefix.parse().expect("a prefix");
        eventually(
            &format!("its table has {prefix} as wanted"),
            || match self.seen(prefix) {
                Ok(seen) if wanted(&seen) => Ok(seen),
                Ok(seen) => Err(format!("{seen:#?}")),
                Err(error) => Err(format!("{error}\n{}", self.said())),
            },
        )
    }

    /// Waits until it has learned a prefix by these next hops and no other.
    ///
    /// # Panics
    /// When it has not in time: with what it has.
    #[track_caller]
    pub fn wait_next_hops(&self, prefix: &str, wanted: &[IpAddr]) {
        let prefix: IpNet = prefix.parse().expect("a prefix");
        let wanted: BTreeSet<IpAddr> = wanted.iter().copied().collect();
        eventually(&format!("it has {prefix} by {wanted:?}"), || {
            let paths = match self.paths(prefix) {
                Ok(paths) => paths,
                Err(error) => return Err(format!("{error}\n{}", self.said())),
            };
            let found: BTreeSet<IpAddr> = paths.iter().filter_map(|path| path.next_hop).collect();
            match found == wanted {
                true => Ok(()),
                false => Err(format!("{paths:#?}")),
            }
        });
    }

    /// Waits until its table does not have the prefix.
    ///
    /// # Panics
    /// When it still does after the deadline: with what it has.
    #[track_caller]
    pub fn wait_gone(&self, prefix: &str) {
        let prefix: IpNet = prefix.parse().expect("a prefix");
        eventually(
            &format!("its table no longer has {prefix}"),
            || match self.seen(prefix) {
                Ok(seen) => Err(format!("{seen:#?}")),
                Err(Unseen::Absent(_)) => Ok(()),
                Err(silent @ Unseen::Silent(_)) => Err(silent.to_string()),
            },
        );
    }

    /// Waits until it said a text about its sessions, or in its log.
    ///
    /// # Panics
    /// When it does not in time.
    #[track_caller]
    pub fn wait_said(&self, text: &str) {
        eventually(&format!("it says {text:?}"), || {
            let said = self.said();
            match said.contains(text) {
                true => Ok(()),
                false => Err(said),
            }
        });
    }
}

/// Why a route is not seen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unseen {
    /// The daemon answers, and its table does not have it: what it has instead.
    #[error("not in its table: {0}")]
    Absent(String),
    /// The daemon does not answer: whether its table has it nobody knows.
    #[error("no answer: {0}")]
    Silent(String),
}

impl From<String> for Unseen {
    fn from(why: String) -> Self {
        Self::Silent(why)
    }
}

/// A route in another daemon's table, in one form for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// NEXT_HOP.
    pub next_hop: Option<IpAddr>,
    /// AS_PATH, without sets.
    pub as_path: Vec<u32>,
    /// ORIGIN in capitals.
    pub origin: String,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF.
    pub local_pref: Option<u32>,
    /// `65001:7`, `65001:1:2`, `rt:65001:9`.
    pub communities: BTreeSet<String>,
    /// ORIGINATOR_ID (RFC 4456).
    pub originator: Option<Ipv4Addr>,
    /// CLUSTER_LIST.
    pub clusters: Vec<Ipv4Addr>,
    /// OTC (RFC 9234).
    pub only_to_customers: Option<u32>,
    /// Kept from a session that ended (RFC 4724), where the daemon says so.
    pub stale: bool,
}

/// The numbers in a text, in order.
pub(crate) fn numbers(text: &str) -> Vec<u32> {
    text.split(|c: char| !c.is_ascii_digit())
        .filter_map(|word| word.parse().ok())
        .collect()
}
