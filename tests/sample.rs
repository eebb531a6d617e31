//! A log that was written once and is read as ever: `tests/data/sample`, and through the command line what it says.
//!
//! `WRITE_SAMPLE=1` writes the log where there is none; it is never written again. `UPDATE_GOLDEN=1` writes what `log cat` says.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use highwater_log::commit::{EncodedCommit, Group, ProducerId, ProducerSequence};
use highwater_log::env::{Env, SystemDisk, simulated};
use highwater_log::position::{ColumnId, CommitTime, RowId, SchemaVersion, StorageId, TableId};
use highwater_log::row::RowLayout;
use highwater_log::schema::{CatalogEntry, ColumnSchema, Namespace, TableSchema};
use highwater_log::value::{Array, ColumnType, ElementType, Interval, Value};
use highwater_log::{Change, Commit, CommitHeader, CommitLog, Lsn, SegmentedLog, SegmentedOptions};
use highwater_materializers::{KvOptions, Materialized};

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sample")
}

fn types() -> Vec<ColumnType> {
    let scalars = [
        ElementType::Integer,
        ElementType::Boolean,
        ElementType::SmallInt,
        ElementType::BigInt,
        ElementType::Real,
        ElementType::Double,
        ElementType::Numeric { precision: 30, scale: 6 },
        ElementType::Text,
        ElementType::Varchar(Some(9)),
        ElementType::Char(5),
        ElementType::Bytea,
        ElementType::Date,
        ElementType::Time(6),
        ElementType::Timestamp(3),
        ElementType::TimestampTz(6),
        ElementType::Interval,
        ElementType::Uuid,
        ElementType::Jsonb,
    ];
    scalars.into_iter().map(ColumnType::Scalar).chain([ColumnType::Array(ElementType::Text)]).collect()
}

fn table(version: u32, storage: u64, columns: usize) -> TableSchema {
    let column = |(index, column_type): (usize, &ColumnType)| ColumnSchema {
        id: ColumnId::new(index as u32 + 1),
        name: if index == 0 { "id".to_owned() } else { format!("c{index}") },
        column_type: *column_type,
        not_null: index == 0,
        default: (index == 7).then(|| "'none'".to_owned()),
        missing: None,
    };
    TableSchema {
        id: TableId::new(17),
        namespace: "sample".to_owned(),
        name: "every type".to_owned(),
        version: SchemaVersion::new(version),
        storage: StorageId::new(storage),
        columns: types().iter().enumerate().map(column).take(columns).collect(),
        primary_key: vec![ColumnId::new(1)],
        primary_key_name: Some("every type_pkey".to_owned()),
        uniques: Vec::new(),
        indexes: Vec::new(),
        next_column: ColumnId::new(columns as u32 + 1),
    }
}

