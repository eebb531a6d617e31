//! Which positions may be read.

use std::collections::{BTreeMap, VecDeque};

use highwater_log::Lsn;

use crate::error::FoldError;

/// The positions from the earliest that may be read on, and who reads where.
pub(super) struct History {
    from: Lsn,
    /// Positions that are being read, and how often.
    pins: BTreeMap<Lsn, usize>,
    /// When commits were made, sparsely, oldest first: (microseconds, LSN).
    times: VecDeque<(u64, Lsn)>,
    /// The last commit likewise.
    last: (u64, Lsn),
}

impl History {
    pub(super) fn beginning() -> Self {
        Self { from: Lsn::ORIGIN, pins: BTreeMap::new(), times: VecDeque::new(), last: (0, Lsn::ORIGIN) }
    }

    /// Begins anew, at another position. Who reads goes on to hold what is folded anew.
    pub(super) fn begin_at(&mut self, from: Lsn, times: impl IntoIterator<Item = (u64, Lsn)>) {
        self.from = from;
        self.times = times.into_iter().collect();
        self.last = self.times.back().copied().unwrap_or_default();
    }

    /// The earliest position that may be read.
    pub(super) const fn from(&self) -> Lsn {
        self.from
    }

    /// When commits were made, sparsely, the last one included.
    pub(super) fn times(&self) -> Vec<(u64, Lsn)> {
        let is_last_noted = self.times.back().is_some_and(|(_, lsn)| *lsn >= self.last.1);
        self.times.iter().copied().chain((!is_last_noted).then_some(self.last)).collect()
    }

    pub(super) fn pin(&mut self, at: Lsn) -> Result<(), FoldError> {
        if at < self.from {
            return Err(FoldError::HistoryGone { at, earliest: self.from });
        }
        *self.pins.entry(at).or_default() += 1;
        Ok(())
    }

    pub(super) fn unpin(&mut self, at: Lsn) {
        if let Some(count) = self.pins.get_mut(&at) {
            *count -= 1;
            if *count == 0 {
                self.pins.remove(&at);
            }
        }
    }

    /// A commit was applied.
    pub(super) fn note(&mut self, micros: u64, lsn: Lsn) {
        self.last = (micros, lsn);
        if self.times.back().is_none_or(|(last, _)| last + TIME_STEP_MICROS <= micros) {
            self.times.push_back((micros, lsn));
        }
    }

    /// Moves the beginning to what was there at a time of day, but not beyond what is being read.
    pub(super) fn move_to(&mut self, micros: u64) {
        while self.times.len() > 1 && self.times[1].0 <= micros {
            self.times.pop_front();
        }
        let passed = [self.times.front(), Some(&self.last)].into_iter().flatten().filter(|(at, _)| *at <= micros);
        let to = passed.map(|(_, lsn)| *lsn).max().unwrap_or_default();
        let held = self.pins.first_key_value().map_or(to, |(pinned, _)| to.min(*pinned));
        self.from = self.from.max(held);
    }
}

const TIME_STEP_MICROS: u64 = 60 * 1_000_000;
