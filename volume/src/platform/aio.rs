//! One write at a time that goes on while its thread does something else: the kernel's `io_submit`,
//! by which a direct write is given to the device within the call, and whose end any thread may wait
//! for. A write that is not direct ends within the call.

use std::ffi::{c_long, c_ulong};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use libc::{SYS_io_destroy, SYS_io_getevents, SYS_io_setup, SYS_io_submit, syscall};
use parking_lot::Mutex;

/// `IOCB_CMD_PWRITE`.
const WRITE: u16 = 1;
/// How many writes at once.
const ONE: c_long = 1;

/// The kernel's `struct iocb`, which libc does not have for every target.
#[repr(C)]
#[derive(Default)]
struct Request {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    fd: u32,
    address: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    eventfd: u32,
}

/// The kernel's `struct io_event`.
#[repr(C)]
#[derive(Default)]
struct Event {
    data: u64,
    request: u64,
    result: i64,
    more: i64,
}

/// A context of the kernel.
#[derive(Debug)]
pub(super) struct Aio {
    context: c_ulong,
    /// Length of the write under way, which its end is compared with.
    under_way: Mutex<Option<usize>>,
}

impl Aio {
    /// A context; `None` where the kernel gives none.
    pub(super) fn open() -> Option<Self> {
        let mut context: c_ulong = 0;
        // SAFETY: the kernel writes the context's number to `context`, and nothing else.
        let made = unsafe { syscall(SYS_io_setup, ONE, &raw mut context) };
        (made == 0).then(|| Self { context, under_way: Mutex::new(None) })
    }

    /// Begins to write `data`; `false` if one is under way or the kernel takes none now.
    pub(super) fn begin(&self, file: &File, offset: u64, data: &[u8]) -> bool {
        let mut under_way = self.under_way.lock();
        let (Ok(offset), None) = (i64::try_from(offset), *under_way) else { return false };
        let mut request = Request {
            opcode: WRITE,
            fd: file.as_raw_fd().cast_unsigned(),
            address: data.as_ptr() as u64,
            bytes: data.len() as u64,
            offset,
            ..Request::default()
        };
        let requests = [&raw mut request];
        // SAFETY: within the call the kernel uses the request and either copies `data` or pins its
        // pages; it knows neither address afterwards.
        let taken = unsafe { syscall(SYS_io_submit, self.context, ONE, requests.as_ptr()) };
        if taken == 1 {
            *under_way = Some(data.len());
        }
        taken == 1
    }

    /// Waits for the write under way, if there is one; whether it is written, or has to be written
    /// again.
    pub(super) fn finish(&self) -> io::Result<bool> {
        let mut under_way = self.under_way.lock();
        let Some(bytes) = *under_way else { return Ok(true) };
        let mut event = Event::default();
        let forever = std::ptr::null::<libc::timespec>();
        loop {
            // SAFETY: the kernel writes one event to `event`.
            let got = unsafe {
                syscall(SYS_io_getevents, self.context, ONE, ONE, &raw mut event, forever)
            };
            let error = match got {
                ONE => break,
                -1 => io::Error::last_os_error(),
                _ => continue,
            };
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        *under_way = None;
        match usize::try_from(event.result) {
            Ok(written) => Ok(written == bytes),
            Err(_) => match io::Error::from_raw_os_error((-event.result) as i32) {
                error if error.kind() == io::ErrorKind::Interrupted => Ok(false),
                error => Err(error),
            },
        }
    }
}

impl Drop for Aio {
    fn drop(&mut self) {
        // SAFETY: the context is this one's own. The kernel waits for what is under way.
        unsafe { syscall(SYS_io_destroy, self.context) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

    use super::*;

    #[test]
    fn what_was_begun_is_written_when_it_is_finished() {
        let file = tempfile::tempfile().unwrap();
        let aio = Aio::open().unwrap();
        assert!(aio.finish().unwrap(), "nothing is under way");
        for round in 0..3 {
            assert!(aio.begin(&file, round * 4, &[round as u8; 4]));
            assert!(!aio.begin(&file, 100, b"one at a time"));
            assert!(aio.finish().unwrap());
        }
        let mut found = [9; 12];
        assert_eq!(file.metadata().unwrap().len(), 12);
        file.read_exact_at(&mut found, 0).unwrap();
        assert_eq!(found, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]);
    }

    fn sealed(bytes: u64, seals: SealFlags) -> File {
        let fd = memfd_create("sealed", MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&fd, bytes).unwrap();
        fcntl_add_seals(&fd, seals).unwrap();
        File::from(fd)
    }

    #[test]
    fn a_write_that_fails_or_ends_early_is_told() {
        let aio = Aio::open().unwrap();
        assert!(aio.begin(&sealed(8192, SealFlags::WRITE), 0, &[1; 4096]));
        assert_eq!(aio.finish().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert!(aio.begin(&sealed(8192, SealFlags::GROW), 4096, &[1; 8192]));
        assert!(!aio.finish().unwrap(), "half of it");
        assert!(!aio.begin(&File::open("/dev/null").unwrap(), 0, b"not to be written to"));
        assert!(aio.finish().unwrap());
    }
}
