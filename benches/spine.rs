//! The whole way: a recorded stream in (and PostgreSQL's own beside it), a change out to a subscriber, a server's start and its idle
//! memory.
//!
//! `cargo bench --bench spine`. Figures are medians of rounds within one run. The recorded stream is read by the command as a user
//! would run it, from a plain and from a compressed file, into an empty directory. A subscriber follows through gRPC while a writer
//! commits one row at a time; what is told is how long after the writer's acknowledgement the change has arrived (zero when it came
//! first). A server is started on an empty directory, to the line that says where it serves.

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
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use highwater::{Database, Outcome, Server, ServerOptions};
use highwater_proto::v1::changefeed_client::ChangefeedClient;
use highwater_proto::v1::subscribe_request::Request as Wanted;
use highwater_proto::v1::{EventKind, SubscribeRequest, SubscribeStart, subscribe_start::From};

use postgres::Postgres;

const ROUNDS: usize = 5;
const EVENTS: u64 = 133_786;
const COMMITS: u64 = 5_000;

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
    let Some(postgres) = Postgres::find() else { return };
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
        std::thread::sleep(Duration::from_millis(500));
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        idle.push(resident.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0);
        server.kill().unwrap();
        server.wait().unwrap();
    }
    println!("start on an empty directory: {:.1} ms", median(starts));
    println!("idle: {:.1} MiB resident", median(idle));
}

fn delivery(directory: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let database = Arc::new(Database::open(directory.join("delivery")).unwrap());
        database.sql("CREATE TABLE t (id bigint PRIMARY KEY, v text)").await.unwrap();
        let loopback = ([127, 0, 0, 1], 0).into();
        let options = ServerOptions { grpc_listen: loopback, http_listen: loopback, ..ServerOptions::default() };
        let server = Server::bind(options).await.unwrap();
        let url = format!("http://{}", server.grpc_address());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serving = tokio::spawn(server.run(Arc::clone(&database), async {
            let _ = stopped.await;
        }));
        let mut feeds = ChangefeedClient::connect(url).await.unwrap();
        let from = Some(From::Now(highwater_proto::v1::Now {}));
        let start = SubscribeStart { tables: vec!["t".to_owned()], from, ..SubscribeStart::default() };
        let requests = futures::stream::iter([SubscribeRequest { request: Some(Wanted::Start(start)) }]);
        let mut answers = feeds.subscribe(requests).await.unwrap().into_inner();
        while answers.message().await.unwrap().unwrap().kind() != EventKind::Ready {}
        let arrived = Arc::new(Mutex::new(HashMap::new()));
        let noted = Arc::clone(&arrived);
        let reader = tokio::spawn(async move {
            let mut count = 0;
            while count < COMMITS {
                let message = answers.message().await.unwrap().unwrap();
                if message.kind() == EventKind::Changes {
                    let now = Instant::now();
                    count += u64::from(message.line_count);
                    let last = message.cursor.unwrap().lsn;
                    let first = last + 1 - u64::from(message.line_count);
                    noted.lock().unwrap().extend((first..=last).map(|lsn| (lsn, now)));
                }
            }
        });
        let mut acknowledged = Vec::new();
        let mut session = database.session();
        for id in 0..COMMITS {
            let outcome = session.execute(&format!("INSERT INTO t VALUES ({id}, 'value {id}')")).await.unwrap();
            let Outcome::Done(done) = outcome else { panic!() };
            acknowledged.push((done.lsn.unwrap().value(), Instant::now()));
        }
        reader.await.unwrap();
        let mut histogram = Histogram::<u64>::new(3).unwrap();
        let arrived = std::mem::take(&mut *arrived.lock().unwrap());
        for (lsn, at) in acknowledged {
            let micros = arrived[&lsn].saturating_duration_since(at).as_nanos() / 100;
            histogram.record(u64::try_from(micros).unwrap()).unwrap();
        }
        let quantile = |quantile| {
            #[expect(clippy::cast_precision_loss, reason = "microseconds for people")]
            let micros = histogram.value_at_quantile(quantile) as f64 / 10.0;
            micros
        };
        println!("acknowledged to subscriber: p50 {:.0} µs, p99 {:.0} µs", quantile(0.5), quantile(0.99));
        stop.send(()).unwrap();
        serving.await.unwrap().unwrap();
    });
}
