//! Packet rules: nftables tables of this agent, one for each family, written as a whole.
//!
//! A table's value in [`Row::Rules`](crate::desired::Row::Rules) is what the kernel can show of it again: sets with their
//! elements, chains with their hooks, and each rule by the hash of its text, which stands in the rule's comment
//! (`cali:…`, as Calico does it). So a rule that somebody removed, changed or added is seen without reading its
//! expressions.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnet::IpNet;

use crate::desired::ElementKey;

/// Name of the agent's tables: Calico's.
pub const TABLE: &str = "calico";
/// How the comment of a rule of this agent begins.
const COMMENT: &str = "cali:";

/// Family of a table: `ip` or `ip6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// `ip`.
    V4,
    /// `ip6`.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Family of an address.
    pub const fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        })
    }
}

/// What a table holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Sets of prefixes, by name. Prefixes of one set do not overlap.
    pub sets: BTreeMap<&'static str, Vec<IpNet>>,
    /// Names of sets of single addresses. Each of their elements is a [`Row::Element`](crate::desired::Row::Element), so
    /// that one changes without the others and without the rules.
    pub address_sets: BTreeSet<&'static str>,
    /// Chains, those that others jump to first.
    pub chains: Vec<Chain>,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Name.
    pub name: &'static str,
    /// Where packets come in; `None` for a chain that others jump to.
    pub hook: Option<Hook>,
    /// In order.
    pub rules: Vec<Rule>,
}

/// Where a base chain stands in a packet's way. Its policy is to accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// `filter` or `nat`.
    pub kind: &'static str,
    /// Number of the hook: [`PREROUTING`], [`INPUT`], [`FORWARD`], [`OUTPUT`], [`POSTROUTING`].
    pub number: u32,
    /// Priority: lower ones first.
    pub priority: i32,
}

/// `NF_INET_PRE_ROUTING`.
pub const PREROUTING: u32 = 0;
/// `NF_INET_LOCAL_IN`.
pub const INPUT: u32 = 1;
/// `NF_INET_FORWARD`.
pub const FORWARD: u32 = 2;
/// `NF_INET_LOCAL_OUT`.
pub const OUTPUT: u32 = 3;
/// `NF_INET_POST_ROUTING`.
pub const POSTROUTING: u32 = 4;

/// A rule: all of `matches`, then `action`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What a packet must be, all of it.
    pub matches: Vec<Match>,
    /// What happens to it.
    pub action: Action,
}

/// A property of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// Its source is in the set of this name.
    Source(&'static str),
    /// Its source is not in the set of this name.
    NotSource(&'static str),
    /// Its destination is in the set of this name.
    Destination(&'static str),
    /// Its destination is not in the set of this name.
    NotDestination(&'static str),
    /// Its source is in this prefix.
    SourceWithin(IpNet),
    /// Its destination is in this prefix.
    DestinationWithin(IpNet),
    /// It came in by a device of this name; a `+` at the end stands for anything.
    InputDevice(Arc<str>),
    /// It leaves by a device of this name; a `+` at the end stands for anything.
    OutputDevice(Arc<str>),
    /// Its transport protocol has this number.
    Protocol(u8),
    /// Its UDP or TCP destination port; after [`Match::Protocol`].
    DestinationPort(u16),
    /// Its source is an address of the host, but not one of the device by which it leaves.
    SourceOfAnotherDevice,
    /// Its destination is an address of the host.
    ToHost,
    /// The host's route to its source does not lead out of the device by which it came.
    NoReversePath,
    /// It belongs to a connection of which packets went the other way, or tells of an error of one.
    Established,
    /// Its ICMP type; after [`Match::Protocol`].
    IcmpType(RangeInclusive<u8>),
}

/// What happens to a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It gets the source address of the device by which it leaves, and a port of this range, if there is one; after
    /// [`Match::Protocol`] then.
    Masquerade(Option<RangeInclusive<u16>>),
    /// It gets this source address, and a port as above.
    SourceNat(IpAddr, Option<RangeInclusive<u16>>),
    /// It gets this destination address.
    DestinationNat(IpAddr),
    /// Its connection is not tracked.
    NoTrack,
    /// The rules of the chain of this name are next.
    Jump(&'static str),
    /// It leaves this chain.
    Return,
    /// It goes no further; such packets are counted.
    Drop,
    /// The same, and its sender is told that nothing listens there.
    Reject,
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(set) => write!(f, "saddr @{set}"),
            Self::NotSource(set) => write!(f, "saddr != @{set}"),
            Self::Destination(set) => write!(f, "daddr @{set}"),
            Self::NotDestination(set) => write!(f, "daddr != @{set}"),
            Self::SourceWithin(prefix) => write!(f, "saddr {prefix}"),
            Self::DestinationWithin(prefix) => write!(f, "daddr {prefix}"),
            Self::InputDevice(name) => write!(f, "iifname {name}"),
            Self::OutputDevice(name) => write!(f, "oifname {name}"),
            Self::Protocol(number) => write!(f, "meta l4proto {number}"),
            Self::DestinationPort(port) => write!(f, "th dport {port}"),
            Self::SourceOfAnotherDevice => {
                f.write_str("fib saddr type local fib saddr . oif type != local")
            }
            Self::ToHost => f.write_str("fib daddr type local"),
            Self::NoReversePath => f.write_str("fib saddr . iif oif missing"),
            Self::Established => f.write_str("ct state established,related"),
            Self::IcmpType(types) => write!(f, "icmp type {}-{}", types.start(), types.end()),
        }
    }
}

/// A range of ports as nft(8) writes it.
struct Ports<'a>(&'a Option<RangeInclusive<u16>>);

