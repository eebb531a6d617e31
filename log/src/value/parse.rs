//! Values from PostgreSQL's text form: what its input functions accept.
//!
//! [`super::write_text`] writes what this reads. Not taken, and refused as invalid: words that depend on the clock (`now`,
//! `today`), dates with month names or in other orders than year, month, day, named time zones but `UTC` and its synonyms.

mod array;
mod calendar;
mod interval;
mod json;
mod number;

#[cfg(test)]
mod tests;

pub use json::canonical_json;
pub use number::parse_decimal;

use super::{ColumnType, ElementType, OwnedValue, Value};

/// What happens to a text that is longer than its `varchar(n)` or `char(n)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// It is an error, unless only blanks are lost: assignment to a column.
    Refused,
    /// It is cut: an explicit cast.
    Cut,
}

/// Why a text is no value of a type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// The text is not in the type's form (`22P02`).
    #[error("invalid input syntax for type {column_type}: \"{text}\"")]
    Invalid {
        /// The type.
        column_type: ColumnType,
        /// The text.
        text: String,
    },
    /// The text is no date or time (`22007`).
    #[error("invalid input syntax for type {column_type}: \"{text}\"")]
    InvalidTime {
        /// The type.
        column_type: ColumnType,
        /// The text.
        text: String,
    },
    /// The value does not fit the type (`22003`).
    #[error("value \"{text}\" is out of range for type {column_type}")]
    OutOfRange {
        /// The type.
        column_type: ColumnType,
        /// The value.
        text: String,
    },
    /// A date, a time or a field of one does not exist or cannot be represented (`22008`).
    #[error("date/time field value out of range: \"{text}\"")]
    TimeOutOfRange {
        /// The text.
        text: String,
    },
    /// The text is longer than the type allows (`22001`).
    #[error("value too long for type {column_type}")]
    TooLong {
        /// The type.
        column_type: ColumnType,
    },
}

impl ValueError {
    pub(crate) fn invalid(column_type: impl Into<ColumnType>, text: &str) -> Self {
        Self::Invalid { column_type: column_type.into(), text: shortened(text) }
    }

    pub(crate) fn out_of_range(column_type: impl Into<ColumnType>, text: &str) -> Self {
        Self::OutOfRange { column_type: column_type.into(), text: shortened(text) }
    }

    fn invalid_time(element: ElementType, text: &str) -> Self {
        Self::InvalidTime { column_type: element.into(), text: shortened(text) }
    }

    fn time_out_of_range(text: &str) -> Self {
        Self::TimeOutOfRange { text: shortened(text) }
    }
}

/// The value that `text` says in PostgreSQL's text form of `column_type`.
///
/// # Errors
/// [`ValueError`].
pub fn parse_text(column_type: ColumnType, text: &str, excess: Excess) -> Result<OwnedValue, ValueError> {
    match column_type {
        ColumnType::Scalar(element) => parse_scalar(element, text, excess),
        ColumnType::Array(element) => array::parse(element, text, excess),
    }
}

fn parse_scalar(element: ElementType, text: &str, excess: Excess) -> Result<OwnedValue, ValueError> {
    let trimmed = text.trim_matches(|c: char| c.is_ascii_whitespace());
    let value = match element {
        ElementType::Boolean => Value::Boolean(parse_boolean(trimmed, text)?),
        ElementType::SmallInt => Value::SmallInt(number::parse_integer(element, trimmed)?),
        ElementType::Integer => Value::Integer(number::parse_integer(element, trimmed)?),
        ElementType::BigInt => Value::BigInt(number::parse_integer(element, trimmed)?),
        ElementType::Real => Value::Real(number::parse_real(trimmed)?),
        ElementType::Double => Value::Double(number::parse_double(trimmed)?),
        ElementType::Numeric { precision, scale } => Value::Numeric(number::parse_numeric(precision, scale, trimmed)?),
        ElementType::Date => Value::Date(calendar::parse_date(trimmed)?),
        ElementType::Time(digits) => Value::Time(calendar::parse_time(digits, trimmed)?),
        ElementType::Timestamp(digits) => Value::Timestamp(calendar::parse_timestamp(element, digits, trimmed)?),
        ElementType::TimestampTz(digits) => Value::TimestampTz(calendar::parse_timestamp(element, digits, trimmed)?),
        ElementType::Interval => Value::Interval(interval::parse(trimmed)?),
        ElementType::Uuid => Value::Uuid(parse_uuid(trimmed)?),
        ElementType::Text | ElementType::Varchar(_) | ElementType::Char(_) => {
            return fit_text(element, text, excess).map(OwnedValue::Text);
        }
        ElementType::Bytea => return parse_bytea(text).map(OwnedValue::Bytea),
        ElementType::Jsonb => return canonical_json(text).map(OwnedValue::Jsonb),
    };
    Ok(OwnedValue::Plain(value))
}

