//! `a IS DISTINCT FROM b AND c`: the parser takes `b AND c` for the right side, where AND and OR end it.
//!
//! What it has swallowed is taken out again, and the chain of ANDs and ORs that it stands in is built anew.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, UnaryOperator, Value, VisitMut, VisitorMut};

/// Mends what stands in a statement, or in an expression.
pub(super) fn rebind(node: &mut impl VisitMut) {
    let _: ControlFlow<()> = node.visit(&mut Rebinder);
}

struct Rebinder;

impl VisitorMut for Rebinder {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if has_swallowed(expr) {
            let mut links = Vec::new();
            take_apart(std::mem::replace(expr, Expr::Value(Value::Null.into())), &mut links);
            *expr = put_together(links);
        }
        ControlFlow::Continue(())
    }
}

/// An operand, and the operator before it.
type Link = (Option<BinaryOperator>, Expr);

fn is_chain(expr: &Expr) -> bool {
    matches!(expr, Expr::BinaryOp { op: BinaryOperator::And | BinaryOperator::Or, .. })
}

fn has_swallowed(expr: &Expr) -> bool {
    match expr {
        Expr::BinaryOp { left, op: BinaryOperator::And | BinaryOperator::Or, right } => {
            has_swallowed(left) || has_swallowed(right)
        }
        Expr::UnaryOp { op: UnaryOperator::Not, expr } => has_swallowed(expr),
        Expr::IsDistinctFrom(_, right) | Expr::IsNotDistinctFrom(_, right) => is_chain(right),
        _ => false,
    }
}

/// The operands of a chain, in the order in which they were written.
fn take_apart(expr: Expr, links: &mut Vec<Link>) {
    // Binds tighter than the chain: it is of the first operand.
    let mut first_of = |inner: Expr, wrap: &dyn Fn(Expr) -> Expr| {
        let mut own = Vec::new();
        take_apart(inner, &mut own);
        let wrapped = own.into_iter().enumerate();
        links.extend(wrapped.map(|(at, (op, operand))| (op, if at == 0 { wrap(operand) } else { operand })));
    };
    match expr {
        Expr::BinaryOp { left, op: op @ (BinaryOperator::And | BinaryOperator::Or), right } => {
            take_apart(*left, links);
            let at = links.len();
            take_apart(*right, links);
            links[at].0 = Some(op);
        }
        Expr::UnaryOp { op: UnaryOperator::Not, expr } => {
            first_of(*expr, &|operand| Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(operand) })
        }
        // Nested, it is not taken for more when it is written out and read again.
        Expr::IsDistinctFrom(left, right) if is_chain(&right) => {
            first_of(*right, &|operand| Expr::Nested(Box::new(Expr::IsDistinctFrom(left.clone(), Box::new(operand)))))
        }
        Expr::IsNotDistinctFrom(left, right) if is_chain(&right) => first_of(*right, &|operand| {
            Expr::Nested(Box::new(Expr::IsNotDistinctFrom(left.clone(), Box::new(operand))))
        }),
        operand => links.push((None, operand)),
    }
}

/// AND binds tighter than OR, and both to the left.
fn put_together(links: Vec<Link>) -> Expr {
    let chained = |left: Option<Expr>, op: BinaryOperator, right: Expr| match left {
        None => right,
        Some(left) => Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) },
    };
    let (mut or, mut and): (Option<Expr>, Option<Expr>) = (None, None);
    for (op, operand) in links {
        if op == Some(BinaryOperator::Or)
            && let Some(whole) = and.take()
        {
            or = Some(chained(or, BinaryOperator::Or, whole));
        }
        and = Some(chained(and, BinaryOperator::And, operand));
    }
    match and {
        Some(last) => chained(or, BinaryOperator::Or, last),
        None => Expr::Value(Value::Null.into()),
    }
}
