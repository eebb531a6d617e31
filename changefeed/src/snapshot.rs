//! The rows of a feed's tables at one LSN.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use highwater_log::Lsn;
use highwater_log::position::RowId;
use highwater_log::row::Row;
use highwater_log::sequencer::KeyRange;
use highwater_materializers::{FoldError, Materialized, ReadPin, StoredRow, Table, TableRow};

use crate::error::FeedError;
use crate::event::{Encoder, Event, Operation, RowChange, SnapshotPlace};
use crate::selection::{FittedSelection, Selected};

type Rows = Box<dyn Iterator<Item = Result<(Bytes, StoredRow), FoldError>> + Send>;

/// A scan over all tables of a feed, table by table, each in the order of its keys. Holds its LSN readable until it is dropped.
pub(crate) struct Snapshot {
    pin: ReadPin,
    folds: Materialized,
    /// When its commit was accepted.
    time_micros: u64,
    /// Tables that are still to come.
    tables: std::vec::IntoIter<SnapshotTable>,
    current: Option<(Arc<SnapshotTable>, Rows)>,
    /// Rows that were looked at and not told yet. One more than is told: the last row is known as the last.
    ahead: VecDeque<RowAhead>,
    count: u64,
}

/// A table of a snapshot.
pub(crate) struct SnapshotTable {
    pub(crate) table: Arc<Table>,
    /// What of it is told; `None`: all.
    pub(crate) fitted: Option<Arc<dyn FittedSelection>>,
}

/// A row that is about to be told.
struct RowAhead {
    of: Arc<SnapshotTable>,
    id: RowId,
    written: Arc<Table>,
    bytes: Bytes,
    /// What it is told as; `None`: as it is.
    selected: Option<Vec<u8>>,
}

/// What came of a step through a snapshot.
pub(crate) struct Filled {
    /// How many rows were told.
    pub(crate) count: u32,
    /// Whether they were the last.
    pub(crate) is_last: bool,
}

impl Snapshot {
    pub(crate) fn begin(
        folds: &Materialized,
        at: Lsn,
        time_micros: u64,
        tables: Vec<SnapshotTable>,
    ) -> Result<Self, FeedError> {
        let pin = folds.kv().pin(at)?;
        let (tables, ahead) = (tables.into_iter(), VecDeque::new());
        Ok(Self { pin, folds: folds.clone(), time_micros, tables, current: None, ahead, count: 0 })
    }

    /// Fills `encoder` with the next rows, up to `bytes_target`, looking at some thousands at most.
    pub(crate) fn fill(&mut self, encoder: &mut dyn Encoder, bytes_target: usize) -> Result<Filled, FeedError> {
        let (mut count, mut chunks) = (0, 0);
        while encoder.byte_len() < bytes_target {
            if self.ahead.len() <= 1 && !self.is_read() {
                if chunks == CHUNKS_MAX {
                    break;
                }
                chunks += 1;
                self.look_ahead()?;
                continue;
            }
            let Some(row) = self.ahead.pop_front() else { return Ok(Filled { count, is_last: true }) };
            self.tell(&row, encoder)?;
            count += 1;
        }
        Ok(Filled { count, is_last: false })
    }

    /// Whether there is no row that was not looked at.
    fn is_read(&self) -> bool {
        self.current.is_none() && self.tables.as_slice().is_empty()
    }

    fn tell(&mut self, row: &RowAhead, encoder: &mut dyn Encoder) -> Result<(), FeedError> {
        let lsn = self.pin.at();
        let SnapshotTable { table, fitted } = &*row.of;
        let shape = fitted.as_ref().map_or(table, |fitted| fitted.shape());
        let place = match self.count {
            0 => SnapshotPlace::First,
            _ if self.ahead.is_empty() && self.is_read() => SnapshotPlace::Last,
            _ => SnapshotPlace::Middle,
        };
        let mut told = || {
            let key = TableRow::parse(&row.written, &row.bytes, table)?;
            let selected = row.selected.as_ref().map(|bytes| TableRow::parse(shape, bytes, shape)).transpose()?;
            encoder.encode(&Event::Change(RowChange {
                lsn,
                time_micros: self.time_micros,
                position: self.count,
                is_first: false,
                snapshot: Some(place),
                table,
                shape,
                operation: Operation::Insert,
                row: row.id,
                key: Some(&key),
                before: None,
                after: Some(selected.as_ref().unwrap_or(&key)),
            }))
        };
        told().map_err(|error| FeedError::encode(lsn, error))?;
        self.count += 1;
        Ok(())
    }

    /// Reads the next rows of a table, and keeps those that are told.
    fn look_ahead(&mut self) -> Result<(), FeedError> {
        let (of, mut rows) = match self.current.take() {
            Some(current) => current,
            None => {
                let Some(next) = self.tables.next() else { return Ok(()) };
                let rows = self.pin.rows(next.table.schema().storage, &KeyRange::all())?;
                (Arc::new(next), Box::new(rows) as Rows)
            }
        };
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        while chunk.len() < CHUNK_ROWS && bytes < CHUNK_BYTES {
            let Some(item) = rows.next() else { break };
            let (_, stored) = item?;
            bytes += stored.bytes.len();
            chunk.push(self.row_ahead(&of, stored)?);
        }
        let is_end = chunk.len() < CHUNK_ROWS && bytes < CHUNK_BYTES;
        self.ahead.extend(self.selected(&of, chunk)?);
        if !is_end {
            self.current = Some((of, rows));
        }
        Ok(())
    }

    fn row_ahead(&self, of: &Arc<SnapshotTable>, stored: StoredRow) -> Result<RowAhead, FeedError> {
        let (lsn, schema) = (self.pin.at(), of.table.schema());
        let version = Row::schema_version(&stored.bytes).map_err(|source| FeedError::Row { lsn, source })?;
        let written = match version == schema.version {
            true => Arc::clone(&of.table),
            false => {
                let older = self.folds.catalog().table_at_version(schema.id, version);
                older.ok_or(FeedError::UnknownVersion { lsn })?
            }
        };
        Ok(RowAhead { of: Arc::clone(of), id: stored.id, written, bytes: stored.bytes, selected: None })
    }

    /// The rows that are told.
    fn selected(&self, of: &SnapshotTable, rows: Vec<RowAhead>) -> Result<Vec<RowAhead>, FeedError> {
        let Some(fitted) = &of.fitted else { return Ok(rows) };
        let lsn = self.pin.at();
        let views = rows.iter().map(|row| TableRow::parse(&row.written, &row.bytes, &of.table));
        let views = views.collect::<Result<Vec<_>, _>>().map_err(|source| FeedError::Row { lsn, source })?;
        let selected = fitted.select(&views).map_err(|source| FeedError::selection(&of.table, lsn, source))?;
        let told = rows.into_iter().zip(selected).filter_map(|(row, selected)| match selected {
            Selected::Not => None,
            Selected::AsItIs => Some(row),
            Selected::As(bytes) => Some(RowAhead { selected: Some(bytes), ..row }),
        });
        Ok(told.collect())
    }
}

/// So many rows are looked at together, or rows of so many bytes.
const CHUNK_ROWS: usize = 512;
const CHUNK_BYTES: usize = 1024 * 1024;
/// So many times, before others get the thread.
const CHUNKS_MAX: usize = 8;
