//! What accepted commits have written that are not visible yet: for writers who go on without waiting for them.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use highwater_log::Lsn;
use highwater_log::key::{self, HeadKey};
use highwater_log::position::{RowId, StorageId};
use highwater_materializers::StoredRow;

/// Rows and index entries over those at the pin. Every LSN in it is provisional; what is computed from it is ordered behind it, or not
/// at all ([`highwater_log::sequencer::Chain`]).
#[derive(Default)]
pub(crate) struct Ahead {
    /// By storage and key: the commit that wrote it last, and the row; `None`: deleted.
    rows: BTreeMap<StorageId, BTreeMap<HeadKey, (Lsn, Option<StoredRow>)>>,
    /// Entries of unique indexes that exclude others: taken or given up.
    codes: BTreeMap<StorageId, HashMap<Bytes, (Lsn, bool)>>,
    /// What each commit wrote, oldest first.
    commits: VecDeque<(Lsn, Vec<(StorageId, HeadKey)>)>,
}

/// What a write set writes, before it is ordered.
#[derive(Default)]
pub(crate) struct AheadWrites {
    /// Inserted rows, in the order of the inserts; of a table without key, the key is the row id that they are given.
    pub(crate) inserts: Vec<(StorageId, Option<Bytes>, Bytes)>,
    /// Updated rows, with the ids that they have.
    pub(crate) updates: Vec<(StorageId, Bytes, RowId, Bytes)>,
    /// The keys of deleted rows.
    pub(crate) deletes: Vec<(StorageId, Bytes)>,
    /// Entries of unique indexes.
    pub(crate) codes: Vec<(StorageId, Bytes, bool)>,
}

impl Ahead {
    /// The row of this key, if a commit ahead wrote it.
    pub(crate) fn row(&self, storage: StorageId, key: &HeadKey) -> Option<Option<StoredRow>> {
        self.rows.get(&storage)?.get(key).map(|(_, row)| row.clone())
    }

    /// All rows of a storage that commits ahead wrote.
    pub(crate) fn rows(&self, storage: StorageId) -> Option<&BTreeMap<HeadKey, (Lsn, Option<StoredRow>)>> {
        self.rows.get(&storage)
    }

    /// Whether a unique index holds this entry, if a commit ahead says.
    pub(crate) fn code(&self, index: StorageId, code: &[u8]) -> Option<bool> {
        self.codes.get(&index)?.get(code).map(|(_, is_taken)| *is_taken)
    }

    /// Takes in a commit that was just ordered.
    pub(crate) fn note(&mut self, lsn: Lsn, first_row: Option<RowId>, writes: AheadWrites) {
        let mut keys = Vec::with_capacity(writes.inserts.len() + writes.updates.len());
        let mut next = first_row.unwrap_or_default();
        for (storage, key, bytes) in writes.inserts {
            let key = HeadKey::from(key.unwrap_or_else(|| Bytes::copy_from_slice(&key::of_row_id(next))));
            let row = StoredRow { version: lsn, id: next, bytes };
            keys.push((storage, key.clone()));
            self.rows.entry(storage).or_default().insert(key, (lsn, Some(row)));
            next = next.next();
        }
        let updates = writes.updates.into_iter().map(|(storage, key, id, bytes)| {
            let row = StoredRow { version: lsn, id, bytes };
            (storage, HeadKey::from(key), Some(row))
        });
        let deletes = writes.deletes.into_iter().map(|(storage, key)| (storage, HeadKey::from(key), None));
        for (storage, key, row) in updates.chain(deletes) {
            keys.push((storage, key.clone()));
            self.rows.entry(storage).or_default().insert(key, (lsn, row));
        }
        for (index, code, is_taken) in writes.codes {
            keys.push((index, HeadKey::from(code.clone())));
            self.codes.entry(index).or_default().insert(code, (lsn, is_taken));
        }
        self.commits.push_back((lsn, keys));
    }

    /// Forgets what is visible.
    pub(crate) fn forget_to(&mut self, visible: Lsn) {
        while self.commits.front().is_some_and(|(lsn, _)| *lsn <= visible) {
            let Some((_, keys)) = self.commits.pop_front() else { return };
            for (storage, key) in keys {
                // A later commit may have written it again.
                if let Some(rows) = self.rows.get_mut(&storage)
                    && rows.get(&key).is_some_and(|(lsn, _)| *lsn <= visible)
                {
                    rows.remove(&key);
                    if rows.is_empty() {
                        self.rows.remove(&storage);
                    }
                }
                if let Some(codes) = self.codes.get_mut(&storage)
                    && codes.get(key.bytes()).is_some_and(|(lsn, _)| *lsn <= visible)
                {
                    codes.remove(key.bytes());
                    if codes.is_empty() {
                        self.codes.remove(&storage);
                    }
                }
            }
        }
    }
}
