//! Values as PostgreSQL writes them in text.

use std::fmt::{self, Write};

use super::calendar::civil_from_days;
use super::{Array, ColumnType, ElementType, Interval, Value};
use crate::row::CodecError;

#[cfg(test)]
mod tests;

/// Appends a value in PostgreSQL's text form (`datestyle` ISO, `intervalstyle` postgres, time zone UTC, `bytea_output` hex): what
/// `COPY` writes before its own escaping. It takes the type for what values alone do not tell: the scale of a numeric.
///
/// # Errors
/// [`CodecError::TypeMismatch`] when the value is not of the type, [`CodecError::Malformed`] when an array is damaged.
pub fn write_text(column_type: ColumnType, value: Value<'_>, out: &mut String) -> Result<(), CodecError> {
    match (column_type, value) {
        (ColumnType::Array(element), Value::Array(array)) if array.element_type() == element => write_array(array, out),
        (ColumnType::Scalar(element), value) => write_scalar(element, value, out),
        (ColumnType::Array(_), _) => Err(CodecError::TypeMismatch { expected: column_type }),
    }
}

fn write_scalar(element: ElementType, value: Value<'_>, out: &mut String) -> Result<(), CodecError> {
    let written = match value {
        Value::Boolean(v) => out.write_str(if v { "t" } else { "f" }),
        Value::SmallInt(v) => write!(out, "{v}"),
        Value::Integer(v) => write!(out, "{v}"),
        Value::BigInt(v) => write!(out, "{v}"),
        Value::Real(v) => write_float(f64::from(v), &format!("{v:e}"), REAL_PLAIN_DIGITS, out),
        Value::Double(v) => write_float(v, &format!("{v:e}"), DOUBLE_PLAIN_DIGITS, out),
        Value::Numeric(v) => match element {
            ElementType::Numeric { scale, .. } => write_numeric(v, scale, out),
            other => return Err(CodecError::TypeMismatch { expected: other.into() }),
        },
        Value::Text(v) | Value::Jsonb(v) => out.write_str(v),
        Value::Bytea(v) => out.write_str("\\x").and_then(|()| v.iter().try_for_each(|byte| write!(out, "{byte:02x}"))),
        Value::Date(v) => write_date(v, out),
        Value::Time(v) => write_time(v, out),
        Value::Timestamp(v) => write_timestamp(v, "", out),
        Value::TimestampTz(v) => write_timestamp(v, "+00", out),
        Value::Interval(v) => write_interval(v, out),
        Value::Uuid(v) => write!(out, "{}", uuid::Uuid::from_bytes(v)),
        Value::Array(array) => return Err(CodecError::TypeMismatch { expected: array.element_type().into() }),
    };
    written.expect("a string takes what is written");
    Ok(())
}

fn write_numeric(unscaled: i128, scale: u8, out: &mut String) -> fmt::Result {
    let digits = format!("{:0width$}", unscaled.unsigned_abs(), width = usize::from(scale) + 1);
    let (whole, fraction) = digits.split_at(digits.len() - usize::from(scale));
    let sign = if unscaled < 0 { "-" } else { "" };
    if fraction.is_empty() { write!(out, "{sign}{whole}") } else { write!(out, "{sign}{whole}.{fraction}") }
}

/// The shortest digits that read back as the same number, in plain notation where the exponent is at least −4 and below
/// `plain_digits`: PostgreSQL's `float8out` since version 12. `scientific` is the number with its shortest digits.
fn write_float(value: f64, scientific: &str, plain_digits: i32, out: &mut String) -> fmt::Result {
    if value.is_nan() {
        return out.write_str("NaN");
    }
    if value.is_infinite() {
        return out.write_str(if value > 0.0 { "Infinity" } else { "-Infinity" });
    }
    let (mantissa, exponent) = scientific.split_once('e').expect("the notation has an exponent");
    let exponent: i32 = exponent.parse().expect("an exponent is a number");
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    if !(-4..plain_digits).contains(&exponent) {
        let (first, rest) = digits.split_at(1);
        let point = if rest.is_empty() { "" } else { "." };
        let exponent_sign = if exponent < 0 { '-' } else { '+' };
        return write!(out, "{sign}{first}{point}{rest}e{exponent_sign}{:02}", exponent.abs());
    }
    let Ok(whole_digits) = usize::try_from(exponent + 1) else {
        return write!(out, "{sign}0.{:0>width$}", digits, width = digits.len() + exponent.unsigned_abs() as usize - 1);
    };
    if whole_digits == 0 {
        return write!(out, "{sign}0.{digits}");
    }
    match digits.split_at_checked(whole_digits) {
        Some((whole, "")) => write!(out, "{sign}{whole}"),
        Some((whole, fraction)) => write!(out, "{sign}{whole}.{fraction}"),
        None => write!(out, "{sign}{digits:0<whole_digits$}"),
    }
}

