//! The real server under load is killed with SIGKILL, again and again: what it acknowledged is there, once, at its LSN; what nobody
//! knows the outcome of is settled by trying again; and a feed that goes on from its cursor folds to the tables.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/server.rs"]
mod server;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use highwater_proto::v1::changefeed_client::ChangefeedClient;
use highwater_proto::v1::execute_response::Answer;
use highwater_proto::v1::sql_client::SqlClient;
use highwater_proto::v1::subscribe_request::Request as Wanted;
use highwater_proto::v1::subscribe_start::From;
use highwater_proto::v1::{
    BeginRequest, CommitRequest, Cursor, EventKind, ExecuteRequest, SubscribeRequest, SubscribeStart, WriteNumber,
    value,
};
use serde_json::Value;
use server::Server;
use tonic::Status;
use tonic::transport::Channel;

const WRITERS: u64 = 4;
const ACKNOWLEDGED_MIN: u64 = 100;

fn cycles() -> u64 {
    if std::env::var_os("HIGHWATER_LONG").is_some() { 200 } else { 20 }
}

/// One writer's view of what it has done.
#[derive(Clone, Debug)]
struct Writer {
    number: u64,
    /// The sequence of its next write, which may have been tried already.
    next: u64,
    /// The LSN of each write that was acknowledged, by sequence.
    acknowledged: BTreeMap<u64, u64>,
}

impl Writer {
    /// Writes until the server is gone; the last write's outcome is unknown then.
    async fn write(&mut self, mut sql: SqlClient<Channel>, count: Arc<AtomicU64>) {
        loop {
            match self.write_once(&mut sql).await {
                Ok(lsn) => {
                    assert!(self.acknowledged.values().next_back().is_none_or(|last| *last < lsn), "LSNs rise");
                    self.acknowledged.insert(self.next, lsn);
                    self.next += 1;
                    count.fetch_add(1, Ordering::Relaxed);
                }
                // All writers touch one row now and then.
                Err(error) if error.metadata().get("sqlstate").is_some_and(|code| code == "40001") => {}
                Err(error) => {
                    assert!(error.metadata().get("sqlstate").is_none(), "only the kill ends it: {error}");
                    return;
                }
            }
        }
    }

    /// A transaction over two tables; tried again, it is done once.
    async fn write_once(&self, sql: &mut SqlClient<Channel>) -> Result<u64, Status> {
        let (writer, sequence) = (self.number, self.next);
        let mut producer = vec![7; 16];
        producer[0] = u8::try_from(writer).unwrap();
        let number = WriteNumber { producer: producer.into(), sequence };
        let begun = sql.begin(BeginRequest { number: Some(number), ..BeginRequest::default() }).await?.into_inner();
        if let Some(lsn) = begun.committed_lsn {
            return Ok(lsn);
        }
        let total = if sequence.is_multiple_of(10) { WRITERS } else { writer };
        let text = format!(
            "INSERT INTO entries VALUES ({writer}, {sequence}, 'entry {sequence} of {writer}');
             UPDATE totals SET n = n + 1 WHERE writer = {total}"
        );
        let request = ExecuteRequest { sql: text, session: begun.session.clone(), ..ExecuteRequest::default() };
        let mut answers = sql.execute(request).await?.into_inner();
        while answers.message().await?.is_some() {}
        let committed =
            sql.commit(CommitRequest { session: begun.session, ..CommitRequest::default() }).await?.into_inner();
        Ok(committed.commit_lsn.unwrap())
    }
}

async fn rows(sql: &mut SqlClient<Channel>, text: &str) -> Vec<Vec<i64>> {
    let request = ExecuteRequest { sql: text.to_owned(), ..ExecuteRequest::default() };
    let mut answers = sql.execute(request).await.unwrap().into_inner();
    let mut found = Vec::new();
    while let Some(message) = answers.message().await.unwrap() {
        if let Some(Answer::Rows(rows)) = message.answer {
            for row in rows.rows {
                let number = |value: &highwater_proto::v1::Value| match value.kind {
                    Some(value::Kind::Int(number)) => number,
                    _ => panic!("a number is due in {text}"),
                };
                found.push(row.values.iter().map(number).collect());
            }
        }
    }
    found
}

/// What a feed has told, folded; and where it stood.
#[derive(Default)]
struct Fold {
    cursor: Option<Cursor>,
    rows: BTreeMap<String, Value>,
    last: (u64, u64),
}

