//! The stored bytes, as they are for years: a change of any of them fails here, and is a new format version or a mistake.
//!
//! `UPDATE_GOLDEN=1 cargo test` writes the files anew; the diff is to be read line by line.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::path::Path;

use bytes::Bytes;
use highwater_log::commit::{EncodedCommit, Group, ProducerId, ProducerSequence};
use highwater_log::env::{Access, Disk, simulated};
use highwater_log::frame::{self, FrameHeader, FrameKind, FrameSeed};
use highwater_log::position::{ColumnId, CommitTime, IndexId, RowId, SchemaVersion, SegmentId, StorageId, TableId};
use highwater_log::row::RowLayout;
use highwater_log::schema::{
    CatalogEntry, ColumnSchema, FeedSchema, FeedTable, IndexSchema, IndexState, IndexedColumn, Namespace, TableSchema,
    UniqueSchema,
};
use highwater_log::value::{Array, ColumnType, ElementType, Interval, Value};
use highwater_log::{
    Change, Commit, CommitHeader, CommitLog, Epoch, Lsn, SegmentedLog, SegmentedOptions, conformance, key,
};

/// Compares `bytes` with the golden file `name`, both as hexadecimal lines of 32 bytes.
fn assert_golden(name: &str, bytes: &[u8]) {
    let mut text = String::new();
    for line in bytes.chunks(32) {
        line.iter().for_each(|byte| write!(text, "{byte:02x}").unwrap());
        text.push('\n');
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(text, golden, "the stored bytes of {name} have changed");
}

/// One column of every type, with a value each.
fn every_type<'a>(texts: &'a [u8], numbers: &'a [u8]) -> Vec<(ColumnType, Value<'a>)> {
    let scalar = |element: ElementType, value| (ColumnType::Scalar(element), value);
    vec![
        scalar(ElementType::Boolean, Value::Boolean(true)),
        scalar(ElementType::SmallInt, Value::SmallInt(-2)),
        scalar(ElementType::Integer, Value::Integer(-3)),
        scalar(ElementType::BigInt, Value::BigInt(i64::MAX)),
        scalar(ElementType::Real, Value::Real(1.5)),
        scalar(ElementType::Double, Value::Double(-0.0)),
        scalar(ElementType::Numeric { precision: 10, scale: 2 }, Value::Numeric(-12345)),
        scalar(ElementType::Numeric { precision: 30, scale: 6 }, Value::Numeric(12_345_678_901_234_567_890_123_456)),
        scalar(ElementType::Text, Value::Text("héllo")),
        scalar(ElementType::Varchar(Some(20)), Value::Text("")),
        scalar(ElementType::Char(5), Value::Text("ab   ")),
        scalar(ElementType::Bytea, Value::Bytea(&[0xde, 0xad, 0x00])),
        scalar(ElementType::Date, Value::Date(-165)),
        scalar(ElementType::Time(6), Value::Time(86_399_999_999)),
        scalar(ElementType::Timestamp(6), Value::Timestamp(i64::MAX)),
        scalar(ElementType::TimestampTz(6), Value::TimestampTz(1_795_235_545_520_941)),
        scalar(ElementType::Interval, Value::Interval(Interval { months: 14, days: -1, micros: 7 })),
        scalar(ElementType::Uuid, Value::Uuid(*b"0123456789abcdef")),
        scalar(ElementType::Jsonb, Value::Jsonb("{\"a\": [1, 2]}")),
        (ColumnType::Array(ElementType::Text), Value::Array(Array::from_stored(ElementType::Text, texts))),
        (ColumnType::Array(ElementType::Integer), Value::Array(Array::from_stored(ElementType::Integer, numbers))),
    ]
}

fn arrays() -> (Vec<u8>, Vec<u8>) {
    let (mut texts, mut numbers) = (Vec::new(), Vec::new());
    Array::encode(ElementType::Text, &[Some(Value::Text("x")), None, Some(Value::Text("y, z"))], &mut texts).unwrap();
    Array::encode(ElementType::Integer, &[Some(Value::Integer(1)), None], &mut numbers).unwrap();
    (texts, numbers)
}

