//! `lsvd-fuse`: log-structured virtual disks as files of a FUSE mount.
//!
//! ```text
//!  cli ── config ── commands/* ──┬── control/client ──(socket)── control/server ─┐
//!                                └── the engine, opened for one command          │
//!  commands/mount ── daemonize ── daemon ── fs/fuser_edge ── fs ── fs/volumes ───┴── lsvd-volume
//! ```
//! `fs/volumes` is what a mount and a command both act through, so a command does the same
//! thing whether a daemon serves the store or not. Only `fs/fuser_edge` names the FUSE library.

mod await_store;
mod cli;
mod commands;
mod config;
mod control;
mod daemon;
mod daemonize;
mod exit;
mod fs;
mod moment;
mod mounts;
mod output;
mod schedule;
mod signals;
mod sizes;
mod store_url;
mod users;

fn main() -> std::process::ExitCode {
    match cli::parse() {
        Ok(cli) => match commands::run(cli) {
            Ok(()) => std::process::ExitCode::SUCCESS,
            Err(error) => exit::report(&error),
        },
        Err(code) => code,
    }
}
