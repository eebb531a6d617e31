//! What every statement is run with, and how its queries are planned and run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::sql::parser::Statement as PlannerStatement;
use datafusion::sql::sqlparser::ast::{Ident, ObjectName, Query, Statement};
use futures::{FutureExt, Stream, StreamExt, TryStreamExt};
use highwater_log::Lsn;

use crate::activity::Timing;
use crate::catalog::QualifiedName;
use crate::engine::Engine;
use crate::error::SqlError;
use crate::expansion;
use crate::interrupt::{Interrupt, interruptible};
use crate::names::{folded, name_columns, result_names};
use crate::providers::{StatementCatalog, Target};
use crate::rewrite::{SessionFacts, joins, rewrite};
use crate::short_circuit::short_circuiting;
use crate::system;
use crate::transaction::Transaction;
use crate::types;

/// A result, batch by batch, each made when it is asked for. Dropping it ends the query.
pub struct RowStream {
    schema: SchemaRef,
    lsn: Lsn,
    batches: std::pin::Pin<Box<dyn Stream<Item = Result<RecordBatch, SqlError>> + Send>>,
    /// Set when the stream fails: the transaction that it is of has failed.
    has_failed: Arc<AtomicBool>,
    /// Of the statement, which ends with the stream.
    timing: Option<Timing>,
}

impl RowStream {
    /// A result that is made elsewhere: its batches have this schema, whose fields carry their column types.
    #[must_use]
    pub fn new(
        schema: SchemaRef,
        lsn: Lsn,
        batches: impl Stream<Item = Result<RecordBatch, SqlError>> + Send + 'static,
    ) -> Self {
        Self { schema, lsn, batches: Box::pin(batches), has_failed: Arc::default(), timing: None }
    }

    /// A result that is there already.
    pub(crate) fn of(batch: RecordBatch, lsn: Lsn) -> Self {
        Self::new(batch.schema(), lsn, futures::stream::iter([Ok(batch)]))
    }

    /// Its columns; each field carries its column type (see [`crate::types`]).
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The LSN that was read at.
    #[must_use]
    pub const fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// All batches.
    ///
    /// # Errors
    /// The first error of the stream.
    pub async fn collect(self) -> Result<Vec<RecordBatch>, SqlError> {
        self.try_collect().await
    }

    /// Has the time end with the stream.
    pub(crate) fn timed(mut self, timing: Timing) -> Self {
        self.timing = Some(timing);
        self
    }

    /// Has a flag set when the stream fails.
    pub(crate) fn telling(mut self, has_failed: &Arc<AtomicBool>) -> Self {
        self.has_failed = Arc::clone(has_failed);
        self
    }
}

impl Stream for RowStream {
    type Item = Result<RecordBatch, SqlError>;

    fn poll_next(mut self: std::pin::Pin<&mut Self>, context: &mut std::task::Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.batches.as_mut().poll_next(context);
        match (&polled, &mut self.timing) {
            (Poll::Ready(Some(Ok(batch))), Some(timing)) => timing.note_rows(batch.num_rows() as u64),
            (Poll::Ready(Some(Err(error))), Some(timing)) => timing.note_failure(error),
            (Poll::Ready(None), timing) => *timing = None,
            _ => {}
        }
        if matches!(polled, Poll::Ready(Some(Err(_)))) {
            self.has_failed.store(true, Ordering::Release);
        }
        polled
    }
}

impl std::fmt::Debug for RowStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowStream").field("schema", &self.schema).field("lsn", &self.lsn).finish_non_exhaustive()
    }
}

/// What a statement is run with.
pub(crate) struct StatementContext<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) facts: SessionFacts,
    pub(crate) interrupt: Interrupt,
    /// It is the only statement of its transaction.
    pub(crate) is_alone: bool,
}

