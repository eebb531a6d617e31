//! Those who watch: a changefeed, aggregate queries and a streaming SELECT, each through gRPC.

use std::time::Duration;

use highwater_log::Lsn;
use highwater_proto::v1::subscribe_start::From;
use highwater_proto::v1::{EventKind, SubscribeStart};
use highwater_query::types;
use serde_json::Value;
use tokio::sync::watch::Receiver;

use super::panels::{BANK, Panels};
use super::recording::Expected;
use super::{DemoError, REFRESH};
use crate::client::{Client, ClientError, RemoteSession, Reply};

/// The end of the recording, once it is known.
type End = Receiver<Option<Lsn>>;

/// Follows the tables, and folds the bank's four sums at every commit.
pub(super) async fn changes(client: &Client, panels: &Panels, expected: &Expected, end: End) -> Result<(), DemoError> {
    let tables = followed(client, expected, &end).await?;
    if tables.is_empty() {
        // A recording of nothing.
        return Ok(());
    }
    let start = SubscribeStart {
        tables,
        // Everything since the log's beginning: nothing is missed, however late the feed begins.
        from: Some(From::AfterLsn(0)),
        progress_ms: Some(u64::try_from(REFRESH.as_millis()).unwrap_or(u64::MAX)),
        ..SubscribeStart::default()
    };
    // There is nothing to acknowledge.
    let (_, acknowledged) = tokio::sync::mpsc::channel(1);
    let mut answers = client.subscribe(start, acknowledged).await?;
    let mut fold = Fold::default();
    let (mut end, mut cursor) = (end, 0);
    while end.borrow_and_update().is_none_or(|end| cursor < end.value()) {
        let message = tokio::select! {
            message = answers.message() => message.map_err(ClientError::from)?,
            // Behind the last change, where nothing may come any more.
            Ok(()) = end.changed() => continue,
        };
        let Some(message) = message else { return Err(DemoError::Feed("it ended".to_owned())) };
        let lines = std::str::from_utf8(&message.lines).map_err(|error| DemoError::Feed(error.to_string()))?;
        let is_change = message.kind() == EventKind::Changes;
        for line in lines.lines().filter(|_| is_change) {
            fold.line(line, panels)?;
        }
        cursor = message.cursor.map_or(0, |cursor| cursor.lsn);
        if message.ends_commit {
            fold.end_commit(panels);
        }
        panels.update(|shown| {
            shown.feed_lsn = cursor;
            shown.changes = fold.changes;
            shown.sums = fold.settled;
            (shown.commits_checked, shown.commits_disagreeing) = (fold.checked, fold.disagreeing);
            if let Some(last) = lines.lines().next_back().filter(|_| is_change) {
                shown.last_changes.push_back(last.to_owned());
                if shown.last_changes.len() > LAST_CHANGES {
                    shown.last_changes.pop_front();
                }
            }
        });
    }
    Ok(())
}

/// The tables that there are to follow, when they are there: the bank's if the recording has it, else whatever it made.
async fn followed(client: &Client, expected: &Expected, end: &End) -> Result<Vec<String>, DemoError> {
    let mut session = client.session().await?;
    let is_bank = has_bank(expected);
    loop {
        // Seen first: what is there behind the end is all.
        let is_ended = end.borrow().is_some();
        let found = column(&mut session, TABLES).await?.0;
        let has_all = BANK.iter().all(|(table, _)| found.iter().any(|name| name == table));
        if is_bank && has_all {
            return Ok(BANK.map(|(table, _)| table.to_owned()).to_vec());
        }
        if is_ended {
            return Ok(found);
        }
        tokio::time::sleep(WAIT_FOR_TABLES).await;
    }
}

pub(super) fn has_bank(expected: &Expected) -> bool {
    BANK.iter().all(|(table, _)| expected.contains_key(*table))
}

/// The sums, folded from the changes alone.
#[derive(Default)]
struct Fold {
    lsn: u64,
    is_open: bool,
    changes: u64,
    sums: [i128; 4],
    /// The sums after the last whole commit: a batch may end inside one.
    settled: [i128; 4],
    checked: u64,
    disagreeing: u64,
}

impl Fold {
    fn line(&mut self, line: &str, panels: &Panels) -> Result<(), DemoError> {
        let meaningless = |error: serde_json::Error| DemoError::Feed(format!("{error} in {line}"));
        let event: Value = serde_json::from_str(line).map_err(meaningless)?;
        let lsn = event["lsn"].as_u64().unwrap_or(0);
        if lsn != self.lsn {
            self.end_commit(panels);
            (self.lsn, self.is_open) = (lsn, true);
        }
        let Some(table) = event["table"].as_str() else { return Ok(()) };
        let bank = BANK.iter().position(|(name, _)| table.strip_prefix("public.") == Some(name));
        self.changes += u64::from(event.get("op").is_some());
        let Some(index) = bank else { return Ok(()) };
        let amount = |image: &Value| i128::from(image[BANK[index].1].as_i64().unwrap_or(0));
        match event["op"].as_str() {
            Some("truncate") => self.sums[index] = 0,
            Some(_) => self.sums[index] += amount(&event["after"]) - amount(&event["before"]),
            None => {}
        }
        Ok(())
    }

