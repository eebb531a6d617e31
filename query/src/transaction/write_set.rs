//! A transaction's writes as the sequencer takes them: net changes, keys, and the conditions under which they are right.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use highwater_log::Change;
use highwater_log::key::HeadKey;
use highwater_log::position::{RowId, SchemaVersion, StorageId, TableId};
use highwater_log::row::Row;
use highwater_log::schema::{CatalogEntry, TableSchema};
use highwater_log::sequencer::{
    CATALOG_SPACE, Durability, KeyName, KeyWrite, Precondition, WriteSet, catalog_definitions, catalog_index_key,
    catalog_key, catalog_name_key,
};
use highwater_materializers::{StoredRow, Table, TableRow};

use super::large::LargeBuilder;
use super::{Transaction, unique_codes};
use crate::catalog::OwnEntry;
use crate::error::SqlError;
use crate::rows::{AheadWrites, RowSource, RowWrite, SeenRow, of_key};

impl Transaction {
    /// The write set that commits the transaction; empty when it changed nothing in the end.
    ///
    /// # Errors
    /// `XX001` when a stored row is damaged.
    pub(crate) fn into_write_set(self, durability: Durability) -> Result<WriteSet, SqlError> {
        self.build(durability, None).map(|(set, _)| set)
    }

    /// The write set, and what it writes for those who go on behind it.
    ///
    /// # Errors
    /// `XX001` when a stored row is damaged.
    pub(crate) fn into_write_set_and_writes(self) -> Result<(WriteSet, AheadWrites), SqlError> {
        let (set, writes) = self.build(Durability::Synced, Some(AheadWrites::default()))?;
        Ok((set, writes.unwrap_or_default()))
    }

    /// The table of a storage that it wrote rows to, if the transaction has not changed the table itself.
    fn stored_table(&self, storage: StorageId) -> Option<Arc<Table>> {
        let id = self.written.get(&storage)?;
        if self.catalog.own().contains_key(&id.value()) {
            return None;
        }
        self.catalog.shared().table(*id, self.catalog.at()).filter(|table| table.schema().storage == storage)
    }

    fn build(
        self,
        durability: Durability,
        ahead: Option<AheadWrites>,
    ) -> Result<(WriteSet, Option<AheadWrites>), SqlError> {
        let mut builder = Builder { set: WriteSet { durability, ..WriteSet::default() }, ahead, ..Builder::default() };
        let own_tables = builder.put_catalog(&self)?;
        let mut large = self.source.writes.is_spilled().then(|| LargeBuilder::new(&self.spill_room));
        for storage in self.source.writes.storages() {
            let table = match own_tables.iter().find(|table| table.schema().storage == storage) {
                Some(table) => Some(Arc::clone(table)),
                None => self.stored_table(storage),
            };
            // Rows of a storage that no table has any more went with it.
            let Some(table) = table else { continue };
            let id = table.schema().id;
            if !self.catalog.own().contains_key(&id.value()) {
                builder.set.preconditions.push(Precondition::SchemaAt { table: id, version: table.written() });
            }
            match &mut large {
                Some(large) => large.put_rows(&self, &table)?,
                None => builder.put_rows(&self, &table)?,
            }
        }
        if let Some(large) = large {
            builder.set.large = Some(large.finish(Arc::clone(&self.source.writes))?);
        }
        builder.set.preconditions.extend(self.conditions);
        if let Some(reads) = &self.source.reads {
            let is_own = |table: TableId| self.catalog.own().contains_key(&table.value());
            builder.set.preconditions.extend(reads.conditions(self.catalog.at(), is_own));
        }
        // All of it was computed from what stood there then.
        builder.set.seen_at = Some(self.catalog.at());
        for (of, position) in self.positions {
            builder.positions.push(Change::Position { of, position });
        }
        Ok(builder.finish())
    }
}

