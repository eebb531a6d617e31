//! Single rows by their keys: embedded beside SQLite, through the server beside PostgreSQL, in turns within one run.
//!
//! `cargo bench --bench rows [-- ROWS] [-- servers]` (default: 1,000,000 rows of about 100 bytes; with `servers`, nothing but what goes through
//! servers). Statements are prepared on all sides and their keys drawn alike. SQLite runs in this process with a write-ahead log and
//! `synchronous=FULL`, and keeps 64 MiB in memory as we do; commits are synced everywhere. Through our server, a call is made for each commit, or one for
//! all of a client's. PostgreSQL is a server of its own with its defaults, over its own protocol. Rates are medians of rounds; for servers there is
//! beside it how much they do for each second that they compute, since clients and servers share the cores.

#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

#[path = "support/drawn.rs"]
mod drawn;
#[path = "../tests/support/postgres.rs"]
mod postgres;
#[path = "../tests/support/server.rs"]
mod server;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use drawn::{drawn, text};
use futures::future::join_all;
use highwater::{Database, Options, Outcome, Parameter, Session};
use highwater_materializers::KvOptions;
use highwater_proto::v1::execute_response::Answer;
use highwater_proto::v1::sql_client::SqlClient;
use highwater_proto::v1::value::Kind;
use highwater_proto::v1::{ExecuteRequest, ExecuteResponse, Value};
use postgres::Postgres;
use rusqlite::Connection;
use server::Server;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// The program's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 5;
const READS: i64 = 200_000;
const CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// Rows that are read again and again.
const HOT_ROWS: i64 = 10_000;
const ROUND: Duration = Duration::from_secs(2);
const THREADS: usize = 8;
const CLIENTS: usize = 64;
const CLIENTS_PER_CONNECTION: usize = 8;
const CREATE: &str = "CREATE TABLE t (id bigint PRIMARY KEY, v text)";
/// The key is the row's place in the file: SQLite's best way.
const CREATE_SQLITE: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, v text)";
const READ: &str = "SELECT v FROM t WHERE id = $1";
const UPDATE: &str = "UPDATE t SET v = $2 WHERE id = $1";
const INSERT: &str = "INSERT INTO t VALUES ($1, $2)";

fn main() {
    let rows = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(1_000_000);
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if std::env::args().all(|argument| argument != "servers") {
        embedded(&runtime, directory.path(), rows);
    }
    servers(&runtime, directory.path());
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn report(what: &str, ours: Vec<f64>, peer: &str, theirs: Vec<f64>) {
    let (ours, theirs) = (median(ours), median(theirs));
    println!("{what}: highwater {ours:.0}/s, {peer} {theirs:.0}/s, ratio {:.2}", ours / theirs);
}

fn embedded(runtime: &Runtime, directory: &Path, rows: i64) {
    let rows_options = KvOptions { cache_bytes: CACHE_BYTES, ..KvOptions::default() };
    let options = Options { rows: rows_options, ..Options::default() };
    let database = Arc::new(Database::open_with(directory.join("highwater"), options, |_| {}).unwrap());
    let sqlite_path = directory.join("sqlite");
    let sqlite = connect(&sqlite_path);
    fill(runtime, &database, &sqlite, rows);
    for (what, among) in [("all", rows), ("some", HOT_ROWS.min(rows))] {
        reads(runtime, &database, &sqlite, what, among);
    }

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS as i64 {
        let from = round * 1_000_000;
        ours.push(runtime.block_on(update(database.session(), rows, from)));
        theirs.push(update_sqlite(&sqlite, rows, from));
    }
    report("updates of one row, synced, one thread", ours, "SQLite", theirs);

    let next_id = Arc::new(AtomicI64::new(rows));
    for threads in [1, THREADS] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            let tasks = (0..threads).map(|_| runtime.spawn(insert(database.session(), Arc::clone(&next_id), begun)));
            let counts = runtime.block_on(join_all(tasks.collect::<Vec<_>>()));
            let count: u64 = counts.into_iter().map(Result::unwrap).sum();
            ours.push(count as f64 / begun.elapsed().as_secs_f64());
            let begun = Instant::now();
            let count: u64 = std::thread::scope(|scope| {
                let insert = || insert_sqlite(&connect(&sqlite_path), &next_id, begun);
                let threads: Vec<_> = (0..threads).map(|_| scope.spawn(insert)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).sum()
            });
            theirs.push(count as f64 / begun.elapsed().as_secs_f64());
        }
        report(&format!("inserts of one row, synced, {threads} threads"), ours, "SQLite", theirs);
    }
}

