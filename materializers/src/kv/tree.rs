//! One LSM tree under our rules: sequence number = LSN, no journal of its own.
//!
//! The tree's own counter numbers its versions of files and memtables, not rows. It is set to 0 around every flush and compaction, so
//! that a read at any LSN finds the newest version and replaced files are freed at once; flushes and compactions of one tree therefore
//! exclude one another.

use std::cmp::Ordering;
use std::io::ErrorKind;
use std::iter::Peekable;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering as MemoryOrdering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use highwater_log::Lsn;
use highwater_log::position::StorageId;
use highwater_log::sequencer::KeyRange;
use lsm_tree::compaction::Leveled;
use lsm_tree::config::{HashRatioPolicy, PinningPolicy, RestartIntervalPolicy};
use lsm_tree::{AbstractTree, AnyTree, Cache, Config, Guard, SequenceNumberCounter, Slice};
use serde::{Deserialize, Serialize};

use super::hot::{HotRows, Known};
use super::reclaim::{Filters, Reclaim, Tally};
use super::value;
use crate::error::FoldError;

/// A tree of keys in versions.
pub(super) struct Tree {
    id: StorageId,
    tree: AnyTree,
    hot: Arc<HotRows>,
    counter: SequenceNumberCounter,
    path: PathBuf,
    /// The highest LSN in the files found when it was opened: everything below it has come to them.
    persisted: Option<Lsn>,
    reclaim: Arc<Reclaim>,
    stale: AtomicU64,
    /// The storage whose tree lies beneath, or is to: of an index, the entries of rows that were there before it.
    beneath: OnceLock<StorageId>,
    /// That tree, once it is filled. What this one knows of a key, also that it is gone, hides what that one has.
    base: OnceLock<Arc<Tree>>,
    /// Flushes and merges exclude one another.
    mark: Mutex<Mark>,
}

/// How many versions a newer one hides, or say that a key is gone, roughly: it decides when files are merged, never how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Staleness {
    now: u64,
    mark: Mark,
}

/// The tree beneath another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Beneath {
    pub(super) tree: StorageId,
    /// Whether all is in it that is to be: else it is not read.
    pub(super) is_filled: bool,
}

/// As many of the versions up to an LSN were stale there, and are still kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    lsn: Lsn,
    stale: u64,
}

impl Tree {
    pub(super) fn open(
        id: StorageId,
        path: &Path,
        cache: &Arc<Cache>,
        hot: Arc<HotRows>,
        staleness: Staleness,
    ) -> Result<Self, FoldError> {
        let counter = SequenceNumberCounter::default();
        let reclaim = Arc::<Reclaim>::default();
        let config = Config::new(path, counter.clone(), SequenceNumberCounter::default())
            .use_cache(Arc::clone(cache))
            .data_block_restart_interval_policy(RestartIntervalPolicy::all(RESTART_INTERVAL))
            .data_block_hash_ratio_policy(HashRatioPolicy::all(HASH_RATIO))
            // In pieces, of which those come into memory that are needed, and stay for as long as they are: a whole one is as large as
            // dozens of blocks of rows, and there is no end to how many there may be.
            .index_block_partitioning_policy(PinningPolicy::all(true))
            .filter_block_partitioning_policy(PinningPolicy::all(true))
            .with_compaction_filter_factory(Some(Arc::new(Filters(Arc::clone(&reclaim)))));
        let tree = config.open().map_err(failed)?;
        let persisted = tree.get_highest_persisted_seqno().map(Lsn::new);
        let Staleness { now, mark } = staleness;
        let (stale, mark) = (AtomicU64::new(now), Mutex::new(mark));
        let (beneath, base) = (OnceLock::new(), OnceLock::new());
        let path = path.to_owned();
        Ok(Self { id, tree, hot, counter, path, persisted, reclaim, stale, beneath, base, mark })
    }

    /// From now on it keeps what it knows of keys that are gone: the tree of this storage is to lie beneath, and may have them.
    pub(super) fn lie_over(&self, beneath: StorageId) {
        let known = *self.beneath.get_or_init(|| beneath);
        assert_eq!(known, beneath, "an index has one backfill");
        self.reclaim.lie_over();
    }

    /// Puts the filled tree beneath.
    pub(super) fn put_beneath(self: &Arc<Self>, base: Arc<Self>) {
        self.reclaim.set_beneath(Arc::clone(&base));
        base.reclaim.set_above(self);
        assert!(self.beneath.get().is_some() && self.base.set(base).is_ok(), "it was waited for");
    }

