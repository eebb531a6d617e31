//! A simulated machine: the same seed gives the same run.
//!
//! The disk keeps apart what was written and what is durable. A power loss ([`SimulatedDisk::lose_power`]) drops, tears and
//! reorders what was not synced: every 512-byte sector comes back as one of the versions it had since its last sync, independent
//! of its neighbours, and the names of a directory as one of the states they had. A failing call ([`SimulatedDisk::fail_call`])
//! may do a part of its work; a failed sync loses unsynced sectors for good though reads go on seeing them, as Linux does.

mod disk;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use disk::{Fault, SimulatedDisk};

use super::{Clock, Entropy, Env};

/// Pseudo-random numbers from a seed (SplitMix64; Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `bound`.
    ///
    /// # Panics
    /// When `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "no number lies below 0");
        self.draw() % bound
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A clock that stands still until it is moved.
#[derive(Debug, Default)]
pub struct SimulatedClock {
    micros: AtomicU64,
}

impl SimulatedClock {
    /// Moves the clock on.
    pub fn advance(&self, by: Duration) {
        self.micros.fetch_add(u64::try_from(by.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Clock for SimulatedClock {
    fn unix_micros(&self) -> u64 {
        SIMULATED_START_MICROS + self.micros.load(Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.micros.load(Ordering::Relaxed))
    }
}

/// Identities counted up from a seed.
#[derive(Debug)]
pub struct SimulatedEntropy(AtomicU64);

impl Entropy for SimulatedEntropy {
    fn draw(&self) -> [u8; 16] {
        let mut random = Random::new(self.0.fetch_add(1, Ordering::Relaxed));
        let wide = u128::from(random.draw()) << 64 | u128::from(random.draw());
        wide.to_be_bytes()
    }
}

/// A machine of this seed, with its disk and clock at hand.
#[must_use]
pub fn machine(seed: u64) -> (Env, Arc<SimulatedDisk>, Arc<SimulatedClock>) {
    let disk = Arc::new(SimulatedDisk::new(seed));
    let clock = Arc::new(SimulatedClock::default());
    let env = Env {
        clock: Arc::<SimulatedClock>::clone(&clock),
        disk: Arc::<SimulatedDisk>::clone(&disk),
        entropy: Arc::new(SimulatedEntropy(AtomicU64::new(seed))),
    };
    (env, disk, clock)
}

const SIMULATED_START_MICROS: u64 = 1_800_000_000_000_000;
