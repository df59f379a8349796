//! Hashes of prefixes under which neighbours lie side by side.
//!
//! Routes come and go in the order of their prefixes. Under a hash that scatters them each look-up in a large table waits
//! for memory; here sixteen neighbours of one length share a line of the processor's cache.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use ipnet::IpNet;

/// How many bits of a network's number tell neighbours apart: the table looks at sixteen places at a time.
const NEIGHBOUR_BITS: u32 = 4;
const NEIGHBOURS: u64 = (1 << NEIGHBOUR_BITS) - 1;
/// The table compares the upper seven bits of a hash before it looks at an entry: they must differ between neighbours.
const TAG_SHIFT: u32 = 57;

/// See the module. Seeded: nobody can choose prefixes of different neighbourhoods that collide.
#[derive(Debug)]
pub(super) struct PrefixHasher(FixedState);

impl PrefixHasher {
    pub(super) fn new(seed: u64) -> Self {
        Self(FixedState::with_seed(seed))
    }

    pub(super) fn hash(&self, prefix: IpNet) -> u64 {
        let host_bits = u32::from(prefix.max_prefix_len() - prefix.prefix_len());
        let (neighbourhood, neighbour) = match prefix {
            IpNet::V4(net) => {
                let number = u64::from(net.addr().to_bits()) >> host_bits;
                let neighbourhood = (number >> NEIGHBOUR_BITS) << 8 | u64::from(net.prefix_len());
                (self.0.hash_one(neighbourhood), number & NEIGHBOURS)
            }
            IpNet::V6(net) => {
                let number = net.addr().to_bits().checked_shr(host_bits).unwrap_or(0);
                let neighbourhood = (number >> NEIGHBOUR_BITS, net.prefix_len());
                let low = number.to_le_bytes()[0];
                (self.0.hash_one(neighbourhood), u64::from(low) & NEIGHBOURS)
            }
        };
        (neighbourhood & !NEIGHBOURS | neighbour) ^ neighbour << TAG_SHIFT
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn hashes(prefixes: &[&str]) -> Vec<u64> {
        let hasher = PrefixHasher::new(7);
        let parsed = prefixes.iter().map(|text| text.parse().unwrap());
        parsed.map(|prefix| hasher.hash(prefix)).collect()
    }

    #[test]
    fn neighbours_follow_each_other_with_different_tags() {
        for prefixes in [
            ["10.1.16.0/24", "10.1.17.0/24", "10.1.18.0/24"],
            ["10.1.16.0/26", "10.1.16.64/26", "10.1.16.128/26"],
            ["fd00:0:10::/48", "fd00:0:11::/48", "fd00:0:12::/48"],
        ] {
            let hashes = hashes(&prefixes);
            let places: Vec<u64> = hashes
                .iter()
                .map(|hash| hash << 7 >> 7 << 16 >> 16)
                .collect();
            assert_eq!(places[1], places[0] + 1, "{prefixes:?}");
            assert_eq!(places[2], places[0] + 2, "{prefixes:?}");
            let tags: BTreeSet<u64> = hashes.iter().map(|hash| hash >> TAG_SHIFT).collect();
            assert_eq!(tags.len(), 3, "{prefixes:?}");
        }
    }

    #[test]
    fn length_family_and_distance_scatter() {
        let all = [
            "0.0.0.0/0",
            "::/0",
            "10.0.0.0/8",
            "10.0.0.0/9",
            "10.0.0.0/24",
            "10.0.16.0/24",
            "a00::/8",
            "255.255.255.255/32",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128",
        ];
        let places: BTreeSet<u64> = hashes(&all)
            .iter()
            .map(|hash| hash >> 4 & 0xff_ffff)
            .collect();
        assert_eq!(places.len(), all.len());
    }
}
