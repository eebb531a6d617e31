//! Values and their types, as rows and keys store them.

mod array;
pub mod calendar;
mod column_type;
mod interval;
mod owned;
mod parse;
mod text;

pub use array::Array;
pub use column_type::{ColumnType, ElementType, TypeParseError, Width};
pub use interval::Interval;
pub use owned::OwnedValue;
pub use parse::{Excess, ValueError, canonical_json, fit_text, parse_decimal, parse_text, round_micros};
pub use text::write_text;

/// A value that is not NULL, borrowed from wherever it lies: a row, a literal, a batch.
///
/// NULL is `None` of an `Option<Value>`. Floats compare bit by bit here; SQL's comparison is that of [`crate::key`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// `boolean`.
    Boolean(bool),
    /// `smallint`.
    SmallInt(i16),
    /// `integer`.
    Integer(i32),
    /// `bigint`.
    BigInt(i64),
    /// `real`.
    Real(f32),
    /// `double precision`.
    Double(f64),
    /// `numeric(p,s)`: the unscaled integer; the scale is the type's.
    Numeric(i128),
    /// `text`, `varchar(n)` and `char(n)` (blank-padded already).
    Text(&'a str),
    /// `bytea`.
    Bytea(&'a [u8]),
    /// `date`: days since 1970-01-01; `i32::MIN` and `i32::MAX` are −infinity and infinity.
    Date(i32),
    /// `time`: microseconds since midnight.
    Time(i64),
    /// `timestamp`: microseconds since 1970-01-01 00:00; `i64::MIN` and `i64::MAX` are −infinity and infinity.
    Timestamp(i64),
    /// `timestamptz`: microseconds since 1970-01-01 00:00 UTC; infinities as for `timestamp`.
    TimestampTz(i64),
    /// `interval`.
    Interval(Interval),
    /// `uuid`.
    Uuid([u8; 16]),
    /// `jsonb`: PostgreSQL's canonical text (keys sorted and unique, one space after `:` and `,`).
    Jsonb(&'a str),
    /// A one-dimensional array.
    Array(Array<'a>),
}
