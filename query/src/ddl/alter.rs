//! ALTER TABLE.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{
    AlterColumnOperation, AlterTable, AlterTableOperation, ColumnDef, Ident, RenameTableNameKind,
};
use highwater_log::schema::{ColumnSchema, TableSchema};
use highwater_log::sequencer::{KeyRange, Precondition};
use highwater_materializers::{Table, encode_missing};

use super::{ColumnDefinition, check_name_is_free, column_definition, next_version};
use crate::catalog::QualifiedName;
use crate::dml::default_value;
use crate::error::SqlError;
use crate::names::folded;
use crate::sqlstate;
use crate::statement::{StatementContext, quoted};
use crate::transaction::Transaction;

/// Runs ALTER TABLE.
pub(crate) async fn alter_table(
    context: &StatementContext<'_>,
    transaction: &mut Transaction,
    alter: &AlterTable,
) -> Result<(), SqlError> {
    let mut name = context.resolve(&alter.name)?;
    if transaction.catalog.find(&name).is_none() && alter.if_exists {
        return Ok(());
    }
    for operation in &alter.operations {
        let table = transaction.catalog.table(&name)?;
        match operation {
            AlterTableOperation::AddColumn { if_not_exists, column_def, .. } => {
                add_column(context, transaction, &name, &table, column_def, *if_not_exists).await?;
            }
            AlterTableOperation::DropColumn { column_names, if_exists, .. } => {
                for column in column_names {
                    let table = transaction.catalog.table(&name)?;
                    drop_column(transaction, &table, &folded(column), *if_exists)?;
                }
            }
            AlterTableOperation::RenameColumn { old_column_name, new_column_name } => {
                rename_column(transaction, &table, old_column_name, new_column_name)?;
            }
            AlterTableOperation::RenameTable { table_name: RenameTableNameKind::To(new) } => {
                let new = QualifiedName { namespace: name.namespace.clone(), name: context.resolve(new)?.name };
                check_name_is_free(transaction, &new)?;
                let schema = TableSchema { name: new.name.clone(), ..next_version(&table) };
                transaction.catalog.put_table(schema, false);
                name = new;
            }
            AlterTableOperation::AlterColumn { column_name, op } => {
                alter_column(context, transaction, &table, &folded(column_name), op).await?;
            }
            other => return Err(SqlError::unsupported(&format!("ALTER TABLE … {other}"))),
        }
    }
    Ok(())
}

async fn add_column(
    context: &StatementContext<'_>,
    transaction: &mut Transaction,
    name: &QualifiedName,
    table: &Arc<Table>,
    column: &ColumnDef,
    is_tolerant: bool,
) -> Result<(), SqlError> {
    let constraints = column_definition(column)?;
    if constraints.primary_key.is_some() || constraints.unique.is_some() {
        return Err(SqlError::unsupported("a key on a column that is added"));
    }
    let definition = constraints.column;
    if table.schema().column_named(&definition.name).is_some() {
        if is_tolerant {
            return Ok(());
        }
        return Err(duplicate_column(table, &definition.name));
    }
    append_column(context, transaction, table, &definition).await?;
    let is_volatile = match &definition.default {
        Some(default) => {
            let query = crate::statement::parse_own_query(&format!("SELECT {default}"))?;
            is_volatile(&context.plan(transaction, query, None)?.logical)
        }
        None => false,
    };
    if is_volatile {
        // Each row gets a value of its own.
        let sql = format!(
            "UPDATE {}.{} SET {} = DEFAULT",
            quoted(&name.namespace),
            quoted(&name.name),
            quoted(&definition.name)
        );
        let parsed = crate::parser::parse(&sql)?.single().map(|parsed| parsed.statement);
        let Some(datafusion::sql::sqlparser::ast::Statement::Update(update)) = parsed else {
            return Err(SqlError::internal("an update of our own"));
        };
        crate::dml::update(context, transaction, &update).await?;
    }
    Ok(())
}

/// Adds a column behind all others. What rows of before hold in it is its DEFAULT, evaluated once and stored with the column.
pub(crate) async fn append_column(
    context: &StatementContext<'_>,
    transaction: &mut Transaction,
    table: &Arc<Table>,
    definition: &ColumnDefinition,
) -> Result<Arc<Table>, SqlError> {
    let mut schema = next_version(table);
    let id = schema.next_column;
    schema.next_column = id.next();
    schema.columns.push(ColumnSchema {
        id,
        name: definition.name.clone(),
        column_type: definition.column_type,
        not_null: definition.not_null,
        default: definition.default.clone(),
        missing: None,
    });
    let place = schema.columns.len() - 1;
    let added = transaction.catalog.put_table(schema.clone(), false);
    let value = match definition.default {
        Some(_) => default_value(context, transaction, &added, place).await?,
        None => None,
    };
    let Some(value) = value else {
        if definition.not_null {
            demand_no_rows(transaction, table, &definition.name)?;
        }
        return Ok(added);
    };
    let column = &mut schema.columns[place];
    column.missing = Some(encode_missing(column, value.as_value())?);
    Ok(transaction.catalog.put_table(schema, false))
}

