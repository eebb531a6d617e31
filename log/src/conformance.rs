//! What every commit log must do, as one suite that each implementation runs.

use std::sync::Arc;

use bytes::Bytes;

use crate::base::{BaseHeader, BaseRecord, BaseState};
use crate::commit::{Change, Commit, CommitHeader, EncodedCommit, Group, ProducerId, ProducerSequence};
use crate::commit_log::{CommitLog, LogReader};
use crate::error::LogError;
use crate::position::{CommitTime, Epoch, Lsn, RowId, TableId};

/// Runs the whole suite; `fresh` makes an empty log each time.
///
/// # Panics
/// When the log breaks its contract, naming the rule.
pub fn run<L: CommitLog>(mut fresh: impl FnMut() -> L) {
    an_empty_log_begins_before_the_first_commit(&fresh());
    nothing_is_readable_before_it_is_durable(&fresh());
    commits_come_in_order_each_once_from_any_position(&fresh());
    an_append_must_follow_the_last_one(&fresh());
    an_older_epoch_is_refused(&fresh());
    a_reader_goes_on_to_the_tail(&fresh());
    a_commit_of_many_parts_reads_back_whole(&fresh());
    a_position_beyond_the_durable_end_is_refused(&fresh());
    an_empty_group_changes_nothing(&fresh());
    what_lies_behind_a_commit_is_measured(&fresh());
    a_base_image_reads_back_and_takes_the_place_of_the_one_before(&fresh());
    commits_are_trimmed_as_far_as_the_base_image_goes_and_never_the_last(&fresh());
    readers_do_not_disturb_one_another_nor_the_writer(fresh());
}

/// A commit at `lsn` with `rows` inserted rows of `row_bytes` bytes, whose contents tell LSN and row.
#[must_use]
pub fn sample_commit(lsn: Lsn, rows: u64, row_bytes: usize) -> EncodedCommit {
    let changes: Vec<_> = (0..rows)
        .map(|row| {
            let mut image = vec![(lsn.value() ^ row) as u8; row_bytes.max(16)];
            image[..8].copy_from_slice(&lsn.value().to_le_bytes());
            image[8..16].copy_from_slice(&row.to_le_bytes());
            Change::Insert { table: TableId::new(1), row: RowId::new(row), after: Bytes::from(image) }
        })
        .collect();
    let header = CommitHeader {
        time: CommitTime { micros: lsn.value(), logical: 0 },
        next_row: RowId::new(rows),
        producer: None,
        change_count: rows,
    };
    EncodedCommit::encode(&Commit { lsn, header, changes }).expect("a sample fits")
}

/// `count` sample commits after `after`.
#[must_use]
pub fn sample_group(after: Lsn, count: u64) -> Group {
    let commits = (1..=count).map(|step| sample_commit(after.advanced_by(step), 1 + step % 3, 40)).collect();
    Group { commits }
}

/// An image at `lsn` with a record of each kind, and `rows` rows of `row_bytes` bytes.
#[must_use]
pub fn sample_base(lsn: Lsn, rows: u64, row_bytes: usize) -> (BaseHeader, Vec<BaseRecord>) {
    let header =
        BaseHeader { lsn, time: CommitTime { micros: lsn.value(), logical: 1 }, next_row: RowId::new(rows + 1) };
    let record = |state| BaseRecord { lsn, state };
    let row = |row: u64| {
        let image = vec![(row ^ lsn.value()) as u8; row_bytes].into();
        record(BaseState::Row { table: TableId::new(17), row: RowId::new(row), image })
    };
    let entry = |entry| record(BaseState::Catalog { object: 17, entry });
    let mut records = vec![entry(Some(Bytes::from_static(b"{}"))), entry(None)];
    records.extend((1..=rows).map(row));
    let (of, position) = (Bytes::from_static(b"source"), Bytes::from_static(b"position"));
    records.push(record(BaseState::Position { of, position }));
    let producer = ProducerId([7; 16]);
    records.push(record(BaseState::Sequence(ProducerSequence { producer, sequence: 3 })));
    (header, records)
}

