//! Names of result columns, as PostgreSQL gives them, where the planner wants them unlike one another.

use std::collections::HashSet;

use arrow::datatypes::Schema;
use datafusion::sql::sqlparser::ast::{
    AccessExpr, CastKind, Expr, Ident, OrderBy, OrderByKind, Query, Select, SelectItem,
    SelectItemQualifiedWildcardKind, SetExpr,
};

use crate::sql_type;

/// What the columns of a query's result are to be called.
#[derive(Debug, Default)]
pub(crate) struct ResultNames {
    /// One for each item of the select list; `None`: a wildcard.
    items: Vec<Option<String>>,
}

impl ResultNames {
    /// Notes the names of a query's columns, before it is rewritten.
    pub(crate) fn note(query: &mut Query) -> Self {
        let Some(select) = first_select(query) else { return Self::default() };
        let name = |item: &SelectItem| match item {
            SelectItem::UnnamedExpr(expr) => Some(column_name(expr)),
            SelectItem::ExprWithAlias { alias, .. } => Some(folded(alias)),
            _ => None,
        };
        Self { items: select.projection.iter().map(name).collect() }
    }

    /// Gives items that the planner would take for duplicates a name of their own.
    pub(crate) fn make_unlike(query: &mut Query) {
        let names = Self::note(query);
        let mut order_by = std::mem::take(&mut query.order_by);
        let Some(select) = first_select(query) else {
            query.order_by = order_by;
            return;
        };
        let has_wildcard = select.projection.iter().any(is_wildcard);
        let is_distinct = select.distinct.is_some();
        let mut seen = HashSet::new();
        for (index, item) in select.projection.iter_mut().enumerate() {
            let shown = match item {
                SelectItem::UnnamedExpr(expr) => expr.to_string(),
                SelectItem::ExprWithAlias { alias, .. } => folded(alias),
                _ => continue,
            };
            let is_unnamed = matches!(item, SelectItem::UnnamedExpr(_));
            let is_column = matches!(item, SelectItem::UnnamedExpr(Expr::Identifier(_) | Expr::CompoundIdentifier(_)));
            // What differs in writing may still be one expression to the planner: `(a + b)` and `a + b`.
            let may_collide = is_unnamed && !is_column && !is_distinct;
            if !seen.insert(shown) || (has_wildcard && is_unnamed) || may_collide {
                let alias = Ident::with_quote('"', format!("{UNIQUE_PREFIX}{index}"));
                if let Some(Some(name)) = names.items.get(index) {
                    rename_in_order(&mut order_by, name, &alias);
                }
                let expr = match item {
                    SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => expr.clone(),
                    _ => continue,
                };
                *item = SelectItem::ExprWithAlias { expr, alias };
            }
        }
        query.order_by = order_by;
    }

    /// The names of a result whose planned columns are those of `schema`.
    pub(crate) fn of(&self, schema: &Schema) -> Vec<String> {
        let planned: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
        let named = self.items.iter().flatten().count();
        let wildcards = self.items.len() - named;
        if self.items.is_empty() || planned.len() < named || (wildcards == 0 && planned.len() != named) {
            return planned;
        }
        if wildcards > 1 {
            // How wide each is cannot be told: only the names that were made unlike are put right.
            let own =
                |name: String| match name.strip_prefix(UNIQUE_PREFIX).and_then(|index| index.parse::<usize>().ok()) {
                    Some(index) => self.items.get(index).cloned().flatten().unwrap_or(name),
                    None => name,
                };
            return planned.into_iter().map(own).collect();
        }
        let width = planned.len() - named;
        let mut planned = planned.into_iter();
        let mut names = Vec::new();
        for item in &self.items {
            match item {
                Some(name) => {
                    planned.next();
                    names.push(name.clone());
                }
                None => names.extend(planned.by_ref().take(width)),
            }
        }
        names
    }
}

