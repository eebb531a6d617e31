//! The expressions of a node's own, without those of queries inside, where names may mean something else.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Query, VisitMut, VisitorMut};

/// Shows every expression of `node` to `change`, inner ones first, but for those within queries.
pub(super) fn change_own<N: VisitMut>(node: &mut N, change: impl FnMut(&mut Expr)) {
    let _: ControlFlow<()> = node.visit(&mut Own { change, depth: 0 });
}

struct Own<F> {
    change: F,
    /// Queries around what is visited.
    depth: usize,
}

impl<F: FnMut(&mut Expr)> VisitorMut for Own<F> {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if self.depth == 0 {
            (self.change)(expr);
        }
        ControlFlow::Continue(())
    }
}
