//! The sequencer: the single owner of the order of commits.
//!
//! ```text
//!  writers ──(1) resolve──▶ keeper of the rows: what do you know of these keys?
//!     │
//!     └─────(2) accept───▶ core (under a lock, no I/O): conditions against answers and recent writes → stamp
//!                            │ pending
//!                            ▼
//!  one thread: (3) append the group ─▶ (4) one sync ─▶ (5) apply ─▶ (6) visible moves ─▶ (7) replies
//! ```
//!
//! While a group is being synced, the next one gathers. A stamp is provisional until its group is durable: when a group provably was
//! not written, it and everything accepted after it end *not committed*, and their LSNs are given again.

mod core;
mod keeper;
mod outcome;
mod pipeline;
#[cfg(test)]
mod tests;
mod verdict;
mod window;
mod write_set;

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit, watch};

use self::core::{Answer, Core, LargeObjection, Objection, Resolved, judge};
use self::outcome::block_on;
use self::pipeline::CommitThread;
use self::verdict::{GroupEnd, Teller, Verdict};
use crate::commit::{CHANGE_BYTES_MAX, CommitBody};
use crate::commit_log::CommitLog;
use crate::env::Clock;
use crate::error::LogError;
use crate::key::KEY_BYTES_MAX;
use crate::meter::{Counter, Histogram};
use crate::position::{CommitTime, Lsn, RowId, StorageId};

pub use self::core::{RecentSequences, Refusal, SEQUENCES_KEPT, Stamp};
pub use self::keeper::{Applier, Keeper, KeeperError};
pub use self::outcome::{Accepted, Acknowledgement, Chain, CommitError, Receipt};
pub use self::pipeline::Pipeline;
pub use self::write_set::{
    CATALOG_SPACE, Durability, KeyName, KeyRange, KeySeen, KeyWrite, LargeKeys, LargeWrites, Precondition, TellKey,
    WriteSet, catalog_definitions, catalog_index_key, catalog_key, catalog_name_key, catalog_object,
};

/// A buffered commit is synced at most this much later.
pub const BUFFERED_DELAY_MAX: Duration = Duration::from_millis(10);
/// A deferred commit is synced at most this much later.
pub const DEFERRED_DELAY_MAX: Duration = Duration::from_secs(1);

/// Bounds of a sequencer.
#[derive(Clone, Debug)]
pub struct SequencerOptions {
    /// A larger write set is refused.
    pub transaction_bytes_max: usize,
    /// Bytes of write sets that may wait for the log; who comes then waits before being accepted.
    pub pending_bytes_max: usize,
    /// How many applied writes are remembered for conditions on ranges.
    pub window_entries_max: usize,
}

impl Default for SequencerOptions {
    fn default() -> Self {
        Self {
            transaction_bytes_max: 1024 * 1024 * 1024,
            pending_bytes_max: 64 * 1024 * 1024,
            window_entries_max: 256 * 1024,
        }
    }
}

/// The sequencer of a log. Cheap to clone; the commit thread ends when the last clone is dropped or with [`Sequencer::stop`].
#[derive(Clone)]
pub struct Sequencer {
    shared: Arc<Shared>,
    thread: Option<Arc<CommitThread>>,
}

struct Shared {
    log: Arc<dyn CommitLog>,
    keeper: Arc<dyn Keeper>,
    clock: Arc<dyn Clock>,
    options: SequencerOptions,
    state: Mutex<State>,
    /// Something is pending, or the state has changed.
    wake: Condvar,
    /// Room for pending bytes, in units of [`ROOM_UNIT_BYTES`].
    room: Semaphore,
    visible: watch::Sender<Lsn>,
    /// Why nothing can go on, once it cannot.
    poison: OnceLock<Arc<str>>,
    meter: CommitMeter,
}

/// What was committed, and how long it took.
#[derive(Debug, Default)]
pub struct CommitMeter {
    /// Commits that became durable.
    pub commits: Counter,
    /// Their changes.
    pub changes: Counter,
    /// Commits of a group, which one sync covers.
    pub group_commits: Histogram,
    /// From a commit's acceptance to its visibility, in microseconds.
    pub commit_micros: Histogram,
    /// What of that went to folding a group, in microseconds.
    pub apply_micros: Histogram,
}

