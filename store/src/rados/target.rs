//! Which cluster, pool and namespace, as whom, and for how long to wait.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;

use super::failure::{Failure, Step};
use crate::{RadosOptions, StoreOptions, Timeouts};

/// Everything that a connection needs.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) pool: CString,
    /// Without `client.`.
    pub(super) user: Option<CString>,
    pub(super) conf: Option<CString>,
    pub(super) keyring: Option<CString>,
    pub(super) namespace: Option<CString>,
    pub(super) timeouts: Timeouts,
}

impl Target {
    /// # Errors
    /// The reason why it can be none.
    pub(super) fn new(pool: &str, options: &StoreOptions) -> Result<Self, String> {
        let RadosOptions { conf, user, keyring, namespace } = &options.rados;
        let path = |path: &std::path::PathBuf| path.as_os_str().as_bytes().to_vec();
        let user = user.as_deref().map(|user| user.strip_prefix("client.").unwrap_or(user));
        Ok(Self {
            pool: c_string("the pool's name", pool)?,
            user: user.map(|user| c_string("the user's name", user)).transpose()?,
            conf: conf.as_ref().map(|file| c_string("the path of conf", path(file))).transpose()?,
            keyring: keyring
                .as_ref()
                .map(|file| c_string("the path of the keyring", path(file)))
                .transpose()?,
            namespace: namespace
                .as_deref()
                .map(|name| c_string("the namespace", name))
                .transpose()?,
            timeouts: options.timeouts,
        })
    }

    /// The failure of `step`.
    pub(super) fn failed(&self, step: Step, errno: Errno) -> Failure {
        let shown = |text: &CStr| text.to_string_lossy().into_owned();
        Failure {
            step,
            errno,
            pool: shown(&self.pool),
            user: shown(self.user.as_deref().unwrap_or(c"admin")),
            conf: self.conf.as_deref().map(shown),
        }
    }
}

fn c_string(what: &str, text: impl Into<Vec<u8>>) -> Result<CString, String> {
    CString::new(text).map_err(|_| format!("{what} cannot hold a NUL character"))
}
