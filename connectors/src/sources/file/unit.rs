//! What becomes one commit: the events of a transaction, or some rows of a snapshot.

use highwater_query::Write;

use super::block::Line;
use super::error::IngestCause;
use crate::decode::debezium::End;

/// What is being gathered for one commit.
#[derive(Default)]
pub(super) struct Unit {
    pub(super) kind: UnitKind,
    /// Its lines: they are applied anew behind a change of a schema.
    pub(super) lines: Vec<Line>,
    /// The bytes of the blocks that they hold.
    pub(super) bytes: usize,
    pub(super) write: Option<Box<Write>>,
    /// A truncation is among its lines.
    pub(super) has_truncation: bool,
    /// Its events by schema and table: few of them, looked through.
    counts: Vec<(String, String, u64)>,
    pub(super) events: u64,
}

impl Unit {
    pub(super) fn count(&mut self, schema: &str, table: &str) {
        match self.counts.iter_mut().find(|(s, t, _)| s == schema && t == table) {
            Some((_, _, count)) => *count += 1,
            None => self.counts.push((schema.to_owned(), table.to_owned(), 1)),
        }
    }

    /// How many events it has of `schema.table`.
    fn counted(&self, name: &str) -> u64 {
        let is_it = |schema: &str, table: &str| {
            name.strip_prefix(schema).and_then(|rest| rest.strip_prefix('.')).is_some_and(|rest| rest == table)
        };
        self.counts.iter().filter(|(schema, table, _)| is_it(schema, table)).map(|(_, _, count)| count).sum()
    }

    /// Whether its events are those that its end counts.
    pub(super) fn check_counts(&self, end: &End) -> Result<(), IngestCause> {
        let transaction = &end.transaction;
        let differing = |of: &str, expected: u64, found: u64| IngestCause::Count {
            transaction: transaction.clone(),
            of: of.to_owned(),
            expected,
            found,
        };
        if end.event_count != self.events {
            return Err(differing("all tables", end.event_count, self.events));
        }
        for (table, expected) in &end.table_counts {
            let found = self.counted(table);
            if found != *expected {
                return Err(differing(table, *expected, found));
            }
        }
        Ok(())
    }
}

#[derive(Default, PartialEq)]
pub(super) enum UnitKind {
    #[default]
    None,
    /// Rows of a snapshot.
    Snapshot,
    /// Between BEGIN and END. `is_partial`: its BEGIN was not in the input.
    Transaction { id: String, is_partial: bool, may_be_stored: bool },
    /// A run of events of one transaction number, without transaction metadata.
    Run { lsn: u64, transaction: u64, is_stored: bool },
}
