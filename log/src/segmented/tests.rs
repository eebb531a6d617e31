use super::*;
use crate::conformance::{self, sample_commit, sample_group};
use crate::env::Disk as _;
use crate::env::simulated::{Fault, Random, SimulatedClock, SimulatedDisk, machine};

mod backup;
mod damage;
mod faults;
mod power_loss;
mod trimming;

const PATH: &str = "/data/log";

/// Segments so small that every test rolls.
fn small_options() -> SegmentedOptions {
    SegmentedOptions {
        segment_bytes_min: 8 * 1024,
        segment_bytes_max: 32 * 1024,
        free_bytes_min: 0,
        tail_bytes_max: 2_000,
        is_self_maintained: false,
        ..SegmentedOptions::default()
    }
}

fn open(env: &Env) -> Result<SegmentedLog, LogError> {
    SegmentedLog::open(env, Path::new(PATH), small_options())
}

/// Appends `count` commits and makes them durable.
fn write(log: &SegmentedLog, count: u64) -> Vec<EncodedCommit> {
    let group = sample_group(log.appended(), count);
    log.append(log.epoch(), log.appended(), &group).unwrap();
    log.make_durable().unwrap();
    group.commits
}

fn read_after(log: &SegmentedLog, after: Lsn) -> Result<Vec<EncodedCommit>, LogError> {
    let mut reader = log.read_after(after)?;
    let mut commits = Vec::new();
    while let Some(commit) = reader.try_next()? {
        commits.push(EncodedCommit::clone(&commit));
    }
    Ok(commits)
}

/// The last commit that is trimmed away, and all that are not.
fn read_kept(log: &SegmentedLog) -> Result<(u64, Vec<EncodedCommit>), LogError> {
    let trimmed = log.earliest().previous();
    Ok((trimmed.value(), read_after(log, trimmed)?))
}

/// Asserts that what is trimmed away has a base image, and that it is whole.
fn assert_base(log: &SegmentedLog) -> Result<(), LogError> {
    let trimmed = log.earliest().previous();
    let base = conformance::read_base(log)?;
    assert!(trimmed == Lsn::ORIGIN || base.is_some(), "trimmed without a base image");
    if let Some((header, records)) = base {
        assert!(header.lsn >= trimmed, "the image is of {}, trimmed is {trimmed}", header.lsn);
        assert_eq!((header, records), conformance::sample_base(header.lsn, 5, 300));
    }
    Ok(())
}

/// A log of several segments, some sealed, with marks; returns what was acknowledged.
fn write_sample(log: &SegmentedLog, clock: &SimulatedClock) -> Vec<EncodedCommit> {
    let mut written = Vec::new();
    for round in 0..12 {
        written.extend(write(log, 1 + round % 5));
        if round % 4 == 0 {
            let large = Group { commits: vec![sample_commit(log.appended().next(), 30, 1_000)] };
            log.append(log.epoch(), log.appended(), &large).unwrap();
            log.make_durable().unwrap();
            written.extend(large.commits);
        }
        clock.advance(MARK_AFTER_IDLE);
        log.maintain().unwrap();
    }
    written
}

#[test]
fn the_segmented_log_conforms_on_a_simulated_disk() {
    let mut seed = 0;
    conformance::run(|| {
        seed += 1;
        open(&machine(seed).0).unwrap()
    });
}

#[test]
fn the_segmented_log_conforms_on_the_real_disk_with_its_own_thread() {
    let directory = tempfile::tempdir().unwrap();
    let mut count = 0;
    conformance::run(|| {
        count += 1;
        let options = SegmentedOptions { is_self_maintained: true, ..small_options() };
        SegmentedLog::open(&Env::system(), &directory.path().join(format!("{count}/log")), options).unwrap()
    });
}

#[test]
fn a_log_reads_back_after_a_clean_close_and_after_a_kill() {
    let (env, disk, clock) = machine(1);
    let mut written = Vec::new();
    for round in 0..6 {
        let log = open(&env).unwrap();
        assert_eq!(log.epoch(), Epoch::new(round + 1), "an epoch grows with each opening");
        assert_eq!(read_after(&log, Lsn::ORIGIN).unwrap(), written);
        written.extend(write_sample(&log, &clock));
        for after in [0, 1, written.len() / 2, written.len() - 1, written.len()] {
            assert_eq!(read_after(&log, Lsn::new(after as u64)).unwrap(), written[after..]);
        }
        if round % 2 == 0 {
            log.close().unwrap();
        } else {
            drop(log);
            disk.kill_process();
        }
    }
}

