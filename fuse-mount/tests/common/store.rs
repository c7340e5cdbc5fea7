//! The stores that a test can have: a directory of its own, or a part of a real server's.
//!
//! Which servers there are is told by variables: `LSVD_TEST_S3_ENDPOINT`, `_BUCKET`, `_ACCESS_KEY`,
//! `_SECRET_KEY`, the same with `LSVD_TEST_RGW_` for Ceph's S3, and `LSVD_TEST_RADOS_CONF` and
//! `_POOL`. `scripts/check.sh` sets them.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

const S3_ENDPOINT: &str = "LSVD_S3_ENDPOINT";

/// What holds the objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Directory,
    /// A light S3 server.
    S3,
    /// S3 as Ceph serves it.
    Radosgw,
    Rados,
}

/// A store, and what the program needs to be told to reach it.
#[derive(Clone, Debug)]
pub struct Store {
    url: String,
    variables: Vec<(&'static str, String)>,
    directory: Option<PathBuf>,
}

impl Store {
    /// A directory, which is there.
    pub fn directory(path: &Path) -> Self {
        let url = format!("file://{}", path.display());
        Self { url, variables: Vec::new(), directory: Some(path.to_owned()) }
    }

    /// A part of a bucket at `endpoint`.
    pub fn s3(endpoint: &str, bucket: &str, access_key: &str, secret_key: &str) -> Self {
        let variables = vec![
            (S3_ENDPOINT, endpoint.to_owned()),
            ("LSVD_S3_ACCESS_KEY_ID", access_key.to_owned()),
            ("LSVD_S3_SECRET_ACCESS_KEY", secret_key.to_owned()),
        ];
        Self { url: format!("s3://{bucket}/{}", unique()), variables, directory: None }
    }

    /// A namespace of a pool.
    pub fn rados(conf: &str, pool: &str) -> Self {
        let variables = vec![("LSVD_RADOS_CONF", conf.to_owned())];
        Self { url: format!("rados://{pool}/{}", unique()), variables, directory: None }
    }

    /// A part of the server that the environment names.
    ///
    /// # Errors
    /// The variable that is not set.
    pub fn of_environment(kind: Kind) -> Result<Self, String> {
        let s3 = |prefix: &str| {
            let get = |name: &str| variable(&format!("{prefix}_{name}"));
            let (endpoint, bucket) = (get("ENDPOINT")?, get("BUCKET")?);
            Ok(Self::s3(&endpoint, &bucket, &get("ACCESS_KEY")?, &get("SECRET_KEY")?))
        };
        match kind {
            Kind::Directory => Err("a directory is no server".to_owned()),
            Kind::S3 => s3("LSVD_TEST_S3"),
            Kind::Radosgw => s3("LSVD_TEST_RGW"),
            Kind::Rados => {
                let (conf, pool) =
                    (variable("LSVD_TEST_RADOS_CONF")?, variable("LSVD_TEST_RADOS_POOL")?);
                Ok(Self::rados(&conf, &pool))
            }
        }
    }

    /// The same store by way of another address, such as a proxy's.
    pub fn by_way_of(&self, endpoint: &str) -> Self {
        let mut other = self.clone();
        for (name, value) in &mut other.variables {
            if *name == S3_ENDPOINT {
                *value = endpoint.to_owned();
            }
        }
        other
    }

    /// The same store, with a file of certificates to trust.
    pub fn trusting(mut self, ca_file: &str) -> Self {
        self.variables.push(("LSVD_S3_CA_FILE", ca_file.to_owned()));
        self
    }

    /// The S3 server's address.
    pub fn endpoint(&self) -> Option<String> {
        let found = self.variables.iter().find(|(name, _)| *name == S3_ENDPOINT);
        found.map(|(_, value)| value.clone())
    }

    /// As `LSVD_STORE` takes it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// For the environment of the program.
    pub fn variables(&self) -> &[(&'static str, String)] {
        &self.variables
    }

    /// Where it is, if it is a directory.
    pub fn path(&self) -> Option<&Path> {
        self.directory.as_deref()
    }
}

fn variable(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|_| {
        format!("{name} is not set (scripts/s3-server or scripts/ceph start a server and tell it)")
    })
}

/// A name that no other test has, on a server that outlives the test.
fn unique() -> String {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let nth = NEXT.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    format!("test-{}-{}-{nth}", UNIX_EPOCH.elapsed().unwrap().as_nanos(), std::process::id())
}
