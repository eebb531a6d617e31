//! `highwater feed tail`.

use std::io::{self, Write};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use highwater_changefeed::format::Envelope;
use highwater_changefeed::{
    Batch, BatchKind, Claim, Cursor, Feed, FeedError, FeedOptions, FeedStart, NamedFeed, TableSpec,
};
use highwater_log::value::{ColumnType, ElementType, Value, write_text};
use highwater_log::{LogId, Lsn};
use highwater_proto::v1::{self, SubscribeStart, TableSelection, subscribe_start::From};
use highwater_query::SqlError;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::existing;
use crate::cli::CliError;
use crate::cli::place::{Found, Place};
use crate::client::{Client, ClientError};
use crate::server::stop_signal;
use crate::told::{FeedFormat, TellingEncoder};

#[derive(Debug, Args)]
pub(super) struct Tail {
    /// The tables: `name` (of the schema public) or `schema.name`. Of a feed that has a name and is there they may be left out.
    #[arg(required_unless_present = "name")]
    tables: Vec<String>,

    /// Where to begin: `snapshot` (the rows as they are, then every commit), `now`, an LSN (every commit after it), or a cursor
    /// `log id/lsn/position` of an earlier reading.
    #[arg(long, default_value = "snapshot")]
    from: Beginning,

    /// Tell only the rows for which this SQL expression is true. There is one table then.
    #[arg(long = "where", value_name = "EXPRESSION")]
    filter: Option<String>,

    /// Tell these columns of a row: the items of an SQL SELECT. There is one table then.
    #[arg(long, value_name = "ITEMS")]
    columns: Option<String>,

    /// What lines look like: `plain`, `upsert`, `debezium`, `debezium-schemas`.
    #[arg(long, default_value_t)]
    envelope: Envelope,

    /// How events are written: `json`, one a line, or `arrow`, as one stream in Arrow's IPC format after another, each table's changes by
    /// themselves. Arrow has the plain envelope.
    #[arg(long, default_value_t)]
    format: FeedFormat,

    /// The feed's name: what is written is acknowledged, and the next reading of that name goes on there. A feed that is not there is
    /// made.
    #[arg(long)]
    name: Option<String>,

    /// What becomes of whoever reads the feed of that name now.
    #[arg(long, value_enum, default_value_t = ClaimArgument::Refuse, requires = "name")]
    claim: ClaimArgument,

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

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ClaimArgument {
    /// It goes on, and this call fails.
    Refuse,
    /// This call waits until it ends.
    Wait,
    /// It is ended.
    TakeOver,
}

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

impl Tail {
    pub(super) fn run(self, runtime: &Runtime) -> Result<(), CliError> {
        if (self.filter.is_some() || self.columns.is_some()) && self.tables.len() != 1 {
            let message = "--where and --columns are for one table";
            return Err(SqlError::new(highwater_query::sqlstate::INVALID_PARAMETER_VALUE, message).into());
        }
        let cursor = match self.place.find() {
            Found::Server(url) => runtime.block_on(self.remote(&url)),
            Found::Directory(data) => self.embedded(&data, runtime),
        }?;
        if let Some(cursor) = cursor {
            eprintln!("cursor {cursor}");
        }
        Ok(())
    }

