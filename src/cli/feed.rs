//! `highwater feed`: changes, as they are committed.

mod tail;

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use highwater_changefeed::{Cursor, FeedStatus};
use highwater_log::{LogError, LogId};
use highwater_materializers::FeedPosition;
use highwater_proto::v1;
use highwater_query::SqlError;

use super::place::{Found, Place};
use super::{CliError, open_database};
use crate::Database;
use crate::client::Client;
use crate::database::described;
use tail::{TAIL_HELP, Tail};

/// Changes, as they are committed.
#[derive(Debug, Args)]
pub(super) struct FeedCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Write the changes of tables to standard output, one JSON object a line, until it is ended.
    #[command(after_help = TAIL_HELP)]
    Tail(Tail),

    /// List the feeds that have a name: where they stand, and what the log keeps for them.
    Ls {
        #[command(flatten)]
        place: Place,
    },

    /// Drop a feed that has a name; what the log keeps for it is let go of.
    Drop {
        /// The feed.
        name: String,

        #[command(flatten)]
        place: Place,
    },
}

impl FeedCommand {
    pub(super) fn run(self) -> Result<ExitCode, CliError> {
        let runtime = super::runtime()?;
        match self.action {
            Action::Tail(tail) => tail.run(&runtime)?,
            Action::Ls { place } => {
                let feeds = match place.find() {
                    Found::Server(url) => runtime.block_on(async { Client::connect(&url).await?.feeds().await })?,
                    Found::Directory(data) => {
                        let database = existing(&data)?;
                        let feeds = database.named_feeds().list().map_err(SqlError::from)?;
                        let listed = feeds.into_iter().map(|feed| Listed::of(feed, database.log_id())).collect();
                        database.close()?;
                        return print(listed);
                    }
                };
                print(feeds.into_iter().map(Listed::of_wire).collect())?;
            }
            Action::Drop { name, place } => {
                let lsn = match place.find() {
                    Found::Server(url) => {
                        runtime.block_on(async { Client::connect(&url).await?.drop_feed(&name).await })?
                    }
                    Found::Directory(data) => {
                        let database = existing(&data)?;
                        let dropped = runtime.block_on(database.named_feeds().drop_feed(&name));
                        let lsn = dropped.map_err(SqlError::from)?;
                        database.close()?;
                        lsn
                    }
                };
                eprintln!("lsn {lsn}");
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Opens a database that is there: who only reads begins none.
fn existing(data: &std::path::Path) -> Result<Database, CliError> {
    if !data.join("log").is_dir() {
        return Err(LogError::Missing { path: data.to_owned() }.into());
    }
    open_database(data)
}

/// A named feed as it is listed.
struct Listed {
    name: String,
    tables: Vec<String>,
    acknowledged: Option<Cursor>,
    is_owned: bool,
    held_commits: u64,
    held_bytes: u64,
    held_since_micros: Option<u64>,
}

impl Listed {
    fn of(feed: FeedStatus, log: LogId) -> Self {
        let told = feed.tables.into_iter().zip(&feed.schema.tables);
        Self {
            name: feed.schema.name.clone(),
            tables: told.map(|(name, told)| described(name, told.columns.as_deref(), told.filter.as_deref())).collect(),
            acknowledged: feed.acknowledged.map(|FeedPosition { lsn, position }| Cursor { log, lsn, position }),
            is_owned: feed.is_owned,
            held_commits: feed.held_commits,
            held_bytes: feed.held_bytes,
            held_since_micros: feed.held_since_micros,
        }
    }

    fn of_wire(feed: v1::FeedStatus) -> Self {
        let given = |text: &String| (!text.is_empty()).then(|| text.clone());
        let table = |told: v1::TableSelection| {
            described(told.table.clone(), given(&told.columns).as_deref(), given(&told.r#where).as_deref())
        };
        Self {
            name: feed.name,
            tables: feed.tables.into_iter().map(table).collect(),
            acknowledged: feed.acknowledged.as_ref().and_then(tail::cursor_of),
            is_owned: feed.is_owned,
            held_commits: feed.held_commits,
            held_bytes: feed.held_bytes,
            held_since_micros: feed.held_since_micros,
        }
    }
}

fn print(feeds: Vec<Listed>) -> Result<ExitCode, CliError> {
    let header = ["feed", "acknowledged", "read", "commits behind", "bytes held", "held since", "tables"];
    let mut rows = vec![header.map(str::to_owned)];
    for feed in feeds {
        rows.push([
            feed.name,
            feed.acknowledged.map_or_else(|| "-".to_owned(), |cursor| cursor.to_string()),
            if feed.is_owned { "yes" } else { "no" }.to_owned(),
            feed.held_commits.to_string(),
            feed.held_bytes.to_string(),
            feed.held_since_micros.map_or_else(|| "-".to_owned(), tail::time_text),
            feed.tables.join(", "),
        ]);
    }
    let widths: Vec<usize> =
        (0..header.len()).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    tail::write_out(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
