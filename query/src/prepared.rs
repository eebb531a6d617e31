//! Statements that are parsed once and run many times.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::sql::sqlparser::ast::Statement;
use highwater_log::Lsn;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::activity::shown;
use crate::catalog::CatalogView;
use crate::direct::Direct;
use crate::error::SqlError;
use crate::parameter::{Parameter, bind, check_count, no_parameter};
use crate::parser::{Parsed, parse};

/// One statement, parsed, to be run by any session, with other values for its parameters each time. Cheap to clone.
///
/// What it means is found when it runs: the tables that its names have then.
#[derive(Clone)]
pub struct Prepared {
    shared: Arc<Shared>,
}

struct Shared {
    parsed: Parsed,
    /// Its text, as far as it is shown.
    text: Box<str>,
    direct: DirectSlot,
}

impl Prepared {
    /// A statement out of a text.
    ///
    /// # Errors
    /// As [`parse`]; `42601` unless the text is one statement.
    pub(crate) fn parse(sql: &str) -> Result<Self, SqlError> {
        let parsed = parse(sql)?.single().ok_or_else(|| SqlError::syntax("what is prepared is one statement"))?;
        Ok(Self { shared: Arc::new(Shared { parsed, text: shown(sql).into(), direct: DirectSlot::default() }) })
    }

    /// How many values it is to be given: the highest number behind a `$`.
    #[must_use]
    pub fn parameter_count(&self) -> usize {
        self.shared.parsed.parameter_count
    }

    /// Whether it has gone round the planner before and does so in this catalog with these values: it concerns no more rows than it
    /// names, and computes for microseconds.
    pub(crate) fn is_short(&self, parameters: &[Parameter], catalog: &CatalogView, namespace: &str) -> bool {
        let is_short = |direct: Arc<Direct>| direct.is_current(catalog, namespace) && direct.is_short(parameters);
        self.shared.parsed.as_of.is_none() && self.shared.direct.get().is_some_and(is_short)
    }

    pub(crate) fn as_of(&self) -> Option<Lsn> {
        self.shared.parsed.as_of
    }

    /// Its text, as far as it is shown to others; nothing where it was parsed elsewhere.
    pub(crate) fn text(&self) -> &str {
        &self.shared.text
    }

    /// The statement with these values.
    pub(crate) fn request<'a>(&'a self, parameters: &'a [Parameter]) -> Request<'a> {
        Request {
            statement: Said::Kept(&self.shared.parsed.statement),
            parameter_count: self.shared.parsed.parameter_count,
            parameters,
            direct: Some(&self.shared.direct),
        }
    }
}

impl From<Parsed> for Prepared {
    fn from(parsed: Parsed) -> Self {
        Self { shared: Arc::new(Shared { parsed, text: Box::default(), direct: DirectSlot::default() }) }
    }
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Prepared").field(&self.shared.parsed).finish()
    }
}

/// A statement as it is to be run, and the values that are given for its parameters.
pub(crate) struct Request<'a> {
    statement: Said<'a>,
    parameter_count: usize,
    parameters: &'a [Parameter],
    /// Where its way round the planner is kept, if it is run more than once.
    direct: Option<&'a DirectSlot>,
}

/// A statement takes kilobytes, and a request changes hands often.
enum Said<'a> {
    Once(Box<Statement>),
    Kept(&'a Statement),
}

impl<'a> Request<'a> {
    /// A statement that is run this once, without values for parameters.
    pub(crate) fn once(statement: Statement, parameter_count: usize) -> Self {
        Self { statement: Said::Once(Box::new(statement)), parameter_count, parameters: &[], direct: None }
    }

    /// Whether there is a value for each parameter.
    ///
    /// # Errors
    /// `42P02` where none is given at all; `08P01`.
    pub(crate) fn check_parameters(&self) -> Result<(), SqlError> {
        match (self.parameters, self.parameter_count, self.statement()) {
            // What it prepares has them.
            ([], _, Statement::Prepare { .. }) => Ok(()),
            ([], 1.., _) => Err(no_parameter("$1")),
            (given, wanted, _) => check_count(given.len(), wanted),
        }
    }

