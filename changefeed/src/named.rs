//! Feeds that have a name: what they tell is in the catalog, how far their reader has come is a position in the log.
//!
//! ```text
//!   told ───────────────▶ reader ── acknowledges ──▶ accepted ── rides in the log ──▶ durable
//!                                                    (one bookkeeping commit           (where the feed goes on,
//!                                                     for all feeds)                    whatever happens)
//! ```
//!
//! One reader at a time owns a feed. Who takes it over fences the one before: that one is told nothing more, and what it acknowledges
//! is refused. Ownership ends with the process; the log knows nothing of it.

mod keeper;
mod owner;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use highwater_log::env::Clock;
use highwater_log::schema::{CatalogEntry, FeedSchema, FeedTable};
use highwater_log::sequencer::{
    Acknowledgement, CATALOG_SPACE, CommitError, KeyName, KeyRange, KeyWrite, Precondition, Refusal, Sequencer,
    WriteSet, catalog_definitions, catalog_key,
};
use highwater_log::{Background, Change, Lsn, Pauses};
use highwater_materializers::FeedPosition;
use tokio::sync::watch;

use crate::cursor::Cursor;
use crate::error::FeedError;
use crate::event::Encoder;
use crate::feed::{Batch, Feed, FeedOptions, FeedSource, FeedStart, Followed};
use crate::selection::TableSpec;
use owner::{Ownership, Ownerships, Taken};

/// The feeds of a database that have a name.
pub struct NamedFeeds {
    shared: Arc<Shared>,
    /// Where anything can be written.
    keeper: Option<Background>,
}

struct Shared {
    source: FeedSource,
    sequencer: Sequencer,
    state: Mutex<State>,
    /// How the keeper is called, once it looks.
    pauses: OnceLock<Pauses>,
    is_read_only: bool,
    is_closing: AtomicBool,
}

#[derive(Default)]
struct State {
    /// By the feed's object id; those that somebody has asked for since the database was opened.
    standings: HashMap<u64, Standing>,
    /// Feeds whose acknowledgement is not on its way into the log yet.
    dirty: BTreeSet<u64>,
}

/// How a feed stands.
struct Standing {
    owners: Ownerships,
    /// What its reader has acknowledged, and it was accepted.
    accepted: Option<FeedPosition>,
    /// What of that is durable.
    durable: watch::Sender<Option<FeedPosition>>,
}

/// What becomes of a feed that has a reader when another one comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Claim {
    /// The one who comes is refused.
    #[default]
    Refuse,
    /// The one who comes waits until the other one goes.
    Wait,
    /// The other one is fenced.
    TakeOver,
}

/// Lists named feeds ([`NamedFeeds::list`]), and keeps nobody from closing them.
#[derive(Clone)]
pub struct FeedLister(Weak<Shared>);

impl FeedLister {
    /// All named feeds, by name; none once they are closed.
    ///
    /// # Errors
    /// As [`NamedFeeds::list`].
    pub fn list(&self) -> Result<Vec<FeedStatus>, FeedError> {
        self.0.upgrade().map_or(Ok(Vec::new()), |shared| shared.list())
    }
}

/// A named feed as its owner reads it.
pub struct NamedFeed {
    id: u64,
    feed: Feed,
    ownership: Ownership,
    shared: Weak<Shared>,
    /// Where this reading began; of a snapshot, the state that it is of.
    beginning: Cursor,
    /// Where the reader stands who has dealt with every batch so far; `None` before a snapshot is complete.
    told: Option<Cursor>,
    durable: watch::Receiver<Option<FeedPosition>>,
}

/// A named feed, seen from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedStatus {
    /// Its object id in the catalog.
    pub id: u64,
    /// What it tells.
    pub schema: Arc<FeedSchema>,
    /// Its tables' names, as they are now; of a dropped one, the last.
    pub tables: Vec<String>,
    /// The commit that made it.
    pub made: Lsn,
    /// What is acknowledged for good; `None`: its snapshot is not complete.
    pub acknowledged: Option<FeedPosition>,
    /// Whether somebody reads it.
    pub is_owned: bool,
    /// The commits behind the acknowledged one, which the log keeps for it.
    pub held_commits: u64,
    /// About how many bytes they take there.
    pub held_bytes: u64,
    /// When the first of them was accepted, in microseconds since 1970.
    pub held_since_micros: Option<u64>,
}

