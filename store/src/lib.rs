//! Object stores: where a volume's stream of numbered objects lives.
//!
//! One trait, [`ObjectStore`], says what the engine may ask of a store; backends
//! ([`dir`], [`s3`], [`mem`] and, with the feature `rados`, `rados`) implement it and decorators
//! ([`retry`], [`CountingStore`], [`faulty`]) wrap it.
//! Nothing here knows about sectors, volumes or the format of an object.
//!
//! ```text
//!   open("file:///srv/vols", ..)    tests and simulation
//!            |                              |
//!       RetryStore                     FaultyStore
//!            |                              |
//!      CountingStore                  any ObjectStore
//!            |
//!   DirStore | S3Store | RadosStore | MemStore
//! ```
//!
//! Every backend and decorator passes the same suite, `tests/contract`.

mod counting;
pub mod dir;
mod error;
pub mod faulty;
mod key;
pub mod mem;
mod object_store;
mod options;
pub mod parallel;
mod parts;
#[cfg(feature = "rados")]
pub mod rados;
pub mod retry;
pub mod s3;
mod url;

pub use counting::{CountingStore, Grouping, OpTraffic, Requests, Traffic};
pub use dir::DirStore;
pub use error::{Source, StoreError, StoreResult};
pub use faulty::{Fault, FaultPlan, FaultyStore, Gate, Odds, Op, OpCount, Point, Rule};
pub use key::{BadKey, Key};
pub use mem::MemStore;
pub use object_store::{ByteRange, Front, ListPage, ObjectMeta, ObjectStore, Version};
pub use options::{RadosOptions, S3Options, StoreOptions, Timeouts};
#[cfg(feature = "rados")]
pub use rados::RadosStore;
pub use retry::{RetryPolicy, RetryStore, Sleeper, Stop, SystemSleeper};
pub use s3::S3Store;
pub use url::{open, open_existing};
