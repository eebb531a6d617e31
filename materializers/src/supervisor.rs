//! What keeps the folds in step with the log: recovery, the commit pipeline, upkeep, mending.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use highwater_log::base::{BaseHeader, BaseRecord, BaseState};
use highwater_log::commit::{CommitBody, ProducerId};
use highwater_log::env::Env;
use highwater_log::position::StorageId;
use highwater_log::sequencer::{Applier, CATALOG_SPACE, Keeper, KeeperError, KeyRange, RecentSequences};
use highwater_log::{CommitHeader, CommitLog, LogError, LogId, Lsn};

use crate::catalog::Catalog;
use crate::error::FoldError;
use crate::feeds::FeedHold;
use crate::kv::{Kv, KvOptions, ReadPin};
use crate::materializer::Materializer;
use crate::verify::Finding;

/// The materializers of one log: the catalog, and what is folded with it.
#[derive(Clone)]
pub struct Materialized {
    catalog: Arc<Catalog>,
    kv: Arc<Kv>,
    env: Env,
}

/// How far a replay has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Where the replay began: the last commit that was there already.
    pub from: Lsn,
    /// The last commit folded.
    pub applied: Lsn,
    /// Where it ends.
    pub durable: Lsn,
}

impl Materialized {
    /// Opens the materializers of `log` in `directory`, without following the log yet.
    ///
    /// # Errors
    /// [`FoldError::Io`]; damage is mended by folding anew.
    pub fn open(env: &Env, directory: &Path, log: LogId, options: KvOptions) -> Result<Self, FoldError> {
        let catalog = Arc::new(Catalog::open(Arc::clone(&env.disk), directory.join(CATALOG_DIRECTORY), log)?);
        let kv_directory = directory.join(KV_DIRECTORY);
        let kv = Kv::open(Arc::clone(&env.disk), kv_directory, log, Arc::clone(&catalog), options)?;
        Ok(Self { catalog, kv: Arc::new(kv), env: env.clone() })
    }

    /// What the materializers in `directory` prove to have been durable, to be told to the log when it is opened.
    #[must_use]
    pub fn witnesses(env: &Env, directory: &Path) -> Vec<(LogId, Lsn)> {
        let kv = Kv::witness(&*env.disk, &directory.join(KV_DIRECTORY));
        let catalog = Catalog::witness(&*env.disk, &directory.join(CATALOG_DIRECTORY));
        kv.into_iter().chain(catalog).collect()
    }

    /// Reads every byte of the materializers' files in `directory`, which nobody has open, and tells what is not as it was written; `tell`
    /// hears the bytes of each piece. Nothing is dropped. What is not there yet is nothing wrong.
    ///
    /// # Errors
    /// [`FoldError::Io`].
    pub fn verify_files(
        env: &Env,
        directory: &Path,
        log: LogId,
        tell: impl FnMut(u64),
    ) -> Result<Vec<Finding>, FoldError> {
        let catalog_directory = directory.join(CATALOG_DIRECTORY);
        if !catalog_directory.is_dir() {
            return Ok(Vec::new());
        }
        let found = |materializer, what| Finding { materializer, what };
        let catalog_damage = Catalog::verify_file(&*env.disk, &catalog_directory, log)?;
        let catalog = Arc::new(Catalog::open(Arc::clone(&env.disk), catalog_directory, log)?);
        let kv = Kv::verify_files(Arc::clone(&env.disk), directory.join(KV_DIRECTORY), log, catalog, tell)?;
        let kv = kv.into_iter().map(|what| found("kv", what));
        Ok(catalog_damage.into_iter().map(|what| found("catalog", what)).chain(kv).collect())
    }

    /// The catalog.
    #[must_use]
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// The rows.
    #[must_use]
    pub fn kv(&self) -> &Arc<Kv> {
        &self.kv
    }

