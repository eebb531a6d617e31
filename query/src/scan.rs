//! Tables as DataFusion scans them.

mod exec;
mod path;
mod ranges;

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryBuilder, RecordBatch, RecordBatchOptions};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DataFusionError;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;
use highwater_log::value::{ColumnType, ElementType};
use highwater_materializers::Table;

use crate::error::SqlError;
use crate::rows::{RowSource, SeenRow};
use crate::types::{self, ColumnBuilder};
use exec::ScanExec;
use path::{Path, Rows};
pub(crate) use ranges::{successor, under};

/// The column that names a row's key, in scans that UPDATE and DELETE make.
pub(crate) const KEY_COLUMN: &str = "hw_row_key";

/// A table at one LSN, under a transaction's writes.
#[derive(Clone)]
pub(crate) struct TableScan {
    table: Arc<Table>,
    source: RowSource,
    schema: SchemaRef,
    has_key_column: bool,
}

impl TableScan {
    /// The table's columns, in the order of their declaration.
    pub(crate) fn new(table: Arc<Table>, source: RowSource) -> Self {
        let fields: Vec<Field> = table.schema().columns.iter().map(types::column_field).collect();
        Self { schema: Arc::new(Schema::new(fields)), table, source, has_key_column: false }
    }

    /// The table's columns, and [`KEY_COLUMN`] behind them.
    pub(crate) fn with_key_column(table: Arc<Table>, source: RowSource) -> Self {
        let mut fields: Vec<Field> = table.schema().columns.iter().map(types::column_field).collect();
        fields.push(Field::new(KEY_COLUMN, DataType::Binary, false));
        Self { schema: Arc::new(Schema::new(fields)), table, source, has_key_column: true }
    }

    /// The table.
    pub(crate) const fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// The leading key columns by which the scan's rows are sorted as SQL sorts them, by their places in the projection.
    fn ordering(&self, projection: &[usize]) -> Option<LexOrdering> {
        let schema = self.table.schema();
        let mut order = Vec::new();
        for id in &schema.primary_key {
            let place = schema.columns.iter().position(|column| column.id == *id)?;
            let column = &schema.columns[place];
            let Some(projected) = projection.iter().position(|at| *at == place) else { break };
            if !is_key_order_sql_order(column.column_type) {
                break;
            }
            let options = SortOptions { descending: false, nulls_first: false };
            order.push(PhysicalSortExpr { expr: Arc::new(Column::new(&column.name, projected)), options });
        }
        LexOrdering::new(order)
    }
}

/// Whether Arrow sorts values of this type as their keys are sorted.
pub(crate) fn is_key_order_sql_order(column_type: ColumnType) -> bool {
    !matches!(
        column_type,
        ColumnType::Array(_)
            | ColumnType::Scalar(
                // −0 and NaN, blanks behind the end, months of 30 days.
                ElementType::Real
                    | ElementType::Double
                    | ElementType::Char(_)
                    | ElementType::Interval
                    | ElementType::Jsonb
            )
    )
}

impl std::fmt::Debug for TableScan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TableScan").field("table", &self.table.schema().name).finish_non_exhaustive()
    }
}

#[async_trait]
impl TableProvider for TableScan {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>, DataFusionError> {
        // They narrow the range of keys; what they say is checked again above.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let all: Vec<usize> = (0..self.schema.fields().len()).collect();
        let projection = projection.unwrap_or(&all);
        let schema = Arc::new(self.schema.project(projection)?);
        let path = Path::chosen(&self.table, filters);
        let ordering = if path.is_in_key_order() { self.ordering(projection) } else { None };
        Ok(Arc::new(ScanExec::new(self.clone(), projection.clone(), path, schema, ordering, limit)))
    }
}

/// Batches of a scan, each made when it is asked for.
pub(super) struct Batches {
    scan: TableScan,
    projection: Vec<usize>,
    /// Until the first row is asked for.
    path: Option<Path>,
    rows: Rows,
    schema: SchemaRef,
    batch_rows: usize,
    /// How many more rows are wanted.
    rows_left: usize,
}

impl Batches {
    fn next_batch(&mut self) -> Result<Option<RecordBatch>, SqlError> {
        let table = Arc::clone(&self.scan.table);
        let columns = &table.schema().columns;
        // For each projected column its place in the layout; the key column is behind all others.
        let places: Vec<Option<usize>> = self
            .projection
            .iter()
            .map(|at| columns.get(*at).and_then(|column| table.layout().index_of(column.id)))
            .collect();
        let mut builders: Vec<ColumnBuilder> =
            places.iter().flatten().map(|place| ColumnBuilder::new(table.layout().columns()[*place].1)).collect();
        let mut keys = BinaryBuilder::new();
        let wants_key = self.scan.has_key_column && places.contains(&None);
        let (mut count, mut bytes) = (0, 0);
        while count < self.batch_rows.min(self.rows_left) && bytes < BATCH_BYTES_MAX {
            let Some((key, row)) = self.next_row()? else { break };
            let view = row.view(&table)?;
            for (place, builder) in places.iter().flatten().zip(&mut builders) {
                builder.append(view.value(*place)?)?;
            }
            if wants_key {
                keys.append_value(&key);
            }
            bytes += row.bytes.len();
            count += 1;
        }
        if count == 0 {
            return Ok(None);
        }
        self.rows_left -= count;
        let keys: ArrayRef = Arc::new(keys.finish());
        let mut values = builders.iter_mut();
        let arrays = places.iter().map(|place| match place {
            Some(_) => values.next().map_or_else(|| Arc::clone(&keys), ColumnBuilder::finish),
            None => Arc::clone(&keys),
        });
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        Ok(Some(RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays.collect(), &options)?))
    }

    fn next_row(&mut self) -> Result<Option<(Bytes, SeenRow)>, SqlError> {
        if let Some(path) = self.path.take() {
            self.rows = path.rows(&self.scan.source, &self.scan.table)?;
        }
        self.rows.next().transpose()
    }
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, DataFusionError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_batch().map_err(SqlError::into_datafusion).transpose()
    }
}

const BATCH_BYTES_MAX: usize = 1024 * 1024;
