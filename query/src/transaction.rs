//! A transaction: a snapshot, what it has written over it, and the write set that this becomes.

mod large;
mod write_set;

use std::borrow::Cow;
use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use highwater_log::Lsn;
use highwater_log::key::{self, HeadKey};
use highwater_log::position::{RowId, StorageId, TableId};
use highwater_log::sequencer::{KeyRange, Precondition};
use highwater_materializers::{Index, Materialized, StoredRow, Table, TableRow, Uniqueness};

use crate::catalog::{CatalogView, primary_key_name};
use crate::error::SqlError;
use crate::rows::{Ahead, RowSource, RowWrite, SeenRow, SpillRoom};
use crate::sqlstate;
use crate::statement::transaction_too_large;

/// A transaction under snapshot isolation: all its reads are at one LSN, with its own writes over it.
pub(crate) struct Transaction {
    pub(crate) catalog: CatalogView,
    started_micros: u64,
    source: RowSource,
    /// Which table a storage was of when it was written to.
    written: BTreeMap<StorageId, TableId>,
    positions: BTreeMap<Bytes, Bytes>,
    conditions: Vec<Precondition>,
    next_provisional_row: u64,
    /// The stored row that was looked up last: who looks at one often writes it next.
    looked_up: Option<(StorageId, HeadKey, StoredRow)>,
    /// Of all rows that it was given to write, and how many they may be.
    bytes: usize,
    bytes_max: usize,
    /// Where it puts on disk what is too much for memory.
    spill_room: Arc<SpillRoom>,
}

/// How a transaction is kept apart from others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Isolation {
    /// All that it reads is of one LSN, and no row that it writes was changed since: REPEATABLE READ.
    #[default]
    Snapshot,
    /// Besides, nothing that it has read was changed since, if it writes: SERIALIZABLE.
    Serializable,
}

/// A change of one row by a statement.
pub(crate) enum RowChange {
    Insert {
        after: Vec<u8>,
    },
    /// The row is there from now on, whether one of its key was or not.
    Put {
        after: Vec<u8>,
    },
    Update {
        key: Bytes,
        after: Vec<u8>,
    },
    Delete {
        key: Bytes,
    },
}

impl RowChange {
    /// Its bytes in the log, roughly.
    fn byte_len(&self) -> usize {
        const OVERHEAD_BYTES: usize = 40;
        OVERHEAD_BYTES
            + match self {
                Self::Insert { after } | Self::Put { after } => after.len(),
                Self::Update { key, after } => key.len() + after.len(),
                Self::Delete { key } => key.len(),
            }
    }
}

impl Transaction {
    /// Begins at `at`; `now_micros` is what `now()` answers in it.
    ///
    /// # Errors
    /// `HW001` when `at` lies below the history, `HW002` when it is not applied.
    pub(crate) fn begin(
        folds: &Materialized,
        at: Lsn,
        now_micros: u64,
        bytes_max: usize,
        spill_room: Arc<SpillRoom>,
    ) -> Result<Self, SqlError> {
        let pin = Arc::new(folds.kv().pin(at)?);
        let catalog = Arc::clone(folds.catalog());
        Ok(Self {
            catalog: CatalogView::new(Arc::clone(&catalog), at),
            started_micros: now_micros,
            source: RowSource { pin, catalog, writes: Arc::default(), ahead: None, reads: None },
            written: BTreeMap::new(),
            positions: BTreeMap::new(),
            conditions: Vec::new(),
            next_provisional_row: PROVISIONAL_ROWS_FROM,
            looked_up: None,
            bytes: 0,
            bytes_max,
            spill_room,
        })
    }

    /// How it is kept apart from others; to be said before it reads anything.
    pub(crate) fn set_isolation(&mut self, isolation: Isolation) {
        self.source.reads = match isolation {
            Isolation::Snapshot => None,
            Isolation::Serializable => Some(Arc::default()),
        };
    }

    /// How it is kept apart from others.
    pub(crate) const fn isolation(&self) -> Isolation {
        match self.source.reads {
            None => Isolation::Snapshot,
            Some(_) => Isolation::Serializable,
        }
    }

    /// Lets it see commits that are not visible yet. It is to be ordered behind them.
    pub(crate) fn look_ahead(&mut self, ahead: Arc<Ahead>) {
        self.source.ahead = Some(ahead);
    }

    /// The LSN of its reads.
    pub(crate) fn at(&self) -> Lsn {
        self.catalog.at()
    }

