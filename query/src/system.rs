//! The catalog as tables, made anew for each statement that asks.

mod information;
mod materializers;
mod own;

use std::sync::{Arc, PoisonError, RwLock};

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema};
use highwater_log::value::{ElementType, OwnedValue, Value};

use crate::catalog::CatalogView;
use crate::error::SqlError;
use crate::types::{self, ColumnBuilder};
pub(crate) use materializers::MaterializersTable;

/// The schema of PostgreSQL's clients.
pub(crate) const INFORMATION_SCHEMA: &str = "information_schema";
/// The schema of what only we have.
pub(crate) const HW_CATALOG: &str = "hw_catalog";

/// Whether the tables of a schema are made here.
pub(crate) fn is_system(namespace: &str) -> bool {
    matches!(namespace, INFORMATION_SCHEMA | HW_CATALOG)
}

/// A table of `hw_catalog` whose rows are made each time it is read, of what is so at that moment, whatever LSN the statement reads at.
pub trait LiveTable: Send + Sync + 'static {
    /// Its name in `hw_catalog`.
    fn name(&self) -> &'static str;

    /// Its columns.
    fn columns(&self) -> &'static [(&'static str, ElementType)];

    /// Its rows: for each column a value of its type, or NULL.
    ///
    /// # Errors
    /// [`SqlError`] where what it tells of cannot be read.
    fn rows(&self) -> Result<Vec<Vec<LiveValue>>, SqlError>;
}

/// A value of a [`LiveTable`]; `None` is NULL.
pub type LiveValue = Option<OwnedValue>;

/// The live tables of an engine.
#[derive(Default)]
pub(crate) struct LiveTables(RwLock<Vec<Arc<dyn LiveTable>>>);

impl LiveTables {
    /// Puts a table in the place of the one of its name, if there is one.
    pub(crate) fn put(&self, table: Arc<dyn LiveTable>) {
        let mut tables = self.0.write().unwrap_or_else(PoisonError::into_inner);
        tables.retain(|known| known.name() != table.name());
        tables.push(table);
    }

    fn find(&self, name: &str) -> Option<Arc<dyn LiveTable>> {
        let tables = self.0.read().unwrap_or_else(PoisonError::into_inner);
        tables.iter().find(|table| table.name() == name).cloned()
    }
}

/// The table of this name, filled; `None`: there is none.
pub(crate) fn table(
    namespace: &str,
    name: &str,
    view: &CatalogView,
    live: &LiveTables,
) -> Result<Option<RecordBatch>, SqlError> {
    if let Some((columns, rows)) = made(namespace, name, view) {
        return batch(columns, &rows).map(Some);
    }
    let live = live.find(name).filter(|_| namespace == HW_CATALOG);
    live.map(|live| batch(live.columns(), &live.rows()?)).transpose()
}

/// The names of the columns of the table of this name; `None`: there is none.
pub(crate) fn column_names(namespace: &str, name: &str, view: &CatalogView, live: &LiveTables) -> Option<Vec<String>> {
    let columns = made(namespace, name, view).map(|(columns, _)| columns);
    let columns = columns.or_else(|| Some(live.find(name).filter(|_| namespace == HW_CATALOG)?.columns()))?;
    Some(columns.iter().map(|(name, _)| (*name).to_owned()).collect())
}

/// The columns and rows of a table that is made of the catalog.
fn made(namespace: &str, name: &str, view: &CatalogView) -> Option<(&'static [Column], Vec<Vec<LiveValue>>)> {
    match namespace {
        INFORMATION_SCHEMA => information::table(name, view),
        _ => own::table(name, view),
    }
}

type Column = (&'static str, ElementType);

/// A text.
pub fn text(text: impl Into<String>) -> OwnedValue {
    OwnedValue::Text(text.into())
}

/// A `bigint`; what is larger than one stands as the largest.
#[must_use]
pub fn bigint(number: u64) -> OwnedValue {
    OwnedValue::Plain(Value::BigInt(i64::try_from(number).unwrap_or(i64::MAX)))
}

fn number(number: usize) -> LiveValue {
    Some(OwnedValue::Plain(Value::Integer(i32::try_from(number).unwrap_or(i32::MAX))))
}

fn flag(is_so: bool) -> LiveValue {
    Some(OwnedValue::Plain(Value::Boolean(is_so)))
}

fn yes_no(is_so: bool) -> LiveValue {
    Some(text(if is_so { "YES" } else { "NO" }))
}

fn batch(columns: &[Column], rows: &[Vec<LiveValue>]) -> Result<RecordBatch, SqlError> {
    let fields: Vec<Field> =
        columns.iter().map(|(name, element)| types::field(name, (*element).into(), true)).collect();
    let mut builders: Vec<_> = columns.iter().map(|(_, element)| ColumnBuilder::new((*element).into())).collect();
    for row in rows {
        for (value, builder) in row.iter().zip(&mut builders) {
            builder.append(value.as_ref().map(OwnedValue::as_value))?;
        }
    }
    let arrays = builders.iter_mut().map(ColumnBuilder::finish).collect();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?)
}

const TEXT: ElementType = ElementType::Text;
const INTEGER: ElementType = ElementType::Integer;
const BOOLEAN: ElementType = ElementType::Boolean;
