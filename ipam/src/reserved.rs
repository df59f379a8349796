//! Addresses that only who asks for them by name is given.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::block::{first, last, number};

/// Ranges, those that touch or overlap as one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    v4: BTreeMap<u128, u128>,
    v6: BTreeMap<u128, u128>,
}

impl Reserved {
    /// Of these ranges.
    pub fn of(ranges: impl IntoIterator<Item = IpNet>) -> Self {
        let mut all: Vec<IpNet> = ranges.into_iter().collect();
        all.sort_unstable_by_key(|range| first(*range));
        let mut reserved = Self::default();
        for range in all {
            let merged = match range {
                IpNet::V4(_) => &mut reserved.v4,
                IpNet::V6(_) => &mut reserved.v6,
            };
            let (start, end) = (first(range), last(range));
            match merged.last_entry() {
                Some(mut before) if *before.get() >= start.saturating_sub(1) => {
                    let joined = end.max(*before.get());
                    before.insert(joined);
                }
                _ => {
                    merged.insert(start, end);
                }
            }
        }
        reserved
    }

    /// Whether an address is in one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address_number = number(address);
        let ranges = match address {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => &self.v6,
        };
        let below = ranges.range(..=address_number).next_back();
        below.is_some_and(|(_, end)| *end >= address_number)
    }

    /// The last address of the range that all of `cidr` lies in, if there is one.
    pub fn end_of_all(&self, cidr: IpNet) -> Option<u128> {
        let ranges = match cidr {
            IpNet::V4(_) => &self.v4,
            IpNet::V6(_) => &self.v6,
        };
        let (_, end) = ranges.range(..=first(cidr)).next_back()?;
        (*end >= last(cidr)).then_some(*end)
    }

    /// How many addresses of `cidr` are in them.
    pub fn count_in(&self, cidr: IpNet) -> u128 {
        let ranges = match cidr {
            IpNet::V4(_) => &self.v4,
            IpNet::V6(_) => &self.v6,
        };
        let (start, end) = (first(cidr), last(cidr));
        let before = ranges.range(..start).next_back();
        let within = ranges.range(start..=end);
        let counts = before.into_iter().chain(within).map(|(from, to)| {
            let (from, to) = ((*from).max(start), (*to).min(end));
            // One less than there are of all IPv6.
            (to + 1).saturating_sub(from)
        });
        counts.sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn ranges_that_touch_or_overlap_count_once() {
        let ranges = [
            "10.0.0.4/30",
            "10.0.0.0/30",
            "10.0.0.2/31",
            "10.0.1.7/32",
            "fd00::/126",
        ];
        let reserved = Reserved::of(nets(&ranges));
        for (cidr, count) in [
            ("10.0.0.0/26", 8),
            ("10.0.0.6/31", 2),
            ("10.0.1.0/24", 1),
            ("10.0.2.0/24", 0),
            ("fd00::/122", 4),
            ("::/122", 0),
        ] {
            assert_eq!(reserved.count_in(cidr.parse().unwrap()), count, "{cidr}");
        }
        let whole = |cidr: &str| reserved.end_of_all(cidr.parse().unwrap());
        assert_eq!(whole("10.0.0.2/31"), Some(0x0a00_0007));
        assert_eq!(whole("10.0.0.0/28"), None);
        assert!(reserved.contains("10.0.0.7".parse().unwrap()));
        assert!(!reserved.contains("10.0.0.8".parse().unwrap()));
        // A number of the other family.
        assert!(!reserved.contains("::a00:7".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn what_is_counted_is_what_is_contained(ranges in prop::collection::vec((0_u32..64, 26_u8..=32), 0..6)) {
            let ranges = ranges.into_iter().map(|(at, len)| {
                let address = IpAddr::from((0x0a00_0000 + at).to_be_bytes());
                IpNet::new(address, len).unwrap().trunc()
            });
            let ranges: Vec<IpNet> = ranges.collect();
            let reserved = Reserved::of(ranges.clone());
            let mut count = 0;
            for at in 0..64_u32 {
                let address = IpAddr::from((0x0a00_0000 + at).to_be_bytes());
                let inside = ranges.iter().any(|range| range.contains(&address));
                prop_assert_eq!(reserved.contains(address), inside);
                count += u128::from(inside);
            }
            prop_assert_eq!(reserved.count_in("10.0.0.0/26".parse().unwrap()), count);
        }
    }
}
