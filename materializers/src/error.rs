//! What can go wrong with a fold.

use std::path::PathBuf;
use std::sync::Arc;

use highwater_log::position::{SchemaVersion, TableId};
use highwater_log::row::CodecError;
use highwater_log::schema::CatalogEntryError;
use highwater_log::sequencer::KeeperError;
use highwater_log::{LogError, Lsn, error_chain};

/// A fold that failed, or a read of what was folded.
#[derive(Debug, thiserror::Error)]
pub enum FoldError {
    /// The files of a materializer are damaged or cannot be used. Dropping and rebuilding it mends that.
    #[error("the {materializer} materializer cannot use its files: {cause}")]
    Storage {
        /// Which one.
        materializer: &'static str,
        /// What it met.
        cause: Arc<str>,
    },
    /// A read was open for too long: the history has passed it, and no longer waits. Begin again, at a later LSN.
    #[error(
        "the snapshot at lsn {at} is too old: the history has passed it longer ago than snapshot_age_max; the earliest that is kept is \
         {earliest}"
    )]
    SnapshotTooOld {
        /// Where was read.
        at: Lsn,
        /// The earliest position that can be read.
        earliest: Lsn,
    },
    /// A commit says what no earlier commit explains: a defect, or a damaged log.
    #[error("commit {lsn} names version {version} of table {table}, which no commit before it defines")]
    UnknownSchema {
        /// The commit.
        lsn: Lsn,
        /// The table.
        table: TableId,
        /// The version.
        version: SchemaVersion,
    },
    /// A row of a commit, or of the materialized state, cannot be decoded.
    #[error("a row of table {table} at lsn {lsn}")]
    Row {
        /// The commit.
        lsn: Lsn,
        /// The table.
        table: TableId,
        /// What is wrong with it.
        source: CodecError,
    },
    /// A catalog entry of a commit cannot be decoded.
    #[error("a catalog entry at lsn {lsn}")]
    Entry {
        /// The commit.
        lsn: Lsn,
        /// What is wrong with it.
        source: CatalogEntryError,
    },
    /// The read lies below the history that is kept.
    #[error("the state at lsn {at} is gone; the earliest that is kept is {earliest}")]
    HistoryGone {
        /// The position of the read.
        at: Lsn,
        /// The earliest readable position.
        earliest: Lsn,
    },
    /// Commits were to be trimmed away that reads in the past may need. Nothing was.
    #[error("commits up to lsn {to} cannot be trimmed: reads may go back to lsn {earliest}")]
    StillReadable {
        /// Up to where was asked for.
        to: Lsn,
        /// The earliest readable position.
        earliest: Lsn,
    },
    /// Commits were to be trimmed away that a named feed has still to tell. Nothing was. Acknowledge them, or drop the feed.
    #[error("commits up to lsn {to} cannot be trimmed: the feed {feed} has told up to lsn {after}")]
    HeldByFeed {
        /// Up to where was asked for.
        to: Lsn,
        /// The feed.
        feed: String,
        /// What its reader has acknowledged.
        after: Lsn,
    },
    /// The read lies beyond what is applied.
    #[error("lsn {at} is not applied yet; applied is {applied}")]
    NotApplied {
        /// The position of the read.
        at: Lsn,
        /// What is applied.
        applied: Lsn,
    },
    /// The rows were opened or folded anew since the read began. Read again.
    #[error("the rows were opened anew meanwhile")]
    Reopened,
    /// A commit came out of order.
    #[error("commit {lsn} cannot be folded behind {applied}")]
    OutOfOrder {
        /// The commit.
        lsn: Lsn,
        /// The last commit folded.
        applied: Lsn,
    },
    /// The files hold more than the log: durable commits are missing from it. Restore a backup; nothing was changed.
    #[error("the rows reach lsn {persisted}, but the log ends at {durable}: it has lost durable commits")]
    AheadOfLog {
        /// What the files reach.
        persisted: Lsn,
        /// Where the log ends.
        durable: Lsn,
    },
    /// The log could not be read.
    #[error("cannot follow the log")]
    Log(#[from] LogError),
    /// The file system failed.
    #[error("cannot {action} {path}", path = path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the file system answered.
        source: std::io::Error,
    },
}

impl From<FoldError> for KeeperError {
    fn from(error: FoldError) -> Self {
        // The sequencer passes it on to people: the whole chain is told.
        Self(error_chain(&error).into())
    }
}
