//! The database, embedded: one directory, one process.

mod backup;
mod doctor;
mod upkeep;
mod views;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use highwater_changefeed::{Feed, FeedError, FeedOptions, FeedSource, FeedStart, NamedFeeds, TableSpec};
use highwater_log::env::Env;
use highwater_log::sequencer::{Sequencer, SequencerOptions};
use highwater_log::{
    Background, CommitLog, LogError, LogId, LogMeter, Lsn, MemoryLog, ReadOnlyLog, Scrubbed, SegmentedLog,
    SegmentedOptions,
};
use highwater_materializers::{FoldError, KvOptions, Materialized, Progress};
use highwater_query::{Engine, EngineOptions, Outcome, Parameter, Session, SqlError};

use crate::settings::{self, Setting};

pub use backup::{Backup, BackupProgress};
pub(crate) use backup::{back_up_closed, write as write_backup};
pub(crate) use doctor::{drop_fold, verify_folds};
pub(crate) use views::{SettingsTable, described};

/// A database, open for reading and writing.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let database = highwater::Database::open("./highwater-data")?;
/// database.sql("CREATE TABLE t (id bigint PRIMARY KEY, name text)").await?;
/// database.sql("INSERT INTO t VALUES (1, 'one')").await?;
/// # Ok(())
/// # }
/// ```
///
/// Dropping it releases the directory, as a kill would: nothing acknowledged is lost, the next opening replays a little more.
/// [`Database::close`] leaves nothing to replay.
pub struct Database {
    engine: Engine,
    folds: Materialized,
    sequencer: Sequencer,
    feeds: FeedSource,
    named_feeds: NamedFeeds,
    log: Log,
    upkeep: Background,
    settings: Vec<Setting>,
    /// Where there is anything to write.
    index_builder: Option<Background>,
    /// Where the rows of a database in memory, or on a read-only file system, lie; it goes with the database.
    _scratch: Option<tempfile::TempDir>,
}

enum Log {
    Segmented(Arc<SegmentedLog>),
    /// In memory, or on a read-only file system: it is not closed.
    Unowned,
}

/// How a database is opened.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The log.
    pub log: SegmentedOptions,
    /// The rows.
    pub rows: KvOptions,
    /// The order of commits.
    pub sequencer: SequencerOptions,
    /// Queries.
    pub queries: EngineOptions,
}

impl Options {
    /// With a place for what does not fit into memory, unless there is one.
    fn spilling_to(&self, directory: PathBuf) -> Self {
        let spill_directory = Some(self.queries.spill_directory.clone().unwrap_or(directory));
        Self { queries: EngineOptions { spill_directory, ..self.queries.clone() }, ..self.clone() }
    }
}

/// Why a database did not open, or did not close cleanly.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log: locked by another process, damaged, of a newer version, or unreadable.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The rows cannot be folded.
    #[error(transparent)]
    Fold(#[from] FoldError),
    /// The planner cannot be set up.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// The file system failed.
    #[error("cannot {action}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// What the file system answered.
        source: std::io::Error,
    },
}

