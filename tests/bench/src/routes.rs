//! What the senders of a scenario announce, and what every receiver must hold of it.

use std::net::IpAddr;

use anyhow::Context;

use crate::plan::{Family, Layout, Peers, Plan};
use crate::prefixes::Prefixes;
use crate::random::Random;
use crate::wire::{self, ASN, Attributes, Reach};
use crate::world::World;

/// Above the versions: communities that are no tag begin with it.
const OTHER_COMMUNITIES: u32 = 0xfd00_0000;
/// Attribute sets of all senders of a scenario at most.
const MOST_SETS: u32 = 1 << 24;
/// Prefixes that one attribute set has at most in the layout [`Layout::Internet`].
const LARGEST_SHARE: u32 = 2_000;

/// Mask of sender and attribute set in a tag; the version is above.
const TAG_SET: u32 = MOST_SETS - 1;

/// What AS_PATH and next hop become on their way through the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relay {
    /// They stay as they are: routes are reflected (RFC 4456), or messages copied.
    Unchanged,
    /// They are those of the daemon's AS: its number is prepended.
    NextAs {
        /// What the daemon names as next hop: its own address.
        next_hop: IpAddr,
    },
}

/// The routes of one scenario.
#[derive(Debug)]
pub struct Routes {
    plan: Plan,
    relay: Relay,
    /// The prefixes' numbers.
    pub prefixes: Prefixes,
    /// Attribute set by a sender's prefix.
    sets: Vec<u32>,
    /// A sender's prefixes in the order in which it announces and withdraws them: those of one set in a row.
    order: Vec<u32>,
}

impl Routes {
    /// Those of a plan, sent through a daemon that does this to them.
    #[must_use]
    pub fn new(plan: &Plan, relay: Relay, seed: u64) -> Self {
        assert!(
            u32::from(plan.senders) * plan.sets < MOST_SETS,
            "tags have room"
        );
        let mut sets: Vec<u32> = if plan.layout.is_internet() {
            uneven(plan.prefixes, plan.sets, seed)
        } else {
            let share = plan.prefixes.div_ceil(plan.sets);
            (0..plan.prefixes).map(|prefix| prefix / share).collect()
        };
        if plan.layout == Layout::InternetScattered {
            shuffle(&mut sets, seed);
        }
        let mut order: Vec<u32> = (0..plan.prefixes).collect();
        // Stable: within a set by number.
        order.sort_by_key(|prefix| sets[*prefix as usize]);
        Self {
            plan: *plan,
            relay,
            prefixes: Prefixes::of(plan, seed),
            sets,
            order,
        }
    }

    /// Prefixes that are announced, each counted once.
    #[must_use]
    pub fn total(&self) -> usize {
        let senders = if self.plan.layout.is_shared() {
            1
        } else {
            usize::from(self.plan.senders)
        };
        senders * self.sets.len()
    }

    /// Numbers of the prefixes that a sender alone has.
    #[must_use]
    pub fn own(&self, sender: u16) -> std::ops::Range<u32> {
        if self.plan.layout.is_shared() {
            return 0..0;
        }
        self.number(sender, 0)..self.number(sender, self.plan.prefixes)
    }

    /// Version, sender and attribute set in one number that is never 0.
    fn tag(&self, version: u8, sender: u16, set: u32) -> u32 {
        u32::from(version) << 24 | (u32::from(sender) * self.plan.sets + set)
    }

    /// Number of a sender's prefix among all.
    fn number(&self, sender: u16, prefix: u32) -> u32 {
        if self.plan.layout.is_shared() {
            prefix
        } else {
            u32::from(sender) * self.plan.prefixes + prefix
        }
    }

    /// How much a sender's route is preferred. Senders never agree about a set they share.
    fn preference(&self, sender: u16, set: u32) -> u32 {
        if self.plan.layout.is_shared() {
            100 + (set + u32::from(sender)) % u32::from(self.plan.senders)
        } else {
            100
        }
    }

    /// Tag by prefix number when these senders have announced this version.
    #[must_use]
    pub fn contents(&self, version: u8, senders: std::ops::Range<u16>) -> Vec<u32> {
        let mut contents = vec![0; self.total()];
        let mut best = vec![0; self.total()];
        for sender in senders {
            for (prefix, set) in (0..).zip(&self.sets) {
                let number = self.number(sender, prefix) as usize;
                let preference = self.preference(sender, *set);
                if best[number] < preference {
                    best[number] = preference;
                    contents[number] = self.tag(version, sender, *set);
                }
            }
        }
        contents
    }

    /// Everything of a sender as UPDATEs.
    #[must_use]
    pub fn announcement(&self, version: u8, sender: u16) -> Vec<u8> {
        let mut out = Vec::new();
        let set = |prefix: &u32| self.sets[*prefix as usize];
        for run in self.order.chunk_by(|one, next| set(one) == set(next)) {
            let numbers = run.iter().map(|prefix| self.number(sender, *prefix));
            let attributes = self.attributes(version, sender, set(&run[0]));
            wire::write_reach(&mut out, &attributes, &self.prefixes, numbers);
        }
        out
    }

