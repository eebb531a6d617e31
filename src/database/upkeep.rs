//! The thread beside the commits: files of rows are flushed and merged, failures mended.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use highwater_log::CommitLog;
use highwater_log::sequencer::Sequencer;
use highwater_materializers::{FoldError, Materialized, Materializer};

/// The thread; dropping it stops it.
pub(super) struct Upkeep {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Stop {
    is_asked: Mutex<bool>,
    wake: Condvar,
}

impl Stop {
    /// Waits; `true`: it is time to stop.
    fn wait(&self, limit: Duration) -> bool {
        let is_asked = self.is_asked.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.wake.wait_timeout_while(is_asked, limit, |is_asked| !*is_asked);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Upkeep {
    pub(super) fn start(folds: Materialized, sequencer: Sequencer, log: Arc<dyn CommitLog>) -> io::Result<Self> {
        let stop = Arc::new(Stop::default());
        let asked = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("highwater-upkeep".to_owned());
        let thread = thread.spawn(move || {
            let (mut pause, mut is_mended) = (INTERVAL, false);
            while !asked.wait(pause) {
                pause = match keep_up(&folds, &sequencer, &*log, &mut is_mended) {
                    Ok(()) => INTERVAL,
                    Err(error) => {
                        tracing::error!(
                            error = &error as &dyn std::error::Error,
                            "upkeep of the rows failed, trying again"
                        );
                        RETRY_AFTER
                    }
                };
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        *self.stop.is_asked.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed where it happened.
            let _ = thread.join();
        }
    }
}

/// `is_mended` is set while writes wait to be accepted again after a mending.
fn keep_up(
    folds: &Materialized,
    sequencer: &Sequencer,
    log: &dyn CommitLog,
    is_mended: &mut bool,
) -> Result<(), FoldError> {
    if folds.kv().is_damaged() {
        tracing::warn!("a read met damaged rows: they are folded anew, writes wait");
        sequencer.pause("the rows are damaged and are being folded anew");
        folds.refold(log, |_| {})?;
        *is_mended = true;
    } else if sequencer.stopped().is_some() && folds.kv().applied() < *log.durable().borrow() {
        // A fold failed behind a sync: what is durable is not readable yet. (Behind a poisoned log nothing is.)
        folds.mend(log, |_| {})?;
        *is_mended = true;
    }
    if *is_mended {
        // Not while commits are still on their way: the next round tries again.
        *is_mended = !sequencer.resume();
        return Ok(());
    }
    if sequencer.stopped().is_none() { folds.maintain() } else { Ok(()) }
}

const INTERVAL: Duration = Duration::from_millis(100);
const RETRY_AFTER: Duration = Duration::from_secs(5);
