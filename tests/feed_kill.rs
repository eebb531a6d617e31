//! A named feed whose server and whose reader are killed with SIGKILL in turn: each change is told past what was acknowledged, once by
//! each reader, and none is missing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/server.rs"]
mod server;

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use highwater_proto::v1::changefeed_client::ChangefeedClient;
use highwater_proto::v1::sql_client::SqlClient;
use highwater_proto::v1::{ExecuteRequest, ListFeedsRequest};
use serde_json::Value;
use server::Server;
use tonic::transport::Channel;

const KILLS: usize = 50;
const COMMITS_MIN: u64 = 30;

/// Where a change stands: its commit, and its place in it.
type Place = (u64, u64);

/// What one reader was told, and what was acknowledged for good when it began.
struct Run {
    acknowledged: Option<Place>,
    told: Vec<(Place, i64)>,
}

fn reader(url: &str, output: &Path, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_highwater"))
        .args([
            "feed",
            "tail",
            "--url",
            url,
            "--name",
            "copy",
            "--claim",
            "take-over",
            "--progress-ms",
            "20",
            "--from",
            "0",
        ])
        .args(arguments)
        .arg("t")
        .stdout(File::create(output).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The changes that whole lines tell: who was killed may have written half of one.
fn told(output: &Path) -> Vec<(Place, i64)> {
    let text = std::fs::read_to_string(output).unwrap();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let events = whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let changes = events.filter(|event| event.get("op").is_some());
    let place = |event: &Value| (event["lsn"].as_u64().unwrap(), event["pos"].as_u64().unwrap());
    changes.map(|event| (place(&event), event["key"]["id"].as_i64().unwrap())).collect()
}

async fn run(sql: &mut SqlClient<Channel>, text: String) -> Result<(), tonic::Status> {
    let mut answers = sql.execute(ExecuteRequest { sql: text, ..ExecuteRequest::default() }).await?.into_inner();
    while answers.message().await?.is_some() {}
    Ok(())
}

/// Inserts rows, one or several a commit, until the server is gone or somebody has seen enough; returns the next id.
async fn write(mut sql: SqlClient<Channel>, mut next: i64, count: Arc<AtomicU64>, enough: Arc<AtomicU64>) -> i64 {
    while enough.load(Ordering::Relaxed) == 0 {
        let ids: Vec<_> = (next..next + 1 + next % 3).map(|id| format!("({id})")).collect();
        if run(&mut sql, format!("INSERT INTO t VALUES {} ON CONFLICT DO NOTHING", ids.join(","))).await.is_err() {
            // What is not known is done again.
            return next;
        }
        next += i64::try_from(ids.len()).unwrap();
        count.fetch_add(1, Ordering::Relaxed);
    }
    next
}

/// What is acknowledged for good; `None` before there is a feed.
async fn acknowledged(feeds: &mut ChangefeedClient<Channel>) -> Option<Place> {
    let feeds = feeds.list_feeds(ListFeedsRequest {}).await.unwrap().into_inner().feeds;
    let cursor = feeds.into_iter().find(|feed| feed.name == "copy")?.acknowledged.unwrap();
    Some((cursor.lsn, cursor.position))
}

#[test]
fn each_change_is_told_past_what_was_acknowledged_and_none_is_missing() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (mut running, mut next, mut runs) = (None, 0, Vec::new());
    for kill in 0..=KILLS {
        let server = running.take().unwrap_or_else(|| {
            if kill == KILLS / 2 {
                // Where a feed stands is in the log.
                std::fs::remove_dir_all(data.join("materialized")).unwrap();
            }
            Server::start(&data)
        });
        let output = directory.path().join(format!("told-{kill}"));
        let channel = runtime.block_on(async { Channel::from_shared(server.url()).unwrap().connect().await.unwrap() });
        let mut sql = SqlClient::new(channel.clone());
        if kill == 0 {
            runtime.block_on(run(&mut sql, "CREATE TABLE t (id bigint PRIMARY KEY)".to_owned())).unwrap();
        }
        let acknowledged = runtime.block_on(acknowledged(&mut ChangefeedClient::new(channel.clone())));
        if kill == KILLS {
            assert!(reader(&server.url(), &output, &["--until-ready"]).wait().unwrap().success());
            runs.push(Run { acknowledged, told: told(&output) });
            running = Some(server);
            break;
        }
        let mut reader = reader(&server.url(), &output, &[]);
        let (count, enough) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let writer = runtime.spawn(write(sql, next, Arc::clone(&count), Arc::clone(&enough)));
        // Not always at the same place of anybody's work.
        let wanted = COMMITS_MIN + kill as u64 * 13 % 47;
        while count.load(Ordering::Relaxed) < wanted || std::fs::metadata(&output).unwrap().len() < 2000 {
            assert!(reader.try_wait().unwrap().is_none(), "the reader reads on");
            std::thread::sleep(Duration::from_millis(1));
        }
        if kill % 2 == 0 {
            reader.kill().unwrap();
            reader.wait().unwrap();
            enough.store(1, Ordering::Relaxed);
            running = Some(server);
        } else {
            server.kill();
            assert!(!reader.wait().unwrap().success(), "its server is gone");
        }
        next = runtime.block_on(writer).unwrap();
        runs.push(Run { acknowledged, told: told(&output) });
    }
    let all = directory.path().join("all");
    let tail = ["feed", "tail", "--from", "0", "--until-ready", "t", "--url"];
    let url = running.as_ref().unwrap().url();
    let mut command = Command::new(env!("CARGO_BIN_EXE_highwater"));
    assert!(command.args(tail).arg(&url).stdout(File::create(&all).unwrap()).status().unwrap().success());
    let truth = told(&all);
    assert!(truth.iter().map(|(_, id)| *id).eq(0..truth.len() as i64), "every id once, in order");
    assert!(truth.len() as i64 >= next);
    let mut covered = 0;
    for (number, Run { acknowledged, told }) in runs.iter().enumerate() {
        let Some((first, _)) = told.first() else { continue };
        let from = truth.iter().position(|(place, _)| place == first).unwrap();
        let is_past = |(lsn, position): Place| *first >= (lsn + 1, position);
        assert!(
            acknowledged.is_none_or(is_past),
            "run {number} begins at {first:?}, acknowledged was {acknowledged:?}"
        );
        assert!(from <= covered, "run {number} begins at change {from}, told were {covered}");
        assert_eq!(&truth[from..from + told.len()], &told[..], "run {number}: in order, each once, none left out");
        covered = covered.max(from + told.len());
    }
    assert_eq!(covered, truth.len());
    assert!(runs.windows(2).all(|pair| pair[0].acknowledged <= pair[1].acknowledged), "what is acknowledged stays so");
    assert!(runs.last().unwrap().acknowledged > Some((0, 0)), "something was");
}
