//! Loss of power over log, sequencer and folds together, seed by seed; and every call to the disk failing once, in turn.

use std::time::Duration;

use highwater_log::env::simulated::{Fault, Random};
use highwater_log::sequencer::{CommitError, Durability};
use highwater_log::{CommitLog, LogError, Lsn};
use highwater_materializers::FoldError;

use crate::oracle::{self, State};
use crate::workload::Workload;
use crate::world::{Machine, OpenError, World};

/// A machine with short segments and a short history, which is worth trimming.
fn trimming(seed: u64) -> Machine {
    let mut machine = Machine::new(seed).with_simulated_folds();
    machine.options.history = Duration::from_secs(1);
    machine.segment_bytes_min = 8 * 1024;
    machine
}

/// Works, loses power, opens again, several times; how many commits were trimmed away, or what was broken.
fn run(seed: u64, ignores_sync: bool) -> Result<u64, String> {
    let machine = trimming(seed);
    let mut workload = Workload::new(seed);
    let mut acknowledged = Lsn::ORIGIN;
    let mut known: Vec<State> = Vec::new();
    let mut naive = oracle::Fold::default();
    let mut trimmed = 0;
    for round in 0..3 {
        let context = format!("seed {seed}, round {round}");
        machine.disk.ignore_sync_data(false);
        let mut world = machine.open().map_err(|error| format!("{context}: refused to start: {error:?}"))?;
        if world.visible() < acknowledged {
            return Err(format!("{context}: {} of {acknowledged} commits", world.visible()));
        }
        // As far as the log goes back, all of it is folded again.
        naive.rewind_to(world.log.earliest().previous());
        naive.follow(&*world.log).unwrap();
        let states = &naive.states;
        world.mend_what_reads_meet(states.last().unwrap());
        if known.get(acknowledged.value() as usize).is_some_and(|state| *state != states[acknowledged.value() as usize])
        {
            return Err(format!("{context}: another state at {acknowledged} than was acknowledged"));
        }
        for _ in 0..4 {
            let from = world.folds.kv().history_from().value();
            let lsn = from + workload.random().below(states.len() as u64 - from);
            world.assert_state(Lsn::new(lsn), &states[lsn as usize], &context);
        }
        world.assert_state(world.visible(), states.last().unwrap(), &context);
        machine.disk.ignore_sync_data(ignores_sync);
        for _ in 0..workload.random().below(25) {
            if workload.random().one_in(15) {
                fail_a_checkpoint(&world, &mut workload, &machine);
            }
            step(&mut world, &mut workload, &machine, &mut naive, &mut acknowledged)
                .map_err(|error| format!("{context}: {error}"))?;
        }
        naive.rewind_to(world.log.earliest().previous());
        naive.follow(&*world.log).unwrap();
        known.clone_from(&naive.states);
        trimmed = world.log.earliest().previous().value();
        drop(world);
        if workload.random().one_in(8) {
            // What is folded anew begins with the base image, if there is one.
            machine.remove_folds();
        }
        if workload.random().one_in(6) {
            machine.disk.kill_process();
        } else {
            machine.lose_power(workload.random());
        }
    }
    Ok(trimmed)
}

/// Has a checkpoint fail: the trees' files are written, and what records them is not.
fn fail_a_checkpoint(world: &World, workload: &mut Workload, machine: &Machine) {
    machine.disk.fail_call(machine.disk.calls() + 1 + workload.random().below(12), Fault::Io);
    drop(world.folds.checkpoint());
    machine.disk.fail_call(0, Fault::Io);
}

