//! What a transaction has written and not committed: in memory up to a bound, beyond it on disk.
//!
//! ```text
//!   newest ──▶ memory: rows by storage and key, places in unique indexes
//!              │ more than the room has memory for: all of it goes to disk, in one round
//!   older  ──▶ scratch: storage, key ──▶ what became of it             what memory says hides what the disk says
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap, btree_map};
use std::iter::Peekable;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use highwater_log::Lsn;
use highwater_log::key::HeadKey;
use highwater_log::position::{RowId, StorageId};
use highwater_log::sequencer::KeyRange;
use highwater_materializers::{Scratch, StoredRow, Table};

use super::SeenRow;
use crate::error::SqlError;

/// What a transaction has written and not committed. A clone goes on to see what was there when it was made.
#[derive(Clone, Default)]
pub(crate) struct Writes {
    /// By the rows' storage, then by key.
    rows: BTreeMap<StorageId, BTreeMap<HeadKey, RowWrite>>,
    /// Entries of unique indexes that exclude others: the key of the row that has it, or `None`, it was given up.
    codes: BTreeMap<StorageId, HashMap<Bytes, Option<Bytes>>>,
    /// Of both in memory, roughly.
    bytes: usize,
    spilled: Option<Spilled>,
}

/// Where transactions put what is too much for memory.
#[derive(Clone, Debug)]
pub(crate) struct SpillRoom {
    pub(crate) directory: PathBuf,
    /// Beyond so many bytes, what one has written lies on disk.
    pub(crate) memory_bytes: usize,
}

/// What became of one key.
#[derive(Clone)]
pub(crate) struct RowWrite {
    /// The row at the transaction's LSN.
    pub(crate) before: Option<StoredRow>,
    /// The row now; `None`: deleted. With neither, it was made and taken back.
    pub(crate) after: Option<SeenRow>,
}

#[derive(Clone)]
struct Spilled {
    scratch: Scratch,
    /// The storages of rows that something was spilled of.
    storages: BTreeSet<StorageId>,
    /// What spilled rows were written under, by the number that stands with them.
    tables: Vec<Arc<Table>>,
}

/// Own writes of a range of keys, rising.
pub(crate) type OwnRows = Box<dyn Iterator<Item = Result<(Bytes, RowWrite), SqlError>> + Send>;

impl Writes {
    /// What became of a row.
    pub(crate) fn row(&self, storage: StorageId, key: &HeadKey) -> Result<Option<RowWrite>, SqlError> {
        if let Some(write) = self.rows.get(&storage).and_then(|rows| rows.get(key)) {
            return Ok(Some(write.clone()));
        }
        match self.spilled.as_ref().filter(|spilled| spilled.storages.contains(&storage)) {
            None => Ok(None),
            Some(spilled) => {
                let value = spilled.scratch.get(&scratch_key(storage, key.bytes()))?;
                value.map(|value| spilled.decode_row(&value)).transpose()
            }
        }
    }

    /// Who has a place in a unique index, as far as the transaction has changed that: the key of its row, or nobody.
    pub(crate) fn code(&self, index: StorageId, code: &[u8]) -> Result<Option<Option<Bytes>>, SqlError> {
        if let Some(taken) = self.codes.get(&index).and_then(|codes| codes.get(code)) {
            return Ok(Some(taken.clone()));
        }
        let Some(spilled) = &self.spilled else { return Ok(None) };
        let value = spilled.scratch.get(&scratch_key(index, code))?;
        Ok(value.map(|value| decode_code(&value)))
    }

    /// What became of the rows of a range.
    pub(crate) fn rows(&self, storage: StorageId, range: &KeyRange) -> OwnRows {
        let end = range.end.clone().map_or(Bound::Unbounded, |end| Bound::Excluded(HeadKey::from(end)));
        let bounds = (Bound::Included(HeadKey::from(range.start.clone())), end);
        let is_empty = range.end.as_ref().is_some_and(|end| *end <= range.start);
        let recent = self.rows.get(&storage).filter(|_| !is_empty);
        let recent: Vec<_> = recent.into_iter().flat_map(|rows| rows.range(bounds.clone())).collect();
        let recent: Vec<_> = recent.into_iter().map(|(key, write)| Ok((key.bytes().clone(), write.clone()))).collect();
        let recent = recent.into_iter();
        match self.spilled.as_ref().filter(|spilled| spilled.storages.contains(&storage) && !is_empty) {
            None => Box::new(recent),
            Some(spilled) => {
                let older = spilled.clone().rows(storage, range);
                Box::new(Overlaid { newer: recent.peekable(), older: older.peekable() })
            }
        }
    }

    /// Whether it has written rows of a storage.
    pub(crate) fn has_rows(&self, storage: StorageId) -> bool {
        self.spilled.as_ref().is_some_and(|spilled| spilled.storages.contains(&storage))
            || self.rows.get(&storage).is_some_and(|rows| !rows.is_empty())
    }

