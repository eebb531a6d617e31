//! Errors on the wire: a gRPC code for machines in between, SQLSTATE for the client.

use std::collections::HashMap;

use highwater_query::{SqlError, sqlstate};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The error as gRPC carries it.
pub(super) fn status(error: &SqlError) -> Status {
    let mut facts = HashMap::new();
    let mut metadata = MetadataMap::new();
    metadata.insert("sqlstate", MetadataValue::from_static(error.sqlstate));
    if let Some(lsn) = error.committed_at {
        facts.insert("committed_at".to_owned(), lsn.to_string());
        metadata.insert("committed-at", MetadataValue::from(lsn.value()));
    }
    let details = ErrorDetails::with_error_info(error.sqlstate, DOMAIN, facts);
    // It travels in a header, of which clients take no more than some kilobytes.
    let message = match error.message.char_indices().nth(MESSAGE_CHARS_MAX) {
        None => error.message.to_string(),
        Some((end, _)) => format!("{}…", &error.message[..end]),
    };
    Status::with_error_details_and_metadata(code(error.sqlstate), message, details, metadata)
}

pub(super) fn failed(sqlstate: &'static str, message: impl Into<std::sync::Arc<str>>) -> Status {
    status(&SqlError::new(sqlstate, message))
}

/// What the call's caller does about it, roughly: the SQLSTATE says it exactly.
fn code(sqlstate: &str) -> Code {
    match sqlstate {
        sqlstate::SERIALIZATION_FAILURE => Code::Aborted,
        sqlstate::FEATURE_NOT_SUPPORTED => Code::Unimplemented,
        sqlstate::UNIQUE_VIOLATION => Code::AlreadyExists,
        sqlstate::UNDEFINED_TABLE | sqlstate::NO_SUCH_SESSION | sqlstate::UNDEFINED_STATEMENT => Code::NotFound,
        sqlstate::PROTOCOL_VIOLATION => Code::InvalidArgument,
        sqlstate::BELOW_HISTORY | sqlstate::SNAPSHOT_TOO_OLD => Code::OutOfRange,
        sqlstate::LSN_NOT_REACHED | sqlstate::LOG_POISONED | sqlstate::IO_ERROR => Code::Unavailable,
        sqlstate::OUTCOME_UNKNOWN => Code::Unknown,
        sqlstate::DATA_CORRUPTED => Code::DataLoss,
        _ => match &sqlstate[..2] {
            "21" | "22" | "42" | "54" => Code::InvalidArgument,
            "23" | "25" | "2B" | "3F" | "55" => Code::FailedPrecondition,
            "53" => Code::ResourceExhausted,
            "57" => Code::Unavailable,
            _ => Code::Internal,
        },
    }
}

const MESSAGE_CHARS_MAX: usize = 500;
const DOMAIN: &str = "highwater";
