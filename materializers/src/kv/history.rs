//! Which positions may be read.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use highwater_log::Lsn;

use crate::error::FoldError;

/// The positions from the earliest that may be read on, and who reads where.
pub(super) struct History {
    from: Lsn,
    /// Positions that are being read.
    pins: BTreeMap<Lsn, Pinned>,
    /// When commits were made, sparsely, oldest first: (microseconds, LSN).
    times: VecDeque<(u64, Lsn)>,
    /// The last commit likewise.
    last: (u64, Lsn),
}

/// What a position is held readable for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Somebody's reading, which may take for ever.
    Reading,
    /// Work of our own, which ends, and is right only if it reads all of it: an index to be filled, a base image.
    Work,
}

/// A position that is being read.
#[derive(Default)]
struct Pinned {
    /// How often.
    count: usize,
    /// How often for work that ends by itself, and is waited for.
    works: usize,
    /// When the window was seen to have passed it, in microseconds of the day.
    passed_micros: Option<u64>,
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

    pub(super) fn pin(&mut self, at: Lsn, purpose: Purpose) -> Result<(), FoldError> {
        if at < self.from {
            return Err(FoldError::HistoryGone { at, earliest: self.from });
        }
        let pinned = self.pins.entry(at).or_default();
        pinned.count += 1;
        pinned.works += usize::from(purpose == Purpose::Work);
        Ok(())
    }

    pub(super) fn unpin(&mut self, at: Lsn, purpose: Purpose) {
        if let Some(pinned) = self.pins.get_mut(&at) {
            pinned.count -= 1;
            pinned.works -= usize::from(purpose == Purpose::Work);
            if pinned.count == 0 {
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

    /// Moves the beginning to what was there a `window` before now, but not beyond what is being read, unless the window has passed that
    /// for longer than `age_max`: such a read fails from then on. Work of our own is waited for.
    pub(super) fn move_to(&mut self, now_micros: u64, window: Duration, age_max: Duration) {
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let begins = now_micros.saturating_sub(micros(window));
        while self.times.len() > 1 && self.times[1].0 <= begins {
            self.times.pop_front();
        }
        let passed = [self.times.front(), Some(&self.last)].into_iter().flatten().filter(|(at, _)| *at <= begins);
        let to = passed.map(|(_, lsn)| *lsn).max().unwrap_or_default();
        let mut held = None;
        for (lsn, pinned) in self.pins.range_mut(..to) {
            let since = *pinned.passed_micros.get_or_insert(now_micros);
            if pinned.works > 0 || now_micros.saturating_sub(since) <= micros(age_max) {
                held = held.or(Some(*lsn));
            }
        }
        self.from = self.from.max(held.unwrap_or(to));
    }
}

const TIME_STEP_MICROS: u64 = 60 * 1_000_000;
