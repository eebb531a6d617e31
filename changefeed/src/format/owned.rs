//! Events as values, for programs that hold the database in themselves.

use std::sync::Arc;

use highwater_log::Lsn;
use highwater_log::position::RowId;
use highwater_log::row::CodecError;
use highwater_log::value::OwnedValue;
use highwater_materializers::{Table, TableRow};

use crate::event::{EncodeError, Encoder, Event, Operation, RowChange};

/// An event that borrows from nobody.
#[derive(Clone, Debug, PartialEq)]
pub enum OwnedEvent {
    /// [`Event::Schema`].
    Schema {
        /// The commit.
        lsn: Lsn,
        /// The table, or what the feed selects of it.
        table: Arc<Table>,
        /// Whether it is dropped.
        is_dropped: bool,
    },
    /// [`Event::Change`].
    Change(OwnedChange),
    /// [`Event::Ready`].
    Ready {
        /// Up to where everything is told.
        lsn: Lsn,
    },
    /// [`Event::Progress`].
    Progress {
        /// The commit.
        lsn: Lsn,
    },
}

/// [`RowChange`] with its values, in the order of the columns in the schema of what is told.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnedChange {
    /// The commit.
    pub lsn: Lsn,
    /// The place in it.
    pub position: u64,
    /// The table as it is at this commit, or what the feed selects of it.
    pub table: Arc<Table>,
    /// What happened.
    pub operation: Operation,
    /// The row's identity.
    pub row: RowId,
    /// The values of the table's primary key, in key order; empty for a table without one and for a truncation.
    pub key: Vec<OwnedValue>,
    /// The row as it was.
    pub before: Option<Vec<Option<OwnedValue>>>,
    /// The row as it is.
    pub after: Option<Vec<Option<OwnedValue>>>,
}

/// An encoder that gathers events.
#[derive(Debug, Default)]
pub struct OwnedEvents {
    events: Vec<OwnedEvent>,
    /// The table of the last event: most are of the same one.
    table: Option<Arc<Table>>,
}

impl OwnedEvents {
    /// The events since they were taken last.
    pub fn take(&mut self) -> Vec<OwnedEvent> {
        std::mem::take(&mut self.events)
    }

    fn shared(&mut self, table: &Table) -> Arc<Table> {
        let schema = table.schema();
        let is_same = |known: &&Arc<Table>| {
            (known.schema().id, known.schema().version, known.written()) == (schema.id, schema.version, table.written())
        };
        match self.table.as_ref().filter(is_same) {
            Some(known) => Arc::clone(known),
            None => Arc::clone(self.table.insert(Arc::new(table.clone()))),
        }
    }
}

impl Encoder for OwnedEvents {
    fn encode(&mut self, event: &Event<'_>) -> Result<(), EncodeError> {
        let event = match event {
            Event::Schema { lsn, shape, is_dropped, .. } => {
                OwnedEvent::Schema { lsn: *lsn, table: self.shared(shape), is_dropped: *is_dropped }
            }
            Event::Change(change) => {
                let &RowChange { lsn, position, shape, operation, row, key, before, after, .. } = change;
                let (before, after) = (before.map(values).transpose()?, after.map(values).transpose()?);
                let (table, key) = (self.shared(shape), key.map(key_values).transpose()?.unwrap_or_default());
                OwnedEvent::Change(OwnedChange { lsn, position, table, operation, row, key, before, after })
            }
            Event::CommitEnd { .. } => return Ok(()),
            Event::Ready { lsn } => OwnedEvent::Ready { lsn: *lsn },
            Event::Progress { lsn } => OwnedEvent::Progress { lsn: *lsn },
        };
        self.events.push(event);
        Ok(())
    }

    /// Of the events themselves; what their values hold outside is not counted.
    fn byte_len(&self) -> usize {
        self.events.len() * size_of::<OwnedEvent>()
    }
}

fn key_values(row: &TableRow<'_>) -> Result<Vec<OwnedValue>, CodecError> {
    let table = row.table();
    let places = table.schema().primary_key.iter().filter_map(|id| table.layout().index_of(*id));
    places.filter_map(|place| row.value(place).map(|value| value.map(OwnedValue::from)).transpose()).collect()
}

fn values(row: &TableRow<'_>) -> Result<Vec<Option<OwnedValue>>, CodecError> {
    let table = row.table();
    let columns = table.schema().columns.iter().filter_map(|column| table.layout().index_of(column.id));
    columns.map(|place| Ok(row.value(place)?.map(OwnedValue::from))).collect()
}