impl Database {
    /// Opens the database in `directory`, beginning one where there is none. What the last process did not fold is folded first.
    ///
    /// On a read-only file system it is opened for reading: up to the last commit that is proven to have been durable, its rows folded
    /// from the log into a temporary directory, as it was then; statements that write fail with `25006`.
    ///
    /// # Errors
    /// [`OpenError::Log`] with [`LogError::Locked`] when another process has it.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::open_with(directory, Options::default(), |_| {})
    }

    /// Opens like [`Database::open`], telling `progress` of the replay now and then, and at its end.
    ///
    /// # Errors
    /// As [`Database::open`].
    pub fn open_with(
        directory: impl AsRef<Path>,
        options: Options,
        progress: impl FnMut(Progress),
    ) -> Result<Self, OpenError> {
        let env = Env::system();
        let directory = directory.as_ref();
        std::fs::create_dir_all(directory)
            .map_err(|source| OpenError::Io { action: "create the data directory", source })?;
        let folds_directory = directory.join(FOLDS_DIRECTORY);
        let log_options =
            SegmentedOptions { witnesses: Materialized::witnesses(&env, &folds_directory), ..options.log.clone() };
        let log_directory = directory.join(LOG_DIRECTORY);
        let log = match SegmentedLog::open(&env, &log_directory, log_options.clone()) {
            Err(LogError::Io { source, .. }) if source.kind() == std::io::ErrorKind::ReadOnlyFilesystem => {
                tracing::warn!(directory = %directory.display(), "the file system is read-only: so is the database");
                let log = Arc::new(ReadOnlyLog::open(&env, &log_directory, &log_options)?);
                return Self::open_read_only(&env, log, &options, progress);
            }
            opened => Arc::new(opened?),
        };
        env.disk
            .create_dir(&folds_directory)
            .map_err(|source| OpenError::Io { action: "create a directory", source })?;
        let folds = Materialized::open(&env, &folds_directory, log.id(), options.rows.clone())?;
        let spill_directory = directory.join(SPILL_DIRECTORY);
        // What a process left that was killed.
        empty(&spill_directory)
            .map_err(|source| OpenError::Io { action: "empty the directory of spilled files", source })?;
        let options = options.spilling_to(spill_directory);
        Self::assemble(&env, Arc::<SegmentedLog>::clone(&log), Log::Segmented(log), folds, &options, progress, None)
    }

    fn open_read_only(
        env: &Env,
        log: Arc<ReadOnlyLog>,
        options: &Options,
        progress: impl FnMut(Progress),
    ) -> Result<Self, OpenError> {
        let scratch = scratch()?;
        let folds = Materialized::open(env, scratch.path(), log.id(), options.rows.clone())?;
        let queries = EngineOptions { read_only: Some(READ_ONLY), ..options.queries.clone() };
        let options = Options { queries, ..options.clone() }.spilling_to(scratch.path().join(SPILL_DIRECTORY));
        let database = Self::assemble(env, log, Log::Unowned, folds, &options, progress, Some(scratch))?;
        database.sequencer.stop(READ_ONLY);
        Ok(database)
    }

    /// A database whose log lies in memory: it begins empty and ends with the process. Its rows use a temporary directory.
    ///
    /// # Errors
    /// [`OpenError::Io`] without one.
    pub fn in_memory() -> Result<Self, OpenError> {
        Self::in_memory_with(Options::default())
    }

    /// As [`Database::in_memory`], with bounds of its own; those of the log's files say nothing.
    ///
    /// # Errors
    /// As [`Database::in_memory`].
    pub fn in_memory_with(options: Options) -> Result<Self, OpenError> {
        let env = Env::system();
        let scratch = scratch()?;
        let log = Arc::new(MemoryLog::new(LogId::from_bytes(env.entropy.draw())));
        let options = options.spilling_to(scratch.path().join(SPILL_DIRECTORY));
        let folds = Materialized::open(&env, scratch.path(), log.id(), options.rows.clone())?;
        Self::assemble(&env, log, Log::Unowned, folds, &options, |_| {}, Some(scratch))
    }

    fn assemble(
        env: &Env,
        log: Arc<dyn CommitLog>,
        kind: Log,
        folds: Materialized,
        options: &Options,
        progress: impl FnMut(Progress),
        scratch: Option<tempfile::TempDir>,
    ) -> Result<Self, OpenError> {
        folds.catch_up(&*log, progress)?;
        let sequencer = Sequencer::start(
            Arc::clone(&log),
            Arc::new(folds.clone()),
            Box::new(folds.clone()),
            Arc::clone(&env.clock),
            options.sequencer.clone(),
        )?;
        let engine = Engine::new(folds.clone(), sequencer.clone(), Arc::clone(&env.clock), &options.queries)?;
        let index_builder = match options.queries.read_only {
            Some(_) => None,
            None => {
                let engine = engine.clone();
                let build = move |pauses| engine.build_indexes(&pauses);
                let builder = Background::start("highwater-index", build);
                Some(builder.map_err(|source| OpenError::Io { action: "start a thread", source })?)
            }
        };
        let feeds = FeedSource::new(Arc::clone(&log), folds.clone(), sequencer.visible(), engine.feed_selector());
        let (source, clock) = (feeds.clone(), Arc::clone(&env.clock));
        let named_feeds = NamedFeeds::start(source, sequencer.clone(), clock, options.queries.read_only.is_some())
            .map_err(|source| OpenError::Io { action: "start a thread", source })?;
        let segmented = if let Log::Segmented(log) = &kind { Some(log) } else { None };
        views::put(&engine, named_feeds.lister(), segmented);
        let settings = settings::of_database(options);
        engine.put_live_table(Arc::new(SettingsTable(settings.clone())));
        let upkeep = upkeep::start(folds.clone(), sequencer.clone(), log)
            .map_err(|source| OpenError::Io { action: "start a thread", source })?;
        Ok(Self {
            engine,
            folds,
            sequencer,
            feeds,
            named_feeds,
            log: kind,
            upkeep,
            settings,
            index_builder,
            _scratch: scratch,
        })
    }

    /// Runs statements in a session of their own, and returns what the last one answers.
    ///
    /// # Errors
    /// [`SqlError`], of the first statement that fails.
    pub async fn sql(&self, statements: &str) -> Result<Outcome, SqlError> {
        self.session().execute(statements).await
    }

    /// Runs one statement with values for its parameters (`$1`, `$2`, …) in a session of its own.
    ///
    /// ```no_run
    /// # async fn example(database: highwater::Database) -> Result<(), Box<dyn std::error::Error>> {
    /// database.sql_with("INSERT INTO t VALUES ($1, $2)", &[1.into(), "one".into()]).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Session::run_prepared`].
    pub async fn sql_with(&self, statement: &str, parameters: &[Parameter]) -> Result<Outcome, SqlError> {
        let mut session = self.session();
        let prepared = session.prepare(statement)?;
        session.run_prepared(&prepared, parameters).await
    }

    /// A session: settings, and transactions by `BEGIN`.
    #[must_use]
    pub fn session(&self) -> Session {
        self.engine.session()
    }

    /// A session in a transaction, which its `COMMIT` ends; dropping it rolls back.
    ///
    /// # Errors
    /// [`SqlError`].
    pub async fn begin(&self) -> Result<Session, SqlError> {
        let mut session = self.session();
        session.execute("BEGIN").await?;
        Ok(session)
    }

    /// A feed of tables, each `name` (of the namespace `public`) or `namespace.name`.
    ///
    /// # Errors
    /// [`FeedError`] when it cannot begin there.
    pub fn subscribe(&self, tables: &[&str], from: FeedStart, options: FeedOptions) -> Result<Feed, FeedError> {
        let tables: Vec<TableSpec> = tables.iter().map(|name| TableSpec::whole(name)).collect();
        self.subscribe_to(&tables, from, options)
    }

    /// A feed of what is selected of tables.
    ///
    /// # Errors
    /// [`FeedError`] when it cannot begin there, or a selection means nothing.
    pub fn subscribe_to(&self, tables: &[TableSpec], from: FeedStart, options: FeedOptions) -> Result<Feed, FeedError> {
        self.feeds.subscribe(tables, from, options)
    }

    /// The feeds that have a name, and remember how far their reader has come.
    #[must_use]
    pub const fn named_feeds(&self) -> &NamedFeeds {
        &self.named_feeds
    }

    /// The log's identity, which cursors carry.
    #[must_use]
    pub fn log_id(&self) -> LogId {
        self.feeds.log_id()
    }

    /// SQL over the database, for what runs inside this process beside sessions.
    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The high-water mark: everything up to it is durable and can be read.
    #[must_use]
    pub fn visible(&self) -> Lsn {
        self.engine.visible()
    }

    /// Everything up to it is synced, and stays whatever happens.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        self.feeds.durable()
    }

    /// Gives up the log's commits up to `to` (`None`: all that no read in the past may need), as far as whole segments go, and returns
    /// the earliest commit that is left. What they amount to is kept as a base image, from which the rows can be folded anew; feeds cannot begin before it any more.
    ///
    /// Commits that reads in the past may need ([`KvOptions::history`]) are not given up. Where there is no base image that reaches as
    /// far, one is written first: that reads all rows, on the calling thread, while commits and reads go on.
    ///
    /// # Errors
    /// [`FoldError::StillReadable`], [`FoldError::Log`]; nothing was given up then.
    pub fn trim(&self, to: Option<Lsn>) -> Result<Lsn, FoldError> {
        self.folds.trim(self.sequencer.log(), to)
    }

    /// What reading the log's sealed segments again in the background has found.
    #[must_use]
    pub fn scrubbed(&self) -> Scrubbed {
        match &self.log {
            Log::Segmented(log) => log.scrubbed(),
            Log::Unowned => Scrubbed::default(),
        }
    }

    /// What it was opened with.
    pub(crate) fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// What was written to the log, and how long it took; `None` in memory.
    pub(crate) fn log_meter(&self) -> Option<&LogMeter> {
        if let Log::Segmented(log) = &self.log { Some(log.meter()) } else { None }
    }

    /// Bytes of the log's files.
    pub(crate) fn log_bytes(&self) -> Result<u64, LogError> {
        let Log::Segmented(log) = &self.log else { return Ok(0) };
        Ok(views::segments(log)?.iter().map(|segment| segment.bytes).sum())
    }

    /// The folds of the log.
    pub(crate) const fn folds(&self) -> &Materialized {
        &self.folds
    }

    /// Replaces what the lock file says of this process, for people who meet it: the address, once there is one.
    pub fn note_owner(&self, owner: &str) {
        if let Log::Segmented(log) = &self.log {
            log.note_owner(owner);
        }
    }

    /// Commits what is pending, takes no more, and closes so that the next opening has nothing to replay.
    ///
    /// # Errors
    /// [`OpenError`]; nothing acknowledged is lost. Sessions that are still held keep the log from being marked as closed; that is
    /// only told in the program's log.
    pub fn close(self) -> Result<(), OpenError> {
        let Self {
            engine,
            folds,
            sequencer,
            feeds,
            named_feeds,
            log,
            upkeep,
            settings: _,
            index_builder,
            _scratch: scratch,
        } = self;
        drop((upkeep, index_builder, named_feeds, feeds));
        sequencer.stop("the database is closing");
        drop(engine);
        // With the last handle, the commit thread has ended.
        drop(sequencer);
        match &log {
            // What is left of the rows may be more than the log can give again.
            Log::Segmented(log) if folds.kv().is_damaged() && !log.scrubbed().damages.is_empty() => {}
            // What a read has met is not to be met again: the next opening folds the rows anew.
            _ if folds.kv().is_damaged() => folds.forget()?,
            _ => folds.checkpoint()?,
        }
        drop(folds);
        if let Log::Segmented(log) = log {
            match Arc::try_unwrap(log) {
                Ok(log) => log.close()?,
                Err(_) => tracing::warn!("the log is not marked as closed: sessions are still open"),
            }
        }
        drop(scratch);
        Ok(())
    }
}

fn scratch() -> Result<tempfile::TempDir, OpenError> {
    tempfile::tempdir().map_err(|source| OpenError::Io { action: "create a temporary directory", source })
}

/// Removes what is in a directory, if it is there.
fn empty(directory: &Path) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => std::fs::remove_dir_all(entry.path())?,
            false => std::fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

const READ_ONLY: &str = "the data directory is on a read-only file system";
const LOG_DIRECTORY: &str = "log";
const FOLDS_DIRECTORY: &str = "materialized";
/// Nothing in it outlives the process.
const SPILL_DIRECTORY: &str = "spill";
