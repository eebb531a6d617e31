//! The commit pipeline: append, sync, apply, show, reply, one group after the other.

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::keeper::Applier;
use super::outcome::CommitError;
use super::verdict::GroupEnd;
use super::{CALLER_GROUP_MAX, Pending, Shared, State};
use crate::commit::{CommitBody, EncodedCommit, Group};
use crate::error::LogError;
use crate::position::Lsn;

/// The one who appends, syncs, applies and replies.
pub struct Pipeline {
    pub(super) shared: Arc<Shared>,
    pub(super) applier: Box<dyn Applier>,
}

impl Pipeline {
    /// Commits what is pending, if anything is; returns how many commits ended, well or badly.
    pub fn commit_pending(&mut self) -> usize {
        let (pending, teller) = {
            let mut state = self.shared.state();
            state.is_sync_wanted = false;
            state.sync_due = None;
            if state.pending.is_empty() {
                return 0;
            }
            state.take_group()
        };
        let (count, begun) = (pending.len(), self.shared.clock.monotonic());
        let accepted: Vec<_> = pending.iter().map(|pending| pending.accepted_at).collect();
        let changes: u64 = pending.iter().map(|pending| pending.commit.header().change_count).sum();
        let end = self.commit_group(pending);
        let is_durable = matches!(end, GroupEnd::Durable { .. });
        let now = self.shared.clock.monotonic();
        let is_quick = now.saturating_sub(begun) <= CALLER_GROUP_MAX;
        {
            let mut state = self.shared.state();
            state.is_quiet = count == 1 && is_durable && is_quick && state.pending.is_empty();
        }
        teller.tell(end);
        if is_durable {
            let meter = &self.shared.meter;
            meter.commits.add(count as u64);
            meter.changes.add(changes);
            meter.group_commits.note(count as u64);
            accepted.into_iter().for_each(|at| meter.commit_micros.note_micros(now.saturating_sub(at)));
        }
        count
    }

    fn commit_group(&mut self, pending: Vec<Pending>) -> GroupEnd {
        let before = pending[0].commit.lsn().previous();
        let encode = |pending: &Pending| match &pending.commit {
            CommitBody::Whole(commit) => EncodedCommit::encode(commit).expect("changes were measured when accepted"),
            CommitBody::Streamed(commit) => commit.encoded().clone(),
        };
        let group = Group { commits: pending.iter().map(encode).collect() };
        let room: usize = pending.iter().map(|pending| pending.room).sum();
        let log = &self.shared.log;
        let outcome = log.append(log.epoch(), before, &group).and_then(|()| log.make_durable());
        drop(group);
        let end = match outcome {
            Ok(durable) => self.apply(pending, durable),
            Err(error) => self.fail(pending.len(), before, &error),
        };
        self.shared.room.add_permits(room);
        end
    }

    fn apply(&mut self, pending: Vec<Pending>, durable: Lsn) -> GroupEnd {
        let commits: Vec<_> = pending.into_iter().map(|pending| pending.commit).collect();
        let span = tracing::debug_span!("apply", lsn = durable.value(), commits = commits.len());
        let begun = self.shared.clock.monotonic();
        let outcome = span.in_scope(|| self.applier.apply(&commits));
        self.shared.meter.apply_micros.note_micros(self.shared.clock.monotonic().saturating_sub(begun));
        let applied = self.shared.keeper.applied().min(durable);
        let unread: Option<Arc<str>> = outcome.err().map(|error| error.to_string().into());
        let mut state = self.shared.state();
        state.core.applied_to(applied);
        if let Some(cause) = &unread {
            let lsn = applied.next().value();
            tracing::error!(lsn, error = %cause, "a durable commit could not be applied, writes stop");
            state.stopped = Some(Arc::clone(cause));
            // What was accepted meanwhile was never given to the log.
            self.drop_pending(&mut state, durable, CommitError::not_committed(Arc::clone(cause)));
        }
        // Before the lock is released: a retry that finds the commit applied must find it visible.
        self.shared.visible.send_replace(applied);
        GroupEnd::Durable { applied, unread }
    }

    /// The group is not durable: it ends *not committed* or *unknown*, what was accepted after it *not committed*.
    fn fail(&self, commits: usize, before: Lsn, error: &LogError) -> GroupEnd {
        let cause: Arc<str> = error.to_string().into();
        if let LogError::Poisoned { .. } = error {
            // Only the first cause counts.
            let _ = self.shared.poison.set(Arc::clone(&cause));
        }
        tracing::error!(after = before.value(), commits, %error, "a group was not committed");
        let mut state = self.shared.state();
        // The disk may have space again, or answer again, any time; the other errors are final.
        if !matches!(error, LogError::NotWritten { .. } | LogError::Io { .. }) {
            state.stopped = Some(Arc::clone(&cause));
        }
        self.drop_pending(&mut state, before, CommitError::not_written(error));
        GroupEnd::Lost(match error {
            LogError::Poisoned { .. } => CommitError::Unknown { cause },
            _ => CommitError::not_written(error),
        })
    }

