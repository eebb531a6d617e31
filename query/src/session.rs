//! Sessions: statement after statement, settings, transactions.

mod apply;
mod named;
mod procedures;
mod settings;
mod transactions;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use datafusion::physical_plan::displayable;
use datafusion::sql::sqlparser::ast::Statement;
use futures::StreamExt;
use highwater_log::Lsn;
use highwater_log::commit::ProducerSequence;
use highwater_log::sequencer::{Accepted, Acknowledgement, CommitError, Durability};
use highwater_log::value::{ElementType, Value};

use crate::activity::{Standing, Watched};
use crate::ddl::BegunIndex;
use crate::direct::Direct;
use crate::engine::Engine;
use crate::error::SqlError;
use crate::indexes;
use crate::interrupt::Interrupt;
use crate::parameter::Parameter;
use crate::parser::{Parsed, Statements, parse};
use crate::prepared::{Prepared, Request};
use crate::rewrite::SessionFacts;
use crate::sqlstate;
use crate::statement::{RowStream, StatementContext};
use crate::transaction::Transaction;
use crate::types;
use apply::{Applied, apply};
use named::NamedStatements;
use settings::Settings;
use transactions::TransactionState;

/// A session. Its statements come one after another.
pub struct Session {
    engine: Engine,
    settings: Settings,
    state: TransactionState,
    last_write: Option<Lsn>,
    /// What the next commit is known as to its writer.
    number: Option<ProducerSequence>,
    /// A buffered commit whose LSN is not known yet.
    unsynced: Option<Accepted>,
    interrupt: Interrupt,
    named: NamedStatements,
    watched: Arc<Watched>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.engine.activity().forget(&self.watched);
    }
}

/// What a statement answers.
#[derive(Debug)]
pub enum Outcome {
    /// Rows.
    Rows(RowStream),
    /// That it is done.
    Done(Done),
    /// That it is done, and what its RETURNING gives.
    Returned(RowStream, Done),
}

/// A statement that gave no rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// PostgreSQL's command tag: `INSERT 0 3`, `CREATE TABLE`.
    pub tag: String,
    /// How many rows it changed, if it changes rows.
    pub rows: Option<u64>,
    /// Where its commit stands; `None` inside a transaction, when nothing changed, and for a buffered commit.
    pub lsn: Option<Lsn>,
    /// A commit of its number stood already, at `lsn`: nothing was done.
    pub is_duplicate: bool,
}

impl Done {
    fn tag(tag: impl Into<String>) -> Self {
        Self { tag: tag.into(), rows: None, lsn: None, is_duplicate: false }
    }
}

impl Session {
    pub(crate) fn new(engine: Engine) -> Self {
        Self {
            watched: engine.activity().watch(),
            engine,
            settings: Settings::default(),
            state: TransactionState::None,
            last_write: None,
            number: None,
            unsynced: None,
            interrupt: Interrupt::default(),
            named: NamedStatements::default(),
        }
    }

    /// Runs all statements of a text, and returns what the last one answers. Rows of the others are read to their end and dropped.
    ///
    /// # Errors
    /// The first statement's that fails; those before it stand, unless they are in a transaction.
    pub async fn execute(&mut self, sql: &str) -> Result<Outcome, SqlError> {
        let mut last = Outcome::Done(Done::tag(""));
        for parsed in self.parse(sql)? {
            let parsed = parsed?;
            // What RETURNING gives was computed before the statement was done.
            if let Outcome::Rows(rows) = last {
                rows.collect().await?;
            }
            last = self.run(parsed).await?;
        }
        Ok(last)
    }

    /// The statements of a text. In a transaction, a text that cannot be parsed ends it.
    ///
    /// # Errors
    /// As [`parse`].
    pub fn parse(&mut self, sql: &str) -> Result<Statements, SqlError> {
        self.watched.note_text(sql);
        let parsed = parse(sql);
        self.note_parsed(&parsed);
        parsed
    }

