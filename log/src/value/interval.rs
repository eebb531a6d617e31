//! SQL's interval.

/// Months, days and microseconds, kept apart as PostgreSQL keeps them; comparison normalises them (30 days a month, 24 hours a day).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Interval {
    /// Months, years included.
    pub months: i32,
    /// Days.
    pub days: i32,
    /// Microseconds.
    pub micros: i64,
}

impl Interval {
    /// The length by which PostgreSQL orders intervals, in microseconds: `1 mon` equals `30 days`.
    #[must_use]
    pub fn comparable_micros(self) -> i128 {
        let days = i128::from(self.months) * 30 + i128::from(self.days);
        days * MICROS_PER_DAY + i128::from(self.micros)
    }
}

const MICROS_PER_DAY: i128 = 86_400_000_000;