/// Whether a query asks for something that differs from row to row.
fn is_volatile(plan: &datafusion::logical_expr::LogicalPlan) -> bool {
    plan.expressions().iter().any(datafusion::logical_expr::Expr::is_volatile)
        || plan.inputs().into_iter().any(is_volatile)
}

/// Fails unless the table is empty, and makes the commit depend on its staying so.
fn demand_no_rows(transaction: &mut Transaction, table: &Arc<Table>, column: &str) -> Result<(), SqlError> {
    let everything = KeyRange { start: bytes::Bytes::new(), end: None };
    if transaction.source().rows(table, &everything)?.next().transpose()?.is_some() {
        let message = format!("column \"{column}\" of relation \"{}\" contains null values", table.schema().name);
        return Err(SqlError::new(sqlstate::NOT_NULL_VIOLATION, message));
    }
    let space = table.schema().storage;
    transaction.demand(match transaction.has_written(table) {
        // They were there, and go with this commit: nobody may have changed any since.
        true => Precondition::RangeUnchanged { space, range: everything, since: transaction.at() },
        false => Precondition::RangeEmpty { space, range: everything },
    });
    Ok(())
}

fn drop_column(
    transaction: &mut Transaction,
    table: &Arc<Table>,
    name: &str,
    is_tolerant: bool,
) -> Result<(), SqlError> {
    let mut schema = next_version(table);
    let Some(column) = schema.column_named(name).cloned() else {
        return if is_tolerant { Ok(()) } else { Err(undefined_column(table, name)) };
    };
    if schema.primary_key.contains(&column.id) {
        return Err(SqlError::unsupported("dropping a column of the primary key"));
    }
    schema.columns.retain(|known| known.id != column.id);
    // A constraint goes with any of its columns.
    schema.uniques.retain(|unique| !unique.columns.contains(&column.id));
    schema.indexes.retain(|index| index.columns.iter().all(|indexed| indexed.column != column.id));
    transaction.catalog.put_table(schema, false);
    Ok(())
}

fn rename_column(transaction: &mut Transaction, table: &Arc<Table>, old: &Ident, new: &Ident) -> Result<(), SqlError> {
    let (old, new) = (folded(old), folded(new));
    let mut schema = next_version(table);
    if schema.column_named(&new).is_some() {
        return Err(duplicate_column(table, &new));
    }
    let column = schema.columns.iter_mut().find(|column| column.name == old);
    column.ok_or_else(|| undefined_column(table, &old))?.name = new;
    transaction.catalog.put_table(schema, false);
    Ok(())
}

async fn alter_column(
    context: &StatementContext<'_>,
    transaction: &mut Transaction,
    table: &Arc<Table>,
    name: &str,
    operation: &AlterColumnOperation,
) -> Result<(), SqlError> {
    let mut schema = next_version(table);
    let place = schema.columns.iter().position(|column| column.name == name);
    let place = place.ok_or_else(|| undefined_column(table, name))?;
    let is_key = schema.primary_key.contains(&schema.columns[place].id);
    match operation {
        AlterColumnOperation::SetDefault { value } => {
            schema.columns[place].default = Some(super::create::default_text(value)?)
        }
        AlterColumnOperation::DropDefault => schema.columns[place].default = None,
        AlterColumnOperation::DropNotNull if is_key => {
            let message = format!("column \"{name}\" is in a primary key");
            return Err(SqlError::new(sqlstate::INVALID_TABLE_DEFINITION, message));
        }
        AlterColumnOperation::DropNotNull => schema.columns[place].not_null = false,
        other => return Err(SqlError::unsupported(&format!("ALTER COLUMN … {other}"))),
    }
    let altered = transaction.catalog.put_table(schema, false);
    if altered.schema().columns[place].default.is_some() {
        default_value(context, transaction, &altered, place).await?;
    }
    Ok(())
}

fn duplicate_column(table: &Table, name: &str) -> SqlError {
    let message = format!("column \"{name}\" of relation \"{}\" already exists", table.schema().name);
    SqlError::new(sqlstate::DUPLICATE_COLUMN, message)
}

fn undefined_column(table: &Table, name: &str) -> SqlError {
    let message = format!("column \"{name}\" of relation \"{}\" does not exist", table.schema().name);
    SqlError::new(sqlstate::UNDEFINED_COLUMN, message)
}
