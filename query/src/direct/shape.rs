//! Which statements have the shape: looked at as they are written, before anything is known of their table.

use datafusion::sql::sqlparser::ast::{
    Assignment, AssignmentTarget, BinaryOperator, Delete, Expr, FromTable, GroupByExpr, Ident, Insert, LimitClause,
    ObjectName, OrderBy, OrderByExpr, OrderByKind, OrderByOptions, Query, Select, SelectFlavor, SelectItem, SetExpr,
    Statement, TableFactor, TableObject, TableWithJoins, Update, Values, WildcardAdditionalOptions,
};

use crate::catalog::QualifiedName;
use crate::names::folded;
use crate::rewrite::is_session_word;

/// A statement over one table that may go round the planner.
pub(super) struct Shape<'a> {
    table: &'a ObjectName,
    /// The name by which expressions know the table.
    alias: String,
    pub(super) verb: Verb<'a>,
}

pub(super) enum Verb<'a> {
    Select {
        items: &'a [SelectItem],
        conditions: Vec<Condition<'a>>,
        order: Vec<Ordering<'a>>,
        limit: Option<&'a Expr>,
    },
    Insert {
        columns: &'a [ObjectName],
        rows: &'a Values,
    },
    Update {
        assignments: Vec<(&'a ObjectName, &'a Expr)>,
        equals: Vec<(&'a Expr, &'a Expr)>,
    },
    Delete {
        equals: Vec<(&'a Expr, &'a Expr)>,
    },
}

/// A comparison that must hold.
pub(super) struct Condition<'a> {
    pub(super) left: &'a Expr,
    pub(super) comparison: Comparison,
    pub(super) right: &'a Expr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    const fn of(op: &BinaryOperator) -> Option<Self> {
        match op {
            BinaryOperator::Eq => Some(Self::Equal),
            BinaryOperator::Lt => Some(Self::Less),
            BinaryOperator::LtEq => Some(Self::LessOrEqual),
            BinaryOperator::Gt => Some(Self::Greater),
            BinaryOperator::GtEq => Some(Self::GreaterOrEqual),
            _ => None,
        }
    }

    /// The same with its sides exchanged.
    pub(super) const fn swapped(self) -> Self {
        match self {
            Self::Equal => Self::Equal,
            Self::Less => Self::Greater,
            Self::LessOrEqual => Self::GreaterOrEqual,
            Self::Greater => Self::Less,
            Self::GreaterOrEqual => Self::LessOrEqual,
        }
    }

    /// Whether the right side is a lower bound of the left one.
    pub(super) const fn is_lower(self) -> bool {
        matches!(self, Self::Greater | Self::GreaterOrEqual)
    }

    /// Whether it holds of equals.
    pub(super) const fn is_inclusive(self) -> bool {
        matches!(self, Self::Equal | Self::LessOrEqual | Self::GreaterOrEqual)
    }
}

/// An item of ORDER BY, NULLs where they stand unless something is said.
pub(super) struct Ordering<'a> {
    pub(super) expr: &'a Expr,
    pub(super) direction: Direction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Ascending,
    Descending,
}

impl<'a> Shape<'a> {
    pub(super) fn of(statement: &'a Statement) -> Option<Self> {
        match statement {
            Statement::Query(query) => select(query),
            Statement::Insert(statement) => insert(statement),
            Statement::Update(statement) => update(statement),
            Statement::Delete(statement) => delete(statement),
            _ => None,
        }
    }

    /// The table's name, in this namespace unless it says another.
    pub(super) fn name(&self, namespace: &str) -> Option<QualifiedName> {
        let part = |part: &datafusion::sql::sqlparser::ast::ObjectNamePart| part.as_ident().map(folded);
        match &self.table.0[..] {
            [name] => Some(QualifiedName { namespace: namespace.to_owned(), name: part(name)? }),
            [namespace, name] => Some(QualifiedName { namespace: part(namespace)?, name: part(name)? }),
            _ => None,
        }
    }

    /// The column of the table that an expression names, if it names one.
    pub(super) fn column(&self, expr: &Expr) -> Option<String> {
        match expr {
            Expr::Identifier(ident) if !is_session_word(ident) => Some(folded(ident)),
            Expr::CompoundIdentifier(parts) => match &parts[..] {
                [table, column] if folded(table) == self.alias => Some(folded(column)),
                _ => None,
            },
            Expr::Nested(inner) => self.column(inner),
            _ => None,
        }
    }
}

