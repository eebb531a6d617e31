//! The rows: every table's rows and unique indexes, in versions by LSN.
//!
//! ```text
//! kv/checkpoint        what is in the files for certain: replay begins behind its LSN
//! kv/trees/17          one LSM tree per storage: a table's rows, or an index's entries (of rows that were there before the
//!                      index, in a tree of their own that is read beneath it)
//! kv/trees/0           positions of sources, and producers' last sequences
//! ```
//!
//! Sequence number = LSN, so that a read at n sees exactly the fold of commits 1…n while later ones are applied. Our log is the
//! journal: a checkpoint at n flushes every tree that was written to, then records n; what came later is replayed. The history's
//! beginning as a checkpoint has recorded it is the horizon: merges drop what no read from there on can find.

mod apply;
mod backfill;
mod checkpoint;
mod fold;
mod history;
mod hot;
mod image;
mod open;
mod pin;
mod reclaim;
mod tree;
mod value;
mod verify;

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use highwater_log::commit::{ProducerId, StreamedCommit};
use highwater_log::env::Disk;
use highwater_log::position::StorageId;
use highwater_log::schema::IndexState;
use highwater_log::sequencer::{KeyRange, RecentSequences};
use highwater_log::{Commit, LogId, Lsn};

use crate::catalog::Catalog;
use crate::error::FoldError;
use crate::materializer::Materializer;
use checkpoint::{Checkpoint, TreeManifest, TreeRecord};
use history::{History, Purpose};
use hot::HotRows;
use tree::{Direction, Staleness, Tree};

pub use backfill::Backfill;
pub use pin::ReadPin;
pub use value::StoredRow;

/// How the rows are kept.
#[derive(Clone, Debug)]
pub struct KvOptions {
    /// Bytes that are kept in memory for reads, over all trees: three quarters of blocks, one of single rows that are read again and
    /// again.
    pub cache_bytes: u64,
    /// Bytes of rows in memory, over all trees, at which they are written to files.
    pub memtable_bytes: u64,
    /// How long versions are kept for reads in the past, and with them the commits of that time. Shorter than what a group of
    /// commits takes to be applied, or a read to begin, it makes reads fail.
    pub history: Duration,
    /// For how long a read that is open may hold what it reads once that is older than the history: then it fails.
    pub snapshot_age_max: Duration,
}

impl Default for KvOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 32 * 1024 * 1024,
            memtable_bytes: 16 * 1024 * 1024,
            history: Duration::from_secs(24 * 60 * 60),
            snapshot_age_max: Duration::from_secs(60 * 60),
        }
    }
}

impl KvOptions {
    const fn hot_bytes(&self) -> u64 {
        self.cache_bytes / 4
    }
}

/// The rows of all tables.
pub struct Kv {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    log: LogId,
    options: KvOptions,
    catalog: Arc<Catalog>,
    cache: Arc<lsm_tree::Cache>,
    trees: RwLock<Trees>,
    applied: AtomicU64,
    /// What `upkeep` says of it, for whoever does not wait for that.
    checkpointed: AtomicU64,
    /// Bytes written since the last checkpoint, roughly.
    unflushed_bytes: AtomicU64,
    /// What is in the files for certain. Held by whoever touches files: checkpoints, compactions, opening anew exclude one another.
    /// Taken before `folding`.
    upkeep: Mutex<Checkpoint>,
    /// One fold at a time.
    folding: Mutex<()>,
    history: Mutex<History>,
    /// Merges may have dropped what only states below show.
    horizon: AtomicU64,
    /// A read has met bytes that are no rows.
    is_damaged: AtomicBool,
}

struct Trees {
    by_storage: BTreeMap<StorageId, Arc<Tree>>,
    hot: Arc<HotRows>,
    /// Grows whenever the rows are opened or folded anew: what was pinned before is not to be read any more.
    generation: u64,
}

/// Trees with their storages.
type TreeList = Vec<(StorageId, Arc<Tree>)>;

