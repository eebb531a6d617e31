//! Counting what happens, for whoever watches: counters and histograms that cost an atomic addition or two.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Something that is counted.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts `count` more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// How many there were.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How often a number was how large, in steps of powers of two: step i counts those above 2^(i-1) up to 2^i.
#[derive(Debug)]
pub struct Histogram {
    steps: [AtomicU64; STEPS],
    sum: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { steps: [const { AtomicU64::new(0) }; STEPS], sum: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Notes a number.
    pub fn note(&self, number: u64) {
        let step = (u64::BITS - number.saturating_sub(1).leading_zeros()) as usize;
        self.steps[step.min(STEPS - 1)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(number, Ordering::Relaxed);
    }

    /// Notes a time, in microseconds.
    pub fn note_micros(&self, time: Duration) {
        self.note(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// What was noted so far.
    #[must_use]
    pub fn read(&self) -> Noted {
        let step = |(step, count): (usize, &AtomicU64)| (1 << step, count.load(Ordering::Relaxed));
        Noted { steps: self.steps.iter().enumerate().map(step).collect(), sum: self.sum.load(Ordering::Relaxed) }
    }
}

/// What a [`Histogram`] has noted. Read while more is noted, sum and counts may differ by what is just being noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    /// For each step the highest number in it, and how many numbers were in it. The last step has all that are higher, too.
    pub steps: Vec<(u64, u64)>,
    /// Of all numbers.
    pub sum: u64,
}

impl Noted {
    /// How many numbers were noted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.steps.iter().map(|(_, count)| count).sum()
    }
}

/// The last step begins behind 2^38: three days in microseconds.
const STEPS: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_counts_in_the_step_whose_bound_it_does_not_pass() {
        let histogram = Histogram::default();
        for number in [0, 1, 2, 3, 4, 5, 1024, 1025, u64::MAX / 2] {
            histogram.note(number);
        }
        let noted = histogram.read();
        assert_eq!(noted.count(), 9);
        assert_eq!(noted.sum, 2 + 3 + 4 + 5 + 1024 + 1025 + 1 + u64::MAX / 2);
        let filled: Vec<_> = noted.steps.iter().copied().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(1, 2), (2, 1), (4, 2), (8, 1), (1024, 1), (2048, 1), (1 << 39, 1)]);
        histogram.note_micros(Duration::from_millis(2));
        assert_eq!(histogram.read().steps[11], (2048, 2));
    }
}
