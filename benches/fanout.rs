//! Many subscribers of one table: what they cost the writer, and how many deliveries a second there can be.
//!
//! `cargo bench --bench fanout [-- SUBSCRIBERS]` (default: 1,000), against a real server, everybody on this machine. First commits of
//! one row are due 200 times a second whatever became of those before (an open loop); a latency counts from when the commit was due until
//! it was acknowledged. Rounds in which all subscribers read take turns with rounds in which ten of them don't. Then eight writers commit
//! as fast as they can; and so they do, with messages as long as our lines, beside a NATS server, if `scripts/components nats` has put one there.

#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

#[path = "../tests/support/component.rs"]
mod component;
#[path = "fanout/nats.rs"]
mod nats;
#[path = "../tests/support/server.rs"]
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use highwater_proto::v1::changefeed_client::ChangefeedClient;
use highwater_proto::v1::sql_client::SqlClient;
use highwater_proto::v1::subscribe_request::Request as Wanted;
use highwater_proto::v1::subscribe_start::From;
use highwater_proto::v1::{EventKind, ExecuteRequest, Now, SubscribeRequest, SubscribeResponse, SubscribeStart};
use nats::Nats;
use server::Server;
use tonic::Streaming;
use tonic::transport::Channel;

/// The program's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const COMMITS_PER_SECOND: u64 = 200;
const ROUND: Duration = Duration::from_secs(10);
const ROUNDS: usize = 3;
const STALLED: usize = 10;
const WRITERS: u64 = 8;
const SUBSCRIBERS_PER_CONNECTION: usize = 50;

fn main() {
    let subscribers = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(1_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run(subscribers));
}

async fn run(subscribers: usize) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let server = Server::start(directory.path());
    let channel = connect(&server).await;
    let mut sql = SqlClient::new(channel.clone());
    execute(&mut sql, "CREATE TABLE t (id bigint PRIMARY KEY, v text)".to_owned()).await;
    let next_id = Arc::new(AtomicU64::new(0));
    println!("server idle: {} MiB resident", resident(server.id()));
    let alone = open_loop(&channel, &next_id).await;
    report("no subscribers", alone);
    let delivered = Arc::new(AtomicU64::new(0));
    let mut held = Vec::new();
    for at in 0..subscribers {
        if at % SUBSCRIBERS_PER_CONNECTION == 0 {
            held.push(connect(&server).await);
        }
        let (answers, delivered) = (subscribe(held.last().unwrap().clone()).await, Arc::clone(&delivered));
        tokio::spawn(read(answers, delivered));
    }
    let (mut reading, mut stalling) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        reading.extend(open_loop(&channel, &next_id).await);
        let mut stalled = Vec::new();
        for _ in 0..STALLED {
            // Each over a connection of its own, whose windows fill.
            stalled.push(subscribe(connect(&server).await).await);
        }
        stalling.extend(open_loop(&channel, &next_id).await);
        drop(stalled);
    }
    report(&format!("{subscribers} subscribers"), reading);
    report(&format!("the same, and {STALLED} that do not read"), stalling);
    println!("server: {} MiB resident", resident(server.id()));
    let line_bytes = saturate(&server, &channel, &next_id, &delivered).await;
    println!("server: {} MiB resident", resident(server.id()));
    drop(server);
    if let Some(nats) = Nats::start(directory.path()) {
        saturate_nats(&nats, subscribers, line_bytes).await;
    }
}

/// The same by NATS.
async fn saturate_nats(nats: &Nats, subscribers: usize, bytes: usize) {
    let delivered = Arc::new(AtomicU64::new(0));
    for from in (0..subscribers).step_by(SUBSCRIBERS_PER_CONNECTION) {
        let count = SUBSCRIBERS_PER_CONNECTION.min(subscribers - from);
        nats.subscribe(count, Arc::clone(&delivered)).await;
    }
    let (begun, cpu) = (Instant::now(), cpu_seconds(nats.id()));
    let publishers = (0..WRITERS).map(|_| nats.publish(bytes, begun + ROUND));
    let messages: u64 = futures::future::join_all(publishers).await.into_iter().sum();
    told("NATS", begun, messages, delivered.load(Ordering::Relaxed), cpu_seconds(nats.id()) - cpu);
    println!("NATS: {} MiB resident", resident(nats.id()));
}

async fn connect(server: &Server) -> Channel {
    Channel::from_shared(server.url()).unwrap().connect().await.unwrap()
}

