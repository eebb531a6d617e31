//! CREATE INDEX, DROP INDEX, ALTER INDEX.
//!
//! An index of a table with rows is two commits or three: the statement's begins it, and whoever follows the catalog ([`crate::indexes`])
//! fills it and says so. Of a table without rows it is ready at once.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{
    AlterIndexOperation, CreateIndex, Expr, IndexColumn, IndexType, NullsDistinctOption, ObjectName,
};
use highwater_log::position::{IndexId, StorageId, TableId};
use highwater_log::schema::{IndexSchema, IndexState, IndexedColumn, TableSchema};
use highwater_log::sequencer::{KeyRange, Precondition};
use highwater_materializers::{Index, Table, Uniqueness};

use super::create::check_kind;
use super::{check_name_is_free, next_version, refuse_key_type};
use crate::catalog::{QualifiedName, primary_key_name};
use crate::error::SqlError;
use crate::names::folded;
use crate::sqlstate;
use crate::statement::StatementContext;
use crate::transaction::Transaction;

/// An index that a statement has begun, and whose end it may wait for.
#[derive(Clone, Debug)]
pub(crate) struct BegunIndex {
    pub(crate) table: TableId,
    pub(crate) name: String,
}

/// Runs CREATE INDEX. `None`: there is nothing to wait for.
pub(crate) fn create_index(
    context: &StatementContext<'_>,
    transaction: &mut Transaction,
    create: &CreateIndex,
) -> Result<Option<BegunIndex>, SqlError> {
    refuse_what_there_is_not(create)?;
    if create.concurrently && !context.is_alone {
        let message = "CREATE INDEX CONCURRENTLY cannot run inside a transaction block";
        return Err(SqlError::new(sqlstate::ACTIVE_TRANSACTION, message));
    }
    let table_name = context.resolve(&create.table_name)?;
    let table = transaction.catalog.table(&table_name)?;
    let columns = create.columns.iter().map(|column| indexed_column(&table, column)).collect::<Result<Vec<_>, _>>()?;
    let namespace = &table_name.namespace;
    let in_namespace = |name: String| QualifiedName { namespace: namespace.clone(), name };
    let name = match &create.name {
        Some(name) => in_namespace(context.resolve(name)?.name),
        None => {
            let base = default_name(&table, &columns);
            let numbered = (1..).map(|number| format!("{base}{number}"));
            let mut names = std::iter::once(base.clone()).chain(numbered).map(in_namespace);
            names.find(|name| !is_taken(transaction, name)).ok_or_else(|| SqlError::internal("no name for an index"))?
        }
    };
    let mut schema = next_version(&table);
    // A failed index gives way to another of its name.
    let failed = schema.indexes.iter().position(|index| index.name == name.name && !index.state.is_maintained());
    match failed {
        Some(failed) => drop(schema.indexes.remove(failed)),
        None if is_taken(transaction, &name) && create.if_not_exists => return Ok(None),
        None if is_taken(transaction, &name) => {
            let message = format!("relation \"{}\" already exists", name.name);
            return Err(SqlError::new(sqlstate::DUPLICATE_TABLE, message));
        }
        None => {}
    }
    let mut index = IndexSchema {
        id: IndexId::new(transaction.catalog.take_id()),
        name: name.name,
        storage: StorageId::new(transaction.catalog.take_id()),
        backfill: None,
        columns,
        unique: create.unique,
        state: IndexState::Ready,
    };
    let is_filled_at_once = transaction.has_only_own_rows(&table)?;
    if is_filled_at_once {
        check_own_rows(transaction, &table, &index)?;
        let space = table.schema().storage;
        transaction.demand(Precondition::RangeEmpty { space, range: KeyRange::all() });
    } else if create.unique && !context.is_alone {
        let message = "CREATE UNIQUE INDEX on a table with rows cannot run inside a transaction block";
        return Err(SqlError::new(sqlstate::ACTIVE_TRANSACTION, message));
    } else {
        index.backfill = Some(StorageId::new(transaction.catalog.take_id()));
        index.state = IndexState::Building;
    }
    let begun = (!is_filled_at_once).then(|| BegunIndex { table: schema.id, name: index.name.clone() });
    schema.indexes.push(index);
    let table = transaction.catalog.put_table(schema, false);
    if is_filled_at_once {
        transaction.note_own_codes(&table)?;
    }
    Ok(begun)
}

