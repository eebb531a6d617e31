use std::collections::BTreeMap;
use std::thread::ThreadId;

use bytes::Bytes;
use futures::FutureExt;
use futures::executor::block_on;

use super::*;
use crate::commit::{Change, Group, ProducerId, ProducerSequence};
use crate::commit_log::LogReader;
use crate::env::SystemClock;
use crate::env::simulated::{Random, SimulatedClock};
use crate::error::NotWritten;
use crate::memory::MemoryLog;
use crate::position::{Epoch, LogId, TableId};

mod large;
mod model;

/// Rows whose keys are told by their images: `space byte, key bytes`. Keeps every version.
#[derive(Default)]
struct Rows {
    state: Mutex<RowsState>,
    fails: std::sync::atomic::AtomicBool,
    /// So many questions for versions are not answered.
    unanswered: std::sync::atomic::AtomicU32,
}

#[derive(Default)]
struct RowsState {
    applied: Lsn,
    versions: BTreeMap<(u64, Bytes), Vec<(Lsn, bool)>>,
    sequences: BTreeMap<ProducerId, RecentSequences>,
}

impl Rows {
    fn state(&self) -> MutexGuard<'_, RowsState> {
        self.state.lock().unwrap()
    }
}

impl Keeper for Rows {
    fn applied(&self) -> Lsn {
        self.state().applied
    }

    fn version(&self, space: StorageId, key: &[u8], at: Lsn) -> Result<Option<Lsn>, KeeperError> {
        let ordering = std::sync::atomic::Ordering::Relaxed;
        if self.unanswered.fetch_update(ordering, ordering, |questions| questions.checked_sub(1)).is_ok() {
            return Err(KeeperError("too long ago".into()));
        }
        let state = self.state();
        let versions = state.versions.get(&(space.value(), Bytes::copy_from_slice(key)));
        let last = versions.and_then(|versions| versions.iter().rev().find(|(lsn, _)| *lsn <= at));
        Ok(last.and_then(|(lsn, is_present)| is_present.then_some(*lsn)))
    }

    fn keys(&self, space: StorageId, range: &KeyRange, at: Lsn, limit: usize) -> Result<Vec<Bytes>, KeeperError> {
        let keys: Vec<Bytes> =
            self.state().versions.keys().filter(|(s, _)| *s == space.value()).map(|(_, k)| k.clone()).collect();
        let mut found = Vec::new();
        for key in keys.into_iter().filter(|key| range.contains(key)) {
            if self.version(space, &key, at)?.is_some() && found.len() < limit {
                found.push(key);
            }
        }
        Ok(found)
    }

    fn sequences(&self, producer: ProducerId, _at: Lsn) -> Result<RecentSequences, KeeperError> {
        Ok(self.state().sequences.get(&producer).cloned().unwrap_or_default())
    }
}

impl Applier for Arc<Rows> {
    fn apply(&mut self, commits: &[CommitBody]) -> Result<(), KeeperError> {
        for commit in commits {
            if self.fails.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(KeeperError("broken".into()));
            }
            let mut state = self.state();
            assert_eq!(commit.lsn(), state.applied.next(), "commits are applied in order, each once");
            let changes = match commit {
                CommitBody::Whole(commit) => commit.changes.clone(),
                CommitBody::Streamed(commit) => commit.parts().flat_map(Result::unwrap).collect(),
            };
            for change in &changes {
                let (image, is_present) = match change {
                    Change::Insert { after, .. } => (after, true),
                    Change::Delete { before, .. } => (before, false),
                    _ => continue,
                };
                let key = (u64::from(image[0]), image.slice(1..));
                state.versions.entry(key).or_default().push((commit.lsn(), is_present));
            }
            if let Some(producer) = commit.header().producer {
                state.sequences.entry(producer.producer).or_default().push_back((producer.sequence, commit.lsn()));
            }
            state.applied = commit.lsn();
        }
        Ok(())
    }
}

