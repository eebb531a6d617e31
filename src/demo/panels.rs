//! What is shown: gathered by those who watch, drawn by the screen.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use highwater_connectors::sources::file::Summary;
use highwater_log::Lsn;

/// The tables of pgbench's bank, and the column of each whose sum is that of the others.
pub(super) const BANK: [(&str, &str); 4] = [
    ("pgbench_accounts", "abalance"),
    ("pgbench_tellers", "tbalance"),
    ("pgbench_branches", "bbalance"),
    ("pgbench_history", "delta"),
];

/// All panels.
#[derive(Default)]
pub(super) struct Panels {
    shown: Mutex<Shown>,
    /// Lines given to the ingest: the one number that no server tells.
    lines: AtomicU64,
    /// Where the upstream's snapshot ends, once it does: from there on the sums agree.
    snapshot_end: AtomicU64,
    is_over: AtomicBool,
}

/// What is shown at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown {
    pub(super) lines: u64,
    /// From the changefeed: up to where it has come, and what it told.
    pub(super) feed_lsn: u64,
    pub(super) changes: u64,
    pub(super) sums: [i128; 4],
    pub(super) commits_checked: u64,
    pub(super) commits_disagreeing: u64,
    pub(super) last_changes: VecDeque<String>,
    /// From aggregate queries.
    pub(super) query_lsn: u64,
    pub(super) query_sums: Vec<String>,
    pub(super) queries: u64,
    /// From the streaming SELECT.
    pub(super) rows_lsn: u64,
    pub(super) rows: u64,
    pub(super) scans: u64,
    pub(super) is_ended: bool,
}

impl Panels {
    pub(super) fn update(&self, change: impl FnOnce(&mut Shown)) {
        change(&mut self.lock());
    }

    pub(super) fn shown(&self) -> Shown {
        Shown { lines: self.lines.load(Ordering::Relaxed), ..self.lock().clone() }
    }

    pub(super) fn note_ingest(&self, summary: &Summary) {
        self.lines.store(summary.lines, Ordering::Relaxed);
        if let Some(lsn) = summary.snapshot_end {
            self.snapshot_end.store(lsn.value(), Ordering::Release);
        }
    }

    pub(super) fn note_end(&self, summary: &Summary) {
        self.note_ingest(summary);
        self.lock().is_ended = true;
    }

    pub(super) fn snapshot_end(&self) -> Option<Lsn> {
        Some(Lsn::new(self.snapshot_end.load(Ordering::Acquire))).filter(|lsn| *lsn > Lsn::ORIGIN)
    }

    /// Nobody looks any more: the ingest ends too.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::Release);
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