impl StatementContext<'_> {
    /// The name that a statement means, in the session's schema unless it says another.
    pub(crate) fn resolve(&self, name: &ObjectName) -> Result<QualifiedName, SqlError> {
        let part = |part: &datafusion::sql::sqlparser::ast::ObjectNamePart| {
            part.as_ident().map(folded).ok_or_else(|| SqlError::syntax(format!("{name} is no name")))
        };
        match &name.0[..] {
            [name] => Ok(QualifiedName { namespace: self.facts.namespace.clone(), name: part(name)? }),
            [namespace, name] => Ok(QualifiedName { namespace: part(namespace)?, name: part(name)? }),
            [catalog, namespace, name] if part(catalog)? == crate::providers::CATALOG => {
                Ok(QualifiedName { namespace: part(namespace)?, name: part(name)? })
            }
            _ => Err(SqlError::unsupported(&format!("a reference to another database ({name})"))),
        }
    }

    /// Runs a query in a transaction.
    pub(crate) async fn query(
        &self,
        transaction: &Transaction,
        query: Query,
        target: Option<Target>,
    ) -> Result<RowStream, SqlError> {
        let planned = self.plan(transaction, query, target)?;
        let stream = execute_stream(planned.physical, planned.state.task_ctx())?;
        self.named(stream, transaction.at())
    }

    /// Runs a query outside of a transaction: its result may be there already, and may be kept for others.
    pub(crate) async fn query_once(&self, transaction: &Transaction, query: Query) -> Result<RowStream, SqlError> {
        let results = self.engine.results();
        let key = results.and_then(|results| results.key(self.engine, &query, &self.facts.namespace));
        let Some((results, key)) = results.zip(key) else { return self.query(transaction, query, None).await };
        if let Some(rows) = results.get(&key, transaction)? {
            return Ok(rows);
        }
        let planned = self.plan(transaction, query, None)?;
        let stream = execute_stream(planned.physical, planned.state.task_ctx())?;
        Ok(results.keeping(key, &planned.written, self.named(stream, transaction.at())?))
    }

    /// Runs a query that we wrote ourselves, and gathers its rows.
    pub(crate) async fn collect(
        &self,
        transaction: &Transaction,
        sql: &str,
        target: Option<Target>,
    ) -> Result<Vec<RecordBatch>, SqlError> {
        self.gather(self.query(transaction, parse_own_query(sql)?, target).await?).await
    }

    /// Gathers rows that are to be committed, or to be kept until something is.
    ///
    /// # Errors
    /// Their own; `54000` when they are more than a transaction may have.
    pub(crate) async fn gather(&self, mut rows: RowStream) -> Result<Vec<RecordBatch>, SqlError> {
        let (mut batches, mut bytes) = (Vec::new(), 0);
        while let Some(batch) = rows.try_next().await? {
            bytes += batch.get_array_memory_size();
            self.check_bytes(bytes)?;
            batches.push(batch);
        }
        Ok(batches)
    }

    /// The rows of a plan under the names that the query gives them, until the interrupt is raised.
    fn named(&self, mut stream: SendableRecordBatchStream, lsn: Lsn) -> Result<RowStream, SqlError> {
        let planned = stream.schema();
        let canonical = types::canonical_schema(&planned)?;
        let named = result_names(&planned).zip(canonical.fields());
        let fields: Vec<Field> = named.map(|(name, field)| Field::clone(field).with_name(name)).collect();
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        let (batch_schema, interrupt) = (Arc::clone(&schema), self.interrupt.clone());
        let batches = futures::stream::poll_fn(move |context| match interrupt.check() {
            Ok(()) => stream.as_mut().poll_next(context),
            Err(canceled) => Poll::Ready(Some(Err(canceled))),
        });
        let batches = batches.map(move |batch| types::canonical_batch(&batch?, &batch_schema));
        Ok(RowStream::new(schema, lsn, batches))
    }

    /// What a statement gathers is to be committed: beyond what a transaction may be, it is refused before it is all there.
    fn check_bytes(&self, bytes: usize) -> Result<(), SqlError> {
        transaction_too_large(bytes, self.engine.sequencer().transaction_bytes_max())
    }

    /// The names of a table's columns, if there is one of this name.
    fn columns_of(&self, transaction: &Transaction, name: &ObjectName) -> Option<Vec<String>> {
        let name = self.resolve(name).ok()?;
        if system::is_system(&name.namespace) {
            let live = self.engine.live_tables();
            return system::column_names(&name.namespace, &name.name, &transaction.catalog, live);
        }
        let table = transaction.catalog.find(&name)?;
        Some(table.schema().columns.iter().map(|column| column.name.clone()).collect())
    }

    /// Plans a query.
    pub(crate) fn plan(
        &self,
        transaction: &Transaction,
        mut query: Query,
        target: Option<Target>,
    ) -> Result<Planned, SqlError> {
        let (view, source) = (transaction.catalog.clone(), transaction.source());
        let catalog = StatementCatalog { view, source, target, live: Arc::clone(self.engine.live_tables()) };
        let planner = self.engine.planner(catalog, &self.facts.namespace, transaction.started_micros());
        // The tree of a long statement is deep, and so is the recursion over it. Nothing here waits for anything.
        stacker::maybe_grow(STACK_LEFT_MIN, PLANNING_STACK_BYTES, || {
            expansion::check(&query)?;
            joins::merge_columns(&mut query, &|name| self.columns_of(transaction, name))?;
            name_columns(&mut query)?;
            rewrite(&mut query, &self.facts, &|name| planner.aggregate_functions().contains_key(name))?;
            let statement = PlannerStatement::Statement(Box::new(Statement::Query(Box::new(query))));
            let planning = async {
                let written = planner.statement_to_plan(statement).await?;
                if !is_query(&written) {
                    return Err(SqlError::unsupported("a query that writes"));
                }
                let logical = planner.optimize(&written)?;
                let physical = planner.query_planner().create_physical_plan(&logical, &planner).await?;
                expansion::check_joins(&physical)?;
                Ok((written, logical, interruptible(short_circuiting(physical)?, &self.interrupt)?))
            };
            let (written, logical, physical) =
                // However much the task has done before: planning does not yield.
                tokio::task::unconstrained(planning).now_or_never().ok_or_else(|| SqlError::internal("planning had to wait"))??;
            Ok(Planned { written, logical, physical, state: planner.clone() })
        })
    }
}

