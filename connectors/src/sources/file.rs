//! Change events out of a file or a stream of lines, one upstream transaction a commit.
//!
//! ```text
//!  line ─▶ decode ─▶ where does it belong? ─▶ unit (its lines, and a transaction of ours that holds their effects)
//!                     stored already: passed over       │ END, or a snapshot batch is full
//!                                                       ▼
//!                                           one commit: rows + position
//! ```
//!
//! The position is the upstream's own and only grows, so that what comes again is passed over: after a kill, from another file, in
//! overlapping pieces.

mod apply;
mod position;

use std::io::{self, BufRead, BufReader, Read};

use bytes::Bytes;
use highwater_log::Lsn;
use highwater_log::commit::{ProducerId, ProducerSequence};
use highwater_query::{Engine, SchemaDump, SqlError, Write, WritePipeline};

use crate::decode::debezium::{CellError, Change, DecodeError, Decoder, End, Event, Operation};
use apply::{Applied, Tables};
use position::Position;

/// Rows of a snapshot that are committed together. Positions are multiples of it: it never changes.
pub const SNAPSHOT_BATCH_ROWS: u64 = 10_000;

/// Reads change events line by line and commits them. It blocks its thread while it commits: it wants one of its own.
pub struct FileIngest {
    pipeline: WritePipeline,
    decoder: Decoder,
    tables: Tables,
    source: Option<UpstreamSource>,
    unit: Unit,
    snapshot: Option<SnapshotProgress>,
    /// The newest snapshot that the input had rows of.
    snapshot_seen: u64,
    /// An END before any event: line and position. Whether it is stored shows when the source is known.
    leading_end: Option<(u64, u64)>,
    /// An event was taken.
    has_begun: bool,
    summary: Summary,
}

/// What an ingest did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Lines read.
    pub lines: u64,
    /// Change events whose effects were committed.
    pub events: u64,
    /// Change events that were stored already.
    pub skipped: u64,
    /// Commits made, those of schemas included.
    pub commits: u64,
    /// The last commit.
    pub last: Option<Lsn>,
    /// The commit with which the upstream's snapshot ended, when that was read.
    pub snapshot_end: Option<Lsn>,
    /// The input ended inside a transaction or a snapshot: that part is not committed.
    pub is_open: bool,
}

/// Why an ingest ended. What was committed before stands; giving the whole input again goes on from there.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {cause}")]
pub struct IngestError {
    /// The line, from 1.
    pub line: u64,
    /// Why.
    pub cause: IngestCause,
}

/// Why a line could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum IngestCause {
    /// It is no event.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A cell is no value of its column.
    #[error("column {column} of table {table}: {source}")]
    Cell {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// What is wrong.
        source: CellError,
    },
    /// The database refused.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// The table's columns are not known.
    #[error(
        "table {table} is not known: create it first, give a schema dump with --tables, or embed schemas in the events \
         (key.converter.schemas.enable, value.converter.schemas.enable)"
    )]
    UnknownTable {
        /// The table.
        table: String,
    },
    /// A column's type is not known.
    #[error("column {column} of table {table} is of no known type{}", described.as_ref().map_or(String::new(), |d| format!(" ({d})")))]
    UnknownColumn {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// What the embedded schema calls its type.
        described: Option<String>,
    },
    /// The upstream changed a row that is not here.
    #[error("{operation} of a row of table {table} that is not here")]
    MissingRow {
        /// What was to be done.
        operation: &'static str,
        /// The table.
        table: String,
    },
    /// An event lacks what it needs to be applied.
    #[error("{0}")]
    Incomplete(String),
    /// The input begins in the middle of something that is not stored.
    #[error("the input begins inside {what}, which is not stored: give it from its beginning")]
    BeginsInside {
        /// Of what.
        what: String,
    },
    /// The events of a transaction are not those that its end counts.
    #[error("transaction {transaction} ends with {expected} events of {of}, {found} were read")]
    Count {
        /// The transaction.
        transaction: String,
        /// Of which table, or of all.
        of: String,
        /// By its end.
        expected: u64,
        /// By its lines.
        found: u64,
    },
    /// The input could not be read.
    #[error("cannot read the input: {0}")]
    Input(#[from] io::Error),
}

/// One upstream, and how far it is stored.
struct UpstreamSource {
    name: String,
    database: String,
    stored: Option<Position>,
}