/// One transaction, or a group of them, or some upkeep.
fn step(
    world: &mut World,
    workload: &mut Workload,
    machine: &Machine,
    naive: &mut oracle::Fold,
    acknowledged: &mut Lsn,
) -> Result<(), CommitError> {
    match workload.random().below(16) {
        0 => drop(world.log.maintain()),
        1 if world.folds.maintain().is_ok() => machine.note_recorded(),
        2 if world.folds.checkpoint().is_ok() => machine.note_recorded(),
        1 | 2 => {}
        3 => machine.clock.advance(Duration::from_millis(70)),
        4 => {
            machine.clock.advance(Duration::from_secs(2));
            // What goes is seen before.
            naive.rewind_to(world.log.earliest().previous());
            if naive.follow(&*world.log).is_ok() {
                drop(world.folds.trim(&*world.log, None));
            }
        }
        5 | 6 => {
            let mut sets: Vec<_> = (0..1 + workload.random().below(3)).map(|_| workload.next(world)).collect();
            let is_buffered = workload.random().one_in(3);
            if let Some(first) = sets.first_mut().filter(|_| is_buffered) {
                first.durability = Durability::Buffered;
            }
            for end in world.commit_group(sets) {
                match end {
                    Ok(receipt) => *acknowledged = receipt.map_or(*acknowledged, |receipt| receipt.lsn),
                    // By one before it in the group.
                    Err(CommitError::Refused(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        _ => {
            let set = workload.next_alone(world);
            *acknowledged = world.commit(set)?.lsn;
        }
    }
    Ok(())
}

#[test]
fn two_thousand_power_losses_lose_nothing_and_refuse_nothing() {
    let outcomes: Vec<_> = (0..2_000).map(|seed| run(seed, false)).collect();
    let trimmed = outcomes.iter().filter(|outcome| matches!(outcome, Ok(1..))).count();
    assert!(trimmed > 200, "trimmed in {trimmed} runs");
    let failures: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
    assert!(failures.is_empty(), "{} of 2,000: {:#?}", failures.len(), &failures[..failures.len().min(5)]);
}

#[test]
fn the_simulation_finds_an_acknowledgement_before_the_sync() {
    let found = (0..40).filter(|seed| run(*seed, true).is_err()).count();
    assert!(found > 20, "{found} of 40");
}

/// A fixed run in which errors are met as a careful owner would.
fn work(machine: &Machine, naive: &mut oracle::Fold, acknowledged: &mut Lsn) -> Result<(), String> {
    let mut workload = Workload::new(3);
    let mut world = match machine.open() {
        Ok(world) => world,
        Err(OpenError::Log(LogError::Io { .. } | LogError::NotWritten { .. } | LogError::Locked { .. })) => {
            return Ok(());
        }
        Err(OpenError::Fold(FoldError::Io { .. })) => return Ok(()),
        Err(error) => return Err(format!("{error:?}")),
    };
    for _ in 0..60 {
        match step(&mut world, &mut workload, machine, naive, acknowledged) {
            Ok(()) | Err(CommitError::NotCommitted { .. }) => {}
            Err(CommitError::NotYetReadable { lsn, .. }) => {
                *acknowledged = lsn;
                return Ok(());
            }
            Err(CommitError::Unknown { .. } | CommitError::Stopped { .. }) => return Ok(()),
            Err(error) => return Err(error.to_string()),
        }
        if world.sequencer.poisoned().is_some() {
            // Of a buffered commit alone, which nobody waits for.
            return Ok(());
        }
        assert_eq!(world.visible(), *world.log.durable().borrow(), "everything durable is visible");
        assert_eq!(world.log.appended(), world.visible(), "what failed left no trace");
    }
    Ok(())
}

#[test]
fn any_single_failing_call_loses_nothing_and_every_state_equals_the_fold() {
    let clean_calls = {
        let machine = trimming(3);
        let mut acknowledged = Lsn::ORIGIN;
        work(&machine, &mut oracle::Fold::default(), &mut acknowledged).unwrap();
        assert!(acknowledged > Lsn::new(20));
        machine.disk.calls()
    };
    let mut trimmed = 0;
    for call in 1..=clean_calls {
        let machine = trimming(call);
        machine.disk.fail_call(call, if call % 2 == 0 { Fault::Io } else { Fault::NoSpace });
        let mut acknowledged = Lsn::ORIGIN;
        let mut naive = oracle::Fold::default();
        work(&machine, &mut naive, &mut acknowledged).unwrap_or_else(|error| panic!("call {call}: {error}"));
        machine.lose_power(&mut Random::new(call));
        let world = machine.open().unwrap_or_else(|error| panic!("call {call}: refused to start: {error:?}"));
        assert!(world.visible() >= acknowledged, "call {call}: {} of {acknowledged}", world.visible());
        trimmed += u32::from(world.log.earliest() > Lsn::new(1));
        naive.rewind_to(world.log.earliest().previous());
        naive.follow(&*world.log).unwrap();
        world.mend_what_reads_meet(naive.states.last().unwrap());
        world.assert_state(world.visible(), naive.states.last().unwrap(), &format!("call {call}"));
    }
    assert!(trimmed > 20, "trimmed in {trimmed} runs");
}
