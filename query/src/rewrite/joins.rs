//! `JOIN … USING` and `NATURAL JOIN`, whose columns are one column each.
//!
//! Of a joined pair of columns the planner takes one where SQL says which: the left one of an inner or left join, the right one of a
//! right join, of a full join whichever is not NULL. It picks by the tables' names for `*`, and always the left one else. So `*` is
//! written out here, and where a right or a full join is among them, the joins become joins by conditions.

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, ExcludeSelectItem, Expr, Ident, Join, JoinConstraint, JoinOperator, ObjectName, OrderByKind, Query,
    Select, SelectItem, SelectItemQualifiedWildcardKind, SetExpr, TableFactor, TableWithJoins, VisitMut, VisitorMut,
    WildcardAdditionalOptions,
};

use super::call;
use super::operators::{nested, operation};
use crate::error::SqlError;
use crate::names::{column_names, folded};
use crate::sqlstate;

/// The names of a table's columns, if it is known.
pub(crate) type ColumnsOf<'a> = &'a dyn Fn(&ObjectName) -> Option<Vec<String>>;

/// Rewrites the joins of a query and of all queries in it.
///
/// # Errors
/// `42703` where a side has no such column; `0A000` where it cannot be told what columns a side has, and it matters.
pub(crate) fn merge_columns(query: &mut Query, columns_of: ColumnsOf<'_>) -> Result<(), SqlError> {
    match query.visit(&mut Merger { columns_of, shadowed: HashSet::new() }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Merger<'a> {
    columns_of: ColumnsOf<'a>,
    /// Names of WITH queries, behind which tables may hide.
    shadowed: HashSet<String>,
}

impl VisitorMut for Merger<'_> {
    type Break = SqlError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<SqlError> {
        let named = query.with.iter().flat_map(|with| &with.cte_tables);
        self.shadowed.extend(named.map(|cte| folded(&cte.alias.name)));
        match self.merge(query) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
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
                        let results: HashSet<String> = select.projection.iter().filter_map(result_name).collect();
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
        if !select.from.iter().any(has_merged_columns) {
            return Ok(Vec::new());
        }
        let is_outer = select.from.iter().any(has_right_columns);
        let outputs = select.from.iter_mut().map(|from| self.joined(from, is_outer));
        let outputs = outputs.collect::<Result<Vec<_>, _>>()?;
        let merged: Vec<Merged> = if is_outer {
            let tables = outputs.iter().flat_map(|output| &output.merged);
            tables.cloned().collect()
        } else {
            Vec::new()
        };
        let mut projection = Vec::with_capacity(select.projection.len());
        for item in std::mem::take(&mut select.projection) {
            match item {
                SelectItem::Wildcard(options) => match written_out(&outputs) {
                    Some(items) => projection.extend(items),
                    None if is_outer => return Err(SqlError::unsupported("* over an outer join of what has no name")),
                    None => projection.push(SelectItem::Wildcard(options)),
                },
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

    /// What a table and those joined to it give, with conditions in the place of names where `is_outer`.
    fn joined(&self, from: &mut TableWithJoins, is_outer: bool) -> Result<Output, SqlError> {
        let mut output = self.factor(&mut from.relation, is_outer)?;
        for Join { relation, join_operator, .. } in &mut from.joins {
            let right = self.factor(relation, is_outer)?;
            let Some((kind, constraint)) = kind_of(join_operator) else {
                output = output.beside(right);
                continue;
            };
            let names: Vec<Ident> = match constraint {
                JoinConstraint::Using(names) => {
                    names.iter().filter_map(|name| name.0.last()?.as_ident().cloned()).collect()
                }
                JoinConstraint::Natural => output.common(&right)?,
                _ => {
                    output = output.beside(right);
                    continue;
                }
            };
            let pairs = output.take(right, &names, kind)?;
            *constraint = match is_outer {
                false => JoinConstraint::Using(names.into_iter().map(|name| ObjectName::from(vec![name])).collect()),
                true => {
                    let equal = pairs.into_iter().map(|(left, right)| operation(left, BinaryOperator::Eq, right));
                    let all = equal.reduce(|all, equal| operation(all, BinaryOperator::And, equal));
                    all.map_or(JoinConstraint::None, JoinConstraint::On)
                }
            };
            if matches!(constraint, JoinConstraint::None) {
                return Err(SqlError::unsupported("an outer NATURAL JOIN without a column in common"));
            }
        }
        Ok(output)
    }

    fn factor(&self, factor: &mut TableFactor, is_outer: bool) -> Result<Output, SqlError> {
        if let TableFactor::NestedJoin { table_with_joins, alias: None } = factor {
            return self.joined(table_with_joins, is_outer);
        }
        let (name, alias, mut columns) = match factor {
            TableFactor::Table { name, alias, args: None, .. } => {
                let is_shadowed = matches!(&name.0[..], [name] if name.as_ident().is_some_and(|name| self.shadowed.contains(&folded(name))));
                let columns = if is_shadowed { None } else { (self.columns_of)(name) };
                (Some(name.clone()), alias.as_ref(), columns)
            }
            TableFactor::Derived { subquery, alias, .. } => (None, alias.as_ref(), column_names(subquery)),
            TableFactor::Table { alias, .. } | TableFactor::NestedJoin { alias, .. } => (None, alias.as_ref(), None),
            _ => (None, None, None),
        };
        let name = alias.map_or(name, |alias| Some(ObjectName::from(vec![alias.name.clone()])));
        let renamed = alias.map(|alias| alias.columns.iter().map(|column| folded(&column.name)).collect::<Vec<_>>());
        if let Some(renamed) = renamed.filter(|renamed| !renamed.is_empty()) {
            columns = match columns {
                Some(mut known) if known.len() >= renamed.len() => {
                    known.splice(..renamed.len(), renamed);
                    Some(known)
                }
                // All of them, as nobody renames a part.
                _ => Some(renamed),
            };
        }
        Ok(Output { merged: Vec::new(), tables: vec![Joined { name, columns, hidden: Vec::new() }] })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Inner, or left outer.
    Left,
    Right,
    Full,
}

/// A column that stands for one of each side.
#[derive(Clone)]
struct Merged {
    name: Ident,
    value: Expr,
}

impl Merged {
    fn is(&self, name: &Ident) -> bool {
        folded(&self.name) == folded(name)
    }
}

/// A table among those that are joined.
struct Joined {
    /// By which its columns are qualified.
    name: Option<ObjectName>,
    columns: Option<Vec<String>>,
    /// Columns that a merged one stands for.
    hidden: Vec<Ident>,
}

impl Joined {
    fn shows(&self, name: &Ident) -> Option<bool> {
        if self.hidden.iter().any(|hidden| folded(hidden) == folded(name)) {
            return Some(false);
        }
        self.columns.as_ref().map(|columns| columns.contains(&folded(name)))
    }
}

/// What a FROM item gives: the merged columns first, then what is left of each table.
struct Output {
    merged: Vec<Merged>,
    tables: Vec<Joined>,
}

impl Output {
    fn beside(mut self, right: Self) -> Self {
        self.merged.extend(right.merged);
        self.tables.extend(right.tables);
        self
    }

    /// Merges columns with those of the right side; each pair is returned.
    fn take(&mut self, mut right: Self, names: &[Ident], kind: Kind) -> Result<Vec<(Expr, Expr)>, SqlError> {
        let mut merged = Vec::with_capacity(names.len());
        let mut pairs = Vec::with_capacity(names.len());
        for name in names {
            let (left, right) = (self.hide(name)?, right.hide(name)?);
            let value = match kind {
                Kind::Left => left.clone(),
                Kind::Right => right.clone(),
                Kind::Full => call("coalesce", vec![left.clone(), right.clone()]),
            };
            merged.push(Merged { name: name.clone(), value });
            pairs.push((left, right));
        }
        merged.append(&mut self.merged);
        merged.append(&mut right.merged);
        self.merged = merged;
        self.tables.append(&mut right.tables);
        Ok(pairs)
    }

    /// Takes a column out of what is shown by itself; returns what it is.
    fn hide(&mut self, name: &Ident) -> Result<Expr, SqlError> {
        if let Some(known) = self.merged.iter().position(|merged| merged.is(name)) {
            return Ok(self.merged.remove(known).value);
        }
        let has = |table: &Joined| table.shows(name) == Some(true);
        let may_have = |table: &Joined| table.shows(name).is_none();
        let found = match self.tables.iter().filter(|table| has(table)).count() {
            0 if self.tables.iter().filter(|table| may_have(table)).count() == 1 => {
                self.tables.iter().position(may_have)
            }
            1 => self.tables.iter().position(has),
            _ => None,
        };
        let Some(table) = found.and_then(|found| self.tables.get_mut(found)) else {
            if self.tables.iter().any(may_have) {
                return Err(SqlError::unsupported("USING with columns that cannot be told from the query's text"));
            }
            let is_missing = !self.tables.iter().any(has);
            let (sqlstate, fault) = match is_missing {
                true => (sqlstate::UNDEFINED_COLUMN, "does not exist on one side of the join"),
                false => (sqlstate::AMBIGUOUS_COLUMN, "appears more than once on one side of the join"),
            };
            return Err(SqlError::new(
                sqlstate,
                format!("column \"{}\" specified in USING clause {fault}", name.value),
            ));
        };
        table.hidden.push(name.clone());
        let Some(qualifier) = &table.name else {
            return Err(SqlError::unsupported("USING with a side that has no name"));
        };
        let mut parts: Vec<Ident> = qualifier.0.iter().filter_map(|part| part.as_ident().cloned()).collect();
        parts.push(name.clone());
        Ok(Expr::CompoundIdentifier(parts))
    }

    /// The columns of NATURAL JOIN, in the order of the left side.
    fn common(&self, right: &Self) -> Result<Vec<Ident>, SqlError> {
        let (left, right) = (self.shown()?, right.shown()?);
        Ok(left.into_iter().filter(|name| right.contains(name)).map(|name| Ident::with_quote('"', name)).collect())
    }

    fn shown(&self) -> Result<Vec<String>, SqlError> {
        let mut shown: Vec<String> = self.merged.iter().map(|merged| folded(&merged.name)).collect();
        for table in &self.tables {
            let Some(columns) = &table.columns else {
                return Err(SqlError::unsupported(
                    "NATURAL JOIN with columns that cannot be told from the query's text (name them with USING)",
                ));
            };
            let is_hidden = |column: &String| table.hidden.iter().any(|hidden| folded(hidden) == *column);
            shown.extend(columns.iter().filter(|column| !is_hidden(column)).cloned());
        }
        Ok(shown)
    }
}

/// The items of `*`; `None`: some table has no name.
fn written_out(outputs: &[Output]) -> Option<Vec<SelectItem>> {
    let mut items = Vec::new();
    for Output { merged, tables } in outputs {
        let merged = merged.iter().cloned();
        items.extend(merged.map(|Merged { name, value }| SelectItem::ExprWithAlias { expr: value, alias: name }));
        for table in tables {
            let is_empty = table.columns.as_ref().is_some_and(|columns| columns.len() == table.hidden.len());
            if is_empty {
                continue;
            }
            let hidden = table.hidden.iter().map(|hidden| ObjectName::from(vec![hidden.clone()])).collect::<Vec<_>>();
            let opt_exclude = (!hidden.is_empty()).then_some(ExcludeSelectItem::Multiple(hidden));
            let options = WildcardAdditionalOptions { opt_exclude, ..WildcardAdditionalOptions::default() };
            let kind = SelectItemQualifiedWildcardKind::ObjectName(table.name.clone()?);
            items.push(SelectItem::QualifiedWildcard(kind, options));
        }
    }
    Some(items)
}

fn kind_of(operator: &mut JoinOperator) -> Option<(Kind, &mut JoinConstraint)> {
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

fn has_merged_columns(from: &TableWithJoins) -> bool {
    any_join(from, &|operator| {
        let mut operator = operator.clone();
        matches!(kind_of(&mut operator), Some((_, JoinConstraint::Using(_) | JoinConstraint::Natural)))
    })
}

fn has_right_columns(from: &TableWithJoins) -> bool {
    any_join(from, &|operator| {
        let mut operator = operator.clone();
        let found = kind_of(&mut operator);
        matches!(found, Some((Kind::Right | Kind::Full, JoinConstraint::Using(_) | JoinConstraint::Natural)))
    })
}

fn any_join(from: &TableWithJoins, is_it: &dyn Fn(&JoinOperator) -> bool) -> bool {
    let inner = |factor: &TableFactor| match factor {
        TableFactor::NestedJoin { table_with_joins, .. } => any_join(table_with_joins, is_it),
        _ => false,
    };
    inner(&from.relation) || from.joins.iter().any(|join| is_it(&join.join_operator) || inner(&join.relation))
}

fn result_name(item: &SelectItem) -> Option<String> {
    match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(folded(alias)),
        _ => None,
    }
}

/// Puts what merged columns stand for in the place of their bare names, not within queries inside: a name may be one of theirs.
fn replace<N: VisitMut>(node: &mut N, merged: &[Merged]) {
    let _: ControlFlow<()> = node.visit(&mut Replacer { merged, depth: 0 });
}

struct Replacer<'a> {
    merged: &'a [Merged],
    depth: usize,
}

impl VisitorMut for Replacer<'_> {
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
        if self.depth == 0
            && let Expr::Identifier(name) = expr
            && let Some(merged) = self.merged.iter().find(|merged| merged.is(name))
        {
            *expr = nested(merged.value.clone());
        }
        ControlFlow::Continue(())
    }
}
