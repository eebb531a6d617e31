//! The commit pipeline: append, sync, apply, show, reply, one group after the other.

use std::io;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;

use super::keeper::Applier;
use super::outcome::{CommitError, Receipt};
use super::{BUFFERED_DELAY_MAX, Pending, Shared, State};
use crate::commit::{EncodedCommit, Group};
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
        let pending = {
            let mut state = self.shared.state();
            state.is_sync_wanted = false;
            state.buffered_since = None;
            std::mem::take(&mut state.pending)
        };
        let count = pending.len();
        if count > 0 {
            self.commit_group(pending);
        }
        count
    }

    /// Waits for work and does it; `false` when the sequencer was stopped and nothing is left.
    fn wait_and_commit(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state();
        loop {
            if state.is_sync_wanted || (state.is_closing && !state.pending.is_empty()) {
                break;
            }
            if state.is_closing {
                return false;
            }
            let Some(since) = state.buffered_since else {
                state = shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let waited = shared.clock.monotonic().saturating_sub(since);
            let Some(left) = BUFFERED_DELAY_MAX.checked_sub(waited).filter(|left| !left.is_zero()) else { break };
            state = shared.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        self.commit_pending();
        true
    }

    fn commit_group(&mut self, pending: Vec<Pending>) {
        let before = pending[0].commit.lsn.previous();
        let encode =
            |pending: &Pending| EncodedCommit::encode(&pending.commit).expect("changes were measured when accepted");
        let group = Group { commits: pending.iter().map(encode).collect() };
        let room: usize = pending.iter().map(|pending| pending.room).sum();
        let log = &self.shared.log;
        let outcome = log.append(log.epoch(), before, &group).and_then(|()| log.make_durable());
        drop(group);
        match outcome {
            Ok(durable) => self.apply(pending, durable),
            Err(error) => self.fail(pending, before, &error),
        }
        self.shared.room.add_permits(room);
    }

    fn apply(&mut self, pending: Vec<Pending>, durable: Lsn) {
        let commits: Vec<_> = pending.iter().map(|pending| Arc::clone(&pending.commit)).collect();
        let span = tracing::debug_span!("apply", lsn = durable.value(), commits = commits.len());
        let outcome = span.in_scope(|| self.applier.apply(&commits));
        let applied = self.shared.keeper.applied().min(durable);
        let retries = {
            let mut state = self.shared.state();
            state.core.applied_to(applied);
            if let Err(error) = &outcome {
                tracing::error!(lsn = applied.next().value(), %error, "a durable commit could not be applied, writes stop");
                let cause: Arc<str> = error.to_string().into();
                state.stopped = Some(Arc::clone(&cause));
                // What was accepted meanwhile was never given to the log.
                self.drop_pending(&mut state, durable, &cause);
            }
            // Before the lock is released: a retry that finds the commit applied must find it visible.
            self.shared.visible.send_replace(applied);
            state.take_retries(|lsn| lsn <= durable)
        };
        let answer = |lsn: Lsn, first_row, is_duplicate| match &outcome {
            Err(error) if lsn > applied => Err(CommitError::NotYetReadable { lsn, cause: error.to_string().into() }),
            _ => Ok(Receipt { lsn, first_row, is_duplicate }),
        };
        // Nobody may be waiting any more for one or the other.
        for Pending { commit, first_row, reply, .. } in pending {
            let _ = reply.send(answer(commit.lsn, first_row, false));
        }
        for (lsn, reply) in retries {
            let _ = reply.send(answer(lsn, None, true));
        }
    }

    /// The group is not durable: it ends *not committed* or *unknown*, what was accepted after it *not committed*.
    fn fail(&self, pending: Vec<Pending>, before: Lsn, error: &LogError) {
        let cause: Arc<str> = error.to_string().into();
        tracing::error!(after = before.value(), commits = pending.len(), %error, "a group was not committed");
        let last = pending.last().map_or(before, |pending| pending.commit.lsn);
        let retries = {
            let mut state = self.shared.state();
            // The disk may have space again, or answer again, any time; the other errors are final.
            if !matches!(error, LogError::NotWritten { .. } | LogError::Io { .. }) {
                state.stopped = Some(Arc::clone(&cause));
            }
            let retries = state.take_retries(|lsn| lsn <= last);
            self.drop_pending(&mut state, before, &cause);
            retries
        };
        let answer = || match error {
            LogError::Poisoned { .. } => Err(CommitError::Unknown { cause: Arc::clone(&cause) }),
            _ => Err(CommitError::NotCommitted { cause: Arc::clone(&cause) }),
        };
        for Pending { reply, .. } in pending {
            let _ = reply.send(answer());
        }
        for (_, reply) in retries {
            let _ = reply.send(answer());
        }
    }

    /// Takes back every stamp after `after`; what is pending was never given to the log, and ends *not committed*.
    fn drop_pending(&self, state: &mut State, after: Lsn, cause: &Arc<str>) {
        state.core.unwind_after(after);
        let not_committed = || Err(CommitError::NotCommitted { cause: Arc::clone(cause) });
        for Pending { reply, room, .. } in std::mem::take(&mut state.pending) {
            let _ = reply.send(not_committed());
            self.shared.room.add_permits(room);
        }
        for (_, reply) in state.take_retries(|lsn| lsn > after) {
            let _ = reply.send(not_committed());
        }
    }
}

impl Drop for Pipeline {
    /// Nobody commits any more, after a panic least of all: what waits is answered, what comes is refused.
    fn drop(&mut self) {
        let cause: Arc<str> = "the commit thread has ended".into();
        let mut state = self.shared.state();
        state.stopped.get_or_insert_with(|| Arc::clone(&cause));
        for Pending { reply, room, .. } in std::mem::take(&mut state.pending) {
            let _ = reply.send(Err(CommitError::NotCommitted { cause: Arc::clone(&cause) }));
            self.shared.room.add_permits(room);
        }
        state.retries.clear();
        // Nobody gives room back any more.
        self.shared.room.close();
    }
}

/// Ends the commit thread with the last handle.
pub(super) struct CommitThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl CommitThread {
    /// Starts the thread, which commits until the sequencer is stopped and nothing is pending.
    pub(super) fn start(mut pipeline: Pipeline) -> io::Result<Self> {
        let shared = Arc::clone(&pipeline.shared);
        let thread = std::thread::Builder::new().name("highwater-commit".to_owned());
        let thread = thread.spawn(move || while pipeline.wait_and_commit() {})?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

impl Drop for CommitThread {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.is_closing = true;
        state.stopped.get_or_insert_with(|| "the database is closing".into());
        drop(state);
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed where it happened; waiters see their replies dropped.
            let _ = thread.join();
        }
    }
}
