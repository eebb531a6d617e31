//! SQL's spellings of types.

use datafusion::sql::sqlparser::ast::{
    ArrayElemTypeDef, CharacterLength, DataType, ExactNumberInfo, ObjectName, TimezoneInfo,
};
use highwater_log::value::{ColumnType, ElementType};

use crate::error::SqlError;
use crate::sqlstate;

/// The column type that a type's SQL spelling means.
///
/// # Errors
/// `0A000` for types that Highwater does not have, `42704` for names that are no type, `22023` for impossible modifiers.
pub(crate) fn column_type(data_type: &DataType) -> Result<ColumnType, SqlError> {
    match data_type {
        DataType::Array(
            ArrayElemTypeDef::SquareBracket(element, _)
            | ArrayElemTypeDef::AngleBracket(element)
            | ArrayElemTypeDef::Parenthesis(element),
        ) => match column_type(element)? {
            ColumnType::Scalar(element) => Ok(ColumnType::Array(element)),
            ColumnType::Array(_) => Err(SqlError::unsupported("an array of more than one dimension")),
        },
        other => element_type(other).map(ColumnType::Scalar),
    }
}

fn element_type(data_type: &DataType) -> Result<ElementType, SqlError> {
    Ok(match data_type {
        DataType::Bool | DataType::Boolean => ElementType::Boolean,
        DataType::SmallInt(None) | DataType::Int2(None) => ElementType::SmallInt,
        DataType::Int(None) | DataType::Integer(None) | DataType::Int4(None) => ElementType::Integer,
        DataType::BigInt(None) | DataType::Int8(None) => ElementType::BigInt,
        DataType::Real | DataType::Float4 => ElementType::Real,
        DataType::Float8 | DataType::Double(ExactNumberInfo::None) | DataType::DoublePrecision => ElementType::Double,
        DataType::Float(ExactNumberInfo::None) => ElementType::Double,
        DataType::Float(ExactNumberInfo::Precision(bits)) if (1..=24).contains(bits) => ElementType::Real,
        DataType::Float(ExactNumberInfo::Precision(bits)) if (25..=53).contains(bits) => ElementType::Double,
        DataType::Numeric(info) | DataType::Decimal(info) | DataType::Dec(info) => numeric(info)?,
        DataType::Text | DataType::String(None) => ElementType::Text,
        DataType::Varchar(length) | DataType::CharacterVarying(length) | DataType::CharVarying(length) => {
            ElementType::Varchar(length.as_ref().map(characters).transpose()?)
        }
        DataType::Char(length) | DataType::Character(length) => {
            ElementType::Char(length.as_ref().map_or(Ok(1), characters)?)
        }
        DataType::Bytea => ElementType::Bytea,
        DataType::Date => ElementType::Date,
        DataType::Time(digits, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
            ElementType::Time(second_digits(*digits)?)
        }
        DataType::Time(..) => return Err(SqlError::unsupported("time with time zone")),
        DataType::Timestamp(digits, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
            ElementType::Timestamp(second_digits(*digits)?)
        }
        DataType::Timestamp(digits, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => {
            ElementType::TimestampTz(second_digits(*digits)?)
        }
        DataType::Interval { fields: None, precision: None } => ElementType::Interval,
        DataType::Interval { .. } => return Err(SqlError::unsupported("an interval with fields or precision")),
        DataType::Uuid => ElementType::Uuid,
        DataType::JSONB => ElementType::Jsonb,
        DataType::JSON => return Err(SqlError::unsupported("type json (use jsonb)")),
        DataType::Custom(name, modifiers) => return custom(name, modifiers),
        other => return Err(SqlError::unsupported(&format!("type {}", other.to_string().to_lowercase()))),
    })
}

/// Names that the parser leaves to us: PostgreSQL's internal ones, and those that imply a sequence.
fn custom(name: &ObjectName, modifiers: &[String]) -> Result<ElementType, SqlError> {
    let spelled = name.to_string().to_lowercase();
    let bare = spelled.strip_prefix("pg_catalog.").unwrap_or(&spelled).trim_matches('"');
    let number = || modifiers.first().map(|digits| digits.parse::<u64>()).transpose();
    let number = number()
        .map_err(|_| SqlError::new(sqlstate::INVALID_PARAMETER_VALUE, format!("type {spelled} takes a number")))?;
    match bare {
        "bool" => Ok(ElementType::Boolean),
        "int2" => Ok(ElementType::SmallInt),
        "int4" => Ok(ElementType::Integer),
        "int8" => Ok(ElementType::BigInt),
        "float4" => Ok(ElementType::Real),
        "float8" => Ok(ElementType::Double),
        "timestamptz" => Ok(ElementType::TimestampTz(second_digits(number)?)),
        "bpchar" => Ok(ElementType::Char(u32::try_from(number.unwrap_or(1)).unwrap_or(u32::MAX))),
        "name" | "citext" | "money" | "xml" | "inet" | "cidr" | "macaddr" | "timetz" | "serial" | "bigserial"
        | "smallserial" | "oid" | "vector" => Err(SqlError::unsupported(&format!("type {bare}"))),
        _ => Err(SqlError::new(sqlstate::UNDEFINED_OBJECT, format!("type \"{bare}\" does not exist"))),
    }
}

fn numeric(info: &ExactNumberInfo) -> Result<ElementType, SqlError> {
    let (precision, scale) = match info {
        ExactNumberInfo::None => (PRECISION_MAX, BARE_SCALE),
        ExactNumberInfo::Precision(precision) => (*precision, 0),
        ExactNumberInfo::PrecisionAndScale(precision, scale) => {
            let scale = u64::try_from(*scale).map_err(|_| SqlError::unsupported("a numeric of negative scale"))?;
            (*precision, scale)
        }
    };
    if precision > PRECISION_MAX {
        return Err(SqlError::unsupported(&format!("a numeric of more than {PRECISION_MAX} digits")));
    }
    if precision == 0 || scale > precision {
        let message =
            format!("numeric precision {precision} must be between 1 and {PRECISION_MAX}, its scale {scale} within");
        return Err(SqlError::new(sqlstate::INVALID_PARAMETER_VALUE, message));
    }
    Ok(ElementType::Numeric { precision: precision as u8, scale: scale as u8 })
}

fn characters(length: &CharacterLength) -> Result<u32, SqlError> {
    match length {
        CharacterLength::IntegerLength { length, .. } if (1..=CHARACTERS_MAX).contains(length) => Ok(*length as u32),
        _ => {
            let message = format!("the length of a character type lies between 1 and {CHARACTERS_MAX}");
            Err(SqlError::new(sqlstate::INVALID_PARAMETER_VALUE, message))
        }
    }
}

fn second_digits(digits: Option<u64>) -> Result<u8, SqlError> {
    match digits {
        None => Ok(6),
        Some(digits @ 0..=6) => Ok(digits as u8),
        Some(digits) => {
            Err(SqlError::new(sqlstate::INVALID_PARAMETER_VALUE, format!("{digits} digits of a second: at most 6")))
        }
    }
}

const PRECISION_MAX: u64 = 38;
/// `numeric` without modifiers is `numeric(38,9)`.
const BARE_SCALE: u64 = 9;
/// PostgreSQL's limit.
const CHARACTERS_MAX: u64 = 10_485_760;
