//! Many rows at a time, embedded, beside SQLite in the same process: batches of 1,000 inserted with a synced commit each, and ranges read
//! by the primary key and by an index.
//!
//! `cargo bench --bench bulk [-- ROWS]` (default: 1,000,000 rows of about 100 bytes, 100 to each value of the indexed column). Statements
//! are prepared on both sides, and both keep 64 MiB in memory. SQLite has a write-ahead log and `synchronous=FULL`. Rates are medians of rounds, the two
//! sides in turns.

#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

#[path = "support/drawn.rs"]
mod drawn;

use std::path::Path;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use drawn::{drawn, text};
use highwater::{Database, Options, Outcome, Parameter, Prepared, Session};
use highwater_materializers::KvOptions;
use rusqlite::Connection;
use tokio::runtime::Runtime;

/// The program's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);
const BATCH: i64 = 1_000;
const CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// Rows of one value of the indexed column.
const SAME: i64 = 100;
const CREATE: &str = "CREATE TABLE t (id bigint PRIMARY KEY, a bigint, v text)";
const INDEX: &str = "CREATE INDEX t_a ON t (a)";
const CREATE_SQLITE: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, a bigint, v text)";
const INSERT_ONE: &str = "INSERT INTO t VALUES (?1, ?2, ?3)";
const BY_KEY: &str = "SELECT id, v FROM t WHERE id >= $1 AND id < $2";
const BY_INDEX: &str = "SELECT id, v FROM t WHERE a = $1";

fn main() {
    let rows: i64 = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(1_000_000);
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let rows_options = KvOptions { cache_bytes: CACHE_BYTES, ..KvOptions::default() };
    let options = Options { rows: rows_options, ..Options::default() };
    let database = Database::open_with(directory.path().join("highwater"), options, |_| {}).unwrap();
    let sqlite = connect(&directory.path().join("sqlite"));
    runtime.block_on(database.sql(CREATE)).unwrap();
    sqlite.execute(CREATE_SQLITE, []).unwrap();
    let mut session = database.session();
    let insert = session.prepare(&insert_batch()).unwrap();
    let groups = (rows / SAME).max(1);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let per_round = (rows / BATCH).div_euclid(ROUNDS as i64).max(1) * BATCH;
    for round in 0..ROUNDS as i64 {
        let ids = round * per_round..(round + 1) * per_round;
        let begun = Instant::now();
        for from in ids.clone().step_by(BATCH as usize) {
            let values: Vec<Parameter> = (from..from + BATCH)
                .flat_map(|id| [Parameter::Int(id), Parameter::Int(drawn(id, groups)), Parameter::Text(text(id))])
                .collect();
            runtime.block_on(session.run_prepared(&insert, &values)).unwrap();
        }
        ours.push(per_round as f64 / begun.elapsed().as_secs_f64());
        let begun = Instant::now();
        for from in ids.step_by(BATCH as usize) {
            sqlite.execute_batch("BEGIN").unwrap();
            let mut insert = sqlite.prepare_cached(INSERT_ONE).unwrap();
            for id in from..from + BATCH {
                insert.execute((id, drawn(id, groups), text(id))).unwrap();
            }
            sqlite.execute_batch("COMMIT").unwrap();
        }
        theirs.push(per_round as f64 / begun.elapsed().as_secs_f64());
    }
    report("rows inserted, 1,000 a commit", ours, theirs);
    let begun = Instant::now();
    runtime.block_on(database.sql(INDEX)).unwrap();
    let ours = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    sqlite.execute(INDEX, []).unwrap();
    println!("an index built: highwater {ours:.1} s, SQLite {:.1} s", begun.elapsed().as_secs_f64());
    let all = per_round * ROUNDS as i64;
    let by_key = session.prepare(BY_KEY).unwrap();
    ranges("ranges of 100 rows by key", &runtime, &mut session, &by_key, &sqlite, BY_KEY, |at| {
        let from = drawn(at, all - SAME);
        vec![from, from + SAME]
    });
    let by_index = session.prepare(BY_INDEX).unwrap();
    ranges("100 rows by an index", &runtime, &mut session, &by_index, &sqlite, BY_INDEX, |at| vec![drawn(at, groups)]);
}

fn insert_batch() -> String {
    let row = |row: i64| format!("(${}, ${}, ${})", row * 3 + 1, row * 3 + 2, row * 3 + 3);
    format!("INSERT INTO t VALUES {}", (0..BATCH).map(row).collect::<Vec<_>>().join(", "))
}

fn ranges(
    what: &str,
    runtime: &Runtime,
    session: &mut Session,
    prepared: &Prepared,
    sqlite: &Connection,
    sql: &str,
    key: impl Fn(i64) -> Vec<i64>,
) {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut counts = (0, 0);
    for round in 0..ROUNDS as i64 {
        let (begun, mut at) = (Instant::now(), round << 32);
        while begun.elapsed() < ROUND {
            let parameters: Vec<Parameter> = key(at).into_iter().map(Parameter::Int).collect();
            let rows = runtime.block_on(async {
                let Outcome::Rows(rows) = session.run_prepared(prepared, &parameters).await.unwrap() else {
                    panic!("no rows")
                };
                rows.collect().await.unwrap().iter().map(RecordBatch::num_rows).sum::<usize>()
            });
            counts.0 += rows;
            at += 1;
        }
        ours.push((at - (round << 32)) as f64 / begun.elapsed().as_secs_f64());
        let (begun, mut at) = (Instant::now(), round << 32);
        let mut statement = sqlite.prepare(sql).unwrap();
        while begun.elapsed() < ROUND {
            let mut rows = statement.query(rusqlite::params_from_iter(key(at))).unwrap();
            while let Some(row) = rows.next().unwrap() {
                let (_, text): (i64, String) = (row.get(0).unwrap(), row.get(1).unwrap());
                assert_eq!(text.len(), 80);
                counts.1 += 1;
            }
            at += 1;
        }
        theirs.push((at - (round << 32)) as f64 / begun.elapsed().as_secs_f64());
    }
    assert!(counts.0 > 0 && counts.1 > 0, "there are rows");
    report(what, ours, theirs);
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn report(what: &str, ours: Vec<f64>, theirs: Vec<f64>) {
    let (ours, theirs) = (median(ours), median(theirs));
    println!("{what}: highwater {ours:.0}/s, SQLite {theirs:.0}/s, ratio {:.2}", ours / theirs);
}

fn connect(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.pragma_update(None, "journal_mode", "WAL").unwrap();
    connection.pragma_update(None, "synchronous", "FULL").unwrap();
    connection.pragma_update(None, "cache_size", -(CACHE_BYTES as i64 / 1024)).unwrap();
    connection
}
