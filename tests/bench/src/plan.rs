//! The scenarios.

/// How much of what is sent to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its name on the command line and in the table.
    pub name: &'static str,
    /// Peers that announce.
    pub senders: u8,
    /// Prefixes of each sender, its own.
    pub prefixes: u32,
    /// Attribute sets of each sender.
    pub sets: u32,
    /// Peers that listen.
    pub receivers: u8,
    /// What is done.
    pub phases: &'static [Phase],
}

/// One thing that is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// One prefix gets another attribute; many times, the median counts.
    OneChange,
}

impl Phase {
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

const fn bulk(name: &'static str, senders: u8, prefixes: u32, sets: u32, receivers: u8) -> Plan {
    Plan {
        name,
        senders,
        prefixes,
        sets,
        receivers,
        phases: BULK,
    }
}

/// Every scenario, in the order of the table.
pub const PLANS: &[Plan] = &[
    bulk("10x10k-1", 10, 10_000, 1, 10),
    bulk("10x10k-1000", 10, 10_000, 1_000, 10),
    bulk("10x10k-10000", 10, 10_000, 10_000, 10),
    bulk("10x1k-100", 10, 1_000, 100, 100),
    bulk("1x100k-10", 1, 100_000, 1_000, 10),
    Plan {
        name: "mass-100",
        senders: 1,
        prefixes: 1_000,
        sets: 10,
        receivers: 100,
        phases: MASS,
    },
];

impl Plan {
    /// Prefixes of all senders.
    #[must_use]
    pub const fn total(&self) -> u32 {
        self.senders as u32 * self.prefixes
    }

    /// The attribute set of a prefix, counted from the sender's first. Neighbouring prefixes share one.
    #[must_use]
    pub const fn set_of(&self, prefix: u32) -> u32 {
        (prefix % self.prefixes) / self.prefixes.div_ceil(self.sets)
    }
}