fn select(query: &Query) -> Option<Shape<'_>> {
    // Each field is named: one that is new is to be thought of.
    let Query {
        with: None,
        body,
        order_by,
        limit_clause,
        fetch: None,
        locks,
        for_clause: None,
        settings: None,
        format_clause: None,
        pipe_operators,
    } = query
    else {
        return None;
    };
    let SetExpr::Select(select) = &**body else { return None };
    let Select {
        select_token: _,
        optimizer_hints,
        distinct: None,
        select_modifiers: None,
        top: None,
        top_before_distinct: _,
        projection: items,
        exclude: None,
        into: None,
        from,
        lateral_views,
        prewhere: None,
        selection,
        connect_by,
        group_by: GroupByExpr::Expressions(group_by, modifiers),
        cluster_by,
        distribute_by,
        sort_by,
        having: None,
        named_window,
        qualify: None,
        window_before_qualify: _,
        value_table_mode: None,
        flavor: SelectFlavor::Standard,
    } = &**select
    else {
        return None;
    };
    let is_plain = locks.is_empty()
        && pipe_operators.is_empty()
        && optimizer_hints.is_empty()
        && lateral_views.is_empty()
        && connect_by.is_empty()
        && group_by.is_empty()
        && modifiers.is_empty()
        && cluster_by.is_empty()
        && distribute_by.is_empty()
        && sort_by.is_empty()
        && named_window.is_empty();
    let [from] = &from[..] else { return None };
    let (table, alias) = table(from).filter(|_| is_plain)?;
    let order = order_by.as_ref().map_or(Some(Vec::new()), ordering)?;
    // It sorts by what the query calls so, before it sorts by columns.
    if !order.is_empty() && items.iter().any(|item| matches!(item, SelectItem::ExprWithAlias { .. })) {
        return None;
    }
    let limit = match limit_clause {
        None => None,
        Some(LimitClause::LimitOffset { limit: Some(limit), offset: None, limit_by }) if limit_by.is_empty() => {
            Some(limit)
        }
        Some(_) => return None,
    };
    let conditions = selection.as_ref().map_or(Some(Vec::new()), conditions)?;
    Some(Shape { table, alias, verb: Verb::Select { items, conditions, order, limit } })
}

fn insert(insert: &Insert) -> Option<Shape<'_>> {
    let TableObject::TableName(table) = &insert.table else { return None };
    let is_plain = insert.or.is_none()
        && !insert.ignore
        && !insert.overwrite
        && !insert.replace_into
        && insert.assignments.is_empty()
        && insert.partitioned.is_none()
        && insert.after_columns.is_empty()
        && insert.on.is_none()
        && insert.returning.is_none()
        && insert.output.is_none()
        && insert.insert_alias.is_none()
        && insert.settings.is_none()
        && insert.format_clause.is_none();
    let Query {
        with: None,
        body,
        order_by: None,
        limit_clause: None,
        fetch: None,
        locks,
        for_clause: None,
        settings: None,
        format_clause: None,
        pipe_operators,
    } = insert.source.as_deref().filter(|_| is_plain)?
    else {
        return None;
    };
    let SetExpr::Values(rows) = &**body else { return None };
    if !locks.is_empty() || !pipe_operators.is_empty() {
        return None;
    }
    Some(Shape { table, alias: String::new(), verb: Verb::Insert { columns: &insert.columns, rows } })
}

fn update(update: &Update) -> Option<Shape<'_>> {
    let is_plain = update.from.is_none()
        && update.returning.is_none()
        && update.output.is_none()
        && update.or.is_none()
        && update.order_by.is_empty()
        && update.limit.is_none();
    let (table, alias) = table(&update.table).filter(|_| is_plain)?;
    let single = |assignment: &'_ Assignment| matches!(assignment.target, AssignmentTarget::ColumnName(_));
    let assignments = update.assignments.iter().all(single).then(|| {
        update.assignments.iter().filter_map(|assignment| match &assignment.target {
            AssignmentTarget::ColumnName(name) => Some((name, &assignment.value)),
            AssignmentTarget::Tuple(_) => None,
        })
    })?;
    let equals = equals(update.selection.as_ref()?)?;
    Some(Shape { table, alias, verb: Verb::Update { assignments: assignments.collect(), equals } })
}