    /// Reads until it is ended; returns where it stands.
    async fn remote(&self, url: &str) -> Result<Option<Cursor>, CliError> {
        let stop = stop_signal().map_err(CliError::Runtime)?;
        tokio::pin!(stop);
        let (acknowledge, acknowledged) = mpsc::channel(ACKNOWLEDGEMENTS_WAITING_MAX);
        let mut answers = Client::connect(url).await?.subscribe(self.start(), acknowledged).await?;
        let (mut cursor, mut durable, mut unsaid, mut dealt_with) = (None, None, None, None);
        loop {
            let message = tokio::select! {
                biased;
                () = &mut stop => break,
                Ok(place) = acknowledge.reserve(), if unsaid.is_some() => {
                    if let Some(cursor) = unsaid.take() {
                        place.send(cursor);
                    }
                    continue;
                }
                message = answers.message() => message.map_err(ClientError::from)?,
            };
            let Some(message) = message else { break };
            for piece in std::iter::once(&message.lines).chain(message.arrow.iter().map(|changes| &changes.stream)) {
                write_out(piece)?;
            }
            durable = message.acknowledged.as_ref().and_then(cursor_of).or(durable);
            if let Some(at) = &message.cursor {
                cursor = cursor_of(at).or(cursor);
                if self.acknowledges(message.ends_commit) {
                    // In the place of one that was not said yet: this one says as much.
                    unsaid = Some(at.clone());
                    dealt_with = cursor;
                }
            }
            if self.until_ready && message.kind() == v1::EventKind::Ready {
                break;
            }
        }
        // What is written is acknowledged for good, if that comes to pass soon.
        if let Some(last) = dealt_with.filter(|last| durable.is_none_or(|durable| durable < *last)) {
            let settled = async {
                let _ = acknowledge.send(wire_cursor(last)).await;
                while let Ok(Some(message)) = answers.message().await {
                    if message.acknowledged.as_ref().and_then(cursor_of).is_some_and(|durable| durable >= last) {
                        break;
                    }
                }
            };
            let _ = tokio::time::timeout(SETTLING_MAX, settled).await;
        }
        Ok(cursor)
    }

    /// Whether what is written is acknowledged. Who reads Debezium's events wants a transaction whole.
    fn acknowledges(&self, ends_commit: bool) -> bool {
        self.name.is_some() && (ends_commit || !matches!(self.envelope, Envelope::Debezium { .. }))
    }

    fn start(&self) -> SubscribeStart {
        let from = match self.from.0 {
            FeedStart::Snapshot => From::Snapshot(v1::Snapshot {}),
            FeedStart::Now => From::Now(v1::Now {}),
            FeedStart::After(lsn) => From::AfterLsn(lsn.value()),
            FeedStart::Cursor(cursor) => From::After(wire_cursor(cursor)),
        };
        let selection = (self.filter.is_some() || self.columns.is_some()).then(|| TableSelection {
            table: self.tables.first().cloned().unwrap_or_default(),
            r#where: self.filter.clone().unwrap_or_default(),
            columns: self.columns.clone().unwrap_or_default(),
        });
        let envelope = match self.envelope {
            Envelope::Plain => v1::Envelope::Plain,
            Envelope::Upsert => v1::Envelope::Upsert,
            Envelope::Debezium { has_schemas: false } => v1::Envelope::Debezium,
            Envelope::Debezium { has_schemas: true } => v1::Envelope::DebeziumSchemas,
        };
        let claim = match self.claim {
            ClaimArgument::Refuse => v1::Claim::Refuse,
            ClaimArgument::Wait => v1::Claim::Wait,
            ClaimArgument::TakeOver => v1::Claim::TakeOver,
        };
        let format = match self.format {
            FeedFormat::Json => v1::FeedFormat::Json,
            FeedFormat::Arrow => v1::FeedFormat::Arrow,
        };
        SubscribeStart {
            tables: self.tables.clone(),
            from: Some(from),
            credit_bytes: None,
            progress_ms: Some(self.progress_ms),
            selections: selection.into_iter().collect(),
            envelope: envelope.into(),
            name: self.name.clone().unwrap_or_default(),
            claim: claim.into(),
            format: format.into(),
        }
    }

