//! The log on disk: segments of frames, synced in groups.
//!
//! ```text
//!   segment 1 (sealed)       segment 2 (active)           segment 3 (prepared)
//!   |header|frames…|footer|  |header|frames…|0000000000|  |header|000000000000|
//!                                          ^ writing goes on here, in space that was written with zeros and synced before
//! ```
//!
//! An append writes a group's frames with one call; `make_durable` syncs them with one `fdatasync`. When a segment is full it gets
//! a footer and is synced before the next is used. Everything else happens beside the commit path, in [`SegmentedLog::maintain`]:
//! the next segment is prepared, the manifest follows, and a mark tells the last sync when the log falls idle. Whole segments at the
//! beginning are trimmed away when a base image holds what their commits amount to; their files become segments again.

mod backup;
mod base;
mod directory;
mod index;
mod maintenance;
mod manifest;
mod read_only;
mod reader;
mod reading;
mod recovery;
mod scan;
mod scrub;
mod supply;
#[cfg(test)]
mod tests;
mod trim;
mod view;
mod writer;

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::background::Background;
use crate::base::{BaseHeader, BaseReader, BaseWriter};
use crate::commit::{EncodedCommit, Group};
use crate::commit_log::{CommitLog, LogReader, Parent};
use crate::env::{Access, DiskLock, Env, LockError};
use crate::error::{LogError, NotWritten};
use crate::frame::frame_bytes;
use crate::meter::{Counter, Histogram};
use crate::position::{Epoch, LogId, Lsn, SegmentId};
pub use backup::{BackupHeader, BackupPiece, BackupReader, BackupWriter};
use base::BaseFileSink;
use directory::{Directory, Identity, Prepared, SEGMENT_HEADER_BYTES};
use index::Place;
use maintenance::{Bell, Maintenance};
use manifest::{Manifest, Sealed};
pub use read_only::ReadOnlyLog;
use reading::Reading;
use recovery::Judgement;
use scan::Boundary;
pub use scrub::{ScrubOptions, Scrubbed};
use supply::{Supply, not_written};
pub use view::{LogView, SegmentState, SegmentSummary, Verification};
use writer::{AppendFailure, Writer};

/// How a log is opened. The defaults are right for almost everybody.
#[derive(Clone, Debug)]
pub struct SegmentedOptions {
    /// Bytes of the first segment; each further one is four times as long, up to `segment_bytes_max`.
    pub segment_bytes_min: u64,
    /// Bytes of a segment, unless a single commit part needs a longer one.
    pub segment_bytes_max: u64,
    /// Appends are refused while the disk has less free space than this: what reads and recovery need must still fit.
    pub free_bytes_min: u64,
    /// Bytes of the newest commits that are kept in memory for readers.
    pub tail_bytes_max: usize,
    /// What others prove to have been durable: of which log, up to which LSN. A log that ends before it is damaged.
    pub witnesses: Vec<(LogId, Lsn)>,
    /// What the lock file says of its holder, for people who meet it.
    pub owner: String,
    /// How sealed segments are read again, to find what rots; `None`: not by itself.
    pub scrub: Option<ScrubOptions>,
    /// Whether a thread maintains the log. Without one its owner calls [`SegmentedLog::maintain`].
    pub is_self_maintained: bool,
}

impl Default for SegmentedOptions {
    fn default() -> Self {
        Self {
            segment_bytes_min: 1024 * 1024,
            segment_bytes_max: 64 * 1024 * 1024,
            free_bytes_min: 256 * 1024 * 1024,
            tail_bytes_max: 16 * 1024 * 1024,
            witnesses: Vec::new(),
            owner: format!("process {}", std::process::id()),
            scrub: Some(ScrubOptions::default()),
            is_self_maintained: true,
        }
    }
}

/// A log in a directory, open for writing.
///
/// Dropping it releases the directory, as a kill would; [`SegmentedLog::close`] also records that nothing is missing.
pub struct SegmentedLog {
    shared: Arc<Shared>,
    maintenance: Option<Maintenance>,
    scrubber: Option<Background>,
    lock: Box<dyn DiskLock>,
}

