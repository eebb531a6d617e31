//! The whole way: a recorded stream in (and PostgreSQL's own beside it), a change out to a subscriber, a server's start and its idle
//! memory.
//!
//! `cargo bench --bench spine`. Figures are medians of rounds within one run, but for the longer stream, which is read once. Streams are
//! read by the command as a user would run it, into an empty directory. Subscribers follow while a writer commits one row at a time. A
//! server is started on an empty directory, to the line that says where it serves.

#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

#[path = "../tests/support/postgres.rs"]
mod postgres;
#[path = "spine/stream.rs"]
mod stream;

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use highwater::{Database, Outcome, Server, ServerOptions};
use highwater_changefeed::format::PlainLines;
use highwater_changefeed::{BatchKind, FeedOptions, FeedStart};
use highwater_proto::v1::changefeed_client::ChangefeedClient;
use highwater_proto::v1::execute_response::Answer;
use highwater_proto::v1::sql_client::SqlClient;
use highwater_proto::v1::subscribe_request::Request as Wanted;
use highwater_proto::v1::{EventKind, ExecuteRequest, SubscribeRequest, SubscribeStart, subscribe_start::From};

use postgres::Postgres;

const ROUNDS: usize = 5;
const EVENTS: u64 = 133_786;
const COMMITS: u64 = 5_000;
const BATCH_BYTES: usize = 64 * 1024;

fn main() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    ingest(directory.path());
    postgresql(directory.path());
    start(directory.path());
    delivery(directory.path());
}

fn median<T: PartialOrd + Copy>(mut values: Vec<T>) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).unwrap());
    values[values.len() / 2]
}

fn recorded(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/postgres-cdc").join(name)
}