impl fmt::Display for Ports<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(ports) => write!(f, ":{}-{}", ports.start(), ports.end()),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Masquerade(ports) => write!(f, "masquerade{} fully-random", Ports(ports)),
            Self::SourceNat(addr, ports) => {
                write!(f, "snat to {addr}{} fully-random", Ports(ports))
            }
            Self::DestinationNat(addr) => write!(f, "dnat to {addr}"),
            Self::NoTrack => f.write_str("notrack"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Return => f.write_str("return"),
            Self::Drop => f.write_str("counter drop"),
            Self::Reject => f.write_str("counter reject"),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for wanted in &self.matches {
            write!(f, "{wanted} ")?;
        }
        self.action.fmt(f)
    }
}

impl Rule {
    /// Its comment: the hash of its text.
    pub fn comment(&self) -> String {
        // FNV-1a, 64 bits: the same for a text in every release, as a rule of an earlier one is to be recognised.
        let text = self.to_string();
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("{COMMENT}{hash:016x}")
    }
}

/// A set's element as the kernel has it: an address at which prefixes of the set begin, or that comes after one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    /// The address.
    pub addr: IpAddr,
    /// Whether a prefix ended before it.
    pub end: bool,
}

/// The elements of a set of prefixes that do not overlap. The last prefix of the address space ends nowhere, and one does not end
/// where the next begins: the kernel takes no address for both.
pub fn elements(prefixes: &[IpNet]) -> Vec<Element> {
    let mut elements = Vec::new();
    for prefix in prefixes {
        let start = prefix.network();
        elements.push(Element {
            addr: start,
            end: false,
        });
        let after = match prefix.broadcast() {
            IpAddr::V4(last) => u32::from(last)
                .checked_add(1)
                .map(|next| IpAddr::V4(next.into())),
            IpAddr::V6(last) => u128::from(last)
                .checked_add(1)
                .map(|next| IpAddr::V6(next.into())),
        };
        elements.extend(after.map(|addr| Element { addr, end: true }));
    }
    elements.sort();
    let mut apart: Vec<Element> = Vec::with_capacity(elements.len());
    for element in elements {
        // Of two at one address the first is a beginning.
        let meet = |last: &mut Element| last.addr == element.addr && element.end && !last.end;
        if apart.pop_if(meet).is_none() {
            apart.push(element);
        }
    }
    apart
}

/// A table as the kernel shows it: one line for each set, element, chain and rule, in an order that does not depend on
/// the kernel's except among the rules of a chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    lines: Vec<String>,
}

impl Shown {
    /// What the kernel shows of a table that was written.
    pub fn of(ruleset: &Ruleset) -> Self {
        let mut shown = Self::default();
        for (name, prefixes) in &ruleset.sets {
            shown.set(name);
            for element in elements(prefixes) {
                shown.element(name, element);
            }
        }
        for name in &ruleset.address_sets {
            shown.address_set(name);
        }
        for chain in &ruleset.chains {
            shown.chain(
                chain.name,
                chain
                    .hook
                    .map(|hook| (hook.kind, hook.number, hook.priority)),
            );
            for (place, rule) in chain.rules.iter().enumerate() {
                shown.rule(chain.name, place, &rule.comment());
            }
        }
        shown.sort();
        shown
    }

