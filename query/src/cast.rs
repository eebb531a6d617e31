//! Casts with PostgreSQL's meaning: between values, and as the functions that stand for them in plans.
//!
//! DataFusion's own casts are Arrow's: they cut where PostgreSQL rounds, and know neither `infinity` nor `char(n)`. Every cast that a
//! statement writes becomes a call of `hw_cast`, every assignment to a column one of `hw_assign`.

mod function;
mod rules;

pub(crate) use function::{ASSIGN, CAST, assign_function, cast_function, check_assignment};
pub(crate) use rules::{Context, is_allowed};

use highwater_log::value::{
    self, Array, ColumnType, ElementType, Excess, Interval, OwnedValue, Value, fit_text, parse_text, round_micros,
    write_text,
};

use crate::error::SqlError;
use crate::sqlstate;

/// The value as one of another type.
///
/// # Errors
/// `42846` when there is no such cast; the errors of the target's text form; `22003`, `22008` when it does not fit.
pub(crate) fn convert(
    value: OwnedValue,
    from: ColumnType,
    to: ColumnType,
    excess: Excess,
) -> Result<OwnedValue, SqlError> {
    match (from, to) {
        (ColumnType::Array(from), ColumnType::Array(to)) if from != to => convert_array(&value, from, to, excess),
        (ColumnType::Array(_), ColumnType::Array(_)) => Ok(value),
        (ColumnType::Scalar(from), ColumnType::Scalar(to)) => convert_scalar(value, from, to, excess),
        (ColumnType::Scalar(element), ColumnType::Array(_)) if is_text(element) => from_text(&value, to, excess),
        (ColumnType::Array(_), ColumnType::Scalar(element)) if is_text(element) => {
            Ok(OwnedValue::Text(fit_text(element, &to_text(&value, from)?, excess)?))
        }
        _ => Err(no_cast(from, to)),
    }
}

fn convert_array(
    value: &OwnedValue,
    from: ElementType,
    to: ElementType,
    excess: Excess,
) -> Result<OwnedValue, SqlError> {
    let Value::Array(array) = value.as_value() else { return Err(no_cast(from.into(), to.into())) };
    let elements = array.elements()?.into_iter();
    let converted = elements.map(|element| element.map(|e| convert_scalar(e.into(), from, to, excess)).transpose());
    let converted = converted.collect::<Result<Vec<_>, _>>()?;
    let borrowed: Vec<_> = converted.iter().map(|element| element.as_ref().map(OwnedValue::as_value)).collect();
    let mut stored = Vec::new();
    Array::encode(to, &borrowed, &mut stored)?;
    Ok(OwnedValue::Array { element: to, stored })
}

fn convert_scalar(
    value: OwnedValue,
    from: ElementType,
    to: ElementType,
    excess: Excess,
) -> Result<OwnedValue, SqlError> {
    if from == to {
        return Ok(value);
    }
    match (from, to) {
        (_, ElementType::Text | ElementType::Varchar(_) | ElementType::Char(_)) => {
            let text = match (&value, from) {
                // The blanks that pad a char(n) are no part of it.
                (OwnedValue::Text(text), ElementType::Char(_)) => text.trim_end_matches(' ').to_owned(),
                (OwnedValue::Plain(Value::Boolean(v)), _) => v.to_string(),
                _ => to_text(&value, from.into())?,
            };
            return Ok(OwnedValue::Text(fit_text(to, &text, excess)?));
        }
        (from, _) if is_text(from) => return from_text(&value, to.into(), excess),
        (ElementType::Jsonb, _) => return from_jsonb(&value, to),
        _ => {}
    }
    let Some(kind) = Kind::of(&value.as_value(), from) else { return Err(no_cast(from.into(), to.into())) };
    kind.into_value(to).unwrap_or_else(|| Err(no_cast(from.into(), to.into()))).map(OwnedValue::Plain)
}

/// Values by what they can be turned into.
enum Kind {
    Boolean(bool),
    Integer(i64),
    Numeric {
        unscaled: i128,
        scale: u8,
    },
    /// A float, and how many digits of it PostgreSQL takes for exact.
    Float {
        value: f64,
        digits: usize,
    },
    Date(i32),
    Time(i64),
    Timestamp(i64),
    TimestampTz(i64),
    Interval(Interval),
}

impl Kind {
    fn of(value: &Value<'_>, from: ElementType) -> Option<Self> {
        Some(match (*value, from) {
            (Value::Boolean(v), _) => Self::Boolean(v),
            (Value::SmallInt(v), _) => Self::Integer(v.into()),
            (Value::Integer(v), _) => Self::Integer(v.into()),
            (Value::BigInt(v), _) => Self::Integer(v),
            (Value::Numeric(unscaled), ElementType::Numeric { scale, .. }) => Self::Numeric { unscaled, scale },
            (Value::Real(v), _) => Self::Float { value: v.into(), digits: 6 },
            (Value::Double(v), _) => Self::Float { value: v, digits: 15 },
            (Value::Date(v), _) => Self::Date(v),
            (Value::Time(v), _) => Self::Time(v),
            (Value::Timestamp(v), _) => Self::Timestamp(v),
            (Value::TimestampTz(v), _) => Self::TimestampTz(v),
            (Value::Interval(v), _) => Self::Interval(v),
            _ => return None,
        })
    }

