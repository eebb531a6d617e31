//! Operators that the planner does not know, or takes for something else.

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, UnaryOperator, Value};
use highwater_log::value::ElementType;

use super::{call, cast_to};
use crate::error::SqlError;

/// `x op ANY (array)`.
pub(super) fn any_of(left: &Expr, op: &BinaryOperator, array: &Expr) -> Result<Option<Expr>, SqlError> {
    check_array(array)?;
    Ok(match (op, array) {
        (_, Expr::Subquery(_)) => None,
        (BinaryOperator::Eq, Expr::Array(array)) if !array.elem.is_empty() => {
            Some(in_list(left, array.elem.clone(), false))
        }
        // What the planner makes of ANY knows no NULL in the array, what it makes of ALL does.
        _ => negated(op).map(|compare_op| {
            let all = Expr::AllOp { left: Box::new(left.clone()), compare_op, right: Box::new(array.clone()) };
            Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(nested(all)) }
        }),
    })
}

fn negated(op: &BinaryOperator) -> Option<BinaryOperator> {
    Some(match op {
        BinaryOperator::Eq => BinaryOperator::NotEq,
        BinaryOperator::NotEq => BinaryOperator::Eq,
        BinaryOperator::Lt => BinaryOperator::GtEq,
        BinaryOperator::LtEq => BinaryOperator::Gt,
        BinaryOperator::Gt => BinaryOperator::LtEq,
        BinaryOperator::GtEq => BinaryOperator::Lt,
        _ => return None,
    })
}

/// `x op ALL (array)`.
pub(super) fn all_of(left: &Expr, op: &BinaryOperator, array: &Expr) -> Result<Option<Expr>, SqlError> {
    check_array(array)?;
    Ok(match (op, array) {
        (BinaryOperator::NotEq, Expr::Array(array)) if !array.elem.is_empty() => {
            Some(in_list(left, array.elem.clone(), true))
        }
        _ => None,
    })
}

fn check_array(array: &Expr) -> Result<(), SqlError> {
    match array {
        Expr::Value(value) if matches!(value.value, Value::SingleQuotedString(_)) => {
            Err(SqlError::unsupported("ANY and ALL of a text without a type (cast it: '{…}'::integer[])"))
        }
        _ => Ok(()),
    }
}

fn in_list(left: &Expr, list: Vec<Expr>, negated: bool) -> Expr {
    Expr::InList { expr: Box::new(left.clone()), list, negated }
}

/// `(a, b) IN ((1, 2), (3, 4))`, row by row.
pub(super) fn rows_in_list(row: &Expr, list: &[Expr], negated: bool) -> Result<Option<Expr>, SqlError> {
    if !matches!(row, Expr::Tuple(_)) {
        return Ok(None);
    }
    let equal = list.iter().map(|other| compared(row.clone(), &BinaryOperator::Eq, other.clone()));
    let found = balanced(equal.collect::<Result<_, _>>()?, &BinaryOperator::Or);
    Ok(found.map(|found| match negated {
        true => Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(nested(found)) },
        false => nested(found),
    }))
}

/// `row IS NULL`, `row IS NOT NULL`: all of its columns are, or are not.
pub(super) fn row_is_null(row: &Expr, is_negated: bool) -> Option<Expr> {
    let Expr::Tuple(columns) = row else { return None };
    let tested = columns.iter().map(|column| {
        let column = Box::new(nested(column.clone()));
        if is_negated { Expr::IsNotNull(column) } else { Expr::IsNull(column) }
    });
    balanced(tested.collect(), &BinaryOperator::And).map(nested)
}

pub(super) fn binary(left: &Expr, op: &BinaryOperator, right: &Expr) -> Result<Option<Expr>, SqlError> {
    Ok(match (left, op, right) {
        (Expr::Tuple(left), op, Expr::Tuple(right)) => compared_rows(left, op, right)?.map(nested),
        (_, BinaryOperator::HashArrow | BinaryOperator::HashLongArrow, _) => {
            return Err(SqlError::unsupported(&format!("the operator {op}")));
        }
        (_, BinaryOperator::PGExp, _) => Some(call("power", vec![left.clone(), right.clone()])),
        (_, BinaryOperator::Arrow, _) => {
            let part = call("json_get_json", vec![left.clone(), right.clone()]);
            Some(cast_to(part, ElementType::Jsonb.into()))
        }
        _ => None,
    })
}