impl UpstreamSource {
    /// Whose position it is, in the log.
    fn of(&self) -> Bytes {
        [b"debezium\0", self.name.as_bytes(), b"\0", self.database.as_bytes()].concat().into()
    }

    /// Identity of the producer of one series of positions: a commit that stands is found by it, whoever made it.
    fn producer(&self, series: &str) -> ProducerId {
        let text = [&self.of()[..], b"\0", series.as_bytes()].concat();
        ProducerId(xxhash_rust::xxh3::xxh3_128(&text).to_be_bytes())
    }
}

/// How far the snapshot in the input has come.
struct SnapshotProgress {
    lsn: u64,
    rows: u64,
    /// The table of its first row.
    first: String,
}

/// What is being gathered for one commit.
#[derive(Default)]
struct Unit {
    kind: UnitKind,
    /// Its lines: they are applied anew behind a change of a schema.
    lines: Vec<(u64, String)>,
    write: Option<Box<Write>>,
    /// A truncation is among its lines.
    has_truncation: bool,
    /// Its events by schema and table: few of them, looked through.
    counts: Vec<(String, String, u64)>,
    events: u64,
}

impl Unit {
    fn count(&mut self, schema: &str, table: &str) {
        match self.counts.iter_mut().find(|(s, t, _)| s == schema && t == table) {
            Some((_, _, count)) => *count += 1,
            None => self.counts.push((schema.to_owned(), table.to_owned(), 1)),
        }
    }

    /// How many events it has of `schema.table`.
    fn counted(&self, name: &str) -> u64 {
        let is_it = |schema: &str, table: &str| {
            name.strip_prefix(schema).and_then(|rest| rest.strip_prefix('.')).is_some_and(|rest| rest == table)
        };
        self.counts.iter().filter(|(schema, table, _)| is_it(schema, table)).map(|(_, _, count)| count).sum()
    }
}

#[derive(Default, PartialEq)]
enum UnitKind {
    #[default]
    None,
    /// Rows of a snapshot.
    Snapshot,
    /// Between BEGIN and END. `is_partial`: its BEGIN was not in the input.
    Transaction { id: String, is_partial: bool, may_be_stored: bool },
    /// A run of events of one transaction number, without transaction metadata.
    Run { lsn: u64, transaction: u64, is_stored: bool },
}

impl FileIngest {
    /// An ingest into the database behind `engine`. Tables that are not there take their columns from `tables`, where it has them.
    #[must_use]
    pub fn new(engine: Engine, tables: Option<SchemaDump>) -> Self {
        Self {
            pipeline: WritePipeline::new(engine),
            decoder: Decoder::default(),
            tables: Tables::new(tables.unwrap_or_default()),
            source: None,
            unit: Unit::default(),
            snapshot: None,
            snapshot_seen: 0,
            leading_end: None,
            has_begun: false,
            summary: Summary::default(),
        }
    }

    /// What was done so far.
    #[must_use]
    pub const fn summary(&self) -> Summary {
        self.summary
    }

    /// Takes the next line.
    ///
    /// # Errors
    /// [`IngestError`]; the ingest is over then.
    pub async fn line(&mut self, text: &str) -> Result<(), IngestError> {
        self.summary.lines += 1;
        let line = self.summary.lines;
        if text.trim().is_empty() {
            return Ok(());
        }
        self.take(line, text).await.map_err(|(at, cause)| IngestError { line: at.unwrap_or(line), cause })
    }

    /// Ends the input, and waits until everything of it is durable. A transaction that has not ended is not committed.
    ///
    /// # Errors
    /// [`IngestError`] when something that was under way could not be committed.
    pub fn finish(mut self) -> Result<Summary, IngestError> {
        self.unit.write = None;
        self.pipeline.drain().map_err(|error| IngestError { line: self.summary.lines, cause: error.into() })?;
        self.summary.is_open = match &self.unit.kind {
            UnitKind::None => self.snapshot.is_some() || self.leading_end.is_some(),
            UnitKind::Snapshot | UnitKind::Transaction { .. } => true,
            UnitKind::Run { is_stored, .. } => !is_stored,
        };
        Ok(self.summary)
    }

