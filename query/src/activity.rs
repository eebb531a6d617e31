//! What sessions do, for whoever watches: which there are, what they run, how long it took.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use highwater_log::Lsn;
use highwater_log::env::Clock;
use highwater_log::meter::{Counter, Histogram};
use highwater_log::value::{ElementType, OwnedValue, Value};

use crate::error::SqlError;
use crate::system::{LiveTable, LiveValue, bigint, text};

/// How many statements there were, how long they took, and how they failed. A statement ends with the last of its rows.
#[derive(Debug, Default)]
pub struct StatementMeter {
    /// From a statement's beginning to its end, in microseconds.
    pub micros: Histogram,
    /// Rows that were given, or changed.
    pub rows: Counter,
    /// Those that took longer than [`crate::EngineOptions::slow_statement`].
    pub slow: Counter,
    errors: Mutex<BTreeMap<&'static str, u64>>,
}

impl StatementMeter {
    /// Statements that failed, by SQLSTATE.
    #[must_use]
    pub fn errors(&self) -> BTreeMap<&'static str, u64> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The sessions of an engine, and what their statements came to.
pub(crate) struct Activity {
    clock: Arc<dyn Clock>,
    slow: Option<Duration>,
    meter: StatementMeter,
    open: Mutex<HashMap<u64, Arc<Watched>>>,
    next: AtomicU64,
}

/// A session, as others see it.
pub(crate) struct Watched {
    id: u64,
    activity: Arc<Activity>,
    opened_micros: u64,
    doing: Mutex<Doing>,
}

#[derive(Default)]
struct Doing {
    application_name: String,
    /// The last text that came, cut short.
    text: String,
    /// When the last statement began; on the monotonic clock.
    begun: Option<Duration>,
    /// Statements whose end nobody has seen: one, or a few whose rows are being read.
    running: u32,
    transaction: Standing,
}

/// How a session stands to a transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Standing {
    #[default]
    Outside,
    /// In one that reads at this LSN.
    Inside(Lsn),
    Failed,
}

impl Activity {
    pub(crate) fn new(clock: Arc<dyn Clock>, slow: Option<Duration>) -> Self {
        let (meter, open, next) = (StatementMeter::default(), Mutex::default(), AtomicU64::new(1));
        Self { clock, slow, meter, open, next }
    }

    pub(crate) const fn meter(&self) -> &StatementMeter {
        &self.meter
    }

    /// Watches a session that was just opened, until [`Activity::forget`].
    pub(crate) fn watch(self: &Arc<Self>) -> Arc<Watched> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let opened_micros = self.clock.unix_micros();
        let watched = Arc::new(Watched { id, activity: Arc::clone(self), opened_micros, doing: Mutex::default() });
        self.open().insert(id, Arc::clone(&watched));
        watched
    }

    pub(crate) fn forget(&self, watched: &Watched) {
        self.open().remove(&watched.id);
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, Arc<Watched>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    /// The session was given this text.
    pub(crate) fn note_text(&self, text: &str) {
        let mut doing = self.doing();
        doing.text.clear();
        doing.text.push_str(shown(text));
    }

    pub(crate) fn note_application(&self, name: &str) {
        let mut doing = self.doing();
        doing.application_name.clear();
        doing.application_name.push_str(shown(name));
    }

    pub(crate) fn note_transaction(&self, standing: Standing) {
        self.doing().transaction = standing;
    }

    /// A statement begins.
    pub(crate) fn begin(self: &Arc<Self>) -> Timing {
        let begun = self.activity.clock.monotonic();
        let mut doing = self.doing();
        doing.begun = Some(begun);
        doing.running += 1;
        drop(doing);
        Timing { watched: Arc::clone(self), begun, rows: 0, failure: None }
    }

    fn doing(&self) -> MutexGuard<'_, Doing> {
        self.doing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn row(&self, now_micros: u64, now: Duration) -> Vec<LiveValue> {
        let doing = self.doing();
        let state = match (doing.running, doing.transaction) {
            (1.., _) => "active",
            (0, Standing::Outside) => "idle",
            (0, Standing::Inside(_)) => "idle in transaction",
            (0, Standing::Failed) => "idle in transaction (aborted)",
        };
        let begun = doing.begun.map(|begun| {
            let ago = u64::try_from(now.saturating_sub(begun).as_micros()).unwrap_or(u64::MAX);
            time(now_micros.saturating_sub(ago))
        });
        let reads_at = if let Standing::Inside(lsn) = doing.transaction { Some(bigint(lsn.value())) } else { None };
        let given = |given: &String| (!given.is_empty()).then(|| text(given.clone()));
        vec![
            Some(bigint(self.id)),
            given(&doing.application_name),
            Some(text(state)),
            Some(time(self.opened_micros)),
            given(&doing.text),
            begun,
            reads_at,
        ]
    }
}

