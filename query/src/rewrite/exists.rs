//! `EXISTS (SELECT …)` as a value: the planner knows it in conditions only. In a select list it becomes a count of what there is.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, GroupByExpr, LimitClause, Query, Select, SelectItem, SetExpr, TableFactor, Value,
    visit_expressions,
};

use super::operators::{nested, operation};
use super::own::change_own;
use crate::statement::parse_own_query;

/// Rewrites those in the select lists and the order of a query, not within queries inside, which are visited by themselves.
///
/// `gives_one` tells of the functions that give a value for each row.
pub(super) fn as_values(query: &mut Query, gives_one: &dyn Fn(&Function) -> bool) {
    let as_value = |expr: &mut Expr| {
        if let Expr::Exists { subquery, negated } = expr
            && let Some(counted) = counted(subquery, *negated, gives_one)
        {
            *expr = Expr::Subquery(Box::new(counted));
        }
    };
    change_own(&mut query.order_by, as_value);
    let mut rest = vec![&mut *query.body];
    while let Some(body) = rest.pop() {
        match body {
            SetExpr::SetOperation { left, right, .. } => rest.extend([&mut **left, &mut **right]),
            SetExpr::Select(select) => change_own(&mut select.projection, as_value),
            _ => {}
        }
    }
}

/// `SELECT count(*) > 0 FROM …`.
fn counted(subquery: &Query, is_negated: bool, gives_one: &dyn Fn(&Function) -> bool) -> Option<Query> {
    let mut query = parse_own_query("SELECT count(*) FROM (SELECT 1) AS hw_exists").ok()?;
    let SetExpr::Select(counting) = &mut *query.body else { return None };
    match plain(subquery, gives_one) {
        // Its rows are counted where they are: it may use columns of the query around it.
        Some(select) => {
            counting.from.clone_from(&select.from);
            counting.selection.clone_from(&select.selection);
            query.with.clone_from(&subquery.with);
        }
        None => {
            let TableFactor::Derived { subquery: counted, .. } = &mut counting.from.first_mut()?.relation else {
                return None;
            };
            **counted = subquery.clone();
            // One is enough, and a list of its own needs no order.
            let is_bounded = subquery.limit_clause.is_some() || subquery.fetch.is_some();
            if !is_bounded {
                let limit = Some(number(1));
                counted.limit_clause = Some(LimitClause::LimitOffset { limit, offset: None, limit_by: Vec::new() });
            }
        }
    }
    let SetExpr::Select(counting) = &mut *query.body else { return None };
    let Some(SelectItem::UnnamedExpr(count)) = counting.projection.pop() else { return None };
    let operator = if is_negated { BinaryOperator::Eq } else { BinaryOperator::Gt };
    counting.projection.push(SelectItem::UnnamedExpr(nested(operation(count, operator, number(0)))));
    Some(query)
}

/// A select whose rows are those of its tables that pass its filter, if that is all there is, and there is a filter.
fn plain<'q>(query: &'q Query, gives_one: &dyn Fn(&Function) -> bool) -> Option<&'q Select> {
    let SetExpr::Select(select) = &*query.body else { return None };
    let is_ungrouped = matches!(&select.group_by, GroupByExpr::Expressions(expressions, modifiers)
        if expressions.is_empty() && modifiers.is_empty());
    let has_call = visit_expressions(&select.projection, |expr| match expr {
        Expr::Function(function) if !gives_one(function) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    let is_plain = is_ungrouped
        && has_call.is_continue()
        && select.having.is_none()
        && select.selection.is_some()
        && !select.from.is_empty()
        && is_one_enough(query.limit_clause.as_ref())
        && query.fetch.is_none();
    is_plain.then_some(select)
}

/// Whether a LIMIT leaves a row where there is one.
fn is_one_enough(clause: Option<&LimitClause>) -> bool {
    let is_positive = |limit: &Expr| matches!(limit, Expr::Value(value) if matches!(&value.value, Value::Number(digits, _) if digits.parse::<u64>().is_ok_and(|limit| limit > 0)));
    match clause {
        None => true,
        Some(LimitClause::LimitOffset { limit: Some(limit), offset: None, limit_by }) => {
            limit_by.is_empty() && is_positive(limit)
        }
        Some(_) => false,
    }
}

fn number(number: u8) -> Expr {
    Expr::Value(Value::Number(number.to_string(), false).into())
}
