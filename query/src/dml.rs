//! INSERT, UPDATE, DELETE.
//!
//! Each is a query first: DataFusion reads the rows that a WHERE selects and computes what they become, and never sees that they
//! are to be changed. Nothing of a statement's filter can get lost on a way that it doesn't go.

mod assign;
mod conflict;
mod insert;
mod returning;

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use bytes::Bytes;
use datafusion::sql::sqlparser::ast::{
    Assignment, AssignmentTarget, Delete, Expr, FromTable, ObjectName, SelectItem, TableFactor, TableWithJoins, Update,
    UpdateTableFromKind, visit_expressions,
};
use futures::TryStreamExt;
use highwater_log::position::ColumnId;
use highwater_log::value::OwnedValue;
use highwater_materializers::Table;

pub(crate) use assign::{default_expression, encode_row, encode_values, literal_value};
pub(crate) use insert::{default_value, insert, insert_batches};

use crate::catalog::QualifiedName;
use crate::error::SqlError;
use crate::names::folded;
use crate::providers::{TARGET_NAMESPACE, Target};
use crate::rewrite::written;
use crate::rows::SeenRow;
use crate::scan::KEY_COLUMN;
use crate::sqlstate;
use crate::statement::{RowStream, StatementContext, parse_own_query, quoted};
use crate::transaction::{RowChange, Transaction};
use crate::types;

/// What a statement has changed.
pub(crate) struct Changed {
    /// How many rows.
    pub(crate) count: usize,
    /// What its RETURNING gives of them.
    pub(crate) returned: Option<RowStream>,
}

/// Runs an UPDATE.
pub(crate) async fn update(
    context: &StatementContext<'_>,
    transaction: &mut Transaction,
    update: &Update,
) -> Result<Changed, SqlError> {
    refuse(update.limit.is_some() || !update.order_by.is_empty(), "UPDATE with ORDER BY or LIMIT")?;
    refuse(update.or.is_some() || update.output.is_some(), "this form of UPDATE")?;
    let (name, alias) = target(context, &update.table)?;
    let table = transaction.catalog.table(&name)?;
    let assignments = assignments(&table, &update.assignments)?;
    let mut items = vec![format!("{alias}.{KEY_COLUMN}")];
    for (index, (place, value)) in assignments.iter().enumerate() {
        items.push(format!("{} AS c{index}", written(&assign::assigned(&table, *place, value))));
    }
    let mut from = vec![from_target(&name, &alias)];
    match &update.from {
        None => {}
        Some(UpdateTableFromKind::AfterSet(tables)) => from.extend(tables.iter().map(written)),
        Some(UpdateTableFromKind::BeforeSet(_)) => return Err(SqlError::unsupported("FROM before SET")),
    }
    let filter = update.selection.as_ref().map_or(String::new(), |filter| format!(" WHERE {}", written(filter)));
    let sql = format!("SELECT {} FROM {}{filter}", items.join(", "), from.join(", "));
    let places: Vec<usize> = assignments.into_iter().map(|(place, _)| place).collect();
    let target = Some(Target::Table(name));
    let is_single = update.from.is_none() && !update.assignments.iter().any(gives_rows);
    if is_single && update.returning.is_none() && moves_nothing(&table, &places) {
        // Each row comes once, and none takes what another one has to give up first.
        let mut rows = context.query(transaction, parse_own_query(&sql)?, target).await?;
        let mut count = 0;
        while let Some(batch) = rows.try_next().await? {
            let changes = updates(transaction, &table, &places, &[batch])?;
            count += transaction.write(&table, changes)?;
        }
        return Ok(Changed { count, returned: None });
    }
    let batches = context.collect(transaction, &sql, target).await?;
    let changes = updates(transaction, &table, &places, &batches)?;
    let returning = Returning::of_joined(update.returning.as_deref(), update.from.is_some())?;
    change(context, transaction, &table, &alias, changes, returning).await
}