/// The names of a query's columns, if its text tells them.
pub(crate) fn column_names(query: &Query) -> Option<Vec<String>> {
    let mut body = &*query.body;
    loop {
        match body {
            SetExpr::SetOperation { left, .. } => body = left,
            SetExpr::Query(inner) => body = &inner.body,
            SetExpr::Select(select) => {
                let name = |item: &SelectItem| match item {
                    SelectItem::UnnamedExpr(expr) => Some(column_name(expr)),
                    SelectItem::ExprWithAlias { alias, .. } => Some(folded(alias)),
                    _ => None,
                };
                return select.projection.iter().map(name).collect();
            }
            _ => return None,
        }
    }
}

/// A bare name in ORDER BY is that of a result column first.
fn rename_in_order(order_by: &mut Option<OrderBy>, name: &str, alias: &Ident) {
    let Some(OrderBy { kind: OrderByKind::Expressions(expressions), .. }) = order_by else { return };
    for order in expressions {
        if let Expr::Identifier(ident) = &order.expr
            && folded(ident) == name
        {
            order.expr = Expr::Identifier(alias.clone());
        }
    }
}

/// The select list that names the result's columns.
fn first_select(query: &mut Query) -> Option<&mut Select> {
    let mut body = &mut *query.body;
    loop {
        match body {
            SetExpr::SetOperation { left, .. } => body = left,
            SetExpr::Query(inner) => body = &mut inner.body,
            SetExpr::Select(select) => return Some(select),
            _ => return None,
        }
    }
}

fn is_wildcard(item: &SelectItem) -> bool {
    matches!(
        item,
        SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(_), _)
    )
}

/// What PostgreSQL's `FigureColname` answers.
fn column_name(expr: &Expr) -> String {
    name_of(expr).unwrap_or_else(|| "?column?".to_owned())
}

fn name_of(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(ident) => Some(folded(ident)),
        Expr::CompoundIdentifier(parts) => parts.last().map(folded),
        Expr::CompoundFieldAccess { root, access_chain } => {
            let field = access_chain.iter().rev().find_map(|access| match access {
                AccessExpr::Dot(Expr::Identifier(ident)) => Some(folded(ident)),
                _ => None,
            });
            field.or_else(|| name_of(root))
        }
        Expr::Nested(inner) => name_of(inner),
        Expr::Function(function) => {
            let name = function.name.0.last()?.as_ident().map(folded)?;
            Some(name)
        }
        Expr::Cast { kind: CastKind::Cast | CastKind::DoubleColon, expr, data_type, .. } => {
            let inner = name_of(expr).filter(|_| !matches!(**expr, Expr::Case { .. }));
            inner.or_else(|| type_name(&sql_type::column_type(data_type).ok()?.to_string()))
        }
        Expr::TypedString(typed) => type_name(&sql_type::column_type(&typed.data_type).ok()?.to_string()),
        Expr::Interval(_) => Some("interval".to_owned()),
        Expr::Case { else_result, .. } => {
            else_result.as_ref().and_then(|expr| name_of(expr)).or_else(|| Some("case".to_owned()))
        }
        Expr::Exists { .. } => Some("exists".to_owned()),
        Expr::Extract { .. } => Some("extract".to_owned()),
        Expr::Substring { .. } => Some("substring".to_owned()),
        Expr::Trim { .. } => Some("btrim".to_owned()),
        Expr::Position { .. } => Some("position".to_owned()),
        Expr::Ceil { .. } => Some("ceil".to_owned()),
        Expr::Floor { .. } => Some("floor".to_owned()),
        Expr::Overlay { .. } => Some("overlay".to_owned()),
        Expr::Array(_) => Some("array".to_owned()),
        Expr::AtTimeZone { .. } => Some("timezone".to_owned()),
        Expr::Value(value) => match value.value {
            datafusion::sql::sqlparser::ast::Value::Boolean(_) => Some("bool".to_owned()),
            _ => None,
        },
        Expr::Subquery(query) => match &*query.body {
            SetExpr::Select(select) => match select.projection.first()? {
                SelectItem::UnnamedExpr(expr) => name_of(expr),
                SelectItem::ExprWithAlias { alias, .. } => Some(folded(alias)),
                _ => None,
            },
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
