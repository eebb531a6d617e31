//! The contract of a commit log, and reading from one.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::base::{BaseHeader, BaseReader, BaseWriter};
use crate::commit::{EncodedCommit, Group};
use crate::error::LogError;
use crate::position::{Epoch, LogId, Lsn};

/// An ordered, append-only log of commits.
///
/// ```text
///            earliest           durable            appended
///   ············|==================|------------------|      positions rise to the right
///   trimmed     | readable         | not readable     |
///   away, in    | never vanishes   | may vanish with  |
///   the base    |                  | the process      |
/// ```
///
/// - `append` puts a group behind `appended`: commits are in the log's buffer then, not durable.
/// - `make_durable` moves `durable` up to `appended`, with one sync.
/// - Readers see commits up to `durable` and no further; it never goes back.
/// - Only the opening with the newest epoch appends; older ones are refused.
/// - How an undurable suffix is dropped is private to the implementation: a failed append leaves no trace, or poisons the log.
///
/// One task appends and syncs; readers are any number. Every implementation passes [`crate::conformance`].
pub trait CommitLog: Send + Sync + 'static {
    /// The log's identity.
    fn id(&self) -> LogId;

    /// The logs that this one goes on from, the first one first: positions in them are positions here, each up to an LSN.
    fn parents(&self) -> &[Parent] {
        &[]
    }

    /// The epoch of this opening.
    fn epoch(&self) -> Epoch;

    /// The last commit appended.
    fn appended(&self) -> Lsn;

    /// The last durable commit, and its moves. The channel closes when the log does.
    fn durable(&self) -> watch::Receiver<Lsn>;

    /// The earliest commit that can be read; the one after `durable` in an empty log.
    fn earliest(&self) -> Lsn;

    /// Appends `group` after commit `after`, which must be the last one appended. An empty group does nothing.
    ///
    /// # Errors
    /// [`LogError::Fenced`], [`LogError::NotAtTail`], [`LogError::NotWritten`] and [`LogError::ReadOnly`]: it did not happen.
    /// [`LogError::Poisoned`]: it may have happened.
    fn append(&self, epoch: Epoch, after: Lsn, group: &Group) -> Result<(), LogError>;

    /// Makes everything appended durable, blocking until it is, and returns the last durable commit.
    ///
    /// # Errors
    /// [`LogError::Poisoned`]: what was appended may or may not be durable.
    fn make_durable(&self) -> Result<Lsn, LogError>;

    /// Reads commits after `after`, in order, each once.
    ///
    /// # Errors
    /// [`LogError::BelowRetained`], [`LogError::BeyondDurable`], [`LogError::Poisoned`].
    fn read_after(&self, after: Lsn) -> Result<LogReader, LogError>;

    /// About how many bytes the log keeps of durable commits after `after`: the cost of whoever has still to read them.
    ///
    /// # Errors
    /// [`LogError::Io`].
    fn bytes_after(&self, after: Lsn) -> Result<u64, LogError>;

    /// What the base image is of, if there is one.
    fn base(&self) -> Option<Lsn> {
        None
    }

    /// Reads the base image, if there is one.
    ///
    /// # Errors
    /// [`LogError::BaseDamaged`], [`LogError::Newer`], [`LogError::Io`].
    fn read_base(&self) -> Result<Option<BaseReader>, LogError> {
        Ok(None)
    }

    /// Begins a base image, which takes the place of the one before it when it is finished. There is one at a time.
    ///
    /// # Errors
    /// [`LogError::ReadOnly`] where no images are kept, [`LogError::BeyondDurable`], [`LogError::NotWritten`] while another is being
    /// written, [`LogError::Io`].
    fn begin_base(&self, header: BaseHeader) -> Result<BaseWriter, LogError> {
        let _ = header;
        Err(LogError::ReadOnly)
    }

    /// What would be the earliest commit after [`CommitLog::trim`] up to `to`.
    ///
    /// # Errors
    /// [`LogError::Io`], [`LogError::Poisoned`].
    fn earliest_behind(&self, to: Lsn) -> Result<Lsn, LogError> {
        let _ = to;
        Ok(self.earliest())
    }

    /// Gives up the commits up to `to`, as many of them as the log can give up by themselves, and never the last durable one. Returns
    /// the earliest commit that is left. Readers that stand before it get [`LogError::BelowRetained`] with their next commit.
    ///
    /// # Errors
    /// [`LogError::BeyondBase`], [`LogError::ReadOnly`]: nothing was given up. [`LogError::Io`]: with the next opening they may be gone.
    fn trim(&self, to: Lsn) -> Result<Lsn, LogError> {
        Err(LogError::BeyondBase { to, base: Lsn::ORIGIN })
    }
}

/// A log that another one goes on from: the other was opened as a backup of this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parent {
    /// Its identity.
    pub log: LogId,
    /// The last commit that the two have in common.
    pub lsn: Lsn,
}

/// Where a reader fetches commits.
pub(crate) trait CommitSource: Send {
    /// Whether the log may still be read.
    fn check(&self) -> Result<(), LogError>;

    /// The commit at `lsn`, which is durable. Calls come with rising LSNs, each the next of the last.
    fn fetch(&mut self, lsn: Lsn) -> Result<Arc<EncodedCommit>, LogError>;
}

/// Commits after a position, in order, each once, up to the durable end and on as it moves.
///
/// Dropping the reader, or the future of [`LogReader::next`], loses nothing: the position moves only with a returned commit.
pub struct LogReader {
    position: Lsn,
    durable: watch::Receiver<Lsn>,
    source: Box<dyn CommitSource>,
}

impl LogReader {
    pub(crate) fn new(after: Lsn, durable: watch::Receiver<Lsn>, source: Box<dyn CommitSource>) -> Self {
        Self { position: after, durable, source }
    }

    /// The last commit returned, or where reading began.
    #[must_use]
    pub const fn position(&self) -> Lsn {
        self.position
    }

    /// Whether the log may still be read: who waits for something else than its end asks now and then.
    ///
    /// # Errors
    /// [`LogError::Poisoned`].
    pub fn check(&self) -> Result<(), LogError> {
        self.source.check()
    }

    /// The next commit, or `None` at the durable end. Reads files on the calling thread.
    ///
    /// # Errors
    /// [`LogError::Poisoned`], [`LogError::Damaged`], [`LogError::BelowRetained`] when it was trimmed away meanwhile, [`LogError::Io`].
    pub fn try_next(&mut self) -> Result<Option<Arc<EncodedCommit>>, LogError> {
        // Seen before it is looked at, so that what comes meanwhile wakes the next wait.
        let durable = *self.durable.borrow_and_update();
        self.source.check()?;
        if self.position >= durable {
            return Ok(None);
        }
        let commit = self.source.fetch(self.position.next())?;
        assert_eq!(commit.lsn(), self.position.next(), "a log gives its commits in order");
        self.position = commit.lsn();
        Ok(Some(commit))
    }

    /// The next commit, waiting at the durable end; `None` when the log was closed and everything has been read.
    ///
    /// # Errors
    /// As [`LogReader::try_next`].
    pub async fn next(&mut self) -> Result<Option<Arc<EncodedCommit>>, LogError> {
        loop {
            if let Some(commit) = self.try_next()? {
                return Ok(Some(commit));
            }
            if self.durable.changed().await.is_err() {
                return self.try_next();
            }
        }
    }
}

impl std::fmt::Debug for LogReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LogReader after {}", self.position)
    }
}