    /// When it began, in microseconds since 1970.
    pub(crate) const fn started_micros(&self) -> u64 {
        self.started_micros
    }

    /// The rows as it sees them now.
    pub(crate) fn source(&self) -> RowSource {
        self.source.clone()
    }

    /// As [`Transaction::source`], borrowed.
    pub(crate) const fn source_ref(&self) -> &RowSource {
        &self.source
    }

    /// The row of this key as it is now.
    pub(crate) fn current_row(&mut self, table: &Table, key: &HeadKey) -> Result<Option<SeenRow>, SqlError> {
        let storage = table.schema().storage;
        if let Some(write) = self.source.writes.row(storage, key)? {
            return Ok(write.after);
        }
        let Some(row) = self.source.stored(table, key)? else { return Ok(None) };
        let seen = self.source.seen(table, row.bytes.clone())?;
        self.looked_up = Some((storage, key.clone(), row));
        Ok(Some(seen))
    }

    /// Whether it has anything to commit.
    pub(crate) fn has_writes(&self) -> bool {
        self.catalog.has_own() || !self.positions.is_empty() || !self.source.writes.storages().is_empty()
    }

    /// Whether it has changed rows of a table.
    pub(crate) fn has_written(&self, table: &Table) -> bool {
        self.source.writes.has_rows(table.schema().storage)
    }

    /// Whether the table has no rows at the transaction's LSN.
    pub(crate) fn has_only_own_rows(&self, table: &Table) -> Result<bool, SqlError> {
        let mut stored = self.source.pin.rows(table.schema().storage, &KeyRange::all())?;
        Ok(stored.next().transpose()?.is_none() && self.source.ahead.is_none())
    }

    /// Notes what the rows that it has written take of indexes that came behind them.
    pub(crate) fn note_own_codes(&mut self, table: &Arc<Table>) -> Result<(), SqlError> {
        for item in self.source.writes.rows(table.schema().storage, &KeyRange::all()) {
            let (key, RowWrite { after, .. }) = item?;
            let Some(row) = after else { continue };
            let codes = unique_codes(table, &row, &key, |_, _| Ok(()))?;
            let writes = Arc::make_mut(&mut self.source.writes);
            for (index, code) in codes {
                writes.put_codes(index, [(code, Some(key.clone()))]);
            }
            writes.spill(&self.spill_room)?;
        }
        Ok(())
    }

    /// Notes how far something outside has come, to be committed with the rest.
    pub(crate) fn put_position(&mut self, of: Bytes, position: Bytes) {
        self.positions.insert(of, position);
    }

    /// Makes the commit depend on one more condition.
    pub(crate) fn demand(&mut self, condition: Precondition) {
        self.conditions.push(condition);
    }

    /// Changes rows of a table, all of them or, after an error, none. A key that the changes name twice is changed once, as the first
    /// says.
    ///
    /// # Errors
    /// `23505`.
    pub(crate) fn write(&mut self, table: &Arc<Table>, changes: Vec<RowChange>) -> Result<usize, SqlError> {
        self.write_and_tell(table, changes, None)
    }

    /// As [`Transaction::write`]; returns the rows as they are now, or as they were before they were deleted, in the order of the changes.
    pub(crate) fn write_and_return(
        &mut self,
        table: &Arc<Table>,
        changes: Vec<RowChange>,
    ) -> Result<Vec<SeenRow>, SqlError> {
        let mut told = Vec::with_capacity(changes.len());
        self.write_and_tell(table, changes, Some(&mut told))?;
        Ok(told)
    }

