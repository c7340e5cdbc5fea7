//! What failed, in words that name pool and user and the way out, and which of the store's errors
//! it is.

use std::fmt;

use rustix::io::Errno;

use crate::StoreError;

/// Where it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Making a handle or setting an option.
    Configure,
    /// Reading Ceph's configuration file.
    ReadConf,
    /// Reaching the monitors.
    Connect,
    /// Finding the pool, at first or again.
    OpenPool,
    /// An operation on an object of the index.
    Index,
    /// An operation on an object.
    Object,
}

/// One step that failed.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) struct Failure {
    pub(super) step: Step,
    pub(super) errno: Errno,
    pub(super) pool: String,
    pub(super) user: String,
    pub(super) conf: Option<String>,
}

impl Failure {
    /// Whether an operation on an object itself ended with `errno`.
    pub(super) fn is(&self, errno: Errno) -> bool {
        self.step == Step::Object && self.errno == errno
    }

    /// Whether only a change of permissions, names, configuration or sizes would help. A full
    /// cluster is none: it blocks writers until there is room, or says so, and then goes on.
    fn is_refusal(&self) -> bool {
        matches!(
            self.errno,
            Errno::PERM
                | Errno::ACCESS
                | Errno::OPNOTSUPP
                | Errno::MSGSIZE
                | Errno::FBIG
                | Errno::TOOBIG
                | Errno::NAMETOOLONG
                | Errno::INVAL
                | Errno::ROFS
        ) || (self.errno == Errno::NOENT && self.step != Step::Object)
            || (self.errno == Errno::NODATA && self.step == Step::Object)
            || self.step == Step::ReadConf
            || self.step == Step::Configure
    }

    pub(super) fn into_store_error(
        self,
        store: &str,
        operation: &'static str,
        key: &str,
    ) -> StoreError {
        let (store, key) = (store.to_owned(), key.to_owned());
        let is_refusal = self.is_refusal();
        let source = Box::new(self);
        if is_refusal {
            StoreError::Refused { store, key, operation, source }
        } else {
            StoreError::Unavailable { store, key, operation, source }
        }
    }

    /// The way out, where there is one to be told.
    fn advice(&self) -> String {
        let Self { step, errno, pool, user, conf } = self;
        match (*step, *errno) {
            (Step::ReadConf, _) if conf.is_none() => {
                "name one with the setting conf of [rados] or in CEPH_CONF".to_owned()
            }
            (Step::Connect, Errno::NOENT) => format!(
                "there is no keyring with a key of client.{user} (setting keyring of [rados], or \
                 keyring in Ceph's configuration file), or that file names no monitors"
            ),
            (Step::Connect, Errno::PERM | Errno::ACCESS) => format!(
                "the cluster knows no client.{user} with this key; compare `ceph auth get client.{user}`"
            ),
            (Step::Connect, Errno::TIMEDOUT) => {
                "no monitor answered in time; `ceph -s` on this host shows the same".to_owned()
            }
            (Step::OpenPool, Errno::NOENT) => {
                format!("the cluster has no such pool; `ceph osd pool create {pool}` makes one")
            }
            (_, Errno::PERM | Errno::ACCESS) => format!(
                "the user may not; `ceph auth caps client.{user} mon 'allow r' osd 'allow rw \
                 pool={pool}'` allows it"
            ),
            (Step::Index, Errno::OPNOTSUPP) => {
                "the index needs omap, which an erasure-coded pool does not have; use a replicated \
                 pool (`ceph osd pool create NAME replicated`)"
                    .to_owned()
            }
            (_, Errno::MSGSIZE | Errno::FBIG | Errno::TOOBIG) => {
                "the object is larger than the cluster takes (osd_max_write_size and \
                 osd_max_object_size); use a smaller batch-size"
                    .to_owned()
            }
            (Step::Object, Errno::NODATA) => {
                "the object was not written by this program, or copied without its attributes; \
                 `rados export` and mirroring keep them"
                    .to_owned()
            }
            (_, Errno::NAMETOOLONG) => "use a shorter prefix in the store's URL".to_owned(),
            (_, Errno::SHUTDOWN) => {
                "the cluster put this client on its blocklist; the next attempt connects as a new \
                 one (`ceph osd blocklist ls` shows whom it shuts out)"
                    .to_owned()
            }
            (_, Errno::NOSPC | Errno::DQUOT) => {
                "the cluster is full, or the pool's quota is used up; it goes on when there is room"
                    .to_owned()
            }
            (_, Errno::TIMEDOUT) => "no answer in time".to_owned(),
            _ => String::new(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, errno, pool, user, conf } = self;
        match step {
            Step::Configure => write!(f, "cannot configure librados for client.{user}")?,
            Step::ReadConf => match conf {
                Some(conf) => write!(f, "cannot read Ceph's configuration file {conf}")?,
                None => write!(f, "cannot find a configuration file of Ceph")?,
            },
            Step::Connect => write!(f, "cannot connect to the Ceph cluster as client.{user}")?,
            Step::OpenPool => write!(f, "cannot open the pool {pool} as client.{user}")?,
            Step::Index => write!(f, "pool {pool}, client.{user}, index of names")?,
            Step::Object => write!(f, "pool {pool}, client.{user}")?,
        }
        write!(f, ": {errno}")?;
        let advice = self.advice();
        if advice.is_empty() { Ok(()) } else { write!(f, ": {advice}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(step: Step, errno: Errno) -> Failure {
        Failure { step, errno, pool: "disks".into(), user: "lsvd".into(), conf: None }
    }

    fn is_retryable(step: Step, errno: Errno) -> bool {
        failure(step, errno).into_store_error("rados://disks/a", "create", "k").is_retryable()
    }

    #[test]
    fn what_may_pass_is_waited_for() {
        for errno in [
            Errno::TIMEDOUT,
            Errno::CONNREFUSED,
            Errno::CONNRESET,
            Errno::CONNABORTED,
            Errno::NOTCONN,
            Errno::AGAIN,
            Errno::SHUTDOWN,
            Errno::NOSPC,
            Errno::DQUOT,
            Errno::IO,
        ] {
            for step in [Step::Connect, Step::OpenPool, Step::Index, Step::Object] {
                assert!(is_retryable(step, errno), "{step:?} {errno}");
            }
        }
    }

    #[test]
    fn what_does_not_pass_is_refused() {
        for (step, errno) in [
            (Step::Connect, Errno::ACCESS),
            (Step::Connect, Errno::NOENT),
            (Step::OpenPool, Errno::NOENT),
            (Step::ReadConf, Errno::NOENT),
            (Step::Object, Errno::PERM),
            (Step::Object, Errno::MSGSIZE),
            (Step::Object, Errno::FBIG),
            (Step::Object, Errno::NODATA),
            (Step::Index, Errno::OPNOTSUPP),
        ] {
            assert!(!is_retryable(step, errno), "{step:?} {errno}");
        }
    }

    #[test]
    fn messages_name_pool_and_user_and_the_way_out() {
        let text = failure(Step::Object, Errno::PERM).to_string();
        for part in ["disks", "client.lsvd", "ceph auth caps"] {
            assert!(text.contains(part), "{text}");
        }
        let text = failure(Step::Index, Errno::OPNOTSUPP).to_string();
        assert!(text.contains("erasure-coded"), "{text}");
        let text = failure(Step::Object, Errno::SHUTDOWN).to_string();
        assert!(text.contains("blocklist"), "{text}");
    }
}