fn row(layout: &RowLayout, values: &[Option<Value<'_>>]) -> bytes::Bytes {
    let mut row = Vec::new();
    layout.encode(values, &mut row).unwrap();
    row.into()
}

/// The sample's commits: every kind of change, every type, a row longer than a segment.
fn changes() -> Vec<Vec<Change>> {
    let id = TableId::new(17);
    let (old, new) = (table(1, 18, 18).row_layout(), table(2, 18, 19).row_layout());
    let mut tags = Vec::new();
    Array::encode(ElementType::Text, &[Some(Value::Text("x")), Some(Value::Text("y, z")), None], &mut tags).unwrap();
    let extreme = |key: i32, text: &'static str| {
        vec![
            Some(Value::Integer(key)),
            Some(Value::Boolean(true)),
            Some(Value::SmallInt(i16::MIN)),
            Some(Value::BigInt(i64::MAX)),
            Some(Value::Real(1.5e-30)),
            Some(Value::Double(f64::NEG_INFINITY)),
            Some(Value::Numeric(-12_345_678_901_234_567_890_123_456)),
            Some(Value::Text(text)),
            Some(Value::Text("")),
            Some(Value::Text("ab   ")),
            Some(Value::Bytea(&[0xde, 0xad, 0])),
            Some(Value::Date(-2_440_588)),
            Some(Value::Time(86_399_999_999)),
            Some(Value::Timestamp(i64::MAX)),
            Some(Value::TimestampTz(1_795_235_545_520_941)),
            Some(Value::Interval(Interval { months: 14, days: -1, micros: 7 })),
            Some(Value::Uuid(*b"0123456789abcdef")),
            Some(Value::Jsonb("{\"a\": [1, 2, {\"b\": null}], \"c\": \"é\"}")),
        ]
    };
    let nulls = |key: i32, columns: usize| {
        let mut values = vec![None; columns];
        values[0] = Some(Value::Integer(key));
        values
    };
    let entry = |schema: TableSchema| bytes::Bytes::from(CatalogEntry::Table(schema).to_json());
    let namespace = CatalogEntry::Namespace(Namespace { name: "sample".to_owned() });
    let first = row(&old, &extreme(1, "first"));
    let mut changed = Vec::new();
    let tags = Value::Array(Array::from_stored(ElementType::Text, &tags));
    new.encode_partial(&[(7, Some(Value::Text("changed"))), (18, Some(tags))], &mut changed).unwrap();
    let long = "long ".repeat(8_000).leak();
    vec![
        vec![
            Change::Catalog { object: 16, entry: Some(namespace.to_json().into()) },
            Change::Catalog { object: 17, entry: Some(entry(table(1, 18, 18))) },
        ],
        vec![
            Change::Insert { table: id, row: RowId::new(1), after: first.clone() },
            Change::Insert { table: id, row: RowId::new(2), after: row(&old, &nulls(2, 18)) },
        ],
        vec![Change::Catalog { object: 17, entry: Some(entry(table(2, 18, 19))) }],
        vec![
            Change::Delete { table: id, row: RowId::new(2), before: row(&old, &nulls(2, 18)) },
            Change::Update { table: id, row: RowId::new(1), before: first, changed: changed.into() },
            Change::Position { of: "source".into(), position: vec![1, 2, 3].into() },
        ],
        vec![Change::Insert { table: id, row: RowId::new(3), after: row(&old, &extreme(3, long)) }],
        vec![Change::Truncate { table: id, entry: entry(table(3, 20, 19)) }],
        vec![Change::Insert {
            table: id,
            row: RowId::new(4),
            after: row(&table(3, 20, 19).row_layout(), &nulls(-4, 19)),
        }],
        vec![Change::Position { of: "source".into(), position: bytes::Bytes::new() }],
    ]
}

fn write_sample(directory: &Path) {
    let (simulated, _, _) = simulated::machine(1);
    let env = Env { disk: Arc::new(SystemDisk), ..simulated };
    let options = SegmentedOptions {
        segment_bytes_min: 16 * 1024,
        segment_bytes_max: 16 * 1024,
        is_self_maintained: false,
        ..SegmentedOptions::default()
    };
    let log = SegmentedLog::open(&env, &directory.join("log"), options).unwrap();
    for (index, changes) in changes().into_iter().enumerate() {
        let lsn = Lsn::new(index as u64 + 1);
        let producer = ProducerSequence { producer: ProducerId(*b"fedcba9876543210"), sequence: lsn.value() };
        let header = CommitHeader {
            time: CommitTime { micros: 1_795_235_545_520_941 + lsn.value(), logical: 0 },
            next_row: RowId::new(5),
            producer: lsn.value().is_multiple_of(3).then_some(producer),
            change_count: changes.len() as u64,
        };
        let commit = EncodedCommit::encode(&Commit { lsn, header, changes }).unwrap();
        log.append(log.epoch(), lsn.previous(), &Group { commits: vec![commit] }).unwrap();
        log.make_durable().unwrap();
    }
    log.maintain().unwrap();
    log.close().unwrap();
    std::fs::remove_file(directory.join("log/LOCK")).unwrap();
}

