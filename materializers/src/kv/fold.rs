//! What a commit does to keys: the pure part of the fold.

use std::sync::Arc;

use bytes::Bytes;
use highwater_log::position::{RowId, StorageId, TableId};
use highwater_log::row::{CodecError, Row};
use highwater_log::{Change, Commit, Lsn};

use super::value;
use crate::catalog::Catalog;
use crate::error::FoldError;
use crate::table::{Index, Table, TableRow};

/// The keys that a commit writes.
#[derive(Debug, Default)]
struct Writes {
    /// In the order of the changes, then in order, where a key stands once.
    keys: Vec<Write>,
}

/// A write of one key.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) storage: StorageId,
    pub(super) key: Bytes,
    /// As the tree keeps it, the LSN first.
    pub(super) value: Vec<u8>,
    /// How many versions it makes stale, itself among them where it says that the key is gone.
    pub(super) stale: u64,
}

impl Write {
    fn is_removal(&self) -> bool {
        value::is_gone(&self.value)
    }
}

/// What `commit` writes. The catalog has applied it, and everything before.
pub(super) fn fold(commit: &Commit, catalog: &Catalog) -> Result<Vec<Write>, FoldError> {
    let mut fold = Fold::new(commit.lsn, catalog, Pass::Only);
    fold.writes.keys.reserve(commit.changes.len());
    for change in &commit.changes {
        fold.change(change)?;
    }
    Ok(fold.writes.in_order().keys)
}

/// Folds a commit part by part, in two passes: an entry of a unique index may change hands within a commit, and then what was put
/// counts, wherever it stands. So what goes of unique indexes goes in the second pass, where nothing was put in its place in the first.
pub(super) struct PartFold<'a>(Fold<'a>);

impl<'a> PartFold<'a> {
    /// The first pass over a commit that the catalog has applied, and everything before.
    pub(super) fn first_pass(lsn: Lsn, catalog: &'a Catalog) -> Self {
        Self(Fold::new(lsn, catalog, Pass::First))
    }

    /// The second pass, behind this first one; `None`: it has nothing to do.
    pub(super) fn second_pass(self) -> Option<Self> {
        let Fold { lsn, catalog, has_left, .. } = self.0;
        has_left.then(|| Self(Fold::new(lsn, catalog, Pass::Second)))
    }

    /// What the changes of a part write in this pass; positions among them are the last of the commit.
    pub(super) fn part(&mut self, changes: &[Change]) -> Result<Vec<Write>, FoldError> {
        for change in changes {
            self.0.change(change)?;
        }
        Ok(std::mem::take(&mut self.0.writes).in_order().keys)
    }

    /// Whether what is told to be gone counts only where nothing was put.
    pub(super) fn is_second(&self) -> bool {
        self.0.pass == Pass::Second
    }
}

impl Writes {
    /// Every key once: as it was put last, or gone where it was only removed. An index key may change hands within a commit.
    fn in_order(mut self) -> Self {
        self.keys.sort_by(|a, b| (a.storage, &a.key).cmp(&(b.storage, &b.key)));
        self.keys.dedup_by(|later, write| {
            let is_same = later.storage == write.storage && later.key == write.key;
            if is_same {
                if !later.is_removal() {
                    write.value = std::mem::take(&mut later.value);
                }
                let hides_one = write.stale + later.stale > 0;
                write.stale = u64::from(hides_one) + u64::from(write.is_removal());
            }
            is_same
        });
        self
    }
}

/// Folds rows of a base image.
pub(super) struct ImageFold<'a>(Fold<'a>);

impl<'a> ImageFold<'a> {
    /// Of the image at `at`.
    pub(super) fn new(catalog: &'a Catalog, at: Lsn) -> Self {
        Self(Fold::new(at, catalog, Pass::Only))
    }

    /// The keys of a row that commit `version` wrote: its own, and those of its index entries.
    pub(super) fn row(
        &mut self,
        version: Lsn,
        table: TableId,
        row: RowId,
        image: &Bytes,
    ) -> Result<impl Iterator<Item = Write> + use<'_, 'a>, FoldError> {
        let fold = &mut self.0;
        let (written, current) = fold.version_and_current(table, image)?;
        fold.version = version;
        fold.in_row(table, |fold| fold.put(&current, row, None, Image { table: &written, bytes: image }))?;
        Ok(fold.writes.keys.drain(..))
    }
}

struct Fold<'a> {
    /// Where the catalog is looked at.
    lsn: Lsn,
    /// What rows are said to have been written by.
    version: Lsn,
    catalog: &'a Catalog,
    writes: Writes,
    /// The version of a table that was asked for last, and the table at this commit: changes of one table stand together.
    recent: Option<(Arc<Table>, Arc<Table>)>,
    pass: Pass,
    /// The first pass has left something to the second.
    has_left: bool,
}

/// Which writes of a commit are folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    /// All.
    Only,
    /// All but what goes of unique indexes.
    First,
    /// What goes of unique indexes.
    Second,
}

/// A row's bytes, and the table at the schema version that they were written under.
#[derive(Clone, Copy)]
struct Image<'a> {
    table: &'a Table,
    bytes: &'a [u8],
}

