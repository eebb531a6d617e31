//! The thread that maintains a log, and the bell that wakes it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{MARK_AFTER_IDLE, Shared};
use crate::error::LogError;

/// Wakes the maintenance thread: at once when a segment was filled, and when commits come after idleness.
#[derive(Default)]
pub(super) struct Bell {
    rung: Mutex<bool>,
    wake: Condvar,
    /// Whether the thread waits without a limit, because nothing is due.
    is_idle: AtomicBool,
}

impl Bell {
    pub(super) fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.wake.notify_one();
    }

    pub(super) fn ring_if_idle(&self) {
        if self.is_idle.swap(false, Ordering::AcqRel) {
            self.ring();
        }
    }

    /// Waits until it is rung, or for `limit` where there is one.
    fn wait(&self, limit: Option<Duration>) {
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        while !*rung {
            match limit {
                Some(limit) => {
                    let (guard, timeout) = self.wake.wait_timeout(rung, limit).unwrap_or_else(PoisonError::into_inner);
                    rung = guard;
                    if timeout.timed_out() {
                        break;
                    }
                }
                None => rung = self.wake.wait(rung).unwrap_or_else(PoisonError::into_inner),
            }
        }
        *rung = false;
    }
}

/// The thread that maintains a log; dropping it stops it.
pub(super) struct Maintenance {
    is_stopping: Arc<AtomicBool>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Maintenance {
    pub(super) fn start(shared: &Arc<Shared>) -> Self {
        let is_stopping = Arc::new(AtomicBool::new(false));
        let (state, stop) = (Arc::clone(shared), Arc::clone(&is_stopping));
        let thread = std::thread::Builder::new().name("highwater-log".to_owned());
        let thread = thread.spawn(move || maintain_until(&state, &stop));
        if let Err(error) = &thread {
            tracing::error!(%error, "no thread maintains the log: segments are prepared while commits wait");
        }
        Self { is_stopping, shared: Arc::clone(shared), thread: thread.ok() }
    }
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        self.is_stopping.store(true, Ordering::Release);
        self.shared.bell.ring();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed where it happened.
            let _ = thread.join();
        }
    }
}

fn maintain_until(shared: &Shared, is_stopping: &AtomicBool) {
    while !is_stopping.load(Ordering::Acquire) {
        let outcome = shared.maintain();
        if let Err(error) = &outcome {
            tracing::warn!(%error, "the log could not be maintained, trying again");
        }
        if matches!(outcome, Err(LogError::Poisoned { .. })) {
            return;
        }
        shared.bell.is_idle.store(true, Ordering::Release);
        // Announced before the look, so that a sync in between rings.
        let limit = match outcome {
            Err(_) => Some(RETRY_AFTER),
            Ok(()) => (!shared.has_told_all()).then_some(MARK_AFTER_IDLE),
        };
        if limit.is_some() {
            // It looks again by itself: being woken for each commit would cost that as much as its sync.
            shared.bell.is_idle.store(false, Ordering::Release);
        }
        shared.bell.wait(limit);
        shared.bell.is_idle.store(false, Ordering::Release);
    }
}

/// A full disk stays full for a while, and each attempt is told.
const RETRY_AFTER: Duration = Duration::from_secs(1);
