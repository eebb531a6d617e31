//! The catalog's entries as commits carry them: JSON, so that they can grow for years.
//!
//! A commit that changes the catalog carries the whole entry as it is from then on (or its absence). Unknown fields are an
//! error of a newer format, never ignored: a constraint that an older program does not know must not be lost.

use serde::{Deserialize, Serialize};

use crate::position::{ColumnId, IndexId, SchemaVersion, StorageId, TableId};
use crate::row::RowLayout;
use crate::value::ColumnType;

/// One object of the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum CatalogEntry {
    /// A schema in SQL's sense: a namespace of tables.
    Namespace(Namespace),
    /// A table.
    Table(TableSchema),
    /// A feed that has a name.
    Feed(FeedSchema),
}

impl CatalogEntry {
    /// Reads an entry from its stored JSON.
    ///
    /// # Errors
    /// When the text is no entry that this program knows.
    pub fn from_json(json: &[u8]) -> Result<Self, CatalogEntryError> {
        serde_json::from_slice(json).map_err(|source| CatalogEntryError { source })
    }

    /// The entry's stored JSON. The same entry always gives the same bytes.
    ///
    /// # Panics
    /// Never: every entry has a JSON form.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("every catalog entry has a JSON form")
    }
}

/// A stored catalog entry that this program cannot read: damaged, or written by a newer one.
#[derive(Debug, thiserror::Error)]
#[error("cannot read a catalog entry (damaged, or written by a newer version of highwater)")]
pub struct CatalogEntryError {
    source: serde_json::Error,
}

/// A namespace of tables, `CREATE SCHEMA` in SQL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Namespace {
    /// Its name.
    pub name: String,
}

/// A table at one schema version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableSchema {
    /// The table's identity.
    pub id: TableId,
    /// The namespace's name.
    pub namespace: String,
    /// The table's name.
    pub name: String,
    /// Rises by one with each change that who writes rows has to know of. An entry of the version that stands changes what only
    /// readers ask for: how far an index has come.
    pub version: SchemaVersion,
    /// Where the rows hang; TRUNCATE replaces it.
    pub storage: StorageId,
    /// Columns in the order in which they were declared.
    pub columns: Vec<ColumnSchema>,
    /// Key columns in key order; empty for a table without a primary key, whose rows are known by row id.
    pub primary_key: Vec<ColumnId>,
    /// The name of the primary key's constraint, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary_key_name: Option<String>,
    /// Unique constraints, each with its index.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uniques: Vec<UniqueSchema>,
    /// Secondary indexes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub indexes: Vec<IndexSchema>,
    /// The id that the next added column gets; ids of dropped columns are never used again.
    pub next_column: ColumnId,
}

impl TableSchema {
    /// How rows of this schema version are laid out.
    #[must_use]
    pub fn row_layout(&self) -> RowLayout {
        RowLayout::new(self.version, self.columns.iter().map(|column| (column.id, column.column_type)))
    }

    /// The column of this id.
    #[must_use]
    pub fn column(&self, id: ColumnId) -> Option<&ColumnSchema> {
        self.columns.iter().find(|column| column.id == id)
    }

    /// The column of this name.
    #[must_use]
    pub fn column_named(&self, name: &str) -> Option<&ColumnSchema> {
        self.columns.iter().find(|column| column.name == name)
    }
}

/// A feed that has a name: what it tells. How far its reader has come is a position ([`crate::Change::Position`]) of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedSchema {
    /// Its name.
    pub name: String,
    /// What it tells of which tables; at least one.
    pub tables: Vec<FeedTable>,
}

/// What a feed tells of a table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedTable {
    /// The table.
    pub table: TableId,
    /// The table's version whose columns the two texts name. Later versions are seen through its column ids.
    pub version: SchemaVersion,
    /// The SQL expression of which rows it tells; `None`: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// The items of a SELECT list that it tells of a row; `None`: all columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<String>,
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnSchema {
    /// Its identity within the table.
    pub id: ColumnId,
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub column_type: ColumnType,
    /// Whether NULL is refused.
    pub not_null: bool,
    /// The SQL expression of its DEFAULT, evaluated anew for each insert.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// What rows hold that are older than the column: evaluated once, when the column was added, and encoded as a full row of
    /// this one column under schema version 0 (hexadecimal). `None` is NULL.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "hexadecimal")]
    pub missing: Option<Vec<u8>>,
}

/// A unique constraint and its index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UniqueSchema {
    /// The constraint's name.
    pub name: String,
    /// Where the index's entries hang; TRUNCATE replaces it with the table's.
    pub storage: StorageId,
    /// Its columns, in index order.
    pub columns: Vec<ColumnId>,
}

/// A secondary index, `CREATE INDEX` in SQL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexSchema {
    /// Its identity.
    pub id: IndexId,
    /// Its name.
    pub name: String,
    /// Where the entries hang that commits write; TRUNCATE replaces it with the table's.
    pub storage: StorageId,
    /// Where the entries hang of rows that were there before the index; `None`: there were none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backfill: Option<StorageId>,
    /// Its columns, in index order.
    pub columns: Vec<IndexedColumn>,
    /// Whether no two rows may have the same values, none of them NULL.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unique: bool,
    /// How far it has come.
    pub state: IndexState,
}

/// A column of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexedColumn {
    /// The column.
    pub column: ColumnId,
    /// `DESC`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub descending: bool,
    /// `NULLS FIRST`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub nulls_first: bool,
}

/// How far an index has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum IndexState {
    /// Commits maintain it, and a unique one excludes duplicates among the rows that they write; the rows of before are being gathered.
    Building,
    /// Of a unique one: the rows of before are in it, and exclude others; duplicates that came meanwhile are being looked for.
    Checking,
    /// Queries use it.
    Ready,
    /// It holds nothing, and nobody maintains it.
    Failed {
        /// What kind of error it was.
        sqlstate: String,
        /// Why.
        cause: String,
    },
}

impl IndexState {
    /// Whether commits maintain it.
    #[must_use]
    pub const fn is_maintained(&self) -> bool {
        !matches!(self, Self::Failed { .. })
    }

    /// Whether the rows of before are in it.
    #[must_use]
    pub const fn is_filled(&self) -> bool {
        matches!(self, Self::Checking | Self::Ready)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
const fn is_false(value: &bool) -> bool {
    !*value
}

mod hexadecimal {
    use serde::{Deserialize, Deserializer, Serializer, de};

    #[expect(clippy::ref_option, reason = "the signature is serde's")]
    pub(super) fn serialize<S: Serializer>(bytes: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
        match bytes {
            None => serializer.serialize_none(),
            Some(bytes) => {
                serializer.serialize_str(&bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
            }
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        if text.len() % 2 != 0 || !text.is_ascii() {
            return Err(de::Error::custom("hexadecimal digits come in pairs"));
        }
        let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).map_err(de::Error::custom);
        (0..text.len()).step_by(2).map(byte).collect::<Result<_, _>>().map(Some)
    }
}
