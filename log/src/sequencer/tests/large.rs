//! Write sets that are too large to lie in memory.

use super::*;
use crate::commit::{ChangeSpool, StreamedCommit};

/// Keys in memory, of a test.
struct Keys(BTreeMap<(StorageId, Bytes), KeySeen>);

impl LargeKeys for Keys {
    fn find(&self, space: StorageId, key: &[u8]) -> Result<Option<KeySeen>, KeeperError> {
        Ok(self.0.get(&(space, Bytes::copy_from_slice(key))).copied())
    }

    fn each(&self, tell: &mut TellKey<'_>) -> Result<(), CommitError> {
        self.0.iter().try_for_each(|((space, key), seen)| tell(*space, key, *seen))
    }
}

/// Changes on disk.
pub(super) fn spooled(
    changes: impl IntoIterator<Item = Change>,
    keys: BTreeMap<(StorageId, Bytes), KeySeen>,
) -> LargeWrites {
    let mut spool = ChangeSpool::new(&std::env::temp_dir());
    changes.into_iter().for_each(|change| spool.push(change).unwrap());
    LargeWrites { changes: spool.finish().unwrap(), keys: Arc::new(Keys(keys)) }
}

/// A large write set that inserts these keys, of which there was none at `seen`.
fn inserts(names: &[&str], seen: u64) -> WriteSet {
    let changes = names.iter().flat_map(|name| put(name).changes);
    let keys = names.iter().map(|name| ((SPACE, key(name)), KeySeen::Absent)).collect();
    WriteSet { large: Some(spooled(changes, keys)), seen_at: Some(Lsn::new(seen)), ..WriteSet::default() }
}

#[test]
fn a_large_commit_has_its_changes_in_order_and_its_rows_numbered() {
    let mut bench = bench(SequencerOptions::default());
    bench.commit(put("before")).unwrap();
    let table = TableId::new(1);
    let rows =
        |kind: u8| (0..5000_u32).map(move |row| Bytes::from([&[kind], &[0; 1000][..], &row.to_be_bytes()].concat()));
    let mut all: Vec<Change> = Vec::new();
    for ((gone, changed), new) in rows(1).zip(rows(2)).zip(rows(3)) {
        all.push(Change::Insert { table, row: RowId::default(), after: new });
        all.push(Change::Delete { table, row: RowId::new(77), before: gone });
        all.push(Change::Update { table, row: RowId::new(78), before: changed.clone(), changed });
    }
    // More of each than one part takes.
    let long = Bytes::from(vec![b'x'; 700_000]);
    let entries = (1..=3).map(|object| Change::Catalog { object, entry: Some(long.clone()) });
    let positions = ["a", "b", "c"].map(|of| Change::Position { of: key(of), position: long.clone() });
    let changes: Vec<_> = entries.clone().chain(positions.clone()).collect();
    let large = Some(spooled(all.clone(), BTreeMap::new()));
    let receipt = bench.commit(WriteSet { changes, large, ..WriteSet::default() }).unwrap();
    assert_eq!((receipt.lsn, receipt.first_row), (Lsn::new(2), Some(RowId::new(2))));
    let stored = bench.log.read_after(Lsn::new(1)).unwrap().try_next().unwrap().unwrap();
    assert!(stored.part_count() > 15, "{stored:?}");
    let commit = stored.decode().unwrap();
    let of_kind = |kind: fn(&Change) -> bool| all.iter().filter(move |change| kind(change)).cloned();
    let mut expected: Vec<_> = entries.clone().collect();
    expected.extend(of_kind(|change| matches!(change, Change::Delete { .. })));
    expected.extend(of_kind(|change| matches!(change, Change::Update { .. })));
    expected.extend(of_kind(|change| matches!(change, Change::Insert { .. })).zip(2..).map(|(insert, number)| {
        let Change::Insert { table, after, .. } = insert else { unreachable!() };
        Change::Insert { table, row: RowId::new(number), after }
    }));
    expected.extend(positions);
    assert!(commit.changes == expected);
    let head = StreamedCommit::new((*stored).clone()).unwrap().head().unwrap();
    assert!(head.changes.into_iter().eq(entries), "what stands before the changes of rows");
    assert_eq!(commit.header.next_row, RowId::new(5002));
    assert_eq!(bench.commit(put("behind")).unwrap().first_row, Some(RowId::new(5002)));
}

