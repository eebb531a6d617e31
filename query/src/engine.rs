//! What all sessions share: the rows, the sequencer, the planner's functions and its memory.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use arrow::temporal_conversions::timestamp_us_to_datetime;
use bytes::Bytes;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::Volatility;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::optimizer::analyzer::Analyzer;
use datafusion::prelude::SessionConfig;
use highwater_changefeed::Selector;
use highwater_log::commit::ProducerSequence;
use highwater_log::env::Clock;
use highwater_log::sequencer::Sequencer;
use highwater_log::{Lsn, Pauses};
use highwater_materializers::Materialized;
use tokio::sync::watch;

use crate::activity::{Activity, SessionsTable, StatementMeter};
use crate::catalog::CatalogView;
use crate::error::SqlError;
use crate::feeds::FeedSelector;
use crate::functions;
use crate::indexes;
use crate::literals::TypeTextLiterals;
use crate::operators::{OperatorPlanner, TypeOperators};
use crate::prepared::{Prepared, PreparedTexts};
use crate::providers::{CATALOG, StatementCatalog};
use crate::results::{ResultMeter, Results, ResultsTable};
use crate::rows::SpillRoom;
use crate::session::Session;
use crate::sqlstate;
use crate::system::{LiveTable, LiveTables, MaterializersTable};
use crate::transaction::Transaction;
use crate::write::{Hold, Holds};

/// Bounds of query execution.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Bytes that sorts, joins and aggregates of all sessions hold together; beyond, they spill to files.
    pub memory_bytes: usize,
    /// Bytes that a transaction has written which lie in memory, reckoned; beyond, they go to files.
    pub transaction_memory_bytes: usize,
    /// Rows of a batch.
    pub batch_rows: usize,
    /// Whether what would write is refused (`25006`), and why.
    pub read_only: Option<&'static str>,
    /// A statement that takes so long, up to the last of its rows, is written to the program's log; `None`: none is.
    pub slow_statement: Option<Duration>,
    /// Bytes of results that are kept for whoever asks the same while their tables have not changed; 0: none is.
    pub result_cache_bytes: u64,
    /// The directory of files for what does not fit into memory, each there for as long as it is needed; `None`: the system's.
    pub spill_directory: Option<PathBuf>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            memory_bytes: 256 * 1024 * 1024,
            transaction_memory_bytes: 64 * 1024 * 1024,
            batch_rows: 2048,
            read_only: None,
            slow_statement: None,
            result_cache_bytes: 0,
            spill_directory: None,
        }
    }
}

/// SQL over one database. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

/// An engine that may be gone.
pub(crate) struct WeakEngine(Weak<Shared>);

impl WeakEngine {
    /// The engine, while somebody has it.
    pub(crate) fn upgrade(&self) -> Result<Engine, SqlError> {
        let shared = self.0.upgrade();
        let closed = || SqlError::new(sqlstate::CANNOT_CONNECT_NOW, "the database is closed");
        Ok(Engine { shared: shared.ok_or_else(closed)? })
    }
}

struct Shared {
    folds: Materialized,
    sequencer: Sequencer,
    visible: watch::Receiver<Lsn>,
    clock: Arc<dyn Clock>,
    state: SessionState,
    read_only: Option<&'static str>,
    spill_room: Arc<SpillRoom>,
    holds: Arc<Holds>,
    /// How whoever builds indexes is called.
    index_builder: OnceLock<Pauses>,
    prepared: PreparedTexts,
    results: Option<Arc<Results>>,
    activity: Arc<Activity>,
    live_tables: Arc<LiveTables>,
}

