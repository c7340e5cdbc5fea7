//! By which way requests come: what was asked for, and what came of it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// The faster one that this machine offers.
    Auto,
    /// FUSE over io_uring, or no mount.
    Uring,
    /// Reads and writes of /dev/fuse.
    DevFuse,
}

impl Transport {
    /// What a setting says.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        [Self::Auto, Self::Uring, Self::DevFuse]
            .into_iter()
            .find(|transport| transport.to_string() == text)
            .ok_or_else(|| format!("{text:?} is not a transport: auto, uring or dev-fuse"))
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Uring => "uring",
            Self::DevFuse => "dev-fuse",
        })
    }
}

/// What a mount came to use; told before the first request is served.
#[derive(Clone, Debug, Default)]
pub(crate) struct InUse(Arc<AtomicBool>);

impl InUse {
    /// Notes what is used.
    pub(super) fn set_uring(&self, uring: bool) {
        self.0.store(uring, Ordering::Release);
    }

    /// What is used.
    pub(crate) fn get(&self) -> Transport {
        if self.0.load(Ordering::Acquire) { Transport::Uring } else { Transport::DevFuse }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_shown() {
        for transport in [Transport::Auto, Transport::Uring, Transport::DevFuse] {
            assert_eq!(Transport::parse(&transport.to_string()), Ok(transport));
        }
        assert!(Transport::parse("io_uring").is_err_and(|reason| reason.contains("dev-fuse")));
    }
}
