//! A log in memory: the fake for tests, the log of an in-memory database, and the specification of what a log does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::commit::{EncodedCommit, Group};
use crate::commit_log::{CommitLog, CommitSource, LogReader};
use crate::error::LogError;
use crate::position::{Epoch, LogId, Lsn};

/// A log that lives as long as the process.
#[derive(Debug)]
pub struct MemoryLog {
    id: LogId,
    epoch: Epoch,
    commits: Arc<Mutex<Vec<Arc<EncodedCommit>>>>,
    durable: watch::Sender<Lsn>,
}

impl MemoryLog {
    /// An empty log.
    #[must_use]
    pub fn new(id: LogId) -> Self {
        Self { id, epoch: Epoch::new(1), commits: Arc::default(), durable: watch::Sender::new(Lsn::ORIGIN) }
    }

    fn commits(&self) -> MutexGuard<'_, Vec<Arc<EncodedCommit>>> {
        self.commits.lock().unwrap_or_else(PoisonError::into_inner)
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
        Lsn::new(self.commits().len() as u64)
    }

    fn durable(&self) -> watch::Receiver<Lsn> {
        self.durable.subscribe()
    }

    fn earliest(&self) -> Lsn {
        Lsn::ORIGIN.next()
    }

    fn append(&self, epoch: Epoch, after: Lsn, group: &Group) -> Result<(), LogError> {
        let mut commits = self.commits();
        let appended = Lsn::new(commits.len() as u64);
        group.check_append(epoch, self.epoch, after, appended)?;
        commits.extend(group.commits.iter().cloned().map(Arc::new));
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
        Ok(LogReader::new(after, self.durable(), Box::new(MemorySource(Arc::clone(&self.commits)))))
    }
}

struct MemorySource(Arc<Mutex<Vec<Arc<EncodedCommit>>>>);

impl CommitSource for MemorySource {
    fn check(&self) -> Result<(), LogError> {
        Ok(())
    }

    fn fetch(&mut self, lsn: Lsn) -> Result<Arc<EncodedCommit>, LogError> {
        let commits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let index = usize::try_from(lsn.previous().value()).expect("as many commits as memory holds");
        Ok(Arc::clone(&commits[index]))
    }
}
