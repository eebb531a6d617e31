//! Why an ingest ended.

use std::io;

use highwater_query::SqlError;

use crate::decode::debezium::{CellError, DecodeError};

/// Why an ingest ended. What was committed before stands; giving the whole input again goes on from there.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {cause}")]
pub struct IngestError {
    /// The line, from 1.
    pub line: u64,
    /// Why.
    pub cause: IngestCause,
}

/// Why a line could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum IngestCause {
    /// It is no event.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A cell is no value of its column.
    #[error("column {column} of table {table}: {source}")]
    Cell {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// What is wrong.
        source: CellError,
    },
    /// The database refused.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// The table's columns are not known.
    #[error(
        "table {table} is not known: create it first, give a schema dump with --tables, or embed schemas in the events \
         (key.converter.schemas.enable, value.converter.schemas.enable)"
    )]
    UnknownTable {
        /// The table.
        table: String,
    },
    /// A column's type is not known.
    #[error("column {column} of table {table} is of no known type{}", described.as_ref().map_or(String::new(), |d| format!(" ({d})")))]
    UnknownColumn {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// What the embedded schema calls its type.
        described: Option<String>,
    },
    /// The upstream changed a row that is not here.
    #[error("{operation} of a row of table {table} that is not here")]
    MissingRow {
        /// What was to be done.
        operation: &'static str,
        /// The table.
        table: String,
    },
    /// An event lacks what it needs to be applied.
    #[error("{0}")]
    Incomplete(String),
    /// The input begins in the middle of something that is not stored.
    #[error("the input begins inside {what}, which is not stored: give it from its beginning")]
    BeginsInside {
        /// Of what.
        what: String,
    },
    /// The events of a transaction are not those that its end counts.
    #[error("transaction {transaction} ends with {expected} events of {of}, {found} were read")]
    Count {
        /// The transaction.
        transaction: String,
        /// Of which table, or of all.
        of: String,
        /// By its end.
        expected: u64,
        /// By its lines.
        found: u64,
    },
    /// The events of a transaction are more than one may hold.
    #[error("the transaction's events are longer than the limit of {max} bytes (transaction_bytes_max)")]
    TooLarge {
        /// Their bytes so far.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The input could not be read.
    #[error("cannot read the input: {0}")]
    Input(#[from] io::Error),
}
