//! Rows in their stored form.
//!
//! ```text
//! row := head LEB128 | present ⌈n/8⌉ (partial rows only) | body
//!
//! head     schema version × 2, plus 1 if the row is partial
//! present  bit i (LSB first) set: the row has column i of that schema version's n columns
//! body     the cells of the columns it has, in the order of their ids (see `cells`)
//! ```
//!
//! A full row has every column of its schema version. A partial one has some: the columns that an update changed. Which columns
//! a version has is the catalog's knowledge, so decoding takes the [`RowLayout`] of the row's version.

use std::borrow::Cow;
use std::sync::Arc;

use crate::position::{ColumnId, SchemaVersion};
use crate::value::{ColumnType, Value};

pub(crate) mod cells;
#[cfg(test)]
mod tests;

use cells::{CellLayout, Cells};

/// The columns of one schema version, as rows of that version lay them out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowLayout {
    version: SchemaVersion,
    columns: Arc<[(ColumnId, ColumnType)]>,
    full: CellLayout,
}

impl RowLayout {
    /// The layout of schema version `version`, whose columns are given in any order.
    ///
    /// # Panics
    /// When a column id stands twice, which a catalog never says.
    #[must_use]
    pub fn new(version: SchemaVersion, columns: impl IntoIterator<Item = (ColumnId, ColumnType)>) -> Self {
        let mut columns: Vec<_> = columns.into_iter().collect();
        columns.sort_unstable_by_key(|(id, _)| *id);
        assert!(columns.windows(2).all(|pair| pair[0].0 < pair[1].0), "a column id stands twice in {columns:?}");
        assert!(version.value() <= SCHEMA_VERSION_MAX, "schema version {version} does not fit a row's head");
        let full = CellLayout::new(columns.iter().map(|(_, column_type)| *column_type));
        Self { version, columns: columns.into(), full }
    }

    /// The layout of another version that has the same columns: [`RowLayout::is_like`] tells so without comparing them.
    ///
    /// # Panics
    /// As [`RowLayout::new`].
    #[must_use]
    pub fn under(&self, version: SchemaVersion) -> Self {
        assert!(version.value() <= SCHEMA_VERSION_MAX, "schema version {version} does not fit a row's head");
        Self { version, ..self.clone() }
    }

    /// Whether one was made of the other by [`RowLayout::under`]: a column stands at the same place in both.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.columns, &other.columns)
    }

    /// The schema version that this is the layout of.
    #[must_use]
    pub const fn version(&self) -> SchemaVersion {
        self.version
    }

    /// Columns in the order of their ids, which is the order of a row's cells.
    #[must_use]
    pub fn columns(&self) -> &[(ColumnId, ColumnType)] {
        &self.columns
    }

    /// Where column `id` stands among [`RowLayout::columns`].
    #[must_use]
    pub fn index_of(&self, id: ColumnId) -> Option<usize> {
        self.columns.binary_search_by_key(&id, |(column, _)| *column).ok()
    }

    /// Appends a full row to `out`. `values` stand in the order of [`RowLayout::columns`].
    ///
    /// # Errors
    /// [`CodecError::TypeMismatch`] when a value is not of its column's type, [`CodecError::TooLarge`] above 4 GiB.
    ///
    /// # Panics
    /// When there are not as many values as columns.
    pub fn encode(&self, values: &[Option<Value<'_>>], out: &mut Vec<u8>) -> Result<(), CodecError> {
        assert_eq!(values.len(), self.columns.len(), "a full row has every column");
        cells::put_varint(out, self.version.value() << 1);
        cells::encode(self.columns.iter().zip(values).map(|((_, column_type), value)| (*column_type, *value)), out)
    }

    /// Appends a partial row with the given columns, each by its place in [`RowLayout::columns`], places rising.
    ///
    /// # Errors
    /// As [`RowLayout::encode`].
    ///
    /// # Panics
    /// When the places do not rise or go beyond the columns.
    pub fn encode_partial(&self, values: &[(usize, Option<Value<'_>>)], out: &mut Vec<u8>) -> Result<(), CodecError> {
        assert!(values.windows(2).all(|pair| pair[0].0 < pair[1].0), "the columns of a partial row rise");
        cells::put_varint(out, self.version.value() << 1 | 1);
        let present_at = out.len();
        out.resize(present_at + self.columns.len().div_ceil(8), 0);
        for (place, _) in values {
            assert!(*place < self.columns.len(), "column {place} of {}", self.columns.len());
            out[present_at + place / 8] |= 1 << (place % 8);
        }
        cells::encode(values.iter().map(|(place, value)| (self.columns[*place].1, *value)), out)
    }
}

/// A row over its stored bytes, with the layout of its schema version.
#[derive(Clone, Debug)]
pub struct Row<'a> {
    /// Place in `layout.columns` → cell of the body. Empty for a full row, where the two are the same.
    present: Vec<Option<usize>>,
    layout: &'a RowLayout,
    cell_layout: Cow<'a, CellLayout>,
    cells: Cells<'a>,
}

impl<'a> Row<'a> {
    /// The schema version that `bytes` were written under, which says what layout to parse them with.
    ///
    /// # Errors
    /// [`CodecError::Malformed`] when the head is no head.
    pub fn schema_version(bytes: &[u8]) -> Result<SchemaVersion, CodecError> {
        let (head, _) = cells::take_varint(bytes)?;
        Ok(SchemaVersion::new(head >> 1))
    }

    /// Takes a row's bytes apart. Single values are decoded when asked for.
    ///
    /// # Errors
    /// [`CodecError::WrongVersion`] when the layout is another version's, [`CodecError::Malformed`] when the bytes are no row.
    pub fn parse(layout: &'a RowLayout, bytes: &'a [u8]) -> Result<Self, CodecError> {
        let (head, rest) = cells::take_varint(bytes)?;
        let found = SchemaVersion::new(head >> 1);
        if found != layout.version {
            return Err(CodecError::WrongVersion { found, expected: layout.version });
        }
        if head & 1 == 0 {
            let cells = Cells::parse(&layout.full, rest)?;
            return Ok(Self { present: Vec::new(), layout, cell_layout: Cow::Borrowed(&layout.full), cells });
        }
        let bitmap_bytes = layout.columns.len().div_ceil(8);
        let (bitmap, body) = rest.split_at_checked(bitmap_bytes).ok_or(CodecError::Malformed("present bitmap"))?;
        let mut count = 0;
        let present: Vec<_> = (0..layout.columns.len())
            .map(|place| {
                (bitmap[place / 8] & (1 << (place % 8)) != 0).then(|| {
                    count += 1;
                    count - 1
                })
            })
            .collect();
        let types = layout.columns.iter().zip(&present).filter(|(_, cell)| cell.is_some()).map(|((_, t), _)| *t);
        let cell_layout = CellLayout::new(types);
        let cells = Cells::parse(&cell_layout, body)?;
        Ok(Self { present, layout, cell_layout: Cow::Owned(cell_layout), cells })
    }

    /// The layout that the row was parsed with.
    #[must_use]
    pub const fn layout(&self) -> &'a RowLayout {
        self.layout
    }

    /// Whether the row has the column at `place` of the layout; a full row has all.
    #[must_use]
    pub fn has(&self, place: usize) -> bool {
        self.present.get(place).is_none_or(Option::is_some)
    }

    /// The value of the column at `place` of the layout: the outer `None` if the row does not have it, the inner for NULL.
    ///
    /// # Errors
    /// [`CodecError::Malformed`] when the cell's bytes are no value of its type.
    pub fn value(&self, place: usize) -> Result<Option<Option<Value<'a>>>, CodecError> {
        let cell = match self.present.get(place) {
            None => place,
            Some(Some(cell)) => *cell,
            Some(None) => return Ok(None),
        };
        self.cells.value(&self.cell_layout, cell).map(Some)
    }

    /// All values of a full row, in the layout's order.
    ///
    /// # Errors
    /// [`CodecError::Malformed`] when a cell's bytes are no value of its type, or when the row is partial.
    pub fn values(&self) -> Result<Vec<Option<Value<'a>>>, CodecError> {
        (0..self.layout.columns.len())
            .map(|place| self.value(place)?.ok_or(CodecError::Malformed("a partial row where a full one is due")))
            .collect()
    }
}