    /// The statement, its parameters in it.
    pub(crate) fn statement(&self) -> &Statement {
        match &self.statement {
            Said::Once(statement) => statement,
            Said::Kept(statement) => statement,
        }
    }

    /// How many parameters it has.
    pub(crate) const fn parameter_count(&self) -> usize {
        self.parameter_count
    }

    /// What stands for the parameters.
    pub(crate) fn parameters(&self) -> &'a [Parameter] {
        self.parameters
    }

    /// The statement, values in the places of its parameters.
    ///
    /// # Errors
    /// As [`bind`].
    pub(crate) fn into_bound(self) -> Result<Statement, SqlError> {
        let mut statement = match self.statement {
            Said::Once(statement) => *statement,
            Said::Kept(statement) => statement.clone(),
        };
        if !self.parameters.is_empty() {
            bind(&mut statement, self.parameters)?;
        }
        Ok(statement)
    }

    /// As [`Request::into_bound`], of one that may be run again.
    ///
    /// # Errors
    /// As [`bind`].
    pub(crate) fn bound(&self) -> Result<Cow<'_, Statement>, SqlError> {
        if self.parameters.is_empty() {
            return Ok(Cow::Borrowed(self.statement()));
        }
        let mut statement = self.statement().clone();
        bind(&mut statement, self.parameters)?;
        Ok(Cow::Owned(statement))
    }

    /// Its way round the planner, if it has one in this catalog.
    pub(crate) fn direct(&self, catalog: &CatalogView, namespace: &str) -> Option<Arc<Direct>> {
        let Some(slot) = self.direct else { return Direct::of(self.statement(), catalog, namespace).map(Arc::new) };
        let known = slot.get();
        if let Some(known) = known.filter(|known| known.is_current(catalog, namespace)) {
            return Some(known);
        }
        let direct = Direct::of(self.statement(), catalog, namespace).map(Arc::new);
        slot.set(direct.clone());
        direct
    }
}

/// A way round the planner, as it was found last.
#[derive(Default)]
struct DirectSlot(Mutex<Option<Arc<Direct>>>);

impl DirectSlot {
    fn get(&self) -> Option<Arc<Direct>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, direct: Option<Arc<Direct>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = direct;
    }
}

/// Statements that were run with parameters, by their texts: who sends the same text again need not have it parsed again.
pub(crate) struct PreparedTexts {
    known: Cache<String, Prepared, TextBytes>,
}

impl PreparedTexts {
    pub(crate) fn new() -> Self {
        Self { known: Cache::with_weighter(TEXTS_EXPECTED, KEPT_BYTES, TextBytes) }
    }

    /// The statement of this text.
    ///
    /// # Errors
    /// As [`Prepared::parse`].
    pub(crate) fn prepare(&self, sql: &str) -> Result<Prepared, SqlError> {
        if let Some(known) = self.known(sql) {
            return Ok(known);
        }
        let prepared = Prepared::parse(sql)?;
        if sql.len() <= KEPT_TEXT_BYTES_MAX {
            self.known.insert(sql.to_owned(), prepared.clone());
        }
        Ok(prepared)
    }

    /// The statement of this text, if it was prepared lately.
    pub(crate) fn known(&self, sql: &str) -> Option<Prepared> {
        self.known.get(sql)
    }
}

#[derive(Clone)]
struct TextBytes;

impl Weighter<String, Prepared> for TextBytes {
    fn weight(&self, sql: &String, _: &Prepared) -> u64 {
        sql.len() as u64
    }
}

/// A tree takes up to some 50 times the bytes of its text.
const KEPT_BYTES: u64 = 512 * 1024;
/// A longer text is parsed anew each time: its parsing is little beside its running.
const KEPT_TEXT_BYTES_MAX: usize = 8 * 1024;
const TEXTS_EXPECTED: usize = 1024;
