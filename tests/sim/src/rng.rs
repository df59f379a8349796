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

/// The seed of a run: what the environment says (`SIM_SEED`), else the one that was drawn. Printed either way, so that a failing run can
/// be repeated.
///
/// # Panics
/// When the environment's is no number: a replay that does not replay would mislead.
pub fn seed(from_environment: Option<&str>, drawn: u64) -> u64 {
    let named = from_environment.map(|text| {
        text.parse().unwrap_or_else(|error| {
            panic!("SIM_SEED={text:?}: {error}; a number below 2^64 is allowed")
        })
    });
    let seed = named.unwrap_or(drawn);
    println!("seed {seed}: replay with SIM_SEED={seed}");
    seed
}
