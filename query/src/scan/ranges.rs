//! Ranges of keys out of filters: what a scan need not look at.

use arrow::array::ArrayRef;
use bytes::Bytes;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::{InList, ScalarFunction};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use highwater_log::key;
use highwater_log::position::ColumnId;
use highwater_log::schema::ColumnSchema;
use highwater_log::sequencer::KeyRange;
use highwater_log::value::{ColumnType, ElementType, OwnedValue};
use highwater_materializers::Table;

use super::is_key_order_sql_order;
use crate::cast::CAST;
use crate::types;

/// Ranges of keys outside of which no row passes the filters.
pub(super) struct KeyRanges {
    /// Disjoint, rising.
    pub(super) ranges: Vec<KeyRange>,
    /// So many leading columns are pinned to single values.
    pub(super) pinned: usize,
    /// The column behind those is held between bounds, or has one.
    pub(super) is_bounded: bool,
    /// A column may be pinned to NULL.
    pub(super) is_of_nulls: bool,
}

impl KeyRanges {
    fn everything() -> Self {
        Self { ranges: vec![under(&[])], pinned: 0, is_bounded: false, is_of_nulls: false }
    }
}

/// What filters leave of keys of these columns.
pub(super) fn key_ranges(table: &Table, columns: &[ColumnId], filters: &[Expr]) -> KeyRanges {
    let schema = table.schema();
    // Keys of the leading columns that are pinned to single values.
    let mut prefixes: Vec<Vec<u8>> = vec![Vec::new()];
    let (mut pinned, mut is_of_nulls) = (0, false);
    for id in columns {
        let Some(column) = schema.column(*id).filter(|column| is_key_order_sql_order(column.column_type)) else {
            break;
        };
        if let Some(values) = filters.iter().find_map(|filter| equal_values(filter, column)) {
            let mut longer = Vec::new();
            for prefix in &prefixes {
                for value in &values {
                    let Some(key) = extended(prefix, column, value.as_ref()) else { return KeyRanges::everything() };
                    longer.push(key);
                }
            }
            longer.sort_unstable();
            longer.dedup();
            if longer.len() > RANGES_MAX {
                break;
            }
            prefixes = longer;
            pinned += 1;
            is_of_nulls |= values.contains(&None);
            continue;
        }
        let ranges: Vec<_> = prefixes.iter().map(|prefix| bounded(prefix, column, filters)).collect();
        let is_bounded = ranges.iter().zip(&prefixes).any(|(range, prefix)| *range != under(prefix));
        return KeyRanges { ranges, pinned, is_bounded, is_of_nulls };
    }
    KeyRanges { ranges: prefixes.iter().map(|prefix| under(prefix)).collect(), pinned, is_bounded: false, is_of_nulls }
}

/// The values that a filter pins a column to; `None` among them is NULL.
fn equal_values(filter: &Expr, column: &ColumnSchema) -> Option<Vec<Option<OwnedValue>>> {
    match filter {
        Expr::IsNull(expr) => match &**expr {
            Expr::Column(named) if named.name == column.name => Some(vec![None]),
            _ => None,
        },
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => {
            let literal = match (&**left, &**right) {
                (Expr::Column(named), Expr::Literal(value, _)) | (Expr::Literal(value, _), Expr::Column(named))
                    if named.name == column.name =>
                {
                    value
                }
                _ => return None,
            };
            Some(vec![Some(stored_value(literal, column)?)])
        }
        Expr::InList(InList { expr, list, negated: false }) => match &**expr {
            Expr::Column(named) if named.name == column.name => list
                .iter()
                .map(|item| match item {
                    Expr::Literal(value, _) => stored_value(value, column).map(Some),
                    _ => None,
                })
                .collect(),
            _ => None,
        },
        // What the optimizer makes of a short IN list.
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
            let mut values = equal_values(left, column)?;
            values.extend(equal_values(right, column)?);
            Some(values)
        }
        _ => None,
    }
}

