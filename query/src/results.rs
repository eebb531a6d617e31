//! Results of queries, kept for whoever asks the same while none of their tables has changed.
//!
//! A result is kept under the text of its query, as it is parsed, with the values of its parameters in it. It holds at an LSN if
//! nothing was written between there and where it was computed to a table that it reads, and these are the same tables in the same shape. A
//! query that asks for anything but rows of tables (the clock, the session, the catalog, a random number) is computed each time.

use std::hash::{Hash, Hasher};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::sqlparser::ast::{Expr, Query, TableFactor, Visit, Visitor};
use futures::{Stream, StreamExt};
use highwater_log::Lsn;
use highwater_log::meter::Counter;
use highwater_log::value::ElementType;
use highwater_materializers::Table;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, Weighter};

use crate::cast::CAST;
use crate::catalog::QualifiedName;
use crate::engine::Engine;
use crate::error::SqlError;
use crate::fixed::{function_name, is_fixed};
use crate::scan::TableScan;
use crate::statement::RowStream;
use crate::system::{LiveTable, LiveValue, bigint};
use crate::transaction::Transaction;

/// What became of queries whose results might be kept.
#[derive(Debug, Default)]
pub struct ResultMeter {
    /// Answered by a kept result.
    pub hits: Counter,
    /// Computed.
    pub misses: Counter,
    /// Of these, those for which a result was there that does not hold any more.
    pub stale: Counter,
}

/// Results of an engine.
pub(crate) struct Results {
    kept: Cache<ResultKey, Arc<Kept>, ResultBytes>,
    result_bytes_max: u64,
    meter: ResultMeter,
}

/// What a result is kept under.
#[derive(Clone, Debug)]
pub(crate) struct ResultKey {
    query: Box<Query>,
    /// The query written out: what differs may be written alike (quotes in texts), and so it tells where to look, and no more.
    text: String,
    /// Where its names are looked up.
    namespace: String,
}

impl PartialEq for ResultKey {
    fn eq(&self, other: &Self) -> bool {
        self.namespace == other.namespace && self.query == other.query
    }
}

impl Eq for ResultKey {}

impl Hash for ResultKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.text, &self.namespace).hash(state);
    }
}

struct Kept {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    bytes: u64,
    tables: Vec<(QualifiedName, Arc<Table>)>,
    /// It was computed, or found to hold, at this LSN.
    at: AtomicU64,
}

impl Results {
    /// Room for so many bytes of results.
    pub(crate) fn new(bytes: u64) -> Self {
        let mut options = quick_cache::OptionsBuilder::new();
        // In one piece: a shard has no room for what is larger than itself.
        let options = options.shards(1).estimated_items_capacity(RESULTS_EXPECTED).weight_capacity(bytes);
        let options = options.build().expect("all that must be said is");
        let (hasher, lifecycle) = (DefaultHashBuilder::default(), DefaultLifecycle::default());
        Self {
            kept: Cache::with_options(options, ResultBytes, hasher, lifecycle),
            result_bytes_max: bytes / RESULTS_MIN,
            meter: ResultMeter::default(),
        }
    }

    /// What the result of a query would be kept under; `None`: it is none that can be kept.
    pub(crate) fn key(&self, engine: &Engine, query: &Query, namespace: &str) -> Option<ResultKey> {
        if query.visit(&mut Fixed(engine)).is_break() {
            return None;
        }
        let text = query.to_string();
        if text.len() > QUERY_BYTES_MAX {
            return None;
        }
        Some(ResultKey { query: Box::new(query.clone()), text, namespace: namespace.to_owned() })
    }

    /// The result, if it is kept and holds for this transaction, which must have written nothing.
    ///
    /// # Errors
    /// Those of reading rows.
    pub(crate) fn get(&self, key: &ResultKey, transaction: &Transaction) -> Result<Option<RowStream>, SqlError> {
        let Some(kept) = self.kept.get(key) else { return Ok(None) };
        if !kept.holds(transaction)? {
            self.meter.stale.add(1);
            return Ok(None);
        }
        self.meter.hits.add(1);
        let batches = kept.batches.clone().into_iter().map(Ok);
        Ok(Some(RowStream::new(Arc::clone(&kept.schema), transaction.at(), futures::stream::iter(batches))))
    }

    /// The rows of a query that is computed; they are kept once the last of them was read, if they are not too many.
    pub(crate) fn keeping(self: &Arc<Self>, key: ResultKey, plan: &LogicalPlan, rows: RowStream) -> RowStream {
        let Some(tables) = tables_of(plan) else { return rows };
        self.meter.misses.add(1);
        let (schema, lsn) = (Arc::clone(rows.schema()), rows.lsn());
        let gathering = Gathering {
            results: Arc::clone(self),
            key,
            kept: Kept { schema: Arc::clone(&schema), batches: Vec::new(), bytes: 0, tables, at: lsn.value().into() },
        };
        RowStream::new(schema, lsn, gathering.over(rows))
    }

    pub(crate) const fn meter(&self) -> &ResultMeter {
        &self.meter
    }

