//! Sessions that last from call to call.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use highwater_log::env::{Clock, Entropy, Env};
use highwater_query::{Parameter, Session, SqlError, sqlstate};
use tokio::sync::OwnedMutexGuard;

use super::ServerOptions;

/// The sessions, by their ids.
pub(super) struct Sessions {
    open: Mutex<HashMap<String, Arc<Entry>>>,
    idle_max: Duration,
    count_max: usize,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

pub(super) struct Entry {
    session: Arc<tokio::sync::Mutex<Session>>,
    clock: Arc<dyn Clock>,
    /// When a call last began or ended with it, by the clock's monotonic time.
    used: Mutex<Duration>,
    /// Set by whoever held it last.
    is_closed: AtomicBool,
    /// However long nobody uses it.
    is_kept: bool,
}

impl Entry {
    fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = self.clock.monotonic();
    }

    fn idle(&self) -> Duration {
        self.clock.monotonic().saturating_sub(*self.used.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A session in a call's hands. Others that ask for it wait a little, then are refused.
pub(super) struct Held {
    entry: Arc<Entry>,
    guard: OwnedMutexGuard<Session>,
}

impl std::ops::Deref for Held {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.guard
    }
}

impl std::ops::DerefMut for Held {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.guard
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.entry.touch();
    }
}

/// A session that stays open for as long as this is there, however long no call uses it.
pub(super) struct Kept {
    sessions: Arc<Sessions>,
    id: String,
    entry: Arc<Entry>,
}

impl Kept {
    pub(super) fn entry(&self) -> Arc<Entry> {
        Arc::clone(&self.entry)
    }

    /// As [`Session::is_short`]; not while it is in somebody's hands.
    pub(super) fn is_short(&self, sql: &str, parameters: &[Parameter]) -> bool {
        self.entry.session.try_lock().is_ok_and(|session| session.is_short(sql, parameters))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.sessions.lock().remove(&self.id);
    }
}

impl Sessions {
    pub(super) fn new(options: &ServerOptions, env: Env) -> Self {
        let (idle_max, count_max) = (options.session_idle_max, options.sessions_max);
        Self { open: Mutex::default(), idle_max, count_max, clock: env.clock, entropy: env.entropy }
    }

    /// Keeps a session, and gives it an id that cannot be guessed.
    pub(super) fn open(&self, session: Session) -> Result<String, SqlError> {
        self.insert(session, false).map(|(id, _)| id)
    }

    /// Keeps a session for as long as the answer is there.
    pub(super) fn keep(self: &Arc<Self>, session: Session) -> Result<Kept, SqlError> {
        let (id, entry) = self.insert(session, true)?;
        Ok(Kept { sessions: Arc::clone(self), id, entry })
    }

    fn insert(&self, session: Session, is_kept: bool) -> Result<(String, Arc<Entry>), SqlError> {
        let session = Arc::new(tokio::sync::Mutex::new(session));
        let id: String = self.entropy.draw().iter().map(|byte| format!("{byte:02x}")).collect();
        let (clock, used) = (Arc::clone(&self.clock), Mutex::new(self.clock.monotonic()));
        let entry = Arc::new(Entry { session, clock, used, is_closed: AtomicBool::new(false), is_kept });
        let mut open = self.lock();
        if open.len() >= self.count_max {
            let message = format!("there are {} sessions, as many as may be open together", self.count_max);
            return Err(SqlError::new(sqlstate::TOO_MANY_CONNECTIONS, message));
        }
        open.insert(id.clone(), Arc::clone(&entry));
        Ok((id, entry))
    }

    /// Takes a session for a call.
    pub(super) async fn hold(&self, id: &str) -> Result<Held, SqlError> {
        let entry = self.lock().get(id).map(Arc::clone).ok_or_else(no_such_session)?;
        Self::hold_entry(entry).await
    }

    /// Takes a session that is known for a call.
    pub(super) async fn hold_entry(entry: Arc<Entry>) -> Result<Held, SqlError> {
        entry.touch();
        // A call that was just cancelled may not have let go of it yet.
        let guard = tokio::time::timeout(BUSY_WAIT, Arc::clone(&entry.session).lock_owned()).await;
        let guard = guard.map_err(|_| {
            let message = "the session is busy with another call: read its rows to their end, or cancel it";
            SqlError::new(sqlstate::OBJECT_IN_USE, message)
        })?;
        if entry.is_closed.load(Ordering::Acquire) {
            // By the call that this one has waited for.
            return Err(no_such_session());
        }
        Ok(Held { entry, guard })
    }

    /// Takes a session for its last call.
    pub(super) async fn take(&self, id: &str) -> Result<Held, SqlError> {
        let held = self.hold(id).await?;
        held.entry.is_closed.store(true, Ordering::Release);
        self.lock().remove(id);
        Ok(held)
    }

    /// Closes what nobody has used for too long.
    pub(super) fn close_idle(&self) {
        let is_used = |entry: &Entry| entry.is_kept || Arc::strong_count(&entry.session) > 1;
        self.lock().retain(|_, entry| is_used(entry) || entry.idle() < self.idle_max);
    }

    pub(super) fn close_all(&self) {
        self.lock().clear();
    }

    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    pub(super) fn idle_ms_max(&self) -> u64 {
        u64::try_from(self.idle_max.as_millis()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Entry>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn no_such_session() -> SqlError {
    let message = "there is no such session: it was closed, perhaps because no call had used it for too long";
    SqlError::new(sqlstate::NO_SUCH_SESSION, message)
}

const BUSY_WAIT: Duration = Duration::from_secs(1);