struct State {
    core: Core,
    /// The group that gathers.
    pending: Vec<Pending>,
    teller: Teller,
    /// The group before it, and its last commit.
    before: (Lsn, Arc<Verdict>),
    /// When what is pending is to be synced at the latest, if no synced commit is among it; on the monotonic clock.
    sync_due: Option<Duration>,
    is_sync_wanted: bool,
    /// The group before was one commit, and was quickly done; nothing had gathered until then.
    is_quiet: bool,
    stopped: Option<Arc<str>>,
    is_closing: bool,
    /// Another one with each commit that is taken back ([`Chain`]).
    run: u64,
}

struct Pending {
    commit: CommitBody,
    room: usize,
    /// On the monotonic clock.
    accepted_at: Duration,
}

impl Sequencer {
    /// Starts the sequencer behind what `keeper` has applied, which must be everything durable in `log`. The commit thread runs
    /// until the last clone is dropped.
    ///
    /// # Errors
    /// [`LogError`] when the last commit cannot be read.
    pub fn start(
        log: Arc<dyn CommitLog>,
        keeper: Arc<dyn Keeper>,
        applier: Box<dyn Applier>,
        clock: Arc<dyn Clock>,
        options: SequencerOptions,
    ) -> Result<Self, LogError> {
        let (sequencer, pipeline) = Self::without_thread(log, keeper, applier, clock, options)?;
        let thread = CommitThread::start(pipeline).map_err(|source| LogError::Io {
            action: "start the thread of",
            path: "the sequencer".into(),
            source,
        })?;
        Ok(Self { thread: Some(Arc::new(thread)), ..sequencer })
    }

    /// The sequencer and its pipeline, for a caller that runs the pipeline itself: a simulation.
    ///
    /// # Errors
    /// As [`Sequencer::start`].
    pub fn without_thread(
        log: Arc<dyn CommitLog>,
        keeper: Arc<dyn Keeper>,
        applier: Box<dyn Applier>,
        clock: Arc<dyn Clock>,
        options: SequencerOptions,
    ) -> Result<(Self, Pipeline), LogError> {
        let stamp = last_stamp(&*log)?;
        assert_eq!(keeper.applied(), stamp.lsn, "writes start when everything durable is applied");
        let state = State {
            core: Core::new(stamp, options.window_entries_max),
            pending: Vec::new(),
            teller: Teller::default(),
            before: (stamp.lsn, Verdict::told(GroupEnd::Durable { applied: stamp.lsn, unread: None })),
            sync_due: None,
            is_sync_wanted: false,
            is_quiet: false,
            stopped: None,
            is_closing: false,
            run: 0,
        };
        let shared = Arc::new(Shared {
            log,
            keeper,
            clock,
            state: Mutex::new(state),
            wake: Condvar::new(),
            room: Semaphore::new(options.pending_bytes_max.div_ceil(ROOM_UNIT_BYTES)),
            visible: watch::Sender::new(stamp.lsn),
            poison: OnceLock::new(),
            meter: CommitMeter::default(),
            options,
        });
        let pipeline = Pipeline { shared: Arc::clone(&shared), applier };
        Ok((Self { shared, thread: None }, pipeline))
    }

    /// The high-water mark: durable and applied. It never goes back.
    #[must_use]
    pub fn visible(&self) -> watch::Receiver<Lsn> {
        self.shared.visible.subscribe()
    }