#[test]
fn rows_are_stored_as_ever() {
    let (texts, numbers) = arrays();
    let columns = every_type(&texts, &numbers);
    let ids =
        columns.iter().enumerate().map(|(index, (column_type, _))| (ColumnId::new(index as u32 + 1), *column_type));
    let layout = RowLayout::new(SchemaVersion::new(3), ids);
    let full: Vec<_> = columns.iter().map(|(_, value)| Some(*value)).collect();
    let half: Vec<_> = full.iter().enumerate().map(|(index, value)| value.filter(|_| index % 2 == 0)).collect();
    let partial = [(2, Some(Value::Integer(9))), (8, None), (20, full[20])];
    let (mut row, mut nulls, mut changed) = (Vec::new(), Vec::new(), Vec::new());
    layout.encode(&full, &mut row).unwrap();
    layout.encode(&half, &mut nulls).unwrap();
    layout.encode_partial(&partial, &mut changed).unwrap();
    assert_golden("row-full", &row);
    assert_golden("row-nulls", &nulls);
    assert_golden("row-partial", &changed);
}

#[test]
fn keys_are_stored_as_ever() {
    let (texts, numbers) = arrays();
    let mut keys = Vec::new();
    for (column_type, value) in every_type(&texts, &numbers) {
        if column_type != ColumnType::Scalar(ElementType::Jsonb) {
            key::encode([(column_type, Some(value))], &mut keys).unwrap();
        }
    }
    key::encode([(ElementType::Text.into(), None)], &mut keys).unwrap();
    keys.extend(key::of_row_id(RowId::new(258)));
    assert_golden("keys", &keys);
}

fn table_schema() -> TableSchema {
    TableSchema {
        id: TableId::new(4),
        namespace: "public".to_owned(),
        name: "accounts".to_owned(),
        version: SchemaVersion::new(2),
        storage: StorageId::new(5),
        columns: vec![
            ColumnSchema {
                id: ColumnId::new(1),
                name: "aid".to_owned(),
                column_type: ElementType::Integer.into(),
                not_null: true,
                default: None,
                missing: None,
            },
            ColumnSchema {
                id: ColumnId::new(3),
                name: "added \"later\"".to_owned(),
                column_type: ElementType::Numeric { precision: 10, scale: 2 }.into(),
                not_null: false,
                default: Some("42".to_owned()),
                missing: Some(vec![0, 1, 0xff]),
            },
        ],
        primary_key: vec![ColumnId::new(1)],
        primary_key_name: Some("accounts_pkey".to_owned()),
        uniques: vec![UniqueSchema {
            name: "accounts_key".to_owned(),
            storage: StorageId::new(6),
            columns: vec![ColumnId::new(3), ColumnId::new(1)],
        }],
        indexes: Vec::new(),
        next_column: ColumnId::new(4),
    }
}

