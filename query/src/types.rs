//! Column types in Arrow: what a batch's fields are, and what they stand for.
//!
//! Arrow's types tell less than SQL's: `uuid`, `jsonb`, `char(n)` are strings to it, `time(3)` is a time. A field carries the name
//! of its column type as metadata under [`TYPE_KEY`]; where an expression has lost it, the type follows from Arrow's.

mod append;
mod extract;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, IntervalUnit, Schema, SchemaRef, TimeUnit};
use highwater_log::schema::ColumnSchema;
use highwater_log::value::{ColumnType, ElementType};

pub use append::ColumnBuilder;
pub use extract::{text_at, value_at};

use crate::error::SqlError;

/// The metadata key under which a field names its column type.
pub const TYPE_KEY: &str = "highwater.type";

/// Arrow's type for a column type.
#[must_use]
pub fn arrow_type(column_type: ColumnType) -> DataType {
    match column_type {
        ColumnType::Scalar(element) => element_arrow_type(element),
        ColumnType::Array(element) => DataType::List(item_field(element)),
    }
}

fn item_field(element: ElementType) -> FieldRef {
    Arc::new(Field::new("item", element_arrow_type(element), true))
}

fn element_arrow_type(element: ElementType) -> DataType {
    match element {
        ElementType::Boolean => DataType::Boolean,
        ElementType::SmallInt => DataType::Int16,
        ElementType::Integer => DataType::Int32,
        ElementType::BigInt => DataType::Int64,
        ElementType::Real => DataType::Float32,
        ElementType::Double => DataType::Float64,
        ElementType::Numeric { precision, scale } => DataType::Decimal128(precision, scale as i8),
        ElementType::Text | ElementType::Varchar(_) | ElementType::Char(_) | ElementType::Uuid | ElementType::Jsonb => {
            DataType::Utf8
        }
        ElementType::Bytea => DataType::Binary,
        ElementType::Date => DataType::Date32,
        ElementType::Time(_) => DataType::Time64(TimeUnit::Microsecond),
        ElementType::Timestamp(_) => DataType::Timestamp(TimeUnit::Microsecond, None),
        ElementType::TimestampTz(_) => DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
        ElementType::Interval => DataType::Interval(IntervalUnit::MonthDayNano),
    }
}

/// A field of this column type.
#[must_use]
pub fn field(name: &str, column_type: ColumnType, is_nullable: bool) -> Field {
    let metadata = HashMap::from([(TYPE_KEY.to_owned(), column_type.to_string())]);
    Field::new(name, arrow_type(column_type), is_nullable).with_metadata(metadata)
}

/// The field of a table's column, as it is planned with.
#[must_use]
pub fn column_field(column: &ColumnSchema) -> Field {
    planned_field(&column.name, column.column_type, !column.not_null)
}

/// As [`field`], without metadata where Arrow's type says as much: the planner finds a union of numbers of two types inconsistent that
/// keep the names of theirs.
pub(crate) fn planned_field(name: &str, column_type: ColumnType, is_nullable: bool) -> Field {
    let ColumnType::Scalar(element) = column_type else { return field(name, column_type, is_nullable) };
    match element {
        ElementType::Boolean
        | ElementType::SmallInt
        | ElementType::Integer
        | ElementType::BigInt
        | ElementType::Real
        | ElementType::Double => Field::new(name, arrow_type(column_type), is_nullable),
        _ => field(name, column_type, is_nullable),
    }
}

/// The column type that a field stands for.
///
/// # Errors
/// `0A000` for what SQL has no type for (structs, maps, unions, arrays of arrays).
pub fn column_type(field: &Field) -> Result<ColumnType, SqlError> {
    if let Some(known) = field.metadata().get(TYPE_KEY).and_then(|name| name.parse().ok())
        && arrow_type(known) == *field.data_type()
    {
        return Ok(known);
    }
    column_type_of(field.data_type())
}

/// The column type that an Arrow type stands for, when nothing else is known.
///
/// # Errors
/// As [`column_type`].
pub fn column_type_of(data_type: &DataType) -> Result<ColumnType, SqlError> {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            element_type_of(item.data_type()).map(ColumnType::Array)
        }
        other => element_type_of(other).map(ColumnType::Scalar),
    }
}

fn element_type_of(data_type: &DataType) -> Result<ElementType, SqlError> {
    Ok(match data_type {
        DataType::Boolean => ElementType::Boolean,
        DataType::Int8 | DataType::Int16 | DataType::UInt8 => ElementType::SmallInt,
        DataType::Int32 | DataType::UInt16 => ElementType::Integer,
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => ElementType::BigInt,
        DataType::Float16 | DataType::Float32 => ElementType::Real,
        DataType::Float64 => ElementType::Double,
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale) => {
            let scale = u8::try_from(*scale).unwrap_or(0).min(*precision);
            ElementType::Numeric { precision: (*precision).max(1), scale }
        }
        DataType::Decimal256(_, scale) => ElementType::Numeric {
            precision: PRECISION_MAX,
            scale: u8::try_from(*scale).unwrap_or(0).min(PRECISION_MAX),
        },
        DataType::Null | DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => ElementType::Text,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            ElementType::Bytea
        }
        DataType::Date32 | DataType::Date64 => ElementType::Date,
        DataType::Time32(_) | DataType::Time64(_) => ElementType::Time(MICROSECOND_DIGITS),
        DataType::Timestamp(_, None) => ElementType::Timestamp(MICROSECOND_DIGITS),
        DataType::Timestamp(_, Some(_)) => ElementType::TimestampTz(MICROSECOND_DIGITS),
        DataType::Interval(_) | DataType::Duration(_) => ElementType::Interval,
        DataType::Dictionary(_, value) => element_type_of(value)?,
        other => return Err(SqlError::unsupported(&format!("a column of type {other}"))),
    })
}

/// A schema whose fields all carry their column type, and have the Arrow type of it.
///
/// # Errors
/// As [`column_type`].
pub fn canonical_schema(schema: &Schema) -> Result<SchemaRef, SqlError> {
    let canonical = |known: &FieldRef| Ok(field(known.name(), column_type(known)?, known.is_nullable()));
    let fields = schema.fields().iter().map(canonical).collect::<Result<Vec<_>, SqlError>>()?;
    Ok(Arc::new(Schema::new(fields)))
}

/// A batch in the types of its canonical schema.
///
/// # Errors
/// `22003` when a value does not fit: a decimal of more than 38 digits, an unsigned number beyond `bigint`.
pub fn canonical_batch(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, SqlError> {
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| canonical_array(column, field.data_type()));
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

pub(crate) fn canonical_array(array: &ArrayRef, target: &DataType) -> Result<ArrayRef, SqlError> {
    if array.data_type() == target {
        return Ok(Arc::clone(array));
    }
    Ok(cast_with_options(array, target, &CastOptions { safe: false, ..CastOptions::default() })?)
}

pub(crate) const UTC: &str = "+00:00";
const MICROSECOND_DIGITS: u8 = 6;
const PRECISION_MAX: u8 = 38;
