//! `JOIN … USING` and `NATURAL JOIN`, whose columns are one column each.
//!
//! Of a joined pair of columns the planner takes one where SQL says which: the left one of an inner or left join, the right one of a
//! right join, of a full join whichever is not NULL. It picks by the tables' names for `*`, always the left one else, and finds the bare
//! name ambiguous in a condition. So `*` is written out here, bare names are replaced by what they mean, and the joins become joins by
//! conditions.
//!
//! `*` is also written out where columns of one name meet, so that the planner can be given them under names of their own.

mod output;

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Ident, Join, JoinConstraint, JoinOperator, ObjectName, OrderByKind, Query, Select,
    SelectItem, SelectItemQualifiedWildcardKind, SetExpr, TableAlias, TableAliasColumnDef, TableFactor, TableWithJoins,
    Value, VisitMut, VisitorMut, WildcardAdditionalOptions,
};

use super::operators::{nested, operation};
use super::own::change_own;
use crate::error::SqlError;
use crate::names::{folded, is_wildcard, item_name, leading_select, names_in};
use crate::sqlstate;
use crate::statement::parse_own_query;
use output::{Kind, Merged, Output, columns_of_table, qualified_items, unambiguous};

/// The names of a table's columns, if it is known.
pub(crate) type ColumnsOf<'a> = &'a dyn Fn(&ObjectName) -> Option<Vec<String>>;

