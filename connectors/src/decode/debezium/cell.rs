//! Cells of events as values of columns.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use highwater_log::value::{
    Array, ColumnType, ElementType, Excess, Interval, OwnedValue, Value, ValueError, fit_text, parse_text, round_micros,
};
use serde_json::value::RawValue;

/// How the cells of a column are written, beyond what its type tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CellEncoding {
    /// As `time.precision.mode=adaptive` and `decimal.handling.mode=string` write the column's type: times of at most three digits
    /// of a second in milliseconds, others in microseconds.
    #[default]
    Adaptive,
    /// Times in milliseconds.
    Milliseconds,
    /// Times in microseconds.
    Microseconds,
    /// Times in nanoseconds.
    Nanoseconds,
    /// Decimals as the base64 of their unscaled big-endian integer, of this scale.
    Unscaled(u8),
}

/// A cell that is no value of its column.
#[derive(Debug, thiserror::Error)]
pub enum CellError {
    /// The value does not fit the column's type.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// The JSON is of another kind than values of the type are written in.
    #[error("{cell} is no {column_type}")]
    Kind {
        /// The cell, shortened.
        cell: String,
        /// The column's type.
        column_type: ColumnType,
    },
    /// The upstream left the value out because it did not change.
    #[error("the value is marked as unchanged, and no row here has it")]
    Unavailable,
}

/// A cell as a value of a column; NULL is `None`.
///
/// # Errors
/// [`CellError`]; [`CellError::Unavailable`] for the marker of an unchanged TOAST value, which is no value.
pub fn decode_cell(
    cell: &RawValue,
    column_type: ColumnType,
    encoding: CellEncoding,
) -> Result<Option<OwnedValue>, CellError> {
    let text = cell.get();
    if text == "null" {
        return Ok(None);
    }
    if is_unavailable(text) {
        return Err(CellError::Unavailable);
    }
    match column_type {
        ColumnType::Scalar(element) => scalar(text, element, encoding).map(Some),
        ColumnType::Array(element) => {
            let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| kind(text, column_type))?;
            // An array's unavailable value is the marker as its only element.
            if let [only] = items[..]
                && is_unavailable(only.get())
            {
                return Err(CellError::Unavailable);
            }
            if is_unavailable_array(&items) {
                return Err(CellError::Unavailable);
            }
            let values = items.into_iter().map(|item| match item.get() {
                "null" => Ok(None),
                text => scalar(text, element, encoding).map(Some),
            });
            let values = values.collect::<Result<Vec<_>, CellError>>()?;
            let borrowed: Vec<_> = values.iter().map(|value| value.as_ref().map(OwnedValue::as_value)).collect();
            let mut stored = Vec::new();
            Array::encode(element, &borrowed, &mut stored).map_err(|_| kind(text, column_type))?;
            Ok(Some(OwnedValue::Array { element, stored }))
        }
    }
}

/// The marker, as itself and as the bytes of a bytea.
fn is_unavailable(text: &str) -> bool {
    text == "\"__debezium_unavailable_value\"" || text == "\"X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==\""
}

/// Arrays whose elements are numbers carry the marker's bytes, arrays of uuids the marker's name-based UUID.
fn is_unavailable_array(items: &[&RawValue]) -> bool {
    if let [only] = items
        && only.get().trim_matches('"') == UNAVAILABLE_UUID
    {
        return true;
    }
    let marker = b"__debezium_unavailable_value";
    items.len() == marker.len() && items.iter().zip(marker).all(|(item, byte)| item.get() == byte.to_string())
}

