//! A database without SQL: log, folds and sequencer, with the pipeline run by hand.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::FutureExt;
use highwater_log::env::simulated::{Random, SimulatedClock, SimulatedDisk, machine};
use highwater_log::env::{Disk, Env, SystemDisk};
use highwater_log::position::StorageId;
use highwater_log::row::Row;
use highwater_log::schema::IndexState;
use highwater_log::sequencer::{
    Acknowledgement, CommitError, KeyRange, Pipeline, Receipt, Sequencer, SequencerOptions, WriteSet,
};
use highwater_log::{CommitLog, LogError, Lsn, SegmentedLog, SegmentedOptions};
use highwater_materializers::{FoldError, KvOptions, Materialized, TableRow};

use crate::fold_disk::{FoldDisk, Recorded};
use crate::oracle::{State, Values};

/// A machine whose log lies on a simulated disk. The folds' trees do their own I/O, so theirs is a real directory; so are the folds'
/// other files, unless they are put on the simulated disk, too.
pub(crate) struct Machine {
    pub(crate) log_env: Env,
    pub(crate) disk: Arc<SimulatedDisk>,
    pub(crate) clock: Arc<SimulatedClock>,
    fold_env: Env,
    directory: tempfile::TempDir,
    recorded: Mutex<Recorded>,
    pub(crate) options: KvOptions,
    pub(crate) segment_bytes_min: u64,
}

/// The database on such a machine, open.
pub(crate) struct World {
    pub(crate) log: Arc<SegmentedLog>,
    pub(crate) folds: Materialized,
    pub(crate) sequencer: Sequencer,
    pub(crate) pipeline: Pipeline,
    /// The last commit that was there already when it was opened.
    pub(crate) replayed_from: Lsn,
    /// Entries of indexes that were seen in any state.
    seen_entries: Mutex<BTreeSet<(StorageId, Bytes)>>,
}

/// Why a world did not open.
#[derive(Debug)]
pub(crate) enum OpenError {
    Log(LogError),
    Fold(FoldError),
}

impl Machine {
    pub(crate) fn new(seed: u64) -> Self {
        let (log_env, disk, clock) = machine(seed);
        let fold_env = Env { disk: Arc::new(SystemDisk), ..log_env.clone() };
        // Memory where there is some: these tests sync by the thousand.
        let memory = Path::new("/dev/shm");
        let directory = match memory.is_dir() {
            true => tempfile::tempdir_in(memory).unwrap(),
            false => tempfile::tempdir().unwrap(),
        };
        let options = KvOptions { cache_bytes: 64 * 1024, memtable_bytes: 4 * 1024, ..KvOptions::default() };
        let recorded = Mutex::default();
        Self { log_env, disk, clock, fold_env, directory, recorded, options, segment_bytes_min: 16 * 1024 }
    }

    /// Has the checkpoints on the simulated disk, and the trees' files torn when power is lost.
    pub(crate) fn with_simulated_folds(mut self) -> Self {
        self.fold_env.disk = Arc::new(FoldDisk { simulated: Arc::clone(&self.disk) });
        self
    }

    /// The trees' files are as a checkpoint has recorded them.
    pub(crate) fn note_recorded(&self) {
        self.recorded.lock().unwrap().note(&self.folds_path());
    }

    pub(crate) fn lose_power(&self, random: &mut Random) {
        self.disk.lose_power();
        self.recorded.lock().unwrap().lose_power(&self.folds_path(), random).unwrap();
    }

    /// Removes all files of the folds.
    pub(crate) fn remove_folds(&self) {
        std::fs::remove_dir_all(self.folds_path()).unwrap();
        for room in ["catalog", "kv"] {
            let directory = self.folds_path().join(room);
            for name in self.disk.list(&directory).unwrap_or_default() {
                self.disk.remove(&directory.join(name)).unwrap();
            }
            self.disk.create_dir(&directory).unwrap();
            self.disk.sync_dir(&directory).unwrap();
        }
    }

    pub(crate) fn folds_path(&self) -> PathBuf {
        self.directory.path().join("folds")
    }

    /// Opens the database and catches up.
    pub(crate) fn open(&self) -> Result<World, OpenError> {
        let options = SegmentedOptions {
            segment_bytes_min: self.segment_bytes_min,
            segment_bytes_max: 4 * self.segment_bytes_min,
            free_bytes_min: 0,
            tail_bytes_max: 4_000,
            witnesses: Materialized::witnesses(&self.fold_env, &self.folds_path()),
            is_self_maintained: false,
            ..SegmentedOptions::default()
        };
        let log = SegmentedLog::open(&self.log_env, Path::new("/log"), options).map_err(OpenError::Log)?;
        let log = Arc::new(log);
        let path = self.folds_path();
        let folds =
            Materialized::open(&self.fold_env, &path, log.id(), self.options.clone()).map_err(OpenError::Fold)?;
        let mut replayed_from = Lsn::ORIGIN;
        folds.catch_up(&*log, |progress| replayed_from = progress.from).map_err(OpenError::Fold)?;
        let (sequencer, pipeline) = Sequencer::without_thread(
            Arc::<SegmentedLog>::clone(&log),
            Arc::new(folds.clone()),
            Box::new(folds.clone()),
            Arc::clone(&self.log_env.clock),
            SequencerOptions { window_entries_max: 50, ..SequencerOptions::default() },
        )
        .map_err(OpenError::Log)?;
        Ok(World { log, folds, sequencer, pipeline, replayed_from, seen_entries: Mutex::default() })
    }
}

impl World {
    /// Commits a write set, waiting for its end.
    pub(crate) fn commit(&mut self, set: WriteSet) -> Result<Receipt, CommitError> {
        let mut commit = Box::pin(self.sequencer.commit(set));
        if let Some(early) = commit.as_mut().now_or_never() {
            return early.map(receipt);
        }
        self.pipeline.commit_pending();
        commit.now_or_never().expect("an answer").map(receipt)
    }