/// What the writer, readers and maintenance share.
struct Shared {
    env: Env,
    options: SegmentedOptions,
    reading: Arc<Reading>,
    epoch: Epoch,
    writing: Mutex<Writing>,
    supply: Mutex<Supply>,
    trimming: Mutex<()>,
    is_space_low: AtomicBool,
    bell: Bell,
    scrubbed: Mutex<Scrubbed>,
    meter: LogMeter,
}

/// What was written, and how long it took.
#[derive(Debug, Default)]
pub struct LogMeter {
    /// Syncs that made commits durable, in microseconds.
    pub sync_micros: Histogram,
    /// Bytes of frames that were appended.
    pub appended_bytes: Counter,
}

/// The end of the log, under one lock: an append, a sync and a mark exclude one another.
struct Writing {
    writer: Writer,
    /// Appended and not yet durable.
    pending: Vec<Arc<EncodedCommit>>,
    /// The highest synced LSN that a frame on its way to the disk tells.
    told: Lsn,
    synced_at: Duration,
}

impl SegmentedLog {
    /// Opens the log in `path` for writing, beginning one where there is none, and recovers what a crash left.
    ///
    /// # Errors
    /// [`LogError::Locked`], [`LogError::Damaged`] (nothing was changed then), [`LogError::Newer`], [`LogError::NotWritten`] when
    /// there is no space to begin, [`LogError::Io`].
    pub fn open(env: &Env, path: &Path, options: SegmentedOptions) -> Result<Self, LogError> {
        Self::open_judging(env, path, options, Judgement::Specified)
    }

    fn open_judging(env: &Env, path: &Path, options: SegmentedOptions, judgement: Judgement) -> Result<Self, LogError> {
        let directory = Directory { disk: Arc::clone(&env.disk), path: path.to_owned() };
        directory.disk.create_dir(path).map_err(directory.failed("create", path))?;
        let lock = Self::lock(env, path, &options.owner)?;
        let shared = Arc::new(Shared::open(env, directory, options, judgement)?);
        let maintenance = shared.options.is_self_maintained.then(|| Maintenance::start(&shared));
        let scrub = shared.options.scrub.filter(|_| shared.options.is_self_maintained);
        let scrubber = scrub.and_then(|options| scrub::start(&shared, options));
        Ok(Self { shared, maintenance, scrubber, lock })
    }

    /// Locks the directory of a log, as an opening for writing does, until what is returned is dropped; `owner` is what others read who
    /// meet the lock.
    ///
    /// # Errors
    /// [`LogError::Locked`], [`LogError::Io`].
    pub fn lock(env: &Env, path: &Path, owner: &str) -> Result<Box<dyn DiskLock>, LogError> {
        let path = Directory { disk: Arc::clone(&env.disk), path: path.to_owned() }.lock_path();
        env.disk.lock(&path, owner).map_err(|error| match error {
            LockError::Held { holder } => LogError::Locked { path, holder },
            LockError::Io(source) => LogError::Io { action: "lock", path, source },
        })
    }

    /// Replaces what the lock file says of its holder: its address, once it listens.
    pub fn note_owner(&self, owner: &str) {
        self.lock.note(owner);
    }

    /// Does what is due beside the commit path: prepares the next segment, writes the manifest, marks an idle log.
    ///
    /// # Errors
    /// [`LogError::Io`] and [`LogError::NotWritten`]; the log goes on, and the next call tries again.
    pub fn maintain(&self) -> Result<(), LogError> {
        self.shared.maintain()
    }

    /// Reads every sealed segment again, as fast as it goes, and tells what was found by this and by earlier passes. Damage is told,
    /// and stays until it is put right: reads of what is damaged fail, everything else goes on.
    ///
    /// # Errors
    /// [`LogError::Io`] when a segment cannot be read at all.
    pub fn scrub(&self) -> Result<Scrubbed, LogError> {
        self.shared.scrub(|_| ControlFlow::Continue(()))
    }

    /// What reading sealed segments again has found so far.
    #[must_use]
    pub fn scrubbed(&self) -> Scrubbed {
        self.shared.scrubbed().clone()
    }

    /// What was written, and how long it took.
    #[must_use]
    pub fn meter(&self) -> &LogMeter {
        &self.shared.meter
    }

    /// The segments, rising: those that are kept, and those prepared ahead.
    ///
    /// # Errors
    /// [`LogError::Io`], also when one was trimmed away meanwhile.
    pub fn segments(&self) -> Result<Vec<SegmentSummary>, LogError> {
        self.shared.segments()
    }

