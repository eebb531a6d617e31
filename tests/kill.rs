//! A process that commits, and trims its log, is killed with SIGKILL, again and again: what it had acknowledged is there, and the
//! folds are right.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use highwater_log::env::Env;
use highwater_log::env::simulated::Random;
use highwater_log::position::{ColumnId, RowId, SchemaVersion, StorageId, TableId};
use highwater_log::row::Row;
use highwater_log::schema::{CatalogEntry, ColumnSchema, TableSchema};
use highwater_log::sequencer::{
    Acknowledgement, CATALOG_SPACE, KeyName, KeyRange, KeyWrite, Precondition, Sequencer, SequencerOptions, WriteSet,
    catalog_key, catalog_name_key,
};
use highwater_log::value::{ElementType, Value};
use highwater_log::{Change, CommitLog, Lsn, SegmentedLog, SegmentedOptions};
use highwater_materializers::{KvOptions, Materialized, Table, TableRow};

const CHILD_DIRECTORY: &str = "HIGHWATER_TEST_KILL_DIRECTORY";
const WRITERS: i64 = 4;

struct Database {
    log: Arc<SegmentedLog>,
    folds: Materialized,
    sequencer: Sequencer,
}

fn open(directory: &Path) -> Database {
    let env = Env::system();
    let options = SegmentedOptions {
        segment_bytes_min: 64 * 1024,
        segment_bytes_max: 256 * 1024,
        free_bytes_min: 0,
        witnesses: Materialized::witnesses(&env, &directory.join("materialized")),
        ..SegmentedOptions::default()
    };
    let log = Arc::new(SegmentedLog::open(&env, &directory.join("log"), options).unwrap());
    // Nobody reads in the past here, and so everything may be trimmed.
    let options = KvOptions { memtable_bytes: 64 * 1024, history: Duration::ZERO, ..KvOptions::default() };
    let folds = Materialized::open(&env, &directory.join("materialized"), log.id(), options).unwrap();
    folds.catch_up(&*log, |_| {}).unwrap();
    let sequencer = Sequencer::start(
        Arc::<SegmentedLog>::clone(&log),
        Arc::new(folds.clone()),
        Box::new(folds.clone()),
        Arc::clone(&env.clock),
        SequencerOptions::default(),
    )
    .unwrap();
    Database { log, folds, sequencer }
}

fn schema() -> TableSchema {
    let column = |id: u32, name: &str, element: ElementType| ColumnSchema {
        id: ColumnId::new(id),
        name: name.to_owned(),
        column_type: element.into(),
        not_null: true,
        default: None,
        missing: None,
    };
    TableSchema {
        id: TableId::new(16),
        namespace: "public".to_owned(),
        name: "acknowledged".to_owned(),
        version: SchemaVersion::new(1),
        storage: StorageId::new(17),
        columns: vec![column(1, "id", ElementType::BigInt), column(2, "payload", ElementType::Text)],
        primary_key: vec![ColumnId::new(1)],
        primary_key_name: None,
        uniques: Vec::new(),
        indexes: Vec::new(),
        next_column: ColumnId::new(3),
    }
}

fn create_table() -> WriteSet {
    let (object, name) = (catalog_key(16), catalog_name_key("public", "acknowledged"));
    let write = |key: &Bytes| KeyWrite { space: CATALOG_SPACE, key: KeyName::Bytes(key.clone()), is_present: true };
    WriteSet {
        preconditions: vec![Precondition::Absent { space: CATALOG_SPACE, key: name.clone() }],
        keys: vec![write(&object), write(&name)],
        changes: vec![Change::Catalog { object: 16, entry: Some(CatalogEntry::Table(schema()).to_json().into()) }],
        ..WriteSet::default()
    }
}

fn insert(table: &Table, id: i64) -> WriteSet {
    let payload = "x".repeat(usize::try_from(id % 300).unwrap());
    let mut row = Vec::new();
    table.layout().encode(&[Some(Value::BigInt(id)), Some(Value::Text(&payload))], &mut row).unwrap();
    let key = key_of(table, &row);
    let storage = table.schema().storage;
    WriteSet {
        preconditions: vec![
            Precondition::SchemaAt { table: table.schema().id, version: table.written() },
            Precondition::Absent { space: storage, key: key.clone() },
        ],
        keys: vec![KeyWrite { space: storage, key: KeyName::Bytes(key), is_present: true }],
        changes: vec![Change::Insert { table: table.schema().id, row: RowId::default(), after: row.into() }],
        ..WriteSet::default()
    }
}

fn key_of(table: &Table, row: &[u8]) -> Bytes {
    let view = TableRow::new(Row::parse(table.layout(), row).unwrap(), table);
    table.row_key(&view, RowId::default()).unwrap()
}