/// Fails when `bytes` are more than a transaction may have.
pub(crate) fn transaction_too_large(bytes: usize, max: usize) -> Result<(), SqlError> {
    if bytes <= max {
        return Ok(());
    }
    let message = format!("the transaction is larger than transaction_bytes_max ({max} bytes)");
    Err(SqlError::new(crate::sqlstate::PROGRAM_LIMIT_EXCEEDED, message))
}

/// A query, planned.
pub(crate) struct Planned {
    /// What the text says.
    pub(crate) written: LogicalPlan,
    /// The same, as it is carried out.
    pub(crate) logical: LogicalPlan,
    pub(crate) physical: Arc<dyn ExecutionPlan>,
    pub(crate) state: SessionState,
}

fn is_query(plan: &LogicalPlan) -> bool {
    !matches!(plan, LogicalPlan::Ddl(_) | LogicalPlan::Dml(_) | LogicalPlan::Copy(_) | LogicalPlan::Statement(_))
}

pub(crate) fn parse_own_query(sql: &str) -> Result<Query, SqlError> {
    match crate::parser::parse(sql)?.single().map(|parsed| parsed.statement) {
        Some(Statement::Query(query)) => Ok(*query),
        _ => Err(SqlError::internal(format!("not a query: {sql}"))),
    }
}

/// An identifier, quoted.
pub(crate) fn quoted(name: &str) -> Ident {
    // Writing it out leaves a pair of quotes as it is.
    Ident::with_quote('"', name.replace('"', "\"\""))
}

const STACK_LEFT_MIN: usize = 1536 * 1024;
const PLANNING_STACK_BYTES: usize = 64 * 1024 * 1024;