/// The range under a prefix that comparisons of the next column leave.
fn bounded(prefix: &[u8], column: &ColumnSchema, filters: &[Expr]) -> KeyRange {
    let mut range = under(prefix);
    let (all, mut excludes_null) = (range.clone(), false);
    let mut narrow = |op: Operator, value: &ScalarValue| {
        let Some(key) = stored_value(value, column).and_then(|value| extended(prefix, column, Some(&value))) else {
            return;
        };
        let start = match op {
            Operator::GtEq => Some(key.clone()),
            Operator::Gt => successor(&key),
            _ => None,
        };
        let end = match op {
            Operator::Lt => Some(key),
            Operator::LtEq => successor(&key),
            _ => None,
        };
        excludes_null |= start.is_some();
        if let Some(start) = start.filter(|start| start[..] > range.start[..]) {
            range.start = start.into();
        }
        if let Some(end) = end.filter(|end| range.end.as_ref().is_none_or(|known| end[..] < known[..])) {
            range.end = Some(end.into());
        }
    };
    for filter in filters {
        match filter {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => match (&**left, &**right) {
                (Expr::Column(named), Expr::Literal(value, _)) if named.name == column.name => narrow(*op, value),
                (Expr::Literal(value, _), Expr::Column(named)) if named.name == column.name => {
                    if let Some(swapped) = op.swap() {
                        narrow(swapped, value);
                    }
                }
                (Expr::ScalarFunction(cast), Expr::Literal(value, _)) if is_cast_of(cast, column) => {
                    if let Some((op, value)) = before_the_cast(*op, value, column) {
                        narrow(op, &value);
                    }
                }
                (Expr::Literal(value, _), Expr::ScalarFunction(cast)) if is_cast_of(cast, column) => {
                    if let Some((op, value)) = op.swap().and_then(|op| before_the_cast(op, value, column)) {
                        narrow(op, &value);
                    }
                }
                _ => {}
            },
            Expr::Between(between) if !between.negated => {
                if let (Expr::Column(named), Expr::Literal(low, _), Expr::Literal(high, _)) =
                    (&*between.expr, &*between.low, &*between.high)
                    && named.name == column.name
                {
                    narrow(Operator::GtEq, low);
                    narrow(Operator::LtEq, high);
                }
            }
            _ => {}
        }
    }
    // NULLs come last, and no comparison finds them.
    if excludes_null && range.end == all.end {
        range.end = extended(prefix, column, None).map(Bytes::from);
    }
    if range.end.as_ref().is_some_and(|end| *end < range.start) {
        range.end = Some(range.start.clone());
    }
    range
}

fn is_cast_of(function: &ScalarFunction, column: &ColumnSchema) -> bool {
    // To one that keeps every digit of it.
    let is_whole = |name: &str| {
        matches!(name.parse(), Ok(ColumnType::Scalar(ElementType::Timestamp(6) | ElementType::TimestampTz(6))))
    };
    match &function.args[..] {
        [Expr::Column(named), Expr::Literal(ScalarValue::Utf8(Some(name)), _)] => {
            function.func.name() == CAST && named.name == column.name && is_whole(name)
        }
        _ => false,
    }
}

/// A comparison of a date or timestamp that was cast to be compared with a moment, as one of the column itself that no row fails
/// which passes the filter.
fn before_the_cast(op: Operator, value: &ScalarValue, column: &ColumnSchema) -> Option<(Operator, ScalarValue)> {
    let ScalarValue::TimestampMicrosecond(Some(micros), _) = value else { return None };
    // The infinities lie beyond all dates, of which some lie beyond all timestamps.
    if matches!(*micros, i64::MIN | i64::MAX) {
        return None;
    }
    match column.column_type {
        ColumnType::Scalar(ElementType::Timestamp(_)) => {
            Some((op, ScalarValue::TimestampMicrosecond(Some(*micros), None)))
        }
        ColumnType::Scalar(ElementType::Date) => {
            let day = ScalarValue::Date32(Some(i32::try_from(micros.div_euclid(MICROS_PER_DAY)).ok()?));
            match op {
                Operator::Gt | Operator::GtEq => Some((Operator::GtEq, day)),
                Operator::Lt | Operator::LtEq => Some((Operator::LtEq, day)),
                _ => None,
            }
        }
        _ => None,
    }
}

/// All keys that begin with a prefix.
pub(crate) fn under(prefix: &[u8]) -> KeyRange {
    let end = if prefix.is_empty() { None } else { successor(prefix).map(Bytes::from) };
    KeyRange { start: Bytes::copy_from_slice(prefix), end }
}

/// The least key that is greater than all that begin with this one; `None`: there is none.
pub(crate) fn successor(key: &[u8]) -> Option<Vec<u8>> {
    let last = key.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut next = key[..=last].to_vec();
    next[last] += 1;
    Some(next)
}

fn extended(prefix: &[u8], column: &ColumnSchema, value: Option<&OwnedValue>) -> Option<Vec<u8>> {
    let mut key = prefix.to_vec();
    key::encode([(column.column_type, value.map(OwnedValue::as_value))], &mut key).ok()?;
    Some(key)
}

/// A literal as a value of the column, if it is one of exactly its type.
fn stored_value(literal: &ScalarValue, column: &ColumnSchema) -> Option<OwnedValue> {
    let array: ArrayRef = literal.to_array().ok()?;
    types::value_at(&array, 0, column.column_type).ok()?
}

const RANGES_MAX: usize = 1024;
const MICROS_PER_DAY: i64 = 86_400_000_000;
