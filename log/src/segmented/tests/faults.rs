//! Every call to the disk fails once, in turn.

use super::*;

/// A fixed workload; errors are met as a careful owner would. Returns the log, if it is still usable, and what was acknowledged.
fn work(env: &Env, clock: &SimulatedClock, acknowledged: &mut Vec<EncodedCommit>) -> Result<(), LogError> {
    let log = open(env)?;
    // What was appended before a crash, and not acknowledged, may be there.
    let mut appended = follow_on(&log, acknowledged)?;
    acknowledged.clone_from(&appended);
    for step in 0..14 {
        let group = match step % 5 {
            3 => Group { commits: vec![sample_commit(log.appended().next(), 20, 900)] },
            _ => sample_group(log.appended(), 1 + step % 4),
        };
        match log.append(log.epoch(), log.appended(), &group) {
            Ok(()) => appended.extend(group.commits),
            Err(LogError::NotWritten { .. }) => {
                assert_eq!(
                    log.appended().value(),
                    appended.len() as u64,
                    "an append that was not written leaves no trace"
                );
            }
            Err(error) => return Err(error),
        }
        if step % 3 != 1 {
            log.make_durable()?;
            acknowledged.clone_from(&appended);
        }
        if step % 6 == 5 {
            let durable = *log.durable().borrow();
            let trimmed = conformance::write_sample_base(&log, durable).and_then(|()| log.trim(durable));
            if let Err(error @ LogError::Poisoned { .. }) = trimmed {
                return Err(error);
            }
        }
        clock.advance(MARK_AFTER_IDLE);
        // Anything but poison is tried again with the next call.
        if let Err(error @ LogError::Poisoned { .. }) = log.maintain() {
            return Err(error);
        }
    }
    log.close()?;
    acknowledged.clone_from(&appended);
    Ok(())
}

/// All commits of a log, of which the trimmed ones are known to have been there; asserts that the acknowledged ones are among them.
fn follow_on(log: &SegmentedLog, acknowledged: &[EncodedCommit]) -> Result<Vec<EncodedCommit>, LogError> {
    let (trimmed, read) = read_kept(log)?;
    assert_base(log)?;
    let mut all = acknowledged[..trimmed as usize].to_vec();
    all.extend(read);
    assert!(all.len() >= acknowledged.len(), "{} of {} acknowledged commits", all.len(), acknowledged.len());
    assert!(all[..acknowledged.len()] == *acknowledged, "other commits than were acknowledged");
    Ok(all)
}

/// A log with some segments, as a kill left it.
fn begun(seed: u64) -> (Env, Arc<SimulatedDisk>, Arc<SimulatedClock>, Vec<EncodedCommit>) {
    let (env, disk, clock) = machine(seed);
    let log = open(&env).unwrap();
    let acknowledged = write_sample(&log, &clock);
    // What was appended last may be lost: recovery has something to cut.
    log.append(log.epoch(), log.appended(), &sample_group(log.appended(), 5)).unwrap();
    drop(log);
    disk.lose_power();
    (env, disk, clock, acknowledged)
}

/// Opens a log after a fault and asserts that everything acknowledged is there, and that writing goes on.
fn assert_recovers(env: &Env, acknowledged: &[EncodedCommit], context: &str) {
    let log = open(env).unwrap_or_else(|error| panic!("{context}: {error}"));
    follow_on(&log, acknowledged).unwrap_or_else(|error| panic!("{context}: {error}"));
    write(&log, 2);
}

/// How many calls the workload makes on a log that is there already.
fn clean_calls() -> (u64, u64) {
    let (env, disk, clock, mut acknowledged) = begun(1);
    let before = disk.calls();
    work(&env, &clock, &mut acknowledged).unwrap();
    (before, disk.calls())
}

