//! Values that own their bytes.

use super::{Array, ElementType, Value};

/// A value that is not NULL and borrows from nobody: what parsing and casting make.
#[derive(Clone, Debug, PartialEq)]
pub enum OwnedValue {
    /// Any value that holds no bytes outside itself.
    Plain(Value<'static>),
    /// `text`, `varchar(n)`, `char(n)`.
    Text(String),
    /// `bytea`.
    Bytea(Vec<u8>),
    /// `jsonb`, canonical.
    Jsonb(String),
    /// An array in its stored form ([`Array::encode`]).
    Array {
        /// The type of its elements.
        element: ElementType,
        /// The stored form.
        stored: Vec<u8>,
    },
}

impl OwnedValue {
    /// The value, borrowed.
    #[must_use]
    pub fn as_value(&self) -> Value<'_> {
        match self {
            Self::Plain(value) => *value,
            Self::Text(text) => Value::Text(text),
            Self::Bytea(bytes) => Value::Bytea(bytes),
            Self::Jsonb(text) => Value::Jsonb(text),
            Self::Array { element, stored } => Value::Array(Array::from_stored(*element, stored)),
        }
    }
}

impl From<Value<'_>> for OwnedValue {
    fn from(value: Value<'_>) -> Self {
        match value {
            Value::Text(text) => Self::Text(text.to_owned()),
            Value::Jsonb(text) => Self::Jsonb(text.to_owned()),
            Value::Bytea(bytes) => Self::Bytea(bytes.to_owned()),
            Value::Array(array) => Self::Array { element: array.element_type(), stored: array.stored().to_owned() },
            Value::Boolean(v) => Self::Plain(Value::Boolean(v)),
            Value::SmallInt(v) => Self::Plain(Value::SmallInt(v)),
            Value::Integer(v) => Self::Plain(Value::Integer(v)),
            Value::BigInt(v) => Self::Plain(Value::BigInt(v)),
            Value::Real(v) => Self::Plain(Value::Real(v)),
            Value::Double(v) => Self::Plain(Value::Double(v)),
            Value::Numeric(v) => Self::Plain(Value::Numeric(v)),
            Value::Date(v) => Self::Plain(Value::Date(v)),
            Value::Time(v) => Self::Plain(Value::Time(v)),
            Value::Timestamp(v) => Self::Plain(Value::Timestamp(v)),
            Value::TimestampTz(v) => Self::Plain(Value::TimestampTz(v)),
            Value::Interval(v) => Self::Plain(Value::Interval(v)),
            Value::Uuid(v) => Self::Plain(Value::Uuid(v)),
        }
    }
}
