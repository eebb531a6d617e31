//! Backfills: what an index holds of rows that were there before it.
//!
//! ```text
//!   rows at s ──▶ a tree of its own ──▶ checked, put beneath, recorded ──▶ the commit that says so
//!                 commits behind the one that began the index write into the index's own tree all along
//! ```
//!
//! The backfill holds the entries of the rows at one LSN s, behind the commit that began the index. What commits wrote since hides it,
//! also that an entry is gone; so index and backfill together hold what the rows hold, at s and at every LSN behind it. A crash
//! begins it again. Where a replay comes to the commit that says it is there, and it is not, it is filled on the spot.

use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use highwater_log::position::{SchemaVersion, StorageId, TableId};
use highwater_log::row::{CodecError, Row};
use highwater_log::sequencer::KeyRange;
use highwater_log::{Change, Commit, Lsn};

use super::checkpoint::Checkpoint;
use super::tree::{Direction, Staleness, Tree};
use super::{ENTRY_OVERHEAD_BYTES, Kv, ReadPin, StoredRow, value};
use crate::catalog::Catalog;
use crate::error::FoldError;
use crate::materializer::Materializer;
use crate::table::{Index, Table, TableRow, Uniqueness};

/// A backfill under way. Dropped before its end, it leaves files that the next one of the same index removes.
pub struct Backfill {
    pin: ReadPin,
    rows: Box<dyn Iterator<Item = Result<(Bytes, StoredRow), FoldError>> + Send>,
    filler: Filler,
    storage: StorageId,
}

impl Backfill {
    /// Begins to fill an index of `table` with the entries of the rows as they are now. `None`: it is there.
    ///
    /// # Errors
    /// [`FoldError::Storage`], [`FoldError::Io`].
    pub fn begin(kv: &Arc<Kv>, table: &Arc<Table>, index: &Index) -> Result<Option<Self>, FoldError> {
        let Some(storage) = index.backfill else { return Ok(None) };
        let mut upkeep = kv.upkeep();
        let pin = kv.pin_for_work(kv.applied())?;
        if kv.tree(index.storage, pin.generation)?.is_some_and(|tree| tree.base().is_some()) {
            return Ok(None);
        }
        let tree = kv.begin_tree(&mut upkeep, storage)?;
        drop(upkeep);
        let rows = Box::new(pin.rows(table.schema().storage, &KeyRange::all())?);
        let filler = Filler::new(tree, table, index, pin.at());
        Ok(Some(Self { pin, rows, filler, storage }))
    }

    /// Takes in up to `count` rows; `true`: there are no more.
    ///
    /// # Errors
    /// [`FoldError::Reopened`] when the rows were folded anew meanwhile: it is to be begun again. [`FoldError::Row`] when a row is
    /// damaged, or its key too long for an index.
    pub fn step(&mut self, count: usize) -> Result<bool, FoldError> {
        let kv = &self.pin.kv;
        if kv.generation() != self.pin.generation {
            // The files that it writes to are somebody else's.
            return Err(FoldError::Reopened);
        }
        for _ in 0..count {
            let Some(item) = self.rows.next() else { return Ok(true) };
            let (key, row) = item?;
            self.filler.put(&kv.catalog, &key, &row)?;
        }
        self.filler.flush_above(kv.options.memtable_bytes)?;
        Ok(false)
    }

    /// Puts what was filled beneath the index, for good, and returns what holds the rows readable as they are in it; or, of a unique
    /// index, a row whose values another one has, too: what was filled is gone then.
    ///
    /// # Errors
    /// As [`Backfill::step`]; [`FoldError::Storage`], [`FoldError::Io`].
    pub fn finish(mut self) -> Result<Result<ReadPin, StoredRow>, FoldError> {
        self.filler.flush_above(0)?;
        // Entries of the same key lie over one another: there are fewer then than were written.
        if self.filler.index.is_unique && count(&self.filler.tree, self.pin.at)? != self.filler.count {
            let duplicate = self.filler.duplicate(&self.pin)?;
            self.abandon()?;
            return Ok(Err(duplicate));
        }
        let Self { pin, filler, storage, .. } = self;
        let kv = &pin.kv;
        let mut upkeep = kv.upkeep();
        {
            let _folding = kv.folding.lock().unwrap_or_else(PoisonError::into_inner);
            if kv.generation() != pin.generation {
                return Err(FoldError::Reopened);
            }
            kv.put_beneath(&filler.index, storage, filler.tree)?;
        }
        // Recorded before any commit says that it is there.
        kv.checkpoint_anew(&mut upkeep)?;
        drop(upkeep);
        Ok(Ok(pin))
    }

    /// Gives up what was filled.
    ///
    /// # Errors
    /// [`FoldError::Io`].
    pub fn abandon(self) -> Result<(), FoldError> {
        let Self { pin, filler, storage, .. } = self;
        drop(filler);
        let _upkeep = pin.kv.upkeep();
        if pin.kv.generation() == pin.generation { pin.kv.remove_tree_directory(storage) } else { Ok(()) }
    }
}