    /// Whether the statement of this text was prepared lately, concerns no more rows than it names, and computes for microseconds here
    /// with these values (a write then waits for its commit): not worth another thread.
    #[must_use]
    pub fn is_short(&self, sql: &str, parameters: &[Parameter]) -> bool {
        let Some(prepared) = self.engine.prepared_lately(sql) else { return false };
        let namespace = self.settings.namespace();
        match &self.state {
            TransactionState::Open { transaction, .. } => {
                prepared.is_short(parameters, &transaction.catalog, namespace)
            }
            TransactionState::None => prepared.is_short(parameters, &self.engine.catalog_now(), namespace),
            TransactionState::Failed => false,
        }
    }

    /// Sets what `SET name = 'value'` would.
    ///
    /// # Errors
    /// `22023`, `42704`, `0A000`.
    pub fn configure(&mut self, name: &str, value: &str) -> Result<(), SqlError> {
        self.change_setting(&name.to_lowercase(), value)
    }

    /// Numbers the commit of the next statement, or of the transaction that is open or that it opens: if one of this number stands
    /// already, that is what the commit answers, and nothing is written. Forgotten with the transaction's end.
    pub const fn number_commit(&mut self, number: ProducerSequence) {
        self.number = Some(number);
    }

    /// Has what is run from now on end when this is raised, or was raised before: with `57014`, as soon as it is noticed.
    pub fn interrupted_by(&mut self, interrupt: Interrupt) {
        self.interrupt = interrupt;
    }

    /// Runs one statement. Dropping the future leaves the outcome of a write open; a transaction that it was in has failed then.
    ///
    /// # Errors
    /// [`SqlError`]. In a transaction, an error ends it: until ROLLBACK, statements answer `25P02`.
    pub async fn run(&mut self, parsed: Parsed) -> Result<Outcome, SqlError> {
        let Parsed { statement, as_of, parameter_count } = parsed;
        self.run_request(Request::once(statement, parameter_count), as_of).await
    }

    /// A statement to be run by this session or another, with values for its parameters (`$1`, `$2`, …). In a transaction, a text that
    /// cannot be parsed ends it.
    ///
    /// # Errors
    /// As [`parse`]; `42601` unless the text is one statement.
    pub fn prepare(&mut self, sql: &str) -> Result<Prepared, SqlError> {
        let prepared = self.engine.prepare(sql);
        self.note_parsed(&prepared);
        prepared
    }

    /// A text that is none is a statement that failed.
    fn note_parsed<T>(&mut self, parsed: &Result<T, SqlError>) {
        if let Err(error) = parsed {
            self.watched.begin().note_failure(error);
            if self.is_in_transaction() {
                self.state = TransactionState::Failed;
            }
        }
    }

    /// Runs a statement that was prepared, with these values for its parameters. As [`Session::run`] otherwise.
    ///
    /// # Errors
    /// As [`Session::run`]; `08P01` unless there are as many values as parameters, `42P02` when the statement is none that takes any.
    pub async fn run_prepared(&mut self, prepared: &Prepared, parameters: &[Parameter]) -> Result<Outcome, SqlError> {
        if !prepared.text().is_empty() {
            self.watched.note_text(prepared.text());
        }
        self.run_request(prepared.request(parameters), prepared.as_of()).await
    }

    /// Runs a statement under the eyes of whoever watches.
    async fn run_request(&mut self, request: Request<'_>, as_of: Option<Lsn>) -> Result<Outcome, SqlError> {
        let mut timing = self.watched.begin();
        let outcome = self.run_unwatched(request, as_of).await;
        self.watched.note_transaction(match &self.state {
            TransactionState::None => Standing::Outside,
            TransactionState::Open { transaction, .. } => Standing::Inside(transaction.at()),
            TransactionState::Failed => Standing::Failed,
        });
        match &outcome {
            Ok(Outcome::Done(done) | Outcome::Returned(_, done)) => timing.note_rows(done.rows.unwrap_or(0)),
            Err(error) => timing.note_failure(error),
            Ok(Outcome::Rows(_)) => {}
        }
        Ok(match outcome? {
            Outcome::Rows(rows) => Outcome::Rows(rows.timed(timing)),
            done => done,
        })
    }

