//! Indexes built while commits come at a steady rate: how long building takes, and what the commits notice of it.
//!
//! `cargo bench --bench index [-- ROWS]` (default: 10,000,000 rows of about 100 bytes, 2,000 commits a second). Commits are due at fixed
//! times whatever became of those before (an open loop); a latency counts from when the commit was due until it was acknowledged,
//! synced and visible. First without an index being built, then while one that is not unique is, then while a unique one is.

#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use highwater::Database;

/// The program's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const COMMITS_PER_SECOND: u64 = 2_000;
const WRITERS: u64 = 64;
const QUIET: Duration = Duration::from_secs(20);
const ROWS_PER_STATEMENT: u64 = 50_000;

fn main() {
    let rows = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(10_000_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run(rows));
}

async fn run(rows: u64) {
    let directory = tempfile::tempdir().unwrap();
    let database = Arc::new(Database::open(directory.path()).unwrap());
    let started = Instant::now();
    fill(&database, rows).await;
    println!("{rows} rows filled in {:.1} s, {:.1} GB on disk", seconds(started), gigabytes(directory.path()));
    let next_id = Arc::new(AtomicU64::new(rows + 1));
    let alone = under_load(&database, &next_id, tokio::time::sleep(QUIET)).await;
    report("nothing is built", &alone, None);
    for (what, sql) in [
        ("CREATE INDEX ON t (a)", "CREATE INDEX ON t (a)"),
        ("CREATE UNIQUE INDEX ON t (b)", "CREATE UNIQUE INDEX ON t (b)"),
    ] {
        let started = Instant::now();
        let building = async {
            database.sql(sql).await.unwrap();
        };
        let beside = under_load(&database, &next_id, building).await;
        report(what, &beside, Some(seconds(started)));
    }
    println!("{:.1} GB on disk in the end", gigabytes(directory.path()));
}

/// Rows of about 100 bytes: a number that some share, a text that is each one's own, and more text.
async fn fill(database: &Database, rows: u64) {
    database.sql("CREATE TABLE t (id bigint PRIMARY KEY, a bigint, b text, c text)").await.unwrap();
    for from in (1..=rows).step_by(usize::try_from(ROWS_PER_STATEMENT).unwrap()) {
        let to = (from + ROWS_PER_STATEMENT - 1).min(rows);
        let sql = format!(
            "INSERT INTO t SELECT i, i * 7919 % 1000003, 'row ' || i, repeat('x', 60) FROM generate_series({from}, {to}) AS s(i)"
        );
        database.sql(&sql).await.unwrap();
    }
}

/// Commits at the fixed rate for as long as the work takes: their latencies in microseconds, sorted.
async fn under_load(database: &Arc<Database>, next_id: &Arc<AtomicU64>, work: impl Future<Output = ()>) -> Vec<u64> {
    let (is_over, begun) = (Arc::<AtomicBool>::default(), Instant::now());
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (database, is_over, next_id) = (Arc::clone(database), Arc::clone(&is_over), Arc::clone(next_id));
            tokio::spawn(async move {
                let mut session = database.session();
                let mut latencies = Vec::new();
                for turn in (writer..).step_by(usize::try_from(WRITERS).unwrap()) {
                    let due = begun + Duration::from_nanos(turn * 1_000_000_000 / COMMITS_PER_SECOND);
                    tokio::time::sleep_until(due.into()).await;
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    let id = next_id.fetch_add(1, Ordering::Relaxed);
                    let sql = format!("INSERT INTO t VALUES ({id}, {}, 'row {id}', 'of a writer')", id % 1_000_003);
                    session.execute(&sql).await.unwrap();
                    latencies.push(u64::try_from(due.elapsed().as_micros()).unwrap());
                }
                latencies
            })
        })
        .collect();
    work.await;
    is_over.store(true, Ordering::Relaxed);
    let mut latencies = Vec::new();
    for writer in writers {
        latencies.extend(writer.await.unwrap());
    }
    latencies.sort_unstable();
    latencies
}

fn report(what: &str, latencies: &[u64], took: Option<f64>) {
    let at = |share: f64| {
        let place = (latencies.len() as f64 * share) as usize;
        latencies[place.min(latencies.len() - 1)] as f64 / 1_000.0
    };
    let took = took.map_or(String::new(), |took| format!(", {took:.1} s"));
    println!(
        "{what}{took}: {} commits, ms until acknowledged: p50 {:.2}, p99 {:.2}, p99.9 {:.2}, most {:.1}",
        latencies.len(),
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    );
}

fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

fn gigabytes(directory: &std::path::Path) -> f64 {
    let mut bytes = 0;
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() { directories.push(entry.path()) } else { bytes += metadata.len() }
        }
    }
    bytes as f64 / 1e9
}