/// Gives a log the sample image at `lsn`.
///
/// # Errors
/// As the log answers.
pub fn write_sample_base<L: CommitLog + ?Sized>(log: &L, lsn: Lsn) -> Result<(), LogError> {
    let (header, records) = sample_base(lsn, 5, 300);
    let mut writer = log.begin_base(header)?;
    records.into_iter().try_for_each(|record| writer.push(record))?;
    writer.finish()
}

/// Reads the whole base image.
///
/// # Errors
/// As the log answers.
pub fn read_base<L: CommitLog + ?Sized>(log: &L) -> Result<Option<(BaseHeader, Vec<BaseRecord>)>, LogError> {
    let Some(mut reader) = log.read_base()? else { return Ok(None) };
    let mut records = Vec::new();
    while let Some(record) = reader.try_next()? {
        records.push(record);
    }
    Ok(Some((*reader.header(), records)))
}

fn append<L: CommitLog>(log: &L, count: u64) -> Group {
    let group = sample_group(log.appended(), count);
    log.append(log.epoch(), log.appended(), &group).expect("an append at the tail");
    group
}

/// Reads what is durable after `after`.
fn read_all<L: CommitLog>(log: &L, after: Lsn) -> Vec<Arc<EncodedCommit>> {
    drain(&mut log.read_after(after).expect("a readable position"))
}

fn drain(reader: &mut LogReader) -> Vec<Arc<EncodedCommit>> {
    std::iter::from_fn(|| reader.try_next().expect("a readable log")).collect()
}

fn an_empty_log_begins_before_the_first_commit<L: CommitLog>(log: &L) {
    assert_eq!(log.appended(), Lsn::ORIGIN);
    assert_eq!(*log.durable().borrow(), Lsn::ORIGIN);
    assert_eq!(log.earliest(), Lsn::new(1));
    assert!(read_all(log, Lsn::ORIGIN).is_empty());
}

fn nothing_is_readable_before_it_is_durable<L: CommitLog>(log: &L) {
    let first = append(log, 3);
    assert_eq!(log.appended(), Lsn::new(3));
    assert_eq!(*log.durable().borrow(), Lsn::ORIGIN);
    assert!(read_all(log, Lsn::ORIGIN).is_empty(), "appended is not durable");
    assert_eq!(log.make_durable().expect("a sync"), Lsn::new(3));
    let second = append(log, 2);
    let read: Vec<_> = read_all(log, Lsn::ORIGIN).iter().map(|commit| EncodedCommit::clone(commit)).collect();
    assert_eq!(read, first.commits, "the second group is not durable");
    log.make_durable().expect("a sync");
    assert_eq!(read_all(log, Lsn::new(3)).len(), second.commits.len());
}

fn commits_come_in_order_each_once_from_any_position<L: CommitLog>(log: &L) {
    let mut all = Vec::new();
    for size in [1, 5, 2, 9] {
        all.extend(append(log, size).commits);
        log.make_durable().expect("a sync");
    }
    for after in 0..=all.len() {
        let read = read_all(log, Lsn::new(after as u64));
        assert!(read.iter().map(|commit| &**commit).eq(&all[after..]), "after {after}");
    }
}

fn an_append_must_follow_the_last_one<L: CommitLog>(log: &L) {
    append(log, 2);
    for after in [0, 1, 3] {
        let group = sample_group(Lsn::new(after), 1);
        let error = log.append(log.epoch(), Lsn::new(after), &group).expect_err("a gap or an overlap");
        assert!(matches!(error, LogError::NotAtTail { appended, .. } if appended == Lsn::new(2)), "{error}");
    }
    assert_eq!(log.appended(), Lsn::new(2), "a refused append leaves no trace");
    append(log, 1);
}

