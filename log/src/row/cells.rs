//! The body shared by rows and arrays: a sequence of typed cells.
//!
//! ```text
//! body := wide u8 | nulls ⌈n/8⌉ | fixed part | end offsets | data
//!
//! wide         0: an end offset is a u16, 1: a u32 (chosen when the data is longer than 65,535 bytes)
//! nulls        bit i (LSB first) set: cell i is NULL
//! fixed part   one slot per cell of fixed width, in order, little-endian; zero where the cell is NULL
//! end offsets  one per cell of variable width, in order: where its bytes end in the data
//! data         the bytes of those cells, end to end
//! ```
//!
//! The same cells always give the same bytes.

use super::CodecError;
use crate::value::{Array, ColumnType, ElementType, Interval, Value, Width};

/// Where each cell of a sequence of types lies in a body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CellLayout {
    cells: Vec<(ColumnType, Slot)>,
    fixed_bytes: usize,
    variable_count: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Fixed { offset: usize, width: usize },
    Variable { index: usize },
}

impl CellLayout {
    pub(crate) fn new(types: impl IntoIterator<Item = ColumnType>) -> Self {
        let mut layout = Self::default();
        for column_type in types {
            let slot = match column_type.width() {
                Width::Fixed(width) => {
                    let offset = layout.fixed_bytes;
                    layout.fixed_bytes += width;
                    Slot::Fixed { offset, width }
                }
                Width::Variable => {
                    layout.variable_count += 1;
                    Slot::Variable { index: layout.variable_count - 1 }
                }
            };
            layout.cells.push((column_type, slot));
        }
        layout
    }

    pub(crate) fn len(&self) -> usize {
        self.cells.len()
    }
}

/// A body, taken apart but not yet decoded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cells<'a> {
    nulls: &'a [u8],
    fixed: &'a [u8],
    offsets: &'a [u8],
    offset_width: usize,
    data: &'a [u8],
}

impl<'a> Cells<'a> {
    /// Takes `body` apart, checking that its length is what the layout and the offsets say.
    pub(crate) fn parse(layout: &CellLayout, body: &'a [u8]) -> Result<Self, CodecError> {
        let (wide, rest) = body.split_first().ok_or(CodecError::Malformed("empty body"))?;
        let offset_width = match wide {
            0 => 2,
            1 => 4,
            _ => return Err(CodecError::Malformed("offset width")),
        };
        let (nulls, rest) = split(rest, layout.len().div_ceil(8), "null bitmap")?;
        let (fixed, rest) = split(rest, layout.fixed_bytes, "fixed part")?;
        let (offsets, data) = split(rest, layout.variable_count * offset_width, "offsets")?;
        let cells = Self { nulls, fixed, offsets, offset_width, data };
        if cells.end_of(layout.variable_count)? != data.len() {
            return Err(CodecError::Malformed("data length"));
        }
        Ok(cells)
    }

    /// The value of cell `index` of `layout`, NULL as `None`.
    pub(crate) fn value(&self, layout: &CellLayout, index: usize) -> Result<Option<Value<'a>>, CodecError> {
        let (column_type, slot) = layout.cells[index];
        if self.nulls[index / 8] & (1 << (index % 8)) != 0 {
            return Ok(None);
        }
        match slot {
            Slot::Fixed { offset, width } => fixed_value(column_type, &self.fixed[offset..offset + width]),
            Slot::Variable { index } => {
                let (start, end) = (self.end_of(index)?, self.end_of(index + 1)?);
                let bytes = self.data.get(start..end).ok_or(CodecError::Malformed("offset"))?;
                variable_value(column_type, bytes)
            }
        }
        .map(Some)
    }

    /// Where the first `count` variable cells end.
    fn end_of(&self, count: usize) -> Result<usize, CodecError> {
        let Some(last) = count.checked_sub(1) else { return Ok(0) };
        let bytes = &self.offsets[last * self.offset_width..][..self.offset_width];
        Ok(match *bytes {
            [a, b] => usize::from(u16::from_le_bytes([a, b])),
            [a, b, c, d] => u32::from_le_bytes([a, b, c, d]) as usize,
            _ => return Err(CodecError::Malformed("offset width")),
        })
    }
}

