//! What readers of a log on disk share with whoever writes it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::base;
use super::directory::{Directory, Identity, SEGMENT_HEADER_BYTES};
use super::index::Index;
use super::manifest::Manifest;
use super::reader::SegmentSource;
use crate::base::BaseReader;
use crate::chain::Chain;
use crate::commit_log::{LogReader, Parent};
use crate::env::Access;
use crate::error::LogError;
use crate::frame::{self, FRAME_HEADER_BYTES, FrameKind};
use crate::position::{LogId, Lsn, SegmentId};
use crate::tail::TailCache;

/// The readable part of a log: up to where it is durable, and where things lie in it.
pub(super) struct Reading {
    pub(super) directory: Directory,
    pub(super) log: LogId,
    pub(super) parents: Vec<Parent>,
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
        index: Index,
        tail_bytes_max: usize,
        durable: Lsn,
        durable_end: (SegmentId, u64),
        manifest: &Manifest,
    ) -> Self {
        let identity = manifest.identity();
        let (announce, durable) = watch::channel(durable);
        Self {
            directory,
            log: manifest.log,
            parents: manifest.parents.clone(),
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

    /// The last commit that is complete before a segment, by its first frame, and whether the segment begins between two commits;
    /// `None` when nothing is in it yet.
    pub(super) fn complete_before(&self, id: SegmentId) -> Result<Option<(Lsn, bool)>, LogError> {
        let directory = &self.directory;
        let path = directory.segment_path(id);
        let file = directory.open(&path, Access::Read)?;
        let mut bytes = [0; FRAME_HEADER_BYTES];
        file.read_at(&mut bytes, SEGMENT_HEADER_BYTES).map_err(directory.failed("read", &path))?;
        let seed = self.identity.seed();
        let checked = frame::decode_header(seed, SEGMENT_HEADER_BYTES, &bytes).ok();
        let header = checked.map(|checked| checked.header).filter(|header| header.segment == id);
        Ok(header.map(|header| {
            let continues = header.kind == FrameKind::Commit && !header.is_first;
            (Chain::complete_before(&header), !continues)
        }))
    }

    /// About how many bytes of durable commits lie behind `after`.
    pub(super) fn bytes_after(&self, after: Lsn) -> Result<u64, LogError> {
        let (active, end) = *self.durable_end();
        let mut bytes = 0;
        for id in (self.first_segment().value()..=active.value()).rev().map(SegmentId::new) {
            let length = if id == active { end } else { self.segment_bytes(id)? };
            let begins_before = match id == active && end <= SEGMENT_HEADER_BYTES {
                true => None,
                false => self.complete_before(id)?,
            };
            if begins_before.is_none_or(|(complete, _)| complete > after) {
                bytes += length.saturating_sub(SEGMENT_HEADER_BYTES);
                continue;
            }
            let place = self.index().nearest(id, after.next());
            let from = place.map_or(SEGMENT_HEADER_BYTES, |place| place.offset);
            return Ok(bytes + length.saturating_sub(from));
        }
        Ok(bytes)
    }

    fn segment_bytes(&self, id: SegmentId) -> Result<u64, LogError> {
        let path = self.directory.segment_path(id);
        let file = self.directory.open(&path, Access::Read)?;
        file.byte_len().map_err(self.directory.failed("look at", &path))
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
