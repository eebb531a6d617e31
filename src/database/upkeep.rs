//! The thread beside the commits: files of rows are flushed and merged, failures mended.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use highwater_log::sequencer::Sequencer;
use highwater_log::{Background, CommitLog};
use highwater_materializers::{FoldError, Materialized, Materializer};

/// Starts the thread.
pub(super) fn start(folds: Materialized, sequencer: Sequencer, log: Arc<dyn CommitLog>) -> io::Result<Background> {
    Background::start("highwater-upkeep", move |pauses| {
        let (mut pause, mut is_mended) = (INTERVAL, false);
        while pauses.wait(pause).is_continue() {
            let round = AssertUnwindSafe(|| keep_up(&folds, &sequencer, &*log, &mut is_mended));
            pause = match catch_unwind(round) {
                Ok(Ok(())) => INTERVAL,
                // It was printed where it happened. Without upkeep, memory would fill without a word.
                Err(_) => RETRY_AFTER,
                Ok(Err(error)) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "upkeep of the rows failed, trying again"
                    );
                    RETRY_AFTER
                }
            };
        }
    })
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
