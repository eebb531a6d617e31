//! Values as Debezium writes them.

use std::fmt::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use highwater_log::value::{ColumnType, ElementType, Interval, Value, write_text};

use super::MILLISECOND_DIGITS;
use crate::event::EncodeError;
use crate::format::json::{write_string, write_value};
use crate::format::marks::INFALLIBLE;

pub(super) fn write_cell(
    column_type: ColumnType,
    value: Option<Value<'_>>,
    out: &mut String,
) -> Result<(), EncodeError> {
    write(column_type, value, false, out)
}

pub(super) fn write_precise(
    column_type: ColumnType,
    value: Option<Value<'_>>,
    out: &mut String,
) -> Result<(), EncodeError> {
    write(column_type, value, true, out)
}

fn write(
    column_type: ColumnType,
    value: Option<Value<'_>>,
    is_precise: bool,
    out: &mut String,
) -> Result<(), EncodeError> {
    let digits = match column_type {
        ColumnType::Scalar(
            ElementType::Time(digits) | ElementType::Timestamp(digits) | ElementType::TimestampTz(digits),
        ) => digits,
        _ => MICROSECOND_DIGITS,
    };
    match value {
        Some(Value::Numeric(unscaled)) if is_precise => write_base64(minimal(&unscaled.to_be_bytes()), out),
        Some(Value::Bytea(bytes)) => write_base64(bytes, out),
        Some(Value::Date(i32::MIN | i32::MAX)) => return Err(EncodeError::Value { value: "an infinite date" }),
        Some(Value::Date(days)) => write!(out, "{days}").expect(INFALLIBLE),
        Some(Value::Time(micros)) => write_micros(micros, digits, out),
        Some(Value::Timestamp(i64::MAX)) => out.push_str(POSITIVE_INFINITY),
        Some(Value::Timestamp(i64::MIN)) => out.push_str(NEGATIVE_INFINITY),
        Some(Value::Timestamp(micros)) => write_micros(micros, digits, out),
        Some(value @ Value::TimestampTz(_)) => {
            let mut text = String::new();
            write_text(column_type, value, &mut text)?;
            // `2026-01-31 12:00:00.5+00`, perhaps with ` BC` behind it, or an infinity.
            write_string(&text.replacen(' ', "T", 1).replacen("+00", "Z", 1), out);
        }
        Some(Value::Interval(interval)) => write_interval(interval, out),
        Some(Value::Jsonb(text)) => write_string(text, out),
        Some(Value::Array(array)) => {
            let element: ColumnType = array.element_type().into();
            out.push('[');
            for (index, item) in array.elements()?.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(element, item, is_precise, out)?;
            }
            out.push(']');
        }
        // Numbers, texts and truth values are as anywhere.
        value => write_value(column_type, value, out)?,
    }
    Ok(())
}

fn write_base64(bytes: &[u8], out: &mut String) {
    out.push('"');
    STANDARD.encode_string(bytes, out);
    out.push('"');
}

/// Big-endian two's complement without the bytes that say nothing.
fn minimal(bytes: &[u8]) -> &[u8] {
    let is_idle = |pair: &[u8]| matches!((pair[0], pair[1] & 0x80), (0, 0) | (0xff, 0x80));
    let idle = bytes.windows(2).take_while(|pair| is_idle(pair)).count();
    &bytes[idle..]
}

/// A time in the unit of its precision.
fn write_micros(micros: i64, digits: u8, out: &mut String) {
    let number = if digits <= MILLISECOND_DIGITS { micros.div_euclid(1_000) } else { micros };
    write!(out, "{number}").expect(INFALLIBLE);
}

/// ISO 8601: `P1Y2M3DT4H5M6.5S`; each part has its own sign.
fn write_interval(Interval { months, days, micros }: Interval, out: &mut String) {
    let (seconds, fraction) = (micros / 1_000_000 % 60, (micros % 1_000_000).unsigned_abs());
    let (hours, minutes) = (micros / 3_600_000_000, micros / 60_000_000 % 60);
    let sign = if micros < 0 && seconds == 0 { "-" } else { "" };
    write!(out, "\"P{}Y{}M{days}DT{hours}H{minutes}M{sign}{seconds}", months / 12, months % 12).expect(INFALLIBLE);
    if fraction > 0 {
        let digits = format!("{fraction:06}");
        write!(out, ".{}", digits.trim_end_matches('0')).expect(INFALLIBLE);
    }
    out.push_str("S\"");
}

const MICROSECOND_DIGITS: u8 = 6;
/// What PostgreSQL's driver makes of infinite timestamps, in microseconds.
const POSITIVE_INFINITY: &str = "9223372036825200000";
const NEGATIVE_INFINITY: &str = "-9223372036832400000";

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(name: &str, value: Value<'_>, is_precise: bool) -> String {
        let mut out = String::new();
        write(name.parse().unwrap(), Some(value), is_precise, &mut out).unwrap();
        out
    }

    #[test]
    fn values_are_written_as_debezium_writes_them() {
        assert_eq!(cell("date", Value::Date(20_000), false), "20000");
        assert_eq!(cell("time(3) without time zone", Value::Time(1_500_000), false), "1500");
        assert_eq!(cell("time without time zone", Value::Time(1_500_000), false), "1500000");
        assert_eq!(cell("timestamp(3) without time zone", Value::Timestamp(-1_500_000), false), "-1500");
        assert_eq!(cell("timestamp without time zone", Value::Timestamp(i64::MAX), false), POSITIVE_INFINITY);
        assert_eq!(cell("timestamp with time zone", Value::TimestampTz(500_000), false), "\"1970-01-01T00:00:00.5Z\"");
        assert_eq!(cell("timestamp with time zone", Value::TimestampTz(i64::MIN), false), "\"-infinity\"");
        assert_eq!(cell("bytea", Value::Bytea(&[0xde, 0xad]), false), "\"3q0=\"");
        assert_eq!(cell("numeric(5,2)", Value::Numeric(-12_345), false), "\"-123.45\"");
        assert_eq!(cell("numeric(5,2)", Value::Numeric(-12_345), true), "\"z8c=\"");
        assert_eq!(cell("numeric(5,2)", Value::Numeric(128), true), "\"AIA=\"", "a sign byte");
        assert_eq!(cell("numeric(5,2)", Value::Numeric(0), true), "\"AA==\"");
        assert_eq!(cell("jsonb", Value::Jsonb("{\"a\": 1}"), false), "\"{\\\"a\\\": 1}\"");
        let interval = Interval { months: -14, days: 3, micros: -500_000 };
        assert_eq!(cell("interval", Value::Interval(interval), false), "\"P-1Y-2M3DT0H0M-0.5S\"");
        let interval = Interval { months: 0, days: 0, micros: 3_723_000_000 };
        assert_eq!(cell("interval", Value::Interval(interval), false), "\"P0Y0M0DT1H2M3S\"");
        let error = write("date".parse().unwrap(), Some(Value::Date(i32::MAX)), false, &mut String::new());
        assert!(matches!(error, Err(EncodeError::Value { .. })));
    }
}