async fn execute(sql: &mut SqlClient<Channel>, text: String) {
    let mut answers =
        sql.execute(ExecuteRequest { sql: text, ..ExecuteRequest::default() }).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
}

async fn insert(sql: &mut SqlClient<Channel>, next_id: &AtomicU64) {
    let id = next_id.fetch_add(1, Ordering::Relaxed);
    execute(sql, format!("INSERT INTO t VALUES ({id}, '{}')", "x".repeat(100))).await;
}

/// A subscriber from now on, when no later commit can be missed.
async fn subscribe(channel: Channel) -> Streaming<SubscribeResponse> {
    let start =
        SubscribeStart { tables: vec!["t".to_owned()], from: Some(From::Now(Now {})), ..SubscribeStart::default() };
    let requests = futures::stream::iter([SubscribeRequest { request: Some(Wanted::Start(start)) }]);
    let mut answers = ChangefeedClient::new(channel).subscribe(requests).await.unwrap().into_inner();
    while answers.message().await.unwrap().unwrap().kind() != EventKind::Ready {}
    answers
}

async fn read(mut answers: Streaming<SubscribeResponse>, delivered: Arc<AtomicU64>) {
    while let Ok(Some(message)) = answers.message().await {
        if message.kind() == EventKind::Changes {
            delivered.fetch_add(message.line_count.into(), Ordering::Relaxed);
        }
    }
}

/// Latencies of commits at the fixed rate, in microseconds.
async fn open_loop(channel: &Channel, next_id: &Arc<AtomicU64>) -> Vec<u64> {
    let begun = Instant::now();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (mut sql, next_id) = (SqlClient::new(channel.clone()), Arc::clone(next_id));
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                for turn in (writer..).step_by(usize::try_from(WRITERS).unwrap()) {
                    let due = begun + Duration::from_nanos(turn * 1_000_000_000 / COMMITS_PER_SECOND);
                    if due > begun + ROUND {
                        return latencies;
                    }
                    tokio::time::sleep_until(due.into()).await;
                    insert(&mut sql, &next_id).await;
                    latencies.push(u64::try_from(due.elapsed().as_micros()).unwrap());
                }
                latencies
            })
        })
        .collect();
    let mut latencies = Vec::new();
    for writer in writers {
        latencies.extend(writer.await.unwrap());
    }
    latencies
}

/// Commits as fast as they go, and what is delivered meanwhile. Returns how long a line is.
async fn saturate(server: &Server, channel: &Channel, next_id: &Arc<AtomicU64>, delivered: &AtomicU64) -> usize {
    let mut one = subscribe(channel.clone()).await;
    insert(&mut SqlClient::new(channel.clone()), next_id).await;
    let line_bytes = one.message().await.unwrap().unwrap().lines.len();
    drop(one);
    let (begun, before) = (Instant::now(), delivered.load(Ordering::Relaxed));
    let (first, cpu) = (next_id.load(Ordering::Relaxed), cpu_seconds(server.id()));
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let (mut sql, next_id) = (SqlClient::new(channel.clone()), Arc::clone(next_id));
            tokio::spawn(async move {
                while begun.elapsed() < ROUND {
                    insert(&mut sql, &next_id).await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let (deliveries, commits) = (delivered.load(Ordering::Relaxed) - before, next_id.load(Ordering::Relaxed) - first);
    told("saturated", begun, commits, deliveries, cpu_seconds(server.id()) - cpu);
    line_bytes
}

fn told(what: &str, begun: Instant, messages: u64, deliveries: u64, cpu: f64) {
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{what}: {:.0} messages/s, {:.0} deliveries/s, {:.0} deliveries per server CPU-second",
        messages as f64 / seconds,
        deliveries as f64 / seconds,
        deliveries as f64 / cpu
    );
}

fn report(what: &str, mut latencies: Vec<u64>) {
    latencies.sort_unstable();
    let at =
        |share: f64| latencies[((latencies.len() as f64 * share) as usize).min(latencies.len() - 1)] as f64 / 1_000.0;
    println!("{what}: {} commits, ms until acknowledged: p50 {:.2}, p99 {:.2}", latencies.len(), at(0.5), at(0.99));
}

/// What a process has in memory, in MiB.
fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
}

/// What a process has computed, in seconds, on all cores together.
fn cpu_seconds(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / TICKS_PER_SECOND
}

/// Linux's, for whoever asks in /proc.
const TICKS_PER_SECOND: f64 = 100.0;
