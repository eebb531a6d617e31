//! Reads at one LSN.

use std::sync::Arc;

use bytes::Bytes;
use highwater_log::Lsn;
use highwater_log::position::StorageId;
use highwater_log::sequencer::KeyRange;

use super::history::Purpose;
use super::tree::{Direction, Tree};
use super::{Kv, StoredRow};
use crate::error::FoldError;

/// The state at one LSN, held readable.
pub struct ReadPin {
    pub(super) kv: Arc<Kv>,
    pub(super) at: Lsn,
    pub(super) generation: u64,
    pub(super) purpose: Purpose,
}

impl ReadPin {
    /// The position of the reads.
    #[must_use]
    pub const fn at(&self) -> Lsn {
        self.at
    }

    /// Fails when what is read here may not be all there any more: to be asked behind each read.
    fn check_held(&self) -> Result<(), FoldError> {
        check_held(&self.kv, self.at)
    }

    /// The row, or the index entry, of this key.
    ///
    /// # Errors
    /// [`FoldError::Storage`]; [`FoldError::Reopened`] when the rows were mended since the pin was taken; [`FoldError::SnapshotTooOld`]
    /// when it was held for too long.
    pub fn row(&self, storage: StorageId, key: &[u8]) -> Result<Option<StoredRow>, FoldError> {
        self.read(storage, |tree| tree.read(key, self.at))
    }

    /// As [`ReadPin::row`], whatever of it is at hand: what the trees themselves say.
    ///
    /// # Errors
    /// As [`ReadPin::row`].
    pub(crate) fn looked_up_row(&self, storage: StorageId, key: &[u8]) -> Result<Option<StoredRow>, FoldError> {
        self.read(storage, |tree| tree.look_up(key, self.at))
    }

    fn read(
        &self,
        storage: StorageId,
        read: impl FnOnce(&Tree) -> Result<Option<Bytes>, FoldError>,
    ) -> Result<Option<StoredRow>, FoldError> {
        let Some(tree) = self.kv.tree(storage, self.generation)? else { return self.check_held().map(|()| None) };
        let row = read(&tree).and_then(|value| value.map(StoredRow::decode).transpose());
        self.check_held()?;
        row.inspect_err(|_| self.kv.note_damage())
    }

    /// How many versions of rows, or of index entries, there are, roughly.
    ///
    /// # Errors
    /// [`FoldError::Reopened`] when the rows were mended since the pin was taken.
    pub fn approximate_len(&self, storage: StorageId) -> Result<usize, FoldError> {
        Ok(self.kv.tree(storage, self.generation)?.map_or(0, |tree| tree.approximate_len()))
    }

    /// An LSN behind which nothing was written in a storage, up to that of the pin; it lies above the pin's where something was written
    /// since, and is that of the history's beginning where that is later than the last write.
    ///
    /// # Errors
    /// [`FoldError::Reopened`] when the rows were mended since the pin was taken.
    pub fn unwritten_from(&self, storage: StorageId) -> Result<Lsn, FoldError> {
        let written = self.kv.tree(storage, self.generation)?.and_then(|tree| tree.last_written());
        // Merges forget deletions of before, and with them what the tree says of its newest.
        let horizon = self.kv.horizon();
        // Opened anew meanwhile, they begin with another one.
        if self.kv.generation() != self.generation {
            return Err(FoldError::Reopened);
        }
        Ok(written.unwrap_or(Lsn::ORIGIN).max(horizon))
    }

    /// How many rows, or index entries, there are, roughly.
    ///
    /// # Errors
    /// [`FoldError::Reopened`] when the rows were mended since the pin was taken.
    pub fn approximate_rows(&self, storage: StorageId) -> Result<usize, FoldError> {
        Ok(self.kv.tree(storage, self.generation)?.map_or(0, |tree| tree.approximate_rows()))
    }

    /// The rows, or index entries, of a range of keys, rising.
    ///
    /// # Errors
    /// [`FoldError::Reopened`] when the rows were mended since the pin was taken, [`FoldError::SnapshotTooOld`] when it was held for too
    /// long; each item may be that or [`FoldError::Storage`], and is the last then.
    pub fn rows(
        &self,
        storage: StorageId,
        range: &KeyRange,
    ) -> Result<impl Iterator<Item = Result<(Bytes, StoredRow), FoldError>> + Send + use<>, FoldError> {
        self.found(storage, range, Direction::Forward)
    }

    /// As [`ReadPin::rows`], falling.
    ///
    /// # Errors
    /// As [`ReadPin::rows`].
    pub fn rows_backward(
        &self,
        storage: StorageId,
        range: &KeyRange,
    ) -> Result<impl Iterator<Item = Result<(Bytes, StoredRow), FoldError>> + Send + use<>, FoldError> {
        self.found(storage, range, Direction::Backward)
    }

    fn found(
        &self,
        storage: StorageId,
        range: &KeyRange,
        direction: Direction,
    ) -> Result<impl Iterator<Item = Result<(Bytes, StoredRow), FoldError>> + Send + use<>, FoldError> {
        let items = self.kv.tree(storage, self.generation)?.map(|tree| tree.scan(range, self.at, direction));
        self.check_held()?;
        let (kv, at) = (Arc::clone(&self.kv), self.at);
        let mut has_failed = false;
        let rows = items.into_iter().flatten().map(move |item| {
            let row = item.and_then(|(key, value)| Ok((key, StoredRow::decode(value)?)));
            check_held(&kv, at)?;
            row.inspect_err(|_| kv.note_damage())
        });
        Ok(rows.take_while(move |row| !std::mem::replace(&mut has_failed, row.is_err())))
    }
}

/// Fails when merges may have dropped what a read at `at` finds.
fn check_held(kv: &Kv, at: Lsn) -> Result<(), FoldError> {
    let earliest = kv.horizon();
    if at < earliest { Err(FoldError::SnapshotTooOld { at, earliest }) } else { Ok(()) }
}

impl Drop for ReadPin {
    fn drop(&mut self) {
        self.kv.history().unpin(self.at, self.purpose);
    }
}
