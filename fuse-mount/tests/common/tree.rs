//! A real source tree, within bounds: this project, then whatever else the machine has.

use std::fs;
use std::path::{Path, PathBuf};

use super::tool;

/// Most bytes of a tree.
const BYTES_MAX: u64 = 48 << 20;
/// Most files of a tree: many small ones take longer than their bytes say.
const FILES_MAX: usize = 6000;

/// A tree of regular files, and a tar archive of it.
pub struct Tree {
    dir: PathBuf,
    archive: PathBuf,
}

impl Tree {
    /// Gathers sources below `dir`.
    pub fn gather(dir: &Path) -> Self {
        let tree = Self { dir: dir.join("tree"), archive: dir.join("tree.tar") };
        let mut room = Room { bytes: BYTES_MAX, files: FILES_MAX };
        let project = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        room.copy(project, &tree.dir.join("project"));
        room.copy(Path::new("/usr/include"), &tree.dir.join("include"));
        if let Some(registry) = registry_sources() {
            room.copy(&registry, &tree.dir.join("crates"));
        }
        let (archive, parent) = (tree.archive.to_str().unwrap(), dir.to_str().unwrap());
        tool("tar", &["-C", parent, "-cf", archive, "tree"]);
        println!(
            "source tree: {} files, {} MiB",
            FILES_MAX - room.files,
            (BYTES_MAX - room.bytes) >> 20
        );
        tree
    }

    /// Unpacks the tree into `target`.
    pub fn unpack(&self, target: &Path) {
        fs::create_dir_all(target).unwrap();
        let archive = self.archive.to_str().unwrap();
        tool("tar", &["-C", target.to_str().unwrap(), "-xf", archive]);
    }

    /// Fails unless `target` holds what was unpacked there.
    pub fn compare(&self, target: &Path) {
        let there = target.join("tree");
        tool("diff", &["-r", "-q", self.dir.to_str().unwrap(), there.to_str().unwrap()]);
    }
}

fn registry_sources() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))?;
    Some(home.join("registry/src")).filter(|dir| dir.is_dir())
}

/// What may still be copied.
struct Room {
    bytes: u64,
    files: usize,
}

impl Room {
    /// Copies regular files, in order of name, as far as there is room.
    fn copy(&mut self, from: &Path, to: &Path) {
        let Ok(entries) = fs::read_dir(from) else { return };
        let mut entries: Vec<_> = entries.map(Result::unwrap).collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (source, target) = (entry.path(), to.join(entry.file_name()));
            let kind = entry.file_type().unwrap();
            let name = entry.file_name();
            if kind.is_dir() && name != "target" && name != ".git" {
                self.copy(&source, &target);
            } else if kind.is_file() {
                let bytes = entry.metadata().map_or(u64::MAX, |meta| meta.len());
                if self.files == 0 || bytes > self.bytes {
                    continue;
                }
                fs::create_dir_all(to).unwrap();
                // What cannot be read, or is removed meanwhile, is no part of the tree.
                if fs::copy(&source, &target).is_ok() {
                    self.files -= 1;
                    self.bytes -= bytes;
                }
            }
        }
    }
}
