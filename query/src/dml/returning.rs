//! RETURNING: the rows that a change has made, or taken away, as a query over them.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema};
use datafusion::sql::sqlparser::ast::{Expr, Query, SelectItem, Visit, Visitor};
use highwater_materializers::Table;

use crate::error::SqlError;
use crate::providers::{TARGET_NAMESPACE, Target};
use crate::rewrite::written;
use crate::rows::SeenRow;
use crate::sqlstate;
use crate::statement::{RowStream, StatementContext, parse_own_query};
use crate::transaction::Transaction;
use crate::types::{self, ColumnBuilder};

/// What RETURNING gives of these rows, which it knows by `alias`. It is all computed before the change is committed.
pub(super) async fn returning(
    context: &StatementContext<'_>,
    transaction: &Transaction,
    table: &Arc<Table>,
    alias: &str,
    items: &[SelectItem],
    rows: &[SeenRow],
) -> Result<RowStream, SqlError> {
    refuse_aggregates(context, items)?;
    let items: Vec<String> = items.iter().map(written).collect();
    let sql = format!("SELECT {} FROM {TARGET_NAMESPACE}.{ROWS} AS {alias}", items.join(", "));
    let target = Target::Given(vec![(ROWS, batch(table, rows)?)]);
    let stream = context.query(transaction, parse_own_query(&sql)?, Some(target)).await?;
    let (schema, lsn) = (Arc::clone(stream.schema()), stream.lsn());
    let batches = context.gather(stream).await?;
    Ok(RowStream::new(schema, lsn, futures::stream::iter(batches.into_iter().map(Ok))))
}

/// Rows as the table has them, its columns in the order of their declaration.
pub(super) fn batch(table: &Table, rows: &[SeenRow]) -> Result<RecordBatch, SqlError> {
    let columns = &table.schema().columns;
    let fields: Vec<Field> = columns.iter().map(types::column_field).collect();
    let mut builders: Vec<_> = columns.iter().map(|column| ColumnBuilder::new(column.column_type)).collect();
    for row in rows {
        let view = row.view(table)?;
        for (column, builder) in columns.iter().zip(&mut builders) {
            let place = table.layout().index_of(column.id);
            builder.append(view.value(place.ok_or_else(|| SqlError::internal("a column without a place"))?)?)?;
        }
    }
    let arrays = builders.iter_mut().map(ColumnBuilder::finish).collect();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?)
}

/// The planner would make one row of all.
fn refuse_aggregates(context: &StatementContext<'_>, items: &[SelectItem]) -> Result<(), SqlError> {
    for item in items {
        let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = item else { continue };
        if let ControlFlow::Break(name) = expr.visit(&mut Aggregates { context, depth: 0 }) {
            let message = format!("aggregate and window functions are not allowed in RETURNING ({name})");
            return Err(SqlError::new(sqlstate::GROUPING_ERROR, message));
        }
    }
    Ok(())
}

/// Looks for aggregates that are not a subquery's.
struct Aggregates<'a> {
    context: &'a StatementContext<'a>,
    depth: usize,
}

impl Visitor for Aggregates<'_> {
    type Break = String;

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<String> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<String> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<String> {
        match expr {
            Expr::Function(function) if self.depth == 0 => {
                let name = function.name.to_string();
                let is_it = function.over.is_some() || self.context.engine.is_aggregate(&name);
                if is_it { ControlFlow::Break(name) } else { ControlFlow::Continue(()) }
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

/// What the rows are called on their way through the planner.
const ROWS: &str = "rows";
