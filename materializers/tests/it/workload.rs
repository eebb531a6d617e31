//! Random transactions, as a query layer would hand them to the sequencer: computed from a snapshot, net per key, with conditions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use highwater_log::commit::{ChangeSpool, ProducerId, ProducerSequence};
use highwater_log::env::simulated::Random;
use highwater_log::position::{ColumnId, IndexId, RowId, SchemaVersion, StorageId, TableId};
use highwater_log::row::Row;
use highwater_log::schema::{
    CatalogEntry, ColumnSchema, IndexSchema, IndexState, IndexedColumn, TableSchema, UniqueSchema,
};
use highwater_log::sequencer::{
    CATALOG_SPACE, CommitError, KeeperError, KeyName, KeySeen, KeyWrite, LargeKeys, LargeWrites, Precondition, TellKey,
    WriteSet, catalog_index_key, catalog_key, catalog_name_key,
};
use highwater_log::value::{ElementType, Value};
use highwater_log::{Change, Lsn};
use highwater_materializers::{Backfill, Index, StoredRow, Table, TableRow, Uniqueness, encode_missing};

use crate::world::{World, everything};

/// What a cell holds; `None` is NULL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    Number(i32),
    Text(String),
}

pub(crate) type Cells = Vec<Option<Cell>>;

/// A source of random transactions.
pub(crate) struct Workload {
    random: Random,
    sequences: [u64; 2],
}