fn an_older_epoch_is_refused<L: CommitLog>(log: &L) {
    let older = Epoch::new(log.epoch().value() - 1);
    let error = log.append(older, Lsn::ORIGIN, &sample_group(Lsn::ORIGIN, 1)).expect_err("an older epoch");
    assert!(matches!(error, LogError::Fenced { attempted, current } if attempted == older && current == log.epoch()));
    assert_eq!(log.appended(), Lsn::ORIGIN);
}

fn a_reader_goes_on_to_the_tail<L: CommitLog>(log: &L) {
    let mut reader = log.read_after(Lsn::ORIGIN).expect("the beginning");
    assert!(reader.try_next().expect("a readable log").is_none());
    for round in 1..=5 {
        append(log, 2);
        log.make_durable().expect("a sync");
        assert_eq!(drain(&mut reader).len(), 2, "round {round}");
        assert_eq!(reader.position(), Lsn::new(round * 2));
    }
}

fn a_commit_of_many_parts_reads_back_whole<L: CommitLog>(log: &L) {
    let large = sample_commit(Lsn::new(1), 60, 100_000);
    assert!(large.part_count() > 3);
    let group = Group { commits: vec![large.clone(), sample_commit(Lsn::new(2), 1, 20)] };
    log.append(log.epoch(), Lsn::ORIGIN, &group).expect("an append at the tail");
    log.make_durable().expect("a sync");
    let read = read_all(log, Lsn::ORIGIN);
    assert_eq!(*read[0], large);
    assert_eq!(read[0].decode().expect("a stored commit").changes.len(), 60);
    assert_eq!(read.len(), 2);
}

fn a_position_beyond_the_durable_end_is_refused<L: CommitLog>(log: &L) {
    append(log, 2);
    let error = log.read_after(Lsn::new(1)).expect_err("nothing is durable");
    assert!(matches!(error, LogError::BeyondDurable { durable: Lsn::ORIGIN, .. }));
    log.make_durable().expect("a sync");
    assert!(log.read_after(Lsn::new(2)).is_ok());
    assert!(matches!(log.read_after(Lsn::new(3)), Err(LogError::BeyondDurable { .. })));
}

fn what_lies_behind_a_commit_is_measured<L: CommitLog>(log: &L) {
    let commits: Vec<_> = (1..=64).map(|lsn| sample_commit(Lsn::new(lsn), 1, 32 * 1024)).collect();
    let total: usize = commits.iter().map(EncodedCommit::byte_len).sum();
    log.append(log.epoch(), Lsn::ORIGIN, &Group { commits }).expect("an append");
    log.make_durable().expect("a sync");
    let behind = |after: u64| log.bytes_after(Lsn::new(after)).expect("measured");
    assert!((0..64).all(|after| behind(after) >= behind(after + 1)), "less lies behind a later one");
    assert!(behind(0) >= total as u64, "all of it lies behind the beginning");
    assert!(behind(32) >= total as u64 / 2, "half of it lies behind the middle");
    assert!(behind(64) <= total as u64 / 8, "next to nothing lies behind the end");
}

fn an_empty_group_changes_nothing<L: CommitLog>(log: &L) {
    append(log, 1);
    log.append(log.epoch(), Lsn::new(1), &Group::default()).expect("an empty group");
    assert_eq!(log.appended(), Lsn::new(1));
    assert_eq!(log.make_durable().expect("a sync"), Lsn::new(1));
    assert_eq!(log.make_durable().expect("a second sync"), Lsn::new(1));
}

