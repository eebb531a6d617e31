//! One LSM tree under our rules: sequence number = LSN, no journal of its own.
//!
//! The tree's own counter numbers its versions of files and memtables, not rows. It is set to 0 around every flush and compaction, so
//! that a read at any LSN finds the newest version and replaced files are freed at once; flushes and compactions of one tree therefore
//! exclude one another.

use std::ops::Bound;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use highwater_log::Lsn;
use highwater_log::sequencer::KeyRange;
use lsm_tree::compaction::Leveled;
use lsm_tree::{AbstractTree, AnyTree, Cache, Config, Guard, SequenceNumberCounter, Slice};

use super::reclaim::{Filters, Reclaim};
use super::value;
use crate::error::FoldError;

/// A tree of keys in versions.
pub(super) struct Tree {
    tree: AnyTree,
    counter: SequenceNumberCounter,
    /// The highest LSN in the files found when it was opened: everything below it is there.
    persisted: Option<Lsn>,
    reclaim: Arc<Reclaim>,
    /// Versions that a newer one hides, or that say that a key is gone, roughly: it decides when files are merged, never how.
    stale: AtomicU64,
    /// Flushes and merges exclude one another.
    upkeep: Mutex<Mark>,
}

/// How many versions were stale when a tree had come so far.
struct Mark {
    lsn: Lsn,
    stale: u64,
}

impl Tree {
    /// Opens a tree that has come to `applied` with `stale` stale versions.
    pub(super) fn open(path: &Path, cache: &Arc<Cache>, applied: Lsn, stale: u64) -> Result<Self, FoldError> {
        let counter = SequenceNumberCounter::default();
        let reclaim = Arc::<Reclaim>::default();
        let config = Config::new(path, counter.clone(), SequenceNumberCounter::default())
            .use_cache(Arc::clone(cache))
            .with_compaction_filter_factory(Some(Arc::new(Filters(Arc::clone(&reclaim)))));
        let tree = config.open().map_err(failed)?;
        let persisted = tree.get_highest_persisted_seqno().map(Lsn::new);
        let upkeep = Mutex::new(Mark { lsn: applied, stale });
        Ok(Self { tree, counter, persisted, reclaim, stale: AtomicU64::new(stale), upkeep })
    }

    /// Writes a value, which begins with its LSN. During a replay, what the files have is passed over; the commit that they reach
    /// last may be there in part, and is written again.
    pub(super) fn write(&self, key: &[u8], value: Vec<u8>, lsn: Lsn) {
        assert_eq!(value::version(&value).map(|(lsn, _)| lsn), Some(lsn));
        if self.persisted.is_none_or(|persisted| lsn >= persisted) {
            self.tree.insert(key, Slice::from(Bytes::from(value)), lsn.value());
        }
    }

    /// Counts versions as stale, in the commit that makes them so.
    pub(super) fn note_stale(&self, versions: u64) {
        self.stale.fetch_add(versions, Ordering::Relaxed);
    }

    /// How many versions are stale, roughly.
    pub(super) fn stale(&self) -> u64 {
        self.stale.load(Ordering::Relaxed)
    }

    /// The value of a key as of `at`, unless it is gone.
    pub(super) fn read(&self, key: &[u8], at: Lsn) -> Result<Option<Bytes>, FoldError> {
        let value = self.tree.get(key, bound(at)).map_err(failed)?;
        Ok(value.map(Bytes::from).filter(|value| !value::is_gone(value)))
    }

