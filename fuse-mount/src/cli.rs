//! The command line. `--help` teaches: every command has an example.
//!
//! Settings that also exist as variables and in the configuration file are taken here as plain
//! text; [`crate::config`] layers and checks them, and remembers where each came from.

mod parse;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub(crate) use parse::parse;

const EXAMPLES: &str = "\
Examples:
  lsvd-fuse mount /mnt/vols                   serve the store's volumes as files
  truncate -s 10G /mnt/vols/disk.img          make a volume (or: lsvd-fuse create disk.img --size 10G)
  mkfs.ext4 /mnt/vols/disk.img                use it: as a file, by `losetup --direct-io=on`, by QEMU as raw
  lsvd-fuse unmount /mnt/vols                 wait until the store holds everything, then end

Settings, strongest first: flags, LSVD_* variables, the [volume.NAME] sections of the
configuration file, its top level, defaults. `lsvd-fuse info --effective-config` shows each
value and where it came from. The file is --config, or /etc/lsvd.toml for root, or
~/.config/lsvd.toml; for example:

  store = \"s3://disks/lab\"
  log-size = \"4G\"
  [s3]
  endpoint = \"http://10.0.0.1:9000\"
  access-key-id = \"...\"              # and secret-access-key; else the SDK's own chain
  [volume.database]
  log-size = \"16G\"
  compression = \"none\"";

/// Log-structured virtual disks: a local write log in front of an object store, as files.
#[derive(Debug, Parser)]
#[command(name = "lsvd-fuse", version, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalFlags,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct GlobalFlags {
    /// Where the volumes live: file:///path, s3://bucket/prefix, rados://pool/prefix or mem: [env: LSVD_STORE] [default: file:///var/lib/lsvd/store for root]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) store: Option<String>,
    /// Directory on a local SSD for logs and caches [env: LSVD_CACHE_DIR] [default: /var/lib/lsvd/cache for root]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,
    /// Configuration file in TOML [env: LSVD_CONFIG] [default: /etc/lsvd.toml or ~/.config/lsvd.toml, if there]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Write even to a store that cannot keep two hosts from writing to one volume [env: LSVD_NO_FENCING]
    #[arg(long, global = true)]
    pub(crate) no_fencing: bool,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) store_flags: StoreFlags,
}

/// How the store is reached. Secrets are no flags: everybody on the machine sees those.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "How the store is reached")]
pub(crate) struct StoreFlags {
    /// Address of an S3 service other than AWS, as http://host:port [env: LSVD_S3_ENDPOINT]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) s3_endpoint: Option<String>,
    /// Region of the bucket [env: LSVD_S3_REGION, then the SDK's] [default: us-east-1 with an endpoint]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) s3_region: Option<String>,
    /// Profile in ~/.aws to take credentials from [env: LSVD_S3_PROFILE, then the SDK's]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) s3_profile: Option<String>,
    /// PEM certificates to trust beside the system's [env: LSVD_S3_CA_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) s3_ca_file: Option<PathBuf>,
    /// Whether the bucket stands in the path, not in the host name [env: LSVD_S3_PATH_STYLE] [default: true with an endpoint]
    #[arg(long, global = true, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) s3_path_style: Option<String>,
    /// Ceph's configuration file [env: LSVD_RADOS_CONF, then CEPH_CONF] [default: /etc/ceph/ceph.conf]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) rados_conf: Option<PathBuf>,
    /// Client's name in Ceph, without `client.` [env: LSVD_RADOS_USER] [default: admin]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) rados_user: Option<String>,
    /// Client's keyring [env: LSVD_RADOS_KEYRING]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) rados_keyring: Option<PathBuf>,
    /// Namespace within the pool [env: LSVD_RADOS_NAMESPACE]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) rados_namespace: Option<String>,
}

