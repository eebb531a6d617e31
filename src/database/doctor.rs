//! Looking through what was folded, and dropping it: what `highwater doctor` does beside verifying the log.

use std::io::ErrorKind;
use std::path::Path;

use highwater_log::env::Env;
use highwater_log::{CommitLog, LogError, LogId, SegmentedLog};
use highwater_materializers::{Counted, Finding, FoldError, KvOptions, Materialized, Progress};

use super::{Database, FOLDS_DIRECTORY, LOG_DIRECTORY, OpenError};

impl Database {
    /// Looks through all rows and index entries: that each row has the key that its values have, and each index an entry of each row and
    /// no other. `tell` hears the counts now and then. Reads at the LSN that is visible now; commits go on. Blocks the calling thread.
    ///
    /// # Errors
    /// [`FoldError`] where reading fails.
    pub fn verify(&self, tell: impl FnMut(Counted)) -> Result<(Counted, Vec<Finding>), FoldError> {
        let pin = self.folds.kv().pin(self.visible())?;
        self.folds.verify_state(&pin, tell)
    }

    /// Folds the log once more, into `scratch`, and compares: the catalog, all rows, positions and sequences, as they are at the LSN that
    /// is visible now. It takes as long as a rebuild, and as much space. Blocks the calling thread.
    ///
    /// # Errors
    /// [`FoldError`] where reading or folding fails.
    pub fn compare_with_log(&self, scratch: &Path, progress: impl FnMut(Progress)) -> Result<Vec<Finding>, FoldError> {
        let pin = self.folds.kv().pin(self.visible())?;
        let log: &dyn CommitLog = self.sequencer.log();
        // Its history is not asked for; the state at the pin is, while the log goes on.
        let folded = Materialized::open(&Env::system(), scratch, log.id(), KvOptions::default())?;
        folded.catch_up(log, progress)?;
        self.folds.compare(&pin, &folded)
    }
}

/// Reads every byte of the files of what was folded, of a database that nobody has open, and tells what is not as it was written.
pub(crate) fn verify_folds(data: &Path, log: LogId, tell: impl FnMut(u64)) -> Result<Vec<Finding>, OpenError> {
    let env = Env::system();
    let _lock = lock(&env, data)?;
    Ok(Materialized::verify_files(&env, &data.join(FOLDS_DIRECTORY), log, tell)?)
}

/// Drops what a materializer has folded, of a database that nobody has open: the next opening folds it anew.
pub(crate) fn drop_fold(data: &Path, materializer: &str) -> Result<(), OpenError> {
    let env = Env::system();
    let _lock = lock(&env, data)?;
    let path = data.join(FOLDS_DIRECTORY).join(materializer);
    match std::fs::remove_dir_all(&path) {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            Err(LogError::Io { action: "remove", path, source }.into())
        }
        _ => Ok(()),
    }
}

fn lock(env: &Env, data: &Path) -> Result<impl Drop, LogError> {
    SegmentedLog::lock(env, &data.join(LOG_DIRECTORY), &format!("process {}, highwater doctor", std::process::id()))
}
