//! How the server is, for all who ask.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use highwater_log::env::Clock;
use highwater_log::{LogId, Lsn};
use highwater_materializers::Progress;

use super::Addresses;
use super::sessions::Sessions;
use crate::Database;

/// What the server is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The database is being opened.
    Opening,
    Serving,
    Stopping,
}

/// Facts about the server, kept up to date.
pub(super) struct Health {
    pub(super) addresses: Addresses,
    clock: Arc<dyn Clock>,
    started: Duration,
    state: Mutex<State>,
    subscriptions: AtomicU64,
    metrics: Arc<tokio::sync::Mutex<()>>,
}

struct State {
    phase: Phase,
    /// While the database is opened: how far the log was folded.
    replay: Option<Progress>,
    served: Option<(Arc<Database>, Arc<Sessions>)>,
}

/// What is served, at one moment.
pub(super) struct Served {
    pub(super) database: Arc<Database>,
    pub(super) sessions: u64,
    pub(super) subscriptions: u64,
}

/// The facts at one moment.
pub(super) struct Facts {
    pub(super) log_id: LogId,
    pub(super) visible: Lsn,
    pub(super) durable: Lsn,
    /// Why no writes are taken, if so.
    pub(super) not_writable: Option<Arc<str>>,
    /// Where the log has rotted.
    pub(super) damages: Vec<String>,
    pub(super) sessions: u64,
    pub(super) subscriptions: u64,
}

impl Health {
    pub(super) fn opening(addresses: Addresses, clock: Arc<dyn Clock>) -> Self {
        let state = Mutex::new(State { phase: Phase::Opening, replay: None, served: None });
        let started = clock.monotonic();
        Self { addresses, clock, started, state, subscriptions: AtomicU64::new(0), metrics: Arc::default() }
    }

    pub(super) fn note_replay(&self, progress: Progress) {
        self.state().replay = Some(progress);
    }

    /// How far the log was folded, while the database is opened.
    pub(super) fn replay(&self) -> Option<Progress> {
        self.state().replay
    }

    pub(super) fn serve(&self, database: Arc<Database>, sessions: Arc<Sessions>) {
        *self.state() = State { phase: Phase::Serving, replay: None, served: Some((database, sessions)) };
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.state().phase = phase;
    }

    /// Lets go of the database, so that it can be closed.
    pub(super) fn forget_database(&self) {
        self.state().served = None;
    }

    pub(super) fn phase(&self) -> Phase {
        self.state().phase
    }

    pub(super) fn uptime(&self) -> Duration {
        self.clock.monotonic().saturating_sub(self.started)
    }

    /// Waits for the turn to gather metrics.
    pub(super) async fn metrics_turn(&self) -> tokio::sync::OwnedMutexGuard<()> {
        Arc::clone(&self.metrics).lock_owned().await
    }

    /// Before there is a database, and once it is being closed, `None`. Whoever has it keeps it from being closed.
    pub(super) fn served(&self) -> Option<Served> {
        let state = self.state();
        let (database, sessions) = state.served.as_ref()?;
        let (database, sessions) = (Arc::clone(database), sessions.count() as u64);
        Some(Served { database, sessions, subscriptions: self.subscriptions.load(Ordering::Relaxed) })
    }

    /// Before there is a database, `None`.
    pub(super) fn facts(&self) -> Option<Facts> {
        let state = self.state();
        let (database, sessions) = state.served.as_ref()?;
        Some(Facts {
            log_id: database.log_id(),
            visible: database.visible(),
            durable: database.durable(),
            not_writable: database.engine().sequencer().stopped(),
            damages: database.scrubbed().damages.iter().map(ToString::to_string).collect(),
            sessions: sessions.count() as u64,
            subscriptions: self.subscriptions.load(Ordering::Relaxed),
        })
    }

    /// Counts a subscription for as long as what is returned lives.
    pub(super) fn subscription(self: &Arc<Self>) -> Subscribed {
        self.subscriptions.fetch_add(1, Ordering::Relaxed);
        Subscribed(Arc::clone(self))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A subscription that is counted.
pub(super) struct Subscribed(Arc<Health>);

impl Drop for Subscribed {
    fn drop(&mut self) {
        self.0.subscriptions.fetch_sub(1, Ordering::Relaxed);
    }
}
