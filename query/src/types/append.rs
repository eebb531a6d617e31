//! Arrow columns from stored values.

use std::sync::Arc;

use arrow::array::{
    ArrayBuilder, ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder,
    Float64Builder, Int16Builder, Int32Builder, Int64Builder, IntervalMonthDayNanoBuilder, ListBuilder, StringBuilder,
    Time64MicrosecondBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::IntervalMonthDayNano;
use highwater_log::value::{ColumnType, ElementType, Interval, Value};
use uuid::Uuid;

use super::{UTC, item_field};
use crate::error::SqlError;
use crate::sqlstate;

/// A column of a batch while it is filled.
pub enum ColumnBuilder {
    /// Single values.
    Scalar(ScalarBuilder),
    /// Arrays.
    Array(ListBuilder<ScalarBuilder>),
}

/// A column of single values while it is filled.
pub enum ScalarBuilder {
    /// `boolean`.
    Boolean(BooleanBuilder),
    /// `smallint`.
    SmallInt(Int16Builder),
    /// `integer`.
    Integer(Int32Builder),
    /// `bigint`.
    BigInt(Int64Builder),
    /// `real`.
    Real(Float32Builder),
    /// `double precision`.
    Double(Float64Builder),
    /// `numeric(p,s)`.
    Numeric(Decimal128Builder),
    /// All that is text to Arrow.
    Text(StringBuilder),
    /// `bytea`.
    Bytea(BinaryBuilder),
    /// `date`.
    Date(Date32Builder),
    /// `time`.
    Time(Time64MicrosecondBuilder),
    /// `timestamp` and `timestamptz`.
    Timestamp(TimestampMicrosecondBuilder),
    /// `interval`.
    Interval(IntervalMonthDayNanoBuilder),
}

impl ColumnBuilder {
    /// An empty column of this type.
    #[must_use]
    pub fn new(column_type: ColumnType) -> Self {
        Self::with_capacity(column_type, ROWS_EXPECTED)
    }

    /// An empty column of this type with room for so many values.
    #[must_use]
    pub fn with_capacity(column_type: ColumnType, rows: usize) -> Self {
        match column_type {
            ColumnType::Scalar(element) => Self::Scalar(ScalarBuilder::with_capacity(element, rows)),
            ColumnType::Array(element) => {
                let elements = ScalarBuilder::with_capacity(element, rows);
                Self::Array(ListBuilder::with_capacity(elements, rows).with_field(item_field(element)))
            }
        }
    }

    /// Appends a value; `None` is NULL.
    ///
    /// # Errors
    /// `22008` for an interval whose time Arrow cannot hold; `XX001` for a damaged array.
    pub fn append(&mut self, value: Option<Value<'_>>) -> Result<(), SqlError> {
        match (self, value) {
            (Self::Scalar(builder), value) => builder.append(value),
            (Self::Array(builder), Some(Value::Array(array))) => {
                for element in array.elements()? {
                    builder.values().append(element)?;
                }
                builder.append(true);
                Ok(())
            }
            (Self::Array(builder), None) => {
                builder.append(false);
                Ok(())
            }
            (Self::Array(_), Some(_)) => Err(mismatch()),
        }
    }

    /// Ends the column; the builder is empty then.
    pub fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Scalar(builder) => builder.finish(),
            Self::Array(builder) => Arc::new(builder.finish()),
        }
    }
}

macro_rules! each {
    ($self:expr, $builder:ident => $body:expr) => {
        match $self {
            ScalarBuilder::Boolean($builder) => $body,
            ScalarBuilder::SmallInt($builder) => $body,
            ScalarBuilder::Integer($builder) => $body,
            ScalarBuilder::BigInt($builder) => $body,
            ScalarBuilder::Real($builder) => $body,
            ScalarBuilder::Double($builder) => $body,
            ScalarBuilder::Numeric($builder) => $body,
            ScalarBuilder::Text($builder) => $body,
            ScalarBuilder::Bytea($builder) => $body,
            ScalarBuilder::Date($builder) => $body,
            ScalarBuilder::Time($builder) => $body,
            ScalarBuilder::Timestamp($builder) => $body,
            ScalarBuilder::Interval($builder) => $body,
        }
    };
}