impl Engine {
    /// SQL over these rows, written through this sequencer.
    ///
    /// # Errors
    /// `XX000` when the planner cannot be set up.
    pub fn new(
        folds: Materialized,
        sequencer: Sequencer,
        clock: Arc<dyn Clock>,
        options: &EngineOptions,
    ) -> Result<Self, SqlError> {
        let visible = sequencer.visible();
        let state = planner_state(options)?;
        let activity = Arc::new(Activity::new(Arc::clone(&clock), options.slow_statement));
        let live_tables = Arc::new(LiveTables::default());
        live_tables.put(Arc::new(SessionsTable(Arc::clone(&activity))));
        live_tables.put(Arc::new(MaterializersTable(folds.clone())));
        let results = (options.result_cache_bytes > 0).then(|| Arc::new(Results::new(options.result_cache_bytes)));
        live_tables.put(Arc::new(ResultsTable(results.clone())));
        Ok(Self {
            shared: Arc::new(Shared {
                folds,
                sequencer,
                visible,
                clock,
                state,
                read_only: options.read_only,
                spill_room: Arc::new(SpillRoom {
                    directory: options.spill_directory.clone().unwrap_or_else(std::env::temp_dir),
                    memory_bytes: options.transaction_memory_bytes,
                }),
                holds: Arc::default(),
                index_builder: OnceLock::new(),
                prepared: PreparedTexts::new(),
                results,
                activity,
                live_tables,
            }),
        })
    }

    /// Builds the indexes that statements begin, and those that were left half built, until a pause breaks: the work of a thread of its
    /// own, without which CREATE INDEX on a table with rows does not end.
    pub fn build_indexes(&self, pauses: &Pauses) {
        // There is one who builds.
        if self.shared.index_builder.set(pauses.clone()).is_ok() {
            indexes::build_indexes(self, pauses);
        }
    }

    /// Adds a table to `hw_catalog`, in the place of the one of its name.
    pub fn put_live_table(&self, table: Arc<dyn LiveTable>) {
        self.shared.live_tables.put(table);
    }

    pub(crate) fn live_tables(&self) -> &Arc<LiveTables> {
        &self.shared.live_tables
    }

    /// What statements came to.
    #[must_use]
    pub fn statement_meter(&self) -> &StatementMeter {
        self.shared.activity.meter()
    }

    pub(crate) fn activity(&self) -> &Arc<Activity> {
        &self.shared.activity
    }

    /// Bytes that sorts, joins and aggregates hold now.
    #[must_use]
    pub fn query_memory_bytes(&self) -> usize {
        self.shared.state.runtime_env().memory_pool.reserved()
    }

    /// Whether somebody builds indexes.
    pub(crate) fn builds_indexes(&self) -> bool {
        self.shared.index_builder.get().is_some_and(|builder| !builder.is_over())
    }

    /// There may be an index to be built.
    pub(crate) fn index_wanted(&self) {
        if let Some(builder) = self.shared.index_builder.get() {
            builder.cut_short();
        }
    }

    /// A statement, parsed, to be run by sessions of this engine; that of a text that was prepared lately is there already.
    ///
    /// # Errors
    /// As [`crate::parse`]; `42601` unless the text is one statement.
    pub fn prepare(&self, sql: &str) -> Result<Prepared, SqlError> {
        self.shared.prepared.prepare(sql)
    }

    /// The results that are kept, if any are to be.
    pub(crate) fn results(&self) -> Option<&Arc<Results>> {
        self.shared.results.as_ref()
    }

    /// What became of queries whose results might be kept, and about how many bytes those take that are; `None`: none are to be.
    #[must_use]
    pub fn result_meter(&self) -> Option<(&ResultMeter, u64)> {
        self.results().map(|results| (results.meter(), results.size().1))
    }

    /// The statement of this text, if it was prepared lately.
    pub(crate) fn prepared_lately(&self, sql: &str) -> Option<Prepared> {
        self.shared.prepared.known(sql)
    }

    /// The catalog as of the visible LSN.
    pub(crate) fn catalog_now(&self) -> CatalogView {
        CatalogView::new(Arc::clone(self.folds().catalog()), self.visible())
    }

    /// A session of its own, with settings of its own, in no transaction.
    #[must_use]
    pub fn session(&self) -> Session {
        Session::new(self.clone())
    }

