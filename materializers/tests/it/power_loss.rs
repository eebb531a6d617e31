//! Loss of power over log, sequencer and rows together, seed by seed; and every call to the log's disk failing once, in turn.

use highwater_log::env::simulated::Fault;
use highwater_log::sequencer::CommitError;
use highwater_log::{CommitLog, LogError, Lsn};

use crate::oracle::{self, State};
use crate::workload::Workload;
use crate::world::{Machine, OpenError, World};

/// Works, loses power, opens again, several times; `Err` tells what was broken.
fn run(seed: u64, ignores_sync: bool) -> Result<(), String> {
    let machine = Machine::new(seed);
    let mut workload = Workload::new(seed);
    let mut acknowledged = Lsn::ORIGIN;
    let mut known: Vec<State> = Vec::new();
    for round in 0..3 {
        let context = format!("seed {seed}, round {round}");
        machine.disk.ignore_sync_data(false);
        let mut world = machine.open().map_err(|error| format!("{context}: refused to start: {error:?}"))?;
        let states = oracle::fold(&*world.log);
        if world.visible() < acknowledged {
            return Err(format!("{context}: {} of {acknowledged} commits", world.visible()));
        }
        if known.get(acknowledged.value() as usize).is_some_and(|state| *state != states[acknowledged.value() as usize])
        {
            return Err(format!("{context}: another state at {acknowledged} than was acknowledged"));
        }
        for _ in 0..4 {
            let lsn = workload.random().below(states.len() as u64);
            world.assert_state(Lsn::new(lsn), &states[lsn as usize], &context);
        }
        world.assert_state(world.visible(), states.last().unwrap(), &context);
        machine.disk.ignore_sync_data(ignores_sync);
        for _ in 0..workload.random().below(25) {
            step(&mut world, &mut workload, &machine, &mut acknowledged)
                .map_err(|error| format!("{context}: {error}"))?;
        }
        known = oracle::fold(&*world.log);
        drop(world);
        if workload.random().one_in(6) {
            machine.disk.kill_process();
        } else {
            machine.disk.lose_power();
        }
    }
    Ok(())
}

/// One transaction, or some upkeep, or a group of two of which only the pipeline's end is waited for.
fn step(
    world: &mut World,
    workload: &mut Workload,
    machine: &Machine,
    acknowledged: &mut Lsn,
) -> Result<(), CommitError> {
    match workload.random().below(12) {
        0 => drop(world.log.maintain()),
        1 => drop(world.folds.maintain()),
        2 => drop(world.folds.checkpoint()),
        3 => machine.clock.advance(std::time::Duration::from_millis(70)),
        _ => {
            let set = workload.next(world);
            *acknowledged = world.commit(set)?.lsn;
        }
    }
    Ok(())
}

#[test]
fn two_thousand_power_losses_lose_nothing_and_refuse_nothing() {
    let failures: Vec<_> = (0..2_000).filter_map(|seed| run(seed, false).err()).collect();
    assert!(failures.is_empty(), "{} of 2,000: {:#?}", failures.len(), &failures[..failures.len().min(5)]);
}

#[test]
fn the_simulation_finds_an_acknowledgement_before_the_sync() {
    let found = (0..40).filter(|seed| run(*seed, true).is_err()).count();
    assert!(found > 20, "{found} of 40");
}

/// A fixed run in which errors are met as a careful owner would.
fn work(machine: &Machine, acknowledged: &mut Lsn) -> Result<(), String> {
    let mut workload = Workload::new(3);
    let mut world = match machine.open() {
        Ok(world) => world,
        Err(OpenError::Log(LogError::Io { .. } | LogError::NotWritten { .. } | LogError::Locked { .. })) => {
            return Ok(());
        }
        Err(error) => return Err(format!("{error:?}")),
    };
    for _ in 0..60 {
        match step(&mut world, &mut workload, machine, acknowledged) {
            Ok(()) | Err(CommitError::NotCommitted { .. }) => {}
            Err(CommitError::Unknown { .. } | CommitError::Stopped { .. }) => return Ok(()),
            Err(error) => return Err(error.to_string()),
        }
        assert_eq!(world.visible(), *world.log.durable().borrow(), "everything durable is visible");
        assert_eq!(world.log.appended(), world.visible(), "what failed left no trace");
    }
    Ok(())
}

#[test]
fn any_single_failing_call_loses_nothing_and_every_state_equals_the_fold() {
    let clean_calls = {
        let machine = Machine::new(3);
        let mut acknowledged = Lsn::ORIGIN;
        work(&machine, &mut acknowledged).unwrap();
        assert!(acknowledged > Lsn::new(20));
        machine.disk.calls()
    };
    for call in 1..=clean_calls {
        let machine = Machine::new(call);
        machine.disk.fail_call(call, if call % 2 == 0 { Fault::Io } else { Fault::NoSpace });
        let mut acknowledged = Lsn::ORIGIN;
        work(&machine, &mut acknowledged).unwrap_or_else(|error| panic!("call {call}: {error}"));
        machine.disk.lose_power();
        let world = machine.open().unwrap_or_else(|error| panic!("call {call}: refused to start: {error:?}"));
        assert!(world.visible() >= acknowledged, "call {call}: {} of {acknowledged}", world.visible());
        let states = oracle::fold(&*world.log);
        world.assert_state(world.visible(), states.last().unwrap(), &format!("call {call}"));
    }
}