/// A full row over its bytes, changed by a partial one: an update's *after* image from its *before* image, appended to `out`.
///
/// The result is of the partial row's schema version. `before` may be of an older one: columns that it lacks come from
/// `missing` (a column's place in the newer layout to its value), columns that the newer version lacks are left out.
///
/// # Errors
/// [`CodecError::Malformed`] when either row's bytes are damaged.
pub fn merge<'v>(
    before: &Row<'v>,
    changed: &Row<'v>,
    missing: impl Fn(usize) -> Option<Value<'v>>,
    out: &mut Vec<u8>,
) -> Result<(), CodecError> {
    let mut values = Vec::with_capacity(changed.layout.columns.len());
    for (place, (id, _)) in changed.layout.columns.iter().enumerate() {
        let value = match changed.value(place)? {
            Some(value) => value,
            None => match before.layout.index_of(*id) {
                Some(old_place) => before.value(old_place)?.ok_or(CodecError::Malformed("a partial before image"))?,
                None => missing(place),
            },
        };
        values.push(value);
    }
    changed.layout.encode(&values, out)
}

/// Why bytes are no row or key, or values no row of a layout.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes are not what the format says: damage, or a defect of ours.
    #[error("malformed row: {0}")]
    Malformed(&'static str),
    /// The row was written under another schema version than the layout given.
    #[error("row of schema version {found} read with the layout of version {expected}")]
    WrongVersion {
        /// The row's version.
        found: SchemaVersion,
        /// The layout's version.
        expected: SchemaVersion,
    },
    /// A value is not of its column's type.
    #[error("value does not fit a column of type {expected}")]
    TypeMismatch {
        /// The column's type.
        expected: ColumnType,
    },
    /// A row above 4 GiB.
    #[error("row is too large")]
    TooLarge,
    /// Values of this type have no order that keys can keep (`jsonb`).
    #[error("a column of type {0} cannot be part of a key")]
    NoKeyOrder(ColumnType),
    /// The encoded key is longer than [`crate::key::KEY_BYTES_MAX`].
    #[error("key of {0} bytes is longer than {max}", max = crate::key::KEY_BYTES_MAX)]
    KeyTooLong(usize),
}

const SCHEMA_VERSION_MAX: u32 = u32::MAX >> 1;
