//! Debezium's change events as JSON lines: `{"topic", "key", "value"}`, with and without embedded schemas.
//!
//! Cells stay unread until the table's columns are known: without an embedded schema an event does not tell their types.

mod cell;
mod schema;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

pub use cell::{CellEncoding, CellError, decode_cell};
pub use schema::EventSchema;

/// What one line says.
#[derive(Debug)]
pub enum Event<'a> {
    /// An upstream transaction begins.
    Begin {
        /// Its id, without the position behind it.
        transaction: String,
    },
    /// An upstream transaction ends.
    End(End),
    /// A row changed.
    Change(Box<Change<'a>>),
    /// The null record that follows a delete: it says nothing new.
    Tombstone,
}

/// The end of an upstream transaction.
#[derive(Debug)]
pub struct End {
    /// Its id, without the position behind it.
    pub transaction: String,
    /// Where it ended in the upstream's log: what only grows from transaction to transaction.
    pub lsn: u64,
    /// How many change events it has.
    pub event_count: u64,
    /// How many of them are of which table (`schema.table`).
    pub table_counts: Vec<(String, u64)>,
}

/// What happened to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It was there when the snapshot was taken.
    Read,
    /// It was inserted.
    Create,
    /// It was updated.
    Update,
    /// It was deleted.
    Delete,
    /// All rows of the table went.
    Truncate,
}

/// A change event.
#[derive(Debug)]
pub struct Change<'a> {
    /// What happened.
    pub operation: Operation,
    /// Where it comes from.
    pub source: Source<'a>,
    /// The upstream transaction's id, where the event tells it; `None` without transaction metadata.
    pub transaction: Option<Cow<'a, str>>,
    /// The row's key, by columns, of a delete.
    pub key: Option<Cells<'a>>,
    /// The row before; by the upstream's replica identity all of it, the key alone, or nothing. Most tables need none of it.
    pub before: Option<UnreadRow<'a>>,
    /// The row after.
    pub after: Option<Cells<'a>>,
    /// The embedded schema, where there is one.
    pub schema: Option<Arc<EventSchema>>,
}

/// Cells by column name, in the event's order, unread.
pub type Cells<'a> = Vec<(Cow<'a, str>, &'a RawValue)>;

/// A row whose cells were not told apart.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct UnreadRow<'a>(#[serde(borrow)] &'a RawValue);

impl<'a> UnreadRow<'a> {
    /// Its cells.
    ///
    /// # Errors
    /// [`DecodeError::Shape`]: it is no object.
    pub fn cells(self) -> Result<Cells<'a>, DecodeError> {
        let cells: schema::CellMap<'a> = serde_json::from_str(self.0.get())?;
        Ok(cells.0)
    }
}

/// An event's `source`.
#[derive(Debug, Deserialize)]
pub struct Source<'a> {
    /// The connector's logical name.
    #[serde(borrow)]
    pub name: Cow<'a, str>,
    /// The database.
    #[serde(borrow)]
    pub db: Cow<'a, str>,
    /// The schema.
    #[serde(borrow, default)]
    pub schema: Cow<'a, str>,
    /// The table.
    #[serde(borrow)]
    pub table: Cow<'a, str>,
    /// `true`, `first`, `last` and so on for rows of a snapshot.
    #[serde(borrow, default)]
    pub snapshot: Option<Text<'a>>,
    /// The event's position; of a snapshot, the snapshot's.
    #[serde(default)]
    pub lsn: Option<u64>,
    /// The upstream's transaction number.
    #[serde(rename = "txId", default)]
    pub tx_id: Option<u64>,
    /// `["lsn of the last commit", "lsn"]` in a string.
    #[serde(borrow, default)]
    pub sequence: Option<&'a RawValue>,
}

/// A string that borrows where nothing is escaped, also where it may be absent.
#[derive(Clone, Debug, Deserialize)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

