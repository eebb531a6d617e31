//! INSERT: rows of literals go straight into the row format, everything else through the planner.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use datafusion::sql::sqlparser::ast::{
    Expr, Insert, OnInsert, Query, SelectItem, SetExpr, TableObject, Value as Literal, Values,
};
use futures::TryStreamExt;
use highwater_log::value::OwnedValue;
use highwater_materializers::Table;

use super::assign::{self, encode_row};
use super::{Changed, Returning, change, column_place, conflict, is_default_keyword, refuse};
use crate::error::SqlError;
use crate::names::folded;
use crate::rewrite::written;
use crate::sqlstate;
use crate::statement::{StatementContext, parse_own_query, quoted};
use crate::transaction::{RowChange, Transaction};
use crate::types;

/// Runs an INSERT.
pub(crate) async fn insert(
    context: &StatementContext<'_>,
    transaction: &mut Transaction,
    insert: &Insert,
) -> Result<Changed, SqlError> {
    let is_plain = insert.or.is_none()
        && !insert.ignore
        && !insert.overwrite
        && !insert.replace_into
        && insert.partitioned.is_none()
        && insert.assignments.is_empty();
    refuse(!is_plain, "this form of INSERT")?;
    let TableObject::TableName(name) = &insert.table else { return Err(SqlError::syntax("INSERT takes a table")) };
    let name = context.resolve(name)?;
    if crate::system::is_system(&name.namespace) {
        return Err(SqlError::new(sqlstate::SYNTAX_OR_ACCESS, format!("{name} cannot be changed")));
    }
    let table = transaction.catalog.table(&name)?;
    let columns = insert.columns.iter().map(|column| column.0.last().and_then(|part| part.as_ident()).map(folded));
    let columns = columns.map(Option::unwrap_or_default).collect::<Vec<_>>();
    let places = target_places(&table, &columns)?;
    let is_listed = !columns.is_empty();
    let is_plain = insert.on.is_none() && insert.returning.is_none();
    if let Some(source) = insert.source.as_deref().filter(|source| is_plain && plain_values(source).is_none()) {
        return query_into(context, transaction, &table, &places, is_listed, source).await;
    }
    let changes = match insert.source.as_deref().map(|source| (source, plain_values(source))) {
        None => {
            let row = Values { explicit_row: false, value_keyword: false, rows: Vec::new() };
            values_rows(context, transaction, &table, &[], is_listed, &row, true).await?
        }
        Some((_, Some(values))) => values_rows(context, transaction, &table, &places, is_listed, values, false).await?,
        Some((source, None)) => query_rows(context, transaction, &table, &places, is_listed, source).await?,
    };
    let alias = insert.table_alias.as_ref().map_or_else(|| name.name.clone(), |alias| folded(&alias.alias));
    let alias = quoted(&alias).to_string();
    let changes = match &insert.on {
        None => changes,
        Some(OnInsert::OnConflict(on)) => conflict::resolve(context, transaction, &table, &alias, on, changes).await?,
        Some(_) => return Err(SqlError::unsupported("this form of INSERT")),
    };
    change(context, transaction, &table, &alias, changes, Returning(insert.returning.as_deref())).await
}

/// Inserts rows that are there already: columns in the order of the table's declaration, in their canonical types.
pub(crate) fn insert_batches(
    transaction: &mut Transaction,
    table: &Arc<Table>,
    batches: &[RecordBatch],
) -> Result<usize, SqlError> {
    let places: Vec<usize> = (0..table.schema().columns.len()).collect();
    let changes = changes_of(table, &places, batches)?;
    transaction.write(table, changes)
}

/// What a column's DEFAULT is now.
pub(crate) async fn default_value(
    context: &StatementContext<'_>,
    transaction: &Transaction,
    table: &Table,
    place: usize,
) -> Result<Option<OwnedValue>, SqlError> {
    let default = assign::default_expression(table, place)?;
    let sql = format!("SELECT {}", written(&assign::assigned(table, place, &default)));
    let batches = context.collect(transaction, &sql, None).await?;
    match batches.iter().find(|batch| batch.num_rows() > 0) {
        Some(batch) => types::value_at(batch.column(0), 0, table.schema().columns[place].column_type),
        None => Ok(None),
    }
}