impl ReadPin {
    /// A row whose place in a unique index two rows had at the same time, be it for a moment, before the rows of before excluded others:
    /// whoever begins at or before this pin's LSN does not see them, whoever begins behind it does. `filled` is what
    /// [`Backfill::finish`] gave.
    ///
    /// Entries of before and what commits wrote over them tell who has a place only where nobody ever took one that was taken. So each
    /// place that commits wrote to is looked at where the two meet: what was written by then says what was gathered; and who wrote to it
    /// first since then found it free.
    ///
    /// # Errors
    /// As [`ReadPin::rows`].
    pub fn taken_twice(&self, filled: &Self, table: &Table, index: &Index) -> Result<Option<StoredRow>, FoldError> {
        if filled.generation != self.generation {
            return Err(FoldError::Reopened);
        }
        let Some(tree) = self.kv.tree(index.storage, self.generation)? else { return Ok(None) };
        let Some(base) = tree.base() else { return Ok(None) };
        for item in tree.own(&KeyRange::all(), self.at, Direction::Forward) {
            let (place, _) = item?;
            let gathered = base.look_up(&place, filled.at)?.map(StoredRow::decode).transpose()?;
            let is_same = |written: &Bytes| -> Result<bool, FoldError> {
                let written = (!value::is_gone(written)).then(|| StoredRow::decode(written.clone())).transpose()?;
                Ok(written.map(|row| row.bytes) == gathered.as_ref().map(|row| row.bytes.clone()))
            };
            match (tree.own_value(&place, filled.at)?, &gathered) {
                (Some(written), _) if is_same(&written)? => {}
                (None, None) => {}
                (Some(_), None) => return Err(super::storage_error("an index entry of a row that is not there")),
                (Some(_), Some(gathered)) => return filled.row(table.schema().storage, &gathered.bytes),
                (None, Some(gathered)) => {
                    let Some((lsn, written)) = tree.first_behind(&place, filled.at, self.at)? else { continue };
                    if value::is_gone(&written) || is_same(&written)? {
                        continue;
                    }
                    // It may have given its place up in the commit in which the other took it.
                    let pin = self.kv.pin(lsn)?;
                    let Some(row) = pin.row(table.schema().storage, &gathered.bytes)? else { continue };
                    let version = version_of(&self.kv.catalog, table, &row, lsn)?;
                    if entry_key(&version, table, index, &gathered.bytes, &row, lsn)? == place {
                        return Ok(Some(row));
                    }
                }
            }
        }
        Ok(None)
    }
}

impl Kv {
    /// Sees to the indexes of the tables whose entries a commit changes: of those that are filled by now, the backfill is there.
    pub(super) fn fill_indexes(&self, commit: &Commit) -> Result<(), FoldError> {
        for change in &commit.changes {
            let object = match change {
                Change::Catalog { object, entry: Some(_) } => *object,
                Change::Truncate { table, .. } => table.value(),
                Change::Catalog { entry: None, .. } => continue,
                // The catalog's changes stand first.
                _ => break,
            };
            let Some(table) = self.catalog.table(TableId::new(object), commit.lsn) else { continue };
            for index in table.indexes() {
                let Some(storage) = index.backfill else { continue };
                let tree = self.tree_to_write(index.storage)?;
                tree.lie_over(storage);
                if index.state.is_filled() && tree.base().is_none() {
                    self.fill_now(&table, index, storage)?;
                }
            }
        }
        Ok(())
    }

    /// Puts nothing beneath the indexes that a base image has written whole.
    pub(super) fn begin_indexes(&self, at: Lsn) -> Result<(), FoldError> {
        for table in self.catalog.tables(at) {
            for index in table.indexes().iter().filter(|index| index.state.is_filled()) {
                if let Some(storage) = index.backfill {
                    self.put_beneath(index, storage, self.empty_tree(storage)?)?;
                }
            }
        }
        Ok(())
    }

    /// Fills an index out of what is applied, of which its backfill was lost.
    fn fill_now(&self, table: &Arc<Table>, index: &Index, storage: StorageId) -> Result<(), FoldError> {
        let at = self.applied();
        self.trees.write().unwrap_or_else(PoisonError::into_inner).by_storage.remove(&storage);
        let mut filler = Filler::new(self.empty_tree(storage)?, table, index, at);
        if let Some(rows) = self.tree(table.schema().storage, self.generation())? {
            for item in rows.scan(&KeyRange::all(), at, Direction::Forward) {
                let (key, value) = item?;
                filler.put(&self.catalog, &key, &StoredRow::decode(value)?)?;
                filler.flush_above(self.options.memtable_bytes)?;
            }
        }
        filler.flush_above(0)?;
        self.put_beneath(index, storage, filler.tree)
    }

