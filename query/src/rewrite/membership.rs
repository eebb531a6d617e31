//! `x IN (SELECT …)` where it may be NULL and that matters.
//!
//! The planner makes a mark of it, true or false: where no row is equal and a NULL is in the way it is false. In a condition that is as
//! good, under AND and OR; under a NOT, or where somebody asks whether it is NULL, it is not. There it is written as `= ANY (SELECT …)`, which
//! knows NULL, and is planned as loops over both sides.

use std::mem;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Query, SetExpr, UnaryOperator};

use super::operators::null;
use super::own::change_own;

/// Rewrites the conditions of a query's own SELECTs, but for those of queries inside.
pub(super) fn with_nulls(query: &mut Query) {
    set(&mut query.body);
}

fn set(body: &mut SetExpr) {
    match body {
        SetExpr::Select(select) => {
            select.selection.iter_mut().chain(&mut select.having).for_each(|condition| judge(condition, true));
        }
        SetExpr::SetOperation { left, right, .. } => {
            set(left);
            set(right);
        }
        _ => {}
    }
}

/// A condition whose being false is as good as its being NULL. `is_conjunct`: it is one of several that all have to hold.
fn judge(condition: &mut Expr, is_conjunct: bool) {
    match condition {
        Expr::Nested(inner) => judge(inner, is_conjunct),
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            judge(left, is_conjunct);
            judge(right, is_conjunct);
        }
        Expr::BinaryOp { left, op: BinaryOperator::Or, right } => {
            judge(left, false);
            judge(right, false);
        }
        Expr::UnaryOp { op: UnaryOperator::Not, expr } => match direct(expr) {
            Some(membership) => {
                *condition = membership;
                judge(condition, is_conjunct);
            }
            None => change_own(&mut **expr, any_of),
        },
        Expr::InSubquery { expr, negated: false, .. } => change_own(&mut **expr, any_of),
        // As a condition that has to hold it is an anti join, which knows NULL.
        Expr::InSubquery { expr, negated: true, .. } if is_conjunct => change_own(&mut **expr, any_of),
        other => change_own(other, any_of),
    }
}

/// `NOT (x IN (…))` as `x NOT IN (…)`, if that is what is negated.
fn direct(expr: &mut Expr) -> Option<Expr> {
    match expr {
        Expr::Nested(inner) => direct(inner),
        Expr::InSubquery { negated, .. } => {
            *negated = !*negated;
            Some(mem::replace(expr, null()))
        }
        _ => None,
    }
}

fn any_of(expr: &mut Expr) {
    let Expr::InSubquery { expr: left, subquery, negated } = expr else { return };
    if matches!(**left, Expr::Tuple(_)) {
        // It is refused.
        return;
    }
    let left = mem::replace(left, Box::new(null()));
    let right = Box::new(Expr::Subquery(subquery.clone()));
    let any = Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, is_some: false };
    let any = Expr::Nested(Box::new(any));
    *expr = match *negated {
        true => Expr::Nested(Box::new(Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(any) })),
        false => any,
    };
}