    /// Takes back every stamp after `after`; what is pending was never given to the log, and ends *not committed*.
    fn drop_pending(&self, state: &mut State, after: Lsn, why: CommitError) {
        state.core.unwind_after(after);
        // Its LSNs are given again.
        state.before.0 = state.before.0.min(after);
        state.run += 1;
        self.shared.refuse_pending(state, why);
    }
}

impl Drop for Pipeline {
    /// Nobody commits any more: what waits is answered, what comes is refused.
    fn drop(&mut self) {
        self.shared.abandon();
    }
}

impl Shared {
    /// Waits until something is to be committed; `false` when the sequencer was stopped and nothing is left.
    fn wait_for_work(&self) -> bool {
        let mut state = self.state();
        loop {
            if state.is_sync_wanted || (state.is_closing && !state.pending.is_empty()) {
                return true;
            }
            if state.is_closing {
                return false;
            }
            let Some(due) = state.sync_due else {
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = due.saturating_sub(self.clock.monotonic());
            if left.is_zero() {
                return true;
            }
            state = self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Refuses whatever comes, and answers whatever waits and was never given to the log.
    fn abandon(&self) {
        let cause: Arc<str> = "nobody commits any more".into();
        let mut state = self.state();
        state.stopped.get_or_insert_with(|| Arc::clone(&cause));
        // The core goes on to know what is refused here: a retry of it is told the same.
        state.before = (state.core.accepted(), Arc::clone(state.teller.verdict()));
        self.refuse_pending(&mut state, CommitError::not_committed(cause));
        // Nobody gives room back any more.
        self.room.close();
    }

    /// Ends the group that gathers, which was never given to the log.
    fn refuse_pending(&self, state: &mut State, why: CommitError) {
        let room = std::mem::take(&mut state.pending).iter().map(|pending| pending.room).sum();
        std::mem::take(&mut state.teller).tell(GroupEnd::Lost(why));
        self.room.add_permits(room);
    }
}

/// The thread that commits what nobody else does. It ends with the last handle.
pub(super) struct CommitThread {
    shared: Arc<Shared>,
    pipeline: Arc<Mutex<Pipeline>>,
    thread: Option<JoinHandle<()>>,
}

impl CommitThread {
    /// Starts the thread, which commits until the sequencer is stopped and nothing is pending.
    pub(super) fn start(pipeline: Pipeline) -> io::Result<Self> {
        let shared = Arc::clone(&pipeline.shared);
        let pipeline = Arc::new(Mutex::new(pipeline));
        let (state, work) = (Arc::clone(&shared), Arc::clone(&pipeline));
        let thread = std::thread::Builder::new().name("highwater-commit".to_owned());
        let thread = thread.spawn(move || {
            while state.wait_for_work() {
                // Poisoned: whoever panicked has answered everybody.
                let Ok(pipeline) = work.lock() else { return };
                commit_with(pipeline);
            }
        })?;
        Ok(Self { shared, pipeline, thread: Some(thread) })
    }

    /// Commits what is pending on the calling thread, unless somebody is at it: whoever is looks again when he is done. After a panic,
    /// what becomes of a commit is told as by the thread.
    pub(super) fn drive(&self) {
        let Ok(pipeline) = self.pipeline.try_lock() else { return };
        // It was printed where it happened, and poisons the sequencer.
        let _ = std::panic::catch_unwind(AssertUnwindSafe(|| commit_with(pipeline)));
        if self.shared.state().is_sync_wanted {
            self.shared.wake.notify_one();
        }
    }
}

/// One group. A panic in it, the applier's most likely, leaves nobody waiting.
fn commit_with(mut pipeline: MutexGuard<'_, Pipeline>) {
    struct Abandon(Arc<Shared>);
    impl Drop for Abandon {
        fn drop(&mut self) {
            if std::thread::panicking() {
                // Only the first cause counts.
                let _ = self.0.poison.set("the thread that commits has panicked".into());
                self.0.abandon();
            }
        }
    }
    let _abandon = Abandon(Arc::clone(&pipeline.shared));
    pipeline.commit_pending();
}

impl Drop for CommitThread {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.is_closing = true;
        state.stopped.get_or_insert_with(|| "the database is closing".into());
        drop(state);
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed where it happened; waiters were answered.
            let _ = thread.join();
        }
    }
}