fn scalar(cell: &str, element: ElementType, encoding: CellEncoding) -> Result<OwnedValue, CellError> {
    let mismatch = || kind(cell, element.into());
    let string = || text_of(cell).ok_or_else(mismatch);
    let is_string = cell.starts_with('"');
    let plain = |value: Value<'static>| Ok(OwnedValue::Plain(value));
    match element {
        ElementType::Boolean => match cell {
            "true" => plain(Value::Boolean(true)),
            "false" => plain(Value::Boolean(false)),
            _ => Err(mismatch()),
        },
        ElementType::SmallInt | ElementType::Integer | ElementType::BigInt if !is_string => {
            Ok(parse_text(element.into(), cell, Excess::Refused)?)
        }
        // Numbers, or one of the words that JSON has no number for.
        ElementType::Real | ElementType::Double => {
            let text = if is_string { string()? } else { Cow::Borrowed(cell) };
            Ok(parse_text(element.into(), &text, Excess::Refused)?)
        }
        ElementType::Numeric { scale, .. } => match encoding {
            CellEncoding::Unscaled(from) => {
                let unscaled = unscaled(&string()?).ok_or_else(mismatch)?;
                let text = decimal_text(unscaled, from);
                if from > scale {
                    // The column's scale would round it away.
                    return Err(ValueError::OutOfRange { column_type: element.into(), text }.into());
                }
                Ok(parse_text(element.into(), &text, Excess::Refused)?)
            }
            _ => {
                let text = if is_string { string()? } else { Cow::Borrowed(cell) };
                Ok(parse_text(element.into(), &text, Excess::Refused)?)
            }
        },
        ElementType::Text | ElementType::Varchar(_) | ElementType::Char(_) if is_string => {
            Ok(OwnedValue::Text(fit_text(element, &string()?, Excess::Refused)?))
        }
        ElementType::Bytea if is_string => STANDARD.decode(&*string()?).map(OwnedValue::Bytea).map_err(|_| mismatch()),
        ElementType::Uuid | ElementType::Jsonb | ElementType::TimestampTz(_) if is_string => {
            Ok(parse_text(element.into(), &string()?, Excess::Refused)?)
        }
        ElementType::Date if !is_string => {
            let days: i64 = cell.parse().map_err(|_| mismatch())?;
            // What PostgreSQL's driver makes of an infinite date is no day any more.
            if !(DAYS_MIN..=DAYS_MAX).contains(&days) {
                let text = format!("{cell} days since 1970 (an infinite date loses its value on the way)");
                return Err(ValueError::TimeOutOfRange { text }.into());
            }
            plain(Value::Date(i32::try_from(days).map_err(|_| mismatch())?))
        }
        ElementType::Time(digits) if !is_string => {
            let micros = micros(cell, digits, encoding).ok_or_else(mismatch)?;
            if !(0..=MICROS_PER_DAY).contains(&micros) {
                return Err(ValueError::TimeOutOfRange { text: cell.to_owned() }.into());
            }
            plain(Value::Time(round_micros(micros, digits)))
        }
        ElementType::Timestamp(_) if is_string => Ok(parse_text(element.into(), &string()?, Excess::Refused)?),
        ElementType::Timestamp(digits) => match cell {
            POSITIVE_INFINITY => plain(Value::Timestamp(i64::MAX)),
            NEGATIVE_INFINITY => plain(Value::Timestamp(i64::MIN)),
            _ => {
                let micros = micros(cell, digits, encoding).ok_or_else(mismatch)?;
                plain(Value::Timestamp(round_micros(micros, digits)))
            }
        },
        ElementType::Interval if is_string => Ok(parse_text(element.into(), &string()?, Excess::Refused)?),
        ElementType::Interval => {
            // A duration: what months and days it was made of is lost upstream.
            let micros = micros(cell, 6, encoding).ok_or_else(mismatch)?;
            plain(Value::Interval(Interval { micros, ..Interval::default() }))
        }
        _ => Err(mismatch()),
    }
}

/// What a JSON string says; `None`: it is none.
fn text_of(cell: &str) -> Option<Cow<'_, str>> {
    match cell.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        // Nothing is escaped.
        Some(text) if memchr::memchr(b'\\', text.as_bytes()).is_none() => Some(Cow::Borrowed(text)),
        _ => serde_json::from_str(cell).ok().map(Cow::Owned),
    }
}

/// A time in microseconds.
fn micros(cell: &str, digits: u8, encoding: CellEncoding) -> Option<i64> {
    let number: i64 = cell.parse().ok()?;
    match encoding {
        CellEncoding::Milliseconds => number.checked_mul(1_000),
        CellEncoding::Nanoseconds => Some(number.div_euclid(1_000)),
        CellEncoding::Adaptive if digits <= 3 => number.checked_mul(1_000),
        CellEncoding::Adaptive | CellEncoding::Microseconds | CellEncoding::Unscaled(_) => Some(number),
    }
}

/// The integer that base64 of big-endian two's complement says.
fn unscaled(text: &str) -> Option<i128> {
    let bytes = STANDARD.decode(text).ok()?;
    if bytes.len() > 16 || bytes.is_empty() {
        return None;
    }
    let sign = if bytes[0] & 0x80 == 0 { 0 } else { 0xff };
    let mut wide = [sign; 16];
    wide[16 - bytes.len()..].copy_from_slice(&bytes);
    Some(i128::from_be_bytes(wide))
}

fn decimal_text(unscaled: i128, scale: u8) -> String {
    format!("{unscaled}e-{scale}")
}

fn kind(cell: &str, column_type: ColumnType) -> CellError {
    CellError::Kind { cell: cell.chars().take(80).collect(), column_type }
}

/// The version 3 UUID that Java makes of the marker.
const UNAVAILABLE_UUID: &str = "b68a35a7-17ad-35b3-af2a-ae46edb4545a";
/// 4714-11-24 BC and 5874897-12-31.
const DAYS_MIN: i64 = -2_440_588;
const DAYS_MAX: i64 = 2_145_042_905;
const MICROS_PER_DAY: i64 = 86_400_000_000;
/// What PostgreSQL's driver makes of an infinite timestamp.
const POSITIVE_INFINITY: &str = "9223372036825200000";
const NEGATIVE_INFINITY: &str = "-9223372036832400000";
