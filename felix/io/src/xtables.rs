//! Tables of iptables as it was before nftables: Felix's chains are found in them and taken out.
//!
//! ```text
//! table = entry …      entry = match of addresses | offsets of target and next | counters | matches … | target
//! user chain = entry with target ERROR and the chain's name, then its rules; the last entry of all is ERROR "ERROR"
//! jump = standard target with the offset of a chain's first rule
//! ```
//! (linux/netfilter_ipv4/ip_tables.h, linux/netfilter/x_tables.h.) A table is read and replaced as a whole; the kernel refuses one
//! whose number of entries is not what it had, and the next attempt reads again.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use felix::desired::Leftover;
use felix::rules::{FORWARD, Family};
use rustix::net::{AddressFamily, SocketType, ipproto, socket};

use crate::netlink::leftovers::{CHAIN, COMMENT};
use crate::netlink::socket::Failure;
use crate::netlink::wire::{u16_at, u32_at};
use crate::sys::{self, COUNTER_BYTES, REPLACE_BYTES};

/// Options of iptables' sockets: of reading, and of writing.
const GET_INFO: i32 = 64;
const GET_ENTRIES: i32 = 65;
const SET_REPLACE: i32 = 64;
const SET_ADD_COUNTERS: i32 = 65;
/// Bytes of a table's name, of `struct ipt_getinfo`, of `struct ipt_get_entries` and `struct xt_counters_info` without elements, of a
/// target's or match's head.
const NAME_BYTES: usize = 32;
const INFO_BYTES: usize = 84;
const ENTRIES_HEAD_BYTES: usize = 40;
const COUNTERS_HEAD_BYTES: usize = 40;
const TARGET_HEAD_BYTES: usize = 32;

/// A standard target's verdict: `-NF_DROP - 1`.
const DROPPED: i32 = -1;

/// Where an entry of a family has what.
struct Layout {
    target_offset: usize,
    next_offset: usize,
    head_bytes: usize,
}

const fn layout(family: Family) -> Layout {
    match family {
        Family::V4 => Layout {
            target_offset: 88,
            next_offset: 90,
            head_bytes: 112,
        },
        Family::V6 => Layout {
            target_offset: 140,
            next_offset: 142,
            head_bytes: 168,
        },
    }
}

/// Tables that hold chains of Felix's. Only those that exist are looked at: to ask for one makes it.
pub(crate) fn leftovers() -> Result<Vec<Leftover>, Failure> {
    let mut found = Vec::new();
    for (family, name) in tables() {
        if Table::read(family, &name)?.without_felix().is_some() {
            found.push(Leftover::Legacy(family, Arc::from(name)));
        }
    }
    Ok(found)
}

/// Chains that drop forwarded packets by their policy.
pub(crate) fn dropping() -> Result<Vec<String>, Failure> {
    let mut found = Vec::new();
    for (family, name) in tables() {
        if Table::read(family, &name)?.drops_forwarded() {
            let program = match family {
                Family::V4 => "iptables-legacy",
                Family::V6 => "ip6tables-legacy",
            };
            found.push(format!("{program} table {name} chain FORWARD"));
        }
    }
    Ok(found)
}

/// The tables that exist.
fn tables() -> Vec<(Family, String)> {
    let of = |(family, file)| {
        // Without the module there is no such file.
        let names = fs::read_to_string(format!("/proc/thread-self/net/{file}"));
        let names = names.unwrap_or_default();
        let names: Vec<_> = names
            .lines()
            .map(|name| (family, name.to_owned()))
            .collect();
        names
    };
    [
        (Family::V4, "ip_tables_names"),
        (Family::V6, "ip6_tables_names"),
    ]
    .into_iter()
    .flat_map(of)
    .collect()
}

/// Takes Felix's chains out of a table, and the rules that lead there or bear its comment. Counters of the others stay.
pub(crate) fn remove(family: Family, name: &str) -> Result<(), Failure> {
    let table = Table::read(family, name)?;
    match table.without_felix() {
        Some(rest) => table.replace(&rest),
        None => Ok(()),
    }
}

struct Table {
    family: Family,
    name: [u8; NAME_BYTES],
    valid_hooks: u32,
    hooks: [u32; 5],
    underflows: [u32; 5],
    entries: Vec<u8>,
}

/// A table's content without some of it.
#[derive(Debug, PartialEq, Eq)]
struct Rest {
    hooks: [u32; 5],
    underflows: [u32; 5],
    entries: Vec<u8>,
    /// Which entries they were, counted from 0.
    kept: Vec<usize>,
    /// How many there were.
    before: usize,
}

