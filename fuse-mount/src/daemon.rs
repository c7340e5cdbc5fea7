//! The daemon of a mount: from opening the engine to the drain at the end.
//!
//! ```text
//!   serve ── engine ── control socket ── mount ── "ready" ── events ─┬─ signal ───────┐
//!                                                                    ├─ unmount asked ─┼─ umount(2) ─ busy? stay
//!                                                                    └─ mount is gone ─┴─ drain ── end
//! ```
//! However a mount ends (`lsvd-fuse unmount`, a signal, plain `umount`), it ends here: what was
//! grown ahead is cut off, the engine drains, whoever waits is told. A second signal, or
//! `--no-drain`, turns the drain into "keep": the log holds the rest for the next mount.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use lsvd_volume::{Close, Engine, VolumeName};
use serde_json::json;

use crate::config::Settings;
use crate::control::protocol::{End, Response};
use crate::control::server::{Service, Socket, Watcher};
use crate::control::{read_only_socket_in, socket_in};
use crate::daemonize::Reporter;
use crate::exit::usage;
use crate::fs::VolumeFs;
use crate::fs::fuser_edge::{self, MountFlags};
use crate::fs::status::{self, DaemonFacts};
use crate::fs::transport::InUse;
use crate::fs::volumes::Volumes;
use crate::mounts::{self, UnmountError};
use crate::schedule::keeper;
use crate::{await_store, signals, users};

/// How long a second signal lets the engine close its logs before the process just ends.
const GRACE: Duration = Duration::from_secs(5);

/// How often events are looked at while volumes settle.
const EVENT_PAUSE: Duration = Duration::from_millis(100);