    /// Whether it has a version of the key as of `at`, itself, be it that the key is gone.
    pub(super) fn knows(&self, key: &[u8], at: Lsn) -> Result<bool, FoldError> {
        self.own_value(key, at).map(|value| value.is_some())
    }

    /// From now on merges drop what the tree above hides: the index is ready.
    pub(super) fn settle(&self) {
        self.reclaim.settle();
    }

    /// What is, or is to be, beneath.
    pub(super) fn beneath(&self) -> Option<Beneath> {
        Some(Beneath { tree: *self.beneath.get()?, is_filled: self.base().is_some() })
    }

    /// The tree beneath.
    pub(super) fn base(&self) -> Option<&Arc<Self>> {
        self.base.get()
    }

    /// Writes a value, which begins with its LSN. During a replay, what the files have is passed over; the commit that they reach
    /// last may be there in part, and is written again.
    pub(super) fn write(&self, key: &[u8], value: Vec<u8>, lsn: Lsn) {
        assert_eq!(value::version(&value).map(|(lsn, _)| lsn), Some(lsn));
        self.hot.note_write(self.id, key, lsn);
        if self.persisted.is_none_or(|persisted| lsn >= persisted) {
            self.tree.insert(key, Slice::from(Bytes::from(value)), lsn.value());
        }
    }

    /// The highest LSN of what it has, in memory and in files.
    pub(super) fn last_written(&self) -> Option<Lsn> {
        self.tree.get_highest_seqno().map(Lsn::new)
    }

    /// Counts versions as stale, in the commit that makes them so.
    pub(super) fn note_stale(&self, versions: u64) {
        self.stale.fetch_add(versions, MemoryOrdering::Relaxed);
    }

    pub(super) fn staleness(&self) -> Staleness {
        Staleness { now: self.stale.load(MemoryOrdering::Relaxed), mark: *self.mark() }
    }

    /// The name of the file that lists the tree's files: another one whenever they change.
    pub(super) fn files(&self) -> String {
        format!("v{}", self.tree.current_version().id())
    }

    /// The files that hold its versions, each with the XXH3-128 of its bytes.
    pub(super) fn table_files(&self) -> Vec<(PathBuf, u128)> {
        let version = self.tree.current_version();
        let file = |table: &lsm_tree::table::Table| self.path.join("tables").join(table.id().to_string());
        version.iter_tables().map(|table| (file(table), table.checksum().into_u128())).collect()
    }

    /// The value of a key as of `at`, unless it is gone.
    pub(super) fn read(&self, key: &[u8], at: Lsn) -> Result<Option<Bytes>, FoldError> {
        let place = self.hot.place(self.id, key);
        let is_wanted = match self.hot.get(&place, at) {
            Known::Value(value) => return Ok(Some(value)),
            Known::Wanted => true,
            Known::Nothing => false,
        };
        let value = self.look_up(key, at)?;
        if is_wanted
            && let Some(value) = &value
            && let Some((version, _)) = value::version(value)
        {
            // Also what lies beneath, which a write up here ends: that tree is written to no more, and merges give up what is hidden.
            self.hot.keep(&place, at, version, value);
        }
        Ok(value)
    }

    /// As [`Tree::read`], out of the tree itself and the one beneath.
    pub(super) fn look_up(&self, key: &[u8], at: Lsn) -> Result<Option<Bytes>, FoldError> {
        let value = match (self.own_value(key, at)?, self.base()) {
            (None, Some(base)) => base.own_value(key, at)?,
            (value, _) => value,
        };
        Ok(value.filter(|value| !value::is_gone(value)))
    }

    /// The newest version of a key as of `at` that the tree itself has.
    pub(super) fn own_value(&self, key: &[u8], at: Lsn) -> Result<Option<Bytes>, FoldError> {
        Ok(self.tree.get(key, bound(at)).map_err(failed)?.map(Bytes::from))
    }

    /// The oldest version of a key behind `after` up to `to`, of one that the tree itself does not know before: no merge has dropped any
    /// behind `after`.
    pub(super) fn first_behind(&self, key: &[u8], after: Lsn, to: Lsn) -> Result<Option<(Lsn, Bytes)>, FoldError> {
        let (mut before, mut known) = (after, to);
        let Some(mut value) = self.own_value(key, known)? else { return Ok(None) };
        while before.next() < known {
            let middle = Lsn::new(before.value().midpoint(known.value()));
            match self.own_value(key, middle)? {
                None => before = middle,
                Some(earlier) => (known, value) = (middle, earlier),
            }
        }
        Ok(Some((known, value)))
    }