#[derive(Default)]
struct Builder {
    set: WriteSet,
    /// Filled where somebody wants it.
    ahead: Option<AheadWrites>,
    catalog: Vec<Change>,
    truncations: Vec<Change>,
    deletes: Vec<Change>,
    updates: Vec<Change>,
    inserts: Vec<Change>,
    positions: Vec<Change>,
    /// For inserts into tables without a key: storage, and place among the inserts.
    keyless: Vec<(StorageId, usize)>,
}

impl Builder {
    /// Adds the catalog's changes; returns the tables that they are of, as they are after the commit.
    fn put_catalog(&mut self, transaction: &Transaction) -> Result<Vec<Arc<Table>>, SqlError> {
        let view = &transaction.catalog;
        let (at, shared) = (view.at(), view.shared());
        let mut tables: Vec<Arc<Table>> = Vec::new();
        // Names that are given up, unless they are taken again.
        let mut names: BTreeMap<Bytes, bool> = BTreeMap::new();
        let mut has_changes = false;
        for (object, entry) in view.own() {
            let old_table = shared.table(TableId::new(*object), at);
            let old_name = match &old_table {
                Some(table) => Some(catalog_name_key(&table.schema().namespace, &table.schema().name)),
                None => shared.namespace(*object, at).map(|name| catalog_name_key(&name, "")),
            };
            if entry.is_none() && old_name.is_none() {
                // Made and dropped within the transaction.
                continue;
            }
            has_changes = true;
            // How far an index has come is nobody's business but its own table's.
            for index in old_table.iter().flat_map(|table| &table.schema().indexes) {
                let range = of_key(&catalog_index_key(index.id));
                self.set.preconditions.push(Precondition::RangeUnchanged { space: CATALOG_SPACE, range, since: at });
            }
            if let Some(name) = old_name {
                names.entry(name).or_insert(false);
            }
            self.set.keys.push(catalog_write(catalog_key(*object), entry.is_some()));
            match entry {
                None => self.catalog.push(Change::Catalog { object: *object, entry: None }),
                Some(own @ OwnEntry::Namespace(namespace)) => {
                    names.insert(catalog_name_key(&namespace.name, ""), true);
                    let entry = Some(own.to_entry().to_json().into());
                    self.catalog.push(Change::Catalog { object: *object, entry });
                }
                Some(OwnEntry::Table { table, is_truncated }) => {
                    let version = old_table.as_ref().map_or(SchemaVersion::new(1), |old| old.schema().version.next());
                    let schema = TableSchema { version, ..table.schema().clone() };
                    names.insert(catalog_name_key(&schema.namespace, &schema.name), true);
                    tables.push(Arc::new(Table::new(schema.clone(), at.next())));
                    let entry: Bytes = CatalogEntry::Table(schema).to_json().into();
                    if *is_truncated && old_table.is_some() {
                        self.truncations.push(Change::Truncate { table: table.schema().id, entry });
                    } else {
                        self.catalog.push(Change::Catalog { object: *object, entry: Some(entry) });
                    }
                }
            }
        }
        for (name, is_present) in names {
            self.set.keys.push(catalog_write(name, is_present));
        }
        if has_changes {
            // Changes of the catalog are rare: each is made on the one before it.
            let (space, range) = (CATALOG_SPACE, catalog_definitions());
            self.set.preconditions.push(Precondition::RangeUnchanged { space, range, since: at });
        }
        Ok(tables)
    }

