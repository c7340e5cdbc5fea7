//! The whole engine on a simulated machine that fails on purpose.
//!
//! ```text
//!   seeds      whole lives by seed            failpoints   a crash at every named step
//!   scripts    interleavings worth a name     damage       flipped bits, cut files
//!   hosts      two and three hosts              campaign     the same at random
//!   follow     readers of a live writer         catalog      create, rename, delete
//!   check      proofs, and planted damage       orphans      what belongs to no volume
//!   sharing    data of one volume in another    model        all that volumes can do, at random
//!      \            |            |            /
//!       world: boots, requests, crashes, checks  <- workload: what programs do
//!        |                 |               |
//!   platform + ssd        store          oracle + stamp: what must be there afterwards
//! ```
//! A seed decides requests, faults and the instant of the crash; the interleaving of threads is
//! the machine's. `LSVD_TEST_SCALE=n` runs n times as many seeds, `LSVD_SIM_SEED=n` just one.
//! No test waits for time to pass: it waits for an answer, and fails if there is none.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers as well"
)]

mod campaign;
mod catalog;
mod check;
mod clones_beside;
mod collect;
mod damage;
mod failpoints;
mod follow;
mod history;
mod hosts;
mod model;
mod oracle;
mod orphans;
mod platform;
mod pursuit;
mod pursuit_collected;
mod rng;
mod scripts;
mod seeds;
mod shared;
mod sharing;
mod ssd;
mod stamp;
mod store;
mod unaware;
mod workload;
mod world;
