//! Events as Arrow: changes of one table, one a row, as a stream in Arrow's IPC format that needs nothing else to be read.
//!
//! ```text
//! hw_lsn       uint64                   the commit
//! hw_position  uint64                   the change's place in it
//! hw_time      timestamp(us, "UTC")     when the commit was accepted; never to be ordered by
//! hw_op        utf8                     insert, update, delete, truncate
//! key          struct<key's columns>    of a table without one struct<hw_row_id: uint64>; null of a truncation
//! before       struct<columns>          the row as it was; null where there was none
//! after        struct<columns>          the row as it is; null where there is none
//! ```
//!
//! It says what plain JSON says. Columns are those of query results, with the same metadata; the name of the table is metadata of the
//! schema, under `highwater.table`.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::builder::NullBufferBuilder;
use arrow::array::{ArrayRef, RecordBatch, StringBuilder, StructArray, TimestampMicrosecondBuilder, UInt64Builder};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use highwater_changefeed::{EncodeError, Encoder, Event, RowChange};
use highwater_log::position::{ColumnId, SchemaVersion, TableId};
use highwater_log::value::Value;
use highwater_materializers::{Table, TableRow};

use crate::error::SqlError;
use crate::types::{self, ColumnBuilder, UTC};

/// The metadata key under which a schema of changes names the table, as `schema.name`.
const TABLE_KEY: &str = "highwater.table";

/// Changes of one table, in order.
#[derive(Clone, Debug)]
pub struct ArrowChanges {
    /// The table, as `schema.name`.
    pub table: String,
    /// The stream: a schema, at most one batch, and the end.
    pub stream: Bytes,
    /// How many changes it holds: none when it tells a schema.
    pub rows: usize,
    /// Whether the table is dropped.
    pub is_dropped: bool,
}

/// An encoder that gathers changes, each table's by themselves. Marks of progress have no form.
#[derive(Default)]
pub struct ArrowEncoder {
    gathered: Vec<Gathered>,
    bytes: usize,
}

/// Changes of one version of a table.
struct Gathered {
    table: TableId,
    version: SchemaVersion,
    name: String,
    schema: SchemaRef,
    lsn: UInt64Builder,
    position: UInt64Builder,
    time: TimestampMicrosecondBuilder,
    operation: StringBuilder,
    key: Key,
    before: Images,
    after: Images,
    /// Changes that are there whole: one of which a value could not be read is there in part.
    rows: usize,
    is_dropped: bool,
}

/// What names a row.
enum Key {
    Columns(Images),
    /// Of a table without a primary key.
    RowIds {
        ids: UInt64Builder,
        nulls: NullBufferBuilder,
    },
}

/// Rows as structs.
struct Images {
    fields: Fields,
    /// Each with its column's place in the table's layout.
    columns: Vec<(usize, ColumnBuilder)>,
    nulls: NullBufferBuilder,
}

impl ArrowEncoder {
    /// The changes since they were taken last, in the order of each table's first.
    ///
    /// # Errors
    /// `XX000`, which is a defect.
    pub fn take(&mut self) -> Result<Vec<ArrowChanges>, SqlError> {
        self.bytes = 0;
        std::mem::take(&mut self.gathered).into_iter().map(|gathered| Ok(gathered.finish()?)).collect()
    }

    /// Where the changes of this version of a table are gathered; the number of bytes by which its stream begins counts, too.
    fn gathered(&mut self, table: &Table, shape: &Table) -> &mut Gathered {
        let schema = table.schema();
        let is_it = |known: &Gathered| (known.table, known.version) == (schema.id, schema.version);
        let place = match self.gathered.iter().rposition(is_it) {
            Some(place) => place,
            None => {
                self.bytes += SCHEMA_BYTES_EXPECTED;
                self.gathered.push(Gathered::new(table, shape));
                self.gathered.len() - 1
            }
        };
        &mut self.gathered[place]
    }
}

impl Encoder for ArrowEncoder {
    fn encode(&mut self, event: &Event<'_>) -> Result<(), EncodeError> {
        match event {
            Event::Schema { table, shape, is_dropped, .. } => {
                let is_dropped = *is_dropped;
                let gathered = self.gathered(table, shape);
                gathered.is_dropped |= is_dropped;
                Ok(())
            }
            Event::Change(change) => {
                let bytes = self.gathered(change.table, change.shape).append(change)?;
                self.bytes += bytes;
                Ok(())
            }
            Event::CommitEnd { .. } | Event::Ready { .. } | Event::Progress { .. } => Ok(()),
        }
    }

    fn byte_len(&self) -> usize {
        self.bytes
    }
}