impl Source<'_> {
    /// Where the last commit before this event's transaction ended, if the event tells it.
    #[must_use]
    pub fn last_commit_lsn(&self) -> Option<u64> {
        let text: String = serde_json::from_str(self.sequence?.get()).ok()?;
        let parts: Vec<Option<String>> = serde_json::from_str(&text).ok()?;
        parts.into_iter().next()??.parse().ok()
    }
}

/// A line that is no event.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, or not of an event's shape.
    #[error("not a Debezium event: {0}")]
    Shape(String),
    /// An operation that tables here have no use for.
    #[error("operation {0:?} is not supported")]
    Operation(String),
}

impl From<serde_json::Error> for DecodeError {
    fn from(error: serde_json::Error) -> Self {
        Self::Shape(error.to_string())
    }
}

/// Decodes lines; remembers the schemas that were embedded, which repeat from line to line.
#[derive(Debug, Default)]
pub struct Decoder {
    schemas: HashMap<String, (String, Arc<EventSchema>)>,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    topic: Cow<'a, str>,
    #[serde(borrow, default)]
    key: Option<&'a RawValue>,
    #[serde(borrow, default)]
    value: Option<Payload<'a>>,
}

/// An event, or what embeds one beside its schema: read in one go, since most events embed none.
#[derive(Deserialize)]
struct Payload<'a> {
    #[serde(borrow, default)]
    schema: Option<&'a RawValue>,
    #[serde(borrow, default)]
    payload: Embedded<'a>,
    #[serde(borrow, default)]
    status: Option<Text<'a>>,
    #[serde(borrow, default)]
    id: Option<Text<'a>>,
    #[serde(default)]
    event_count: Option<u64>,
    #[serde(borrow, default)]
    data_collections: Option<Vec<Collection<'a>>>,
    #[serde(borrow, default)]
    op: Option<Text<'a>>,
    #[serde(borrow, default)]
    source: Option<Source<'a>>,
    #[serde(borrow, default)]
    transaction: Option<TransactionBlock<'a>>,
    #[serde(borrow, default)]
    before: Option<UnreadRow<'a>>,
    #[serde(borrow, default)]
    after: Option<schema::CellMap<'a>>,
}

/// What stands beside an embedded schema.
#[derive(Default)]
enum Embedded<'a> {
    #[default]
    Absent,
    Null,
    Event(&'a RawValue),
}

impl<'de: 'a, 'a> Deserialize<'de> for Embedded<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let payload: Option<&'a RawValue> = Deserialize::deserialize(deserializer)?;
        Ok(payload.map_or(Self::Null, Self::Event))
    }
}

#[derive(Deserialize)]
struct KeyEnvelope<'a> {
    #[serde(borrow)]
    schema: Option<&'a RawValue>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Collection<'a> {
    #[serde(borrow)]
    data_collection: Cow<'a, str>,
    event_count: u64,
}

#[derive(Deserialize)]
struct TransactionBlock<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
}

