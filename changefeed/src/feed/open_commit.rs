//! A commit while a feed tells it.

use std::sync::Arc;

use highwater_log::commit::{EncodedCommit, decode_part};
use highwater_log::position::TableId;
use highwater_log::{Change, LogError, Lsn};

use super::Followed;
use crate::error::FeedError;

/// A commit in the middle of being told. It is taken apart part by part.
pub(super) struct OpenCommit {
    encoded: Arc<EncodedCommit>,
    next_part: usize,
    changes: std::vec::IntoIter<Change>,
    position: u64,
    is_bookkeeping: bool,
}

/// What comes next in a commit.
pub(super) enum Seek {
    /// A change that concerns the feed.
    Change,
    /// A part was taken apart that has so many changes.
    Part { changes: usize },
    /// The commit has nothing more.
    End,
}

impl OpenCommit {
    pub(super) fn new(encoded: Arc<EncodedCommit>) -> Self {
        Self { encoded, next_part: 0, changes: Vec::new().into_iter(), position: 0, is_bookkeeping: true }
    }

    /// The commit.
    pub(super) fn lsn(&self) -> Lsn {
        self.encoded.lsn()
    }

    /// How many of its changes were taken.
    pub(super) const fn position(&self) -> u64 {
        self.position
    }

    /// Whether what was taken of it only says how far something outside has come.
    pub(super) const fn is_bookkeeping(&self) -> bool {
        self.is_bookkeeping
    }

    /// Goes to the next change that concerns one of the tables; not beyond the end of a part at a time.
    pub(super) fn seek(&mut self, tables: &[Followed]) -> Result<Seek, FeedError> {
        while let Some(change) = self.changes.as_slice().first() {
            let id = table_of(change);
            if tables.iter().any(|followed| Some(followed.id) == id) {
                return Ok(Seek::Change);
            }
            self.take();
        }
        Ok(if self.open_part()? { Seek::Part { changes: self.changes.len() } } else { Seek::End })
    }

    /// Takes the next part apart; `false`: there is none.
    pub(super) fn open_part(&mut self) -> Result<bool, FeedError> {
        let Some(part) = self.encoded.parts().get(self.next_part) else { return Ok(false) };
        self.next_part += 1;
        let lsn = self.encoded.lsn();
        let (_, changes) = decode_part(part).map_err(|source| LogError::Envelope { lsn, source })?;
        self.changes = changes.into_iter();
        Ok(true)
    }

    /// The next change, and its place in the commit, from 0; `None` behind the last one of the part.
    pub(super) fn take(&mut self) -> Option<(u64, Change)> {
        let change = self.changes.next()?;
        let position = self.position;
        self.position += 1;
        self.is_bookkeeping &= matches!(change, Change::Position { .. });
        Some((position, change))
    }
}

/// The table that a change is of. Other objects of the catalog share the tables' counter of ids.
pub(super) const fn table_of(change: &Change) -> Option<TableId> {
    match change {
        Change::Catalog { object, .. } => Some(TableId::new(*object)),
        Change::Truncate { table, .. }
        | Change::Insert { table, .. }
        | Change::Update { table, .. }
        | Change::Delete { table, .. } => Some(*table),
        Change::Position { .. } => None,
    }
}
