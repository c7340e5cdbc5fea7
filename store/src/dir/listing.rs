//! Listing in the order of whole keys.
//!
//! The order of keys is not the order of a walk by names: `a-b` comes before `a/b`, although
//! `a` comes before `a-b`. Within one directory it is right to compare files by their key and
//! directories by their key **with a slash at the end**: no such text is the beginning of
//! another, so everything below a directory sorts where the directory does.
//!
//! A page of n objects out of a directory of a million reads its names, but keeps only the n
//! smallest that may count and asks for the sizes of no others.

use std::collections::BinaryHeap;

use rustix::io::Errno;

use super::is_private;
use super::root::Root;
use super::step_error::StepError;
use crate::{Key, ListPage, ObjectMeta};

/// See [`crate::ObjectStore::list`].
pub(super) fn list(
    root: &Root,
    prefix: &str,
    after: Option<&Key>,
    limit: usize,
) -> Result<ListPage, StepError> {
    let limit = limit.max(1);
    let mut walk = Walk {
        root,
        prefix,
        after: after.map_or("", Key::as_str),
        // One more shows whether there are more.
        wanted: limit.saturating_add(1),
        found: Vec::new(),
    };
    match prefix.rsplit_once('/') {
        None => walk.visit_dir("")?,
        // Nothing can begin with what is no key; and it must not lead out of the store.
        Some((dir, _)) if Key::new(dir).is_err() || is_private(dir) => {}
        Some((dir, _)) => walk.visit_dir(&format!("{dir}/"))?,
    }
    let mut objects = walk.found;
    let truncated = objects.len() > limit;
    objects.truncate(limit);
    Ok(ListPage { objects, truncated })
}

struct Walk<'a> {
    root: &'a Root,
    prefix: &'a str,
    /// Only greater keys count; every key is greater than the empty one.
    after: &'a str,
    wanted: usize,
    found: Vec<ObjectMeta>,
}

impl Walk<'_> {
    /// Collects objects below `dir`, which is empty (the root) or ends with a slash.
    fn visit_dir(&mut self, dir: &str) -> Result<(), StepError> {
        let mut done_to = String::new();
        loop {
            let (entries, cut_off) = self.next_entries(dir, &done_to)?;
            for entry in &entries {
                if self.found.len() >= self.wanted {
                    return Ok(());
                }
                if entry.ends_with('/') {
                    self.visit_dir(entry)?;
                } else {
                    self.visit_file(entry)?;
                }
            }
            // Directories may be empty and files may vanish, so one round need not fill the page.
            match entries.last() {
                Some(last) if cut_off => done_to.clone_from(last),
                _ => return Ok(()),
            }
        }
    }

    /// The smallest entries of `dir` beyond `done_to` that may count, no more than are wanted
    /// still, and whether there are others beyond these.
    fn next_entries(&self, dir: &str, done_to: &str) -> Result<(Vec<String>, bool), StepError> {
        let wanted = self.wanted - self.found.len();
        let mut smallest = BinaryHeap::new();
        let mut cut_off = false;
        self.root.each_entry(dir.trim_end_matches('/'), |entry| {
            let slash = if entry.is_dir { "/" } else { "" };
            let path = format!("{dir}{}{slash}", entry.name);
            if path.as_str() > done_to && self.may_count(&path) {
                smallest.push(path);
                if smallest.len() > wanted {
                    smallest.pop();
                    cut_off = true;
                }
            }
        })?;
        Ok((smallest.into_sorted_vec(), cut_off))
    }

    fn may_count(&self, path: &str) -> bool {
        let is_dir = path.ends_with('/');
        path.starts_with(self.prefix)
            && (path > self.after || (is_dir && self.after.starts_with(path)))
            && path.trim_end_matches('/').len() <= Key::BYTES_MAX
            && !is_private(path)
    }

    fn visit_file(&mut self, path: &str) -> Result<(), StepError> {
        let Ok(key) = Key::new(path) else {
            return Ok(());
        };
        match self.root.object_size(path) {
            Ok(size) => self.found.push(ObjectMeta { key, size }),
            Err(error) if error.errno() == Errno::NOENT => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
