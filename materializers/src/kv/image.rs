//! Base images: the rows at an LSN written out, and begun from.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use highwater_log::base::{BaseHeader, BaseRecord, BaseState};
use highwater_log::commit::{ProducerId, ProducerSequence};
use highwater_log::sequencer::{KeyRange, RecentSequences};

use super::fold::{ImageFold, Write};
use super::pin::ReadPin;
use super::tree::Direction;
use super::{ENTRY_OVERHEAD_BYTES, Kv, SYSTEM_STORAGE, storage_error, tree, value};
use crate::error::FoldError;

impl ReadPin {
    /// Hands everything there is at the pin's LSN to `visit`, in the order of a base image, but for the catalog.
    pub(crate) fn image(&self, mut visit: impl FnMut(BaseRecord) -> Result<(), FoldError>) -> Result<(), FoldError> {
        for table in self.kv.catalog.tables(self.at) {
            let table = table.schema();
            for item in self.rows(table.storage, &KeyRange::default())? {
                let (_, row) = item?;
                let state = BaseState::Row { table: table.id, row: row.id, image: row.bytes };
                visit(BaseRecord { lsn: row.version, state })?;
            }
        }
        let Some(system) = self.kv.tree(SYSTEM_STORAGE, self.generation)? else { return Ok(()) };
        // Positions stand before producers.
        for item in system.scan(&KeyRange::default(), self.at, Direction::Forward) {
            let (key, value) = item?;
            let (written_at, content) = value::split(&value)?;
            match key.split_first() {
                Some((b'p', _)) => {
                    let state = BaseState::Position { of: key.slice(1..), position: content };
                    visit(BaseRecord { lsn: written_at, state })?;
                }
                Some((b's', producer)) => {
                    let producer = producer.try_into().map_err(|_| storage_error("a producer's key is malformed"))?;
                    for (sequence, lsn) in value::decode_sequences(&content) {
                        let sequence = ProducerSequence { producer: ProducerId(producer), sequence };
                        visit(BaseRecord { lsn, state: BaseState::Sequence(sequence) })?;
                    }
                }
                _ => return Err(storage_error("a key of the system's storage is malformed")),
            }
        }
        Ok(())
    }
}

impl Kv {
    /// Drops everything and begins anew at a base image, whose records, but for the catalog's, `next` gives. The catalog has come as
    /// far. What was begun and not ended is dropped by the next opening.
    pub(crate) fn begin_at(
        &self,
        header: &BaseHeader,
        mut next: impl FnMut() -> Result<Option<BaseRecord>, FoldError>,
    ) -> Result<(), FoldError> {
        let mut upkeep = self.upkeep();
        let _folding = self.folding.lock().unwrap_or_else(PoisonError::into_inner);
        self.drop_files(&mut upkeep)?;
        let mut rows = ImageFold::new(&self.catalog, header.lsn);
        let mut producer: Option<(ProducerId, RecentSequences)> = None;
        let mut unflushed = 0;
        while let Some(BaseRecord { lsn, state }) = next()? {
            match state {
                BaseState::Row { table, row, image } => {
                    for Write { storage, key, value, .. } in rows.row(lsn, table, row, &image)? {
                        unflushed += key.len() + value.len() + ENTRY_OVERHEAD_BYTES;
                        self.tree_to_write(storage)?.write(&key, value, lsn);
                    }
                }
                BaseState::Position { of, position } => {
                    let value = value::position(lsn, &position);
                    self.tree_to_write(SYSTEM_STORAGE)?.write(&value::position_key(&of), value, lsn);
                }
                BaseState::Sequence(ProducerSequence { producer: id, sequence }) => match &mut producer {
                    Some((known, recent)) if *known == id => recent.push_back((sequence, lsn)),
                    other => {
                        let before = other.replace((id, RecentSequences::from([(sequence, lsn)])));
                        self.write_sequences(before, header)?;
                    }
                },
                BaseState::Catalog { .. } => return Err(storage_error("a base image has its catalog out of order")),
            }
            if unflushed as u64 >= self.options.memtable_bytes {
                unflushed = 0;
                tree::flush_dirty(self.all_trees().iter().map(|(_, tree)| &**tree))?;
            }
        }
        self.write_sequences(producer, header)?;
        self.begin_indexes(header.lsn)?;
        self.history().begin_at(header.lsn, [(header.time.micros, header.lsn)]);
        self.applied.store(header.lsn.value(), Ordering::Release);
        self.checkpoint_under(&mut upkeep)?;
        Ok(())
    }

    fn write_sequences(
        &self,
        producer: Option<(ProducerId, RecentSequences)>,
        header: &BaseHeader,
    ) -> Result<(), FoldError> {
        let Some((id, recent)) = producer else { return Ok(()) };
        let value = value::sequences(header.lsn, &recent);
        self.tree_to_write(SYSTEM_STORAGE)?.write(&value::producer_key(id), value, header.lsn);
        Ok(())
    }
}