    /// `None`: there is no such cast.
    fn into_value(self, to: ElementType) -> Option<Result<Value<'static>, SqlError>> {
        match to {
            ElementType::Boolean => match self {
                Self::Integer(v) => Some(Ok(Value::Boolean(v != 0))),
                _ => None,
            },
            ElementType::SmallInt | ElementType::Integer | ElementType::BigInt => {
                Some(self.integer()?.and_then(|v| integer_value(v, to)))
            }
            ElementType::Real | ElementType::Double => Some(self.float()?.and_then(|v| float_value(v, to))),
            ElementType::Numeric { .. } => Some(self.numeric(to)?),
            ElementType::Date => Some(self.date()?.map(Value::Date)),
            ElementType::Timestamp(digits) => {
                Some(self.micros()?.map(|micros| Value::Timestamp(round_micros(micros, digits))))
            }
            ElementType::TimestampTz(digits) => {
                Some(self.micros()?.map(|micros| Value::TimestampTz(round_micros(micros, digits))))
            }
            ElementType::Time(digits) => match self {
                Self::Time(v) => Some(Ok(Value::Time(round_micros(v, digits)))),
                Self::Timestamp(v) | Self::TimestampTz(v) if v != i64::MIN && v != i64::MAX => {
                    Some(Ok(Value::Time(round_micros(v.rem_euclid(MICROS_PER_DAY), digits))))
                }
                Self::Interval(v) => Some(Ok(Value::Time(round_micros(v.micros.rem_euclid(MICROS_PER_DAY), digits)))),
                _ => None,
            },
            ElementType::Interval => match self {
                Self::Time(micros) => Some(Ok(Value::Interval(Interval { micros, ..Interval::default() }))),
                _ => None,
            },
            _ => None,
        }
    }

    fn integer(&self) -> Option<Result<i128, SqlError>> {
        Some(match *self {
            Self::Boolean(v) => Ok(v.into()),
            Self::Integer(v) => Ok(v.into()),
            Self::Numeric { unscaled, scale } => Ok(rescaled(unscaled, scale, 0)?),
            // Halves go to the even neighbour, as rint() sends them.
            Self::Float { value, .. } if value.is_finite() && value.abs() < 1e30 => Ok(value.round_ties_even() as i128),
            Self::Float { .. } => Err(SqlError::new(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, "bigint out of range")),
            _ => return None,
        })
    }

    fn float(&self) -> Option<Result<f64, SqlError>> {
        Some(match *self {
            Self::Integer(v) => Ok(v as f64),
            Self::Float { value, .. } => Ok(value),
            Self::Numeric { unscaled, scale } => {
                // Through text: the nearest float, which a division would miss.
                let mut text = String::new();
                let numeric = ElementType::Numeric { precision: 38, scale };
                let written = write_text(numeric.into(), Value::Numeric(unscaled), &mut text);
                written
                    .map_err(SqlError::from)
                    .and_then(|()| text.parse().map_err(|_| SqlError::internal(text.clone())))
            }
            _ => return None,
        })
    }

    fn numeric(&self, to: ElementType) -> Option<Result<Value<'static>, SqlError>> {
        let ElementType::Numeric { precision, scale } = to else { return None };
        let out_of_range = || {
            let message = format!(
                "numeric field overflow: a field with precision {precision}, scale {scale} cannot hold the value"
            );
            SqlError::new(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, message)
        };
        let unscaled = match *self {
            Self::Integer(v) => rescaled(v.into(), 0, scale),
            Self::Numeric { unscaled, scale: from } => rescaled(unscaled, from, scale),
            Self::Float { value, digits } if value.is_finite() => {
                let parsed = parse_text(to.into(), &format!("{value:.*e}", digits - 1), Excess::Refused);
                return Some(parsed.map_err(|_| out_of_range()).and_then(|value| match value {
                    OwnedValue::Plain(value) => Ok(value),
                    _ => Err(out_of_range()),
                }));
            }
            Self::Float { .. } => None,
            _ => return None,
        };
        let fits = unscaled.filter(|v| v.unsigned_abs() < 10_u128.pow(u32::from(precision)));
        Some(fits.map(Value::Numeric).ok_or_else(out_of_range))
    }

    fn date(&self) -> Option<Result<i32, SqlError>> {
        match *self {
            Self::Date(v) => Some(Ok(v)),
            Self::Timestamp(v) | Self::TimestampTz(v) => Some(match v {
                i64::MIN => Ok(i32::MIN),
                i64::MAX => Ok(i32::MAX),
                v => i32::try_from(v.div_euclid(MICROS_PER_DAY)).map_err(|_| time_out_of_range("date")),
            }),
            _ => None,
        }
    }

    fn micros(&self) -> Option<Result<i64, SqlError>> {
        match *self {
            Self::Date(i32::MIN) => Some(Ok(i64::MIN)),
            Self::Date(i32::MAX) => Some(Ok(i64::MAX)),
            Self::Date(days) => {
                Some(i64::from(days).checked_mul(MICROS_PER_DAY).ok_or_else(|| time_out_of_range("timestamp")))
            }
            // The session's time zone is UTC.
            Self::Timestamp(v) | Self::TimestampTz(v) => Some(Ok(v)),
            _ => None,
        }
    }
}