impl Gathered {
    fn new(table: &Table, shape: &Table) -> Self {
        let name = format!("{}.{}", table.schema().namespace, table.schema().name);
        let (key, before, after) = (Key::of(table), Images::all(shape), Images::all(shape));
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()));
        let fields = vec![
            Field::new("hw_lsn", DataType::UInt64, false),
            Field::new("hw_position", DataType::UInt64, false),
            Field::new("hw_time", time, false),
            Field::new("hw_op", DataType::Utf8, false),
            Field::new("key", DataType::Struct(key.fields()), true),
            Field::new("before", DataType::Struct(before.fields.clone()), true),
            Field::new("after", DataType::Struct(after.fields.clone()), true),
        ];
        let metadata = HashMap::from([(TABLE_KEY.to_owned(), name.clone())]);
        Self {
            table: table.schema().id,
            version: table.schema().version,
            name,
            schema: Arc::new(Schema::new_with_metadata(fields, metadata)),
            lsn: UInt64Builder::new(),
            position: UInt64Builder::new(),
            time: TimestampMicrosecondBuilder::new().with_timezone(UTC),
            operation: StringBuilder::new(),
            key,
            before,
            after,
            rows: 0,
            is_dropped: false,
        }
    }

    /// Appends a change; returns about how many bytes it takes.
    fn append(&mut self, change: &RowChange<'_>) -> Result<usize, EncodeError> {
        self.lsn.append_value(change.lsn.value());
        self.position.append_value(change.position);
        self.time.append_value(i64::try_from(change.time_micros).unwrap_or(i64::MAX));
        self.operation.append_value(change.operation.name());
        let key = match &mut self.key {
            Key::Columns(images) => images.append(change.key)?,
            Key::RowIds { ids, nulls } => {
                ids.append_value(change.row.value());
                nulls.append(change.key.is_some());
                size_of::<u64>()
            }
        };
        let bytes = HEAD_BYTES + key + self.before.append(change.before)? + self.after.append(change.after)?;
        self.rows += 1;
        Ok(bytes)
    }

    fn finish(mut self) -> Result<ArrowChanges, ArrowError> {
        let rows = self.rows;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.lsn.finish().slice(0, rows)),
            Arc::new(self.position.finish().slice(0, rows)),
            Arc::new(self.time.finish().slice(0, rows)),
            Arc::new(self.operation.finish().slice(0, rows)),
            Arc::new(self.key.finish(rows)?),
            Arc::new(self.before.finish(rows)?),
            Arc::new(self.after.finish(rows)?),
        ];
        let mut writer = StreamWriter::try_new(Vec::new(), &self.schema)?;
        if rows > 0 {
            writer.write(&RecordBatch::try_new(self.schema, columns)?)?;
        }
        let stream = writer.into_inner()?.into();
        Ok(ArrowChanges { table: self.name, stream, rows, is_dropped: self.is_dropped })
    }
}

impl Key {
    fn of(table: &Table) -> Self {
        let ids = &table.schema().primary_key;
        if ids.is_empty() {
            return Self::RowIds { ids: UInt64Builder::new(), nulls: NullBufferBuilder::new(0) };
        }
        Self::Columns(Images::of(table, ids.iter().copied()))
    }

    fn fields(&self) -> Fields {
        match self {
            Self::Columns(images) => images.fields.clone(),
            Self::RowIds { .. } => Fields::from(vec![Field::new("hw_row_id", DataType::UInt64, false)]),
        }
    }

    fn finish(&mut self, rows: usize) -> Result<StructArray, ArrowError> {
        let fields = self.fields();
        match self {
            Self::Columns(images) => images.finish(rows),
            Self::RowIds { ids, nulls } => {
                let (ids, nulls) = (ids.finish().slice(0, rows), nulls.finish().map(|nulls| nulls.slice(0, rows)));
                StructArray::try_new(fields, vec![Arc::new(ids)], nulls)
            }
        }
    }
}

impl Images {
    /// Of all columns, as declared.
    fn all(table: &Table) -> Self {
        Self::of(table, table.schema().columns.iter().map(|column| column.id))
    }

    fn of(table: &Table, ids: impl Iterator<Item = ColumnId>) -> Self {
        let column = |id| {
            let column = table.schema().column(id)?;
            let builder = ColumnBuilder::new(column.column_type);
            // Of a row that is not there, all of its values are null.
            let field = types::field(&column.name, column.column_type, true);
            Some((Arc::new(field), (table.layout().index_of(id)?, builder)))
        };
        let (fields, columns): (Vec<_>, Vec<_>) = ids.filter_map(column).unzip();
        Self { fields: fields.into(), columns, nulls: NullBufferBuilder::new(0) }
    }

    /// Appends a row; returns about how many bytes it takes.
    fn append(&mut self, row: Option<&TableRow<'_>>) -> Result<usize, EncodeError> {
        self.nulls.append(row.is_some());
        let mut bytes = 0;
        for (place, builder) in &mut self.columns {
            let value = row.map(|row| row.value(*place)).transpose()?.flatten();
            bytes += value.as_ref().map_or(VALUE_BYTES, value_bytes);
            builder.append(value).map_err(|error: SqlError| EncodeError::Failed(error.to_string()))?;
        }
        Ok(bytes)
    }

    fn finish(&mut self, rows: usize) -> Result<StructArray, ArrowError> {
        let columns = self.columns.iter_mut().map(|(_, builder)| builder.finish().slice(0, rows)).collect();
        let nulls = self.nulls.finish().map(|nulls| nulls.slice(0, rows));
        StructArray::try_new_with_length(self.fields.clone(), columns, nulls, rows)
    }
}

/// About how many bytes a value takes in a column.
fn value_bytes(value: &Value<'_>) -> usize {
    VALUE_BYTES
        + match value {
            Value::Text(text) | Value::Jsonb(text) => text.len(),
            Value::Bytea(bytes) => bytes.len(),
            Value::Array(array) => array.stored().len(),
            _ => 0,
        }
}

/// LSN, position, time, operation.
const HEAD_BYTES: usize = 36;
const VALUE_BYTES: usize = 8;
const SCHEMA_BYTES_EXPECTED: usize = 1024;
