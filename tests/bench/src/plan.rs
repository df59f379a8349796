//! The scenarios.

use std::time::Duration;

/// How much of what is sent to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its name on the command line and in the table.
    pub name: &'static str,
    /// Peers that announce.
    pub senders: u16,
    /// Prefixes of each sender.
    pub prefixes: u32,
    /// Attribute sets of each sender.
    pub sets: u32,
    /// Further peers, which listen.
    pub receivers: u16,
    /// What the senders do with each other's routes.
    pub hearing: Hearing,
    /// Terms of the policy by which the daemon sends; none of them matches.
    pub terms: u16,
    /// What is done.
    pub phases: &'static [Phase],
    /// Of the prefixes, and of the sessions outside the tests.
    pub family: Family,
    /// What the peers are to the daemon.
    pub peers: Peers,
    /// Which prefixes a sender has.
    pub layout: Layout,
    /// Longest phase: what lasts longer is reported as that.
    pub limit: Duration,
}

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4 unicast in UPDATE's own fields.
    V4,
    /// IPv6 unicast in MP_REACH_NLRI (RFC 4760).
    V6,
}

/// What the peers are to the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peers {
    /// All are clients of the reflector (RFC 4456).
    Reflected,
    /// Each is of an AS of its own; the daemon names itself as the next hop.
    External,
}

/// What the senders do with what they are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hearing {
    /// They throw it away: a phase does not wait for them.
    Deaf,
    /// They check it as receivers do: all to all.
    All,
}

/// Which prefixes a sender has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Its own, all of one length; neighbours share an attribute set.
    Own,
    /// The same as the other senders; by LOCAL_PREF each sender is best for its share of the attribute sets.
    Shared,
    /// Its own, with lengths and shares of attribute sets as in the Internet's table.
    Internet,
    /// As [`Self::Internet`], but the prefixes of a set lie anywhere.
    InternetScattered,
    /// As [`Self::Internet`], the same for all senders; who is best is as with [`Self::Shared`].
    InternetShared,
}

impl Layout {
    /// All senders have the same prefixes.
    #[must_use]
    pub const fn is_shared(self) -> bool {
        match self {
            Self::Shared | Self::InternetShared => true,
            Self::Own | Self::Internet | Self::InternetScattered => false,
        }
    }

    /// Lengths and shares are the Internet's.
    #[must_use]
    pub const fn is_internet(self) -> bool {
        match self {
            Self::Internet | Self::InternetScattered | Self::InternetShared => true,
            Self::Own | Self::Shared => false,
        }
    }
}

/// One thing that is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// All peers connect at once; over when every session stands.
    Establish,
    /// Every sender announces all its prefixes.
    Announce,
    /// The same with another community in every attribute set.
    Readvertise,
    /// One receiver forgets everything and asks for it again (RFC 2918).
    Refresh,
    /// Every sender withdraws everything.
    Withdraw,
    /// All receivers' connections close and are opened again at once; over when every receiver holds everything again.
    Flap,
    /// One sender's connection closes; over when its routes are gone, or those of the next best sender are in their place.
    FlapSender,
    /// That sender is back.
    Return,
    /// One prefix gets another attribute; many times, the median counts.
    OneChange,
}

impl Phase {
    /// Whether it leaves the routes as they are: what comes next can be measured without it.
    #[must_use]
    pub const fn leaves_routes(self) -> bool {
        matches!(self, Self::Establish | Self::Refresh | Self::Flap)
    }

    /// Its name in the table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Establish => "establish",
            Self::Announce => "announce",
            Self::Readvertise => "re-announce",
            Self::Refresh => "refresh",
            Self::Withdraw => "withdraw",
            Self::Flap => "flap",
            Self::FlapSender => "sender lost",
            Self::Return => "sender back",
            Self::OneChange => "one change",
        }
    }
}

const BULK: &[Phase] = &[
    Phase::Announce,
    Phase::Readvertise,
    Phase::Refresh,
    Phase::Withdraw,
];

const MASS: &[Phase] = &[
    Phase::Establish,
    Phase::Announce,
    Phase::OneChange,
    Phase::Flap,
    Phase::Withdraw,
];

/// Nodes that all announce a little, and hear of each other.
const NODES: &[Phase] = &[Phase::Announce, Phase::Readvertise, Phase::Withdraw];

const COMPETITION: &[Phase] = &[
    Phase::Announce,
    Phase::Readvertise,
    Phase::FlapSender,
    Phase::Return,
    Phase::Withdraw,
];

/// Above what the slowest daemon needs: GoBGP some 15 s, FRR's million prefixes 30 s (until the next KEEPALIVE).
const LIMIT: Duration = Duration::from_secs(60);

impl Plan {
    /// Senders with prefixes of their own, in IPv4, reflected to receivers.
    #[must_use]
    pub const fn bulk(
        name: &'static str,
        senders: u16,
        prefixes: u32,
        sets: u32,
        receivers: u16,
    ) -> Self {
        Self {
            name,
            senders,
            prefixes,
            sets,
            receivers,
            hearing: Hearing::Deaf,
            terms: 0,
            phases: BULK,
            family: Family::V4,
            peers: Peers::Reflected,
            layout: Layout::Own,
            limit: LIMIT,
        }
    }

    /// Nodes with a few blocks each, all to all.
    const fn nodes(name: &'static str, nodes: u16, blocks: u32) -> Self {
        Self {
            hearing: Hearing::All,
            phases: NODES,
            ..Self::bulk(name, nodes, blocks, 1, 0)
        }
    }

    /// A sender and many receivers.
    const fn mass(name: &'static str, receivers: u16) -> Self {
        Self {
            phases: MASS,
            ..Self::bulk(name, 1, 1_000, 10, receivers)
        }
    }

    /// The Internet's table.
    const fn internet(name: &'static str, senders: u16, layout: Layout) -> Self {
        Self {
            layout,
            limit: Duration::from_secs(120),
            ..Self::bulk(name, senders, 1_000_000, 130_000, 2)
        }
    }
}

/// Every scenario, in the order of the table.
pub const PLANS: &[Plan] = &[
    Plan::bulk("10x10k-1", 10, 10_000, 1, 10),
    Plan::bulk("10x10k-1000", 10, 10_000, 1_000, 10),
    Plan::bulk("10x10k-10000", 10, 10_000, 10_000, 10),
    Plan::bulk("10x1k-100", 10, 1_000, 100, 100),
    Plan::bulk("1x100k-10", 1, 100_000, 1_000, 10),
    Plan {
        family: Family::V6,
        ..Plan::bulk("ipv6", 10, 10_000, 1_000, 10)
    },
    Plan {
        peers: Peers::External,
        ..Plan::bulk("ebgp", 10, 10_000, 1_000, 10)
    },
    Plan {
        phases: COMPETITION,
        layout: Layout::Shared,
        ..Plan::bulk("4-same-25k", 4, 25_000, 1_000, 4)
    },
    Plan {
        terms: 100,
        ..Plan::bulk("policy-100", 10, 10_000, 1_000, 10)
    },
    Plan::internet("internet-1m", 1, Layout::Internet),
    Plan::internet("internet-1m-scattered", 1, Layout::InternetScattered),
    Plan {
        phases: COMPETITION,
        ..Plan::internet("internet-1m-twice", 2, Layout::InternetShared)
    },
    Plan::nodes("nodes-250", 250, 4),
    Plan::nodes("nodes-500", 500, 4),
    Plan::nodes("nodes-1000", 1_000, 4),
    Plan::mass("mass-100", 100),
    Plan::mass("mass-250", 250),
    Plan::mass("mass-1000", 1_000),
];
