//! How a database grows: commits, point reads, memory, bytes on disk and its opening, with ever more rows in one table, SQLite beside it.
//!
//! `cargo bench --bench growth [-- ROWS…]` (default: 100,000, 1,000,000, 10,000,000 and 50,000,000 rows of about 100 bytes). Everything
//! happens in processes of their own, so that memory is that of one database. At each size, embedded: the database is filled up and
//! let go of, which is no clean close; opened, keys drawn by chance are read for two seconds, single rows are committed for two; the
//! process is killed; the database is opened once more. SQLite has a write-ahead log and `synchronous=FULL`, keeps as much in memory as we
//! do, and does the same reads and commits. At the end the figures stand as charts, as `docs/performance.md` shows them.

#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

#[path = "support/drawn.rs"]
mod drawn;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use drawn::{drawn, text};
use highwater::{Database, Outcome, Parameter};
use rusqlite::Connection;
use tokio::runtime::Runtime;

/// The program's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SIZES: [i64; 4] = [100_000, 1_000_000, 10_000_000, 50_000_000];
const ROUND: Duration = Duration::from_secs(2);
const BATCH: i64 = 1_000;
const CACHE_KIB: i64 = 32 * 1024;
const CREATE: &str = "CREATE TABLE t (id bigint PRIMARY KEY, v text)";
const CREATE_SQLITE: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, v text)";
const READ: &str = "SELECT v FROM t WHERE id = $1";
const INSERT: &str = "INSERT INTO t VALUES ($1, $2)";

/// A figure's name, and what its chart calls it.
const CHARTS: [(&str, &str, &[&str]); 6] = [
    ("Point reads, thousands a second: highwater, SQLite", "1000/s", &["reads", "sqlite reads"]),
    ("A synced commit of one row, µs, median: highwater, SQLite", "µs", &["p50", "sqlite p50"]),
    ("A synced commit of one row, µs, 99th percentile: highwater, SQLite", "µs", &["p99", "sqlite p99"]),
    ("Memory, MiB resident: just opened, at the end", "MiB", &["opened MiB", "MiB"]),
    ("Bytes on disk, GB: highwater, SQLite", "GB", &["GB", "sqlite GB"]),
    ("Opening, ms: after it was filled, after a kill", "ms", &["open", "open killed"]),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["fill", directory, from, to] => fill(Path::new(directory), from.parse().unwrap(), to.parse().unwrap()),
        ["measure", directory, rows] => measure(Path::new(directory), rows.parse().unwrap()),
        ["open", directory] => open(Path::new(directory)),
        ["sqlite", directory, from, to] => sqlite(Path::new(directory), from.parse().unwrap(), to.parse().unwrap()),
        [] => grow(&SIZES),
        sizes => grow(&sizes.iter().map(|size| size.parse().unwrap()).collect::<Vec<_>>()),
    }
}

fn grow(sizes: &[i64]) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (ours, theirs) = (directory.path().join("highwater"), directory.path().join("sqlite"));
    let (ours_path, theirs_path) = (ours.to_str().unwrap(), theirs.to_str().unwrap());
    std::fs::create_dir(&theirs).unwrap();
    let mut all = Vec::new();
    let mut from = 0;
    for to in sizes {
        let (from_text, to_text) = (from.to_string(), to.to_string());
        let mut figures = run(&["fill", ours_path, &from_text, &to_text]);
        figures.insert("GB".to_owned(), gigabytes(&ours));
        figures.extend(run(&["measure", ours_path, &to_text]));
        figures.extend(run(&["open", ours_path]));
        figures.extend(run(&["sqlite", theirs_path, &from_text, &to_text]));
        figures.insert("sqlite GB".to_owned(), gigabytes(&theirs));
        println!("{to} rows: {figures:?}");
        all.push(figures);
        // What was committed beside lies further on.
        from = *to;
    }
    for (title, unit, names) in CHARTS {
        println!("\n```mermaid\nxychart-beta\n    title \"{title}\"");
        println!("    x-axis \"rows\" [{}]", sizes.iter().map(|size| short(*size)).collect::<Vec<_>>().join(", "));
        println!("    y-axis \"{unit}\"");
        for name in names {
            let values: Vec<_> = all.iter().map(|figures| format!("{:.3}", figures[*name])).collect();
            println!("    line [{}]", values.join(", "));
        }
        println!("```");
    }
}

/// Figures of a process that does one step. What it prints are lines of a name, `=` and a value.
fn run(step: &[&str]) -> BTreeMap<String, f64> {
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program).args(step).stderr(Stdio::inherit()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let figures = text.lines().filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        Some((name.to_owned(), value.parse().unwrap()))
    });
    let figures: BTreeMap<_, _> = figures.collect();
    assert!(!figures.is_empty(), "{step:?} ended with {} and said nothing", output.status);
    figures
}

fn tell(name: &str, value: f64) {
    println!("{name}={value}");
}