    fn put_rows(&mut self, transaction: &Transaction, table: &Arc<Table>) -> Result<(), SqlError> {
        let storage = table.schema().storage;
        let Some(rows) = transaction.source.writes.rows_in_memory(storage) else {
            return Err(SqlError::internal("what is spilled is not committed as if it lay in memory"));
        };
        let is_keyless = table.schema().primary_key.is_empty();
        let mut old_codes: BTreeMap<StorageId, BTreeSet<Bytes>> = BTreeMap::new();
        let mut new_codes: BTreeMap<StorageId, BTreeSet<Bytes>> = BTreeMap::new();
        self.reserve(rows);
        for (key, write) in rows {
            let key = key.bytes();
            let Some(net) = NetChange::of(&transaction.source, table, write)? else { continue };
            if let Some((_, old)) = &net.old {
                note_codes(table, old, key, &mut old_codes)?;
            }
            if let Some(new) = &net.new {
                note_codes(table, new, key, &mut new_codes)?;
            }
            match (&net.old, net.new) {
                (None, None) => continue,
                (None, Some(row)) => {
                    if let Some(ahead) = &mut self.ahead {
                        ahead.inserts.push((storage, (!is_keyless).then(|| key.clone()), row.bytes.clone()));
                    }
                    if is_keyless {
                        self.keyless.push((storage, self.inserts.len()));
                    } else {
                        self.set.preconditions.push(Precondition::Absent { space: storage, key: key.clone() });
                        self.set.keys.push(row_write(storage, key, true));
                    }
                    self.inserts.push(net.change);
                }
                (Some((before, _)), None) => {
                    self.depend_on(storage, key, before);
                    if let Some(ahead) = &mut self.ahead {
                        ahead.deletes.push((storage, key.clone()));
                    }
                    self.set.keys.push(row_write(storage, key, false));
                    self.deletes.push(net.change);
                }
                (Some((before, _)), Some(row)) => {
                    self.depend_on(storage, key, before);
                    self.set.keys.push(row_write(storage, key, true));
                    if let Some(ahead) = &mut self.ahead {
                        ahead.updates.push((storage, key.clone(), before.id, row.bytes.clone()));
                    }
                    self.updates.push(net.change);
                }
            }
        }
        let (empty_old, empty_new) = (BTreeSet::new(), BTreeSet::new());
        for index in table.indexes().iter().filter(|index| index.is_unique) {
            let old = old_codes.get(&index.storage).unwrap_or(&empty_old);
            let new = new_codes.get(&index.storage).unwrap_or(&empty_new);
            for code in new.difference(old) {
                self.set.preconditions.push(Precondition::Absent { space: index.storage, key: code.clone() });
            }
            for code in old.union(new) {
                if let Some(ahead) = &mut self.ahead {
                    ahead.codes.push((index.storage, code.clone(), new.contains(code)));
                }
                self.set.keys.push(row_write(index.storage, code, new.contains(code)));
            }
        }
        Ok(())
    }

    /// Makes room once: of a large transaction, growing step by step costs more than filling.
    fn reserve(&mut self, rows: &BTreeMap<HeadKey, RowWrite>) {
        let inserts = rows.values().filter(|write| write.before.is_none()).count();
        self.set.preconditions.reserve(rows.len());
        self.set.keys.reserve(rows.len());
        self.inserts.reserve(inserts);
        if let Some(ahead) = &mut self.ahead {
            ahead.inserts.reserve(inserts);
        }
    }

    fn depend_on(&mut self, storage: StorageId, key: &Bytes, before: &StoredRow) {
        self.set.preconditions.push(Precondition::AtVersion {
            space: storage,
            key: key.clone(),
            version: before.version,
        });
    }

    fn finish(self) -> (WriteSet, Option<AheadWrites>) {
        let mut set = self.set;
        let inserts_from = self.catalog.len() + self.truncations.len() + self.deletes.len() + self.updates.len();
        for (space, place) in self.keyless {
            set.keys.push(KeyWrite { space, key: KeyName::RowOf(inserts_from + place), is_present: true });
        }
        for mut changes in [self.catalog, self.truncations, self.deletes, self.updates, self.inserts, self.positions] {
            if set.changes.is_empty() {
                set.changes = changes;
            } else {
                set.changes.append(&mut changes);
            }
        }
        (set, self.ahead)
    }
}

