//! Embedded schemas: Kafka Connect's types, and Debezium's logical names over them.

use highwater_log::value::{ColumnType, ElementType};
use highwater_materializers::Table;

use super::{MILLISECOND_DIGITS, SERVER};
use crate::format::json::write_string;

/// `{"schema":{…},"payload":` of keys.
pub(super) fn key_schema(topic: &str, table: &Table) -> String {
    let schema = table.schema();
    let fields = schema.primary_key.iter().filter_map(|id| schema.column(*id));
    let fields = fields.map(|column| field(column.column_type, Some(&column.name), false));
    let fields: Vec<_> = fields.collect();
    let fields = fields.join(",");
    format!(
        "{{\"schema\":{{\"type\":\"struct\",\"fields\":[{fields}],\"optional\":false,\"name\":{}}},\"payload\":",
        string(&format!("{topic}.Key"))
    )
}

/// `{"schema":{…},"payload":` of values.
pub(super) fn value_schema(topic: &str, shape: &Table) -> String {
    let columns = shape.schema().columns.iter();
    let fields: Vec<_> =
        columns.map(|column| field(column.column_type, Some(&column.name), !column.not_null)).collect();
    let fields = fields.join(",");
    let row = |name: &str| {
        let value = string(&format!("{topic}.Value"));
        format!("{{\"type\":\"struct\",\"fields\":[{fields}],\"optional\":true,\"name\":{value},\"field\":\"{name}\"}}")
    };
    let source: Vec<_> = [
        ("string", "version", false),
        ("string", "connector", false),
        ("string", "name", false),
        ("int64", "ts_ms", false),
        ("string", "snapshot", true),
        ("string", "db", false),
        ("string", "sequence", true),
        ("int64", "ts_us", true),
        ("int64", "ts_ns", true),
        ("string", "schema", false),
        ("string", "table", false),
        ("int64", "txId", true),
        ("int64", "lsn", true),
    ]
    .map(|(kind, name, optional)| plain(kind, name, optional))
    .into();
    let block: Vec<_> = [("string", "id"), ("int64", "total_order"), ("int64", "data_collection_order")]
        .map(|(kind, name)| plain(kind, name, false))
        .into();
    format!(
        "{{\"schema\":{{\"type\":\"struct\",\"fields\":[{before},{after},\
         {{\"type\":\"struct\",\"fields\":[{source}],\"optional\":false,\
         \"name\":\"io.debezium.connector.{SERVER}.Source\",\"field\":\"source\"}},\
         {{\"type\":\"struct\",\"fields\":[{block}],\"optional\":true,\"name\":\"event.block\",\"version\":1,\
         \"field\":\"transaction\"}},{op},{ms},{us},{ns}],\"optional\":false,\"name\":{name},\"version\":2}},\
         \"payload\":",
        before = row("before"),
        after = row("after"),
        source = source.join(","),
        block = block.join(","),
        op = plain("string", "op", false),
        ms = plain("int64", "ts_ms", true),
        us = plain("int64", "ts_us", true),
        ns = plain("int64", "ts_ns", true),
        name = string(&format!("{topic}.Envelope")),
    )
}

/// A field of Connect's schemas; without a name, the items of an array.
fn field(column_type: ColumnType, name: Option<&str>, is_optional: bool) -> String {
    let named = name.map_or(String::new(), |name| format!(",\"field\":{}", string(name)));
    let element = match column_type {
        ColumnType::Array(element) => {
            let items = field(element.into(), None, true);
            return format!("{{\"type\":\"array\",\"items\":{items},\"optional\":{is_optional}{named}}}");
        }
        ColumnType::Scalar(element) => element,
    };
    let (kind, logical) = match element {
        ElementType::Boolean => ("boolean", None),
        ElementType::SmallInt => ("int16", None),
        ElementType::Integer => ("int32", None),
        ElementType::BigInt => ("int64", None),
        ElementType::Real => ("float", None),
        ElementType::Double => ("double", None),
        ElementType::Text | ElementType::Varchar(_) | ElementType::Char(_) => ("string", None),
        ElementType::Bytea => ("bytes", None),
        ElementType::Numeric { precision, scale } => {
            return format!(
                "{{\"type\":\"bytes\",\"optional\":{is_optional},\"name\":\"org.apache.kafka.connect.data.Decimal\",\
                 \"version\":1,\"parameters\":{{\"scale\":\"{scale}\",\"connect.decimal.precision\":\"{precision}\"}}\
                 {named}}}"
            );
        }
        ElementType::Date => ("int32", Some("time.Date")),
        ElementType::Time(digits) if digits <= MILLISECOND_DIGITS => ("int32", Some("time.Time")),
        ElementType::Time(_) => ("int64", Some("time.MicroTime")),
        ElementType::Timestamp(digits) if digits <= MILLISECOND_DIGITS => ("int64", Some("time.Timestamp")),
        ElementType::Timestamp(_) => ("int64", Some("time.MicroTimestamp")),
        ElementType::TimestampTz(_) => ("string", Some("time.ZonedTimestamp")),
        ElementType::Interval => ("string", Some("time.Interval")),
        ElementType::Uuid => ("string", Some("data.Uuid")),
        ElementType::Jsonb => ("string", Some("data.Json")),
    };
    let logical = logical.map_or(String::new(), |name| format!(",\"name\":\"io.debezium.{name}\",\"version\":1"));
    format!("{{\"type\":\"{kind}\",\"optional\":{is_optional}{logical}{named}}}")
}

fn string(text: &str) -> String {
    let mut out = String::new();
    write_string(text, &mut out);
    out
}

/// `{"schema":{…},"payload":` of the key of a transaction's beginning and end.
pub(super) fn boundary_key_schema() -> String {
    let id = plain("string", "id", false);
    format!(
        "{{\"schema\":{{\"type\":\"struct\",\"fields\":[{id}],\"optional\":false,\
         \"name\":\"io.debezium.connector.common.TransactionMetadataKey\",\"version\":1}},\"payload\":"
    )
}

/// The same of its value.
pub(super) fn boundary_schema() -> String {
    let counted = [plain("string", "data_collection", false), plain("int64", "event_count", false)].join(",");
    let fields = [
        plain("string", "status", false),
        plain("string", "id", false),
        plain("int64", "event_count", true),
        format!(
            "{{\"type\":\"array\",\"items\":{{\"type\":\"struct\",\"fields\":[{counted}],\"optional\":false,\
             \"name\":\"event.collection\",\"version\":1}},\"optional\":true,\"field\":\"data_collections\"}}"
        ),
        plain("int64", "ts_ms", false),
    ];
    format!(
        "{{\"schema\":{{\"type\":\"struct\",\"fields\":[{}],\"optional\":false,\
         \"name\":\"io.debezium.connector.common.TransactionMetadataValue\",\"version\":1}},\"payload\":",
        fields.join(",")
    )
}

fn plain(kind: &str, name: &str, is_optional: bool) -> String {
    format!("{{\"type\":\"{kind}\",\"optional\":{is_optional},\"field\":\"{name}\"}}")
}
