//! Column types, and their names in PostgreSQL's spelling.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The type of a column. Its text form (`numeric(10,2)`, `integer[]`) is what the catalog stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ColumnType {
    /// A type whose values are single.
    Scalar(ElementType),
    /// A one-dimensional array of such values.
    Array(ElementType),
}

/// A type whose values are single: what a column or an element of an array holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ElementType {
    /// `boolean`.
    Boolean,
    /// `smallint`.
    SmallInt,
    /// `integer`.
    Integer,
    /// `bigint`.
    BigInt,
    /// `real`.
    Real,
    /// `double precision`.
    Double,
    /// `numeric(precision,scale)`, 1 ≤ precision ≤ 38, 0 ≤ scale ≤ precision.
    Numeric {
        /// Decimal digits in all.
        precision: u8,
        /// Digits after the point.
        scale: u8,
    },
    /// `text`.
    Text,
    /// `character varying(n)` with n in characters; without n it is `text` in all but name.
    Varchar(Option<u32>),
    /// `character(n)`, blank-padded, n in characters.
    Char(u32),
    /// `bytea`.
    Bytea,
    /// `date`.
    Date,
    /// `time(p) without time zone`, 0 ≤ p ≤ 6 digits of a second.
    Time(u8),
    /// `timestamp(p) without time zone`.
    Timestamp(u8),
    /// `timestamp(p) with time zone`.
    TimestampTz(u8),
    /// `interval`.
    Interval,
    /// `uuid`.
    Uuid,
    /// `jsonb`.
    Jsonb,
}

/// How many bytes a value takes in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// Always this many.
    Fixed(usize),
    /// As many as it needs, found through an offset.
    Variable,
}

impl ColumnType {
    /// How many bytes a value of this type takes in a row.
    #[must_use]
    pub const fn width(self) -> Width {
        match self {
            Self::Scalar(element) => element.width(),
            Self::Array(_) => Width::Variable,
        }
    }
}

impl From<ElementType> for ColumnType {
    fn from(element: ElementType) -> Self {
        Self::Scalar(element)
    }
}

impl ElementType {
    /// How many bytes a value of this type takes in a row or in an array.
    #[must_use]
    pub const fn width(self) -> Width {
        match self {
            Self::Boolean => Width::Fixed(1),
            Self::SmallInt => Width::Fixed(2),
            Self::Integer | Self::Real | Self::Date => Width::Fixed(4),
            Self::BigInt | Self::Double | Self::Time(_) | Self::Timestamp(_) | Self::TimestampTz(_) => Width::Fixed(8),
            Self::Numeric { precision, .. } => Width::Fixed(if precision <= NUMERIC_SHORT_PRECISION { 8 } else { 16 }),
            Self::Interval | Self::Uuid => Width::Fixed(16),
            Self::Text | Self::Varchar(_) | Self::Char(_) | Self::Bytea | Self::Jsonb => Width::Variable,
        }
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scalar(element) => element.fmt(f),
            Self::Array(element) => write!(f, "{element}[]"),
        }
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let timed = |f: &mut fmt::Formatter<'_>, name: &str, digits: u8, zone: &str| {
            if digits == MICROSECOND_DIGITS {
                write!(f, "{name} {zone} time zone")
            } else {
                write!(f, "{name}({digits}) {zone} time zone")
            }
        };
        match *self {
            Self::Boolean => f.write_str("boolean"),
            Self::SmallInt => f.write_str("smallint"),
            Self::Integer => f.write_str("integer"),
            Self::BigInt => f.write_str("bigint"),
            Self::Real => f.write_str("real"),
            Self::Double => f.write_str("double precision"),
            Self::Numeric { precision, scale } => write!(f, "numeric({precision},{scale})"),
            Self::Text => f.write_str("text"),
            Self::Varchar(None) => f.write_str("character varying"),
            Self::Varchar(Some(length)) => write!(f, "character varying({length})"),
            Self::Char(length) => write!(f, "character({length})"),
            Self::Bytea => f.write_str("bytea"),
            Self::Date => f.write_str("date"),
            Self::Time(digits) => timed(f, "time", digits, "without"),
            Self::Timestamp(digits) => timed(f, "timestamp", digits, "without"),
            Self::TimestampTz(digits) => timed(f, "timestamp", digits, "with"),
            Self::Interval => f.write_str("interval"),
            Self::Uuid => f.write_str("uuid"),
            Self::Jsonb => f.write_str("jsonb"),
        }
    }
}

