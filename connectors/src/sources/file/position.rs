//! How far an upstream is stored, in its own terms: never a file's name or an offset in it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A position of a PostgreSQL upstream. JSON in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Position {
    /// So many rows of the snapshot taken at `lsn`.
    Snapshot {
        lsn: u64,
        rows: u64,
        is_done: bool,
        /// The table of its first row: a piece that begins with another one begins inside.
        first: String,
    },
    /// The transaction that ended at `lsn`, and all before it.
    Commit { lsn: u64 },
    /// The transaction of this number behind the commit that ended at `lsn`: without transaction metadata nothing tells its end.
    Run { lsn: u64, transaction: u64 },
}

impl Position {
    pub(super) fn encode(&self) -> Bytes {
        serde_json::to_vec(self).expect("a position has a JSON form").into()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|error| format!("the stored position cannot be read: {error}"))
    }

    /// Whether a transaction that ended at `lsn` is stored.
    pub(super) fn covers_commit(&self, lsn: u64) -> bool {
        match *self {
            Self::Snapshot { lsn: stored, .. } | Self::Commit { lsn: stored } | Self::Run { lsn: stored, .. } => {
                lsn <= stored
            }
        }
    }

    /// Whether the transaction of this number behind the commit at `lsn`, whose first event is at `event`, is stored.
    pub(super) fn covers_run(&self, lsn: u64, transaction: u64, event: u64) -> bool {
        match *self {
            // The commit before a transaction lies before a snapshot also when its own lies behind.
            Self::Snapshot { lsn: stored, .. } => event <= stored,
            Self::Commit { lsn: stored } => lsn < stored,
            Self::Run { lsn: stored, transaction: stored_transaction } => {
                lsn < stored || (lsn == stored && transaction == stored_transaction)
            }
        }
    }

    /// Whether the whole snapshot taken at `lsn` is stored.
    pub(super) fn covers_snapshot(&self, lsn: u64) -> bool {
        match *self {
            Self::Snapshot { lsn: stored, is_done, .. } => lsn < stored || (lsn == stored && is_done),
            // A snapshot taken while nothing happens is at the last commit's end; one that a transaction followed, before it.
            Self::Commit { lsn: stored } => lsn < stored,
            Self::Run { lsn: stored, .. } => lsn <= stored,
        }
    }

    /// Whether the row of this number of the snapshot taken at `lsn` is stored.
    pub(super) fn covers_snapshot_row(&self, lsn: u64, row: u64) -> bool {
        matches!(*self, Self::Snapshot { lsn: stored, rows, .. } if stored == lsn && row <= rows)
    }
}