/// A log that fails as it is told to.
struct FailingLog {
    inner: MemoryLog,
    next_failure: Mutex<Option<LogError>>,
}

impl CommitLog for FailingLog {
    fn id(&self) -> LogId {
        self.inner.id()
    }
    fn epoch(&self) -> Epoch {
        self.inner.epoch()
    }
    fn appended(&self) -> Lsn {
        self.inner.appended()
    }
    fn durable(&self) -> watch::Receiver<Lsn> {
        self.inner.durable()
    }
    fn earliest(&self) -> Lsn {
        self.inner.earliest()
    }
    fn append(&self, epoch: Epoch, after: Lsn, group: &Group) -> Result<(), LogError> {
        match self.next_failure.lock().unwrap().take() {
            Some(error) => Err(error),
            None => self.inner.append(epoch, after, group),
        }
    }
    fn make_durable(&self) -> Result<Lsn, LogError> {
        self.inner.make_durable()
    }
    fn bytes_after(&self, after: Lsn) -> Result<u64, LogError> {
        self.inner.bytes_after(after)
    }
    fn read_after(&self, after: Lsn) -> Result<LogReader, LogError> {
        self.inner.read_after(after)
    }
}

struct Bench {
    sequencer: Sequencer,
    pipeline: Option<Pipeline>,
    log: Arc<FailingLog>,
    rows: Arc<Rows>,
}

fn bench(options: SequencerOptions) -> Bench {
    let inner = MemoryLog::new(LogId::from_bytes([1; 16]));
    let log = Arc::new(FailingLog { inner, next_failure: Mutex::new(None) });
    let rows = Arc::new(Rows::default());
    let (sequencer, pipeline) = Sequencer::without_thread(
        Arc::<FailingLog>::clone(&log),
        Arc::<Rows>::clone(&rows),
        Box::new(Arc::clone(&rows)),
        Arc::new(SystemClock::new()),
        options,
    )
    .unwrap();
    Bench { sequencer, pipeline: Some(pipeline), log, rows }
}

impl Bench {
    /// Orders a write set without waiting for its outcome.
    fn submit(&self, set: WriteSet) -> Result<Accepted, CommitError> {
        self.submit_behind(set, None)
    }

    fn submit_behind(&self, set: WriteSet, behind: Option<Chain>) -> Result<Accepted, CommitError> {
        self.sequencer.submit(set, Drive::Thread, behind).now_or_never().expect("there is room")
    }

    fn commit_pending(&mut self) -> usize {
        self.pipeline.as_mut().unwrap().commit_pending()
    }

    fn commit(&mut self, set: WriteSet) -> Outcome {
        let accepted = self.submit(set)?;
        self.commit_pending();
        accepted.try_outcome().expect("an answer")
    }

    fn fail_next(&self, error: LogError) {
        *self.log.next_failure.lock().unwrap() = Some(error);
    }
}

fn no_space() -> LogError {
    LogError::NotWritten { reason: NotWritten::NoSpace("full".into()) }
}

const SPACE: StorageId = StorageId::new(7);

fn key(name: &str) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

fn image(space: StorageId, key: &[u8]) -> Bytes {
    [&[space.value() as u8], key].concat().into()
}

fn put(name: &str) -> WriteSet {
    write(SPACE, &key(name), true)
}

fn write(space: StorageId, key: &Bytes, is_present: bool) -> WriteSet {
    let (table, row, image) = (TableId::new(1), RowId::default(), image(space, key));
    let change = match is_present {
        true => Change::Insert { table, row, after: image },
        false => Change::Delete { table, row, before: image },
    };
    let keys = vec![KeyWrite { space, key: KeyName::Bytes(key.clone()), is_present }];
    WriteSet { changes: vec![change], keys, ..WriteSet::default() }
}

fn under(condition: Precondition, set: WriteSet) -> WriteSet {
    WriteSet { preconditions: vec![condition], ..set }
}

