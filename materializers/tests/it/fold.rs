//! Every derived state at n equals the fold of commits 1…n.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use highwater_log::sequencer::CommitError;
use highwater_log::{CommitLog, LogError, Lsn};
use highwater_materializers::{FoldError, Table};

use crate::oracle;
use crate::workload::Workload;
use crate::world::{Machine, World, everything};

/// Commits up to `count` random transactions; refusals by conditions do not count.
pub(crate) fn work(world: &mut World, workload: &mut Workload, machine: &Machine, count: u64) {
    let mut done = 0;
    while done < count {
        let set = workload.next_alone(world);
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
fn after_a_kill_no_commit_is_folded_again_that_is_in_the_files() {
    let mut machine = Machine::new(3);
    machine.options.memtable_bytes = 1;
    let mut workload = Workload::new(3);
    let mut before = Lsn::ORIGIN;
    for round in 0..20 {
        let mut world = machine.open().unwrap();
        work(&mut world, &mut workload, &machine, 15);
        world.folds.maintain().unwrap();
        let in_files = world.folds.kv().checkpointed();
        assert!(in_files > before, "round {round}");
        before = in_files;
        drop(world);
        machine.disk.kill_process();
        // Neither the rows nor the catalog begin before that, whenever the catalog changed last.
        assert_eq!(machine.open().unwrap().replayed_from, in_files, "round {round}");
    }
}

#[test]
fn history_ends_where_the_window_ends_and_says_so_but_not_under_a_reader() {
    let mut machine = Machine::new(5);
    machine.options.history = Duration::from_secs(3600);
    machine.options.snapshot_age_max = Duration::from_secs(10 * 3600);
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
fn a_read_that_is_open_for_too_long_beyond_the_history_ends_and_one_that_is_not_goes_on() {
    let mut machine = Machine::new(7);
    machine.options.history = Duration::from_secs(600);
    machine.options.snapshot_age_max = Duration::from_secs(1000);
    let mut workload = Workload::new(7);
    let mut world = machine.open().unwrap();
    work(&mut world, &mut workload, &machine, 300);
    let pins: Vec<_> =
        (0..3).map(|back| world.folds.kv().pin(Lsn::new(world.visible().value() - back)).unwrap()).collect();
    let at = world.visible();
    let states = oracle::fold(&*world.log);
    let largest = |table: &Arc<Table>| pins[0].rows(table.schema().storage, &everything()).unwrap().count();
    let table = world.folds.catalog().tables(at).into_iter().max_by_key(largest).unwrap();
    let scan = || pins[0].rows(table.schema().storage, &everything()).unwrap();
    let (count, mut begun) = (scan().count(), scan());
    assert!(count > 3 && begun.next().unwrap().is_ok());
    // Until the history has passed it, and for as long as it may hold it then, every version of then is there.
    for _ in 0..15 {
        machine.clock.advance(Duration::from_secs(100));
        work(&mut world, &mut workload, &machine, 20);
        world.folds.maintain().unwrap();
        assert!(world.folds.kv().history_from() <= at);
        world.assert_state(at, &states[at.value() as usize], "held");
    }
    for _ in 0..3 {
        machine.clock.advance(Duration::from_secs(100));
        work(&mut world, &mut workload, &machine, 20);
        world.folds.maintain().unwrap();
    }
    assert!(world.folds.kv().history_from() > at, "nobody waits for it any more");
    for pin in &pins {
        let is_too_old = |error: &FoldError| matches!(error, FoldError::SnapshotTooOld { at, .. } if *at == pin.at());
        assert!(pin.rows(table.schema().storage, &everything()).err().is_some_and(|error| is_too_old(&error)));
        assert!(pin.row(table.schema().storage, b"whatever").is_err_and(|error| is_too_old(&error)));
    }
    let rest: Vec<_> = begun.collect();
    assert!(matches!(rest[..], [Err(FoldError::SnapshotTooOld { .. })]), "a scan that had begun ends with the error");
    // Work of our own is waited for.
    let pinned = world.folds.kv().pin_for_work(world.visible()).unwrap();
    let states = oracle::fold(&*world.log);
    for _ in 0..20 {
        machine.clock.advance(Duration::from_secs(200));
        work(&mut world, &mut workload, &machine, 10);
        world.folds.maintain().unwrap();
    }
    assert!(world.folds.kv().history_from() <= pinned.at());
    world.assert_state(pinned.at(), &states[pinned.at().value() as usize], "held for work");
    drop(pinned);
    world.folds.maintain().unwrap();
    assert!(world.folds.kv().history_from().value() >= states.len() as u64, "{}", world.folds.kv().history_from());
}

#[test]
fn a_base_image_and_the_commits_behind_it_give_the_states_that_all_commits_gave() {
    let (mut trimmed_runs, mut begun_from_images) = (0, 0);
    for seed in 0..16 {
        let mut machine = Machine::new(seed);
        machine.options.history = Duration::from_secs(60);
        let mut workload = Workload::new(seed);
        let mut naive = oracle::Fold::default();
        let mut image = None;
        for round in 0..6 {
            let context = format!("seed {seed}, round {round}");
            let mut world = machine.open().unwrap();
            work(&mut world, &mut workload, &machine, 60);
            naive.follow(&*world.log).unwrap();
            machine.clock.advance(Duration::from_secs(61));
            work(&mut world, &mut workload, &machine, workload_tail(seed + round));
            naive.follow(&*world.log).unwrap();
            world.folds.maintain().unwrap();
            let from = world.folds.kv().history_from();
            let error = world.folds.trim(&*world.log, Some(from.next())).unwrap_err();
            assert!(matches!(error, FoldError::StillReadable { earliest, .. } if earliest == from), "{error}");
            let before = world.log.earliest();
            let earliest = world.folds.trim(&*world.log, None).unwrap();
            assert_eq!(earliest, world.log.earliest(), "{context}");
            if earliest > before {
                image = Some(from);
            }
            assert_eq!(world.log.base(), image, "{context}: an image is written where something can go");
            trimmed_runs += u32::from(earliest > Lsn::new(1));
            let assert_states = |world: &World, context: &str| {
                let from = world.folds.kv().history_from();
                for (lsn, state) in naive.states.iter().enumerate().skip(from.value() as usize) {
                    world.assert_state(Lsn::new(lsn as u64), state, context);
                }
                assert_eq!(world.visible().value() as usize, naive.states.len() - 1, "{context}");
            };
            assert_states(&world, &context);
            let next_id = world.folds.catalog().next_id();
            if round % 2 == 0 {
                world.folds.checkpoint().unwrap();
            }
            drop(world);
            machine.disk.lose_power();
            let path = machine.folds_path();
            let lost = workload.random().below(5);
            match lost {
                0 => std::fs::remove_dir_all(path.join("kv")).unwrap(),
                1 => std::fs::remove_dir_all(path.join("catalog")).unwrap(),
                2 => std::fs::remove_dir_all(path).unwrap(),
                _ => {}
            }
            let world = machine.open().unwrap();
            let context = format!("{context}, opened again");
            assert_states(&world, &context);
            assert_eq!(world.folds.catalog().next_id(), next_id, "{context}");
            if matches!(lost, 0 | 2) && earliest > Lsn::new(1) {
                begun_from_images += 1;
                let begins = world.folds.kv().history_from();
                assert_eq!(Some(begins), image, "{context}: nothing below the image can be read");
                // What began from an image is a checkpoint like any other.
                drop(world);
                machine.disk.kill_process();
                let world = machine.open().unwrap();
                assert_states(&world, &context);
                assert_eq!(world.folds.catalog().next_id(), next_id, "{context}");
            }
        }
    }
    assert!(
        trimmed_runs > 40 && begun_from_images > 10,
        "{trimmed_runs} trimmed, {begun_from_images} begun from images"
    );
}

/// How many commits lie behind the image: none, one, some.
fn workload_tail(round: u64) -> u64 {
    [0, 1, 20][round as usize % 3]
}

#[test]
fn rows_that_need_a_damaged_base_image_do_not_open_and_say_why() {
    let mut machine = Machine::new(3);
    machine.options.history = Duration::from_secs(60);
    let mut workload = Workload::new(3);
    let mut world = machine.open().unwrap();
    work(&mut world, &mut workload, &machine, 200);
    machine.clock.advance(Duration::from_secs(61));
    world.folds.maintain().unwrap();
    let from = world.folds.kv().history_from();
    assert_eq!(from, world.visible(), "an idle database keeps its last state");
    assert!(world.folds.trim(&*world.log, Some(from)).unwrap() > Lsn::new(1));
    let states = world.state_at(from, &Default::default()).unwrap();
    drop(world);
    machine.disk.kill_process();
    let image = machine.log_env.disk.list(Path::new("/log")).unwrap();
    let image = image.into_iter().find(|name| name.starts_with("base-")).unwrap();
    let flip = |at: usize| machine.disk.damage(&Path::new("/log").join(&image), |bytes| bytes[at] ^= 4);
    flip(300);
    // It is not asked while nothing needs it, and rows are not dropped for what cannot be folded again.
    let world = machine.open().unwrap();
    assert!(matches!(world.folds.refold(&*world.log, |_| {}), Err(FoldError::Log(LogError::BaseDamaged { .. }))));
    assert_eq!(world.state_at(from, &Default::default()).unwrap(), states);
    drop(world);
    machine.disk.kill_process();
    std::fs::remove_dir_all(machine.folds_path().join("kv")).unwrap();
    let error = machine.open().err().unwrap();
    assert!(format!("{error:?}").contains("BaseDamaged"), "{error:?}");
    machine.disk.kill_process();
    flip(300);
    let world = machine.open().unwrap();
    assert_eq!(world.state_at(from, &Default::default()).unwrap(), states);
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
