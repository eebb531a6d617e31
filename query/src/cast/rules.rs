//! Which casts happen where.

use highwater_log::value::{ColumnType, ElementType};

/// Where a cast stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Context {
    /// `CAST(… AS …)` and `…::…`.
    Explicit,
    /// A value on its way into a column.
    Assignment,
}

/// Whether PostgreSQL casts so in that place. What is a text literal is asked as `None`: it has no type yet.
pub(crate) fn is_allowed(from: Option<ColumnType>, to: ColumnType, context: Context) -> bool {
    let Some(from) = from else { return true };
    match (from, to) {
        (ColumnType::Array(from), ColumnType::Array(to)) => is_element_allowed(from, to, context),
        (ColumnType::Scalar(from), ColumnType::Scalar(to)) => is_element_allowed(from, to, context),
        (ColumnType::Array(_), ColumnType::Scalar(to)) => is_text(to),
        (ColumnType::Scalar(from), ColumnType::Array(_)) => is_text(from) && context == Context::Explicit,
    }
}

fn is_element_allowed(from: ElementType, to: ElementType, context: Context) -> bool {
    use ElementType::{
        BigInt, Boolean, Date, Double, Integer, Interval, Jsonb, Numeric, Real, SmallInt, Time, Timestamp, TimestampTz,
    };
    let is_explicit = context == Context::Explicit;
    if std::mem::discriminant(&from) == std::mem::discriminant(&to) || is_text(to) {
        return true;
    }
    match (from, to) {
        (from, _) if is_text(from) => is_explicit,
        (
            SmallInt | Integer | BigInt | Numeric { .. } | Real | Double,
            SmallInt | Integer | BigInt | Numeric { .. } | Real | Double,
        ) => true,
        // A literal is a bigint to the planner, where it is an integer to PostgreSQL.
        (Boolean, Integer) | (Integer | BigInt, Boolean) => is_explicit,
        (Date | Timestamp(_) | TimestampTz(_), Date | Timestamp(_) | TimestampTz(_)) => true,
        (Timestamp(_) | TimestampTz(_) | Interval, Time(_)) | (Time(_), Interval) => true,
        (Jsonb, Boolean | SmallInt | Integer | BigInt | Numeric { .. } | Real | Double) => is_explicit,
        _ => false,
    }
}

fn is_text(element: ElementType) -> bool {
    matches!(element, ElementType::Text | ElementType::Varchar(_) | ElementType::Char(_))
}
