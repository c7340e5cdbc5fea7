//! Making, finding and starting a log.
//!
//! The order of steps is what makes a crash at any of them harmless:
//! 1. [`LogOnDisk::set_pending`]: the nonce of the fence to come is durable.
//! 2. The caller creates the fence in the store and rolls forward.
//! 3. [`LogOnDisk::scan`]: what the log holds; nothing is changed but holes in memory.
//! 4. [`LogOnDisk::start`]: what only the memory held goes to the file and is synced; then the
//!    header with the new incarnation, twice; then the memory is stamped with it. Only then is
//!    there a [`WriteLog`] to append to.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::data::LogData;
use super::head::Head;
use super::header_pair::{self, HeaderPair};
use super::layout::Layout;
use super::memory::{Identity, Memory};
use super::scan::{Scan, ScanEnd, ScannedRecord};
use super::write_log::{Parts, WriteLog};
use crate::core::step_of;
use crate::error::{Error, Result};
use crate::format::{
    FenceId, LogHeader, LogId, LogPoint, Nonce, PickedHeader, RecordHead, RecordKind, ShortText,
    StoreId, VolumeTag,
};
use crate::platform::{AlignedBlock, LogFile, Platform};
use crate::poison::Poison;
use crate::units::{BLOCK_BYTES, Incarnation, Lba, LogPos, LogSeq, ObjectSeq};

/// What it takes to find or make a volume's log.
#[derive(Clone, Debug)]
pub(crate) struct LogParams {
    /// The machine.
    pub(crate) platform: Arc<dyn Platform>,
    /// Directory of the logs.
    pub(crate) dir: PathBuf,
    /// The volume's name, for messages.
    pub(crate) name: String,
    /// The volume.
    pub(crate) volume: uuid::Uuid,
    /// The store.
    pub(crate) store_id: StoreId,
    /// Size of a new ring.
    pub(crate) ring_bytes: u64,
    /// Size of a new window.
    pub(crate) window_bytes: u64,
}

impl LogParams {
    /// Where the log is.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.join(format!("{}.log", self.volume))
    }
}

/// A log that nobody appends to.
#[derive(Debug)]
pub(crate) struct LogOnDisk {
    params: LogParams,
    data: Arc<LogData>,
    headers: HeaderPair,
    /// The position up to which the file safely holds everything, if the memory survived.
    safe: Option<LogPos>,
    /// The same, once the memory was compared with the file.
    believed: OnceCell<Option<LogPos>>,
    write: bool,
}

/// How a log continues, as recovery decided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    /// The oldest record that the store does not hold.
    pub(crate) tail: LogPoint,
    /// Where the scan ended.
    pub(crate) end: ScanEnd,
    /// The number of the next record.
    pub(crate) next_seq: LogSeq,
    /// The fence that made this host the writer.
    pub(crate) fence: FenceId,
    /// The highest number known committed.
    pub(crate) committed: ObjectSeq,
    /// Size of the volume as of the newest record.
    pub(crate) size_sectors: u64,
}

impl LogOnDisk {
    /// Opens a volume's log; `None` if this host has none.
    ///
    /// # Errors
    /// It is damaged, of a newer version, or belongs to another store.
    pub(crate) fn open(params: &LogParams, write: bool) -> Result<Option<Self>> {
        let path = params.path();
        let opened = params.platform.open_log(&path, write);
        let Some(file) = opened.map_err(|e| Error::local(&path, "open", e))? else {
            return Ok(None);
        };
        let picked = header_pair::read(&*file, &path.display().to_string())?;
        check_owner(params, &path, &picked.newest)?;
        Self::assemble(params.clone(), file, picked, write).map(Some)
    }

    /// Makes a new, empty log, in place of one that may be there. Its first record will be
    /// `first`; `pending` is the nonce of the fence to come.
    ///
    /// # Errors
    /// No room on the SSD, or it fails.
    pub(crate) fn create(params: &LogParams, pending: Nonce, first: LogSeq) -> Result<Self> {
        let platform = &params.platform;
        let path = params.path();
        let layout = Layout::fitting(params.ring_bytes, params.window_bytes);
        let start = LogPoint { pos: LogPos::ZERO, seq: first };
        let header = LogHeader {
            generation: 1,
            log_id: LogId::new(platform.random()),
            volume: params.volume,
            store_id: params.store_id,
            ring_bytes: layout.ring_bytes(),
            buffer_bytes: layout.window_bytes(),
            incarnation: Incarnation::new(1),
            start,
            tail: start,
            durable: start,
            clean: true,
            committed: ObjectSeq::ZERO,
            fence: None,
            pending: Some(pending),
            host: ShortText::truncated(&platform.host_name()),
        };
        let block = header.encode();
        step_of(&**platform, "log.create")?;
        let file = platform
            .create_log(&path, layout.file_bytes(), &[block, block].concat())
            .map_err(|e| Error::local(&path, "allocate the write log (a smaller --log-size needs less room, or give --cache-dir another disk)", e))?;
        step_of(&**platform, "log.created")?;
        let picked = header_pair::read(&*file, &path.display().to_string())?;
        Self::assemble(params.clone(), file, picked, true)
    }

