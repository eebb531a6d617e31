//! From issuing a commit to its change at a subscriber: a server of ours beside PostgreSQL's logical decoding, in turns.
//!
//! `cargo bench --bench latency`: one row after another, each issued when the one before has arrived and is acknowledged. Ours: a
//! prepared INSERT and a subscription, both through gRPC. PostgreSQL's: a prepared INSERT over its own protocol, and `pg_recvlogical`
//! with `test_decoding`, which sends and writes each change as it comes. Both sync every commit.

#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a bench measures time")]

#[path = "../tests/support/postgres.rs"]
mod postgres;
#[path = "../tests/support/server.rs"]
mod server;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use highwater_proto::v1::changefeed_client::ChangefeedClient;
use highwater_proto::v1::sql_client::SqlClient;
use highwater_proto::v1::subscribe_request::Request as Wanted;
use highwater_proto::v1::subscribe_start::From;
use highwater_proto::v1::value::Kind;
use highwater_proto::v1::{EventKind, ExecuteRequest, Now, SubscribeRequest, SubscribeResponse, SubscribeStart, Value};
use postgres::Postgres;
use server::Server;
use tokio::sync::mpsc;
use tonic::Streaming;
use tonic::transport::Channel;

const ROUNDS: usize = 5;
const COMMITS: i64 = 1_000;
const CREATE: &str = "CREATE TABLE t (id bigint PRIMARY KEY, v text)";
const INSERT: &str = "INSERT INTO t VALUES ($1, $2)";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run());
}

async fn run() {
    let Some(postgres) = Postgres::find_with(true) else { return };
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let server = Server::start(directory.path());
    let mut ours = Ours::begin(&server).await;
    let mut theirs = Theirs::begin(&postgres).await;
    let (mut our_micros, mut their_micros) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS as i64 {
        for id in round * COMMITS..(round + 1) * COMMITS {
            our_micros.push(ours.commit(id).await);
        }
        for id in round * COMMITS..(round + 1) * COMMITS {
            their_micros.push(theirs.commit(id).await);
        }
    }
    let [ours_p50, ours_p99] = quantiles(our_micros);
    let [theirs_p50, theirs_p99] = quantiles(their_micros);
    println!("issued to subscriber, highwater: p50 {ours_p50} µs, p99 {ours_p99} µs");
    println!("issued to subscriber, PostgreSQL: p50 {theirs_p50} µs, p99 {theirs_p99} µs");
    println!("ratio of the medians: {:.2}", ours_p50 as f64 / theirs_p50 as f64);
}

fn quantiles(mut micros: Vec<u128>) -> [u128; 2] {
    micros.sort_unstable();
    [micros[micros.len() / 2], micros[micros.len() * 99 / 100]]
}

fn text(id: i64) -> String {
    format!("{id:0>80}")
}

struct Ours {
    sql: SqlClient<Channel>,
    answers: Streaming<SubscribeResponse>,
}

impl Ours {
    async fn begin(server: &Server) -> Self {
        let channel = Channel::from_shared(server.url()).unwrap().connect().await.unwrap();
        let mut sql = SqlClient::new(channel);
        execute(&mut sql, CREATE, Vec::new()).await;
        let channel = Channel::from_shared(server.url()).unwrap().connect().await.unwrap();
        let from = Some(From::Now(Now {}));
        let start = SubscribeStart { tables: vec!["t".to_owned()], from, ..SubscribeStart::default() };
        let requests = futures::stream::iter([SubscribeRequest { request: Some(Wanted::Start(start)) }]);
        let mut answers = ChangefeedClient::new(channel).subscribe(requests).await.unwrap().into_inner();
        while answers.message().await.unwrap().unwrap().kind() != EventKind::Ready {}
        Self { sql, answers }
    }

    /// Commits a row; returns after how long its change was there.
    async fn commit(&mut self, id: i64) -> u128 {
        let values = [Kind::Int(id), Kind::Text(text(id))].map(|kind| Value { kind: Some(kind) });
        let issued = Instant::now();
        let arrival = async {
            loop {
                let message = self.answers.message().await.unwrap().unwrap();
                if message.kind() == EventKind::Changes {
                    let line = String::from_utf8(message.lines.to_vec()).unwrap();
                    assert!(line.contains(&format!("\"id\":{id}")), "{line}");
                    return issued.elapsed();
                }
            }
        };
        let (arrived, ()) = futures::join!(arrival, execute(&mut self.sql, INSERT, values.into()));
        arrived.as_micros()
    }
}

async fn execute(sql: &mut SqlClient<Channel>, text: &str, parameters: Vec<Value>) {
    let request = ExecuteRequest { sql: text.to_owned(), parameters, ..ExecuteRequest::default() };
    let mut answers = sql.execute(request).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
}

struct Theirs {
    client: tokio_postgres::Client,
    insert: tokio_postgres::Statement,
    receiver: Child,
    /// Each with when it was read.
    lines: mpsc::UnboundedReceiver<(String, Instant)>,
}

impl Theirs {
    async fn begin(postgres: &Postgres) -> Self {
        let (client, connection) = tokio_postgres::connect(&postgres.connection, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute(CREATE).await.unwrap();
        let insert = client.prepare(INSERT).await.unwrap();
        let slot = "SELECT pg_create_logical_replication_slot('bench', 'test_decoding')";
        client.query(slot, &[]).await.unwrap();
        let program = postgres.programs().expect("it was started here").join("pg_recvlogical");
        let mut receiver = Command::new(program)
            .args(["-h", "127.0.0.1", "-p", &postgres.port().unwrap(), "-U", "postgres", "-d", "postgres"])
            .args(["--slot", "bench", "--start", "--fsync-interval", "0", "-f", "-"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(receiver.stdout.take().unwrap());
        let (sender, lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            // Nobody waits for more when the run is over.
            out.lines().map_while(Result::ok).try_for_each(|line| sender.send((line, Instant::now())))
        });
        // It has begun when it tells of a row.
        let mut theirs = Self { client, insert, receiver, lines };
        tokio::time::sleep(Duration::from_secs(1)).await;
        theirs.commit(-1).await;
        theirs
    }

    async fn commit(&mut self, id: i64) -> u128 {
        let issued = Instant::now();
        let lines = &mut self.lines;
        let arrival = async {
            loop {
                let (line, read) = lines.recv().await.unwrap();
                if line.contains(&format!("id[bigint]:{id} ")) {
                    return read - issued;
                }
            }
        };
        let text = text(id);
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&id, &text];
        let (arrived, written) = futures::join!(arrival, self.client.execute(&self.insert, &values));
        assert_eq!(written.unwrap(), 1);
        arrived.as_micros()
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.receiver.kill();
        let _ = self.receiver.wait();
    }
}
