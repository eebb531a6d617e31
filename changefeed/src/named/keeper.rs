//! The thread that writes what readers acknowledge: one bookkeeping commit at a time for all feeds, which rides along with other commits.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Duration;

use highwater_log::env::Clock;
use highwater_log::sequencer::{CATALOG_SPACE, CommitError, Durability, Precondition, Refusal, WriteSet, catalog_key};
use highwater_log::{Change, Pauses};
use highwater_materializers::FeedPosition;

use super::Shared;

/// What came of an attempt to write.
enum Flushed {
    Nothing,
    Written,
    /// A feed was dropped meanwhile.
    Raced,
    Failed(CommitError),
}

/// Writes what is acknowledged until a pause breaks, and then what is left.
pub(super) fn keep(shared: &Shared, clock: &dyn Clock, pauses: &Pauses) {
    let (mut is_failing, mut is_over) = (false, false);
    loop {
        loop {
            let flushed = flush(shared, is_over);
            let pause = match flushed {
                Flushed::Nothing => break,
                Flushed::Written | Flushed::Raced => SPACING,
                Flushed::Failed(_) => RETRY_AFTER,
            };
            if let Flushed::Failed(error) = flushed {
                if is_over || !is_failing {
                    tracing::warn!(%error, "what readers of feeds have acknowledged is not written");
                }
                is_failing = true;
                if is_over {
                    return;
                }
            } else {
                is_failing = false;
            }
            if !is_over && wait(clock, pauses, pause).is_break() {
                let _ = flush(shared, true);
                return;
            }
        }
        if is_over {
            return;
        }
        is_over = pauses.wait(IDLE).is_break();
    }
}

/// Waits so long, however often it is called meanwhile.
fn wait(clock: &dyn Clock, pauses: &Pauses, pause: Duration) -> ControlFlow<()> {
    let due = clock.monotonic() + pause;
    loop {
        let left = due.saturating_sub(clock.monotonic());
        if left.is_zero() {
            return ControlFlow::Continue(());
        }
        pauses.wait(left)?;
    }
}

/// Writes what is acknowledged and not written yet, and waits until it is durable.
fn flush(shared: &Shared, is_synced: bool) -> Flushed {
    let existing = shared.ids();
    let acknowledged: Vec<(u64, FeedPosition)> = {
        let mut state = shared.state();
        let dirty: BTreeSet<u64> = std::mem::take(&mut state.dirty);
        let accepted = |id: u64| Some((id, state.standings.get(&id)?.accepted?));
        dirty.into_iter().filter_map(accepted).collect()
    };
    // Whoever dropped one may have gone before he could say so.
    let (acknowledged, gone): (Vec<_>, Vec<_>) = acknowledged.into_iter().partition(|(id, _)| existing.contains(id));
    gone.into_iter().for_each(|(id, _)| shared.forget(id));
    if acknowledged.is_empty() {
        return Flushed::Nothing;
    }
    let present = |(id, _): &(u64, _)| Precondition::Present { space: CATALOG_SPACE, key: catalog_key(*id) };
    let change = |(id, position): &(u64, FeedPosition)| Change::Position {
        of: FeedPosition::of(*id),
        position: position.encode(),
    };
    let set = WriteSet {
        preconditions: acknowledged.iter().map(present).collect(),
        changes: acknowledged.iter().map(change).collect(),
        durability: if is_synced { Durability::Synced } else { Durability::Deferred },
        ..WriteSet::default()
    };
    let outcome = shared.sequencer.submit_behind(set, None).and_then(|accepted| {
        if shared.is_closing() {
            shared.sequencer.sync_pending();
        }
        accepted.wait_blocking()
    });
    let mut state = shared.state();
    match outcome {
        Ok(_) | Err(CommitError::NotYetReadable { .. }) => {
            for (id, position) in acknowledged {
                if let Some(standing) = state.standings.get(&id) {
                    standing.durable.send_replace(Some(position));
                }
            }
            Flushed::Written
        }
        Err(error) => {
            state.dirty.extend(acknowledged.into_iter().map(|(id, _)| id));
            match error {
                CommitError::Refused(Refusal::KeyMissing { .. }) => Flushed::Raced,
                error => Flushed::Failed(error),
            }
        }
    }
}

const IDLE: Duration = Duration::from_secs(60 * 60);
/// Between two commits: more would be in the way of the data.
const SPACING: Duration = Duration::from_millis(20);
const RETRY_AFTER: Duration = Duration::from_secs(1);