fn absent(name: &str) -> Precondition {
    Precondition::Absent { space: SPACE, key: key(name) }
}

#[test]
fn two_writers_of_one_key_are_ordered_and_the_second_refused_before_anything_is_durable() {
    let mut bench = bench(SequencerOptions::default());
    let first = bench.submit(under(absent("a"), put("a"))).unwrap();
    let second = bench.submit(under(absent("a"), put("a")));
    assert!(matches!(second, Err(CommitError::Refused(Refusal::KeyExists { .. }))));
    assert_eq!(bench.commit_pending(), 1);
    assert_eq!(
        first.try_outcome().unwrap().unwrap(),
        Receipt { lsn: Lsn::new(1), first_row: Some(RowId::new(1)), is_duplicate: false }
    );
    assert_eq!(*bench.sequencer.visible().borrow(), Lsn::new(1));
}

#[test]
fn a_group_that_was_not_written_ends_not_committed_with_all_after_it_and_its_lsns_are_used_again() {
    let mut bench = bench(SequencerOptions::default());
    bench.commit(put("before")).unwrap();
    let replies: Vec<_> = ["a", "b"].map(|name| bench.submit(under(absent(name), put(name))).unwrap()).into();
    bench.fail_next(no_space());
    bench.commit_pending();
    for reply in &replies {
        assert!(matches!(reply.try_outcome().unwrap(), Err(CommitError::NotCommitted { .. })));
    }
    assert_eq!(*bench.sequencer.visible().borrow(), Lsn::new(1));
    let receipt = bench.commit(under(absent("b"), put("b"))).unwrap();
    assert_eq!((receipt.lsn, receipt.first_row), (Lsn::new(2), Some(RowId::new(2))), "LSN and row id are given again");
}

#[test]
fn what_was_to_follow_a_commit_that_was_taken_back_is_not_accepted() {
    let mut bench = bench(SequencerOptions::default());
    let first = bench.submit_behind(put("a"), None).unwrap();
    assert_eq!((first.lsn, first.first_row), (Lsn::new(1), Some(RowId::new(1))));
    let at = |version| Precondition::AtVersion { space: SPACE, key: key("a"), version: Lsn::new(version) };
    let second = bench.submit_behind(under(at(1), put("a")), Some(first.chain)).unwrap();
    assert_eq!((second.lsn, second.chain.run), (Lsn::new(2), first.chain.run));
    bench.fail_next(no_space());
    bench.commit_pending();
    assert!(matches!(second.try_outcome(), Some(Err(CommitError::NotCommitted { .. }))));
    // Somebody else gets the LSN, and writes the very key: the version alone would say that all is well.
    assert_eq!(bench.commit(put("a")).unwrap().lsn, Lsn::new(1));
    let third = bench.submit_behind(under(at(1), put("a")), Some(first.chain));
    assert!(matches!(third, Err(CommitError::NotCommitted { .. })), "{third:?}");
    // Begun anew, it goes on.
    let again = bench.submit_behind(under(at(1), put("a")), None).unwrap();
    bench.commit_pending();
    assert_eq!(again.wait_blocking().unwrap().lsn, Lsn::new(2));
    // What is durable is not taken back with what somebody else writes.
    bench.submit(put("b")).unwrap();
    bench.fail_next(no_space());
    bench.commit_pending();
    let late = bench.submit_behind(under(at(2), put("a")), Some(again.chain));
    assert!(matches!(late, Err(CommitError::NotCommitted { .. })), "{late:?}");
    assert_eq!(bench.submit_behind(under(at(2), put("a")), Some(again.chain.settled())).unwrap().lsn, Lsn::new(3));
}

