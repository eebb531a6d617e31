//! How many tables a query reads once its `WITH` queries are written out, and how many joins it has.
//!
//! The planner plans a `WITH` query anew wherever it is named. Where each of a chain of them names the one before it twice, a short
//! text is a plan that no memory holds.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::physical_plan::ExecutionPlan;
use datafusion::sql::sqlparser::ast::{ObjectName, Query, Visit, Visitor};

use crate::error::SqlError;
use crate::names::folded;
use crate::sqlstate;

/// Refuses a query that would read too many.
///
/// # Errors
/// `54001`.
pub(crate) fn check(query: &Query) -> Result<(), SqlError> {
    match query.visit(&mut Counter::default()) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => {
            let message = format!(
                "the query reads more than {TABLES_MAX} tables with its WITH queries written out wherever they are named"
            );
            Err(SqlError::new(sqlstate::STATEMENT_TOO_COMPLEX, message))
        }
    }
}

/// The queries that are being visited, the innermost last.
#[derive(Default)]
struct Counter {
    scopes: Vec<Scope>,
}

#[derive(Default)]
struct Scope {
    tables: u64,
    /// Its `WITH` queries, known by where they are, and their names.
    queries: Vec<(*const Query, String)>,
    /// How many tables those of them read that were visited.
    named: HashMap<String, u64>,
}

impl Counter {
    fn add(&mut self, tables: u64) -> ControlFlow<()> {
        let Some(scope) = self.scopes.last_mut() else { return ControlFlow::Continue(()) };
        scope.tables = scope.tables.saturating_add(tables);
        if scope.tables > TABLES_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl Visitor for Counter {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let with = query.with.iter().flat_map(|with| &with.cte_tables);
        let queries = with.map(|cte| (&raw const *cte.query, folded(&cte.alias.name))).collect();
        self.scopes.push(Scope { queries, ..Scope::default() });
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let Some(tables) = self.scopes.pop().map(|scope| scope.tables) else { return ControlFlow::Continue(()) };
        if let Some(outer) = self.scopes.last_mut()
            && let Some((_, name)) = outer.queries.iter().find(|(known, _)| std::ptr::eq(*known, query))
        {
            // It counts where it is named, and there also if it reads nothing.
            outer.named.insert(name.clone(), tables.max(1));
            return ControlFlow::Continue(());
        }
        self.add(tables)
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        let name = match &relation.0[..] {
            [name] => name.as_ident().map(folded),
            _ => None,
        };
        let named = name.and_then(|name| self.scopes.iter().rev().find_map(|scope| scope.named.get(&name).copied()));
        self.add(named.unwrap_or(1))
    }
}

/// Refuses a plan of too many joins: a chain of more than 128 never ends, for a task gives way after as many steps, and polls the
/// chain from its beginning again.
///
/// # Errors
/// `54001`.
pub(crate) fn check_joins(plan: &Arc<dyn ExecutionPlan>) -> Result<(), SqlError> {
    let mut joins = 0;
    let mut rest = vec![plan];
    while let Some(plan) = rest.pop() {
        joins += usize::from(plan.name().contains("Join"));
        rest.extend(plan.children());
    }
    match joins {
        0..=JOINS_MAX => Ok(()),
        _ => Err(SqlError::new(sqlstate::STATEMENT_TOO_COMPLEX, format!("the query has more than {JOINS_MAX} joins"))),
    }
}

const TABLES_MAX: u64 = 1_000;
const JOINS_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::parse_own_query;

    fn is_refused(sql: &str) -> bool {
        check(&parse_own_query(sql).unwrap()).is_err()
    }

    fn chain(length: usize) -> String {
        let link = |n: usize| format!(", c{n} AS (SELECT a.x FROM c{} a, c{} b)", n - 1, n - 1);
        let links: String = (1..length).map(link).collect();
        format!("WITH c0 AS (SELECT 1 AS x){links} SELECT * FROM c{}", length - 1)
    }

    #[test]
    fn a_chain_of_queries_that_doubles_is_refused_where_it_grows_too_large() {
        assert!(!is_refused(&chain(10)));
        assert!(is_refused(&chain(11)));
        assert!(is_refused(&chain(100)));
        let inner = chain(11);
        assert!(is_refused(&format!("SELECT 1 WHERE EXISTS ({inner})")));
    }

    #[test]
    fn what_is_named_once_or_shadowed_counts_as_what_it_is() {
        let tables: Vec<String> = (0..400).map(|n| format!("t{n}")).collect();
        let long = format!("WITH a AS (SELECT 1 FROM {}) SELECT * FROM", tables.join(", "));
        assert!(!is_refused(&format!("{long} a, a AS b")));
        assert!(is_refused(&format!("{long} a, a AS b, a AS c")));
        assert!(!is_refused(&format!("{long} s.a, s.a AS b, s.a AS c")));
        assert!(!is_refused(&format!("{long} (WITH a AS (SELECT 1) SELECT * FROM a, a AS b, a AS c) AS d")));
        assert!(!is_refused("WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT * FROM r"));
    }
}
