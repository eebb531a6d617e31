//! What becomes of a group, told once to everybody who waits for a commit of it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;

use tokio::sync::Notify;

use super::Outcome;
use super::outcome::{CommitError, Receipt};
use crate::position::{Lsn, RowId};

/// How a group ended, as soon as it is known.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    end: OnceLock<GroupEnd>,
    /// Tasks that wait.
    told: Notify,
    /// Threads that wait, the first comer first.
    threads: Mutex<VecDeque<Thread>>,
}

/// How a group ended.
#[derive(Clone, Debug)]
pub(super) enum GroupEnd {
    /// It is durable, and visible up to here; why no further, where that is not all of it.
    Durable { applied: Lsn, unread: Option<Arc<str>> },
    /// It does not stand, or nobody knows.
    Lost(CommitError),
}

impl Verdict {
    /// Of a group that ended before it was asked for.
    pub(super) fn told(end: GroupEnd) -> Arc<Self> {
        Arc::new(Self { end: end.into(), ..Self::default() })
    }

    pub(super) fn end(&self) -> Option<&GroupEnd> {
        self.end.get()
    }

    /// Waits for the end.
    pub(super) async fn wait(&self) -> &GroupEnd {
        loop {
            // Before looking: who is told in between is woken too.
            let told = self.told.notified();
            if let Some(end) = self.end.get() {
                return end;
            }
            told.await;
        }
    }

    /// Waits for the end, blocking the thread.
    pub(super) fn wait_blocking(&self) -> &GroupEnd {
        {
            let mut threads = self.threads();
            // Looked at with the list in hand: who tells takes from it afterwards.
            if let Some(end) = self.end.get() {
                return end;
            }
            threads.push_back(std::thread::current());
        }
        loop {
            std::thread::park();
            if let Some(end) = self.end.get() {
                self.wake_two();
                return end;
            }
        }
    }

    /// Wakes two of the threads that wait; each of them wakes the next two. Waking all of a large group takes as long as its sync, and
    /// the one who commits has the next group to see to.
    fn wake_two(&self) {
        let two = {
            let mut threads = self.threads();
            [threads.pop_front(), threads.pop_front()]
        };
        two.iter().flatten().for_each(Thread::unpark);
    }

    fn threads(&self) -> MutexGuard<'_, VecDeque<Thread>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GroupEnd {
    /// What became of one commit of the group.
    pub(super) fn outcome(&self, lsn: Lsn, first_row: Option<RowId>, is_duplicate: bool) -> Outcome {
        match self {
            Self::Durable { applied, unread: Some(cause) } if lsn > *applied => {
                Err(CommitError::NotYetReadable { lsn, cause: Arc::clone(cause) })
            }
            Self::Durable { .. } => Ok(Receipt { lsn, first_row, is_duplicate }),
            Self::Lost(error) => Err(error.clone()),
        }
    }
}

/// The one who tells how a group ended. Dropped without a word, it tells that nobody knows.
#[derive(Debug, Default)]
pub(super) struct Teller(Arc<Verdict>);

impl Teller {
    pub(super) const fn verdict(&self) -> &Arc<Verdict> {
        &self.0
    }

    pub(super) fn tell(self, end: GroupEnd) {
        self.tell_once(end);
    }

    /// Only the first word counts.
    fn tell_once(&self, end: GroupEnd) {
        if self.0.end.set(end).is_ok() {
            self.0.told.notify_waiters();
            self.0.wake_two();
        }
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        if self.0.end.get().is_none() {
            self.tell_once(GroupEnd::Lost(CommitError::Unknown { cause: "the commit thread ended".into() }));
        }
    }
}