/// The recorded stream, and one twenty times as long.
fn ingest(directory: &Path) {
    let (plain, schema) = (directory.join("events.jsonl"), directory.join("schema.sql"));
    let mut input = zstd::Decoder::new(std::fs::File::open(recorded("events.jsonl.zst")).unwrap()).unwrap();
    std::io::copy(&mut input, &mut std::fs::File::create(&plain).unwrap()).unwrap();
    let archive = zstd::decode_all(std::fs::File::open(recorded("expected.tar.zst")).unwrap()).unwrap();
    for entry in tar::Archive::new(&archive[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.path().unwrap().ends_with("schema.sql") {
            entry.unpack(&schema).unwrap();
        }
    }
    let timed = |name: &str, input: &Path, rounds: usize, events: u64| {
        let seconds = (0..rounds).map(|round| {
            let data = directory.join(format!("ingest-{name}-{round}"));
            let began = Instant::now();
            let status = Command::new(env!("CARGO_BIN_EXE_highwater"))
                .args(["ingest", "--format", "debezium", "--tables"])
                .arg(&schema)
                .arg("--data")
                .args([&data, &input.to_path_buf()])
                .stderr(Stdio::null())
                .status()
                .unwrap();
            assert!(status.success());
            let seconds = began.elapsed().as_secs_f64();
            std::fs::remove_dir_all(data).unwrap();
            seconds
        });
        let seconds = median(seconds.collect());
        println!("ingest, {name}: {events} events in {seconds:.2} s, {:.0} events/s", per_second(events, seconds));
    };
    timed("plain", &plain, ROUNDS, EVENTS);
    timed("zstd", &recorded("events.jsonl.zst"), ROUNDS, EVENTS);
    let long = directory.join("long.jsonl");
    let events = stream::lengthen(&plain, &long, 20);
    timed("plain, twenty times as long", &long, 1, events);
    std::fs::remove_file(long).unwrap();
}

/// How fast PostgreSQL itself tells the changes of like transactions: pgbench's tables made and 8,000 of its transactions, decoded to
/// text by `test_decoding` and written to a file by `pg_recvlogical`.
fn postgresql(directory: &Path) {
    let Some(postgres) = Postgres::find_with(true) else { return };
    let Some(programs) = postgres.programs() else { return };
    let program = |name: &str| {
        let mut command = Command::new(programs.join(name));
        command.args(["-h", "127.0.0.1", "-p", &postgres.port().unwrap(), "-U", "postgres"]).stderr(Stdio::null());
        command
    };
    let out = directory.join("recvlogical.txt");
    let run = |mut command: Command| assert!(command.stdout(Stdio::null()).status().unwrap().success(), "{command:?}");
    let receive = |arguments: &[&str]| {
        let mut command = program("pg_recvlogical");
        command.args(["-d", "postgres", "--slot", "bench"]).args(arguments);
        run(command);
    };
    receive(&["--create-slot", "--plugin", "test_decoding"]);
    let mut init = program("pgbench");
    init.args(["-i", "-q", "postgres"]);
    run(init);
    let mut load = program("pgbench");
    load.args(["-n", "-c", "2", "-t", "4000", "postgres"]);
    run(load);
    let mut end = program("psql");
    let end = end.args(["-d", "postgres", "-Atc", "SELECT pg_current_wal_flush_lsn()"]).output().unwrap();
    let end = String::from_utf8(end.stdout).unwrap();
    let began = Instant::now();
    receive(&["--start", "--no-loop", "--endpos", end.trim(), "-f", out.to_str().unwrap()]);
    let seconds = began.elapsed().as_secs_f64();
    let lines = BufReader::new(std::fs::File::open(out).unwrap()).lines();
    let events = lines.map(Result::unwrap).filter(|line| line.starts_with("table ")).count() as u64;
    println!("pg_recvlogical: {events} changes in {seconds:.2} s, {:.0} changes/s", per_second(events, seconds));
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn per_second(events: u64, seconds: f64) -> f64 {
    events as f64 / seconds
}

fn start(directory: &Path) {
    let (mut starts, mut idle) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS * 2 {
        let data = directory.join(format!("start-{round}"));
        let began = Instant::now();
        let mut server = Command::new(env!("CARGO_BIN_EXE_highwater"))
            .args(["server", "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--data"])
            .arg(&data)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(server.stderr.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains(" serves "), "{line}");
        starts.push(began.elapsed().as_secs_f64() * 1e3);
        // What it does in the background when it starts is over then.
        std::thread::sleep(Duration::from_secs(5));
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        idle.push(resident.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0);
        server.kill().unwrap();
        server.wait().unwrap();
    }
    println!("start on an empty directory: {:.1} ms", median(starts));
    println!("idle: {:.1} MiB resident", median(idle));
}

/// Who writes, and who follows.
#[derive(Clone, Copy)]
enum End {
    Embedded,
    Grpc,
}

/// How long after the writer has its acknowledgement the change has arrived at a subscriber; zero when it came first.
fn delivery(directory: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let database = Arc::new(Database::open(directory.join("delivery")).unwrap());
    runtime.block_on(async {
        database.sql("CREATE TABLE t (id bigint PRIMARY KEY, v text)").await.unwrap();
        let loopback = ([127, 0, 0, 1], 0).into();
        let options = ServerOptions { grpc_listen: loopback, http_listen: loopback, ..ServerOptions::default() };
        let server = Server::bind(options).await.unwrap();
        let url = format!("http://{}", server.grpc_address());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serving = tokio::spawn(server.ready(Arc::clone(&database)).run(async {
            let _ = stopped.await;
        }));
        let mut first = 0;
        for (name, writer, reader) in [
            ("writer and subscriber through gRPC", End::Grpc, End::Grpc),
            ("embedded writer, subscriber through gRPC", End::Embedded, End::Grpc),
            ("writer and subscriber embedded", End::Embedded, End::Embedded),
        ] {
            let arrived = follow(reader, &database, &url).await;
            let acknowledged = write(writer, &database, &url, first).await;
            first += COMMITS;
            let arrived = arrived.await.unwrap();
            let mut histogram = Histogram::<u64>::new(3).unwrap();
            for (lsn, at) in acknowledged {
                let micros = arrived[&lsn].saturating_duration_since(at).as_nanos() / 100;
                histogram.record(u64::try_from(micros).unwrap()).unwrap();
            }
            let quantile = |quantile| {
                #[expect(clippy::cast_precision_loss, reason = "microseconds for people")]
                let micros = histogram.value_at_quantile(quantile) as f64 / 10.0;
                micros
            };
            println!("acknowledged to subscriber, {name}: p50 {:.0} µs, p99 {:.0} µs", quantile(0.5), quantile(0.99));
        }
        stop.send(()).unwrap();
        serving.await.unwrap().unwrap();
    });
}

/// Commits one row after another; tells when each was acknowledged.
async fn write(end: End, database: &Database, url: &str, first: u64) -> Vec<(u64, Instant)> {
    let mut acknowledged = Vec::new();
    let mut session = database.session();
    let mut sql = SqlClient::connect(url.to_owned()).await.unwrap();
    for id in first..first + COMMITS {
        let statement = format!("INSERT INTO t VALUES ({id}, 'value {id}')");
        let lsn = match end {
            End::Embedded => {
                let Outcome::Done(done) = session.execute(&statement).await.unwrap() else { panic!() };
                done.lsn.unwrap().value()
            }
            End::Grpc => {
                let request = ExecuteRequest { sql: statement, ..ExecuteRequest::default() };
                let mut answers = sql.execute(request).await.unwrap().into_inner();
                match answers.message().await.unwrap().unwrap().answer {
                    Some(Answer::Completion(completion)) => completion.commit_lsn.unwrap(),
                    other => panic!("{other:?}"),
                }
            }
        };
        acknowledged.push((lsn, Instant::now()));
    }
    acknowledged
}

/// Follows the table from now on; the answer tells when each commit arrived.
async fn follow(end: End, database: &Arc<Database>, url: &str) -> tokio::task::JoinHandle<HashMap<u64, Instant>> {
    let mut arrived = HashMap::new();
    let mut note = move |last: u64, count: u64| {
        let now = Instant::now();
        arrived.extend((last + 1 - count..=last).map(|lsn| (lsn, now)));
        (arrived.len() as u64 == COMMITS).then(|| std::mem::take(&mut arrived))
    };
    match end {
        End::Embedded => {
            let mut feed = database.subscribe(&["t"], FeedStart::Now, FeedOptions::default()).unwrap();
            let mut lines = PlainLines::default();
            while feed.next(&mut lines, BATCH_BYTES).await.unwrap().kind != BatchKind::Ready {}
            tokio::spawn(async move {
                loop {
                    lines.take();
                    let batch = feed.next(&mut lines, BATCH_BYTES).await.unwrap();
                    if batch.kind == BatchKind::Changes
                        && let Some(arrived) = note(batch.cursor.unwrap().lsn.value(), batch.count.into())
                    {
                        return arrived;
                    }
                }
            })
        }
        End::Grpc => {
            let mut feeds = ChangefeedClient::connect(url.to_owned()).await.unwrap();
            let from = Some(From::Now(highwater_proto::v1::Now {}));
            let start = SubscribeStart { tables: vec!["t".to_owned()], from, ..SubscribeStart::default() };
            let requests = futures::stream::iter([SubscribeRequest { request: Some(Wanted::Start(start)) }]);
            let mut answers = feeds.subscribe(requests).await.unwrap().into_inner();
            while answers.message().await.unwrap().unwrap().kind() != EventKind::Ready {}
            tokio::spawn(async move {
                loop {
                    let message = answers.message().await.unwrap().unwrap();
                    if message.kind() == EventKind::Changes
                        && let Some(arrived) = note(message.cursor.unwrap().lsn, message.line_count.into())
                    {
                        return arrived;
                    }
                }
            })
        }
    }
}
