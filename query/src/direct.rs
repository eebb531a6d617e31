//! The way round the planner: statements that name one row by its whole key, or put rows of plain values into a table.
//!
//! ```text
//!   SELECT columns FROM t WHERE <key>          <key>: every column of the primary key, or of a unique index, = a value
//!   SELECT columns FROM t WHERE <range> ORDER BY <order> LIMIT n
//!                                              <range>: leading columns of the primary key, or of an index, = values, and the next
//!                                              one between values; <order>: the columns behind what is pinned, all ASC or all DESC
//!   UPDATE t SET c = value, d = d + number WHERE <key>
//!   DELETE FROM t WHERE <key>
//!   INSERT INTO t VALUES (value, …), …
//! ```
//!
//! Planning one of these takes many times what doing it does. It is an optimisation and no second meaning: what is not exactly of such a
//! shape, a value that is not exactly of its column's type, and whatever would fail but for a taken key, goes to the planner, which
//! answers in its own way.

mod operand;
mod ranged;
mod read;
mod shape;
mod single;
mod write;

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::Statement;
use highwater_materializers::Table;

use crate::catalog::{CatalogView, QualifiedName};
use crate::error::SqlError;
use crate::interrupt::Interrupt;
use crate::parameter::Parameter;
use crate::statement::RowStream;
use crate::transaction::Transaction;
use read::Read;
use write::Write;

/// A statement's way round the planner, for a table as it was when it was found.
pub(crate) struct Direct {
    /// The session's namespace, where the statement names none.
    namespace: String,
    name: QualifiedName,
    table: Arc<Table>,
    action: Action,
}

enum Action {
    Read(Read),
    Write(Write),
}

/// What a statement has written.
pub(crate) struct Written {
    /// PostgreSQL's command tag, without the number of rows.
    pub(crate) tag: &'static str,
    /// How many rows it has changed.
    pub(crate) count: usize,
}

impl Direct {
    /// The way of a statement, if it has one.
    pub(crate) fn of(statement: &Statement, catalog: &CatalogView, namespace: &str) -> Option<Self> {
        let shape = shape::Shape::of(statement)?;
        let name = shape.name(namespace)?;
        // Of what the system shows, there is no table.
        let table = catalog.find(&name)?;
        let action = match Read::of(&shape, &table) {
            Some(read) => Action::Read(read),
            None => Action::Write(Write::of(&shape, &table)?),
        };
        Some(Self { namespace: namespace.to_owned(), name, table, action })
    }

    /// Whether it is still the statement's way: the name means the same table in the same shape.
    pub(crate) fn is_current(&self, catalog: &CatalogView, namespace: &str) -> bool {
        self.namespace == namespace && catalog.find(&self.name).is_some_and(|table| Arc::ptr_eq(&table, &self.table))
    }

    /// Whether the values are of the key's types, so that one row is all that it can concern.
    pub(crate) fn is_short(&self, parameters: &[Parameter]) -> bool {
        match &self.action {
            Action::Read(read) => read.is_short(parameters),
            Action::Write(write) => write.is_fitting(parameters),
        }
    }

    /// What EXPLAIN says of it, if the statement reads and its values are of its columns' types. Nothing is read.
    pub(crate) fn explained(&self) -> Option<String> {
        let Action::Read(read) = &self.action else { return None };
        if !read.is_fitting(&[]) {
            return None;
        }
        let (what, name) = (read.what(), &self.name);
        Some(match read.index(&self.table) {
            None => format!("{what}: {name}, primary key"),
            Some(index) => format!("{what}: {name}, index {}", index.name),
        })
    }

    /// Reads, if the statement reads and the values are of its columns' types.
    ///
    /// # Errors
    /// Those of reading rows.
    pub(crate) fn read(
        &self,
        transaction: &Transaction,
        parameters: &[Parameter],
        interrupt: &Interrupt,
    ) -> Result<Option<RowStream>, SqlError> {
        match &self.action {
            Action::Read(read) => read.rows(&self.table, transaction, parameters, interrupt),
            Action::Write(_) => Ok(None),
        }
    }

    /// Writes, if the statement writes and the values are of its columns' types.
    ///
    /// # Errors
    /// `23505`, `54000`; those of reading rows.
    pub(crate) fn write(
        &self,
        transaction: &mut Transaction,
        parameters: &[Parameter],
    ) -> Result<Option<Written>, SqlError> {
        match &self.action {
            Action::Read(_) => Ok(None),
            Action::Write(write) => write.apply(&self.table, transaction, parameters),
        }
    }
}