impl Workload {
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), sequences: [0; 2] }
    }

    pub(crate) fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// A transaction on what is visible now.
    pub(crate) fn next(&mut self, world: &World) -> WriteSet {
        let at = world.visible();
        let tables = world.folds.catalog().tables(at);
        let mut set = if tables.is_empty() || (tables.len() < 4 && self.random.one_in(15)) {
            self.create_table(world, at)
        } else {
            let table = &tables[self.random.below(tables.len() as u64) as usize];
            if self.random.one_in(10) {
                self.change_schema(world, table, at)
            } else {
                self.change_rows(world, table, at)
            }
        };
        if self.random.one_in(4) {
            let of = Bytes::from(format!("source {}", self.random.below(2)));
            let position = if self.random.one_in(5) { Bytes::new() } else { at.value().to_le_bytes().to_vec().into() };
            set.changes.push(Change::Position { of, position });
        }
        if self.random.one_in(5) {
            let producer = self.random.below(2) as usize;
            self.sequences[producer] += 1 + self.random.below(2);
            let sequence = self.sequences[producer];
            set.producer = Some(ProducerSequence { producer: ProducerId([producer as u8 + 1; 16]), sequence });
        }
        set
    }

    /// As [`Workload::next`], but some come as those that are too large to lie in memory, in parts of a few rows: nothing is committed
    /// beside them.
    pub(crate) fn next_alone(&mut self, world: &World) -> WriteSet {
        let mut set = self.next(world);
        if self.random.one_in(3) {
            make_large(&mut set, [1, 100, 400][self.random.below(3) as usize]);
        }
        set
    }

    /// A transaction that makes an index ready, as long as there is one that is not.
    pub(crate) fn finish_index(&self, world: &World) -> Option<WriteSet> {
        let at = world.visible();
        let tables = world.folds.catalog().tables(at);
        let is_unready = |index: &IndexSchema| index.state != IndexState::Ready;
        let (table, place) = tables.iter().find_map(|table| {
            let place = table.schema().indexes.iter().position(is_unready)?;
            Some((table, place))
        })?;
        let mut schema = table.schema().clone();
        schema.indexes[place].state = IndexState::Ready;
        let (key, object) = (catalog_index_key(schema.indexes[place].id), schema.id.value());
        Some(WriteSet {
            keys: vec![catalog_write(key, true)],
            changes: vec![Change::Catalog { object, entry: Some(CatalogEntry::Table(schema).to_json().into()) }],
            ..WriteSet::default()
        })
    }

    /// Transactions that delete all rows, one for each table that has some.
    pub(crate) fn delete_all(&self, world: &World) -> Vec<WriteSet> {
        let at = world.visible();
        let tables = world.folds.catalog().tables(at);
        let loaded = tables.iter().map(|table| (table, load(world, table, at)));
        loaded.filter(|(_, rows)| !rows.is_empty()).map(|(table, rows)| diff(table, &rows, Vec::new())).collect()
    }

    fn create_table(&mut self, world: &World, at: Lsn) -> WriteSet {
        let id = world.folds.catalog().next_id();
        let has_key = !self.random.one_in(3);
        let column = |id: u32, name: &str, element: ElementType, not_null| ColumnSchema {
            id: ColumnId::new(id),
            name: name.to_owned(),
            column_type: element.into(),
            not_null,
            default: None,
            missing: None,
        };
        let unique = UniqueSchema {
            name: format!("t{id}_code_key"),
            storage: StorageId::new(id + 2),
            columns: vec![ColumnId::new(3)],
        };
        let schema = TableSchema {
            id: TableId::new(id),
            namespace: "public".to_owned(),
            name: format!("t{id}"),
            version: SchemaVersion::new(1),
            storage: StorageId::new(id + 1),
            columns: vec![
                column(1, "id", ElementType::Integer, has_key),
                column(2, "name", ElementType::Text, false),
                column(3, "code", ElementType::Integer, false),
            ],
            primary_key: if has_key { vec![ColumnId::new(1)] } else { Vec::new() },
            primary_key_name: None,
            uniques: vec![unique],
            indexes: Vec::new(),
            next_column: ColumnId::new(4),
        };
        let name = catalog_name_key(&schema.namespace, &schema.name);
        WriteSet {
            preconditions: vec![
                Precondition::Absent { space: CATALOG_SPACE, key: name.clone() },
                Precondition::RangeUnchanged { space: CATALOG_SPACE, range: everything(), since: at },
            ],
            keys: vec![catalog_write(catalog_key(id), true), catalog_write(name, true)],
            changes: vec![Change::Catalog { object: id, entry: Some(CatalogEntry::Table(schema).to_json().into()) }],
            ..WriteSet::default()
        }
    }

    fn change_schema(&mut self, world: &World, table: &Arc<Table>, at: Lsn) -> WriteSet {
        let id = table.schema().id;
        let mut schema = table.schema().clone();
        schema.version = schema.version.next();
        let mut set = WriteSet {
            preconditions: vec![
                Precondition::SchemaAt { table: id, version: table.written() },
                Precondition::RangeUnchanged { space: CATALOG_SPACE, range: everything(), since: at },
            ],
            keys: vec![catalog_write(catalog_key(id.value()), true)],
            ..WriteSet::default()
        };
        let unready = schema.indexes.iter().position(|index| !matches!(index.state, IndexState::Ready));
        match self.random.below(12) {
            8 | 9 if let Some(unready) = unready => {
                let index = &mut schema.indexes[unready];
                if self.random.one_in(3) {
                    fill(world, table, &Index::of_schema(index));
                }
                match index.unique && index.state == IndexState::Building {
                    true => index.state = IndexState::Checking,
                    false => {
                        // Readers alone have to know.
                        index.state = IndexState::Ready;
                        schema.version = table.schema().version;
                        set.preconditions.remove(0);
                        set.keys = vec![catalog_write(catalog_index_key(index.id), true)];
                    }
                }
            }
            8..=10 if schema.indexes.len() < 3 => {
                let next = world.folds.catalog().next_id();
                let columns: &[u32] = [&[2][..], &[3], &[3, 2]][self.random.below(3) as usize];
                let column =
                    |id: &u32| IndexedColumn { column: ColumnId::new(*id), descending: false, nulls_first: false };
                schema.indexes.push(IndexSchema {
                    id: IndexId::new(next),
                    name: format!("i{next}"),
                    storage: StorageId::new(next + 1),
                    backfill: Some(StorageId::new(next + 2)),
                    columns: columns.iter().map(column).collect(),
                    // The rows' codes are distinct.
                    unique: columns[0] == 3 && self.random.one_in(2),
                    state: IndexState::Building,
                });
            }
            11 if !schema.indexes.is_empty() => {
                schema.indexes.remove(self.random.below(schema.indexes.len() as u64) as usize);
            }
            0 => {
                set.keys = vec![
                    catalog_write(catalog_key(id.value()), false),
                    catalog_write(catalog_name_key(&schema.namespace, &schema.name), false),
                ];
                set.changes.push(Change::Catalog { object: id.value(), entry: None });
                return set;
            }
            1 | 2 => {
                let next = world.folds.catalog().next_id();
                schema.storage = StorageId::new(next);
                schema.uniques[0].storage = StorageId::new(next + 1);
                for (index, storage) in schema.indexes.iter_mut().zip(next + 2..) {
                    (index.storage, index.backfill) = (StorageId::new(storage), None);
                    index.state = IndexState::Ready;
                }
                let entry = CatalogEntry::Table(schema).to_json().into();
                set.changes.push(Change::Truncate { table: id, entry });
                return set;
            }
            3 | 4 if schema.columns.len() > 3 => {
                let extra = 3 + self.random.below(schema.columns.len() as u64 - 3) as usize;
                schema.columns.remove(extra);
            }
            _ => {
                let mut column = ColumnSchema {
                    id: schema.next_column,
                    name: format!("extra{}", schema.next_column),
                    column_type: ElementType::Integer.into(),
                    not_null: false,
                    default: Some("42".to_owned()),
                    missing: None,
                };
                if self.random.one_in(2) {
                    column.missing = Some(encode_missing(&column, Value::Integer(42)).unwrap());
                }
                schema.next_column = schema.next_column.next();
                schema.columns.push(column);
            }
        }
        let entry = Some(CatalogEntry::Table(schema).to_json().into());
        set.changes.push(Change::Catalog { object: id.value(), entry });
        set
    }

    fn change_rows(&mut self, world: &World, table: &Table, at: Lsn) -> WriteSet {
        let before = load(world, table, at);
        let mut after: Vec<(Option<Bytes>, Cells)> =
            before.iter().map(|(key, (_, cells))| (Some(key.clone()), cells.clone())).collect();
        for _ in 0..1 + self.random.below(6) {
            self.change_one(table, &mut after);
        }
        diff(table, &before, after)
    }

    /// Changes one row of `rows`, or does nothing where a unique constraint would break.
    fn change_one(&mut self, table: &Table, rows: &mut Vec<(Option<Bytes>, Cells)>) {
        let has_key = !table.schema().primary_key.is_empty();
        let count = rows.len() as u64;
        let mut changed = rows.clone();
        match self.random.below(if count == 0 { 3 } else { 12 }) {
            0..3 => {
                let cells = table.layout().columns().iter().map(|(id, _)| self.cell(*id)).collect();
                changed.push((None, cells));
            }
            3 => drop(changed.remove(self.random.below(count) as usize)),
            4 if count > 1 => {
                // Two rows exchange their codes: the index keys change hands within the commit.
                let (a, b) = (self.random.below(count) as usize, self.random.below(count) as usize);
                let code = changed[a].1[2].clone();
                changed[a].1[2] = changed[b].1[2].clone();
                changed[b].1[2] = code;
            }
            5 if has_key => {
                let row = self.random.below(count) as usize;
                changed[row].1[0] = self.cell(ColumnId::new(1));
            }
            _ => {
                let row = self.random.below(count) as usize;
                let place = 1 + self.random.below(table.layout().columns().len() as u64 - 1) as usize;
                changed[row].1[place] = self.cell(table.layout().columns()[place].0);
            }
        }
        let ids: Vec<_> = changed.iter().map(|(_, cells)| &cells[0]).collect();
        let codes: Vec<_> = changed.iter().filter_map(|(_, cells)| cells[2].as_ref()).collect();
        let is_distinct = |cells: &[&Cell]| {
            cells.iter().map(|cell| format!("{cell:?}")).collect::<BTreeSet<_>>().len() == cells.len()
        };
        let keys: Vec<_> = ids.iter().filter_map(|id| id.as_ref()).collect();
        if is_distinct(&codes) && (!has_key || (keys.len() == ids.len() && is_distinct(&keys))) {
            *rows = changed;
        }
    }

    fn cell(&mut self, column: ColumnId) -> Option<Cell> {
        match column.value() {
            1 => Some(Cell::Number(self.random.below(40) as i32 - 20)),
            2 if self.random.one_in(5) => None,
            2 => Some(Cell::Text("x".repeat(self.random.below(60) as usize))),
            _ if self.random.one_in(3) => None,
            _ => Some(Cell::Number(self.random.below(60) as i32)),
        }
    }
}

