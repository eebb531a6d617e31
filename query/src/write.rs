//! Writing without SQL: for sources, which have rows and no statements.

mod hold;
mod pipeline;

pub use hold::Hold;
pub(crate) use hold::Holds;
pub use pipeline::{Ordered, WritePipeline};

use std::sync::Arc;

use bytes::Bytes;
use highwater_log::Lsn;
use highwater_log::sequencer::KeyRange;
use highwater_log::value::{OwnedValue, Value};
use highwater_materializers::{Catalog, Table};

use crate::catalog::QualifiedName;
use crate::ddl::{self, ColumnDefinition, TableDefinition};
use crate::dml::{default_value, encode_row, encode_values};
use crate::engine::Engine;
use crate::error::SqlError;
use crate::interrupt::Interrupt;
use crate::rewrite::SessionFacts;
use crate::rows::SeenRow;
use crate::statement::StatementContext;
use crate::transaction::{RowChange, Transaction};

/// A transaction that a source fills: rows, tables, and how far the source has come, in one commit.
///
/// Values of a row stand in the order of the table's layout ([`Table::layout`]). Inserts of one table are gathered and applied when
/// something else comes; everything is seen by what comes after it.
pub struct Write {
    engine: Engine,
    transaction: Transaction,
    inserts: Option<(Arc<Table>, Vec<RowChange>)>,
    /// Of rows that are gathered, and whether one of them may take the place of another.
    gathered_bytes: usize,
    has_gathered_put: bool,
}

/// A row as it was when it was deleted.
pub struct DeletedRow(SeenRow);

impl DeletedRow {
    /// Its value of the column at `place` in the layout of `table`, which may have changed since.
    ///
    /// # Errors
    /// `XX001` when the row is damaged.
    pub fn value(&self, table: &Table, place: usize) -> Result<Option<OwnedValue>, SqlError> {
        Ok(self.0.view(table)?.value(place)?.map(OwnedValue::from))
    }
}

impl Write {
    fn begin_at(engine: Engine, at: Lsn) -> Result<Self, SqlError> {
        engine.check_log()?;
        engine.check_writable()?;
        let transaction = engine.transaction(at)?;
        Ok(Self { engine, transaction, inserts: None, gathered_bytes: 0, has_gathered_put: false })
    }

    /// The table of this name, as the transaction sees it.
    #[must_use]
    pub fn table(&self, name: &QualifiedName) -> Option<Arc<Table>> {
        self.transaction.catalog.find(name)
    }

    /// How far something outside has come, by what the database holds.
    ///
    /// # Errors
    /// `XX001` when the rows cannot be read.
    pub fn position(&self, of: &[u8]) -> Result<Option<Bytes>, SqlError> {
        Ok(self.engine.folds().kv().position(of, self.transaction.at())?)
    }

    /// Notes how far something outside has come, in this commit.
    pub fn put_position(&mut self, of: Bytes, position: Bytes) {
        self.transaction.put_position(of, position);
    }

    /// Creates a table, and its schema where that is missing too.
    ///
    /// # Errors
    /// As CREATE TABLE.
    pub fn create_table(&mut self, name: &QualifiedName, definition: &TableDefinition) -> Result<Arc<Table>, SqlError> {
        self.apply_inserts()?;
        if name.namespace != Catalog::PUBLIC && self.transaction.catalog.namespace_id(&name.namespace).is_none() {
            let object = self.transaction.catalog.take_id();
            self.transaction.catalog.put_namespace(object, &name.namespace);
        }
        ddl::define_table(&mut self.transaction, name, definition)
    }

    /// Adds a column, whose DEFAULT is what older rows hold.
    ///
    /// # Errors
    /// As ALTER TABLE … ADD COLUMN.
    pub async fn add_column(&mut self, table: &Arc<Table>, column: &ColumnDefinition) -> Result<Arc<Table>, SqlError> {
        self.apply_inserts()?;
        let context = context(&self.engine);
        ddl::append_column(&context, &mut self.transaction, table, column).await
    }

    /// What a column's DEFAULT is now, by the column's place in the declaration.
    ///
    /// # Errors
    /// Those of the expression.
    pub async fn default_value(&self, table: &Table, place: usize) -> Result<Option<OwnedValue>, SqlError> {
        let context = context(&self.engine);
        default_value(&context, &self.transaction, table, place).await
    }

    /// Takes all rows of a table away.
    ///
    /// # Errors
    /// `XX001` when the rows cannot be read.
    pub fn truncate(&mut self, table: &Arc<Table>) -> Result<Arc<Table>, SqlError> {
        self.apply_inserts()?;
        Ok(ddl::truncate_table(&mut self.transaction, table))
    }

