//! Commits that were encoded for one feed, for the others that tell the same in the same form.
//!
//! Whoever comes to a commit first encodes it; those at his heels take the bytes. Who is further behind encodes by himself, from the log.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use highwater_log::Lsn;
use highwater_log::position::SchemaVersion;
use highwater_log::schema::FeedTable;

use crate::format::Envelope;

/// What is shared among the feeds of a database.
#[derive(Default)]
pub(crate) struct Shares(Mutex<HashMap<Vec<FeedTable>, Weak<Share>>>);

/// What is shared among feeds that tell the same.
#[derive(Default)]
pub(crate) struct Share(Mutex<HashMap<Envelope, Recent>>);

/// The newest commits in one form, rising.
#[derive(Default)]
struct Recent {
    commits: VecDeque<ToldCommit>,
    bytes: usize,
}

/// A commit as it was told, whole.
#[derive(Clone)]
pub(crate) struct ToldCommit {
    pub(crate) lsn: Lsn,
    pub(crate) text: Arc<str>,
    /// How many events the text tells; it may be none.
    pub(crate) count: u32,
    pub(crate) is_bookkeeping: bool,
}

impl Shares {
    /// What those share who tell this.
    pub(crate) fn of(&self, mut tables: Vec<FeedTable>) -> Arc<Share> {
        for table in tables.iter_mut().filter(|table| table.filter.is_none() && table.columns.is_none()) {
            // Nothing names its columns.
            table.version = SchemaVersion::new(0);
        }
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(&tables).and_then(Weak::upgrade) {
            return share;
        }
        shares.retain(|_, share| share.strong_count() > 0);
        let share = Arc::default();
        shares.insert(tables, Arc::downgrade(&share));
        share
    }
}

impl Share {
    /// Whether there is anybody to share with.
    pub(crate) fn is_shared(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 1
    }

    /// The commit in this form, if somebody has told it lately.
    pub(crate) fn get(&self, form: Envelope, lsn: Lsn) -> Option<ToldCommit> {
        let forms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = &forms.get(&form)?.commits;
        let commit = recent.get(recent.partition_point(|commit| commit.lsn < lsn))?;
        (commit.lsn == lsn).then(|| commit.clone())
    }

    /// Takes a commit that was told in this form.
    pub(crate) fn put(&self, form: Envelope, commit: ToldCommit) {
        let mut forms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = forms.entry(form).or_default();
        // Somebody was faster, or is ahead.
        if commit.text.len() > TEXT_BYTES_MAX || recent.commits.back().is_some_and(|last| last.lsn >= commit.lsn) {
            return;
        }
        recent.bytes += commit.text.len() + COMMIT_OVERHEAD_BYTES;
        recent.commits.push_back(commit);
        while recent.bytes > RECENT_BYTES_MAX
            && let Some(oldest) = recent.commits.pop_front()
        {
            recent.bytes -= oldest.text.len() + COMMIT_OVERHEAD_BYTES;
        }
    }
}

/// A longer text is not kept: its commit is told piece by piece.
const TEXT_BYTES_MAX: usize = 64 * 1024;
const RECENT_BYTES_MAX: usize = 512 * 1024;
const COMMIT_OVERHEAD_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn told(lsn: u64, bytes: usize) -> ToldCommit {
        ToldCommit { lsn: Lsn::new(lsn), text: "x".repeat(bytes).into(), count: 1, is_bookkeeping: false }
    }

    #[test]
    fn the_newest_commits_are_kept_within_bounds() {
        let share = Share::default();
        (1..=100).for_each(|lsn| share.put(Envelope::Plain, told(lsn, 10_000)));
        share.put(Envelope::Plain, told(50, 10));
        share.put(Envelope::Plain, told(101, TEXT_BYTES_MAX + 1));
        let kept: Vec<_> = (1..=101).filter(|lsn| share.get(Envelope::Plain, Lsn::new(*lsn)).is_some()).collect();
        assert_eq!(kept, (49..=100).collect::<Vec<_>>());
        assert!(share.get(Envelope::Upsert, Lsn::new(100)).is_none(), "another form");
    }

    #[test]
    fn the_same_is_shared_while_somebody_tells_it() {
        let shares = Shares::default();
        let table = |version: u64, filter: Option<&str>| FeedTable {
            table: highwater_log::position::TableId::new(4),
            version: SchemaVersion::new(u32::try_from(version).unwrap()),
            filter: filter.map(str::to_owned),
            columns: None,
        };
        let first = shares.of(vec![table(1, None)]);
        assert!(!first.is_shared());
        assert!(Arc::ptr_eq(&first, &shares.of(vec![table(2, None)])), "whatever the version");
        assert!(!Arc::ptr_eq(&first, &shares.of(vec![table(1, Some("v > 1"))])));
        let filtered = shares.of(vec![table(1, Some("v > 1"))]);
        assert!(!Arc::ptr_eq(&filtered, &shares.of(vec![table(2, Some("v > 1"))])), "a text names a version's columns");
    }
}