/// What becomes of a row in the end.
pub(super) struct NetChange {
    pub(super) change: Change,
    /// The row at the transaction's LSN.
    pub(super) old: Option<(StoredRow, SeenRow)>,
    /// The row as the commit leaves it.
    pub(super) new: Option<SeenRow>,
}

impl NetChange {
    /// `None`: it is as it was.
    pub(super) fn of(source: &RowSource, table: &Arc<Table>, write: &RowWrite) -> Result<Option<Self>, SqlError> {
        let id = table.schema().id;
        let new = write.after.as_ref().map(|row| under(table, row)).transpose()?;
        let seen = |before: &StoredRow| Ok::<_, SqlError>((before.clone(), source.seen(table, before.bytes.clone())?));
        let old = write.before.as_ref().map(seen).transpose()?;
        let change = match (&old, &new) {
            (None, None) => return Ok(None),
            (None, Some(row)) => Change::Insert { table: id, row: RowId::default(), after: row.bytes.clone() },
            (Some((before, _)), None) => Change::Delete { table: id, row: before.id, before: before.bytes.clone() },
            (Some((before, old)), Some(row)) => {
                let Some(changed) = changed_columns(table, old, row)? else { return Ok(None) };
                let before_bytes = before.bytes.clone();
                Change::Update { table: id, row: before.id, before: before_bytes, changed: changed.into() }
            }
        };
        Ok(Some(Self { change, old, new }))
    }
}

/// The row in the layout of the table as the commit leaves it.
fn under(table: &Arc<Table>, row: &SeenRow) -> Result<SeenRow, SqlError> {
    if Arc::ptr_eq(&row.written, table) || row.written.layout() == table.layout() {
        return Ok(SeenRow { bytes: row.bytes.clone(), written: Arc::clone(table) });
    }
    let values = row.view(table)?.values()?;
    let mut bytes = Vec::with_capacity(row.bytes.len() + 16);
    table.layout().encode(&values, &mut bytes)?;
    Ok(SeenRow { bytes: bytes.into(), written: Arc::clone(table) })
}

/// The columns in which two rows differ, as a partial row; `None`: in none.
fn changed_columns(table: &Table, old: &SeenRow, new: &SeenRow) -> Result<Option<Vec<u8>>, SqlError> {
    let old = old.view(table)?;
    let new = TableRow::new(Row::parse(table.layout(), &new.bytes)?, table);
    let mut differing = Vec::new();
    for place in 0..table.layout().columns().len() {
        let value = new.value(place)?;
        // Bit by bit: a NaN is a NaN, and 0 is not −0.
        let is_same = match (&old.value(place)?, &value) {
            (Some(highwater_log::value::Value::Double(a)), Some(highwater_log::value::Value::Double(b))) => {
                a.to_bits() == b.to_bits()
            }
            (Some(highwater_log::value::Value::Real(a)), Some(highwater_log::value::Value::Real(b))) => {
                a.to_bits() == b.to_bits()
            }
            (a, b) => a == b,
        };
        if !is_same {
            differing.push((place, value));
        }
    }
    if differing.is_empty() {
        return Ok(None);
    }
    let mut partial = Vec::new();
    table.layout().encode_partial(&differing, &mut partial)?;
    Ok(Some(partial))
}

fn note_codes(
    table: &Table,
    row: &SeenRow,
    key: &Bytes,
    codes: &mut BTreeMap<StorageId, BTreeSet<Bytes>>,
) -> Result<(), SqlError> {
    for (index, code) in unique_codes(table, row, key, |_, _| Ok(()))? {
        codes.entry(index).or_default().insert(code);
    }
    Ok(())
}

fn row_write(space: StorageId, key: &Bytes, is_present: bool) -> KeyWrite {
    KeyWrite { space, key: KeyName::Bytes(key.clone()), is_present }
}

fn catalog_write(key: Bytes, is_present: bool) -> KeyWrite {
    KeyWrite { space: CATALOG_SPACE, key: KeyName::Bytes(key), is_present }
}