#[test]
fn a_poisoned_log_answers_unknown_and_accepts_nothing_more() {
    let mut bench = bench(SequencerOptions::default());
    bench.fail_next(LogError::Poisoned { cause: "sync failed".into() });
    assert!(bench.sequencer.poisoned().is_none());
    assert!(matches!(bench.commit(put("a")), Err(CommitError::Unknown { .. })));
    assert!(matches!(bench.commit(put("b")), Err(CommitError::Stopped { .. })));
    assert!(bench.sequencer.poisoned().is_some_and(|cause| cause.contains("sync failed")));
}

#[test]
fn a_commit_that_cannot_be_applied_is_told_as_such_and_writes_go_on_after_the_keeper_caught_up() {
    let mut bench = bench(SequencerOptions::default());
    bench.commit(put("a")).unwrap();
    bench.rows.fails.store(true, std::sync::atomic::Ordering::Relaxed);
    let answer = bench.commit(put("b"));
    assert!(matches!(answer, Err(CommitError::NotYetReadable { lsn, .. }) if lsn == Lsn::new(2)), "{answer:?}");
    assert_eq!(*bench.sequencer.visible().borrow(), Lsn::new(1), "reads go on at what is visible");
    assert!(matches!(bench.commit(put("c")), Err(CommitError::Stopped { .. })));
    assert!(!bench.sequencer.resume(), "the keeper has not caught up");
    bench.rows.fails.store(false, std::sync::atomic::Ordering::Relaxed);
    let missed = bench.log.read_after(Lsn::new(1)).unwrap().try_next().unwrap().unwrap().decode().unwrap();
    Arc::clone(&bench.rows).apply(&[CommitBody::Whole(Arc::new(missed))]).unwrap();
    assert!(bench.sequencer.resume());
    assert_eq!(*bench.sequencer.visible().borrow(), Lsn::new(2));
    assert_eq!(bench.commit(put("c")).unwrap().lsn, Lsn::new(3));
}

#[test]
fn a_retry_gets_the_first_ones_lsn_whether_pending_visible_or_recovered() {
    let mut bench = bench(SequencerOptions { window_entries_max: 0, ..SequencerOptions::default() });
    let numbered = |sequence| {
        let producer = Some(ProducerSequence { producer: ProducerId([3; 16]), sequence });
        WriteSet { producer, ..put("a") }
    };
    let (first, retry) = (bench.submit(numbered(5)).unwrap(), bench.submit(numbered(5)).unwrap());
    assert!(retry.try_outcome().is_none(), "not before the first is visible");
    bench.commit_pending();
    assert_eq!(first.try_outcome().unwrap().unwrap().lsn, Lsn::new(1));
    let retried = retry.try_outcome().unwrap().unwrap();
    assert_eq!((retried.lsn, retried.is_duplicate), (Lsn::new(1), true));
    assert_eq!(bench.commit(numbered(6)).unwrap().lsn, Lsn::new(2));
    // The window has forgotten everything applied: these answers are the keeper's.
    assert_eq!(bench.submit(numbered(5)).unwrap().try_outcome().unwrap().unwrap().lsn, Lsn::new(1));
    let older = bench.submit(numbered(4)).unwrap_err();
    assert!(matches!(older, CommitError::Refused(Refusal::SequenceTooOld { sequence: 4, newest: 6 })));
    assert_eq!(bench.log.appended(), Lsn::new(2));
}

#[test]
fn a_retry_of_a_group_that_failed_fails_with_it() {
    let mut bench = bench(SequencerOptions::default());
    let producer = Some(ProducerSequence { producer: ProducerId([3; 16]), sequence: 1 });
    let set = || WriteSet { producer, ..put("a") };
    let (first, retry) = (bench.submit(set()).unwrap(), bench.submit(set()).unwrap());
    bench.fail_next(no_space());
    bench.commit_pending();
    assert!(matches!(first.try_outcome().unwrap(), Err(CommitError::NotCommitted { .. })));
    assert!(matches!(retry.try_outcome().unwrap(), Err(CommitError::NotCommitted { .. })));
    assert!(!bench.commit(set()).unwrap().is_duplicate, "nothing of it happened");
}

