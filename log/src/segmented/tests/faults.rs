//! Every call to the disk fails once, in turn.

use super::*;

/// A fixed workload; errors are met as a careful owner would. Returns the log, if it is still usable, and what was acknowledged.
fn work(env: &Env, clock: &SimulatedClock, acknowledged: &mut Vec<EncodedCommit>) -> Result<(), LogError> {
    let log = open(env)?;
    let mut appended = acknowledged.clone();
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

#[test]
fn any_single_failing_call_loses_nothing_that_was_acknowledged() {
    let clean_calls = {
        let (env, disk, clock) = machine(1);
        work(&env, &clock, &mut Vec::new()).unwrap();
        disk.calls()
    };
    let mut poisoned = 0;
    let mut runs = 0;
    for fault in [Fault::Io, Fault::NoSpace] {
        for call in 1..=clean_calls {
            for is_power_lost in [false, true] {
                runs += 1;
                let (env, disk, clock) = machine(call);
                disk.fail_call(call, fault);
                let mut acknowledged = Vec::new();
                match work(&env, &clock, &mut acknowledged) {
                    Ok(()) | Err(LogError::Io { .. } | LogError::NotWritten { .. } | LogError::Locked { .. }) => {}
                    Err(LogError::Poisoned { .. }) => poisoned += 1,
                    Err(error) => panic!("call {call}: {error}"),
                }
                if is_power_lost {
                    disk.lose_power();
                } else {
                    disk.kill_process();
                }
                let log = open(&env).unwrap_or_else(|error| panic!("call {call} failed with {fault:?}: {error}"));
                let read = read_after(&log, Lsn::ORIGIN).unwrap();
                assert!(read.len() >= acknowledged.len(), "call {call}: {} of {}", read.len(), acknowledged.len());
                assert_eq!(read[..acknowledged.len()], acknowledged, "call {call}");
                write(&log, 2);
            }
        }
    }
    assert!(clean_calls > 100, "{clean_calls} calls");
    assert!(poisoned > 5 && poisoned < runs / 2, "poisoned in {poisoned} of {runs} runs");
}
