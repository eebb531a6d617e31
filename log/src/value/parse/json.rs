//! JSON in the canonical text of PostgreSQL's `jsonb`.

use std::fmt::Write;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::ValueError;
use crate::value::ElementType;

/// The canonical text of a JSON document: keys sorted by length and then by bytes, the last of equal ones kept, numbers written out
/// without exponent, one space after `:` and `,`.
///
/// # Errors
/// [`ValueError::Invalid`] when the text is no JSON, holds `\u0000`, or nests deeper than 64 levels; [`ValueError::OutOfRange`]
/// for a number that would take more than a thousand digits.
pub fn canonical_json(text: &str) -> Result<String, ValueError> {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    put(text, 0, &mut out).map_err(|failure| match failure {
        Failure::Syntax => ValueError::invalid(ElementType::Jsonb, text),
        Failure::Range => ValueError::out_of_range(ElementType::Jsonb, text),
    })?;
    Ok(out)
}

enum Failure {
    Syntax,
    Range,
}

impl From<serde_json::Error> for Failure {
    fn from(_: serde_json::Error) -> Self {
        Self::Syntax
    }
}

/// Each level is read on its own, its members unread: numbers keep their digits. The depth bounds the repeated reading.
fn put(text: &str, depth: usize, out: &mut String) -> Result<(), Failure> {
    if depth > DEPTH_MAX {
        return Err(Failure::Syntax);
    }
    let text = text.trim_matches([' ', '\t', '\n', '\r']);
    match text.as_bytes().first() {
        Some(b'{') => {
            let Members(mut members) = serde_json::from_str(text)?;
            members.sort_by(|(a, _), (b, _)| (a.len(), a.as_bytes()).cmp(&(b.len(), b.as_bytes())));
            out.push('{');
            let mut is_first = true;
            for (index, (key, value)) in members.iter().enumerate() {
                if members.get(index + 1).is_some_and(|(next, _)| next == key) {
                    continue;
                }
                if !std::mem::take(&mut is_first) {
                    out.push_str(", ");
                }
                put_string(key, out)?;
                out.push_str(": ");
                put(value.get(), depth + 1, out)?;
            }
            out.push('}');
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text)?;
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                put(item.get(), depth + 1, out)?;
            }
            out.push(']');
        }
        Some(b'"') => put_string(&serde_json::from_str::<String>(text)?, out)?,
        Some(b't' | b'f' | b'n') => {
            serde_json::from_str::<&RawValue>(text)?;
            out.push_str(text);
        }
        _ => {
            serde_json::from_str::<&RawValue>(text)?;
            put_number(text, out)?;
        }
    }
    Ok(())
}

fn put_string(text: &str, out: &mut String) -> Result<(), Failure> {
    out.push('"');
    for c in text.chars() {
        match c {
            // PostgreSQL's text cannot hold it.
            '\0' => return Err(Failure::Syntax),
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' => write!(out, "\\u{:04x}", u32::from(c)).expect("a string takes what is written"),
            c => out.push(c),
        }
    }
    out.push('"');
    Ok(())
}

/// A number as PostgreSQL's `numeric` writes it.
fn put_number(text: &str, out: &mut String) -> Result<(), Failure> {
    let (sign, magnitude) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
    let Some((mantissa, exponent)) = magnitude.split_once(['e', 'E']) else {
        let is_zero = magnitude.bytes().all(|byte| matches!(byte, b'0' | b'.'));
        out.push_str(if is_zero { "" } else { sign });
        out.push_str(magnitude);
        return Ok(());
    };
    let exponent: i64 = exponent.parse().map_err(|_| Failure::Range)?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = [whole, fraction].concat();
    let point = whole.len() as i64 + exponent;
    let scale = (fraction.len() as i64 - exponent).max(0);
    if point.unsigned_abs() > NUMBER_DIGITS_MAX || scale.unsigned_abs() > NUMBER_DIGITS_MAX {
        return Err(Failure::Range);
    }
    let (scale, point) = (scale as usize, point);
    let (whole, fraction) = if point <= 0 {
        ("0".to_owned(), format!("{}{digits}", "0".repeat(point.unsigned_abs() as usize)))
    } else {
        let point = point as usize;
        let padded = format!("{digits:0<point$}");
        let (whole, fraction) = padded.split_at(point);
        let whole = whole.trim_start_matches('0');
        (if whole.is_empty() { "0".to_owned() } else { whole.to_owned() }, fraction.to_owned())
    };
    let is_zero = whole.bytes().chain(fraction.bytes()).all(|byte| byte == b'0');
    out.push_str(if is_zero { "" } else { sign });
    out.push_str(&whole);
    if scale > 0 {
        write!(out, ".{fraction:0<scale$}").expect("a string takes what is written");
    }
    Ok(())
}

/// An object's members in their order, equal keys included.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

/// Deeper documents are refused.
const DEPTH_MAX: usize = 64;
const NUMBER_DIGITS_MAX: u64 = 1000;
