//! Columns of the row that a key names.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::sql::sqlparser::ast::SelectItem;
use highwater_log::schema::ColumnSchema;
use highwater_log::value::ColumnType;
use highwater_materializers::{Index, Table};

use super::ranged::{Ranged, Rows};
use super::shape::{Shape, Verb, equalities, is_plain_wildcard};
use super::single::{Found, Single};
use crate::error::SqlError;
use crate::interrupt::Interrupt;
use crate::names::folded;
use crate::parameter::Parameter;
use crate::statement::RowStream;
use crate::transaction::Transaction;
use crate::types::{self, ColumnBuilder};

pub(super) struct Read {
    way: Way,
    /// What is asked for, by place in the layout.
    columns: Vec<(usize, ColumnType)>,
    schema: SchemaRef,
}

enum Way {
    /// To one row.
    Single(Single),
    /// To those of a range.
    Ranged(Ranged),
}

impl Read {
    pub(super) fn of(shape: &Shape<'_>, table: &Table) -> Option<Self> {
        let Verb::Select { items, conditions, order, limit } = &shape.verb else { return None };
        let mut named: Vec<(String, &ColumnSchema)> = Vec::new();
        for item in *items {
            let (expr, alias) = match item {
                SelectItem::Wildcard(options) if is_plain_wildcard(options) => {
                    named.extend(table.schema().columns.iter().map(|column| (column.name.clone(), column)));
                    continue;
                }
                SelectItem::UnnamedExpr(expr) => (expr, None),
                SelectItem::ExprWithAlias { expr, alias } => (expr, Some(folded(alias))),
                _ => return None,
            };
            let name = shape.column(expr)?;
            let column = table.schema().columns.iter().find(|column| column.name == name)?;
            named.push((alias.unwrap_or(name), column));
        }
        let fields = named.iter().map(|(name, column)| types::field(name, column.column_type, !column.not_null));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<Field>>()));
        let columns = named.iter().map(|(_, column)| Some((table.layout().index_of(column.id)?, column.column_type)));
        let columns = columns.collect::<Option<Vec<_>>>().filter(|columns| !columns.is_empty())?;
        let single = match (order.is_empty() && limit.is_none(), equalities(conditions)) {
            (true, Some(equals)) => Single::of(shape, &equals, table).map(Way::Single),
            _ => None,
        };
        let way = match single {
            Some(single) => single,
            None => Way::Ranged(Ranged::of(shape, conditions, order, *limit, table)?),
        };
        Some(Self { way, columns, schema })
    }

    /// What EXPLAIN calls it.
    pub(super) const fn what(&self) -> &'static str {
        match self.way {
            Way::Single(_) => "PointRead",
            Way::Ranged(_) => "RangeRead",
        }
    }

    /// The index that it goes by, unless it goes by the primary key.
    pub(super) fn index<'t>(&self, table: &'t Table) -> Option<&'t Index> {
        let storage = match &self.way {
            Way::Single(single) => single.index(),
            Way::Ranged(ranged) => ranged.index(),
        }?;
        table.indexes().iter().find(|index| index.storage == storage)
    }

    /// Whether the values are of the key's types.
    pub(super) fn is_fitting(&self, parameters: &[Parameter]) -> bool {
        match &self.way {
            Way::Single(single) => single.key(parameters).is_some(),
            Way::Ranged(ranged) => ranged.is_fitting(parameters),
        }
    }

    /// Whether it is of one row besides.
    pub(super) fn is_short(&self, parameters: &[Parameter]) -> bool {
        match &self.way {
            Way::Single(single) => single.key(parameters).is_some(),
            // It may pass over any number of keys that are gone.
            Way::Ranged(_) => false,
        }
    }

    pub(super) fn rows(
        &self,
        table: &Arc<Table>,
        transaction: &Transaction,
        parameters: &[Parameter],
        interrupt: &Interrupt,
    ) -> Result<Option<RowStream>, SqlError> {
        let single = match &self.way {
            Way::Single(single) => single,
            Way::Ranged(ranged) => {
                let Some(rows) = ranged.rows(table, transaction.source_ref(), parameters)? else { return Ok(None) };
                let rows_left = ranged.limit(parameters).unwrap_or(0);
                let (schema, columns) = (Arc::clone(&self.schema), self.columns.clone());
                let batches = Batches {
                    table: Arc::clone(table),
                    schema,
                    columns,
                    rows,
                    rows_left,
                    interrupt: interrupt.clone(),
                };
                let schema = Arc::clone(&self.schema);
                return Ok(Some(RowStream::new(schema, transaction.at(), futures::stream::iter(batches))));
            }
        };
        let row = match single.row(table, transaction.source_ref(), parameters)? {
            Found::Unknown => return Ok(None),
            Found::Nothing => None,
            Found::Row(_, row) => Some(row),
        };
        let schema = Arc::clone(&self.schema);
        let Some(row) = row else {
            return Ok(Some(RowStream::new(schema, transaction.at(), futures::stream::empty())));
        };
        let view = row.view(table)?;
        let mut arrays = Vec::with_capacity(self.columns.len());
        for (place, column_type) in &self.columns {
            let mut builder = ColumnBuilder::with_capacity(*column_type, 1);
            builder.append(view.value(*place)?)?;
            arrays.push(builder.finish());
        }
        Ok(Some(RowStream::of(RecordBatch::try_new(schema, arrays)?, transaction.at())))
    }
}

/// Rows of a range, a batch at a time.
struct Batches {
    table: Arc<Table>,
    schema: SchemaRef,
    columns: Vec<(usize, ColumnType)>,
    rows: Rows,
    rows_left: usize,
    interrupt: Interrupt,
}

impl Batches {
    fn next_batch(&mut self) -> Result<Option<RecordBatch>, SqlError> {
        self.interrupt.check()?;
        let rows = self.rows_left.min(ROWS_EXPECTED);
        let mut builders: Vec<_> =
            self.columns.iter().map(|(_, column_type)| ColumnBuilder::with_capacity(*column_type, rows)).collect();
        let (mut count, mut bytes) = (0, 0);
        while count < self.rows_left.min(BATCH_ROWS_MAX) && bytes < BATCH_BYTES_MAX {
            let Some((_, row)) = self.rows.next().transpose()? else { break };
            let view = row.view(&self.table)?;
            for ((place, _), builder) in self.columns.iter().zip(&mut builders) {
                builder.append(view.value(*place)?)?;
            }
            bytes += row.bytes.len();
            count += 1;
        }
        self.rows_left -= count;
        if count == 0 {
            return Ok(None);
        }
        let arrays = builders.iter_mut().map(ColumnBuilder::finish).collect();
        Ok(Some(RecordBatch::try_new(Arc::clone(&self.schema), arrays)?))
    }
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, SqlError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_batch().transpose()
    }
}

const BATCH_ROWS_MAX: usize = 2048;
/// Of a batch, before it is known how many there are.
const ROWS_EXPECTED: usize = 128;
const BATCH_BYTES_MAX: usize = 1024 * 1024;
