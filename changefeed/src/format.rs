//! The forms in which changes and rows leave.

mod columns;
mod debezium;
mod envelope;
pub mod json;
mod marks;
mod owned;
mod plain;
mod upsert;

pub use debezium::DebeziumLines;
pub use envelope::{Envelope, EnvelopeSyntaxError, LineEncoder};
pub use owned::{OwnedChange, OwnedEvent, OwnedEvents};
pub use plain::PlainLines;
pub use upsert::UpsertLines;
