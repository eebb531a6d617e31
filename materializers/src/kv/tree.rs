//! One LSM tree under our rules: sequence number = LSN, no journal of its own.
//!
//! The tree's own counter numbers its versions of files and memtables, not rows. It is set to 0 around every flush and compaction, so
//! that a read at any LSN finds the newest version and replaced files are freed at once; flushes and compactions of one tree therefore
//! exclude one another.

use std::ops::Bound;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use highwater_log::Lsn;
use highwater_log::sequencer::KeyRange;
use lsm_tree::compaction::Leveled;
use lsm_tree::{AbstractTree, AnyTree, Cache, Config, Guard, SequenceNumberCounter, Slice};

use crate::error::FoldError;

/// A tree of keys in versions.
pub(super) struct Tree {
    tree: AnyTree,
    counter: SequenceNumberCounter,
    /// The highest LSN in the files found when it was opened: everything below it is there.
    persisted: Option<Lsn>,
    upkeep: Mutex<()>,
}

impl Tree {
    pub(super) fn open(path: &Path, cache: &Arc<Cache>) -> Result<Self, FoldError> {
        let counter = SequenceNumberCounter::default();
        let config = Config::new(path, counter.clone(), SequenceNumberCounter::default()).use_cache(Arc::clone(cache));
        let tree = config.open().map_err(failed)?;
        let persisted = tree.get_highest_persisted_seqno().map(Lsn::new);
        Ok(Self { tree, counter, persisted, upkeep: Mutex::new(()) })
    }

    /// Writes a key at `lsn`; `None` removes it. During a replay, what the files have is passed over; the commit that they reach
    /// last may be there in part, and is written again.
    pub(super) fn write(&self, key: &[u8], value: Option<Vec<u8>>, lsn: Lsn) {
        if self.persisted.is_some_and(|persisted| lsn < persisted) {
            return;
        }
        match value {
            Some(value) => self.tree.insert(key, Slice::from(Bytes::from(value)), lsn.value()),
            None => self.tree.remove(key, lsn.value()),
        };
    }

    pub(super) fn read(&self, key: &[u8], at: Lsn) -> Result<Option<Bytes>, FoldError> {
        let value = self.tree.get(key, bound(at)).map_err(failed)?;
        Ok(value.map(Bytes::from))
    }

    /// The keys of a range as of `at`, rising.
    pub(super) fn scan(
        &self,
        range: &KeyRange,
        at: Lsn,
    ) -> Box<dyn Iterator<Item = Result<(Bytes, Bytes), FoldError>> + Send> {
        if range.end.as_ref().is_some_and(|end| *end <= range.start) {
            return Box::new(std::iter::empty());
        }
        let end = range.end.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let mut items = self.tree.range::<Bytes, _>((Bound::Included(range.start.clone()), end), bound(at), None);
        let mut has_failed = false;
        // Behind an error the tree's iterator answers with the same one for ever: it ends there.
        Box::new(std::iter::from_fn(move || {
            let item = items.next().filter(|_| !has_failed)?;
            let pair = item.into_inner().map(|(key, value)| (Bytes::from(key), Bytes::from(value))).map_err(failed);
            has_failed = pair.is_err();
            Some(pair)
        }))
    }

    /// Whether anything was written since the last flush.
    pub(super) fn is_dirty(&self) -> bool {
        self.tree.get_highest_memtable_seqno().is_some()
    }

    /// Writes what is in memory to files.
    pub(super) fn flush(&self) -> Result<(), FoldError> {
        let _upkeep = self.upkeep.lock().unwrap_or_else(PoisonError::into_inner);
        self.counter.set(0);
        let lock = self.tree.get_flush_lock();
        self.tree.rotate_memtable();
        self.tree.flush(&lock, KEEP_ALL_VERSIONS).map_err(failed)?;
        self.counter.set(0);
        Ok(())
    }

    /// Merges files where there are too many.
    pub(super) fn compact(&self) -> Result<(), FoldError> {
        let _upkeep = self.upkeep.lock().unwrap_or_else(PoisonError::into_inner);
        self.counter.set(0);
        self.tree.compact(Arc::new(Leveled::default()), KEEP_ALL_VERSIONS).map_err(failed)?;
        self.counter.set(0);
        Ok(())
    }

    /// The highest LSN in the files found when it was opened.
    pub(super) const fn persisted(&self) -> Option<Lsn> {
        self.persisted
    }
}

/// Flushes the trees that were written to since their last flush, some at a time: each waits for the disk again and again.
pub(super) fn flush_dirty<'a>(trees: impl Iterator<Item = &'a Tree>) -> Result<(), FoldError> {
    let dirty: Vec<_> = trees.filter(|tree| tree.is_dirty()).collect();
    let next = AtomicUsize::new(0);
    let flush = || {
        while let Some(tree) = dirty.get(next.fetch_add(1, Ordering::Relaxed)) {
            tree.flush()?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        // Where there can be no more threads, this one does it all.
        let help = |_| std::thread::Builder::new().name("highwater-flush".to_owned()).spawn_scoped(scope, flush).ok();
        let helpers: Vec<_> = (1..dirty.len().min(FLUSHES_AT_ONCE)).filter_map(help).collect();
        let own = flush();
        let joined = helpers.into_iter().map(|helper| helper.join().unwrap_or_else(|panic| resume_unwind(panic)));
        joined.fold(own, Result::and)
    })
}

/// The tree's bounds are exclusive.
fn bound(at: Lsn) -> u64 {
    at.next().value()
}

/// Below its threshold the tree drops every version that has a newer one, however new: a read between the threshold and the newer
/// version would find nothing. So all versions are kept; 1, not 0, because at 0 replaced files would never be freed.
const KEEP_ALL_VERSIONS: u64 = 1;

const FLUSHES_AT_ONCE: usize = 4;

fn failed(error: lsm_tree::Error) -> FoldError {
    FoldError::Storage { materializer: super::NAME, cause: format!("{error:?}").into() }
}
