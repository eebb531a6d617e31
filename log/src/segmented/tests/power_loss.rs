//! Power loss, seed by seed: nothing acknowledged is lost, nothing refuses to start, and the defects that this must find are found.

use super::*;

/// What a run is allowed to do wrong.
#[derive(Clone, Copy)]
struct Defect {
    judgement: Judgement,
    ignores_sync_data: bool,
    ignores_sync_dir: bool,
}

const NONE: Defect = Defect { judgement: Judgement::Specified, ignores_sync_data: false, ignores_sync_dir: false };

/// Writes, trims, loses power and opens again, several times over; how many commits were trimmed away, or what was broken.
fn run(seed: u64, defect: Defect) -> Result<u64, String> {
    let (env, disk, clock) = machine(seed);
    let mut random = Random::new(seed ^ 0x5eed);
    // What was appended, and how much of it was acknowledged.
    let mut appended: Vec<EncodedCommit> = Vec::new();
    let mut acknowledged = 0;
    let (mut log_id, mut trimmed) = (None, 0);
    for round in 0..5 {
        disk.ignore_sync_data(false);
        disk.ignore_sync_dir(false);
        let witnesses = log_id.filter(|_| random.one_in(2)).map(|log| (log, Lsn::new(acknowledged)));
        let options = SegmentedOptions { witnesses: witnesses.into_iter().collect(), ..small_options() };
        let log = SegmentedLog::open_judging(&env, Path::new(PATH), options, defect.judgement)
            .map_err(|error| format!("seed {seed}, round {round}: refused to start: {error}"))?;
        log_id = Some(log.id());
        let context = |error| format!("seed {seed}, round {round}: {error}");
        let read;
        (trimmed, read) = read_kept(&log).map_err(context)?;
        assert_base(&log).map_err(context)?;
        let end = trimmed + read.len() as u64;
        if end < acknowledged {
            return Err(format!("seed {seed}, round {round}: {end} of {acknowledged} acknowledged commits"));
        }
        if read[..] != appended[trimmed as usize..appended.len().min(end as usize)] {
            return Err(format!("seed {seed}, round {round}: other commits than were appended"));
        }
        acknowledged = end;
        appended.truncate(end as usize);
        disk.ignore_sync_data(defect.ignores_sync_data);
        disk.ignore_sync_dir(defect.ignores_sync_dir);
        for _ in 0..random.below(12) {
            let group = match random.below(8) {
                0 => Group { commits: vec![sample_commit(log.appended().next(), 1 + random.below(40), 900)] },
                _ => sample_group(log.appended(), 1 + random.below(6)),
            };
            log.append(log.epoch(), log.appended(), &group).map_err(|error| format!("seed {seed}: {error}"))?;
            appended.extend(group.commits);
            if !random.one_in(4) {
                acknowledged = log.make_durable().map_err(|error| format!("seed {seed}: {error}"))?.value();
            }
            if random.one_in(12) && acknowledged > 0 {
                trim_at_random(&log, &mut random).map_err(|error| format!("seed {seed}: {error}"))?;
            }
            if random.one_in(3) {
                clock.advance(Duration::from_millis(random.below(80)));
                log.maintain().map_err(|error| format!("seed {seed}: {error}"))?;
            }
        }
        if random.one_in(8) {
            log.close().map_err(|error| format!("seed {seed}: {error}"))?;
            acknowledged = appended.len() as u64;
        } else {
            drop(log);
        }
        if random.one_in(6) {
            disk.kill_process();
        } else {
            disk.lose_power();
        }
    }
    Ok(trimmed)
}

/// Writes an image of some commit that is kept, and trims up to it or less.
fn trim_at_random(log: &SegmentedLog, random: &mut Random) -> Result<(), LogError> {
    let (first, durable) = (log.earliest().value(), log.durable().borrow().value());
    let base = Lsn::new(log.base().map_or(first, Lsn::value).max(first) + random.below(durable - first + 1))
        .min(Lsn::new(durable));
    conformance::write_sample_base(log, base)?;
    log.trim(Lsn::new(random.below(base.value() + 1)).max(base.previous()))?;
    Ok(())
}

fn failures(seeds: std::ops::Range<u64>, defect: Defect) -> Vec<String> {
    seeds.filter_map(|seed| run(seed, defect).err()).collect()
}

#[test]
fn no_acknowledged_commit_is_lost_and_every_start_succeeds() {
    let outcomes: Vec<_> = (0..2_000).map(|seed| run(seed, NONE)).collect();
    let trimmed = outcomes.iter().filter(|outcome| matches!(outcome, Ok(1..))).count();
    assert!(trimmed > 500, "trimmed in {trimmed} runs");
    let failures: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
    assert!(failures.is_empty(), "{} of 2,000: {:#?}", failures.len(), &failures[..failures.len().min(5)]);
}

#[test]
fn the_simulation_finds_an_acknowledgement_before_the_sync() {
    assert!(failures(0..100, Defect { ignores_sync_data: true, ..NONE }).len() > 50);
}

#[test]
fn the_simulation_finds_a_missing_directory_sync() {
    assert!(failures(0..100, Defect { ignores_sync_dir: true, ..NONE }).len() > 20);
}

#[test]
fn the_simulation_finds_a_refusal_over_a_valid_frame_behind_a_torn_one() {
    let found = failures(0..400, Defect { judgement: Judgement::RefusesAtAnyLaterFrame, ..NONE });
    assert!(!found.is_empty());
    assert!(found.iter().all(|failure| failure.contains("refused to start")), "{found:?}");
}

#[test]
fn the_same_seed_gives_the_same_disk() {
    let contents = |seed| {
        let (env, disk, clock) = machine(seed);
        let log = open(&env).unwrap();
        write_sample(&log, &clock);
        drop(log);
        disk.lose_power();
        drop(open(&env).unwrap());
        env.disk
            .list(Path::new(PATH))
            .unwrap()
            .into_iter()
            .map(|name| disk.contents(&Path::new(PATH).join(name)))
            .collect::<Vec<_>>()
    };
    assert_eq!(contents(11), contents(11));
}