#[test]
fn catalog_entries_are_stored_as_ever() {
    let entries =
        [CatalogEntry::Namespace(Namespace { name: "public".to_owned() }), CatalogEntry::Table(table_schema())];
    let mut stored = Vec::new();
    for entry in &entries {
        let json = entry.to_json();
        assert_eq!(&CatalogEntry::from_json(&json).unwrap(), entry);
        stored.extend(json);
        stored.push(b'\n');
    }
    assert_golden("catalog-entries", &stored);
    assert!(
        CatalogEntry::from_json(br#"{"kind":"namespace","name":"x","later":1}"#).is_err(),
        "an unknown field is newer"
    );
}

#[test]
fn indexes_are_stored_as_ever() {
    let column =
        |id: u32, descending, nulls_first| IndexedColumn { column: ColumnId::new(id), descending, nulls_first };
    let index = |id: u64, unique: bool, state| IndexSchema {
        id: IndexId::new(id),
        name: format!("accounts_{id}_idx"),
        storage: StorageId::new(id + 1),
        backfill: unique.then(|| StorageId::new(id + 2)),
        columns: vec![column(1, false, false), column(3, true, unique)],
        unique,
        state,
    };
    let failed = IndexState::Failed { sqlstate: "23505".to_owned(), cause: "key (aid)=(1)".to_owned() };
    let states = [IndexState::Building, IndexState::Checking, IndexState::Ready, failed];
    let indexes = (10u64..).step_by(10).zip(states).map(|(id, state)| index(id, id % 20 == 0, state)).collect();
    let entry = CatalogEntry::Table(TableSchema { indexes, ..table_schema() });
    let json = entry.to_json();
    assert_eq!(CatalogEntry::from_json(&json).unwrap(), entry);
    assert_golden("catalog-entry-with-indexes", &json);
}

#[test]
fn feeds_are_stored_as_ever() {
    let told = |table: u64, text: Option<&str>| FeedTable {
        table: TableId::new(table),
        version: SchemaVersion::new(3),
        filter: text.map(|text| format!("{text} > 1")),
        columns: text.map(str::to_owned),
    };
    let entry = CatalogEntry::Feed(FeedSchema {
        name: "to-search".to_owned(),
        tables: vec![told(4, None), told(5, Some("v"))],
    });
    let json = entry.to_json();
    assert_eq!(CatalogEntry::from_json(&json).unwrap(), entry);
    assert_golden("catalog-entry-of-a-feed", &json);
}

fn commit(lsn: u64) -> EncodedCommit {
    let (table, row) = (TableId::new(4), RowId::new(12));
    let changes = vec![
        Change::Catalog { object: 4, entry: Some(CatalogEntry::Table(table_schema()).to_json().into()) },
        Change::Catalog { object: 9, entry: None },
        Change::Truncate { table, entry: Bytes::from_static(b"{}") },
        Change::Delete { table, row, before: Bytes::from_static(b"before") },
        Change::Update { table, row, before: Bytes::from_static(b"before"), changed: Bytes::from_static(b"changed") },
        Change::Insert { table, row, after: Bytes::from_static(b"after") },
        Change::Position { of: Bytes::from_static(b"source"), position: Bytes::from_static(b"\x01") },
    ];
    let header = CommitHeader {
        time: CommitTime { micros: 1_795_235_545_520_941, logical: 3 },
        next_row: RowId::new(13),
        producer: Some(ProducerSequence { producer: ProducerId(*b"fedcba9876543210"), sequence: 77 }),
        change_count: changes.len() as u64,
    };
    EncodedCommit::encode(&Commit { lsn: Lsn::new(lsn), header, changes }).unwrap()
}

#[test]
fn commits_are_stored_as_ever() {
    assert_golden("commit-part", &commit(1).part(0).unwrap());
}

#[test]
fn frames_are_stored_as_ever() {
    let payload = b"a payload";
    let header = FrameHeader {
        kind: FrameKind::Commit,
        is_first: true,
        is_last: true,
        payload_bytes: payload.len() as u32,
        segment: SegmentId::new(2),
        epoch: Epoch::new(3),
        lsn: Lsn::new(4),
        synced: Lsn::new(3),
        previous: 0x1234_5678,
        part: 0,
    };
    let mut bytes = Vec::new();
    frame::encode(FrameSeed::new([7; 16]), 4096, &header, payload, &mut bytes);
    assert_golden("frame", &bytes);
}

/// A whole directory, byte for byte: segment headers, frames, footer, mark, manifest.
#[test]
fn a_log_directory_is_stored_as_ever() {
    let (env, disk, _) = simulated::machine(1);
    let path = Path::new("/log");
    let options = SegmentedOptions {
        segment_bytes_min: 8192,
        segment_bytes_max: 8192,
        free_bytes_min: 0,
        is_self_maintained: false,
        ..SegmentedOptions::default()
    };
    let log = SegmentedLog::open(&env, path, options.clone()).unwrap();
    for lsn in 1..=8 {
        log.append(log.epoch(), Lsn::new(lsn - 1), &Group { commits: vec![commit(lsn)] }).unwrap();
        log.make_durable().unwrap();
    }
    log.maintain().unwrap();
    log.close().unwrap();
    assert_golden_directory("log", &*disk, path);
    // Trimmed: a base image, a manifest that tells of it, and what is left of the segments.
    let log = SegmentedLog::open(&env, path, options).unwrap();
    conformance::write_sample_base(&log, Lsn::new(6)).unwrap();
    assert!(log.trim(Lsn::new(6)).unwrap() > Lsn::new(1));
    log.close().unwrap();
    assert_golden_directory("log-trimmed", &*disk, path);
}

fn assert_golden_directory(golden: &str, disk: &dyn Disk, path: &Path) {
    for name in disk.list(path).unwrap() {
        let file = disk.open(&path.join(&name), Access::Read).unwrap();
        let mut bytes = vec![0; file.byte_len().unwrap() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        assert_golden(&format!("{golden}/{name}"), &bytes[..used]);
    }
}
