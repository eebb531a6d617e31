//! Change events out of a file or a stream of lines, one upstream transaction a commit.
//!
//! ```text
//!  a thread of its own                 the caller's
//!  lines ─▶ blocks ─▶ decoded ══╗
//!                               ╚═▶ where does it belong? ─▶ unit (its lines, and a transaction that holds their effects)
//!                                   stored already: passed over     │ END, or a snapshot batch is full
//!                                                                   ▼
//!                                                       one commit: rows + position
//! ```
//!
//! The position is the upstream's own and only grows, so that what comes again is passed over: after a kill, from another file, in
//! overlapping pieces.

mod apply;
mod block;
mod error;
mod position;
mod snapshot;
mod unit;

use std::io::BufRead;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use highwater_log::Lsn;
use highwater_log::commit::{ProducerId, ProducerSequence};
use highwater_query::{Engine, Hold, SchemaDump, SqlError, WritePipeline, sqlstate};

use crate::decode::debezium::{Change, End, Event, Operation};
use apply::{Applied, Tables};
use block::{Block, Line};
use position::Position;
use snapshot::SnapshotProgress;
use unit::{Unit, UnitKind};

pub use block::{LINE_BYTES_MAX, open_lines};
pub use error::{IngestCause, IngestError};

/// Rows of a snapshot that are committed together. Positions are multiples of it: it never changes.
pub const SNAPSHOT_BATCH_ROWS: u64 = 10_000;