    async fn take(&mut self, line: u64, text: &str) -> Result<(), Located> {
        // The decoder remembers schemas, and the event borrows the line: neither is part of what the event changes.
        let mut decoder = std::mem::take(&mut self.decoder);
        let event = decoder.decode(text);
        self.decoder = decoder;
        match event.map_err(here)? {
            Event::Tombstone => Ok(()),
            Event::Begin { transaction } => self.begin(transaction).await,
            Event::End(end) => self.end(line, &end).await,
            Event::Change(change) => {
                self.note_source(&change).map_err(here)?;
                if let Some((line, lsn)) = self.leading_end.take()
                    && !self.stored().is_some_and(|stored| stored.covers_commit(lsn))
                {
                    return Err((Some(line), IngestCause::BeginsInside { what: "a transaction".to_owned() }));
                }
                match change.source.snapshot.as_ref().map(|mark| &*mark.0) {
                    Some(mark) if mark != "false" && mark != "incremental" => {
                        let mark = mark.to_owned();
                        self.snapshot_row(line, text, &change, &mark).await
                    }
                    _ => self.streamed(line, text, &change).await,
                }
            }
        }
    }

    /// The first event tells the source, and with it how far it is stored.
    fn note_source(&mut self, change: &Change<'_>) -> Result<(), IngestCause> {
        if let Some(source) = &self.source {
            if source.name != change.source.name || source.database != change.source.db {
                let message = format!(
                    "an event of source {}.{} among those of {}.{}",
                    change.source.name, change.source.db, source.name, source.database
                );
                return Err(IngestCause::Incomplete(message));
            }
            return Ok(());
        }
        let mut source = UpstreamSource {
            name: change.source.name.clone().into_owned(),
            database: change.source.db.clone().into_owned(),
            stored: None,
        };
        let stored = self.pipeline.begin()?.position(&source.of())?;
        source.stored = stored.map(|bytes| Position::decode(&bytes)).transpose().map_err(IngestCause::Incomplete)?;
        self.source = Some(source);
        Ok(())
    }

    fn stored(&self) -> Option<&Position> {
        self.source.as_ref().and_then(|source| source.stored.as_ref())
    }

    async fn begin(&mut self, id: String) -> Result<(), Located> {
        self.close_open_unit().await?;
        // Where it ends is told by its END alone.
        self.unit.kind = UnitKind::Transaction { id, is_partial: false, may_be_stored: true };
        Ok(())
    }

    /// What comes behind a snapshot or a run ends it.
    async fn close_open_unit(&mut self) -> Result<(), Located> {
        match &self.unit.kind {
            UnitKind::Snapshot => self.commit_snapshot(true).await,
            UnitKind::Run { lsn, transaction, is_stored: false } => {
                let position = Position::Run { lsn: *lsn, transaction: *transaction };
                self.commit_unit(position, "runs", *lsn).await
            }
            UnitKind::Run { .. } => {
                self.unit = Unit::default();
                Ok(())
            }
            UnitKind::Transaction { id, .. } => {
                let cause = IngestCause::Incomplete(format!("transaction {id} has no END before the next one begins"));
                Err(here(cause))
            }
            UnitKind::None => {
                if let Some(left) = self.snapshot.take() {
                    // It was stored to its end already, or its last batch was full.
                    self.finish_snapshot(&left).await?;
                }
                Ok(())
            }
        }
    }

    async fn end(&mut self, line: u64, end: &End) -> Result<(), Located> {
        if self.source.is_none() && self.unit.kind == UnitKind::None && self.leading_end.is_none() {
            self.leading_end = Some((line, end.lsn));
            return Ok(());
        }
        let UnitKind::Transaction { id, is_partial, .. } = &self.unit.kind else {
            return Err(here(IngestCause::Incomplete(format!(
                "END of transaction {} without its BEGIN",
                end.transaction
            ))));
        };
        if *id != end.transaction {
            let message = format!("END of transaction {} inside transaction {id}", end.transaction);
            return Err(here(IngestCause::Incomplete(message)));
        }
        let is_stored = self.stored().is_some_and(|stored| stored.covers_commit(end.lsn));
        if is_stored {
            self.summary.skipped += self.unit.events;
            self.unit = Unit::default();
            return Ok(());
        }
        if *is_partial {
            let first = self.unit.lines.first().map(|(line, _)| *line);
            return Err((first, IngestCause::BeginsInside { what: format!("transaction {id}") }));
        }
        self.check_counts(end).map_err(here)?;
        self.commit_unit(Position::Commit { lsn: end.lsn }, "commits", end.lsn).await
    }