fn commit(database: &Database, set: WriteSet) -> Lsn {
    match database.sequencer.commit_blocking(set).unwrap() {
        Acknowledgement::Committed(receipt) => receipt.lsn,
        Acknowledgement::Buffered(_) => panic!("synced was asked for"),
    }
}

/// What runs in the child: commits until it is killed, and tells each acknowledgement. Without a directory in the environment it is
/// not the child.
#[test]
fn child() {
    let Some(directory) = std::env::var_os(CHILD_DIRECTORY) else { return };
    let database = open(Path::new(&directory));
    let start = i64::try_from(database.log.appended().value()).unwrap();
    if start == 0 {
        commit(&database, create_table());
    }
    let table = database.folds.catalog().table(TableId::new(16), Lsn::new(u64::MAX - 1)).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (database, table) = (&database, &table);
            scope.spawn(move || {
                for count in 0.. {
                    let id = (start + count) * WRITERS + writer;
                    let lsn = commit(database, insert(table, id));
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "acknowledged {id} {lsn}").unwrap();
                }
            });
        }
        scope.spawn(|| {
            loop {
                database.folds.maintain().unwrap();
                std::thread::yield_now();
            }
        });
        scope.spawn(|| {
            loop {
                database.folds.trim(&*database.log, None).unwrap();
                std::thread::sleep(Duration::from_millis(20));
            }
        });
    });
}

/// Starts the child and kills it some acknowledgements later; returns them.
fn run_and_kill(directory: &Path, after: u64) -> BTreeMap<i64, Lsn> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD_DIRECTORY, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = BTreeMap::new();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut is_killed = false;
    // What the pipe still holds after the kill was acknowledged, too.
    for line in lines.map_while(Result::ok) {
        if let Some((id, lsn)) = line.strip_prefix("acknowledged ").and_then(|rest| rest.split_once(' ')) {
            // The last line may be cut.
            if let (Ok(id), Ok(lsn)) = (id.parse(), lsn.parse::<u64>()) {
                acknowledged.insert(id, Lsn::new(lsn));
            }
        }
        if acknowledged.len() as u64 >= after && !is_killed {
            child.kill().unwrap();
            is_killed = true;
        }
    }
    child.wait().unwrap();
    assert!(is_killed, "the child ended by itself");
    acknowledged
}

#[test]
fn a_killed_process_has_lost_nothing_that_it_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let mut random = Random::new(1);
    let mut all: BTreeMap<i64, Lsn> = BTreeMap::new();
    let mut trimmed = 0;
    for cycle in 0..20 {
        let acknowledged = run_and_kill(directory.path(), 100 + random.below(400));
        assert!(acknowledged.len() >= 100, "cycle {cycle}");
        all.extend(acknowledged);
        if cycle % 3 == 2 {
            // What is folded again begins with the base image.
            std::fs::remove_dir_all(directory.path().join("materialized")).unwrap();
        }
        let database = open(directory.path());
        trimmed = database.log.earliest().previous().value();
        let visible = *database.sequencer.visible().borrow();
        assert!(all.values().all(|lsn| *lsn <= visible), "cycle {cycle}: visible {visible}");
        let table = database.folds.catalog().table(TableId::new(16), visible).unwrap();
        let pin = database.folds.kv().pin(visible).unwrap();
        let everything = KeyRange { start: Bytes::new(), end: None };
        let rows: BTreeMap<i64, Lsn> = pin
            .rows(table.schema().storage, &everything)
            .unwrap()
            .map(|item| {
                let (_, stored) = item.unwrap();
                let row = Row::parse(table.layout(), &stored.bytes).unwrap();
                let Some(Some(Value::BigInt(id))) = row.value(0).unwrap() else { panic!("no id") };
                let expected = usize::try_from(id % 300).unwrap();
                assert!(matches!(row.value(1).unwrap(), Some(Some(Value::Text(text))) if text.len() == expected));
                (id, stored.version)
            })
            .collect();
        for (id, lsn) in &all {
            assert_eq!(rows.get(id), Some(lsn), "cycle {cycle}: row {id}");
        }
        // Each commit but the first inserted one row: the fold has them all, acknowledged or not.
        assert_eq!(rows.len() as u64, visible.value() - 1, "cycle {cycle}");
    }
    assert!(trimmed > 1_000, "commits were trimmed all along: {trimmed}");
    let verify =
        Command::new(env!("CARGO_BIN_EXE_highwater")).args(["log", "verify", "--data"]).arg(directory.path()).output();
    let verify = verify.unwrap();
    assert!(verify.status.success(), "{}", String::from_utf8_lossy(&verify.stderr));
}