    /// Behind a commit the four sums agree, once the upstream's snapshot is in.
    fn end_commit(&mut self, panels: &Panels) {
        let is_checked = panels.snapshot_end().is_some_and(|end| self.lsn >= end.value());
        self.settled = self.sums;
        if std::mem::take(&mut self.is_open) && is_checked {
            self.checked += 1;
            self.disagreeing += u64::from(self.sums.iter().any(|sum| *sum != self.sums[0]));
        }
    }
}

/// Asks for the sums, again and again.
pub(super) async fn queries(client: &Client, panels: &Panels, expected: &Expected, end: End) -> Result<(), DemoError> {
    let mut session = client.session().await?;
    let sql = if has_bank(expected) { sums_query() } else { "SELECT hw_lsn()::text".to_owned() };
    loop {
        let is_last = end.borrow().is_some();
        match column(&mut session, &sql).await {
            Ok((sums, lsn)) => panels.update(|shown| {
                (shown.query_lsn, shown.query_sums) = (lsn.value(), sums);
                shown.queries += 1;
            }),
            Err(error) if is_undefined(&error) => {}
            Err(error) => return Err(error),
        }
        if is_last {
            return Ok(());
        }
        tokio::time::sleep(REFRESH).await;
    }
}

/// The bank's four sums, each a row of text.
pub(super) fn sums_query() -> String {
    let one = |(table, column): &(&str, &str)| format!("SELECT coalesce(sum({column}), 0)::text FROM {table}");
    BANK.iter().map(one).collect::<Vec<_>>().join(" UNION ALL ")
}

/// Reads a whole table, row after row, again and again.
pub(super) async fn rows(client: &Client, panels: &Panels, expected: &Expected, end: End) -> Result<(), DemoError> {
    let mut session = client.session().await?;
    let table = if has_bank(expected) { Some(BANK[0].0) } else { expected.keys().next().map(String::as_str) };
    let Some(table) = table else { return Ok(()) };
    let sql = format!("SELECT * FROM {table}");
    loop {
        let is_last = end.borrow().is_some();
        match scan(&mut session, &sql, panels).await {
            Err(error) if !is_undefined(&error) => return Err(error),
            _ if is_last => return Ok(()),
            _ => tokio::time::sleep(REFRESH).await,
        }
    }
}

async fn scan(session: &mut RemoteSession, sql: &str, panels: &Panels) -> Result<(), DemoError> {
    let mut replies = session.execute(sql).await?;
    while let Some(reply) = replies.next().await? {
        panels.update(|shown| match reply {
            Reply::Header(_, lsn) => (shown.rows_lsn, shown.rows) = (lsn.value(), 0),
            Reply::Batch(batch) => shown.rows += batch.num_rows() as u64,
            Reply::Completion(_) => shown.scans += 1,
        });
    }
    Ok(())
}

/// The first column of a result, as text, and the LSN that it was read at.
pub(super) async fn column(session: &mut RemoteSession, sql: &str) -> Result<(Vec<String>, Lsn), DemoError> {
    let mut replies = session.execute(sql).await?;
    let (mut values, mut read) = (Vec::new(), Lsn::ORIGIN);
    while let Some(reply) = replies.next().await? {
        match reply {
            Reply::Header(_, lsn) => read = lsn,
            Reply::Batch(batch) => {
                let failed = |error: highwater_query::SqlError| DemoError::Feed(error.to_string());
                let column_type = types::column_type(batch.schema_ref().field(0)).map_err(failed)?;
                for row in 0..batch.num_rows() {
                    let mut text = String::new();
                    types::text_at(batch.column(0), row, column_type, &mut text).map_err(failed)?;
                    values.push(text);
                }
            }
            Reply::Completion(_) => {}
        }
    }
    Ok((values, read))
}

/// The recording makes its tables as it comes to them.
fn is_undefined(error: &DemoError) -> bool {
    matches!(error, DemoError::Client(ClientError::Call { sqlstate: Some(code), .. }) if code == "42P01")
}

const TABLES: &str =
    "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY table_name";
const WAIT_FOR_TABLES: Duration = Duration::from_millis(20);
const LAST_CHANGES: usize = 8;
