//! Many requests in one call.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/server.rs"]
mod server;

use std::time::Duration;

use highwater_proto::v1::execute_response::Answer;
use highwater_proto::v1::operations_client::OperationsClient;
use highwater_proto::v1::sql_client::SqlClient;
use highwater_proto::v1::value::Kind;
use highwater_proto::v1::{
    ExecuteRequest, ExecuteResponse, Failure, OpenSessionRequest, StatusRequest, Value, WriteNumber,
};
use server::Server;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

/// A pipeline, from its client's side.
struct Pipeline {
    requests: mpsc::Sender<ExecuteRequest>,
    answers: Streaming<ExecuteResponse>,
}

/// What a request was answered.
#[derive(Debug, Default)]
struct Answered {
    rows: Vec<Vec<Option<Kind>>>,
    tags: Vec<String>,
    commit_lsn: Option<u64>,
    is_duplicate: bool,
    failure: Option<Failure>,
}

impl Answered {
    fn sqlstate(&self) -> &str {
        self.failure.as_ref().map_or("", |failure| &failure.sqlstate)
    }

    fn int(&self) -> i64 {
        match self.rows[..] {
            [ref row] => match row[..] {
                [Some(Kind::Int(value))] => value,
                _ => panic!("{self:?}"),
            },
            _ => panic!("{self:?}"),
        }
    }
}

fn request(sql: impl Into<String>) -> ExecuteRequest {
    ExecuteRequest { sql: sql.into(), ..ExecuteRequest::default() }
}

impl Pipeline {
    async fn open(channel: &Channel) -> Self {
        let (requests, wanted) = mpsc::channel(10_000);
        let answers = SqlClient::new(channel.clone()).pipeline(ReceiverStream::new(wanted)).await.unwrap().into_inner();
        Self { requests, answers }
    }

    async fn send(&self, request: ExecuteRequest) {
        self.requests.send(request).await.unwrap();
    }

    /// What the next request is answered; `None`: the call is over.
    async fn next(&mut self) -> Option<Answered> {
        let mut answered = Answered::default();
        while let Some(message) = self.answers.message().await.unwrap() {
            match message.answer.unwrap() {
                Answer::Header(_) => {}
                Answer::Rows(rows) => {
                    let values =
                        |row: highwater_proto::v1::Row| row.values.into_iter().map(|value| value.kind).collect();
                    answered.rows.extend(rows.rows.into_iter().map(values));
                }
                Answer::Arrow(_) => panic!("nobody asked for Arrow"),
                Answer::Completion(completion) => {
                    answered.tags.push(completion.tag);
                    answered.commit_lsn = completion.commit_lsn;
                    answered.is_duplicate = completion.is_duplicate;
                }
                Answer::End(end) => {
                    answered.failure = end.failure;
                    return Some(answered);
                }
            }
        }
        None
    }

    async fn ask(&mut self, request: ExecuteRequest) -> Answered {
        self.send(request).await;
        self.next().await.unwrap()
    }

    async fn run(&mut self, sql: &str) -> Answered {
        self.ask(request(sql)).await
    }
}

async fn connect(server: &Server) -> Channel {
    Channel::from_shared(server.url()).unwrap().connect().await.unwrap()
}

fn run(test: impl AsyncFnOnce(&Server)) {
    let directory = tempfile::tempdir().unwrap();
    let environment = [("HIGHWATER__SERVER__SESSION_IDLE_SECONDS", std::ffi::OsStr::new("1"))];
    let server = Server::start_with(directory.path(), &environment);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(test(&server));
    assert_eq!(server.terminate().code(), Some(0));
}

