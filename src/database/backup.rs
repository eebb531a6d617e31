//! Backups: a copy of the log, which is a database.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use highwater_log::env::Env;
use highwater_log::{
    BackupHeader, BackupPiece, BackupReader, BackupWriter, LogError, LogView, SegmentedLog, SegmentedOptions,
};
use highwater_materializers::Materialized;

use super::{Database, FOLDS_DIRECTORY, LOG_DIRECTORY, Log, OpenError};

/// How far a backup has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupProgress {
    /// So many of the bytes are copied.
    Copied(u64),
    /// So many of them were read again.
    Verified(u64),
}

/// What became of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backup {
    /// What it is of.
    pub header: BackupHeader,
    /// The commits in it.
    pub commits: u64,
}

impl Database {
    /// Copies the log, as far as it is durable now, into `directory`, which must be empty or not there yet. It is a database then: its
    /// first opening begins a log of its own, which takes this one's cursors up to there, and folds the rows. Commits go on
    /// meanwhile; the copy is synced, read again, and every checksum in it was right. Blocks the calling thread.
    ///
    /// # Errors
    /// [`LogError::NotEmpty`]; [`LogError::TrimmedMeanwhile`]: begin again; [`LogError::ReadOnly`] for a database in memory or on a
    /// read-only file system (copy its directory instead); [`LogError::Damaged`] where the log has rotted; [`LogError::Io`],
    /// [`LogError::NotWritten`]. What was written is removed then.
    pub fn backup(
        &self,
        directory: impl AsRef<Path>,
        progress: impl FnMut(BackupProgress),
    ) -> Result<Backup, OpenError> {
        let mut reader = self.read_backup()?;
        let header = *reader.header();
        write(directory.as_ref(), header, || Ok::<_, OpenError>(reader.try_next()?), progress)
    }

    /// Reads what a backup is made of.
    pub(crate) fn read_backup(&self) -> Result<BackupReader, LogError> {
        match &self.log {
            Log::Segmented(log) => log.backup(),
            Log::Unowned => Err(LogError::ReadOnly),
        }
    }
}

/// Copies the log of a database that no process has open: nothing is folded for it.
pub(crate) fn back_up_closed(
    data: &Path,
    directory: &Path,
    progress: impl FnMut(BackupProgress),
) -> Result<Backup, OpenError> {
    let (env, log_directory) = (Env::system(), data.join(LOG_DIRECTORY));
    if !log_directory.is_dir() {
        return Err(LogError::Missing { path: data.to_owned() }.into());
    }
    let options = SegmentedOptions {
        witnesses: Materialized::witnesses(&env, &data.join(FOLDS_DIRECTORY)),
        scrub: None,
        is_self_maintained: false,
        ..SegmentedOptions::default()
    };
    if LogView::open(&env, &log_directory)?.is_backup() {
        return Err(LogError::Unopened { path: data.to_owned() }.into());
    }
    let log = SegmentedLog::open(&env, &log_directory, options)?;
    let mut reader = log.backup()?;
    let header = *reader.header();
    let written = write(directory, header, || Ok::<_, OpenError>(reader.try_next()?), progress);
    if let Err(error) = log.close() {
        // The copy is what it is; the next opening of the original looks at its end once more.
        tracing::warn!(%error, "the log was not closed in good order");
    }
    written
}

/// Writes the pieces that `next` gives, up to its end, and verifies what was written.
pub(crate) fn write<E: From<OpenError>>(
    directory: &Path,
    header: BackupHeader,
    mut next: impl FnMut() -> Result<Option<BackupPiece>, E>,
    mut progress: impl FnMut(BackupProgress),
) -> Result<Backup, E> {
    let mut target = Target::begin(directory).map_err(OpenError::from)?;
    let mut copied = 0;
    while let Some(piece) = next()? {
        if let BackupPiece::Bytes(bytes) = &piece {
            copied += bytes.len() as u64;
        }
        target.put(piece).map_err(OpenError::from)?;
        progress(BackupProgress::Copied(copied));
    }
    let commits = target.finish(|bytes| progress(BackupProgress::Verified(bytes))).map_err(OpenError::from)?;
    Ok(Backup { header, commits })
}

/// The directory of a database that is to be. Dropped before it is finished, it leaves nothing behind.
struct Target {
    env: Env,
    directory: PathBuf,
    is_new: bool,
    writer: Option<BackupWriter>,
    is_finished: bool,
}

impl Target {
    fn begin(directory: &Path) -> Result<Self, LogError> {
        let failed = |action| move |source| LogError::Io { action, path: directory.to_owned(), source };
        let is_new = match std::fs::read_dir(directory) {
            Ok(mut entries) => match entries.next() {
                None => false,
                Some(_) => return Err(LogError::NotEmpty { path: directory.to_owned() }),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => true,
            Err(error) => return Err(failed("look at")(error)),
        };
        let env = Env::system();
        env.disk.create_dir(directory).map_err(failed("create"))?;
        let mut target = Self { env, directory: directory.to_owned(), is_new, writer: None, is_finished: false };
        target.writer = Some(BackupWriter::begin(&target.env, &directory.join(LOG_DIRECTORY))?);
        Ok(target)
    }

    fn put(&mut self, piece: BackupPiece) -> Result<(), LogError> {
        self.writer.as_mut().map_or(Ok(()), |writer| writer.put(piece))
    }

    fn finish(mut self, progress: impl FnMut(u64)) -> Result<u64, LogError> {
        let writer = self.writer.take().expect("a target is finished once");
        let verified = writer.finish(progress)?;
        self.is_finished = true;
        Ok(verified.commits)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if self.is_finished {
            return;
        }
        self.writer = None;
        // It was begun empty, so that all of it is this backup's. What cannot be removed is no database.
        let _ = std::fs::remove_dir_all(self.directory.join(LOG_DIRECTORY));
        if self.is_new {
            let _ = std::fs::remove_dir(&self.directory);
        }
    }
}
