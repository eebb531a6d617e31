//! Names of result columns, as PostgreSQL gives them, where the planner gives others, or wants them unlike one another.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use arrow::datatypes::Schema;
use datafusion::sql::sqlparser::ast::{
    AccessExpr, CastKind, Distinct, Expr, Ident, OrderBy, OrderByKind, Query, Select, SelectItem,
    SelectItemQualifiedWildcardKind, SetExpr, TableAlias, TableFactor, TrimWhereField, Value, VisitMut, VisitorMut,
    visit_expressions,
};

use crate::error::SqlError;
use crate::rewrite::is_session_word;
use crate::sql_type;
use crate::sqlstate;

/// Names the columns of a query and of those in it, before expressions are rewritten and show no more what they were.
///
/// # Errors
/// `42702` where ORDER BY or DISTINCT ON name several.
pub(crate) fn name_columns(query: &mut Query) -> Result<(), SqlError> {
    let mut namer = Namer { given: 0 };
    namer.name_columns_of(query, false)?;
    match query.visit(&mut namer) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

/// The names of a result whose planned columns are those of `schema`.
pub(crate) fn result_names(schema: &Schema) -> impl Iterator<Item = &str> {
    schema.fields().iter().map(|field| given_name(field.name()))
}

struct Namer {
    /// How many names were given that are unlike all others.
    given: usize,
}

impl VisitorMut for Namer {
    type Break = SqlError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<SqlError> {
        for cte in query.with.iter_mut().flat_map(|with| &mut with.cte_tables) {
            let is_known = !is_renamed(&cte.query, Some(&cte.alias));
            if let Err(error) = self.name_columns_of(&mut cte.query, is_known) {
                return ControlFlow::Break(error);
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<SqlError> {
        let TableFactor::Derived { subquery, alias, .. } = factor else { return ControlFlow::Continue(()) };
        let is_known = !is_renamed(subquery, alias.as_ref());
        self.name_columns_of(subquery, is_known).map_or_else(ControlFlow::Break, ControlFlow::Continue)
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
        let Expr::Exists { subquery, .. } = expr else { return ControlFlow::Continue(()) };
        self.name_columns_of(subquery, false).map_or_else(ControlFlow::Break, ControlFlow::Continue)
    }
}

impl Namer {
    /// Names the columns of a query, known by their names to one around it or not.
    fn name_columns_of(&mut self, query: &mut Query, is_known: bool) -> Result<(), SqlError> {
        // What is united has names alone: its columns are told apart by them.
        let mut is_known = is_known;
        let is_united = matches!(&*query.body, SetExpr::SetOperation { .. });
        let mut sorted: Vec<&mut Expr> = sort_keys(&mut query.order_by).collect();
        let mut body = &mut *query.body;
        let mut rest = Vec::new();
        loop {
            match body {
                SetExpr::SetOperation { left, right, .. } => {
                    rest.push(&mut **right);
                    body = left;
                    continue;
                }
                SetExpr::Query(inner) => {
                    sorted.extend(sort_keys(&mut inner.order_by));
                    body = &mut inner.body;
                    continue;
                }
                SetExpr::Select(select) => self.name_items(select, std::mem::take(&mut sorted), is_known, is_united)?,
                _ => {}
            }
            // The first of those that are united names the columns.
            is_known = false;
            sorted.clear();
            match rest.pop() {
                Some(next) => body = next,
                None => return Ok(()),
            }
        }
    }

    /// Bare names in `sorted` and in DISTINCT ON are those of result columns first.
    fn name_items<'a>(
        &mut self,
        select: &'a mut Select,
        mut sorted: Vec<&'a mut Expr>,
        is_known: bool,
        is_united: bool,
    ) -> Result<(), SqlError> {
        let Select { projection, distinct, .. } = select;
        let is_on = matches!(distinct, Some(Distinct::On(_)));
        if let Some(Distinct::On(expressions)) = distinct {
            for expr in &mut *expressions {
                let meant = place_of(expr).and_then(|place| projection.get(place)).and_then(item_expr);
                if let Some(meant) = meant {
                    *expr = meant.clone();
                }
            }
            sorted.extend(expressions);
        }
        check_sorted(&sorted, projection)?;
        let has_wildcard = projection.iter().any(is_wildcard);
        // An alias or a bare column beside a qualified one of that name is ambiguous, or alike, to the planner.
        let qualified: HashSet<String> = projection.iter().filter_map(qualified_name).collect();
        let mut counts = HashMap::new();
        projection.iter().filter_map(item_name).for_each(|name| *counts.entry(name).or_insert(0) += 1);
        // In an expression to sort by, a name is that of a column that is selected from.
        let mentioned: HashSet<String> =
            sorted.iter().filter(|key| !is_bare(key)).flat_map(|key| names_in(key)).collect();
        let mut seen = HashSet::new();
        for item in projection.iter_mut() {
            let Some(name) = item_name(item) else { continue };
            let (expr, is_unnamed) = match item {
                SelectItem::UnnamedExpr(expr) => (expr.clone(), column(expr).is_none()),
                SelectItem::ExprWithAlias { expr, .. } => (expr.clone(), false),
                _ => continue,
            };
            let is_alias = matches!(item, SelectItem::ExprWithAlias { .. });
            let is_repeated = (is_known || is_united) && counts.get(&name).is_some_and(|count| *count > 1);
            let is_alike = match is_known {
                true => is_repeated,
                false => {
                    let shown = if is_alias { name.clone() } else { written_alike(&expr) };
                    let may_be_taken = is_alias || is_bare(&expr);
                    let is_taken = may_be_taken && (qualified.contains(&name) || mentioned.contains(&name));
                    !seen.insert(shown) || is_repeated || has_wildcard || is_taken
                }
            };
            let is_meant = |key: &Expr| matches!(key, Expr::Identifier(ident) if folded(ident) == name);
            if is_on && (is_alias || is_unnamed) {
                // The planner looks for these in what is selected from.
                sorted.iter_mut().filter(|key| is_meant(key)).for_each(|key| **key = expr.clone());
            }
            if !is_alike && !is_unnamed {
                continue;
            }
            let alias = match is_known && !is_alike {
                true => Ident::with_quote('"', name.clone()),
                false => Ident::with_quote('"', {
                    self.given += 1;
                    format!("{UNIQUE_PREFIX}{}_{name}", self.given)
                }),
            };
            if !is_on {
                // A number is a place in the select list.
                let is_same = |key: &Expr| *key == expr && column(key).is_none() && !matches!(key, Expr::Value(_));
                let keys = sorted.iter_mut().filter(|key| is_meant(key) || is_same(key));
                keys.for_each(|key| **key = Expr::Identifier(alias.clone()));
            }
            *item = SelectItem::ExprWithAlias { expr, alias };
        }
        Ok(())
    }
}

/// Whether an alias gives names to all columns.
fn is_renamed(query: &Query, alias: Option<&TableAlias>) -> bool {
    let items = leading_select(query).map(|select| &select.projection[..]).unwrap_or_default();
    let given = alias.map_or(0, |alias| alias.columns.len());
    given > 0 && given == items.len() && !items.iter().any(is_wildcard)
}

fn sort_keys(order_by: &mut Option<OrderBy>) -> impl Iterator<Item = &mut Expr> {
    let keys = order_by.as_mut().and_then(|order_by| match &mut order_by.kind {
        OrderByKind::Expressions(expressions) => Some(expressions),
        OrderByKind::All(_) => None,
    });
    keys.into_iter().flatten().map(|order| &mut order.expr)
}

/// The place that a number means in a select list, from 0.
fn place_of(expr: &Expr) -> Option<usize> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::Number(digits, _) => digits.parse::<usize>().ok()?.checked_sub(1),
            _ => None,
        },
        _ => None,
    }
}

