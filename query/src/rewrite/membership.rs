//! `x IN (SELECT …)` where it may be NULL and that matters.
//!
//! The planner makes a mark of it, true or false: where no row is equal and a NULL is in the way it is false. In a condition that is as
//! good, under AND and OR; under a NOT, or where somebody asks whether it is NULL, it is not. There it is written as `= ANY (SELECT …)`, which
//! knows NULL, and is planned as loops over both sides.

use std::collections::HashSet;
use std::mem;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, JoinConstraint, JoinOperator, Query, SetExpr, TableFactor, UnaryOperator, Visit, Visitor,
};

use super::operators::null;
use super::own::change_own;
use crate::names::folded;

/// Rewrites the conditions of a query's own SELECTs, but for those of queries inside.
pub(super) fn with_nulls(query: &mut Query) {
    set(&mut query.body);
}

fn set(body: &mut SetExpr) {
    match body {
        SetExpr::Select(select) => {
            select.selection.iter_mut().chain(&mut select.having).for_each(|condition| judge(condition, true));
            let joins = select.from.iter_mut().flat_map(|table| &mut table.joins);
            joins
                .filter_map(|join| inner_condition(&mut join.join_operator))
                .for_each(|condition| judge(condition, true));
        }
        SetExpr::SetOperation { left, right, .. } => {
            set(left);
            set(right);
        }
        _ => {}
    }
}

/// The condition of an inner join, which is one like those of WHERE. In an outer join the planner knows no IN (SELECT …).
fn inner_condition(join: &mut JoinOperator) -> Option<&mut Expr> {
    match join {
        JoinOperator::Join(JoinConstraint::On(condition)) | JoinOperator::Inner(JoinConstraint::On(condition)) => {
            Some(condition)
        }
        _ => None,
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
        // As a condition that has to hold it is an anti join, which knows NULL, if it asks the same of every row.
        Expr::InSubquery { expr, negated: true, subquery } if is_conjunct && !names_others(subquery) => {
            change_own(&mut **expr, any_of);
        }
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

/// Whether a query names columns of tables that are not its own. Columns without a table are taken for its own.
fn names_others(query: &Query) -> bool {
    let mut names = Names::default();
    let _: ControlFlow<()> = query.visit(&mut names);
    names.used.iter().any(|name| !names.own.contains(name))
}

/// The names of tables in a query: those that it has, and those that its columns are said to be of.
#[derive(Default)]
struct Names {
    own: HashSet<String>,
    used: Vec<String>,
}

impl Visitor for Names {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        let (name, alias) = match factor {
            TableFactor::Table { name, alias, .. } => (name.0.last().and_then(|part| part.as_ident()), alias),
            TableFactor::Derived { alias, .. }
            | TableFactor::TableFunction { alias, .. }
            | TableFactor::UNNEST { alias, .. }
            | TableFactor::Function { alias, .. }
            | TableFactor::NestedJoin { alias, .. } => (None, alias),
            _ => (None, &None),
        };
        self.own.extend(alias.as_ref().map(|alias| &alias.name).or(name).map(folded));
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if let Expr::CompoundIdentifier(parts) = expr
            && let [.., table, _] = &parts[..]
        {
            self.used.push(folded(table));
        }
        ControlFlow::Continue(())
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
