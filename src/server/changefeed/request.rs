//! What a subscriber asks for.

use highwater_changefeed::format::Envelope;
use highwater_changefeed::{Claim, Cursor, FeedStart, TableSpec};
use highwater_log::{LogId, Lsn};
use highwater_proto::v1::subscribe_start::From;
use highwater_proto::v1::{
    Claim as WireClaim, Cursor as WireCursor, Envelope as WireEnvelope, FeedFormat as WireFormat, SubscribeStart,
};
use tonic::Status;

use super::invalid;
use crate::told::FeedFormat;

/// The tables, and what is told of them.
pub(super) fn tables(start: &SubscribeStart) -> Result<Vec<TableSpec>, Status> {
    let mut tables: Vec<TableSpec> = start.tables.iter().map(|name| TableSpec::whole(name)).collect();
    let given = |text: &String| (!text.is_empty()).then(|| text.clone());
    for selection in &start.selections {
        let wanted = TableSpec::whole(&selection.table);
        let Some(table) = tables.iter_mut().find(|table| **table == wanted) else {
            let message =
                format!("a selection of {}, which is none of the feed's tables, or selected twice", selection.table);
            return Err(invalid(message));
        };
        (table.filter, table.columns) = (given(&selection.r#where), given(&selection.columns));
    }
    Ok(tables)
}

pub(super) fn beginning(start: &SubscribeStart) -> Result<FeedStart, Status> {
    Ok(match &start.from {
        None | Some(From::Snapshot(_)) => FeedStart::Snapshot,
        Some(From::Now(_)) => FeedStart::Now,
        Some(From::AfterLsn(lsn)) => FeedStart::After(Lsn::new(*lsn)),
        Some(From::After(after)) => FeedStart::Cursor(cursor(after)?),
    })
}

pub(super) fn cursor(cursor: &WireCursor) -> Result<Cursor, Status> {
    let log = cursor.log_id[..].try_into().map_err(|_| invalid("a log id is 16 bytes"))?;
    Ok(Cursor { log: LogId::from_bytes(log), lsn: Lsn::new(cursor.lsn), position: cursor.position })
}

pub(super) fn envelope(start: &SubscribeStart) -> Result<Envelope, Status> {
    match WireEnvelope::try_from(start.envelope) {
        Ok(WireEnvelope::Plain) => Ok(Envelope::Plain),
        Ok(WireEnvelope::Upsert) => Ok(Envelope::Upsert),
        Ok(WireEnvelope::Debezium) => Ok(Envelope::Debezium { has_schemas: false }),
        Ok(WireEnvelope::DebeziumSchemas) => Ok(Envelope::Debezium { has_schemas: true }),
        Err(_) => Err(invalid(format!("there is no envelope {}", start.envelope))),
    }
}

pub(super) fn format(start: &SubscribeStart) -> Result<FeedFormat, Status> {
    match WireFormat::try_from(start.format) {
        Ok(WireFormat::Json) => Ok(FeedFormat::Json),
        Ok(WireFormat::Arrow) => Ok(FeedFormat::Arrow),
        Err(_) => Err(invalid(format!("there is no format {}", start.format))),
    }
}

pub(super) fn claim(start: &SubscribeStart) -> Result<Claim, Status> {
    match WireClaim::try_from(start.claim) {
        Ok(WireClaim::Refuse) => Ok(Claim::Refuse),
        Ok(WireClaim::Wait) => Ok(Claim::Wait),
        Ok(WireClaim::TakeOver) => Ok(Claim::TakeOver),
        Err(_) => Err(invalid(format!("there is no claim {}", start.claim))),
    }
}
