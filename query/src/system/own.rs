//! `hw_catalog`: what only we have.

use highwater_log::position::ColumnId;
use highwater_log::schema::{IndexSchema, IndexState, IndexedColumn, TableSchema};

use super::{BOOLEAN, Column, LiveValue, TEXT, flag, text};
use crate::catalog::{CatalogView, primary_key_name};

/// The columns and rows of the table of this name; `None`: there is none.
pub(super) fn table(name: &str, view: &CatalogView) -> Option<(&'static [Column], Vec<Vec<LiveValue>>)> {
    match name {
        "indexes" => Some((&INDEXES, view.tables().iter().flat_map(|table| index_rows(table.schema())).collect())),
        _ => None,
    }
}

/// The primary key, the unique constraints, the indexes.
fn index_rows(schema: &TableSchema) -> Vec<Vec<LiveValue>> {
    let row = |name: &str, kind: &str, columns: String, is_unique, state: &str, cause: LiveValue| {
        let [namespace, table] = [&schema.namespace, &schema.name].map(|name| Some(text(name)));
        let told = [Some(text(name)), Some(text(kind)), Some(text(columns)), flag(is_unique), Some(text(state)), cause];
        [namespace, table].into_iter().chain(told).collect()
    };
    let key = (!schema.primary_key.is_empty()).then(|| {
        let name = primary_key_name(schema);
        row(&name, "primary key", names(schema, &schema.primary_key), true, "ready", None)
    });
    let uniques = schema
        .uniques
        .iter()
        .map(|unique| row(&unique.name, "unique constraint", names(schema, &unique.columns), true, "ready", None));
    let indexes = schema.indexes.iter().map(|index| {
        let (state, cause) = state(index);
        let columns: Vec<_> = index.columns.iter().map(|column| indexed(schema, column)).collect();
        row(&index.name, "index", columns.join(", "), index.unique, state, cause)
    });
    key.into_iter().chain(uniques).chain(indexes).collect()
}

fn state(index: &IndexSchema) -> (&'static str, LiveValue) {
    match &index.state {
        IndexState::Building => ("building", None),
        IndexState::Checking => ("checking", None),
        IndexState::Ready => ("ready", None),
        IndexState::Failed { cause, .. } => ("failed", Some(text(cause))),
    }
}

fn names(schema: &TableSchema, ids: &[ColumnId]) -> String {
    let names = ids.iter().filter_map(|id| schema.column(*id)).map(|column| column.name.as_str());
    names.collect::<Vec<_>>().join(", ")
}

fn indexed(schema: &TableSchema, column: &IndexedColumn) -> String {
    let name = names(schema, &[column.column]);
    let direction = if column.descending { " DESC" } else { "" };
    let nulls = match (column.descending, column.nulls_first) {
        (false, true) => " NULLS FIRST",
        (true, false) => " NULLS LAST",
        _ => "",
    };
    format!("{name}{direction}{nulls}")
}

const INDEXES: [Column; 8] = [
    ("table_schema", TEXT),
    ("table_name", TEXT),
    ("index_name", TEXT),
    ("kind", TEXT),
    ("columns", TEXT),
    ("is_unique", BOOLEAN),
    ("state", TEXT),
    ("cause", TEXT),
];
