//! Servers of a test's own, to be crashed and paused: started by the scripts, ended when dropped,
//! and by themselves should the test be killed.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::store::Store;
use super::{Paused, tool};

/// A script of the project.
fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts").join(name)
}

/// A server that one of the scripts runs.
pub struct Server {
    script: PathBuf,
    flags: &'static [&'static str],
    dir: tempfile::TempDir,
}

impl Server {
    /// A small Ceph with radosgw. Call it only where there is a Ceph to be had: see
    /// [`own_ceph`](crate::own_ceph).
    pub fn ceph() -> Self {
        Self::start("ceph", &["--rgw", "--size", "8G"])
    }

    /// A light S3 server over https, with a certificate authority of its own.
    pub fn s3_over_tls() -> Self {
        Self::start("s3-server", &["--tls"])
    }

    fn start(name: &str, flags: &'static [&'static str]) -> Self {
        // Not below TMPDIR: sockets want short names.
        let dir = tempfile::Builder::new().prefix("lsvd-").tempdir_in("/tmp").unwrap();
        let server = Self { script: script(name), flags, dir };
        server.start_again();
        server
    }

    fn run(&self, arguments: &[&str]) -> String {
        let dir = self.dir();
        let arguments = [arguments, &["--dir", dir.to_str().unwrap()]].concat();
        tool(self.script.to_str().unwrap(), &arguments)
    }

    fn dir(&self) -> PathBuf {
        self.dir.path().join("server")
    }

    /// Starts what does not run.
    pub fn start_again(&self) {
        let owner = std::process::id().to_string();
        self.run(&[&["start", "--while", &owner], self.flags].concat());
    }

    /// `kill -9` for these daemons, such as `osd`.
    pub fn kill(&self, daemons: &[&str]) {
        self.run(&[&["stop", "--kill"], daemons].concat());
    }

    /// Stops a daemon where it stands.
    pub fn pause(&self, daemon: &str) -> Paused {
        Paused::process(self.run(&["pid", daemon]).parse().unwrap())
    }

    /// A part of it as a store by way of S3.
    pub fn s3(&self) -> Store {
        let get = |name: &str| {
            let found = ["RGW", "S3"].iter().find_map(|kind| self.variable(kind, name));
            found.unwrap_or_else(|| panic!("the script says nothing of {name}"))
        };
        Store::s3(&get("ENDPOINT"), &get("BUCKET"), &get("ACCESS_KEY"), &get("SECRET_KEY"))
    }

    /// A part of it as a store by way of RADOS.
    pub fn rados(&self) -> Store {
        let get = |name: &str| self.variable("RADOS", name).unwrap();
        Store::rados(&get("CONF"), &get("POOL"))
    }

    /// The certificate authority to trust.
    pub fn ca_file(&self) -> String {
        self.variable("S3", "CA").unwrap()
    }

    fn variable(&self, kind: &str, name: &str) -> Option<String> {
        let told = self.run(&["env"]);
        let wanted = format!("export LSVD_TEST_{kind}_{name}=");
        told.lines().find_map(|line| line.strip_prefix(&wanted)).map(str::to_owned)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = Command::new(&self.script).arg("destroy").arg("--dir").arg(self.dir()).output();
    }
}

/// A Ceph of the test's own, or an end of the test with a note where no Ceph was promised.
#[macro_export]
macro_rules! own_ceph {
    () => {
        match std::env::var_os("LSVD_TEST_RADOS_CONF") {
            Some(_) => $crate::common::servers::Server::ceph(),
            None => {
                let name = std::thread::current().name().unwrap_or("?").to_owned();
                eprintln!(
                    "SKIPPED {name}: LSVD_TEST_RADOS_CONF is not set, so Ceph is not to be used"
                );
                return;
            }
        }
    };
}
