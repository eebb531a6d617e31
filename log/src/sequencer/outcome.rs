//! What becomes of a write set.

use std::sync::Arc;

use super::core::Refusal;
use super::verdict::Verdict;
use crate::error::{LogError, NotWritten};
use crate::position::{Lsn, RowId};

/// A commit that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Its place.
    pub lsn: Lsn,
    /// The row id of its first inserted row; further inserts count on.
    pub first_row: Option<RowId>,
    /// Whether an earlier attempt of the same producer and sequence is what was found.
    pub is_duplicate: bool,
}

/// The answer to a write set that was accepted.
#[derive(Debug)]
pub enum Acknowledgement {
    /// Durable and visible.
    Committed(Receipt),
    /// In the buffer.
    Buffered(Accepted),
}

/// A write set that was ordered and is not durable yet. Its LSN and row ids are provisional: for what is ordered behind it, and for
/// nobody else.
#[derive(Debug)]
pub struct Accepted {
    /// Its place; of a retry, the first attempt's.
    pub lsn: Lsn,
    /// The row id of its first inserted row; further inserts count on. Not known of a retry.
    pub first_row: Option<RowId>,
    /// Whether it is a retry: nothing was ordered.
    pub is_duplicate: bool,
    /// What is ordered behind it stands only if it does.
    pub chain: Chain,
    pub(super) verdict: Arc<Verdict>,
    /// Whoever had it ordered commits it.
    pub(super) is_left_to_caller: bool,
}

/// A run of ordered commits none of which was taken back, and how much of it the one who follows it has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Another one with each commit that is taken back; `None`: nothing of the chain can be.
    pub(super) run: Option<u64>,
    /// Up to here it has seen every commit, its own and those of others.
    pub(super) seen: Lsn,
}

impl Chain {
    /// The chain when all of it is durable: whatever is taken back, who follows it may go on. What it has seen counts as before.
    #[must_use]
    pub const fn settled(self) -> Self {
        Self { run: None, ..self }
    }
}

impl Accepted {
    /// What became of it, if that is known already.
    #[must_use]
    pub fn try_outcome(&self) -> Option<Result<Receipt, CommitError>> {
        Some(self.verdict.end()?.outcome(self.lsn, self.first_row, self.is_duplicate))
    }

    /// Waits until it is visible. Dropping the future takes nothing back.
    ///
    /// # Errors
    /// [`CommitError`].
    pub async fn wait(&self) -> Result<Receipt, CommitError> {
        self.verdict.wait().await.outcome(self.lsn, self.first_row, self.is_duplicate)
    }

    /// Waits, blocking the thread, until it is visible.
    ///
    /// # Errors
    /// [`CommitError`].
    pub fn wait_blocking(&self) -> Result<Receipt, CommitError> {
        self.verdict.wait_blocking().outcome(self.lsn, self.first_row, self.is_duplicate)
    }
}

/// Blocks the thread. The caller may be inside a task of tokio's: its budget of polls does not count here, where a future that is told
/// to come back later would be polled for ever.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    futures::executor::block_on(tokio::task::unconstrained(future))
}

impl CommitError {
    /// It was never given to the log.
    pub(super) fn not_committed(cause: impl Into<Arc<str>>) -> Self {
        Self::NotCommitted { cause: cause.into(), is_disk_full: false }
    }

    /// The log did not take it, and says why.
    pub(super) fn not_written(error: &LogError) -> Self {
        let is_disk_full = matches!(error, LogError::NotWritten { reason: NotWritten::NoSpace(_) });
        Self::NotCommitted { cause: error.to_string().into(), is_disk_full }
    }
}

/// Why a write set did not end as a visible commit.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// It did not happen: a condition does not hold.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It did not happen: the write set is too large.
    #[error("a transaction of {bytes} bytes is larger than transaction_bytes_max ({max})")]
    TooLarge {
        /// Its bytes.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// It did not happen: the log could not be written. Retry when the cause is gone.
    #[error("not committed: {cause}")]
    NotCommitted {
        /// Why.
        cause: Arc<str>,
        /// There is no space, or too little.
        is_disk_full: bool,
    },
    /// It may have happened. Retry with the same producer and sequence after the database was opened again.
    #[error("outcome unknown: {cause}")]
    Unknown {
        /// Why.
        cause: Arc<str>,
    },
    /// It happened, and cannot be read yet. Don't retry.
    #[error("committed at lsn {lsn}, not yet readable: {cause}")]
    NotYetReadable {
        /// Its place.
        lsn: Lsn,
        /// Why.
        cause: Arc<str>,
    },
    /// It did not happen: the database accepts no writes now. (A write set that names its producer is answered `Unknown` then, where
    /// it may be the retry of one that stands.)
    #[error("no writes are accepted: {cause}")]
    Stopped {
        /// Why.
        cause: Arc<str>,
    },
}