fn a_base_image_reads_back_and_takes_the_place_of_the_one_before<L: CommitLog>(log: &L) {
    append(log, 4);
    assert!(matches!(log.begin_base(sample_base(Lsn::new(1), 1, 1).0), Err(LogError::BeyondDurable { .. })));
    log.make_durable().expect("a sync");
    assert!(log.base().is_none() && read_base(log).expect("a readable log").is_none());
    write_sample_base(log, Lsn::new(2)).expect("an image");
    assert_eq!(read_base(log).expect("an image"), Some(sample_base(Lsn::new(2), 5, 300)));
    // Many parts.
    let (header, records) = sample_base(Lsn::new(4), 60, 100_000);
    let mut writer = log.begin_base(header).expect("a place for an image");
    records.iter().cloned().try_for_each(|record| writer.push(record)).expect("a part");
    assert_eq!(log.base(), Some(Lsn::new(2)), "until it is finished, the one before it stands");
    drop(writer);
    assert_eq!(log.base(), Some(Lsn::new(2)), "one that is given up leaves nothing behind");
    let mut writer = log.begin_base(header).expect("a place for an image");
    records.iter().cloned().try_for_each(|record| writer.push(record)).expect("a part");
    writer.finish().expect("an image");
    assert_eq!(log.base(), Some(Lsn::new(4)));
    assert_eq!(read_base(log).expect("an image"), Some((header, records)));
}

fn commits_are_trimmed_as_far_as_the_base_image_goes_and_never_the_last<L: CommitLog>(log: &L) {
    const COMMITS: u64 = 600;
    let all: Vec<_> = (0..COMMITS / 6)
        .flat_map(|_| {
            let group = append(log, 6);
            log.make_durable().expect("a sync");
            group.commits
        })
        .collect();
    let beyond = |base| {
        let error = log.trim(Lsn::new(base + 1)).expect_err("no image goes as far");
        assert!(matches!(error, LogError::BeyondBase { .. }), "{error}");
    };
    beyond(0);
    let mut standing = log.read_after(Lsn::ORIGIN).expect("the beginning");
    standing.try_next().expect("a readable log").expect("the first commit");
    let mut earliest = log.earliest();
    for base in [0, COMMITS / 2, COMMITS] {
        if base > 0 {
            write_sample_base(log, Lsn::new(base)).expect("an image");
        }
        beyond(base);
        let trimmed = log.trim(Lsn::new(base)).expect("a base image");
        assert_eq!(trimmed, log.earliest());
        assert!(earliest <= trimmed && trimmed.previous() <= Lsn::new(base), "{trimmed} of {base}");
        assert!(trimmed <= Lsn::new(COMMITS), "the last commit is kept");
        earliest = trimmed;
        let kept = read_all(log, earliest.previous());
        assert!(kept.iter().map(|commit| &**commit).eq(&all[earliest.previous().value() as usize..]));
        if earliest > Lsn::new(1) {
            let below = log.read_after(Lsn::new(earliest.value() - 2));
            assert!(matches!(below, Err(LogError::BelowRetained { earliest: named, .. }) if named == earliest));
        }
    }
    assert!(earliest > Lsn::new(COMMITS / 2), "most of it is gone: {earliest}");
    let error = standing.try_next().expect_err("what it stood before is gone");
    assert!(matches!(error, LogError::BelowRetained { earliest: named, .. } if named == earliest), "{error}");
    assert_eq!(standing.position(), Lsn::new(1));
    append(log, 3);
    log.make_durable().expect("a sync");
    assert_eq!(read_all(log, Lsn::new(COMMITS)).len(), 3, "it goes on");
}

fn readers_do_not_disturb_one_another_nor_the_writer<L: CommitLog>(log: L) {
    const COMMITS: u64 = 300;
    let log = &log;
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(move || {
                let mut reader = log.read_after(Lsn::ORIGIN).expect("the beginning");
                let mut expected = Lsn::ORIGIN;
                while expected < Lsn::new(COMMITS) {
                    match reader.try_next().expect("a readable log") {
                        Some(commit) => {
                            expected = expected.next();
                            assert_eq!(commit.lsn(), expected);
                        }
                        None => std::thread::yield_now(),
                    }
                }
            });
        }
        for _ in 0..COMMITS / 3 {
            append(log, 3);
            log.make_durable().expect("a sync");
        }
    });
}