impl NamedFeeds {
    /// The named feeds of a database. What readers acknowledge is written by a thread of its own, unless `is_read_only`.
    ///
    /// # Errors
    /// When there can be no more threads.
    pub fn start(
        source: FeedSource,
        sequencer: Sequencer,
        clock: Arc<dyn Clock>,
        is_read_only: bool,
    ) -> io::Result<Self> {
        let (state, pauses, is_closing) = (Mutex::default(), OnceLock::new(), AtomicBool::default());
        let shared = Arc::new(Shared { source, sequencer, state, pauses, is_read_only, is_closing });
        let keeper = match is_read_only {
            true => None,
            false => {
                let kept = Arc::clone(&shared);
                let keep = move |pauses: Pauses| {
                    // There is one keeper. What was acknowledged before is looked at first.
                    let _ = kept.pauses.set(pauses.clone());
                    keeper::keep(&kept, &*clock, &pauses);
                };
                Some(Background::start("highwater-feeds", keep)?)
            }
        };
        Ok(Self { shared, keeper })
    }

    /// Reads the feed of this name on from what was acknowledged last; until something is, from where it begins. Where there is no such
    /// feed, it is made: of `tables`, beginning at `from`. Where there is one, `tables` may be empty and `from` says nothing.
    ///
    /// Dropping the future leaves everything as it was, but for a feed that may have been made.
    ///
    /// # Errors
    /// [`FeedError::UnknownFeed`] without tables to make it of, [`FeedError::OtherDefinition`] when it tells something else,
    /// [`FeedError::Owned`] when somebody reads it ([`Claim::Refuse`]), [`FeedError::Name`]; [`FeedError::NotWritten`] when it cannot be
    /// made; and those of [`FeedSource::subscribe`].
    pub async fn open(
        &self,
        name: &str,
        tables: &[TableSpec],
        from: FeedStart,
        claim: Claim,
        options: FeedOptions,
    ) -> Result<NamedFeed, FeedError> {
        check_name(name)?;
        let (id, schema) = self.find_or_make(name, tables, from).await?;
        let (ownership, accepted, durable) = loop {
            if !self.shared.exists(id) {
                return Err(FeedError::UnknownFeed { name: name.to_owned() });
            }
            let claimed = self.shared.with_standing(id, |standing| {
                let ownership = standing.owners.claim(claim == Claim::TakeOver)?;
                Ok::<_, Taken>((ownership, standing.accepted, standing.durable.subscribe()))
            })?;
            match claimed {
                Ok(owned) => break owned,
                Err(_) if claim == Claim::Refuse => return Err(FeedError::Owned { name: name.to_owned() }),
                Err(taken) => taken.released().await,
            }
        };
        if !self.shared.exists(id) {
            // It was dropped before anybody could be told.
            return Err(FeedError::UnknownFeed { name: name.to_owned() });
        }
        let followed = schema.tables.iter().map(Followed::defined);
        let log = self.shared.source.log_id();
        let (beginning, has_snapshot) = match accepted {
            Some(FeedPosition { lsn, position }) => (Cursor { log, lsn, position }, false),
            None => (Cursor::after(log, self.shared.source.visible()), true),
        };
        let feed = self.shared.source.begin(followed.collect(), beginning, has_snapshot, options)?;
        let told = (!has_snapshot).then_some(beginning);
        Ok(NamedFeed { id, feed, ownership, shared: Arc::downgrade(&self.shared), beginning, told, durable })
    }

