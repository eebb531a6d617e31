//! Columns of a table on their way into JSON: what is the same for all of its rows.

use highwater_log::position::ColumnId;
use highwater_log::row::CodecError;
use highwater_log::value::{ColumnType, Value};
use highwater_materializers::{Table, TableRow};

use super::json::write_string;

/// Columns of a table, in some order.
#[derive(Debug)]
pub(super) struct Columns(Vec<Column>);

#[derive(Debug)]
struct Column {
    place: usize,
    column_type: ColumnType,
    /// `"name":`
    name: String,
}

impl Columns {
    /// All columns, as declared.
    pub(super) fn all(table: &Table) -> Self {
        Self::of(table, table.schema().columns.iter().map(|column| column.id))
    }

    /// Those of the primary key, in key order.
    pub(super) fn key(table: &Table) -> Self {
        Self::of(table, table.schema().primary_key.iter().copied())
    }

    fn of(table: &Table, ids: impl Iterator<Item = ColumnId>) -> Self {
        let column = |id| {
            let place = table.layout().index_of(id)?;
            let column = table.schema().column(id)?;
            let mut name = String::new();
            write_string(&column.name, &mut name);
            name.push(':');
            Some(Column { place, column_type: column.column_type, name })
        };
        Self(ids.filter_map(column).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends a row as an object of these columns, each value as `write` writes it.
    pub(super) fn write<E: From<CodecError>>(
        &self,
        row: &TableRow<'_>,
        out: &mut String,
        write: impl Fn(ColumnType, Option<Value<'_>>, &mut String) -> Result<(), E>,
    ) -> Result<(), E> {
        out.push('{');
        for (index, column) in self.0.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            out.push_str(&column.name);
            write(column.column_type, row.value(column.place)?, out)?;
        }
        out.push('}');
        Ok(())
    }
}

/// A table's name with its namespace.
pub(super) fn qualified(table: &Table) -> String {
    format!("{}.{}", table.schema().namespace, table.schema().name)
}
