//! Positions, identities and counts: each is a type of its own, so that no two can be confused.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$meta:meta])* $name:ident($inner:ty)) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name($inner);

        impl $name {
            /// Wraps a raw number.
            #[must_use]
            pub const fn new(raw: $inner) -> Self {
                Self(raw)
            }

            /// The raw number.
            #[must_use]
            pub const fn value(self) -> $inner {
                self.0
            }

            /// The number after this one.
            ///
            /// # Panics
            /// When the counter is exhausted, which no running system reaches.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("the counter is exhausted"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// Log sequence number: the dense counter of commits, from 1. It is *the* order of the database.
    ///
    /// "At n" includes commit n; "after n" excludes it, everywhere. [`Lsn::ORIGIN`] (0) lies before the first commit: reading
    /// after it reads the whole log.
    Lsn(u64)
}

impl Lsn {
    /// The position before the first commit.
    pub const ORIGIN: Self = Self(0);

    /// The LSN `count` commits further on.
    #[must_use]
    pub const fn advanced_by(self, count: u64) -> Self {
        Self(self.0.checked_add(count).expect("the counter is exhausted"))
    }

    /// The LSN before this one; the origin's is the origin.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

number! {
    /// Grows with each opening of a log for writing. An append that carries an older one is refused (a fence).
    Epoch(u64)
}

number! {
    /// Number of a segment file. Ids are dense, rise along the log and are never used twice, not by a recycled file either.
    SegmentId(u64)
}

number! {
    /// Identity of a row for as long as its key lives, given by the sequencer in order.
    RowId(u64)
}

number! {
    /// Identity of a table, across renames.
    TableId(u64)
}

number! {
    /// Identity of a secondary index, across renames and TRUNCATE.
    IndexId(u64)
}

number! {
    /// Identity of the data of a table. TRUNCATE replaces it, and with it everything that hangs on it.
    StorageId(u64)
}

number! {
    /// Identity of a column within its table. A dropped and re-added name is another column.
    ColumnId(u32)
}

number! {
    /// Version of a table's schema: 1 when created, one more with each change.
    SchemaVersion(u32)
}

/// Identity of a log, drawn when it begins. Cursors carry it: one that was given out by another log is an error.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LogId(uuid::Uuid);

impl LogId {
    /// Wraps 16 bytes that came from an entropy source or from disk.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(uuid::Uuid::from_bytes(bytes))
    }

    /// The 16 bytes.
    #[must_use]
    pub const fn bytes(self) -> [u8; 16] {
        self.0.into_bytes()
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for LogId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogId({})", self.0)
    }
}

/// Hybrid logical time of a commit: microseconds since 1970-01-01 UTC, and a counter among commits of one microsecond.
///
/// Attached to every commit, strictly rising along the log (a clock that goes back is clamped upward), and never trusted for
/// order: that is the [`Lsn`]'s job. After Kulkarni et al., "Logical Physical Clocks" (OPODIS 2014), reduced to one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommitTime {
    /// Microseconds since the Unix epoch.
    pub micros: u64,
    /// Rises while the physical clock stands still or goes back.
    pub logical: u32,
}

impl CommitTime {
    /// The next commit's time, given what the clock says now.
    #[must_use]
    pub fn following(self, now_micros: u64) -> Self {
        if now_micros > self.micros {
            return Self { micros: now_micros, logical: 0 };
        }
        match self.logical.checked_add(1) {
            Some(logical) => Self { micros: self.micros, logical },
            None => Self { micros: self.micros + 1, logical: 0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commit_time_rises_when_the_clock_goes_back() {
        let first = CommitTime::default().following(1_000);
        let second = first.following(400);
        let third = second.following(1_001);
        assert_eq!(second, CommitTime { micros: 1_000, logical: 1 });
        assert_eq!(third, CommitTime { micros: 1_001, logical: 0 });
        assert!(first < second && second < third);
    }
}