    /// Folds everything durable that is not folded yet, telling `progress` now and then, and at the end.
    ///
    /// # Errors
    /// [`FoldError`]; what was folded stands.
    pub fn catch_up(&self, log: &dyn CommitLog, mut progress: impl FnMut(Progress)) -> Result<(), FoldError> {
        let durable = *log.durable().borrow();
        let persisted = self.kv.checkpointed().max(self.catalog.applied());
        if persisted > durable {
            return Err(FoldError::AheadOfLog { persisted, durable });
        }
        let claimed = self.kv.claimed();
        if claimed > durable {
            tracing::warn!(%claimed, %durable, "the rows' files are damaged, they are dropped and folded anew");
            self.kv.reset()?;
        }
        let mut from = self.catalog.applied().min(self.kv.applied());
        if from.next() < log.earliest() {
            self.begin_at_base(log)?;
            from = self.catalog.applied().min(self.kv.applied());
            progress(Progress { from: Lsn::ORIGIN, applied: from, durable });
        }
        let mut reader = log.read_after(from)?;
        while let Some(encoded) = reader.try_next()? {
            let lsn = encoded.lsn();
            self.fold(&CommitBody::read(&encoded)?)?;
            if lsn.value().is_multiple_of(PROGRESS_STEP) {
                progress(Progress { from, applied: lsn, durable });
            }
        }
        progress(Progress { from, applied: self.kv.applied(), durable: *log.durable().borrow() });
        Ok(())
    }

    /// Begins anew at the log's base image, where what was folded needs commits that were trimmed away.
    fn begin_at_base(&self, log: &dyn CommitLog) -> Result<(), FoldError> {
        let (earliest, after) = (log.earliest(), self.catalog.applied().min(self.kv.applied()));
        let mut reader = log.read_base()?.ok_or(LogError::BelowRetained { after, earliest })?;
        let header = *reader.header();
        let mut entries = Vec::new();
        let mut behind = None;
        while let Some(BaseRecord { lsn, state }) = reader.try_next()? {
            match state {
                BaseState::Catalog { object, entry } => entries.push((lsn, object, entry)),
                state => {
                    behind = Some(BaseRecord { lsn, state });
                    break;
                }
            }
        }
        if self.catalog.applied() < header.lsn {
            self.catalog.begin_at(header.lsn, entries)?;
        }
        if self.kv.applied().next() < earliest {
            // Read through before anything is dropped for it.
            check_base(log)?;
            self.kv.begin_at(&header, || match behind.take() {
                Some(record) => Ok(Some(record)),
                None => Ok(reader.try_next()?),
            })?;
        }
        Ok(())
    }

    /// Gives up the log's commits up to `to` (`None`: all that no read in the past and no named feed may need), as far as whole segments
    /// go, and returns the earliest commit that is left. Where something can go and the log's base image does not reach as far, or is damaged, a new one
    /// is written first: of the earliest state that can still be read. That reads all rows, and takes its time; commits go on.
    ///
    /// # Errors
    /// [`FoldError::StillReadable`] when reads may go back before `to`, [`FoldError::HeldByFeed`] when a named feed has still to tell
    /// commits up to there; [`FoldError::Log`], [`FoldError::Storage`]. Nothing was given up
    /// then, though after an error of the disk it may be by the next opening.
    pub fn trim(&self, log: &dyn CommitLog, to: Option<Lsn>) -> Result<Lsn, FoldError> {
        self.kv.move_history(self.env.clock.unix_micros());
        let hold = self.feed_hold()?;
        let to = to.unwrap_or_else(|| {
            let history_from = self.kv.history_from();
            hold.as_ref().map_or(history_from, |hold| hold.after.min(history_from))
        });
        let pin = self.kv.pin_earliest()?;
        if to > pin.at() {
            return Err(FoldError::StillReadable { to, earliest: pin.at() });
        }
        if let Some(FeedHold { feed, after }) = hold.filter(|hold| to > hold.after) {
            return Err(FoldError::HeldByFeed { to, feed, after });
        }
        if log.earliest_behind(to)? == log.earliest() {
            return Ok(log.earliest());
        }
        // One that is there is looked at again.
        let is_there = log.base().is_some_and(|base| base >= to) && check_base(log).is_ok();
        if !is_there {
            self.write_base(log, &pin)?;
        }
        drop(pin);
        // What is in the files must not need what is about to go.
        self.checkpoint()?;
        Ok(log.trim(to)?)
    }

    fn write_base(&self, log: &dyn CommitLog, pin: &ReadPin) -> Result<(), FoldError> {
        let lsn = pin.at();
        let commit =
            log.read_after(lsn.previous())?.try_next()?.ok_or(LogError::BeyondDurable { after: lsn, durable: lsn })?;
        let CommitHeader { time, next_row, .. } = commit.header()?;
        let header = BaseHeader { lsn, time, next_row };
        let mut writer = log.begin_base(header)?;
        self.catalog.image(lsn).into_iter().try_for_each(|record| writer.push(record))?;
        pin.image(|record| Ok(writer.push(record)?))?;
        Ok(writer.finish()?)
    }