    /// The storages of rows that it has written.
    pub(crate) fn storages(&self) -> BTreeSet<StorageId> {
        let recent = self.rows.iter().filter(|(_, rows)| !rows.is_empty()).map(|(storage, _)| *storage);
        recent.chain(self.spilled.iter().flat_map(|spilled| spilled.storages.iter().copied())).collect()
    }

    /// The rows of a storage that it has written, if all are in memory.
    pub(crate) fn rows_in_memory(&self, storage: StorageId) -> Option<&BTreeMap<HeadKey, RowWrite>> {
        static NONE: BTreeMap<HeadKey, RowWrite> = BTreeMap::new();
        let is_spilled = self.spilled.as_ref().is_some_and(|spilled| spilled.storages.contains(&storage));
        (!is_spilled).then(|| self.rows.get(&storage).unwrap_or(&NONE))
    }

    /// Whether something of it lies on disk.
    pub(crate) const fn is_spilled(&self) -> bool {
        self.spilled.is_some()
    }

    /// Notes what became of rows; what is said of a key now takes the place of what was said before.
    pub(crate) fn put_rows(&mut self, storage: StorageId, rows: BTreeMap<HeadKey, RowWrite>) {
        self.bytes += rows.iter().map(|(key, write)| row_bytes(key, write)).sum::<usize>();
        let is_spilled = self.spilled.as_ref().is_some_and(|spilled| spilled.storages.contains(&storage));
        let own = self.rows.entry(storage).or_default();
        if own.is_empty() && !is_spilled {
            // Most often. Without a row of its own before, none was made and taken back.
            *own = rows;
            return;
        }
        for (key, write) in rows {
            let is_nothing = write.before.is_none() && write.after.is_none();
            if is_nothing && !is_spilled {
                own.remove(&key);
            } else {
                own.insert(key, write);
            }
        }
    }

    /// Notes who has places in unique indexes.
    pub(crate) fn put_codes(&mut self, index: StorageId, codes: impl IntoIterator<Item = (Bytes, Option<Bytes>)>) {
        let own = self.codes.entry(index).or_default();
        for (code, taken) in codes {
            self.bytes += code.len() + taken.as_ref().map_or(0, Bytes::len) + CODE_OVERHEAD_BYTES;
            own.insert(code, taken);
        }
    }

    /// Forgets the rows of a storage, and the places in these indexes: all of it is gone, and will not be asked for again.
    pub(crate) fn forget(&mut self, storage: StorageId, indexes: impl Iterator<Item = StorageId>) {
        self.rows.remove(&storage);
        for index in indexes {
            self.codes.remove(&index);
        }
        if let Some(spilled) = &mut self.spilled {
            spilled.storages.remove(&storage);
        }
    }

    /// Puts what lies in memory on disk, if it has become too much.
    pub(crate) fn spill(&mut self, room: &SpillRoom) -> Result<(), SqlError> {
        if self.bytes <= room.memory_bytes {
            return Ok(());
        }
        if self.spilled.is_none() {
            let scratch = Scratch::create(&room.directory)?;
            self.spilled = Some(Spilled { scratch, storages: BTreeSet::new(), tables: Vec::new() });
        }
        let Some(spilled) = &mut self.spilled else { return Ok(()) };
        let (mut rows, mut codes) = (std::mem::take(&mut self.rows), std::mem::take(&mut self.codes));
        self.bytes = 0;
        spilled.storages.extend(rows.keys().copied());
        let spaces: BTreeSet<StorageId> = rows.keys().chain(codes.keys()).copied().collect();
        let Spilled { scratch, tables, .. } = spilled;
        let mut spaces = spaces.into_iter();
        let mut open: Option<(StorageId, Entries)> = None;
        let pairs = std::iter::from_fn(|| {
            loop {
                if let Some((space, entries)) = &mut open
                    && let Some((key, value)) = entries.next(tables)
                {
                    return Some(Ok((scratch_key(*space, &key), value)));
                }
                let space = spaces.next()?;
                // Rows and places in an index never lie in the same space.
                let entries = match rows.remove(&space) {
                    Some(rows) => Entries::Rows(rows.into_iter()),
                    None => Entries::Codes(
                        codes.remove(&space).into_iter().flatten().collect::<BTreeMap<_, _>>().into_iter(),
                    ),
                };
                open = Some((space, entries));
            }
        });
        scratch.put_all::<SqlError>(pairs)
    }
}

impl Spilled {
    fn rows(self, storage: StorageId, range: &KeyRange) -> OwnRows {
        let start = scratch_key(storage, &range.start);
        let end = match &range.end {
            Some(end) => scratch_key(storage, end),
            None => scratch_key(StorageId::new(storage.value() + 1), &[]),
        };
        let pairs = self.scratch.range(&KeyRange { start, end: Some(end) });
        Box::new(pairs.map(move |pair| {
            let (key, value) = pair?;
            Ok((key.slice(SPACE_BYTES..), self.decode_row(&value)?))
        }))
    }