    /// Fails when the log is poisoned: nothing more can be done with the database than to open it again.
    pub(crate) fn check_log(&self) -> Result<(), SqlError> {
        match self.shared.sequencer.poisoned() {
            None => Ok(()),
            Some(cause) => Err(SqlError::new(sqlstate::LOG_POISONED, Arc::clone(cause))),
        }
    }

    /// Takes the place of the only one who writes for the source of this name; waits while somebody has it, at most for `patience`,
    /// blocking the thread. All that the one before committed is visible then, if it waited for that.
    ///
    /// # Errors
    /// `55006` when somebody still has it.
    pub fn hold(&self, name: Bytes, patience: Duration) -> Result<Hold, SqlError> {
        let message = "this source is being written for by somebody else";
        self.shared.holds.take(name, patience).ok_or_else(|| SqlError::new(sqlstate::OBJECT_IN_USE, message))
    }

    /// Fails where nothing can be written.
    pub(crate) fn check_writable(&self) -> Result<(), SqlError> {
        match self.shared.read_only {
            None => Ok(()),
            Some(cause) => Err(SqlError::new(sqlstate::READ_ONLY_TRANSACTION, format!("cannot write: {cause}"))),
        }
    }

    /// Where the write of this number stands, if it is one of its producer's newest that do.
    ///
    /// # Errors
    /// `XX001` when the rows cannot be read.
    pub fn committed(&self, write: ProducerSequence) -> Result<Option<Lsn>, SqlError> {
        let known = self.folds().kv().sequences(write.producer, self.visible())?;
        Ok(known.iter().find(|(sequence, _)| *sequence == write.sequence).map(|(_, lsn)| *lsn))
    }

    /// The rows and the catalog.
    #[must_use]
    pub fn folds(&self) -> &Materialized {
        &self.shared.folds
    }

    /// Who orders the commits.
    #[must_use]
    pub fn sequencer(&self) -> &Sequencer {
        &self.shared.sequencer
    }

    /// A transaction that reads at `at`.
    pub(crate) fn transaction(&self, at: Lsn) -> Result<Transaction, SqlError> {
        let bytes_max = self.shared.sequencer.transaction_bytes_max();
        let spill_room = Arc::clone(&self.shared.spill_room);
        Transaction::begin(self.folds(), at, self.now_micros(), bytes_max, spill_room)
    }

    /// Whether there is an aggregate function of this name.
    pub(crate) fn is_aggregate(&self, name: &str) -> bool {
        self.shared.state.aggregate_functions().contains_key(&name.to_lowercase())
    }

    /// How the scalar function of this name may answer the same question; `None`: the planner knows none.
    pub(crate) fn volatility(&self, name: &str) -> Option<Volatility> {
        self.shared.state.scalar_functions().get(name).map(|function| function.signature().volatility)
    }

    /// What compiles the filters and columns of feeds.
    #[must_use]
    pub fn feed_selector(&self) -> Arc<dyn Selector> {
        // A feed outlives nobody's closing.
        Arc::new(FeedSelector(WeakEngine(Arc::downgrade(&self.shared))))
    }

    /// The time since some moment.
    pub(crate) fn monotonic(&self) -> Duration {
        self.shared.clock.monotonic()
    }

    /// The time of day, in microseconds since 1970.
    pub(crate) fn now_micros(&self) -> u64 {
        self.shared.clock.unix_micros()
    }

    /// The high-water mark.
    #[must_use]
    pub fn visible(&self) -> Lsn {
        *self.shared.visible.borrow()
    }