    /// Commits write sets as one group; a buffered one has no receipt.
    pub(crate) fn commit_group(&mut self, sets: Vec<WriteSet>) -> Vec<Result<Option<Receipt>, CommitError>> {
        let mut commits: Vec<_> = sets.into_iter().map(|set| Box::pin(self.sequencer.commit(set))).collect();
        let early: Vec<_> = commits.iter_mut().map(|commit| commit.as_mut().now_or_never()).collect();
        self.pipeline.commit_pending();
        let ends = commits.into_iter().zip(early);
        let ends = ends.map(|(commit, early)| early.unwrap_or_else(|| commit.now_or_never().expect("an answer")));
        let receipt = |acknowledgement| match acknowledgement {
            Acknowledgement::Committed(receipt) => Some(receipt),
            Acknowledgement::Buffered(_) => None,
        };
        ends.map(|end| end.map(receipt)).collect()
    }

    pub(crate) fn visible(&self) -> Lsn {
        *self.sequencer.visible().borrow()
    }

    /// What the folds show at `at`, in the oracle's terms; checks the unique indexes on the way.
    pub(crate) fn state_at(&self, at: Lsn, expected: &State) -> Result<State, FoldError> {
        let pin = self.folds.kv().pin(at)?;
        let mut state = State::default();
        for table in self.folds.catalog().tables(at) {
            let mut rows = std::collections::BTreeMap::new();
            let mut keys = Vec::new();
            for item in pin.rows(table.schema().storage, &everything())? {
                let (key, row) = item?;
                let by_key = pin.row(table.schema().storage, &key)?;
                assert_eq!(by_key.as_ref(), Some(&row), "a row looked up is the one that a scan finds, at {at}");
                let version = Row::schema_version(&row.bytes).unwrap();
                let written = self.folds.catalog().table_at_version(table.schema().id, version).unwrap();
                let view = TableRow::new(Row::parse(written.layout(), &row.bytes).unwrap(), &table);
                assert_eq!(key, table.row_key(&view, row.id).unwrap());
                let columns = table.layout().columns().iter().zip(view.values().unwrap());
                let values: Values = columns.map(|((id, _), value)| (*id, format!("{value:?}"))).collect();
                for index in table.indexes().iter().filter(|index| index.state == IndexState::Ready) {
                    let (index_key, _) = table.index_key(index, &view, &key).unwrap();
                    let entry = pin.row(index.storage, &index_key)?.expect("every row has its index entry");
                    assert_eq!((entry.id, &entry.bytes[..]), (row.id, &key[..]), "at {at}");
                }
                keys.push(key);
                rows.insert(row.id, (row.version, values));
            }
            for index in table.indexes().iter().filter(|index| index.state == IndexState::Ready) {
                let entries = pin.rows(index.storage, &everything())?.collect::<Result<Vec<_>, _>>()?;
                assert_eq!(entries.len(), rows.len(), "no index entry is left behind at {at}");
                // Nor does one come back to who looks it up, whatever merges have given up.
                let there: BTreeSet<_> = entries.into_iter().map(|(key, _)| (index.storage, key)).collect();
                let mut seen = self.seen_entries.lock().unwrap();
                seen.extend(there.iter().cloned());
                for (storage, key) in seen.difference(&there).filter(|(storage, _)| *storage == index.storage) {
                    assert_eq!(pin.row(*storage, key)?, None, "an entry that is gone at {at}");
                }
            }
            assert!(keys.is_sorted(), "rows come in the order of their keys");
            let schema = table.schema().clone();
            state.tables.insert(schema.id, crate::oracle::TableState { schema, rows });
        }
        for of in expected.positions.keys() {
            if let Some(position) = self.folds.kv().position(of, at)? {
                state.positions.insert(of.clone(), position.to_vec());
            }
        }
        for producer in expected.producers.keys() {
            let recent = self.folds.kv().sequences(highwater_log::commit::ProducerId(*producer), at)?;
            state.producers.insert(*producer, recent.into_iter().collect());
        }
        Ok(state)
    }

    /// Has rows folded anew of which a read meets damage.
    pub(crate) fn mend_what_reads_meet(&self, expected: &State) {
        match self.state_at(self.visible(), expected) {
            Ok(_) => {}
            Err(FoldError::Storage { .. }) => self.folds.refold(&*self.log, |_| {}).unwrap(),
            Err(error) => panic!("{error}"),
        }
    }

    /// Asserts that the folds at `at` are the naive fold's state.
    pub(crate) fn assert_state(&self, at: Lsn, expected: &State, context: &str) {
        let mut expected = expected.clone();
        for table in expected.tables.values_mut() {
            let seen: Vec<_> = table.rows.iter().map(|(id, (lsn, values))| (*id, (*lsn, table.seen(values)))).collect();
            table.rows = seen.into_iter().collect();
        }
        for sequences in expected.producers.values_mut() {
            let kept = sequences.len().saturating_sub(highwater_log::sequencer::SEQUENCES_KEPT);
            sequences.drain(..kept);
        }
        let state = self.state_at(at, &expected).unwrap_or_else(|error| panic!("{context}: at {at}: {error}"));
        assert_eq!(state, expected, "{context}: at {at}");
    }
}

pub(crate) fn everything() -> KeyRange {
    KeyRange { start: bytes::Bytes::new(), end: None }
}

fn receipt(acknowledgement: Acknowledgement) -> Receipt {
    match acknowledgement {
        Acknowledgement::Committed(receipt) => receipt,
        Acknowledgement::Buffered(_) => panic!("synced was asked for"),
    }
}