/// Whether a value may come to several rows, and with it the row that it is of.
fn gives_rows(assignment: &Assignment) -> bool {
    let is_set = |expr: &Expr| {
        let Expr::Function(function) = expr else { return ControlFlow::Continue(()) };
        let name = function.name.0.last().and_then(|part| part.as_ident()).map(folded);
        if name.is_some_and(|name| name == "unnest") { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    visit_expressions(&assignment.value, is_set).is_break()
}

/// Whether setting columns, by their places in the declaration, leaves the rows' keys and places in unique indexes as they are.
fn moves_nothing(table: &Table, places: &[usize]) -> bool {
    let schema = table.schema();
    let is_set = |column: &ColumnId| places.iter().any(|place| schema.columns[*place].id == *column);
    let unique = table.indexes().iter().filter(|index| index.is_unique);
    !schema.primary_key.iter().any(is_set) && !unique.flat_map(|index| &index.columns).any(is_set)
}

/// Updates that set columns (by their places in the declaration) of rows. The batches hold the rows' keys, then the new values.
fn updates(
    transaction: &Transaction,
    table: &Arc<Table>,
    places: &[usize],
    batches: &[RecordBatch],
) -> Result<Vec<RowChange>, SqlError> {
    let source = transaction.source();
    let mut changes = Vec::new();
    for batch in batches {
        for (row, key) in keys(batch).enumerate() {
            let Some(current) = source.row(table, &key.clone().into())? else { continue };
            let after = changed_row(table, &current, places, batch, row)?;
            changes.push(RowChange::Update { key, after });
        }
    }
    Ok(changes)
}

/// A row with other values in some columns: those of a row of a batch, behind its first column.
fn changed_row(
    table: &Table,
    current: &SeenRow,
    places: &[usize],
    batch: &RecordBatch,
    row: usize,
) -> Result<Vec<u8>, SqlError> {
    let view = current.view(table)?;
    let mut values: Vec<Option<OwnedValue>> =
        view.values()?.into_iter().map(|value| value.map(OwnedValue::from)).collect();
    for (index, place) in places.iter().enumerate() {
        let column = &table.schema().columns[*place];
        let at = table.layout().index_of(column.id).ok_or_else(|| SqlError::internal("a column without a place"))?;
        values[at] = types::value_at(batch.column(index + 1), row, column.column_type)?;
    }
    encode_row(table, &values)
}

/// The items of a RETURNING.
struct Returning<'a>(Option<&'a [SelectItem]>);

impl<'a> Returning<'a> {
    /// Of a statement that joins others to its table: they are not seen.
    fn of_joined(items: Option<&'a [SelectItem]>, is_joined: bool) -> Result<Self, SqlError> {
        let has_wildcard = items.into_iter().flatten().any(|item| matches!(item, SelectItem::Wildcard(_)));
        refuse(is_joined && has_wildcard, "RETURNING * over several tables")?;
        Ok(Self(items))
    }
}

/// Writes changes, and computes what RETURNING gives of them.
async fn change(
    context: &StatementContext<'_>,
    transaction: &mut Transaction,
    table: &Arc<Table>,
    alias: &str,
    changes: Vec<RowChange>,
    Returning(items): Returning<'_>,
) -> Result<Changed, SqlError> {
    let Some(items) = items else {
        return Ok(Changed { count: transaction.write(table, changes)?, returned: None });
    };
    let rows = transaction.write_and_return(table, changes)?;
    let returned = returning::returning(context, transaction, table, alias, items, &rows).await?;
    Ok(Changed { count: rows.len(), returned: Some(returned) })
}

/// Runs a DELETE.
pub(crate) async fn delete(
    context: &StatementContext<'_>,
    transaction: &mut Transaction,
    delete: &Delete,
) -> Result<Changed, SqlError> {
    refuse(delete.limit.is_some() || !delete.order_by.is_empty(), "DELETE with ORDER BY or LIMIT")?;
    refuse(!delete.tables.is_empty() || delete.output.is_some(), "this form of DELETE")?;
    let (FromTable::WithFromKeyword(tables) | FromTable::WithoutKeyword(tables)) = &delete.from;
    let [table_from] = &tables[..] else { return Err(SqlError::syntax("DELETE takes one table")) };
    let (name, alias) = target(context, table_from)?;
    let table = transaction.catalog.table(&name)?;
    let mut from = vec![from_target(&name, &alias)];
    from.extend(delete.using.iter().flatten().map(written));
    let filter = delete.selection.as_ref().map_or(String::new(), |filter| format!(" WHERE {}", written(filter)));
    let sql = format!("SELECT {alias}.{KEY_COLUMN} FROM {}{filter}", from.join(", "));
    let target = Some(Target::Table(name));
    if delete.returning.is_none() {
        let mut rows = context.query(transaction, parse_own_query(&sql)?, target).await?;
        let mut count = 0;
        while let Some(batch) = rows.try_next().await? {
            // A row that a join gives again is gone by then.
            count += transaction.write(&table, keys(&batch).map(|key| RowChange::Delete { key }).collect())?;
        }
        return Ok(Changed { count, returned: None });
    }
    let batches = context.collect(transaction, &sql, target).await?;
    let changes = batches.iter().flat_map(keys).map(|key| RowChange::Delete { key }).collect();
    let returning = Returning::of_joined(delete.returning.as_deref(), delete.using.is_some())?;
    change(context, transaction, &table, &alias, changes, returning).await
}

/// The table that a statement changes, and the name by which its expressions know it.
fn target(context: &StatementContext<'_>, from: &TableWithJoins) -> Result<(QualifiedName, String), SqlError> {
    let TableFactor::Table { name, alias, args: None, .. } = &from.relation else {
        return Err(SqlError::syntax("only a table can be changed"));
    };
    refuse(!from.joins.is_empty(), "a join as the target of a change")?;
    let name = context.resolve(name)?;
    if crate::system::is_system(&name.namespace) {
        return Err(SqlError::new(sqlstate::SYNTAX_OR_ACCESS, format!("{name} cannot be changed")));
    }
    let alias = alias.as_ref().map_or_else(|| name.name.clone(), |alias| folded(&alias.name));
    Ok((name, quoted(&alias).to_string()))
}

fn from_target(name: &QualifiedName, alias: &str) -> String {
    format!("{TARGET_NAMESPACE}.{} AS {alias}", quoted(&name.name))
}

/// What an UPDATE sets: columns by their places in the declaration, and expressions.
fn assignments(table: &Table, assignments: &[Assignment]) -> Result<Vec<(usize, Expr)>, SqlError> {
    let mut found: Vec<(usize, Expr)> = Vec::new();
    for (name, value) in single_assignments(assignments)? {
        let column = name.0.last().and_then(|part| part.as_ident()).map(folded).unwrap_or_default();
        let place = column_place(table, &column)?;
        if found.iter().any(|(known, _)| *known == place) {
            let message = format!("multiple assignments to same column \"{column}\"");
            return Err(SqlError::new(sqlstate::SYNTAX_ERROR, message));
        }
        let value = match is_default_keyword(value) {
            true => assign::default_expression(table, place)?,
            false => value.clone(),
        };
        found.push((place, value));
    }
    Ok(found)
}

/// Each column with its value, also of `(a, b) = (1, 2)`.
fn single_assignments(assignments: &[Assignment]) -> Result<Vec<(&ObjectName, &Expr)>, SqlError> {
    let mut found = Vec::with_capacity(assignments.len());
    for assignment in assignments {
        match (&assignment.target, &assignment.value) {
            (AssignmentTarget::ColumnName(name), value) => found.push((name, value)),
            (AssignmentTarget::Tuple(names), Expr::Tuple(values)) if names.len() == values.len() => {
                found.extend(names.iter().zip(values));
            }
            (AssignmentTarget::Tuple(_), Expr::Tuple(_)) => {
                return Err(SqlError::syntax("number of columns does not match number of values"));
            }
            (AssignmentTarget::Tuple(_), _) => {
                return Err(SqlError::unsupported("an assignment to several columns of anything but a list"));
            }
        }
    }
    Ok(found)
}

fn column_place(table: &Table, name: &str) -> Result<usize, SqlError> {
    table.schema().columns.iter().position(|column| column.name == name).ok_or_else(|| {
        let message = format!("column \"{name}\" of relation \"{}\" does not exist", table.schema().name);
        SqlError::new(sqlstate::UNDEFINED_COLUMN, message)
    })
}

fn is_default_keyword(expr: &Expr) -> bool {
    matches!(expr, Expr::Identifier(ident) if ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("default"))
}

/// The keys of rows, in the first column.
fn keys(batch: &RecordBatch) -> impl Iterator<Item = Bytes> + use<> {
    let keys = batch.column(0).as_binary::<i32>().clone();
    (0..keys.len()).map(move |row| Bytes::copy_from_slice(keys.value(row)))
}

fn refuse(is_there: bool, what: &str) -> Result<(), SqlError> {
    if is_there { Err(SqlError::unsupported(what)) } else { Ok(()) }
}
