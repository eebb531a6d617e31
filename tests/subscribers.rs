//! A thousand subscribers of one server, ten of which stop reading: every commit is accepted, each is told every change once and in
//! order, and who has stopped goes on from his cursor.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/server.rs"]
mod server;

use highwater_proto::v1::changefeed_client::ChangefeedClient;
use highwater_proto::v1::sql_client::SqlClient;
use highwater_proto::v1::subscribe_request::Request as Wanted;
use highwater_proto::v1::subscribe_start::From;
use highwater_proto::v1::{
    Cursor, EventKind, ExecuteRequest, Now, SubscribeRequest, SubscribeResponse, SubscribeStart,
};
use serde_json::Value;
use server::Server;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

const SUBSCRIBERS: usize = 1_000;
const STALLED: usize = 10;
const COMMITS: i64 = 300;
const CREDIT_BYTES: usize = 2_000;
/// The longest line here, generously: a batch ends with the one that uses up the credit, or with its whole commit.
const LINE_BYTES_MAX: usize = 500;

struct Subscriber {
    answers: Streaming<SubscribeResponse>,
    /// Requests end with it.
    _requests: mpsc::Sender<SubscribeRequest>,
    ids: Vec<i64>,
    bytes: usize,
    cursor: Option<Cursor>,
}

impl Subscriber {
    async fn start(channel: Channel, from: From, credit_bytes: Option<u64>) -> Self {
        let (requests, wanted) = mpsc::channel(1);
        let start = SubscribeStart {
            tables: vec!["t".to_owned()],
            from: Some(from),
            credit_bytes,
            ..SubscribeStart::default()
        };
        let first = SubscribeRequest { request: Some(Wanted::Start(start)) };
        let all = tokio_stream::once(first).chain(ReceiverStream::new(wanted));
        let answers = ChangefeedClient::new(channel).subscribe(all).await.unwrap().into_inner();
        Self { answers, _requests: requests, ids: Vec::new(), bytes: 0, cursor: None }
    }

    /// Takes the next message; returns what it is about.
    async fn step(&mut self) -> EventKind {
        let message = self.answers.message().await.unwrap().unwrap();
        for line in std::str::from_utf8(&message.lines).unwrap().lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            self.ids.extend(event["key"]["id"].as_i64());
        }
        self.bytes += message.lines.len();
        self.cursor = message.cursor.clone().or(self.cursor.take());
        message.kind()
    }

    async fn read_to_ready(&mut self) {
        while self.step().await != EventKind::Ready {}
    }

    async fn read_to_the_end(&mut self) {
        while self.ids.last() != Some(&(COMMITS - 1)) {
            self.step().await;
        }
    }
}

#[test]
fn nobody_is_told_less_or_more_for_those_who_do_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let connect = async || Channel::from_shared(server.url()).unwrap().connect().await.unwrap();
        let mut sql = SqlClient::new(connect().await);
        let mut run = async |text: String| {
            let request = ExecuteRequest { sql: text, ..ExecuteRequest::default() };
            let mut answers = sql.execute(request).await.unwrap().into_inner();
            while answers.message().await.unwrap().is_some() {}
        };
        run("CREATE TABLE t (id bigint PRIMARY KEY, v text)".to_owned()).await;
        let (mut readers, mut stalled) = (Vec::new(), Vec::new());
        let mut channel = connect().await;
        for number in 0..SUBSCRIBERS {
            if number % 50 == 49 {
                channel = connect().await;
            }
            let is_stalled = number < STALLED;
            let credit = is_stalled.then_some(CREDIT_BYTES as u64);
            let mut subscriber = Subscriber::start(channel.clone(), From::Now(Now {}), credit).await;
            subscriber.read_to_ready().await;
            if is_stalled {
                stalled.push(subscriber);
            } else {
                readers.push(tokio::spawn(async move {
                    subscriber.read_to_the_end().await;
                    subscriber.ids
                }));
            }
        }
        for id in 0..COMMITS {
            run(format!("INSERT INTO t VALUES ({id}, 'value {id}')")).await;
        }
        let all: Vec<i64> = (0..COMMITS).collect();
        for reader in readers {
            assert!(reader.await.unwrap() == all, "every change once, in order");
        }
        for mut subscriber in stalled {
            // What credit there was is there by now; more does not come.
            while subscriber.bytes < CREDIT_BYTES {
                subscriber.step().await;
            }
            assert!(subscriber.bytes < CREDIT_BYTES + LINE_BYTES_MAX, "{}", subscriber.bytes);
            let told = subscriber.ids.len();
            assert!(0 < told && told < all.len());
            let cursor = subscriber.cursor.take().unwrap();
            drop(subscriber._requests);
            let mut again = Subscriber::start(channel.clone(), From::After(cursor), None).await;
            again.read_to_the_end().await;
            assert!([subscriber.ids, again.ids].concat() == all, "the rest, from where it stood");
        }
    });
}