/// Fills an index beside the commits, as whoever follows the catalog does.
fn fill(world: &World, table: &Arc<Table>, index: &Index) {
    let Some(mut backfill) = Backfill::begin(world.folds.kv(), table, index).unwrap() else { return };
    while !backfill.step(3).unwrap() {}
    let filled = backfill.finish().unwrap().expect("codes are distinct");
    let pin = world.folds.kv().pin(world.visible()).unwrap();
    if index.is_unique {
        assert_eq!(pin.taken_twice(&filled, table, index).unwrap(), None, "codes are distinct");
    }
}

/// The rows of a table, by key, with their cells as today's columns.
pub(crate) fn load(world: &World, table: &Table, at: Lsn) -> BTreeMap<Bytes, (StoredRow, Cells)> {
    let pin = world.folds.kv().pin(at).unwrap();
    let rows = pin.rows(table.schema().storage, &everything()).unwrap().map(|item| {
        let (key, row) = item.unwrap();
        let version = Row::schema_version(&row.bytes).unwrap();
        let written = world.folds.catalog().table_at_version(table.schema().id, version).unwrap();
        let view = TableRow::new(Row::parse(written.layout(), &row.bytes).unwrap(), table);
        let cells = view.values().unwrap().into_iter().map(|value| {
            value.map(|value| match value {
                Value::Integer(number) => Cell::Number(number),
                Value::Text(text) => Cell::Text(text.to_owned()),
                other => panic!("{other:?}"),
            })
        });
        (key, (row.clone(), cells.collect()))
    });
    rows.collect()
}

