//! Every derived state at n equals the fold of commits 1…n.

use std::time::Duration;

use highwater_log::Lsn;
use highwater_log::sequencer::CommitError;

use crate::oracle;
use crate::workload::Workload;
use crate::world::{Machine, World};

/// Commits up to `count` random transactions; refusals by conditions do not count.
pub(crate) fn work(world: &mut World, workload: &mut Workload, machine: &Machine, count: u64) {
    let mut done = 0;
    while done < count {
        let set = workload.next(world);
        match world.commit(set) {
            Ok(_) => done += 1,
            Err(CommitError::Refused(refusal)) => panic!("a lone writer is not refused: {refusal:?}"),
            Err(error) => panic!("{error}"),
        }
        let random = workload.random();
        if random.one_in(10) {
            machine.clock.advance(Duration::from_millis(random.below(100)));
            world.log.maintain().unwrap();
        }
        if random.one_in(12) {
            world.folds.maintain().unwrap();
        }
        if random.one_in(25) {
            world.folds.checkpoint().unwrap();
        }
    }
}

#[test]
fn every_state_equals_the_naive_fold_through_restarts_and_lost_directories() {
    for seed in 0..12 {
        let machine = Machine::new(seed);
        let mut workload = Workload::new(seed);
        for round in 0..6 {
            let mut world = machine.open().unwrap();
            work(&mut world, &mut workload, &machine, 40);
            let states = oracle::fold(&*world.log);
            for (lsn, state) in states.iter().enumerate() {
                world.assert_state(Lsn::new(lsn as u64), state, &format!("seed {seed}, round {round}"));
            }
            drop(world);
            machine.disk.kill_process();
            let path = machine.folds_path();
            match workload.random().below(6) {
                0 => std::fs::remove_dir_all(path.join("kv")).unwrap(),
                1 => std::fs::remove_dir_all(path.join("catalog")).unwrap(),
                2 => std::fs::remove_dir_all(path).unwrap(),
                _ => {}
            }
            let world = machine.open().unwrap();
            for (lsn, state) in states.iter().enumerate().step_by(7) {
                world.assert_state(Lsn::new(lsn as u64), state, &format!("seed {seed}, after round {round}"));
            }
        }
    }
}

#[test]
fn history_ends_where_the_window_ends_and_says_so_but_not_under_a_reader() {
    let mut machine = Machine::new(5);
    machine.options.history = Duration::from_secs(3600);
    let mut workload = Workload::new(5);
    let mut world = machine.open().unwrap();
    work(&mut world, &mut workload, &machine, 60);
    let held = world.folds.kv().pin(Lsn::new(30)).unwrap();
    for _ in 0..10 {
        machine.clock.advance(Duration::from_secs(1800));
        work(&mut world, &mut workload, &machine, 10);
        world.folds.maintain().unwrap();
    }
    assert!(world.folds.kv().history_from() <= Lsn::new(30), "a reader holds its position");
    drop(held);
    world.folds.maintain().unwrap();
    world.folds.checkpoint().unwrap();
    work(&mut world, &mut workload, &machine, 1);
    world.folds.checkpoint().unwrap();
    let from = world.folds.kv().history_from();
    assert!(from > Lsn::new(60), "{from}");
    let states = oracle::fold(&*world.log);
    for lsn in [from, from.next(), world.visible()] {
        world.assert_state(lsn, &states[lsn.value() as usize], "within the window");
    }
    let error = world.folds.kv().pin(from.previous()).err().unwrap();
    assert!(error.to_string().contains(&format!("the earliest that is kept is {from}")), "{error}");
    drop(world);
    machine.disk.kill_process();
    assert_eq!(machine.open().unwrap().folds.kv().history_from(), from, "and it does not come back with a restart");
    std::fs::remove_dir_all(machine.folds_path()).unwrap();
    machine.disk.kill_process();
    let world = machine.open().unwrap();
    assert_eq!(world.folds.kv().history_from(), Lsn::ORIGIN, "but a rebuild restores it");
    for (lsn, state) in states.iter().enumerate().step_by(5) {
        world.assert_state(Lsn::new(lsn as u64), state, "after a rebuild");
    }
}

#[test]
fn storages_of_dropped_tables_go_when_no_read_needs_them() {
    let mut machine = Machine::new(2);
    machine.options.history = Duration::from_secs(60);
    let mut workload = Workload::new(2);
    let mut world = machine.open().unwrap();
    work(&mut world, &mut workload, &machine, 400);
    let count = |machine: &Machine| std::fs::read_dir(machine.folds_path().join("kv/trees")).unwrap().count();
    let before = count(&machine);
    for _ in 0..3 {
        machine.clock.advance(Duration::from_secs(600));
        work(&mut world, &mut workload, &machine, 3);
        world.folds.maintain().unwrap();
        world.folds.checkpoint().unwrap();
    }
    let (after, tables) = (count(&machine), world.folds.catalog().tables(world.visible()).len());
    assert!(after < before, "{after} trees of {before}");
    assert!(after <= 2 * (tables + 6) + 1, "{after} trees for {tables} tables");
    let states = oracle::fold(&*world.log);
    world.assert_state(world.visible(), states.last().unwrap(), "after the drop");
}

/// Keys are overwritten on both sides of every position, files are merged again and again, and every position stays readable.
#[test]
fn merging_files_loses_no_version_that_a_read_may_ask_for() {
    let mut machine = Machine::new(8);
    machine.options.history = Duration::from_secs(60);
    machine.options.memtable_bytes = 1;
    let mut workload = Workload::new(8);
    let mut world = machine.open().unwrap();
    for _ in 0..40 {
        work(&mut world, &mut workload, &machine, 8);
        machine.clock.advance(Duration::from_secs(20));
        world.folds.maintain().unwrap();
    }
    let states = oracle::fold(&*world.log);
    let from = world.folds.kv().history_from();
    assert!(from > Lsn::new(100), "{from}");
    for lsn in from.value()..states.len() as u64 {
        world.assert_state(Lsn::new(lsn), &states[lsn as usize], "after merging");
    }
}
