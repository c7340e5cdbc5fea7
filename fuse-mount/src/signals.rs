//! SIGTERM and SIGINT (and SIGHUP) as calls on a thread of their own.

use std::io;
use std::mem::MaybeUninit;
use std::thread;

/// The signals that ask the daemon to end.
const ENDING: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// Blocks the signals for this thread and all that it starts. Call it before the first one.
pub(crate) fn block() -> io::Result<()> {
    let set = ending_set();
    // SAFETY: `set` is initialised; the old mask is not asked for.
    let code = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}

/// Lets this thread get the signals again: the next one ends the process.
pub(crate) fn unblock() {
    let set = ending_set();
    // SAFETY: `set` is initialised; the old mask is not asked for. It cannot fail with these arguments.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut()) };
}

/// Calls `on_signal` for each signal, from a thread that waits for them.
pub(crate) fn watch(on_signal: impl Fn(&'static str) + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name("lsvd-signals".to_owned()).spawn(move || {
        let set = ending_set();
        loop {
            let mut signal = 0;
            // SAFETY: both point to initialised values that live over the call.
            let code = unsafe { libc::sigwait(&set, &mut signal) };
            match (code, signal) {
                (0, libc::SIGTERM) => on_signal("SIGTERM"),
                (0, libc::SIGINT) => on_signal("SIGINT"),
                (0, _) => on_signal("SIGHUP"),
                _ => return,
            }
        }
    })?;
    Ok(())
}

/// The signal that came since they were blocked, if one did.
pub(crate) fn pending() -> Option<&'static str> {
    let (set, now) = (ending_set(), libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: both point to initialised values that live over the call; nothing else is asked for.
    match unsafe { libc::sigtimedwait(&set, std::ptr::null_mut(), &now) } {
        libc::SIGTERM => Some("SIGTERM"),
        libc::SIGINT => Some("SIGINT"),
        libc::SIGHUP => Some("SIGHUP"),
        _ => None,
    }
}

fn ending_set() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` initialises what it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: initialised by the line above.
    let mut set = unsafe { set.assume_init() };
    for signal in ENDING {
        // SAFETY: `set` is initialised and the number is a signal's.
        unsafe { libc::sigaddset(&mut set, signal) };
    }
    set
}
