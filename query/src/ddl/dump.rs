//! Table definitions out of a `pg_dump --schema-only`.

use datafusion::sql::sqlparser::ast::{
    AlterColumnOperation, AlterTableOperation, ObjectName, Statement, TableConstraint,
};

use super::create::{TableDefinition, check_kind, definition, index_columns, set_primary_key};
use crate::catalog::QualifiedName;
use crate::error::SqlError;
use crate::names::folded;
use crate::parser::Statements;
use crate::rewrite::written;

/// What a dump says of tables.
#[derive(Clone, Debug, Default)]
pub struct SchemaDump {
    /// The tables, in order.
    pub tables: Vec<(QualifiedName, TableDefinition)>,
    /// The beginnings of the statements and lines that were passed over.
    pub skipped: Vec<String>,
}

/// Reads CREATE TABLE, and the keys, unique constraints and defaults that ALTER TABLE adds; everything else is passed over and named.
///
/// # Errors
/// `0A000` for a column of a type that Highwater does not have, and for keys that it cannot keep.
pub fn parse_schema_dump(sql: &str) -> Result<SchemaDump, SqlError> {
    let mut dump = SchemaDump::default();
    let mut kept = String::with_capacity(sql.len());
    for line in sql.lines() {
        if line.starts_with('\\') {
            dump.skipped.push(line.to_owned());
        } else {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    for text in statements(&kept) {
        let statement = crate::parser::parse(&text).ok().and_then(Statements::single);
        match statement.map(|parsed| parsed.statement) {
            Some(Statement::CreateTable(create)) if create.query.is_none() && create.like.is_none() => {
                let name = qualified(&create.name)?;
                dump.tables.push((name, definition(&create)?));
            }
            Some(Statement::AlterTable(alter)) => {
                let name = qualified(&alter.name)?;
                let table = dump.tables.iter_mut().find(|(known, _)| *known == name);
                let mut is_taken = table.is_some();
                if let Some((_, definition)) = table {
                    for operation in &alter.operations {
                        is_taken &= take(definition, &name, operation)?;
                    }
                }
                if !is_taken {
                    dump.skipped.push(shortened(&text));
                }
            }
            _ => dump.skipped.push(shortened(&text)),
        }
    }
    Ok(dump)
}

/// Takes what an ALTER TABLE adds; `false`: it is nothing that tables here have.
fn take(table: &mut TableDefinition, name: &QualifiedName, operation: &AlterTableOperation) -> Result<bool, SqlError> {
    match operation {
        AlterTableOperation::AddConstraint { constraint: TableConstraint::PrimaryKey(key), .. } => {
            let columns = index_columns(&key.columns)?;
            set_primary_key(table, key.name.as_ref().map(folded), columns, &name.to_string())?;
            Ok(true)
        }
        AlterTableOperation::AddConstraint { constraint: TableConstraint::Unique(unique), .. } => {
            // What the upstream judges otherwise, as at the end of a transaction, is left to it.
            let is_kept = check_kind(unique.characteristics.as_ref(), unique.nulls_distinct).is_ok();
            if is_kept {
                table.uniques.push((unique.name.as_ref().map(folded), index_columns(&unique.columns)?));
            }
            Ok(is_kept)
        }
        AlterTableOperation::AlterColumn { column_name, op: AlterColumnOperation::SetDefault { value } } => {
            let column = folded(column_name);
            match table.columns.iter_mut().find(|known| known.name == column) {
                // A sequence is not here: what it gave stands in the rows.
                Some(_) if value.to_string().to_lowercase().contains("nextval") => Ok(false),
                Some(known) => {
                    known.default = Some(written(value));
                    Ok(true)
                }
                None => Ok(false),
            }
        }
        _ => Ok(false),
    }
}

/// The statements of a script, cut at each `;` that ends a line. A dump writes them so.
fn statements(sql: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut current = String::new();
    for line in sql.lines().filter(|line| !line.starts_with("--")) {
        current.push_str(line);
        current.push('\n');
        if line.trim_end().ends_with(';') {
            found.push(std::mem::take(&mut current));
        }
    }
    found.push(current);
    found.retain(|text| !text.trim().is_empty());
    found
}

fn qualified(name: &ObjectName) -> Result<QualifiedName, SqlError> {
    let parts: Vec<String> = name.0.iter().filter_map(|part| part.as_ident()).map(folded).collect();
    match &parts[..] {
        [name] => Ok(QualifiedName { namespace: "public".to_owned(), name: name.clone() }),
        [namespace, name] => Ok(QualifiedName { namespace: namespace.clone(), name: name.clone() }),
        _ => Err(SqlError::syntax(format!("{name} is no name of a table"))),
    }
}

fn shortened(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(80).collect()
}