    fn check_counts(&self, end: &End) -> Result<(), IngestCause> {
        let transaction = &end.transaction;
        let differing = |of: &str, expected: u64, found: u64| IngestCause::Count {
            transaction: transaction.clone(),
            of: of.to_owned(),
            expected,
            found,
        };
        if end.event_count != self.unit.events {
            return Err(differing("all tables", end.event_count, self.unit.events));
        }
        for (table, expected) in &end.table_counts {
            let found = self.unit.counted(table);
            if found != *expected {
                return Err(differing(table, *expected, found));
            }
        }
        Ok(())
    }

    /// Where the stored snapshot was taken, if a snapshot is what is stored.
    fn stored_snapshot(&self) -> u64 {
        match self.stored() {
            Some(Position::Snapshot { lsn, .. }) => *lsn,
            _ => 0,
        }
    }

    async fn streamed(&mut self, line: u64, text: &str, change: &Change<'_>) -> Result<(), Located> {
        match (&change.transaction, &self.unit.kind) {
            (Some(id), UnitKind::Transaction { id: open, .. }) if id == open => {}
            (Some(id), UnitKind::Transaction { id: open, .. }) => {
                let message = format!("an event of transaction {id} inside transaction {open}");
                return Err(here(IngestCause::Incomplete(message)));
            }
            (Some(id), _) => {
                let id = id.clone().into_owned();
                self.close_open_unit().await?;
                self.unit.kind = UnitKind::Transaction { id, is_partial: true, may_be_stored: true };
            }
            (None, _) => self.continue_run(change).await?,
        }
        self.has_begun = true;
        self.unit.events += 1;
        self.unit.count(&change.source.schema, &change.source.table);
        if let UnitKind::Run { is_stored: true, .. } = self.unit.kind {
            self.summary.skipped += 1;
            return Ok(());
        }
        self.unit.lines.push((line, text.to_owned()));
        self.unit.has_truncation |= change.operation == Operation::Truncate;
        // An event beyond what is stored belongs to a transaction that ends beyond it: its effects need not wait for the END.
        let is_beyond = match (self.stored(), change.source.lsn) {
            (None, _) => true,
            (Some(stored), Some(lsn)) => !stored.covers_commit(lsn),
            (Some(_), None) => false,
        };
        match &mut self.unit.kind {
            UnitKind::Transaction { is_partial: true, .. } => Ok(()),
            UnitKind::Transaction { may_be_stored, .. } if *may_be_stored && !is_beyond => Ok(()),
            UnitKind::Transaction { may_be_stored, .. } if *may_be_stored => {
                *may_be_stored = false;
                self.apply_all().await
            }
            // The unit begins anew where the truncation can be made.
            _ if change.operation == Operation::Truncate => self.apply_all().await,
            _ => self.apply_last(change).await,
        }
    }

    /// Without transaction metadata a transaction is a run of events of one number.
    async fn continue_run(&mut self, change: &Change<'_>) -> Result<(), Located> {
        let incomplete =
            |what: &str| here(IngestCause::Incomplete(format!("an event without transaction metadata has no {what}")));
        let transaction = change.source.tx_id.ok_or_else(|| incomplete("source.txId"))?;
        if matches!(&self.unit.kind, UnitKind::Run { transaction: open, .. } if *open == transaction) {
            return Ok(());
        }
        self.close_open_unit().await?;
        // The first commit behind a snapshot has none before it: it hangs on the snapshot.
        let lsn = change.source.last_commit_lsn().unwrap_or(0);
        let lsn = if lsn == 0 { self.snapshot_seen.max(self.stored_snapshot()) } else { lsn };
        let event = change.source.lsn.unwrap_or(u64::MAX);
        let is_stored = self.stored().is_some_and(|stored| stored.covers_run(lsn, transaction, event));
        if !is_stored && !self.has_begun && self.stored().is_some() {
            // Nothing tells whether this is its first event: the input has to overlap what is stored.
            return Err(here(IngestCause::BeginsInside { what: format!("transaction {transaction}, perhaps") }));
        }
        self.unit.kind = UnitKind::Run { lsn, transaction, is_stored };
        Ok(())
    }