fn delete(delete: &Delete) -> Option<Shape<'_>> {
    let is_plain = delete.tables.is_empty()
        && delete.using.is_none()
        && delete.returning.is_none()
        && delete.output.is_none()
        && delete.order_by.is_empty()
        && delete.limit.is_none();
    let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
    let [from] = &from[..] else { return None };
    let (table, alias) = table(from).filter(|_| is_plain)?;
    Some(Shape { table, alias, verb: Verb::Delete { equals: equals(delete.selection.as_ref()?)? } })
}

/// A table by itself, and the name that it goes by.
fn table(from: &TableWithJoins) -> Option<(&ObjectName, String)> {
    let TableFactor::Table {
        name,
        alias,
        args: None,
        with_hints,
        version: None,
        with_ordinality: false,
        partitions,
        json_path: None,
        sample: None,
        index_hints,
    } = &from.relation
    else {
        return None;
    };
    if !(from.joins.is_empty() && with_hints.is_empty() && partitions.is_empty() && index_hints.is_empty()) {
        return None;
    }
    let alias = match alias {
        None => folded(name.0.last()?.as_ident()?),
        Some(alias) if alias.columns.is_empty() => folded(&alias.name),
        Some(_) => return None,
    };
    Some((name, alias))
}

/// What is sorted by, if nothing unusual is said of it.
fn ordering(order: &OrderBy) -> Option<Vec<Ordering<'_>>> {
    let OrderBy { kind: OrderByKind::Expressions(items), interpolate: None } = order else { return None };
    let item = |item| match item {
        &OrderByExpr { ref expr, options: OrderByOptions { asc, nulls_first: None }, with_fill: None } => {
            let direction = if asc == Some(false) { Direction::Descending } else { Direction::Ascending };
            Some(Ordering { expr, direction })
        }
        _ => None,
    };
    items.iter().map(item).collect()
}

/// The comparisons that all must hold; `None`: there is something else.
fn conditions(filter: &Expr) -> Option<Vec<Condition<'_>>> {
    let (mut found, mut rest) = (Vec::new(), vec![filter]);
    while let Some(expr) = rest.pop() {
        match expr {
            Expr::BinaryOp { left, op: BinaryOperator::And, right } => rest.extend([&**right, &**left]),
            Expr::BinaryOp { left, op, right } => {
                found.push(Condition { left, comparison: Comparison::of(op)?, right });
            }
            Expr::Between { expr, negated: false, low, high } => {
                found.push(Condition { left: expr, comparison: Comparison::GreaterOrEqual, right: low });
                found.push(Condition { left: expr, comparison: Comparison::LessOrEqual, right: high });
            }
            Expr::Nested(inner) => rest.push(inner),
            _ => return None,
        }
    }
    Some(found)
}

/// The sides of equalities, if all are that.
pub(super) fn equalities<'a>(conditions: &[Condition<'a>]) -> Option<Vec<(&'a Expr, &'a Expr)>> {
    let sides = |condition: &Condition<'a>| {
        (condition.comparison == Comparison::Equal).then_some((condition.left, condition.right))
    };
    conditions.iter().map(sides).collect()
}

/// The sides of equalities that all must hold; `None`: there is something else.
fn equals(filter: &Expr) -> Option<Vec<(&Expr, &Expr)>> {
    equalities(&conditions(filter)?)
}

/// Whether `*` says nothing more.
pub(super) fn is_plain_wildcard(options: &WildcardAdditionalOptions) -> bool {
    let WildcardAdditionalOptions {
        wildcard_token: _,
        opt_ilike,
        opt_exclude,
        opt_except,
        opt_replace,
        opt_rename,
        opt_alias,
    } = options;
    opt_ilike.is_none()
        && opt_exclude.is_none()
        && opt_except.is_none()
        && opt_replace.is_none()
        && opt_rename.is_none()
        && opt_alias.is_none()
}

/// The last part of a name.
pub(super) fn last_part(name: &ObjectName) -> Option<&Ident> {
    match &name.0[..] {
        [part] => part.as_ident(),
        _ => None,
    }
}