    /// The first sender's announcement of one of its prefixes, and the tag that it then has.
    #[must_use]
    pub fn change(&self, version: u8, prefix: u32) -> (Vec<u8>, u32) {
        let mut out = Vec::new();
        let set = self.sets[prefix as usize];
        let attributes = self.attributes(version, 0, set);
        wire::write_reach(
            &mut out,
            &attributes,
            &self.prefixes,
            [self.number(0, prefix)],
        );
        (out, self.tag(version, 0, set))
    }

    /// The withdrawal of everything of a sender.
    #[must_use]
    pub fn withdrawal(&self, sender: u16) -> Vec<u8> {
        let mut out = Vec::new();
        let numbers = self.order.iter().map(|prefix| self.number(sender, *prefix));
        wire::write_unreach(&mut out, self.plan.family, &self.prefixes, numbers);
        out
    }

    /// Checks AS_PATH and next hop of what a receiver was sent.
    ///
    /// # Errors
    /// When they are not what the daemon has to make of those that were announced with this tag.
    pub fn check(&self, reach: &Reach<'_>) -> anyhow::Result<()> {
        let number = reach.tag & TAG_SET;
        let (sender, set) = (number / self.plan.sets, number % self.plan.sets);
        let sender = u16::try_from(sender)
            .ok()
            .filter(|sender| *sender < self.plan.senders)
            .with_context(|| format!("no sender has the community {:#x}", reach.tag))?;
        let (prepended, next_hop) = match self.relay {
            Relay::Unchanged => (None, self.next_hop(sender)),
            Relay::NextAs { next_hop } => (Some(u32::from(ASN)), next_hop),
        };
        let path = self.path(sender, set, Random(u64::from(set)));
        reach.check_path(prepended.into_iter().chain(path))?;
        reach.check_next_hop(next_hop)
    }

    /// A sender's AS_PATH of a set, of which `random` is the seed.
    fn path(&self, sender: u16, set: u32, mut random: Random) -> impl Iterator<Item = u32> + Clone {
        let own = (self.plan.peers == Peers::External)
            .then(|| u32::from(World::sender_asn(self.plan.peers, sender)));
        let others = if self.plan.layout.is_internet() {
            random.below(4)
        } else {
            0
        };
        own.into_iter()
            .chain([65_000, 100_000 + set, 200_000 + set % 97])
            .chain((0..others).map(move |_| 300_000 + random.below(80_000)))
    }

    fn next_hop(&self, sender: u16) -> IpAddr {
        match self.plan.family {
            Family::V4 => IpAddr::V4(World::next_hop(sender)),
            Family::V6 => IpAddr::V6(World::next_hop_v6(sender)),
        }
    }

    fn attributes(&self, version: u8, sender: u16, set: u32) -> Attributes {
        let mut communities = vec![self.tag(version, sender, set)];
        if self.plan.layout.is_internet() {
            // Not the numbers that the path is made of.
            let mut random = Random(u64::from(set) | 1 << 32);
            communities
                .extend((0..random.below(7)).map(|_| OTHER_COMMUNITIES + random.below(1 << 20)));
        }
        Attributes {
            path: self.path(sender, set, Random(u64::from(set))).collect(),
            next_hop: self.next_hop(sender),
            preference: (self.plan.peers == Peers::Reflected).then(|| self.preference(sender, set)),
            communities,
        }
    }
}

/// Shares of `sets` sets in `prefixes` prefixes: most have one or two, a few have hundreds.
fn uneven(prefixes: u32, sets: u32, seed: u64) -> Vec<u32> {
    let mut random = Random(!seed);
    let weights: Vec<u32> = (0..sets)
        .map(|_| (LARGEST_SHARE / (1 + random.below(LARGEST_SHARE))).max(1))
        .collect();
    let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    // Each has one; what remains goes by weight, by the running sum so that nothing is lost to rounding.
    let spare = u64::from(prefixes.saturating_sub(sets));
    let (mut passed, mut given) = (0, 0);
    let mut all = Vec::with_capacity(prefixes as usize);
    for (set, weight) in (0..sets).zip(weights) {
        passed += u64::from(weight);
        let until = spare * passed / sum;
        all.extend((given..=until).map(|_| set));
        given = until;
    }
    all.truncate(prefixes as usize);
    all
}

/// Every order is as likely (Fisher and Yates).
fn shuffle(values: &mut [u32], seed: u64) {
    let mut random = Random(seed.rotate_left(32));
    for end in (1..values.len()).rev() {
        let below = u32::try_from(end + 1).expect("a plan's prefixes are counted in u32");
        values.swap(end, random.below(below) as usize);
    }
}

