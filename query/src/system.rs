//! The catalog as tables, made anew for each statement that asks.

mod information;
mod own;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema};
use highwater_log::value::{ElementType, Value};

use crate::catalog::CatalogView;
use crate::error::SqlError;
use crate::types::{self, ColumnBuilder};

/// The schema of PostgreSQL's clients.
pub(crate) const INFORMATION_SCHEMA: &str = "information_schema";
/// The schema of what only we have.
pub(crate) const HW_CATALOG: &str = "hw_catalog";

/// Whether the tables of a schema are made here.
pub(crate) fn is_system(namespace: &str) -> bool {
    matches!(namespace, INFORMATION_SCHEMA | HW_CATALOG)
}

/// The table of this name, filled; `None`: there is none.
pub(crate) fn table(namespace: &str, name: &str, view: &CatalogView) -> Result<Option<RecordBatch>, SqlError> {
    let table = match namespace {
        INFORMATION_SCHEMA => information::table(name, view),
        _ => own::table(name, view),
    };
    table.map(|(columns, rows)| batch(columns, &rows)).transpose()
}

type Column = (&'static str, ElementType);

enum Cell {
    Text(String),
    Number(i32),
    Flag(bool),
    Null,
}

fn text(text: impl Into<String>) -> Cell {
    Cell::Text(text.into())
}

fn number(number: usize) -> Cell {
    Cell::Number(i32::try_from(number).unwrap_or(i32::MAX))
}

fn yes_no(is_so: bool) -> Cell {
    text(if is_so { "YES" } else { "NO" })
}

fn batch(columns: &[Column], rows: &[Vec<Cell>]) -> Result<RecordBatch, SqlError> {
    let fields: Vec<Field> =
        columns.iter().map(|(name, element)| types::field(name, (*element).into(), true)).collect();
    let mut builders: Vec<_> = columns.iter().map(|(_, element)| ColumnBuilder::new((*element).into())).collect();
    for row in rows {
        for (cell, builder) in row.iter().zip(&mut builders) {
            builder.append(match cell {
                Cell::Text(text) => Some(Value::Text(text)),
                Cell::Number(number) => Some(Value::Integer(*number)),
                Cell::Flag(flag) => Some(Value::Boolean(*flag)),
                Cell::Null => None,
            })?;
        }
    }
    let arrays = builders.iter_mut().map(ColumnBuilder::finish).collect();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?)
}

const TEXT: ElementType = ElementType::Text;
const INTEGER: ElementType = ElementType::Integer;
const BOOLEAN: ElementType = ElementType::Boolean;
