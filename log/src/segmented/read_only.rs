//! A log that is only read: on a read-only file system, or on purpose.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

use super::SegmentedOptions;
use super::directory::{Directory, SEGMENT_HEADER_BYTES};
use super::reading::Reading;
use super::recovery::Survey;
use crate::base::BaseReader;
use crate::commit::Group;
use crate::commit_log::{CommitLog, LogReader, Parent};
use crate::env::Env;
use crate::error::LogError;
use crate::position::{Epoch, LogId, Lsn};

/// A log in a directory, open for reading, as it was when it was opened. Nothing is written, not even a lock.
///
/// What cannot be written again and synced cannot be made sure of: it ends at the last commit that a later frame, a clean close or a
/// witness proves to have been durable, though more may be there.
pub struct ReadOnlyLog {
    reading: Arc<Reading>,
    epoch: Epoch,
}

impl ReadOnlyLog {
    /// Opens the log in `path` for reading.
    ///
    /// # Errors
    /// [`LogError::Missing`] when there is none, [`LogError::Damaged`], [`LogError::Newer`], [`LogError::Io`].
    pub fn open(env: &Env, path: &Path, options: &SegmentedOptions) -> Result<Self, LogError> {
        let directory = Directory { disk: Arc::clone(&env.disk), path: path.to_owned() };
        let mut witness = Lsn::ORIGIN;
        let survey = Survey::of(&directory, |log| {
            witness = options.witness_of(log);
            witness
        })?;
        let proven = survey.synced().max(witness);
        let Survey { manifest, tail, .. } = survey;
        let durable = tail.complete.min(proven);
        // Whole segments are taken as they are: what lies behind `durable` in them is not asked for.
        let last = tail.active.map(|active| active.id).or(tail.sealed.map(|sealed| sealed.segment));
        let end = last.map_or((manifest.first, SEGMENT_HEADER_BYTES), |last| (last.next(), SEGMENT_HEADER_BYTES));
        let reading = Reading::new(directory, tail.index(), options.tail_bytes_max, durable, end, &manifest);
        Ok(Self { reading: Arc::new(reading), epoch: tail.epoch })
    }
}

impl CommitLog for ReadOnlyLog {
    fn id(&self) -> LogId {
        self.reading.log
    }

    fn parents(&self) -> &[Parent] {
        &self.reading.parents
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn appended(&self) -> Lsn {
        *self.reading.durable.borrow()
    }

    fn durable(&self) -> watch::Receiver<Lsn> {
        self.reading.durable.clone()
    }

    fn earliest(&self) -> Lsn {
        self.reading.earliest()
    }

    fn append(&self, _epoch: Epoch, _after: Lsn, _group: &Group) -> Result<(), LogError> {
        Err(LogError::ReadOnly)
    }

    fn make_durable(&self) -> Result<Lsn, LogError> {
        Ok(self.appended())
    }

    fn read_after(&self, after: Lsn) -> Result<LogReader, LogError> {
        Reading::read_after(&self.reading, after)
    }

    fn bytes_after(&self, after: Lsn) -> Result<u64, LogError> {
        self.reading.bytes_after(after)
    }

    fn base(&self) -> Option<Lsn> {
        *self.reading.base()
    }

    fn read_base(&self) -> Result<Option<BaseReader>, LogError> {
        self.reading.read_base()
    }

    fn trim(&self, _to: Lsn) -> Result<Lsn, LogError> {
        Err(LogError::ReadOnly)
    }
}

impl Drop for ReadOnlyLog {
    fn drop(&mut self) {
        self.reading.close();
    }
}

impl std::fmt::Debug for ReadOnlyLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReadOnlyLog {} in {}", self.reading.log, self.reading.directory.path.display())
    }
}