/// What can happen to a running mount.
enum Event {
    /// A signal asks for the end.
    Signal(&'static str),
    /// A command asks for the end.
    Unmount { end: End, watcher: Watcher },
    /// The mount is gone, by whoever's hand.
    Ended,
}

/// Serves `mountpoint` until it is unmounted; tells `reporter` when it answers.
pub(crate) fn serve(settings: &Settings, mountpoint: &Path, reporter: &mut Reporter) -> Result<()> {
    // Before the first thread, so that all of them leave signals to one.
    signals::block().context("cannot block signals")?;
    let engine = open_engine(settings, reporter)?;
    let volumes = Volumes::new(engine, settings.read_only.value);
    let facts = facts(settings, mountpoint);
    let (events, inbox) = unbounded();

    let socket = Socket::bind(&facts.control_socket)
        .with_context(|| format!("control socket {}", facts.control_socket.display()))?;
    socket.serve(service(&volumes, &facts, &events)).context("cannot serve the control socket")?;

    let fs = VolumeFs::new(volumes.clone(), facts.clone()).context("cannot start threads")?;
    let flags = MountFlags {
        source: mounts::source_for(&facts.control_socket),
        read_only: settings.read_only.value,
        allow_other: settings.allow_other.value,
        transport: settings.transport.value,
    };
    let ended = events.clone();
    fuser_edge::mount(fs, mountpoint, &flags, &facts.transport, move || {
        // The receiver lives as long as the daemon.
        let _ = ended.send(Event::Ended);
    })
    .with_context(|| cannot_mount(mountpoint, &flags))?;
    signals::watch(move |name| drop(events.send(Event::Signal(name))))
        .context("cannot watch for signals")?;

    let device = mounts::at(mountpoint)?.map(|mount| mount.device);
    log::info!("serving {} at {}", facts.store, mountpoint.display());
    reporter.ready();
    resume(&volumes);
    keeper::start(&volumes, settings.schedules());

    let mut running =
        Running { mountpoint, inbox, watchers: Vec::new(), how: Close::Drain, leaving: false };
    running.until_unmounted();
    clear_dead_mount(mountpoint, device);
    let finished = running.finish(&volumes);
    // Gone before the last word, so that who waits for it can mount again at once.
    drop(socket);
    drop(volumes);
    running.tell_all(&match &finished {
        Ok(left) => Response::Done(json!({ "unmounted": mountpoint, "left_in_log_bytes": left })),
        Err(error) => Response::Failed { message: crate::exit::one_line(error), usage: false },
    });
    finished.map(drop)
}

/// Goes on with the uploads that the mount before left in its logs, in the background.
fn resume(volumes: &Arc<Volumes>) {
    let volumes = volumes.clone();
    let body = move || volumes.resume_uploads();
    if let Err(error) = std::thread::Builder::new().name("lsvd-resume".to_owned()).spawn(body) {
        log::warn!("cannot start a thread; volumes resume when they are opened: {error}");
    }
}

fn open_engine(settings: &Settings, reporter: &mut Reporter) -> Result<Arc<Engine>> {
    let store = await_store::open(settings, reporter)?;
    let config = settings.engine_config();
    let engine = match settings.read_only.value {
        true => Engine::open_read_only(store, config)?,
        false => Engine::open(store, config)?,
    };
    for (name, config) in settings.volume_configs() {
        let name = VolumeName::new(name)
            .map_err(|error| usage(format!("section [volume.{name}]: {error}")))?;
        engine.configure_volume(&name, config);
    }
    Ok(engine)
}

fn facts(settings: &Settings, mountpoint: &Path) -> DaemonFacts {
    let cache_dir = settings.cache_dir.value.clone();
    let read_only = settings.read_only.value;
    DaemonFacts {
        mountpoint: mountpoint.to_owned(),
        control_socket: if read_only {
            read_only_socket_in(&cache_dir)
        } else {
            socket_in(&cache_dir)
        },
        store: settings.store.value.clone(),
        cache_dir,
        read_only,
        transport: InUse::default(),
        started: Instant::now(),
    }
}

fn service(volumes: &Arc<Volumes>, facts: &DaemonFacts, events: &Sender<Event>) -> Service {
    let (facts, events) = (facts.clone(), events.clone());
    Service {
        volumes: Arc::downgrade(volumes),
        hello: Box::new(move || status::daemon(&facts)),
        unmount: Box::new(move |end, watcher| drop(events.send(Event::Unmount { end, watcher }))),
    }
}

fn cannot_mount(mountpoint: &Path, flags: &MountFlags) -> String {
    let shown = mountpoint.display();
    if !Path::new("/dev/fuse").exists() {
        return format!(
            "cannot mount {shown}: there is no /dev/fuse (load the fuse module, or pass the device in)"
        );
    }
    if flags.allow_other && !rustix::process::geteuid().is_root() {
        return format!(
            "cannot mount {shown} (--allow-other needs `user_allow_other` in /etc/fuse.conf)"
        );
    }
    format!("cannot mount {shown}")
}

/// After an abort of the connection the mount point stays, answering nothing: take it away,
/// but only if it is still the mount that was ours.
fn clear_dead_mount(mountpoint: &Path, device: Option<String>) {
    let still_there = mounts::at(mountpoint).ok().flatten().map(|mount| mount.device);
    if still_there.is_some() && still_there == device {
        log::warn!("the connection to the kernel was cut; clearing {}", mountpoint.display());
        if let Err(error) = mounts::unmount(mountpoint, true) {
            log::warn!("{}: {error:?}", mountpoint.display());
        }
    }
}

/// A mount that is up, or draining.
struct Running<'a> {
    mountpoint: &'a Path,
    inbox: Receiver<Event>,
    watchers: Vec<Watcher>,
    how: Close,
    /// A signal has come already.
    leaving: bool,
}

