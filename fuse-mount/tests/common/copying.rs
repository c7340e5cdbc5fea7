//! copy_file_range(2) on a mount, and a trial of it that holds for every transport.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

use super::rng::Rng;
use super::{Lab, MIB, Mount, make_volume, scale};

const SIZE: u64 = 5 * MIB;

pub fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

/// One call; the error is the errno.
pub fn copy_once(from: (&File, u64), to: (&File, u64), len: u64) -> Result<u64, i32> {
    let (mut from_at, mut to_at) = (from.1, to.1);
    let len = usize::try_from(len).unwrap();
    rustix::fs::copy_file_range(from.0, Some(&mut from_at), to.0, Some(&mut to_at), len)
        .map(|copied| copied as u64)
        .map_err(rustix::io::Errno::raw_os_error)
}

/// Until all is copied or the source ends; returns how much was copied.
pub fn copy(from: (&File, u64), to: (&File, u64), len: u64) -> Result<u64, i32> {
    let mut copied = 0;
    while copied < len {
        match copy_once((from.0, from.1 + copied), (to.0, to.1 + copied), len - copied)? {
            0 => break,
            more => copied += more,
        }
    }
    Ok(copied)
}

/// Frees a range.
pub fn punch(file: &File, offset: u64, len: u64) {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(file, flags, offset, len).unwrap();
}

/// Copies at random within and between two volumes, and from a snapshot, beside writes and holes:
/// the files hold what arrays hold to which the same is done.
pub fn copies_hold_what_a_model_holds(lab: &Lab, mount: &Mount, rng: &mut Rng) {
    let files = ["a.img", "b.img"].map(|name| open(&make_volume(mount, name, SIZE)));
    let mut models = [vec![0; SIZE as usize], vec![0; SIZE as usize]];
    for _ in 0..20 {
        change(&files[0], &mut models[0], rng);
    }
    lab.ok(&["snapshot", "create", "a.img@then"]);
    let then = File::open(mount.path().join(".snapshots/a.img/then")).unwrap();
    let then_model = models[0].clone();
    assert_eq!(copy((&files[0], 0), (&files[0], 512), 4096), Err(libc::EINVAL), "an overlap");
    let mut copied = 0;
    for _ in 0..150 * scale() {
        let target = rng.below(2) as usize;
        if rng.below(3) == 0 {
            change(&files[target], &mut models[target], rng);
            continue;
        }
        let source = rng.below(3) as usize;
        let (file, model) =
            if source == 2 { (&then, &then_model) } else { (&files[source], &models[source]) };
        let (from, len) = range(rng, model.len() as u64);
        let (to, _) = range(rng, models[target].len() as u64 + 10_000);
        // The kernel copies no further than where it last saw the file end.
        assert_eq!(file.metadata().unwrap().len(), model.len() as u64);
        let outcome = copy((file, from), (&files[target], to), len);
        if source == target && from < to + len && to < from + len {
            assert_eq!(outcome, Err(libc::EINVAL), "{len} bytes from {from} to {to} overlap");
            continue;
        }
        assert_eq!(outcome, Ok(len), "{len} bytes from {source}:{from} to {target}:{to}");
        let bytes = model[from as usize..(from + len) as usize].to_vec();
        let model = &mut models[target];
        let end = ((to + len) as usize).next_multiple_of(4096).max(model.len());
        model.resize(end, 0);
        model[to as usize..][..bytes.len()].copy_from_slice(&bytes);
        copied += 1;
    }
    assert!(copied > 50, "{copied} copies");
    for (file, model) in files.iter().zip(&models).chain([(&then, &then_model)]) {
        let mut found = vec![0; model.len()];
        file.read_exact_at(&mut found, 0).unwrap();
        assert!(found == *model);
        assert_eq!(file.read_at(&mut [0], model.len() as u64).unwrap(), 0);
    }
}

/// Writes something or punches a hole.
fn change(file: &File, model: &mut [u8], rng: &mut Rng) {
    let (offset, len) = range(rng, model.len() as u64);
    let part = &mut model[offset as usize..(offset + len) as usize];
    if rng.below(3) == 0 {
        part.fill(0);
        return punch(file, offset, len);
    }
    rng.fill(part);
    file.write_all_at(part, offset).unwrap();
}

/// A range below `end`, at whole sectors or anywhere; some are longer than a piece of a copy.
fn range(rng: &mut Rng, end: u64) -> (u64, u64) {
    let offset = rng.below(end - 1);
    let longest = [20_000, 20_000, 3 * MIB][rng.below(3) as usize];
    let len = 1 + rng.below(longest.min(end - offset));
    if rng.below(2) == 0 {
        return (offset, len);
    }
    (offset & !511, len.next_multiple_of(512).min(end - (offset & !511)))
}
