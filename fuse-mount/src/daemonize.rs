//! Into the background, with a word to the waiting parent once the mount answers.
//!
//! ```text
//!   parent ── fork ──────────── read pipe ── "ready": exit 0 | error: print it, exit code
//!      child: setsid, stdio ─┬─ open, mount ─ write pipe ── serve …
//!                            └─ stderr is the log file from here on
//! ```
//! The fork must come before the first thread: a forked child has only the thread that forked.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use rustix::pipe::{PipeFlags, pipe_with};
use serde::{Deserialize, Serialize};

use crate::exit::{self, usage};

/// Longest message through the pipe.
const MESSAGE_BYTES_MAX: u64 = 64 << 10;

/// What the child has to say.
#[derive(Serialize, Deserialize)]
enum Message {
    Ready,
    Failed { line: String, usage: bool },
}

/// Which of the two processes this is.
pub(crate) enum Side {
    Parent(Waiting),
    Child(Reporter),
}

/// The parent's end.
pub(crate) struct Waiting {
    pipe: OwnedFd,
    log: PathBuf,
}

/// The child's end. Without a pipe (in the foreground) reports go nowhere.
pub(crate) struct Reporter {
    pipe: Option<OwnedFd>,
}

/// Splits in two. The child comes back with its stderr going to `log`.
pub(crate) fn split(log: &Path) -> Result<Side> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(log)
        .with_context(|| format!("cannot open the log {}", log.display()))?;
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).context("cannot make a pipe")?;
    // SAFETY: no thread was started yet, so the child may do whatever the parent may.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()).context("cannot fork"),
        0 => {
            drop(read);
            detach(&file).context("cannot leave the terminal")?;
            Ok(Side::Child(Reporter { pipe: Some(write) }))
        }
        _ => {
            drop(write);
            Ok(Side::Parent(Waiting { pipe: read, log: log.to_owned() }))
        }
    }
}

fn detach(log: &File) -> io::Result<()> {
    rustix::process::setsid()?;
    rustix::process::chdir("/")?;
    let null = File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(log)?;
    rustix::stdio::dup2_stderr(log)?;
    Ok(())
}

impl Waiting {
    /// Waits until the child is ready or has failed.
    pub(crate) fn wait(self) -> Result<()> {
        let mut bytes = Vec::new();
        File::from(self.pipe)
            .take(MESSAGE_BYTES_MAX)
            .read_to_end(&mut bytes)
            .context("cannot hear from the daemon")?;
        match serde_json::from_slice(&bytes) {
            Ok(Message::Ready) => Ok(()),
            Ok(Message::Failed { line, usage: true }) => Err(usage(line)),
            Ok(Message::Failed { line, usage: false }) => Err(anyhow!(line)),
            Err(_) => {
                Err(anyhow!("the daemon ended while starting; its log is {}", self.log.display()))
            }
        }
    }
}

impl Reporter {
    /// For a daemon in the foreground.
    pub(crate) fn nobody() -> Self {
        Self { pipe: None }
    }

    /// The mount answers.
    pub(crate) fn ready(&mut self) {
        self.send(&Message::Ready);
    }

    /// It cannot be; the parent prints why.
    pub(crate) fn failed(&mut self, error: &anyhow::Error) {
        self.send(&Message::Failed {
            line: exit::one_line(error),
            usage: exit::code_of(error) == exit::USAGE,
        });
    }

    fn send(&mut self, message: &Message) {
        let Some(pipe) = self.pipe.take() else { return };
        let sent = serde_json::to_vec(message)
            .map_err(io::Error::from)
            .and_then(|bytes| File::from(pipe).write_all(&bytes));
        if let Err(error) = sent {
            log::debug!("the parent is gone: {error}");
        }
    }
}