    /// A set.
    pub fn set(&mut self, name: &str) {
        self.lines.push(format!("set {name}"));
    }

    /// A set of single addresses, whose elements are rows of their own.
    pub fn address_set(&mut self, name: &str) {
        self.lines.push(format!("set {name} of addresses"));
    }

    /// An element of a set.
    pub fn element(&mut self, set: &str, Element { addr, end }: Element) {
        let end = if end { " end" } else { "" };
        self.lines.push(format!("element {set} {addr}{end}"));
    }

    /// A chain, with type, number and priority of its hook if it has one.
    pub fn chain(&mut self, name: &str, hook: Option<(&str, u32, i32)>) {
        self.lines.push(match hook {
            Some((kind, number, priority)) => {
                format!("chain {name} type {kind} hook {number} priority {priority}")
            }
            None => format!("chain {name}"),
        });
    }

    /// The rule at this place of a chain, counted from 0, with its comment.
    pub fn rule(&mut self, chain: &str, place: usize, comment: &str) {
        self.lines
            .push(format!("rule {chain} {place:04} {comment}"));
    }

    /// To be called once all is there.
    pub fn sort(&mut self) {
        self.lines.sort();
    }

    /// How many lines it has.
    pub const fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether the table is empty.
    pub const fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

/// A table's value: what the kernel shows of it, and what to write. What was read has nothing to write, and what is wanted
/// has no elements: they are wanted one by one, and the reconciler adds them to what is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// As the kernel shows it.
    pub shown: Shown,
    /// To be written.
    pub ruleset: Option<Arc<Ruleset>>,
    /// Elements of its address sets to be written with it, at the same moment.
    pub elements: Vec<ElementKey>,
}

impl From<Ruleset> for Rules {
    fn from(ruleset: Ruleset) -> Self {
        Self {
            shown: Shown::of(&ruleset),
            ruleset: Some(Arc::new(ruleset)),
            elements: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_become_the_elements_that_the_kernel_compares() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let texts = |prefixes: &[IpNet]| -> Vec<String> {
            let elements = elements(prefixes).into_iter();
            elements
                .map(|element| format!("{}{}", element.addr, if element.end { "!" } else { "" }))
                .collect()
        };
        assert_eq!(
            texts(&[net("192.168.0.0/16"), net("10.0.0.0/8")]),
            ["10.0.0.0", "11.0.0.0!", "192.168.0.0", "192.169.0.0!"]
        );
        assert_eq!(
            texts(&[net("10.2.0.0/15"), net("10.1.0.0/16"), net("10.4.0.0/16")]),
            ["10.1.0.0", "10.5.0.0!"]
        );
        assert_eq!(texts(&[net("255.255.255.0/24")]), ["255.255.255.0"]);
        assert_eq!(texts(&[net("fd00::/126")]), ["fd00::", "fd00::4!"]);
    }

    #[test]
    fn a_change_of_anything_shows() {
        let rule = |set| Rule {
            matches: vec![Match::Source(set)],
            action: Action::Masquerade(None),
        };
        let hook = Hook {
            kind: "nat",
            number: POSTROUTING,
            priority: 110,
        };
        let base = Ruleset {
            sets: BTreeMap::from([("a", vec!["10.0.0.0/8".parse().unwrap()])]),
            chains: vec![Chain {
                name: "nat-POSTROUTING",
                hook: Some(hook),
                rules: vec![rule("a"), rule("b")],
            }],
            ..Ruleset::default()
        };
        let shown = Shown::of(&base);
        assert_eq!(shown, Shown::of(&base.clone()));
        assert_eq!(shown.len(), 6);
        let mut others = vec![base.clone(); 5];
        others[0]
            .sets
            .insert("a", vec!["10.0.0.0/9".parse().unwrap()]);
        others[1].chains[0].rules.swap(0, 1);
        others[2].chains[0].rules[0].action = Action::Masquerade(Some(1..=2));
        others[3].chains[0].hook = Some(Hook {
            priority: 100,
            ..hook
        });
        others[4].address_sets.insert("b");
        for other in others {
            assert_ne!(Shown::of(&other), shown, "{other:?}");
        }
    }
}
