//! Which rows of a table a feed tells, and what of them: expressions of SQL, which somebody above knows how to compute.

use std::sync::Arc;

use highwater_materializers::{Catalog, Table, TableRow};

/// A table that a feed is to tell of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSpec {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The SQL expression of which rows are told; `None`: all.
    pub filter: Option<String>,
    /// The items of a SELECT list that are told of a row; `None`: all columns.
    pub columns: Option<String>,
}

impl TableSpec {
    /// All of a table, which is `name` (of the namespace `public`) or `namespace.name`.
    #[must_use]
    pub fn whole(name: &str) -> Self {
        let (namespace, name) = name.split_once('.').unwrap_or((Catalog::PUBLIC, name));
        Self { namespace: namespace.to_owned(), name: name.to_owned(), filter: None, columns: None }
    }
}

/// Compiles what a feed says of a table.
pub trait Selector: Send + Sync {
    /// What the two texts mean over `table`, whose columns they name.
    ///
    /// # Errors
    /// [`SelectionError`]: a syntax error, an unknown column, something that a feed cannot compute from a row alone.
    fn compile(
        &self,
        table: &Arc<Table>,
        filter: Option<&str>,
        columns: Option<&str>,
    ) -> Result<Arc<dyn Selection>, SelectionError>;
}

/// What is told of a table, whatever its version.
pub trait Selection: Send + Sync {
    /// The same over another version of the table, whose columns are found by their ids.
    ///
    /// # Errors
    /// [`SelectionError`] when that lacks a column.
    fn fit(&self, table: &Arc<Table>) -> Result<Arc<dyn FittedSelection>, SelectionError>;
}

/// What is told of a table at one of its versions.
pub trait FittedSelection: Send + Sync {
    /// What the told rows are rows of: the table, or one of the selected columns that is called the same.
    fn shape(&self) -> &Arc<Table>;

    /// What becomes of each of these rows, in their order.
    ///
    /// # Errors
    /// [`SelectionError`] when the expressions cannot be computed of one of them.
    fn select(&self, rows: &[TableRow<'_>]) -> Result<Vec<Selected>, SelectionError>;
}

/// What becomes of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selected {
    /// It is not told.
    Not,
    /// It is told as it is.
    AsItIs,
    /// It is told as this row of the shape, in the stored form.
    As(Vec<u8>),
}

/// Texts that mean nothing, or that cannot be computed of a row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SelectionError {
    /// Five characters.
    pub sqlstate: &'static str,
    /// What is wrong.
    pub message: String,
}