    fn assemble(
        params: LogParams,
        file: Arc<dyn LogFile>,
        picked: PickedHeader,
        write: bool,
    ) -> Result<Self> {
        let path = params.path();
        let header = &picked.newest;
        let what = path.display().to_string();
        let layout = Layout::recorded(header.ring_bytes, header.buffer_bytes)
            .ok_or_else(|| Error::damaged(&what, "its header has impossible sizes"))?;
        if file.bytes() < layout.file_bytes() {
            let detail = format!("it is {} of {} bytes", file.bytes(), layout.file_bytes());
            return Err(Error::damaged(&what, detail));
        }
        let (platform, id) = (&params.platform, header.log_id.get());
        let bytes = layout.memory_bytes();
        let buffer = if write {
            Some(platform.open_buffer(&params.dir, id, bytes))
        } else {
            platform.peek_buffer(&params.dir, id, bytes).transpose()
        };
        let memory = match buffer.transpose() {
            Ok(Some(buffer)) => Memory::new(buffer, layout),
            Ok(None) => Memory::absent(layout),
            Err(e) => return Err(Error::local(&path, "allocate the memory of", e)),
        };
        // Of a machine that does not say when it booted no memory is believed.
        let safe = Some(platform.boot_id()).filter(|boot| *boot != 0);
        let safe = safe.and_then(|boot_id| {
            memory.safe_if(Identity {
                log_id: id,
                boot_id,
                incarnation: header.incarnation,
                window_bytes: layout.window_bytes(),
            })
        });
        let tag = VolumeTag::of(params.volume);
        let data = Arc::new(LogData::new(what, file.clone(), layout, memory, tag, write));
        Ok(Self {
            params,
            data,
            headers: HeaderPair::new(file, picked),
            safe,
            believed: OnceCell::new(),
            write,
        })
    }

    /// What the log says about itself.
    pub(crate) fn header(&self) -> &LogHeader {
        self.headers.current()
    }

    /// Its bytes, for readers.
    pub(crate) fn data(&self) -> &Arc<LogData> {
        &self.data
    }

    /// The file.
    pub(crate) fn path(&self) -> PathBuf {
        self.params.path()
    }

    /// Whether a fence with this nonce is this log's.
    pub(crate) fn owns(&self, nonce: Nonce) -> bool {
        let header = self.header();
        header.pending == Some(nonce) || header.fence.is_some_and(|f| f.nonce == nonce)
    }

    /// Makes `nonce` durable as that of the fence to come, unless one is pending already:
    /// that one is used again, and returned.
    pub(crate) fn set_pending(&mut self, nonce: Nonce) -> Result<Nonce> {
        if let Some(pending) = self.header().pending {
            return Ok(pending);
        }
        self.step("log.pending")?;
        self.headers
            .write_both(|header| header.pending = Some(nonce))
            .map_err(|e| Error::local(self.path(), "write the header of", e))?;
        self.step("log.pending_synced")?;
        Ok(nonce)
    }

    /// Calls `each` for every record that the log holds, in order.
    pub(crate) fn scan(&self, each: impl FnMut(&ScannedRecord) -> Result<()>) -> Result<ScanEnd> {
        let safe = self.believed()?;
        let end = Scan::new(&self.data, self.header(), safe, self.write).run(each)?;
        if !self.write {
            // A reader finds what the file lacks in memory.
            let floor = safe.map(|safe| end.rescued.map_or(safe, |rescued| safe.min(rescued)));
            self.data.memory.raise_floor(floor.unwrap_or(LogPos::new(u64::MAX)));
        }
        Ok(end)
    }

    /// [`Self::safe`], if the memory can be believed.
    fn believed(&self) -> Result<Option<LogPos>> {
        if let Some(known) = self.believed.get() {
            return Ok(*known);
        }
        let scan = Scan::new(&self.data, self.header(), self.safe, false);
        let stale = self.safe.is_some() && scan.finds_stale_memory()?;
        if stale {
            log::warn!("{}: its memory is older than the file and is not used", self.data.path);
        }
        Ok(*self.believed.get_or_init(|| self.safe.filter(|_| !stale)))
    }