    /// Begins a backup of everything that is durable now; commits go on meanwhile.
    ///
    /// # Errors
    /// [`LogError::Poisoned`], [`LogError::TrimmedMeanwhile`], [`LogError::Io`].
    pub fn backup(&self) -> Result<BackupReader, LogError> {
        self.shared.begin_backup()
    }

    /// Closes the log so that its end is known: a later opening that finds less refuses.
    ///
    /// # Errors
    /// [`LogError::Poisoned`], [`LogError::Io`]. The log is released all the same; what was durable stays so.
    pub fn close(mut self) -> Result<(), LogError> {
        (self.maintenance, self.scrubber) = (None, None);
        self.make_durable()?;
        self.shared.mark()?;
        let appended = {
            let writing = self.shared.writing();
            writing.writer.sync().map_err(|error| self.shared.reading.poison_with(&error))?;
            writing.writer.appended()
        };
        let mut supply = self.shared.supply();
        supply.manifest.clean = Some(appended);
        supply.manifest.store(&self.shared.reading.directory)
    }
}

impl Shared {
    fn open(
        env: &Env,
        directory: Directory,
        options: SegmentedOptions,
        judgement: Judgement,
    ) -> Result<Self, LogError> {
        directory.check_finished()?;
        let (mut present, generations) = directory.list()?;
        let mut manifest = match Manifest::load(&directory, &generations)? {
            Some(manifest) => manifest,
            None => {
                refuse_orphans(&directory, &present, &generations)?;
                let manifest = begin(env, &directory, &options)?;
                present = vec![manifest.active];
                manifest
            }
        };
        let identity = manifest.identity();
        let witness = manifest.proven(|log| options.witness_of(log));
        let tail = recovery::find_tail(&directory, identity, &manifest, &present, witness, judgement)?;
        recovery::settle(&directory, &tail)?;
        let mut ready = VecDeque::new();
        for segment in &tail.segments {
            if tail.active.is_none_or(|active| segment.id > active.id)
                && tail.sealed.is_none_or(|sealed| segment.id > sealed.segment)
            {
                let file = directory.open(&directory.segment_path(segment.id), Access::ReadWrite)?;
                ready.push_back(Prepared { id: segment.id, file, bytes: segment.bytes });
            }
        }
        let last = tail.segments.last().map(|segment| segment.id).max(manifest.sealed.map(|sealed| sealed.segment));
        let next = last.map_or(manifest.first, SegmentId::next);
        let mut supply = Supply { ready, next, spares: Vec::new(), manifest: manifest.clone() };
        let (active, at) = match tail.active {
            Some(active) => {
                let file = directory.open(&directory.segment_path(active.id), Access::ReadWrite)?;
                let bytes =
                    tail.segments.iter().find(|segment| segment.id == active.id).map_or(0, |segment| segment.bytes);
                (Prepared { id: active.id, file, bytes }, active.at)
            }
            None => {
                supply.prepare(&directory, identity, &[options.segment_bytes(supply.first_ready())])?;
                let active = supply.ready.pop_front().expect("a segment was just prepared");
                let checksum = tail.sealed.map_or(0, |sealed| sealed.checksum);
                (active, Boundary { offset: SEGMENT_HEADER_BYTES, checksum, frames: 0 })
            }
        };
        let mut written = vec![0; (at.offset - SEGMENT_HEADER_BYTES) as usize];
        let active_path = directory.segment_path(active.id);
        active.file.read_at(&mut written, SEGMENT_HEADER_BYTES).map_err(directory.failed("read", &active_path))?;
        manifest.epoch = tail.epoch.next();
        manifest.sealed = tail.sealed;
        manifest.active = active.id;
        manifest.clean = None;
        if manifest.is_backup {
            manifest.begin_own(LogId::from_bytes(env.entropy.draw()), tail.complete);
            // An older generation would make another log of it.
            manifest.store_in_all_generations(&directory)?;
        } else {
            manifest.store(&directory)?;
        }
        directory.tidy(manifest.first, manifest.base);
        let (epoch, durable_end) = (manifest.epoch, (active.id, at.offset));
        let (index, tail_bytes) = (tail.index(), options.tail_bytes_max);
        let reading = Reading::new(directory, index, tail_bytes, tail.complete, durable_end, &manifest);
        supply.manifest = manifest;
        let writer = Writer::new(identity, epoch, active, at, &written, tail.complete);
        let told = tail.synced;
        let synced_at = env.clock.monotonic();
        let shared = Self {
            env: env.clone(),
            reading: Arc::new(reading),
            epoch,
            writing: Mutex::new(Writing { writer, pending: Vec::new(), told, synced_at }),
            supply: Mutex::new(supply),
            trimming: Mutex::new(()),
            is_space_low: AtomicBool::new(false),
            bell: Bell::default(),
            scrubbed: Mutex::default(),
            meter: LogMeter::default(),
            options,
        };
        Ok(shared)
    }

