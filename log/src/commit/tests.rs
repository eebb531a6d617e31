use super::*;

fn commit(changes: Vec<Change>) -> Commit {
    let header = CommitHeader {
        time: CommitTime { micros: 1_795_235_545_520_941, logical: 2 },
        next_row: RowId::new(77),
        producer: Some(ProducerSequence { producer: ProducerId([9; 16]), sequence: 4 }),
        change_count: changes.len() as u64,
    };
    Commit { lsn: Lsn::new(5), header, changes }
}

fn one_of_each() -> Vec<Change> {
    let table = TableId::new(3);
    let row = RowId::new(12);
    vec![
        Change::Catalog { object: 3, entry: Some(Bytes::from_static(b"{}")) },
        Change::Catalog { object: 4, entry: None },
        Change::Truncate { table, entry: Bytes::from_static(b"{\"kind\":\"table\"}") },
        Change::Delete { table, row, before: Bytes::from_static(b"old") },
        Change::Update { table, row, before: Bytes::from_static(b"old"), changed: Bytes::from_static(b"new") },
        Change::Insert { table, row, after: Bytes::from_static(b"after") },
        Change::Position { of: Bytes::from_static(b"bank"), position: Bytes::from_static(b"\x01\x02") },
    ]
}

#[test]
fn a_commit_reads_back_with_every_kind_of_change() {
    let commit = commit(one_of_each());
    let encoded = EncodedCommit::encode(&commit).unwrap();
    assert_eq!(encoded.part_count(), 1);
    assert_eq!(encoded.decode().unwrap(), commit);
}

#[test]
fn a_commit_without_changes_has_one_part() {
    let commit = commit(vec![]);
    assert_eq!(EncodedCommit::encode(&commit).unwrap().decode().unwrap(), commit);
    assert!(commit.is_bookkeeping());
}

#[test]
fn a_large_commit_is_split_into_parts_of_bounded_size() {
    let image = Bytes::from(vec![7; 100_000]);
    let changes: Vec<_> = (0..50)
        .map(|row| Change::Insert { table: TableId::new(1), row: RowId::new(row), after: image.clone() })
        .collect();
    let commit = commit(changes);
    let encoded = EncodedCommit::encode(&commit).unwrap();
    assert_eq!(encoded.part_count(), 5);
    assert!(encoded.part_lengths().all(|length| length <= PART_BYTES_TARGET + 1024));
    assert_eq!(encoded.decode().unwrap(), commit);
    let (header, changes) = decode_part(&encoded.part(3).unwrap()).unwrap();
    assert!(header.is_none());
    assert_eq!(changes.len(), 10);
}

#[test]
fn a_change_beyond_the_longest_part_is_refused() {
    let after = Bytes::from(vec![0; PART_BYTES_MAX]);
    let commit = commit(vec![Change::Insert { table: TableId::new(1), row: RowId::new(1), after }]);
    assert!(matches!(EncodedCommit::encode(&commit), Err(EnvelopeError::ChangeTooLarge { .. })));
}

#[test]
fn a_newer_envelope_is_refused_with_both_versions() {
    let encoded = EncodedCommit::encode(&commit(vec![])).unwrap();
    let mut part = encoded.part(0).unwrap().to_vec();
    part[0] = 2;
    let error = decode_part(&part.into()).unwrap_err();
    assert!(matches!(error, EnvelopeError::Newer { found: 2 }));
    assert!(error.to_string().contains("version 2 is newer than 1"), "{error}");
}

#[test]
fn no_flipped_bit_or_cut_of_a_part_makes_the_decoder_panic() {
    let encoded = EncodedCommit::encode(&commit(one_of_each())).unwrap();
    let part = &encoded.part(0).unwrap();
    for bit in 0..part.len() * 8 {
        let mut damaged = part.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let _ = decode_part(&damaged.into());
    }
    for length in 0..part.len() {
        let _ = decode_part(&part.slice(..length));
    }
}
