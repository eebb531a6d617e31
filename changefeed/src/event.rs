//! What a feed tells.

use highwater_log::Lsn;
use highwater_log::position::RowId;
use highwater_log::row::CodecError;
use highwater_materializers::{Table, TableRow};

use crate::format::Envelope;

/// An event that has no form in a format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A value of an image cannot be decoded.
    #[error(transparent)]
    Row(#[from] CodecError),
    /// The format tells rows by their key, and the table has none.
    #[error("the table {table} has no primary key, by which this format tells rows")]
    NoKey {
        /// The table.
        table: String,
    },
    /// The format has no form for a value.
    #[error("{value} has no form in this format")]
    Value {
        /// The value.
        value: &'static str,
    },
    /// The format cannot be written.
    #[error("{0}")]
    Failed(String),
}

/// One thing that a feed tells.
#[derive(Debug)]
pub enum Event<'a> {
    /// What a table of the feed looks like from this commit on; told before the first row of it.
    Schema {
        /// The commit; where the feed begins, for the first one.
        lsn: Lsn,
        /// The table as it is from now on; as it was, when it is dropped.
        table: &'a Table,
        /// What images of its rows are seen with: the table, or one of the columns that the feed selects.
        shape: &'a Table,
        /// Whether it is dropped.
        is_dropped: bool,
    },
    /// A row, or all of a table's rows, changed.
    Change(RowChange<'a>),
    /// A commit ends of which something was told.
    CommitEnd {
        /// The commit.
        lsn: Lsn,
        /// When it was accepted, in microseconds since 1970.
        time_micros: u64,
    },
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
    /// When the commit was accepted, in microseconds since 1970. Never trusted for order.
    pub time_micros: u64,
    /// The change's place in its commit, from 0, counted over all changes of the commit: rising, with gaps where the feed has
    /// nothing to tell. In a snapshot, the row's number.
    pub position: u64,
    /// Whether the reading has come to the commit from its beginning, so that all that is told of it comes from here on.
    pub is_first: bool,
    /// Of a row that was there when the feed began: its place among those.
    pub snapshot: Option<SnapshotPlace>,
    /// The table as it is at this commit.
    pub table: &'a Table,
    /// What images are seen with: the table, or one of the columns that the feed selects.
    pub shape: &'a Table,
    /// What happened.
    pub operation: Operation,
    /// The row's identity; 0 for a truncation.
    pub row: RowId,
    /// A row of the table that has the key; `None` for a truncation.
    pub key: Option<&'a TableRow<'a>>,
    /// The row as it was: of updates and deletes.
    pub before: Option<&'a TableRow<'a>>,
    /// The row as it is: of inserts and updates.
    pub after: Option<&'a TableRow<'a>>,
}

/// The place of a row in a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SnapshotPlace {
    /// It is the first one; it may be the only one.
    First,
    /// Others come before it and behind it.
    Middle,
    /// It is the last of several.
    Last,
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
    /// [`EncodeError`]; the feed ends.
    fn encode(&mut self, event: &Event<'_>) -> Result<(), EncodeError>;

    /// How many bytes lie in it that were not taken away yet; a feed stops filling it when they are enough.
    fn byte_len(&self) -> usize;

    /// The text that lies in it, where any other encoder of the same envelope would have made the same of the same events: commits
    /// that one of them was given need not be given to the others then.
    fn shared(&mut self) -> Option<SharedText<'_>> {
        None
    }
}

/// A text that encoders of one envelope make alike.
#[derive(Debug)]
pub struct SharedText<'a> {
    /// The envelope.
    pub envelope: Envelope,
    /// What was encoded and not taken away yet.
    pub text: &'a mut String,
}
