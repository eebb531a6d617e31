//! What a feed tells.

use highwater_log::Lsn;
use highwater_log::position::RowId;
use highwater_log::row::CodecError;
use highwater_materializers::{Table, TableRow};

/// One thing that a feed tells.
#[derive(Debug)]
pub enum Event<'a> {
    /// What a table of the feed looks like from this commit on; told before the first row of it.
    Schema {
        /// The commit; where the feed begins, for the first one.
        lsn: Lsn,
        /// The table as it is from now on; as it was, when it is dropped.
        table: &'a Table,
        /// Whether it is dropped.
        is_dropped: bool,
    },
    /// A row, or all of a table's rows, changed.
    Change(RowChange<'a>),
    /// Everything there was when the feed began is told; no later write can be missed.
    Ready {
        /// Up to where everything is told.
        lsn: Lsn,
    },
    /// Everything up to this commit is told.
    Progress {
        /// The commit.
        lsn: Lsn,
    },
}

/// A change of a row, or the truncation of its table.
#[derive(Debug)]
pub struct RowChange<'a> {
    /// The commit; for rows of a snapshot, its LSN.
    pub lsn: Lsn,
    /// The change's place in its commit, from 0, counted over all changes of the commit: rising, with gaps where the feed has
    /// nothing to tell. In a snapshot, the row's number.
    pub position: u64,
    /// The table as it is at this commit; images are seen with its columns.
    pub table: &'a Table,
    /// What happened.
    pub operation: Operation,
    /// The row's identity; 0 for a truncation.
    pub row: RowId,
    /// The row as it was: of updates and deletes.
    pub before: Option<&'a TableRow<'a>>,
    /// The row as it is: of inserts and updates.
    pub after: Option<&'a TableRow<'a>>,
}

/// What happened to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// It appeared, or was there when the snapshot was taken.
    Insert,
    /// It changed; its key did not.
    Update,
    /// It went.
    Delete,
    /// All rows of the table went.
    Truncate,
}

impl Operation {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Truncate => "truncate",
        }
    }
}

/// Takes events and makes bytes, or whatever else, of them.
pub trait Encoder: Send {
    /// Takes the next event.
    ///
    /// # Errors
    /// [`CodecError`] when a value of an image cannot be decoded.
    fn encode(&mut self, event: &Event<'_>) -> Result<(), CodecError>;

    /// How many bytes lie in it that were not taken away yet; a feed stops filling it when they are enough.
    fn byte_len(&self) -> usize;
}
