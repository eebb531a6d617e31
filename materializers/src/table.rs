//! A table at one schema version, with what is derived from its schema.

use bytes::Bytes;
use highwater_log::Lsn;
use highwater_log::key::{self, KEY_BYTES_MAX};
use highwater_log::position::{ColumnId, RowId, SchemaVersion, StorageId};
use highwater_log::row::{CodecError, Row, RowLayout, merge};
use highwater_log::schema::{ColumnSchema, IndexSchema, IndexState, TableSchema, UniqueSchema};
use highwater_log::value::Value;

/// A table's schema as one commit wrote it, ready for use. Immutable, and shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    schema: TableSchema,
    written: Lsn,
    layout: RowLayout,
    indexes: Vec<Index>,
    /// For each column, in the layout's order: what older rows hold, as a row of that column alone.
    missing: Vec<Option<(RowLayout, Vec<u8>)>>,
}

/// An index of a table that commits maintain: of a unique constraint, or one of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Its name, or the constraint's.
    pub name: String,
    /// Where its entries hang that commits write.
    pub storage: StorageId,
    /// Where the entries hang of rows that were there before it; they are read beneath the others.
    pub backfill: Option<StorageId>,
    /// Its columns, in index order.
    pub columns: Vec<ColumnId>,
    /// Whether an entry without NULL excludes another of the same values.
    pub is_unique: bool,
    /// How far it has come.
    pub state: IndexState,
}

impl Table {
    /// The table as commit `written` defines it.
    #[must_use]
    pub fn new(schema: TableSchema, written: Lsn) -> Self {
        let layout = schema.row_layout();
        Self::with_layout(schema, written, layout)
    }

    /// The table as commit `written` defines it; `before` is what it was. Rows of both are read alike where they have the same columns.
    pub(crate) fn following(before: &Self, schema: TableSchema, written: Lsn) -> Self {
        let layout = schema.row_layout();
        let is_same = layout.columns() == before.layout.columns();
        let layout = if is_same { before.layout.under(schema.version) } else { layout };
        Self::with_layout(schema, written, layout)
    }

    fn with_layout(schema: TableSchema, written: Lsn, layout: RowLayout) -> Self {
        let constraints = schema.uniques.iter().map(Index::of_constraint);
        let indexes = constraints.chain(schema.indexes.iter().map(Index::of_schema));
        let indexes = indexes.filter(|index| index.state.is_maintained()).collect();
        let missing = layout
            .columns()
            .iter()
            .map(|(id, column_type)| {
                let row = schema.column(*id)?.missing.clone()?;
                Some((RowLayout::new(MISSING_ROW_VERSION, [(*id, *column_type)]), row))
            })
            .collect();
        Self { schema, written, layout, indexes, missing }
    }

    /// Its schema.
    #[must_use]
    pub const fn schema(&self) -> &TableSchema {
        &self.schema
    }

    /// The commit that wrote this version of the schema: the first, where later ones told how far an index has come.
    #[must_use]
    pub const fn written(&self) -> Lsn {
        self.written
    }

    /// How its rows are laid out.
    #[must_use]
    pub const fn layout(&self) -> &RowLayout {
        &self.layout
    }

    /// The indexes that commits maintain: those of unique constraints, then the others.
    #[must_use]
    pub fn indexes(&self) -> &[Index] {
        &self.indexes
    }

    /// What rows hold that are older than the column at `place` of the layout.
    ///
    /// # Errors
    /// [`CodecError`] when the stored value is damaged.
    pub fn missing(&self, place: usize) -> Result<Option<Value<'_>>, CodecError> {
        match &self.missing[place] {
            None => Ok(None),
            Some((layout, row)) => Ok(Row::parse(layout, row)?.value(0)?.flatten()),
        }
    }

    /// An update's *after* image: `before`, a full row of this table's version or of an older one (`old`), with what `changed`, a
    /// partial row of this version, says. Appended to `out`.
    ///
    /// # Errors
    /// [`CodecError`] when a row is damaged.
    pub fn merge(&self, old: &Self, before: &[u8], changed: &[u8], out: &mut Vec<u8>) -> Result<(), CodecError> {
        let (before, partial) = (Row::parse(&old.layout, before)?, Row::parse(&self.layout, changed)?);
        let missing: Vec<_> =
            (0..self.layout.columns().len()).map(|place| self.missing(place)).collect::<Result<_, _>>()?;
        merge(&before, &partial, |place| missing[place], out)
    }

    /// The key of the row with this identity, in the space of the table's rows.
    ///
    /// # Errors
    /// [`CodecError`] when the row is damaged or its key too long.
    pub fn row_key(&self, row: &TableRow<'_>, id: RowId) -> Result<Bytes, CodecError> {
        if self.schema.primary_key.is_empty() {
            return Ok(Bytes::copy_from_slice(&key::of_row_id(id)));
        }
        let (key, _) = row.table.key(&self.schema.primary_key, |place| row.value(place))?;
        Ok(key.into())
    }

    /// The key of a row of these values, which are asked for by place in the layout; of a table with a primary key.
    ///
    /// # Errors
    /// [`CodecError`] when a value is not of its column's type, or the key too long.
    pub fn key_of_values<'v>(&self, value: impl Fn(usize) -> Option<Value<'v>>) -> Result<Bytes, CodecError> {
        let (key, _) = self.key(&self.schema.primary_key, |place| Ok(value(place)))?;
        Ok(key.into())
    }

    /// The key of these columns' values, which are asked for by place in the layout, and whether a NULL is among them.
    fn key<'v>(
        &self,
        columns: &[ColumnId],
        value: impl Fn(usize) -> Result<Option<Value<'v>>, CodecError>,
    ) -> Result<(Vec<u8>, bool), CodecError> {
        let (mut key, mut has_null) = (Vec::with_capacity(KEY_BYTES_EXPECTED), false);
        for id in columns {
            let place = self.layout.index_of(*id).ok_or(CodecError::Malformed("a key column that is gone"))?;
            let value = value(place)?;
            has_null |= value.is_none();
            key::encode([(self.layout.columns()[place].1, value)], &mut key)?;
            if key.len() > KEY_BYTES_MAX {
                return Err(CodecError::KeyTooLong(key.len()));
            }
        }
        Ok((key, has_null))
    }

    /// The key of the row in an index, and whether it must be the only one: entries that exclude none, those of an index that is not
    /// unique and those with a NULL, stand beside one another, told apart by the row's own key.
    ///
    /// # Errors
    /// [`CodecError`] when the row is damaged.
    pub fn index_key(
        &self,
        index: &Index,
        row: &TableRow<'_>,
        row_key: &[u8],
    ) -> Result<(Bytes, Uniqueness), CodecError> {
        let (mut key, has_null) = match row.table.key(&index.columns, |place| row.value(place)) {
            Err(CodecError::KeyTooLong(length)) => {
                return Ok(([&[TOO_LONG][..], row_key].concat().into(), Uniqueness::TooLong(length)));
            }
            key => key?,
        };
        if has_null || !index.is_unique {
            key.extend_from_slice(row_key);
            return Ok((key.into(), Uniqueness::NotUnique));
        }
        Ok((key.into(), Uniqueness::Unique))
    }
}

