//! The rows of a feed's tables at one LSN.

use std::sync::Arc;

use bytes::Bytes;
use highwater_log::Lsn;
use highwater_log::row::{CodecError, Row};
use highwater_log::sequencer::KeyRange;
use highwater_materializers::{FoldError, Materialized, ReadPin, StoredRow, Table, TableRow};

use crate::error::FeedError;
use crate::event::{Encoder, Event, Operation, RowChange};

type Rows = Box<dyn Iterator<Item = Result<(Bytes, StoredRow), FoldError>> + Send>;

/// A scan over all tables of a feed, table by table, each in the order of its keys. Holds its LSN readable until it is dropped.
pub(crate) struct Snapshot {
    pin: ReadPin,
    folds: Materialized,
    /// Tables that are still to come.
    tables: std::vec::IntoIter<Arc<Table>>,
    current: Option<(Arc<Table>, Rows)>,
    count: u64,
}

impl Snapshot {
    pub(crate) fn begin(folds: &Materialized, at: Lsn, tables: Vec<Arc<Table>>) -> Result<Self, FeedError> {
        let pin = folds.kv().pin(at)?;
        Ok(Self { pin, folds: folds.clone(), tables: tables.into_iter(), current: None, count: 0 })
    }

    /// Fills `encoder` with the next rows, up to `bytes_target`. Returns how many they are, and whether they were the last.
    pub(crate) fn fill(&mut self, encoder: &mut dyn Encoder, bytes_target: usize) -> Result<(u32, bool), FeedError> {
        let lsn = self.pin.at();
        let mut count = 0;
        while encoder.byte_len() < bytes_target {
            let Some((table, rows)) = &mut self.current else {
                let Some(table) = self.tables.next() else { return Ok((count, true)) };
                let rows = self.pin.rows(table.schema().storage, &KeyRange::all())?;
                self.current = Some((table, Box::new(rows)));
                continue;
            };
            let Some(item) = rows.next() else {
                self.current = None;
                continue;
            };
            let (_, stored) = item?;
            let version = Row::schema_version(&stored.bytes).map_err(|source| FeedError::Row { lsn, source })?;
            let older;
            let written: &Table = if version == table.schema().version {
                table
            } else {
                let found = self.folds.catalog().table_at_version(table.schema().id, version);
                older = found.ok_or(FeedError::UnknownVersion { lsn })?;
                &older
            };
            let mut tell = || -> Result<(), CodecError> {
                let after = TableRow::parse(written, &stored.bytes, table)?;
                let change = RowChange {
                    lsn,
                    position: self.count,
                    table,
                    operation: Operation::Insert,
                    row: stored.id,
                    before: None,
                    after: Some(&after),
                };
                encoder.encode(&Event::Change(change))
            };
            tell().map_err(|source| FeedError::Row { lsn, source })?;
            self.count += 1;
            count += 1;
        }
        Ok((count, false))
    }
}