/// A text as a column of a text type holds it: `varchar(n)` checked or cut, `char(n)` padded too.
///
/// # Errors
/// [`ValueError::TooLong`]; [`ValueError::Invalid`] for a zero byte, which PostgreSQL's text cannot hold either.
pub fn fit_text(element: ElementType, text: &str, excess: Excess) -> Result<String, ValueError> {
    if text.contains('\0') {
        return Err(ValueError::invalid(element, "a text with a zero byte"));
    }
    let limit = match element {
        ElementType::Varchar(Some(limit)) | ElementType::Char(limit) => limit as usize,
        _ => return Ok(text.to_owned()),
    };
    let count = text.chars().count();
    if count > limit {
        let end = text.char_indices().nth(limit).map_or(text.len(), |(end, _)| end);
        let is_cut = excess == Excess::Cut || text[end..].bytes().all(|byte| byte == b' ');
        return if is_cut {
            Ok(text[..end].to_owned())
        } else {
            Err(ValueError::TooLong { column_type: element.into() })
        };
    }
    let missing = if let ElementType::Char(_) = element { limit - count } else { 0 };
    let mut fitted = String::with_capacity(text.len() + missing);
    fitted.push_str(text);
    fitted.extend(std::iter::repeat_n(' ', missing));
    Ok(fitted)
}

/// A time of day or a point in time in microseconds, rounded to a type's digits of a second as PostgreSQL rounds them.
#[must_use]
pub fn round_micros(micros: i64, digits: u8) -> i64 {
    if digits >= 6 || micros == i64::MIN || micros == i64::MAX {
        return micros;
    }
    let unit = 10_i64.pow(6 - u32::from(digits));
    let half = unit / 2;
    // Halves go away from zero, as PostgreSQL's AdjustTimestampForTypmod does.
    let rounded = if micros >= 0 {
        micros.saturating_add(half) / unit
    } else {
        -(micros.saturating_neg().saturating_add(half) / unit)
    };
    rounded.saturating_mul(unit)
}

fn parse_boolean(text: &str, whole: &str) -> Result<bool, ValueError> {
    let word = text.to_ascii_lowercase();
    let is_start_of = |full: &str| !word.is_empty() && full.starts_with(&word);
    match word.as_str() {
        "1" | "on" => Ok(true),
        "0" | "of" | "off" => Ok(false),
        _ if is_start_of("true") || is_start_of("yes") => Ok(true),
        _ if is_start_of("false") || is_start_of("no") => Ok(false),
        _ => Err(ValueError::invalid(ElementType::Boolean, whole)),
    }
}

fn parse_uuid(text: &str) -> Result<[u8; 16], ValueError> {
    let invalid = || ValueError::invalid(ElementType::Uuid, text);
    let inner = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}').ok_or_else(invalid)?,
        None => text,
    };
    // PostgreSQL takes a hyphen after any group of four digits.
    let mut digits = String::with_capacity(32);
    for (index, part) in inner.split('-').enumerate() {
        if part.is_empty() || !part.len().is_multiple_of(4) || (index > 0 && digits.is_empty()) {
            return Err(invalid());
        }
        digits.push_str(part);
    }
    if digits.len() != 32 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(invalid());
    }
    u128::from_str_radix(&digits, 16).map(u128::to_be_bytes).map_err(|_| invalid())
}

fn parse_bytea(text: &str) -> Result<Vec<u8>, ValueError> {
    let invalid = || ValueError::invalid(ElementType::Bytea, text);
    if let Some(digits) = text.strip_prefix("\\x") {
        let digits: Vec<u8> = digits.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        if !digits.len().is_multiple_of(2) {
            return Err(invalid());
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
        let pairs = digits.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?));
        return pairs.collect::<Option<Vec<u8>>>().ok_or_else(invalid);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            out.push(byte);
        } else if let Some(after) = rest.strip_prefix(b"\\") {
            out.push(b'\\');
            rest = after;
        } else {
            let octal = rest.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
            let value = octal.filter(|digits| digits.bytes().all(|byte| (b'0'..b'8').contains(&byte)));
            let value = value.and_then(|digits| u16::from_str_radix(digits, 8).ok());
            out.push(value.and_then(|value| u8::try_from(value).ok()).ok_or_else(invalid)?);
            rest = &rest[3..];
        }
    }
    Ok(out)
}

/// Errors quote what they were given, but not megabytes of it.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS_MAX) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

const QUOTED_CHARS_MAX: usize = 200;
