//! What readers of a log on disk share with whoever writes it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::base;
use super::directory::{Directory, Identity};
use super::index::Index;
use super::manifest::Manifest;
use super::reader::SegmentSource;
use crate::base::BaseReader;
use crate::commit_log::LogReader;
use crate::error::LogError;
use crate::position::{Lsn, SegmentId};
use crate::tail::TailCache;

/// The readable part of a log: up to where it is durable, and where things lie in it.
pub(super) struct Reading {
    pub(super) directory: Directory,
    pub(super) identity: Identity,
    index: Mutex<Index>,
    tail: Mutex<TailCache>,
    /// Up to where the active segment, and with it all before it, is durable.
    durable_end: Mutex<(SegmentId, u64)>,
    pub(super) durable: watch::Receiver<Lsn>,
    /// Moves `durable`, and closes it when the log is closed.
    announce: Mutex<Option<watch::Sender<Lsn>>>,
    poison: Mutex<Option<Arc<str>>>,
    /// The first segment that is kept, and the last commit that is trimmed away.
    first: Mutex<(SegmentId, Lsn)>,
    base: Mutex<Option<Lsn>>,
}

impl Reading {
    pub(super) fn new(
        directory: Directory,
        identity: Identity,
        index: Index,
        tail_bytes_max: usize,
        durable: Lsn,
        durable_end: (SegmentId, u64),
        manifest: &Manifest,
    ) -> Self {
        let (announce, durable) = watch::channel(durable);
        Self {
            directory,
            identity,
            index: Mutex::new(index),
            tail: Mutex::new(TailCache::new(tail_bytes_max)),
            durable_end: Mutex::new(durable_end),
            durable,
            announce: Mutex::new(Some(announce)),
            poison: Mutex::new(None),
            first: Mutex::new((manifest.first, manifest.trimmed)),
            base: Mutex::new(manifest.base),
        }
    }

    pub(super) fn read_base(&self) -> Result<Option<BaseReader>, LogError> {
        self.check_poison()?;
        let base = *self.base();
        base.map(|lsn| base::read(&self.directory, self.identity, lsn)).transpose()
    }

    /// Commits up to `trimmed` are gone, and the segments before `first` about to go.
    pub(super) fn note_trimmed(&self, first: SegmentId, trimmed: Lsn) {
        *self.first() = (first, trimmed);
        self.index().forget_before(first);
    }

    pub(super) fn read_after(reading: &Arc<Self>, after: Lsn) -> Result<LogReader, LogError> {
        reading.check_poison()?;
        let durable = *reading.durable.borrow();
        if after > durable {
            return Err(LogError::BeyondDurable { after, durable });
        }
        let earliest = reading.earliest();
        if after.next() < earliest {
            return Err(LogError::BelowRetained { after, earliest });
        }
        let source = SegmentSource::new(Arc::clone(reading));
        Ok(LogReader::new(after, reading.durable.clone(), Box::new(source)))
    }

    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tail(&self) -> MutexGuard<'_, TailCache> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn durable_end(&self) -> MutexGuard<'_, (SegmentId, u64)> {
        self.durable_end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes of a segment are durable and will never change.
    pub(super) fn durable_bytes(&self, segment: SegmentId) -> u64 {
        let (active, offset) = *self.durable_end();
        match segment.cmp(&active) {
            std::cmp::Ordering::Less => u64::MAX,
            std::cmp::Ordering::Equal => offset,
            std::cmp::Ordering::Greater => 0,
        }
    }

    pub(super) fn active_segment(&self) -> SegmentId {
        self.durable_end().0
    }

    pub(super) fn base(&self) -> MutexGuard<'_, Option<Lsn>> {
        self.base.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn first(&self) -> MutexGuard<'_, (SegmentId, Lsn)> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn first_segment(&self) -> SegmentId {
        self.first().0
    }

    pub(super) fn earliest(&self) -> Lsn {
        self.first().1.next()
    }

    pub(super) fn check_poison(&self) -> Result<(), LogError> {
        match &*self.poison.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some(cause) => Err(LogError::Poisoned { cause: Arc::clone(cause) }),
        }
    }

    /// Poisons the log: nothing is known of what was being written, and nothing more is accepted or shown.
    pub(super) fn poison_with(&self, error: &std::io::Error) -> LogError {
        let mut poison = self.poison.lock().unwrap_or_else(PoisonError::into_inner);
        let cause = poison.get_or_insert_with(|| error.to_string().into());
        tracing::error!(%cause, "the log is poisoned");
        let error = LogError::Poisoned { cause: Arc::clone(cause) };
        drop(poison);
        // Who waits for more must hear of it.
        self.announce(|_| {});
        error
    }

    /// Moves the durable end, or wakes those who wait for it.
    pub(super) fn announce(&self, change: impl FnOnce(&mut Lsn)) {
        if let Some(durable) = &*self.announce.lock().unwrap_or_else(PoisonError::into_inner) {
            durable.send_modify(change);
        }
    }

    /// Nothing more will come: readers, who may outlive the log, come to its end.
    pub(super) fn close(&self) {
        self.announce.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
