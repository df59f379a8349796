//! Jitter of timers (RFC 4271 §10), from the seed.

use std::time::Duration;

/// SplitMix64: enough for spreading timers, and the same on every machine.
#[derive(Clone, Debug)]
pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// `duration` times a factor evenly spread over 0.75 to 1.0.
    pub(crate) fn shorten(&mut self, duration: Duration) -> Duration {
        duration - duration / 4 * self.below_1024() / 1024
    }

    fn below_1024(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((mixed ^ (mixed >> 31)) >> 54).expect("ten bits are left")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_between_three_quarters_and_the_whole() {
        let mut jitter = Jitter::new(3);
        let whole = Duration::from_secs(80);
        let all: Vec<Duration> = (0..1000).map(|_| jitter.shorten(whole)).collect();
        assert!(
            all.iter()
                .all(|d| *d > whole * 3 / 4 - Duration::from_millis(1) && *d <= whole)
        );
        let lowest = all.iter().min().expect("there are some");
        let highest = all.iter().max().expect("there are some");
        assert!(
            *highest - *lowest > Duration::from_secs(18),
            "{lowest:?} {highest:?}"
        );
    }
}