    async fn snapshot_row(&mut self, line: u64, text: &str, change: &Change<'_>, mark: &str) -> Result<(), Located> {
        if matches!(self.unit.kind, UnitKind::Transaction { .. } | UnitKind::Run { .. }) {
            self.close_open_unit().await?;
        }
        let lsn = change.source.lsn.unwrap_or(0);
        (self.has_begun, self.snapshot_seen) = (true, lsn);
        if self.snapshot.as_ref().is_some_and(|snapshot| snapshot.lsn != lsn) {
            self.close_open_unit().await?;
        }
        let stored = self.stored().cloned();
        let is_covered = stored.as_ref().is_some_and(|stored| stored.covers_snapshot(lsn));
        if self.snapshot.is_none() {
            if !mark.starts_with("first") {
                if is_covered {
                    self.summary.skipped += 1;
                    return Ok(());
                }
                return Err(here(IngestCause::BeginsInside { what: format!("the snapshot at {lsn}") }));
            }
            let first = format!("{}.{}", change.source.schema, change.source.table);
            if let Some(Position::Snapshot { lsn: stored, is_done: false, first: expected, .. }) = &stored
                && *stored == lsn
                && *expected != first
            {
                return Err(here(IngestCause::BeginsInside { what: format!("the snapshot at {lsn}") }));
            }
            self.snapshot = Some(SnapshotProgress { lsn, rows: 0, first });
        }
        let rows = match &mut self.snapshot {
            Some(snapshot) => {
                snapshot.rows += 1;
                snapshot.rows
            }
            None => 0,
        };
        let is_last = mark == "last";
        if is_covered || stored.is_some_and(|stored| stored.covers_snapshot_row(lsn, rows)) {
            self.summary.skipped += 1;
            if is_last
                && let Some(left) = self.snapshot.take()
                && !is_covered
            {
                self.finish_snapshot(&left).await?;
            }
            return Ok(());
        }
        self.unit.kind = UnitKind::Snapshot;
        self.unit.events += 1;
        self.unit.lines.push((line, text.to_owned()));
        self.apply_last(change).await?;
        if is_last || rows.is_multiple_of(SNAPSHOT_BATCH_ROWS) {
            self.commit_snapshot(is_last).await?;
        }
        Ok(())
    }

    async fn commit_snapshot(&mut self, is_done: bool) -> Result<(), Located> {
        let Some(SnapshotProgress { lsn, rows, first }) = &self.snapshot else { return Ok(()) };
        let (lsn, rows, first) = (*lsn, *rows, first.clone());
        if is_done {
            self.snapshot = None;
        }
        let series = format!("snapshot {lsn}");
        self.commit_unit(Position::Snapshot { lsn, rows, is_done, first }, &series, rows).await
    }

    /// A snapshot whose last batch was full, and whose end shows only now.
    async fn finish_snapshot(&mut self, left: &SnapshotProgress) -> Result<(), Located> {
        match self.stored() {
            Some(Position::Snapshot { lsn, rows, is_done: false, first }) if *lsn == left.lsn => {
                let (lsn, rows, first) = (*lsn, *rows, first.clone());
                if left.rows < rows {
                    return Err(here(IngestCause::BeginsInside { what: format!("the snapshot at {lsn}") }));
                }
                self.finish_snapshot_at(lsn, rows, first).await
            }
            _ => Ok(()),
        }
    }

    async fn finish_snapshot_at(&mut self, lsn: u64, rows: u64, first: String) -> Result<(), Located> {
        let position = Position::Snapshot { lsn, rows, is_done: true, first };
        self.commit_unit(position, &format!("snapshot {lsn} end"), rows).await
    }

    /// Applies the unit's last line.
    async fn apply_last(&mut self, change: &Change<'_>) -> Result<(), Located> {
        let write = match &mut self.unit.write {
            Some(write) => write,
            none => none.insert(Box::new(self.pipeline.begin().map_err(here)?)),
        };
        match self.tables.apply(write, change).await.map_err(here)? {
            Applied::Done => Ok(()),
            Applied::SchemaDue => self.apply_all().await,
        }
    }

