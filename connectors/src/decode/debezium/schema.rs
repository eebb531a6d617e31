//! Embedded schemas: Kafka Connect's types, and Debezium's logical names over them.

use std::borrow::Cow;
use std::fmt;

use highwater_log::value::{ColumnType, ElementType};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize as _};
use serde_json::value::RawValue;

use super::cell::CellEncoding;
use super::{Cells, DecodeError};

/// The columns of a table, as an event's embedded schema tells them.
#[derive(Debug)]
pub struct EventSchema {
    /// The columns, in order.
    pub columns: Vec<EventColumn>,
    /// The names of the key's columns, in order.
    pub key: Vec<String>,
}

/// A column, as an embedded schema tells it.
#[derive(Debug)]
pub struct EventColumn {
    /// Its name.
    pub name: String,
    /// The column type that its values are of; `None`: none of ours.
    pub column_type: Option<ColumnType>,
    /// How its cells are written.
    pub encoding: CellEncoding,
    /// Whether NULL is possible.
    pub is_optional: bool,
    /// Its DEFAULT as a cell, in JSON.
    pub default: Option<String>,
    /// What the schema calls its type, for people.
    pub described: String,
}

#[derive(Deserialize)]
struct Schema {
    #[serde(default)]
    fields: Vec<Field>,
}

#[derive(Deserialize)]
struct Field {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    optional: bool,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    field: Option<String>,
    #[serde(default)]
    parameters: Option<Parameters>,
    #[serde(default)]
    default: Option<serde_json::Value>,
    #[serde(default)]
    items: Option<Box<Field>>,
    #[serde(default)]
    fields: Vec<Field>,
}

#[derive(Deserialize)]
struct Parameters {
    #[serde(default)]
    scale: Option<String>,
    #[serde(rename = "connect.decimal.precision", default)]
    precision: Option<String>,
}

impl EventSchema {
    /// Reads the schema of an event's value, and that of its key.
    ///
    /// # Errors
    /// [`DecodeError::Shape`].
    pub(super) fn parse(value: &str, key: Option<&str>) -> Result<Self, DecodeError> {
        let value: Schema = serde_json::from_str(value)?;
        let row = value.fields.into_iter().find(|field| field.field.as_deref() == Some("after"));
        let row = row.ok_or_else(|| DecodeError::Shape("an embedded schema without \"after\"".to_owned()))?;
        let key = key.map(serde_json::from_str::<Schema>).transpose()?;
        Ok(Self {
            columns: row.fields.into_iter().map(EventColumn::from).collect(),
            key: key.map_or_else(Vec::new, |key| key.fields.into_iter().filter_map(|field| field.field).collect()),
        })
    }

    /// The column of this name.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&EventColumn> {
        self.columns.iter().find(|column| column.name == name)
    }
}

impl From<Field> for EventColumn {
    fn from(field: Field) -> Self {
        let (column_type, encoding) = match (&field.kind[..], &field.items) {
            ("array", Some(items)) => match scalar(items) {
                Some((element, encoding)) => (Some(ColumnType::Array(element)), encoding),
                None => (None, CellEncoding::Adaptive),
            },
            _ => match scalar(&field) {
                Some((element, encoding)) => (Some(ColumnType::Scalar(element)), encoding),
                None => (None, CellEncoding::Adaptive),
            },
        };
        let default = field.default.filter(|default| !default.is_null()).map(|default| {
            let mut text = Vec::new();
            let mut serializer = serde_json::Serializer::new(&mut text);
            // A JSON value always has a JSON text.
            let _ = default.serialize(&mut serializer);
            String::from_utf8(text).unwrap_or_default()
        });
        Self {
            name: field.field.unwrap_or_default(),
            column_type,
            encoding,
            is_optional: field.optional,
            default,
            described: field.name.unwrap_or(field.kind),
        }
    }
}

/// The element type of a field and how its cells are written; `None`: none of ours.
fn scalar(field: &Field) -> Option<(ElementType, CellEncoding)> {
    if let Some(name) = &field.name {
        let logical = match name.as_str() {
            "io.debezium.time.Date" | "org.apache.kafka.connect.data.Date" => {
                (ElementType::Date, CellEncoding::Adaptive)
            }
            "io.debezium.time.Time" | "org.apache.kafka.connect.data.Time" => {
                (ElementType::Time(3), CellEncoding::Milliseconds)
            }
            "io.debezium.time.MicroTime" => (ElementType::Time(6), CellEncoding::Microseconds),
            "io.debezium.time.NanoTime" => (ElementType::Time(6), CellEncoding::Nanoseconds),
            "io.debezium.time.Timestamp" | "org.apache.kafka.connect.data.Timestamp" => {
                (ElementType::Timestamp(3), CellEncoding::Milliseconds)
            }
            "io.debezium.time.MicroTimestamp" => (ElementType::Timestamp(6), CellEncoding::Microseconds),
            "io.debezium.time.NanoTimestamp" => (ElementType::Timestamp(6), CellEncoding::Nanoseconds),
            "io.debezium.time.ZonedTimestamp" => (ElementType::TimestampTz(6), CellEncoding::Adaptive),
            "io.debezium.time.MicroDuration" => (ElementType::Interval, CellEncoding::Microseconds),
            "io.debezium.time.Interval" => (ElementType::Interval, CellEncoding::Adaptive),
            "io.debezium.data.Json" => (ElementType::Jsonb, CellEncoding::Adaptive),
            "io.debezium.data.Uuid" => (ElementType::Uuid, CellEncoding::Adaptive),
            "io.debezium.data.Enum" | "io.debezium.data.Xml" | "io.debezium.data.Ltree" => {
                (ElementType::Text, CellEncoding::Adaptive)
            }
            "org.apache.kafka.connect.data.Decimal" => {
                let parameters = field.parameters.as_ref()?;
                let scale: u8 = parameters.scale.as_ref()?.parse().ok()?;
                let precision: u8 = parameters.precision.as_ref().map_or(Some(38), |digits| digits.parse().ok())?;
                if precision == 0 || precision > 38 || scale > precision {
                    return None;
                }
                (ElementType::Numeric { precision, scale }, CellEncoding::Unscaled(scale))
            }
            _ => return None,
        };
        return Some(logical);
    }
    let element = match field.kind.as_str() {
        "boolean" => ElementType::Boolean,
        "int8" | "int16" => ElementType::SmallInt,
        "int32" => ElementType::Integer,
        "int64" => ElementType::BigInt,
        "float" => ElementType::Real,
        "double" => ElementType::Double,
        "string" => ElementType::Text,
        "bytes" => ElementType::Bytea,
        _ => return None,
    };
    Some((element, CellEncoding::Adaptive))
}

/// A JSON object as cells.
pub(super) struct CellMap<'a>(pub(super) Cells<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for CellMap<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CellVisitor;
        impl<'de> Visitor<'de> for CellVisitor {
            type Value = Cells<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a row: an object of columns")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Cells<'de>, A::Error> {
                let mut cells = Vec::with_capacity(map.size_hint().unwrap_or(8));
                while let Some((name, value)) = map.next_entry::<BorrowedName<'de>, &'de RawValue>()? {
                    cells.push((name.0, value));
                }
                Ok(cells)
            }
        }
        deserializer.deserialize_map(CellVisitor).map(Self)
    }
}

/// A name that borrows where nothing is escaped.
#[derive(Deserialize)]
struct BorrowedName<'a>(#[serde(borrow)] Cow<'a, str>);