    /// How many results are kept, and about how many bytes they take.
    pub(crate) fn size(&self) -> (u64, u64) {
        (self.kept.len() as u64, self.kept.weight())
    }
}

impl Kept {
    /// Whether it is what the query gives in this transaction.
    fn holds(&self, transaction: &Transaction) -> Result<bool, SqlError> {
        let (computed, at) = (Lsn::new(self.at.load(Ordering::Acquire)), transaction.at());
        for (name, table) in &self.tables {
            let is_same = transaction.catalog.find(name).is_some_and(|known| Arc::ptr_eq(&known, table));
            let pin = &transaction.source_ref().pin;
            if !is_same || (computed != at && pin.unwritten_from(table.schema().storage)? > computed.min(at)) {
                return Ok(false);
            }
        }
        // Where it holds later, too, what was forgotten of the time before does not matter any more.
        self.at.fetch_max(at.value(), Ordering::AcqRel);
        Ok(true)
    }
}

/// A result while it is read for the first time.
struct Gathering {
    results: Arc<Results>,
    key: ResultKey,
    kept: Kept,
}

impl Gathering {
    fn over(self, mut rows: RowStream) -> impl Stream<Item = Result<RecordBatch, SqlError>> + Send {
        let mut gathering = Some(self);
        futures::stream::poll_fn(move |context| {
            let polled = rows.poll_next_unpin(context);
            match &polled {
                Poll::Ready(Some(Ok(batch))) => {
                    gathering = gathering.take().and_then(|gathering| gathering.with(batch))
                }
                Poll::Ready(Some(Err(_))) => gathering = None,
                Poll::Ready(None) => {
                    if let Some(Self { results, key, kept }) = gathering.take() {
                        results.kept.insert(key, Arc::new(kept));
                    }
                }
                Poll::Pending => {}
            }
            polled
        })
    }

    /// With another batch; `None`: it is too large to be kept.
    fn with(mut self, batch: &RecordBatch) -> Option<Self> {
        self.kept.bytes += batch.get_array_memory_size() as u64;
        self.kept.batches.push(batch.clone());
        (self.kept.bytes <= self.results.result_bytes_max).then_some(self)
    }
}

/// The tables of a plan; `None`: it reads something else, or nothing.
fn tables_of(plan: &LogicalPlan) -> Option<Vec<(QualifiedName, Arc<Table>)>> {
    let (mut tables, mut is_known) = (Vec::new(), true);
    let visited = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            let provider = source_as_provider(&scan.source);
            match provider.ok().as_ref().and_then(|provider| provider.downcast_ref::<TableScan>()) {
                Some(scan) => tables.push((QualifiedName::of(scan.table()), Arc::clone(scan.table()))),
                None => is_known = false,
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
    (visited.is_ok() && is_known && !tables.is_empty()).then_some(tables)
}

/// Looks for what is not of the rows of tables alone.
struct Fixed<'a>(&'a Engine);

impl Visitor for Fixed<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::Function(function) => {
                let name = function_name(function);
                // A parameter's type is told by a cast.
                if name == CAST || is_fixed(self.0, &name) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            }
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        match factor {
            TableFactor::Table { args: None, .. } | TableFactor::Derived { .. } | TableFactor::NestedJoin { .. } => {
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Break(()),
        }
    }
}

#[derive(Clone)]
struct ResultBytes;

impl Weighter<ResultKey, Arc<Kept>> for ResultBytes {
    fn weight(&self, key: &ResultKey, kept: &Arc<Kept>) -> u64 {
        kept.bytes + (key.text.len() * TREE_FACTOR + RESULT_OVERHEAD_BYTES) as u64
    }
}

/// `hw_catalog.result_cache`.
pub(crate) struct ResultsTable(pub(crate) Option<Arc<Results>>);

impl LiveTable for ResultsTable {
    fn name(&self) -> &'static str {
        "result_cache"
    }

    fn columns(&self) -> &'static [(&'static str, ElementType)] {
        &[
            ("results", ElementType::BigInt),
            ("bytes", ElementType::BigInt),
            ("hits", ElementType::BigInt),
            ("misses", ElementType::BigInt),
            ("stale", ElementType::BigInt),
        ]
    }

    /// One row; none where no results are kept.
    fn rows(&self) -> Result<Vec<Vec<LiveValue>>, SqlError> {
        let row = |results: &Arc<Results>| {
            let ((count, bytes), meter) = (results.size(), results.meter());
            let numbers = [count, bytes, meter.hits.value(), meter.misses.value(), meter.stale.value()];
            numbers.into_iter().map(|number| Some(bigint(number))).collect()
        };
        Ok(self.0.iter().map(row).collect())
    }
}

const RESULTS_EXPECTED: usize = 1024;
/// So many of the largest that are kept have room.
const RESULTS_MIN: u64 = 8;
/// A longer query is computed each time.
const QUERY_BYTES_MAX: usize = 16 * 1024;
/// A tree takes up to so many times the bytes of its text.
const TREE_FACTOR: usize = 50;
const RESULT_OVERHEAD_BYTES: usize = 512;
