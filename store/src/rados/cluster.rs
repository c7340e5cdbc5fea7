//! The only place that calls librados: a connection here, write and read operations in [`op`].
//!
//! ```text
//!   Connection ── ioctx (pool, namespace)     destroyed first,
//!       └──────── Cluster (rados_t)           shut down after it
//!   WriteOp, ReadOp                           released at the end of their scope
//! ```
//! Of the `ceph` crate only the foreign functions are used; its own types may free a cluster that
//! is still in use. What makes this layer sound:
//! * the handles live in one [`Connection`], shared behind an `Arc`; the ioctx goes before the
//!   cluster;
//! * every operation is synchronous and borrows the connection, so none outlives it;
//! * namespace and locator are set before the connection is shared; the rest of the API may be
//!   called from several threads at once;
//! * librados copies what a write operation is given when it is given it. What a read operation is
//!   told to fill in lives until the operation was carried out; once that call returns, also by
//!   its time limit, nothing writes there any more.
//!
//! Names and values are bytes here; what they mean is other files' business.

mod op;

use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr;
use std::time::Duration;

use ceph::rados;
use rustix::io::Errno;

use super::failure::{Failure, Step};
use super::target::Target;
pub(super) use op::WriteOp;
use op::{OmapIter, ReadOp};

const NO_FLAGS: c_int = 0;

/// What librados returned: an error, or a count.
fn check(code: c_int) -> Result<usize, Errno> {
    match usize::try_from(code) {
        Ok(count) => Ok(count),
        // Ceph's own numbers beyond Linux's do not reach clients; whatever does is an I/O error.
        Err(_) if code < -4095 => Err(Errno::IO),
        Err(_) => Err(Errno::from_raw_os_error(-code)),
    }
}

/// A cluster handle, connected or not.
struct Cluster(rados::rados_t);

impl Cluster {
    fn new(target: &Target) -> Result<Self, Errno> {
        let mut handle = ptr::null_mut();
        let user = target.user.as_deref().map_or(ptr::null(), CStr::as_ptr);
        // SAFETY: `handle` takes one pointer; `user` is a C string or null (for `admin`).
        check(unsafe { rados::rados_create(&mut handle, user) })?;
        Ok(Self(handle))
    }

    fn set(&self, option: &CStr, value: &CStr) -> Result<(), Errno> {
        // SAFETY: the handle is live, both texts are C strings, which are copied.
        check(unsafe { rados::rados_conf_set(self.0, option.as_ptr(), value.as_ptr()) }).map(drop)
    }

    fn read_conf(&self, path: Option<&CStr>) -> Result<(), Errno> {
        let path = path.map_or(ptr::null(), CStr::as_ptr);
        // SAFETY: the handle is live; `path` is a C string or null (for the usual places).
        check(unsafe { rados::rados_conf_read_file(self.0, path) }).map(drop)
    }

    fn connect(&self) -> Result<(), Errno> {
        // SAFETY: the handle is live and was not connected before.
        check(unsafe { rados::rados_connect(self.0) }).map(drop)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // SAFETY: the handle came from `rados_create` and nothing uses it after this. librados
        // takes one that never got a connection, too.
        unsafe { rados::rados_shutdown(self.0) }
    }
}

/// A connection to one namespace of one pool.
pub(super) struct Connection {
    io: rados::rados_ioctx_t,
    /// Goes after `io`, which `Drop` destroys.
    cluster: Cluster,
    pool_id: i64,
}

// SAFETY: librados' handles belong to no thread.
unsafe impl Send for Connection {}
// SAFETY: librados' functions on cluster and ioctx may be called by several threads at once, but for
// those that set namespace, locator or snapshot, which are called before the value is shared.
unsafe impl Sync for Connection {}

