//! Results that are larger than the server's memory is to become: whole, filtered, sorted, given up.
//!
//! A million rows; ten where there is time: `HIGHWATER_LONG=1`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/server.rs"]
mod server;

use std::ffi::OsStr;
use std::time::Duration;

use highwater_proto::v1::execute_response::Answer;
use highwater_proto::v1::sql_client::SqlClient;
use highwater_proto::v1::{ExecuteRequest, ExecuteResponse};
use server::Server;
use tonic::Streaming;
use tonic::transport::Channel;

/// What a result may take beside what an idle server has.
const STREAMING_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// What sorts may hold, unless something else is said; and in the run with few rows, so that they spill.
const QUERY_BYTES: u64 = 256 * 1024 * 1024;
const QUERY_BYTES_OF_FEW: u64 = 96 * 1024 * 1024;

async fn execute(client: &mut SqlClient<Channel>, sql: &str) -> Streaming<ExecuteResponse> {
    client.execute(ExecuteRequest { sql: sql.to_owned(), ..ExecuteRequest::default() }).await.unwrap().into_inner()
}

/// The rows of an answer; of an ordered one, checked for that.
async fn count(answers: &mut Streaming<ExecuteResponse>, is_ordered: bool) -> u64 {
    let (mut count, mut last) = (0, String::new());
    while let Some(message) = answers.message().await.unwrap() {
        let Some(Answer::Rows(rows)) = message.answer else { continue };
        count += rows.rows.len() as u64;
        for row in rows.rows.iter().filter(|_| is_ordered) {
            let Some(highwater_proto::v1::value::Kind::Text(text)) = &row.values[2].kind else { panic!("no text") };
            assert!(*text >= last, "{text} behind {last}");
            last.clone_from(text);
        }
    }
    count
}

fn status_bytes(server: &Server, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// From now on, the most that the server has is measured anew.
fn begin_measuring(server: &Server) {
    std::fs::write(format!("/proc/{}/clear_refs", server.id()), "5").unwrap();
}

/// How many rows statements have given so far.
fn rows_given(server: &Server) -> u64 {
    let (_, page) = server.get("/metrics");
    let line = page.lines().find(|line| line.starts_with("highwater_statement_rows_total ")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn large_results_are_streamed_in_bounded_memory_and_end_when_they_are_given_up() {
    let millions: u64 = if std::env::var_os("HIGHWATER_LONG").is_some() { 10 } else { 1 };
    let directory = tempfile::tempdir().unwrap();
    let query_bytes = if millions > 1 { QUERY_BYTES } else { QUERY_BYTES_OF_FEW };
    let query_bytes_text = query_bytes.to_string();
    let environment = [("HIGHWATER__QUERY_MEMORY_BYTES", OsStr::new(&query_bytes_text))];
    let server = Server::start_with(&directory.path().join("data"), &environment);
    let mut client = SqlClient::connect(server.url()).await.unwrap();
    let create = "CREATE TABLE big (id bigint PRIMARY KEY, a integer, b text)";
    count(&mut execute(&mut client, create).await, false).await;
    for million in 0..millions {
        let (from, to) = (million * 1_000_000 + 1, (million + 1) * 1_000_000);
        // Some 100 bytes, and in another order than the key.
        let insert = format!(
            "INSERT INTO big SELECT v, v % 1000, md5(v::text) || repeat('x', 48) FROM generate_series({from}, {to}) AS s(v)"
        );
        count(&mut execute(&mut client, &insert).await, false).await;
    }
    let all = millions * 1_000_000;
    // An idle server has had its first query, and what was written is in files.
    assert_eq!(server.terminate().code(), Some(0));
    let server = Server::start_with(&directory.path().join("data"), &environment);
    let mut client = SqlClient::connect(server.url()).await.unwrap();
    assert_eq!(count(&mut execute(&mut client, "SELECT id, a, b FROM big LIMIT 10").await, false).await, 10);
    let idle = status_bytes(&server, "VmRSS:");
    for (sql, expected, is_ordered, bytes_max) in [
        ("SELECT id, a, b FROM big", all, false, STREAMING_BYTES_MAX),
        ("SELECT id, a, b FROM big WHERE a < 500", all / 2, false, STREAMING_BYTES_MAX),
        ("SELECT id, a, b FROM big ORDER BY b", all, true, STREAMING_BYTES_MAX + query_bytes),
    ] {
        begin_measuring(&server);
        assert_eq!(count(&mut execute(&mut client, sql).await, is_ordered).await, expected, "{sql}");
        let most = status_bytes(&server, "VmHWM:").saturating_sub(idle);
        println!("{sql}: {} MiB above {} MiB", most >> 20, idle >> 20);
        assert!(most < bytes_max, "{sql}: {most} bytes above {idle}");
    }
    // The first rows come long before the last are read, and nobody reads on for who has enough.
    let before = rows_given(&server);
    let mut answers = execute(&mut client, "SELECT id, a, b FROM big").await;
    while !matches!(answers.message().await.unwrap().unwrap().answer, Some(Answer::Rows(_))) {}
    let mut given = 0;
    // What the transport takes without anybody reading; it stands still then.
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = rows_given(&server) - before;
        if now == std::mem::replace(&mut given, now) {
            break;
        }
    }
    assert!(0 < given && given < all / 4, "{given} rows of {all} for a client that reads none");
    drop(answers);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (then, _) = (rows_given(&server), tokio::time::sleep(Duration::from_secs(1)).await);
    assert_eq!(rows_given(&server), then, "it is read on after the call was given up");
    assert!(then - before < all / 4, "{} rows of {all}", then - before);
}
