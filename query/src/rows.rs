//! Rows as a transaction sees them: those at its LSN, with its own writes over them.

mod ahead;
mod indexed;
mod own;
mod reads;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use highwater_log::key::HeadKey;
use highwater_log::position::StorageId;
use highwater_log::row::Row;
use highwater_log::sequencer::KeyRange;
use highwater_materializers::{Catalog, ReadPin, StoredRow, Table, TableRow};

use crate::error::SqlError;
pub(crate) use ahead::{Ahead, AheadWrites};
pub(crate) use indexed::of_key;
pub(crate) use own::{RowWrite, SpillRoom, Writes};
pub(crate) use reads::Reads;

/// A row's bytes, and the table as it was when they were written.
#[derive(Clone)]
pub(crate) struct SeenRow {
    pub(crate) bytes: Bytes,
    pub(crate) written: Arc<Table>,
}

impl SeenRow {
    /// The row, seen as one of `table`.
    pub(crate) fn view<'a>(&'a self, table: &'a Table) -> Result<TableRow<'a>, SqlError> {
        Ok(TableRow::new(Row::parse(self.written.layout(), &self.bytes)?, table))
    }
}

/// The rows at one LSN under a transaction's writes. Cheap to clone; streams hold one, and with it the LSN readable.
#[derive(Clone)]
pub(crate) struct RowSource {
    pub(crate) pin: Arc<ReadPin>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) writes: Arc<Writes>,
    /// Commits that are not visible yet, for a writer who goes on behind them.
    pub(crate) ahead: Option<Arc<Ahead>>,
    /// Where a serializable transaction notes what it reads.
    pub(crate) reads: Option<Arc<Reads>>,
}

impl RowSource {
    /// Notes that keys of a table, or of one of its indexes, are read, where that matters.
    ///
    /// # Errors
    /// `25P01` when the transaction has ended: what it reads now, its commit could not answer for.
    pub(crate) fn note_read(&self, table: &Table, storage: StorageId, range: &KeyRange) -> Result<(), SqlError> {
        self.reads.as_ref().map_or(Ok(()), |reads| reads.note(table, storage, range))
    }

    /// Notes that the catalog is read, where that matters.
    ///
    /// # Errors
    /// As [`RowSource::note_read`].
    pub(crate) fn note_catalog_read(&self) -> Result<(), SqlError> {
        self.reads.as_ref().map_or(Ok(()), |reads| reads.note_catalog())
    }

    /// How many rows a table has, roughly; what the transaction itself has written does not count.
    pub(crate) fn approximate_rows(&self, table: &Table) -> usize {
        // Whoever then reads them is told what is wrong.
        self.pin.approximate_rows(table.schema().storage).unwrap_or(0)
    }

    /// The row of this key.
    pub(crate) fn row(&self, table: &Table, key: &HeadKey) -> Result<Option<SeenRow>, SqlError> {
        let storage = table.schema().storage;
        match self.writes.row(storage, key)? {
            Some(write) => Ok(write.after),
            None => self.stored(table, key)?.map(|row| self.seen(table, row.bytes)).transpose(),
        }
    }

    /// The row of this key at the LSN, whatever the transaction has written.
    pub(crate) fn stored(&self, table: &Table, key: &HeadKey) -> Result<Option<StoredRow>, SqlError> {
        let storage = table.schema().storage;
        match self.ahead.as_ref().and_then(|ahead| ahead.row(storage, key)) {
            Some(row) => Ok(row),
            None => Ok(self.pin.row(storage, key.bytes())?),
        }
    }

    /// Whether a unique index holds this entry.
    pub(crate) fn has_code(&self, index: StorageId, code: &[u8]) -> Result<bool, SqlError> {
        match self.writes.code(index, code)? {
            Some(taken) => Ok(taken.is_some()),
            None => match self.ahead.as_ref().and_then(|ahead| ahead.code(index, code)) {
                Some(is_taken) => Ok(is_taken),
                None => Ok(self.pin.row(index, code)?.is_some()),
            },
        }
    }

    /// The key of the row that has this place in a unique index. Of commits that are not visible yet, places are known and keys are not.
    pub(crate) fn key_of_code(&self, index: StorageId, code: &Bytes) -> Result<Option<Bytes>, SqlError> {
        assert!(self.ahead.is_none(), "only sessions ask, and they do not look ahead");
        match self.writes.code(index, code)? {
            Some(key) => Ok(key),
            None => Ok(self.pin.row(index, code)?.map(|entry| entry.bytes)),
        }
    }

