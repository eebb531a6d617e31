//! What can go wrong with a statement, with its SQLSTATE.

use std::sync::Arc;

use datafusion::arrow::error::ArrowError;
use datafusion::common::{DataFusionError, SchemaError};
use highwater_changefeed::{EncodeError, FeedError, SelectionError};
use highwater_log::row::CodecError;
use highwater_log::sequencer::{CommitError, Refusal};
use highwater_log::value::ValueError;
use highwater_log::{LogError, Lsn, NotWritten, error_chain};
use highwater_materializers::FoldError;

use crate::sqlstate;

/// A statement that failed.
///
/// One type for all, because what a caller does about it is told by the SQLSTATE, as PostgreSQL's clients expect it: `40001` means
/// run the transaction again, `HW003` that the outcome is unknown, `HW004` that it is committed and must not be retried.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct SqlError {
    /// Five characters; see [`crate::sqlstate`].
    pub sqlstate: &'static str,
    /// What went wrong, on what, and what to do.
    pub message: Arc<str>,
    /// Where the commit stands, when the error says that it does (`HW004`).
    pub committed_at: Option<Lsn>,
}

impl SqlError {
    /// An error with its SQLSTATE.
    pub fn new(sqlstate: &'static str, message: impl Into<Arc<str>>) -> Self {
        Self { sqlstate, message: message.into(), committed_at: None }
    }

    /// What Highwater does not do (`0A000`).
    #[must_use]
    pub fn unsupported(what: &str) -> Self {
        Self::new(sqlstate::FEATURE_NOT_SUPPORTED, format!("{what} is not supported"))
    }

    pub(crate) fn syntax(message: impl Into<Arc<str>>) -> Self {
        Self::new(sqlstate::SYNTAX_ERROR, message)
    }

    pub(crate) fn internal(message: impl Into<Arc<str>>) -> Self {
        Self::new(sqlstate::INTERNAL_ERROR, message)
    }

    /// Whether running the whole transaction again may succeed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.sqlstate == sqlstate::SERIALIZATION_FAILURE
    }

    /// The error as one of DataFusion's, out of which [`From`] takes it again.
    pub(crate) fn into_datafusion(self) -> DataFusionError {
        DataFusionError::External(Box::new(self))
    }
}

impl From<ValueError> for SqlError {
    fn from(error: ValueError) -> Self {
        let sqlstate = match error {
            ValueError::Invalid { .. } => sqlstate::INVALID_TEXT_REPRESENTATION,
            ValueError::InvalidTime { .. } => sqlstate::INVALID_DATETIME_FORMAT,
            ValueError::OutOfRange { .. } => sqlstate::NUMERIC_VALUE_OUT_OF_RANGE,
            ValueError::TimeOutOfRange { .. } => sqlstate::DATETIME_FIELD_OVERFLOW,
            ValueError::TooLong { .. } => sqlstate::STRING_DATA_RIGHT_TRUNCATION,
        };
        Self::new(sqlstate, error.to_string())
    }
}

impl From<CodecError> for SqlError {
    fn from(error: CodecError) -> Self {
        let sqlstate = match error {
            CodecError::KeyTooLong(_) | CodecError::TooLarge => sqlstate::PROGRAM_LIMIT_EXCEEDED,
            CodecError::NoKeyOrder(_) => sqlstate::FEATURE_NOT_SUPPORTED,
            CodecError::TypeMismatch { .. } => sqlstate::INTERNAL_ERROR,
            CodecError::Malformed(_) | CodecError::WrongVersion { .. } => sqlstate::DATA_CORRUPTED,
        };
        Self::new(sqlstate, error.to_string())
    }
}

impl From<FoldError> for SqlError {
    fn from(error: FoldError) -> Self {
        let sqlstate = match &error {
            FoldError::HistoryGone { .. } => sqlstate::BELOW_HISTORY,
            FoldError::SnapshotTooOld { .. } => sqlstate::SNAPSHOT_TOO_OLD,
            FoldError::NotApplied { .. } => sqlstate::LSN_NOT_REACHED,
            // Whoever reads again reads the mended rows, or copies what is left.
            FoldError::Reopened | FoldError::Log(LogError::TrimmedMeanwhile) => sqlstate::SERIALIZATION_FAILURE,
            FoldError::Log(LogError::ReadOnly) => sqlstate::FEATURE_NOT_SUPPORTED,
            FoldError::Storage { .. }
            | FoldError::Row { .. }
            | FoldError::Log(LogError::Damaged(_) | LogError::BaseDamaged { .. }) => sqlstate::DATA_CORRUPTED,
            FoldError::StillReadable { .. } | FoldError::HeldByFeed { .. } => sqlstate::OBJECT_IN_USE,
            FoldError::Log(LogError::Poisoned { .. }) => sqlstate::LOG_POISONED,
            FoldError::Log(LogError::NotWritten { reason: NotWritten::NoSpace(_) }) => sqlstate::DISK_FULL,
            FoldError::Log(LogError::Io { source, .. }) | FoldError::Io { source, .. } => sqlstate::of_io(source),
            FoldError::Log(LogError::NotWritten { .. }) => sqlstate::IO_ERROR,
            _ => sqlstate::INTERNAL_ERROR,
        };
        Self::new(sqlstate, error_chain(&error))
    }
}