fn target_places(table: &Table, columns: &[String]) -> Result<Vec<usize>, SqlError> {
    if columns.is_empty() {
        return Ok((0..table.schema().columns.len()).collect());
    }
    let mut places = Vec::with_capacity(columns.len());
    for column in columns {
        let place = column_place(table, column)?;
        if places.contains(&place) {
            let message = format!("column \"{column}\" specified more than once");
            return Err(SqlError::new(sqlstate::DUPLICATE_COLUMN, message));
        }
        places.push(place);
    }
    Ok(places)
}

/// The rows of `VALUES (…), …` with nothing around them.
fn plain_values(query: &Query) -> Option<&Values> {
    let is_plain =
        query.with.is_none() && query.order_by.is_none() && query.limit_clause.is_none() && query.fetch.is_none();
    match &*query.body {
        SetExpr::Values(values) if is_plain => Some(values),
        _ => None,
    }
}

async fn values_rows(
    context: &StatementContext<'_>,
    transaction: &Transaction,
    table: &Arc<Table>,
    places: &[usize],
    is_listed: bool,
    values: &Values,
    is_all_default: bool,
) -> Result<Vec<RowChange>, SqlError> {
    let columns = &table.schema().columns;
    let defaults =
        (0..columns.len()).map(|place| assign::default_expression(table, place)).collect::<Result<Vec<_>, _>>()?;
    let empty = Vec::new();
    let rows: Vec<&Vec<Expr>> =
        if is_all_default { vec![&empty] } else { values.rows.iter().map(|row| &row.content).collect() };
    if rows.windows(2).any(|rows| rows[0].len() != rows[1].len()) {
        return Err(SqlError::syntax("VALUES lists must all be the same length"));
    }
    let mut full_rows: Vec<Vec<&Expr>> = Vec::with_capacity(rows.len());
    for row in rows {
        check_width(row.len(), places.len(), is_listed || row.len() > places.len())?;
        let mut full: Vec<&Expr> = defaults.iter().collect();
        for (value, place) in row.iter().zip(places) {
            if !is_default_keyword(value) {
                full[*place] = value;
            }
        }
        full_rows.push(full);
    }
    let mut changes = Vec::with_capacity(full_rows.len());
    let mut rest = Vec::new();
    for row in &full_rows {
        match literal_row(table, row) {
            Some(values) => changes.push(RowChange::Insert { after: encode_row(table, &values?)? }),
            None => {
                // Their order is that of the row ids: from the first that needs the planner on, all go through it.
                rest = full_rows[changes.len()..].to_vec();
                break;
            }
        }
    }
    for rows in rest.chunks(PLANNED_ROWS_MAX) {
        let rows: Vec<String> = rows.iter().map(|row| planned_row(table, row)).collect();
        let sql = format!("SELECT {}", rows.join(" UNION ALL SELECT "));
        let batches = context.collect(transaction, &sql, None).await?;
        let all: Vec<usize> = (0..columns.len()).collect();
        changes.extend(changes_of(table, &all, &batches)?);
    }
    Ok(changes)
}

fn planned_row(table: &Table, row: &[&Expr]) -> String {
    let cells = row.iter().enumerate();
    let cells = cells.map(|(place, value)| format!("{} AS c{place}", written(&assign::assigned(table, place, value))));
    cells.collect::<Vec<_>>().join(", ")
}

/// A row whose values are literals all, in the order of the layout; `None`: one is not.
fn literal_row(table: &Table, row: &[&Expr]) -> Option<Result<Vec<Option<OwnedValue>>, SqlError>> {
    let mut values = vec![None; row.len()];
    for (column, expr) in table.schema().columns.iter().zip(row) {
        let value = match assign::literal_value(expr, column.column_type, &column.name)? {
            Ok(value) => value,
            Err(error) => return Some(Err(error)),
        };
        values[table.layout().index_of(column.id)?] = value;
    }
    Some(Ok(values))
}

async fn query_rows(
    context: &StatementContext<'_>,
    transaction: &Transaction,
    table: &Arc<Table>,
    places: &[usize],
    is_listed: bool,
    source: &Query,
) -> Result<Vec<RowChange>, SqlError> {
    let sql = assigned_query(context, transaction, table, places, is_listed, source)?;
    let batches = context.collect(transaction, &sql, None).await?;
    let all: Vec<usize> = (0..table.schema().columns.len()).collect();
    changes_of(table, &all, &batches)
}