impl Connection {
    /// Connects within about the time limits of `target`.
    pub(super) fn open(target: &Target) -> Result<Self, Failure> {
        let failed = |step: Step| move |errno| target.failed(step, errno);
        let cluster = Cluster::new(target).map_err(failed(Step::Configure))?;
        cluster.read_conf(target.conf.as_deref()).map_err(failed(Step::ReadConf))?;
        // After the file, so that they count, and before connecting: without them a dead cluster
        // blocks for ever.
        let timeouts = &target.timeouts;
        for (option, limit) in [
            (c"client_mount_timeout", timeouts.connect),
            (c"rados_mon_op_timeout", timeouts.connect),
            (c"rados_osd_op_timeout", timeouts.request),
        ] {
            cluster.set(option, &whole_seconds(limit)).map_err(failed(Step::Configure))?;
        }
        if let Some(keyring) = &target.keyring {
            cluster.set(c"keyring", keyring).map_err(failed(Step::Configure))?;
        }
        cluster.connect().map_err(failed(Step::Connect))?;

        let mut io = ptr::null_mut();
        // SAFETY: the cluster is connected, the name is a C string, `io` takes one pointer.
        let opened = unsafe { rados::rados_ioctx_create(cluster.0, target.pool.as_ptr(), &mut io) };
        check(opened).map_err(failed(Step::OpenPool))?;
        // SAFETY: the ioctx is live.
        let pool_id = unsafe { rados::rados_ioctx_get_id(io) };
        let connection = Self { io, cluster, pool_id };
        if let Some(namespace) = &target.namespace {
            // SAFETY: the ioctx is live and not shared yet; the name is a C string, which is copied.
            unsafe { rados::rados_ioctx_set_namespace(connection.io, namespace.as_ptr()) }
        }
        Ok(connection)
    }

    /// Whether the pool is still there. An object in a deleted pool merely seems not to exist.
    pub(super) fn has_pool(&self) -> bool {
        let mut name = [0u8; 1];
        let buffer = name.as_mut_ptr().cast::<c_char>();
        // SAFETY: the cluster is connected and `buffer` has the length that is told.
        let code = unsafe {
            rados::rados_pool_reverse_lookup(self.cluster.0, self.pool_id, buffer, name.len())
        };
        // A name that does not fit is a name.
        check(code) != Err(Errno::NOENT)
    }

    /// Carries out `op` on the object `name`: all of it or nothing.
    pub(super) fn write(&self, name: &CStr, op: &WriteOp) -> Result<(), Errno> {
        let no_time = ptr::null_mut();
        // SAFETY: the operation and the ioctx are live, the name is a C string; no time stands for
        // the present one.
        check(unsafe {
            rados::rados_write_op_operate(op.0, self.io, name.as_ptr(), no_time, NO_FLAGS)
        })
        .map(drop)
    }

    fn carry_out(&self, name: &CStr, op: &ReadOp) -> Result<(), Errno> {
        // SAFETY: the operation and the ioctx are live, the name is a C string; what the operation
        // fills in lives on in the caller's frame.
        check(unsafe { rados::rados_read_op_operate(op.0, self.io, name.as_ptr(), NO_FLAGS) })
            .map(drop)
    }

    /// The size of an object in bytes.
    pub(super) fn size(&self, name: &CStr) -> Result<u64, Errno> {
        let mut size = 0;
        // SAFETY: the ioctx is live, the name is a C string, `size` takes a u64; the time is not
        // asked for.
        check(unsafe { rados::rados_stat(self.io, name.as_ptr(), &mut size, ptr::null_mut()) })?;
        Ok(size)
    }

    /// An attribute of an object, of at most 256 bytes.
    pub(super) fn xattr(&self, name: &CStr, attribute: &CStr) -> Result<Vec<u8>, Errno> {
        let mut value = vec![0u8; 256];
        let buffer = value.as_mut_ptr().cast::<c_char>();
        let (name, attribute) = (name.as_ptr(), attribute.as_ptr());
        // SAFETY: the ioctx is live, both names are C strings, `buffer` has the length told.
        let len =
            check(unsafe { rados::rados_getxattr(self.io, name, attribute, buffer, value.len()) })?;
        value.truncate(len);
        Ok(value)
    }