/// Commits change events that come as lines.
pub struct FileIngest {
    pipeline: WritePipeline,
    /// Given up behind the pipeline, when everything of it is visible.
    hold: Option<Hold>,
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

impl FileIngest {
    /// An ingest into the database behind `engine`. Tables that are not there take their columns from `tables`, where it has them.
    #[must_use]
    pub fn new(engine: Engine, tables: Option<SchemaDump>) -> Self {
        Self {
            pipeline: WritePipeline::new(engine),
            hold: None,
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

    /// Takes all lines of an input, and waits until everything of it is durable; a transaction that has not ended is not committed.
    /// `told` hears how far it has come, after some lines each time, and may end it there.
    ///
    /// It blocks its thread while it waits for lines and for commits: it wants one of its own. Lines are taken as they arrive.
    ///
    /// # Errors
    /// [`IngestError`]: of a line, of reading the input, or of something under way that could not be committed.
    pub async fn run(
        mut self,
        input: Box<dyn BufRead + Send>,
        mut told: impl FnMut(&Summary) -> ControlFlow<()>,
    ) -> Result<Summary, IngestError> {
        let unread = |cause, lines| IngestError { line: lines + 1, cause: IngestCause::Input(cause) };
        let blocks = block::read_ahead(input).map_err(|error| unread(error, 0))?;
        while let Some(block) = blocks.next().map_err(|error| unread(error, self.summary.lines))? {
            self.take_block(&Arc::new(block)).await?;
            if told(&self.summary).is_break() {
                break;
            }
        }
        self.finish()
    }

    async fn take_block(&mut self, block: &Arc<Block>) -> Result<(), IngestError> {
        for line in Line::all(block) {
            self.summary.lines = line.number();
            let taken = self.take(&line).await;
            taken.map_err(|(at, cause)| IngestError { line: at.unwrap_or(line.number()), cause })?;
        }
        self.summary.lines = block.last();
        Ok(())
    }

    fn finish(mut self) -> Result<Summary, IngestError> {
        self.unit.write = None;
        self.pipeline.drain().map_err(|error| IngestError { line: self.summary.lines, cause: error.into() })?;
        self.summary.is_open = match &self.unit.kind {
            UnitKind::None => self.snapshot.is_some() || self.leading_end.is_some(),
            UnitKind::Snapshot | UnitKind::Transaction { .. } => true,
            UnitKind::Run { is_stored, .. } => !is_stored,
        };
        Ok(self.summary)
    }

    async fn take(&mut self, line: &Line) -> Result<(), Located> {
        match line.event().as_ref().map_err(|error| here(error.clone()))? {
            Event::Tombstone => Ok(()),
            Event::Begin { transaction } => self.begin(transaction.clone()).await,
            Event::End(end) => self.end(line.number(), end).await,
            Event::Change(change) => {
                self.note_source(change).map_err(here)?;
                if let Some((line, lsn)) = self.leading_end.take()
                    && !self.stored().is_some_and(|stored| stored.covers_commit(lsn))
                {
                    return Err((Some(line), IngestCause::BeginsInside { what: "a transaction".to_owned() }));
                }
                match change.source.snapshot.as_ref().map(|mark| &*mark.0) {
                    Some(mark) if mark != "false" && mark != "incremental" => {
                        self.snapshot_row(line, change, mark).await
                    }
                    _ => self.streamed(line, change).await,
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
        // Somebody may be about to commit what comes here, too: a client that is gone, whose lines were under way.
        self.hold = Some(self.pipeline.hold(source.of(), HOLD_PATIENCE)?);
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
            let first = self.unit.lines.first().map(Line::number);
            return Err((first, IngestCause::BeginsInside { what: format!("transaction {id}") }));
        }
        self.unit.check_counts(end).map_err(here)?;
        self.commit_unit(Position::Commit { lsn: end.lsn }, "commits", end.lsn).await
    }

    async fn streamed(&mut self, line: &Line, change: &Change<'_>) -> Result<(), Located> {
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
        self.keep(line)?;
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

    /// Keeps a line of the unit, within what a transaction may hold.
    fn keep(&mut self, line: &Line) -> Result<(), Located> {
        if self.unit.lines.last().is_none_or(|last| !last.is_beside(line)) {
            self.unit.bytes += line.block_bytes();
        }
        let max = self.pipeline.transaction_bytes_max();
        if self.unit.bytes > max {
            let cause = IngestCause::TooLarge { bytes: self.unit.bytes, max };
            return Err(here(cause));
        }
        self.unit.lines.push(line.clone());
        Ok(())
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
        let mut races = 0;
        'again: loop {
            let mut write = Box::new(self.pipeline.begin().map_err(here)?);
            for line in &lines {
                let at = |cause: IngestCause| (Some(line.number()), cause);
                let Ok(Event::Change(change)) = line.event() else { continue };
                if let Applied::SchemaDue = self.tables.apply(&mut write, change).await.map_err(at)? {
                    drop(write);
                    // A change of the catalog is made on what is visible.
                    self.pipeline.drain().map_err(here)?;
                    let mut schema = self.pipeline.begin().map_err(here)?;
                    self.tables.apply_schema(&mut schema, change).await.map_err(at)?;
                    let read = schema.read_lsn();
                    match self.pipeline.commit(schema, None) {
                        Ok(ordered) => self.note_commit(ordered.map(|ordered| ordered.lsn)),
                        // Somebody else changed the catalog meanwhile.
                        Err(error) if is_lost_race(&error) && races < RACES_MAX => {
                            races += 1;
                            self.pipeline.wait_for_winner(read).await;
                        }
                        Err(error) => return Err(at(error.into())),
                    }
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
        let mut races = 0;
        let (ordered, known) = loop {
            if self.unit.write.is_none() {
                // Its lines waited for its end, or it has none, or it lost a race.
                self.apply_all().await?;
            }
            let (Some(mut write), Some(source)) = (self.unit.write.take(), &self.source) else {
                // A transaction without any event, before the first one that names the source.
                self.unit = Unit::default();
                return Ok(());
            };
            write.put_position(source.of(), position.encode());
            let producer = ProducerSequence { producer: source.producer(series), sequence };
            // Somebody else's commit of this position lies behind all that this ingest has seen or made.
            let read = write.read_lsn();
            let known = read.max(self.summary.last.unwrap_or_default());
            match self.pipeline.commit(*write, Some(producer)) {
                Ok(ordered) => break (ordered, known),
                // Somebody else changed what it was computed from: it is computed anew.
                Err(error) if is_lost_race(&error) && races < RACES_MAX => {
                    races += 1;
                    self.pipeline.wait_for_winner(read).await;
                }
                Err(error) => return Err(here(error)),
            }
        };
        let unit = std::mem::take(&mut self.unit);
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

/// So long an ingest waits for another one of the same source to end.
const HOLD_PATIENCE: Duration = Duration::from_secs(10);

/// What loses a race is done anew so often.
const RACES_MAX: u32 = 100;

fn is_lost_race(error: &SqlError) -> bool {
    error.sqlstate == sqlstate::SERIALIZATION_FAILURE
}

/// A cause, and its line where that is not the last one.
type Located = (Option<u64>, IngestCause);

fn here(cause: impl Into<IngestCause>) -> Located {
    (None, cause.into())
}