    /// The keys of a range as of `at`, rising, with their values; those that are gone are not among them.
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
        let pairs = std::iter::from_fn(move || {
            let item = items.next().filter(|_| !has_failed)?;
            let pair = item.into_inner().map(|(key, value)| (Bytes::from(key), Bytes::from(value))).map_err(failed);
            has_failed = pair.is_err();
            Some(pair)
        });
        Box::new(pairs.filter(|pair| !pair.as_ref().is_ok_and(|(_, value)| value::is_gone(value))))
    }

    /// Whether anything was written since the last flush.
    pub(super) fn is_dirty(&self) -> bool {
        self.tree.get_highest_memtable_seqno().is_some()
    }

    /// Writes what is in memory to files.
    pub(super) fn flush(&self) -> Result<(), FoldError> {
        self.flush_under(&self.upkeep())
    }

    fn flush_under(&self, _upkeep: &MutexGuard<'_, Mark>) -> Result<(), FoldError> {
        self.counter.set(0);
        let lock = self.tree.get_flush_lock();
        self.tree.rotate_memtable();
        self.tree.flush(&lock, DROP_BY_FILTER).map_err(failed)?;
        self.counter.set(0);
        Ok(())
    }

    /// Merges files where there are too many, or, in a small tree, too many stale versions. What no read at `horizon` or later finds
    /// is dropped on the way. `applied` is how far the tree has come. Says whether files were changed.
    pub(super) fn compact(&self, horizon: Lsn, applied: Lsn) -> Result<bool, FoldError> {
        let mut upkeep = self.upkeep();
        self.reclaim.set_horizon(horizon);
        let files = self.tree.current_version().id();
        let before = self.reclaim.tally();
        self.counter.set(0);
        self.tree.compact(Arc::new(Leveled::default()), DROP_BY_FILTER).map_err(failed)?;
        self.counter.set(0);
        self.note_dropped(&mut upkeep, self.reclaim.tally().dropped - before.dropped);
        if horizon >= upkeep.lsn {
            // Whatever was stale at the mark is out of every read's sight by now.
            let is_worth_it = upkeep.stale > 0 && upkeep.stale >= self.tree.approximate_len() as u64 / STALE_SHARE;
            if is_worth_it && (1..=MERGED_WHOLE_BYTES_MAX).contains(&self.tree.disk_space()) {
                self.merge_whole(&upkeep)?;
            }
            *upkeep = Mark { lsn: applied, stale: self.stale() };
        }
        Ok(self.tree.current_version().id() != files)
    }

    fn note_dropped(&self, mark: &mut Mark, dropped: u64) {
        let less = |stale: u64| Some(stale.saturating_sub(dropped));
        let _ = self.stale.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        mark.stale = mark.stale.saturating_sub(dropped);
    }

    /// Merges all there is, and so counts what is stale.
    fn merge_whole(&self, upkeep: &MutexGuard<'_, Mark>) -> Result<(), FoldError> {
        let estimated = self.stale();
        self.flush_under(upkeep)?;
        let before = self.reclaim.tally();
        self.counter.set(0);
        self.tree.major_compact(FILE_BYTES, DROP_BY_FILTER).map_err(failed)?;
        self.counter.set(0);
        let after = self.reclaim.tally();
        let (dropped, counted) = (after.dropped - before.dropped, after.kept_stale - before.kept_stale);
        tracing::debug!(dropped, kept = counted, "merged a tree for its stale versions");
        let recount = |stale: u64| Some(stale.saturating_sub(estimated) + counted);
        let _ = self.stale.fetch_update(Ordering::Relaxed, Ordering::Relaxed, recount);
        Ok(())
    }

    fn upkeep(&self) -> MutexGuard<'_, Mark> {
        self.upkeep.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Below its threshold the tree by itself drops every version that has a newer one, however new: a read between the threshold and the
/// newer version would find nothing. So it is given none to drop; 1, not 0, because at 0 replaced files would never be freed.
const DROP_BY_FILTER: u64 = 1;

/// A tree of which at least one version in so many is stale and out of sight is merged whole.
const STALE_SHARE: u64 = 4;
/// Merging a larger one would hold up checkpoints for too long: there old versions go as newer files are merged into it.
const MERGED_WHOLE_BYTES_MAX: u64 = 256 * 1024 * 1024;
const FILE_BYTES: u64 = 64 * 1024 * 1024;

const FLUSHES_AT_ONCE: usize = 4;

fn failed(error: lsm_tree::Error) -> FoldError {
    FoldError::Storage { materializer: super::NAME, cause: format!("{error:?}").into() }
}