    async fn run_unwatched(&mut self, request: Request<'_>, as_of: Option<Lsn>) -> Result<Outcome, SqlError> {
        self.engine.check_log()?;
        self.note_synced();
        if let TransactionState::Open { has_failed, is_running, .. } = &mut self.state {
            // A query's rows met an error while they were read, or a statement was given up half way.
            if has_failed.load(Ordering::Acquire) || std::mem::replace(is_running, true) {
                self.state = TransactionState::Failed;
            }
        }
        let is_ending = as_of.is_none()
            && matches!(
                request.statement(),
                Statement::Commit { chain: false, .. } | Statement::Rollback { chain: false, savepoint: None }
            );
        if matches!(self.state, TransactionState::Failed) && !is_ending {
            let message = "current transaction is aborted, commands ignored until end of transaction block";
            return Err(SqlError::new(sqlstate::FAILED_TRANSACTION, message));
        }
        if let TransactionState::Open { has_run, .. } = &mut self.state {
            *has_run |= !matches!(request.statement(), Statement::Set(_) | Statement::ShowVariable { .. });
        }
        let outcome = self.dispatch(request, as_of).await;
        if outcome.is_err() && !matches!(self.state, TransactionState::None) && !is_ending {
            self.state = TransactionState::Failed;
        }
        if let TransactionState::Open { is_running, .. } = &mut self.state {
            *is_running = false;
        }
        if matches!(self.state, TransactionState::None) {
            self.number = None;
        }
        outcome
    }

    async fn dispatch(&mut self, request: Request<'_>, as_of: Option<Lsn>) -> Result<Outcome, SqlError> {
        request.check_parameters()?;
        match request.statement() {
            Statement::Query(_) => self.query(request, as_of).await.map(Outcome::Rows),
            statement if as_of.is_none() && is_writing(statement) => self.write(&request).await,
            // What every statement carries with it is kept small: a future is moved more than once.
            _ => Box::pin(self.dispatch_other(request, as_of)).await,
        }
    }

    /// Runs a statement that neither reads nor writes rows.
    async fn dispatch_other(&mut self, request: Request<'_>, as_of: Option<Lsn>) -> Result<Outcome, SqlError> {
        let parameter_count = request.parameter_count();
        match request.into_bound()? {
            Statement::Explain {
                statement,
                analyze,
                verbose,
                query_plan: false,
                estimate: false,
                format: None,
                options: None,
                ..
            } => self.explain(*statement, as_of, analyze, verbose).await.map(Outcome::Rows),
            Statement::StartTransaction { modes, statements, .. } if statements.is_empty() => {
                self.begin(&modes, as_of).await.map(Outcome::Done)
            }
            Statement::Prepare { name, data_types, statement } => self
                .prepare_named(&name, &data_types, Parsed { statement: *statement, as_of, parameter_count })
                .map(Outcome::Done),
            Statement::Execute {
                name: Some(name),
                parameters,
                immediate: false,
                output: false,
                default: false,
                into,
                using,
                ..
            } if into.is_empty() && using.is_empty() => self.execute_named(&name, &parameters, as_of).await,
            other if as_of.is_some() => {
                let word = other.to_string();
                let word = word.split(' ').next().unwrap_or_default();
                Err(SqlError::unsupported(&format!("AS OF LSN after {word}")))
            }
            Statement::Commit { chain: false, .. } => self.commit().await.map(Outcome::Done),
            Statement::Rollback { chain: false, savepoint: None } => Ok(Outcome::Done(self.rollback())),
            Statement::Set(set) => self.set(&set).map(Outcome::Done),
            Statement::ShowVariable { variable } => self.show(&variable).map(Outcome::Rows),
            Statement::Reset(reset) => self.reset(&reset).map(Outcome::Done),
            Statement::Call(procedure) => self.call(&procedure).await.map(Outcome::Rows),
            Statement::Deallocate { name, .. } => self.deallocate(&name).map(Outcome::Done),
            other => {
                let text = other.to_string();
                let words: Vec<&str> = text.split_whitespace().take(2).collect();
                Err(SqlError::unsupported(&words.join(" ")))
            }
        }
    }

