//! What lines of JSON an event becomes, by the envelope's name.

use std::fmt;
use std::str::FromStr;

use super::{DebeziumLines, PlainLines, UpsertLines};
use crate::event::Encoder;

/// A form in which events are written as JSON, one a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Envelope {
    /// [`PlainLines`]: each change with both images.
    #[default]
    Plain,
    /// [`UpsertLines`]: what stands under a key from now on.
    Upsert,
    /// [`DebeziumLines`]: Debezium's change events.
    Debezium {
        /// Whether each has the schemas of its key and value in it.
        has_schemas: bool,
    },
}

/// An encoder that gathers lines.
pub trait LineEncoder: Encoder {
    /// The lines since they were taken last, each with its end.
    fn take(&mut self) -> String;
}

impl Envelope {
    /// An encoder of this form.
    #[must_use]
    pub fn encoder(self) -> Box<dyn LineEncoder> {
        match self {
            Self::Plain => Box::new(PlainLines::default()),
            Self::Upsert => Box::new(UpsertLines::default()),
            Self::Debezium { has_schemas } => Box::new(DebeziumLines::new(has_schemas)),
        }
    }
}

impl LineEncoder for PlainLines {
    fn take(&mut self) -> String {
        Self::take(self)
    }
}

impl LineEncoder for UpsertLines {
    fn take(&mut self) -> String {
        Self::take(self)
    }
}

impl LineEncoder for DebeziumLines {
    fn take(&mut self) -> String {
        Self::take(self)
    }
}

impl fmt::Display for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Upsert => "upsert",
            Self::Debezium { has_schemas: false } => "debezium",
            Self::Debezium { has_schemas: true } => "debezium-schemas",
        })
    }
}

/// A text that names no envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an envelope is plain, upsert, debezium or debezium-schemas")]
pub struct EnvelopeSyntaxError;

impl FromStr for Envelope {
    type Err = EnvelopeSyntaxError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "plain" => Ok(Self::Plain),
            "upsert" => Ok(Self::Upsert),
            "debezium" => Ok(Self::Debezium { has_schemas: false }),
            "debezium-schemas" => Ok(Self::Debezium { has_schemas: true }),
            _ => Err(EnvelopeSyntaxError),
        }
    }
}