    /// The caller excludes folding and opening anew.
    fn put_beneath(&self, index: &Index, storage: StorageId, tree: Arc<Tree>) -> Result<(), FoldError> {
        let own = self.tree_to_write(index.storage)?;
        own.lie_over(storage);
        self.trees.write().unwrap_or_else(PoisonError::into_inner).by_storage.insert(storage, Arc::clone(&tree));
        own.put_beneath(tree);
        Ok(())
    }

    /// An empty tree that no checkpoint knows of, in the place of what a backfill of before has left.
    fn begin_tree(&self, upkeep: &mut Checkpoint, storage: StorageId) -> Result<Arc<Tree>, FoldError> {
        if upkeep.trees.iter().any(|known| known.tree == storage) {
            let mut next = upkeep.clone();
            next.trees.retain(|known| known.tree != storage);
            next.manifests.retain(|manifest| manifest.tree != storage);
            self.record(upkeep, next)?;
        }
        self.trees.write().unwrap_or_else(PoisonError::into_inner).by_storage.remove(&storage);
        self.empty_tree(storage)
    }

    fn empty_tree(&self, storage: StorageId) -> Result<Arc<Tree>, FoldError> {
        let path = self.tree_directory(storage);
        if path.exists() {
            self.remove_tree_directory(storage)?;
        }
        self.open_tree(storage, Staleness::default()).map(Arc::new)
    }
}

/// Writes entries of rows into a tree.
struct Filler {
    tree: Arc<Tree>,
    table: Arc<Table>,
    index: Index,
    /// The LSN that the rows are read at.
    at: Lsn,
    count: u64,
    unflushed_bytes: usize,
    /// Rows of one version stand together mostly.
    version: Arc<Table>,
}

impl Filler {
    fn new(tree: Arc<Tree>, table: &Arc<Table>, index: &Index, at: Lsn) -> Self {
        let (index, version) = (index.clone(), Arc::clone(table));
        Self { tree, table: Arc::clone(table), index, at, count: 0, unflushed_bytes: 0, version }
    }

    fn put(&mut self, catalog: &Catalog, key: &[u8], row: &StoredRow) -> Result<(), FoldError> {
        if schema_version(&self.table, row, self.at)? != self.version.schema().version {
            self.version = version_of(catalog, &self.table, row, self.at)?;
        }
        let entry = entry_key(&self.version, &self.table, &self.index, key, row, self.at)?;
        let value = value::row(self.at, row.id, key);
        self.unflushed_bytes += entry.len() + value.len() + ENTRY_OVERHEAD_BYTES;
        self.tree.write(&entry, value, self.at);
        self.count += 1;
        Ok(())
    }

    /// Writes what is in memory to files, if that is so many bytes.
    fn flush_above(&mut self, bytes: u64) -> Result<(), FoldError> {
        if self.unflushed_bytes as u64 >= bytes {
            self.tree.flush()?;
            self.unflushed_bytes = 0;
        }
        Ok(())
    }

    /// The first row whose entry is another one's.
    fn duplicate(&self, pin: &ReadPin) -> Result<StoredRow, FoldError> {
        for item in pin.rows(self.table.schema().storage, &KeyRange::all())? {
            let (key, row) = item?;
            let version = version_of(&pin.kv.catalog, &self.table, &row, self.at)?;
            let entry = entry_key(&version, &self.table, &self.index, &key, &row, self.at)?;
            let found = self.tree.look_up(&entry, self.at)?.map(StoredRow::decode).transpose()?;
            if found.is_none_or(|found| found.bytes != key) {
                return Ok(row);
            }
        }
        Err(super::storage_error("entries of a backfill were lost"))
    }
}

/// The key of a row in an index of `table`; the row was written under `version`.
fn entry_key(
    version: &Table,
    table: &Table,
    index: &Index,
    key: &[u8],
    row: &StoredRow,
    lsn: Lsn,
) -> Result<Bytes, FoldError> {
    let entry =
        TableRow::parse(version, &row.bytes, table).and_then(|view| match table.index_key(index, &view, key)? {
            (_, Uniqueness::TooLong(length)) => Err(CodecError::KeyTooLong(length)),
            (entry, _) => Ok(entry),
        });
    entry.map_err(|source| FoldError::Row { lsn, table: table.schema().id, source })
}

fn schema_version(table: &Table, row: &StoredRow, lsn: Lsn) -> Result<SchemaVersion, FoldError> {
    Row::schema_version(&row.bytes).map_err(|source| FoldError::Row { lsn, table: table.schema().id, source })
}

fn version_of(catalog: &Catalog, table: &Table, row: &StoredRow, lsn: Lsn) -> Result<Arc<Table>, FoldError> {
    let (table_id, version) = (table.schema().id, schema_version(table, row, lsn)?);
    catalog.table_at_version(table_id, version).ok_or(FoldError::UnknownSchema { lsn, table: table_id, version })
}

fn count(tree: &Tree, at: Lsn) -> Result<u64, FoldError> {
    let mut count = 0;
    for item in tree.own(&KeyRange::all(), at, Direction::Forward) {
        item?;
        count += 1;
    }
    Ok(count)
}
