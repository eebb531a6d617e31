//! The write set of a transaction that does not lie in memory: what the sequencer asks of it is looked up where it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use highwater_log::commit::{ChangeSpool, SpoolError};
use highwater_log::key::HeadKey;
use highwater_log::position::StorageId;
use highwater_log::sequencer::{CommitError, KeeperError, KeyRange, KeySeen, LargeKeys, LargeWrites, TellKey};
use highwater_materializers::{FoldError, Scratch, Table};

use super::write_set::NetChange;
use super::{Transaction, unique_codes};
use crate::error::SqlError;
use crate::rows::{RowWrite, SeenRow, SpillRoom, Writes};
use crate::sqlstate;

/// Gathers the changes of rows on disk, and the places in unique indexes that they give up and take.
pub(super) struct LargeBuilder {
    spool: ChangeSpool,
    places: Places,
    /// The storages of tables with keys, and of those without.
    keyed: BTreeSet<StorageId>,
    keyless: BTreeSet<StorageId>,
}

/// Places in unique indexes that a transaction gives up or takes, or both.
struct Places {
    recent: BTreeMap<(StorageId, Bytes), u8>,
    bytes: usize,
    scratch: Option<Scratch>,
    room: Arc<SpillRoom>,
}

/// What the sequencer asks of.
struct OwnKeys {
    writes: Arc<Writes>,
    places: Places,
    keyed: BTreeSet<StorageId>,
    keyless: BTreeSet<StorageId>,
}

impl LargeBuilder {
    pub(super) fn new(room: &Arc<SpillRoom>) -> Self {
        Self {
            spool: ChangeSpool::new(&room.directory),
            places: Places { recent: BTreeMap::new(), bytes: 0, scratch: None, room: Arc::clone(room) },
            keyed: BTreeSet::new(),
            keyless: BTreeSet::new(),
        }
    }

    pub(super) fn put_rows(&mut self, transaction: &Transaction, table: &Arc<Table>) -> Result<(), SqlError> {
        let storage = table.schema().storage;
        match table.schema().primary_key.is_empty() {
            true => self.keyless.insert(storage),
            false => self.keyed.insert(storage),
        };
        for item in transaction.source.writes.rows(storage, &KeyRange::all()) {
            let (key, write) = item?;
            let Some(NetChange { change, old, new }) = NetChange::of(&transaction.source, table, &write)? else {
                continue;
            };
            let old = old.map(|(_, old)| old);
            for (row, flag) in [(old, GIVEN_UP), (new, TAKEN)] {
                let Some(row) = row else { continue };
                self.places.note_of(table, &row, &key, flag)?;
            }
            self.spool.push(change)?;
        }
        Ok(())
    }

    pub(super) fn finish(self, writes: Arc<Writes>) -> Result<LargeWrites, SqlError> {
        let Self { spool, places, keyed, keyless } = self;
        Ok(LargeWrites { changes: spool.finish()?, keys: Arc::new(OwnKeys { writes, places, keyed, keyless }) })
    }
}

impl Places {
    fn note_of(&mut self, table: &Table, row: &SeenRow, key: &Bytes, flag: u8) -> Result<(), SqlError> {
        for (index, code) in unique_codes(table, row, key, |_, _| Ok(()))? {
            self.bytes += code.len() + PLACE_OVERHEAD_BYTES;
            *self.recent.entry((index, code)).or_default() |= flag;
        }
        if self.bytes > self.room.memory_bytes { self.spill() } else { Ok(()) }
    }

    fn spill(&mut self) -> Result<(), SqlError> {
        let mut scratch = match self.scratch.take() {
            Some(scratch) => scratch,
            None => Scratch::create(&self.room.directory)?,
        };
        self.bytes = 0;
        let before = scratch.clone();
        let pairs = std::mem::take(&mut self.recent).into_iter().map(|((index, code), flags)| {
            let key = place_key(index, &code);
            // What was noted of it before holds still.
            let known = before.get(&key)?.and_then(|known| known.first().copied()).unwrap_or_default();
            Ok((key, vec![known | flags]))
        });
        scratch.put_all::<FoldError>(pairs)?;
        self.scratch = Some(scratch);
        Ok(())
    }

