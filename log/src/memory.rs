//! A log in memory: the fake for tests, the log of an in-memory database, and the specification of what a log does.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use crate::base::{BaseHeader, BaseReader, BaseSink, BaseWriter};
use crate::commit::{EncodedCommit, Group};
use crate::commit_log::{CommitLog, CommitSource, LogReader};
use crate::error::{LogError, NotWritten};
use crate::position::{Epoch, LogId, Lsn};

/// A log that lives as long as the process.
#[derive(Debug)]
pub struct MemoryLog {
    id: LogId,
    epoch: Epoch,
    kept: Arc<Mutex<Kept>>,
    durable: watch::Sender<Lsn>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Commits up to here are trimmed away.
    trimmed: Lsn,
    commits: VecDeque<Arc<EncodedCommit>>,
    /// The base image's parts.
    base: Option<(Lsn, Vec<Bytes>)>,
}

impl Kept {
    fn appended(&self) -> Lsn {
        self.trimmed.advanced_by(self.commits.len() as u64)
    }
}

impl MemoryLog {
    /// An empty log.
    #[must_use]
    pub fn new(id: LogId) -> Self {
        Self { id, epoch: Epoch::new(1), kept: Arc::default(), durable: watch::Sender::new(Lsn::ORIGIN) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CommitLog for MemoryLog {
    fn id(&self) -> LogId {
        self.id
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn appended(&self) -> Lsn {
        self.kept().appended()
    }

    fn durable(&self) -> watch::Receiver<Lsn> {
        self.durable.subscribe()
    }

    fn earliest(&self) -> Lsn {
        self.kept().trimmed.next()
    }

    fn append(&self, epoch: Epoch, after: Lsn, group: &Group) -> Result<(), LogError> {
        let mut kept = self.kept();
        group.check_append(epoch, self.epoch, after, kept.appended())?;
        kept.commits.extend(group.commits.iter().cloned().map(Arc::new));
        Ok(())
    }

    fn make_durable(&self) -> Result<Lsn, LogError> {
        let appended = self.appended();
        self.durable.send_replace(appended);
        Ok(appended)
    }

    fn read_after(&self, after: Lsn) -> Result<LogReader, LogError> {
        let durable = *self.durable.borrow();
        if after > durable {
            return Err(LogError::BeyondDurable { after, durable });
        }
        let earliest = self.earliest();
        if after.next() < earliest {
            return Err(LogError::BelowRetained { after, earliest });
        }
        Ok(LogReader::new(after, self.durable(), Box::new(MemorySource(Arc::clone(&self.kept)))))
    }

    fn bytes_after(&self, after: Lsn) -> Result<u64, LogError> {
        let kept = self.kept();
        let durable = *self.durable.borrow();
        let behind = kept.commits.iter().filter(|commit| after < commit.lsn() && commit.lsn() <= durable);
        Ok(behind.map(|commit| commit.byte_len() as u64).sum())
    }

    fn base(&self) -> Option<Lsn> {
        self.kept().base.as_ref().map(|(lsn, _)| *lsn)
    }

    fn read_base(&self) -> Result<Option<BaseReader>, LogError> {
        let base = self.kept().base.clone();
        base.map(|(lsn, parts)| BaseReader::new(lsn, Box::new(parts.into_iter().map(Ok)))).transpose()
    }

    fn begin_base(&self, header: BaseHeader) -> Result<BaseWriter, LogError> {
        let (after, durable) = (header.lsn, *self.durable.borrow());
        if after > durable {
            return Err(LogError::BeyondDurable { after, durable });
        }
        let sink = MemorySink { kept: Arc::clone(&self.kept), lsn: header.lsn, parts: Vec::new() };
        Ok(BaseWriter::new(header, Box::new(sink)))
    }

    fn earliest_behind(&self, to: Lsn) -> Result<Lsn, LogError> {
        let durable = *self.durable.borrow();
        Ok(to.next().min(durable).max(self.earliest()))
    }

    fn trim(&self, to: Lsn) -> Result<Lsn, LogError> {
        let durable = *self.durable.borrow();
        let mut kept = self.kept();
        let base = kept.base.as_ref().map_or(Lsn::ORIGIN, |(lsn, _)| *lsn);
        if to > base {
            return Err(LogError::BeyondBase { to, base });
        }
        while kept.trimmed < to && kept.trimmed.next() < durable {
            kept.commits.pop_front();
            kept.trimmed = kept.trimmed.next();
        }
        Ok(kept.trimmed.next())
    }
}

struct MemorySink {
    kept: Arc<Mutex<Kept>>,
    lsn: Lsn,
    parts: Vec<Bytes>,
}

impl BaseSink for MemorySink {
    fn part(&mut self, part: &[u8]) -> Result<(), LogError> {
        self.parts.push(Bytes::copy_from_slice(part));
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), LogError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((later, _)) = kept.base.as_ref().filter(|(before, _)| *before > self.lsn) {
            let reason = NotWritten::Io(format!("there is a base image at lsn {later} already").into());
            return Err(LogError::NotWritten { reason });
        }
        kept.base = Some((self.lsn, self.parts));
        Ok(())
    }
}

struct MemorySource(Arc<Mutex<Kept>>);

impl CommitSource for MemorySource {
    fn check(&self) -> Result<(), LogError> {
        Ok(())
    }

    fn fetch(&mut self, lsn: Lsn) -> Result<Arc<EncodedCommit>, LogError> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let after = lsn.previous();
        let Some(index) = after.value().checked_sub(kept.trimmed.value()) else {
            return Err(LogError::BelowRetained { after, earliest: kept.trimmed.next() });
        };
        let index = usize::try_from(index).expect("as many commits as memory holds");
        Ok(Arc::clone(&kept.commits[index]))
    }
}
