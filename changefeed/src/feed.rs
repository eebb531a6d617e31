//! A feed: one reader's way through the log.

mod followed;
mod open_commit;
mod source;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use highwater_log::position::RowId;
use highwater_log::schema::TableSchema;
use highwater_log::{Change, LogReader, Lsn};
use highwater_materializers::Materialized;
use tokio::sync::watch;
use tokio::time::Sleep;

use crate::cursor::Cursor;
use crate::error::FeedError;
use crate::event::{Encoder, Event, Operation, RowChange, SharedText};
use crate::selection::Selector;
use crate::share::{Share, ToldCommit};
use crate::snapshot::{Filled, Snapshot};
use open_commit::{OpenCommit, Seek, table_of};

pub(crate) use followed::Followed;
pub use source::FeedSource;

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
    selector: Arc<dyn Selector>,
    reader: LogReader,
    visible: watch::Receiver<Lsn>,
    options: FeedOptions,
    tables: Vec<Followed>,
    /// What others tell who tell the same.
    share: Arc<Share>,
    stage: Stage,
    /// Behind the last commit that is dealt with whole.
    cursor: Cursor,
    commit: Option<OpenCommit>,
    ready_at: Lsn,
    is_ready: bool,
    /// The last commit that did more than keep books, and the last one of a progress mark.
    passed: Lsn,
    told: Lsn,
    /// Why it goes on no further.
    failure: Option<FeedError>,
    /// Runs while a mark of progress is owed.
    owed: Option<Pin<Box<Sleep>>>,
    /// Runs to the next look at the log.
    check: Option<Pin<Box<Sleep>>>,
}

enum Stage {
    Beginning(Option<Snapshot>),
    Snapshot(Snapshot),
    Following,
}

/// Where the open commit begins in a batch.
#[derive(Clone, Copy)]
struct Begun {
    /// Bytes that lay in the encoder.
    bytes: usize,
    /// Events that were told.
    count: u32,
}