fn write_date(days: i32, out: &mut String) -> fmt::Result {
    match days {
        i32::MIN => out.write_str("-infinity"),
        i32::MAX => out.write_str("infinity"),
        _ => {
            let (year, month, day) = civil_from_days(i64::from(days));
            write_civil(year, month, day, out)?;
            write_era(year, out)
        }
    }
}

fn write_timestamp(micros: i64, zone: &str, out: &mut String) -> fmt::Result {
    match micros {
        i64::MIN => out.write_str("-infinity"),
        i64::MAX => out.write_str("infinity"),
        _ => {
            let (year, month, day) = civil_from_days(micros.div_euclid(MICROS_PER_DAY));
            write_civil(year, month, day, out)?;
            out.write_char(' ')?;
            write_time(micros.rem_euclid(MICROS_PER_DAY), out)?;
            out.write_str(zone)?;
            write_era(year, out)
        }
    }
}

/// Years before 1 are written by their distance, with an era behind.
fn write_civil(year: i64, month: u32, day: u32, out: &mut String) -> fmt::Result {
    let shown = if year > 0 { year } else { 1 - year };
    write!(out, "{shown:04}-{month:02}-{day:02}")
}

fn write_era(year: i64, out: &mut String) -> fmt::Result {
    if year > 0 { Ok(()) } else { out.write_str(" BC") }
}

/// Time of day from microseconds since midnight; the whole day is `24:00:00`.
fn write_time(micros: i64, out: &mut String) -> fmt::Result {
    let seconds = micros / MICROS_PER_SECOND;
    write!(out, "{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)?;
    write_fraction(micros % MICROS_PER_SECOND, out)
}

fn write_fraction(micros: i64, out: &mut String) -> fmt::Result {
    if micros == 0 {
        return Ok(());
    }
    let digits = format!("{:06}", micros.abs());
    write!(out, ".{}", digits.trim_end_matches('0'))
}

/// PostgreSQL's `intervalstyle` postgres: a part that follows a negative one shows its plus.
fn write_interval(interval: Interval, out: &mut String) -> fmt::Result {
    let mut is_first = true;
    let mut follows_negative = false;
    let parts = [(interval.months / 12, "year"), (interval.months % 12, "mon"), (interval.days, "day")];
    for (count, unit) in parts.into_iter().filter(|(count, _)| *count != 0) {
        let space = if is_first { "" } else { " " };
        let plus = if follows_negative && count > 0 { "+" } else { "" };
        let plural = if count == 1 { "" } else { "s" };
        write!(out, "{space}{plus}{count} {unit}{plural}")?;
        (is_first, follows_negative) = (false, count < 0);
    }
    if interval.micros == 0 && !is_first {
        return Ok(());
    }
    let sign = match (interval.micros < 0, follows_negative) {
        (true, _) => "-",
        (false, true) => "+",
        (false, false) => "",
    };
    let micros = interval.micros.unsigned_abs();
    let seconds = micros / MICROS_PER_SECOND as u64;
    let space = if is_first { "" } else { " " };
    write!(out, "{space}{sign}{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)?;
    write_fraction((micros % MICROS_PER_SECOND as u64) as i64, out)
}

fn write_array(array: Array<'_>, out: &mut String) -> Result<(), CodecError> {
    out.push('{');
    let mut text = String::new();
    for (index, value) in array.elements()?.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        let Some(value) = value else {
            out.push_str("NULL");
            continue;
        };
        text.clear();
        write_scalar(array.element_type(), value, &mut text)?;
        let is_special =
            |c: char| matches!(c, '{' | '}' | ',' | '"' | '\\' | ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c');
        if text.is_empty() || text.eq_ignore_ascii_case("null") || text.contains(is_special) {
            out.push('"');
            for c in text.chars() {
                if matches!(c, '"' | '\\') {
                    out.push('\\');
                }
                out.push(c);
            }
            out.push('"');
        } else {
            out.push_str(&text);
        }
    }
    out.push('}');
    Ok(())
}

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;
/// From this many digits before the point on, the exponent is written.
const DOUBLE_PLAIN_DIGITS: i32 = 15;
const REAL_PLAIN_DIGITS: i32 = 6;