    fn write_and_tell(
        &mut self,
        table: &Arc<Table>,
        changes: Vec<RowChange>,
        mut told: Option<&mut Vec<SeenRow>>,
    ) -> Result<usize, SqlError> {
        let bytes: usize = changes.iter().map(RowChange::byte_len).sum();
        transaction_too_large(self.bytes + bytes, self.bytes_max)?;
        let mut delta = Delta::new(table, &self.source, self.looked_up.take());
        let mut arriving = Vec::with_capacity(changes.len());
        let mut count = 0;
        for change in changes {
            match change {
                RowChange::Insert { after } => arriving.push((Arrival::New, after)),
                RowChange::Put { after } => {
                    // What the rows in the way hold of unique indexes is given up before any row of these takes it.
                    if !table.schema().primary_key.is_empty() && !table.indexes().is_empty() {
                        let view = TableRow::parse(table, &after, table)?;
                        delta.leave(table.row_key(&view, RowId::default())?.into())?;
                    }
                    arriving.push((Arrival::Put, after));
                }
                RowChange::Update { key, after } => {
                    if delta.leave(HeadKey::from(key.clone()))?.is_some() {
                        arriving.push((Arrival::Moved(key), after));
                        count += 1;
                    }
                }
                RowChange::Delete { key } => {
                    if let Some(row) = delta.leave(key.into())? {
                        count += 1;
                        told.iter_mut().for_each(|told| told.push(row.clone()));
                    }
                }
            }
        }
        for (arrival, after) in arriving {
            let row = SeenRow { bytes: after.into(), written: Arc::clone(table) };
            told.iter_mut().for_each(|told| told.push(row.clone()));
            if !matches!(arrival, Arrival::Moved(_)) {
                count += 1;
            }
            delta.arrive(arrival, row, RowId::new(self.next_provisional_row))?;
            self.next_provisional_row += 1;
        }
        let Delta { rows, codes, .. } = delta;
        // The log has the rows as they were, too.
        let images = rows.values().map(|write| {
            let length = |bytes: &Bytes| bytes.len();
            let after = write.after.as_ref().map_or(0, |after| length(&after.bytes));
            write.before.as_ref().map_or(0, |before| length(&before.bytes)).saturating_sub(after)
        });
        let bytes = bytes + images.sum::<usize>();
        transaction_too_large(self.bytes + bytes, self.bytes_max)?;
        self.written.insert(table.schema().storage, table.schema().id);
        self.bytes += bytes;
        let writes = Arc::make_mut(&mut self.source.writes);
        writes.put_rows(table.schema().storage, rows);
        for (index, changed) in codes {
            writes.put_codes(index, changed);
        }
        writes.spill(&self.spill_room)?;
        Ok(count)
    }

    /// Forgets what it wrote to a table whose rows are gone.
    pub(crate) fn forget_rows(&mut self, table: &Table) {
        let indexes = table.indexes().iter().map(|index| index.storage);
        Arc::make_mut(&mut self.source.writes).forget(table.schema().storage, indexes);
    }
}

/// How a row comes.
enum Arrival {
    /// Its key must be free.
    New,
    /// In the place of the one that has its key, if there is one.
    Put,
    /// From this key, which it has left.
    Moved(Bytes),
}

/// What a statement does to a table, over what the transaction did before.
struct Delta<'a> {
    table: &'a Arc<Table>,
    source: &'a RowSource,
    looked_up: Option<(StorageId, HeadKey, StoredRow)>,
    rows: BTreeMap<HeadKey, RowWrite>,
    codes: BTreeMap<StorageId, HashMap<Bytes, Option<Bytes>>>,
    /// Of rows that were too long for an index before: the index, and the row's key.
    too_long: HashSet<(StorageId, Bytes)>,
}

impl<'a> Delta<'a> {
    fn new(table: &'a Arc<Table>, source: &'a RowSource, looked_up: Option<(StorageId, HeadKey, StoredRow)>) -> Self {
        Self { table, source, looked_up, rows: BTreeMap::new(), codes: BTreeMap::new(), too_long: HashSet::new() }
    }

    /// The row of this key at the transaction's LSN.
    fn stored(&self, key: &HeadKey) -> Result<Option<StoredRow>, SqlError> {
        match &self.looked_up {
            Some((storage, known, row)) if *storage == self.table.schema().storage && known == key => {
                Ok(Some(row.clone()))
            }
            _ => self.source.stored(self.table, key),
        }
    }

    /// Takes the row of this key away, and returns it; `None`: the statement has done so already, or there is none.
    fn leave(&mut self, key: HeadKey) -> Result<Option<SeenRow>, SqlError> {
        if self.rows.contains_key(&key) {
            return Ok(None);
        }
        let (before, current) = match self.source.writes.row(self.table.schema().storage, &key)? {
            Some(write) => (write.before, write.after),
            None => {
                let before = self.stored(&key)?;
                let current = before.clone().map(|row| self.source.seen(self.table, row.bytes)).transpose()?;
                (before, current)
            }
        };
        let Some(current) = current else { return Ok(None) };
        let mut was_too_long = Vec::new();
        for (index, code) in unique_codes(self.table, &current, key.bytes(), |index, _| {
            was_too_long.push((index.storage, key.bytes().clone()));
            Ok(())
        })? {
            self.codes.entry(index).or_default().insert(code, None);
        }
        self.too_long.extend(was_too_long);
        self.rows.insert(key, RowWrite { before, after: None });
        Ok(Some(current))
    }