enum Step {
    Batch(Batch),
    /// Nothing to tell yet, and more to read.
    Later,
    AtEnd,
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
                followed.go_to(lsn, self.folds.catalog(), &*self.selector)?;
                followed.is_dropped = followed.table.is_none();
            }
        }
        commit.note_resumed();
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
                    for followed in &self.tables {
                        let Some(table) = &followed.table else { continue };
                        let shape = followed.fitted().map_or(table, |fitted| fitted.shape());
                        // Inside a commit, that one may have made it what it is.
                        let lsn = self.cursor.lsn.max(table.written());
                        let told = encoder.encode(&Event::Schema { lsn, table, shape, is_dropped: false });
                        told.map_err(|error| FeedError::encode(lsn, error))?;
                        count += 1;
                    }
                    if count > 0 {
                        let cursor = is_resumable.then(|| self.cursor());
                        let ends_commit = self.commit.is_none();
                        return Ok(Step::Batch(Batch { kind: BatchKind::Schema, cursor, count, ends_commit }));
                    }
                }
                Stage::Snapshot(snapshot) => {
                    let Filled { count, is_last } = snapshot.fill(encoder, bytes_target.max(1))?;
                    if is_last {
                        self.stage = Stage::Following;
                    }
                    if count > 0 {
                        let batch = Batch { kind: BatchKind::Snapshot, cursor: None, count, ends_commit: is_last };
                        return Ok(Step::Batch(batch));
                    }
                    if !is_last {
                        return Ok(Step::Later);
                    }
                }
                Stage::Following => return self.follow(encoder, bytes_target.max(1)),
            }
        }
    }

    /// Tells what the next commits changed, as far as they are visible.
    fn follow(&mut self, encoder: &mut dyn Encoder, bytes_target: usize) -> Result<Step, FeedError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let visible = *self.visible.borrow_and_update();
        let (mut count, mut work) = (0, 0);
        // What the open commit begins behind in the encoder, if others are to be spared it.
        let mut begun = None;
        while (count == 0 || encoder.byte_len() < bytes_target) && work < WORK_MAX {
            work += 1;
            if let Some(commit) = &mut self.commit {
                match commit.seek(&self.tables)? {
                    Seek::Change => {
                        if !commit.is_at_row() {
                            // It changes what the tables are to this feed, too: nobody can be spared it.
                            begun = None;
                        }
                        let (at, before) = (self.cursor(), encoder.byte_len());
                        match self.tell(encoder) {
                            Ok(is_told) => count += u32::from(is_told),
                            Err(error) => {
                                // Half a line may lie there.
                                if let Some(SharedText { text, .. }) = encoder.shared() {
                                    text.truncate(before);
                                }
                                self.fail(at, error);
                                break;
                            }
                        }
                    }
                    Seek::Part { changes } => work += changes,
                    Seek::End => count += u32::from(self.finish_commit(begun.take(), encoder, count)?),
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
            let room = if count == 0 { usize::MAX } else { bytes_target.saturating_sub(encoder.byte_len()) };
            if let Some(told) = self.tell_again(encoded.lsn(), encoder, room) {
                count += told;
                continue;
            }
            begun = self.share.is_shared().then(|| Begun { bytes: encoder.byte_len(), count });
            self.commit = Some(OpenCommit::new(encoded));
        }
        if count == 0
            && let Some(failure) = self.failure.take()
        {
            return Err(failure);
        }
        if count > 0 {
            // What is left of the commit may be nothing to the feed.
            let mut parts = 0;
            while let Some(commit) = self.commit.as_mut().filter(|_| parts < PARTS_LOOKED_THROUGH_MAX) {
                match commit.seek(&self.tables)? {
                    Seek::Change => break,
                    Seek::Part { .. } => parts += 1,
                    Seek::End => count += u32::from(self.finish_commit(begun.take(), encoder, count)?),
                }
            }
            let cursor = Some(self.cursor());
            let ends_commit = self.commit.is_none() && self.cursor.position == 0;
            return Ok(Step::Batch(Batch { kind: BatchKind::Changes, cursor, count, ends_commit }));
        }
        let is_at_end = self.commit.is_none() && self.is_ready && self.cursor.lsn >= visible;
        Ok(if is_at_end { Step::AtEnd } else { Step::Later })
    }

    /// Tells the next change of the open commit, which concerns the feed; `false`: there is nothing to tell of it.
    fn tell(&mut self, encoder: &mut dyn Encoder) -> Result<bool, FeedError> {
        let Some(commit) = self.commit.as_mut() else { return Ok(false) };
        let lsn = self.cursor.lsn.next();
        let catalog = self.folds.catalog();
        let Some(id) = commit.peek().and_then(table_of) else { return Ok(false) };
        let Some(followed) = self.tables.iter_mut().find(|followed| followed.id() == id) else { return Ok(false) };
        if matches!(commit.peek(), Some(Change::Catalog { .. } | Change::Truncate { .. })) {
            let Some((position, change)) = commit.take() else { return Ok(false) };
            let before = followed.go_to(lsn, catalog, &*self.selector)?;
            followed.is_dropped = followed.table.is_none();
            let Some(table) = followed.table.as_ref().or(before.as_ref()) else { return Ok(false) };
            if let (Change::Catalog { .. }, Some(before), Some(after)) = (&change, &before, &followed.table)
                && is_same_to_readers(before.schema(), after.schema())
            {
                return Ok(false);
            }
            let shape = followed.fitted().map_or(table, |fitted| fitted.shape());
            let event = match change {
                Change::Truncate { .. } => Event::Change(RowChange {
                    lsn,
                    time_micros: commit.time_micros(),
                    position,
                    is_first: commit.is_untold(),
                    snapshot: None,
                    table,
                    shape,
                    operation: Operation::Truncate,
                    row: RowId::default(),
                    key: None,
                    before: None,
                    after: None,
                }),
                _ => Event::Schema { lsn, table, shape, is_dropped: followed.is_dropped },
            };
            encoder.encode(&event).map_err(|error| FeedError::encode(lsn, error))?;
            if let Event::Change(_) = event {
                commit.note_told();
            }
            return Ok(true);
        }
        let (position, told) = commit.take_judged(|changes| followed.judge(lsn, catalog, changes))?;
        let (Some(told), Some(table)) = (told, &followed.table) else { return Ok(false) };
        let shape = followed.fitted().map_or(table, |fitted| fitted.shape());
        let mut tell = || {
            let key = told.key.as_ref().map(|image| image.view(table)).transpose()?;
            let before = told.before.as_ref().map(|image| image.view(shape)).transpose()?;
            let after = told.after.as_ref().map(|image| image.view(shape)).transpose()?;
            encoder.encode(&Event::Change(RowChange {
                lsn,
                time_micros: commit.time_micros(),
                position,
                is_first: commit.is_untold(),
                snapshot: None,
                table,
                shape,
                operation: told.operation,
                row: told.row,
                key: key.as_ref().or(after.as_ref()).or(before.as_ref()),
                before: before.as_ref(),
                after: after.as_ref(),
            }))
        };
        tell().map_err(|error| FeedError::encode(lsn, error))?;
        commit.note_told();
        Ok(true)
    }

    /// Takes what another feed has told of a commit, if one has; returns how many events that is.
    fn tell_again(&mut self, lsn: Lsn, encoder: &mut dyn Encoder, room: usize) -> Option<u32> {
        if !self.share.is_shared() {
            return None;
        }
        let SharedText { envelope, text } = encoder.shared()?;
        let told = self.share.get(envelope, lsn).filter(|told| told.text.len() <= room)?;
        text.push_str(&told.text);
        self.pass(lsn, told.is_bookkeeping);
        Some(told.count)
    }

    /// The open commit is told; others that tell the same may have it. Returns whether its end is told, too.
    fn finish_commit(
        &mut self,
        begun: Option<Begun>,
        encoder: &mut dyn Encoder,
        count: u32,
    ) -> Result<bool, FeedError> {
        let Some(commit) = self.commit.take() else { return Ok(false) };
        let (lsn, is_bookkeeping) = (commit.lsn(), commit.is_bookkeeping());
        let before = encoder.byte_len();
        if commit.has_told() {
            let end = Event::CommitEnd { lsn, time_micros: commit.time_micros() };
            encoder.encode(&end).map_err(|error| FeedError::encode(lsn, error))?;
        }
        let has_end = encoder.byte_len() > before;
        if let Some(begun) = begun
            && let Some(SharedText { envelope, text }) = encoder.shared()
        {
            let (text, count) = (text[begun.bytes..].into(), count - begun.count + u32::from(has_end));
            self.share.put(envelope, ToldCommit { lsn, text, count, is_bookkeeping });
        }
        self.pass(lsn, is_bookkeeping);
        Ok(has_end)
    }

    /// The feed ends at this place; what was told before it goes first.
    fn fail(&mut self, at: Cursor, error: FeedError) {
        (self.commit, self.cursor, self.failure) = (None, at, Some(error));
    }

    fn pass(&mut self, lsn: Lsn, is_bookkeeping: bool) {
        self.cursor.lsn = lsn;
        if !is_bookkeeping {
            self.passed = lsn;
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
        encoder.encode(&event).map_err(|error| FeedError::encode(lsn, error))?;
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
