//! The mount: over io_uring where that is to be had, else over /dev/fuse alone.
//!
//! ```text
//!   auto, uring ── Rings::prepare ── mount, INIT with the flag ── Rings::start ── serve
//!                     │ no                │ not offered              │ refused
//!                     └───────────────────┴────── unmount ───────────┘
//!                          auto: mount again, without      uring: say why
//! ```

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, anyhow};
use fuser::{Config, MountOption, Session, SessionACL};
use parking_lot::Mutex;

use super::super::VolumeFs;
use super::super::policy::WRITE_BYTES_MAX;
use super::super::transport::{InUse, Transport};
use super::super::uring::Rings;
use super::Edge;

/// How to mount.
#[derive(Clone, Debug)]
pub(crate) struct MountFlags {
    /// Shown as the mount's source; names the control socket.
    pub(crate) source: String,
    pub(crate) read_only: bool,
    pub(crate) allow_other: bool,
    pub(crate) transport: Transport,
}

/// Mounts and serves from threads of its own; `ended` is called when the mount is gone. `in_use`
/// gets to know the transport.
///
/// # Errors
/// If the kernel or `fusermount3` refuses, or the transport that is asked for is not to be had.
pub(crate) fn mount(
    fs: VolumeFs,
    mountpoint: &Path,
    flags: &MountFlags,
    in_use: &InUse,
    ended: impl FnOnce() + Send + Sync + 'static,
) -> Result<()> {
    let mount = Mount { fs: Arc::new(fs), mountpoint, flags, ended: Ended::new(ended) };
    let by_uring = match flags.transport {
        Transport::DevFuse => None,
        Transport::Auto | Transport::Uring => Some(mount.by_uring(in_use)),
    };
    match by_uring {
        Some(Ok(())) => {}
        Some(Err(Refused::Mount(error))) => return Err(error),
        Some(Err(Refused::Transport(error))) if flags.transport == Transport::Uring => {
            return Err(error.context("transport uring"));
        }
        Some(Err(Refused::Transport(error))) => {
            log::info!("requests come over /dev/fuse: {error:#}");
            mount.by_dev_fuse()?;
        }
        None => mount.by_dev_fuse()?,
    }
    log::info!("transport: {}", in_use.get());
    Ok(())
}

/// Why there is no mount over io_uring.
enum Refused {
    /// No mount at all is to be had.
    Mount(anyhow::Error),
    /// This transport is not.
    Transport(anyhow::Error),
}

/// A mount to be made.
struct Mount<'a> {
    fs: Arc<VolumeFs>,
    mountpoint: &'a Path,
    flags: &'a MountFlags,
    ended: Ended,
}

impl Mount<'_> {
    /// Everything over /dev/fuse.
    fn by_dev_fuse(&self) -> Result<()> {
        // More threads than cores halve the speed.
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let session = self.session(Offer::default(), None, threads)?;
        self.serve(session)
    }

    /// Everything that can go over io_uring does; one thread has the rest.
    fn by_uring(&self, in_use: &InUse) -> Result<(), Refused> {
        let rings = Rings::prepare(WRITE_BYTES_MAX as usize).map_err(Refused::Transport)?;
        let (rings, offer) = (Arc::new(rings), Offer { wanted: true, ..Offer::default() });
        let session =
            self.session(offer.clone(), Some(rings.clone()), 1).map_err(Refused::Mount)?;
        // A session that is dropped unmounts.
        if !offer.taken.load(Ordering::Relaxed) {
            return Err(Refused::Transport(anyhow!("the kernel does not offer io_uring")));
        }
        in_use.set_uring(true);
        if let Err(error) = rings.start(session.as_fd(), &self.fs) {
            in_use.set_uring(false);
            return Err(Refused::Transport(error));
        }
        self.serve(session).map_err(Refused::Mount)
    }

    fn session(
        &self,
        offer: Offer,
        rings: Option<Arc<Rings>>,
        threads: usize,
    ) -> Result<Session<Edge>> {
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName(self.flags.source.clone()),
            // Owners and modes of files mean something, so the kernel checks them.
            MountOption::DefaultPermissions,
            if self.flags.read_only { MountOption::RO } else { MountOption::RW },
        ];
        config.acl = if self.flags.allow_other { SessionACL::All } else { SessionACL::Owner };
        config.n_threads = Some(threads);
        let edge = Edge { fs: self.fs.clone(), offer, rings, ended: self.ended.clone() };
        Ok(Session::new(edge, self.mountpoint, &config)?)
    }

    fn serve(&self, session: Session<Edge>) -> Result<()> {
        self.ended.arm();
        let running = session.spawn()?;
        // Dropping it would unmount whatever is mounted there by then. `mounts::unmount` knows
        // what is ours; the session itself ends when the mount does.
        std::mem::forget(running);
        Ok(())
    }
}

/// What is asked of the kernel in INIT beside the usual, and what comes of it.
#[derive(Clone, Default)]
pub(super) struct Offer {
    pub(super) wanted: bool,
    pub(super) taken: Arc<AtomicBool>,
}

/// Whom to tell of the mount's end, once it is served.
#[derive(Clone)]
pub(super) struct Ended {
    armed: Arc<AtomicBool>,
    tell: Arc<Mutex<Option<Tell>>>,
}

pub(super) type Tell = Box<dyn FnOnce() + Send>;

impl Ended {
    fn new(tell: impl FnOnce() + Send + 'static) -> Self {
        Self { armed: Arc::default(), tell: Arc::new(Mutex::new(Some(Box::new(tell)))) }
    }

    fn arm(&self) {
        self.armed.store(true, Ordering::Release);
    }

    /// Whom to tell, once.
    pub(super) fn take(&self) -> Option<Tell> {
        self.tell.lock().take_if(|_| self.armed.load(Ordering::Acquire))
    }
}