fn highwater(arguments: &[&str], data: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_highwater")).args(arguments).arg("--data").arg(data).output().unwrap()
}

#[test]
fn a_log_of_version_1_says_what_it_said_when_it_was_written() {
    if std::env::var_os("WRITE_SAMPLE").is_some() && !sample().exists() {
        write_sample(&sample());
    }
    let said = highwater(&["log", "cat"], &sample());
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let golden = sample().with_extension("jsonl");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, &said.stdout).unwrap();
    }
    assert_eq!(String::from_utf8_lossy(&said.stdout), std::fs::read_to_string(golden).unwrap());
}

#[test]
fn the_sample_is_whole_and_a_copy_of_it_opens_and_folds() {
    let verified = highwater(&["log", "verify"], &sample());
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let copy = tempfile::tempdir().unwrap();
    std::fs::create_dir(copy.path().join("log")).unwrap();
    for entry in std::fs::read_dir(sample().join("log")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join("log").join(path.file_name().unwrap())).unwrap();
    }
    let env = Env::system();
    let log = SegmentedLog::open(&env, &copy.path().join("log"), SegmentedOptions::default()).unwrap();
    let folds = Materialized::open(&env, &copy.path().join("folds"), log.id(), KvOptions::default()).unwrap();
    folds.catch_up(&log, |_| {}).unwrap();
    let count = |at: u64| {
        let table = folds.catalog().table(TableId::new(17), Lsn::new(at)).unwrap();
        let everything = highwater_log::sequencer::KeyRange { start: bytes::Bytes::new(), end: None };
        folds
            .kv()
            .pin(Lsn::new(at))
            .unwrap()
            .rows(table.schema().storage, &everything)
            .unwrap()
            .map(Result::unwrap)
            .count()
    };
    assert_eq!([1, 2, 4, 5, 6, 7].map(count), [0, 2, 1, 2, 0, 1]);
}

#[test]
fn the_command_answers_with_exit_codes_and_keeps_standard_output_clean() {
    let listed = highwater(&["log", "ls"], &sample());
    assert!(listed.status.success());
    let lines = String::from_utf8(listed.stdout).unwrap();
    assert!(lines.lines().nth(1).unwrap().contains("sealed"), "{lines}");
    let some = highwater(&["log", "cat", "--after", "2", "--limit", "3"], &sample());
    let lsns: Vec<_> = String::from_utf8(some.stdout).unwrap().lines().map(|line| line.contains("\"lsn\":")).collect();
    assert_eq!(lsns, [true; 3]);
    let missing = highwater(&["log", "verify"], Path::new("/nowhere"));
    assert_eq!((missing.status.code(), missing.stdout.len()), (Some(1), 0));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("no log in /nowhere/log"));
    assert_eq!(highwater(&["log", "burn"], &sample()).status.code(), Some(2));
}

#[test]
fn verify_finds_damage_and_says_where() {
    for (segment, at, code) in [(1, 5_000, 3), (2, 4_100, 3), (3, 4_200, 3)] {
        let copy = tempfile::tempdir().unwrap();
        std::fs::create_dir(copy.path().join("log")).unwrap();
        for entry in std::fs::read_dir(sample().join("log")).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, copy.path().join("log").join(path.file_name().unwrap())).unwrap();
        }
        let path = copy.path().join(format!("log/segment-{segment:020}"));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[at] ^= 0x10;
        std::fs::write(&path, bytes).unwrap();
        let verified = highwater(&["log", "verify"], copy.path());
        let said = String::from_utf8_lossy(&verified.stderr).into_owned();
        assert_eq!(verified.status.code(), Some(code), "segment {segment}: {said}");
        assert!(said.contains(&format!("in segment {segment}, bytes")), "{said}");
    }
}
