//! What a feed's events become on their way out: lines of an envelope, or Arrow.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use highwater_changefeed::format::{Envelope, LineEncoder};
use highwater_changefeed::{EncodeError, Encoder, Event, SharedText};
use highwater_query::{ArrowChanges, ArrowEncoder, SqlError};

/// How events are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FeedFormat {
    /// JSON, one a line, in the form of an envelope.
    #[default]
    Json,
    /// Streams in Arrow's IPC format.
    Arrow,
}

/// An encoder of a feed that goes out of the process.
pub(crate) enum TellingEncoder {
    Lines(Box<dyn LineEncoder>),
    Arrow(Box<ArrowEncoder>),
}

/// What was encoded.
pub(crate) enum Told {
    Lines(String),
    Arrow(Vec<ArrowChanges>),
}

impl TellingEncoder {
    /// An encoder of this form.
    ///
    /// # Errors
    /// `0A000` for an envelope that has no form in Arrow.
    pub(crate) fn new(envelope: Envelope, format: FeedFormat) -> Result<Self, SqlError> {
        match (format, envelope) {
            (FeedFormat::Json, _) => Ok(Self::Lines(envelope.encoder())),
            (FeedFormat::Arrow, Envelope::Plain) => Ok(Self::Arrow(Box::default())),
            (FeedFormat::Arrow, _) => Err(SqlError::unsupported(&format!("the envelope {envelope} in Arrow"))),
        }
    }

    /// What was encoded since it was taken last.
    ///
    /// # Errors
    /// `XX000`, which is a defect.
    pub(crate) fn take(&mut self) -> Result<Told, SqlError> {
        Ok(match self {
            Self::Lines(lines) => Told::Lines(lines.take()),
            Self::Arrow(changes) => Told::Arrow(changes.take()?),
        })
    }
}

impl Told {
    /// Its bytes, piece by piece.
    pub(crate) fn into_pieces(self) -> Vec<Bytes> {
        match self {
            Self::Lines(lines) => vec![lines.into()],
            Self::Arrow(changes) => changes.into_iter().map(|changes| changes.stream).collect(),
        }
    }

    /// How many bytes it is.
    pub(crate) fn byte_len(&self) -> usize {
        match self {
            Self::Lines(lines) => lines.len(),
            Self::Arrow(changes) => changes.iter().map(|changes| changes.stream.len()).sum(),
        }
    }
}

impl Encoder for TellingEncoder {
    fn encode(&mut self, event: &Event<'_>) -> Result<(), EncodeError> {
        match self {
            Self::Lines(lines) => lines.encode(event),
            Self::Arrow(changes) => changes.encode(event),
        }
    }

    fn byte_len(&self) -> usize {
        match self {
            Self::Lines(lines) => lines.byte_len(),
            Self::Arrow(changes) => changes.byte_len(),
        }
    }

    fn shared(&mut self) -> Option<SharedText<'_>> {
        match self {
            Self::Lines(lines) => lines.shared(),
            Self::Arrow(_) => None,
        }
    }
}

impl fmt::Display for FeedFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Json => "json",
            Self::Arrow => "arrow",
        })
    }
}

impl FromStr for FeedFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "json" => Ok(Self::Json),
            "arrow" => Ok(Self::Arrow),
            _ => Err("a format is json or arrow"),
        }
    }
}