#[test]
fn any_single_failing_call_loses_nothing_that_was_acknowledged() {
    let (before, after) = clean_calls();
    let (mut poisoned, mut runs) = (0, 0);
    for fault in [Fault::Io, Fault::NoSpace] {
        for call in before + 1..=after {
            for is_power_lost in [false, true] {
                runs += 1;
                let (env, disk, clock, mut acknowledged) = begun(1);
                disk.fail_call(call, fault);
                match work(&env, &clock, &mut acknowledged) {
                    Ok(()) | Err(LogError::Io { .. } | LogError::NotWritten { .. } | LogError::Locked { .. }) => {}
                    Err(LogError::Poisoned { .. }) => poisoned += 1,
                    Err(error) => panic!("call {call}: {error}"),
                }
                if is_power_lost {
                    disk.lose_power()
                } else {
                    disk.kill_process()
                }
                assert_recovers(&env, &acknowledged, &format!("call {call} failed with {fault:?}"));
            }
        }
    }
    assert!(after - before > 100, "{before} to {after}");
    assert!(poisoned > 5 && poisoned < runs / 2, "poisoned in {poisoned} of {runs} runs");
}

#[test]
fn a_log_that_is_beginning_survives_any_failing_call() {
    let clean_calls = {
        let (env, disk, clock) = machine(1);
        work(&env, &clock, &mut Vec::new()).unwrap();
        disk.calls()
    };
    for call in 1..=clean_calls {
        let (env, disk, clock) = machine(call);
        disk.fail_call(call, if call % 2 == 0 { Fault::Io } else { Fault::NoSpace });
        let mut acknowledged = Vec::new();
        // The outcome is looked at below.
        let _ = work(&env, &clock, &mut acknowledged);
        disk.lose_power();
        assert_recovers(&env, &acknowledged, &format!("call {call}"));
    }
}

/// A disk that fails once and for all, and then the power goes: recovery and taking back are interrupted at every point.
#[test]
fn a_disk_that_dies_at_any_call_loses_nothing_and_the_next_start_succeeds() {
    let (before, after) = clean_calls();
    for call in before + 1..=after {
        for is_power_lost in [false, true] {
            let (env, disk, clock, mut acknowledged) = begun(1);
            disk.die_at_call(call);
            let outcome = work(&env, &clock, &mut acknowledged);
            assert!(outcome.is_err() || call + 20 > after, "call {call}: a dead disk is noticed");
            if is_power_lost {
                disk.lose_power()
            } else {
                disk.kill_process()
            }
            assert_recovers(&env, &acknowledged, &format!("the disk died at call {call}"));
        }
    }
}

/// A group reaches over several segments, a write fails, and the disk dies while it is taken back: at every point of it.
#[test]
fn taking_back_a_group_that_spans_segments_may_be_interrupted_anywhere() {
    let spanning = |log: &SegmentedLog| {
        let group = Group { commits: vec![sample_commit(log.appended().next(), 400, 4_000)] };
        log.append(log.epoch(), log.appended(), &group)
    };
    let (mut interrupted, mut taken_back) = (0, 0);
    for failing in 1.. {
        let (env, disk, _) = machine(failing);
        let log = open(&env).unwrap();
        let acknowledged = write(&log, 3);
        disk.fail_call(disk.calls() + failing, Fault::Io);
        let before = disk.calls();
        match spanning(&log) {
            Ok(()) => break,
            Err(LogError::NotWritten { .. }) => taken_back += 1,
            Err(LogError::Poisoned { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        let calls = disk.calls() - before;
        assert_recovers_after(log, &disk, &env, &acknowledged, failing);
        for dying in failing + 1..=calls {
            let (env, disk, _) = machine(failing);
            let log = open(&env).unwrap();
            let acknowledged = write(&log, 3);
            disk.fail_call(disk.calls() + failing, Fault::Io);
            disk.die_at_call(disk.calls() + dying);
            let outcome = spanning(&log);
            assert!(outcome.is_err(), "failing {failing}, dying {dying}");
            interrupted += u32::from(matches!(outcome, Err(LogError::Poisoned { .. })));
            assert_recovers_after(log, &disk, &env, &acknowledged, failing);
        }
    }
    assert!(interrupted > 10 && taken_back > 3, "{interrupted} interrupted, {taken_back} taken back");
}

fn assert_recovers_after(
    log: SegmentedLog,
    disk: &SimulatedDisk,
    env: &Env,
    acknowledged: &[EncodedCommit],
    seed: u64,
) {
    drop(log);
    if seed.is_multiple_of(2) {
        disk.lose_power()
    } else {
        disk.kill_process()
    }
    assert_recovers(env, acknowledged, &format!("seed {seed}"));
}