/// Runs DROP INDEX for one name.
pub(super) fn drop_index(
    context: &StatementContext<'_>,
    transaction: &mut Transaction,
    name: &ObjectName,
    is_tolerant: bool,
) -> Result<(), SqlError> {
    let name = context.resolve(name)?;
    match find_index(transaction, &name)? {
        Some((table, place)) => {
            let mut schema = next_version(&table);
            schema.indexes.remove(place);
            transaction.catalog.put_table(schema, false);
            Ok(())
        }
        None if is_tolerant => Ok(()),
        None => Err(undefined_index(&name)),
    }
}

/// Runs ALTER INDEX … RENAME TO.
pub(crate) fn alter_index(
    context: &StatementContext<'_>,
    transaction: &mut Transaction,
    name: &ObjectName,
    operation: &AlterIndexOperation,
) -> Result<(), SqlError> {
    let AlterIndexOperation::RenameIndex { index_name } = operation;
    let name = context.resolve(name)?;
    let undefined = || SqlError::new(sqlstate::UNDEFINED_TABLE, format!("relation \"{name}\" does not exist"));
    let (table, place) = find_index(transaction, &name)?.ok_or_else(undefined)?;
    let new = QualifiedName { namespace: name.namespace.clone(), name: context.resolve(index_name)?.name };
    if is_taken(transaction, &new) {
        return Err(SqlError::new(sqlstate::DUPLICATE_TABLE, format!("relation \"{}\" already exists", new.name)));
    }
    let mut schema = next_version(&table);
    schema.indexes[place].name = new.name;
    transaction.catalog.put_table(schema, false);
    Ok(())
}

/// Whether a relation of this name is there: a table, an index, or a constraint, which has one.
fn is_taken(transaction: &Transaction, name: &QualifiedName) -> bool {
    let has_constraint = |schema: &TableSchema| {
        let is_key = !schema.primary_key.is_empty() && primary_key_name(schema) == name.name;
        let is_unique = schema.uniques.iter().any(|unique| unique.name == name.name);
        schema.namespace == name.namespace && (is_key || is_unique)
    };
    check_name_is_free(transaction, name).is_err()
        || transaction.catalog.tables().iter().any(|table| has_constraint(table.schema()))
}

/// The index of this name: its table, and its place there.
fn find_index(transaction: &Transaction, name: &QualifiedName) -> Result<Option<(Arc<Table>, usize)>, SqlError> {
    for table in transaction.catalog.tables() {
        let schema = table.schema();
        if schema.namespace != name.namespace {
            continue;
        }
        if let Some(place) = schema.indexes.iter().position(|index| index.name == name.name) {
            return Ok(Some((table, place)));
        }
        if schema.name == name.name {
            return Err(SqlError::new(sqlstate::WRONG_OBJECT_TYPE, format!("\"{}\" is not an index", name.name)));
        }
        let is_key = !schema.primary_key.is_empty() && primary_key_name(schema) == name.name;
        let is_constraint = is_key || schema.uniques.iter().any(|unique| unique.name == name.name);
        if is_constraint {
            let (index, table) = (&name.name, &schema.name);
            let message = format!("cannot drop index {index} because constraint {index} on table {table} requires it");
            return Err(SqlError::new(sqlstate::DEPENDENT_OBJECTS, message));
        }
    }
    Ok(None)
}