#[test]
fn requests_are_answered_in_their_order_and_one_that_fails_ends_nothing() {
    run(async |server| {
        let mut pipeline = Pipeline::open(&connect(server).await).await;
        pipeline.run("CREATE TABLE t (id bigint PRIMARY KEY, v text)").await;
        let value = |kind| Value { kind: Some(kind) };
        let insert = |id: i64| ExecuteRequest {
            parameters: vec![value(Kind::Int(id)), value(Kind::Text(format!("row {id}")))],
            ..request("INSERT INTO t VALUES ($1, $2)")
        };
        let read = |id: i64| ExecuteRequest {
            parameters: vec![value(Kind::Int(id))],
            ..request("SELECT v FROM t WHERE id = $1")
        };
        // All are sent before an answer is read: short ones, some that fail, and one that the planner answers.
        for id in 0..1_000 {
            pipeline.send(insert(id)).await;
            pipeline.send(read(id)).await;
            if id % 100 == 0 {
                pipeline.send(insert(id)).await;
                pipeline.send(request("SELECT nothing")).await;
                pipeline.send(request("SELECT count(*) FROM t; SELECT 1 / 0; SELECT 1")).await;
            }
        }
        let mut before = 0;
        for id in 0..1_000 {
            let inserted = pipeline.next().await.unwrap();
            assert_eq!(inserted.tags, ["INSERT 0 1"], "{inserted:?}");
            let lsn = inserted.commit_lsn.unwrap();
            assert!(lsn > before, "{lsn} comes behind {before}");
            before = lsn;
            let found = pipeline.next().await.unwrap();
            assert_eq!(found.rows, [[Some(Kind::Text(format!("row {id}")))]], "its own write is read");
            if id % 100 == 0 {
                assert_eq!(pipeline.next().await.unwrap().sqlstate(), "23505");
                assert_eq!(pipeline.next().await.unwrap().sqlstate(), "42703");
                let half = pipeline.next().await.unwrap();
                assert_eq!((half.sqlstate(), half.int()), ("22012", id + 1), "what stood before the mistake was done");
                assert_eq!(half.tags.len(), 1, "what stands behind the mistake was not");
            }
        }
        drop(pipeline.requests);
        assert!(pipeline.answers.message().await.unwrap().is_none(), "the client has said all");
    });
}

#[test]
fn a_pipeline_has_a_session_which_ends_with_it() {
    run(async |server| {
        let channel = connect(server).await;
        let mut pipeline = Pipeline::open(&channel).await;
        let mut other = Pipeline::open(&channel).await;
        pipeline.run("CREATE SCHEMA s; CREATE TABLE s.t (id bigint PRIMARY KEY); SET search_path = 's'").await;
        for id in 1..=3 {
            // The table of that name that the session means, also where the text is known, and its way round the planner.
            let parameters = vec![Value { kind: Some(Kind::Int(id)) }];
            let insert = ExecuteRequest { parameters, ..request("INSERT INTO t VALUES ($1)") };
            let inserted = pipeline.ask(insert.clone()).await;
            assert_eq!(inserted.tags, ["INSERT 0 1"], "{inserted:?}");
            assert_eq!(other.ask(insert).await.sqlstate(), "42P01");
        }
        pipeline.run("PREPARE one AS SELECT count(*) FROM t").await;
        let own_and_other = async |pipeline: &mut Pipeline, other: &mut Pipeline| {
            let own = pipeline.run("EXECUTE one").await.int();
            (own, other.run("SELECT count(*) FROM s.t").await.int())
        };
        pipeline.run("BEGIN").await;
        pipeline.run("INSERT INTO t VALUES (4)").await;
        // Longer than a session may be idle: this one is somebody's.
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(own_and_other(&mut pipeline, &mut other).await, (4, 3));
        pipeline.run("COMMIT").await;
        assert_eq!(own_and_other(&mut pipeline, &mut other).await, (4, 4));
        // A mistake ends a transaction, and not the call.
        pipeline.run("BEGIN; INSERT INTO t VALUES (5)").await;
        assert_eq!(pipeline.run("INSERT INTO t VALUES (5)").await.sqlstate(), "23505");
        assert_eq!(pipeline.run("SELECT 1").await.sqlstate(), "25P02");
        pipeline.run("ROLLBACK").await;
        // A session that was opened for other calls is none of its.
        let opened = SqlClient::new(channel.clone()).open_session(OpenSessionRequest::default()).await.unwrap();
        let within = ExecuteRequest { session: opened.into_inner().session, ..request("SHOW search_path") };
        assert_ne!(pipeline.ask(within).await.rows, pipeline.run("SHOW search_path").await.rows);
        // A numbered write is done once, and stands in no transaction.
        let number = |sequence: u64| Some(WriteNumber { producer: vec![7; 16].into(), sequence });
        let numbered =
            |id: i64| ExecuteRequest { number: number(1), ..request(format!("INSERT INTO t VALUES ({id})")) };
        let first = pipeline.ask(numbered(10)).await;
        let again = pipeline.ask(numbered(11)).await;
        assert!(first.commit_lsn.is_some() && first.commit_lsn == again.commit_lsn && again.is_duplicate, "{again:?}");
        let begin = ExecuteRequest { number: number(2), ..request("BEGIN") };
        assert_eq!(pipeline.ask(begin).await.sqlstate(), "22023", "its number would be the transaction's");
        assert_eq!(pipeline.run("ROLLBACK").await.sqlstate(), "", "there is none open");
        pipeline.run("SET synchronous_commit = off").await;
        assert_eq!(pipeline.ask(numbered(12)).await.sqlstate(), "22023", "nobody would know that it is synced");
        pipeline.run("SET synchronous_commit = on; BEGIN").await;
        assert_eq!(pipeline.ask(numbered(12)).await.sqlstate(), "22023");
        pipeline.run("INSERT INTO t VALUES (13)").await;
        let mut operations = OperationsClient::new(channel.clone());
        let mut sessions = async || operations.status(StatusRequest {}).await.unwrap().into_inner().session_count;
        assert!(sessions().await >= 2);
        drop(pipeline);
        while sessions().await > 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(other.run("SELECT count(*) FROM s.t").await.int(), 5, "what was not committed is gone");
    });
}

