//! Columns of the row that a key names.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::sql::sqlparser::ast::SelectItem;
use highwater_log::schema::ColumnSchema;
use highwater_log::value::ColumnType;
use highwater_materializers::{Index, Table};

use super::shape::{Shape, Verb, is_plain_wildcard};
use super::single::{Found, Single};
use crate::error::SqlError;
use crate::names::folded;
use crate::parameter::Parameter;
use crate::statement::RowStream;
use crate::transaction::Transaction;
use crate::types::{self, ColumnBuilder};

pub(super) struct Read {
    single: Single,
    /// What is asked for, by place in the layout.
    columns: Vec<(usize, ColumnType)>,
    schema: SchemaRef,
}

impl Read {
    pub(super) fn of(shape: &Shape<'_>, table: &Table) -> Option<Self> {
        let Verb::Select { items, equals } = &shape.verb else { return None };
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
        Some(Self { single: Single::of(shape, equals, table)?, columns, schema })
    }

    /// The index that it goes by, unless it goes by the primary key.
    pub(super) fn index<'t>(&self, table: &'t Table) -> Option<&'t Index> {
        let storage = self.single.index()?;
        table.indexes().iter().find(|index| index.storage == storage)
    }

    /// Whether the values are of the key's types.
    pub(super) fn is_fitting(&self, parameters: &[Parameter]) -> bool {
        self.single.key(parameters).is_some()
    }

    pub(super) fn rows(
        &self,
        table: &Table,
        transaction: &Transaction,
        parameters: &[Parameter],
    ) -> Result<Option<RowStream>, SqlError> {
        let row = match self.single.row(table, transaction.source_ref(), parameters)? {
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
            let mut builder = ColumnBuilder::new(*column_type);
            builder.append(view.value(*place)?)?;
            arrays.push(builder.finish());
        }
        Ok(Some(RowStream::of(RecordBatch::try_new(schema, arrays)?, transaction.at())))
    }
}
