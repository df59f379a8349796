//! In which order a node looks for a block to claim.

use std::ops::Range;

use ipnet::IpNet;

use crate::block::{first, prefix};

/// FNV-1, 32 bits (not FNV-1a): spreads nodes over a pool by their names.
pub fn fnv1_32(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, octet| {
        hash.wrapping_mul(0x0100_0193) ^ u32::from(octet)
    })
}

/// Every block of `block_len` in `pool` once: from the one the seed points at, upwards, round the end.
///
/// Empty when the pool is smaller than a block.
pub fn candidates(pool: IpNet, block_len: u8, seed: u64) -> Candidates {
    let fits = (pool.prefix_len()..=pool.max_prefix_len()).contains(&block_len);
    let block_bits = u32::from(pool.max_prefix_len().saturating_sub(block_len));
    let count_bits = u32::from(block_len.saturating_sub(pool.prefix_len()));
    // 2^128 blocks of one address are one more than fit; the last is left out.
    let count = if fits {
        1_u128.checked_shl(count_bits).unwrap_or(u128::MAX)
    } else {
        0
    };
    let start = if count == 0 {
        0
    } else {
        u128::from(seed) % count
    };
    Candidates {
        pool,
        block_len,
        block_bits,
        base: first(pool),
        rest: start..count,
        then: 0..start,
    }
}

/// The blocks of a pool that are still to come.
#[derive(Clone, Debug)]
pub struct Candidates {
    pool: IpNet,
    block_len: u8,
    block_bits: u32,
    base: u128,
    rest: Range<u128>,
    /// What follows once the end was reached.
    then: Range<u128>,
}

impl Candidates {
    /// Leaves out the blocks from here on that lie within a range whose last address is `end`.
    pub fn skip_to_end_of(&mut self, end: u128) {
        let beyond = end.saturating_add(1).saturating_sub(self.base);
        // Of 2^128 addresses one block is all.
        let index = beyond.checked_shr(self.block_bits).unwrap_or(0);
        self.rest.start = self.rest.start.max(index).min(self.rest.end);
    }
}

impl Iterator for Candidates {
    type Item = IpNet;

    fn next(&mut self) -> Option<IpNet> {
        if self.rest.is_empty() {
            self.rest = std::mem::replace(&mut self.then, 0..0);
        }
        let index = self.rest.next()?;
        let offset = index.checked_shl(self.block_bits)?;
        prefix(self.pool, self.base + offset, self.block_len)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::block::number;

    #[test]
    fn the_hash_is_fnv_1() {
        // Test vectors of the FNV reference.
        assert_eq!(fnv1_32(""), 0x811c_9dc5);
        assert_eq!(fnv1_32("a"), 0x050c_5d7e);
        assert_eq!(fnv1_32("foobar"), 0x31f0_b262);
    }

    proptest! {
        #[test]
        fn every_block_comes_once_whatever_the_seed(seed: u64, pool_len in 18_u8..=26, v6: bool) {
            let (text, block_len) = if v6 {
                (format!("fd00:1::/{}", pool_len + 96), 122)
            } else {
                (format!("10.128.0.0/{pool_len}"), 26)
            };
            let pool: IpNet = text.parse().unwrap();
            let all: Vec<_> = candidates(pool, block_len, seed).collect();
            let distinct: BTreeSet<_> = all.iter().copied().collect();
            prop_assert_eq!(all.len(), 1 << (26 - pool_len));
            prop_assert_eq!(distinct.len(), all.len());
            prop_assert!(all.iter().all(|block| pool.contains(block) && block.prefix_len() == block_len));
        }
    }

    #[test]
    fn a_range_is_left_in_one_step_however_large() {
        let pool: IpNet = "fd00::/64".parse().unwrap();
        let mut all = candidates(pool, 122, 5);
        let before = all.next().unwrap();
        assert_eq!(before.to_string(), "fd00::140/122");
        all.skip_to_end_of(number("fd00::7fff:ffff:ffff:ffff".parse().unwrap()));
        assert_eq!(all.next().unwrap().to_string(), "fd00::8000:0:0:0/122");
        // Round the end.
        all.skip_to_end_of(u128::MAX);
        let rest: Vec<String> = all.map(|block| block.to_string()).collect();
        assert_eq!(rest.len(), 5);
        assert_eq!(rest[0], "fd00::/122");
    }

    #[test]
    fn a_pool_smaller_than_a_block_has_none_and_a_huge_one_is_no_trouble() {
        assert_eq!(candidates("10.0.0.0/27".parse().unwrap(), 26, 1).count(), 0);
        assert_eq!(
            candidates("::/0".parse().unwrap(), 122, u64::MAX)
                .take(3)
                .count(),
            3
        );
        assert_eq!(
            candidates("::/0".parse().unwrap(), 128, 5).take(3).count(),
            3
        );
    }
}
