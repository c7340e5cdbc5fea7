//! The threads of a volume open for writing: their beginning and their end.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::background::{Background, Duty};
use crate::batch::{Orders, Position, Sequencer};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::gc::Cleaner;
use crate::log::WriteLog;
use crate::poison::guard;
use crate::publish::Publisher;
use crate::volume::Volume;
use crate::writer::Writer;

/// How often a closing volume reports what is left.
const PROGRESS: Duration = Duration::from_millis(250);

/// How long it waits at most for what the last checkpoint condemns to be deleted.
const DELETE_WAIT: Duration = Duration::from_secs(10);

/// How a volume is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// Upload everything and leave a mark that nothing is missing.
    Drain,
    /// Make everything safe on the SSD and leave the rest of the upload to the next opening.
    Keep,
}

/// Starts the threads of a volume.
///
/// # Errors
/// The system starts no more threads; those already started are ended.
pub(crate) fn start(core: &Arc<Core>, log: Arc<WriteLog>, position: Position) -> Result<Writer> {
    let orders: Arc<Orders> = Arc::default();
    let condemned = core.maps.read().objects().condemned().collect();
    let cleaner = Cleaner::new(Arc::clone(core), Arc::clone(&orders), Arc::clone(&log), condemned);
    let writer = Writer {
        publisher: Publisher::new(Arc::clone(core)),
        parking: Arc::default(),
        orders,
        cleaner: Arc::new(cleaner),
        threads: Mutex::default(),
        resizing: Mutex::default(),
        share_lock: Mutex::default(),
        last_in_snapshot: Mutex::default(),
        log,
    };
    let started = start_each(core, &writer, position);
    if let Err(error) = started {
        stop_threads(&writer);
        return Err(error);
    }
    Ok(writer)
}

fn start_each(core: &Arc<Core>, writer: &Writer, position: Position) -> Result<()> {
    let volume = core.name();
    let spawn = |name: &'static str, body: Body, at_end: Box<dyn FnOnce() + Send>| {
        let (poison, volume) = (Arc::clone(&core.poison), Arc::clone(&volume));
        let guarded = Box::new(move || {
            guard(&poison, &volume, name, body);
            at_end();
        });
        let thread = core.platform.spawn(name, guarded);
        let thread = thread.map_err(|e| Error::local(name, "start the thread", e))?;
        writer.threads.lock().push(thread);
        Ok(())
    };
    let log = Arc::clone(&writer.log);
    let at_end = Arc::clone(&log);
    spawn(
        "lsvd-log",
        Box::new(move || log.run_flusher()),
        Box::new(move || at_end.refuse_flushes()),
    )?;

    let background = Arc::new(Background::new(Arc::clone(&core.platform)));
    let (orders, ending) = (Arc::clone(&writer.orders), Arc::clone(core));
    let sequencer = Sequencer::new(
        Arc::clone(core),
        Arc::clone(&writer.log),
        Arc::clone(&orders),
        Arc::clone(&writer.cleaner),
        Arc::clone(&background),
        position,
    );
    spawn(
        "lsvd-batch",
        Box::new(move || sequencer.run()),
        Box::new(move || orders.end(&ending.end_cause())),
    )?;

    let cleaner = Arc::clone(&writer.cleaner);
    let at_end = Arc::clone(&cleaner);
    let body = move || {
        let _member = background.join(Duty::Clean);
        cleaner.run()
    };
    spawn("lsvd-gc", Box::new(body), Box::new(move || at_end.stop()))?;

    let (parking, log) = (Arc::clone(&writer.parking), Arc::clone(&writer.log));
    let at_end = (Arc::clone(&parking), Arc::clone(&log));
    let publisher = writer.publisher.clone();
    let body = move || {
        parking.run(&log, &publisher);
        Ok(())
    };
    spawn("lsvd-park", Box::new(body), Box::new(move || at_end.0.refuse_all(&at_end.1)))
}

/// The work of a thread.
type Body = Box<dyn FnOnce() -> Result<()> + Send>;

fn stop_threads(writer: &Writer) {
    writer.parking.stop();
    writer.cleaner.stop();
    writer.orders.stop();
    writer.log.wake_tail();
    writer.log.stop_flusher();
    for thread in std::mem::take(&mut *writer.threads.lock()) {
        // A panic has poisoned the volume.
        let _ = thread.join();
    }
}

/// Closes a volume. `progress` is told how many bytes are left and may turn a drain into
/// [`Close::Keep`] by returning false. Returns the bytes left in the log.
///
/// # Errors
/// The volume failed before, or the SSD does now; [`Error::StaleLog`] if another host took it over
/// and its log holds what the store lacks. It is closed all the same.
pub(crate) fn close(
    volume: &Volume,
    how: Close,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<u64> {
    let Some(writer) = volume.writer_parts() else { return Ok(0) };
    let poison = &volume.core.poison;
    writer.parking.stop();
    writer.log.close_for_appends();
    // Also after the SSD failed: what is in memory still drains to the store.
    let drained = how == Close::Drain && drain(writer, progress);

    stop_threads(writer);
    if let Some(deposed) = poison.deposed() {
        return crate::deposed::close(&volume.name(), &writer.log, deposed);
    }
    poison.check()?;
    if drained {
        writer.log.mark_clean(writer.orders.committed_object())?;
    }
    writer.log.forget_memory();
    Ok(if drained { 0 } else { writer.log.backlog().0 })
}

/// Uploads everything and writes the last checkpoint; false if that was broken off.
fn drain(writer: &Writer, progress: &mut dyn FnMut(u64) -> bool) -> bool {
    writer.cleaner.close();
    let through = writer.log.last_seq();
    writer.drain_to(through);
    let go_on = |progress: &mut dyn FnMut(u64) -> bool| {
        progress(writer.log.backlog().0) && !writer.orders.ended()
    };
    while !writer.orders.wait_committed(through, PROGRESS) {
        if !go_on(progress) {
            return false;
        }
    }
    let asked = writer.orders.checkpoint(true);
    writer.log.wake_tail();
    while !writer.orders.wait_checkpoint(asked, PROGRESS) {
        if !go_on(progress) {
            return false;
        }
    }
    // What it condemns can wait for the next opening, if the store does not answer.
    writer.cleaner.wait_deleted(DELETE_WAIT);
    true
}