/// Flags of `mount` that are settings.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct MountFlags {
    /// Refuse writes through this mount; it holds nobody else back [env: LSVD_READ_ONLY]
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Let other users in; file modes and owners decide [env: LSVD_ALLOW_OTHER]
    #[arg(long)]
    pub(crate) allow_other: bool,
    /// How requests come from the kernel: uring, dev-fuse, or auto for the faster that there is [env: LSVD_TRANSPORT] [default: auto]
    #[arg(long, value_name = "NAME")]
    pub(crate) transport: Option<String>,
    /// How old a view of a volume that is only read may get while another host writes it [env: LSVD_FOLLOW_INTERVAL] [default: 5s]
    #[arg(long, value_name = "TIME")]
    pub(crate) follow_interval: Option<String>,
    /// Size of each volume's write log on the SSD, at least 32M [env: LSVD_LOG_SIZE] [default: 1G]
    #[arg(long, value_name = "SIZE")]
    pub(crate) log_size: Option<String>,
    /// Size of the read cache on the SSD, 0 for none [env: LSVD_CACHE_SIZE] [default: 10G]
    #[arg(long, value_name = "SIZE")]
    pub(crate) cache_size: Option<String>,
    /// Memory that the maps of all volumes may take up [env: LSVD_MEMORY] [default: 256M]
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<String>,
    /// Memory for the newest part of each volume's log, at least 8M [env: LSVD_LOG_MEMORY] [default: 32M]
    #[arg(long, value_name = "SIZE")]
    pub(crate) log_memory: Option<String>,
    /// Size of an object in the store [env: LSVD_BATCH_SIZE] [default: 8M]
    #[arg(long, value_name = "SIZE")]
    pub(crate) batch_size: Option<String>,
    /// Longest wait of a write for its object to fill [env: LSVD_BATCH_AGE] [default: 2s]
    #[arg(long, value_name = "TIME")]
    pub(crate) batch_age: Option<String>,
    /// Compression of new objects: lz4, zstd or none [env: LSVD_COMPRESSION] [default: lz4]
    #[arg(long, value_name = "NAME")]
    pub(crate) compression: Option<String>,
    /// Objects between two checkpoints [env: LSVD_CHECKPOINT_OBJECTS] [default: 256]
    #[arg(long, value_name = "N")]
    pub(crate) checkpoint_objects: Option<String>,
    /// Clean when less of the data in the store is needed than this; 0 never does [env: LSVD_GC_START] [default: 70%]
    #[arg(long, value_name = "PERCENT")]
    pub(crate) gc_start: Option<String>,
    /// Clean until so much of it is needed [env: LSVD_GC_STOP] [default: 75%]
    #[arg(long, value_name = "PERCENT")]
    pub(crate) gc_stop: Option<String>,
    /// Most bytes that cleaning moves in a second, or none for no limit [env: LSVD_GC_BANDWIDTH] [default: 64M]
    #[arg(long, value_name = "SIZE")]
    pub(crate) gc_bandwidth: Option<String>,
    /// How much history cleaning spares, so that `clone NAME@{TIME}` reaches it: as far back as 24h, as 10G in the store allow, or both [env: LSVD_HISTORY_RETENTION] [default: none]
    #[arg(long, value_name = "TIME|SIZE")]
    pub(crate) history_retention: Option<String>,
    /// How long requests wait for a store that does nothing, then EIO [env: LSVD_STORE_TIMEOUT] [default: writers wait for as long as it takes, reads 30s]
    #[arg(long, value_name = "TIME")]
    pub(crate) store_timeout: Option<String>,
    /// Most bytes that a volume may be ahead of the store; writers wait then [env: LSVD_MAX_DIRTY_BYTES] [default: the log's size]
    #[arg(long, value_name = "SIZE")]
    pub(crate) max_dirty_bytes: Option<String>,
    /// Greatest age of a write that the store lacks; writers wait then [env: LSVD_MAX_DIRTY_AGE] [default: none]
    #[arg(long, value_name = "TIME")]
    pub(crate) max_dirty_age: Option<String>,
    /// What fsync means: local (the SSD has it) or remote (the store has it) [env: LSVD_SYNC] [default: as each volume was created]
    #[arg(long, value_name = "WHERE")]
    pub(crate) sync: Option<String>,
    /// Snapshots to take by the clock, and how many of each to keep, as in "hourly=24 daily=7": frequent (15 min), hourly, daily, weekly, monthly [env: LSVD_SNAPSHOT_SCHEDULE] [default: none]
    #[arg(long, value_name = "SCHEDULE")]
    pub(crate) snapshot_schedule: Option<String>,
    /// Fail if the store does not answer, instead of waiting for it [env: LSVD_FAIL_FAST]
    #[arg(long)]
    pub(crate) fail_fast: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve the store's volumes as files below MOUNTPOINT
    #[command(
        after_help = "Example:\n  lsvd-fuse --store file:///srv/lsvd mount /mnt/vols --log-size 4G\n\nReturns once the mount answers; the daemon then logs to CACHE_DIR/lsvd-fuse.log.\nSIGTERM and SIGINT unmount in order; a second one leaves at once (the log keeps the rest)."
    )]
    Mount {
        /// An empty directory
        mountpoint: PathBuf,
        /// Stay in the foreground and log to stderr
        #[arg(long)]
        foreground: bool,
        #[command(flatten)]
        flags: Box<MountFlags>,
    },
    /// End a mount; waits until the store holds everything
    #[command(
        visible_alias = "umount",
        after_help = "Example:\n  lsvd-fuse unmount /mnt/vols\n\nIf a program or a loop device still uses a file, it says which, and the mount stays; --force ends it all the same."
    )]
    Unmount {
        /// Where it is mounted
        mountpoint: PathBuf,
        /// Do not wait for the store: what it lacks stays in the local log for the next mount
        #[arg(long)]
        no_drain: bool,
        /// End even while files are in use: whoever uses one gets errors, also those who wait for a
        /// full log. Implies --no-drain; nothing acknowledged is lost
        #[arg(long)]
        force: bool,
    },
    /// Make a volume
    #[command(after_help = "Example:\n  lsvd-fuse create disk.img --size 10G")]
    Create {
        /// Its name: 1 to 255 bytes, no slash, no @, no leading dot
        name: OsString,
        /// Its size, a multiple of 4096 bytes: 10G, 512M, …
        #[arg(long, value_name = "SIZE")]
        size: String,
        /// What fsync means on every host, unless its settings say otherwise: local or remote [default: local]
        #[arg(long, value_name = "WHERE")]
        sync: Option<String>,
    },
    /// List the volumes
    #[command(visible_alias = "ls", after_help = "Example:\n  lsvd-fuse list --json")]
    List,
    /// Show one volume, or the settings in force
    #[command(
        after_help = "Examples:\n  lsvd-fuse info disk.img\n  lsvd-fuse info --effective-config\n  lsvd-fuse info disk.img --effective-config   with the volume's own section"
    )]
    Info {
        /// The volume
        #[arg(required_unless_present = "effective_config")]
        name: Option<OsString>,
        /// Show each setting and where it came from
        #[arg(long)]
        effective_config: bool,
    },
    /// Change the size of a volume, also while it is in use
    #[command(
        after_help = "Example:\n  lsvd-fuse resize disk.img 20G\n\nThen tell its users: `losetup -c /dev/loopN`, `block_resize` in QEMU."
    )]
    Resize {
        /// The volume
        name: OsString,
        /// Its new size, a multiple of 4096 bytes
        size: String,
        /// Shrink even if that cuts data off
        #[arg(long)]
        force: bool,
    },
    /// Give a volume another name, also while it is in use
    #[command(after_help = "Example:\n  lsvd-fuse rename disk.img old-disk.img")]
    Rename {
        /// The volume
        old: OsString,
        /// The new name; must be free
        new: OsString,
    },
    /// Delete a volume and its data
    #[command(
        visible_alias = "rm",
        after_help = "Example:\n  lsvd-fuse delete disk.img\n\nRefused while a program or a loop device uses it."
    )]
    Delete {
        /// The volume
        name: OsString,
        /// Delete it also if its superblock is damaged or missing
        #[arg(long)]
        force: bool,
    },
    /// Prove volumes from the store alone: map, objects, what leaks
    #[command(
        after_help = "Examples:\n  lsvd-fuse check disk.img             the map against the objects' headers\n  lsvd-fuse check disk.img --deep      every byte of data as well\n  lsvd-fuse check                      all volumes, and what belongs to none\n  lsvd-fuse check --repair             also delete what leaked and finish what was cut short\n\nVolumes may be in use, here and elsewhere. Exit code 1 if there is damage, which is never repaired. Ctrl-C leaves off and prints what was found."
    )]
    Check {
        /// The volume [default: all]
        name: Option<OsString>,
        /// All volumes, and what belongs to none
        #[arg(long, conflicts_with = "name")]
        all: bool,
        /// Delete what is proved to be of no use; name volumes that have no name
        #[arg(long)]
        repair: bool,
        /// Read every object whole: checksums and compression of all data
        #[arg(long)]
        deep: bool,
        /// Most bytes to read in a second [default: no limit]
        #[arg(long, value_name = "SIZE")]
        rate: Option<String>,
    },
    /// Read all data of a volume, at a limited rate, and verify it
    #[command(
        after_help = "Example:\n  lsvd-fuse scrub disk.img --rate 50M\n\nThe same as check --deep --rate. The volume may be in use. Ctrl-C leaves off and prints what was found."
    )]
    Scrub {
        /// The volume
        name: OsString,
        /// Most bytes to read in a second
        #[arg(long, value_name = "SIZE", default_value = "50M")]
        rate: Option<String>,
    },
    /// Give space back to the store: move what is needed out of half-empty objects, and delete them
    #[command(
        after_help = "Examples:\n  lsvd-fuse gc disk.img                  until 80% of what the store holds are needed\n  lsvd-fuse gc disk.img --target 95%     as little as possible stays, for more copying\n\nA mount does this by itself, see gc-start, gc-stop and gc-bandwidth. Ctrl-C leaves off; what was done stays done."
    )]
    Gc {
        /// The volume
        name: OsString,
        /// How much of the data in the store shall be needed, in percent [default: 80%]
        #[arg(long, value_name = "PERCENT")]
        target: Option<String>,
        /// Without regard to gc-bandwidth and to writers
        #[arg(long)]
        now: bool,
    },
    /// Keep points of a volume's history, and go back to them
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Snapshot {
        #[command(subcommand)]
        command: SnapshotCommand,
    },
    /// Make a volume that begins as another one is, or was
    #[command(
        after_help = "Examples:\n  lsvd-fuse clone disk.img copy.img                           as it is now\n  lsvd-fuse clone disk.img@monday copy.img                    as a snapshot has it\n  lsvd-fuse clone 'disk.img@{2026-11-20T12:00:00Z}' old.img   as it was in the store at that time (UTC)\n  lsvd-fuse clone disk.img@#4711 old.img                      as it was after object 4711 (see inspect)\n\nNothing is copied: both share what neither has overwritten. The past is there until it is collected."
    )]
    Clone {
        /// The volume, and which point of its history: NAME, NAME@SNAPSHOT, NAME@{TIME} or NAME@#OBJECT
        #[arg(value_name = "NAME[@POINT]")]
        from: OsString,
        /// The new volume
        new: OsString,
    },
    /// Copy into a clone what it needs of its base, and cut it off from that
    #[command(
        after_help = "Example:\n  lsvd-fuse flatten copy.img      then the volume that it was cloned from can be deleted\n\nThe clone may be in use meanwhile; its own snapshots must be deleted before. Ctrl-C leaves off; what was copied need not be copied again."
    )]
    Flatten {
        /// The clone
        name: OsString,
    },
    /// Make what was written so far durable on the SSD, or in the store
    #[command(
        after_help = "Example:\n  lsvd-fuse flush disk.img --wait      returns when the store holds everything"
    )]
    Flush {
        /// The volume
        name: OsString,
        /// Wait until the store holds it
        #[arg(long)]
        wait: bool,
    },
    /// Look into a volume's parts and verify their checksums
    #[command(
        after_help = "Examples:\n  lsvd-fuse inspect disk.img                superblock, checkpoints, log\n  lsvd-fuse inspect disk.img --object 17    one object of the stream\n  lsvd-fuse inspect disk.img --map          where each extent lies"
    )]
    Inspect {
        /// The volume
        name: OsString,
        /// The object with this number
        #[arg(long, value_name = "SEQ", conflicts_with = "map")]
        object: Option<u64>,
        /// The map of the disk
        #[arg(long)]
        map: bool,
    },
    /// Give up writes in a local log that another host's writes have overtaken
    #[command(
        after_help = "Example:\n  lsvd-fuse discard-log disk.img\n\nWhat the log holds and the store does not is lost."
    )]
    DiscardLog {
        /// The volume
        name: OsString,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Keep a volume as it is now, with everything written before
    #[command(
        after_help = "Example:\n  lsvd-fuse snapshot create disk.img@monday\n\nWrites go on meanwhile. It returns when the store holds all of it; in a mount it is then the file .snapshots/disk.img/monday."
    )]
    Create {
        /// NAME@SNAPSHOT
        #[arg(value_name = "NAME@SNAPSHOT")]
        snapshot: OsString,
    },
    /// List the snapshots of a volume
    #[command(
        visible_alias = "ls",
        after_help = "Example:\n  lsvd-fuse snapshot list disk.img\n\nEXCLUSIVE is what would come free in the store if that one were deleted."
    )]
    List {
        /// The volume
        name: OsString,
    },
    /// Delete a snapshot; the room that it alone took up comes back
    #[command(
        visible_alias = "rm",
        after_help = "Example:\n  lsvd-fuse snapshot delete disk.img@monday\n\nRefused if it is protected, open, or has clones."
    )]
    Delete {
        /// NAME@SNAPSHOT
        #[arg(value_name = "NAME@SNAPSHOT")]
        snapshot: OsString,
    },
    /// Make a volume what it was when a snapshot was made; what was written since is gone
    #[command(
        after_help = "Example:\n  lsvd-fuse snapshot rollback disk.img@monday\n\nRefused while a program uses the volume. Other snapshots stay, also later ones."
    )]
    Rollback {
        /// NAME@SNAPSHOT
        #[arg(value_name = "NAME@SNAPSHOT")]
        snapshot: OsString,
    },
    /// Keep a snapshot from being deleted
    #[command(after_help = "Example:\n  lsvd-fuse snapshot protect disk.img@monday")]
    Protect {
        /// NAME@SNAPSHOT
        #[arg(value_name = "NAME@SNAPSHOT")]
        snapshot: OsString,
    },
    /// Let a snapshot be deleted again
    #[command(after_help = "Example:\n  lsvd-fuse snapshot unprotect disk.img@monday")]
    Unprotect {
        /// NAME@SNAPSHOT
        #[arg(value_name = "NAME@SNAPSHOT")]
        snapshot: OsString,
    },
}