/// Writes the rows of a query as they come: they are never all in memory.
async fn query_into(
    context: &StatementContext<'_>,
    transaction: &mut Transaction,
    table: &Arc<Table>,
    places: &[usize],
    is_listed: bool,
    source: &Query,
) -> Result<Changed, SqlError> {
    let sql = assigned_query(context, transaction, table, places, is_listed, source)?;
    // It sees nothing of what is written meanwhile.
    let mut rows = context.query(transaction, parse_own_query(&sql)?, None).await?;
    let all: Vec<usize> = (0..table.schema().columns.len()).collect();
    let mut count = 0;
    while let Some(batch) = rows.try_next().await? {
        count += transaction.write(table, changes_of(table, &all, &[batch])?)?;
    }
    Ok(Changed { count, returned: None })
}

/// The query that gives a value for each column of the table, in the order of the declaration.
fn assigned_query(
    context: &StatementContext<'_>,
    transaction: &Transaction,
    table: &Arc<Table>,
    places: &[usize],
    is_listed: bool,
    source: &Query,
) -> Result<String, SqlError> {
    let mut source = source.clone();
    // How many columns it has is known when it is planned.
    let width = context.plan(transaction, source.clone(), None)?.logical.schema().fields().len();
    check_width(width, places.len(), is_listed || width > places.len())?;
    let places = &places[..width];
    assign_literals(table, places, &mut source.body);
    let names: Vec<String> = (0..width).map(|index| format!("c{index}")).collect();
    let mut items = Vec::with_capacity(table.schema().columns.len());
    for place in 0..table.schema().columns.len() {
        let value = match places.iter().position(|known| *known == place) {
            Some(index) => Expr::Identifier(datafusion::sql::sqlparser::ast::Ident::new(&names[index])),
            None => assign::default_expression(table, place)?,
        };
        items.push(format!("{} AS a{place}", written(&assign::assigned(table, place, &value))));
    }
    let (items, names) = (items.join(", "), names.join(", "));
    Ok(format!("SELECT {items} FROM ({}) AS hw_source({names})", written(&source)))
}

/// Text literals in the select list take the type of their column, as PostgreSQL's untyped literals do.
fn assign_literals(table: &Table, places: &[usize], body: &mut SetExpr) {
    match body {
        SetExpr::Select(select) => {
            for (item, place) in select.projection.iter_mut().zip(places) {
                match item {
                    SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } if is_untyped(expr) => {
                        *expr = assign::assigned(table, *place, expr);
                    }
                    // What stands behind a wildcard stands at no known place.
                    SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..) => return,
                    _ => {}
                }
            }
        }
        SetExpr::SetOperation { left, right, .. } => {
            assign_literals(table, places, left);
            assign_literals(table, places, right);
        }
        SetExpr::Query(query) => assign_literals(table, places, &mut query.body),
        SetExpr::Values(values) => {
            for row in &mut values.rows {
                for (expr, place) in row.content.iter_mut().zip(places) {
                    if is_untyped(expr) {
                        *expr = assign::assigned(table, *place, expr);
                    }
                }
            }
        }
        _ => {}
    }
}

fn is_untyped(expr: &Expr) -> bool {
    let Expr::Value(value) = expr else { return false };
    matches!(value.value, Literal::SingleQuotedString(_) | Literal::EscapedStringLiteral(_) | Literal::Null)
}

fn check_width(given: usize, expected: usize, is_exact: bool) -> Result<(), SqlError> {
    match given.cmp(&expected) {
        std::cmp::Ordering::Greater => Err(SqlError::syntax("INSERT has more expressions than target columns")),
        std::cmp::Ordering::Less if is_exact => {
            Err(SqlError::syntax("INSERT has more target columns than expressions"))
        }
        _ => Ok(()),
    }
}

/// Inserts out of batches whose columns are those at `places` of the declaration.
fn changes_of(table: &Table, places: &[usize], batches: &[RecordBatch]) -> Result<Vec<RowChange>, SqlError> {
    let columns = &table.schema().columns;
    let mut changes = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let mut values = vec![None; columns.len()];
            for (array, place) in batch.columns().iter().zip(places) {
                let column = &columns[*place];
                let array: &ArrayRef = array;
                let at =
                    table.layout().index_of(column.id).ok_or_else(|| SqlError::internal("a column without a place"))?;
                values[at] = types::value_at(array, row, column.column_type)?;
            }
            changes.push(RowChange::Insert { after: encode_row(table, &values)? });
        }
    }
    Ok(changes)
}

/// Rows of one planned statement: each is a branch of a union.
const PLANNED_ROWS_MAX: usize = 100;