/// The write set that turns `before` into `after`. A row without a key is new.
pub(crate) fn diff(
    table: &Table,
    before: &BTreeMap<Bytes, (StoredRow, Cells)>,
    after: Vec<(Option<Bytes>, Cells)>,
) -> WriteSet {
    let storage = table.schema().storage;
    let id = table.schema().id;
    let has_key = !table.schema().primary_key.is_empty();
    let mut by_key: BTreeMap<Bytes, Cells> = BTreeMap::new();
    let mut new = Vec::new();
    for (key, cells) in after {
        match (has_key, key) {
            (true, _) => drop(by_key.insert(row_key(table, &cells), cells)),
            (false, Some(key)) => drop(by_key.insert(key, cells)),
            (false, None) => new.push(cells),
        }
    }
    let mut set = WriteSet::default();
    set.preconditions.push(Precondition::SchemaAt { table: id, version: table.written() });
    let (mut deletes, mut updates, mut inserts) = (Vec::new(), Vec::new(), Vec::new());
    let (mut old_codes, mut new_codes) = (BTreeSet::new(), BTreeSet::new());
    let bytes_key = |key: &Bytes, is_present| KeyWrite { space: storage, key: KeyName::Bytes(key.clone()), is_present };
    for (key, (row, cells)) in before {
        let changed = by_key.get(key);
        if changed == Some(cells) {
            continue;
        }
        old_codes.extend(code_keys(table, cells));
        set.preconditions.push(Precondition::AtVersion { space: storage, key: key.clone(), version: row.version });
        set.keys.push(bytes_key(key, changed.is_some()));
        match changed {
            None => deletes.push(Change::Delete { table: id, row: row.id, before: row.bytes.clone() }),
            Some(changed) => {
                new_codes.extend(code_keys(table, changed));
                let differing: Vec<_> = (0..cells.len())
                    .filter(|place| cells[*place] != changed[*place])
                    .map(|place| (place, changed[place].as_ref().map(value)))
                    .collect();
                let mut partial = Vec::new();
                table.layout().encode_partial(&differing, &mut partial).unwrap();
                let (before, changed) = (row.bytes.clone(), partial.into());
                updates.push(Change::Update { table: id, row: row.id, before, changed });
            }
        }
    }
    let keyed: Vec<_> = by_key.iter().filter(|(key, _)| !before.contains_key(*key)).collect();
    for (key, cells) in keyed {
        new_codes.extend(code_keys(table, cells));
        set.preconditions.push(Precondition::Absent { space: storage, key: key.clone() });
        set.keys.push(bytes_key(key, true));
        inserts.push(insert(table, cells));
    }
    let numbered = deletes.len() + updates.len() + inserts.len();
    for (index, cells) in new.iter().enumerate() {
        new_codes.extend(code_keys(table, cells));
        set.keys.push(KeyWrite { space: storage, key: KeyName::RowOf(numbered + index), is_present: true });
        inserts.push(insert(table, cells));
    }
    for (index, code) in new_codes.difference(&old_codes) {
        set.preconditions.push(Precondition::Absent { space: *index, key: code.clone() });
    }
    for (index, code) in old_codes.union(&new_codes) {
        let is_present = new_codes.contains(&(*index, code.clone()));
        set.keys.push(KeyWrite { space: *index, key: KeyName::Bytes(code.clone()), is_present });
    }
    set.changes = deletes.into_iter().chain(updates).chain(inserts).collect();
    set
}

