//! What lines say that are no changes: schemas, marks of progress. Several formats have them.

use std::fmt::Write;

use highwater_materializers::Table;

use super::columns::qualified;
use super::json::write_string;
use crate::event::Event;

/// Appends the line of an event that is no change.
pub(super) fn write_mark(event: &Event<'_>, out: &mut String) {
    match event {
        Event::Change(_) | Event::CommitEnd { .. } => return,
        Event::Schema { lsn, table, shape, is_dropped } => {
            write!(out, "{{\"lsn\":{lsn},\"table\":").expect(INFALLIBLE);
            write_string(&qualified(table), out);
            out.push_str(",\"schema\":");
            if *is_dropped {
                out.push_str("null")
            } else {
                write_schema(table, shape, out)
            }
            out.push('}');
        }
        Event::Ready { lsn } => write!(out, "{{\"lsn\":{lsn},\"ready\":true}}").expect(INFALLIBLE),
        Event::Progress { lsn } => write!(out, "{{\"lsn\":{lsn},\"progress\":true}}").expect(INFALLIBLE),
    }
    out.push('\n');
}

fn write_schema(table: &Table, shape: &Table, out: &mut String) {
    out.push_str("{\"columns\":[");
    for (index, column) in shape.schema().columns.iter().enumerate() {
        out.push_str(if index > 0 { ",{\"name\":" } else { "{\"name\":" });
        write_string(&column.name, out);
        write!(out, ",\"type\":\"{}\",\"nullable\":{}}}", column.column_type, !column.not_null).expect(INFALLIBLE);
    }
    out.push_str("],\"key\":[");
    let schema = table.schema();
    let key = schema.primary_key.iter().filter_map(|id| schema.column(*id));
    for (index, column) in key.enumerate() {
        if index > 0 {
            out.push(',');
        }
        write_string(&column.name, out);
    }
    out.push_str("]}");
}

pub(super) const INFALLIBLE: &str = "a string takes what is written";
