//! One write at a time that goes on while its thread does something else: the kernel's `io_submit`.
//!
//! It is older than io_uring, and better for this: a direct write is given to the device within the
//! call, by no other thread, and any thread may wait for its end.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use libc::{SYS_io_destroy, SYS_io_getevents, SYS_io_setup, SYS_io_submit, syscall};
use parking_lot::Mutex;

/// `IOCB_CMD_PWRITE`.
const WRITE: u16 = 1;

/// The kernel's `struct iocb`.
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
    context: libc::c_ulong,
    /// Length of the write under way.
    under_way: Mutex<Option<usize>>,
}

impl Aio {
    /// A context; `None` where the kernel gives none.
    pub(super) fn open() -> Option<Self> {
        let mut context: libc::c_ulong = 0;
        // SAFETY: the kernel writes the context's number to `context`, and nothing else.
        let made = unsafe { syscall(SYS_io_setup, 1, &raw mut context) };
        (made == 0).then(|| Self { context, under_way: Mutex::new(None) })
    }

    /// Begins to write `data`; `false` if one is under way or the kernel takes none now.
    pub(super) fn begin(&self, file: &File, offset: u64, data: &[u8]) -> bool {
        let mut under_way = self.under_way.lock();
        let (Ok(offset), None) = (i64::try_from(offset), *under_way) else { return false };
        let request = Request {
            opcode: WRITE,
            fd: file.as_raw_fd().cast_unsigned(),
            address: data.as_ptr() as u64,
            bytes: data.len() as u64,
            offset,
            ..Request::default()
        };
        let requests = [&raw const request];
        // SAFETY: the kernel reads the request within the call, and pins the pages of `data` in it.
        let taken = unsafe { syscall(SYS_io_submit, self.context, 1, requests.as_ptr()) };
        if taken == 1 {
            *under_way = Some(data.len());
        }
        taken == 1
    }

    /// Waits for the write under way, if there is one.
    pub(super) fn finish(&self) -> io::Result<()> {
        let mut under_way = self.under_way.lock();
        let Some(bytes) = *under_way else { return Ok(()) };
        let mut event = Event::default();
        loop {
            let forever = std::ptr::null::<libc::timespec>();
            // SAFETY: the kernel writes one event to `event`.
            let got =
                unsafe { syscall(SYS_io_getevents, self.context, 1, 1, &raw mut event, forever) };
            match got {
                1 => break,
                _ => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return Err(error),
                },
            }
        }
        *under_way = None;
        match usize::try_from(event.result) {
            Ok(written) if written == bytes => Ok(()),
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
            Err(_) => Err(io::Error::from_raw_os_error((-event.result) as i32)),
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

    use super::*;

    #[test]
    fn what_was_begun_is_written_when_it_is_finished() {
        let file = tempfile::tempfile().unwrap();
        let aio = Aio::open().unwrap();
        aio.finish().unwrap();
        for round in 0..3 {
            assert!(aio.begin(&file, round * 4, &[round as u8; 4]));
            assert!(!aio.begin(&file, 100, b"one at a time"));
            aio.finish().unwrap();
        }
        let mut found = [9; 12];
        assert_eq!(file.metadata().unwrap().len(), 12);
        file.read_exact_at(&mut found, 0).unwrap();
        assert_eq!(found, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]);
    }

    #[test]
    fn a_write_that_fails_is_told() {
        let file = File::options().write(true).open("/dev/full").unwrap();
        let aio = Aio::open().unwrap();
        if aio.begin(&file, 0, b"x") {
            assert_eq!(aio.finish().unwrap_err().raw_os_error(), Some(libc::ENOSPC));
        }
        let read_only = File::open("/dev/null").unwrap();
        assert!(!aio.begin(&read_only, 0, b"x"));
        aio.finish().unwrap();
    }
}