/// Rewrites the joins of a query and of all queries in it.
///
/// # Errors
/// `42703` where a side has no such column; `0A000` where it cannot be told what columns a side has, and it matters.
pub(crate) fn merge_columns(query: &mut Query, columns_of: ColumnsOf<'_>) -> Result<(), SqlError> {
    match query.visit(&mut Merger { columns_of, named: HashMap::new() }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Merger<'a> {
    columns_of: ColumnsOf<'a>,
    /// The columns of the WITH queries that can be named where the visit is, the innermost of a name last; `None`: not known.
    named: HashMap<String, Vec<Option<Vec<String>>>>,
}

impl VisitorMut for Merger<'_> {
    type Break = SqlError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<SqlError> {
        for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
            let columns = renamed(self.columns(&cte.query), Some(&cte.alias)).filter(|names| are_unlike(names));
            self.named.entry(folded(&cte.alias.name)).or_default().push(columns);
        }
        if let Some(with) = &mut query.with {
            for cte in &mut with.cte_tables {
                complete(&mut cte.alias, self.columns(&cte.query));
            }
        }
        self.merge(query).map_or_else(ControlFlow::Break, ControlFlow::Continue)
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<SqlError> {
        for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
            if let Some(known) = self.named.get_mut(&folded(&cte.alias.name)) {
                known.pop();
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<SqlError> {
        match factor {
            TableFactor::Derived { subquery, alias: Some(alias), .. } => complete(alias, self.columns(subquery)),
            TableFactor::Table { name, alias: Some(alias), args: None, .. } => complete(alias, self.columns_of(name)),
            // A function that gives a value a row: its column has the alias's name.
            TableFactor::Table { name, alias: Some(alias), args: Some(_), .. }
                if is_series(name) && alias.columns.is_empty() =>
            {
                alias.columns.push(TableAliasColumnDef { name: alias.name.clone(), data_type: None });
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

impl Merger<'_> {
    fn merge(&self, query: &mut Query) -> Result<(), SqlError> {
        let mut body = &mut *query.body;
        let mut rest = Vec::new();
        let mut is_alone = true;
        loop {
            match body {
                SetExpr::SetOperation { left, right, .. } => {
                    is_alone = false;
                    rest.push(&mut **right);
                    body = left;
                    continue;
                }
                SetExpr::Select(select) => {
                    let replaced = self.merge_select(select)?;
                    if is_alone && !replaced.is_empty() {
                        let results: HashSet<String> = select.projection.iter().filter_map(item_name).collect();
                        let order = query.order_by.as_mut().map(|order_by| &mut order_by.kind);
                        if let Some(OrderByKind::Expressions(expressions)) = order {
                            for order in expressions {
                                // A bare name in ORDER BY is that of a result column first.
                                let is_result =
                                    matches!(&order.expr, Expr::Identifier(name) if results.contains(&folded(name)));
                                if !is_result {
                                    replace(&mut order.expr, &replaced);
                                }
                            }
                        }
                    }
                }
                _ => {}
            }
            match rest.pop() {
                Some(next) => body = next,
                None => return Ok(()),
            }
        }
    }

    /// The columns whose bare names were replaced by what they mean.
    fn merge_select(&self, select: &mut Select) -> Result<Vec<Merged>, SqlError> {
        let has_merged = select.from.iter().any(has_merged_columns);
        if !has_merged && !select.projection.iter().any(is_wildcard) {
            return Ok(Vec::new());
        }
        let outputs = select.from.iter_mut().map(|from| self.joined(from)).collect::<Result<Vec<_>, _>>()?;
        let names = item_names(&select.projection, &outputs);
        let is_in_full = names.as_ref().is_some_and(|names| !are_unlike(names));
        if !has_merged && !is_in_full {
            return Ok(Vec::new());
        }
        if is_in_full && names.as_ref().is_some_and(|names| names.len() > COLUMNS_MAX) {
            let message = format!("target lists can have at most {COLUMNS_MAX} entries");
            return Err(SqlError::new(sqlstate::TOO_MANY_COLUMNS, message));
        }
        let merged = unambiguous(&outputs, |_| true);
        let mut projection = Vec::with_capacity(select.projection.len());
        for item in std::mem::take(&mut select.projection) {
            match item {
                SelectItem::Wildcard(_) => {
                    for output in &outputs {
                        projection.extend(output.written_out(is_in_full)?);
                    }
                }
                SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(table), _) if is_in_full => {
                    projection
                        .extend(qualified_items(&table, columns_of_table(&outputs, &table).into_iter().flatten()));
                }
                SelectItem::UnnamedExpr(Expr::Identifier(name)) if merged.iter().any(|column| column.is(&name)) => {
                    let mut expr = Expr::Identifier(name.clone());
                    replace(&mut expr, &merged);
                    projection.push(SelectItem::ExprWithAlias { expr, alias: name });
                }
                other => projection.push(other),
            }
        }
        if !merged.is_empty() {
            for item in &mut projection {
                replace(item, &merged);
            }
            replace(&mut select.selection, &merged);
            replace(&mut select.group_by, &merged);
            replace(&mut select.having, &merged);
            replace(&mut select.named_window, &merged);
            replace(&mut select.distinct, &merged);
        }
        select.projection = projection;
        Ok(merged)
    }

    /// The names of a table's columns, or of those of a query that is named so, if they are known.
    fn columns_of(&self, name: &ObjectName) -> Option<Vec<String>> {
        match name.0.as_slice() {
            [bare] => match bare.as_ident().and_then(|bare| self.named.get(&folded(bare))?.last()) {
                Some(named) => named.clone(),
                None => (self.columns_of)(name),
            },
            _ => (self.columns_of)(name),
        }
    }

    /// The names of a query's columns, if it can be told what they are.
    fn columns(&self, query: &Query) -> Option<Vec<String>> {
        if let SetExpr::Values(values) = &*query.body {
            let width = values.rows.first()?.content.len();
            return Some((1..=width).map(|place| format!("column{place}")).collect());
        }
        let select = leading_select(query)?;
        let outputs = match select.projection.iter().any(is_wildcard) {
            true => select.from.iter().map(|from| self.output(from)).collect::<Result<Vec<_>, _>>().ok()?,
            false => Vec::new(),
        };
        item_names(&select.projection, &outputs)
    }

    /// What a table and those joined to it give; merged columns become conditions.
    fn joined(&self, from: &mut TableWithJoins) -> Result<Output, SqlError> {
        let mut output = self.factor(&mut from.relation)?;
        for Join { relation, join_operator, .. } in &mut from.joins {
            let right = self.factor(relation)?;
            let merged;
            (output, merged) = join(output, right, join_operator)?;
            match (merged, constraint_of(join_operator)) {
                (Some(merged), Some(constraint)) => *constraint = JoinConstraint::On(merged),
                (None, Some(JoinConstraint::On(condition))) => {
                    let named: HashSet<String> = names_in(condition).into_iter().collect();
                    replace(condition, &unambiguous(std::slice::from_ref(&output), |name| named.contains(name)));
                }
                _ => {}
            }
        }
        Ok(output)
    }

    fn factor(&self, factor: &mut TableFactor) -> Result<Output, SqlError> {
        let output = match factor {
            TableFactor::NestedJoin { table_with_joins, alias: None } => return self.joined(table_with_joins),
            _ => self.factor_output(factor)?,
        };
        if let TableFactor::NestedJoin { table_with_joins, alias } = factor
            && (has_merged_columns(table_with_joins) || !self.tells_apart(table_with_joins))
        {
            // Under a name of its own it is a table like any query's.
            let subquery = Box::new(selected((**table_with_joins).clone())?);
            *factor = TableFactor::Derived { lateral: false, subquery, alias: alias.take(), sample: None };
        }
        Ok(output)
    }

    /// Whether no two columns of a join have one name, as far as that can be told.
    fn tells_apart(&self, from: &TableWithJoins) -> bool {
        let shown = self.output(from).and_then(|output| output.shown());
        shown.map_or(true, |names| are_unlike(&names))
    }

    /// As [`Merger::joined`], which changes the text.
    fn output(&self, from: &TableWithJoins) -> Result<Output, SqlError> {
        from.joins.iter().try_fold(
            self.factor_output(&from.relation)?,
            |output, Join { relation, join_operator, .. }| {
                Ok(join(output, self.factor_output(relation)?, join_operator)?.0)
            },
        )
    }

    fn factor_output(&self, factor: &TableFactor) -> Result<Output, SqlError> {
        let (alias, columns) = match factor {
            TableFactor::NestedJoin { table_with_joins, alias: None } => return self.output(table_with_joins),
            TableFactor::NestedJoin { table_with_joins, alias } => {
                (alias.as_ref(), self.output(table_with_joins)?.shown().ok())
            }
            TableFactor::Table { name, alias, args: None, .. } => {
                let columns = self.columns_of(name);
                if alias.is_none() {
                    return Ok(Output::of(Some(name.clone()), columns));
                }
                (alias.as_ref(), columns)
            }
            TableFactor::Derived { subquery, alias, .. } => (alias.as_ref(), self.columns(subquery)),
            TableFactor::Table { alias, .. }
            | TableFactor::UNNEST { alias, .. }
            | TableFactor::Function { alias, .. }
            | TableFactor::TableFunction { alias, .. } => (alias.as_ref(), None),
            _ => (None, None),
        };
        let name = alias.map(|alias| ObjectName::from(vec![alias.name.clone()]));
        Ok(Output::of(name, renamed(columns, alias).filter(|names| are_unlike(names))))
    }
}

/// Joins, and makes the condition that takes the place of USING and NATURAL.
fn join(mut left: Output, right: Output, operator: &JoinOperator) -> Result<(Output, Option<Expr>), SqlError> {
    let (kind, names) = match kind_of(operator) {
        Some((kind, JoinConstraint::Using(names))) => {
            (kind, names.iter().filter_map(|name| name.0.last()?.as_ident().cloned()).collect())
        }
        Some((kind, JoinConstraint::Natural)) => (kind, left.common(&right)?),
        _ => return Ok((left.beside(right), None)),
    };
    let pairs = left.merge(right, &names, kind)?.into_iter();
    let equal = pairs.map(|(left, right)| operation(left, BinaryOperator::Eq, right));
    let all = equal.reduce(|all, equal| operation(all, BinaryOperator::And, equal));
    // Without a column in common, all pairs are joined.
    Ok((left, Some(all.unwrap_or(Expr::Value(Value::Boolean(true).into())))))
}

/// Gives an alias the names of the columns that it leaves theirs, which the planner wants to be told.
fn complete(alias: &mut TableAlias, columns: Option<Vec<String>>) {
    let given = alias.columns.len();
    if given > 0 {
        let left = columns.into_iter().flatten().skip(given);
        alias
            .columns
            .extend(left.map(|name| TableAliasColumnDef { name: Ident::with_quote('"', name), data_type: None }));
    }
}

fn is_series(name: &ObjectName) -> bool {
    name.0.last().and_then(|part| part.as_ident()).is_some_and(|ident| folded(ident) == "generate_series")
}

/// A list of columns that is written out may have so many, as PostgreSQL's.
const COLUMNS_MAX: usize = 1_664;

/// Columns of one name get others, and cannot be called by this one.
fn are_unlike(names: &[String]) -> bool {
    names.iter().collect::<HashSet<_>>().len() == names.len()
}

/// The names of the items of a select list, those of `*` among them, if they can be told.
fn item_names(items: &[SelectItem], outputs: &[Output]) -> Option<Vec<String>> {
    let mut names = Vec::with_capacity(items.len());
    for item in items {
        match item {
            SelectItem::Wildcard(options) if *options == WildcardAdditionalOptions::default() => {
                for output in outputs {
                    names.extend(output.shown().ok()?);
                }
            }
            SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(table), options)
                if *options == WildcardAdditionalOptions::default() =>
            {
                names.extend(columns_of_table(outputs, table)?);
            }
            item => names.push(item_name(item)?),
        }
    }
    Some(names)
}

/// The columns of a table under the names that an alias gives them.
fn renamed(columns: Option<Vec<String>>, alias: Option<&TableAlias>) -> Option<Vec<String>> {
    let names: Vec<String> = alias.iter().flat_map(|alias| &alias.columns).map(|column| folded(&column.name)).collect();
    if names.is_empty() {
        return columns;
    }
    match columns {
        Some(mut known) if known.len() >= names.len() => {
            known.splice(..names.len(), names);
            Some(known)
        }
        // Of a function, whose columns nobody knows: all of them.
        _ => Some(names),
    }
}

/// `SELECT * FROM …`.
fn selected(from: TableWithJoins) -> Result<Query, SqlError> {
    let mut query = parse_own_query("SELECT * FROM t")?;
    if let SetExpr::Select(select) = &mut *query.body {
        select.from = vec![from];
    }
    Ok(query)
}

const fn kind_of(operator: &JoinOperator) -> Option<(Kind, &JoinConstraint)> {
    match operator {
        JoinOperator::Join(constraint)
        | JoinOperator::Inner(constraint)
        | JoinOperator::Left(constraint)
        | JoinOperator::LeftOuter(constraint) => Some((Kind::Left, constraint)),
        JoinOperator::Right(constraint) | JoinOperator::RightOuter(constraint) => Some((Kind::Right, constraint)),
        JoinOperator::FullOuter(constraint) => Some((Kind::Full, constraint)),
        _ => None,
    }
}

const fn constraint_of(operator: &mut JoinOperator) -> Option<&mut JoinConstraint> {
    match operator {
        JoinOperator::Join(constraint)
        | JoinOperator::Inner(constraint)
        | JoinOperator::Left(constraint)
        | JoinOperator::LeftOuter(constraint)
        | JoinOperator::Right(constraint)
        | JoinOperator::RightOuter(constraint)
        | JoinOperator::FullOuter(constraint) => Some(constraint),
        _ => None,
    }
}

fn has_merged_columns(from: &TableWithJoins) -> bool {
    let in_factor = |factor: &TableFactor| match factor {
        TableFactor::NestedJoin { table_with_joins, .. } => has_merged_columns(table_with_joins),
        _ => false,
    };
    let merges = |operator: &JoinOperator| {
        matches!(kind_of(operator), Some((_, JoinConstraint::Using(_) | JoinConstraint::Natural)))
    };
    in_factor(&from.relation) || from.joins.iter().any(|join| merges(&join.join_operator) || in_factor(&join.relation))
}

/// Puts what merged columns stand for in the place of their bare names, not within queries inside: a name may be one of theirs.
fn replace<N: VisitMut>(node: &mut N, merged: &[Merged]) {
    change_own(node, |expr| {
        if let Expr::Identifier(name) = expr
            && let Some(merged) = merged.iter().find(|merged| merged.is(name))
        {
            *expr = nested(merged.value());
        }
    });
}
