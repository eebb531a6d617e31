//! Events as Debezium's change events, one a line: `{"topic", "key", "value"}`, with or without embedded schemas.
//!
//! ```text
//! {"topic":"highwater.public.accounts","key":{"id":7},"value":{"before":{…},"after":{…},"source":{…},"transaction":null,"op":"u","ts_ms":…,…}}
//! {"topic":"highwater.public.accounts","key":{"id":7},"value":null}
//! ```
//!
//! As Debezium's connector for PostgreSQL writes with `time.precision.mode=adaptive` and `interval.handling.mode=string`: dates are days,
//! times and timestamps milliseconds where the type has at most three digits of a second, else microseconds; a delete is followed by its
//! tombstone. Decimals are strings; beside an embedded schema, which would not tell their scale then, they are Connect's `Decimal`. In
//! `source`, `lsn` and `txId` are the commit's LSN, so that a commit reads as one transaction, and the times are when it was accepted.
//! Schemas, marks of progress and the end of a snapshot have no line of their own.
//!
//! The changes of a commit stand between a beginning and an end, on the topic `highwater.transaction`, as with
//! `provide.transaction.metadata=true`; the end counts them. A reading that begins inside a commit tells no beginning, and counts what it told.

mod schema;
mod value;

use std::collections::HashMap;
use std::fmt::Write;

use highwater_log::Lsn;
use highwater_log::position::{SchemaVersion, TableId};

use self::schema::{boundary_key_schema, boundary_schema, key_schema, value_schema};
use self::value::{write_cell, write_precise};
use super::columns::{Columns, qualified};
use super::envelope::Envelope;
use super::json::write_string;
use super::marks::INFALLIBLE;
use crate::event::{EncodeError, Encoder, Event, Operation, RowChange, SharedText, SnapshotPlace};

/// An encoder that gathers lines.
#[derive(Debug)]
pub struct DebeziumLines {
    has_schemas: bool,
    text: String,
    tables: HashMap<(TableId, SchemaVersion), TableText>,
    /// The commit that is being told.
    transaction: Option<Transaction>,
}

/// A commit in the middle of being told.
#[derive(Debug)]
struct Transaction {
    lsn: Lsn,
    /// How many changes of it were told, and of which table.
    count: u64,
    tables: Vec<(String, u64)>,
}

/// The place of a change among those of its commit, and among those of its table there; from 1.
#[derive(Clone, Copy)]
struct Order {
    total: u64,
    of_table: u64,
}

impl Transaction {
    fn count(&mut self, table: &str) -> Order {
        self.count += 1;
        let known = match self.tables.iter().position(|(known, _)| known == table) {
            Some(known) => known,
            None => {
                self.tables.push((table.to_owned(), 0));
                self.tables.len() - 1
            }
        };
        self.tables[known].1 += 1;
        Order { total: self.count, of_table: self.tables[known].1 }
    }
}

/// What is the same in all lines of a table.
#[derive(Debug)]
struct TableText {
    /// `{"topic":"…","key":`
    head: String,
    /// `schema.table`
    qualified: String,
    /// `"schema":"…","table":"…"`, of the source.
    names: String,
    columns: Columns,
    /// Empty for a table without key.
    key: Columns,
    /// `{"schema":{…},"payload":` of the key and of the value, where schemas are embedded.
    schemas: Option<(String, String)>,
}

impl DebeziumLines {
    /// An encoder that embeds schemas, or doesn't.
    #[must_use]
    pub fn new(has_schemas: bool) -> Self {
        Self { has_schemas, text: String::new(), tables: HashMap::new(), transaction: None }
    }

    /// The lines since they were taken last, each with its end.
    pub fn take(&mut self) -> String {
        std::mem::take(&mut self.text)
    }

    /// The beginning of a commit, or its end, which counts what was told of it.
    fn write_boundary(&mut self, lsn: Lsn, time_micros: u64, counted: Option<&Transaction>) {
        let (key, value, close) = match self.has_schemas {
            true => (boundary_key_schema(), boundary_schema(), "}"),
            false => (String::new(), String::new(), ""),
        };
        let millis = time_micros / 1_000;
        let status = if counted.is_some() { "END" } else { "BEGIN" };
        let out = &mut self.text;
        write!(
            out,
            "{{\"topic\":\"{SERVER}.transaction\",\"key\":{key}{{\"id\":\"{lsn}:{lsn}\"}}{close},\"value\":{value}\
             {{\"status\":\"{status}\",\"id\":\"{lsn}:{lsn}\","
        )
        .expect(INFALLIBLE);
        match counted {
            None => out.push_str("\"event_count\":null,\"data_collections\":null"),
            Some(Transaction { count, tables, .. }) => {
                write!(out, "\"event_count\":{count},\"data_collections\":[").expect(INFALLIBLE);
                for (index, (table, count)) in tables.iter().enumerate() {
                    out.push_str(if index > 0 { ",{\"data_collection\":" } else { "{\"data_collection\":" });
                    write_string(table, out);
                    write!(out, ",\"event_count\":{count}}}").expect(INFALLIBLE);
                }
                out.push(']');
            }
        }
        writeln!(out, ",\"ts_ms\":{millis}}}{close}}}").expect(INFALLIBLE);
    }
}

