//! The forms in which changes and rows leave.

pub mod json;
mod owned;
mod plain;

pub use owned::{OwnedChange, OwnedEvent, OwnedEvents};
pub use plain::PlainLines;
