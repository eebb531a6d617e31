//! Opening the rows' files, and dropping them.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use highwater_log::Lsn;
use highwater_log::position::StorageId;

use super::checkpoint::{Checkpoint, TreeRecord};
use super::hot::HotRows;
use super::tree::{Staleness, Tree};
use super::{CURRENT_NAME, GONE_SUFFIX, Kv, storage_error};
use crate::error::FoldError;

impl Kv {
    pub(super) fn load(&self) -> Result<(), FoldError> {
        let mut upkeep = self.upkeep();
        let _folding = self.folding.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = self.trees_directory();
        self.disk.create_dir(&directory).map_err(self.failed("create", &directory))?;
        self.close_trees();
        match self.load_files(&mut upkeep) {
            Ok(()) => Ok(()),
            Err(cause) => {
                tracing::warn!(directory = %self.directory.display(), %cause, "the rows are dropped and folded anew");
                self.drop_files(&mut upkeep)
            }
        }
    }

    /// Lets go of all trees; pins of before read nothing any more.
    pub(super) fn close_trees(&self) {
        let mut trees = self.trees.write().unwrap_or_else(PoisonError::into_inner);
        trees.generation += 1;
        trees.by_storage.clear();
        trees.hot = Arc::new(HotRows::new(self.options.hot_bytes()));
        self.unflushed_bytes.store(0, Ordering::Relaxed);
        self.applied.store(0, Ordering::Release);
        self.checkpointed.store(0, Ordering::Release);
        self.horizon.store(0, Ordering::Release);
        self.is_damaged.store(false, Ordering::Release);
    }

    pub(super) fn load_files(&self, upkeep: &mut Checkpoint) -> Result<(), FoldError> {
        let mut checkpoint = Checkpoint::load(&*self.disk, &self.checkpoint_path(), self.log)?;
        // What an index was being filled with is begun again.
        let beneath = checkpoint.trees.iter().filter_map(|tree| tree.beneath);
        let unfilled: Vec<_> = beneath.filter(|beneath| !beneath.is_filled).map(|beneath| beneath.tree).collect();
        checkpoint.trees.retain(|known| !unfilled.contains(&known.tree));
        checkpoint.manifests.retain(|manifest| !unfilled.contains(&manifest.tree));
        for manifest in &checkpoint.manifests {
            let directory = self.tree_directory(manifest.tree);
            if !manifest.is_intact(&directory).map_err(self.failed("read", &directory))? {
                return Err(storage_error(&format!("{} of storage {} is damaged", manifest.file, manifest.tree)));
            }
        }
        // Without that file, its library would take the directory for that of a new tree.
        let is_missing = |tree: &&TreeRecord| !self.tree_directory(tree.tree).join(CURRENT_NAME).exists();
        if let Some(missing) = checkpoint.trees.iter().find(is_missing) {
            return Err(storage_error(&format!("the tree of storage {} is missing", missing.tree)));
        }
        let mut trees = BTreeMap::new();
        for entry in std::fs::read_dir(self.trees_directory()).map_err(self.failed("list", &self.directory))? {
            let entry = entry.map_err(self.failed("list", &self.directory))?;
            let name = entry.file_name();
            let name = name.to_str().unwrap_or_default();
            if name.ends_with(GONE_SUFFIX) {
                std::fs::remove_dir_all(entry.path()).map_err(self.failed("remove", &entry.path()))?;
            } else if let Ok(id) = name.parse().map(StorageId::new) {
                if unfilled.contains(&id) {
                    self.remove_tree_directory(id)?;
                    continue;
                }
                let known = checkpoint.trees.iter().find(|known| known.tree == id);
                let staleness = known.map(|known| known.staleness).unwrap_or_default();
                trees.insert(id, Arc::new(self.open_tree(id, staleness)?));
            }
        }
        for TreeRecord { tree, beneath, .. } in &checkpoint.trees {
            let (Some(beneath), Some(tree)) = (beneath, trees.get(tree)) else { continue };
            tree.lie_over(beneath.tree);
            if beneath.is_filled {
                let missing = || storage_error(&format!("the backfill {} of an index is missing", beneath.tree));
                tree.put_beneath(Arc::clone(trees.get(&beneath.tree).ok_or_else(missing)?));
            }
        }
        if checkpoint.applied == Lsn::ORIGIN && !trees.is_empty() {
            // Without a checkpoint nothing says which log they were folded from.
            return Err(storage_error("there are trees without a checkpoint"));
        }
        if let Some(changed) = checkpoint.catalog_changed {
            self.catalog.pass_over(changed, checkpoint.applied);
        }
        self.history().begin_at(checkpoint.history_from, checkpoint.times.iter().copied());
        let mut open = self.trees.write().unwrap_or_else(PoisonError::into_inner);
        open.by_storage = trees;
        open.hot.begin_at(checkpoint.applied);
        self.horizon.store(checkpoint.history_from.value(), Ordering::Release);
        self.applied.store(checkpoint.applied.value(), Ordering::Release);
        self.checkpointed.store(checkpoint.applied.value(), Ordering::Release);
        *upkeep = checkpoint;
        Ok(())
    }

    /// Opens one tree. Files that the tree's library cannot make sense of may make it panic; that is damage like any other.
    pub(super) fn open_tree(&self, id: StorageId, staleness: Staleness) -> Result<Tree, FoldError> {
        let path = self.tree_directory(id);
        let open = || Tree::open(id, &path, &self.cache, self.hot(), staleness);
        let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(open));
        opened.unwrap_or_else(|_| Err(storage_error(&format!("the files of storage {id} are damaged"))))
    }

    pub(super) fn drop_files(&self, upkeep: &mut Checkpoint) -> Result<(), FoldError> {
        self.close_trees();
        // The checkpoint goes first: trees without one are never trusted.
        let checkpoint = self.checkpoint_path();
        match self.disk.remove(&checkpoint) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(self.failed("remove", &checkpoint)(error));
            }
            _ => {}
        }
        self.disk.sync_dir(&self.directory).map_err(self.failed("sync", &self.directory))?;
        let trees = self.trees_directory();
        std::fs::remove_dir_all(&trees).map_err(self.failed("remove", &trees))?;
        self.disk.create_dir(&trees).map_err(self.failed("create", &trees))?;
        self.history().begin_at(Lsn::ORIGIN, []);
        *upkeep = Checkpoint::beginning(self.log);
        Ok(())
    }
}
