//! Write operations and read operations; see [`cluster`](super) for what makes them sound.

use std::ffi::{CStr, c_char, c_int};
use std::ptr;

use ceph::rados;
use rustix::io::Errno;

use super::check;

/// Fails if the object exists (`LIBRADOS_CREATE_EXCLUSIVE`).
const CREATE_EXCLUSIVE: c_int = 1;
const EQUAL: u8 = rados::XattrFlags::LIBRADOS_CMPXATTR_OP_EQ.bits() as u8;

/// Several changes of one object that are made as one.
pub(in crate::rados) struct WriteOp(pub(super) rados::rados_write_op_t);

impl WriteOp {
    pub(in crate::rados) fn new() -> Self {
        // SAFETY: it takes nothing; it ends the process rather than return null.
        Self(unsafe { rados::rados_create_write_op() })
    }

    /// Makes the object; `EEXIST` if there is one.
    pub(in crate::rados) fn create_exclusive(self) -> Self {
        // SAFETY: the operation is live; there are no categories any more.
        unsafe { rados::rados_write_op_create(self.0, CREATE_EXCLUSIVE, ptr::null()) }
        self
    }

    /// `ENOENT` if there is no such object.
    pub(in crate::rados) fn assert_exists(self) -> Self {
        // SAFETY: the operation is live.
        unsafe { rados::rados_write_op_assert_exists(self.0) }
        self
    }

    /// Makes `content` all that the object holds.
    pub(in crate::rados) fn write_full(self, content: &[u8]) -> Self {
        // SAFETY: the operation is live, and the bytes are copied.
        unsafe {
            rados::rados_write_op_write_full(self.0, content.as_ptr().cast(), content.len());
        }
        self
    }

    pub(in crate::rados) fn set_xattr(self, name: &CStr, value: &[u8]) -> Self {
        let (bytes, len) = (value.as_ptr().cast(), value.len());
        // SAFETY: the operation is live, the name is a C string; name and value are copied.
        unsafe { rados::rados_write_op_setxattr(self.0, name.as_ptr(), bytes, len) }
        self
    }

    /// `ECANCELED` if the attribute is another.
    pub(in crate::rados) fn compare_xattr(self, name: &CStr, value: &[u8]) -> Self {
        let (bytes, len) = (value.as_ptr().cast(), value.len());
        // SAFETY: the operation is live, the name is a C string; name and value are copied.
        unsafe { rados::rados_write_op_cmpxattr(self.0, name.as_ptr(), EQUAL, bytes, len) }
        self
    }

    pub(in crate::rados) fn set_omap(self, key: &CStr, value: &[u8]) -> Self {
        let (keys, values, lens) = ([key.as_ptr()], [value.as_ptr().cast()], [value.len()]);
        // SAFETY: the operation is live; one C string, one pointer and its length, all copied.
        unsafe {
            rados::rados_write_op_omap_set(
                self.0,
                keys.as_ptr(),
                values.as_ptr(),
                lens.as_ptr(),
                keys.len(),
            );
        }
        self
    }

    /// `ECANCELED` if the omap's entry is another or missing.
    pub(in crate::rados) fn compare_omap(self, key: &CStr, value: &[u8]) -> Self {
        let (bytes, len) = (value.as_ptr().cast(), value.len());
        // SAFETY: the operation is live, the key is a C string; key and value are copied. Where the
        // result of this one step would go may be null.
        unsafe {
            rados::rados_write_op_omap_cmp(
                self.0,
                key.as_ptr(),
                EQUAL,
                bytes,
                len,
                ptr::null_mut(),
            );
        }
        self
    }

    pub(in crate::rados) fn remove_omap(self, key: &CStr) -> Self {
        let keys = [key.as_ptr()];
        // SAFETY: the operation is live; one C string, which is copied.
        unsafe { rados::rados_write_op_omap_rm_keys(self.0, keys.as_ptr(), keys.len()) }
        self
    }

