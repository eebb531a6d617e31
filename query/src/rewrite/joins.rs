//! `JOIN … USING` and `NATURAL JOIN`, whose columns are one column each.
//!
//! Of a joined pair of columns the planner takes one where SQL says which: the left one of an inner or left join, the right one of a
//! right join, of a full join whichever is not NULL. It picks by the tables' names for `*`, always the left one else, and finds the bare
//! name ambiguous in a condition. So `*` is written out here, bare names are replaced by what they mean, and the joins become joins by
//! conditions.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, ExcludeSelectItem, Expr, Ident, Join, JoinConstraint, JoinOperator, ObjectName, OrderByKind, Query,
    Select, SelectItem, SelectItemQualifiedWildcardKind, SetExpr, TableAlias, TableFactor, TableWithJoins, Value,
    VisitMut, VisitorMut, WildcardAdditionalOptions,
};

use super::call;
use super::operators::{nested, operation};
use crate::error::SqlError;
use crate::names::{column_names, folded};
use crate::sqlstate;
use crate::statement::parse_own_query;

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
    /// WITH queries, behind which tables may hide, and their columns, if they are known.
    named: HashMap<String, Option<Vec<String>>>,
}

impl VisitorMut for Merger<'_> {
    type Break = SqlError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<SqlError> {
        for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
            let columns = renamed(column_names(&cte.query), Some(&cte.alias));
            // Another query of this name, somewhere else in the text: it is not told which one is meant.
            self.named.entry(folded(&cte.alias.name)).and_modify(|known| *known = None).or_insert(columns);
        }
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
        let outputs = select.from.iter_mut().map(|from| self.joined(from)).collect::<Result<Vec<_>, _>>()?;
        // Where something else shows the name, too, the planner finds it ambiguous, as it is.
        let is_alone = |column: &&Merged| {
            let named = outputs.iter().flat_map(|output| &output.merged).filter(|other| other.is(&column.name)).count();
            let mut tables = outputs.iter().flat_map(|output| &output.tables);
            named == 1 && !tables.any(|table| table.shows(&column.name) == Some(true))
        };
        let merged = outputs.iter().flat_map(|output| &output.merged).filter(is_alone).cloned().collect::<Vec<_>>();
        let mut projection = Vec::with_capacity(select.projection.len());
        for item in std::mem::take(&mut select.projection) {
            match item {
                SelectItem::Wildcard(_) => projection.extend(written_out(&outputs)?),
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

    /// What a table and those joined to it give.
    fn joined(&self, from: &mut TableWithJoins) -> Result<Output, SqlError> {
        let mut output = self.factor(&mut from.relation)?;
        for Join { relation, join_operator, .. } in &mut from.joins {
            let right = self.factor(relation)?;
            let Some((kind, constraint)) = kind_of(join_operator) else {
                output = output.beside(right);
                continue;
            };
            let names: Vec<Ident> = match constraint {
                JoinConstraint::Using(names) => {
                    names.iter().filter_map(|name| name.0.last()?.as_ident().cloned()).collect()
                }
                JoinConstraint::Natural => output.common(&right)?,
                JoinConstraint::On(condition) => {
                    output = output.beside(right);
                    replace(condition, &output.merged);
                    continue;
                }
                JoinConstraint::None => {
                    output = output.beside(right);
                    continue;
                }
            };
            let pairs = output.take(right, &names, kind)?.into_iter();
            let equal = pairs.map(|(left, right)| operation(left, BinaryOperator::Eq, right));
            let all = equal.reduce(|all, equal| operation(all, BinaryOperator::And, equal));
            // Without a column in common, all pairs are joined.
            *constraint = JoinConstraint::On(all.unwrap_or(Expr::Value(Value::Boolean(true).into())));
        }
        Ok(output)
    }

    fn factor(&self, factor: &mut TableFactor) -> Result<Output, SqlError> {
        if let TableFactor::NestedJoin { table_with_joins, alias } = factor {
            if alias.is_none() {
                return self.joined(table_with_joins);
            }
            if has_merged_columns(table_with_joins) {
                // Under a name of its own it is a table like any query's.
                let columns = self.joined(&mut table_with_joins.clone())?.shown().ok();
                let subquery = selected((**table_with_joins).clone())?;
                let alias = alias.take();
                let output = Output::of(alias.as_ref().map(|alias| &alias.name), renamed(columns, alias.as_ref()));
                *factor = TableFactor::Derived { lateral: false, subquery: Box::new(subquery), alias, sample: None };
                return Ok(output);
            }
        }
        let (alias, columns) = match factor {
            TableFactor::Table { name, alias, args: None, .. } => {
                let columns = match name.0.as_slice() {
                    [bare] => match bare.as_ident().and_then(|bare| self.named.get(&folded(bare))) {
                        Some(named) => named.clone(),
                        None => (self.columns_of)(name),
                    },
                    _ => (self.columns_of)(name),
                };
                if alias.is_none() {
                    return Ok(Output { merged: Vec::new(), tables: vec![Joined::new(Some(name.clone()), columns)] });
                }
                (alias.as_ref(), columns)
            }
            TableFactor::Derived { subquery, alias, .. } => (alias.as_ref(), column_names(subquery)),
            TableFactor::Table { alias, .. }
            | TableFactor::NestedJoin { alias, .. }
            | TableFactor::UNNEST { alias, .. }
            | TableFactor::Function { alias, .. }
            | TableFactor::TableFunction { alias, .. } => (alias.as_ref(), None),
            _ => (None, None),
        };
        Ok(Output::of(alias.map(|alias| &alias.name), renamed(columns, alias)))
    }
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
        // All of them, as nobody renames a part.
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
    /// The first of these that is not NULL.
    values: Vec<Expr>,
}

impl Merged {
    fn value(&self) -> Expr {
        first_of(&self.values)
    }

    fn is(&self, name: &Ident) -> bool {
        folded(&self.name) == folded(name)
    }
}

fn first_of(values: &[Expr]) -> Expr {
    match values {
        [value] => value.clone(),
        values => call("coalesce", values.to_vec()),
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
    const fn new(name: Option<ObjectName>, columns: Option<Vec<String>>) -> Self {
        Self { name, columns, hidden: Vec::new() }
    }

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
    fn of(name: Option<&Ident>, columns: Option<Vec<String>>) -> Self {
        let name = name.map(|name| ObjectName::from(vec![name.clone()]));
        Self { merged: Vec::new(), tables: vec![Joined::new(name, columns)] }
    }

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
            pairs.push((first_of(&left), first_of(&right)));
            let values = match kind {
                Kind::Left => left,
                Kind::Right => right,
                Kind::Full => [left, right].concat(),
            };
            merged.push(Merged { name: name.clone(), values });
        }
        merged.append(&mut self.merged);
        merged.append(&mut right.merged);
        self.merged = merged;
        self.tables.append(&mut right.tables);
        Ok(pairs)
    }

    /// Takes a column out of what is shown by itself; returns what it is, the first of them that is not NULL.
    fn hide(&mut self, name: &Ident) -> Result<Vec<Expr>, SqlError> {
        if let Some(known) = self.merged.iter().position(|merged| merged.is(name)) {
            return Ok(self.merged.remove(known).values);
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
        Ok(vec![Expr::CompoundIdentifier(parts)])
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

/// The items of `*`.
fn written_out(outputs: &[Output]) -> Result<Vec<SelectItem>, SqlError> {
    let mut items = Vec::new();
    for Output { merged, tables } in outputs {
        let merged = merged.iter();
        items.extend(merged.map(|it| SelectItem::ExprWithAlias { expr: it.value(), alias: it.name.clone() }));
        for table in tables {
            let is_empty = table.columns.as_ref().is_some_and(|columns| columns.len() == table.hidden.len());
            if is_empty {
                continue;
            }
            let hidden = table.hidden.iter().map(|hidden| ObjectName::from(vec![hidden.clone()])).collect::<Vec<_>>();
            let opt_exclude = (!hidden.is_empty()).then_some(ExcludeSelectItem::Multiple(hidden));
            let options = WildcardAdditionalOptions { opt_exclude, ..WildcardAdditionalOptions::default() };
            let Some(name) = table.name.clone() else {
                return Err(SqlError::unsupported("* over USING beside a table without a name"));
            };
            let kind = SelectItemQualifiedWildcardKind::ObjectName(name);
            items.push(SelectItem::QualifiedWildcard(kind, options));
        }
    }
    Ok(items)
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
    let in_factor = |factor: &TableFactor| match factor {
        TableFactor::NestedJoin { table_with_joins, .. } => has_merged_columns(table_with_joins),
        _ => false,
    };
    let merges = |operator: &JoinOperator| {
        let mut operator = operator.clone();
        matches!(kind_of(&mut operator), Some((_, JoinConstraint::Using(_) | JoinConstraint::Natural)))
    };
    in_factor(&from.relation) || from.joins.iter().any(|join| merges(&join.join_operator) || in_factor(&join.relation))
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
            *expr = nested(merged.value());
        }
        ControlFlow::Continue(())
    }
}