/// Fails when rows that the transaction has written keep an index from being there at once.
fn check_own_rows(transaction: &Transaction, table: &Arc<Table>, index: &IndexSchema) -> Result<(), SqlError> {
    let index = Index::of_schema(index);
    let mut codes = HashSet::new();
    for item in transaction.source().rows(table, &KeyRange::all())? {
        let (key, row) = item?;
        let view = row.view(table)?;
        match table.index_key(&index, &view, &key)? {
            (code, Uniqueness::Unique) => {
                if !codes.insert(code) {
                    return Err(duplicate(&index, &describe_key(table, &index, &view)?));
                }
            }
            (_, Uniqueness::TooLong(length)) => return Err(crate::transaction::too_long(&index, length)),
            (_, Uniqueness::NotUnique) => {}
        }
    }
    Ok(())
}

/// What a unique index cannot be for.
pub(crate) fn duplicate(index: &Index, key: &str) -> SqlError {
    let message = format!("could not create unique index \"{}\": key {key} is duplicated", index.name);
    SqlError::new(sqlstate::UNIQUE_VIOLATION, message)
}

/// `(a, b)=(1, 2)`.
pub(crate) fn describe_key(
    table: &Table,
    index: &Index,
    row: &highwater_materializers::TableRow<'_>,
) -> Result<String, SqlError> {
    let (mut names, mut values) = (Vec::new(), Vec::new());
    for id in &index.columns {
        let column =
            table.schema().column(*id).ok_or_else(|| SqlError::internal("an index of a column that is gone"))?;
        let place = table.layout().index_of(*id).ok_or_else(|| SqlError::internal("a column without a place"))?;
        names.push(column.name.clone());
        let mut text = String::new();
        match row.value(place)? {
            Some(value) => highwater_log::value::write_text(column.column_type, value, &mut text)?,
            None => text.push_str("null"),
        }
        values.push(text);
    }
    Ok(format!("({})=({})", names.join(", "), values.join(", ")))
}

fn refuse_what_there_is_not(create: &CreateIndex) -> Result<(), SqlError> {
    let nulls = match create.nulls_distinct {
        Some(false) => NullsDistinctOption::NotDistinct,
        _ => NullsDistinctOption::None,
    };
    check_kind(None, nulls)?;
    if create.predicate.is_some() {
        return Err(SqlError::unsupported("a partial index"));
    }
    if !create.include.is_empty() {
        return Err(SqlError::unsupported("INCLUDE"));
    }
    if !create.with.is_empty() || !create.index_options.is_empty() || !create.alter_options.is_empty() {
        return Err(SqlError::unsupported("options of an index"));
    }
    match &create.using {
        None | Some(IndexType::BTree) => Ok(()),
        Some(other) => Err(SqlError::unsupported(&format!("USING {other}"))),
    }
}

fn indexed_column(table: &Table, column: &IndexColumn) -> Result<IndexedColumn, SqlError> {
    if column.operator_class.is_some() {
        return Err(SqlError::unsupported("an operator class"));
    }
    let Expr::Identifier(name) = &column.column.expr else {
        return Err(SqlError::unsupported("an index on an expression"));
    };
    let name = folded(name);
    let found = table
        .schema()
        .column_named(&name)
        .ok_or_else(|| SqlError::new(sqlstate::UNDEFINED_COLUMN, format!("column \"{name}\" does not exist")))?;
    refuse_key_type(found.column_type)?;
    let options = &column.column.options;
    let descending = options.asc == Some(false);
    Ok(IndexedColumn { column: found.id, descending, nulls_first: options.nulls_first.unwrap_or(descending) })
}

fn default_name(table: &Table, columns: &[IndexedColumn]) -> String {
    let schema = table.schema();
    let names = columns.iter().filter_map(|column| schema.column(column.column)).map(|column| column.name.as_str());
    let parts: Vec<&str> = std::iter::once(schema.name.as_str()).chain(names).chain(["idx"]).collect();
    parts.join("_")
}

fn undefined_index(name: &QualifiedName) -> SqlError {
    SqlError::new(sqlstate::UNDEFINED_OBJECT, format!("index \"{name}\" does not exist"))
}