fn insert(table: &Table, cells: &Cells) -> Change {
    Change::Insert { table: table.schema().id, row: RowId::default(), after: encode(table, cells).into() }
}

fn encode(table: &Table, cells: &Cells) -> Vec<u8> {
    let values: Vec<_> = cells.iter().map(|cell| cell.as_ref().map(value)).collect();
    let mut row = Vec::new();
    table.layout().encode(&values, &mut row).unwrap();
    row
}

fn row_key(table: &Table, cells: &Cells) -> Bytes {
    let bytes = encode(table, cells);
    let view = TableRow::new(Row::parse(table.layout(), &bytes).unwrap(), table);
    table.row_key(&view, RowId::default()).unwrap()
}

/// The keys of a row in the indexes where it excludes another of the same.
fn code_keys(table: &Table, cells: &Cells) -> Vec<(StorageId, Bytes)> {
    let bytes = encode(table, cells);
    let view = TableRow::new(Row::parse(table.layout(), &bytes).unwrap(), table);
    let keys = table.indexes().iter().map(|index| (index, table.index_key(index, &view, b"").unwrap()));
    let unique = keys.filter(|(_, (_, uniqueness))| *uniqueness == Uniqueness::Unique);
    unique.map(|(index, (key, _))| (index.storage, key)).collect()
}

fn value(cell: &Cell) -> Value<'_> {
    match cell {
        Cell::Number(number) => Value::Integer(*number),
        Cell::Text(text) => Value::Text(text),
    }
}

fn catalog_write(key: Bytes, is_present: bool) -> KeyWrite {
    KeyWrite { space: CATALOG_SPACE, key: KeyName::Bytes(key), is_present }
}

/// Puts the changes of rows, and what is said of their keys, where those of a large transaction are.
fn make_large(set: &mut WriteSet, part_bytes: usize) {
    let mut spool = ChangeSpool::with_parts_of(&std::env::temp_dir(), part_bytes);
    let is_of_row =
        |change: &Change| matches!(change, Change::Insert { .. } | Change::Update { .. } | Change::Delete { .. });
    let (rows, others): (Vec<_>, Vec<_>) = std::mem::take(&mut set.changes).into_iter().partition(is_of_row);
    set.changes = others;
    if rows.is_empty() {
        return;
    }
    rows.into_iter().for_each(|change| spool.push(change).unwrap());
    let mut keys = BTreeMap::new();
    set.keys.retain(|write| match &write.key {
        KeyName::Bytes(key) if write.space != CATALOG_SPACE => {
            keys.insert((write.space, key.clone()), KeySeen::Other);
            false
        }
        KeyName::Bytes(_) => true,
        KeyName::RowOf(_) => false,
    });
    set.preconditions.retain(|condition| {
        let (space, key, seen) = match condition {
            Precondition::Absent { space, key } => (*space, key, KeySeen::Absent),
            Precondition::AtVersion { space, key, version } => (*space, key, KeySeen::AtVersion(*version)),
            _ => return true,
        };
        keys.get_mut(&(space, key.clone())).map(|known| *known = seen).is_none()
    });
    set.large = Some(LargeWrites { changes: spool.finish().unwrap(), keys: Arc::new(Keys(keys)) });
}

/// The keys of a large transaction, in memory.
struct Keys(BTreeMap<(StorageId, Bytes), KeySeen>);

impl LargeKeys for Keys {
    fn find(&self, space: StorageId, key: &[u8]) -> Result<Option<KeySeen>, KeeperError> {
        Ok(self.0.get(&(space, Bytes::copy_from_slice(key))).copied())
    }

    fn each(&self, tell: &mut TellKey<'_>) -> Result<(), CommitError> {
        self.0.iter().try_for_each(|((space, key), seen)| tell(*space, key, *seen))
    }
}
