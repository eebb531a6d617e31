//! Commits come into the trees.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use highwater_log::commit::{CommitHeader, ProducerSequence, StreamedCommit};
use highwater_log::position::StorageId;
use highwater_log::sequencer::SEQUENCES_KEPT;
use highwater_log::{Commit, Lsn};

use super::fold::{self, PartFold, Write};
use super::tree::Tree;
use super::{ENTRY_OVERHEAD_BYTES, Kv, SYSTEM_STORAGE, value};
use crate::error::FoldError;
use crate::materializer::Materializer;

impl Kv {
    pub(super) fn apply_whole(&self, commit: &Commit) -> Result<(), FoldError> {
        let _folding = self.folding.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_next(commit.lsn)? {
            return Ok(());
        }
        self.fill_indexes(commit)?;
        self.put_all(fold::fold(commit, &self.catalog)?, commit.lsn)?;
        self.end_commit(commit.lsn, &commit.header)
    }

    /// Folds a commit of which one part at a time lies in memory. What is written of it is not seen before the last part is.
    pub(super) fn apply_parts(&self, commit: &StreamedCommit) -> Result<(), FoldError> {
        // Files are written on the way.
        let mut upkeep = self.upkeep();
        let _folding = self.folding.lock().unwrap_or_else(PoisonError::into_inner);
        let lsn = commit.lsn();
        if !self.is_next(lsn)? {
            return Ok(());
        }
        self.fill_indexes(&commit.head()?)?;
        let mut fold = PartFold::first_pass(lsn, &self.catalog);
        loop {
            for part in commit.parts() {
                let mut writes = fold.part(&part?)?;
                if fold.is_second() {
                    self.keep_put_entries(&mut writes, lsn)?;
                }
                self.put_all(writes, lsn)?;
                if self.is_overfull() {
                    self.checkpoint_anew(&mut upkeep)?;
                }
            }
            match fold.second_pass() {
                Some(second) => fold = second,
                None => break,
            }
        }
        self.end_commit(lsn, commit.header())
    }

    /// Whether a commit is the next one; `false`: it was folded.
    fn is_next(&self, lsn: Lsn) -> Result<bool, FoldError> {
        let applied = self.applied();
        if lsn > applied.next() {
            return Err(FoldError::OutOfOrder { lsn, applied });
        }
        Ok(lsn > applied)
    }

    /// Takes out what is said to be gone and was put by the same commit.
    fn keep_put_entries(&self, writes: &mut Vec<Write>, lsn: Lsn) -> Result<(), FoldError> {
        let mut kept = Vec::with_capacity(writes.len());
        for write in writes.drain(..) {
            let known = self.tree_to_write(write.storage)?.own_value(&write.key, lsn)?;
            let is_put = |known: &[u8]| {
                !value::is_gone(known) && value::version(known).is_some_and(|(version, _)| version == lsn)
            };
            if !known.is_some_and(|known| is_put(&known)) {
                kept.push(write);
            }
        }
        *writes = kept;
        Ok(())
    }

    /// Writes keys of commit `lsn`; those of one storage stand together.
    fn put_all(&self, writes: Vec<Write>, lsn: Lsn) -> Result<(), FoldError> {
        let mut written_bytes = 0;
        let mut open: Option<(StorageId, Arc<Tree>)> = None;
        for Write { storage, key, value, stale } in writes {
            written_bytes += key.len() + value.len() + ENTRY_OVERHEAD_BYTES;
            let tree = match &mut open {
                Some((id, tree)) if *id == storage => tree,
                other => &mut other.insert((storage, self.tree_to_write(storage)?)).1,
            };
            tree.write(&key, value, lsn);
            tree.note_stale(stale);
            if let Some(base) = tree.base().filter(|_| stale > 0) {
                // What it hides may lie there.
                base.note_stale(1);
            }
        }
        self.unflushed_bytes.fetch_add(written_bytes as u64, Ordering::Relaxed);
        Ok(())
    }

    /// All keys of a commit are written: it is applied.
    fn end_commit(&self, lsn: Lsn, header: &CommitHeader) -> Result<(), FoldError> {
        if let Some(ProducerSequence { producer, sequence }) = header.producer {
            let mut recent = self.sequences(producer, self.applied())?;
            recent.push_back((sequence, lsn));
            while recent.len() > SEQUENCES_KEPT {
                recent.pop_front();
            }
            let (storage, key) = (SYSTEM_STORAGE, value::producer_key(producer));
            // The one before, as a rule.
            self.put_all(vec![Write { storage, key, value: value::sequences(lsn, &recent), stale: 1 }], lsn)?;
        }
        self.applied.store(lsn.value(), Ordering::Release);
        // The history does not begin beyond what is applied.
        self.history().note(header.time.micros, lsn);
        Ok(())
    }
}
