//! Values on their way into columns.

use datafusion::sql::sqlparser::ast::{Expr, UnaryOperator, Value as Literal};
use highwater_log::value::{ColumnType, ElementType, Excess, OwnedValue, Value, parse_decimal, parse_text};
use highwater_materializers::Table;

use crate::cast::{ASSIGN, Context, convert, is_allowed};
use crate::error::SqlError;
use crate::parser::parse_expression;
use crate::rewrite::{call, string};
use crate::sqlstate;

/// The SQL of an expression assigned to a column (by its place in the declaration).
pub(super) fn assigned(table: &Table, place: usize, value: &Expr) -> Expr {
    let column = &table.schema().columns[place];
    call(ASSIGN, vec![value.clone(), string(&column.column_type.to_string()), string(&column.name)])
}

/// What a column holds where nothing is said.
pub(crate) fn default_expression(table: &Table, place: usize) -> Result<Expr, SqlError> {
    match &table.schema().columns[place].default {
        Some(default) => parse_expression(default),
        None => Ok(Expr::Value(Literal::Null.into())),
    }
}

/// A full row's bytes. `values` stand in the order of the table's layout.
///
/// # Errors
/// `23502`.
pub(crate) fn encode_row(table: &Table, values: &[Option<OwnedValue>]) -> Result<Vec<u8>, SqlError> {
    let borrowed: Vec<_> = values.iter().map(|value| value.as_ref().map(OwnedValue::as_value)).collect();
    encode_values(table, &borrowed)
}

/// As [`encode_row`], of borrowed values.
///
/// # Errors
/// `23502`.
pub(crate) fn encode_values(table: &Table, values: &[Option<Value<'_>>]) -> Result<Vec<u8>, SqlError> {
    for column in table.schema().columns.iter().filter(|column| column.not_null) {
        let is_null = table.layout().index_of(column.id).is_none_or(|place| values[place].is_none());
        if is_null {
            let message = format!(
                "null value in column \"{}\" of relation \"{}\" violates not-null constraint",
                column.name,
                table.schema().name
            );
            return Err(SqlError::new(sqlstate::NOT_NULL_VIOLATION, message));
        }
    }
    let mut row = Vec::new();
    table.layout().encode(values, &mut row)?;
    Ok(row)
}

/// The value that a literal is in a column of this type; `None`: it is no literal, the planner has to see it.
pub(crate) fn literal_value(
    expr: &Expr,
    column_type: ColumnType,
    column: &str,
) -> Option<Result<Option<OwnedValue>, SqlError>> {
    match expr {
        Expr::Value(value) => match &value.value {
            Literal::Null => Some(Ok(None)),
            Literal::SingleQuotedString(text) | Literal::EscapedStringLiteral(text) => {
                Some(parse_text(column_type, text, Excess::Refused).map(Some).map_err(SqlError::from))
            }
            Literal::Number(digits, false) => Some(number_value(digits, column_type, column).map(Some)),
            Literal::Boolean(value) => {
                let value = OwnedValue::Plain(Value::Boolean(*value));
                Some(assigned_value(value, ElementType::Boolean, column_type, column).map(Some))
            }
            _ => None,
        },
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match &**expr {
            Expr::Value(value) => match &value.value {
                Literal::Number(digits, false) => {
                    Some(number_value(&format!("-{digits}"), column_type, column).map(Some))
                }
                _ => None,
            },
            _ => None,
        },
        Expr::Nested(inner) => literal_value(inner, column_type, column),
        _ => None,
    }
}

fn number_value(digits: &str, column_type: ColumnType, column: &str) -> Result<OwnedValue, SqlError> {
    if let ColumnType::Scalar(ElementType::Real | ElementType::Double) = column_type {
        // A literal is a whole number or a decimal first, and neither has a zero below zero.
        let unsigned = digits.trim_start_matches('-');
        let is_zero =
            unsigned.bytes().take_while(|byte| !matches!(byte, b'e' | b'E')).all(|byte| matches!(byte, b'0' | b'.'));
        return Ok(parse_text(column_type, if is_zero { unsigned } else { digits }, Excess::Refused)?);
    }
    if let Ok(integer) = digits.parse::<i64>() {
        return assigned_value(OwnedValue::Plain(Value::BigInt(integer)), ElementType::BigInt, column_type, column);
    }
    let (unscaled, scale) = parse_decimal(digits).ok_or_else(|| {
        SqlError::new(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, format!("{digits} has more than 38 digits"))
    })?;
    let numeric = ElementType::Numeric { precision: 38, scale };
    assigned_value(OwnedValue::Plain(Value::Numeric(unscaled)), numeric, column_type, column)
}

fn assigned_value(value: OwnedValue, from: ElementType, to: ColumnType, column: &str) -> Result<OwnedValue, SqlError> {
    if !is_allowed(Some(from.into()), to, Context::Assignment) {
        let from = if matches!(from, ElementType::Numeric { .. }) { "numeric".to_owned() } else { from.to_string() };
        let message = format!("column \"{column}\" is of type {to} but expression is of type {from}");
        return Err(SqlError::new(sqlstate::DATATYPE_MISMATCH, message));
    }
    convert(value, from.into(), to, Excess::Refused)
}
