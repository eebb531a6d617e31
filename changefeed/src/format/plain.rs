//! Events as plain JSON, one a line.
//!
//! ```text
//! {"lsn":812,"pos":0,"table":"public.accounts","op":"update","key":{"id":7},"before":{…},"after":{…}}
//! {"lsn":813,"table":"public.accounts","schema":{"columns":[{"name":"id","type":"integer","nullable":false},…],"key":["id"]}}
//! {"lsn":813,"ready":true}
//! {"lsn":815,"progress":true}
//! ```
//!
//! `key` holds the key's columns in key order, of a table without one `{"hw_row_id":n}`. The schema of a dropped table is `null`. Where a
//! feed selects columns, those are in the schema and the images; the key is the table's.

use std::collections::HashMap;
use std::fmt::Write;

use highwater_log::position::{SchemaVersion, TableId};

use super::columns::{Columns, qualified};
use super::envelope::Envelope;
use super::json::{write_string, write_value};
use super::marks::{INFALLIBLE, write_mark};
use crate::event::{EncodeError, Encoder, Event, RowChange, SharedText};

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
    fn encode(&mut self, event: &Event<'_>) -> Result<(), EncodeError> {
        match event {
            Event::Change(change) => {
                let schema = change.table.schema();
                let table = self.tables.entry((schema.id, schema.version));
                table.or_insert_with(|| TableText::new(change)).write(change, &mut self.text)
            }
            mark => {
                write_mark(mark, &mut self.text);
                Ok(())
            }
        }
    }

    fn byte_len(&self) -> usize {
        self.text.len()
    }

    fn shared(&mut self) -> Option<SharedText<'_>> {
        Some(SharedText { envelope: Envelope::Plain, text: &mut self.text })
    }
}

/// What is the same in all lines of a table.
#[derive(Debug)]
struct TableText {
    /// `,"table":"…","op":"`
    name: String,
    columns: Columns,
    /// Empty for a table without key.
    key: Columns,
}

impl TableText {
    fn new(change: &RowChange<'_>) -> Self {
        let mut name = String::from(",\"table\":");
        write_string(&qualified(change.table), &mut name);
        name.push_str(",\"op\":\"");
        Self { name, columns: Columns::all(change.shape), key: Columns::key(change.table) }
    }

    fn write(&self, change: &RowChange<'_>, out: &mut String) -> Result<(), EncodeError> {
        write!(out, "{{\"lsn\":{},\"pos\":{}", change.lsn, change.position).expect(INFALLIBLE);
        out.push_str(&self.name);
        out.push_str(change.operation.name());
        out.push_str("\",\"key\":");
        match change.key {
            None => out.push_str("null"),
            Some(_) if self.key.is_empty() => write!(out, "{{\"hw_row_id\":{}}}", change.row).expect(INFALLIBLE),
            Some(row) => self.key.write(row, out, write_value)?,
        }
        for (word, image) in [(",\"before\":", change.before), (",\"after\":", change.after)] {
            out.push_str(word);
            match image {
                None => out.push_str("null"),
                Some(row) => self.columns.write(row, out, write_value)?,
            }
        }
        out.push_str("}\n");
        Ok(())
    }
}