/// An entry of a table.
struct Entry<'a> {
    at: usize,
    bytes: &'a [u8],
    target: usize,
    /// Name of the user chain that begins here.
    chain: Option<&'a [u8]>,
    /// Where a standard target leads, if to a rule.
    jump: Option<usize>,
    is_of_felix: bool,
}

fn until_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

impl<'a> Entry<'a> {
    fn parse(all: &'a [u8], at: usize, layout: &Layout) -> Option<Self> {
        let rest = all.get(at..)?;
        let bytes = rest.get(..usize::from(u16_at(rest, layout.next_offset)?))?;
        let target = usize::from(u16_at(bytes, layout.target_offset)?);
        let (name, data) = Self::named(bytes, target)?;
        let mut is_of_felix = false;
        let mut matched = layout.head_bytes;
        while matched < target {
            let (name, info) = Self::named(bytes, matched)?;
            is_of_felix |= name == b"comment" && info.starts_with(COMMENT.as_bytes());
            matched += usize::from(u16_at(bytes, matched)?).max(TARGET_HEAD_BYTES);
        }
        let verdict = u32_at(data, 0).map(u32::cast_signed);
        Some(Self {
            at,
            bytes,
            target,
            chain: (name == b"ERROR").then(|| until_zero(data)),
            jump: (name.is_empty())
                .then_some(verdict?.try_into().ok())
                .flatten(),
            is_of_felix,
        })
    }

    /// Name and content of a match or target.
    fn named(bytes: &'a [u8], at: usize) -> Option<(&'a [u8], &'a [u8])> {
        let size = usize::from(u16_at(bytes, at)?);
        let whole = bytes.get(at..at.checked_add(size)?)?;
        Some((
            until_zero(whole.get(2..31)?),
            whole.get(TARGET_HEAD_BYTES..)?,
        ))
    }

    const fn end(&self) -> usize {
        self.at + self.bytes.len()
    }
}

impl Table {
    fn read(family: Family, name: &str) -> Result<Self, Failure> {
        let socket = open(family)?;
        let mut named = [0; NAME_BYTES];
        let bytes = name.as_bytes();
        let fits = named.get_mut(..bytes.len());
        fits.ok_or_else(|| Failure::from_errno(libc::EINVAL))?
            .copy_from_slice(bytes);
        let mut info = [0; INFO_BYTES];
        info[..NAME_BYTES].copy_from_slice(&named);
        sys::socket_option(socket.as_fd(), (level(family), GET_INFO), &mut info)
            .map_err(failure)?;
        let number = |at: usize| u32_at(&info, at).unwrap_or(0);
        let five = |at: usize| [0, 4, 8, 12, 16].map(|offset| number(at + offset));
        let size = number(80);
        let mut entries = vec![0; ENTRIES_HEAD_BYTES + size as usize];
        entries[..NAME_BYTES].copy_from_slice(&named);
        entries[NAME_BYTES..NAME_BYTES + 4].copy_from_slice(&size.to_ne_bytes());
        sys::socket_option(socket.as_fd(), (level(family), GET_ENTRIES), &mut entries)
            .map_err(failure)?;
        entries.drain(..ENTRIES_HEAD_BYTES);
        Ok(Self {
            family,
            name: named,
            valid_hooks: number(32),
            hooks: five(36),
            underflows: five(56),
            entries,
        })
    }

    /// Whether the policy of its chain of forwarded packets, the verdict of that one's last rule, is to drop.
    fn drops_forwarded(&self) -> bool {
        let hook = FORWARD as usize;
        let layout = layout(self.family);
        let policy = Entry::parse(&self.entries, self.underflows[hook] as usize, &layout);
        let verdict = policy.and_then(|entry| {
            let at = entry.target + TARGET_HEAD_BYTES;
            u32_at(entry.bytes, at).map(u32::cast_signed)
        });
        self.valid_hooks & (1 << hook) != 0 && verdict == Some(DROPPED)
    }

