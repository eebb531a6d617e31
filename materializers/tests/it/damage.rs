//! Damaged files of the folds are mended by folding anew; a log that ends before its witnesses is refused.

use std::path::{Path, PathBuf};

use highwater_log::env::simulated::Random;
use highwater_log::sequencer::CommitError;
use highwater_log::{CommitLog, LogError, Lsn};
use highwater_materializers::FoldError;

use crate::fold::work;
use crate::oracle;
use crate::workload::Workload;
use crate::world::{Machine, OpenError, World, everything};

/// Files of a machine's folds, with what is in them.
struct Kept {
    machine: Machine,
    /// The rows at every LSN.
    states: Vec<oracle::State>,
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl Kept {
    /// Of a machine that has seen so many commits, and was killed behind a checkpoint.
    fn after(seed: u64, commits: u64) -> Self {
        let machine = Machine::new(seed);
        let mut workload = Workload::new(seed);
        let mut world = machine.open().unwrap();
        work(&mut world, &mut workload, &machine, commits);
        world.folds.checkpoint().unwrap();
        let states = oracle::fold(&*world.log);
        drop(world);
        machine.disk.kill_process();
        let read = |path: PathBuf| (path.clone(), std::fs::read(path).unwrap());
        let files = files_below(&machine.folds_path()).into_iter().map(read).collect();
        Self { machine, states, files }
    }

    fn state(&self, lsn: Lsn) -> &oracle::State {
        &self.states[lsn.value() as usize]
    }

    /// Kills the process, and puts every file back.
    fn put_back(&self, world: World) {
        drop(world);
        self.machine.disk.kill_process();
        std::fs::remove_dir_all(self.machine.folds_path()).unwrap();
        for (path, contents) in &self.files {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, contents).unwrap();
        }
    }
}

pub(crate) fn files_below(path: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

#[test]
fn flipped_bits_and_cut_files_of_the_folds_never_give_a_wrong_answer() {
    let kept = Kept::after(1, 150);
    let mut random = Random::new(9);
    let (mut mended, mut told) = (0, 0);
    for round in 0..150 {
        let (path, contents) = &kept.files[random.below(kept.files.len() as u64) as usize];
        let mut damaged = contents.clone();
        match random.below(4) {
            0 => damaged.truncate(random.below(contents.len() as u64 + 1) as usize),
            _ if damaged.is_empty() => {}
            _ => {
                let bit = random.below(contents.len() as u64 * 8) as usize;
                damaged[bit / 8] ^= 1 << (bit % 8);
            }
        }
        std::fs::write(path, &damaged).unwrap();
        let world = kept.machine.open().unwrap_or_else(|error| panic!("round {round}, {}: {error:?}", path.display()));
        // Reading tells of damage that opening did not see; then the rows are folded anew.
        let positions = [world.visible(), Lsn::new(random.below(kept.states.len() as u64))];
        let read = |lsn: Lsn| world.state_at(lsn, kept.state(lsn)).map(drop);
        match positions.into_iter().try_for_each(read) {
            Ok(()) => mended += 1,
            Err(FoldError::Storage { .. }) => {
                told += 1;
                world.folds.refold(&*world.log, |_| {}).unwrap();
            }
            Err(error) => panic!("round {round}, {}: {error}", path.display()),
        }
        for lsn in positions {
            world.assert_state(lsn, kept.state(lsn), &format!("round {round}, {}", path.display()));
        }
        kept.put_back(world);
    }
    assert!(mended > 20, "{mended} mended at opening, {told} told when read");
}

/// The trees' own lists of their tables are checked by nobody but us: a bit in them shifts the versions of all rows of a table.
#[test]
fn a_flipped_bit_in_a_trees_list_of_tables_never_gives_a_wrong_answer() {
    let kept = Kept::after(2, 60);
    let is_list = |path: &Path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name == "current" || name.strip_prefix('v').is_some_and(|rest| rest.parse::<u64>().is_ok())
    };
    let lists: Vec<_> = kept.files.iter().filter(|(path, _)| is_list(path)).collect();
    assert!(lists.len() >= 4, "two trees at least, each with its list: {lists:?}");
    for (path, contents) in lists {
        for byte in 0..contents.len() {
            let mut damaged = contents.clone();
            damaged[byte] ^= 1 << (byte % 8);
            std::fs::write(path, &damaged).unwrap();
            let context = format!("byte {byte} of {}", path.display());
            let world = kept.machine.open().unwrap_or_else(|error| panic!("{context}: {error:?}"));
            for lsn in [world.visible(), Lsn::new(kept.states.len() as u64 / 2)] {
                world.assert_state(lsn, kept.state(lsn), &context);
            }
            kept.put_back(world);
        }
    }
}