    fn writing(&self) -> MutexGuard<'_, Writing> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn supply(&self) -> MutexGuard<'_, Supply> {
        self.supply.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append_failed(&self, failure: AppendFailure) -> LogError {
        match failure {
            AppendFailure::TakenBack(error) => LogError::NotWritten { reason: NotWritten::from_io(&error) },
            AppendFailure::Unknown(error) => self.reading.poison_with(&error),
        }
    }

    fn append(&self, epoch: Epoch, after: Lsn, group: &Group) -> Result<(), LogError> {
        self.reading.check_poison()?;
        let mut writing = self.writing();
        group.check_append(epoch, self.epoch, after, writing.writer.appended())?;
        if group.commits.is_empty() {
            return Ok(());
        }
        self.check_space()?;
        // The supply is touched only when the segment is about to be full: preparing one takes its lock for long.
        let mut taken = VecDeque::new();
        if !writing.writer.has_room_for(group) {
            let mut supply = self.supply();
            let ready: Vec<_> = supply.ready.iter().map(|segment| segment.bytes).collect();
            let needed = writing.writer.plan(group, &ready, |id| self.options.segment_bytes(id));
            supply.prepare(&self.reading.directory, self.reading.identity, &needed)?;
            taken.extend(supply.ready.drain(..needed.len()));
        }
        let (segment, place) = (writing.writer.active(), Place { complete: after, offset: writing.writer.offset() });
        let synced = *self.reading.durable.borrow();
        let outcome = writing.writer.append(group, synced, &mut taken);
        if !taken.is_empty() {
            let mut supply = self.supply();
            taken.into_iter().rev().for_each(|segment| supply.ready.push_front(segment));
        }
        outcome.map_err(|failure| self.append_failed(failure))?;
        self.reading.index().learn(segment, place);
        let parts = group.commits.iter().flat_map(EncodedCommit::part_lengths);
        self.meter.appended_bytes.add(parts.map(frame_bytes).sum());
        writing.told = synced;
        writing.pending.extend(group.commits.iter().cloned().map(Arc::new));
        if writing.writer.active() != segment {
            self.bell.ring();
        }
        Ok(())
    }

    fn make_durable(&self) -> Result<Lsn, LogError> {
        self.reading.check_poison()?;
        let mut writing = self.writing();
        let appended = writing.writer.appended();
        if writing.pending.is_empty() {
            return Ok(appended);
        }
        let begun = self.env.clock.monotonic();
        writing.writer.sync().map_err(|error| self.reading.poison_with(&error))?;
        writing.synced_at = self.env.clock.monotonic();
        self.meter.sync_micros.note_micros(writing.synced_at.saturating_sub(begun));
        *self.reading.durable_end() = (writing.writer.active(), writing.writer.offset());
        {
            let mut tail = self.reading.tail();
            writing.pending.drain(..).for_each(|commit| tail.push(commit));
        }
        self.reading.announce(|durable| *durable = appended);
        drop(writing);
        self.bell.ring_if_idle();
        Ok(appended)
    }

    /// Refuses an append while the disk is nearly full. Looks at the disk only when it was so the last time.
    fn check_space(&self) -> Result<(), LogError> {
        if !self.is_space_low.load(Ordering::Acquire) || !self.look_at_space()? {
            return Ok(());
        }
        let minimum = self.options.free_bytes_min;
        let reason = NotWritten::NoSpace(format!("fewer than {minimum} bytes are free").into());
        Err(LogError::NotWritten { reason })
    }

    fn look_at_space(&self) -> Result<bool, LogError> {
        let path = &self.reading.directory.path;
        let free = self
            .reading
            .directory
            .disk
            .free_bytes(path)
            .map_err(self.reading.directory.failed("look at the space of", path))?;
        let is_low = free < self.options.free_bytes_min;
        self.is_space_low.store(is_low, Ordering::Release);
        Ok(is_low)
    }

    fn maintain(&self) -> Result<(), LogError> {
        self.reading.check_poison()?;
        let is_space_low = self.look_at_space()?;
        let mut supply = self.supply();
        if supply.ready.is_empty() && !is_space_low {
            let length = self.options.segment_bytes(supply.next);
            supply.prepare(&self.reading.directory, self.reading.identity, &[length])?;
        }
        drop(supply);
        // The writer's lock comes before the supply's.
        let (sealed, active) = {
            let writing = self.writing();
            (writing.writer.sealed(), writing.writer.active())
        };
        let mut supply = self.supply();
        let is_news = |sealed: &Sealed| supply.manifest.sealed.is_none_or(|known| known.segment < sealed.segment);
        if let Some(sealed) = sealed.filter(is_news) {
            let mut manifest = Manifest { sealed: Some(sealed), active, ..supply.manifest.clone() };
            manifest.store(&self.reading.directory)?;
            supply.manifest = manifest;
        }
        drop(supply);
        if self.is_mark_due() {
            self.mark()?;
        }
        Ok(())
    }

    fn segments(&self) -> Result<Vec<SegmentSummary>, LogError> {
        let directory = &self.reading.directory;
        // In this order: one that comes into use in between is among those up to the active one.
        let ready: Vec<_> = self.supply().ready.iter().map(|segment| segment.id).collect();
        let active = self.writing().writer.active();
        let used = (self.reading.first_segment().value()..=active.value()).map(SegmentId::new);
        used.chain(ready.into_iter().filter(|id| *id > active))
            .map(|id| {
                let path = directory.segment_path(id);
                let bytes = directory.open(&path, Access::Read)?.byte_len();
                let bytes = bytes.map_err(directory.failed("look at", &path))?;
                let (state, first) = match id.cmp(&active) {
                    std::cmp::Ordering::Less => (SegmentState::Sealed, self.reading.complete_before(id)?),
                    std::cmp::Ordering::Equal => (SegmentState::Active, self.reading.complete_before(id)?),
                    std::cmp::Ordering::Greater => (SegmentState::Prepared, None),
                };
                Ok(SegmentSummary { id, bytes, state, first: first.map(|(complete, _)| complete.next()) })
            })
            .collect()
    }

    fn has_told_all(&self) -> bool {
        self.writing().told >= *self.reading.durable.borrow()
    }

    /// Whether the log has been idle for a while since a sync that no frame tells of.
    fn is_mark_due(&self) -> bool {
        let writing = self.writing();
        let idle = self.env.clock.monotonic().saturating_sub(writing.synced_at);
        writing.pending.is_empty() && writing.told < *self.reading.durable.borrow() && idle >= MARK_AFTER_IDLE
    }

    fn mark(&self) -> Result<(), LogError> {
        let mut writing = self.writing();
        let synced = *self.reading.durable.borrow();
        if !writing.pending.is_empty() || writing.told >= synced {
            return Ok(());
        }
        writing.writer.mark(synced).map_err(|failure| self.append_failed(failure))?;
        writing.told = synced;
        Ok(())
    }
}

impl CommitLog for SegmentedLog {
    fn id(&self) -> LogId {
        self.shared.reading.log
    }