/// The names of the columns in an expression.
pub(crate) fn names_in(expr: &Expr) -> Vec<String> {
    let mut names = Vec::new();
    let _: ControlFlow<()> = visit_expressions(expr, |expr| {
        names.extend(column(expr));
        ControlFlow::Continue(())
    });
    names
}

/// As it is written, columns as they are folded and with their tables' bare names.
fn written_alike(expr: &Expr) -> String {
    match expr {
        Expr::Identifier(ident) => folded(ident),
        Expr::CompoundIdentifier(parts) => {
            let parts: Vec<String> = parts.iter().rev().take(2).map(folded).collect();
            parts.join(" of ")
        }
        expr => expr.to_string(),
    }
}

/// That a bare name sorted by does not mean several result columns.
fn check_sorted(sorted: &[&mut Expr], projection: &[SelectItem]) -> Result<(), SqlError> {
    for key in sorted {
        let Expr::Identifier(ident) = &**key else { continue };
        let name = folded(ident);
        let mut named = projection.iter().filter(|item| item_name(item).as_ref() == Some(&name)).filter_map(item_expr);
        let Some(first) = named.next() else { continue };
        // Whether a bare column is one with its table is the planner's to tell.
        let may_be_one =
            |expr: &Expr| column(expr).is_some() && column(expr) == column(first) && (is_bare(expr) || is_bare(first));
        if named.any(|expr| expr != first && !may_be_one(expr)) {
            let message = format!("ORDER BY or DISTINCT ON \"{name}\" is ambiguous");
            return Err(SqlError::new(sqlstate::AMBIGUOUS_COLUMN, message));
        }
    }
    Ok(())
}

/// The name that a column was given, without what makes it unlike.
fn given_name(planned: &str) -> &str {
    let given = planned.strip_prefix(UNIQUE_PREFIX).and_then(|rest| rest.split_once('_'));
    match given {
        Some((index, name)) if index.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => planned,
    }
}

/// The name of an item of a select list; `None`: a wildcard.
pub(crate) fn item_name(item: &SelectItem) -> Option<String> {
    match item {
        SelectItem::UnnamedExpr(expr) => Some(column_name(expr)),
        SelectItem::ExprWithAlias { alias, .. } => Some(folded(alias)),
        _ => None,
    }
}

