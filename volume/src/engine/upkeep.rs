//! What an administrator asks for when something may be wrong: checks, and deletions by force.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;

use super::Engine;
use crate::check::{Check, CheckReport, Desk, Listener, ThisHost, check_all, check_one, mend};
use crate::error::{Error, Result};
use crate::name::VolumeName;
use crate::rate::Rate;

impl Engine {
    /// Proves one volume, or all of them and what belongs to none, from the store alone. Volumes may
    /// be in use meanwhile, here and elsewhere. `listener` hears how far it is and may stop it; the
    /// report is then not complete.
    ///
    /// # Errors
    /// There is none of that name, nothing may be changed though it is to repair, or the store fails.
    /// What is wrong with a volume is in the report.
    pub fn check(
        &self,
        name: Option<&VolumeName>,
        options: Check,
        listener: Listener<'_>,
    ) -> Result<CheckReport> {
        if options.repair {
            self.check_may_change(name.map_or("all volumes", VolumeName::as_str))?;
        }
        let rate = options.bytes_per_s.map(Rate::new);
        let desk = Desk::new(Arc::clone(&self.around.platform), self.store_url(), rate);
        desk.tell(&mut *listener);
        let checked = thread::scope(|scope| {
            let work = || {
                let _at_work = desk.at_work();
                self.check_at(name, &options, &desk)
            };
            let worker = thread::Builder::new().name("lsvd-check".to_owned());
            let worker = worker
                .spawn_scoped(scope, work)
                .map_err(|e| Error::local("lsvd-check", "start the thread", e))?;
            desk.listen(listener);
            worker.join().unwrap_or_else(|panic| resume_unwind(panic))
        });
        match checked {
            Err(Error::Closing(_)) if desk.is_stopped() => {}
            checked => checked?,
        }
        Ok(desk.into_report())
    }

    fn check_at(&self, name: Option<&VolumeName>, options: &Check, desk: &Desk) -> Result<()> {
        match name {
            Some(name) => check_one(&self.patient, &self.catalog, name, options, desk),
            None => self.check_all(options, desk),
        }
    }

    fn check_all(&self, options: &Check, desk: &Desk) -> Result<()> {
        let now = self.around.platform.unix_millis();
        let cures = check_all(&self.patient, &self.catalog, options, now, desk)?;
        if !options.repair {
            cures.into_iter().for_each(|(finding, _)| desk.found(finding));
            return Ok(());
        }
        let _alone = self.transition.lock();
        let here = ThisHost {
            now_ms: now,
            is_open: &|uuid| self.writers.lock().contains_key(&uuid),
            has_log: &|name, uuid| self.has_log(name, uuid),
            forget: &|name, uuid| self.forget(name, uuid),
        };
        mend(&self.patient, &self.catalog, cures, &here, desk)
    }

    /// As [`Self::delete`], also if the volume's superblock is damaged or missing.
    ///
    /// # Errors
    /// As [`Self::delete`]; also if its name record is damaged.
    pub fn delete_damaged(&self, name: &VolumeName) -> Result<()> {
        self.check_may_write(name)?;
        let _alone = self.transition(name)?;
        if let Some(open) = self.opened(name) {
            self.check_closed(name, open.uuid())?;
        }
        self.delete_found(name, &self.catalog.condemn(name)?)
    }
}