    fn parents(&self) -> &[Parent] {
        &self.shared.reading.parents
    }

    fn epoch(&self) -> Epoch {
        self.shared.epoch
    }

    fn appended(&self) -> Lsn {
        self.shared.writing().writer.appended()
    }

    fn durable(&self) -> watch::Receiver<Lsn> {
        self.shared.reading.durable.clone()
    }

    fn earliest(&self) -> Lsn {
        self.shared.reading.earliest()
    }

    fn append(&self, epoch: Epoch, after: Lsn, group: &Group) -> Result<(), LogError> {
        self.shared.append(epoch, after, group)
    }

    fn make_durable(&self) -> Result<Lsn, LogError> {
        self.shared.make_durable()
    }

    fn read_after(&self, after: Lsn) -> Result<LogReader, LogError> {
        Reading::read_after(&self.shared.reading, after)
    }

    fn bytes_after(&self, after: Lsn) -> Result<u64, LogError> {
        self.shared.reading.bytes_after(after)
    }

    fn base(&self) -> Option<Lsn> {
        *self.shared.reading.base()
    }

    fn read_base(&self) -> Result<Option<BaseReader>, LogError> {
        self.shared.reading.read_base()
    }

    fn begin_base(&self, header: BaseHeader) -> Result<BaseWriter, LogError> {
        self.shared.reading.check_poison()?;
        let (after, durable) = (header.lsn, *self.shared.reading.durable.borrow());
        if after > durable {
            return Err(LogError::BeyondDurable { after, durable });
        }
        Ok(BaseWriter::new(header, Box::new(BaseFileSink::create(&self.shared, header.lsn)?)))
    }