    /// Commits a write set. Reads the rows that its conditions name on the calling thread.
    ///
    /// A small one of a writer who has been alone, on a disk that syncs quickly, is appended, synced and applied by the calling
    /// thread, which that blocks as long as it takes (the one before took 2 ms at most): a switch to the commit thread and back takes as
    /// long as a quick sync. Everything else is committed by the commit thread, and waited for without blocking.
    ///
    /// Dropping the future before it is ready leaves the outcome open: the write set may be committed.
    ///
    /// # Errors
    /// [`CommitError`]; each says whether it happened.
    pub async fn commit(&self, set: WriteSet) -> Result<Acknowledgement, CommitError> {
        let durability = set.durability;
        let is_small = set.large.is_none() && set.byte_len() <= CALLER_BYTES_MAX;
        let drive = if is_small && self.thread.is_some() { Drive::WhoeverIsAlone } else { Drive::Thread };
        let accepted = self.submit(set, drive, None).await?;
        if let (true, Some(thread)) = (accepted.is_left_to_caller, &self.thread) {
            thread.drive();
        }
        match durability {
            Durability::Buffered | Durability::Deferred => Ok(Acknowledgement::Buffered(accepted)),
            Durability::Synced => accepted.wait().await.map(Acknowledgement::Committed),
        }
    }

    /// Commits a write set like [`Sequencer::commit`], blocking the thread until it is done.
    ///
    /// # Errors
    /// As [`Sequencer::commit`].
    pub fn commit_blocking(&self, set: WriteSet) -> Result<Acknowledgement, CommitError> {
        let Some(thread) = self.thread.as_ref().filter(|_| set.durability == Durability::Synced) else {
            return block_on(self.commit(set));
        };
        let accepted = block_on(self.submit(set, Drive::Caller, None))?;
        thread.drive();
        accepted.wait_blocking().map(Acknowledgement::Committed)
    }

    /// Has a write set ordered and returns, blocking the thread only while there is no room. The commit thread commits it; what it was
    /// computed from may be commits that were accepted before and are not visible yet, if it is ordered `behind` the last of them:
    /// when one of those is taken back, this one is not accepted. Who names a chain has seen all commits of it, each ordered behind the
    /// one before.
    ///
    /// # Errors
    /// As [`Sequencer::commit`]; [`CommitError::NotCommitted`] when the chain is broken.
    pub fn submit_behind(&self, set: WriteSet, behind: Option<Chain>) -> Result<Accepted, CommitError> {
        block_on(self.submit(set, Drive::Thread, behind))
    }

    /// Stops accepting writes for good, for this reason; commits what is pending, and ends the commit thread's work.
    pub fn stop(&self, cause: &str) {
        let mut state = self.shared.state();
        state.is_closing = true;
        state.stopped.get_or_insert_with(|| cause.into());
        drop(state);
        self.shared.wake.notify_all();
    }

    /// Has what is pending synced now.
    pub fn sync_pending(&self) {
        self.shared.state().is_sync_wanted = true;
        self.shared.wake.notify_one();
    }

    /// Accepts writes again after the keeper had failed and has caught up with everything durable. `false`: commits are still on
    /// their way, or the keeper has not caught up, or the database is closing; nothing has changed.
    #[must_use]
    pub fn resume(&self) -> bool {
        let mut state = self.shared.state();
        let durable = *self.shared.log.durable().borrow();
        if state.is_closing || state.core.accepted() != durable || self.shared.keeper.applied() != durable {
            return false;
        }
        // What writers resolved before may have been read while the keeper was behind.
        state.core.restart_at(durable);
        state.run += 1;
        state.stopped = None;
        self.shared.visible.send_replace(durable);
        true
    }

    /// Accepts no writes until [`Sequencer::resume`]: the keeper is about to be mended.
    pub fn pause(&self, cause: &str) {
        self.shared.state().stopped.get_or_insert_with(|| cause.into());
    }

    /// Why no writes are accepted, if so.
    #[must_use]
    pub fn stopped(&self) -> Option<Arc<str>> {
        self.shared.state().stopped.clone()
    }

    /// What was committed, and how long it took.
    #[must_use]
    pub fn meter(&self) -> &CommitMeter {
        &self.shared.meter
    }

    /// Commits that were accepted and wait for the log, and about how many bytes wait, or are on their way into it.
    #[must_use]
    pub fn pending(&self) -> (usize, usize) {
        let all = self.shared.options.pending_bytes_max.div_ceil(ROOM_UNIT_BYTES);
        let commits = self.shared.state().pending.len();
        (commits, (all - self.shared.room.available_permits().min(all)) * ROOM_UNIT_BYTES)
    }

