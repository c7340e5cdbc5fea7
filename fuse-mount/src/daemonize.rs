//! Into the background, with a word to the waiting parent once the mount answers.
//!
//! ```text
//!   parent ── fork ──────────── read pipe ── "ready": exit 0 | error: print it, exit code
//!      child: setsid, stdio ─┬─ open, mount ─ write pipe ── serve …
//!                            └─ stderr is the log file from here on
//! ```
//! The fork must come before the first thread: a forked child has only the thread that forked.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use serde::{Deserialize, Serialize};

use crate::exit::{self, usage};

/// Longest message through the pipe.
const MESSAGE_BYTES_MAX: u64 = 64 << 10;

/// What the child has to say.
#[derive(Serialize, Deserialize)]
enum Message {
    /// Not yet; a sentence why.
    Waiting(String),
    Ready,
    Failed {
        line: String,
        usage: bool,
    },
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
        let mut messages = BufReader::new(File::from(self.pipe).take(MESSAGE_BYTES_MAX));
        let mut next = || {
            let mut line = Vec::new();
            messages.read_until(b'\n', &mut line).context("cannot hear from the daemon")?;
            anyhow::Ok(line)
        };
        let mut line = next()?;
        while let Ok(Message::Waiting(reason)) = serde_json::from_slice(&line) {
            eprintln!("lsvd-fuse: {reason} (Ctrl-C ends this)");
            line = next()?;
        }
        match serde_json::from_slice(&line) {
            Ok(Message::Ready) => Ok(()),
            Ok(Message::Failed { line, usage: true }) => Err(usage(line)),
            Ok(Message::Failed { line, usage: false }) => Err(anyhow!(line)),
            Ok(Message::Waiting(_)) | Err(_) => {
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

    /// Not yet, and why; the parent prints it and goes on waiting.
    pub(crate) fn waiting(&mut self, reason: &str) {
        let Some(pipe) = &self.pipe else { return };
        let told =
            pipe.try_clone().and_then(|pipe| say(pipe, &Message::Waiting(reason.to_owned())));
        if let Err(error) = told {
            log::debug!("the parent is gone: {error}");
        }
    }

    /// Whether somebody still listens, if anybody ever did.
    pub(crate) fn is_heard(&self) -> bool {
        let Some(pipe) = &self.pipe else { return true };
        let mut ends = [PollFd::new(pipe, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let [end] = &mut ends;
        match poll(std::slice::from_mut(end), Some(&now)) {
            Ok(_) => !end.revents().contains(PollFlags::ERR),
            Err(_) => true,
        }
    }

    fn send(&mut self, message: &Message) {
        let Some(pipe) = self.pipe.take() else { return };
        let sent = say(pipe, message);
        if let Err(error) = sent {
            log::debug!("the parent is gone: {error}");
        }
    }
}

fn say(pipe: OwnedFd, message: &Message) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    File::from(pipe).write_all(&line)
}