    /// The keys of a range as of `at`, in this direction, with their values; those that are gone are not among them.
    pub(super) fn scan(&self, range: &KeyRange, at: Lsn, direction: Direction) -> Pairs {
        let own = self.own(range, at, direction);
        let all = match self.base() {
            None => own,
            Some(base) => {
                let (own, base) = (own.peekable(), base.own(range, at, direction).peekable());
                Box::new(Overlaid { own, base, direction })
            }
        };
        Box::new(all.filter(|pair| !pair.as_ref().is_ok_and(|(_, value)| value::is_gone(value))))
    }

    /// What the tree itself knows of the keys of a range as of `at`, in this direction; those that are gone are among them.
    pub(super) fn own(&self, range: &KeyRange, at: Lsn, direction: Direction) -> Pairs {
        if range.end.as_ref().is_some_and(|end| *end <= range.start) {
            return Box::new(std::iter::empty());
        }
        let end = range.end.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let mut items = self.tree.range::<Bytes, _>((Bound::Included(range.start.clone()), end), bound(at), None);
        let mut next = move || match direction {
            Direction::Forward => items.next(),
            Direction::Backward => items.next_back(),
        };
        let mut has_failed = false;
        // Behind an error the tree's iterator answers with the same one for ever: it ends there.
        let pairs = std::iter::from_fn(move || {
            let item = next().filter(|_| !has_failed)?;
            let pair = item.into_inner().map(|(key, value)| (Bytes::from(key), Bytes::from(value))).map_err(failed);
            has_failed = pair.is_err();
            Some(pair)
        });
        Box::new(pairs)
    }

    /// How many versions there are, roughly.
    pub(super) fn approximate_len(&self) -> usize {
        self.tree.approximate_len()
    }

    /// How many keys it has, roughly.
    pub(super) fn approximate_rows(&self) -> usize {
        let stale = usize::try_from(self.stale.load(MemoryOrdering::Relaxed)).unwrap_or(usize::MAX);
        self.approximate_len().saturating_sub(stale)
    }

    /// Bytes of its files.
    pub(super) fn file_bytes(&self) -> u64 {
        self.tree.disk_space()
    }

    /// Whether anything was written since the last flush.
    pub(super) fn is_dirty(&self) -> bool {
        self.tree.get_highest_memtable_seqno().is_some()
    }

    /// Writes what is in memory to files.
    pub(super) fn flush(&self) -> Result<(), FoldError> {
        self.flush_under(&self.mark())
    }

    fn flush_under(&self, _mark: &MutexGuard<'_, Mark>) -> Result<(), FoldError> {
        self.counter.set(0);
        let lock = self.tree.get_flush_lock();
        self.tree.rotate_memtable();
        self.tree.flush(&lock, DROP_BY_FILTER).map_err(failed)?;
        self.counter.set(0);
        Ok(())
    }

    /// Merges files where there are too many, or, in a small tree and where `may_merge_whole`, all of them where too many versions are
    /// stale. What no read at `horizon` or later finds is dropped on the way. `applied` tells how far the tree has come. Whether it was
    /// merged whole.
    ///
    /// # Errors
    /// [`FoldError::Io`] when files cannot be read or written, and [`FoldError::Storage`] when they are damaged; nothing has changed then,
    /// or the first of the two merges has.
    pub(super) fn merge(
        &self,
        horizon: Lsn,
        applied: impl Fn() -> Lsn,
        may_merge_whole: bool,
    ) -> Result<bool, FoldError> {
        let mut mark = self.mark();
        self.reclaim.set_horizon(horizon);
        let merged = self.merge_by(|| self.tree.compact(Arc::new(Leveled::default()), DROP_BY_FILTER))?;
        self.count(&mut mark, |stale| stale.saturating_sub(merged.dropped));
        // Whatever was stale at the mark is out of every read's sight then.
        if horizon < mark.lsn {
            return Ok(false);
        }
        let is_worth_it = mark.stale > 0
            && mark.stale >= self.tree.approximate_len() as u64 / STALE_SHARE
            && (1..=MERGED_WHOLE_BYTES_MAX).contains(&self.tree.disk_space());
        if is_worth_it && !may_merge_whole {
            return Ok(false);
        }
        // Also before what may fail: it is not tried again and again.
        *mark = Mark { stale: self.stale.load(MemoryOrdering::Relaxed), lsn: applied() };
        if is_worth_it {
            self.flush_under(&mark)?;
            let estimated = self.stale.load(MemoryOrdering::Relaxed);
            let merged = self.merge_by(|| self.tree.major_compact(FILE_BYTES, DROP_BY_FILTER))?;
            tracing::debug!(tree = %self.path.display(), ?merged, "merged a tree for its stale versions");
            self.count(&mut mark, |stale| stale.saturating_sub(estimated) + merged.kept_stale);
        }
        Ok(is_worth_it)
    }

