//! What a store needs to know beside its URL.

use std::path::PathBuf;
use std::time::Duration;

/// How to reach a store. Each backend reads its own part; the defaults suit a store that needs
/// nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreOptions {
    /// For `s3:` URLs.
    pub s3: S3Options,
    /// For `rados:` URLs.
    pub rados: RadosOptions,
    /// Time limits of one request.
    pub timeouts: Timeouts,
}

/// Where an S3 service is and who asks. What is not given is found by the SDK's own chain: its
/// variables, its profile files, and the role of the instance.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct S3Options {
    /// The service's address, as `http://127.0.0.1:9000`; without one, AWS itself.
    pub endpoint: Option<String>,
    /// The region.
    pub region: Option<String>,
    /// Whether the bucket stands in the path instead of the host name. Without a word: yes where
    /// an endpoint is given.
    pub path_style: Option<bool>,
    /// A file of PEM certificates to trust beside the system's.
    pub ca_file: Option<PathBuf>,
    /// The profile to take from the SDK's files.
    pub profile: Option<String>,
    /// Access key, instead of the SDK's chain.
    pub access_key_id: Option<String>,
    /// Its secret.
    pub secret_access_key: Option<String>,
}

/// The secret does not show.
impl std::fmt::Debug for S3Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Options")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("path_style", &self.path_style)
            .field("ca_file", &self.ca_file)
            .field("profile", &self.profile)
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

/// Which Ceph cluster and who asks. What is not given is found by librados itself: `CEPH_CONF`,
/// `/etc/ceph/ceph.conf` and the keyrings that it names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RadosOptions {
    /// Ceph's configuration file.
    pub conf: Option<PathBuf>,
    /// The client's name without `client.`; `admin` if there is none.
    pub user: Option<String>,
    /// The client's keyring.
    pub keyring: Option<PathBuf>,
    /// The namespace within the pool.
    pub namespace: Option<String>,
}

/// How long a backend waits before it says `Unavailable`. Whoever calls decides whether to try
/// again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection.
    pub connect: Duration,
    /// For one request, from its first byte to the last of its answer.
    pub request: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), request: Duration::from_secs(30) }
    }
}
