//! Old versions: which of them go when files are merged.
//!
//! ```text
//!   versions of a key      30  20 │ 12   7   3         no read asks for a state before 15, the horizon
//!   after a merge          30  20 │ 12                 12 is what a read at 15 finds; nothing finds 7 and 3 any more
//! ```
//!
//! Where the newest version that is not behind the horizon says that the key is gone, it goes as well, once nothing older can lie in
//! files below. Of two trees that lie over one another ([`super::backfill`]), the lower one gives up what the upper one hides, and the
//! upper one keeps what says that a key is gone for as long as the lower one has it. A merge sees some of a key's versions, always newer ones than the files below it have; what it keeps too much goes with
//! a later merge.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use highwater_log::Lsn;
use lsm_tree::UserKey;
use lsm_tree::compaction::filter::Context;
use lsm_tree::compaction::{CompactionFilter, Factory, ItemAccessor, Verdict};

use super::tree::Tree;
use super::value;

/// What the merges of one tree are told, and what they tell.
#[derive(Default)]
pub(super) struct Reclaim {
    horizon: AtomicU64,
    /// A tree lies beneath, or will, of whose keys some are gone.
    lies_over: AtomicBool,
    beneath: OnceLock<Arc<Tree>>,
    above: OnceLock<Weak<Tree>>,
    /// What lies above is right in all that it hides.
    is_settled: AtomicBool,
    /// Versions that merges have dropped, ever.
    dropped: AtomicU64,
    /// Versions that merges have kept though a newer one of the same key was there, or though they say that it is gone, ever.
    kept_stale: AtomicU64,
}

/// What merges did with stale versions up to a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tally {
    pub(super) dropped: u64,
    pub(super) kept_stale: u64,
}

impl Tally {
    pub(super) const fn since(self, before: Self) -> Self {
        Self { dropped: self.dropped - before.dropped, kept_stale: self.kept_stale - before.kept_stale }
    }
}

impl Reclaim {
    /// From now on no read asks for a state before `horizon`.
    pub(super) fn set_horizon(&self, horizon: Lsn) {
        self.horizon.fetch_max(horizon.value(), Ordering::Relaxed);
    }

    /// A tree will lie beneath: until then, what says that a key is gone stays.
    pub(super) fn lie_over(&self) {
        self.lies_over.store(true, Ordering::Relaxed);
    }

    /// This tree lies beneath, and will get no more keys.
    pub(super) fn set_beneath(&self, tree: Arc<Tree>) {
        let _ = self.beneath.set(tree);
    }

    /// This tree lies above.
    pub(super) fn set_above(&self, tree: &Arc<Tree>) {
        let _ = self.above.set(Arc::downgrade(tree));
    }

    /// What lies above is right in all that it hides: it may go.
    pub(super) fn settle(&self) {
        self.is_settled.store(true, Ordering::Relaxed);
    }

    /// Whether nothing beneath would come to light without what says that this key is gone.
    fn may_forget(&self, key: &[u8]) -> bool {
        match self.beneath.get() {
            None => !self.lies_over.load(Ordering::Relaxed),
            // Damage is met by whoever reads it.
            Some(beneath) => beneath.knows(key, EVER).is_ok_and(|knows| !knows),
        }
    }

    /// Whether every read from `horizon` on finds what lies above.
    fn is_hidden(&self, key: &[u8], horizon: Lsn) -> bool {
        let above = self.above.get().filter(|_| self.is_settled.load(Ordering::Relaxed)).and_then(Weak::upgrade);
        above.is_some_and(|above| above.knows(key, horizon).unwrap_or(false))
    }

    pub(super) fn tally(&self) -> Tally {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Tally { dropped: count(&self.dropped), kept_stale: count(&self.kept_stale) }
    }
}

/// Makes the filters of one tree's merges.
pub(super) struct Filters(pub(super) Arc<Reclaim>);

impl Factory for Filters {
    fn name(&self) -> &str {
        "old versions"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        let horizon = Lsn::new(self.0.horizon.load(Ordering::Relaxed));
        let merge = Merge { horizon, ..Merge::default() };
        Box::new(Filter { reclaim: Arc::clone(&self.0), merge, given_up: 0 })
    }
}

/// No commit is behind it.
const EVER: Lsn = Lsn::new(u64::MAX >> 2);

struct Filter {
    reclaim: Arc<Reclaim>,
    merge: Merge,
    /// Keys that were dropped because the tree above hides them.
    given_up: u64,
}

/// One merge: keys rise, versions of a key fall.
#[derive(Default)]
struct Merge {
    horizon: Lsn,
    key: Option<UserKey>,
    /// A version of the key was seen that all reads find before any that follows.
    is_covered: bool,
    dropped: u64,
    kept_stale: u64,
}