/// A text that is no column type of the catalog.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown column type {0:?}")]
pub struct TypeParseError(String);

impl FromStr for ColumnType {
    type Err = TypeParseError;

    /// Reads what [`fmt::Display`] writes, and nothing else: SQL's other spellings are the parser's business.
    fn from_str(text: &str) -> Result<Self, TypeParseError> {
        match text.strip_suffix("[]") {
            Some(element) => element.parse().map(Self::Array),
            None => text.parse().map(Self::Scalar),
        }
    }
}

impl FromStr for ElementType {
    type Err = TypeParseError;

    fn from_str(text: &str) -> Result<Self, TypeParseError> {
        parse_element(text).filter(|element| element.to_string() == text).ok_or_else(|| TypeParseError(text.to_owned()))
    }
}

fn parse_element(text: &str) -> Option<ElementType> {
    let (name, modifiers) = match text.split_once('(') {
        Some((name, rest)) => (name, rest.split_once(')')?),
        None => (text, ("", "")),
    };
    let (numbers, suffix) = modifiers;
    let digits = |default: u8| if numbers.is_empty() { Some(default) } else { numbers.parse().ok().filter(|p| *p < 6) };
    Some(match (name, suffix) {
        ("boolean", "") => ElementType::Boolean,
        ("smallint", "") => ElementType::SmallInt,
        ("integer", "") => ElementType::Integer,
        ("bigint", "") => ElementType::BigInt,
        ("real", "") => ElementType::Real,
        ("double precision", "") => ElementType::Double,
        ("numeric", "") => {
            let (precision, scale) = numbers.split_once(',')?;
            let (precision, scale) = (precision.parse().ok()?, scale.parse().ok()?);
            if !(1..=NUMERIC_PRECISION_MAX).contains(&precision) || scale > precision {
                return None;
            }
            ElementType::Numeric { precision, scale }
        }
        ("text", "") => ElementType::Text,
        ("character varying", "") if numbers.is_empty() => ElementType::Varchar(None),
        ("character varying", "") => ElementType::Varchar(Some(numbers.parse().ok()?)),
        ("character", "") => ElementType::Char(numbers.parse().ok()?),
        ("bytea", "") => ElementType::Bytea,
        ("date", "") => ElementType::Date,
        ("time without time zone", "") => ElementType::Time(MICROSECOND_DIGITS),
        ("timestamp without time zone", "") => ElementType::Timestamp(MICROSECOND_DIGITS),
        ("timestamp with time zone", "") => ElementType::TimestampTz(MICROSECOND_DIGITS),
        ("time", " without time zone") => ElementType::Time(digits(MICROSECOND_DIGITS)?),
        ("timestamp", " without time zone") => ElementType::Timestamp(digits(MICROSECOND_DIGITS)?),
        ("timestamp", " with time zone") => ElementType::TimestampTz(digits(MICROSECOND_DIGITS)?),
        ("interval", "") => ElementType::Interval,
        ("uuid", "") => ElementType::Uuid,
        ("jsonb", "") => ElementType::Jsonb,
        _ => return None,
    })
}

impl Serialize for ColumnType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ColumnType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// The highest precision of `numeric`: what 128 bits hold.
pub(crate) const NUMERIC_PRECISION_MAX: u8 = 38;
/// A numeric of at most this precision fits into 64 bits.
const NUMERIC_SHORT_PRECISION: u8 = 18;
const MICROSECOND_DIGITS: u8 = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_reads_back_from_its_name() {
        let names = [
            "boolean",
            "numeric(30,6)",
            "character varying",
            "character varying(20)",
            "character(84)",
            "time(3) without time zone",
            "time without time zone",
            "timestamp(0) with time zone",
            "timestamp with time zone",
            "double precision",
            "integer[]",
            "numeric(6,2)[]",
            "jsonb",
        ];
        for name in names {
            assert_eq!(name.parse::<ColumnType>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn a_name_that_is_no_type_is_refused() {
        for name in
            ["", "int", "numeric", "numeric(39,0)", "numeric(5,6)", "integer[][]", "text(3)", "integer ", "timestamp"]
        {
            assert!(name.parse::<ColumnType>().is_err(), "{name:?}");
        }
    }
}