/// Appends the body of `cells` to `out`.
///
/// # Errors
/// [`CodecError::TypeMismatch`] when a value is not of its cell's type; `out` then holds a part of the body.
pub(crate) fn encode<'v, I>(cells: I, out: &mut Vec<u8>) -> Result<(), CodecError>
where
    I: ExactSizeIterator<Item = (ColumnType, Option<Value<'v>>)> + Clone,
{
    let wide_at = out.len();
    out.push(0);
    let nulls_at = out.len();
    out.resize(nulls_at + cells.len().div_ceil(8), 0);
    let mut variable_bytes = 0_usize;
    for (index, (column_type, value)) in cells.clone().enumerate() {
        if value.is_none() {
            out[nulls_at + index / 8] |= 1 << (index % 8);
        }
        match (column_type.width(), value) {
            (Width::Fixed(width), None) => out.resize(out.len() + width, 0),
            (Width::Fixed(_), Some(value)) => put_fixed(column_type, value, out)?,
            (Width::Variable, None) => {}
            (Width::Variable, Some(value)) => variable_bytes += variable_bytes_of(column_type, value)?.len(),
        }
    }
    let is_wide = variable_bytes > usize::from(u16::MAX);
    out[wide_at] = u8::from(is_wide);
    let mut end = 0_usize;
    for (_, value) in cells.clone().filter(|(column_type, _)| column_type.width() == Width::Variable) {
        end += value.map_or(0, |value| raw_bytes(value).map_or(0, <[u8]>::len));
        if is_wide {
            out.extend_from_slice(&u32::try_from(end).map_err(|_| CodecError::TooLarge)?.to_le_bytes());
        } else {
            out.extend_from_slice(&(end as u16).to_le_bytes());
        }
    }
    for (_, value) in cells {
        if let Some(bytes) = value.and_then(raw_bytes) {
            out.extend_from_slice(bytes);
        }
    }
    Ok(())
}

/// Decodes a body of cells of the given types.
pub(crate) fn decode_all<'a>(
    types: impl IntoIterator<Item = ColumnType>,
    body: &'a [u8],
) -> Result<Vec<Option<Value<'a>>>, CodecError> {
    let layout = CellLayout::new(types);
    let cells = Cells::parse(&layout, body)?;
    (0..layout.len()).map(|index| cells.value(&layout, index)).collect()
}

/// Appends `value` as unsigned LEB128.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads an unsigned LEB128 of at most 32 bits, and returns what follows it.
pub(crate) fn take_varint(bytes: &[u8]) -> Result<(u32, &[u8]), CodecError> {
    let mut value = 0_u32;
    for (index, byte) in bytes.iter().enumerate().take(5) {
        let bits = u32::from(byte & 0x7f);
        value |= bits.checked_shl(index as u32 * 7).filter(|v| v >> (index * 7) == bits).ok_or(VARINT_TOO_LONG)?;
        if byte & 0x80 == 0 {
            return Ok((value, &bytes[index + 1..]));
        }
    }
    Err(VARINT_TOO_LONG)
}

const VARINT_TOO_LONG: CodecError = CodecError::Malformed("variable-length integer");

fn split<'a>(bytes: &'a [u8], at: usize, what: &'static str) -> Result<(&'a [u8], &'a [u8]), CodecError> {
    bytes.split_at_checked(at).ok_or(CodecError::Malformed(what))
}

fn put_fixed(column_type: ColumnType, value: Value<'_>, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let mismatch = CodecError::TypeMismatch { expected: column_type };
    let ColumnType::Scalar(element) = column_type else { return Err(mismatch) };
    match (element, value) {
        (ElementType::Boolean, Value::Boolean(v)) => out.push(u8::from(v)),
        (ElementType::SmallInt, Value::SmallInt(v)) => out.extend_from_slice(&v.to_le_bytes()),
        (ElementType::Integer, Value::Integer(v)) | (ElementType::Date, Value::Date(v)) => {
            out.extend_from_slice(&v.to_le_bytes());
        }
        (ElementType::BigInt, Value::BigInt(v))
        | (ElementType::Time(_), Value::Time(v))
        | (ElementType::Timestamp(_), Value::Timestamp(v))
        | (ElementType::TimestampTz(_), Value::TimestampTz(v)) => out.extend_from_slice(&v.to_le_bytes()),
        (ElementType::Real, Value::Real(v)) => out.extend_from_slice(&v.to_le_bytes()),
        (ElementType::Double, Value::Double(v)) => out.extend_from_slice(&v.to_le_bytes()),
        (ElementType::Numeric { .. }, Value::Numeric(v)) => match column_type.width() {
            Width::Fixed(8) => out.extend_from_slice(&i64::try_from(v).map_err(|_| mismatch)?.to_le_bytes()),
            _ => out.extend_from_slice(&v.to_le_bytes()),
        },
        (ElementType::Interval, Value::Interval(v)) => {
            out.extend_from_slice(&v.months.to_le_bytes());
            out.extend_from_slice(&v.days.to_le_bytes());
            out.extend_from_slice(&v.micros.to_le_bytes());
        }
        (ElementType::Uuid, Value::Uuid(v)) => out.extend_from_slice(&v),
        _ => return Err(mismatch),
    }
    Ok(())
}