    /// Gives up the log's commits up to `to`, or all that no read in the past may need; returns the earliest that is left. It reads all
    /// rows, on a thread of its own, which ends its work also when the future is dropped.
    pub(crate) async fn trim_log(&self, to: Option<Lsn>) -> Result<Lsn, SqlError> {
        self.check_writable()?;
        let (folds, sequencer) = (self.shared.folds.clone(), self.shared.sequencer.clone());
        let (told, outcome) = futures::channel::oneshot::channel();
        let trim = move || {
            let earliest = folds.trim(sequencer.log(), to);
            // What it held is let go of before anybody hears of the end.
            drop((folds, sequencer));
            let _ = told.send(earliest);
        };
        let thread = std::thread::Builder::new().name("highwater-trim".to_owned()).spawn(trim);
        thread.map_err(|error| SqlError::new(sqlstate::IO_ERROR, format!("cannot start a thread: {error}")))?;
        let earliest = outcome.await.map_err(|_| SqlError::internal("the thread that trims has panicked"))?;
        Ok(earliest?)
    }

    /// Waits until `lsn` is visible.
    ///
    /// # Errors
    /// `HW002` after `timeout`.
    pub async fn wait_visible(&self, lsn: Lsn, timeout: Duration) -> Result<(), SqlError> {
        let mut visible = self.shared.visible.clone();
        let reached = visible.wait_for(|visible| *visible >= lsn);
        match tokio::time::timeout(timeout, reached).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(SqlError::new(sqlstate::CANNOT_CONNECT_NOW, "the database is closing")),
            Err(_) => {
                let message = format!("lsn {lsn} was not reached within {timeout:?}; visible is {}", self.visible());
                Err(SqlError::new(sqlstate::LSN_NOT_REACHED, message))
            }
        }
    }

    /// Waits for what a transaction that read at `at` lost a race to, at most for a moment: it may be accepted and not visible yet, and
    /// until it is, nothing is different.
    pub(crate) async fn wait_for_winner(&self, at: Lsn) {
        // Without it in sight, trying again tells.
        let _ = self.wait_visible(at.next(), RACE_WAIT_MAX).await;
    }

    /// A planner that sees this catalog, and for which it is `now_micros`.
    pub(crate) fn planner(&self, catalog: StatementCatalog, namespace: &str, now_micros: u64) -> SessionState {
        let mut config = self.shared.state.config().clone();
        config.options_mut().catalog.default_schema = namespace.to_owned();
        let now = i64::try_from(now_micros).ok().and_then(timestamp_us_to_datetime);
        let props = ExecutionProps::new().with_query_execution_start_time(now.unwrap_or_default().and_utc());
        SessionStateBuilder::new_from_existing(self.shared.state.clone())
            .with_config(config)
            .with_catalog_list(Arc::new(catalog))
            .with_execution_props(props)
            .build()
    }
}

fn planner_state(options: &EngineOptions) -> Result<SessionState, SqlError> {
    let mut config = SessionConfig::new()
        .with_default_catalog_and_schema(CATALOG, highwater_materializers::Catalog::PUBLIC)
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(false)
        // One thread a statement: many sessions share the cores, and rows stream in the order of their keys.
        .with_target_partitions(1)
        .with_batch_size(options.batch_rows);
    let parser = &mut config.options_mut().sql_parser;
    parser.parse_float_as_decimal = true;
    parser.map_string_types_to_utf8view = false;
    parser.dialect = datafusion::config::Dialect::PostgreSQL;
    let memory = Arc::new(FairSpillPool::new(options.memory_bytes));
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(memory);
    let files = match &options.spill_directory {
        Some(directory) => DiskManagerMode::Directories(vec![directory.clone()]),
        None => DiskManagerMode::OsTmpDirectory,
    };
    let runtime = runtime.with_disk_manager_builder(DiskManagerBuilder::default().with_mode(files)).build_arc()?;
    let mut rules = Analyzer::new().rules;
    rules.splice(0..0, [Arc::new(TypeTextLiterals) as _, Arc::new(TypeOperators) as _]);
    let mut state = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_default_features()
        .with_analyzer_rules(rules)
        .build();
    let registry: &mut dyn datafusion::execution::FunctionRegistry = &mut state;
    datafusion_functions_json::register_all(registry)?;
    functions::register(registry)?;
    registry.register_expr_planner(Arc::new(OperatorPlanner))?;
    Ok(state)
}

const RACE_WAIT_MAX: Duration = Duration::from_millis(50);