    /// The LSN of the session's last write, as far as it is known.
    #[must_use]
    pub const fn last_write(&self) -> Option<Lsn> {
        self.last_write
    }

    /// The LSN that the open transaction reads at.
    #[must_use]
    pub fn read_lsn(&self) -> Option<Lsn> {
        match &self.state {
            TransactionState::Open { transaction, .. } => Some(transaction.at()),
            TransactionState::None | TransactionState::Failed => None,
        }
    }

    /// Whether commits are acknowledged before they are synced, as `synchronous_commit` says.
    #[must_use]
    pub fn is_buffered(&self) -> bool {
        self.settings.durability() == Durability::Buffered
    }

    /// Whether a transaction is open, failed ones included.
    #[must_use]
    pub const fn is_in_transaction(&self) -> bool {
        !matches!(self.state, TransactionState::None)
    }

    async fn query(&mut self, request: Request<'_>, as_of: Option<Lsn>) -> Result<RowStream, SqlError> {
        let (fresh, open);
        let (transaction, has_failed) = match (&self.state, as_of) {
            (TransactionState::Open { transaction, has_failed, .. }, None) => {
                open = Arc::clone(has_failed);
                (&**transaction, Some(&open))
            }
            _ => {
                fresh = self.snapshot(as_of).await?;
                (&fresh, None)
            }
        };
        self.interrupt.check()?;
        let direct = request.direct(&transaction.catalog, self.settings.namespace());
        let direct =
            direct.map(|direct| direct.read(transaction, request.parameters(), &self.interrupt)).transpose()?.flatten();
        let rows = match direct {
            Some(rows) => rows,
            None => {
                let Statement::Query(query) = request.into_bound()? else {
                    return Err(SqlError::internal("a query that is none"));
                };
                let context = self.context(transaction.at());
                match has_failed {
                    None => Box::pin(context.query_once(transaction, *query)).await?,
                    Some(_) => Box::pin(context.query(transaction, *query, None)).await?,
                }
            }
        };
        Ok(match has_failed {
            Some(has_failed) => rows.telling(has_failed),
            None => rows,
        })
    }

    async fn explain(
        &mut self,
        statement: Statement,
        as_of: Option<Lsn>,
        analyze: bool,
        verbose: bool,
    ) -> Result<RowStream, SqlError> {
        let fresh;
        let transaction = match (&self.state, as_of) {
            (TransactionState::Open { transaction, .. }, None) => transaction,
            _ => {
                fresh = self.snapshot(as_of).await?;
                &fresh
            }
        };
        let direct = Direct::of(&statement, &transaction.catalog, self.settings.namespace());
        let Statement::Query(query) = statement else {
            return Err(SqlError::unsupported("EXPLAIN of anything but a query"));
        };
        if let Some(direct) = direct
            && let Some(mut text) = direct.explained()
        {
            if analyze && let Some(rows) = direct.read(transaction, &[], &self.interrupt)? {
                let count: usize = rows.collect().await?.iter().map(arrow::array::RecordBatch::num_rows).sum();
                text.push_str(&format!(", metrics=[output_rows={count}]"));
            }
            return one_column("QUERY PLAN", text.lines(), transaction.at());
        }
        let begun = self.engine.monotonic();
        let planned = self.context(transaction.at()).plan(transaction, *query, None)?;
        let planned_at = self.engine.monotonic();
        let text = if analyze {
            let task = planned.state.task_ctx();
            // Its rows are counted by the plan, and not kept.
            let mut rows = datafusion::physical_plan::execute_stream(Arc::clone(&planned.physical), task)?;
            while let Some(batch) = rows.next().await {
                batch?;
            }
            let shown = datafusion::physical_plan::display::DisplayableExecutionPlan::with_metrics(&*planned.physical);
            let [planning, execution] =
                [planned_at - begun, self.engine.monotonic() - planned_at].map(|time| time.as_secs_f64() * 1e3);
            format!("{}Planning Time: {planning:.3} ms\nExecution Time: {execution:.3} ms", shown.indent(verbose))
        } else {
            displayable(&*planned.physical).set_show_statistics(verbose).indent(verbose).to_string()
        };
        one_column("QUERY PLAN", text.lines(), transaction.at())
    }

