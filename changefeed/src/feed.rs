//! A feed: one reader's way through the log.

mod open_commit;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use highwater_log::position::{RowId, TableId};
use highwater_log::row::Row;
use highwater_log::schema::TableSchema;
use highwater_log::{Change, CommitLog, LogId, LogReader, Lsn};
use highwater_materializers::{Materialized, Table, TableRow};
use tokio::sync::watch;
use tokio::time::Sleep;

use crate::cursor::Cursor;
use crate::error::FeedError;
use crate::event::{Encoder, Event, Operation, RowChange};
use crate::snapshot::Snapshot;
use open_commit::{OpenCommit, Seek, table_of};

/// What feeds are made from. Cheap to clone.
#[derive(Clone)]
pub struct FeedSource {
    log: Arc<dyn CommitLog>,
    folds: Materialized,
    visible: watch::Receiver<Lsn>,
}

/// Where a feed begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedStart {
    /// With the rows as they are now; every commit after them follows.
    Snapshot,
    /// With the next commit.
    Now,
    /// With the commit after this one.
    After(Lsn),
    /// Where another reading stood.
    Cursor(Cursor),
}

/// What a feed does beside telling changes.
#[derive(Clone, Debug)]
pub struct FeedOptions {
    /// A mark of progress is told at most so often, when the feed has come to the end of what there is, and once for each such end: a
    /// database in which nothing happens has nothing to tell. Zero: whenever the feed has come there.
    pub progress_after: Duration,
}

impl Default for FeedOptions {
    fn default() -> Self {
        Self { progress_after: Duration::from_secs(1) }
    }
}

/// What a batch of events is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchKind {
    /// The tables' schemas where the feed begins.
    Schema,
    /// Rows of the snapshot.
    Snapshot,
    /// What commits changed, schemas included.
    Changes,
    /// That everything there was at the beginning is told.
    Ready,
    /// How far everything is told.
    Progress,
}

/// Events that an encoder was filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// What they are about.
    pub kind: BatchKind,
    /// Where a reader stands who has dealt with them; `None` before a snapshot is complete, which can only be begun again.
    pub cursor: Option<Cursor>,
    /// How many they are; at least one.
    pub count: u32,
    /// Whether the last of them is the last that its commit has for this feed, so that the reader stands between commits.
    pub ends_commit: bool,
}

/// Whole commits, in order, as far as they concern some tables.
///
/// A feed follows the tables that have the given names where it begins (or the first that get them later), through renames, until they
/// are dropped; a table made after that under the same name is another one. It shows what is visible, never what is merely durable. The reader pulls: until it asks for
/// more, nothing is read. Dropping the future of [`Feed::next`] loses nothing; dropping the feed ends it.
pub struct Feed {
    folds: Materialized,
    reader: LogReader,
    visible: watch::Receiver<Lsn>,
    options: FeedOptions,
    tables: Vec<Followed>,
    stage: Stage,
    /// Behind the last commit that is dealt with whole.
    cursor: Cursor,
    commit: Option<OpenCommit>,
    ready_at: Lsn,
    is_ready: bool,
    /// The last commit that did more than keep books, and the last one of a progress mark.
    passed: Lsn,
    told: Lsn,
    /// Runs while a mark of progress is owed.
    owed: Option<Pin<Box<Sleep>>>,
    /// Runs to the next look at the log.
    check: Option<Pin<Box<Sleep>>>,
}

struct Followed {
    id: TableId,
    /// As it is where the feed stands; `None` before it is made, and after it is dropped.
    table: Option<Arc<Table>>,
    is_dropped: bool,
}

enum Stage {
    Beginning(Option<Snapshot>),
    Snapshot(Snapshot),
    Following,
}

enum Step {
    Batch(Batch),
    /// Nothing to tell yet, and more to read.
    Later,
    AtEnd,
}

impl FeedSource {
    /// Feeds over this log, whose folds are these, as far as `visible` says.
    #[must_use]
    pub fn new(log: Arc<dyn CommitLog>, folds: Materialized, visible: watch::Receiver<Lsn>) -> Self {
        Self { log, folds, visible }
    }

    /// The log's identity.
    #[must_use]
    pub fn log_id(&self) -> LogId {
        self.log.id()
    }