    /// Applies all lines of the unit, behind whatever schema commits they need.
    async fn apply_all(&mut self) -> Result<(), Located> {
        let lines = std::mem::take(&mut self.unit.lines);
        self.unit.write = None;
        if self.unit.has_truncation {
            // As a change of the catalog, it is made on what is visible.
            self.pipeline.drain().map_err(here)?;
        }
        'again: loop {
            let mut write = Box::new(self.pipeline.begin().map_err(here)?);
            for (line, text) in &lines {
                let at = |cause: IngestCause| (Some(*line), cause);
                let event = self.decoder.decode(text).map_err(|error| at(error.into()))?;
                let Event::Change(change) = event else { continue };
                if let Applied::SchemaDue = self.tables.apply(&mut write, &change).await.map_err(at)? {
                    drop(write);
                    // A change of the catalog is made on what is visible.
                    self.pipeline.drain().map_err(here)?;
                    let mut schema = self.pipeline.begin().map_err(here)?;
                    self.tables.apply_schema(&mut schema, &change).await.map_err(at)?;
                    let ordered = self.pipeline.commit(schema, None).map_err(|error| at(error.into()))?;
                    self.note_commit(ordered.map(|ordered| ordered.lsn));
                    continue 'again;
                }
            }
            self.unit.write = Some(write);
            self.unit.lines = lines;
            return Ok(());
        }
    }

    /// Commits what the unit gathered, with its position.
    async fn commit_unit(&mut self, position: Position, series: &str, sequence: u64) -> Result<(), Located> {
        if self.unit.write.is_none() {
            // Its lines waited for its end, or it has none.
            self.apply_all().await?;
        }
        let unit = std::mem::take(&mut self.unit);
        let (Some(mut write), Some(source)) = (unit.write, &self.source) else {
            // A transaction without any event, before the first one that names the source.
            return Ok(());
        };
        write.put_position(source.of(), position.encode());
        let producer = ProducerSequence { producer: source.producer(series), sequence };
        // Somebody else's commit of this position lies behind all that this ingest has seen or made.
        let known = write.read_lsn().max(self.summary.last.unwrap_or_default());
        let ordered = self.pipeline.commit(*write, Some(producer)).map_err(here)?;
        let lsn = ordered.map(|ordered| ordered.lsn);
        if ordered.is_some_and(|ordered| ordered.is_duplicate && ordered.lsn <= known) {
            // A commit of before is the answer, though the position that is stored does not reach it.
            let message =
                format!("position {sequence} of {series} was stored before, and the stored position lies elsewhere");
            return Err(here(IngestCause::Incomplete(message)));
        }
        if let Position::Snapshot { is_done: true, .. } = position {
            self.summary.snapshot_end = lsn;
        }
        if let Some(source) = &mut self.source {
            source.stored = Some(position);
        }
        self.summary.events += unit.events;
        self.note_commit(lsn);
        Ok(())
    }

    fn note_commit(&mut self, lsn: Option<Lsn>) {
        self.summary.commits += u64::from(lsn.is_some());
        self.summary.last = lsn.or(self.summary.last);
    }
}

/// A cause, and its line where that is not the last one.
type Located = (Option<u64>, IngestCause);

fn here(cause: impl Into<IngestCause>) -> Located {
    (None, cause.into())
}

/// Opens an input that is plain or zstd, told by its first bytes.
///
/// # Errors
/// When the first bytes cannot be read.
pub fn open_lines(input: impl Read + Send + 'static) -> io::Result<Box<dyn BufRead + Send>> {
    let mut input = BufReader::with_capacity(256 * 1024, input);
    let is_zstd = loop {
        match input.fill_buf() {
            Ok(bytes) => break bytes.starts_with(&ZSTD_MAGIC),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    };
    if !is_zstd {
        return Ok(Box::new(input));
    }
    Ok(Box::new(BufReader::with_capacity(256 * 1024, zstd::stream::read::Decoder::with_buffer(input)?)))
}

/// Reads a line into `line`, without its end; `false`: there is none any more.
///
/// # Errors
/// When the input cannot be read, is no UTF-8, or holds a line longer than [`LINE_BYTES_MAX`].
pub fn read_line(input: &mut dyn BufRead, line: &mut String) -> io::Result<bool> {
    let mut bytes = std::mem::take(line).into_bytes();
    bytes.clear();
    let read = input.take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut bytes)?;
    if read as u64 > LINE_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a line is longer than {LINE_BYTES_MAX} bytes"),
        ));
    }
    while matches!(bytes.last(), Some(b'\n' | b'\r')) {
        bytes.pop();
    }
    *line = String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(read > 0)
}

/// Longer lines are refused.
pub const LINE_BYTES_MAX: u64 = 256 * 1024 * 1024;
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
