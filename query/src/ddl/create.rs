//! CREATE TABLE.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{
    ColumnDef, ColumnOption, ConstraintCharacteristics, CreateTable, CreateTableOptions, DeferrableInitial, Expr,
    Ident, IndexColumn, NullsDistinctOption, TableConstraint, visit_expressions,
};
use futures::TryStreamExt;
use highwater_log::position::{ColumnId, SchemaVersion, StorageId, TableId};
use highwater_log::schema::{ColumnSchema, TableSchema, UniqueSchema};
use highwater_log::value::{ColumnType, ElementType};
use highwater_materializers::Table;

use super::check_name_is_free;
use crate::catalog::QualifiedName;
use crate::dml::insert_batches;
use crate::error::SqlError;
use crate::names::folded;
use crate::rewrite::written;
use crate::sql_type;
use crate::sqlstate;
use crate::statement::StatementContext;
use crate::transaction::Transaction;
use crate::types;

/// A table as a statement describes it, before it has ids.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TableDefinition {
    /// Its columns, in order.
    pub columns: Vec<ColumnDefinition>,
    /// Constraint name, if it has one, and columns; empty columns: none.
    pub primary_key: (Option<String>, Vec<String>),
    /// Unique constraints: name, if it has one, and columns.
    pub uniques: Vec<(Option<String>, Vec<String>)>,
}

/// A column as a statement describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnDefinition {
    /// Its name.
    pub name: String,
    /// Its type.
    pub column_type: ColumnType,
    /// Whether NULL is refused.
    pub not_null: bool,
    /// The SQL of its DEFAULT.
    pub default: Option<String>,
}

/// Runs CREATE TABLE; returns how many rows it filled in (`AS SELECT`), if it did.
pub(crate) async fn create_table(
    context: &StatementContext<'_>,
    transaction: &mut Transaction,
    create: &CreateTable,
) -> Result<Option<usize>, SqlError> {
    let unsupported = [
        (create.temporary, "a temporary table"),
        (create.or_replace, "CREATE OR REPLACE TABLE"),
        (create.external, "an external table"),
        (create.like.is_some() || create.clone.is_some(), "CREATE TABLE LIKE"),
        (create.inherits.is_some(), "INHERITS"),
        (create.partition_by.is_some() || create.partition_of.is_some(), "a partitioned table"),
        (create.on_commit.is_some(), "ON COMMIT"),
    ];
    if let Some((_, what)) = unsupported.iter().find(|(is_there, _)| *is_there) {
        return Err(SqlError::unsupported(what));
    }
    if let CreateTableOptions::With(options) = &create.table_options
        && !options.is_empty()
    {
        return Err(SqlError::unsupported("WITH (…) of a table"));
    }
    let name = context.resolve(&create.name)?;
    if create.if_not_exists && transaction.catalog.find(&name).is_some() {
        return Ok(None);
    }
    check_name_is_free(transaction, &name)?;
    if let Some(query) = &create.query {
        return create_as(context, transaction, &name, create, query).await.map(Some);
    }
    let definition = definition(create)?;
    let table = define_table(transaction, &name, &definition)?;
    for place in 0..table.schema().columns.len() {
        if table.schema().columns[place].default.is_some() {
            // Its type is checked now, its value is taken when rows come.
            crate::dml::default_value(context, transaction, &table, place).await?;
        }
    }
    Ok(None)
}

async fn create_as(
    context: &StatementContext<'_>,
    transaction: &mut Transaction,
    name: &QualifiedName,
    create: &CreateTable,
    query: &datafusion::sql::sqlparser::ast::Query,
) -> Result<usize, SqlError> {
    if !create.constraints.is_empty() {
        return Err(SqlError::unsupported("constraints beside AS SELECT"));
    }
    let mut rows = context.query(transaction, query.clone(), None).await?;
    let schema = Arc::clone(rows.schema());
    if !create.columns.is_empty() && create.columns.len() != schema.fields().len() {
        return Err(SqlError::syntax("CREATE TABLE AS specifies another number of columns than its query has"));
    }
    let columns = schema.fields().iter().enumerate().map(|(index, field)| {
        let name = create.columns.get(index).map_or_else(|| field.name().clone(), |column| folded(&column.name));
        Ok(ColumnDefinition { name, column_type: types::column_type(field)?, not_null: false, default: None })
    });
    let columns = columns.collect::<Result<Vec<_>, SqlError>>()?;
    let table = define_table(transaction, name, &TableDefinition { columns, ..TableDefinition::default() })?;
    let mut count = 0;
    while let Some(batch) = rows.try_next().await? {
        count += insert_batches(transaction, &table, &[batch])?;
    }
    Ok(count)
}