    pub(crate) fn seen(&self, table: &Table, bytes: Bytes) -> Result<SeenRow, SqlError> {
        let version = Row::schema_version(&bytes)?;
        let id = table.schema().id;
        let written = self.catalog.table_at_version(id, version).ok_or_else(|| {
            SqlError::internal(format!("a row of table {id} is of version {version}, which the catalog does not know"))
        })?;
        Ok(SeenRow { bytes, written })
    }

    /// The rows of a range of keys, falling, of a transaction that has not written to the table.
    pub(crate) fn rows_backward(
        &self,
        table: &Arc<Table>,
        range: &KeyRange,
    ) -> Result<impl Iterator<Item = Result<(Bytes, SeenRow), SqlError>> + Send + use<>, SqlError> {
        let (source, table, mut seeing) = (self.clone(), Arc::clone(table), Seeing::default());
        let stored = self.pin.rows_backward(table.schema().storage, range)?;
        Ok(stored.map(move |item| {
            let (key, row) = item?;
            Ok((key, seeing.row(&source, &table, row.bytes)?))
        }))
    }

    /// The rows of a range of keys, rising.
    pub(crate) fn rows(&self, table: &Arc<Table>, range: &KeyRange) -> Result<MergedRows, SqlError> {
        let storage = table.schema().storage;
        let own = self.writes.rows(storage, range).map(|item| item.map(|(key, write)| (key, write.after)));
        let own: OwnRows = match self.ahead.as_ref().and_then(|ahead| ahead.rows(storage)) {
            None => Box::new(own),
            Some(ahead) => {
                let end = range.end.clone().map_or(Bound::Unbounded, |end| Bound::Excluded(HeadKey::from(end)));
                let mut over = BTreeMap::new();
                for (key, (_, row)) in ahead.range((Bound::Included(HeadKey::from(range.start.clone())), end)) {
                    over.insert(key.bytes().clone(), row.clone().map(|row| self.seen(table, row.bytes)).transpose()?);
                }
                for item in own {
                    let (key, row) = item?;
                    over.insert(key, row);
                }
                Box::new(over.into_iter().map(Ok))
            }
        };
        let stored = Box::new(self.pin.rows(storage, range)?);
        Ok(MergedRows {
            source: self.clone(),
            table: Arc::clone(table),
            stored,
            next_stored: None,
            own: own.peekable(),
            seeing: Seeing::default(),
        })
    }
}

/// Rows that the transaction has written, or commits that are not visible yet; `None`: deleted.
type OwnRows = Box<dyn Iterator<Item = Result<(Bytes, Option<SeenRow>), SqlError>> + Send>;
type StoredRows = Box<dyn Iterator<Item = Result<(Bytes, StoredRow), highwater_materializers::FoldError>> + Send>;

/// A scan over stored rows and own writes.
pub(crate) struct MergedRows {
    source: RowSource,
    table: Arc<Table>,
    stored: StoredRows,
    next_stored: Option<(Bytes, StoredRow)>,
    own: std::iter::Peekable<OwnRows>,
    seeing: Seeing,
}

/// The version of the last row that was seen: rows of one version stand together mostly.
#[derive(Default)]
struct Seeing(Option<Arc<Table>>);

impl Seeing {
    /// The row of these bytes.
    fn row(&mut self, source: &RowSource, table: &Table, bytes: Bytes) -> Result<SeenRow, SqlError> {
        let version = Row::schema_version(&bytes)?;
        if let Some(written) = self.0.as_ref().filter(|table| table.schema().version == version) {
            return Ok(SeenRow { bytes, written: Arc::clone(written) });
        }
        let seen = source.seen(table, bytes)?;
        self.0 = Some(Arc::clone(&seen.written));
        Ok(seen)
    }
}

impl MergedRows {
    fn next_row(&mut self) -> Result<Option<(Bytes, SeenRow)>, SqlError> {
        loop {
            if self.next_stored.is_none() {
                self.next_stored = self.stored.next().transpose()?;
            }
            let is_own_due = match (self.own.peek(), &self.next_stored) {
                (None, None) => return Ok(None),
                (None, Some(_)) => false,
                (Some(_), None) => true,
                (Some(Err(_)), Some(_)) => true,
                (Some(Ok((own, _))), Some((stored, _))) => own <= stored,
            };
            if !is_own_due {
                let Some((key, row)) = self.next_stored.take() else { continue };
                return Ok(Some((key, self.seeing.row(&self.source, &self.table, row.bytes)?)));
            }
            let Some((key, after)) = self.own.next().transpose()? else { continue };
            if self.next_stored.as_ref().is_some_and(|(stored, _)| *stored == key) {
                self.next_stored = None;
            }
            if let Some(row) = after {
                return Ok(Some((key, row)));
            }
        }
    }
}

impl Iterator for MergedRows {
    type Item = Result<(Bytes, SeenRow), SqlError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_row().transpose()
    }
}
