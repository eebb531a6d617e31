//! `information_schema`: the catalog in the columns that PostgreSQL's clients ask for.

use highwater_log::schema::TableSchema;
use highwater_log::value::{ColumnType, ElementType};

use super::{Column, INTEGER, LiveValue, TEXT, number, yes_no};
use crate::catalog::{CatalogView, primary_key_name};
use crate::providers::CATALOG;

/// The columns and rows of the table of this name; `None`: there is none.
pub(super) fn table(name: &str, view: &CatalogView) -> Option<(&'static [Column], Vec<Vec<LiveValue>>)> {
    Some(match name {
        "schemata" => (&SCHEMATA, view.namespaces().into_iter().map(schema_row).collect()),
        "tables" => (&TABLES, view.tables().iter().map(|table| table_row(table.schema())).collect()),
        "columns" => (&COLUMNS, view.tables().iter().flat_map(|table| column_rows(table.schema())).collect()),
        "table_constraints" => {
            (&TABLE_CONSTRAINTS, view.tables().iter().flat_map(|table| constraint_rows(table.schema())).collect())
        }
        "key_column_usage" => {
            (&KEY_COLUMN_USAGE, view.tables().iter().flat_map(|table| key_rows(table.schema())).collect())
        }
        _ => return None,
    })
}

fn schema_row(name: String) -> Vec<LiveValue> {
    vec![text(CATALOG), text(name), text("highwater")]
}

fn table_row(schema: &TableSchema) -> Vec<LiveValue> {
    vec![text(CATALOG), text(&schema.namespace), text(&schema.name), text("BASE TABLE"), yes_no(true)]
}

fn column_rows(schema: &TableSchema) -> Vec<Vec<LiveValue>> {
    let rows = schema.columns.iter().enumerate().map(|(index, column)| {
        let (length, precision, scale) = match column.column_type {
            ColumnType::Scalar(ElementType::Varchar(Some(length)) | ElementType::Char(length)) => {
                (number(length as usize), None, None)
            }
            ColumnType::Scalar(ElementType::Numeric { precision, scale }) => {
                (None, number(precision.into()), number(scale.into()))
            }
            _ => (None, None, None),
        };
        vec![
            text(CATALOG),
            text(&schema.namespace),
            text(&schema.name),
            text(&column.name),
            number(index + 1),
            column.default.as_ref().and_then(text),
            yes_no(!column.not_null),
            text(bare_type(column.column_type)),
            length,
            precision,
            scale,
            text(column.column_type.to_string()),
        ]
    });
    rows.collect()
}

fn text(text: impl Into<String>) -> LiveValue {
    Some(super::text(text))
}

/// The type without its modifiers, as `data_type` has it.
fn bare_type(column_type: ColumnType) -> String {
    let ColumnType::Scalar(element) = column_type else { return "ARRAY".to_owned() };
    let spelled = element.to_string();
    match (spelled.find('('), spelled.find(')')) {
        (Some(open), Some(close)) => format!("{}{}", &spelled[..open], &spelled[close + 1..]),
        _ => spelled,
    }
}

/// Each constraint's name, kind and columns.
fn constraints(schema: &TableSchema) -> Vec<(String, &'static str, Vec<String>)> {
    let names = |ids: &[highwater_log::position::ColumnId]| {
        ids.iter().filter_map(|id| schema.column(*id).map(|column| column.name.clone())).collect()
    };
    let mut found = Vec::new();
    if !schema.primary_key.is_empty() {
        found.push((primary_key_name(schema).into_owned(), "PRIMARY KEY", names(&schema.primary_key)));
    }
    found.extend(schema.uniques.iter().map(|unique| (unique.name.clone(), "UNIQUE", names(&unique.columns))));
    found
}

fn constraint_rows(schema: &TableSchema) -> Vec<Vec<LiveValue>> {
    let rows = constraints(schema).into_iter().map(|(name, kind, _)| {
        vec![
            text(CATALOG),
            text(&schema.namespace),
            text(name),
            text(CATALOG),
            text(&schema.namespace),
            text(&schema.name),
            text(kind),
        ]
    });
    rows.collect()
}

fn key_rows(schema: &TableSchema) -> Vec<Vec<LiveValue>> {
    let rows = constraints(schema).into_iter().flat_map(|(name, _, columns)| {
        columns.into_iter().enumerate().map(move |(index, column)| (name.clone(), index, column))
    });
    rows.map(|(name, index, column)| {
        vec![
            text(CATALOG),
            text(&schema.namespace),
            text(name),
            text(CATALOG),
            text(&schema.namespace),
            text(&schema.name),
            text(column),
            number(index + 1),
        ]
    })
    .collect()
}

const SCHEMATA: [Column; 3] = [("catalog_name", TEXT), ("schema_name", TEXT), ("schema_owner", TEXT)];
const TABLES: [Column; 5] = [
    ("table_catalog", TEXT),
    ("table_schema", TEXT),
    ("table_name", TEXT),
    ("table_type", TEXT),
    ("is_insertable_into", TEXT),
];
const COLUMNS: [Column; 12] = [
    ("table_catalog", TEXT),
    ("table_schema", TEXT),
    ("table_name", TEXT),
    ("column_name", TEXT),
    ("ordinal_position", INTEGER),
    ("column_default", TEXT),
    ("is_nullable", TEXT),
    ("data_type", TEXT),
    ("character_maximum_length", INTEGER),
    ("numeric_precision", INTEGER),
    ("numeric_scale", INTEGER),
    // Ours: the type with its modifiers.
    ("formatted_type", TEXT),
];
const TABLE_CONSTRAINTS: [Column; 7] = [
    ("constraint_catalog", TEXT),
    ("constraint_schema", TEXT),
    ("constraint_name", TEXT),
    ("table_catalog", TEXT),
    ("table_schema", TEXT),
    ("table_name", TEXT),
    ("constraint_type", TEXT),
];
const KEY_COLUMN_USAGE: [Column; 8] = [
    ("constraint_catalog", TEXT),
    ("constraint_schema", TEXT),
    ("constraint_name", TEXT),
    ("table_catalog", TEXT),
    ("table_schema", TEXT),
    ("table_name", TEXT),
    ("column_name", TEXT),
    ("ordinal_position", INTEGER),
];
