//! What was folded otherwise than the log says is found when it is looked through.

use highwater_log::env::Env;
use highwater_log::position::{ColumnId, RowId, StorageId};
use highwater_log::schema::{TableSchema, UniqueSchema};
use highwater_log::value::Value;
use highwater_log::{Change, CommitLog};
use highwater_materializers::{Counted, KvOptions, Materialized, Materializer, Table};

use crate::indexes::{change, put, schema, table};
use crate::workload::Workload;
use crate::world::{Machine, World};

/// A table with a unique constraint and three rows, folded twice; the second fold gets the last commit with its changes changed.
fn folded_twice(
    world: &mut World,
    last: impl FnOnce(&mut World),
    tamper: impl Fn(&Table, &mut Change),
) -> (Materialized, tempfile::TempDir) {
    let unique =
        UniqueSchema { name: "t_value".to_owned(), storage: StorageId::new(23), columns: vec![ColumnId::new(2)] };
    put(world, TableSchema { uniques: vec![unique], ..schema() });
    change(world, &[(1, 10), (2, 20), (3, 30)], &[]);
    let directory = tempfile::tempdir().unwrap();
    let second = Materialized::open(&Env::system(), directory.path(), world.log.id(), KvOptions::default()).unwrap();
    second.catch_up(&*world.log, |_| {}).unwrap();
    let before = world.visible();
    last(world);
    let encoded = world.log.read_after(before).unwrap().try_next().unwrap().unwrap();
    let mut commit = encoded.decode().unwrap();
    let table = table(world);
    commit.changes.iter_mut().for_each(|change| tamper(&table, change));
    second.catalog().apply(&commit).unwrap();
    second.kv().apply(&commit).unwrap();
    (second, directory)
}

fn row(table: &Table, id: i32, value: i32) -> bytes::Bytes {
    let mut bytes = Vec::new();
    table.layout().encode(&[Some(Value::Integer(id)), Some(Value::Integer(value))], &mut bytes).unwrap();
    bytes.into()
}

fn findings(folds: &Materialized) -> Vec<String> {
    let pin = folds.kv().pin(folds.kv().applied()).unwrap();
    let (_, found) = folds.verify_state(&pin, |_| {}).unwrap();
    found.into_iter().map(|found| found.what).collect()
}

fn differences(world: &World, second: &Materialized) -> Vec<String> {
    let pin = second.kv().pin(second.kv().applied()).unwrap();
    let found = second.compare(&pin, &world.folds).unwrap();
    found.into_iter().map(|found| found.what).collect()
}

#[test]
fn an_index_entry_without_a_row_is_found() {
    let machine = Machine::new(1);
    let mut world = machine.open().unwrap();
    // The wrong entry is taken away with the row, and the right one stays.
    let (second, _directory) = folded_twice(
        &mut world,
        |world| change(world, &[], &[1]),
        |table, change| {
            if let Change::Delete { before, .. } = change {
                *before = row(table, 1, 99);
            }
        },
    );
    assert_eq!(findings(&world.folds), Vec::<String>::new());
    let found = findings(&second);
    assert!(
        matches!(&found[..], [found] if found.contains("index t_value has an entry of row") && found.contains("gone")),
        "{found:?}"
    );
    // Rows alone are what the log says.
    assert_eq!(differences(&world, &second), Vec::<String>::new());
}

#[test]
fn a_row_without_an_index_entry_is_found() {
    let machine = Machine::new(2);
    let mut world = machine.open().unwrap();
    // An update that leaves row 2 as it is, and takes the entry of row 3 for what was there before.
    let (second, _directory) = folded_twice(
        &mut world,
        |world| change(world, &[(4, 40)], &[]),
        |table, change| {
            let mut changed = Vec::new();
            table.layout().encode_partial(&[(1, Some(Value::Integer(20)))], &mut changed).unwrap();
            let (before, changed) = (row(table, 2, 30), changed.into());
            *change = Change::Update { table: table.schema().id, row: RowId::new(2), before, changed };
        },
    );
    assert_eq!(findings(&second), ["public.t: index t_value has 2 entries for 3 rows"]);
}

#[test]
fn a_row_that_is_not_the_log_s_is_found_by_comparing() {
    let machine = Machine::new(3);
    let mut world = machine.open().unwrap();
    let (second, _directory) = folded_twice(
        &mut world,
        |world| change(world, &[(4, 40)], &[]),
        |table, change| {
            if let Change::Insert { after, .. } = change {
                *after = row(table, 4, 41);
            }
        },
    );
    assert_eq!(findings(&second), Vec::<String>::new(), "it fits together");
    assert_eq!(differences(&world, &second), ["public.t: its 4 rows are not those of the log"]);
}

#[test]
fn whatever_was_folded_fits_together_and_equals_another_fold() {
    for seed in 0..6 {
        let machine = Machine::new(seed);
        let mut world = machine.open().unwrap();
        let mut workload = Workload::new(seed);
        for _ in 0..300 {
            let set = workload.next(&world);
            // Some are refused.
            let _ = world.commit(set);
        }
        let pin = world.folds.kv().pin(world.visible()).unwrap();
        let (counted, found) = world.folds.verify_state(&pin, |_| {}).unwrap();
        assert_eq!(found, []);
        assert_ne!(counted, Counted::default());
        let directory = tempfile::tempdir().unwrap();
        let second =
            Materialized::open(&Env::system(), directory.path(), world.log.id(), KvOptions::default()).unwrap();
        second.catch_up(&*world.log, |_| {}).unwrap();
        assert_eq!(world.folds.compare(&pin, &second).unwrap(), []);
        second.checkpoint().unwrap();
        drop(second);
        assert_eq!(Materialized::verify_files(&Env::system(), directory.path(), world.log.id(), |_| {}).unwrap(), []);
    }
}