    fn earliest_behind(&self, to: Lsn) -> Result<Lsn, LogError> {
        self.shared.earliest_behind(to)
    }

    fn trim(&self, to: Lsn) -> Result<Lsn, LogError> {
        self.shared.trim(to)
    }
}

impl Drop for SegmentedLog {
    fn drop(&mut self) {
        (self.maintenance, self.scrubber) = (None, None);
        // Files of trimmed segments that did not become segments again: what is left of them goes with the next opening.
        for (spare, _) in self.shared.supply().spares.drain(..) {
            let _ = self.shared.reading.directory.disk.remove(&spare);
        }
        // Readers may outlive the log: they come to its end.
        self.shared.reading.close();
    }
}

impl std::fmt::Debug for SegmentedLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SegmentedLog {} in {}", self.shared.reading.log, self.shared.reading.directory.path.display())
    }
}

impl SegmentedOptions {
    /// The highest LSN of `log` that a witness tells.
    fn witness_of(&self, log: LogId) -> Lsn {
        proven_by(&self.witnesses, log)
    }

    fn segment_bytes(&self, id: SegmentId) -> u64 {
        let doublings = u32::try_from(id.value().saturating_sub(1).saturating_mul(2)).unwrap_or(u32::MAX).min(32);
        self.segment_bytes_min.saturating_mul(1 << doublings).min(self.segment_bytes_max)
    }
}

impl NotWritten {
    fn from_io(error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Self::NoSpace(error.to_string().into())
            }
            _ => Self::Io(error.to_string().into()),
        }
    }
}

/// The highest LSN of `log` that any of the witnesses tells.
fn proven_by(witnesses: &[(LogId, Lsn)], log: LogId) -> Lsn {
    let told = witnesses.iter().filter(|(witnessed, _)| *witnessed == log).map(|(_, lsn)| *lsn);
    told.max().unwrap_or(Lsn::ORIGIN)
}

/// Without a manifest there may be what a crash left of a log that was just beginning, and nothing else.
fn refuse_orphans(directory: &Directory, present: &[SegmentId], generations: &[u64]) -> Result<(), LogError> {
    let is_beginning = generations.is_empty() && present.iter().all(|id| id.value() == 1);
    let has_frames = || -> Result<bool, LogError> {
        let Some(id) = present.first() else { return Ok(false) };
        let contents = directory.read(&directory.segment_path(*id))?;
        let frames = contents.get(SEGMENT_HEADER_BYTES as usize..).unwrap_or_default();
        Ok(frames.iter().any(|byte| *byte != 0))
    };
    if is_beginning && !has_frames()? {
        return Ok(());
    }
    let what = "no manifest is readable, though there are segments or manifests".to_owned();
    let segment = present.first().copied().unwrap_or_default();
    let (first, last) = (Lsn::ORIGIN.next(), Lsn::ORIGIN.next());
    Err(crate::error::Damage { what, segment, bytes: 0..0, first, last }.into())
}

/// Begins a log: its first segment, then its first manifest. A crash between the two leaves a segment without frames.
fn begin(env: &Env, directory: &Directory, options: &SegmentedOptions) -> Result<Manifest, LogError> {
    let identity = Identity { log: LogId::from_bytes(env.entropy.draw()), salt: env.entropy.draw() };
    let mut manifest = Manifest::new(identity);
    let first = manifest.first;
    directory.prepare_segment(identity, first, options.segment_bytes(first), None).map_err(not_written)?;
    manifest.store(directory)?;
    Ok(manifest)
}

const MARK_AFTER_IDLE: Duration = Duration::from_millis(50);