#[test]
fn a_keeper_that_cannot_answer_is_asked_again_and_not_for_ever() {
    let mut bench = bench(SequencerOptions { window_entries_max: 0, ..SequencerOptions::default() });
    bench.commit(put("a")).unwrap();
    let conditional = || {
        let preconditions = vec![Precondition::Present { space: SPACE, key: Bytes::from_static(b"a") }];
        WriteSet { preconditions, ..put("a") }
    };
    let ordering = std::sync::atomic::Ordering::Relaxed;
    bench.rows.unanswered.store(2, ordering);
    assert_eq!(bench.commit(conditional()).unwrap().lsn, Lsn::new(2));
    bench.rows.unanswered.store(100, ordering);
    assert!(matches!(bench.submit(conditional()), Err(CommitError::Stopped { .. })));
    bench.rows.unanswered.store(0, ordering);
    assert_eq!(bench.commit(conditional()).unwrap().lsn, Lsn::new(3));
}

#[test]
fn a_table_without_a_key_writes_the_row_ids_that_it_is_given() {
    let mut bench = bench(SequencerOptions::default());
    let insert = |name: &str| Change::Insert {
        table: TableId::new(1),
        row: RowId::default(),
        after: image(SPACE, name.as_bytes()),
    };
    let by_row = |index| KeyWrite { space: SPACE, key: KeyName::RowOf(index), is_present: true };
    let set =
        WriteSet { changes: vec![insert("x"), insert("y")], keys: vec![by_row(0), by_row(1)], ..WriteSet::default() };
    assert_eq!(bench.commit(set.clone()).unwrap().first_row, Some(RowId::new(1)));
    assert_eq!(bench.commit(set).unwrap().first_row, Some(RowId::new(3)));
    let row_key = Bytes::copy_from_slice(&crate::key::of_row_id(RowId::new(4)));
    let condition = Precondition::AtVersion { space: SPACE, key: row_key, version: Lsn::new(2) };
    assert_eq!(bench.commit(under(condition, put("z"))).unwrap().lsn, Lsn::new(3));
}

#[test]
fn a_write_set_beyond_the_limit_is_refused() {
    let bench = bench(SequencerOptions { transaction_bytes_max: 1_000, ..SequencerOptions::default() });
    let large = write(SPACE, &Bytes::from(vec![1; 2_000]), true);
    assert!(matches!(bench.submit(large), Err(CommitError::TooLarge { max: 1_000, .. })));
}

#[test]
fn who_comes_when_too_much_is_pending_waits_for_room() {
    let mut bench = bench(SequencerOptions { pending_bytes_max: 1_024, ..SequencerOptions::default() });
    let mut accepted = 0;
    let sequencer = bench.sequencer.clone();
    while sequencer.submit(put(&format!("{accepted}")), Drive::Thread, None).now_or_never().is_some() {
        accepted += 1;
        assert!(accepted < 100, "the queue is bounded");
    }
    let mut waiting = Box::pin(sequencer.submit(put("late"), Drive::Thread, None));
    assert!(waiting.as_mut().now_or_never().is_none());
    bench.commit_pending();
    assert!(waiting.as_mut().now_or_never().is_some());
}

#[test]
fn a_buffered_commit_is_answered_at_once_and_becomes_visible_with_the_next_sync() {
    let rows = Arc::new(Rows::default());
    let log = Arc::new(MemoryLog::new(LogId::from_bytes([1; 16])));
    let options = SequencerOptions::default();
    let sequencer =
        Sequencer::start(log, Arc::<Rows>::clone(&rows), Box::new(rows), Arc::new(SystemClock::new()), options)
            .unwrap();
    let buffered = WriteSet { durability: Durability::Buffered, ..put("a") };
    let Acknowledgement::Buffered(outcome) = block_on(sequencer.commit(buffered)).unwrap() else {
        panic!("not buffered")
    };
    assert_eq!(block_on(outcome.wait()).unwrap().lsn, Lsn::new(1));
    let Acknowledgement::Committed(receipt) = block_on(sequencer.commit(put("b"))).unwrap() else {
        panic!("not synced")
    };
    assert_eq!(receipt.lsn, Lsn::new(2));
    assert_eq!(*sequencer.visible().borrow(), Lsn::new(2));
}

