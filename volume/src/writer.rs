//! What a volume open for writing has besides: the log, and the threads that empty it.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;

use crate::batch::Orders;
use crate::core::Core;
use crate::deposed;
use crate::error::Error;
use crate::gc::Cleaner;
use crate::log::WriteLog;
use crate::park::Parking;
use crate::publish::Publisher;
use crate::units::LogSeq;

/// See the module.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) log: Arc<WriteLog>,
    pub(crate) orders: Arc<Orders>,
    pub(crate) cleaner: Arc<Cleaner>,
    pub(crate) parking: Arc<Parking>,
    pub(crate) publisher: Publisher,
    pub(crate) threads: Mutex<Vec<JoinHandle<()>>>,
    /// Held by a resize, so that two are published in the order of their records.
    pub(crate) resizing: Mutex<()>,
    /// Held while data of other volumes comes to be shared, and while a clone leaves its base.
    pub(crate) share_lock: Mutex<()>,
    /// The last record that a snapshot contains, by its identity, as far as it is known.
    pub(crate) last_in_snapshot: Mutex<HashMap<u64, LogSeq>>,
}

impl Writer {
    /// Asks for everything up to `seq` to be uploaded soon.
    pub(crate) fn drain_to(&self, seq: LogSeq) {
        self.orders.drain_to(seq);
        self.log.wake_tail();
    }

    /// What a read's `error` means: what is missing may have been collected by a host that has the
    /// volume now. May wait for the store.
    pub(crate) fn explain(&self, core: &Core, error: Error) -> Error {
        let error = deposed::explain(core, self.orders.committed_object(), error);
        if core.poison.deposed().is_some() {
            // Its threads end.
            self.log.wake_tail();
        }
        error
    }
}