    /// `None` if nothing in it is Felix's, or it cannot be understood.
    fn without_felix(&self) -> Option<Rest> {
        let layout = layout(self.family);
        let mut all = Vec::new();
        let mut at = 0;
        while at < self.entries.len() {
            let entry = Entry::parse(&self.entries, at, &layout)?;
            // An entry has at least its head.
            at = entry.end().max(at + layout.head_bytes);
            all.push(entry);
        }
        let mut in_chain = false;
        let goes: Vec<bool> = (all.iter())
            .map(|entry| {
                if let Some(chain) = entry.chain {
                    in_chain = chain.starts_with(CHAIN.as_bytes());
                }
                in_chain
            })
            .collect();
        let begins = |offset| all.binary_search_by_key(&offset, |entry| entry.at).ok();
        let goes: Vec<bool> = (all.iter().zip(&goes))
            .map(|(entry, in_chain)| {
                let leads_there = entry
                    .jump
                    .filter(|jump| *jump != entry.end())
                    .and_then(begins);
                *in_chain || entry.is_of_felix || leads_there.is_some_and(|index| goes[index])
            })
            .collect();
        goes.contains(&true).then(|| Rest::of(self, &all, &goes))?
    }

    fn replace(&self, rest: &Rest) -> Result<(), Failure> {
        let socket = open(self.family)?;
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX).to_ne_bytes();
        let mut value = Vec::with_capacity(REPLACE_BYTES + rest.entries.len());
        value.extend(self.name);
        value.extend(self.valid_hooks.to_ne_bytes());
        value.extend(count(rest.kept.len()));
        value.extend(count(rest.entries.len()));
        let offsets = rest.hooks.iter().chain(&rest.underflows);
        value.extend(offsets.flat_map(|offset| offset.to_ne_bytes()));
        value.resize(REPLACE_BYTES, 0);
        value.extend(&rest.entries);
        let mut counters = vec![0; rest.before * COUNTER_BYTES];
        let option = (level(self.family), SET_REPLACE);
        sys::replace_xtables(socket.as_fd(), option, &mut value, &mut counters).map_err(failure)?;
        let mut value = Vec::new();
        value.extend(self.name);
        value.extend(count(rest.kept.len()));
        value.resize(COUNTERS_HEAD_BYTES, 0);
        for index in &rest.kept {
            value.extend(&counters[index * COUNTER_BYTES..(index + 1) * COUNTER_BYTES]);
        }
        let option = (level(self.family), SET_ADD_COUNTERS);
        sys::set_socket_option(socket.as_fd(), option, &value).map_err(failure)
    }
}

impl Rest {
    fn of(table: &Table, all: &[Entry<'_>], goes: &[bool]) -> Option<Self> {
        let kept: Vec<usize> = (0..all.len()).filter(|index| !goes[*index]).collect();
        let mut offsets = Vec::new();
        let mut end = 0_usize;
        for index in &kept {
            offsets.push((all[*index].at, end));
            end += all[*index].bytes.len();
        }
        // Where the first entry that stays, from `old` on, has come.
        let moved = |old: usize| {
            let place = offsets.partition_point(|(at, _)| *at < old);
            offsets
                .get(place)
                .and_then(|(_, new)| u32::try_from(*new).ok())
        };
        let mut entries = Vec::with_capacity(end);
        for (index, (_, new)) in kept.iter().zip(&offsets) {
            let entry = &all[*index];
            entries.extend_from_slice(entry.bytes);
            let target = match entry.jump {
                // To the next one, whichever that is.
                Some(jump) if jump == entry.end() => {
                    Some(u32::try_from(new + entry.bytes.len()).ok()?)
                }
                Some(jump) => Some(moved(jump)?),
                None => None,
            };
            if let Some(target) = target {
                let at = new + entry.target + TARGET_HEAD_BYTES;
                entries[at..at + 4].copy_from_slice(&target.to_ne_bytes());
            }
        }
        let five = |offsets: [u32; 5]| offsets.map(|old| moved(old as usize).unwrap_or(0));
        Some(Self {
            hooks: five(table.hooks),
            underflows: five(table.underflows),
            entries,
            before: all.len(),
            kept,
        })
    }
}

fn open(family: Family) -> Result<OwnedFd, Failure> {
    let family = match family {
        Family::V4 => AddressFamily::INET,
        Family::V6 => AddressFamily::INET6,
    };
    Ok(socket(family, SocketType::RAW, Some(ipproto::RAW))?)
}

const fn level(family: Family) -> i32 {
    match family {
        Family::V4 => libc::IPPROTO_IP,
        Family::V6 => libc::IPPROTO_IPV6,
    }
}

fn failure(error: io::Error) -> Failure {
    Failure::from_errno(error.raw_os_error().unwrap_or(libc::EIO))
}