#[test]
fn what_is_not_read_is_not_done_and_pipelines_idle_or_busy_end_at_a_stop() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut counting = Pipeline::open(&connect(&server).await).await;
        counting.run("CREATE TABLE t (id bigint PRIMARY KEY)").await;
        // A result without an end is not read; the insert behind it waits, and is not done when its client has gone.
        let slow = Pipeline::open(&connect(&server).await).await;
        slow.send(request("SELECT n, n, n FROM generate_series(1, 1000000000) AS s(n)")).await;
        slow.send(request("INSERT INTO t VALUES (1)")).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(counting.run("SELECT count(*) FROM t").await.int(), 0);
        drop(slow);
        let mut operations = OperationsClient::new(connect(&server).await);
        while operations.status(StatusRequest {}).await.unwrap().into_inner().session_count > 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(counting.run("SELECT count(*) FROM t").await.int(), 0);
        // One that always has another request ends, too.
        let Pipeline { requests, mut answers } = Pipeline::open(&connect(&server).await).await;
        let sending = tokio::spawn(async move { while requests.send(request("SELECT 1")).await.is_ok() {} });
        let busy = tokio::spawn(async move {
            let mut refused = 0;
            loop {
                match answers.message().await {
                    Ok(None) => panic!("the client has not said all"),
                    Ok(Some(ExecuteResponse { answer: Some(Answer::End(end)) })) => {
                        refused += u32::from(end.failure.is_some());
                    }
                    Ok(Some(_)) => {}
                    Err(ended) => return (refused, ended),
                }
            }
        });
        let stopped = tokio::task::spawn_blocking(|| server.terminate());
        let ended = counting.answers.message().await.unwrap_err();
        assert_eq!((ended.code(), ended.message()), (Code::Unavailable, "the server is stopping"));
        assert_eq!(ended.metadata().get("sqlstate").unwrap(), "57P03");
        // Who is sending may hear of the stream that is reset before he hears why.
        let (refused, ended) = busy.await.unwrap();
        assert!(refused <= 1, "the call ends, and not only its requests: {refused} were refused");
        assert!(matches!(ended.code(), Code::Unavailable | Code::Unknown | Code::Cancelled), "{ended}");
        sending.await.unwrap();
        drop((counting, operations));
        assert_eq!(stopped.await.unwrap().code(), Some(0));
    });
}
