//! A table that a feed follows, and what becomes of its changes on the way.

use std::sync::Arc;

use bytes::Bytes;
use highwater_log::position::{RowId, SchemaVersion, TableId};
use highwater_log::row::{CodecError, Row};
use highwater_log::schema::FeedTable;
use highwater_log::{Change, Lsn};
use highwater_materializers::{Catalog, Table, TableRow};

use crate::error::FeedError;
use crate::event::Operation;
use crate::selection::{FittedSelection, Selected, Selection, Selector};

/// A table that a feed follows.
pub(crate) struct Followed {
    pub(super) id: TableId,
    /// As it is where the feed stands; `None` before it is made, and after it is dropped.
    pub(super) table: Option<Arc<Table>>,
    pub(super) is_dropped: bool,
    /// The version whose columns are named.
    version: SchemaVersion,
    selecting: Option<Selecting>,
}

/// What is told of it, where that is not all.
struct Selecting {
    filter: Option<String>,
    columns: Option<String>,
    selection: Option<Arc<dyn Selection>>,
    fitted: Option<Arc<dyn FittedSelection>>,
}

/// A row, and what it is a row of.
pub(super) struct Image {
    pub(super) written: Arc<Table>,
    pub(super) bytes: Bytes,
}

impl Image {
    /// The row, seen as one of this table, or of this version of it.
    pub(super) fn view<'a>(&'a self, table: &'a Table) -> Result<TableRow<'a>, CodecError> {
        TableRow::parse(&self.written, &self.bytes, table)
    }
}

/// A change of a row as the feed tells it.
pub(super) struct Told {
    pub(super) operation: Operation,
    pub(super) row: RowId,
    /// The row that has its key, where the told ones may not.
    pub(super) key: Option<Image>,
    pub(super) before: Option<Image>,
    pub(super) after: Option<Image>,
}

impl Followed {
    /// A table of which nothing is known yet.
    pub(crate) fn defined(definition: &FeedTable) -> Self {
        let FeedTable { table, version, filter, columns } = definition.clone();
        let is_whole = filter.is_none() && columns.is_none();
        let selecting = Selecting { filter, columns, selection: None, fitted: None };
        Self { id: table, version, table: None, is_dropped: false, selecting: (!is_whole).then_some(selecting) }
    }

    /// What is told of which table.
    pub(crate) fn definition(&self) -> FeedTable {
        let (filter, columns) = match &self.selecting {
            None => (None, None),
            Some(selecting) => (selecting.filter.clone(), selecting.columns.clone()),
        };
        FeedTable { table: self.id, version: self.version, filter, columns }
    }

    /// The table's id.
    pub(crate) const fn id(&self) -> TableId {
        self.id
    }

    /// Goes to what the table is at `lsn`; returns what it was.
    pub(super) fn go_to(
        &mut self,
        lsn: Lsn,
        catalog: &Catalog,
        selector: &dyn Selector,
    ) -> Result<Option<Arc<Table>>, FeedError> {
        let table = catalog.table(self.id, lsn);
        if let (Some(selecting), Some(table)) = (&mut self.selecting, &table) {
            let failed = |source| FeedError::selection(table, lsn, source);
            let selection = match &selecting.selection {
                Some(selection) => Arc::clone(selection),
                None => {
                    let named = catalog.table_at_version(self.id, self.version);
                    let named = named.ok_or(FeedError::UnknownVersion { lsn })?;
                    let (filter, columns) = (selecting.filter.as_deref(), selecting.columns.as_deref());
                    Arc::clone(selecting.selection.insert(selector.compile(&named, filter, columns).map_err(failed)?))
                }
            };
            selecting.fitted = Some(selection.fit(table).map_err(failed)?);
        }
        Ok(std::mem::replace(&mut self.table, table))
    }

    /// What it tells rows as.
    pub(super) fn fitted(&self) -> Option<&Arc<dyn FittedSelection>> {
        self.selecting.as_ref()?.fitted.as_ref()
    }

    /// What becomes of a run of changes of its rows that stands together in a commit: `None` for one that the feed has nothing to
    /// tell of.
    pub(super) fn judge(
        &self,
        lsn: Lsn,
        catalog: &Catalog,
        changes: &[Change],
    ) -> Result<Vec<Option<Told>>, FeedError> {
        let table = self.table.as_ref().ok_or(FeedError::UnknownVersion { lsn })?;
        let told = changes.iter().map(|change| self.told(lsn, catalog, table, change));
        let told = told.collect::<Result<Vec<_>, _>>()?;
        let Some(fitted) = self.fitted() else { return Ok(told) };
        let mut rows = Vec::with_capacity(2 * told.len());
        for image in told.iter().flatten().flat_map(|told| [&told.before, &told.after]).flatten() {
            rows.push(image.view(table).map_err(|source| FeedError::Row { lsn, source })?);
        }
        let selected = fitted.select(&rows).map_err(|source| FeedError::selection(table, lsn, source))?;
        drop(rows);
        let mut selected = selected.into_iter();
        let judged = told.into_iter().map(|told| {
            let Told { row, before, after, .. } = told?;
            let (mut key, mut passing) = (None, [None, None]);
            for (image, passing) in [before, after].into_iter().zip(&mut passing) {
                let Some(image) = image else { continue };
                *passing = match selected.next().unwrap_or(Selected::Not) {
                    Selected::Not => None,
                    Selected::AsItIs => Some(Image { written: Arc::clone(&image.written), bytes: image.bytes.clone() }),
                    Selected::As(bytes) => Some(Image { written: Arc::clone(fitted.shape()), bytes: bytes.into() }),
                };
                // An update leaves the key as it is.
                key = Some(image);
            }
            let [before, after] = passing;
            let operation = match (&before, &after) {
                (None, None) => return None,
                (None, Some(_)) => Operation::Insert,
                (Some(_), None) => Operation::Delete,
                (Some(_), Some(_)) => Operation::Update,
            };
            Some(Told { operation, row, key, before, after })
        });
        Ok(judged.collect())
    }

    /// A change with its images, whole; `None`: it is none of a row.
    fn told(
        &self,
        lsn: Lsn,
        catalog: &Catalog,
        table: &Arc<Table>,
        change: &Change,
    ) -> Result<Option<Told>, FeedError> {
        let in_row = |source| FeedError::Row { lsn, source };
        let image = |bytes: &Bytes| {
            let version = Row::schema_version(bytes).map_err(in_row)?;
            let written = match version == table.schema().version {
                true => Arc::clone(table),
                false => catalog.table_at_version(self.id, version).ok_or(FeedError::UnknownVersion { lsn })?,
            };
            Ok::<_, FeedError>(Image { written, bytes: bytes.clone() })
        };
        let (operation, row, before, after) = match change {
            Change::Insert { row, after, .. } => (Operation::Insert, *row, None, Some(image(after)?)),
            Change::Delete { row, before, .. } => (Operation::Delete, *row, Some(image(before)?), None),
            Change::Update { row, before, changed, .. } => {
                let (before, changed) = (image(before)?, image(changed)?);
                let mut bytes = Vec::new();
                let merged = changed.written.merge(&before.written, &before.bytes, &changed.bytes, &mut bytes);
                merged.map_err(in_row)?;
                let after = Image { written: changed.written, bytes: bytes.into() };
                (Operation::Update, *row, Some(before), Some(after))
            }
            Change::Catalog { .. } | Change::Truncate { .. } | Change::Position { .. } => return Ok(None),
        };
        Ok(Some(Told { operation, row, key: None, before, after }))
    }
}