    /// The size of an object and of its bytes from `start` on as many as there are, at most `len`:
    /// one state of the object.
    pub(super) fn read(&self, name: &CStr, start: u64, len: usize) -> Result<Read, Errno> {
        self.read_with(name, start, len, None)
    }

    /// As [`Connection::read`] from the beginning, and an attribute of the same state.
    pub(super) fn read_and_xattr(
        &self,
        name: &CStr,
        len: usize,
        attribute: &CStr,
    ) -> Result<(Read, Option<Vec<u8>>), Errno> {
        let mut value = None;
        let read = self.read_with(name, 0, len, Some((attribute, &mut value)))?;
        Ok((read, value))
    }

    fn read_with(
        &self,
        name: &CStr,
        start: u64,
        len: usize,
        attribute: Option<(&CStr, &mut Option<Vec<u8>>)>,
    ) -> Result<Read, Errno> {
        let mut bytes: Vec<u8> = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| Errno::NOMEM)?;
        let (mut size, mut count) = (0u64, 0usize);
        let (mut stat_code, mut read_code) = (0, 0);
        let op = ReadOp::new();
        // SAFETY: the operation is live; the three places outlive it.
        unsafe {
            rados::rados_read_op_stat(op.0, &mut size, ptr::null_mut(), &mut stat_code);
        }
        let attributes = attribute.is_some().then(|| op.xattrs());
        // To read nothing means to read everything.
        if len > 0 {
            let buffer = bytes.as_mut_ptr().cast::<c_char>();
            // SAFETY: the operation is live; `buffer` has room for `len` bytes, and it and the two
            // other places outlive the operation.
            unsafe {
                rados::rados_read_op_read(op.0, start, len, buffer, &mut count, &mut read_code);
            }
        }
        self.carry_out(name, &op)?;
        check(stat_code)?;
        check(read_code)?;
        if count > len {
            return Err(Errno::IO);
        }
        // SAFETY: librados filled in `count` bytes, no more than there is room for.
        unsafe { bytes.set_len(count) }
        if let (Some((wanted, value)), Some(attributes)) = (attribute, attributes) {
            *value = attributes.find(wanted)?;
        }
        Ok(Read { size, bytes })
    }

    /// Up to `max` keys of the object's omap that start with `prefix` and are greater than `after`,
    /// in the order of their bytes. The server may return fewer; only none means that there are no
    /// more.
    pub(super) fn omap_keys(
        &self,
        name: &CStr,
        after: &CStr,
        prefix: &CStr,
        max: usize,
    ) -> Result<Vec<Vec<u8>>, Errno> {
        let mut code = 0;
        let op = ReadOp::new();
        let mut iter = ptr::null_mut();
        let (after, prefix) = (after.as_ptr(), prefix.as_ptr());
        // SAFETY: the operation is live, both texts are C strings, which are copied; `code`
        // outlives the operation, and `iter` takes a pointer before the call returns.
        unsafe {
            rados::rados_read_op_omap_get_vals(
                op.0, after, prefix, max as u64, &mut iter, &mut code,
            );
        }
        let entries = OmapIter(iter);
        self.carry_out(name, &op)?;
        check(code)?;
        entries.keys()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: every operation borrows the connection, so none is under way; the ioctx is used no
        // more, and the cluster is shut down only after this.
        unsafe { rados::rados_ioctx_destroy(self.io) }
    }
}

/// What a read found.
pub(super) struct Read {
    /// Size of the whole object.
    pub(super) size: u64,
    /// The bytes asked for, or those of them that there are.
    pub(super) bytes: Vec<u8>,
}

/// librados counts in whole seconds, and zero would mean for ever.
fn whole_seconds(limit: Duration) -> CString {
    let seconds = limit.as_secs() + u64::from(limit.subsec_nanos() > 0);
    let digits = seconds.clamp(1, 1_000_000).to_string();
    // Digits hold no NUL.
    CString::new(digits).unwrap_or_default()
}
