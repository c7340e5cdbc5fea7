//! `/.lsvd/status.json`: the daemon and its volumes, generated when the file is opened.
//!
//! Only what is known already goes in: reading the file never makes the store work.

use std::path::PathBuf;
use std::time::Instant;

use lsvd_volume::RequestStats;
use serde_json::{Value, json};

use super::transport::InUse;
use super::volumes::Volumes;

/// What the file says of the daemon itself.
#[derive(Clone, Debug)]
pub(crate) struct DaemonFacts {
    pub(crate) mountpoint: PathBuf,
    pub(crate) control_socket: PathBuf,
    pub(crate) store: String,
    pub(crate) cache_dir: PathBuf,
    pub(crate) read_only: bool,
    pub(crate) transport: InUse,
    pub(crate) started: Instant,
}

/// The daemon, without its volumes.
pub(crate) fn daemon(facts: &DaemonFacts) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "mountpoint": facts.mountpoint,
        "control_socket": facts.control_socket,
        "store": facts.store,
        "cache_dir": facts.cache_dir,
        "read_only": facts.read_only,
        "transport": facts.transport.get().to_string(),
        "uptime_seconds": facts.started.elapsed().as_secs(),
    })
}

/// The whole file.
pub(crate) fn document(facts: &DaemonFacts, volumes: &Volumes) -> Vec<u8> {
    let (mut dirty, mut written) = (0, 0);
    let listed: Vec<Value> = volumes
        .known_nodes()
        .iter()
        .map(|node| {
            let volume = node.volume();
            let stats = volume.as_ref().map(|volume| volume.stats());
            dirty += stats.as_ref().map_or(0, |stats| stats.dirty_bytes);
            written += stats.as_ref().map_or(0, |stats| stats.write_bytes);
            let (name, users) = {
                let meta = node.meta.lock();
                (meta.name.to_string(), meta.users)
            };
            json!({
                "name": name,
                "uuid": node.uuid.to_string(),
                "size_bytes": node.size(),
                "open_files": users,
                "open": match &volume {
                    None => "no",
                    Some(volume) if volume.is_read_only() => "read",
                    Some(_) => "write",
                },
                "stats": stats,
            })
        })
        .collect();
    let cache = volumes.engine().cache_stats();
    let requests = RequestStats::new(&volumes.engine().requests(), written);
    let document = json!({
        "daemon": daemon(facts),
        "dirty_bytes": dirty,
        "requests": requests,
        "read_cache": cache,
        "volumes": listed,
    });
    let mut text = format!("{document:#}").into_bytes();
    text.push(b'\n');
    text
}
