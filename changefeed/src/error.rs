//! Why a feed cannot begin, or cannot go on.

use highwater_log::row::CodecError;
use highwater_log::sequencer::CommitError;
use highwater_log::{LogError, LogId, Lsn};
use highwater_materializers::{FoldError, Table};

use crate::cursor::Cursor;
use crate::event::EncodeError;
use crate::selection::SelectionError;

/// A feed that ended, or did not begin.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// No table was named.
    #[error("a feed needs at least one table")]
    NoTables,
    /// There is no such table, where the feed begins or later.
    #[error("relation \"{name}\" does not exist")]
    UnknownTable {
        /// The name.
        name: String,
    },
    /// Where the feed begins, the table that had this name has another one. It goes on under that.
    #[error("relation \"{name}\" is called \"{now}\" at lsn {lsn}")]
    Renamed {
        /// The name.
        name: String,
        /// The name that it has there.
        now: String,
        /// Where the feed begins.
        lsn: Lsn,
    },
    /// The cursor is of another log: of another database, or of one of which this one is a backup, and beyond what the two have in
    /// common. Take a snapshot.
    #[error("the cursor is of log {given}, this database's log is {own}: begin again with a snapshot")]
    OtherLog {
        /// The cursor's log.
        given: LogId,
        /// This database's.
        own: LogId,
    },
    /// The position lies beyond what there is.
    #[error("lsn {after} lies beyond {visible}, the last visible commit")]
    Beyond {
        /// The position.
        after: Lsn,
        /// The last visible commit.
        visible: Lsn,
    },
    /// What comes after the position is not kept any more. Take a snapshot, or begin at `earliest`.
    #[error("commits after lsn {after} are gone; the earliest retained is {earliest}: begin again with a snapshot")]
    TooOld {
        /// The position.
        after: Lsn,
        /// The earliest commit that is still there.
        earliest: Lsn,
    },
    /// All tables of the feed are dropped. Everything up to there was told.
    #[error("all tables of the feed were dropped, the last at lsn {lsn}")]
    Dropped {
        /// Where the last one was dropped.
        lsn: Lsn,
    },
    /// What the feed selects of a table means nothing, or cannot be computed of a row. A feed of other texts can go on where this one
    /// stands.
    #[error("cannot compute what the feed tells of {table} at lsn {lsn}")]
    Selection {
        /// The table.
        table: String,
        /// The commit.
        lsn: Lsn,
        /// What is wrong.
        source: SelectionError,
    },
    /// There is no feed of this name.
    #[error("feed \"{name}\" does not exist")]
    UnknownFeed {
        /// The name.
        name: String,
    },
    /// The name is none of a feed.
    #[error("a feed's name is of 1 to 63 letters, digits, _, - and .")]
    Name,
    /// There is a feed of this name, which tells something else. Leave out what it is to tell, or drop it.
    #[error("feed \"{name}\" has other tables, filters or columns")]
    OtherDefinition {
        /// The name.
        name: String,
    },
    /// Somebody reads the feed. Wait for him, or take it over.
    #[error("feed \"{name}\" is being read by somebody else")]
    Owned {
        /// The name.
        name: String,
    },
    /// Somebody else has taken the feed over. What was acknowledged before stands.
    #[error("the feed was taken over by another reader")]
    Fenced,
    /// The feed was dropped.
    #[error("the feed was dropped")]
    Gone,
    /// What is acknowledged was not told to the one who does.
    #[error("{cursor} lies beyond what this reader was told")]
    NotTold {
        /// The place.
        cursor: Cursor,
    },
    /// The log did not take it.
    #[error(transparent)]
    NotWritten(CommitError),
    /// The database is closing. Go on from the last cursor when it is open again.
    #[error("the database is closing")]
    Closed,
    /// What is to be told has no form in the format.
    #[error("cannot tell a change at lsn {lsn}")]
    Encode {
        /// The commit.
        lsn: Lsn,
        /// Why.
        source: EncodeError,
    },
    /// A row of the log or of the snapshot cannot be decoded.
    #[error("a row at lsn {lsn}")]
    Row {
        /// The commit.
        lsn: Lsn,
        /// What is wrong with it.
        source: CodecError,
    },
    /// A commit names a version of a table that no commit before it defines: a defect, or a damaged log.
    #[error("a row at lsn {lsn} is of a version of its table that the catalog does not know")]
    UnknownVersion {
        /// The commit.
        lsn: Lsn,
    },
    /// The log cannot be read.
    #[error("cannot read the log")]
    Log(#[source] LogError),
    /// The snapshot cannot be read. Begin again.
    #[error("cannot read the snapshot")]
    Snapshot(#[from] FoldError),
}

impl FeedError {
    pub(crate) fn encode(lsn: Lsn, error: EncodeError) -> Self {
        match error {
            EncodeError::Row(source) => Self::Row { lsn, source },
            source => Self::Encode { lsn, source },
        }
    }

    pub(crate) fn selection(table: &Table, lsn: Lsn, source: SelectionError) -> Self {
        let table = format!("{}.{}", table.schema().namespace, table.schema().name);
        Self::Selection { table, lsn, source }
    }
}

impl From<LogError> for FeedError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::BelowRetained { after, earliest } => Self::TooOld { after, earliest },
            other => Self::Log(other),
        }
    }
}