    /// The log that it orders.
    #[must_use]
    pub fn log(&self) -> &dyn CommitLog {
        &*self.shared.log
    }

    /// A larger write set is refused.
    #[must_use]
    pub fn transaction_bytes_max(&self) -> usize {
        self.shared.options.transaction_bytes_max
    }

    /// Why the log is poisoned, or who commits has panicked, if so: what is known ends before that, and the database must be opened
    /// again.
    #[must_use]
    pub fn poisoned(&self) -> Option<&Arc<str>> {
        self.shared.poison.get()
    }

    /// Has a write set ordered; the answer tells what becomes of it.
    async fn submit(&self, set: WriteSet, drive: Drive, behind: Option<Chain>) -> Result<Accepted, CommitError> {
        let bytes = set.byte_len();
        let max = self.shared.options.transaction_bytes_max;
        let longest_name = set.changes.iter().map(crate::Change::name_len).max().unwrap_or(0);
        if longest_name > KEY_BYTES_MAX {
            return Err(CommitError::TooLarge { bytes: longest_name, max: KEY_BYTES_MAX });
        }
        let longest = set.changes.iter().map(crate::Change::byte_len).max().unwrap_or(0);
        if bytes > max || longest > CHANGE_BYTES_MAX {
            return Err(CommitError::TooLarge { bytes, max: max.min(CHANGE_BYTES_MAX) });
        }
        let all = self.shared.options.pending_bytes_max.div_ceil(ROOM_UNIT_BYTES);
        // Who takes all room goes alone.
        let bytes_asked = if set.large.is_some() { usize::MAX } else { bytes };
        let units = u32::try_from(bytes_asked.div_ceil(ROOM_UNIT_BYTES).clamp(1, all)).unwrap_or(u32::MAX);
        // Before others have to wait for it. What it objects to is found again, unless it is a retry.
        let seen = set.seen_at.unwrap_or(Lsn::ORIGIN);
        let keys_seen = self.shared.look_at_keys(&set, seen).unwrap_or(seen);
        if set.large.is_some() {
            // What waits for somebody else's sync holds room.
            self.sync_pending();
        }
        let room = self.shared.room.acquire_many(units).await;
        let room = room.map_err(|_| {
            let cause = self.stopped().unwrap_or_else(|| "the database is closing".into());
            if set.producer.is_some() { CommitError::Unknown { cause } } else { CommitError::Stopped { cause } }
        })?;
        self.shared.accept(set, keys_seen, room, drive, behind)
    }
}

/// Who commits a write set that was just accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drive {
    /// The commit thread, which is woken.
    Thread,
    /// The caller, who sees to it.
    Caller,
    /// The caller, if he has been alone and is now; else the commit thread.
    WhoeverIsAlone,
}

/// What becomes of an accepted write set.
type Outcome = Result<Receipt, CommitError>;

impl State {
    /// A retry of commit `lsn` is answered at once when that is visible, else with it.
    fn await_first(&self, lsn: Lsn) -> Accepted {
        let verdict = if lsn <= self.core.applied() {
            Verdict::told(GroupEnd::Durable { applied: lsn, unread: None })
        } else if lsn <= self.before.0 {
            Arc::clone(&self.before.1)
        } else {
            Arc::clone(self.teller.verdict())
        };
        // What lies between is not seen.
        let chain = Chain { run: Some(self.run), seen: Lsn::ORIGIN };
        Accepted { lsn, first_row: None, is_duplicate: true, chain, verdict, is_left_to_caller: false }
    }