#[test]
fn a_log_that_ends_before_what_was_folded_is_refused() {
    let machine = Machine::new(4);
    let mut workload = Workload::new(4);
    let mut world = machine.open().unwrap();
    work(&mut world, &mut workload, &machine, 10);
    // Acknowledged and folded, but never synced: the defect that witnesses are for.
    machine.disk.ignore_sync_data(true);
    work(&mut world, &mut workload, &machine, 10);
    world.folds.checkpoint().unwrap();
    drop(world);
    machine.disk.lose_power();
    match machine.open() {
        Err(OpenError::Log(LogError::Damaged(damage))) => assert_eq!(damage.last, Lsn::new(20)),
        Err(error) => panic!("{error:?}"),
        // The power loss may by chance have kept everything.
        Ok(world) => assert_eq!(world.visible(), Lsn::new(20)),
    }
}

#[test]
fn another_logs_folds_are_dropped() {
    let (ours, theirs) = (Machine::new(6), Machine::new(7));
    for machine in [&ours, &theirs] {
        let mut workload = Workload::new(6);
        let mut world = machine.open().unwrap();
        work(&mut world, &mut workload, machine, 20);
        world.folds.checkpoint().unwrap();
        drop(world);
        machine.disk.kill_process();
    }
    std::fs::remove_dir_all(ours.folds_path()).unwrap();
    std::fs::rename(theirs.folds_path(), ours.folds_path()).unwrap();
    let world = ours.open().unwrap();
    let states = oracle::fold(&*world.log);
    world.assert_state(world.visible(), states.last().unwrap(), "with another log's folds");
}

#[test]
fn mending_in_place_keeps_every_answer_and_tells_readers_of_before() {
    let machine = Machine::new(3);
    let mut workload = Workload::new(3);
    let mut world = machine.open().unwrap();
    work(&mut world, &mut workload, &machine, 60);
    let before = world.folds.kv().pin(world.visible()).unwrap();
    let table = world.folds.catalog().tables(world.visible())[0].clone();
    let storage = table.schema().storage;
    assert!(before.row(storage, b"no such key").unwrap().is_none());
    world.sequencer.pause("the rows are mended");
    assert!(matches!(
        world.commit(workload.next(&world)),
        Err(CommitError::Stopped { .. } | CommitError::Unknown { .. })
    ));
    world.folds.mend(&*world.log, |_| {}).unwrap();
    assert!(matches!(before.row(storage, b"no such key"), Err(FoldError::Reopened)));
    assert!(matches!(before.rows(storage, &everything()), Err(FoldError::Reopened)));
    assert!(world.sequencer.resume());
    work(&mut world, &mut workload, &machine, 20);
    let states = oracle::fold(&*world.log);
    for (lsn, state) in states.iter().enumerate().step_by(5) {
        world.assert_state(Lsn::new(lsn as u64), state, "after mending");
    }
}

#[test]
fn rows_that_reach_beyond_the_log_are_refused() {
    let machine = Machine::new(5);
    let mut workload = Workload::new(5);
    let mut world = machine.open().unwrap();
    work(&mut world, &mut workload, &machine, 30);
    world.folds.checkpoint().unwrap();
    let short = highwater_log::MemoryLog::new(world.log.id());
    let error = world.folds.catch_up(&short, |_| {}).unwrap_err();
    assert!(matches!(error, FoldError::AheadOfLog { durable: Lsn::ORIGIN, .. }), "{error}");
}
