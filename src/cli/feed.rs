//! `highwater feed`: changes, as they are committed.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand};
use highwater_changefeed::format::PlainLines;
use highwater_changefeed::{BatchKind, Cursor, FeedOptions, FeedStart};
use highwater_log::{LogError, LogId, Lsn};
use highwater_proto::v1::{self, SubscribeStart, subscribe_start::From};
use highwater_query::SqlError;

use super::place::{Found, Place};
use super::{CliError, open_database};
use crate::client::Client;
use crate::server::stop_signal;

/// Changes, as they are committed.
#[derive(Debug, Args)]
pub(super) struct FeedCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Write the changes of tables to standard output, one JSON object a line, until it is ended.
    Tail(Tail),
}

#[derive(Debug, Args)]
#[command(after_help = TAIL_HELP)]
struct Tail {
    /// The tables: `name` (of the schema public) or `schema.name`.
    #[arg(required = true)]
    tables: Vec<String>,

    /// Where to begin: `snapshot` (the rows as they are, then every commit), `now`, an LSN (every commit after it), or a cursor
    /// `log id/lsn/position` of an earlier reading.
    #[arg(long, default_value = "snapshot")]
    from: Beginning,

    /// End when everything that was there at the beginning is written.
    #[arg(long)]
    until_ready: bool,

    /// Write a mark of progress at most so often, in milliseconds.
    #[arg(long, default_value_t = 1000)]
    progress_ms: u64,

    #[command(flatten)]
    place: Place,
}

#[derive(Clone, Copy, Debug)]
struct Beginning(FeedStart);

impl FromStr for Beginning {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let start = match text {
            "snapshot" => FeedStart::Snapshot,
            "now" => FeedStart::Now,
            _ if text.contains('/') => {
                FeedStart::Cursor(text.parse().map_err(|_| "a cursor is written log id/lsn/position")?)
            }
            _ => FeedStart::After(Lsn::new(text.parse().map_err(|_| "neither snapshot, now, an LSN nor a cursor")?)),
        };
        Ok(Self(start))
    }
}

impl FeedCommand {
    pub(super) fn run(self) -> Result<ExitCode, CliError> {
        let Action::Tail(tail) = self.action;
        let runtime = super::runtime()?;
        let cursor = match tail.place.find() {
            Found::Server(url) => runtime.block_on(tail.remote(&url)),
            Found::Directory(data) => tail.embedded(&data, &runtime),
        }?;
        if let Some(cursor) = cursor {
            eprintln!("cursor {cursor}");
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Tail {
    /// Reads until it is ended; returns where it stands.
    async fn remote(&self, url: &str) -> Result<Option<Cursor>, CliError> {
        let stop = stop_signal().map_err(CliError::Runtime)?;
        tokio::pin!(stop);
        let from = match self.from.0 {
            FeedStart::Snapshot => From::Snapshot(v1::Snapshot {}),
            FeedStart::Now => From::Now(v1::Now {}),
            FeedStart::After(lsn) => From::AfterLsn(lsn.value()),
            FeedStart::Cursor(Cursor { log, lsn, position }) => {
                From::After(v1::Cursor { log_id: log.bytes().to_vec().into(), lsn: lsn.value(), position })
            }
        };
        let start = SubscribeStart {
            tables: self.tables.clone(),
            from: Some(from),
            credit_bytes: None,
            progress_ms: Some(self.progress_ms),
        };
        let mut answers = Client::connect(url).await?.subscribe(start).await?;
        let mut cursor = None;
        loop {
            let message = tokio::select! {
                biased;
                () = &mut stop => return Ok(cursor),
                message = answers.message() => message.map_err(crate::client::ClientError::from)?,
            };
            let Some(message) = message else { return Ok(cursor) };
            write_out(&message.lines)?;
            if let Some(at) = &message.cursor
                && let Ok(log) = at.log_id[..].try_into()
            {
                let (log, lsn) = (LogId::from_bytes(log), Lsn::new(at.lsn));
                cursor = Some(Cursor { log, lsn, position: at.position });
            }
            if self.until_ready && message.kind() == v1::EventKind::Ready {
                return Ok(cursor);
            }
        }
    }

    /// Nobody else can write meanwhile: it ends when everything is told.
    fn embedded(&self, data: &Path, runtime: &tokio::runtime::Runtime) -> Result<Option<Cursor>, CliError> {
        if !data.join("log").is_dir() {
            // Who only reads begins no database.
            return Err(LogError::Missing { path: data.to_owned() }.into());
        }
        let database = open_database(data)?;
        let tables: Vec<&str> = self.tables.iter().map(String::as_str).collect();
        let options = FeedOptions { progress_after: Duration::from_millis(self.progress_ms) };
        let told = runtime.block_on(async {
            let mut feed = database.subscribe(&tables, self.from.0, options).map_err(SqlError::from)?;
            let mut lines = PlainLines::default();
            loop {
                let batch = feed.next(&mut lines, BATCH_BYTES_TARGET).await.map_err(SqlError::from)?;
                write_out(lines.take().as_bytes())?;
                if batch.kind == BatchKind::Ready {
                    return Ok(batch.cursor);
                }
            }
        });
        database.close()?;
        told
    }
}

fn write_out(lines: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(lines)?;
    out.flush()
}

const BATCH_BYTES_TARGET: usize = 64 * 1024;

const TAIL_HELP: &str = "\
Lines:
  a change  {\"lsn\",\"pos\",\"table\",\"op\":\"insert|update|delete|truncate\",\"key\",\"before\",\"after\"}
  a schema  {\"lsn\",\"table\",\"schema\":{\"columns\":[…],\"key\":[…]}}, null for a dropped table
  ready     {\"lsn\",\"ready\":true}: everything that was there is told
  progress  {\"lsn\",\"progress\":true}: everything up to there is told
At its end the cursor is written to standard error; `--from CURSOR` goes on there.
With --data, nobody else can write meanwhile: it ends when everything is told. With --url it goes on until it is ended (Ctrl-C).";