fn fixed_value(column_type: ColumnType, bytes: &[u8]) -> Result<Value<'static>, CodecError> {
    let ColumnType::Scalar(element) = column_type else { return Err(CodecError::Malformed("fixed width of an array")) };
    Ok(match element {
        ElementType::Boolean => match bytes {
            [0] => Value::Boolean(false),
            [1] => Value::Boolean(true),
            _ => return Err(CodecError::Malformed("boolean")),
        },
        ElementType::SmallInt => Value::SmallInt(i16::from_le_bytes(array(bytes)?)),
        ElementType::Integer => Value::Integer(i32::from_le_bytes(array(bytes)?)),
        ElementType::BigInt => Value::BigInt(i64::from_le_bytes(array(bytes)?)),
        ElementType::Real => Value::Real(f32::from_le_bytes(array(bytes)?)),
        ElementType::Double => Value::Double(f64::from_le_bytes(array(bytes)?)),
        ElementType::Numeric { .. } if bytes.len() == 8 => Value::Numeric(i64::from_le_bytes(array(bytes)?).into()),
        ElementType::Numeric { .. } => Value::Numeric(i128::from_le_bytes(array(bytes)?)),
        ElementType::Date => Value::Date(i32::from_le_bytes(array(bytes)?)),
        ElementType::Time(_) => Value::Time(i64::from_le_bytes(array(bytes)?)),
        ElementType::Timestamp(_) => Value::Timestamp(i64::from_le_bytes(array(bytes)?)),
        ElementType::TimestampTz(_) => Value::TimestampTz(i64::from_le_bytes(array(bytes)?)),
        ElementType::Interval => {
            let (months, rest) = split(bytes, 4, "interval")?;
            let (days, micros) = split(rest, 4, "interval")?;
            Value::Interval(Interval {
                months: i32::from_le_bytes(array(months)?),
                days: i32::from_le_bytes(array(days)?),
                micros: i64::from_le_bytes(array(micros)?),
            })
        }
        ElementType::Uuid => Value::Uuid(array(bytes)?),
        ElementType::Text
        | ElementType::Varchar(_)
        | ElementType::Char(_)
        | ElementType::Bytea
        | ElementType::Jsonb => {
            return Err(CodecError::Malformed("fixed width of a variable type"));
        }
    })
}

fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], CodecError> {
    bytes.try_into().map_err(|_| CodecError::Malformed("fixed width"))
}

/// The bytes of a value that fits `column_type`, a type of variable width.
fn variable_bytes_of<'v>(column_type: ColumnType, value: Value<'v>) -> Result<&'v [u8], CodecError> {
    let fits = match (column_type, value) {
        (ColumnType::Scalar(ElementType::Text | ElementType::Varchar(_) | ElementType::Char(_)), Value::Text(_))
        | (ColumnType::Scalar(ElementType::Bytea), Value::Bytea(_))
        | (ColumnType::Scalar(ElementType::Jsonb), Value::Jsonb(_)) => true,
        (ColumnType::Array(element), Value::Array(array)) => array.element_type() == element,
        _ => false,
    };
    raw_bytes(value).filter(|_| fits).ok_or(CodecError::TypeMismatch { expected: column_type })
}

fn raw_bytes<'v>(value: Value<'v>) -> Option<&'v [u8]> {
    match value {
        Value::Text(text) | Value::Jsonb(text) => Some(text.as_bytes()),
        Value::Bytea(bytes) => Some(bytes),
        Value::Array(array) => Some(array.stored()),
        _ => None,
    }
}

fn variable_value<'a>(column_type: ColumnType, bytes: &'a [u8]) -> Result<Value<'a>, CodecError> {
    let text = || std::str::from_utf8(bytes).map_err(|_| CodecError::Malformed("UTF-8"));
    Ok(match column_type {
        ColumnType::Array(element) => Value::Array(Array::from_stored(element, bytes)),
        ColumnType::Scalar(ElementType::Bytea) => Value::Bytea(bytes),
        ColumnType::Scalar(ElementType::Jsonb) => Value::Jsonb(text()?),
        ColumnType::Scalar(_) => Value::Text(text()?),
    })
}