    fn find(&self, index: StorageId, code: &[u8]) -> Result<u8, FoldError> {
        let recent = self.recent.get(&(index, Bytes::copy_from_slice(code))).copied().unwrap_or_default();
        let older = match &self.scratch {
            Some(scratch) => scratch.get(&place_key(index, code))?,
            None => None,
        };
        Ok(recent | older.and_then(|flags| flags.first().copied()).unwrap_or_default())
    }
}

impl LargeKeys for OwnKeys {
    fn find(&self, space: StorageId, key: &[u8]) -> Result<Option<KeySeen>, KeeperError> {
        let failed = |error: &dyn std::error::Error| KeeperError(error.to_string().into());
        if self.keyed.contains(&space) || self.keyless.contains(&space) {
            let write = self.writes.row(space, &HeadKey::from(Bytes::copy_from_slice(key)));
            return Ok(write.map_err(|error| failed(&error))?.and_then(|write| self.row_seen(space, &write)));
        }
        Ok(place_seen(self.places.find(space, key).map_err(|error| failed(&error))?))
    }

    fn each(&self, tell: &mut TellKey<'_>) -> Result<(), CommitError> {
        let failed = |error: &dyn std::error::Error| CommitError::NotCommitted {
            cause: error.to_string().into(),
            is_disk_full: false,
        };
        for storage in self.keyed.iter().chain(&self.keyless) {
            for item in self.writes.rows(*storage, &KeyRange::all()) {
                let (key, write) = item.map_err(|error| failed(&error))?;
                if let Some(seen) = self.row_seen(*storage, &write) {
                    tell(*storage, &key, seen)?;
                }
            }
        }
        let spilled = self.places.scratch.iter().flat_map(|scratch| scratch.range(&KeyRange::all()));
        for pair in spilled {
            let (key, flags) = pair.map_err(|error| failed(&error))?;
            let (Some((space, code)), Some(flags)) = (key.split_first_chunk(), flags.first()) else { continue };
            let index = StorageId::new(u64::from_be_bytes(*space));
            let recent = self.places.recent.get(&(index, Bytes::copy_from_slice(code)));
            if let Some(seen) = place_seen(flags | recent.copied().unwrap_or_default()) {
                tell(index, code, seen)?;
            }
        }
        for ((index, code), flags) in &self.places.recent {
            let is_told = match &self.places.scratch {
                Some(scratch) => scratch.get(&place_key(*index, code)).map_err(|error| failed(&error))?.is_some(),
                None => false,
            };
            if let Some(seen) = place_seen(*flags).filter(|_| !is_told) {
                tell(*index, code, seen)?;
            }
        }
        Ok(())
    }
}

impl OwnKeys {
    /// What was seen of a row's key. Also of one that is written as it was: that it still is, is asked, too.
    fn row_seen(&self, storage: StorageId, write: &RowWrite) -> Option<KeySeen> {
        match (&write.before, &write.after) {
            (Some(before), _) => Some(KeySeen::AtVersion(before.version)),
            // The number of a new row is not known yet, and nobody else's.
            (None, Some(_)) => self.keyed.contains(&storage).then_some(KeySeen::Absent),
            (None, None) => None,
        }
    }
}

fn place_seen(flags: u8) -> Option<KeySeen> {
    match flags {
        0 => None,
        TAKEN => Some(KeySeen::Absent),
        _ => Some(KeySeen::Other),
    }
}

fn place_key(index: StorageId, code: &[u8]) -> Bytes {
    [&index.value().to_be_bytes(), code].concat().into()
}

impl From<SpoolError> for SqlError {
    fn from(error: SpoolError) -> Self {
        let sqlstate = match &error {
            SpoolError::ChangeTooLarge { .. } => sqlstate::PROGRAM_LIMIT_EXCEEDED,
            SpoolError::Io(source) => sqlstate::of_io(source),
        };
        Self::new(sqlstate, highwater_log::error_chain(&error))
    }
}

const GIVEN_UP: u8 = 1;
const TAKEN: u8 = 2;
const PLACE_OVERHEAD_BYTES: usize = 80;
