//! Which process owns which half-written file, and who cleans up after the dead.
//!
//! A session is a number with a file `<n>.live` that its process keeps locked; the kernel drops
//! the lock when the process dies, however it dies. All files it writes are called `<n>.<k>`.
//!
//! Sessions begin one at a time, under the lock `gate`. The beginner tries the lock of every
//! `.live` file: what it gets belongs to the dead. It removes the files of all sessions that
//! are not alive, their `.live` files last, and takes the first number that is free. So a
//! session is never taken for dead between making its `.live` file and locking it, and a
//! number is used again only when nothing of its former owner is left.

use std::collections::HashSet;
use std::fs::File;
use std::io::IoSlice;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fd::OwnedFd;
use rustix::io::Errno;

use super::PRIVATE_DIR;
use super::content::ContentWriter;
use super::root::{Lock, Root};
use super::step_error::StepError;

const GATE: &str = "gate";
const LIVE: &str = "live";

/// The right to write files in the private directory.
#[derive(Debug)]
pub(super) struct Session {
    number: u64,
    /// Held for life, never used.
    _live: OwnedFd,
    files_made: AtomicU64,
    content: ContentWriter,
}

impl Session {
    /// Cleans up after the dead and begins a session.
    pub(super) fn start(root: &Root) -> Result<Self, StepError> {
        root.make_dir(PRIVATE_DIR)?;
        let _gate = root.lock(&private(GATE), Lock::Exclusive)?;
        let alive = clean_up(root)?;
        let mut number = 0;
        while alive.contains(&number) {
            number += 1;
        }
        let live_name = private(&format!("{number}.{LIVE}"));
        let live = root.lock(&live_name, Lock::Exclusive)?;
        let (files_made, content) = (AtomicU64::new(0), ContentWriter::default());
        Ok(Self { number, _live: live, files_made, content })
    }

    /// Takes the session's own name away; nothing may be written through it any more.
    pub(super) fn end(&self, root: &Root) {
        // What stays is cleaned up by the next opening.
        let _ = root.remove(&private(&format!("{}.{LIVE}", self.number)));
    }

    /// Creates a file with the concatenation of `parts`, not yet durable.
    pub(super) fn write_file(
        &self,
        root: &Root,
        parts: &[IoSlice<'_>],
    ) -> Result<TempFile, StepError> {
        let file_number = self.files_made.fetch_add(1, Ordering::Relaxed);
        let name = private(&format!("{}.{file_number}", self.number));
        let mut file = root.create_file(&name)?;
        if let Err(error) = self.content.write(&mut file, parts) {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            let _ = root.remove(&name);
            return Err(StepError::new("write", root.full(&name), errno));
        }
        Ok(TempFile { name, file })
    }
}

/// A file that is being written. Whoever holds it renames or removes it.
pub(super) struct TempFile {
    pub(super) name: String,
    pub(super) file: File,
}

/// The name of `file` in the private directory.
pub(super) fn private(file: &str) -> String {
    format!("{PRIVATE_DIR}/{file}")
}

/// Removes what belongs to no living session; returns the living ones.
fn clean_up(root: &Root) -> Result<HashSet<u64>, StepError> {
    let mut names = Vec::new();
    root.each_entry(PRIVATE_DIR, |entry| names.push(entry.name))?;
    let session_of = |name: &str| -> Option<(u64, bool)> {
        let (session, what) = name.split_once('.')?;
        let is_live = what == LIVE;
        if !is_live {
            what.parse::<u64>().ok()?;
        }
        Some((session.parse().ok()?, is_live))
    };
    let mut alive = HashSet::new();
    for name in &names {
        if let Some((session, true)) = session_of(name)
            && root.try_lock(&private(name))?.is_none()
        {
            alive.insert(session);
        }
    }
    for live_files in [false, true] {
        for name in &names {
            if let Some((session, is_live)) = session_of(name)
                && is_live == live_files
                && !alive.contains(&session)
            {
                log::debug!("removing {name}, left behind by a dead process");
                root.remove(&private(name))?;
            }
        }
    }
    Ok(alive)
}
