//! A limit of bytes in a second, for work in the background.

use std::time::Duration;

/// So many bytes in a second, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate(u64);

impl Rate {
    /// The limit of `bytes_per_s`; zero counts as one.
    pub(crate) fn new(bytes_per_s: u64) -> Self {
        Self(bytes_per_s.max(1))
    }

    /// How long so many bytes may take at least.
    pub(crate) fn time_for(self, bytes: u64) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.0 as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_their_time() {
        assert_eq!(Rate::new(1000).time_for(500), Duration::from_millis(500));
        assert_eq!(Rate::new(0).time_for(2), Duration::from_secs(2));
        assert_eq!(Rate::new(5).time_for(0), Duration::ZERO);
    }
}
