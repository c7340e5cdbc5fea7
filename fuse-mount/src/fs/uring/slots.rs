//! The memory of a queue's entries: a header and a payload each.
//!
//! ```text
//!   0          header 0 │ header 1 │ …      each 320 bytes: 288 and to the end of a cache line
//!   page-wise  payload 0 │ payload 1 │ …    each as large as the largest request or answer, and a page
//! ```
//! The free page after each payload keeps what all requests use, the first page, from lying a power of
//! two apart: a processor has room for few translations of such addresses.
//!
//! It is one anonymous mapping. A page costs memory from the first request that touches it, and the
//! kernel takes the entry that was given back last, so only as many payloads are ever touched as
//! requests were in flight at once.

use std::ffi::c_void;
use std::io;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use super::abi::HEADER_BYTES;

const HEADER_STRIDE: usize = HEADER_BYTES.next_multiple_of(64);

/// The right to one entry's memory: it comes with a request and goes back with the answer.
#[derive(Debug)]
pub(super) struct Lease(u16);

impl Lease {
    /// The entry's number.
    pub(super) fn slot(&self) -> u16 {
        self.0
    }
}

/// The mapping.
pub(super) struct Slots {
    base: NonNull<u8>,
    bytes: usize,
    payloads_at: usize,
    payload_stride: usize,
    payload_bytes: usize,
    count: u16,
}

// SAFETY: the mapping belongs to no thread; who holds an entry's lease has that entry for itself.
unsafe impl Send for Slots {}
// SAFETY: as above.
unsafe impl Sync for Slots {}

impl Slots {
    /// Maps memory for `count` entries.
    pub(super) fn new(count: u16, payload_bytes: usize) -> io::Result<Self> {
        let page = rustix::param::page_size();
        let payload_bytes = payload_bytes.next_multiple_of(page);
        let payloads_at = (usize::from(count) * HEADER_STRIDE).next_multiple_of(page);
        let payload_stride = payload_bytes + page;
        let bytes = payloads_at + usize::from(count) * payload_stride;
        let (access, flags) =
            (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: without an address given, no mapping that is there already is touched.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, access, flags) }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, bytes, payloads_at, payload_stride, payload_bytes, count })
    }

    /// How many entries there are.
    pub(super) fn count(&self) -> u16 {
        self.count
    }

    /// Where the kernel finds an entry's header and payload.
    pub(super) fn iovecs(&self, slot: u16) -> Option<[libc::iovec; 2]> {
        if slot >= self.count {
            return None;
        }
        let part =
            |base: *mut u8, len| libc::iovec { iov_base: base.cast::<c_void>(), iov_len: len };
        Some([
            part(self.header_at(slot), HEADER_BYTES),
            part(self.payload_at(slot), self.payload_bytes),
        ])
    }

    /// Takes an entry into possession.
    ///
    /// # Safety
    /// The kernel has just handed the entry over, and nobody else holds its lease.
    pub(super) unsafe fn lease(&self, slot: u16) -> Option<Lease> {
        (slot < self.count).then_some(Lease(slot))
    }

    /// The header.
    pub(super) fn header(&self, lease: &Lease) -> [u8; HEADER_BYTES] {
        // SAFETY: a lease is only made for an entry within the mapping, and the kernel does not
        // write to it while it is held.
        unsafe { self.header_at(lease.0).cast::<[u8; HEADER_BYTES]>().read() }
    }

    /// Changes the header.
    pub(super) fn change_header(
        &self,
        lease: &mut Lease,
        change: impl FnOnce(&mut [u8; HEADER_BYTES]),
    ) {
        let place = self.header_at(lease.0).cast::<[u8; HEADER_BYTES]>();
        // SAFETY: as in `header`; who holds the lease alone may write.
        change(unsafe { &mut *place });
    }

    /// The payload that came with a request; cut to what an entry holds.
    ///
    /// # Safety
    /// While the slice is used, the lease is neither given back nor used to write a payload.
    pub(super) unsafe fn request_payload(&self, lease: &Lease, len: usize) -> &[u8] {
        // SAFETY: within the mapping, and not written to meanwhile, as the caller vouches.
        unsafe { std::slice::from_raw_parts(self.payload_at(lease.0), len.min(self.payload_bytes)) }
    }

    /// The payload, to be written.
    ///
    /// # Safety
    /// No slice of [`Slots::request_payload`] is used any more.
    pub(super) unsafe fn answer_payload<'a>(&'a self, lease: &'a mut Lease) -> &'a mut [u8] {
        // SAFETY: within the mapping; the lease makes it the only access, as the caller vouches.
        unsafe { std::slice::from_raw_parts_mut(self.payload_at(lease.0), self.payload_bytes) }
    }

    fn header_at(&self, slot: u16) -> *mut u8 {
        self.at(usize::from(slot) * HEADER_STRIDE)
    }

    fn payload_at(&self, slot: u16) -> *mut u8 {
        self.at(self.payloads_at + usize::from(slot) * self.payload_stride)
    }

    fn at(&self, offset: usize) -> *mut u8 {
        self.base.as_ptr().wrapping_add(offset)
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's own; leases hold the queue, and so the mapping, alive.
        if let Err(error) = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) } {
            log::debug!("unmapping the memory of a ring: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_memory_of_their_own() {
        let slots = Slots::new(3, 5000).unwrap();
        // SAFETY: no kernel knows of these entries, and each lease is made once.
        let mut leases: Vec<Lease> =
            (0..3).map(|slot| unsafe { slots.lease(slot) }.unwrap()).collect();
        for (lease, byte) in leases.iter_mut().zip(1..) {
            slots.change_header(lease, |header| header.fill(byte));
            // SAFETY: nobody reads a payload.
            unsafe { slots.answer_payload(lease) }.fill(byte);
        }
        for (lease, byte) in leases.iter().zip(1..) {
            assert_eq!(slots.header(lease), [byte; HEADER_BYTES]);
            // SAFETY: nobody writes any more.
            let payload = unsafe { slots.request_payload(lease, usize::MAX) };
            assert!(payload.len() >= 5000 && payload.iter().all(|found| *found == byte));
        }
        let first_pages: Vec<_> = (0..3).map(|slot| slots.payload_at(slot) as usize).collect();
        assert!(first_pages.windows(2).all(|pair| !(pair[1] - pair[0]).is_power_of_two()));
        assert!(slots.iovecs(3).is_none());
        // SAFETY: there is no such entry.
        assert!(unsafe { slots.lease(3) }.is_none());
    }
}