impl<'a> Image<'a> {
    /// The row seen with the columns of `table`.
    fn row_of(self, table: &'a Table) -> Result<TableRow<'a>, CodecError> {
        TableRow::parse(self.table, self.bytes, table)
    }
}

impl<'a> Fold<'a> {
    fn new(at: Lsn, catalog: &'a Catalog, pass: Pass) -> Self {
        Self { lsn: at, version: at, catalog, writes: Writes::default(), recent: None, pass, has_left: false }
    }

    fn change(&mut self, change: &Change) -> Result<(), FoldError> {
        match change {
            // Truncated and dropped storages are left behind whole.
            Change::Catalog { .. } | Change::Truncate { .. } => Ok(()),
            Change::Insert { table, row, after } => {
                let (version, current) = self.version_and_current(*table, after)?;
                self.in_row(*table, |fold| fold.put(&current, *row, None, Image { table: &version, bytes: after }))
            }
            Change::Update { table, row, before, changed } => {
                let (old, _) = self.version_and_current(*table, before)?;
                let (new, current) = self.version_and_current(*table, changed)?;
                self.in_row(*table, |fold| {
                    let mut after = Vec::new();
                    new.merge(&old, before, changed, &mut after)?;
                    let before = Image { table: &old, bytes: before };
                    fold.put(&current, *row, Some(before), Image { table: &new, bytes: &after })
                })
            }
            Change::Delete { table, row, before } => {
                let (old, current) = self.version_and_current(*table, before)?;
                self.in_row(*table, |fold| {
                    let view = TableRow::parse(&old, before, &current)?;
                    let key = current.row_key(&view, *row)?;
                    for index in current.indexes() {
                        let (index_key, _) = current.index_key(index, &view, &key)?;
                        fold.remove_entry(index, index_key);
                    }
                    fold.remove(current.schema().storage, key);
                    Ok(())
                })
            }
            Change::Position { of, position } => {
                let key = value::position_key(of);
                // The last one counts, also when it is that there is none.
                self.writes.keys.retain(|write| write.storage != super::SYSTEM_STORAGE || write.key != key);
                if position.is_empty() {
                    self.remove(super::SYSTEM_STORAGE, key);
                } else {
                    let value = value::position(self.lsn, position);
                    // The one before, as a rule.
                    self.push(Write { storage: super::SYSTEM_STORAGE, key, value, stale: 1 });
                }
                Ok(())
            }
        }
    }

    /// Writes a row of `table` and its index entries, in the place of the image before it, if there is one.
    fn put(&mut self, table: &Table, id: RowId, before: Option<Image<'_>>, after: Image<'_>) -> Result<(), CodecError> {
        let row = after.row_of(table)?;
        let key = table.row_key(&row, id)?;
        for index in table.indexes() {
            let (index_key, _) = table.index_key(index, &row, &key)?;
            if let Some(before) = before {
                let (old_key, _) = table.index_key(index, &before.row_of(table)?, &key)?;
                if old_key == index_key {
                    continue;
                }
                self.remove_entry(index, old_key);
            }
            let value = value::row(self.version, id, &key);
            self.push(Write { storage: index.storage, key: index_key, value, stale: 0 });
        }
        let (storage, value) = (table.schema().storage, value::row(self.version, id, after.bytes));
        self.push(Write { storage, key, value, stale: u64::from(before.is_some()) });
        Ok(())
    }

    fn push(&mut self, write: Write) {
        if self.pass != Pass::Second {
            self.writes.keys.push(write);
        }
    }

    fn remove(&mut self, storage: StorageId, key: Bytes) {
        // The one before it, and itself.
        self.push(Write { storage, key, value: value::gone(self.version), stale: 2 });
    }

    fn remove_entry(&mut self, index: &Index, key: Bytes) {
        match self.pass {
            Pass::First if index.is_unique => self.has_left = true,
            Pass::Second if index.is_unique => {
                self.writes.keys.push(Write {
                    storage: index.storage,
                    key,
                    value: value::gone(self.version),
                    stale: 2,
                });
            }
            _ => self.remove(index.storage, key),
        }
    }

    /// The table at the version that a row was written under, and as it is at this commit: its storages and indexes, whatever version
    /// a row is of.
    fn version_and_current(&mut self, table: TableId, row: &Bytes) -> Result<(Arc<Table>, Arc<Table>), FoldError> {
        let lsn = self.lsn;
        let version = Row::schema_version(row).map_err(|source| FoldError::Row { lsn, table, source })?;
        let is_it = |known: &Table| known.schema().id == table && known.schema().version == version;
        if let Some(recent) = self.recent.as_ref().filter(|(known, _)| is_it(known)) {
            return Ok(recent.clone());
        }
        let written = self.catalog.table_at_version(table, version);
        let written = written.ok_or(FoldError::UnknownSchema { lsn, table, version })?;
        let current = self.catalog.table(table, lsn).unwrap_or_else(|| Arc::clone(&written));
        Ok(self.recent.insert((written, current)).clone())
    }

    fn in_row(
        &mut self,
        table: TableId,
        act: impl FnOnce(&mut Self) -> Result<(), CodecError>,
    ) -> Result<(), FoldError> {
        let lsn = self.lsn;
        act(self).map_err(|source| FoldError::Row { lsn, table, source })
    }
}
