//! Keys: values in an encoding whose byte order is SQL's order, under the C collation, ascending, NULLs last.
//!
//! ```text
//! key     := element*                           one per key column, in key order
//! element := 01 value | 02                      a value, or NULL
//!
//! boolean            1 byte
//! integers, date, time, timestamps, numeric     big-endian, sign bit flipped (numeric: 16 bytes, unscaled)
//! real, double       big-endian IEEE bits, all flipped if negative, else the sign bit; −0 is 0, every NaN the greatest value
//! interval           its comparable length as a 16-byte integer: `1 mon` and `30 days` are one key
//! uuid               16 bytes
//! text, bytea        the bytes, 00 written as 00 FF, ended by 00 00; char(n) without its trailing blanks
//! array              its elements, ended by 00
//! ```
//!
//! No key is a prefix of another one of the same columns, and keys of the leading columns alone are prefixes of all keys that
//! begin with these values. Equal keys mean values that SQL holds equal.

use crate::position::RowId;
use crate::row::CodecError;
use crate::value::{ColumnType, ElementType, Value};

mod head;
#[cfg(test)]
mod tests;

pub use head::HeadKey;

/// The longest encoded key, in bytes; longer ones are refused with `54000`.
pub const KEY_BYTES_MAX: usize = 8 * 1024;

/// Appends the key of `values` to `out`; `None` is NULL.
///
/// # Errors
/// [`CodecError::KeyTooLong`] above [`KEY_BYTES_MAX`], [`CodecError::NoKeyOrder`] for `jsonb`, [`CodecError::TypeMismatch`] when a
/// value is not of its type. `out` then holds a part of the key.
pub fn encode<'v>(
    values: impl IntoIterator<Item = (ColumnType, Option<Value<'v>>)>,
    out: &mut Vec<u8>,
) -> Result<(), CodecError> {
    let start = out.len();
    for (column_type, value) in values {
        put_element(column_type, value, out)?;
        let length = out.len() - start;
        if length > KEY_BYTES_MAX {
            return Err(CodecError::KeyTooLong(length));
        }
    }
    Ok(())
}

/// The key of a row in a table without a primary key: its row id.
#[must_use]
pub const fn of_row_id(id: RowId) -> [u8; 8] {
    id.value().to_be_bytes()
}

fn put_element(column_type: ColumnType, value: Option<Value<'_>>, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let Some(value) = value else {
        out.push(NULL);
        return Ok(());
    };
    out.push(PRESENT);
    let mismatch = CodecError::TypeMismatch { expected: column_type };
    let element = match (column_type, value) {
        (ColumnType::Array(element), Value::Array(array)) if array.element_type() == element => {
            for value in array.elements()? {
                put_element(element.into(), value, out)?;
            }
            out.push(ARRAY_END);
            return Ok(());
        }
        (ColumnType::Array(_), _) => return Err(mismatch),
        (ColumnType::Scalar(element), _) => element,
    };
    match (element, value) {
        (ElementType::Boolean, Value::Boolean(v)) => out.push(u8::from(v)),
        (ElementType::SmallInt, Value::SmallInt(v)) => out.extend_from_slice(&(v ^ i16::MIN).to_be_bytes()),
        (ElementType::Integer, Value::Integer(v)) | (ElementType::Date, Value::Date(v)) => {
            out.extend_from_slice(&(v ^ i32::MIN).to_be_bytes());
        }
        (ElementType::BigInt, Value::BigInt(v))
        | (ElementType::Time(_), Value::Time(v))
        | (ElementType::Timestamp(_), Value::Timestamp(v))
        | (ElementType::TimestampTz(_), Value::TimestampTz(v)) => {
            out.extend_from_slice(&(v ^ i64::MIN).to_be_bytes());
        }
        (ElementType::Real, Value::Real(v)) => {
            let v = if v.is_nan() { f32::NAN } else { v + 0.0 };
            let bits = v.to_bits();
            let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
            out.extend_from_slice(&ordered.to_be_bytes());
        }
        (ElementType::Double, Value::Double(v)) => {
            let v = if v.is_nan() { f64::NAN } else { v + 0.0 };
            let bits = v.to_bits();
            let ordered = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
            out.extend_from_slice(&ordered.to_be_bytes());
        }
        (ElementType::Numeric { .. }, Value::Numeric(v)) => put_i128(v, out),
        (ElementType::Interval, Value::Interval(v)) => put_i128(v.comparable_micros(), out),
        (ElementType::Uuid, Value::Uuid(v)) => out.extend_from_slice(&v),
        (ElementType::Text | ElementType::Varchar(_), Value::Text(text)) => put_bytes(text.as_bytes(), out),
        (ElementType::Char(_), Value::Text(text)) => put_bytes(text.trim_end_matches(' ').as_bytes(), out),
        (ElementType::Bytea, Value::Bytea(bytes)) => put_bytes(bytes, out),
        (ElementType::Jsonb, Value::Jsonb(_)) => return Err(CodecError::NoKeyOrder(column_type)),
        _ => return Err(mismatch),
    }
    Ok(())
}

fn put_i128(value: i128, out: &mut Vec<u8>) {
    out.extend_from_slice(&(value ^ i128::MIN).to_be_bytes());
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    for run in bytes.split_inclusive(|byte| *byte == 0) {
        out.extend_from_slice(run);
        if run.ends_with(&[0]) {
            out.push(ESCAPED_ZERO);
        }
    }
    out.extend_from_slice(&BYTES_END);
}

const PRESENT: u8 = 0x01;
const NULL: u8 = 0x02;
const ARRAY_END: u8 = 0x00;
const ESCAPED_ZERO: u8 = 0xff;
const BYTES_END: [u8; 2] = [0, 0];