fn integer_value(value: i128, to: ElementType) -> Result<Value<'static>, SqlError> {
    let converted = match to {
        ElementType::SmallInt => i16::try_from(value).ok().map(Value::SmallInt),
        ElementType::Integer => i32::try_from(value).ok().map(Value::Integer),
        _ => i64::try_from(value).ok().map(Value::BigInt),
    };
    converted.ok_or_else(|| SqlError::new(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, format!("{to} out of range")))
}

fn float_value(value: f64, to: ElementType) -> Result<Value<'static>, SqlError> {
    if to == ElementType::Double {
        return Ok(Value::Double(value));
    }
    let narrow = value as f32;
    if (narrow.is_infinite() && value.is_finite()) || (narrow == 0.0 && value != 0.0) {
        return Err(SqlError::new(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, "value out of range: real"));
    }
    Ok(Value::Real(narrow))
}

/// A decimal at another scale, halves rounded away from zero; `None` beyond 128 bits.
fn rescaled(unscaled: i128, from: u8, to: u8) -> Option<i128> {
    if to >= from {
        return unscaled.checked_mul(10_i128.checked_pow(u32::from(to - from))?);
    }
    let unit = 10_i128.checked_pow(u32::from(from - to))?;
    let (quotient, remainder) = (unscaled / unit, unscaled % unit);
    Some(if remainder.unsigned_abs() * 2 >= unit.unsigned_abs() { quotient + unscaled.signum() } else { quotient })
}

fn from_text(value: &OwnedValue, to: ColumnType, excess: Excess) -> Result<OwnedValue, SqlError> {
    match value {
        OwnedValue::Text(text) => Ok(parse_text(to, text, excess)?),
        _ => Err(SqlError::internal("a text that is none")),
    }
}

/// A scalar of a JSON document.
fn from_jsonb(value: &OwnedValue, to: ElementType) -> Result<OwnedValue, SqlError> {
    let OwnedValue::Jsonb(text) = value else { return Err(no_cast(ElementType::Jsonb.into(), to.into())) };
    let is_number = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    match to {
        ElementType::Boolean if matches!(text.as_str(), "true" | "false") => {
            Ok(parse_text(to.into(), text, Excess::Cut)?)
        }
        ElementType::Real | ElementType::Double | ElementType::Numeric { .. } if is_number => {
            Ok(parse_text(to.into(), text, Excess::Cut)?)
        }
        ElementType::SmallInt | ElementType::Integer | ElementType::BigInt if is_number => {
            let (unscaled, scale) = value::parse_decimal(text)
                .ok_or_else(|| SqlError::new(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, format!("{to} out of range")))?;
            let from = ElementType::Numeric { precision: 38, scale };
            convert_scalar(OwnedValue::Plain(Value::Numeric(unscaled)), from, to, Excess::Cut)
        }
        ElementType::Boolean
        | ElementType::Real
        | ElementType::Double
        | ElementType::Numeric { .. }
        | ElementType::SmallInt
        | ElementType::Integer
        | ElementType::BigInt => {
            let message = format!("cannot cast jsonb value {text} to type {to}");
            Err(SqlError::new(sqlstate::INVALID_PARAMETER_VALUE, message))
        }
        _ => Err(no_cast(ElementType::Jsonb.into(), to.into())),
    }
}

fn to_text(value: &OwnedValue, from: ColumnType) -> Result<String, SqlError> {
    let mut text = String::new();
    write_text(from, value.as_value(), &mut text)?;
    Ok(text)
}

fn is_text(element: ElementType) -> bool {
    matches!(element, ElementType::Text | ElementType::Varchar(_) | ElementType::Char(_))
}

fn no_cast(from: ColumnType, to: ColumnType) -> SqlError {
    SqlError::new(sqlstate::CANNOT_COERCE, format!("cannot cast type {from} to {to}"))
}

fn time_out_of_range(what: &str) -> SqlError {
    SqlError::new(sqlstate::DATETIME_FIELD_OVERFLOW, format!("{what} out of range"))
}

const MICROS_PER_DAY: i64 = 86_400_000_000;