impl Index {
    fn of_constraint(unique: &UniqueSchema) -> Self {
        Self {
            name: unique.name.clone(),
            storage: unique.storage,
            backfill: None,
            columns: unique.columns.clone(),
            is_unique: true,
            state: IndexState::Ready,
        }
    }

    /// Where its entries hang.
    pub(crate) fn storages(&self) -> impl Iterator<Item = StorageId> + use<> {
        [Some(self.storage), self.backfill].into_iter().flatten()
    }

    /// The index as the catalog has it.
    #[must_use]
    pub fn of_schema(index: &IndexSchema) -> Self {
        Self {
            name: index.name.clone(),
            storage: index.storage,
            backfill: index.backfill,
            columns: index.columns.iter().map(|column| column.column).collect(),
            is_unique: index.unique,
            state: index.state.clone(),
        }
    }
}

/// Whether an index entry excludes another of the same values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uniqueness {
    /// It does.
    Unique,
    /// The index is not unique, or a NULL is among the values: it does not.
    NotUnique,
    /// The values take so many bytes, too many for an index. Such a row is not written; one that was there before the index is told
    /// apart by its own key, as long as the index is not ready for it.
    TooLong(usize),
}

/// A row, perhaps of an older schema version, seen with the columns of a newer one.
#[derive(Clone, Debug)]
pub struct TableRow<'a> {
    row: Row<'a>,
    table: &'a Table,
}

impl<'a> TableRow<'a> {
    /// The row seen as one of `table`.
    #[must_use]
    pub fn new(row: Row<'a>, table: &'a Table) -> Self {
        Self { row, table }
    }

    /// The row of these bytes, which were written under the version `written` of the table, seen as one of `table`.
    ///
    /// # Errors
    /// [`CodecError`] when the bytes are no row of that version.
    pub fn parse(written: &'a Table, bytes: &'a [u8], table: &'a Table) -> Result<Self, CodecError> {
        Ok(Self::new(Row::parse(&written.layout, bytes)?, table))
    }

    /// The table.
    #[must_use]
    pub const fn table(&self) -> &'a Table {
        self.table
    }

    /// The value of the table's column at `place` of its layout.
    ///
    /// # Errors
    /// [`CodecError`] when the row is damaged.
    pub fn value(&self, place: usize) -> Result<Option<Value<'a>>, CodecError> {
        if self.row.layout().is_like(&self.table.layout) {
            return self.row.value(place)?.ok_or(PARTIAL);
        }
        let (id, _) = self.table.layout.columns()[place];
        match self.row.layout().index_of(id) {
            Some(own) => self.row.value(own)?.ok_or(PARTIAL),
            None => self.table.missing(place),
        }
    }

    /// All values, in the order of the table's layout.
    ///
    /// # Errors
    /// [`CodecError`] when the row is damaged.
    pub fn values(&self) -> Result<Vec<Option<Value<'a>>>, CodecError> {
        (0..self.table.layout.columns().len()).map(|place| self.value(place)).collect()
    }
}

/// Encodes what older rows hold in a column that is added: [`ColumnSchema::missing`].
///
/// # Errors
/// [`CodecError::TypeMismatch`] when the value is not of the column's type.
pub fn encode_missing(column: &ColumnSchema, value: Value<'_>) -> Result<Vec<u8>, CodecError> {
    let mut row = Vec::new();
    RowLayout::new(MISSING_ROW_VERSION, [(column.id, column.column_type)]).encode(&[Some(value)], &mut row)?;
    Ok(row)
}

/// Keys are seldom longer.
const KEY_BYTES_EXPECTED: usize = 24;
/// Stands where a column's mark stands in a key.
const TOO_LONG: u8 = 3;
const PARTIAL: CodecError = CodecError::Malformed("a partial row where a full one is due");
const MISSING_ROW_VERSION: SchemaVersion = SchemaVersion::new(0);