    /// Drops a feed, and lets go of what the log holds for it. Its reader is told that it is gone.
    ///
    /// # Errors
    /// [`FeedError::UnknownFeed`], [`FeedError::NotWritten`].
    pub async fn drop_feed(&self, name: &str) -> Result<Lsn, FeedError> {
        loop {
            let Some((id, made, _)) = self.shared.find(name) else {
                return Err(FeedError::UnknownFeed { name: name.to_owned() });
            };
            let key = catalog_key(id);
            let set = WriteSet {
                preconditions: vec![Precondition::AtVersion { space: CATALOG_SPACE, key: key.clone(), version: made }],
                changes: vec![
                    Change::Catalog { object: id, entry: None },
                    Change::Position { of: FeedPosition::of(id), position: bytes::Bytes::new() },
                ],
                keys: vec![KeyWrite { space: CATALOG_SPACE, key: KeyName::Bytes(key), is_present: false }],
                ..WriteSet::default()
            };
            match self.shared.commit(set).await? {
                Some(lsn) => {
                    self.shared.forget(id);
                    return Ok(lsn);
                }
                None => self.shared.pass().await,
            }
        }
    }

    /// All named feeds, by name.
    ///
    /// # Errors
    /// [`FeedError::Snapshot`], [`FeedError::Log`] when rows or log cannot be read.
    pub fn list(&self) -> Result<Vec<FeedStatus>, FeedError> {
        self.shared.list()
    }

    /// What lists the feeds for as long as there is somebody who has them.
    #[must_use]
    pub fn lister(&self) -> FeedLister {
        FeedLister(Arc::downgrade(&self.shared))
    }

    async fn find_or_make(
        &self,
        name: &str,
        tables: &[TableSpec],
        from: FeedStart,
    ) -> Result<(u64, Arc<FeedSchema>), FeedError> {
        let mut is_made = false;
        loop {
            let visible = self.shared.source.visible();
            if let Some((id, _, schema)) = self.shared.find(name) {
                if !is_made {
                    self.check_definition(&schema, tables, visible)?;
                }
                return Ok((id, schema));
            }
            if tables.is_empty() {
                return Err(FeedError::UnknownFeed { name: name.to_owned() });
            }
            let beginning = self.shared.source.beginning(from)?;
            let followed = self.shared.source.follow(tables, beginning.lsn)?;
            let schema = FeedSchema {
                name: name.to_owned(),
                tables: followed.iter().map(Followed::definition).collect::<Vec<_>>(),
            };
            // What cannot begin is not made.
            self.shared.source.begin(followed, beginning, false, FeedOptions::default())?;
            let id = self.shared.source.folds().catalog().next_id();
            let key = catalog_key(id);
            let entry = CatalogEntry::Feed(schema).to_json();
            let mut changes = vec![Change::Catalog { object: id, entry: Some(entry.into()) }];
            if from != FeedStart::Snapshot {
                let position = FeedPosition { lsn: beginning.lsn, position: beginning.position };
                changes.push(Change::Position { of: FeedPosition::of(id), position: position.encode() });
            }
            let range: KeyRange = catalog_definitions();
            let set = WriteSet {
                preconditions: vec![Precondition::RangeUnchanged { space: CATALOG_SPACE, range, since: visible }],
                changes,
                keys: vec![KeyWrite { space: CATALOG_SPACE, key: KeyName::Bytes(key), is_present: true }],
                ..WriteSet::default()
            };
            is_made = self.shared.commit(set).await?.is_some();
            if !is_made {
                self.shared.pass().await;
            }
        }
    }

    /// Whether a feed tells what somebody expects of it.
    fn check_definition(&self, known: &FeedSchema, tables: &[TableSpec], at: Lsn) -> Result<(), FeedError> {
        if tables.is_empty() {
            return Ok(());
        }
        let differs = || FeedError::OtherDefinition { name: known.name.clone() };
        let followed = self.shared.source.follow(tables, at).map_err(|_| differs())?;
        let is_same = known.tables.len() == followed.len()
            && followed.iter().map(Followed::definition).all(|expected| {
                known.tables.iter().any(|table| {
                    (table.table, &table.filter, &table.columns)
                        == (expected.table, &expected.filter, &expected.columns)
                })
            });
        if is_same { Ok(()) } else { Err(differs()) }
    }
}