impl Kv {
    /// Opens the rows of `log` in `directory`. What is missing, damaged, of another shape or another log's is dropped: the fold then
    /// begins anew, before the first commit.
    ///
    /// # Errors
    /// [`FoldError::Io`] when the directory cannot be used at all.
    pub fn open(
        disk: Arc<dyn Disk>,
        directory: PathBuf,
        log: LogId,
        catalog: Arc<Catalog>,
        options: KvOptions,
    ) -> Result<Self, FoldError> {
        let kv = Self::unopened(disk, directory, log, catalog, options);
        kv.load()?;
        Ok(kv)
    }

    fn unopened(
        disk: Arc<dyn Disk>,
        directory: PathBuf,
        log: LogId,
        catalog: Arc<Catalog>,
        options: KvOptions,
    ) -> Self {
        Self {
            disk,
            directory,
            log,
            catalog,
            cache: Arc::new(lsm_tree::Cache::with_capacity_bytes(options.cache_bytes - options.hot_bytes())),
            trees: RwLock::new(Trees {
                by_storage: BTreeMap::new(),
                hot: Arc::new(HotRows::new(options.hot_bytes())),
                generation: 0,
            }),
            options,
            applied: AtomicU64::new(0),
            checkpointed: AtomicU64::new(0),
            folding: Mutex::new(()),
            unflushed_bytes: AtomicU64::new(0),
            upkeep: Mutex::new(Checkpoint::beginning(log)),
            history: Mutex::new(History::beginning()),
            horizon: AtomicU64::new(0),
            is_damaged: AtomicBool::new(false),
        }
    }

    /// Drops everything in memory and opens the files again: after a failure, in place.
    ///
    /// # Errors
    /// [`FoldError::Io`].
    pub fn reopen(&self) -> Result<(), FoldError> {
        self.load()
    }

    /// What a checkpoint in `directory` proves of the log, before either is opened: its identity, and an LSN that was durable.
    #[must_use]
    pub fn witness(disk: &dyn Disk, directory: &Path) -> Option<(LogId, Lsn)> {
        Checkpoint::witness(disk, &directory.join(CHECKPOINT_NAME))
    }

    /// Bytes of rows that lie in memory alone, roughly: the log has them, and a checkpoint writes them to files.
    #[must_use]
    pub fn unflushed_bytes(&self) -> u64 {
        self.unflushed_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of the rows' files.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.all_trees().iter().map(|(_, tree)| tree.file_bytes()).sum()
    }

    /// Bytes of files' blocks, and of single rows, that are kept in memory for reads.
    #[must_use]
    pub fn cached_bytes(&self) -> u64 {
        self.cache.size() + self.hot().bytes()
    }

    fn hot(&self) -> Arc<HotRows> {
        Arc::clone(&self.trees.read().unwrap_or_else(PoisonError::into_inner).hot)
    }

    /// The LSN of the last checkpoint. It is checksummed, and so a proof of what was durable.
    #[must_use]
    pub fn checkpointed(&self) -> Lsn {
        Lsn::new(self.checkpointed.load(Ordering::Acquire))
    }

    /// The highest LSN that any tree claims to have in its files. What the tree's library says of its files is no proof: beyond the
    /// log's end it is damage.
    pub(crate) fn claimed(&self) -> Lsn {
        self.all_trees().iter().filter_map(|(_, tree)| tree.persisted()).max().unwrap_or(Lsn::ORIGIN)
    }

    /// Whether so much lies in memory that a fold must wait for files to be written.
    pub(crate) fn is_overfull(&self) -> bool {
        self.unflushed_bytes.load(Ordering::Relaxed) >= self.options.memtable_bytes.saturating_mul(OVERFULL_FACTOR)
    }

