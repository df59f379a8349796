//! What the table keeps of one prefix, made small: there is one for each.

use std::net::Ipv4Addr;
use std::ops::{Deref, DerefMut};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use smallvec::SmallVec;

use crate::rib::source::SourceId;
use crate::rib::table::{AttributesId, Best, Path, PathKey};
use crate::types::AfiSafi;

/// One prefix.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) paths: Paths,
    /// The fields of [`StoredPrefix`], which as one field would take two octets more.
    number: u32,
    length: u8,
    pub(super) family: AfiSafi,
    /// Adj-RIBs-Out that name this id.
    pub(super) holders: u32,
    best: Option<(AttributesId, SourceId)>,
    best_is_stale: bool,
    pub(super) undecided: bool,
    pub(super) unreported: bool,
    /// The reader of changes knows a best route.
    pub(super) reported: bool,
    pub(super) in_use: bool,
}

impl Entry {
    pub(super) const fn new(prefix: StoredPrefix) -> Self {
        Self {
            paths: Paths::None,
            number: prefix.number,
            length: prefix.length,
            family: prefix.family,
            holders: 0,
            best: None,
            best_is_stale: false,
            undecided: false,
            unreported: false,
            reported: false,
            in_use: true,
        }
    }

    pub(super) const fn prefix(&self) -> StoredPrefix {
        StoredPrefix {
            number: self.number,
            length: self.length,
            family: self.family,
        }
    }

    pub(super) fn best(&self) -> Option<Best> {
        self.best.map(|(attributes, source)| Best {
            source,
            attributes,
            stale: self.best_is_stale,
        })
    }

    pub(super) fn set_best(&mut self, best: Option<Best>) {
        self.best = best.map(|best| (best.attributes, best.source));
        self.best_is_stale = best.is_some_and(|best| best.stale);
    }
}

/// An IPv4 prefix, or the place of an IPv6 one among [`LongPrefixes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StoredPrefix {
    /// Address, or place.
    number: u32,
    length: u8,
    family: AfiSafi,
}

/// The IPv6 prefixes, which take more room than an [`Entry`] has.
#[derive(Debug, Default)]
pub(super) struct LongPrefixes {
    all: Vec<Ipv6Net>,
    free: Vec<u32>,
}

impl LongPrefixes {
    /// Stores a prefix; what is stored is given back with [`Self::remove`].
    pub(super) fn add(&mut self, prefix: IpNet) -> StoredPrefix {
        match prefix {
            IpNet::V4(net) => StoredPrefix {
                number: net.addr().to_bits(),
                length: net.prefix_len(),
                family: AfiSafi::Ipv4Unicast,
            },
            IpNet::V6(net) => {
                let number = match self.free.pop() {
                    Some(place) => {
                        self.all[place as usize] = net;
                        place
                    }
                    None => {
                        self.all.push(net);
                        u32::try_from(self.all.len() - 1).expect("memory ends before ids do")
                    }
                };
                StoredPrefix {
                    number,
                    length: net.prefix_len(),
                    family: AfiSafi::Ipv6Unicast,
                }
            }
        }
    }

    pub(super) fn remove(&mut self, stored: StoredPrefix) {
        if stored.family == AfiSafi::Ipv6Unicast {
            self.free.push(stored.number);
        }
    }

    /// Gives memory back that a flood took.
    pub(super) fn trim(&mut self) {
        self.free.sort_unstable();
        while let Some(last) = self.free.last()
            && *last as usize + 1 == self.all.len()
        {
            self.free.pop();
            self.all.pop();
        }
        self.all.shrink_to_fit();
        self.free.shrink_to_fit();
    }

    pub(super) fn get(&self, stored: StoredPrefix) -> IpNet {
        match stored.family {
            AfiSafi::Ipv4Unicast => {
                let address = Ipv4Addr::from_bits(stored.number);
                let net = Ipv4Net::new(address, stored.length);
                IpNet::V4(net.expect("stored from a prefix"))
            }
            AfiSafi::Ipv6Unicast => IpNet::V6(self.all[stored.number as usize]),
        }
    }
}