    fn decode_row(&self, value: &Bytes) -> Result<RowWrite, SqlError> {
        self.try_decode_row(value).ok_or_else(|| SqlError::internal("a spilled row is not what was written"))
    }

    fn try_decode_row(&self, value: &Bytes) -> Option<RowWrite> {
        let number = |at: usize| value.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        let (flags, mut at) = (*value.first()?, 1);
        let before = if flags & HAS_BEFORE == 0 {
            None
        } else {
            let (version, id, length) = (number(at)?, number(at + 8)?, usize::try_from(number(at + 16)?).ok()?);
            at += 24;
            value.get(at..at.checked_add(length)?)?;
            let bytes = value.slice(at..at + length);
            at += length;
            Some(StoredRow { version: Lsn::new(version), id: RowId::new(id), bytes })
        };
        let after = if flags & HAS_AFTER == 0 {
            None
        } else {
            let written = Arc::clone(self.tables.get(usize::try_from(number(at)?).ok()?)?);
            Some(SeenRow { bytes: value.slice(at + 8..), written })
        };
        Some(RowWrite { before, after })
    }
}

/// What is spilled of one space.
enum Entries {
    Rows(btree_map::IntoIter<HeadKey, RowWrite>),
    Codes(btree_map::IntoIter<Bytes, Option<Bytes>>),
}

impl Entries {
    fn next(&mut self, tables: &mut Vec<Arc<Table>>) -> Option<(Bytes, Vec<u8>)> {
        match self {
            Self::Rows(rows) => rows.next().map(|(key, write)| (key.bytes().clone(), encode_row(&write, tables))),
            Self::Codes(codes) => codes.next().map(|(code, taken)| (code, encode_code(taken.as_ref()))),
        }
    }
}

fn encode_row(write: &RowWrite, tables: &mut Vec<Arc<Table>>) -> Vec<u8> {
    let mut value = vec![0];
    if let Some(before) = &write.before {
        value[0] |= HAS_BEFORE;
        let length = before.bytes.len() as u64;
        for number in [before.version.value(), before.id.value(), length] {
            value.extend_from_slice(&number.to_le_bytes());
        }
        value.extend_from_slice(&before.bytes);
    }
    if let Some(after) = &write.after {
        value[0] |= HAS_AFTER;
        // Rows of one table stand together, and mostly of its newest version.
        let known = tables.iter().rposition(|known| Arc::ptr_eq(known, &after.written));
        let number = known.unwrap_or_else(|| {
            tables.push(Arc::clone(&after.written));
            tables.len() - 1
        });
        value.extend_from_slice(&(number as u64).to_le_bytes());
        value.extend_from_slice(&after.bytes);
    }
    value
}

fn encode_code(taken: Option<&Bytes>) -> Vec<u8> {
    taken.map_or_else(Vec::new, |key| [&[1], &key[..]].concat())
}

fn decode_code(value: &Bytes) -> Option<Bytes> {
    (!value.is_empty()).then(|| value.slice(1..))
}

fn scratch_key(space: StorageId, key: &[u8]) -> Bytes {
    [&space.value().to_be_bytes(), key].concat().into()
}

fn row_bytes(key: &HeadKey, write: &RowWrite) -> usize {
    let before = write.before.as_ref().map_or(0, |before| before.bytes.len());
    let after = write.after.as_ref().map_or(0, |after| after.bytes.len());
    key.bytes().len() + before + after + ROW_OVERHEAD_BYTES
}

/// What was written last over what was written before; of a key that both know, the newer word counts.
struct Overlaid<N: Iterator> {
    newer: Peekable<N>,
    older: Peekable<OwnRows>,
}

impl<N: Iterator<Item = Result<(Bytes, RowWrite), SqlError>>> Iterator for Overlaid<N> {
    type Item = Result<(Bytes, RowWrite), SqlError>;

    fn next(&mut self) -> Option<Self::Item> {
        let order = match (self.newer.peek(), self.older.peek()) {
            (Some(Ok((newer, _))), Some(Ok((older, _)))) => newer.cmp(older),
            (Some(Err(_)), _) | (_, None) => std::cmp::Ordering::Less,
            (None, _) | (_, Some(Err(_))) => std::cmp::Ordering::Greater,
        };
        match order {
            std::cmp::Ordering::Less => self.newer.next(),
            std::cmp::Ordering::Greater => self.older.next(),
            std::cmp::Ordering::Equal => {
                self.older.next();
                self.newer.next()
            }
        }
    }
}

const HAS_BEFORE: u8 = 1;
const HAS_AFTER: u8 = 2;
const SPACE_BYTES: usize = 8;
/// What a row takes in memory beside its bytes, roughly.
const ROW_OVERHEAD_BYTES: usize = 192;
const CODE_OVERHEAD_BYTES: usize = 96;