/// The tag among a route's communities.
#[must_use]
pub const fn is_tag(community: u32) -> bool {
    community < OTHER_COMMUNITIES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::PLANS;

    fn plan(name: &str) -> &'static Plan {
        PLANS.iter().find(|plan| plan.name == name).unwrap()
    }

    fn read(routes: &Routes, family: Family, bytes: &[u8], held: &mut [u32]) {
        let mut rest = bytes;
        while let Some((message, length)) = wire::next_message(rest).unwrap() {
            let wire::Message::Update(body) = message else {
                panic!("{message:?}");
            };
            let reach = wire::read_update(body, family, &routes.prefixes, |number, tag| {
                held[number as usize] = tag.unwrap_or(0);
            })
            .unwrap();
            reach.iter().for_each(|reach| routes.check(reach).unwrap());
            rest = &rest[length..];
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn what_senders_of_their_own_prefixes_say_is_what_receivers_must_hold() {
        for plan in PLANS.iter().filter(|plan| !plan.layout.is_shared()) {
            // So many say as much as a million.
            let plan = Plan {
                prefixes: plan.prefixes.min(5_000),
                sets: plan.sets.min(650),
                ..*plan
            };
            let routes = Routes::new(&plan, Relay::Unchanged, 5);
            let mut held = vec![0; routes.total()];
            for sender in 0..plan.senders {
                read(
                    &routes,
                    plan.family,
                    &routes.announcement(3, sender),
                    &mut held,
                );
            }
            assert!(held == routes.contents(3, 0..plan.senders), "{}", plan.name);
            let (bytes, tag) = routes.change(4, 3);
            read(&routes, plan.family, &bytes, &mut held);
            assert_eq!(held[3], tag);
            for sender in 0..plan.senders {
                read(&routes, plan.family, &routes.withdrawal(sender), &mut held);
            }
            assert!(held.iter().all(|tag| *tag == 0), "{}", plan.name);
        }
    }

    #[test]
    fn a_path_or_next_hop_that_differs_in_one_number_is_an_error() {
        for plan in PLANS {
            let plan = Plan {
                prefixes: 100,
                sets: 10,
                ..*plan
            };
            let routes = Routes::new(&plan, Relay::Unchanged, 5);
            let sender = plan.senders - 1;
            let check = |change: fn(&mut Attributes)| {
                let mut attributes = routes.attributes(1, sender, 7);
                change(&mut attributes);
                let mut bytes = Vec::new();
                wire::write_reach(&mut bytes, &attributes, &routes.prefixes, [0]);
                let body = &bytes[wire::HEADER..];
                let reach = wire::read_update(body, plan.family, &routes.prefixes, |_, _| {});
                routes.check(&reach.unwrap().unwrap()).is_ok()
            };
            assert!(check(|_| {}), "{}", plan.name);
            let wrong: [fn(&mut Attributes); 5] = [
                |attributes| attributes.path[1] += 1,
                |attributes| attributes.path.insert(0, u32::from(ASN)),
                |attributes| attributes.path.truncate(2),
                |attributes| attributes.path.reverse(),
                |attributes| {
                    attributes.next_hop = match attributes.next_hop {
                        IpAddr::V4(address) => IpAddr::V4((u32::from(address) + 1).into()),
                        IpAddr::V6(address) => IpAddr::V6((u128::from(address) + 1).into()),
                    }
                },
            ];
            for (number, change) in wrong.into_iter().enumerate() {
                assert!(!check(change), "{}: change {number}", plan.name);
            }
        }
    }

    #[test]
    fn senders_of_the_same_prefixes_are_each_best_for_a_share() {
        let plan = plan("4-same-25k");
        let routes = Routes::new(plan, Relay::Unchanged, 5);
        let best = |contents: &[u32], sender: u32| {
            let range = sender * plan.sets..(sender + 1) * plan.sets;
            contents
                .iter()
                .filter(|tag| range.contains(&(**tag & 0xff_ffff)))
                .count()
        };
        let all = routes.contents(1, 0..4);
        assert_eq!([0, 1, 2, 3].map(|sender| best(&all, sender)), [6_250; 4]);
        let without = routes.contents(1, 1..4);
        assert_eq!(best(&without, 0), 0);
        assert!(without.iter().all(|tag| *tag != 0));
    }

    #[test]
    fn the_internets_sets_are_shared_unevenly_and_all_used() {
        let sets = uneven(1_000_000, 130_000, 5);
        assert_eq!(sets.len(), 1_000_000);
        let mut shares: Vec<usize> = sets.chunk_by(|a, b| a == b).map(<[u32]>::len).collect();
        assert_eq!(shares.len(), 130_000);
        shares.sort_unstable();
        assert!(
            shares[65_000] <= 3,
            "half of the sets have {} or fewer",
            shares[65_000]
        );
        assert!(shares[129_999] > 1_000, "{}", shares[129_999]);
    }
}