#[test]
fn a_large_commit_goes_alone() {
    let mut bench = bench(SequencerOptions::default());
    let first = bench.submit(put("a")).unwrap();
    let submit = |bench: &Bench, set: WriteSet| {
        let sequencer = bench.sequencer.clone();
        Box::pin(async move { sequencer.submit(set, Drive::Thread, None).await.map(|accepted| accepted.lsn) })
    };
    let mut large = submit(&bench, inserts(&["b", "c"], 0));
    assert!((&mut large).now_or_never().is_none(), "there is one before it");
    let mut behind = submit(&bench, put("d"));
    assert!((&mut behind).now_or_never().is_none(), "whoever comes later waits behind it");
    assert_eq!(bench.commit_pending(), 1);
    assert!(first.try_outcome().unwrap().is_ok());
    assert_eq!(large.now_or_never().unwrap().unwrap(), Lsn::new(2));
    assert!((&mut behind).now_or_never().is_none());
    bench.commit_pending();
    assert_eq!(behind.now_or_never().unwrap().unwrap(), Lsn::new(3));
}

#[test]
fn a_large_write_set_is_refused_for_a_key_that_changed_whether_the_window_knows_it_or_not() {
    for window_entries_max in [0, 1000] {
        let mut bench = bench(SequencerOptions { window_entries_max, ..SequencerOptions::default() });
        bench.commit(put("a")).unwrap();
        bench.commit(put("x")).unwrap();
        let refused = bench.submit(inserts(&["b", "x"], 1)).map(|accepted| accepted.lsn);
        assert!(
            matches!(&refused, Err(CommitError::Refused(Refusal::KeyExists { key, .. })) if key == "x"),
            "{refused:?}"
        );
        let keys = BTreeMap::from([((SPACE, key("a")), KeySeen::AtVersion(Lsn::new(1)))]);
        let update = |seen| {
            let large = Some(spooled(write(SPACE, &key("a"), false).changes, keys.clone()));
            WriteSet { large, seen_at: Some(Lsn::new(seen)), ..WriteSet::default() }
        };
        bench.commit(update(1)).unwrap();
        let refused = bench.submit(update(2)).map(|accepted| accepted.lsn);
        assert!(matches!(refused, Err(CommitError::Refused(Refusal::KeyChanged { by: None, .. }))), "{refused:?}");
        // Who was there before it knows nothing of what it wrote, and asks.
        let late = WriteSet { seen_at: Some(Lsn::new(2)), ..under(absent("a"), put("a")) };
        assert_eq!(bench.commit(late).unwrap().lsn, Lsn::new(4));
    }
}

#[test]
fn a_large_commit_that_was_not_written_leaves_no_trace_and_a_retry_of_one_that_was_is_told() {
    let mut bench = bench(SequencerOptions::default());
    bench.fail_next(no_space());
    assert!(matches!(bench.commit(inserts(&["a"], 0)), Err(CommitError::NotCommitted { .. })));
    let producer = Some(ProducerSequence { producer: ProducerId([1; 16]), sequence: 1 });
    let receipt = bench.commit(WriteSet { producer, ..inserts(&["a"], 0) }).unwrap();
    assert_eq!((receipt.lsn, receipt.first_row), (Lsn::new(1), Some(RowId::new(1))));
    let again = bench.commit(WriteSet { producer, ..inserts(&["a"], 0) }).unwrap();
    assert!(again.is_duplicate && again.lsn == Lsn::new(1), "{again:?}");
    let options = SequencerOptions { transaction_bytes_max: 10_000, ..SequencerOptions::default() };
    let names: Vec<String> = (0..1000).map(|name| name.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let refused = self::bench(options).commit(inserts(&names, 0));
    assert!(matches!(refused, Err(CommitError::TooLarge { max: 10_000, .. })), "{refused:?}");
}
