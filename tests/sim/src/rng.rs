//! The one source of chance: SplitMix64, printed and replayed by its seed.

/// A seeded generator.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Starts from a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which must not be 0.
    pub const fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// The seed of a run: `SIM_SEED` when the caller passes it on, else the scenario's own. Printed either way, so that a
/// failing run can be repeated.
pub fn seed(from_environment: Option<&str>, own: u64) -> u64 {
    let seed = from_environment
        .and_then(|text| text.parse().ok())
        .unwrap_or(own);
    println!("seed {seed}: replay with SIM_SEED={seed}");
    seed
}