#[test]
fn a_commit_longer_than_any_segment_spans_several() {
    let (env, _, _) = machine(2);
    let log = open(&env).unwrap();
    let mut written = write(&log, 3);
    let large = sample_commit(Lsn::new(4), 700, 4_000);
    assert!(large.part_count() > 2);
    log.append(log.epoch(), Lsn::new(3), &Group { commits: vec![large.clone()] }).unwrap();
    log.make_durable().unwrap();
    written.push(large);
    written.extend(write(&log, 3));
    drop(log);
    let log = open(&env).unwrap();
    assert_eq!(read_after(&log, Lsn::ORIGIN).unwrap(), written);
    assert_eq!(read_after(&log, Lsn::new(4)).unwrap(), written[4..]);
}

#[test]
fn an_unfinished_commit_in_a_sealed_segment_is_void() {
    // The power goes while a commit that spans segments is being written: its beginning is sealed and stays.
    let mut voids = 0;
    for seed in 0..60 {
        let (env, disk, _) = machine(seed);
        let log = open(&env).unwrap();
        let mut written = write(&log, 2);
        let large = sample_commit(Lsn::new(3), 500, 4_000);
        log.append(log.epoch(), Lsn::new(2), &Group { commits: vec![large.clone()] }).unwrap();
        drop(log);
        disk.lose_power();
        let log = open(&env).unwrap();
        if log.appended() == Lsn::new(3) {
            written.push(large);
        } else {
            voids += 1;
        }
        written.extend(write(&log, 4));
        assert_eq!(read_after(&log, Lsn::ORIGIN).unwrap(), written, "seed {seed}");
        drop(log);
        let log = open(&env).unwrap();
        assert_eq!(read_after(&log, Lsn::ORIGIN).unwrap(), written, "seed {seed}");
    }
    assert!(voids > 10, "{voids} voids in 60 power losses");
}

#[test]
fn a_second_opening_is_refused_with_the_holders_name() {
    let directory = tempfile::tempdir().unwrap();
    let options = SegmentedOptions { owner: "process 4711".to_owned(), ..small_options() };
    let log = SegmentedLog::open(&Env::system(), directory.path(), options).unwrap();
    log.note_owner("process 4711 at 127.0.0.1:7433");
    let error = SegmentedLog::open(&Env::system(), directory.path(), small_options()).unwrap_err();
    assert!(error.to_string().ends_with("is in use by process 4711 at 127.0.0.1:7433"), "{error}");
    drop(log);
    SegmentedLog::open(&Env::system(), directory.path(), small_options()).unwrap();
}