/// The name of a column that is given with its table and without an alias.
fn qualified_name(item: &SelectItem) -> Option<String> {
    match item {
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => parts.last().map(folded),
        _ => None,
    }
}

const fn item_expr(item: &SelectItem) -> Option<&Expr> {
    match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => Some(expr),
        _ => None,
    }
}

/// The name of the column that an expression is, without its table.
fn column(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(ident) => Some(folded(ident)).filter(|_| !is_session_word(ident)),
        Expr::CompoundIdentifier(parts) => parts.last().map(folded),
        _ => None,
    }
}

const fn is_bare(expr: &Expr) -> bool {
    matches!(expr, Expr::Identifier(_))
}

/// The select list that names the result's columns.
pub(crate) fn leading_select(query: &Query) -> Option<&Select> {
    let mut body = &*query.body;
    loop {
        match body {
            SetExpr::SetOperation { left, .. } => body = left,
            SetExpr::Query(inner) => body = &inner.body,
            SetExpr::Select(select) => return Some(select),
            _ => return None,
        }
    }
}

pub(crate) const fn is_wildcard(item: &SelectItem) -> bool {
    matches!(
        item,
        SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(_), _)
    )
}

/// What PostgreSQL's `FigureColname` answers.
fn column_name(expr: &Expr) -> String {
    name_of(expr).map_or_else(|| "?column?".to_owned(), |(name, _)| name)
}

/// A name, and whether it is more than that of a type or of CASE, which give way to one that is.
fn name_of(expr: &Expr) -> Option<(String, bool)> {
    let strong = |name: &str| Some((name.to_owned(), true));
    match expr {
        Expr::Identifier(ident) => strong(&folded(ident)),
        Expr::CompoundIdentifier(parts) => strong(&folded(parts.last()?)),
        Expr::CompoundFieldAccess { root, access_chain } => {
            let field = access_chain.iter().rev().find_map(|access| match access {
                AccessExpr::Dot(Expr::Identifier(ident)) => strong(&folded(ident)),
                _ => None,
            });
            field.or_else(|| name_of(root))
        }
        Expr::Nested(inner) => name_of(inner),
        Expr::Function(function) => strong(&folded(function.name.0.last()?.as_ident()?)),
        Expr::Cast { kind: CastKind::Cast | CastKind::DoubleColon, expr, data_type, .. } => {
            let weak = || Some((type_name(&sql_type::column_type(data_type).ok()?.to_string())?, false));
            name_of(expr).filter(|(_, is_strong)| *is_strong).or_else(weak)
        }
        Expr::TypedString(typed) => {
            Some((type_name(&sql_type::column_type(&typed.data_type).ok()?.to_string())?, false))
        }
        Expr::Interval(_) => Some(("interval".to_owned(), false)),
        Expr::Case { else_result, .. } => {
            let other = else_result.as_ref().and_then(|expr| name_of(expr)).filter(|(_, is_strong)| *is_strong);
            other.or_else(|| Some(("case".to_owned(), false)))
        }
        Expr::Exists { negated: false, .. } => strong("exists"),
        Expr::Extract { .. } => strong("extract"),
        Expr::Substring { shorthand: true, .. } => strong("substr"),
        Expr::Substring { .. } => strong("substring"),
        Expr::Trim { trim_where, .. } => strong(match trim_where {
            Some(TrimWhereField::Leading) => "ltrim",
            Some(TrimWhereField::Trailing) => "rtrim",
            _ => "btrim",
        }),
        Expr::Position { .. } => strong("position"),
        Expr::Ceil { .. } => strong("ceil"),
        Expr::Floor { .. } => strong("floor"),
        Expr::Overlay { .. } => strong("overlay"),
        Expr::Array(_) => strong("array"),
        Expr::AtTimeZone { .. } => strong("timezone"),
        Expr::Subquery(query) => match leading_select(query)?.projection.first()? {
            SelectItem::UnnamedExpr(expr) => name_of(expr),
            SelectItem::ExprWithAlias { alias, .. } => strong(&folded(alias)),
            _ => None,
        },
        _ => None,
    }
}

/// PostgreSQL's internal name of a type.
fn type_name(spelled: &str) -> Option<String> {
    let element = spelled.trim_end_matches("[]");
    let bare = element.split('(').next()?.trim();
    let name = match bare {
        "boolean" => "bool",
        "smallint" => "int2",
        "integer" => "int4",
        "bigint" => "int8",
        "real" => "float4",
        "double precision" => "float8",
        "character varying" => "varchar",
        "character" => "bpchar",
        "time" | "time without time zone" => "time",
        "timestamp" if element.contains("with time zone") => "timestamptz",
        "timestamp with time zone" => "timestamptz",
        "timestamp" | "timestamp without time zone" => "timestamp",
        other => other,
    };
    Some(name.to_owned())
}

/// An identifier as PostgreSQL folds it.
pub(crate) fn folded(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

const UNIQUE_PREFIX: &str = "hw_column_";