#[test]
fn a_deferred_commit_rides_along_with_the_next_one_or_goes_alone_in_the_end() {
    let rows = Arc::new(Rows::default());
    let log = Arc::new(MemoryLog::new(LogId::from_bytes([1; 16])));
    let options = SequencerOptions::default();
    let sequencer =
        Sequencer::start(log, Arc::<Rows>::clone(&rows), Box::new(rows), Arc::new(SystemClock::new()), options)
            .unwrap();
    let deferred = |key: &str| {
        let set = WriteSet { durability: Durability::Deferred, ..put(key) };
        match block_on(sequencer.commit(set)).unwrap() {
            Acknowledgement::Buffered(outcome) => outcome,
            Acknowledgement::Committed(_) => panic!("synced at once"),
        }
    };
    let alone = deferred("a");
    assert!(alone.try_outcome().is_none(), "it waits for others");
    assert_eq!(alone.wait_blocking().unwrap().lsn, Lsn::new(1), "nobody came");
    let riding = deferred("b");
    block_on(sequencer.commit(put("c"))).unwrap();
    // It is told with the group that it was in.
    assert_eq!(riding.try_outcome().unwrap().unwrap().lsn, Lsn::new(2));
    let riding = deferred("d");
    let buffered = WriteSet { durability: Durability::Buffered, ..put("e") };
    let Acknowledgement::Buffered(buffered) = block_on(sequencer.commit(buffered)).unwrap() else { panic!("synced") };
    assert_eq!(buffered.wait_blocking().unwrap().lsn, Lsn::new(5));
    assert!(riding.try_outcome().is_some(), "the buffered one did not wait for it");
    let last = deferred("f");
    sequencer.stop("the end");
    assert_eq!(last.wait_blocking().unwrap().lsn, Lsn::new(6), "closing leaves nothing behind");
}

/// Half of the commits are driven by the thread, half by the writers.
fn commit(sequencer: &Sequencer, round: u32, set: WriteSet) -> Result<Acknowledgement, CommitError> {
    if round.is_multiple_of(2) { block_on(sequencer.commit(set)) } else { sequencer.commit_blocking(set) }
}

/// Rows that panic when they are folded.
struct PanickingRows;

impl Applier for PanickingRows {
    fn apply(&mut self, _: &[CommitBody]) -> Result<(), KeeperError> {
        panic!("a defect, for the test");
    }
}

#[test]
fn a_panic_while_applying_leaves_nobody_waiting() {
    for is_blocking in [false, true] {
        let rows = Arc::new(Rows::default());
        let log = Arc::new(MemoryLog::new(LogId::from_bytes([1; 16])));
        let applier = Box::new(PanickingRows);
        let clock = Arc::new(SystemClock::new());
        let sequencer = Sequencer::start(log, rows, applier, clock, SequencerOptions::default()).unwrap();
        let told = if is_blocking { sequencer.commit_blocking(put("a")) } else { block_on(sequencer.commit(put("a"))) };
        assert!(matches!(told, Err(CommitError::Unknown { .. })), "{told:?}");
        let later = sequencer.commit_blocking(put("b"));
        // It may be accepted while the panic is still on its way.
        assert!(matches!(later, Err(CommitError::Stopped { .. } | CommitError::NotCommitted { .. })), "{later:?}");
    }
}

/// Rows that note which thread folds them.
struct NotingRows(Arc<Rows>, Arc<Mutex<Vec<ThreadId>>>);