    /// Whether a read has met damage since the rows were opened or folded anew: they are to be folded anew.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.is_damaged.load(Ordering::Acquire)
    }

    fn note_damage(&self) {
        self.is_damaged.store(true, Ordering::Release);
    }

    /// Holds the state at `at` readable until the pin is dropped.
    ///
    /// # Errors
    /// [`FoldError::HistoryGone`], [`FoldError::NotApplied`].
    pub fn pin(self: &Arc<Self>, at: Lsn) -> Result<ReadPin, FoldError> {
        self.pin_for(at, Purpose::Reading)
    }

    /// As [`Kv::pin`], for work that ends by itself: it is held however long that takes.
    ///
    /// # Errors
    /// As [`Kv::pin`].
    pub fn pin_for_work(self: &Arc<Self>, at: Lsn) -> Result<ReadPin, FoldError> {
        self.pin_for(at, Purpose::Work)
    }

    fn pin_for(self: &Arc<Self>, at: Lsn, purpose: Purpose) -> Result<ReadPin, FoldError> {
        // First: opened anew meanwhile, the rows are not read under this pin.
        let generation = self.generation();
        let applied = self.applied();
        if at > applied {
            return Err(FoldError::NotApplied { at, applied });
        }
        self.history().pin(at, purpose)?;
        let pin = ReadPin { kv: Arc::clone(self), at, generation, purpose };
        // Opened anew in between, it may not have come as far.
        let applied = self.applied();
        if at > applied { Err(FoldError::NotApplied { at, applied }) } else { Ok(pin) }
    }

    /// Holds the earliest state that can be read.
    ///
    /// # Errors
    /// As [`Kv::pin`].
    pub(crate) fn pin_earliest(self: &Arc<Self>) -> Result<ReadPin, FoldError> {
        loop {
            match self.pin_for_work(self.history_from()) {
                // It has moved in between.
                Err(FoldError::HistoryGone { .. }) => {}
                outcome => return outcome,
            }
        }
    }

    /// The earliest position that can be read.
    #[must_use]
    pub fn history_from(&self) -> Lsn {
        self.history().from()
    }

    /// Where a source stands at `at`, as its last [`highwater_log::Change::Position`] said.
    ///
    /// # Errors
    /// As [`Kv::key_version`].
    pub fn position(&self, of: &[u8], at: Lsn) -> Result<Option<Bytes>, FoldError> {
        let value = self.read(SYSTEM_STORAGE, at, |tree| tree.read(&value::position_key(of), at))?;
        Ok(value.map(|value| value::split(&value)).transpose()?.map(|(_, position)| position))
    }

    /// The producer's newest sequences at `at`.
    ///
    /// # Errors
    /// As [`Kv::key_version`].
    pub fn sequences(&self, producer: ProducerId, at: Lsn) -> Result<RecentSequences, FoldError> {
        let value = self.read(SYSTEM_STORAGE, at, |tree| tree.read(&value::producer_key(producer), at))?;
        let content = value.map(|value| value::split(&value)).transpose()?;
        Ok(content.map_or_else(VecDeque::new, |(_, pairs)| value::decode_sequences(&pairs)))
    }

    /// The version of a key at `at`: rows and index entries alike.
    ///
    /// # Errors
    /// [`FoldError::Storage`]; [`FoldError::NotApplied`]; [`FoldError::HistoryGone`] when the history begins behind `at`;
    /// [`FoldError::Reopened`] when the rows were opened anew meanwhile.
    pub fn key_version(&self, storage: StorageId, key: &[u8], at: Lsn) -> Result<Option<Lsn>, FoldError> {
        let value = self.read(storage, at, |tree| tree.read(key, at))?;
        Ok(value.map(StoredRow::decode).transpose()?.map(|row| row.version))
    }

    /// The keys of a range at `at`, rising, at most `limit`.
    ///
    /// # Errors
    /// As [`Kv::key_version`].
    pub fn keys(&self, storage: StorageId, range: &KeyRange, at: Lsn, limit: usize) -> Result<Vec<Bytes>, FoldError> {
        self.read(storage, at, |tree| {
            tree.scan(range, at, Direction::Forward).take(limit).map(|item| item.map(|(key, _)| key)).collect()
        })
    }

    /// Does what is due beside the commits: flushes, merges, checkpoints. `now_micros` is the time of day.
    ///
    /// # Errors
    /// [`FoldError::Storage`], [`FoldError::Io`].
    pub fn maintain(&self, now_micros: u64) -> Result<(), FoldError> {
        self.move_history(now_micros);
        let is_full = self.unflushed_bytes.load(Ordering::Relaxed) >= self.options.memtable_bytes;
        // What is in memory alone keeps what it hides in the files.
        if is_full || self.history_from() > self.checkpointed() {
            self.checkpoint()?;
        }
        let mut upkeep = self.upkeep();
        let history_from = self.history_from().min(upkeep.applied);
        if history_from > upkeep.history_from {
            // Recorded before anything goes: opened again, the rows must not promise more than they have.
            let (_, unneeded) = self.trees_by_need(history_from);
            let is_needed = |id: StorageId| unneeded.iter().all(|(unneeded, _)| *unneeded != id);
            let mut next = Checkpoint { history_from, ..upkeep.clone() };
            next.trees.retain(|known| is_needed(known.tree));
            next.manifests.retain(|manifest| is_needed(manifest.tree));
            self.record(&mut upkeep, next)?;
            self.drop_trees(unneeded)?;
        }
        self.merge(&mut upkeep)
    }

    /// Merges files, a step in each tree, and one tree whole at most. A tree that cannot be read or written holds up no other.
    fn merge(&self, upkeep: &mut Checkpoint) -> Result<(), FoldError> {
        let trees = self.all_trees();
        if trees.iter().any(|(_, tree)| tree.base().is_some()) {
            let tables = self.catalog.tables(self.applied());
            let ready =
                tables.iter().flat_map(|table| table.indexes()).filter(|index| index.state == IndexState::Ready);
            let filled: Vec<_> = ready.filter_map(|index| index.backfill).collect();
            trees.iter().filter(|(id, _)| filled.contains(id)).for_each(|(_, tree)| tree.settle());
        }
        let (mut is_changed, mut may_merge_whole) = (false, true);
        let mut outcome = Ok(());
        for (_, tree) in &trees {
            let before = tree.files();
            match tree.merge(upkeep.history_from, || self.applied(), may_merge_whole) {
                Ok(has_merged_whole) => may_merge_whole &= !has_merged_whole,
                Err(error @ FoldError::Storage { .. }) => {
                    // All of them are to be folded anew.
                    self.note_damage();
                    return Err(error);
                }
                Err(error) => outcome = outcome.and(Err(error)),
            }
            is_changed |= tree.files() != before;
        }
        if is_changed {
            // Merging has rewritten what the checkpoint recorded of the trees.
            let recorded = trees.iter().filter(|(id, _)| upkeep.trees.iter().any(|known| known.tree == *id));
            let manifests = self.manifests(recorded, &upkeep.manifests)?;
            self.record(upkeep, Checkpoint { manifests, ..upkeep.clone() })?;
        }
        outcome
    }

    /// Puts a checkpoint in the place of the last one.
    fn record(&self, upkeep: &mut Checkpoint, next: Checkpoint) -> Result<(), FoldError> {
        next.store(&*self.disk, &self.checkpoint_path())?;
        self.horizon.store(next.history_from.value(), Ordering::Release);
        self.checkpointed.store(next.applied.value(), Ordering::Release);
        *upkeep = next;
        Ok(())
    }

    /// What is to be recorded of the trees' own files, in the order of the trees; `known` is what was. Held still by the lock of upkeep.
    fn manifests<'a>(
        &self,
        trees: impl IntoIterator<Item = &'a (StorageId, Arc<Tree>)>,
        known: &[TreeManifest],
    ) -> Result<Vec<TreeManifest>, FoldError> {
        let manifest = |(id, tree): &(StorageId, Arc<Tree>)| {
            let file = tree.files();
            // Files are written once. One that is known is not looked at again: it may have been damaged since.
            if let Some(manifest) = known.iter().find(|known| known.tree == *id && known.file == file) {
                return Ok(manifest.clone());
            }
            let directory = self.tree_directory(*id);
            TreeManifest::of(*id, &directory, file).map_err(self.failed("read", &directory))
        };
        let mut manifests = trees.into_iter().map(manifest).collect::<Result<Vec<_>, _>>()?;
        manifests.sort_unstable_by_key(|manifest| manifest.tree);
        Ok(manifests)
    }

    fn tree_directory(&self, id: StorageId) -> PathBuf {
        self.trees_directory().join(id.to_string())
    }

    /// Moves the beginning of the history to the window's, but not beyond what is being read, unless for too long.
    pub(crate) fn move_history(&self, now_micros: u64) {
        self.history().move_to(now_micros, self.options.history, self.options.snapshot_age_max);
    }

    /// Reads a tree at `at`, of which the caller has made sure that it was applied; fails when the rows were opened anew meanwhile.
    fn read<T: Default>(
        &self,
        storage: StorageId,
        at: Lsn,
        read: impl FnOnce(&Tree) -> Result<T, FoldError>,
    ) -> Result<T, FoldError> {
        let generation = self.generation();
        let applied = self.applied();
        if at > applied {
            return Err(FoldError::NotApplied { at, applied });
        }
        let found = match self.tree(storage, generation)? {
            Some(tree) => read(&tree)?,
            None => T::default(),
        };
        // Nothing holds the history for who reads without a pin.
        let earliest = self.horizon();
        if self.generation() != generation {
            return Err(FoldError::Reopened);
        }
        if at < earliest { Err(FoldError::HistoryGone { at, earliest }) } else { Ok(found) }
    }

    fn horizon(&self) -> Lsn {
        Lsn::new(self.horizon.load(Ordering::Acquire))
    }

    fn generation(&self) -> u64 {
        self.trees.read().unwrap_or_else(PoisonError::into_inner).generation
    }

    /// The tree, as of that generation.
    fn tree(&self, id: StorageId, generation: u64) -> Result<Option<Arc<Tree>>, FoldError> {
        let trees = self.trees.read().unwrap_or_else(PoisonError::into_inner);
        if trees.generation == generation { Ok(trees.by_storage.get(&id).cloned()) } else { Err(FoldError::Reopened) }
    }

    fn tree_to_write(&self, id: StorageId) -> Result<Arc<Tree>, FoldError> {
        // Folding excludes opening anew, so the generation stands.
        if let Some(tree) = self.tree(id, self.generation())? {
            return Ok(tree);
        }
        let tree = Arc::new(self.open_tree(id, Staleness::default())?);
        self.trees.write().unwrap_or_else(PoisonError::into_inner).by_storage.insert(id, Arc::clone(&tree));
        Ok(tree)
    }

    /// Removes trees whose tables were dropped or truncated longer ago than any read goes back, and that no checkpoint names.
    fn drop_trees(&self, trees: TreeList) -> Result<(), FoldError> {
        for (id, tree) in trees {
            self.trees.write().unwrap_or_else(PoisonError::into_inner).by_storage.remove(&id);
            drop(tree);
            self.remove_tree_directory(id)?;
        }
        Ok(())
    }

    fn remove_tree_directory(&self, id: StorageId) -> Result<(), FoldError> {
        // Renamed first: half removed, it would pass for a damaged tree.
        let path = self.tree_directory(id);
        let gone = self.trees_directory().join(format!("{id}{GONE_SUFFIX}"));
        self.disk.rename(&path, &gone).map_err(self.failed("rename", &path))?;
        self.disk.sync_dir(&self.trees_directory()).map_err(self.failed("sync", &self.trees_directory()))?;
        std::fs::remove_dir_all(&gone).map_err(self.failed("remove", &gone))
    }

    fn all_trees(&self) -> TreeList {
        let trees = self.trees.read().unwrap_or_else(PoisonError::into_inner);
        trees.by_storage.iter().map(|(id, tree)| (*id, Arc::clone(tree))).collect()
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn upkeep(&self) -> MutexGuard<'_, Checkpoint> {
        self.upkeep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trees_directory(&self) -> PathBuf {
        self.directory.join("trees")
    }

    fn checkpoint_path(&self) -> PathBuf {
        self.directory.join(CHECKPOINT_NAME)
    }

    fn failed(&self, action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> FoldError + use<> {
        let path = path.to_owned();
        move |source| FoldError::Io { action, path, source }
    }
}

impl Materializer for Kv {
    fn name(&self) -> &'static str {
        NAME
    }

    fn applied(&self) -> Lsn {
        Lsn::new(self.applied.load(Ordering::Acquire))
    }

    fn apply(&self, commit: &Commit) -> Result<(), FoldError> {
        self.apply_whole(commit)
    }

    fn apply_streamed(&self, commit: &StreamedCommit) -> Result<(), FoldError> {
        self.apply_parts(commit)
    }

    fn checkpoint(&self) -> Result<Lsn, FoldError> {
        self.checkpoint_under(&mut self.upkeep())
    }

    fn reset(&self) -> Result<(), FoldError> {
        let mut upkeep = self.upkeep();
        let _folding = self.folding.lock().unwrap_or_else(PoisonError::into_inner);
        self.drop_files(&mut upkeep)
    }
}