impl Drop for NamedFeeds {
    /// What is acknowledged is written first.
    fn drop(&mut self) {
        self.shared.is_closing.store(true, Ordering::Release);
        self.shared.sequencer.sync_pending();
        self.keeper = None;
    }
}

impl NamedFeed {
    /// Fills `encoder` with the next events, as [`Feed::next`] does.
    ///
    /// # Errors
    /// [`FeedError::Fenced`] when somebody has taken the feed over, [`FeedError::Gone`] when it was dropped; those of [`Feed::next`].
    pub async fn next(&mut self, encoder: &mut dyn Encoder, bytes_target: usize) -> Result<Batch, FeedError> {
        let batch = tokio::select! {
            biased;
            over = self.ownership.lost() => return Err(over),
            batch = self.feed.next(encoder, bytes_target) => batch?,
        };
        self.told = batch.cursor.or(self.told);
        Ok(batch)
    }

    /// Says that everything before `cursor` is dealt with: the feed will never be told from before it again. It is on its way into the
    /// log then, and durable when [`NamedFeed::durable`] says so, two seconds later at most while the log can be written. What lies before
    /// what was acknowledged already changes nothing.
    ///
    /// # Errors
    /// [`FeedError::NotTold`] beyond what this reader was told, [`FeedError::OtherLog`], [`FeedError::Fenced`], [`FeedError::Gone`],
    /// [`FeedError::Closed`].
    pub fn acknowledge(&self, cursor: Cursor) -> Result<(), FeedError> {
        let shared = self.shared.upgrade().ok_or(FeedError::Closed)?;
        let cursor = shared.source.own(cursor)?;
        if self.told.is_none_or(|told| cursor > told) {
            return Err(FeedError::NotTold { cursor });
        }
        if cursor < self.beginning {
            // It was acknowledged before, or the snapshot holds it.
            return self.ownership.check();
        }
        let position = FeedPosition { lsn: cursor.lsn, position: cursor.position };
        shared.acknowledge(self.id, &self.ownership, position)
    }

    /// Waits until the feed is taken away from this reader; tells why. What a reader waits for who reads nothing.
    pub async fn over(&mut self) -> FeedError {
        self.ownership.lost().await
    }

    /// What is acknowledged for good, and its moves; `None`: nothing yet.
    #[must_use]
    pub fn durable(&self) -> watch::Receiver<Option<FeedPosition>> {
        self.durable.clone()
    }
}

/// A feed's name is one to sixty-three letters, digits, `_`, `-` and `.`, of ASCII.
fn check_name(name: &str) -> Result<(), FeedError> {
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    if is_plain && (1..=NAME_BYTES_MAX).contains(&name.len()) { Ok(()) } else { Err(FeedError::Name) }
}

impl Shared {
    fn list(&self) -> Result<Vec<FeedStatus>, FeedError> {
        let source = &self.source;
        let visible = source.visible();
        let catalog = source.folds().catalog();
        let mut feeds = Vec::new();
        for (id, made, schema) in catalog.feeds(visible) {
            let acknowledged = source.folds().feed_position(id, visible)?;
            let is_owned = self.state().standings.get(&id).is_some_and(|standing| standing.owners.is_owned());
            let table = |of: &FeedTable| {
                let table = catalog.table(of.table, visible).or_else(|| catalog.table_at_version(of.table, of.version));
                table.map(|table| format!("{}.{}", table.schema().namespace, table.schema().name))
            };
            let tables = schema.tables.iter().filter_map(table).collect();
            let behind = acknowledged.map(|acknowledged| acknowledged.lsn);
            let held_commits = behind.map_or(0, |lsn| visible.value().saturating_sub(lsn.value()));
            let held_bytes = behind.map_or(Ok(0), |lsn| source.bytes_after(lsn))?;
            let first = behind.filter(|lsn| *lsn < visible).map(Lsn::next);
            let held_since_micros = first.map(|lsn| source.time_of(lsn)).filter(|micros| *micros > 0);
            feeds.push(FeedStatus {
                id,
                schema,
                tables,
                made,
                acknowledged,
                is_owned,
                held_commits,
                held_bytes,
                held_since_micros,
            });
        }
        feeds.sort_by(|a, b| a.schema.name.cmp(&b.schema.name));
        Ok(feeds)
    }

    fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::Acquire)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The feed of this name: its object id, the commit that made it, what it tells.
    fn find(&self, name: &str) -> Option<(u64, Lsn, Arc<FeedSchema>)> {
        let feeds = self.source.folds().catalog().feeds(self.source.visible());
        feeds.into_iter().find(|(_, _, schema)| schema.name == name)
    }

    fn exists(&self, id: u64) -> bool {
        self.ids().contains(&id)
    }

    /// The feeds that there are.
    fn ids(&self) -> BTreeSet<u64> {
        self.source.folds().catalog().feeds(self.source.visible()).into_iter().map(|(id, _, _)| id).collect()
    }

    /// A feed was dropped: its reader is told.
    fn forget(&self, id: u64) {
        if let Some(standing) = self.state().standings.remove(&id) {
            standing.owners.end();
        }
    }

    /// Looks at how a feed stands, or changes it.
    fn with_standing<T>(&self, id: u64, look: impl FnOnce(&mut Standing) -> T) -> Result<T, FeedError> {
        let mut state = self.state();
        if let Some(standing) = state.standings.get_mut(&id) {
            return Ok(look(standing));
        }
        let durable = self.source.folds().feed_position(id, self.source.visible())?;
        let standing =
            Standing { owners: Ownerships::default(), accepted: durable, durable: watch::Sender::new(durable) };
        Ok(look(state.standings.entry(id).or_insert(standing)))
    }

    /// Commits a change of the feeds; `None`: the catalog was changed meanwhile.
    async fn commit(&self, set: WriteSet) -> Result<Option<Lsn>, FeedError> {
        match self.sequencer.commit(set).await {
            Ok(Acknowledgement::Committed(receipt)) => Ok(Some(receipt.lsn)),
            Err(CommitError::NotYetReadable { lsn, .. }) => Ok(Some(lsn)),
            Ok(Acknowledgement::Buffered(accepted)) => {
                Ok(Some(accepted.wait().await.map_err(FeedError::NotWritten)?.lsn))
            }
            Err(CommitError::Refused(
                Refusal::RangeChanged { .. } | Refusal::ReadTooOld { .. } | Refusal::KeyChanged { .. },
            )) => Ok(None),
            Err(error) => Err(FeedError::NotWritten(error)),
        }
    }

    /// Waits for what has changed the catalog to be seen.
    async fn pass(&self) {
        tokio::time::sleep(RACE_PAUSE).await;
    }

    /// Notes what the owner of this generation has dealt with.
    fn acknowledge(&self, id: u64, ownership: &Ownership, position: FeedPosition) -> Result<(), FeedError> {
        if self.is_read_only {
            let cause = self.sequencer.stopped().unwrap_or_else(|| "the database is read-only".into());
            return Err(FeedError::NotWritten(CommitError::Stopped { cause }));
        }
        let mut state = self.state();
        let standing = state.standings.get_mut(&id).ok_or(FeedError::Gone)?;
        // Owners change under this lock.
        ownership.check()?;
        if standing.accepted.is_some_and(|known| (known.lsn, known.position) >= (position.lsn, position.position)) {
            return Ok(());
        }
        standing.accepted = Some(position);
        state.dirty.insert(id);
        drop(state);
        if let Some(pauses) = self.pauses.get() {
            pauses.cut_short();
        }
        Ok(())
    }
}

const NAME_BYTES_MAX: usize = 63;
const RACE_PAUSE: Duration = Duration::from_millis(1);