    /// Mends the rows after a failed fold: opens their files again and catches up; if the fold fails again, drops them and folds
    /// them anew from the log's beginning: its base image, or the first commit.
    ///
    /// # Errors
    /// [`FoldError`] when a commit cannot be folded even then: the log holds what this program cannot fold.
    pub fn mend(&self, log: &dyn CommitLog, mut progress: impl FnMut(Progress)) -> Result<(), FoldError> {
        self.kv.reopen()?;
        match self.catch_up(log, &mut progress) {
            // Anything else, a log that cannot be read above all, would not be mended by it.
            Err(FoldError::Storage { materializer, cause }) => {
                tracing::warn!(materializer, %cause, "the rows are dropped and folded anew");
                self.refold(log, progress)
            }
            outcome => outcome,
        }
    }

    /// Drops the rows and folds them anew from the log's beginning: when a read has met damage. A base image is read through first.
    ///
    /// # Errors
    /// As [`Materialized::mend`].
    pub fn refold(&self, log: &dyn CommitLog, progress: impl FnMut(Progress)) -> Result<(), FoldError> {
        if log.earliest() > Lsn::ORIGIN.next() {
            // What is left of the rows is not dropped for what cannot be folded.
            check_base(log)?;
        }
        self.kv.reset()?;
        self.catch_up(log, progress)
    }

    /// Drops the rows and their files: the next opening folds them anew.
    ///
    /// # Errors
    /// [`FoldError::Io`].
    pub fn forget(&self) -> Result<(), FoldError> {
        self.kv.reset()
    }

    /// Does what is due beside the commits.
    ///
    /// # Errors
    /// [`FoldError::Storage`], [`FoldError::Io`]; the next call tries again.
    pub fn maintain(&self) -> Result<(), FoldError> {
        self.kv.maintain(self.env.clock.unix_micros())?;
        // A replay begins where the one begins that has come less far.
        if self.catalog.checkpointed() < self.catalog.changed().min(self.kv.checkpointed()) {
            self.catalog.checkpoint()?;
        }
        Ok(())
    }

    /// Makes all folded state durable, so that the next opening has nothing to replay.
    ///
    /// # Errors
    /// [`FoldError::Storage`], [`FoldError::Io`].
    pub fn checkpoint(&self) -> Result<(), FoldError> {
        self.catalog.checkpoint()?;
        self.kv.checkpoint()?;
        Ok(())
    }

    fn fold(&self, commit: &CommitBody) -> Result<(), FoldError> {
        let changes = commit.header().change_count;
        let _commit = tracing::debug_span!("commit", lsn = commit.lsn().value(), changes).entered();
        match commit {
            CommitBody::Whole(commit) => {
                self.catalog.apply(commit)?;
                self.kv.apply(commit)?;
            }
            CommitBody::Streamed(commit) => {
                self.catalog.apply_streamed(commit)?;
                self.kv.apply_streamed(commit)?;
            }
        }
        if self.kv.is_overfull() {
            // Nobody has come round to it: the fold does it itself, and so waits.
            self.checkpoint()?;
        }
        Ok(())
    }
}

impl Applier for Materialized {
    fn apply(&mut self, commits: &[CommitBody]) -> Result<(), KeeperError> {
        Ok(commits.iter().try_for_each(|commit| self.fold(commit))?)
    }
}

impl Keeper for Materialized {
    fn applied(&self) -> Lsn {
        self.kv.applied()
    }

    fn version(&self, space: StorageId, key: &[u8], at: Lsn) -> Result<Option<Lsn>, KeeperError> {
        match space {
            CATALOG_SPACE => Ok(self.catalog.key_version(key, at)),
            storage => Ok(self.kv.key_version(storage, key, at)?),
        }
    }

    fn keys(&self, space: StorageId, range: &KeyRange, at: Lsn, limit: usize) -> Result<Vec<Bytes>, KeeperError> {
        match space {
            CATALOG_SPACE => Ok(self.catalog.keys_in(range, at).into_iter().take(limit).collect()),
            storage => Ok(self.kv.keys(storage, range, at, limit)?),
        }
    }

    fn sequences(&self, producer: ProducerId, at: Lsn) -> Result<RecentSequences, KeeperError> {
        Ok(self.kv.sequences(producer, at)?)
    }
}

/// Reads the log's base image through.
fn check_base(log: &dyn CommitLog) -> Result<(), LogError> {
    if let Some(mut reader) = log.read_base()? {
        while reader.try_next()?.is_some() {}
    }
    Ok(())
}

const CATALOG_DIRECTORY: &str = "catalog";
const KV_DIRECTORY: &str = "kv";
const PROGRESS_STEP: u64 = 4096;
