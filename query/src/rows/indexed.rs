//! Rows by an index: entries are read, the rows' keys are gathered and sorted, the rows looked up in that order.
//!
//! ```text
//!   entries ──▶ some thousand keys, sorted ──▶ rows            own writes of the transaction come first, whatever the index says
//! ```
//!
//! Looking rows up one by one costs several times what reading them in order does: where the index leaves more than a share of the
//! table, all of it is read instead.

use std::sync::Arc;

use bytes::Bytes;
use highwater_log::key::HeadKey;
use highwater_log::position::StorageId;
use highwater_log::sequencer::KeyRange;
use highwater_materializers::{FoldError, StoredRow, Table};

use super::{RowSource, RowWrite, Seeing, SeenRow};
use crate::error::SqlError;

/// A scan by an index, in no order.
pub(crate) struct IndexedRows {
    source: RowSource,
    table: Arc<Table>,
    /// Rows that the transaction has written.
    own: std::vec::IntoIter<(Bytes, SeenRow)>,
    /// Keys of rows, the next ones.
    keys: std::vec::IntoIter<Bytes>,
    entries: Entries,
    /// Whether the transaction has written rows of the table.
    has_written: bool,
    seeing: Seeing,
}

type Entries = Box<dyn Iterator<Item = Result<StoredRow, FoldError>> + Send>;

impl RowSource {
    /// The rows whose entries in an index lie in these ranges, and all that the transaction has written to the table. `None`: they are
    /// so many that reading the whole table takes less time.
    pub(crate) fn indexed_rows(
        &self,
        table: &Arc<Table>,
        index: StorageId,
        ranges: Vec<KeyRange>,
    ) -> Result<Option<IndexedRows>, SqlError> {
        let storage = table.schema().storage;
        // The index knows nothing of commits that are not visible.
        let own_writes = self.writes.rows_in_memory(storage).filter(|writes| writes.len() <= KEYS_AT_ONCE);
        let Some(own_writes) = own_writes.filter(|_| self.ahead.is_none()) else { return Ok(None) };
        let entries_max = (self.pin.approximate_len(storage)? / ROWS_SHARE).max(ALWAYS_LOOKED_UP);
        // Counting takes time, too: of a large table so many are few.
        let counted_max = entries_max.min(COUNTED_MAX);
        let (mut keys, mut count) = (Vec::new(), 0);
        for entry in self.entries(index, &ranges) {
            let entry = entry?;
            count += 1;
            if count > entries_max {
                return Ok(None);
            }
            if count > counted_max {
                break;
            }
            if keys.len() < KEYS_AT_ONCE {
                keys.push(entry.bytes);
            }
        }
        let entries: Entries = match count > keys.len() {
            true => Box::new(self.entries(index, &ranges).skip(keys.len())),
            false => Box::new(std::iter::empty()),
        };
        keys.sort_unstable();
        let seen = |(key, write): (&HeadKey, &RowWrite)| Some((key.bytes().clone(), write.after.clone()?));
        let has_written = !own_writes.is_empty();
        let own: Vec<_> = own_writes.iter().filter_map(seen).collect();
        let (own, keys) = (own.into_iter(), keys.into_iter());
        let (source, table, seeing) = (self.clone(), Arc::clone(table), Seeing::default());
        Ok(Some(IndexedRows { source, table, own, keys, entries, has_written, seeing }))
    }

    /// The rows whose entries in an index lie in a range, in the order of the entries, or the reverse; of a transaction that has not
    /// written to the table.
    pub(crate) fn rows_in_order(
        &self,
        table: &Arc<Table>,
        index: StorageId,
        range: &KeyRange,
        is_backward: bool,
    ) -> Result<impl Iterator<Item = Result<(Bytes, SeenRow), SqlError>> + Send + use<>, SqlError> {
        let entries: Entries = match is_backward {
            false => Box::new(self.pin.rows(index, range)?.map(|entry| entry.map(|(_, entry)| entry))),
            true => Box::new(self.pin.rows_backward(index, range)?.map(|entry| entry.map(|(_, entry)| entry))),
        };
        let (source, table, mut seeing) = (self.clone(), Arc::clone(table), Seeing::default());
        Ok(entries.map(move |entry| {
            let key = HeadKey::from(entry?.bytes);
            let stored = source.stored(&table, &key)?.ok_or_else(missing)?;
            Ok((key.bytes().clone(), seeing.row(&source, &table, stored.bytes)?))
        }))
    }

    fn entries(&self, index: StorageId, ranges: &[KeyRange]) -> Entries {
        let (pin, ranges) = (Arc::clone(&self.pin), ranges.to_vec());
        Box::new(ranges.into_iter().flat_map(move |range| -> Entries {
            match pin.rows(index, &range) {
                Ok(entries) => Box::new(entries.map(|entry| entry.map(|(_, entry)| entry))),
                Err(error) => Box::new(std::iter::once(Err(error))),
            }
        }))
    }
}

impl IndexedRows {
    fn next_row(&mut self) -> Result<Option<(Bytes, SeenRow)>, SqlError> {
        if let Some(row) = self.own.next() {
            return Ok(Some(row));
        }
        loop {
            let Some(key) = self.keys.next() else {
                if !self.gather()? {
                    return Ok(None);
                }
                continue;
            };
            let (storage, key) = (self.table.schema().storage, HeadKey::from(key));
            if self.has_written && self.source.writes.row(storage, &key)?.is_some() {
                continue;
            }
            if self.source.reads.is_some() {
                // The entry stays where the row changes otherwise.
                self.source.note_read(&self.table, storage, &of_key(key.bytes()))?;
            }
            let stored = self.source.stored(&self.table, &key)?.ok_or_else(missing)?;
            let row = self.seeing.row(&self.source, &self.table, stored.bytes)?;
            return Ok(Some((key.bytes().clone(), row)));
        }
    }

    /// Gathers the next keys; `false`: there are none.
    fn gather(&mut self) -> Result<bool, SqlError> {
        let next = self.entries.by_ref().take(KEYS_AT_ONCE);
        let mut keys = next.map(|entry| entry.map(|entry| entry.bytes)).collect::<Result<Vec<_>, _>>()?;
        keys.sort_unstable();
        let has_some = !keys.is_empty();
        self.keys = keys.into_iter();
        Ok(has_some)
    }
}

fn missing() -> SqlError {
    SqlError::internal("an index names a row that is not there")
}

/// The range of a single key.
pub(crate) fn of_key(key: &[u8]) -> KeyRange {
    KeyRange { start: Bytes::copy_from_slice(key), end: Some([key, &[0]].concat().into()) }
}

impl Iterator for IndexedRows {
    type Item = Result<(Bytes, SeenRow), SqlError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_row().transpose()
    }
}

/// Keys in memory.
const KEYS_AT_ONCE: usize = 16 * 1024;
/// Beyond one row in so many, the whole table is read.
const ROWS_SHARE: usize = 8;
/// Entries that are counted before the first row is given.
const COUNTED_MAX: usize = 128 * 1024;
/// So few are looked up however small the table is.
const ALWAYS_LOOKED_UP: usize = 64;