    /// The group that has gathered, and who tells how it ends; another one begins.
    fn take_group(&mut self) -> (Vec<Pending>, Teller) {
        let (pending, teller) = (std::mem::take(&mut self.pending), std::mem::take(&mut self.teller));
        // Until it is done nobody knows how long that takes.
        self.is_quiet = false;
        self.before = (self.core.accepted(), Arc::clone(teller.verdict()));
        (pending, teller)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| {
            // Somebody panicked in the middle of a decision: what the state says cannot be trusted to decide more.
            let mut state = poisoned.into_inner();
            state.stopped.get_or_insert_with(|| "an earlier decision ended in a panic".into());
            state
        })
    }

    fn accept(
        &self,
        set: WriteSet,
        mut keys_seen: Lsn,
        room: SemaphorePermit<'_>,
        drive: Drive,
        behind: Option<Chain>,
    ) -> Result<Accepted, CommitError> {
        // A write set that names its producer may be the retry of one that stands: while that cannot be told, the outcome is unknown.
        let is_numbered = set.producer.is_some();
        let stopped = |cause: Arc<str>| match is_numbered {
            true => CommitError::Unknown { cause },
            false => CommitError::Stopped { cause },
        };
        let mut attempt = 0;
        loop {
            attempt += 1;
            let keys_asked = RANGE_KEYS_ASKED << attempt.min(RANGE_DOUBLINGS_MAX);
            // What the writer saw is enough, unless the window has forgotten writes since.
            let before = self.resolve(&set, keys_asked, attempt == 1);
            let looked = self.look_at_keys(&set, keys_seen);
            keys_seen = *looked.as_ref().unwrap_or(&keys_seen);
            let state = self.state();
            let resolved = match before {
                // With the lock nothing is applied and forgotten meanwhile.
                _ if attempt > RESOLUTIONS_WITHOUT_LOCK => {
                    self.resolve(&set, keys_asked, false).map_err(|error| stopped(error.0))?
                }
                Ok(resolved) => resolved,
                // The keeper may have gone on so far meanwhile that it could not tell.
                Err(_) => continue,
            };
            let is_chain_broken = behind.and_then(|chain| chain.run).is_some_and(|run| run != state.run);
            let seen = set.seen_at.max(behind.map(|chain| chain.seen)).unwrap_or(Lsn::ORIGIN);
            let checked = state.core.check(&set, &resolved, seen);
            let cause = state.stopped.clone();
            return match (checked, cause) {
                (Err(Objection::Duplicate(lsn)), _) => Ok(state.await_first(lsn)),
                (_, Some(cause)) => Err(stopped(cause)),
                _ if is_chain_broken => {
                    Err(CommitError::not_committed("a commit that it was to follow was taken back"))
                }
                (Ok(()), None) => {
                    let checked = match &set.large {
                        Some(large) => looked
                            .map_err(LargeObjection::from)
                            .and_then(|seen| state.core.check_large(&*large.keys, seen)),
                        None => Ok(()),
                    };
                    match checked {
                        Ok(()) => Ok(self.enqueue(state, set, room, drive, seen)),
                        Err(LargeObjection::Refused(error)) => Err(error),
                        Err(LargeObjection::Stale) => continue,
                    }
                }
                (Err(Objection::Refused(refusal)), None) => Err(refusal.into()),
                (Err(Objection::Stale), None) => continue,
            };
        }
    }

    fn enqueue(
        &self,
        mut state: MutexGuard<'_, State>,
        mut set: WriteSet,
        room: SemaphorePermit<'_>,
        drive: Drive,
        seen: Lsn,
    ) -> Accepted {
        let is_all_seen = seen >= state.core.accepted();
        let (is_synced, patience) = (set.durability == Durability::Synced, set.durability.patience());
        // They have served, and take time to drop, which is not to be spent under the lock.
        let _conditions = std::mem::take(&mut set.preconditions);
        let next_row = state.core.next_row();
        let commit = state.core.stamp(set, self.clock.unix_micros());
        let (lsn, has_inserts) = (commit.lsn(), commit.header().next_row > next_row);
        let chain = Chain { run: Some(state.run), seen: if is_all_seen { lsn } else { seen } };
        let verdict = Arc::clone(state.teller.verdict());
        let first_row = has_inserts.then_some(next_row);
        let is_left_to_caller = match drive {
            Drive::Thread => false,
            Drive::Caller => true,
            Drive::WhoeverIsAlone => is_synced && state.is_quiet && state.pending.is_empty(),
        };
        let accepted = Accepted { lsn, first_row, is_duplicate: false, chain, verdict, is_left_to_caller };
        let accepted_at = self.clock.monotonic();
        state.pending.push(Pending { commit, room: room.num_permits(), accepted_at });
        room.forget();
        let wakes = if is_synced {
            !std::mem::replace(&mut state.is_sync_wanted, true)
        } else {
            let due = accepted_at + patience;
            let is_sooner = state.sync_due.is_none_or(|known| due < known);
            if is_sooner {
                state.sync_due = Some(due);
            }
            is_sooner
        };
        drop(state);
        if wakes && !is_left_to_caller {
            self.wake.notify_one();
        }
        accepted
    }

    /// Looks at the keys of a large write set again, where the window has forgotten what was written since `seen`; returns up to where
    /// they are what its writer saw. Reads as many keys as it writes.
    fn look_at_keys(&self, set: &WriteSet, seen: Lsn) -> Result<Lsn, CommitError> {
        let Some(large) = set.large.as_ref().filter(|_| seen < self.state().core.floor()) else { return Ok(seen) };
        let at = self.keeper.applied();
        large.keys.each(&mut |space, key, found| {
            let version = self.keeper.version(space, key, at);
            let version = version.map_err(|error| CommitError::not_committed(error.0))?;
            Ok(judge(space, key, found, version)?)
        })?;
        Ok(at)
    }

    /// Asks the keeper; of a range at most `keys_asked` keys, and of keys nothing where what the writer has seen is to be enough.
    fn resolve(&self, set: &WriteSet, keys_asked: usize, trusts_seen: bool) -> Result<Resolved, KeeperError> {
        let at = self.keeper.applied();
        let seen_at = set.seen_at.filter(|_| trusts_seen);
        let is_seen = seen_at.is_some();
        let version = |space: StorageId, key: &[u8]| self.keeper.version(space, key, at).map(Answer::Version);
        let answer = |condition: &Precondition| match condition {
            Precondition::Absent { space, key }
            | Precondition::Present { space, key }
            | Precondition::AtVersion { space, key, .. } => version(*space, key),
            Precondition::SchemaAt { table, .. } => version(CATALOG_SPACE, &catalog_key(table.value())),
            Precondition::RangeEmpty { space, range } => {
                let keys = self.keeper.keys(*space, range, at, keys_asked)?;
                let is_complete = keys.len() < keys_asked;
                Ok(Answer::Keys { keys, is_complete })
            }
            Precondition::RangeUnchanged { .. } => Ok(Answer::NotAsked),
        };
        let asked = set.preconditions.iter().filter(|condition| !(is_seen && condition.is_on_key()));
        let answers = asked.map(answer).collect::<Result<_, KeeperError>>()?;
        let sequences = match set.producer {
            Some(producer) => self.keeper.sequences(producer.producer, at)?,
            None => VecDeque::new(),
        };
        // As old as the oldest of it.
        let at = seen_at.map_or(at, |seen| seen.min(at));
        Ok(Resolved { at, is_seen, answers, sequences })
    }
}