impl Encoder for DebeziumLines {
    fn encode(&mut self, event: &Event<'_>) -> Result<(), EncodeError> {
        match event {
            Event::Change(change) => {
                let is_begun = self.transaction.as_ref().is_some_and(|known| known.lsn == change.lsn);
                if change.snapshot.is_none() && !is_begun {
                    self.transaction = Some(Transaction { lsn: change.lsn, count: 0, tables: Vec::new() });
                    if change.is_first {
                        self.write_boundary(change.lsn, change.time_micros, None);
                    }
                }
                let schema = change.table.schema();
                let table = self.tables.entry((schema.id, schema.version));
                let table = table.or_insert_with(|| TableText::new(change, self.has_schemas));
                let transaction = self.transaction.as_mut().filter(|_| change.snapshot.is_none());
                let order = transaction.map(|transaction| transaction.count(&table.qualified));
                table.write(change, order, &mut self.text)
            }
            Event::CommitEnd { lsn, time_micros } => {
                if let Some(told) = self.transaction.take() {
                    self.write_boundary(*lsn, *time_micros, Some(&told));
                }
                Ok(())
            }
            Event::Schema { .. } | Event::Ready { .. } | Event::Progress { .. } => Ok(()),
        }
    }

    fn byte_len(&self) -> usize {
        self.text.len()
    }

    fn shared(&mut self) -> Option<SharedText<'_>> {
        let envelope = Envelope::Debezium { has_schemas: self.has_schemas };
        Some(SharedText { envelope, text: &mut self.text })
    }
}

impl TableText {
    fn new(change: &RowChange<'_>, has_schemas: bool) -> Self {
        let qualified = qualified(change.table);
        let topic = format!("{SERVER}.{qualified}");
        let mut head = String::from("{\"topic\":");
        write_string(&topic, &mut head);
        head.push_str(",\"key\":");
        let mut names = String::from("\"schema\":");
        write_string(&change.table.schema().namespace, &mut names);
        names.push_str(",\"table\":");
        write_string(&change.table.schema().name, &mut names);
        Self {
            head,
            qualified,
            names,
            columns: Columns::all(change.shape),
            key: Columns::key(change.table),
            schemas: has_schemas.then(|| (key_schema(&topic, change.table), value_schema(&topic, change.shape))),
        }
    }

    fn write(&self, change: &RowChange<'_>, order: Option<Order>, out: &mut String) -> Result<(), EncodeError> {
        let write = if self.schemas.is_some() { write_precise } else { write_cell };
        self.write_key(change, out)?;
        if let Some((_, schema)) = &self.schemas {
            out.push_str(schema);
        }
        for (word, image) in [("{\"before\":", change.before), (",\"after\":", change.after)] {
            out.push_str(word);
            match image {
                None => out.push_str("null"),
                Some(row) => self.columns.write(row, out, write)?,
            }
        }
        let (lsn, micros) = (change.lsn, change.time_micros);
        let snapshot = match change.snapshot {
            None => "false",
            Some(SnapshotPlace::First) => "first",
            Some(SnapshotPlace::Middle) => "true",
            Some(SnapshotPlace::Last) => "last",
        };
        let operation = match change.operation {
            Operation::Insert if change.snapshot.is_some() => "r",
            Operation::Insert => "c",
            Operation::Update => "u",
            Operation::Delete => "d",
            Operation::Truncate => "t",
        };
        let (millis, before) = (micros / 1_000, lsn.value().saturating_sub(1));
        write!(
            out,
            ",\"source\":{{\"version\":\"{VERSION}\",\"connector\":\"{SERVER}\",\"name\":\"{SERVER}\",\
             \"ts_ms\":{millis},\"snapshot\":\"{snapshot}\",\"db\":\"{SERVER}\",\
             \"sequence\":\"[\\\"{before}\\\",\\\"{lsn}\\\"]\",\"ts_us\":{micros},\"ts_ns\":{micros}000,{names},\
             \"txId\":{lsn},\"lsn\":{lsn}}},\"transaction\":",
            names = self.names,
        )
        .expect(INFALLIBLE);
        match order {
            None => out.push_str("null"),
            Some(Order { total, of_table }) => {
                write!(out, "{{\"id\":\"{lsn}:{lsn}\",\"total_order\":{total},\"data_collection_order\":{of_table}}}")
                    .expect(INFALLIBLE)
            }
        }
        write!(out, ",\"op\":\"{operation}\",\"ts_ms\":{millis},\"ts_us\":{micros},\"ts_ns\":{micros}000}}")
            .expect(INFALLIBLE);
        out.push_str(if self.schemas.is_some() { "}}\n" } else { "}\n" });
        if change.operation == Operation::Delete && !self.key.is_empty() {
            self.write_key(change, out)?;
            out.push_str("null}\n");
        }
        Ok(())
    }

    /// A line up to its value.
    fn write_key(&self, change: &RowChange<'_>, out: &mut String) -> Result<(), EncodeError> {
        out.push_str(&self.head);
        match (change.key, &self.schemas) {
            (Some(key), schemas) if !self.key.is_empty() => match schemas {
                None => self.key.write(key, out, write_cell)?,
                Some((schema, _)) => {
                    out.push_str(schema);
                    self.key.write(key, out, write_precise)?;
                    out.push('}');
                }
            },
            _ => out.push_str("null"),
        }
        out.push_str(",\"value\":");
        Ok(())
    }
}

/// What the upstream is called, for those who read the events as one's.
const SERVER: &str = "highwater";
const VERSION: &str = env!("CARGO_PKG_VERSION");
const MILLISECOND_DIGITS: u8 = 3;