/// Adds a table to the catalog.
///
/// # Errors
/// `42P16`, `42701`, `42703` when the definition contradicts itself; `0A000` for a key that has no order.
pub(crate) fn define_table(
    transaction: &mut Transaction,
    name: &QualifiedName,
    definition: &TableDefinition,
) -> Result<Arc<Table>, SqlError> {
    check_name_is_free(transaction, name)?;
    let mut columns: Vec<ColumnSchema> = Vec::with_capacity(definition.columns.len());
    for (index, column) in definition.columns.iter().enumerate() {
        if columns.iter().any(|known| known.name == column.name) {
            let message = format!("column \"{}\" specified more than once", column.name);
            return Err(SqlError::new(sqlstate::DUPLICATE_COLUMN, message));
        }
        columns.push(ColumnSchema {
            id: ColumnId::new(index as u32 + 1),
            name: column.name.clone(),
            column_type: column.column_type,
            not_null: column.not_null,
            default: column.default.clone(),
            missing: None,
        });
    }
    let (key_name, key_columns) = &definition.primary_key;
    let primary_key = key_ids(&columns, key_columns)?;
    for id in &primary_key {
        if let Some(column) = columns.iter_mut().find(|column| column.id == *id) {
            column.not_null = true;
        }
    }
    let mut uniques: Vec<UniqueSchema> = Vec::new();
    for (unique_name, unique_columns) in &definition.uniques {
        let default_name = || format!("{}_{}_key", name.name, unique_columns.join("_"));
        let base = unique_name.clone().unwrap_or_else(default_name);
        if unique_name.is_some() && uniques.iter().any(|known| known.name == base) {
            return Err(SqlError::new(sqlstate::DUPLICATE_TABLE, format!("relation \"{base}\" already exists")));
        }
        let numbered = (1..).map(|number| format!("{base}{number}"));
        let free = std::iter::once(base.clone()).chain(numbered);
        let constraint = free.into_iter().find(|candidate| !uniques.iter().any(|known| known.name == *candidate));
        uniques.push(UniqueSchema {
            name: constraint.unwrap_or(base),
            storage: StorageId::new(transaction.catalog.take_id()),
            columns: key_ids(&columns, unique_columns)?,
        });
    }
    let primary_key_name =
        (!primary_key.is_empty()).then(|| key_name.clone().unwrap_or_else(|| format!("{}_pkey", name.name)));
    let schema = TableSchema {
        id: TableId::new(transaction.catalog.take_id()),
        namespace: name.namespace.clone(),
        name: name.name.clone(),
        version: SchemaVersion::new(1),
        storage: StorageId::new(transaction.catalog.take_id()),
        next_column: ColumnId::new(columns.len() as u32 + 1),
        columns,
        primary_key,
        primary_key_name,
        uniques,
        indexes: Vec::new(),
    };
    Ok(transaction.catalog.put_table(schema, false))
}

fn key_ids(columns: &[ColumnSchema], names: &[String]) -> Result<Vec<ColumnId>, SqlError> {
    let mut ids = Vec::with_capacity(names.len());
    for name in names {
        let column = columns.iter().find(|column| column.name == *name).ok_or_else(|| {
            SqlError::new(sqlstate::UNDEFINED_COLUMN, format!("column \"{name}\" named in key does not exist"))
        })?;
        if ids.contains(&column.id) {
            let message = format!("column \"{name}\" appears twice in a key");
            return Err(SqlError::new(sqlstate::DUPLICATE_COLUMN, message));
        }
        refuse_key_type(column.column_type)?;
        ids.push(column.id);
    }
    Ok(ids)
}

/// Fails for a type whose values have no order.
pub(super) fn refuse_key_type(column_type: ColumnType) -> Result<(), SqlError> {
    match column_type {
        ColumnType::Scalar(ElementType::Jsonb) | ColumnType::Array(ElementType::Jsonb) => {
            Err(SqlError::unsupported("jsonb in a key"))
        }
        _ => Ok(()),
    }
}

pub(super) fn definition(create: &CreateTable) -> Result<TableDefinition, SqlError> {
    let mut definition = TableDefinition::default();
    for column in &create.columns {
        let constraints = column_definition(column)?;
        let name = constraints.column.name.clone();
        definition.columns.push(constraints.column);
        if let Some(key) = constraints.primary_key {
            set_primary_key(&mut definition, key, vec![name.clone()], &create.name.to_string())?;
        }
        if let Some(unique) = constraints.unique {
            definition.uniques.push((unique, vec![name]));
        }
    }
    for constraint in &create.constraints {
        match constraint {
            TableConstraint::PrimaryKey(key) => {
                check_kind(key.characteristics.as_ref(), NullsDistinctOption::None)?;
                let columns = index_columns(&key.columns)?;
                set_primary_key(&mut definition, key.name.as_ref().map(folded), columns, &create.name.to_string())?;
            }
            TableConstraint::Unique(unique) => {
                check_kind(unique.characteristics.as_ref(), unique.nulls_distinct)?;
                definition.uniques.push((unique.name.as_ref().map(folded), index_columns(&unique.columns)?));
            }
            TableConstraint::ForeignKey(_) => return Err(SqlError::unsupported("FOREIGN KEY")),
            TableConstraint::Check(_) => return Err(SqlError::unsupported("CHECK")),
            other => return Err(SqlError::unsupported(&other.to_string())),
        }
    }
    Ok(definition)
}

