//! What can go wrong with a log, by what the caller does about it.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use crate::commit::EnvelopeError;
use crate::position::{Epoch, Lsn, SegmentId};

/// An operation on a log that failed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A newer opening of the log for writing has taken over. Reconnect to it; the append did not happen.
    #[error("epoch {attempted} was superseded by {current}: another opening of the log writes now")]
    Fenced {
        /// The epoch of the append.
        attempted: Epoch,
        /// The log's epoch.
        current: Epoch,
    },
    /// The append does not follow the last one. It did not happen.
    #[error("append after lsn {after}, but the log ends at {appended}")]
    NotAtTail {
        /// The position that was named.
        after: Lsn,
        /// Where the log ends.
        appended: Lsn,
    },
    /// The append did not happen, and no trace of it is left. Retry when the cause is gone; no restart is needed.
    #[error("nothing was written: {reason}")]
    NotWritten {
        /// Why.
        reason: NotWritten,
    },
    /// A sync failed: what it covered may or may not be durable. The log accepts and shows nothing more; open it again.
    #[error("the log is poisoned, the database must be opened again: {cause}")]
    Poisoned {
        /// The first failure.
        cause: Arc<str>,
    },
    /// The log was opened for reading, or its file system is read-only.
    #[error("the log is open for reading only")]
    ReadOnly,
    /// Another process has the directory.
    #[error("{path} is in use by {holder}", path = path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// What its holder says of itself.
        holder: String,
    },
    /// Bytes that were acknowledged cannot be read any more. Restore a backup; nothing was changed.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// The files were written by a newer program.
    #[error("{path} was written by a newer version of highwater ({found}; this one knows {known}): upgrade", path = path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: String,
        /// The newest version known.
        known: u32,
    },
    /// The position lies below what is retained.
    #[error("commits after lsn {after} are gone; the earliest retained is {earliest}")]
    BelowRetained {
        /// The position asked for.
        after: Lsn,
        /// The earliest commit that is still there.
        earliest: Lsn,
    },
    /// The position lies beyond what is durable.
    #[error("lsn {after} lies beyond {durable}, the last durable commit")]
    BeyondDurable {
        /// The position asked for.
        after: Lsn,
        /// The last durable commit.
        durable: Lsn,
    },
    /// What a trimmed log begins with cannot be read. The commits before it are gone: restore a backup; nothing was changed.
    #[error("the base image at lsn {lsn} is damaged: {what}")]
    BaseDamaged {
        /// What it is an image of.
        lsn: Lsn,
        /// What was found.
        what: String,
    },
    /// Commits are trimmed away only as far as a base image holds what they amount to. Nothing was trimmed.
    #[error("commits up to lsn {to} cannot be trimmed: the base image reaches up to lsn {base}")]
    BeyondBase {
        /// Up to where was asked for.
        to: Lsn,
        /// What the image is of; the origin when there is none.
        base: Lsn,
    },
    /// What was still to be copied is trimmed away. Begin the copy again.
    #[error("the log was trimmed while it was copied: begin again")]
    TrimmedMeanwhile,
    /// A backup is written into a directory of its own. Nothing was changed.
    #[error("{path} is not empty: a backup needs a directory of its own", path = path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// A backup that was not opened yet has nothing to be asked of: its opening would make a log of its own of it. Copy its directory.
    #[error("{path} is a backup that was not opened yet: copy its files", path = path.display())]
    Unopened {
        /// The directory.
        path: PathBuf,
    },
    /// What came is no backup, or not all of one. Begin the copy again.
    #[error("this is no whole backup of a log: {what}")]
    NotABackup {
        /// What was found.
        what: String,
    },
    /// There is no log in the directory.
    #[error("no log in {path}", path = path.display())]
    Missing {
        /// The directory.
        path: PathBuf,
    },
    /// A stored commit could not be decoded, though its checksums are right, or a commit could not be encoded.
    #[error("commit {lsn}")]
    Envelope {
        /// The commit.
        lsn: Lsn,
        /// What is wrong with it.
        source: EnvelopeError,
    },
    /// The file system failed. Nothing is lost; retry.
    #[error("cannot {action} {path}", path = path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the file system answered.
        source: io::Error,
    },
}

/// Why nothing was written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NotWritten {
    /// The disk is full, or its free space is below the configured minimum.
    #[error("no space left on the log's disk ({0})")]
    NoSpace(Arc<str>),
    /// The disk failed, and what had been written was taken back.
    #[error("{0}")]
    Io(Arc<str>),
}

/// Where a log is damaged.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the log is damaged: {what} in segment {segment}, bytes {start}..{end}, from lsn {first} on up to at least lsn {last}",
    start = bytes.start, end = bytes.end)]
pub struct Damage {
    /// What was found.
    pub what: String,
    /// The segment.
    pub segment: SegmentId,
    /// The bytes of the segment's file that cannot be trusted.
    pub bytes: Range<u64>,
    /// The first commit that may be lost.
    pub first: Lsn,
    /// The last commit known to have been acknowledged.
    pub last: Lsn,
}

/// An error with all its causes, on one line: for people, where its journey ends.
#[must_use]
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
