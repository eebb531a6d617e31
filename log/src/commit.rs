//! Commits: what the log orders, and how it stores them.

mod body;
mod encoded;
mod envelope;
mod spool;
#[cfg(test)]
mod tests;

pub use body::{CommitBody, StreamedCommit};
pub use encoded::{EncodedCommit, PartStore};
pub(crate) use envelope::{CHANGE_BYTES_MAX, PART_BYTES_MAX};
pub use envelope::{EnvelopeError, PART_BYTES_TARGET, decode_part};
pub use spool::{ChangeSpool, SpoolError, SpooledChanges};

use bytes::Bytes;

use crate::error::LogError;
use crate::position::{CommitTime, Epoch, Lsn, RowId, TableId};

/// An atomic set of changes, at its place in the log.
///
/// Within a commit, changes stand in this order: the catalog's, truncations, deletes, updates and inserts, positions. There is
/// at most one change per key, index keys included.
#[derive(Clone, Debug, PartialEq)]
pub struct Commit {
    /// Its place.
    pub lsn: Lsn,
    /// What is said of the commit as a whole.
    pub header: CommitHeader,
    /// What it changes.
    pub changes: Vec<Change>,
}

impl Commit {
    /// Whether all it does is keep books (positions of sources and feeds): such a commit wakes no feed.
    #[must_use]
    pub fn is_bookkeeping(&self) -> bool {
        self.changes.iter().all(|change| matches!(change, Change::Position { .. }))
    }
}

/// What is said of a commit as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitHeader {
    /// When it was accepted. Never trusted for order.
    pub time: CommitTime,
    /// The row id that the next inserted row gets: the counter is recovered from the last commit alone.
    pub next_row: RowId,
    /// Who wrote it and as which of its writes, so that a retry finds it.
    pub producer: Option<ProducerSequence>,
    /// How many changes it has, over all its parts.
    pub change_count: u64,
}

/// The identity of a write by its producer: a retry carries the same and gets the first one's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProducerSequence {
    /// The producer, drawn by itself (a UUID).
    pub producer: ProducerId,
    /// Rises from write to write of one producer.
    pub sequence: u64,
}

/// A producer's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProducerId(pub [u8; 16]);

/// One change of a commit. Row images are in the form of [`crate::row`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The catalog's object `object` is from now on `entry` ([`crate::schema::CatalogEntry`] as JSON), or is dropped.
    Catalog {
        /// Table id, or the id of whatever else the catalog holds: one counter for all.
        object: u64,
        /// The entry as it is from now on; `None`: dropped.
        entry: Option<Bytes>,
    },
    /// All rows of a table go. One change, without images.
    Truncate {
        /// The table.
        table: TableId,
        /// Its catalog entry from now on, with new storage ids and the next schema version.
        entry: Bytes,
    },
    /// A row appears.
    Insert {
        /// The table.
        table: TableId,
        /// The row's identity, given by the sequencer.
        row: RowId,
        /// The full row.
        after: Bytes,
    },
    /// A row changes, its key does not.
    Update {
        /// The table.
        table: TableId,
        /// The row's identity.
        row: RowId,
        /// The full row as it was.
        before: Bytes,
        /// A partial row: the columns that changed, as they are now.
        changed: Bytes,
    },
    /// A row goes.
    Delete {
        /// The table.
        table: TableId,
        /// The row's identity.
        row: RowId,
        /// The full row as it was.
        before: Bytes,
    },
    /// How far something outside has come: the position of a source, the acknowledged cursor of a feed.
    Position {
        /// Whose position.
        of: Bytes,
        /// The position, in its owner's format; empty: forgotten.
        position: Bytes,
    },
}

impl Change {
    /// Bytes of what becomes a key as it is: whose position it is.
    #[must_use]
    pub fn name_len(&self) -> usize {
        if let Self::Position { of, .. } = self { of.len() } else { 0 }
    }

    /// Bytes of its images.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        match self {
            Self::Catalog { entry, .. } => entry.as_ref().map_or(0, Bytes::len),
            Self::Truncate { entry, .. } => entry.len(),
            Self::Insert { after, .. } => after.len(),
            Self::Update { before, changed, .. } => before.len() + changed.len(),
            Self::Delete { before, .. } => before.len(),
            Self::Position { of, position } => of.len() + position.len(),
        }
    }
}

/// Commits handed to the log together; they share a sync and nothing else.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// Their LSNs are dense and rise.
    pub commits: Vec<EncodedCommit>,
}

impl Group {
    /// Whether the group may be appended after `after`, by the opening `epoch`, to a log of the epoch `current` that ends at
    /// `appended`: the checks that all logs share.
    pub(crate) fn check_append(&self, epoch: Epoch, current: Epoch, after: Lsn, appended: Lsn) -> Result<(), LogError> {
        if epoch != current {
            return Err(LogError::Fenced { attempted: epoch, current });
        }
        if after != appended {
            return Err(LogError::NotAtTail { after, appended });
        }
        let mut expected = appended;
        for commit in &self.commits {
            expected = expected.next();
            assert_eq!(commit.lsn(), expected, "the LSNs of a group are dense");
        }
        Ok(())
    }
}
