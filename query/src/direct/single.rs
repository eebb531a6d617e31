//! The one row that a whole key names.

use bytes::Bytes;
use datafusion::sql::sqlparser::ast::Expr;
use highwater_log::key::{self, HeadKey, KEY_BYTES_MAX};
use highwater_log::position::{ColumnId, StorageId};
use highwater_log::schema::IndexState;
use highwater_log::value::ColumnType;
use highwater_materializers::Table;

use super::operand::Operand;
use super::shape::Shape;
use crate::error::SqlError;
use crate::parameter::Parameter;
use crate::rows::{RowSource, SeenRow, of_key};
use crate::scan::is_key_order_sql_order;

/// Every column of a primary key, or of a unique index, with what it equals.
pub(super) struct Single {
    /// In the key's order.
    columns: Vec<(ColumnType, Operand)>,
    /// The index, unless it is the rows' own key.
    index: Option<StorageId>,
}

/// What a whole key names.
pub(super) enum Found {
    Row(HeadKey, SeenRow),
    Nothing,
    /// The values are not of the columns' types.
    Unknown,
}

impl Single {
    /// The key that equalities pin, and nothing besides.
    pub(super) fn of(shape: &Shape<'_>, equals: &[(&Expr, &Expr)], table: &Table) -> Option<Self> {
        let schema = table.schema();
        let mut pinned: Vec<(ColumnId, ColumnType, &Expr)> = Vec::with_capacity(equals.len());
        for (left, right) in equals {
            let (name, value) = match (shape.column(left), shape.column(right)) {
                (Some(name), None) => (name, right),
                (None, Some(name)) => (name, left),
                _ => return None,
            };
            let column = schema.columns.iter().find(|column| column.name == name)?;
            if pinned.iter().any(|(id, ..)| *id == column.id) {
                return None;
            }
            pinned.push((column.id, column.column_type, value));
        }
        let key_of = |columns: &[ColumnId], index: Option<StorageId>| {
            if columns.is_empty() || columns.len() != pinned.len() {
                return None;
            }
            let columns = columns.iter().map(|id| {
                let (_, column_type, value) = pinned.iter().find(|(known, ..)| known == id)?;
                let operand = Operand::of_comparison(value, *column_type)?;
                is_key_order_sql_order(*column_type).then_some((*column_type, operand))
            });
            Some(Self { columns: columns.collect::<Option<_>>()?, index })
        };
        let mut unique = table.indexes().iter().filter(|index| index.is_unique && index.state == IndexState::Ready);
        key_of(&schema.primary_key, None)
            .or_else(|| unique.find_map(|index| key_of(&index.columns, Some(index.storage))))
    }

    /// The index that it is a key of, unless it is the rows' own.
    pub(super) const fn index(&self) -> Option<StorageId> {
        self.index
    }

    /// The row, as a transaction sees it.
    ///
    /// # Errors
    /// Those of reading rows.
    pub(super) fn row(&self, table: &Table, source: &RowSource, parameters: &[Parameter]) -> Result<Found, SqlError> {
        let bytes = match self.key(parameters) {
            None => return Ok(Found::Unknown),
            Some(None) => return Ok(Found::Nothing),
            Some(Some(bytes)) => bytes,
        };
        let storage = table.schema().storage;
        let key = match self.index {
            None => Bytes::from(bytes),
            Some(index) => {
                let code = Bytes::from(bytes);
                source.note_read(table, index, &of_key(&code))?;
                match source.key_of_code(index, &code)? {
                    Some(key) => key,
                    None => return Ok(Found::Nothing),
                }
            }
        };
        source.note_read(table, storage, &of_key(&key))?;
        let key = HeadKey::from(key);
        Ok(match source.row(table, &key)? {
            Some(row) => Found::Row(key, row),
            None => Found::Nothing,
        })
    }

    /// The key's bytes; `Some(None)`: a NULL is in it, which equals nothing; `None`: it is the planner's to say.
    pub(super) fn key(&self, parameters: &[Parameter]) -> Option<Option<Vec<u8>>> {
        let (mut bytes, mut has_null) = (Vec::with_capacity(KEY_BYTES_EXPECTED), false);
        for (column_type, operand) in &self.columns {
            match operand.compared(parameters, *column_type)? {
                // The other values are looked at all the same.
                None => has_null = true,
                Some(value) => key::encode([(*column_type, Some(value.as_value()))], &mut bytes).ok()?,
            }
        }
        (bytes.len() <= KEY_BYTES_MAX).then_some((!has_null).then_some(bytes))
    }
}

const KEY_BYTES_EXPECTED: usize = 32;