    /// Nobody else can write meanwhile: it ends when everything is told.
    fn embedded(&self, data: &Path, runtime: &Runtime) -> Result<Option<Cursor>, CliError> {
        let database = existing(data)?;
        let mut tables: Vec<TableSpec> = self.tables.iter().map(|name| TableSpec::whole(name)).collect();
        if let [table] = &mut tables[..] {
            (table.filter, table.columns) = (self.filter.clone(), self.columns.clone());
        }
        let options = FeedOptions { progress_after: Duration::from_millis(self.progress_ms) };
        let told = runtime.block_on(async {
            let mut feed = match &self.name {
                None => Reader::Nameless(database.subscribe_to(&tables, self.from.0, options)?),
                Some(name) => {
                    let feeds = database.named_feeds();
                    Reader::Named(feeds.open(name, &tables, self.from.0, Claim::Refuse, options).await?)
                }
            };
            let mut encoder = TellingEncoder::new(self.envelope, self.format)?;
            loop {
                let batch = feed.next(&mut encoder).await?;
                for piece in encoder.take()?.into_pieces() {
                    write_out(&piece)?;
                }
                if self.acknowledges(batch.ends_commit) {
                    feed.written(batch)?;
                }
                if batch.kind == BatchKind::Ready {
                    return Ok(batch.cursor);
                }
            }
        });
        database.close()?;
        told
    }
}

/// What is read of the database that this process has opened.
enum Reader {
    Nameless(Feed),
    Named(NamedFeed),
}

impl Reader {
    async fn next(&mut self, encoder: &mut TellingEncoder) -> Result<Batch, FeedError> {
        match self {
            Self::Nameless(feed) => feed.next(encoder, BATCH_BYTES_TARGET).await,
            Self::Named(feed) => feed.next(encoder, BATCH_BYTES_TARGET).await,
        }
    }

    fn written(&self, batch: Batch) -> Result<(), FeedError> {
        match (self, batch.cursor) {
            (Self::Named(feed), Some(cursor)) => feed.acknowledge(cursor),
            _ => Ok(()),
        }
    }
}

/// The cursor of a message; `None`: it is none.
pub(super) fn cursor_of(cursor: &v1::Cursor) -> Option<Cursor> {
    let log = cursor.log_id[..].try_into().ok()?;
    Some(Cursor { log: LogId::from_bytes(log), lsn: Lsn::new(cursor.lsn), position: cursor.position })
}

fn wire_cursor(Cursor { log, lsn, position }: Cursor) -> v1::Cursor {
    v1::Cursor { log_id: log.bytes().to_vec().into(), lsn: lsn.value(), position }
}

/// A time as PostgreSQL writes it.
pub(super) fn time_text(unix_micros: u64) -> String {
    let mut text = String::new();
    let value = Value::TimestampTz(i64::try_from(unix_micros).unwrap_or(i64::MAX));
    // A time always has a text.
    let _ = write_text(ColumnType::Scalar(ElementType::TimestampTz(6)), value, &mut text);
    text
}

pub(super) fn write_out(lines: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(lines)?;
    out.flush()
}

const BATCH_BYTES_TARGET: usize = 64 * 1024;
const ACKNOWLEDGEMENTS_WAITING_MAX: usize = 16;
/// How long the end waits for what was written to be acknowledged for good.
const SETTLING_MAX: Duration = Duration::from_secs(3);

pub(super) const TAIL_HELP: &str = "\
Lines of the plain envelope:
  a change  {\"lsn\",\"pos\",\"table\",\"op\":\"insert|update|delete|truncate\",\"key\",\"before\",\"after\"}
  a schema  {\"lsn\",\"table\",\"schema\":{\"columns\":[…],\"key\":[…]}}, null for a dropped table
  ready     {\"lsn\",\"ready\":true}: everything that was there is told
  progress  {\"lsn\",\"progress\":true}: everything up to there is told
Under `upsert` changes are {\"lsn\",\"pos\",\"table\",\"key\",\"value\"}, under `debezium` Debezium's change events.
At its end the cursor is written to standard error; `--from CURSOR` goes on there.
With --name, what was written is acknowledged: a reading that was killed is told again what it had not acknowledged yet.
With --data, nobody else can write meanwhile: it ends when everything is told. With --url it goes on until it is ended (Ctrl-C).";
