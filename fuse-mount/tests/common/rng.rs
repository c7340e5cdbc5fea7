//! Chance that can be repeated: splitmix64.

/// A sequence of numbers that its seed decides.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The seed of `LSVD_TEST_SEED`, or one from the clock.
    pub fn seed_of_the_day() -> u64 {
        let given = std::env::var("LSVD_TEST_SEED").ok();
        given.map_or_else(
            || {
                let now = std::time::UNIX_EPOCH.elapsed().unwrap();
                now.as_nanos() as u64
            },
            |text| text.parse().unwrap(),
        )
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.any() % limit
    }

    /// Bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&self.any().to_le_bytes()[..part.len()]);
        }
    }
}
