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
        // The planner's own search in an array knows no NULL.
        (BinaryOperator::Eq, _) => {
            let differs = Expr::AllOp {
                left: Box::new(left.clone()),
                compare_op: BinaryOperator::NotEq,
                right: Box::new(array.clone()),
            };
            Some(Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(nested(differs)) })
        }
        _ => None,
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
    let expr = Box::new(left.clone());
    rows_in_list(&expr, &list, negated).unwrap_or(Expr::InList { expr, list, negated })
}

/// `(a, b) IN ((1, 2), (3, 4))`, row by row.
pub(super) fn rows_in_list(row: &Expr, list: &[Expr], negated: bool) -> Option<Expr> {
    let equal = |other: &Expr| match (row, other) {
        (Expr::Tuple(left), Expr::Tuple(right)) => compared_rows(left, &BinaryOperator::Eq, right),
        _ => None,
    };
    let found = balanced(list.iter().map(equal).collect::<Option<Vec<_>>>()?, &BinaryOperator::Or)?;
    Some(match negated {
        true => Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(nested(found)) },
        false => nested(found),
    })
}

pub(super) fn binary(left: &Expr, op: &BinaryOperator, right: &Expr) -> Result<Option<Expr>, SqlError> {
    Ok(match (left, op, right) {
        (Expr::Tuple(left), op, Expr::Tuple(right)) => compared_rows(left, op, right).map(nested),
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
fn compared_rows(left: &[Expr], op: &BinaryOperator, right: &[Expr]) -> Option<Expr> {
    if left.len() != right.len() {
        return None;
    }
    let pairs = || left.iter().zip(right).map(|(left, right)| (left.clone(), right.clone()));
    let all = |op: &BinaryOperator, connective| {
        balanced(pairs().map(|(left, right)| nested(operation(left, op.clone(), right))).collect(), connective)
    };
    let strict = match op {
        BinaryOperator::Eq => return all(op, &BinaryOperator::And),
        BinaryOperator::NotEq => return all(op, &BinaryOperator::Or),
        BinaryOperator::Lt | BinaryOperator::LtEq => BinaryOperator::Lt,
        BinaryOperator::Gt | BinaryOperator::GtEq => BinaryOperator::Gt,
        _ => return None,
    };
    // From the last column, which alone decides as written.
    pairs().rev().fold(None, |rest, (left, right)| match rest {
        None => Some(operation(left, op.clone(), right)),
        Some(rest) => {
            let before = operation(left.clone(), strict.clone(), right.clone());
            let equal = operation(left, BinaryOperator::Eq, right);
            let then = nested(operation(equal, BinaryOperator::And, nested(rest)));
            Some(operation(before, BinaryOperator::Or, then))
        }
    })
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

pub(super) fn is_power(expr: &Expr) -> bool {
    matches!(expr, Expr::BinaryOp { op: BinaryOperator::PGExp, .. })
}

pub(super) fn operation(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) }
}

pub(super) fn nested(expr: Expr) -> Expr {
    Expr::Nested(Box::new(expr))
}

pub(super) const fn null() -> Expr {
    Expr::Value(datafusion::sql::sqlparser::ast::ValueWithSpan {
        value: Value::Null,
        span: datafusion::sql::sqlparser::tokenizer::Span::empty(),
    })
}
