//! Events as upserts, one a line: what stands under a key from now on.
//!
//! ```text
//! {"lsn":812,"pos":0,"table":"public.accounts","key":{"id":7},"value":{…}}
//! {"lsn":812,"pos":1,"table":"public.accounts","key":{"id":8},"value":null}
//! {"lsn":814,"pos":0,"table":"public.accounts","truncated":true}
//! ```
//!
//! A value of `null` means that nothing stands there any more. Keys stand in a commit once, deletes first. Schemas and marks are those
//! of plain JSON. A table without a primary key has no such form.

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
pub struct UpsertLines {
    text: String,
    tables: HashMap<(TableId, SchemaVersion), TableText>,
}

#[derive(Debug)]
struct TableText {
    /// `,"table":"…"`
    name: String,
    columns: Columns,
    key: Columns,
}

impl UpsertLines {
    /// The lines since they were taken last, each with its end.
    pub fn take(&mut self) -> String {
        std::mem::take(&mut self.text)
    }
}

impl Encoder for UpsertLines {
    fn encode(&mut self, event: &Event<'_>) -> Result<(), EncodeError> {
        match event {
            Event::Change(change) => {
                let schema = change.table.schema();
                let table = self.tables.entry((schema.id, schema.version));
                table.or_insert_with(|| TableText::new(change)).write(change, &mut self.text)
            }
            Event::Schema { table, .. } if table.schema().primary_key.is_empty() => {
                Err(EncodeError::NoKey { table: qualified(table) })
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
        Some(SharedText { envelope: Envelope::Upsert, text: &mut self.text })
    }
}

impl TableText {
    fn new(change: &RowChange<'_>) -> Self {
        let mut name = String::from(",\"table\":");
        write_string(&qualified(change.table), &mut name);
        Self { name, columns: Columns::all(change.shape), key: Columns::key(change.table) }
    }

    fn write(&self, change: &RowChange<'_>, out: &mut String) -> Result<(), EncodeError> {
        write!(out, "{{\"lsn\":{},\"pos\":{}{}", change.lsn, change.position, self.name).expect(INFALLIBLE);
        match change.key {
            None => out.push_str(",\"truncated\":true"),
            Some(key) => {
                out.push_str(",\"key\":");
                self.key.write(key, out, write_value)?;
                out.push_str(",\"value\":");
                match change.after {
                    None => out.push_str("null"),
                    Some(row) => self.columns.write(row, out, write_value)?,
                }
            }
        }
        out.push_str("}\n");
        Ok(())
    }
}