/// What the counters stand at after the last durable commit of a log.
fn last_stamp(log: &dyn CommitLog) -> Result<Stamp, LogError> {
    let lsn = *log.durable().borrow();
    let beginning = Stamp { lsn, time: CommitTime::default(), next_row: RowId::new(1) };
    if lsn < log.earliest() {
        return Ok(beginning);
    }
    let commit = log.read_after(lsn.previous())?.try_next()?.expect("a durable commit is readable");
    let header = commit.header()?;
    Ok(Stamp { lsn, time: header.time, next_row: header.next_row })
}

/// After as many stale resolutions the next one is made under the lock, where it cannot become stale.
const RESOLUTIONS_WITHOUT_LOCK: u32 = 3;
/// How many keys of a range are asked for; each further attempt (all that were seen have gone since) asks for twice as many.
const RANGE_KEYS_ASKED: usize = 32;
const RANGE_DOUBLINGS_MAX: u32 = 30;
const ROOM_UNIT_BYTES: usize = 256;
/// A larger write set is not committed by the thread of a caller who did not ask for that.
const CALLER_BYTES_MAX: usize = 256 * 1024;
/// Nor is one whose sync may take longer than that, as the one before did: a switch between threads is nothing beside it.
const CALLER_GROUP_MAX: Duration = Duration::from_millis(2);