impl From<FeedError> for SqlError {
    fn from(error: FeedError) -> Self {
        let sqlstate = match error {
            FeedError::Snapshot(source) => return source.into(),
            FeedError::Selection { source: SelectionError { sqlstate, .. }, .. } => sqlstate,
            FeedError::Encode { source: EncodeError::NoKey { .. } | EncodeError::Value { .. }, .. } => {
                sqlstate::FEATURE_NOT_SUPPORTED
            }
            FeedError::Encode { .. } => sqlstate::INTERNAL_ERROR,
            FeedError::NotWritten(source) => return source.into(),
            FeedError::UnknownFeed { .. } | FeedError::Gone => sqlstate::UNDEFINED_OBJECT,
            FeedError::OtherDefinition { .. } => sqlstate::DUPLICATE_OBJECT,
            FeedError::Owned { .. } | FeedError::Fenced => sqlstate::OBJECT_IN_USE,
            FeedError::Name => sqlstate::INVALID_NAME,
            FeedError::NotTold { .. } => sqlstate::INVALID_PARAMETER_VALUE,
            FeedError::NoTables | FeedError::OtherLog { .. } => sqlstate::INVALID_PARAMETER_VALUE,
            FeedError::UnknownTable { .. } | FeedError::Renamed { .. } | FeedError::Dropped { .. } => {
                sqlstate::UNDEFINED_TABLE
            }
            FeedError::Beyond { .. } => sqlstate::LSN_NOT_REACHED,
            FeedError::TooOld { .. } => sqlstate::BELOW_HISTORY,
            FeedError::Closed => sqlstate::CANNOT_CONNECT_NOW,
            FeedError::Log(LogError::Poisoned { .. }) => sqlstate::LOG_POISONED,
            FeedError::Log(LogError::Io { .. }) => sqlstate::IO_ERROR,
            FeedError::Row { .. } | FeedError::UnknownVersion { .. } | FeedError::Log(_) => sqlstate::DATA_CORRUPTED,
        };
        Self::new(sqlstate, error_chain(&error))
    }
}

impl From<CommitError> for SqlError {
    fn from(error: CommitError) -> Self {
        let message = error.to_string();
        match error {
            // Seen only where a concurrent transaction wrote the key: a duplicate of before is found by the statement itself.
            CommitError::Refused(Refusal::KeyExists { .. }) => Self::new(
                sqlstate::UNIQUE_VIOLATION,
                "duplicate key value violates a unique constraint: a concurrent transaction has committed the same key",
            ),
            CommitError::Refused(Refusal::SequenceTooOld { sequence, newest }) => Self::new(
                sqlstate::INVALID_PARAMETER_VALUE,
                format!(
                    "write {sequence} of the producer lies below its newest, {newest}, and is not remembered: numbers rise"
                ),
            ),
            CommitError::Refused(refusal) => Self::new(
                sqlstate::SERIALIZATION_FAILURE,
                format!("could not serialize access due to a concurrent change: {refusal}; run the transaction again"),
            ),
            CommitError::TooLarge { .. } => Self::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, message),
            CommitError::NotCommitted { is_disk_full: true, .. } => Self::new(sqlstate::DISK_FULL, message),
            CommitError::NotCommitted { .. } => Self::new(sqlstate::IO_ERROR, message),
            CommitError::Unknown { .. } => Self::new(sqlstate::OUTCOME_UNKNOWN, message),
            CommitError::NotYetReadable { lsn, .. } => {
                Self { committed_at: Some(lsn), ..Self::new(sqlstate::NOT_YET_READABLE, message) }
            }
            CommitError::Stopped { .. } => Self::new(sqlstate::CANNOT_CONNECT_NOW, message),
        }
    }
}

