//! What a serializable transaction reads: its commit demands that nobody has changed it since.
//!
//! Whoever only reads sees a state between two commits. Whoever writes commits where all that it read is still as it was: as if all of
//! it had happened there. So every history is one of transactions one after another, in the order of their commits.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use highwater_log::Lsn;
use highwater_log::position::{StorageId, TableId};
use highwater_log::sequencer::{CATALOG_SPACE, KeyRange, Precondition};
use highwater_materializers::Table;

use crate::error::SqlError;
use crate::sqlstate;

/// The ranges of keys that were read, and the tables.
#[derive(Default)]
pub(crate) struct Reads(Mutex<Noted>);

#[derive(Default)]
struct Noted {
    ranges: BTreeMap<StorageId, Vec<KeyRange>>,
    /// With the commit that wrote the version which was read.
    tables: BTreeMap<TableId, Lsn>,
    /// The transaction has taken them to its commit.
    is_over: bool,
}

impl Reads {
    /// Notes that keys of a table, or of one of its indexes, were read, or looked for.
    ///
    /// # Errors
    /// `25P01` behind [`Reads::conditions`].
    pub(crate) fn note(&self, table: &Table, storage: StorageId, range: &KeyRange) -> Result<(), SqlError> {
        let mut noted = self.noted();
        noted.check()?;
        noted.tables.insert(table.schema().id, table.written());
        let ranges = noted.ranges.entry(storage).or_default();
        if ranges.contains(range) || ranges.contains(&KeyRange::all()) {
            return Ok(());
        }
        if ranges.len() >= RANGES_MAX || *range == KeyRange::all() {
            ranges.clear();
            ranges.push(KeyRange::all());
        } else {
            ranges.push(range.clone());
        }
        Ok(())
    }

    /// Notes that it was looked what the catalog holds.
    ///
    /// # Errors
    /// As [`Reads::note`].
    pub(crate) fn note_catalog(&self) -> Result<(), SqlError> {
        let mut noted = self.noted();
        noted.check()?;
        noted.ranges.insert(CATALOG_SPACE, vec![KeyRange::all()]);
        Ok(())
    }

    /// What must hold when a transaction commits that read at `since`; of tables that `is_own`, it has made or changed them itself.
    pub(crate) fn conditions(&self, since: Lsn, is_own: impl Fn(TableId) -> bool) -> Vec<Precondition> {
        let mut noted = self.noted();
        noted.is_over = true;
        let tables = noted.tables.iter().filter(|(table, _)| !is_own(**table));
        let tables = tables.map(|(table, version)| Precondition::SchemaAt { table: *table, version: *version });
        let ranges = noted.ranges.iter().flat_map(|(space, ranges)| {
            let unchanged =
                |range: &KeyRange| Precondition::RangeUnchanged { space: *space, range: range.clone(), since };
            ranges.iter().map(unchanged).collect::<Vec<_>>()
        });
        tables.chain(ranges).collect()
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Noted {
    fn check(&self) -> Result<(), SqlError> {
        match self.is_over {
            false => Ok(()),
            true => {
                let message = "the serializable transaction that this result is of has ended";
                Err(SqlError::new(sqlstate::NO_ACTIVE_TRANSACTION, message))
            }
        }
    }
}

/// Beyond so many ranges of one storage, all of it counts as read.
const RANGES_MAX: usize = 256;
