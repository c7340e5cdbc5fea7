//! How bytes of a volume are written and discarded; what is no whole sectors is read, patched and written
//! back, with the range locked.

use std::sync::Arc;

use super::{TICK, Volume};
use crate::deadline::Deadline;
use crate::error::Result;
use crate::health::count;
use crate::log::{Entry, Pass, Refused, WriteLog};
use crate::park::{Request, write_entries};
use crate::read::{Patience, covering};
use crate::units::{Extent, Lba, SECTOR_BYTES};
use crate::writer::Writer;

impl Volume {
    /// Writes `data`; past the end is [`crate::Error::OutOfRange`]. When `done` is called with `Ok`
    /// the data survives the process; a write of up to 1 MiB is whole or absent after a crash.
    pub fn write(
        self: &Arc<Self>,
        offset: u64,
        data: &[u8],
        done: impl FnOnce(Result<()>) + Send + 'static,
    ) {
        let writer = match self.check_range(offset, data.len() as u64) {
            Ok(writer) => writer,
            Err(error) => return done(Err(error)),
        };
        if data.is_empty() {
            return done(Ok(()));
        }
        count(&self.core.health.writes, 1);
        count(&self.core.health.write_bytes, data.len() as u64);
        if !offset.is_multiple_of(SECTOR_BYTES) || !data.len().is_multiple_of(SECTOR_BYTES as usize)
        {
            let (volume, data) = (Arc::clone(self), data.to_vec());
            return self.pool.remote(move || done(volume.write_unaligned(offset, &data)));
        }
        let start = Lba::new(offset / SECTOR_BYTES);
        for entry in write_entries(start, data) {
            match writer.publisher.append(&writer.log, entry, Pass::Ordinary) {
                Ok(_) => {}
                Err(Refused::Failed(error)) => return done(Err(error)),
                Err(Refused::Wait(_)) => {
                    let Entry::Write { start: from, .. } = entry else { continue };
                    let skip = (from.since(start) * SECTOR_BYTES) as usize;
                    let data = data.get(skip..).unwrap_or_default().to_vec();
                    let request = Request::Write { start: from, data, done: 0 };
                    let deadline = Deadline::start(&self.core);
                    return writer.parking.park(&writer.log, request, deadline, Box::new(done));
                }
            }
        }
        writer.log.write_ahead();
        done(Ok(()));
    }

    /// Discards a range: it reads as zeroes afterwards.
    pub fn trim(
        self: &Arc<Self>,
        offset: u64,
        len: u64,
        done: impl FnOnce(Result<()>) + Send + 'static,
    ) {
        let writer = match self.check_range(offset, len) {
            Ok(writer) => writer,
            Err(error) => return done(Err(error)),
        };
        if len == 0 {
            return done(Ok(()));
        }
        count(&self.core.health.trims, 1);
        let aligned = offset.is_multiple_of(SECTOR_BYTES) && len.is_multiple_of(SECTOR_BYTES);
        let Some(extent) = covering(offset, len).filter(|_| aligned) else {
            let volume = Arc::clone(self);
            return self.pool.remote(move || done(volume.trim_unaligned(offset, len)));
        };
        match writer.publisher.append(&writer.log, Entry::Trim(extent), Pass::Ordinary) {
            Ok(_) => done(Ok(())),
            Err(Refused::Failed(error)) => done(Err(error)),
            Err(Refused::Wait(_)) => {
                let (request, deadline) =
                    (Request::Trim(Some(extent)), Deadline::start(&self.core));
                writer.parking.park(&writer.log, request, deadline, Box::new(done));
            }
        }
    }

    /// Reads the sectors at the edges, patches and writes whole sectors, with the range locked
    /// against everybody else from the read to the publication.
    fn write_unaligned(&self, offset: u64, data: &[u8]) -> Result<()> {
        let writer = self.writer()?;
        let piece = crate::format::log_record::PAYLOAD_MAX as usize - 2 * SECTOR_BYTES as usize;
        let mut at = offset;
        for part in data.chunks(piece) {
            self.write_unaligned_piece(writer, at, part)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    fn write_unaligned_piece(&self, writer: &Writer, offset: u64, data: &[u8]) -> Result<()> {
        let Some(cover) = covering(offset, data.len() as u64) else { return Ok(()) };
        let lock = RangeLock::take(writer, cover)?;
        let mut sectors = vec![0; cover.bytes() as usize];
        let last = cover.end().get() - 1;
        for edge in [cover.start().get(), last] {
            let at = ((edge - cover.start().get()) * SECTOR_BYTES) as usize;
            let sector = Extent::new(Lba::new(edge), 1).zip(sectors.get_mut(at..at + 512));
            if let Some((extent, out)) = sector {
                let read = self.reader.read(extent, out, Patience::Full);
                read.map_err(|error| writer.explain(&self.core, error))?;
            }
        }
        let skip = (offset - cover.start().get() * SECTOR_BYTES) as usize;
        if let Some(middle) = sectors.get_mut(skip..skip + data.len()) {
            middle.copy_from_slice(data);
        }
        let entry = Entry::Write { start: cover.start(), data: &sectors };
        self.append_patiently(writer, entry, Pass::Holder(lock.id)).map(|_| ())
    }

    fn trim_unaligned(&self, offset: u64, len: u64) -> Result<()> {
        let writer = self.writer()?;
        let end = offset + len;
        let inner_start = offset.next_multiple_of(SECTOR_BYTES).min(end);
        let inner_end = (end - end % SECTOR_BYTES).max(inner_start);
        for (from, to) in [(offset, inner_start), (inner_end, end)] {
            if from < to {
                self.write_unaligned(from, &vec![0; (to - from) as usize])?;
            }
        }
        if let Some(inner) = covering(inner_start, inner_end - inner_start) {
            self.append_patiently(writer, Entry::Trim(inner), Pass::Waited)?;
        }
        Ok(())
    }
}

/// A locked range of sectors.
struct RangeLock<'a> {
    log: &'a WriteLog,
    id: u64,
}

impl<'a> RangeLock<'a> {
    fn take(writer: &'a Writer, range: Extent) -> Result<Self> {
        loop {
            writer.publisher.check()?;
            if let Some(id) = writer.log.lock_range(range) {
                return Ok(Self { log: &writer.log, id });
            }
            writer.log.wait_for_room(TICK);
        }
    }
}

impl Drop for RangeLock<'_> {
    fn drop(&mut self) {
        self.log.unlock(self.id);
    }
}
