//! A commit while a feed tells it.

use std::collections::VecDeque;
use std::sync::Arc;

use highwater_log::commit::{EncodedCommit, decode_part};
use highwater_log::position::TableId;
use highwater_log::{Change, LogError, Lsn};

use super::followed::{Followed, Told};
use crate::error::FeedError;

/// A commit in the middle of being told. It is taken apart part by part.
pub(super) struct OpenCommit {
    encoded: Arc<EncodedCommit>,
    next_part: usize,
    changes: std::vec::IntoIter<Change>,
    /// What is told of the next of them, as far as that was found out.
    judged: VecDeque<Option<Told>>,
    position: u64,
    time_micros: u64,
    told: Progress,
    is_bookkeeping: bool,
}

/// What was told of a commit in this reading.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Nothing, and nothing was told of it before.
    Whole,
    /// Nothing; another reading may have told something.
    Rest,
    /// Something.
    Told,
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
        Self {
            encoded,
            next_part: 0,
            changes: Vec::new().into_iter(),
            judged: VecDeque::new(),
            position: 0,
            time_micros: 0,
            told: Progress::Whole,
            is_bookkeeping: true,
        }
    }

    /// The commit.
    pub(super) fn lsn(&self) -> Lsn {
        self.encoded.lsn()
    }

    /// How many of its changes were taken.
    pub(super) const fn position(&self) -> u64 {
        self.position
    }

    /// The reading goes on inside it.
    pub(super) fn note_resumed(&mut self) {
        self.told = Progress::Rest;
    }

    /// A change of it was told.
    pub(super) fn note_told(&mut self) {
        self.told = Progress::Told;
    }

    /// Whether nothing of it was told, in this reading or before.
    pub(super) fn is_untold(&self) -> bool {
        self.told == Progress::Whole
    }

    /// Whether something of it was told in this reading.
    pub(super) fn has_told(&self) -> bool {
        self.told == Progress::Told
    }

    /// When it was accepted; known once a part was taken apart.
    pub(super) const fn time_micros(&self) -> u64 {
        self.time_micros
    }

    /// Whether what was taken of it only says how far something outside has come.
    pub(super) const fn is_bookkeeping(&self) -> bool {
        self.is_bookkeeping
    }

    /// Goes to the next change that concerns one of the tables; not beyond the end of a part at a time.
    pub(super) fn seek(&mut self, tables: &[Followed]) -> Result<Seek, FeedError> {
        while let Some(change) = self.changes.as_slice().first() {
            let id = table_of(change);
            if tables.iter().any(|followed| Some(followed.id()) == id) {
                return Ok(Seek::Change);
            }
            self.take();
        }
        Ok(if self.open_part()? { Seek::Part { changes: self.changes.len() } } else { Seek::End })
    }

    /// Takes the next part apart; `false`: there is none.
    pub(super) fn open_part(&mut self) -> Result<bool, FeedError> {
        if self.next_part == self.encoded.part_count() {
            return Ok(false);
        }
        let part = self.encoded.part(self.next_part)?;
        let lsn = self.encoded.lsn();
        let (header, changes) = decode_part(&part).map_err(|source| LogError::Envelope { lsn, source })?;
        self.next_part += 1;
        self.changes = changes.into_iter();
        if let Some(header) = header {
            self.time_micros = header.time.micros;
        }
        Ok(true)
    }

    /// The next change of the part.
    pub(super) fn peek(&self) -> Option<&Change> {
        self.changes.as_slice().first()
    }

    /// Whether the next change is one of a row.
    pub(super) fn is_at_row(&self) -> bool {
        self.peek().is_some_and(is_of_row)
    }

    /// Takes the next change, which is one of a row; returns its place, and what is told of it: `judge` finds that out of the changes of
    /// rows of the same table that stand together.
    pub(super) fn take_judged(
        &mut self,
        judge: impl Fn(&[Change]) -> Result<Vec<Option<Told>>, FeedError>,
    ) -> Result<(u64, Option<Told>), FeedError> {
        if self.judged.is_empty() {
            let changes = self.changes.as_slice();
            let is_same =
                |change: &&Change| is_of_row(change) && table_of(change) == changes.first().and_then(table_of);
            let run = changes.iter().take(JUDGED_MAX).take_while(is_same).count();
            // What fails of one of them is not to keep those before it from being told.
            self.judged = judge(&changes[..run]).or_else(|_| judge(&changes[..1]))?.into();
        }
        let told = self.judged.pop_front().flatten();
        Ok((self.take().map_or(self.position, |(position, _)| position), told))
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

const fn is_of_row(change: &Change) -> bool {
    matches!(change, Change::Insert { .. } | Change::Update { .. } | Change::Delete { .. })
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

/// What is told of so many changes is found out together.
const JUDGED_MAX: usize = 512;
