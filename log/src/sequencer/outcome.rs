//! What becomes of a write set.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::core::Refusal;
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
    /// In the buffer; the future tells what becomes of it.
    Buffered(oneshot::Receiver<Result<Receipt, CommitError>>),
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
