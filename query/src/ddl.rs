//! CREATE, ALTER, DROP, TRUNCATE.

mod alter;
mod create;
mod dump;
mod index;

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{ObjectName, ObjectType, SchemaName, Truncate};
use highwater_log::position::StorageId;
use highwater_log::schema::{IndexState, TableSchema};
use highwater_materializers::{Catalog, Table};

pub(crate) use alter::{alter_table, append_column};
pub use create::{ColumnDefinition, TableDefinition};
pub(crate) use create::{create_table, define_table};
pub use dump::{SchemaDump, parse_schema_dump};
pub(crate) use index::{BegunIndex, alter_index, create_index, describe_key, duplicate};

use create::{column_definition, refuse_key_type};

use crate::catalog::QualifiedName;
use crate::error::SqlError;
use crate::names::folded;
use crate::sqlstate;
use crate::statement::StatementContext;
use crate::transaction::Transaction;

/// CREATE SCHEMA.
pub(crate) fn create_schema(
    transaction: &mut Transaction,
    name: &SchemaName,
    is_tolerant: bool,
) -> Result<(), SqlError> {
    let SchemaName::Simple(name) = name else { return Err(SqlError::unsupported("AUTHORIZATION")) };
    let name = namespace_name(name)?;
    if transaction.catalog.namespace_id(&name).is_some() {
        if is_tolerant {
            return Ok(());
        }
        return Err(SqlError::new(sqlstate::DUPLICATE_SCHEMA, format!("schema \"{name}\" already exists")));
    }
    if RESERVED_NAMESPACES.contains(&name.as_str()) || name.starts_with("pg_") || name.starts_with("hw_") {
        return Err(SqlError::new(sqlstate::SYNTAX_OR_ACCESS, format!("schema name \"{name}\" is reserved")));
    }
    let object = transaction.catalog.take_id();
    transaction.catalog.put_namespace(object, &name);
    Ok(())
}

/// DROP TABLE, DROP INDEX, DROP SCHEMA.
pub(crate) fn drop_objects(
    context: &StatementContext<'_>,
    transaction: &mut Transaction,
    kind: ObjectType,
    names: &[ObjectName],
    is_tolerant: bool,
    is_cascading: bool,
) -> Result<(), SqlError> {
    for name in names {
        match kind {
            ObjectType::Table => {
                let name = context.resolve(name)?;
                match transaction.catalog.find(&name) {
                    Some(table) => drop_table(transaction, &table),
                    None if is_tolerant => {}
                    None => {
                        let message = format!("table \"{name}\" does not exist");
                        return Err(SqlError::new(sqlstate::UNDEFINED_TABLE, message));
                    }
                }
            }
            ObjectType::Index => index::drop_index(context, transaction, name, is_tolerant)?,
            ObjectType::Schema => drop_schema(transaction, &namespace_name(name)?, is_tolerant, is_cascading)?,
            other => return Err(SqlError::unsupported(&format!("DROP {other}"))),
        }
    }
    Ok(())
}

fn drop_table(transaction: &mut Transaction, table: &Arc<Table>) {
    transaction.forget_rows(table);
    transaction.catalog.drop_object(table.schema().id.value());
}

fn drop_schema(
    transaction: &mut Transaction,
    name: &str,
    is_tolerant: bool,
    is_cascading: bool,
) -> Result<(), SqlError> {
    let Some(object) = transaction.catalog.namespace_id(name) else {
        if is_tolerant {
            return Ok(());
        }
        return Err(SqlError::new(sqlstate::UNDEFINED_SCHEMA, format!("schema \"{name}\" does not exist")));
    };
    if name == Catalog::PUBLIC {
        return Err(SqlError::unsupported("dropping schema public"));
    }
    let tables: Vec<_> = transaction.catalog.tables().into_iter().filter(|t| t.schema().namespace == name).collect();
    if !tables.is_empty() && !is_cascading {
        let message = format!("cannot drop schema \"{name}\" because other objects depend on it; use DROP … CASCADE");
        return Err(SqlError::new(sqlstate::DEPENDENT_OBJECTS, message));
    }
    for table in &tables {
        drop_table(transaction, table);
    }
    transaction.catalog.drop_object(object);
    Ok(())
}

/// TRUNCATE.
pub(crate) fn truncate(
    context: &StatementContext<'_>,
    transaction: &mut Transaction,
    truncate: &Truncate,
) -> Result<(), SqlError> {
    if truncate.partitions.is_some() {
        return Err(SqlError::unsupported("TRUNCATE of partitions"));
    }
    for target in &truncate.table_names {
        let name = context.resolve(&target.name)?;
        match transaction.catalog.find(&name) {
            Some(table) => drop(truncate_table(transaction, &table)),
            None if truncate.if_exists => {}
            None => return transaction.catalog.table(&name).map(|_| ()),
        }
    }
    Ok(())
}

/// Takes all rows of a table away.
pub(crate) fn truncate_table(transaction: &mut Transaction, table: &Arc<Table>) -> Arc<Table> {
    transaction.forget_rows(table);
    let mut schema = next_version(table);
    schema.storage = StorageId::new(transaction.catalog.take_id());
    for unique in &mut schema.uniques {
        unique.storage = StorageId::new(transaction.catalog.take_id());
    }
    for index in schema.indexes.iter_mut().filter(|index| index.state.is_maintained()) {
        // There are no rows of before any more.
        index.storage = StorageId::new(transaction.catalog.take_id());
        index.backfill = None;
        index.state = IndexState::Ready;
    }
    transaction.catalog.put_table(schema, true)
}

/// The table's schema, to be changed: under a version that no row was written under.
fn next_version(table: &Table) -> TableSchema {
    let schema = table.schema().clone();
    TableSchema { version: schema.version.next(), ..schema }
}

fn namespace_name(name: &ObjectName) -> Result<String, SqlError> {
    match &name.0[..] {
        [part] => part.as_ident().map(folded).ok_or_else(|| SqlError::syntax("a schema has a plain name")),
        _ => Err(SqlError::syntax(format!("{name} is no name of a schema"))),
    }
}

/// Fails when something of this name is there, or its schema is not.
fn check_name_is_free(transaction: &Transaction, name: &QualifiedName) -> Result<(), SqlError> {
    if transaction.catalog.namespace_id(&name.namespace).is_none() {
        let message = format!("schema \"{}\" does not exist", name.namespace);
        return Err(SqlError::new(sqlstate::UNDEFINED_SCHEMA, message));
    }
    let has_index = |table: &Arc<Table>| {
        let schema = table.schema();
        schema.namespace == name.namespace && schema.indexes.iter().any(|index| index.name == name.name)
    };
    if transaction.catalog.find(name).is_some() || transaction.catalog.tables().iter().any(has_index) {
        return Err(SqlError::new(sqlstate::DUPLICATE_TABLE, format!("relation \"{name}\" already exists")));
    }
    Ok(())
}

const RESERVED_NAMESPACES: [&str; 2] = [crate::system::INFORMATION_SCHEMA, crate::providers::TARGET_NAMESPACE];
