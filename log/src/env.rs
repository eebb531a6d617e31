//! The outside world as the log sees it: clock, disk and entropy, as traits, so that all of it runs in simulation.

mod disk;
pub mod simulated;
mod system;

use std::sync::Arc;
use std::time::Duration;

pub use disk::{Access, Disk, DiskFile, DiskLock, LockError};
pub use system::{SystemClock, SystemDisk, SystemEntropy};

/// Clock, disk and entropy, handed down from whoever starts the database.
#[derive(Clone)]
pub struct Env {
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Keeps files.
    pub disk: Arc<dyn Disk>,
    /// Draws identities.
    pub entropy: Arc<dyn Entropy>,
}

impl Env {
    /// The machine's own clock, file system and random numbers.
    #[must_use]
    pub fn system() -> Self {
        Self { clock: Arc::new(SystemClock::new()), disk: Arc::new(SystemDisk), entropy: Arc::new(SystemEntropy) }
    }
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Env")
    }
}

/// Tells the time.
pub trait Clock: Send + Sync + 'static {
    /// Microseconds since 1970-01-01 UTC. May go back.
    fn unix_micros(&self) -> u64;

    /// Time since some fixed moment. Never goes back.
    fn monotonic(&self) -> Duration;
}

/// A source of unpredictable bytes.
pub trait Entropy: Send + Sync + 'static {
    /// Sixteen random bytes: an identity.
    fn draw(&self) -> [u8; 16];
}