/// Whether a key is of the only kind that there is: judged with each statement, and one NULL is unlike another.
///
/// # Errors
/// `0A000`.
pub(super) fn check_kind(
    characteristics: Option<&ConstraintCharacteristics>,
    nulls: NullsDistinctOption,
) -> Result<(), SqlError> {
    let is_deferred = characteristics
        .is_some_and(|known| known.deferrable == Some(true) || known.initially == Some(DeferrableInitial::Deferred));
    let is_enforced = characteristics.is_none_or(|known| known.enforced != Some(false));
    match (is_deferred, is_enforced, nulls) {
        (true, ..) => Err(SqlError::unsupported("DEFERRABLE")),
        (_, false, _) => Err(SqlError::unsupported("NOT ENFORCED")),
        (.., NullsDistinctOption::NotDistinct) => Err(SqlError::unsupported("NULLS NOT DISTINCT")),
        _ => Ok(()),
    }
}

pub(super) fn set_primary_key(
    definition: &mut TableDefinition,
    name: Option<String>,
    columns: Vec<String>,
    table: &str,
) -> Result<(), SqlError> {
    if !definition.primary_key.1.is_empty() {
        let message = format!("multiple primary keys for table \"{table}\" are not allowed");
        return Err(SqlError::new(sqlstate::INVALID_TABLE_DEFINITION, message));
    }
    definition.primary_key = (name, columns);
    Ok(())
}

/// A column with the constraints that stand beside it, each with its name if it has one.
pub(crate) struct ColumnConstraints {
    pub(crate) column: ColumnDefinition,
    pub(crate) primary_key: Option<Option<String>>,
    pub(crate) unique: Option<Option<String>>,
}

/// Reads a column of CREATE TABLE or ADD COLUMN.
pub(crate) fn column_definition(column: &ColumnDef) -> Result<ColumnConstraints, SqlError> {
    let mut found = ColumnConstraints {
        column: ColumnDefinition {
            name: folded(&column.name),
            column_type: sql_type::column_type(&column.data_type)?,
            not_null: false,
            default: None,
        },
        primary_key: None,
        unique: None,
    };
    for option in &column.options {
        let name = option.name.as_ref().map(folded);
        match &option.option {
            ColumnOption::Null => {}
            ColumnOption::NotNull => found.column.not_null = true,
            ColumnOption::Default(Expr::Value(value))
                if value.value == datafusion::sql::sqlparser::ast::Value::Null => {}
            ColumnOption::Default(default) => found.column.default = Some(default_text(default)?),
            ColumnOption::PrimaryKey(key) => {
                check_kind(key.characteristics.as_ref(), NullsDistinctOption::None)?;
                found.primary_key = Some(name);
            }
            ColumnOption::Unique(unique) => {
                check_kind(unique.characteristics.as_ref(), unique.nulls_distinct)?;
                found.unique = Some(name);
            }
            ColumnOption::ForeignKey(_) => return Err(SqlError::unsupported("REFERENCES")),
            ColumnOption::Check(_) => return Err(SqlError::unsupported("CHECK")),
            ColumnOption::Generated { .. } | ColumnOption::Identity(_) => {
                return Err(SqlError::unsupported("a generated or identity column"));
            }
            ColumnOption::Collation(name)
                if !matches!(name.to_string().trim_matches('"'), "C" | "POSIX" | "ucs_basic") =>
            {
                return Err(SqlError::unsupported("a collation other than \"C\""));
            }
            ColumnOption::Collation(_) => {}
            other => return Err(SqlError::unsupported(&other.to_string())),
        }
    }
    Ok(found)
}

/// The columns of a key, which orders them ascending.
pub(crate) fn index_columns(columns: &[IndexColumn]) -> Result<Vec<String>, SqlError> {
    let name = |column: &IndexColumn| match &column.column.expr {
        Expr::Identifier(ident) => Ok(Ident::clone(ident)),
        _ => Err(SqlError::unsupported("an expression in a key")),
    };
    columns.iter().map(|column| name(column).map(|ident| folded(&ident))).collect()
}

/// The text of a DEFAULT, as it is stored.
pub(super) fn default_text(default: &Expr) -> Result<String, SqlError> {
    let is_subquery = |expr: &Expr| match expr {
        Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    if visit_expressions(default, is_subquery).is_break() {
        let message = "cannot use subquery in DEFAULT expression";
        return Err(SqlError::new(sqlstate::FEATURE_NOT_SUPPORTED, message));
    }
    Ok(written(default))
}