impl Applier for NotingRows {
    fn apply(&mut self, commits: &[CommitBody]) -> Result<(), KeeperError> {
        self.1.lock().unwrap().push(std::thread::current().id());
        Arc::clone(&self.0).apply(commits)
    }
}

#[test]
fn who_has_been_alone_commits_small_sets_on_his_own_thread() {
    let (rows, threads) = (Arc::new(Rows::default()), Arc::new(Mutex::new(Vec::new())));
    let log = Arc::new(MemoryLog::new(LogId::from_bytes([1; 16])));
    let applier = Box::new(NotingRows(Arc::clone(&rows), Arc::clone(&threads)));
    // A clock that stands still: every group is quickly done.
    let clock = Arc::new(SimulatedClock::default());
    let sequencer = Sequencer::start(log, rows, applier, clock, SequencerOptions::default()).unwrap();
    let own = std::thread::current().id();
    let is_last_mine = || threads.lock().unwrap().last() == Some(&own);
    block_on(sequencer.commit(put("first"))).unwrap();
    assert!(!is_last_mine(), "nothing was known of how long it takes");
    // The thread may still be about to let go of what it has just committed with.
    let mine = (0..10_000).find(|at| {
        block_on(sequencer.commit(put(&format!("{at}")))).unwrap();
        is_last_mine()
    });
    assert!(mine.is_some());
    let mut large = put("d");
    let Change::Insert { after, .. } = &mut large.changes[0] else { panic!("an insert") };
    *after = [&after[..], &vec![0; CALLER_BYTES_MAX]].concat().into();
    block_on(sequencer.commit(large)).unwrap();
    assert!(!is_last_mine());
}

#[test]
fn many_writers_commit_through_the_thread_each_once() {
    let rows = Arc::new(Rows::default());
    let log = Arc::new(MemoryLog::new(LogId::from_bytes([1; 16])));
    let reader = Arc::clone(&log);
    let options = SequencerOptions { pending_bytes_max: 2_048, ..SequencerOptions::default() };
    let sequencer =
        Sequencer::start(log, Arc::<Rows>::clone(&rows), Box::new(rows), Arc::new(SystemClock::new()), options)
            .unwrap();
    let lsns: Vec<u64> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let sequencer = sequencer.clone();
                scope.spawn(move || {
                    (0..50)
                        .map(|round| match commit(&sequencer, round, put(&format!("{writer}/{round}"))).unwrap() {
                            Acknowledgement::Committed(receipt) => receipt.lsn.value(),
                            Acknowledgement::Buffered(_) => panic!("synced was asked for"),
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    let mut sorted = lsns;
    sorted.sort_unstable();
    assert_eq!(sorted, (1..=400).collect::<Vec<_>>());
    sequencer.stop("the test ends");
    assert!(matches!(block_on(sequencer.commit(put("late"))), Err(CommitError::Stopped { .. })));
    drop(sequencer);
    assert_eq!(reader.appended(), Lsn::new(400));
}

#[test]
fn everybody_who_waits_for_a_group_is_told() {
    let teller = Teller::default();
    let verdict = Arc::clone(teller.verdict());
    let is_durable = |end: &GroupEnd| matches!(end, GroupEnd::Durable { unread: None, .. });
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..100).map(|_| scope.spawn(|| is_durable(verdict.wait_blocking()))).collect();
        let tasks: Vec<_> = (0..10).map(|_| scope.spawn(|| is_durable(block_on(verdict.wait())))).collect();
        std::thread::sleep(Duration::from_millis(10));
        teller.tell(GroupEnd::Durable { applied: Lsn::new(1), unread: None });
        assert!(threads.into_iter().chain(tasks).all(|waiting| waiting.join().unwrap()));
    });
    assert!(is_durable(verdict.wait_blocking()), "who comes late need not wait");
    let silent = Teller::default();
    let verdict = Arc::clone(silent.verdict());
    drop(silent);
    assert!(matches!(verdict.wait_blocking(), GroupEnd::Lost(CommitError::Unknown { .. })));
}