impl ScalarBuilder {
    fn with_capacity(element: ElementType, rows: usize) -> Self {
        match element {
            ElementType::Boolean => Self::Boolean(BooleanBuilder::with_capacity(rows)),
            ElementType::SmallInt => Self::SmallInt(Int16Builder::with_capacity(rows)),
            ElementType::Integer => Self::Integer(Int32Builder::with_capacity(rows)),
            ElementType::BigInt => Self::BigInt(Int64Builder::with_capacity(rows)),
            ElementType::Real => Self::Real(Float32Builder::with_capacity(rows)),
            ElementType::Double => Self::Double(Float64Builder::with_capacity(rows)),
            ElementType::Numeric { .. } => {
                Self::Numeric(Decimal128Builder::with_capacity(rows).with_data_type(super::element_arrow_type(element)))
            }
            ElementType::Text
            | ElementType::Varchar(_)
            | ElementType::Char(_)
            | ElementType::Uuid
            | ElementType::Jsonb => Self::Text(StringBuilder::with_capacity(rows, rows * TEXT_BYTES_EXPECTED)),
            ElementType::Bytea => Self::Bytea(BinaryBuilder::with_capacity(rows, rows * TEXT_BYTES_EXPECTED)),
            ElementType::Date => Self::Date(Date32Builder::with_capacity(rows)),
            ElementType::Time(_) => Self::Time(Time64MicrosecondBuilder::with_capacity(rows)),
            ElementType::Timestamp(_) => Self::Timestamp(TimestampMicrosecondBuilder::with_capacity(rows)),
            ElementType::TimestampTz(_) => {
                Self::Timestamp(TimestampMicrosecondBuilder::with_capacity(rows).with_timezone(UTC))
            }
            ElementType::Interval => Self::Interval(IntervalMonthDayNanoBuilder::with_capacity(rows)),
        }
    }

    fn append(&mut self, value: Option<Value<'_>>) -> Result<(), SqlError> {
        let Some(value) = value else {
            each!(self, builder => builder.append_null());
            return Ok(());
        };
        match (self, value) {
            (Self::Boolean(builder), Value::Boolean(v)) => builder.append_value(v),
            (Self::SmallInt(builder), Value::SmallInt(v)) => builder.append_value(v),
            (Self::Integer(builder), Value::Integer(v)) => builder.append_value(v),
            (Self::BigInt(builder), Value::BigInt(v)) => builder.append_value(v),
            (Self::Real(builder), Value::Real(v)) => builder.append_value(v),
            (Self::Double(builder), Value::Double(v)) => builder.append_value(v),
            (Self::Numeric(builder), Value::Numeric(v)) => builder.append_value(v),
            (Self::Text(builder), Value::Text(v) | Value::Jsonb(v)) => builder.append_value(v),
            (Self::Text(builder), Value::Uuid(v)) => {
                let mut buffer = Uuid::encode_buffer();
                builder.append_value(Uuid::from_bytes(v).hyphenated().encode_lower(&mut buffer));
            }
            (Self::Bytea(builder), Value::Bytea(v)) => builder.append_value(v),
            (Self::Date(builder), Value::Date(v)) => builder.append_value(v),
            (Self::Time(builder), Value::Time(v)) => builder.append_value(v),
            (Self::Timestamp(builder), Value::Timestamp(v) | Value::TimestampTz(v)) => builder.append_value(v),
            (Self::Interval(builder), Value::Interval(v)) => builder.append_value(arrow_interval(v)?),
            _ => return Err(mismatch()),
        }
        Ok(())
    }
}

impl ArrayBuilder for ScalarBuilder {
    fn len(&self) -> usize {
        each!(self, builder => builder.len())
    }

    fn finish(&mut self) -> ArrayRef {
        each!(self, builder => Arc::new(builder.finish()))
    }

    fn finish_cloned(&self) -> ArrayRef {
        each!(self, builder => Arc::new(builder.finish_cloned()))
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn std::any::Any {
        self
    }

    fn into_box_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}

fn arrow_interval(interval: Interval) -> Result<IntervalMonthDayNano, SqlError> {
    let nanoseconds = interval.micros.checked_mul(1_000);
    let out_of_range =
        || SqlError::new(sqlstate::DATETIME_FIELD_OVERFLOW, "interval out of range: its time part exceeds 292 years");
    Ok(IntervalMonthDayNano::new(interval.months, interval.days, nanoseconds.ok_or_else(out_of_range)?))
}

fn mismatch() -> SqlError {
    SqlError::internal("a stored value is not of its column's type")
}

/// Of a column whose length nobody has told.
const ROWS_EXPECTED: usize = 1024;
/// Of a text, or of bytes.
const TEXT_BYTES_EXPECTED: usize = 16;
