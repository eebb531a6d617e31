//! A commit on its way to the folds: in memory, or, too large for that, part by part.

use std::sync::Arc;

use super::encoded::EncodedCommit;
use super::spool::SpooledChanges;
use super::{Change, Commit, CommitHeader};
use crate::error::LogError;
use crate::position::{Lsn, RowId};

/// What is folded of a commit. Cheap to clone.
#[derive(Clone, Debug)]
pub enum CommitBody {
    /// All of it, in memory.
    Whole(Arc<Commit>),
    /// One part after the other.
    Streamed(Arc<StreamedCommit>),
}

/// A commit of which one part at a time lies in memory.
#[derive(Debug)]
pub struct StreamedCommit {
    header: CommitHeader,
    encoded: EncodedCommit,
}

impl CommitBody {
    /// A commit as it was read from a log: whole if it has one part.
    ///
    /// # Errors
    /// As [`EncodedCommit::decode`].
    pub fn read(encoded: &EncodedCommit) -> Result<Self, LogError> {
        Ok(match encoded.part_count() {
            1 => Self::Whole(Arc::new(encoded.decode()?)),
            _ => Self::Streamed(Arc::new(StreamedCommit::new(encoded.clone())?)),
        })
    }

    /// Its place in the log.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        match self {
            Self::Whole(commit) => commit.lsn,
            Self::Streamed(commit) => commit.lsn(),
        }
    }

    /// What is said of it as a whole.
    #[must_use]
    pub fn header(&self) -> &CommitHeader {
        match self {
            Self::Whole(commit) => &commit.header,
            Self::Streamed(commit) => &commit.header,
        }
    }
}

impl StreamedCommit {
    /// A commit over its stored parts.
    ///
    /// # Errors
    /// As [`EncodedCommit::header`].
    pub fn new(encoded: EncodedCommit) -> Result<Self, LogError> {
        Ok(Self { header: encoded.header()?, encoded })
    }

    /// A commit whose changes of rows are spooled: `first` stand before them and `last` behind them. Inserts are numbered from `first_row`
    /// on.
    pub(crate) fn spooled(
        lsn: Lsn,
        header: CommitHeader,
        first_row: RowId,
        first: &[Change],
        spooled: SpooledChanges,
        last: &[Change],
    ) -> Self {
        let encoded = EncodedCommit::spooled(lsn, &header, first_row, first, spooled, last);
        Self { header, encoded }
    }

    /// Its stored form.
    #[must_use]
    pub const fn encoded(&self) -> &EncodedCommit {
        &self.encoded
    }

    /// Its place in the log.
    #[must_use]
    pub const fn lsn(&self) -> Lsn {
        self.encoded.lsn()
    }

    /// What is said of it as a whole.
    #[must_use]
    pub const fn header(&self) -> &CommitHeader {
        &self.header
    }

    /// Its changes in their order, those of one part at a time. Behind the last part, an error unless there were as many as the header
    /// says.
    ///
    /// # Errors
    /// Each item may be one, as of [`EncodedCommit::decode`].
    pub fn parts(&self) -> impl Iterator<Item = Result<Vec<Change>, LogError>> + '_ {
        let mut count = 0;
        (0..self.encoded.part_count()).map(move |part| {
            let changes = self.encoded.changes(part)?;
            count += changes.len() as u64;
            let is_last = part + 1 == self.encoded.part_count();
            if is_last && count != self.header.change_count {
                return Err(self.encoded.malformed("count of changes"));
            }
            Ok(changes)
        })
    }

    /// The commit with nothing but what it changes of the catalog and what it truncates, which stands first.
    ///
    /// # Errors
    /// As [`EncodedCommit::decode`].
    pub fn head(&self) -> Result<Commit, LogError> {
        let is_of_head = |change: &Change| matches!(change, Change::Catalog { .. } | Change::Truncate { .. });
        let mut changes = Vec::new();
        for part in self.parts() {
            let part = part?;
            let (count, before) = (part.len(), changes.len());
            changes.extend(part.into_iter().take_while(is_of_head));
            if changes.len() - before < count {
                break;
            }
        }
        Ok(Commit { lsn: self.lsn(), header: self.header.clone(), changes })
    }
}
