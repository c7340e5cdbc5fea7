//! The daemon's end of the control socket: a thread that accepts, one per connection.

use std::fs::{self, Permissions};
use std::io::{self, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use rustix::net::RecvFlags;
use serde_json::Value;

use super::execute::execute;
use super::protocol::{End, REQUEST_BYTES_MAX, Request, Response, receive, send};
use super::short_path;
use crate::exit;
use crate::fs::volumes::Volumes;

/// Connections at once; more are closed at once.
const CONNECTIONS_MAX: usize = 32;

/// How long a client may take to read a line.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// What the server acts on.
pub(crate) struct Service {
    /// Weak: a command that is still connected must not keep the cache directory locked.
    pub(crate) volumes: Weak<Volumes>,
    /// Answers [`Request::Hello`].
    pub(crate) hello: Box<dyn Fn() -> Value + Send + Sync>,
    /// Takes [`Request::Unmount`] over, with the connection to answer on.
    pub(crate) unmount: Box<dyn Fn(End, Watcher) + Send + Sync>,
}

/// Somebody who waits for the end of the daemon.
pub(crate) struct Watcher(UnixStream);

impl Watcher {
    /// Tells them; whoever is gone is not waited for.
    pub(crate) fn tell(&mut self, response: &Response) {
        if let Err(error) = send(&mut self.0, response) {
            log::debug!("a waiting command is gone: {error}");
        }
    }
}

/// A bound socket; its file is removed when this is dropped.
pub(crate) struct Socket {
    path: PathBuf,
    listener: UnixListener,
}

impl Socket {
    /// Binds. Only the holder of the cache directory's lock may: a file that is already there
    /// was left by a daemon that is gone.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let (_directory, short) = short_path(path)?;
        let listener = UnixListener::bind(short)?;
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        Ok(Self { path: path.to_owned(), listener })
    }

    /// Serves until the process ends.
    pub(crate) fn serve(&self, service: Service) -> io::Result<()> {
        let listener = self.listener.try_clone()?;
        let service = Arc::new(service);
        let connections = Arc::new(AtomicUsize::new(0));
        thread::Builder::new().name("lsvd-control".to_owned()).spawn(move || {
            for stream in listener.incoming() {
                match stream {
                    Ok(stream) => accept(stream, &service, &connections),
                    Err(error) => {
                        log::warn!("control socket: {error}");
                        // Out of file descriptors, most likely: do not spin.
                        thread::sleep(Duration::from_millis(100));
                    }
                }
            }
        })?;
        Ok(())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            log::debug!("{}: {error}", self.path.display());
        }
    }
}

fn accept(stream: UnixStream, service: &Arc<Service>, connections: &Arc<AtomicUsize>) {
    if !is_allowed(&stream) {
        return;
    }
    if connections.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS_MAX {
        connections.fetch_sub(1, Ordering::AcqRel);
        return;
    }
    let (service, counted) = (service.clone(), connections.clone());
    let spawned = thread::Builder::new().name("lsvd-command".to_owned()).spawn(move || {
        if let Err(error) = converse(stream, &service) {
            log::debug!("control connection: {error}");
        }
        counted.fetch_sub(1, Ordering::AcqRel);
    });
    if let Err(error) = spawned {
        connections.fetch_sub(1, Ordering::AcqRel);
        log::warn!("control connection: {error}");
    }
}

/// The mode of the socket keeps others out; this closes the moment before it is set.
fn is_allowed(stream: &UnixStream) -> bool {
    let allowed = rustix::net::sockopt::socket_peercred(stream)
        .is_ok_and(|peer| peer.uid.is_root() || peer.uid == rustix::process::geteuid());
    if !allowed {
        log::warn!("control socket: somebody else's connection was refused");
    }
    allowed
}

fn converse(stream: UnixStream, service: &Service) -> io::Result<()> {
    stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
    let mut requests = BufReader::new(stream.try_clone()?);
    let mut responses = stream;
    while let Some(request) = receive::<Request>(&mut requests, REQUEST_BYTES_MAX)? {
        log::debug!("command: {request:?}");
        let response = match request {
            Request::Hello => Response::Done((service.hello)()),
            Request::Unmount { end } => {
                (service.unmount)(end, Watcher(responses));
                return Ok(());
            }
            request => answer(service, &request, &mut responses),
        };
        send(&mut responses, &response)?;
    }
    Ok(())
}

/// Whether the client has closed its end for writing, and so wants the work to be left off.
fn has_left_off(client: &UnixStream) -> bool {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    matches!(rustix::net::recv(client, &mut [0; 1][..], flags), Ok((_, 0)))
}

fn answer(service: &Service, request: &Request, responses: &mut UnixStream) -> Response {
    let Some(volumes) = service.volumes.upgrade() else {
        return Response::Failed {
            message: "the daemon is ending; try again".to_owned(),
            usage: false,
        };
    };
    // Who has gone away wants nothing any more.
    let mut progress =
        |still: &Response| send(responses, still).is_ok() && !has_left_off(responses);
    match execute(&volumes, request, &mut progress) {
        Ok(value) => Response::Done(value),
        Err(error) => Response::Failed {
            message: exit::one_line(&error),
            usage: exit::code_of(&error) == exit::USAGE,
        },
    }
}