    /// The last durable commit.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        *self.log.durable().borrow()
    }

    /// A feed of the tables of these names, each of a namespace.
    ///
    /// # Errors
    /// [`FeedError::NoTables`], [`FeedError::UnknownTable`], [`FeedError::Renamed`]; [`FeedError::OtherLog`], [`FeedError::Beyond`] and
    /// [`FeedError::TooOld`] when it cannot begin there.
    pub fn subscribe(&self, names: &[(&str, &str)], from: FeedStart, options: FeedOptions) -> Result<Feed, FeedError> {
        let log = self.log.id();
        let visible = *self.visible.borrow();
        let beginning = match from {
            FeedStart::Snapshot | FeedStart::Now => Cursor::after(log, visible),
            FeedStart::After(lsn) => Cursor::after(log, lsn),
            FeedStart::Cursor(cursor) => cursor,
        };
        if beginning.log != log {
            return Err(FeedError::OtherLog { given: beginning.log, own: log });
        }
        // A place inside a commit is one inside a visible commit.
        if beginning.lsn > visible || (beginning.lsn == visible && beginning.position > 0) {
            return Err(FeedError::Beyond { after: beginning.lsn, visible });
        }
        let catalog = self.folds.catalog();
        let mut tables: Vec<Followed> = Vec::new();
        for (namespace, name) in names {
            let full = || format!("{namespace}.{name}");
            let unknown = || FeedError::UnknownTable { name: full() };
            let found = catalog.table_named(namespace, name, beginning.lsn);
            if found.is_none()
                && let Some(table) = catalog.table_once_named(namespace, name, beginning.lsn)
            {
                // Whoever stood here before has followed it: a later table of the name is another one.
                let now = format!("{}.{}", table.schema().namespace, table.schema().name);
                return Err(FeedError::Renamed { name: full(), now, lsn: beginning.lsn });
            }
            let found = found.or_else(|| catalog.table_named_from(namespace, name, beginning.lsn));
            let id = found.ok_or_else(unknown)?.schema().id;
            if tables.iter().all(|followed| followed.id != id) {
                tables.push(Followed { id, table: catalog.table(id, beginning.lsn), is_dropped: false });
            }
        }
        if tables.is_empty() {
            return Err(FeedError::NoTables);
        }
        let reader = self.log.read_after(beginning.lsn)?;
        let snapshot = match from {
            FeedStart::Snapshot => {
                let tables = tables.iter().filter_map(|followed| followed.table.clone()).collect();
                Some(Snapshot::begin(&self.folds, beginning.lsn, tables)?)
            }
            FeedStart::Now | FeedStart::After(_) | FeedStart::Cursor(_) => None,
        };
        let mut feed = Feed {
            folds: self.folds.clone(),
            reader,
            visible: self.visible.clone(),
            options,
            tables,
            stage: Stage::Beginning(snapshot),
            cursor: Cursor { position: 0, ..beginning },
            commit: None,
            ready_at: visible,
            is_ready: false,
            passed: beginning.lsn,
            told: beginning.lsn,
            owed: None,
            check: None,
        };
        feed.go_to_place(beginning.position)?;
        Ok(feed)
    }
}

impl Feed {
    /// Goes to its place inside a commit: what the changes before it did to the tables is known there.
    fn go_to_place(&mut self, position: u64) -> Result<(), FeedError> {
        if position == 0 {
            return Ok(());
        }
        let Some(encoded) = self.reader.try_next()? else { return Ok(()) };
        let mut commit = OpenCommit::new(encoded);
        let lsn = self.cursor.lsn.next();
        while commit.position() < position {
            let Some((_, change)) = commit.take() else {
                if !commit.open_part()? {
                    break;
                }
                continue;
            };
            if let Change::Catalog { .. } | Change::Truncate { .. } = change
                && let Some(followed) = self.tables.iter_mut().find(|followed| Some(followed.id) == table_of(&change))
            {
                followed.table = self.folds.catalog().table(followed.id, lsn);
                followed.is_dropped = followed.table.is_none();
            }
        }
        self.commit = Some(commit);
        Ok(())
    }

    /// Fills `encoder` with the next events, waiting for some: as many as there are, until it holds `bytes_target` bytes; at least one,
    /// however large. A batch may end inside a commit, and may hold several. Reads files on the calling thread when it is far behind.
    ///
    /// # Errors
    /// [`FeedError`]; the feed has ended, and what the encoder holds since the last batch is to be thrown away.
    pub async fn next(&mut self, encoder: &mut dyn Encoder, bytes_target: usize) -> Result<Batch, FeedError> {
        loop {
            match self.step(encoder, bytes_target)? {
                Step::Batch(batch) => return Ok(batch),
                Step::Later => tokio::task::yield_now().await,
                Step::AtEnd => {
                    if self.wait().await? {
                        return self.mark(encoder);
                    }
                }
            }
        }
    }