    /// Inserts a row.
    ///
    /// # Errors
    /// `23502`; `23505`, perhaps later, from whatever comes next.
    pub fn insert(&mut self, table: &Arc<Table>, values: &[Option<OwnedValue>]) -> Result<(), SqlError> {
        let after = encode_row(table, values)?;
        self.gathered_bytes += after.len();
        self.gather(table, RowChange::Insert { after })?;
        let is_full = self.gathered_bytes > GATHERED_BYTES_MAX && !self.has_gathered_put;
        if is_full { self.apply_inserts() } else { Ok(()) }
    }

    /// Inserts a row, or puts it in the place of the one that has its key.
    ///
    /// # Errors
    /// As [`Write::insert`]; of two rows of one key that come one after the other, the second is a duplicate.
    pub fn put(&mut self, table: &Arc<Table>, values: &[Option<OwnedValue>]) -> Result<(), SqlError> {
        let after = encode_row(table, values)?;
        self.gather(table, RowChange::Put { after })?;
        self.has_gathered_put = true;
        Ok(())
    }

    fn gather(&mut self, table: &Arc<Table>, change: RowChange) -> Result<(), SqlError> {
        if self.inserts.as_ref().is_some_and(|(gathered, _)| !Arc::ptr_eq(gathered, table)) {
            self.apply_inserts()?;
        }
        let (_, changes) = self.inserts.get_or_insert_with(|| (Arc::clone(table), Vec::new()));
        changes.push(change);
        Ok(())
    }

    /// Changes the row of this key: `said` has, in the order of the layout, the values that it is to have, `None` where it keeps
    /// its own; `false`: there is no such row.
    ///
    /// # Errors
    /// `23502`, `23505`; `XX001` when the row cannot be read.
    pub fn update(
        &mut self,
        table: &Arc<Table>,
        key: Bytes,
        said: &[Option<Option<OwnedValue>>],
    ) -> Result<bool, SqlError> {
        self.apply_inserts()?;
        let Some(row) = self.transaction.current_row(table, &key.clone().into())? else { return Ok(false) };
        let mut values = row.view(table)?.values()?;
        for (value, said) in values.iter_mut().zip(said) {
            if let Some(said) = said {
                *value = said.as_ref().map(OwnedValue::as_value);
            }
        }
        let after = encode_values(table, &values)?;
        Ok(self.transaction.write(table, vec![RowChange::Update { key, after }])? > 0)
    }

    /// Deletes the row of this key, and returns it as it was; `None`: there is none.
    ///
    /// # Errors
    /// `XX001` when the rows cannot be read.
    pub fn delete(&mut self, table: &Arc<Table>, key: Bytes) -> Result<Option<DeletedRow>, SqlError> {
        self.apply_inserts()?;
        let row = self.transaction.current_row(table, &key.clone().into())?;
        self.transaction.write(table, vec![RowChange::Delete { key }])?;
        Ok(row.map(DeletedRow))
    }

    /// The key of a row of these values, which are asked for by place in the layout; of a table with a primary key.
    ///
    /// # Errors
    /// `54000` for a key that is too long.
    pub fn key_of<'v>(&self, table: &Table, value: impl Fn(usize) -> Option<Value<'v>>) -> Result<Bytes, SqlError> {
        Ok(table.key_of_values(value)?)
    }

    /// The key of a row of exactly these values, in a table without a primary key. Reads the whole table.
    ///
    /// # Errors
    /// `XX001` when the rows cannot be read.
    pub fn find(&mut self, table: &Arc<Table>, values: &[Option<OwnedValue>]) -> Result<Option<Bytes>, SqlError> {
        self.apply_inserts()?;
        let wanted: Vec<_> = values.iter().map(|value| value.as_ref().map(OwnedValue::as_value)).collect();
        let everything = KeyRange::all();
        for item in self.transaction.source().rows(table, &everything)? {
            let (key, row) = item?;
            if row.view(table)?.values()? == wanted {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    /// The LSN that the transaction reads at.
    #[must_use]
    pub fn read_lsn(&self) -> Lsn {
        self.transaction.at()
    }

    fn apply_inserts(&mut self) -> Result<(), SqlError> {
        (self.gathered_bytes, self.has_gathered_put) = (0, false);
        if let Some((table, changes)) = self.inserts.take() {
            self.transaction.write(&table, changes)?;
        }
        Ok(())
    }
}

/// What expressions are evaluated with that belong to no session.
pub(crate) fn context(engine: &Engine) -> StatementContext<'_> {
    let visible = engine.visible();
    let facts = SessionFacts { visible, read: visible, last_write: None, namespace: Catalog::PUBLIC.to_owned() };
    StatementContext { engine, facts, interrupt: Interrupt::default(), is_alone: false }
}

/// Beyond so many bytes of inserted rows they are written. Rows that take the place of others wait for the last of them: what those
/// hold of unique indexes is given up before any of them takes it.
const GATHERED_BYTES_MAX: usize = 4 * 1024 * 1024;