/// As a crash would.
fn die() -> ! {
    use std::io::Write;
    std::io::stdout().flush().unwrap();
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
    unreachable!("nobody survives that")
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

fn fill(directory: &Path, from: i64, to: i64) {
    let (runtime, begun) = (runtime(), Instant::now());
    let database = Database::open(directory).unwrap();
    if from == 0 {
        runtime.block_on(database.sql(CREATE)).unwrap();
    }
    let row = |row: i64| format!("(${}, ${})", row * 2 + 1, row * 2 + 2);
    let insert = format!("INSERT INTO t VALUES {}", (0..BATCH).map(row).collect::<Vec<_>>().join(", "));
    let mut session = database.session();
    let insert = session.prepare(&insert).unwrap();
    for first in (from..to).step_by(BATCH as usize) {
        let values: Vec<Parameter> =
            (first..first + BATCH).flat_map(|id| [Parameter::Int(id), Parameter::Text(text(id))]).collect();
        runtime.block_on(session.run_prepared(&insert, &values)).unwrap();
    }
    drop(session);
    tell("filled rows/s", (to - from) as f64 / begun.elapsed().as_secs_f64());
    drop(database);
}

fn measure(directory: &Path, rows: i64) {
    let (runtime, begun) = (runtime(), Instant::now());
    let database = Database::open(directory).unwrap();
    tell("open", milliseconds(begun));
    tell("opened MiB", resident());
    let mut session = database.session();
    let read = session.prepare(READ).unwrap();
    let count = counted(|at| {
        runtime.block_on(async {
            let key = Parameter::Int(drawn(at, rows));
            let Outcome::Rows(found) = session.run_prepared(&read, &[key]).await.unwrap() else { panic!("no rows") };
            assert_eq!(found.collect().await.unwrap()[0].num_rows(), 1);
        });
    });
    tell("reads", count / 1e3);
    let insert = session.prepare(INSERT).unwrap();
    let next = next_id(rows);
    commits("", |at| {
        let values = [Parameter::Int(next + at), Parameter::Text(text(at))];
        runtime.block_on(session.run_prepared(&insert, &values)).unwrap();
    });
    tell("MiB", resident());
    die();
}

fn open(directory: &Path) {
    let begun = Instant::now();
    let database = Database::open(directory).unwrap();
    tell("open killed", milliseconds(begun));
    std::thread::sleep(Duration::from_secs(1));
    drop(database);
}

fn sqlite(directory: &Path, from: i64, to: i64) {
    let connection = Connection::open(directory.join("sqlite")).unwrap();
    connection.pragma_update(None, "journal_mode", "WAL").unwrap();
    connection.pragma_update(None, "synchronous", "FULL").unwrap();
    connection.pragma_update(None, "cache_size", -CACHE_KIB).unwrap();
    if from == 0 {
        connection.execute(CREATE_SQLITE, []).unwrap();
    }
    for first in (from..to).step_by(BATCH as usize) {
        connection.execute_batch("BEGIN").unwrap();
        let mut insert = connection.prepare_cached(INSERT).unwrap();
        for id in first..first + BATCH {
            insert.execute((id, text(id))).unwrap();
        }
        connection.execute_batch("COMMIT").unwrap();
    }
    let mut read = connection.prepare(READ).unwrap();
    let count = counted(|at| {
        let found: String = read.query_row([drawn(at, to)], |row| row.get(0)).unwrap();
        assert_eq!(found.len(), 80);
    });
    tell("sqlite reads", count / 1e3);
    let mut insert = connection.prepare(INSERT).unwrap();
    let next = next_id(to);
    commits("sqlite ", |at| {
        assert_eq!(insert.execute((next + at, text(at))).unwrap(), 1);
    });
}

/// How often a second something can be done.
fn counted(mut act: impl FnMut(i64)) -> f64 {
    let (begun, mut count) = (Instant::now(), 0);
    while begun.elapsed() < ROUND {
        act(count);
        count += 1;
    }
    count as f64 / begun.elapsed().as_secs_f64()
}

/// How long commits take.
fn commits(who: &str, mut commit: impl FnMut(i64)) {
    let mut micros = Vec::new();
    counted(|at| {
        let begun = Instant::now();
        commit(at);
        micros.push(begun.elapsed().as_secs_f64() * 1e6);
    });
    micros.sort_by(f64::total_cmp);
    tell(&format!("{who}p50"), micros[micros.len() / 2]);
    tell(&format!("{who}p99"), micros[micros.len() * 99 / 100]);
}

/// Where the rows that are committed one by one begin, beyond all that are filled in.
const fn next_id(rows: i64) -> i64 {
    rows << 32
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

fn gigabytes(path: &Path) -> f64 {
    let entries = std::fs::read_dir(path).unwrap().map(Result::unwrap);
    let size = |entry: std::fs::DirEntry| match entry.file_type().unwrap().is_dir() {
        true => gigabytes(&entry.path()),
        false => entry.metadata().unwrap().len() as f64 / 1e9,
    };
    entries.map(size).sum()
}

fn short(rows: i64) -> String {
    if rows < 1_000_000 { format!("\"{}k\"", rows / 1_000) } else { format!("\"{}M\"", rows / 1_000_000) }
}