impl Fold {
    /// Reads on from the cursor up to everything that there is.
    async fn catch_up(&mut self, mut feeds: ChangefeedClient<Channel>) {
        let from = match &self.cursor {
            Some(cursor) => From::After(cursor.clone()),
            None => From::AfterLsn(0),
        };
        let tables = vec!["entries".to_owned(), "totals".to_owned()];
        let start = SubscribeStart { tables, from: Some(from), ..SubscribeStart::default() };
        let requests = futures::stream::iter([SubscribeRequest { request: Some(Wanted::Start(start)) }]);
        let mut answers = feeds.subscribe(requests).await.unwrap().into_inner();
        while let Some(message) = answers.message().await.unwrap() {
            for line in std::str::from_utf8(&message.lines).unwrap().lines() {
                let event: Value = serde_json::from_str(line).unwrap();
                let Some(operation) = event.get("op") else { continue };
                let place = (event["lsn"].as_u64().unwrap(), event["pos"].as_u64().unwrap() + 1);
                assert!(place > self.last, "in order, each once: {place:?} behind {:?}", self.last);
                self.last = place;
                let key = format!("{} {}", event["table"], event["key"]);
                let old = if operation == "insert" { None } else { self.rows.remove(&key) };
                assert_eq!(old.unwrap_or_default(), event["before"], "{line}");
                if operation != "delete" {
                    assert_eq!(self.rows.insert(key, event["after"].clone()), None, "{line}");
                }
            }
            self.cursor = message.cursor.clone();
            if message.kind() == EventKind::Ready {
                return;
            }
        }
        panic!("the feed ended");
    }
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_is_done_twice() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut writers: Vec<_> =
        (0..WRITERS).map(|number| Writer { number, next: 1, acknowledged: BTreeMap::new() }).collect();
    let mut fold = Fold::default();
    for cycle in 0..=cycles() {
        let server = Server::start(directory.path());
        runtime.block_on(async {
            let channel = Channel::from_shared(server.url()).unwrap().connect().await.unwrap();
            let mut sql = SqlClient::new(channel.clone());
            if cycle == 0 {
                let values: Vec<_> = (0..=WRITERS).map(|writer| format!("({writer}, 0)")).collect();
                let text = format!(
                    "CREATE TABLE entries (writer bigint, sequence bigint, note text, PRIMARY KEY (writer, sequence));
                     CREATE TABLE totals (writer bigint PRIMARY KEY, n bigint);
                     INSERT INTO totals VALUES {}",
                    values.join(",")
                );
                rows(&mut sql, &text).await;
            }
            check(&mut sql, &mut writers).await;
            fold.catch_up(ChangefeedClient::new(channel.clone())).await;
            let tables = tables(&mut sql).await;
            assert!(tables == folded(&fold.rows), "the feed folds to the tables");
            assert_eq!(
                rows(&mut sql, "SELECT count(*) FROM entries").await[0][0],
                i64::try_from(tables[0].len()).unwrap()
            );
            if cycle == cycles() {
                assert!(tables[0].len() as u64 >= cycles() * ACKNOWLEDGED_MIN);
                return;
            }
            let count = Arc::new(AtomicU64::new(0));
            let tasks: Vec<_> = writers
                .drain(..)
                .map(|mut writer| {
                    let (sql, count) = (SqlClient::new(channel.clone()), Arc::clone(&count));
                    tokio::spawn(async move {
                        writer.write(sql, count).await;
                        writer
                    })
                })
                .collect();
            // Not always at the same place of the writers' work.
            let wanted = ACKNOWLEDGED_MIN + cycle * 7 % 31;
            while count.load(Ordering::Relaxed) < wanted {
                tokio::task::yield_now().await;
            }
            server.kill();
            for task in tasks {
                writers.push(task.await.unwrap());
            }
        });
    }
}

/// What was acknowledged is there; what was under way when the server was killed is there or not, and is not done twice.
async fn check(sql: &mut SqlClient<Channel>, writers: &mut [Writer]) {
    for writer in writers {
        let query =
            format!("SELECT count(*), coalesce(max(sequence), 0) FROM entries WHERE writer = {}", writer.number);
        let found = rows(sql, &query).await;
        let acknowledged = i64::try_from(writer.acknowledged.len()).unwrap();
        let [count, last] = found[0][..] else { panic!() };
        assert_eq!(count, last, "no entry is missing in between");
        assert!(count == acknowledged || count == acknowledged + 1, "{count} entries, {acknowledged} acknowledged");
        let Some((sequence, lsn)) = writer.acknowledged.last_key_value().map(|(a, b)| (*a, *b)) else { continue };
        let at = |lsn: u64| format!("{query} AND sequence = {sequence} AS OF LSN {lsn}");
        assert_eq!(rows(sql, &at(lsn)).await[0][0], 1, "visible at the LSN that was acknowledged");
        assert_eq!(rows(sql, &at(lsn - 1)).await[0][0], 0, "and not before");
        if count > acknowledged {
            let lsn = writer.write_once(sql).await.unwrap();
            assert_eq!(rows(sql, &query).await[0][0], count, "done already, and not done again");
            writer.acknowledged.insert(writer.next, lsn);
            writer.next += 1;
        }
    }
    let [entries, totals] = tables(sql).await;
    let total: i64 = totals.iter().map(|row| row[1]).sum();
    assert_eq!(entries.len() as u64, total as u64, "both tables changed in one commit");
}

/// The tables' rows as SQL gives them: entries that have the text they were written with, and totals.
async fn tables(sql: &mut SqlClient<Channel>) -> [Vec<Vec<i64>>; 2] {
    let entries =
        "SELECT writer, sequence FROM entries WHERE note = 'entry ' || sequence || ' of ' || writer ORDER BY 1, 2";
    [rows(sql, entries).await, rows(sql, "SELECT writer, n FROM totals ORDER BY 1").await]
}

/// The same of what a feed told.
fn folded(rows: &BTreeMap<String, Value>) -> [Vec<Vec<i64>>; 2] {
    let of = |table: &str, columns: [&str; 2]| {
        let is_of_it = |key: &str| key.starts_with(&format!("\"public.{table}\""));
        let rows = rows.iter().filter(|(key, _)| is_of_it(key)).map(|(_, row)| row);
        let mut rows: Vec<_> = rows.map(|row| columns.map(|column| row[column].as_i64().unwrap()).to_vec()).collect();
        rows.sort_unstable();
        rows
    };
    [of("entries", ["writer", "sequence"]), of("totals", ["writer", "n"])]
}
