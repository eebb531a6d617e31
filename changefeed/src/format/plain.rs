//! Events as plain JSON, one a line.
//!
//! ```text
//! {"lsn":812,"pos":0,"table":"public.accounts","op":"update","key":{"id":7},"before":{…},"after":{…}}
//! {"lsn":813,"table":"public.accounts","schema":{"columns":[{"name":"id","type":"integer","nullable":false},…],"key":["id"]}}
//! {"lsn":813,"ready":true}
//! {"lsn":815,"progress":true}
//! ```
//!
//! `key` holds the key's columns in key order, of a table without one `{"hw_row_id":n}`. The schema of a dropped table is `null`.

use std::collections::HashMap;
use std::fmt::Write;

use highwater_log::position::{ColumnId, SchemaVersion, TableId};
use highwater_log::row::CodecError;
use highwater_log::value::ColumnType;
use highwater_materializers::{Table, TableRow};

use super::json::{write_string, write_value};
use crate::event::{Encoder, Event, RowChange};

/// An encoder that gathers lines.
#[derive(Debug, Default)]
pub struct PlainLines {
    text: String,
    tables: HashMap<(TableId, SchemaVersion), TableText>,
}

impl PlainLines {
    /// The lines since they were taken last, each with its end.
    pub fn take(&mut self) -> String {
        std::mem::take(&mut self.text)
    }
}

impl Encoder for PlainLines {
    fn encode(&mut self, event: &Event<'_>) -> Result<(), CodecError> {
        let out = &mut self.text;
        match event {
            Event::Change(change) => {
                let schema = change.table.schema();
                let table = self.tables.entry((schema.id, schema.version));
                table.or_insert_with(|| TableText::new(change.table)).write(change, out)?;
            }
            Event::Schema { lsn, table, is_dropped } => {
                write!(out, "{{\"lsn\":{lsn},\"table\":").expect(INFALLIBLE);
                write_string(&qualified(table), out);
                out.push_str(",\"schema\":");
                if *is_dropped {
                    out.push_str("null")
                } else {
                    write_schema(table, out)
                }
                out.push('}');
            }
            Event::Ready { lsn } => write!(out, "{{\"lsn\":{lsn},\"ready\":true}}").expect(INFALLIBLE),
            Event::Progress { lsn } => write!(out, "{{\"lsn\":{lsn},\"progress\":true}}").expect(INFALLIBLE),
        }
        out.push('\n');
        Ok(())
    }

    fn byte_len(&self) -> usize {
        self.text.len()
    }
}

/// What is the same in all lines of a table.
#[derive(Debug)]
struct TableText {
    /// `,"table":"…","op":"`
    name: String,
    /// In declared order.
    columns: Vec<ColumnText>,
    /// In key order; empty for a table without key.
    key: Vec<ColumnText>,
}

#[derive(Debug)]
struct ColumnText {
    place: usize,
    column_type: ColumnType,
    /// `"name":`
    name: String,
}

impl TableText {
    fn new(table: &Table) -> Self {
        let schema = table.schema();
        let text = |id: &ColumnId| {
            let place = table.layout().index_of(*id)?;
            let column = schema.column(*id)?;
            let mut name = String::new();
            write_string(&column.name, &mut name);
            name.push(':');
            Some(ColumnText { place, column_type: column.column_type, name })
        };
        let mut name = String::from(",\"table\":");
        write_string(&qualified(table), &mut name);
        name.push_str(",\"op\":\"");
        let columns = schema.columns.iter().filter_map(|column| text(&column.id)).collect();
        Self { name, columns, key: schema.primary_key.iter().filter_map(text).collect() }
    }

    fn write(&self, change: &RowChange<'_>, out: &mut String) -> Result<(), CodecError> {
        write!(out, "{{\"lsn\":{},\"pos\":{}", change.lsn, change.position).expect(INFALLIBLE);
        out.push_str(&self.name);
        out.push_str(change.operation.name());
        out.push_str("\",\"key\":");
        match change.after.or(change.before) {
            None => out.push_str("null"),
            Some(_) if self.key.is_empty() => write!(out, "{{\"hw_row_id\":{}}}", change.row).expect(INFALLIBLE),
            Some(row) => write_row(&self.key, row, out)?,
        }
        for (word, image) in [(",\"before\":", change.before), (",\"after\":", change.after)] {
            out.push_str(word);
            match image {
                None => out.push_str("null"),
                Some(row) => write_row(&self.columns, row, out)?,
            }
        }
        out.push('}');
        Ok(())
    }
}

fn write_row(columns: &[ColumnText], row: &TableRow<'_>, out: &mut String) -> Result<(), CodecError> {
    out.push('{');
    for (index, column) in columns.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push_str(&column.name);
        write_value(column.column_type, row.value(column.place)?, out)?;
    }
    out.push('}');
    Ok(())
}

fn write_schema(table: &Table, out: &mut String) {
    let schema = table.schema();
    out.push_str("{\"columns\":[");
    for (index, column) in schema.columns.iter().enumerate() {
        out.push_str(if index > 0 { ",{\"name\":" } else { "{\"name\":" });
        write_string(&column.name, out);
        write!(out, ",\"type\":\"{}\",\"nullable\":{}}}", column.column_type, !column.not_null).expect(INFALLIBLE);
    }
    out.push_str("],\"key\":[");
    let key = schema.primary_key.iter().filter_map(|id| schema.column(*id));
    for (index, column) in key.enumerate() {
        if index > 0 {
            out.push(',');
        }
        write_string(&column.name, out);
    }
    out.push_str("]}");
}

fn qualified(table: &Table) -> String {
    format!("{}.{}", table.schema().namespace, table.schema().name)
}

const INFALLIBLE: &str = "a string takes what is written";