/// A statement that runs. It ends when this is dropped: with the last of its rows.
pub(crate) struct Timing {
    watched: Arc<Watched>,
    begun: Duration,
    rows: u64,
    failure: Option<&'static str>,
}

impl Timing {
    /// Rows were given or changed; counted at once, so that a long result is seen to go on.
    pub(crate) fn note_rows(&mut self, count: u64) {
        self.rows += count;
        self.watched.activity.meter.rows.add(count);
    }

    pub(crate) fn note_failure(&mut self, error: &SqlError) {
        self.failure = Some(error.sqlstate);
    }
}

impl Drop for Timing {
    fn drop(&mut self) {
        let activity = &self.watched.activity;
        let took = activity.clock.monotonic().saturating_sub(self.begun);
        let meter = &activity.meter;
        meter.micros.note_micros(took);
        if let Some(sqlstate) = self.failure {
            *meter.errors.lock().unwrap_or_else(PoisonError::into_inner).entry(sqlstate).or_default() += 1;
        }
        let mut doing = self.watched.doing();
        doing.running -= 1;
        if activity.slow.is_some_and(|slow| took >= slow) {
            meter.slow.add(1);
            let (application, text) = (doing.application_name.clone(), doing.text.clone());
            // Who reads the program's log may be slow, too.
            drop(doing);
            tracing::warn!(
                target: "highwater::slow_statement",
                session = self.watched.id,
                application,
                millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                rows = self.rows,
                sqlstate = self.failure.unwrap_or("00000"),
                statement = text,
            );
        }
    }
}

/// `hw_catalog.sessions`.
pub(crate) struct SessionsTable(pub(crate) Arc<Activity>);

impl LiveTable for SessionsTable {
    fn name(&self) -> &'static str {
        "sessions"
    }

    fn columns(&self) -> &'static [(&'static str, ElementType)] {
        &[
            ("session", ElementType::BigInt),
            ("application_name", ElementType::Text),
            ("state", ElementType::Text),
            ("opened_at", ElementType::TimestampTz(6)),
            ("statement", ElementType::Text),
            ("statement_begun_at", ElementType::TimestampTz(6)),
            ("transaction_lsn", ElementType::BigInt),
        ]
    }

    fn rows(&self) -> Result<Vec<Vec<LiveValue>>, SqlError> {
        let mut open: Vec<_> = self.0.open().values().cloned().collect();
        open.sort_unstable_by_key(|watched| watched.id);
        let (now_micros, now) = (self.0.clock.unix_micros(), self.0.clock.monotonic());
        Ok(open.iter().map(|watched| watched.row(now_micros, now)).collect())
    }
}

fn time(micros: u64) -> OwnedValue {
    OwnedValue::Plain(Value::TimestampTz(i64::try_from(micros).unwrap_or(i64::MAX)))
}

/// What of a text is kept for others to see.
pub(crate) fn shown(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_SHOWN)]
}

const TEXT_BYTES_SHOWN: usize = 1024;