    /// Runs a statement that writes: in the open transaction, or in one of its own, again and again while it loses races.
    async fn write(&mut self, request: &Request<'_>) -> Result<Outcome, SqlError> {
        self.engine.check_writable()?;
        if let TransactionState::Open { transaction, is_read_only, .. } = &mut self.state {
            if *is_read_only {
                let message = "cannot write in a read-only transaction";
                return Err(SqlError::new(sqlstate::READ_ONLY_TRANSACTION, message));
            }
            let context = StatementContext {
                engine: &self.engine,
                facts: facts(&self.engine, &self.settings, self.last_write, transaction.at()),
                interrupt: self.interrupt.clone(),
                is_alone: false,
            };
            // An error ends the transaction: what the statement has done until then goes with it.
            return apply(&context, transaction, request).await.map(Applied::into_outcome);
        }
        if self.settings.is_read_only() {
            let message = "cannot write in a read-only session";
            return Err(SqlError::new(sqlstate::READ_ONLY_TRANSACTION, message));
        }
        let mut attempt = 1;
        let number = self.number;
        loop {
            let mut transaction = self.snapshot(None).await?;
            transaction.set_isolation(self.settings.isolation());
            let at = transaction.at();
            let mut applied = apply(&self.context(at), &mut transaction, request).await?;
            self.number = number;
            match self.commit_transaction(transaction).await {
                Ok(committed) => {
                    (applied.done.lsn, applied.done.is_duplicate) = committed;
                    if applied.done.is_duplicate {
                        // It was computed of what nobody has committed.
                        applied.returned = None;
                    }
                    if let Some(begun) = &applied.begun {
                        applied.done.lsn = Some(Box::pin(self.wait_for_index(begun)).await?);
                    }
                    return Ok(applied.into_outcome());
                }
                // A key that a concurrent transaction took is seen by the next attempt, which tells whose it is.
                Err(error)
                    if attempt < ATTEMPTS_MAX
                        && (error.is_retryable() || error.sqlstate == sqlstate::UNIQUE_VIOLATION) =>
                {
                    attempt += 1;
                    Box::pin(self.engine.wait_for_winner(at)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Commits; returns the LSN, where the commit has one and it is known, and whether it is that of an earlier one of its number.
    async fn commit_transaction(&mut self, transaction: Transaction) -> Result<(Option<Lsn>, bool), SqlError> {
        if !transaction.has_writes() {
            return Ok((None, false));
        }
        let durability = self.settings.durability();
        let has_changed_catalog = transaction.catalog.has_own();
        let mut set = transaction.into_write_set(durability)?;
        // Whatever becomes of it, the number is used up.
        set.producer = self.number.take();
        if set.is_empty() {
            return Ok((None, false));
        }
        match self.engine.sequencer().commit(set).await {
            Ok(Acknowledgement::Committed(receipt)) => {
                self.last_write = Some(receipt.lsn);
                if has_changed_catalog {
                    self.engine.index_wanted();
                }
                Ok((Some(receipt.lsn), receipt.is_duplicate))
            }
            Ok(Acknowledgement::Buffered(accepted)) => {
                assert_eq!(durability, Durability::Buffered);
                self.unsynced = Some(accepted);
                Ok((None, false))
            }
            Err(error) => {
                if let CommitError::NotYetReadable { lsn, .. } = &error {
                    self.last_write = Some(*lsn);
                }
                Err(error.into())
            }
        }
    }

    /// Waits for an index that was just begun; returns the LSN at which it was seen to be ready.
    async fn wait_for_index(&mut self, begun: &BegunIndex) -> Result<Lsn, SqlError> {
        if let Some(accepted) = self.unsynced.take() {
            accepted.wait().await?;
        }
        // The commit that began it stands, whatever becomes of it.
        let begun_at = self.last_write;
        let ready = indexes::ready(&self.engine, begun, &self.interrupt).await;
        let lsn = ready.map_err(|error| SqlError { committed_at: begun_at, ..error })?;
        self.last_write = self.last_write.max(Some(lsn));
        Ok(lsn)
    }

    /// A buffered commit's LSN becomes known with the sync that covers it.
    fn note_synced(&mut self) {
        if let Some(accepted) = &self.unsynced
            && let Some(outcome) = accepted.try_outcome()
        {
            if let Ok(receipt) = outcome {
                self.last_write = self.last_write.max(Some(receipt.lsn));
            }
            self.unsynced = None;
        }
    }

    /// A transaction that reads at `as_of`, or now, but not below what the session has asked for.
    async fn snapshot(&self, as_of: Option<Lsn>) -> Result<Transaction, SqlError> {
        let timeout = self.settings.min_lsn_timeout();
        let at = match as_of {
            Some(at) => {
                Box::pin(self.engine.wait_visible(at, timeout)).await?;
                at
            }
            None => {
                let min = self.settings.min_lsn().max(self.last_write.unwrap_or_default());
                if min > self.engine.visible() {
                    Box::pin(self.engine.wait_visible(min, timeout)).await?;
                }
                self.engine.visible()
            }
        };
        self.engine.transaction(at)
    }

    fn context(&self, read: Lsn) -> StatementContext<'_> {
        let facts = facts(&self.engine, &self.settings, self.last_write, read);
        StatementContext { engine: &self.engine, facts, interrupt: self.interrupt.clone(), is_alone: true }
    }
}

/// Whether a statement changes rows or the catalog.
const fn is_writing(statement: &Statement) -> bool {
    matches!(
        statement,
        Statement::Insert(_)
            | Statement::Update(_)
            | Statement::Delete(_)
            | Statement::CreateTable(_)
            | Statement::CreateIndex(_)
            | Statement::AlterIndex { .. }
            | Statement::AlterTable(_)
            | Statement::Drop { .. }
            | Statement::Truncate(_)
            | Statement::CreateSchema { .. }
    )
}

fn facts(engine: &Engine, settings: &Settings, last_write: Option<Lsn>, read: Lsn) -> SessionFacts {
    SessionFacts { visible: engine.visible(), read, last_write, namespace: settings.namespace().to_owned() }
}

/// A result of one column of text.
fn one_column<'a>(name: &str, lines: impl Iterator<Item = &'a str>, lsn: Lsn) -> Result<RowStream, SqlError> {
    text_columns([name], lines.map(|line| [line]), lsn)
}

/// A result of columns of text.
fn text_columns<'a, const N: usize>(
    names: [&str; N],
    rows: impl Iterator<Item = [&'a str; N]>,
    lsn: Lsn,
) -> Result<RowStream, SqlError> {
    let mut builders = names.map(|_| types::ColumnBuilder::new(ElementType::Text.into()));
    for row in rows {
        for (builder, text) in builders.iter_mut().zip(row) {
            builder.append(Some(Value::Text(text)))?;
        }
    }
    let fields: Vec<_> = names.iter().map(|name| types::field(name, ElementType::Text.into(), false)).collect();
    let columns = builders.each_mut().map(types::ColumnBuilder::finish).to_vec();
    let schema = arrow::datatypes::Schema::new(fields);
    Ok(RowStream::of(arrow::array::RecordBatch::try_new(Arc::new(schema), columns)?, lsn))
}

/// A statement outside a transaction that loses a race is run again so often.
const ATTEMPTS_MAX: usize = 10;
/// How long a read waits for an LSN unless the session says otherwise.
const MIN_LSN_TIMEOUT: Duration = Duration::from_secs(5);
