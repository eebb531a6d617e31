//! Unique indexes that are filled while commits write: a place that two rows have, be it for a moment, is found out.

use std::sync::Arc;

use highwater_log::Change;
use highwater_log::Lsn;
use highwater_log::position::{ColumnId, IndexId, SchemaVersion, StorageId, TableId};
use highwater_log::schema::{CatalogEntry, ColumnSchema, IndexSchema, IndexState, IndexedColumn, TableSchema};
use highwater_log::sequencer::{CATALOG_SPACE, KeyName, KeyWrite, WriteSet, catalog_key};
use highwater_log::value::ElementType;
use highwater_materializers::{Backfill, Index, Table};

use crate::workload::{Cell, diff, load};
use crate::world::{Machine, World};

pub(crate) fn table(world: &World) -> Arc<Table> {
    world.folds.catalog().table(TableId::new(20), world.visible()).unwrap()
}

pub(crate) fn put(world: &mut World, schema: TableSchema) {
    let key = KeyName::Bytes(catalog_key(20));
    let set = WriteSet {
        keys: vec![KeyWrite { space: CATALOG_SPACE, key, is_present: true }],
        changes: vec![Change::Catalog { object: 20, entry: Some(CatalogEntry::Table(schema).to_json().into()) }],
        ..WriteSet::default()
    };
    world.commit(set).unwrap();
}

/// A table of rows (id, value).
pub(crate) fn schema() -> TableSchema {
    let column = |id, name: &str| ColumnSchema {
        id: ColumnId::new(id),
        name: name.to_owned(),
        column_type: ElementType::Integer.into(),
        not_null: false,
        default: None,
        missing: None,
    };
    TableSchema {
        id: TableId::new(20),
        namespace: "public".to_owned(),
        name: "t".to_owned(),
        version: SchemaVersion::new(1),
        storage: StorageId::new(21),
        columns: vec![column(1, "id"), column(2, "value")],
        primary_key: vec![ColumnId::new(1)],
        primary_key_name: None,
        uniques: Vec::new(),
        indexes: Vec::new(),
        next_column: ColumnId::new(3),
    }
}

/// The table, and a unique index on the values that is begun.
fn begun(world: &mut World, rows: &[(i32, i32)]) {
    let schema = schema();
    put(world, schema.clone());
    change(world, rows, &[]);
    let index = IndexSchema {
        id: IndexId::new(22),
        name: "t_value".to_owned(),
        storage: StorageId::new(23),
        backfill: Some(StorageId::new(24)),
        columns: vec![IndexedColumn { column: ColumnId::new(2), descending: false, nulls_first: false }],
        unique: true,
        state: IndexState::Building,
    };
    put(world, TableSchema { version: SchemaVersion::new(2), indexes: vec![index], ..schema });
}

/// Adds rows, and takes rows away.
pub(crate) fn change(world: &mut World, add: &[(i32, i32)], remove: &[i32]) {
    let table = table(world);
    let before = load(world, &table, world.visible());
    let id = |cells: &[Option<Cell>]| match cells[0] {
        Some(Cell::Number(id)) => id,
        _ => panic!("a row without a number"),
    };
    let kept = before.iter().filter(|(_, (_, cells))| !remove.contains(&id(cells)));
    let mut after: Vec<_> = kept.map(|(key, (_, cells))| (Some(key.clone()), cells.clone())).collect();
    let cell = |number: &i32| Some(Cell::Number(*number));
    after.extend(add.iter().map(|(id, value)| (None, vec![cell(id), cell(value)])));
    let set = diff(&table, &before, after);
    world.commit(set).unwrap();
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    WhileFilling,
    WhereTheyMeet,
}

/// What is found of rows of before, changes before the filling, and changes behind it.
fn found(before_filling: &[Step], behind_filling: &[Step]) -> Found {
    let machine = Machine::new(1);
    let mut world = machine.open().unwrap();
    begun(&mut world, &[(1, 10), (2, 20), (3, 30)]);
    before_filling.iter().for_each(|step| change(&mut world, step.0, step.1));
    let table = table(&world);
    let index = Index::of_schema(&table.schema().indexes[0]);
    let mut backfill = Backfill::begin(world.folds.kv(), &table, &index).unwrap().unwrap();
    behind_filling.iter().for_each(|step| change(&mut world, step.0, step.1));
    while !backfill.step(1).unwrap() {}
    let Ok(filled) = backfill.finish().unwrap() else { return Found::WhileFilling };
    let pin = world.folds.kv().pin(world.visible()).unwrap();
    let twice = pin.taken_twice(&filled, &table, &index).unwrap();
    if twice.is_none() {
        assert_whole(&world, &table, &index);
    }
    if twice.is_some() { Found::WhereTheyMeet } else { Found::Nothing }
}

/// Every row has its place.
fn assert_whole(world: &World, table: &Arc<Table>, index: &Index) {
    let rows = load(world, table, world.visible());
    let pin = world.folds.kv().pin(world.visible()).unwrap();
    let entries = pin.rows(index.storage, &crate::world::everything()).unwrap();
    let mut found: Vec<_> = entries.map(|entry| entry.unwrap().1.bytes).collect();
    found.sort_unstable();
    assert_eq!(found, rows.keys().cloned().collect::<Vec<_>>());
    assert!(world.visible() > Lsn::ORIGIN);
}

/// Rows added and rows taken away, in one commit.
type Step<'a> = (&'a [(i32, i32)], &'a [i32]);

#[test]
fn a_place_that_two_rows_had_for_a_moment_is_found() {
    // The other comes, and stays.
    assert_eq!(found(&[(&[(4, 10)], &[])], &[]), Found::WhileFilling);
    assert_eq!(found(&[], &[(&[(4, 10)], &[])]), Found::WhereTheyMeet);
    for gone in [1, 4] {
        // One of the two goes again, and what says so hides the other.
        assert_eq!(found(&[(&[(4, 10)], &[]), (&[], &[gone])], &[]), Found::WhereTheyMeet);
        assert_eq!(found(&[(&[(4, 10)], &[])], &[(&[], &[gone])]), Found::WhileFilling);
        assert_eq!(found(&[], &[(&[(4, 10)], &[]), (&[], &[gone])]), Found::WhereTheyMeet);
        // And what comes later covers it up.
        let later: &[Step] = &[(&[(4, 10)], &[]), (&[], &[gone]), (&[(5, 10)], &[]), (&[], &[5])];
        assert_eq!(found(&[], later), Found::WhereTheyMeet);
    }
}

#[test]
fn a_place_that_changes_hands_is_none_that_two_have() {
    let given_up: &[Step] = &[(&[], &[1]), (&[(4, 10)], &[]), (&[], &[4])];
    let handed_over: &[Step] = &[(&[(4, 10)], &[1]), (&[(5, 10)], &[4])];
    let new: &[Step] = &[(&[(4, 40)], &[]), (&[], &[4]), (&[(5, 40)], &[])];
    for steps in [given_up, handed_over, new] {
        assert_eq!(found(steps, &[]), Found::Nothing);
        assert_eq!(found(&[], steps), Found::Nothing);
        for split in 1..steps.len() {
            assert_eq!(found(&steps[..split], &steps[split..]), Found::Nothing, "{split} of {steps:?}");
        }
    }
}
