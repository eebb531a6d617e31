//! Old versions go when files are merged: none that a read may ask for, and in the end nearly all others.

use std::time::Duration;

use highwater_log::{CommitLog, Lsn};
use highwater_materializers::FoldError;
use lsm_tree::{AbstractTree, Config, SequenceNumberCounter};

use crate::damage::files_below;
use crate::fold::work;
use crate::oracle::{self, State, TableState};
use crate::workload::Workload;
use crate::world::{Machine, World};

/// A machine whose rows come to files with every round of upkeep, and are read for a minute back.
fn merging(seed: u64) -> Machine {
    let mut machine = Machine::new(seed);
    machine.options.history = Duration::from_secs(60);
    machine.options.memtable_bytes = 1;
    machine
}

/// Asserts all states that can be read.
fn assert_window(world: &World, context: &str) {
    let states = oracle::fold(&*world.log);
    let from = world.folds.kv().history_from();
    for lsn in from.value()..states.len() as u64 {
        world.assert_state(Lsn::new(lsn), &states[lsn as usize], context);
    }
}

/// The versions in the files of the rows, which nobody has open, all trees together, and the trees that hold any.
fn versions_in_files(machine: &Machine) -> (usize, usize) {
    let directory = machine.folds_path().join("kv/trees");
    let lengths = std::fs::read_dir(directory).unwrap().map(|entry| {
        let counter = SequenceNumberCounter::default;
        Config::new(entry.unwrap().path(), counter(), counter()).open().unwrap().approximate_len()
    });
    let lengths: Vec<_> = lengths.filter(|length| *length > 0).collect();
    (lengths.iter().sum(), lengths.len())
}

/// The keys that a state has: of rows, their index entries, positions and producers.
fn keys(state: &State) -> usize {
    let trees = |table: &TableState| 1 + table.schema.uniques.len() + table.schema.indexes.len();
    let rows: usize = state.tables.values().map(|table| table.rows.len() * trees(table)).sum();
    rows + state.positions.len() + state.producers.len()
}

/// Lets the window pass, and merges what there is to merge: a tree a round.
fn settle(world: &World, machine: &Machine) {
    for round in 0..90 {
        if round % 30 == 0 {
            machine.clock.advance(Duration::from_secs(61));
        }
        world.folds.maintain().unwrap();
    }
    world.folds.checkpoint().unwrap();
}

/// A round of upkeep at the end of a window, in which no checkpoint can be stored.
fn fail_to_record(world: &World, machine: &Machine) {
    machine.clock.advance(Duration::from_secs(61));
    let in_the_way = machine.folds_path().join("kv/checkpoint.tmp");
    std::fs::create_dir(&in_the_way).unwrap();
    world.folds.maintain().unwrap_err();
    std::fs::remove_dir(in_the_way).unwrap();
}

#[test]
fn merging_loses_no_version_that_a_read_may_ask_for_and_keeps_few_others() {
    let (mut versions, mut live, mut written) = (0, 0, 0);
    for seed in 0..8 {
        let machine = merging(seed);
        let mut workload = Workload::new(seed);
        let mut world = machine.open().unwrap();
        for round in 0..30 {
            work(&mut world, &mut workload, &machine, 8);
            machine.clock.advance(Duration::from_secs(workload.random().below(30)));
            world.folds.maintain().unwrap();
            if workload.random().one_in(3) {
                let context = format!("seed {seed}, round {round}");
                assert_window(&world, &context);
                // What was dropped stays below what the next opening promises, also when that could not be recorded.
                if workload.random().one_in(2) {
                    fail_to_record(&world, &machine);
                }
                drop(world);
                machine.disk.kill_process();
                world = machine.open().unwrap();
                assert_window(&world, &format!("{context}, killed"));
            }
        }
        assert!(world.folds.kv().history_from() > Lsn::new(100));
        settle(&world, &machine);
        assert_window(&world, &format!("seed {seed}, settled"));
        live += keys(oracle::fold(&*world.log).last().unwrap());
        let mut reader = world.log.read_after(Lsn::ORIGIN).unwrap();
        while let Some(commit) = reader.try_next().unwrap() {
            written += commit.decode().unwrap().changes.len();
        }
        drop(world);
        machine.disk.kill_process();
        versions += versions_in_files(&machine).0;
    }
    assert!(written > 3 * live, "{written} changes wrote {live} keys");
    assert!(versions < live * 3 / 2, "{versions} versions of {live} keys");
}

#[test]
fn what_was_deleted_leaves_nothing_behind() {
    let machine = merging(4);
    let mut workload = Workload::new(4);
    let mut world = machine.open().unwrap();
    work(&mut world, &mut workload, &machine, 100);
    world.folds.maintain().unwrap();
    // One that is never filled keeps what says that keys are gone.
    while let Some(set) = workload.finish_index(&world) {
        world.commit(set).unwrap();
    }
    let emptied = workload.delete_all(&world);
    assert!(emptied.len() > 1, "{} tables have rows", emptied.len());
    for set in emptied {
        world.commit(set).unwrap();
    }
    let before = oracle::fold(&*world.log);
    settle(&world, &machine);
    let after = oracle::fold(&*world.log);
    assert_eq!(before.last(), after.last());
    let last = after.last().unwrap();
    assert!(last.tables.values().all(|table| table.rows.is_empty()));
    world.assert_state(world.visible(), last, "all are deleted");
    drop(world);
    machine.disk.kill_process();
    let (versions, trees) = versions_in_files(&machine);
    assert!(trees <= 1 && versions <= 2 * keys(last), "{versions} versions in {trees} trees");
}

#[test]
fn a_merge_that_meets_damage_has_the_rows_folded_anew() {
    let machine = merging(6);
    let mut workload = Workload::new(6);
    let mut world = machine.open().unwrap();
    work(&mut world, &mut workload, &machine, 60);
    world.folds.checkpoint().unwrap();
    for path in files_below(&machine.folds_path().join("kv/trees")) {
        if path.parent().is_some_and(|parent| parent.ends_with("tables")) {
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[20] ^= 1;
            std::fs::write(path, bytes).unwrap();
        }
    }
    machine.clock.advance(Duration::from_secs(61));
    let outcome = (0..90).try_for_each(|_| world.folds.maintain());
    assert!(matches!(outcome, Err(FoldError::Storage { .. })), "{outcome:?}");
    assert!(world.folds.kv().is_damaged());
    world.folds.refold(&*world.log, |_| {}).unwrap();
    assert!(!world.folds.kv().is_damaged());
    settle(&world, &machine);
    assert_window(&world, "folded anew");
}