/// Point reads of the first rows, `among` of them.
fn reads(runtime: &Runtime, database: &Database, sqlite: &Connection, what: &str, among: i64) {
    let mut session = database.session();
    let read = session.prepare(READ).unwrap();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS as i64 {
        let begun = Instant::now();
        runtime.block_on(async {
            for at in 0..READS {
                let id = drawn(at + round * READS, among);
                let Outcome::Rows(rows) = session.run_prepared(&read, &[id.into()]).await.unwrap() else {
                    panic!("no rows")
                };
                assert_eq!(rows.collect().await.unwrap()[0].num_rows(), 1);
            }
        });
        ours.push(READS as f64 / begun.elapsed().as_secs_f64());
        let begun = Instant::now();
        let mut statement = sqlite.prepare(READ).unwrap();
        for at in 0..READS {
            let id = drawn(at + round * READS, among);
            let found: String = statement.query_row([id], |row| row.get(0)).unwrap();
            assert_eq!(found.len(), 80);
        }
        theirs.push(READS as f64 / begun.elapsed().as_secs_f64());
    }
    report(&format!("point reads of {what} rows ({among}), one thread"), ours, "SQLite", theirs);
}

fn connect(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(60)).unwrap();
    connection.pragma_update(None, "journal_mode", "WAL").unwrap();
    connection.pragma_update(None, "synchronous", "FULL").unwrap();
    connection.pragma_update(None, "cache_size", -(CACHE_BYTES as i64 / 1024)).unwrap();
    connection
}

fn fill(runtime: &Runtime, database: &Database, sqlite: &Connection, rows: i64) {
    runtime.block_on(database.sql(CREATE)).unwrap();
    sqlite.execute(CREATE_SQLITE, []).unwrap();
    for from in (0..rows).step_by(10_000) {
        let ids = from..(from + 10_000).min(rows);
        let values: Vec<String> = ids.clone().map(|id| format!("({id}, '{}')", text(id))).collect();
        runtime.block_on(database.sql(&format!("INSERT INTO t VALUES {}", values.join(", ")))).unwrap();
        sqlite.execute_batch("BEGIN").unwrap();
        let mut insert = sqlite.prepare_cached(INSERT).unwrap();
        for id in ids {
            insert.execute((id, text(id))).unwrap();
        }
        sqlite.execute_batch("COMMIT").unwrap();
    }
}

async fn update(mut session: Session, rows: i64, from: i64) -> f64 {
    let prepared = session.prepare(UPDATE).unwrap();
    let (begun, mut count) = (Instant::now(), 0);
    while begun.elapsed() < ROUND {
        let parameters = [drawn(from + count, rows).into(), text(count).into()];
        let Outcome::Done(done) = session.run_prepared(&prepared, &parameters).await.unwrap() else {
            panic!("it gives rows")
        };
        assert_eq!(done.rows, Some(1));
        count += 1;
    }
    count as f64 / begun.elapsed().as_secs_f64()
}

fn update_sqlite(sqlite: &Connection, rows: i64, from: i64) -> f64 {
    let mut statement = sqlite.prepare(UPDATE).unwrap();
    let (begun, mut count) = (Instant::now(), 0);
    while begun.elapsed() < ROUND {
        assert_eq!(statement.execute((drawn(from + count, rows), text(count))).unwrap(), 1);
        count += 1;
    }
    count as f64 / begun.elapsed().as_secs_f64()
}

async fn insert(mut session: Session, next_id: Arc<AtomicI64>, begun: Instant) -> u64 {
    let prepared = session.prepare(INSERT).unwrap();
    let mut count = 0;
    while begun.elapsed() < ROUND {
        let id = next_id.fetch_add(1, Ordering::Relaxed);
        session.run_prepared(&prepared, &[Parameter::Int(id), Parameter::Text(text(id))]).await.unwrap();
        count += 1;
    }
    count
}

fn insert_sqlite(sqlite: &Connection, next_id: &AtomicI64, begun: Instant) -> u64 {
    let mut statement = sqlite.prepare(INSERT).unwrap();
    let mut count = 0;
    while begun.elapsed() < ROUND {
        let id = next_id.fetch_add(1, Ordering::Relaxed);
        statement.execute((id, text(id))).unwrap();
        count += 1;
    }
    count
}

/// Commits of one row through servers.
fn servers(runtime: &Runtime, directory: &Path) {
    let Some(postgres) = Postgres::find_with(true) else { return };
    let server = Server::start(&directory.join("server"));
    let next_id = Arc::new(AtomicI64::new(0));
    let (first, postmaster) = runtime.block_on(async {
        let mut sql = SqlClient::new(channel(&server).await);
        execute(&mut sql, CREATE, Vec::new()).await;
        let client = postgres_client(&postgres).await;
        client.batch_execute(CREATE).await.unwrap();
        let backend: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        (client, parent(backend.unsigned_abs()))
    });
    for (clients, is_pipelined) in [(1, false), (1, true), (CLIENTS, false), (CLIENTS, true)] {
        let (mut ours, mut theirs, mut our_each, mut their_each) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let cpu = || cpu_of(server.id());
            let (rate, each) = runtime.block_on(async {
                let mut commits = Vec::new();
                let mut connection = channel(&server).await;
                for client in 0..clients {
                    if client > 0 && client % CLIENTS_PER_CONNECTION == 0 {
                        connection = channel(&server).await;
                    }
                    commits.push(commit(SqlClient::new(connection.clone()), is_pipelined, Arc::clone(&next_id)));
                }
                measure(commits, cpu).await
            });
            ours.push(rate);
            our_each.push(each);
            let cpu = || cpu_of_family(postmaster);
            let (rate, each) = runtime.block_on(async {
                let mut commits = Vec::new();
                for _ in 0..clients {
                    commits.push(commit_postgres(postgres_client(&postgres).await, Arc::clone(&next_id)));
                }
                measure(commits, cpu).await
            });
            theirs.push(rate);
            their_each.push(each);
        }
        let what = if is_pipelined { "in a pipeline" } else { "a call for each" };
        report(&format!("commits of one row, {clients} clients, {what}"), ours, "PostgreSQL", theirs);
        report(
            &format!("the same, for each second of the server, {clients} clients, {what}"),
            our_each,
            "PostgreSQL",
            their_each,
        );
    }
    drop(first);
}

