//! Values out of Arrow columns in their canonical types.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, IntervalMonthDayNanoType,
    Time64MicrosecondType, TimestampMicrosecondType,
};
use highwater_log::value::{self, ColumnType, ElementType, Interval, OwnedValue, Value};

use crate::error::SqlError;

/// The value in row `row` of a column of this type; NULL is `None`.
///
/// # Errors
/// `XX000` when the column is not of Arrow's type for `column_type` (see [`super::canonical_batch`]); `22P02` for text that is no
/// value of a type that Arrow holds as text.
pub fn value_at(array: &ArrayRef, row: usize, column_type: ColumnType) -> Result<Option<OwnedValue>, SqlError> {
    if array.is_null(row) {
        return Ok(None);
    }
    if *array.data_type() != super::arrow_type(column_type) {
        return Err(SqlError::internal(format!("a column of {} where {column_type} is due", array.data_type())));
    }
    match column_type {
        ColumnType::Scalar(element) => scalar_at(array, row, element).map(Some),
        ColumnType::Array(element) => {
            let items = array.as_list::<i32>().value(row);
            let values = (0..items.len()).map(|item| value_at(&items, item, element.into()));
            let values = values.collect::<Result<Vec<_>, _>>()?;
            let borrowed: Vec<_> = values.iter().map(|value| value.as_ref().map(OwnedValue::as_value)).collect();
            let mut stored = Vec::new();
            value::Array::encode(element, &borrowed, &mut stored)?;
            Ok(Some(OwnedValue::Array { element, stored }))
        }
    }
}

fn scalar_at(array: &ArrayRef, row: usize, element: ElementType) -> Result<OwnedValue, SqlError> {
    let value = match element {
        ElementType::Boolean => Value::Boolean(array.as_boolean().value(row)),
        ElementType::SmallInt => Value::SmallInt(array.as_primitive::<Int16Type>().value(row)),
        ElementType::Integer => Value::Integer(array.as_primitive::<Int32Type>().value(row)),
        ElementType::BigInt => Value::BigInt(array.as_primitive::<Int64Type>().value(row)),
        ElementType::Real => Value::Real(array.as_primitive::<Float32Type>().value(row)),
        ElementType::Double => Value::Double(array.as_primitive::<Float64Type>().value(row)),
        ElementType::Numeric { .. } => Value::Numeric(array.as_primitive::<Decimal128Type>().value(row)),
        ElementType::Date => Value::Date(array.as_primitive::<Date32Type>().value(row)),
        ElementType::Time(_) => Value::Time(array.as_primitive::<Time64MicrosecondType>().value(row)),
        ElementType::Timestamp(_) => Value::Timestamp(array.as_primitive::<TimestampMicrosecondType>().value(row)),
        ElementType::TimestampTz(_) => Value::TimestampTz(array.as_primitive::<TimestampMicrosecondType>().value(row)),
        ElementType::Interval => {
            let interval = array.as_primitive::<IntervalMonthDayNanoType>().value(row);
            let micros = interval.nanoseconds / 1_000;
            Value::Interval(Interval { months: interval.months, days: interval.days, micros })
        }
        ElementType::Bytea => return Ok(OwnedValue::Bytea(array.as_binary::<i32>().value(row).to_owned())),
        ElementType::Text | ElementType::Varchar(_) | ElementType::Char(_) => {
            return Ok(OwnedValue::Text(array.as_string::<i32>().value(row).to_owned()));
        }
        ElementType::Jsonb => return Ok(OwnedValue::Jsonb(array.as_string::<i32>().value(row).to_owned())),
        ElementType::Uuid => {
            let text = array.as_string::<i32>().value(row);
            return Ok(value::parse_text(element.into(), text, value::Excess::Refused)?);
        }
    };
    Ok(OwnedValue::Plain(value))
}

/// Appends the value in row `row` in PostgreSQL's text form; `false`: it is NULL, and nothing is appended.
///
/// # Errors
/// As [`value_at`].
pub fn text_at(array: &ArrayRef, row: usize, column_type: ColumnType, out: &mut String) -> Result<bool, SqlError> {
    if array.is_null(row) {
        return Ok(false);
    }
    let is_text = matches!(
        column_type,
        ColumnType::Scalar(
            ElementType::Text | ElementType::Varchar(_) | ElementType::Char(_) | ElementType::Jsonb | ElementType::Uuid
        )
    );
    if let Some(strings) = array.as_string_opt::<i32>().filter(|_| is_text) {
        out.push_str(strings.value(row));
        return Ok(true);
    }
    let Some(value) = value_at(array, row, column_type)? else { return Ok(false) };
    value::write_text(column_type, value.as_value(), out)?;
    Ok(true)
}