impl From<DataFusionError> for SqlError {
    fn from(error: DataFusionError) -> Self {
        // Ours may lie anywhere down the chain, behind contexts and shared pointers.
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(inner) = cause {
            if let Some(own) = inner.downcast_ref::<Self>() {
                return own.clone();
            }
            if let Some(DataFusionError::External(external)) = inner.downcast_ref::<DataFusionError>()
                && let Some(own) = external.downcast_ref::<Self>()
            {
                return own.clone();
            }
            if let Some(ArrowError::ExternalError(external)) = inner.downcast_ref::<ArrowError>()
                && let Some(own) = external.downcast_ref::<Self>()
            {
                return own.clone();
            }
            cause = inner.source();
        }
        if let Some(name) = missing_table(error.find_root()) {
            return Self::new(sqlstate::UNDEFINED_TABLE, format!("relation \"{name}\" does not exist"));
        }
        let sqlstate = classify(error.find_root());
        Self::new(sqlstate, error.strip_backtrace())
    }
}

impl From<ArrowError> for SqlError {
    fn from(error: ArrowError) -> Self {
        DataFusionError::from(error).into()
    }
}

fn classify(error: &DataFusionError) -> &'static str {
    match error {
        DataFusionError::SQL(..) => sqlstate::SYNTAX_ERROR,
        DataFusionError::NotImplemented(_) => sqlstate::FEATURE_NOT_SUPPORTED,
        DataFusionError::SchemaError(schema_error, _) => match **schema_error {
            SchemaError::FieldNotFound { .. } => sqlstate::UNDEFINED_COLUMN,
            SchemaError::AmbiguousReference { .. } => sqlstate::AMBIGUOUS_COLUMN,
            SchemaError::DuplicateQualifiedField { .. } | SchemaError::DuplicateUnqualifiedField { .. } => {
                sqlstate::DUPLICATE_COLUMN
            }
        },
        DataFusionError::ArrowError(arrow, _) => match **arrow {
            ArrowError::DivideByZero => sqlstate::DIVISION_BY_ZERO,
            ArrowError::ArithmeticOverflow(_) => sqlstate::NUMERIC_VALUE_OUT_OF_RANGE,
            ArrowError::ComputeError(ref message) if message.contains("overflow") => {
                sqlstate::NUMERIC_VALUE_OUT_OF_RANGE
            }
            // A number of another type, and not a text.
            ArrowError::CastError(ref message) if message.contains("Can't cast value") => {
                sqlstate::NUMERIC_VALUE_OUT_OF_RANGE
            }
            ArrowError::CastError(_) | ArrowError::ParseError(_) => sqlstate::INVALID_TEXT_REPRESENTATION,
            _ => sqlstate::INTERNAL_ERROR,
        },
        DataFusionError::ResourcesExhausted(_) => sqlstate::OUT_OF_MEMORY,
        // DataFusion tells most mistakes of a statement apart by their words alone.
        DataFusionError::Plan(message) | DataFusionError::Execution(message) => classify_message(message),
        _ => sqlstate::INTERNAL_ERROR,
    }
}

/// The table that a plan needs and the catalog has not.
fn missing_table(error: &DataFusionError) -> Option<String> {
    let DataFusionError::Plan(message) = error else { return None };
    let (name, rest) = message.strip_prefix("table '")?.split_once('\'')?;
    let is_missing = rest.trim_start().starts_with("not found");
    let name = name.strip_prefix("highwater.").unwrap_or(name);
    is_missing.then(|| name.strip_prefix("public.").unwrap_or(name).to_owned())
}

fn classify_message(message: &str) -> &'static str {
    let known = [
        ("Invalid function", sqlstate::UNDEFINED_FUNCTION),
        ("No function matches", sqlstate::UNDEFINED_FUNCTION),
        ("must appear in the GROUP BY", sqlstate::GROUPING_ERROR),
        ("must appear in the SELECT", sqlstate::GROUPING_ERROR),
        ("Cannot cast", sqlstate::CANNOT_COERCE),
        ("returned more than one row", sqlstate::CARDINALITY_VIOLATION),
        ("more than one row", sqlstate::CARDINALITY_VIOLATION),
        ("Correlated scalar subquery must be aggregated", sqlstate::FEATURE_NOT_SUPPORTED),
        ("Overflow", sqlstate::NUMERIC_VALUE_OUT_OF_RANGE),
        ("overflow", sqlstate::NUMERIC_VALUE_OUT_OF_RANGE),
        ("Cannot coerce", sqlstate::DATATYPE_MISMATCH),
        ("Cannot infer common", sqlstate::DATATYPE_MISMATCH),
        ("Step cannot be zero", sqlstate::INVALID_PARAMETER_VALUE),
    ];
    known.iter().find(|(part, _)| message.contains(part)).map_or(sqlstate::SYNTAX_OR_ACCESS, |(_, code)| code)
}
