//! A command's end of the control socket.

use std::io::{self, BufReader};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use serde::Deserialize;
use serde_json::Value;

use super::protocol::{RESPONSE_BYTES_MAX, Request, Response, receive, send};
use super::short_path;
use crate::exit::usage;

/// How long a daemon may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// A daemon that was killed accepts connections until the kernel has taken it down, and a busy one may
/// have none to spare.
const HANG_UP_PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait before it is asked again.
const HANG_UP_PAUSE: Duration = Duration::from_millis(50);

/// A connection to a daemon.
pub(crate) struct Client {
    responses: BufReader<UnixStream>,
    requests: UnixStream,
    daemon: Daemon,
}

/// What the daemon says of itself.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Daemon {
    pub(crate) pid: i32,
    pub(crate) mountpoint: PathBuf,
    pub(crate) store: String,
}

impl Client {
    /// Connects; `None` if no daemon listens there. One that hangs up is asked again for a while.
    pub(crate) fn connect(socket: &Path) -> Result<Option<Self>> {
        let began = Instant::now();
        loop {
            match Self::connect_once(socket) {
                Err(error) if is_hung_up(&error) && began.elapsed() < HANG_UP_PATIENCE => {
                    std::thread::sleep(HANG_UP_PAUSE);
                }
                connected => return connected,
            }
        }
    }

    fn connect_once(socket: &Path) -> Result<Option<Self>> {
        let Some(stream) =
            dial(socket).with_context(|| format!("control socket {}", socket.display()))?
        else {
            return Ok(None);
        };
        let responses = BufReader::new(stream.try_clone()?);
        let nobody = Daemon { pid: 0, mountpoint: Default::default(), store: String::new() };
        let mut client = Self { responses, requests: stream, daemon: nobody };
        // Only a hanging daemon takes that long for its own name; real work may take any time.
        client.requests.set_read_timeout(Some(HELLO_TIMEOUT))?;
        let hello = client.ask(&Request::Hello, |_| true)?;
        client.requests.set_read_timeout(None)?;
        client.daemon = serde_json::from_value(hello)
            .context("the daemon speaks another language; use its own lsvd-fuse")?;
        Ok(Some(client))
    }

    /// Who answers.
    pub(crate) fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// Asks and waits for the answer. Once `progress` returns false the daemon is asked to leave off,
    /// and answers with what there is; nothing more can be asked then.
    pub(crate) fn ask(
        &mut self,
        request: &Request,
        mut progress: impl FnMut(Response) -> bool,
    ) -> Result<Value> {
        send(&mut self.requests, request).context("the daemon does not listen any more")?;
        loop {
            match receive(&mut self.responses, RESPONSE_BYTES_MAX).context("the daemon's answer")? {
                Some(
                    still @ (Response::Progress { .. }
                    | Response::Collecting(_)
                    | Response::Flattening { .. }
                    | Response::Checking(_)),
                ) => {
                    if !progress(still) {
                        // The daemon sees that nobody will ask for more, and may have ended by itself.
                        let _ = self.requests.shutdown(Shutdown::Write);
                    }
                }
                Some(Response::Done(value)) => return Ok(value),
                Some(Response::Failed { message, usage: true }) => return Err(usage(message)),
                Some(Response::Failed { message, usage: false }) => return Err(anyhow!(message)),
                None => {
                    let ended = "the daemon ended before it had answered; its log tells why";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, ended).into());
                }
            }
        }
    }
}

/// A socket without a listener was left by a daemon that is gone; the next one removes it.
fn dial(socket: &Path) -> io::Result<Option<UnixStream>> {
    let connected = short_path(socket).and_then(|(_directory, short)| UnixStream::connect(short));
    match connected {
        Ok(stream) => Ok(Some(stream)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            Ok(None)
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the other end was there and went away.
pub(crate) fn is_hung_up(error: &anyhow::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    let kind_of = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().map(io::Error::kind)
    };
    let mut kinds = error.chain().filter_map(kind_of);
    kinds.any(|kind| matches!(kind, BrokenPipe | ConnectionReset | UnexpectedEof))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_daemon_that_is_taken_down_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control.sock");
        assert!(Client::connect(&socket).unwrap().is_none(), "none was ever there");
        let listener = UnixListener::bind(&socket).unwrap();
        let daemon = std::thread::spawn(move || {
            // It hangs up on two, and is gone then.
            (0..2).for_each(|_| drop(listener.accept().unwrap()));
        });
        assert!(Client::connect(&socket).unwrap().is_none());
        daemon.join().unwrap();
    }
}