    /// Removes the object.
    pub(in crate::rados) fn remove(self) -> Self {
        // SAFETY: the operation is live.
        unsafe { rados::rados_write_op_remove(self.0) }
        self
    }
}

impl Drop for WriteOp {
    fn drop(&mut self) {
        // SAFETY: it came from `rados_create_write_op` and is used no more.
        unsafe { rados::rados_release_write_op(self.0) }
    }
}

/// Several questions about one object that are answered as one.
pub(super) struct ReadOp(pub(super) rados::rados_read_op_t);

impl ReadOp {
    pub(super) fn new() -> Self {
        // SAFETY: it takes nothing; it ends the process rather than return null.
        Self(unsafe { rados::rados_create_read_op() })
    }

    /// Asks for all attributes. They are there once the operation was carried out.
    pub(super) fn xattrs(&self) -> XattrIter {
        let mut iter = ptr::null_mut();
        // SAFETY: the operation is live; `iter` takes a pointer before the call returns. Where the
        // result of this one step would go may be null: the whole then fails with it.
        unsafe { rados::rados_read_op_getxattrs(self.0, &mut iter, ptr::null_mut()) }
        XattrIter(iter)
    }
}

impl Drop for ReadOp {
    fn drop(&mut self) {
        // SAFETY: it came from `rados_create_read_op` and is used no more.
        unsafe { rados::rados_release_read_op(self.0) }
    }
}

/// Attributes that a read operation brings.
pub(super) struct XattrIter(rados::rados_xattrs_iter_t);

impl XattrIter {
    /// The attribute `wanted`. Only after the operation succeeded.
    pub(super) fn find(&self, wanted: &CStr) -> Result<Option<Vec<u8>>, Errno> {
        loop {
            let (mut name, mut value, mut len) = (ptr::null(), ptr::null(), 0);
            // SAFETY: the iterator is live and filled; the three places take two pointers and a
            // length.
            check(unsafe { rados::rados_getxattrs_next(self.0, &mut name, &mut value, &mut len) })?;
            if name.is_null() {
                return Ok(None);
            }
            // SAFETY: a C string that lives as long as the iterator.
            if unsafe { CStr::from_ptr(name) } == wanted {
                // SAFETY: `value` holds `len` bytes until the iterator goes on.
                return Ok(Some(unsafe { copied(value, len) }));
            }
        }
    }
}

impl Drop for XattrIter {
    fn drop(&mut self) {
        // SAFETY: it came from `rados_read_op_getxattrs` and is used no more.
        unsafe { rados::rados_getxattrs_end(self.0) }
    }
}

/// Omap entries that a read operation brings.
pub(super) struct OmapIter(pub(super) rados::rados_omap_iter_t);

impl OmapIter {
    /// Only after the operation succeeded: before, the iterator stands nowhere.
    pub(super) fn keys(&self) -> Result<Vec<Vec<u8>>, Errno> {
        let mut keys = Vec::new();
        loop {
            let (mut key, mut value, mut len) = (ptr::null_mut(), ptr::null_mut(), 0);
            // SAFETY: the iterator is live and filled; the three places take two pointers and a
            // length.
            check(unsafe { rados::rados_omap_get_next(self.0, &mut key, &mut value, &mut len) })?;
            if key.is_null() {
                return Ok(keys);
            }
            // SAFETY: a C string that lives as long as the iterator.
            keys.push(unsafe { CStr::from_ptr(key) }.to_bytes().to_vec());
        }
    }
}

impl Drop for OmapIter {
    fn drop(&mut self) {
        // SAFETY: it came from `rados_read_op_omap_get_vals` and is used no more.
        unsafe { rados::rados_omap_get_end(self.0) }
    }
}

/// Copies `len` bytes at `from`, which may be null if there are none.
///
/// # Safety
/// `from` must be valid for reads of `len` bytes.
unsafe fn copied(from: *const c_char, len: usize) -> Vec<u8> {
    if len == 0 {
        return Vec::new();
    }
    // SAFETY: as the caller promised.
    unsafe { std::slice::from_raw_parts(from.cast::<u8>(), len) }.to_vec()
}