    /// Puts a row in; a new row of a table without key gets `provisional`.
    fn arrive(&mut self, arrival: Arrival, row: SeenRow, provisional: RowId) -> Result<(), SqlError> {
        let is_keyless = self.table.schema().primary_key.is_empty();
        let is_put = matches!(arrival, Arrival::Put);
        let left = match &arrival {
            Arrival::Moved(key) => Some(key.clone()),
            Arrival::New | Arrival::Put => None,
        };
        let key = match arrival {
            Arrival::Moved(key) if is_keyless => key,
            _ => self.table.row_key(&row.view(self.table)?, provisional)?,
        };
        if key.len() > key::KEY_BYTES_MAX {
            return Err(SqlError::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, "the key is too long"));
        }
        // One that an index has not come to yet, it will; it is not for who writes to the row meanwhile to fail.
        let had_been =
            |index: &Index| left.as_ref().is_some_and(|left| self.too_long.contains(&(index.storage, left.clone())));
        let refuse = |index: &Index, length| if had_been(index) { Ok(()) } else { Err(too_long(index, length)) };
        for (index, code) in unique_codes(self.table, &row, &key, refuse)? {
            let is_taken = match self.codes.get(&index).and_then(|codes| codes.get(&code)) {
                Some(taken) => taken.is_some(),
                None => self.source.has_code(index, &code)?,
            };
            if is_taken {
                return Err(self.duplicate(Some(index)));
            }
            self.codes.entry(index).or_default().insert(code, Some(key.clone()));
        }
        match self.rows.entry(key.into()) {
            Slot::Occupied(mut slot) => match &mut slot.get_mut().after {
                Some(_) => return Err(self.duplicate(None)),
                after => *after = Some(row),
            },
            Slot::Vacant(slot) if is_keyless => {
                slot.insert(RowWrite { before: None, after: Some(row) });
            }
            Slot::Vacant(slot) => {
                let own = self.source.writes.row(self.table.schema().storage, slot.key())?;
                let (before, is_there) = match own {
                    Some(write) => (write.before, write.after.is_some()),
                    None => {
                        let before = self.source.stored(self.table, slot.key())?;
                        let is_there = before.is_some();
                        (before, is_there)
                    }
                };
                if is_there && !is_put {
                    return Err(self.duplicate(None));
                }
                slot.insert(RowWrite { before, after: Some(row) });
            }
        }
        Ok(())
    }

    fn duplicate(&self, index: Option<StorageId>) -> SqlError {
        let schema = self.table.schema();
        let unique = self.table.indexes().iter().find(|known| Some(known.storage) == index);
        let name = unique.map_or_else(|| primary_key_name(schema), |unique| Cow::Borrowed(&*unique.name));
        let message = format!("duplicate key value violates unique constraint \"{name}\"");
        SqlError::new(sqlstate::UNIQUE_VIOLATION, message)
    }
}

/// The entries of a row in a table's indexes, where they exclude others; what becomes of one that is too long, whether it would or
/// not, the last parameter says.
fn unique_codes(
    table: &Table,
    row: &SeenRow,
    key: &Bytes,
    mut too_long: impl FnMut(&Index, usize) -> Result<(), SqlError>,
) -> Result<Vec<(StorageId, Bytes)>, SqlError> {
    if table.indexes().is_empty() {
        return Ok(Vec::new());
    }
    let view = row.view(table)?;
    let mut codes = Vec::new();
    for index in table.indexes() {
        match table.index_key(index, &view, key)? {
            (code, Uniqueness::Unique) => codes.push((index.storage, code)),
            (_, Uniqueness::NotUnique) => {}
            (_, Uniqueness::TooLong(length)) => too_long(index, length)?,
        }
    }
    Ok(codes)
}

/// A row does not go into an index.
pub(crate) fn too_long(index: &Index, length: usize) -> SqlError {
    let (max, name) = (key::KEY_BYTES_MAX, &index.name);
    let message = format!("index row size {length} exceeds maximum {max} for index \"{name}\"");
    SqlError::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, message)
}

/// Rows that have no id yet sort behind all that have one.
const PROVISIONAL_ROWS_FROM: u64 = 1 << 63;