    /// Counts what is stale anew, now and at the mark.
    fn count(&self, mark: &mut Mark, count: impl Fn(u64) -> u64) {
        let _ = self.stale.fetch_update(MemoryOrdering::Relaxed, MemoryOrdering::Relaxed, |stale| Some(count(stale)));
        mark.stale = count(mark.stale);
    }

    /// Runs a merge: what it did with stale versions. One that fails leaves no files behind.
    fn merge_by(&self, merge: impl FnOnce() -> lsm_tree::Result<()>) -> Result<Tally, FoldError> {
        let (before, first_new) = (self.reclaim.tally(), self.tree.next_table_id());
        self.counter.set(0);
        // Damaged files may make the tree's library panic.
        let outcome = catch_unwind(AssertUnwindSafe(merge));
        self.counter.set(0);
        let error = match outcome {
            Ok(Ok(())) => return Ok(self.reclaim.tally().since(before)),
            Ok(Err(lsm_tree::Error::Io(source))) if !is_damage(&source) => {
                FoldError::Io { action: "merge files in", path: self.path.clone(), source }
            }
            Ok(Err(error)) => failed(error),
            // Its locks may be poisoned: nothing is asked of it any more.
            Err(_) => return Err(super::storage_error("merging files of a tree panicked")),
        };
        let version = self.tree.current_version();
        for id in first_new..self.tree.next_table_id() {
            if version.iter_tables().all(|table| table.id() != id) {
                // Best effort: the next opening removes them, too.
                let _ = std::fs::remove_file(self.path.join("tables").join(id.to_string()));
            }
        }
        Err(error)
    }

    fn mark(&self) -> MutexGuard<'_, Mark> {
        self.mark.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The highest LSN in the files found when it was opened.
    pub(super) const fn persisted(&self) -> Option<Lsn> {
        self.persisted
    }
}

/// Which way a scan goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// Keys rise.
    Forward,
    /// Keys fall.
    Backward,
}

/// Keys with values, in the order of the scan; an error is the last.
pub(super) type Pairs = Box<dyn Iterator<Item = Result<(Bytes, Bytes), FoldError>> + Send>;

/// A tree over another: of a key that both know, the upper one's word counts.
struct Overlaid {
    own: Peekable<Pairs>,
    base: Peekable<Pairs>,
    direction: Direction,
}

impl Iterator for Overlaid {
    type Item = Result<(Bytes, Bytes), FoldError>;

    fn next(&mut self) -> Option<Self::Item> {
        let order = match (self.own.peek(), self.base.peek()) {
            (Some(Ok((own, _))), Some(Ok((base, _)))) => match self.direction {
                Direction::Forward => own.cmp(base),
                Direction::Backward => base.cmp(own),
            },
            // An error first.
            (Some(Err(_)), _) | (_, None) => Ordering::Less,
            (None, _) | (_, Some(Err(_))) => Ordering::Greater,
        };
        match order {
            Ordering::Less => self.own.next(),
            Ordering::Greater => self.base.next(),
            Ordering::Equal => {
                self.base.next();
                self.own.next()
            }
        }
    }
}

/// Flushes the trees that were written to since their last flush, some at a time: each waits for the disk again and again.
pub(super) fn flush_dirty<'a>(trees: impl Iterator<Item = &'a Tree>) -> Result<(), FoldError> {
    let dirty: Vec<_> = trees.filter(|tree| tree.is_dirty()).collect();
    let next = AtomicUsize::new(0);
    let flush = || {
        while let Some(tree) = dirty.get(next.fetch_add(1, MemoryOrdering::Relaxed)) {
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

/// Of the keys of a block so many stand one behind the other of which only the first is written in full. Few: a row is found by going
/// through them, and keys are short beside rows.
const RESTART_INTERVAL: u8 = 4;
/// Entries of a block's hash table for each of its keys.
const HASH_RATIO: f32 = 0.75;
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

/// What a read answers where a file is not what was written, rather than where the system cannot read or write.
fn is_damage(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData | ErrorKind::NotFound)
}

fn failed(error: lsm_tree::Error) -> FoldError {
    FoldError::Storage { materializer: super::NAME, cause: format!("{error:?}").into() }
}