    /// Begins a new incarnation. Everything that the scan found is on the SSD first.
    pub(crate) fn start(mut self, start: Start, poison: Arc<Poison>) -> Result<WriteLog> {
        let path = self.path();
        let failed = |e| Error::local(&path, "write", e);
        let from = LogPos::new(start.end.pos.get().next_multiple_of(BLOCK_BYTES));
        self.step("log.recover")?;
        let safe = self.believed()?;
        self.end_block(start.end, from, safe.is_some()).map_err(failed)?;
        if let Some(safe) = safe {
            self.write_memory(self.rewrite_from(safe, start.end)?, from).map_err(failed)?;
        }
        self.data.file.sync().map_err(failed)?;
        self.step("log.recovered")?;

        let begin = LogPoint { pos: from, seq: start.next_seq };
        // With nothing left to upload the tail is where the new records begin.
        let tail = if start.tail.pos < start.end.pos { start.tail } else { begin };
        let host = ShortText::truncated(&self.params.platform.host_name());
        let incarnation = self.header().incarnation.next();
        self.headers
            .write_both(|header| {
                header.incarnation = incarnation;
                header.start = begin;
                header.tail = tail;
                header.durable = begin;
                header.clean = false;
                header.committed = start.committed;
                header.fence = Some(start.fence);
                header.pending = None;
                header.host = host.clone();
            })
            .map_err(failed)?;
        self.step("log.started")?;

        let identity = Identity {
            log_id: self.header().log_id.get(),
            boot_id: self.params.platform.boot_id(),
            incarnation: self.header().incarnation,
            window_bytes: self.header().buffer_bytes,
        };
        // SAFETY: the log has no user yet.
        unsafe { self.data.memory.stamp(identity, from) };
        self.data.raise_reuse(tail.pos);
        Ok(WriteLog::new(Parts {
            head: Head::new(self.data.layout, begin, tail.pos, start.size_sectors),
            platform: self.params.platform,
            volume: self.params.name,
            dir: self.params.dir,
            data: self.data,
            headers: self.headers,
            poison,
        }))
    }

    /// Fills the rest of the block in which the records end with a pad, so that the next ones
    /// follow without a gap. Only the blocks of a flush that was never answered end without
    /// one; rewriting them risks nothing.
    fn end_block(&self, end: ScanEnd, to: LogPos, in_memory: bool) -> std::io::Result<()> {
        let left = to.since(end.pos);
        if left == 0 {
            return Ok(());
        }
        let pad = RecordHead {
            seq: end.seq,
            total_len: left as u32,
            kind: RecordKind::Pad,
            lba: Lba::ZERO,
            sectors: 0,
            payload_len: 0,
            incarnation: self.header().incarnation,
            durable: LogSeq::ZERO,
        };
        let block_start = LogPos::new(to.get() - BLOCK_BYTES);
        let in_block = end.pos.since(block_start) as usize;
        let mut block = AlignedBlock([0; BLOCK_BYTES as usize]);
        let offset = self.data.layout.file_offset(block_start);
        if in_memory {
            // SAFETY: nobody appends to the log while it is opened.
            let held = unsafe { self.data.memory.bytes(block_start, block.0.len()) };
            block.0.copy_from_slice(held);
        } else {
            self.data.file.read_at(offset, &mut block.0)?;
        }
        let rest = block.0.get_mut(in_block..).unwrap_or_default();
        pad.encode_into(self.data.tag, &[], rest).map_err(std::io::Error::other)?;
        if in_memory {
            // SAFETY: as above.
            let held = unsafe { self.data.memory.bytes_mut(block_start, block.0.len()) };
            held.copy_from_slice(&block.0);
            return Ok(());
        }
        self.data.file.write_at(offset, &block.0, false)
    }

    /// Where writing the memory to the file has to begin: at what is not safe there, or
    /// further back, if something there was lost since and the memory still has the block.
    fn rewrite_from(&self, safe: LogPos, end: ScanEnd) -> Result<LogPos> {
        let Some(rescued) = end.rescued else { return Ok(safe) };
        let block = LogPos::new(rescued.get() - rescued.get() % BLOCK_BYTES);
        let held_from = end.pos.get().next_multiple_of(BLOCK_BYTES);
        if block.plus(self.data.layout.window_bytes()).get() < held_from {
            let detail = "a record is damaged, and the memory holds it only in part";
            return Err(self.data.damaged(rescued, detail));
        }
        log::warn!("{}: damaged from position {block} on; mended from memory", self.data.path);
        Ok(safe.min(block))
    }

    /// Writes what only the memory holds to the file.
    fn write_memory(&self, from: LogPos, to: LogPos) -> std::io::Result<()> {
        let mut at = from;
        while at < to {
            let len = to.since(at).min(self.data.layout.to_window_end(at));
            // SAFETY: nobody appends to the log while it is opened.
            let bytes = unsafe { self.data.memory.bytes(at, len as usize) };
            self.data.file.write_at(self.data.layout.file_offset(at), bytes, false)?;
            at = at.plus(len);
        }
        Ok(())
    }

    fn step(&self, name: &'static str) -> Result<()> {
        let reached = self.params.platform.failpoint(name);
        reached.map_err(|e| Error::local(self.path(), "write", e))
    }
}

fn check_owner(params: &LogParams, path: &Path, header: &LogHeader) -> Result<()> {
    if header.volume != params.volume {
        return Err(Error::damaged(path.display(), "it is the log of another volume"));
    }
    if header.store_id != params.store_id {
        return Err(Error::CacheDir {
            path: path.to_owned(),
            reason: "this log belongs to another store; use a cache directory of its own for \
                     each store"
                .to_owned(),
        });
    }
    Ok(())
}