impl Decoder {
    /// What a line says.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode<'a>(&mut self, line: &'a str) -> Result<Event<'a>, DecodeError> {
        let line: Line<'a> = serde_json::from_str(line)?;
        let Some(value) = line.value else { return Ok(Event::Tombstone) };
        let (schema, payload) = match value.payload {
            // A schema that describes nothing.
            Embedded::Absent if value.schema.is_some() && value.op.is_none() && value.status.is_none() => {
                return Ok(Event::Tombstone);
            }
            Embedded::Absent => (None, value),
            Embedded::Null => return Ok(Event::Tombstone),
            Embedded::Event(event) => (value.schema, serde_json::from_str(event.get())?),
        };
        if let Some(status) = &payload.status {
            return boundary(&status.0, &payload);
        }
        let shape = |what: &str| DecodeError::Shape(format!("an event without {what}"));
        let operation = match &*payload.op.as_ref().ok_or_else(|| shape("op"))?.0 {
            "r" => Operation::Read,
            "c" => Operation::Create,
            "u" => Operation::Update,
            "d" => Operation::Delete,
            "t" => Operation::Truncate,
            other => return Err(DecodeError::Operation(other.to_owned())),
        };
        // Where the row itself does not tell its key, or its columns, the record's key does.
        let is_key_needed = operation == Operation::Delete || schema.is_some();
        let key = line.key.filter(|_| is_key_needed).map(decode_key).transpose()?;
        let (key_schema, key) = key.unwrap_or_default();
        let schema = schema.map(|schema| self.schema(&line.topic, schema, key_schema)).transpose()?;
        let transaction = payload.transaction.map(|block| match block.id {
            Cow::Borrowed(id) => Cow::Borrowed(transaction_id(id).0),
            Cow::Owned(id) => Cow::Owned(transaction_id(&id).0.to_owned()),
        });
        Ok(Event::Change(Box::new(Change {
            operation,
            source: payload.source.ok_or_else(|| shape("source"))?,
            transaction,
            key,
            before: payload.before,
            after: payload.after.map(|cells| cells.0),
            schema,
        })))
    }

    /// The schema of a topic's events; most are the one of the line before.
    fn schema(
        &mut self,
        topic: &str,
        value: &RawValue,
        key: Option<&RawValue>,
    ) -> Result<Arc<EventSchema>, DecodeError> {
        let text = value.get();
        if let Some((known, schema)) = self.schemas.get(topic)
            && known == text
            && (key.is_none() || !schema.key.is_empty())
        {
            return Ok(Arc::clone(schema));
        }
        let schema = Arc::new(EventSchema::parse(text, key.map(RawValue::get))?);
        self.schemas.insert(topic.to_owned(), (text.to_owned(), Arc::clone(&schema)));
        Ok(schema)
    }
}

/// A record's key, by columns, and its schema where it embeds one.
fn decode_key(key: &RawValue) -> Result<(Option<&RawValue>, Option<Cells<'_>>), DecodeError> {
    let cells: Option<schema::CellMap<'_>> = serde_json::from_str(key.get())?;
    let Some(cells) = cells else { return Ok((None, None)) };
    let is_enveloped = cells.0.len() == 2 && cells.0.iter().all(|(name, _)| matches!(&**name, "schema" | "payload"));
    if !is_enveloped {
        return Ok((None, Some(cells.0)));
    }
    let KeyEnvelope { schema, payload } = serde_json::from_str(key.get())?;
    let cells = payload.map(|payload| serde_json::from_str::<schema::CellMap<'_>>(payload.get())).transpose()?;
    Ok((schema, cells.map(|cells| cells.0)))
}

fn boundary<'a>(status: &str, payload: &Payload<'a>) -> Result<Event<'a>, DecodeError> {
    let id = payload.id.as_ref().ok_or_else(|| DecodeError::Shape("a transaction's boundary without id".to_owned()))?;
    let (transaction, lsn) = transaction_id(&id.0);
    let transaction = transaction.to_owned();
    match status {
        "BEGIN" => Ok(Event::Begin { transaction }),
        "END" => Ok(Event::End(End {
            transaction,
            lsn: lsn.ok_or_else(|| DecodeError::Shape(format!("the transaction id {:?} has no position", id.0)))?,
            event_count: payload.event_count.unwrap_or(0),
            table_counts: payload
                .data_collections
                .iter()
                .flatten()
                .map(|collection| (collection.data_collection.clone().into_owned(), collection.event_count))
                .collect(),
        })),
        other => Err(DecodeError::Shape(format!("transaction status {other:?}"))),
    }
}

/// `xid:lsn`: the position is the event's, so only the first part is the transaction's.
fn transaction_id(id: &str) -> (&str, Option<u64>) {
    match id.split_once(':') {
        Some((transaction, lsn)) => (transaction, lsn.parse().ok()),
        None => (id, None),
    }
}