#[test]
fn a_full_disk_refuses_appends_and_needs_no_restart_when_space_returns() {
    let (env, disk, clock) = machine(3);
    let log = open(&env).unwrap();
    let mut written = write_sample(&log, &clock);
    disk.limit_free_bytes(0);
    let mut refused = 0;
    for _ in 0..50 {
        let group = sample_group(log.appended(), 8);
        match log.append(log.epoch(), log.appended(), &group) {
            Ok(()) => {
                log.make_durable().unwrap();
                written.extend(group.commits);
            }
            Err(LogError::NotWritten { reason: NotWritten::NoSpace(_) }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 20, "{refused} of 50 refused");
    assert_eq!(read_after(&log, Lsn::ORIGIN).unwrap(), written, "reads go on");
    disk.limit_free_bytes(u64::MAX);
    written.extend(write(&log, 5));
    drop(log);
    disk.lose_power();
    assert_eq!(read_after(&open(&env).unwrap(), Lsn::ORIGIN).unwrap(), written);
}

#[test]
fn the_soft_limit_refuses_appends_before_the_disk_is_full() {
    let (env, disk, _) = machine(4);
    let options = SegmentedOptions { free_bytes_min: 1_000_000, ..small_options() };
    let log = SegmentedLog::open(&env, Path::new(PATH), options).unwrap();
    write(&log, 1);
    disk.limit_free_bytes(999_999);
    log.maintain().unwrap();
    let error = log.append(log.epoch(), log.appended(), &sample_group(log.appended(), 1)).unwrap_err();
    assert!(matches!(error, LogError::NotWritten { reason: NotWritten::NoSpace(_) }), "{error}");
    disk.limit_free_bytes(2_000_000);
    write(&log, 1);
}

#[test]
fn a_failed_sync_poisons_the_log_and_is_never_tried_again() {
    let (env, disk, _) = machine(5);
    let log = open(&env).unwrap();
    let written = write(&log, 2);
    log.append(log.epoch(), Lsn::new(2), &sample_group(Lsn::new(2), 1)).unwrap();
    disk.fail_call(disk.calls() + 1, Fault::Io);
    assert!(matches!(log.make_durable(), Err(LogError::Poisoned { .. })));
    assert!(matches!(log.make_durable(), Err(LogError::Poisoned { .. })));
    assert!(matches!(log.read_after(Lsn::ORIGIN), Err(LogError::Poisoned { .. })));
    let again = log.append(log.epoch(), log.appended(), &sample_group(log.appended(), 1));
    assert!(matches!(again, Err(LogError::Poisoned { .. })));
    drop(log);
    disk.lose_power();
    let log = open(&env).unwrap();
    let read = read_after(&log, Lsn::ORIGIN).unwrap();
    assert_eq!(read[..2], written, "what was acknowledged is there, the unknown commit may be");
    assert!(read.len() <= 3);
}

#[tokio::test]
async fn a_reader_that_waits_hears_of_poison() {
    let (env, disk, _) = machine(5);
    let log = open(&env).unwrap();
    write(&log, 1);
    let mut reader = log.read_after(Lsn::new(1)).unwrap();
    let waiting = tokio::spawn(async move { reader.next().await });
    tokio::task::yield_now().await;
    log.append(log.epoch(), Lsn::new(1), &sample_group(Lsn::new(1), 1)).unwrap();
    disk.fail_call(disk.calls() + 1, Fault::Io);
    log.make_durable().unwrap_err();
    assert!(matches!(waiting.await.unwrap(), Err(LogError::Poisoned { .. })));
}

#[test]
fn headers_are_found_in_pieces_as_in_the_whole() {
    let (env, disk, _) = machine(8);
    let log = open(&env).unwrap();
    write(&log, 200);
    let contents = disk.contents(&Path::new(PATH).join("segment-00000000000000000001")).unwrap();
    let (identity, id) = (log.shared.reading.identity, SegmentId::new(1));
    let whole: Vec<_> = scan::headers_from(identity, id, &contents, 0).collect();
    assert!(whole.len() > 10, "{}", whole.len());
    // At whatever offset a piece ends, headers lie across its end.
    for piece_bytes in [64, 80, 112, 256, 4096] {
        let bases = (0..contents.len()).step_by(piece_bytes);
        let found: Vec<_> = bases
            .flat_map(|base| {
                let end = contents.len().min(base + piece_bytes + crate::frame::FRAME_HEADER_BYTES);
                let next = (base + piece_bytes) as u64;
                scan::headers_in(identity, id, &contents[base..end], base as u64, 0..next).collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(found, whole, "in pieces of {piece_bytes}");
    }
}

#[test]
fn an_idle_log_marks_its_last_sync_once_and_then_writes_nothing() {
    let (env, disk, clock) = machine(6);
    let log = open(&env).unwrap();
    write(&log, 1);
    log.maintain().unwrap();
    let segment = Path::new(PATH).join("segment-00000000000000000001");
    let frames = || {
        let contents = disk.contents(&segment).unwrap();
        scan::headers_from(log.shared.reading.identity, SegmentId::new(1), &contents, 0)
            .map(|sighting| sighting.unwrap().1)
            .collect::<Vec<_>>()
    };
    assert_eq!(frames().len(), 1, "not idle for long enough");
    for _ in 0..3 {
        clock.advance(MARK_AFTER_IDLE);
        log.maintain().unwrap();
    }
    let frames = frames();
    assert_eq!(frames.len(), 2);
    assert_eq!((frames[1].kind, frames[1].synced), (crate::frame::FrameKind::Mark, Lsn::new(1)));
}

#[test]
fn a_reader_that_read_ahead_never_shows_what_was_taken_back() {
    let (env, disk, _) = machine(7);
    let options = SegmentedOptions { tail_bytes_max: 0, segment_bytes_min: 64 * 1024, ..small_options() };
    let log = SegmentedLog::open(&env, Path::new(PATH), options).unwrap();
    write(&log, 4);
    let mut reader = log.read_after(Lsn::ORIGIN).unwrap();
    reader.try_next().unwrap().unwrap();
    // A group is written, taken back when its write fails half-way, and another one takes its LSNs.
    disk.fail_call(disk.calls() + 1, Fault::Io);
    let refused = log.append(log.epoch(), Lsn::new(4), &sample_group(Lsn::new(4), 2));
    assert!(matches!(refused, Err(LogError::NotWritten { .. })));
    while reader.try_next().unwrap().is_some() {}
    let other = sample_commit(Lsn::new(5), 9, 77);
    log.append(log.epoch(), Lsn::new(4), &Group { commits: vec![other.clone()] }).unwrap();
    log.make_durable().unwrap();
    assert_eq!(*reader.try_next().unwrap().unwrap(), other);
}

#[tokio::test]
async fn a_waiting_reader_wakes_at_the_next_sync_and_ends_when_the_log_closes() {
    let directory = tempfile::tempdir().unwrap();
    let log = SegmentedLog::open(&Env::system(), directory.path(), SegmentedOptions::default()).unwrap();
    let mut reader = log.read_after(Lsn::ORIGIN).unwrap();
    let task = tokio::spawn(async move {
        let mut lsns = Vec::new();
        while let Some(commit) = reader.next().await.unwrap() {
            lsns.push(commit.lsn().value());
        }
        lsns
    });
    for _ in 0..3 {
        write(&log, 2);
        tokio::task::yield_now().await;
    }
    log.close().unwrap();
    assert_eq!(task.await.unwrap(), [1, 2, 3, 4, 5, 6]);
}

fn seen_commits(view: &LogView, after: Lsn) -> Vec<EncodedCommit> {
    let mut commits = Vec::new();
    view.commits(after, |commit| {
        commits.push(commit);
        std::ops::ControlFlow::Continue(())
    })
    .unwrap();
    commits
}

#[test]
fn a_log_is_seen_from_outside_up_to_what_is_told_to_be_synced() {
    let (env, _, clock) = machine(8);
    let log = open(&env).unwrap();
    let written = write_sample(&log, &clock);
    let in_flight = write(&log, 2);
    let view = LogView::open(&env, Path::new(PATH)).unwrap();
    assert_eq!((view.synced(), view.complete()), (Lsn::new(written.len() as u64), log.appended()));
    for after in [0, 1, 17, written.len() as u64] {
        assert_eq!(seen_commits(&view, Lsn::new(after)), written[after as usize..]);
    }
    let verification = view.verify(|_| {}).unwrap();
    assert!(verification.damages.is_empty(), "{:?}", verification.damages);
    assert_eq!(verification.commits, (written.len() + in_flight.len()) as u64);
    let states: Vec<_> = view.segments().unwrap().iter().map(|segment| segment.state).collect();
    assert!(states.windows(2).all(|pair| pair[0] as u8 <= pair[1] as u8), "{states:?}");
    assert!(states.contains(&SegmentState::Sealed) && states.contains(&SegmentState::Active), "{states:?}");
    log.close().unwrap();
    let view = LogView::open(&env, Path::new(PATH)).unwrap();
    assert_eq!(seen_commits(&view, Lsn::new(written.len() as u64)), in_flight);
}

#[test]
fn verifying_finds_a_flipped_bit_in_a_sealed_segment_and_checks_what_follows() {
    let (env, disk, clock) = machine(8);
    let log = open(&env).unwrap();
    let written = write_sample(&log, &clock);
    log.close().unwrap();
    for (segment, at) in [(1, 4_100), (2, 4_100), (2, 9_000)] {
        let path = Path::new(PATH).join(format!("segment-{segment:020}"));
        disk.damage(&path, |bytes| bytes[at] ^= 1);
        let view = LogView::open(&env, Path::new(PATH)).unwrap();
        let verification = view.verify(|_| {}).unwrap();
        assert_eq!(verification.damages.len(), 1, "{:?}", verification.damages);
        assert_eq!(verification.damages[0].segment, SegmentId::new(segment));
        assert!(verification.commits < written.len() as u64);
        disk.damage(&path, |bytes| bytes[at] ^= 1);
    }
    assert!(matches!(LogView::open(&env, Path::new("/nowhere")), Err(LogError::Missing { .. })));
}

#[test]
fn every_byte_of_a_sealed_segment_that_rots_is_found_by_reading_it_again() {
    let (env, disk, clock) = machine(8);
    let log = open(&env).unwrap();
    write_sample(&log, &clock);
    log.maintain().unwrap();
    let clean = log.scrub().unwrap();
    assert!(clean.damages.is_empty(), "{:?}", clean.damages);
    assert!(clean.passes == 1 && clean.bytes > 8_000, "{clean:?}");
    let sealed = Path::new(PATH).join(format!("segment-{:020}", 1));
    let used = disk.contents(&sealed).unwrap().iter().rposition(|byte| *byte != 0).unwrap();
    // The header block is checked up to its checksum; what is behind it in the block, and behind the footer, is nobody's.
    for at in (0..68).chain(4096..=used).step_by(7) {
        disk.damage(&sealed, |bytes| bytes[at] ^= 1);
        let found = log.scrub().unwrap();
        assert_eq!(found.damages.len(), 1, "byte {at}");
        assert_eq!(found.damages[0].segment, SegmentId::new(1));
        disk.damage(&sealed, |bytes| bytes[at] ^= 1);
    }
    assert!(log.scrub().unwrap().damages.is_empty(), "it was put right");
    disk.damage(&sealed, |bytes| bytes.truncate(used / 2));
    assert_eq!(log.scrub().unwrap().damages.len(), 1, "a segment that was cut");
    disk.remove(&sealed).unwrap();
    let found = log.scrub().unwrap();
    assert_eq!(found.damages.len(), 1, "a segment that is gone does not end the pass");
    assert_eq!(found.damages[0].first, Lsn::new(1));
    assert_eq!(found.passes, log.scrubbed().passes);
}

#[test]
fn a_log_on_a_read_only_file_system_is_read_up_to_what_is_proven_and_refuses_writes() {
    let (env, disk, clock) = machine(8);
    let log = open(&env).unwrap();
    let (id, mut written) = (log.id(), write_sample(&log, &clock));
    let proven = written.len();
    written.extend(write(&log, 2));
    drop(log);
    disk.kill_process();
    disk.limit_free_bytes(0);
    let files = |disk: &SimulatedDisk| {
        disk.list(Path::new(PATH))
            .unwrap()
            .iter()
            .map(|name| disk.contents(&Path::new(PATH).join(name)))
            .collect::<Vec<_>>()
    };
    let before = files(&disk);
    let read_all = |log: &ReadOnlyLog, after: u64| {
        let mut reader = log.read_after(Lsn::new(after)).unwrap();
        std::iter::from_fn(|| reader.try_next().unwrap())
            .map(|commit| EncodedCommit::clone(&commit))
            .collect::<Vec<_>>()
    };
    let log = ReadOnlyLog::open(&env, Path::new(PATH), &small_options()).unwrap();
    assert_eq!(read_all(&log, 0), written[..proven], "what no frame tells to be synced is not shown");
    assert_eq!(read_all(&log, 20), written[20..proven]);
    let refused = log.append(log.epoch(), log.appended(), &sample_group(log.appended(), 1));
    assert!(matches!(refused, Err(LogError::ReadOnly)));
    let options = SegmentedOptions { witnesses: vec![(id, Lsn::new(written.len() as u64))], ..small_options() };
    let log = ReadOnlyLog::open(&env, Path::new(PATH), &options).unwrap();
    assert_eq!(read_all(&log, 0), written, "a witness proves the rest");
    drop(log);
    assert!(files(&disk) == before, "nothing was written");
    assert!(matches!(ReadOnlyLog::open(&env, Path::new("/none"), &small_options()), Err(LogError::Missing { .. })));
}