impl CompactionFilter for Filter {
    fn filter_item(&mut self, item: ItemAccessor<'_>, context: &Context) -> lsm_tree::Result<Verdict> {
        let (key, horizon) = (item.key(), self.merge.horizon);
        let may_forget = || self.reclaim.may_forget(key);
        if !self.merge.keeps(key, &item.value()?, context.is_last_level, may_forget) {
            return Ok(Verdict::Destroy);
        }
        if !self.reclaim.is_hidden(key, horizon) {
            return Ok(Verdict::Keep);
        }
        self.given_up += 1;
        Ok(Verdict::Destroy)
    }

    fn finish(self: Box<Self>) {
        self.reclaim.dropped.fetch_add(self.merge.dropped + self.given_up, Ordering::Relaxed);
        if let Some(above) = self.reclaim.above.get().and_then(Weak::upgrade) {
            // What says there that they are gone may go.
            above.note_stale(self.given_up);
        }
        self.reclaim.kept_stale.fetch_add(self.merge.kept_stale, Ordering::Relaxed);
    }
}

impl Merge {
    /// Whether the next version stays. `is_last_level`: nothing lies below the merged files; `may_forget`: nor in another tree.
    fn keeps(&mut self, key: &UserKey, value: &[u8], is_last_level: bool, may_forget: impl FnOnce() -> bool) -> bool {
        let is_hidden = self.key.as_ref() == Some(key);
        if !is_hidden {
            self.key = Some(key.clone());
            self.is_covered = false;
        }
        let Some((lsn, is_gone)) = value::version(value) else {
            // Damage: the read that meets it says so.
            return true;
        };
        let is_unseen = self.is_covered;
        self.is_covered |= lsn <= self.horizon;
        let is_mere_removal = is_gone && self.is_covered && is_last_level;
        if is_unseen || (is_mere_removal && may_forget()) {
            self.dropped += 1;
            return false;
        }
        self.kept_stale += u64::from(is_hidden || (is_gone && !is_mere_removal));
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use highwater_log::env::simulated::Random;

    use super::*;

    /// Versions by key and LSN; `true`: the key is gone.
    type Versions = BTreeMap<(u8, u64), bool>;

    fn found(versions: &Versions, key: u8, at: u64) -> Option<u64> {
        let (newest, is_gone) = versions.range((key, 0)..=(key, at)).next_back()?;
        (!is_gone).then_some(newest.1)
    }

    /// Merges files of a level, those of some keys, into the next one.
    fn merge(levels: &mut [Versions], into: usize, keys: std::ops::Range<u8>, horizon: u64) -> u64 {
        let is_last_level = into == levels.len() - 1;
        let mut inputs = Versions::new();
        for level in &mut levels[into - 1..=into] {
            inputs.extend(level.extract_if(.., |(key, _), _| keys.contains(key)));
        }
        let mut merge = Merge { horizon: Lsn::new(horizon), ..Merge::default() };
        for key in keys {
            for ((_, lsn), is_gone) in inputs.range((key, 0)..=(key, u64::MAX)).rev() {
                let mut value = value::gone(Lsn::new(*lsn));
                value.extend((!is_gone).then_some(7));
                if merge.keeps(&UserKey::from(&[key][..]), &value, is_last_level, || true) {
                    levels[into].insert((key, *lsn), *is_gone);
                }
            }
        }
        merge.dropped
    }

    #[test]
    fn whatever_is_merged_every_read_behind_the_horizon_finds_what_was_written() {
        let mut dropped = 0;
        for seed in 0..300 {
            let mut random = Random::new(seed);
            let mut levels = vec![Versions::new(); 4];
            let (mut written, mut lsn, mut horizon) = (Versions::new(), 0, 0);
            for _ in 0..150 {
                lsn += 1;
                let write = ((random.below(6) as u8, lsn), random.one_in(3));
                written.extend([write]);
                levels[0].extend([write]);
                if random.one_in(8) {
                    horizon += random.below(lsn - horizon + 1);
                }
                if random.one_in(3) {
                    let (first, into) = (random.below(6) as u8, 1 + random.below(3) as usize);
                    dropped += merge(&mut levels, into, first..first + 1 + random.below(4) as u8, horizon);
                }
                let stored: Versions = levels.iter().flatten().map(|(version, is_gone)| (*version, *is_gone)).collect();
                for (key, at) in (0..6).flat_map(|key| (horizon..=lsn).map(move |at| (key, at))) {
                    assert_eq!(found(&stored, key, at), found(&written, key, at), "seed {seed}: key {key} at {at}");
                }
            }
            for into in 1..4 {
                dropped += merge(&mut levels, into, 0..6, lsn);
            }
            let left = levels[3].len();
            assert_eq!(left, (0..6).filter_map(|key| found(&written, key, lsn)).count(), "seed {seed}");
        }
        assert!(dropped > 10_000, "{dropped} dropped");
    }
}