/// How many are done a second, and in each second that the server computes.
async fn measure<F>(work: Vec<F>, cpu: impl Fn() -> f64) -> (f64, f64)
where
    F: Future<Output = u64> + Send + 'static,
{
    let (begun, before) = (Instant::now(), cpu());
    let counts = join_all(work.into_iter().map(tokio::spawn)).await;
    let (seconds, computed) = (begun.elapsed().as_secs_f64(), cpu() - before);
    let count = counts.into_iter().map(Result::unwrap).sum::<u64>() as f64;
    (count / seconds, count / computed)
}

async fn channel(server: &Server) -> Channel {
    Channel::from_shared(server.url()).unwrap().connect().await.unwrap()
}

async fn execute(sql: &mut SqlClient<Channel>, text: &str, parameters: Vec<Value>) {
    let request = ExecuteRequest { sql: text.to_owned(), parameters, ..ExecuteRequest::default() };
    let mut answers = sql.execute(request).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
}

/// Commits one row after another: by calls of their own, or all in one.
async fn commit(mut sql: SqlClient<Channel>, is_pipelined: bool, next_id: Arc<AtomicI64>) -> u64 {
    let mut pipeline = match is_pipelined {
        false => None,
        true => {
            let (sender, requests) = mpsc::channel(1);
            let answers = sql.pipeline(ReceiverStream::new(requests)).await.unwrap().into_inner();
            Some((sender, answers))
        }
    };
    let (begun, mut count) = (Instant::now(), 0);
    while begun.elapsed() < ROUND {
        let id = next_id.fetch_add(1, Ordering::Relaxed);
        let parameters = [Kind::Int(id), Kind::Text(text(id))].map(|kind| Value { kind: Some(kind) }).into();
        match &mut pipeline {
            None => execute(&mut sql, INSERT, parameters).await,
            Some((requests, answers)) => {
                let request = ExecuteRequest { sql: INSERT.to_owned(), parameters, ..ExecuteRequest::default() };
                requests.send(request).await.unwrap();
                while !is_end(&answers.message().await.unwrap().unwrap()) {}
            }
        }
        count += 1;
    }
    count
}

/// Whether a request of a pipeline is done; it has not failed.
fn is_end(answer: &ExecuteResponse) -> bool {
    match &answer.answer {
        Some(Answer::End(end)) => {
            assert_eq!(end.failure, None);
            true
        }
        _ => false,
    }
}

async fn postgres_client(postgres: &Postgres) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(&postgres.connection, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn commit_postgres(client: tokio_postgres::Client, next_id: Arc<AtomicI64>) -> u64 {
    let statement = client.prepare(INSERT).await.unwrap();
    let (begun, mut count) = (Instant::now(), 0);
    while begun.elapsed() < ROUND {
        let id = next_id.fetch_add(1, Ordering::Relaxed);
        client.execute(&statement, &[&id, &text(id)]).await.unwrap();
        count += 1;
    }
    count
}

/// What `/proc` says of a process behind its name: its state, its parent, …
fn stat(process: u32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    Some(stat.rsplit(')').next()?.split_whitespace().map(str::to_owned).collect())
}

fn parent(process: u32) -> u32 {
    stat(process).unwrap()[1].parse().unwrap()
}

/// Seconds that a process has computed.
fn cpu_of(process: u32) -> f64 {
    ticks(&stat(process).unwrap()[11..13])
}

/// The same of a process, its children, and those that have ended.
fn cpu_of_family(process: u32) -> f64 {
    let processes =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let children = processes.filter_map(stat).filter(|stat| stat[1] == process.to_string());
    children.map(|stat| ticks(&stat[11..13])).sum::<f64>() + ticks(&stat(process).unwrap()[11..15])
}

fn ticks(fields: &[String]) -> f64 {
    fields.iter().map(|field| field.parse::<f64>().unwrap()).sum::<f64>() / TICKS_PER_SECOND
}

/// Linux's, for whoever asks in /proc.
const TICKS_PER_SECOND: f64 = 100.0;