    /// Where a reader stands who has dealt with every batch so far.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        match &self.commit {
            Some(commit) => Cursor { position: commit.position(), ..self.cursor },
            None => self.cursor,
        }
    }

    fn step(&mut self, encoder: &mut dyn Encoder, bytes_target: usize) -> Result<Step, FeedError> {
        loop {
            match &mut self.stage {
                Stage::Beginning(snapshot) => {
                    let snapshot = snapshot.take();
                    let is_resumable = snapshot.is_none();
                    self.stage = snapshot.map_or(Stage::Following, Stage::Snapshot);
                    let mut count = 0;
                    for table in self.tables.iter().filter_map(|followed| followed.table.as_deref()) {
                        // Inside a commit, that one may have made it what it is.
                        let lsn = self.cursor.lsn.max(table.written());
                        let told = encoder.encode(&Event::Schema { lsn, table, is_dropped: false });
                        told.map_err(|source| FeedError::Row { lsn, source })?;
                        count += 1;
                    }
                    if count > 0 {
                        let cursor = is_resumable.then(|| self.cursor());
                        let ends_commit = self.commit.is_none();
                        return Ok(Step::Batch(Batch { kind: BatchKind::Schema, cursor, count, ends_commit }));
                    }
                }
                Stage::Snapshot(snapshot) => {
                    let (count, is_last) = snapshot.fill(encoder, bytes_target.max(1))?;
                    if is_last {
                        self.stage = Stage::Following;
                    }
                    if count > 0 {
                        let batch = Batch { kind: BatchKind::Snapshot, cursor: None, count, ends_commit: is_last };
                        return Ok(Step::Batch(batch));
                    }
                }
                Stage::Following => return self.follow(encoder, bytes_target.max(1)),
            }
        }
    }

    /// Tells what the next commits changed, as far as they are visible.
    fn follow(&mut self, encoder: &mut dyn Encoder, bytes_target: usize) -> Result<Step, FeedError> {
        let visible = *self.visible.borrow_and_update();
        let (mut count, mut work) = (0, 0);
        while encoder.byte_len() < bytes_target && work < WORK_MAX {
            work += 1;
            if let Some(commit) = &mut self.commit {
                match commit.seek(&self.tables)? {
                    Seek::Change => count += u32::from(self.tell(encoder)?),
                    Seek::Part { changes } => work += changes,
                    Seek::End => self.finish_commit(),
                }
                continue;
            }
            // What was told before goes first.
            let is_alone = count == 0;
            if self.tables.iter().all(|followed| followed.is_dropped) {
                match is_alone {
                    true => return Err(FeedError::Dropped { lsn: self.cursor.lsn }),
                    false => break,
                }
            }
            if !self.is_ready && self.cursor.lsn >= self.ready_at {
                if !is_alone {
                    break;
                }
                self.is_ready = true;
                return self.single(encoder, BatchKind::Ready).map(Step::Batch);
            }
            // What is visible is durable, and there.
            let next = if self.cursor.lsn < visible { self.reader.try_next()? } else { None };
            let Some(encoded) = next else { break };
            self.commit = Some(OpenCommit::new(encoded));
        }
        if count > 0 {
            // What is left of the commit may be nothing to the feed.
            let mut parts = 0;
            while let Some(commit) = self.commit.as_mut().filter(|_| parts < PARTS_LOOKED_THROUGH_MAX) {
                match commit.seek(&self.tables)? {
                    Seek::Change => break,
                    Seek::Part { .. } => parts += 1,
                    Seek::End => self.finish_commit(),
                }
            }
            let ends_commit = self.commit.is_none();
            let cursor = Some(self.cursor());
            return Ok(Step::Batch(Batch { kind: BatchKind::Changes, cursor, count, ends_commit }));
        }
        let is_at_end = self.commit.is_none() && self.is_ready && self.cursor.lsn >= visible;
        Ok(if is_at_end { Step::AtEnd } else { Step::Later })
    }

    /// Tells the next change of the open commit, which concerns the feed; `false`: there is nothing to tell of it.
    fn tell(&mut self, encoder: &mut dyn Encoder) -> Result<bool, FeedError> {
        let Some((position, change)) = self.commit.as_mut().and_then(OpenCommit::take) else { return Ok(false) };
        let lsn = self.cursor.lsn.next();
        let catalog = self.folds.catalog();
        let Some(followed) = self.tables.iter_mut().find(|followed| Some(followed.id) == table_of(&change)) else {
            return Ok(false);
        };
        let id = followed.id;
        let in_row = |source| FeedError::Row { lsn, source };
        if matches!(change, Change::Catalog { .. } | Change::Truncate { .. }) {
            let before = std::mem::replace(&mut followed.table, catalog.table(id, lsn));
            followed.is_dropped = followed.table.is_none();
            let Some(table) = followed.table.as_ref().or(before.as_ref()) else { return Ok(false) };
            if let (Change::Catalog { .. }, Some(before), Some(after)) = (&change, &before, &followed.table)
                && is_same_to_readers(before.schema(), after.schema())
            {
                return Ok(false);
            }
            let event = match change {
                Change::Truncate { .. } => {
                    let (operation, row) = (Operation::Truncate, RowId::default());
                    Event::Change(RowChange { lsn, position, table, operation, row, before: None, after: None })
                }
                _ => Event::Schema { lsn, table, is_dropped: followed.is_dropped },
            };
            encoder.encode(&event).map_err(in_row)?;
            return Ok(true);
        }
        let Some(table) = &followed.table else { return Err(FeedError::UnknownVersion { lsn }) };
        let version_of = |bytes: &[u8]| {
            let version = Row::schema_version(bytes).map_err(in_row)?;
            if version == table.schema().version {
                return Ok(Arc::clone(table));
            }
            catalog.table_at_version(id, version).ok_or(FeedError::UnknownVersion { lsn })
        };
        let mut tell = |operation, row, before: Option<&TableRow<'_>>, after: Option<&TableRow<'_>>| {
            encoder.encode(&Event::Change(RowChange { lsn, position, table, operation, row, before, after }))
        };
        let told = match &change {
            Change::Insert { row, after, .. } => {
                let written = version_of(after)?;
                TableRow::parse(&written, after, table)
                    .and_then(|after| tell(Operation::Insert, *row, None, Some(&after)))
            }
            Change::Delete { row, before, .. } => {
                let written = version_of(before)?;
                TableRow::parse(&written, before, table)
                    .and_then(|before| tell(Operation::Delete, *row, Some(&before), None))
            }
            Change::Update { row, before, changed, .. } => {
                let (old, new) = (version_of(before)?, version_of(changed)?);
                let mut bytes = Vec::new();
                new.merge(&old, before, changed, &mut bytes).and_then(|()| {
                    let before = TableRow::parse(&old, before, table)?;
                    let after = TableRow::parse(&new, &bytes, table)?;
                    tell(Operation::Update, *row, Some(&before), Some(&after))
                })
            }
            Change::Catalog { .. } | Change::Truncate { .. } | Change::Position { .. } => Ok(()),
        };
        told.map_err(in_row)?;
        Ok(true)
    }

    fn finish_commit(&mut self) {
        let Some(commit) = self.commit.take() else { return };
        self.cursor.lsn = commit.lsn();
        if !commit.is_bookkeeping() {
            self.passed = self.cursor.lsn;
        }
    }

    /// Waits at the end; `true`: a mark of progress is due.
    async fn wait(&mut self) -> Result<bool, FeedError> {
        let after = self.options.progress_after;
        if self.passed <= self.told {
            self.owed = None;
        } else if after.is_zero() {
            return Ok(true);
        } else {
            self.owed.get_or_insert_with(|| Box::pin(tokio::time::sleep(after)));
        }
        let owed = async {
            match &mut self.owed {
                Some(owed) => owed.await,
                None => std::future::pending().await,
            }
        };
        let check = self.check.get_or_insert_with(|| Box::pin(tokio::time::sleep(CHECK_EVERY)));
        tokio::select! {
            biased;
            changed = self.visible.changed() => {
                changed.map_err(|_| FeedError::Closed)?;
                Ok(false)
            }
            () = owed => {
                self.owed = None;
                Ok(true)
            }
            () = check => {
                self.check = None;
                self.reader.check()?;
                Ok(false)
            }
        }
    }

    fn mark(&mut self, encoder: &mut dyn Encoder) -> Result<Batch, FeedError> {
        self.told = self.cursor.lsn;
        self.single(encoder, BatchKind::Progress)
    }

    fn single(&self, encoder: &mut dyn Encoder, kind: BatchKind) -> Result<Batch, FeedError> {
        let lsn = self.cursor.lsn;
        let event = if kind == BatchKind::Ready { Event::Ready { lsn } } else { Event::Progress { lsn } };
        encoder.encode(&event).map_err(|source| FeedError::Row { lsn, source })?;
        Ok(Batch { kind, cursor: Some(self.cursor()), count: 1, ends_commit: true })
    }
}

/// Whether two versions of a table differ in their indexes at most.
fn is_same_to_readers(before: &TableSchema, after: &TableSchema) -> bool {
    let (version, indexes) = (after.version, after.indexes.clone());
    TableSchema { version, indexes, ..before.clone() } == *after
}

/// So many changes are read at a time, told or not, before others get the thread.
const WORK_MAX: usize = 4096;
/// So many further parts of a commit are looked through for what the feed has to tell, before a batch goes out as one that does not
/// end its commit.
const PARTS_LOOKED_THROUGH_MAX: usize = 8;
/// How often a feed at its end asks whether the log is still well.
const CHECK_EVERY: Duration = Duration::from_secs(1);
