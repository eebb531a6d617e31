//! Where feeds come from.

use std::sync::Arc;

use highwater_log::schema::FeedTable;
use highwater_log::{CommitLog, LogId, Lsn, Parent};
use highwater_materializers::Materialized;
use tokio::sync::watch;

use super::{Feed, FeedOptions, FeedStart, Followed, Stage};
use crate::cursor::Cursor;
use crate::error::FeedError;
use crate::selection::{SelectionError, Selector, TableSpec};
use crate::share::Shares;
use crate::snapshot::{Snapshot, SnapshotTable};

/// What feeds are made from. Cheap to clone.
#[derive(Clone)]
pub struct FeedSource {
    log: Arc<dyn CommitLog>,
    folds: Materialized,
    visible: watch::Receiver<Lsn>,
    selector: Arc<dyn Selector>,
    shares: Arc<Shares>,
}

impl FeedSource {
    /// Feeds over this log, whose folds are these, as far as `visible` says; what they select is compiled by `selector`.
    #[must_use]
    pub fn new(
        log: Arc<dyn CommitLog>,
        folds: Materialized,
        visible: watch::Receiver<Lsn>,
        selector: Arc<dyn Selector>,
    ) -> Self {
        Self { log, folds, visible, selector, shares: Arc::default() }
    }

    /// The folds of the log.
    pub(crate) const fn folds(&self) -> &Materialized {
        &self.folds
    }

