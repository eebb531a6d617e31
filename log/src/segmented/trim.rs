//! Trimming: whole segments at the beginning of the log go, once a base image holds what their commits amount to.

use std::sync::PoisonError;

use super::Shared;
use super::manifest::Sealed;
use crate::env::Access;
use crate::error::LogError;
use crate::position::{Lsn, SegmentId};

impl Shared {
    /// Gives up all whole segments that hold no commit after `to`, and returns the earliest commit that is left.
    pub(super) fn trim(&self, to: Lsn) -> Result<Lsn, LogError> {
        self.reading.check_poison()?;
        // One at a time. Who appends may wait for the supply, and so that is held for a moment only.
        let _trimming = self.trimming.lock().unwrap_or_else(PoisonError::into_inner);
        let base = self.supply().manifest.base.unwrap_or(Lsn::ORIGIN);
        if to > base {
            return Err(LogError::BeyondBase { to, base });
        }
        let from = self.reading.first_segment();
        let Some((first, trimmed)) = self.last_cut(to)? else { return Ok(self.reading.earliest()) };
        {
            let (sealed, active) = self.newest_sealed();
            let mut supply = self.supply();
            let known = &mut supply.manifest;
            (known.first, known.trimmed, known.sealed, known.active) =
                (first, trimmed, sealed, active.max(known.active));
            known.store_in_all_generations(&self.reading.directory)?;
        }
        self.reading.note_trimmed(first, trimmed);
        let (mut gone, mut recycled) = (0, 0);
        for id in (from.value()..first.value()).map(SegmentId::new) {
            gone += 1;
            if self.spare(id) {
                recycled += 1;
            } else {
                // What cannot be removed now is removed when the log is opened again.
                let _ = self.reading.directory.disk.remove(&self.reading.directory.segment_path(id));
            }
        }
        // What is found there after a crash is removed then.
        let _ = self.reading.directory.sync();
        tracing::info!(trimmed = trimmed.value(), segments = gone, recycled, "the log was trimmed");
        Ok(trimmed.next())
    }

    /// What would be the earliest commit that is left.
    pub(super) fn earliest_behind(&self, to: Lsn) -> Result<Lsn, LogError> {
        self.reading.check_poison()?;
        Ok(self.last_cut(to)?.map_or_else(|| self.reading.earliest(), |(_, trimmed)| trimmed.next()))
    }

    /// The last segment known to be sealed, and the one in use.
    fn newest_sealed(&self) -> (Option<Sealed>, SegmentId) {
        // The writer knows of those that it has sealed itself. Its lock comes before the supply's.
        let (sealed, active) = {
            let writing = self.writing();
            (writing.writer.sealed(), writing.writer.active())
        };
        let known = self.supply().manifest.sealed;
        (sealed.into_iter().chain(known).max_by_key(|sealed| sealed.segment), active)
    }

    /// The last place between two sealed segments behind which every commit after `to` lies, and not behind the last durable one: the
    /// segment behind it, and the last commit before it.
    fn last_cut(&self, to: Lsn) -> Result<Option<(SegmentId, Lsn)>, LogError> {
        let first = self.reading.first_segment();
        let last_sealed = self.newest_sealed().0.map(|sealed| sealed.segment);
        let durable = *self.reading.durable.borrow();
        let mut cut = None;
        // Behind the last sealed segment comes the active one.
        for id in (first.value()..=last_sealed.map_or(0, SegmentId::value)).map(|id| SegmentId::new(id).next()) {
            match self.reading.complete_before(id)? {
                Some((complete, _)) if complete > to || complete >= durable => break,
                Some((complete, is_between_commits)) if is_between_commits => cut = Some((id, complete)),
                _ => {}
            }
        }
        Ok(cut)
    }

    /// Puts the file of a trimmed segment aside, to become a segment again, unless there are enough, or its length is not that of the
    /// segments to come.
    fn spare(&self, id: SegmentId) -> bool {
        let directory = &self.reading.directory;
        let path = directory.segment_path(id);
        let bytes = directory
            .open(&path, Access::Read)
            .and_then(|file| file.byte_len().map_err(directory.failed("look at", &path)));
        let Some(bytes) = bytes.ok().filter(|bytes| *bytes == self.options.segment_bytes_max) else { return false };
        let mut supply = self.supply();
        // A temporary file: after a crash nobody knows of it.
        let spare = directory.path.join(format!("spare-{id:020}.tmp"));
        let is_put_aside = supply.spares.len() < SPARES_MAX && directory.disk.rename(&path, &spare).is_ok();
        if is_put_aside {
            supply.spares.push((spare, bytes));
        }
        is_put_aside
    }
}

/// More are not needed: segments are prepared one ahead.
const SPARES_MAX: usize = 2;