pub(super) fn unary(op: UnaryOperator, operand: &Expr) -> Option<Expr> {
    let operand = || operand.clone();
    Some(match op {
        UnaryOperator::PGSquareRoot => call("sqrt", vec![operand()]),
        UnaryOperator::PGCubeRoot => call("cbrt", vec![operand()]),
        UnaryOperator::PGAbs => call("abs", vec![operand()]),
        // All bits of −1 are set.
        UnaryOperator::BitwiseNot => {
            let ones = Expr::Value(Value::Number("-1".to_owned(), false).into());
            nested(operation(nested(operand()), BinaryOperator::PGBitwiseXor, nested(ones)))
        }
        _ => return None,
    })
}

/// Rows compared column by column: what the columns before leave open is decided by the next one.
fn compared_rows(left: &[Expr], op: &BinaryOperator, right: &[Expr]) -> Result<Option<Expr>, SqlError> {
    let strict = match op {
        BinaryOperator::Eq | BinaryOperator::NotEq => None,
        BinaryOperator::Lt | BinaryOperator::LtEq => Some(BinaryOperator::Lt),
        BinaryOperator::Gt | BinaryOperator::GtEq => Some(BinaryOperator::Gt),
        _ => return Ok(None),
    };
    if left.len() != right.len() {
        return Err(SqlError::syntax("unequal number of entries in row expressions"));
    }
    let pairs = left.iter().cloned().zip(right.iter().cloned());
    let Some(strict) = strict else {
        let parts = pairs.map(|(left, right)| compared(left, op, right)).collect::<Result<_, _>>()?;
        let connective = if *op == BinaryOperator::Eq { BinaryOperator::And } else { BinaryOperator::Or };
        return Ok(balanced(parts, &connective));
    };
    // From the last column, which alone decides as written.
    let mut rest = None;
    for (left, right) in pairs.rev() {
        rest = Some(match rest {
            None => compared(left, op, right)?,
            Some(rest) => {
                let before = compared(left.clone(), &strict, right.clone())?;
                let equal = compared(left, &BinaryOperator::Eq, right)?;
                let then = nested(operation(equal, BinaryOperator::And, nested(rest)));
                operation(before, BinaryOperator::Or, then)
            }
        });
    }
    Ok(rest)
}

/// Two columns of rows, which may be rows.
fn compared(left: Expr, op: &BinaryOperator, right: Expr) -> Result<Expr, SqlError> {
    let rows = match (&left, &right) {
        (Expr::Tuple(left), Expr::Tuple(right)) => compared_rows(left, op, right)?,
        _ => None,
    };
    Ok(nested(rows.unwrap_or_else(|| operation(left, op.clone(), right))))
}

/// The parts under one connective, in a tree as low as may be.
fn balanced(mut parts: Vec<Expr>, connective: &BinaryOperator) -> Option<Expr> {
    if parts.len() <= 1 {
        return parts.pop();
    }
    let right = parts.split_off(parts.len() / 2);
    let (left, right) = (balanced(parts, connective)?, balanced(right, connective)?);
    Some(nested(operation(left, connective.clone(), right)))
}

/// `-a ^ b`, however many signs there are.
pub(super) fn is_signed_power(expr: &Expr) -> bool {
    let mut expr = expr;
    while let Expr::UnaryOp { op: UnaryOperator::Minus, expr: operand } = expr {
        expr = operand;
    }
    matches!(expr, Expr::BinaryOp { op: BinaryOperator::PGExp, .. })
}

pub(super) fn operation(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) }
}

pub(super) fn nested(expr: Expr) -> Expr {
    Expr::Nested(Box::new(expr))
}

pub(crate) const fn null() -> Expr {
    Expr::Value(datafusion::sql::sqlparser::ast::ValueWithSpan {
        value: Value::Null,
        span: datafusion::sql::sqlparser::tokenizer::Span::empty(),
    })
}