impl Running<'_> {
    /// Handles events until the mount is gone.
    fn until_unmounted(&mut self) {
        while let Ok(event) = self.inbox.recv() {
            match event {
                Event::Ended => return,
                Event::Signal(name) => {
                    if !self.on_signal(name) {
                        return;
                    }
                }
                Event::Unmount { end: End::Force, watcher } => {
                    self.watchers.push(watcher);
                    self.leave_at_once();
                    return;
                }
                Event::Unmount { end, mut watcher } => match self.unmount() {
                    Ok(()) => {
                        self.how = if end == End::Drain { self.how } else { Close::Keep };
                        self.watchers.push(watcher);
                    }
                    Err(message) => watcher.tell(&Response::Failed { message, usage: false }),
                },
            }
        }
    }

    /// Whether to wait for the mount's end: users of a mount that is left keep it for a while.
    fn on_signal(&mut self, name: &str) -> bool {
        let again = std::mem::replace(&mut self.leaving, true);
        match self.unmount() {
            Ok(()) => log::info!("{name}: unmounted; draining"),
            Err(message) if !again => {
                log::error!("{name}: {message}; once more to leave all the same")
            }
            Err(message) => {
                log::error!("{name} again: leaving; {message}");
                self.leave_at_once();
                return false;
            }
        }
        true
    }

    /// Hides the mount from whoever still uses it, and ends; the log holds everything.
    fn leave_at_once(&mut self) {
        self.how = Close::Keep;
        if let Err(error) = mounts::unmount(self.mountpoint, true) {
            log::error!("{}: {error:?}", self.mountpoint.display());
        }
        end_after_grace();
    }

    fn unmount(&self) -> Result<(), String> {
        let shown = self.mountpoint.display();
        match mounts::unmount(self.mountpoint, false) {
            Ok(()) => Ok(()),
            Err(UnmountError::Busy) => {
                let users = users::describe(self.mountpoint);
                Err(format!("{shown} is busy: {users} (`unmount --force` ends it all the same)"))
            }
            Err(UnmountError::Failed(error)) => Err(format!("cannot unmount {shown}: {error}")),
        }
    }

    /// Closes all volumes; returns the bytes left in logs.
    fn finish(&mut self, volumes: &Arc<Volumes>) -> Result<u64> {
        self.settle(volumes)?;
        let how = self.how;
        let closed = volumes.engine().shutdown(how, &mut |dirty_bytes| {
            self.tell_all(&Response::Progress { dirty_bytes });
            self.keep_draining()
        });
        let left = closed.context("closing the volumes")?;
        log::info!("closed; {left} bytes are left for the next mount");
        Ok(left)
    }

    /// Settles the volumes, on another thread: the store may not answer, and a signal must.
    fn settle(&mut self, volumes: &Arc<Volumes>) -> Result<()> {
        let (done, settled) = bounded::<()>(0);
        let (volumes, store) = (volumes.clone(), self.how == Close::Drain);
        std::thread::Builder::new()
            .name("lsvd-settle".to_owned())
            .spawn(move || {
                volumes.settle_all(store);
                drop(volumes);
                drop(done);
            })
            .context("cannot start a thread")?;
        while let Err(RecvTimeoutError::Timeout) = settled.recv_timeout(EVENT_PAUSE) {
            let cut_short = !self.keep_draining() && store;
            if cut_short {
                break;
            }
        }
        Ok(())
    }

    /// Takes events in during the drain; `false` once it is to be cut short.
    fn keep_draining(&mut self) -> bool {
        while let Ok(event) = self.inbox.try_recv() {
            match event {
                Event::Ended => {}
                Event::Signal(name) if self.leaving => {
                    log::warn!("{name} again: leaving the rest in the log");
                    self.how = Close::Keep;
                    end_after_grace();
                }
                Event::Signal(name) => {
                    log::info!("{name}: still draining; once more to leave the rest in the log");
                    self.leaving = true;
                }
                Event::Unmount { end, watcher } => {
                    self.how = if end == End::Drain { self.how } else { Close::Keep };
                    self.watchers.push(watcher);
                }
            }
        }
        self.how == Close::Drain
    }

    fn tell_all(&mut self, response: &Response) {
        for watcher in &mut self.watchers {
            watcher.tell(response);
        }
    }
}

/// Ends the process if closing takes too long: acknowledged writes are in the log either way.
fn end_after_grace() {
    let spawned = std::thread::Builder::new().name("lsvd-grace".to_owned()).spawn(|| {
        std::thread::sleep(GRACE);
        log::error!("closing takes too long; ending without it");
        std::process::exit(1);
    });
    if spawned.is_err() {
        std::process::exit(1);
    }
}

/// Where the daemon of this cache directory logs.
pub(crate) fn log_path(cache_dir: &Path) -> PathBuf {
    cache_dir.join("lsvd-fuse.log")
}