    /// The last visible commit.
    pub(crate) fn visible(&self) -> Lsn {
        *self.visible.borrow()
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

    /// A feed of these tables.
    ///
    /// # Errors
    /// [`FeedError::NoTables`], [`FeedError::UnknownTable`], [`FeedError::Renamed`]; [`FeedError::Selection`] when what is selected of one
    /// means nothing; [`FeedError::OtherLog`], [`FeedError::Beyond`] and [`FeedError::TooOld`] when it cannot begin there.
    pub fn subscribe(&self, tables: &[TableSpec], from: FeedStart, options: FeedOptions) -> Result<Feed, FeedError> {
        let beginning = self.beginning(from)?;
        let tables = self.follow(tables, beginning.lsn)?;
        self.begin(tables, beginning, from == FeedStart::Snapshot, options)
    }

    /// The cursor as one of this log: that of a log which this one goes on from is one here, as far as the two have the same commits.
    pub(crate) fn own(&self, cursor: Cursor) -> Result<Cursor, FeedError> {
        let log = self.log.id();
        let is_shared = |parent: &Parent| {
            // A place inside a commit is one inside a commit that both have.
            parent.log == cursor.log && (cursor.lsn, cursor.position) <= (parent.lsn, 0)
        };
        if cursor.log == log || self.log.parents().iter().any(is_shared) {
            return Ok(Cursor { log, ..cursor });
        }
        Err(FeedError::OtherLog { given: cursor.log, own: log })
    }

    /// The place where a feed begins.
    pub(crate) fn beginning(&self, from: FeedStart) -> Result<Cursor, FeedError> {
        let log = self.log.id();
        let visible = self.visible();
        let beginning = match from {
            FeedStart::Snapshot | FeedStart::Now => Cursor::after(log, visible),
            FeedStart::After(lsn) => Cursor::after(log, lsn),
            FeedStart::Cursor(cursor) => self.own(cursor)?,
        };
        // A place inside a commit is one inside a visible commit.
        if beginning.lsn > visible || (beginning.lsn == visible && beginning.position > 0) {
            return Err(FeedError::Beyond { after: beginning.lsn, visible });
        }
        Ok(beginning)
    }

    /// The tables that have these names at `at`, or first get them later.
    pub(crate) fn follow(&self, specs: &[TableSpec], at: Lsn) -> Result<Vec<Followed>, FeedError> {
        let catalog = self.folds.catalog();
        let mut tables: Vec<Followed> = Vec::new();
        for TableSpec { namespace, name, filter, columns } in specs {
            let full = || format!("{namespace}.{name}");
            let unknown = || FeedError::UnknownTable { name: full() };
            let found = catalog.table_named(namespace, name, at);
            if found.is_none()
                && let Some(table) = catalog.table_once_named(namespace, name, at)
            {
                // Whoever stood here before has followed it: a later table of the name is another one.
                let now = format!("{}.{}", table.schema().namespace, table.schema().name);
                return Err(FeedError::Renamed { name: full(), now, lsn: at });
            }
            let found = found.or_else(|| catalog.table_named_from(namespace, name, at));
            let found = found.ok_or_else(unknown)?;
            let (table, version) = (found.schema().id, found.schema().version);
            let (filter, columns) = (filter.clone(), columns.clone());
            let definition = FeedTable { table, version, filter, columns };
            match tables.iter().find(|followed| followed.id() == table) {
                None => tables.push(Followed::defined(&definition)),
                Some(known) if known.definition() == definition => {}
                Some(_) => {
                    let message = "a table cannot be told in two ways by one feed".to_owned();
                    return Err(FeedError::selection(
                        &found,
                        at,
                        SelectionError { sqlstate: DUPLICATE_ALIAS, message },
                    ));
                }
            }
        }
        Ok(tables)
    }

    /// A feed of tables that nothing is known of yet, from a place on; before that, if it is wanted, their rows as they are there.
    pub(crate) fn begin(
        &self,
        mut tables: Vec<Followed>,
        beginning: Cursor,
        has_snapshot: bool,
        options: FeedOptions,
    ) -> Result<Feed, FeedError> {
        if tables.is_empty() {
            return Err(FeedError::NoTables);
        }
        let visible = self.visible();
        let share = self.shares.of(tables.iter().map(Followed::definition).collect());
        let reader = self.log.read_after(beginning.lsn)?;
        for followed in &mut tables {
            followed.go_to(beginning.lsn, self.folds.catalog(), &*self.selector)?;
            followed.is_dropped = self.folds.catalog().is_dropped(followed.id(), beginning.lsn);
        }
        let snapshot = match has_snapshot {
            true => {
                let table = |followed: &Followed| {
                    let fitted = followed.fitted().map(Arc::clone);
                    Some(SnapshotTable { table: followed.table.clone()?, fitted })
                };
                let tables = tables.iter().filter_map(table).collect();
                let time_micros = self.time_of(beginning.lsn);
                Some(Snapshot::begin(&self.folds, beginning.lsn, time_micros, tables)?)
            }
            false => None,
        };
        let mut feed = Feed {
            folds: self.folds.clone(),
            selector: Arc::clone(&self.selector),
            reader,
            visible: self.visible.clone(),
            options,
            tables,
            share,
            stage: Stage::Beginning(snapshot),
            cursor: Cursor { position: 0, ..beginning },
            commit: None,
            ready_at: visible,
            is_ready: false,
            failure: None,
            passed: beginning.lsn,
            told: beginning.lsn,
            owed: None,
            check: None,
        };
        feed.go_to_place(beginning.position)?;
        Ok(feed)
    }

    /// About how many bytes the log keeps behind a commit.
    pub(crate) fn bytes_after(&self, after: Lsn) -> Result<u64, FeedError> {
        Ok(self.log.bytes_after(after)?)
    }

    /// When a commit was accepted; 0 where the log does not tell.
    pub(crate) fn time_of(&self, lsn: Lsn) -> u64 {
        if lsn == Lsn::ORIGIN {
            return 0;
        }
        let commit = self.log.read_after(lsn.previous()).and_then(|mut reader| reader.try_next());
        let commit = commit.ok().flatten().filter(|commit| commit.lsn() == lsn);
        let header = commit.and_then(|commit| commit.header().ok());
        header.map_or(0, |header| header.time.micros)
    }
}

const DUPLICATE_ALIAS: &str = "42712";
