//! Values as plain JSON.
//!
//! Integers are numbers, `numeric` is a string (a number would lose digits on the way), floats are numbers unless they are `"NaN"` or
//! `"Infinity"`, `jsonb` is itself, arrays are arrays; everything else is its PostgreSQL text in a string.

use std::fmt::Write;

use highwater_log::row::CodecError;
use highwater_log::value::{ColumnType, ElementType, Value, write_text};

/// Appends a value's JSON; `None` is `null`.
///
/// # Errors
/// [`CodecError`] when a value is not of its type or an array is damaged.
pub fn write_value(column_type: ColumnType, value: Option<Value<'_>>, out: &mut String) -> Result<(), CodecError> {
    let Some(value) = value else {
        out.push_str("null");
        return Ok(());
    };
    match value {
        Value::Boolean(v) => out.push_str(if v { "true" } else { "false" }),
        Value::SmallInt(_) | Value::Integer(_) | Value::BigInt(_) => write_text(column_type, value, out)?,
        Value::Real(v) if v.is_finite() => write!(out, "{v:?}").expect("a string takes what is written"),
        Value::Double(v) if v.is_finite() => write!(out, "{v:?}").expect("a string takes what is written"),
        Value::Jsonb(text) => out.push_str(text),
        Value::Text(text) => write_string(text, out),
        Value::Array(array) => {
            let element: ElementType = array.element_type();
            out.push('[');
            for (index, item) in array.elements()?.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_value(element.into(), item, out)?;
            }
            out.push(']');
        }
        _ => {
            // Of ASCII letters and digits, without anything to escape.
            let mut text = String::new();
            write_text(column_type, value, &mut text)?;
            write_string(&text, out);
        }
    }
    Ok(())
}

/// Appends a JSON string.
pub fn write_string(text: &str, out: &mut String) {
    out.push('"');
    let mut plain_from = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= b' ' && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(&text[plain_from..at]);
        plain_from = at + 1;
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            _ => write!(out, "\\u{byte:04x}").expect("a string takes what is written"),
        }
    }
    out.push_str(&text[plain_from..]);
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(name: &str, value: Value<'_>) -> String {
        let mut out = String::new();
        write_value(name.parse().unwrap(), Some(value), &mut out).unwrap();
        out
    }

    #[test]
    fn values_keep_their_digits_and_their_structure() {
        assert_eq!(json("bigint", Value::BigInt(i64::MAX)), "9223372036854775807");
        assert_eq!(json("numeric(30,2)", Value::Numeric(12_345_678_901_234_567_890)), "\"123456789012345678.90\"");
        assert_eq!(json("double precision", Value::Double(0.1)), "0.1");
        assert_eq!(json("double precision", Value::Double(1e300)), "1e300");
        assert_eq!(json("double precision", Value::Double(f64::NAN)), "\"NaN\"");
        assert_eq!(json("jsonb", Value::Jsonb("{\"a\": 1}")), "{\"a\": 1}");
        assert_eq!(json("text", Value::Text("a\"b\\\n\u{1}ä")), "\"a\\\"b\\\\\\n\\u0001ä\"");
        assert_eq!(json("date", Value::Date(0)), "\"1970-01-01\"");
        assert_eq!(json("bytea", Value::Bytea(&[0xde])), "\"\\\\xde\"");
        for value in ["1e300", "0.1", "\"\\\\xde\""] {
            serde_json::from_str::<serde_json::Value>(value).unwrap();
        }
    }
}