/// The paths of a prefix. Most have one.
#[derive(Debug)]
pub(super) enum Paths {
    None,
    One(Path),
    Many(Box<SmallVec<[Path; 4]>>),
}

impl Paths {
    pub(super) fn position(&self, key: PathKey) -> Option<usize> {
        self.iter().position(|path| path.key() == key)
    }

    /// The lowest number that no path has; `None` when all are taken.
    pub(super) fn free_number(&self) -> Option<u16> {
        match self {
            Self::None => Some(0),
            Self::One(only) => Some(u16::from(only.number == 0)),
            Self::Many(all) => {
                let mut taken: SmallVec<[u64; 4]> = SmallVec::from_elem(0, all.len() / 64 + 1);
                for path in all.iter() {
                    let number = usize::from(path.number);
                    if let Some(word) = taken.get_mut(number / 64) {
                        *word |= 1 << (number % 64);
                    }
                }
                // So many paths leave one of so many numbers and one more.
                let word = taken.iter().position(|word| *word != u64::MAX)?;
                let bit = usize::try_from(taken[word].trailing_ones()).ok()?;
                u16::try_from(word * 64 + bit).ok()
            }
        }
    }

    pub(super) fn push(&mut self, path: Path) {
        match self {
            Self::None => *self = Self::One(path),
            Self::One(first) => {
                let both = SmallVec::from_slice(&[*first, path]);
                *self = Self::Many(Box::new(both));
            }
            Self::Many(all) => all.push(path),
        }
    }

    pub(super) fn remove(&mut self, position: usize) -> Path {
        let old = self[position];
        match self {
            Self::None | Self::One(_) => *self = Self::None,
            Self::Many(all) => {
                all.swap_remove(position);
                if let [last] = all[..] {
                    *self = Self::One(last);
                }
            }
        }
        old
    }
}

impl Deref for Paths {
    type Target = [Path];

    fn deref(&self) -> &[Path] {
        match self {
            Self::None => &[],
            Self::One(path) => std::slice::from_ref(path),
            Self::Many(all) => all,
        }
    }
}

impl DerefMut for Paths {
    fn deref_mut(&mut self) -> &mut [Path] {
        match self {
            Self::None => &mut [],
            Self::One(path) => std::slice::from_mut(path),
            Self::Many(all) => all,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rib::source::SourceId;
    use crate::types::PathId;

    #[test]
    fn an_entry_takes_40_octets() {
        assert_eq!(size_of::<Entry>(), 40);
        assert_eq!(size_of::<Paths>(), 16);
    }

    #[test]
    fn prefixes_of_both_families_come_back_and_places_are_used_again() {
        let mut long = LongPrefixes::default();
        for text in [
            "0.0.0.0/0",
            "10.1.0.0/16",
            "::/0",
            "fd00:1::/64",
            "fd00:2::1/128",
        ] {
            let prefix: IpNet = text.parse().unwrap();
            let stored = long.add(prefix);
            assert_eq!(long.get(stored), prefix);
            long.remove(stored);
        }
        assert_eq!(long.all.len(), 1);
    }

    #[test]
    fn paths_come_and_go_in_every_number() {
        let path = |source| Path {
            source: SourceId(source),
            path_id: PathId(7),
            attributes: AttributesId::new(source),
            number: u16::try_from(source).expect("few"),
            refusal: None,
            session: 0,
        };
        let mut paths = Paths::None;
        assert!(paths.is_empty());
        for count in 0..200 {
            assert_eq!(paths.free_number().map(u32::from), Some(count));
            paths.push(path(count));
        }
        for gap in [0, 1, 63, 64, 199] {
            let key = path(gap).key();
            let removed = paths.remove(paths.position(key).expect("it is there"));
            assert_eq!(paths.position(key), None);
            assert_eq!(paths.free_number(), Some(removed.number));
            paths.push(removed);
        }
        for left in (0..200).rev() {
            paths.remove(0);
            assert_eq!(paths.len(), left);
        }
        assert!(matches!(paths, Paths::None));
    }
}