impl Kv {
    fn checkpoint_under(&self, upkeep: &mut Checkpoint) -> Result<Lsn, FoldError> {
        let applied = self.applied();
        if applied == upkeep.applied { Ok(applied) } else { self.checkpoint_anew(upkeep) }
    }

    /// Makes a checkpoint, also where nothing was applied since the last one.
    fn checkpoint_anew(&self, upkeep: &mut Checkpoint) -> Result<Lsn, FoldError> {
        let applied = self.applied();
        let flushed_bytes = self.unflushed_bytes.load(Ordering::Relaxed);
        let (trees, unneeded) = self.trees_by_need(upkeep.history_from);
        tree::flush_dirty(trees.iter().map(|(_, tree)| &**tree))?;
        let (history_from, times) = {
            let history = self.history();
            // Commits may have been applied since; a replay reads what was there before them.
            (history.from().min(applied), history.times())
        };
        let manifests = self.manifests(&trees, &upkeep.manifests)?;
        let record = |(id, tree): &(_, Arc<Tree>)| {
            let (staleness, beneath) = (tree.staleness(), tree.beneath());
            TreeRecord { tree: *id, staleness, beneath }
        };
        let trees = trees.iter().map(record).collect();
        let beginning = Checkpoint::beginning(self.log);
        // The catalog comes first: it has applied all of it, and perhaps more.
        let catalog_changed = Some(self.catalog.changed());
        self.record(
            upkeep,
            Checkpoint { applied, history_from, trees, times, manifests, catalog_changed, ..beginning },
        )?;
        self.unflushed_bytes.fetch_sub(flushed_bytes, Ordering::Relaxed);
        self.drop_trees(unneeded)?;
        Ok(applied)
    }

    /// The trees that are needed to read back to `history_from`, which is what is recorded on disk or about to be; and the others.
    fn trees_by_need(&self, history_from: Lsn) -> (TreeList, TreeList) {
        // Trees before the storages that are needed: one that comes in between is not taken for one that is gone.
        let all = self.all_trees();
        let needed = self.catalog.storages_since(history_from);
        all.into_iter().partition(|(id, _)| *id == SYSTEM_STORAGE || needed.contains(id))
    }
}

/// The storage of what is no table's.
const SYSTEM_STORAGE: StorageId = StorageId::new(0);
const NAME: &str = "kv";
const CHECKPOINT_NAME: &str = "checkpoint";
/// In a tree's directory: names the file that lists its tables.
const CURRENT_NAME: &str = "current";
const OVERFULL_FACTOR: u64 = 4;
/// What the directory of a tree is called while it is removed.
const GONE_SUFFIX: &str = ".gone";
/// What a tree's memory takes for an entry beside its bytes, roughly.
const ENTRY_OVERHEAD_BYTES: usize = 64;

fn storage_error(cause: &str) -> FoldError {
    FoldError::Storage { materializer: NAME, cause: cause.into() }
}
