//! Commits behind commits: a source need not wait for one transaction to be synced before it fills the next.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use highwater_log::commit::ProducerSequence;
use highwater_log::sequencer::{Accepted, Chain, CommitError};
use highwater_log::{Change, Lsn};

use super::{Hold, Write};
use crate::engine::Engine;
use crate::error::SqlError;
use crate::rows::Ahead;
use crate::sqlstate;

/// A writer's commits, in order, several of them under way at a time.
///
/// Each transaction sees those before it, synced or not, and is ordered behind them: if one cannot be written, none after it is, and
/// every call from then on answers with the error. So what is durable is always a beginning of what was committed here. At most 1,024 are
/// under way.
pub struct WritePipeline {
    engine: Engine,
    ahead: Arc<Ahead>,
    in_flight: VecDeque<Accepted>,
    chain: Option<Chain>,
    failure: Option<SqlError>,
}

/// A commit that was ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ordered {
    /// Its place, provisional until the pipeline was drained.
    pub lsn: Lsn,
    /// A commit of this number stood before: nothing was written.
    pub is_duplicate: bool,
}

impl WritePipeline {
    /// A pipeline with nothing under way.
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        Self { engine, ahead: Arc::default(), in_flight: VecDeque::new(), chain: None, failure: None }
    }

    /// As [`Engine::hold`], for the one who writes here.
    ///
    /// # Errors
    /// `55006`.
    pub fn hold(&self, name: Bytes, patience: Duration) -> Result<Hold, SqlError> {
        self.engine.hold(name, patience)
    }

    /// A larger transaction is refused.
    #[must_use]
    pub fn transaction_bytes_max(&self) -> usize {
        self.engine.sequencer().transaction_bytes_max()
    }

    /// Begins the next transaction. The one before must have been given to [`WritePipeline::commit`], or dropped.
    ///
    /// # Errors
    /// Of a commit under way that failed; `XX000` when the rows cannot be read.
    pub fn begin(&mut self) -> Result<Write, SqlError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        self.note_ended()?;
        let visible = self.engine.visible();
        match Arc::get_mut(&mut self.ahead) {
            Some(ahead) => ahead.forget_to(visible),
            // Somebody still holds a transaction of before.
            None => return Err(SqlError::internal("a pipeline has one transaction at a time")),
        }
        let mut write = Write::begin_at(self.engine.clone(), visible)?;
        write.transaction.look_ahead(Arc::clone(&self.ahead));
        Ok(write)
    }

    /// Has a transaction ordered, and returns before it is durable; `None` when it changed nothing. One that changes the catalog, or is too
    /// large to lie in memory, is waited for.
    ///
    /// # Errors
    /// [`SqlError`]; nothing after the transaction is ordered then. But for `40001`: what it was computed from has changed, everything
    /// before it stands, and it may be computed anew.
    pub fn commit(&mut self, write: Write, producer: Option<ProducerSequence>) -> Result<Option<Ordered>, SqlError> {
        let ordered = self.order(write, producer);
        if let Err(error) = &ordered
            && error.sqlstate != sqlstate::SERIALIZATION_FAILURE
        {
            self.failure.get_or_insert_with(|| error.clone());
        }
        ordered
    }

    fn order(&mut self, mut write: Write, producer: Option<ProducerSequence>) -> Result<Option<Ordered>, SqlError> {
        if let Some(failure) = &self.failure {
            // The transaction may have seen what failed.
            return Err(failure.clone());
        }
        write.apply_inserts()?;
        let (mut set, writes) = write.transaction.into_write_set_and_writes()?;
        if set.is_empty() {
            return Ok(None);
        }
        set.producer = producer;
        let is_catalog =
            set.changes.iter().any(|change| matches!(change, Change::Catalog { .. } | Change::Truncate { .. }));
        // Of what does not lie in memory, nobody who comes behind it can be told.
        let is_waited_for = is_catalog || set.large.is_some();
        if self.in_flight.len() >= IN_FLIGHT_MAX {
            self.wait_for_first()?;
        }
        self.note_ended()?;
        let accepted = match self.engine.sequencer().submit_behind(set, self.chain) {
            Ok(accepted) => accepted,
            Err(error) => {
                // What is under way may tell the cause.
                self.drain()?;
                return Err(error.into());
            }
        };
        let ordered = Ordered { lsn: accepted.lsn, is_duplicate: accepted.is_duplicate };
        self.chain = Some(accepted.chain);
        let first_row = accepted.first_row;
        self.in_flight.push_back(accepted);
        match Arc::get_mut(&mut self.ahead) {
            Some(ahead) if !ordered.is_duplicate => ahead.note(ordered.lsn, first_row, writes),
            Some(_) => {}
            // What follows could not see it.
            None => return Err(SqlError::internal("a transaction of the pipeline outlives its commit")),
        }
        if is_waited_for || ordered.is_duplicate {
            self.drain()?;
        }
        Ok(Some(ordered))
    }

    /// Waits, at most for a moment, for what a transaction that read at `at` lost a race to (`40001`).
    pub async fn wait_for_winner(&self, at: Lsn) {
        self.engine.wait_for_winner(at).await;
    }

    /// Takes note of commits that are not under way any more.
    fn note_ended(&mut self) -> Result<(), SqlError> {
        while let Some(first) = self.in_flight.front()
            && let Some(outcome) = first.try_outcome()
        {
            self.in_flight.pop_front();
            self.note(outcome.map(|_| ()))?;
        }
        if self.in_flight.is_empty() {
            // Everything of before is visible, and not taken back any more; or it failed, and nothing is ordered any more.
            self.chain = self.chain.map(Chain::settled);
        }
        Ok(())
    }

    /// Waits until everything is durable and visible.
    ///
    /// # Errors
    /// Of the first commit that failed.
    pub fn drain(&mut self) -> Result<(), SqlError> {
        while !self.in_flight.is_empty() {
            self.wait_for_first()?;
        }
        self.failure.clone().map_or(Ok(()), Err)
    }

    fn wait_for_first(&mut self) -> Result<(), SqlError> {
        match self.in_flight.pop_front() {
            Some(first) => {
                let outcome = first.wait_blocking();
                self.note(outcome.map(|_| ()))
            }
            None => Ok(()),
        }
    }

    fn note(&mut self, outcome: Result<(), CommitError>) -> Result<(), SqlError> {
        outcome.map_err(|error| self.fail(error))
    }

    fn fail(&mut self, error: CommitError) -> SqlError {
        self.failure.get_or_insert_with(|| error.into()).clone()
    }
}

impl Drop for WritePipeline {
    /// Whoever goes on after it sees all that it ordered.
    fn drop(&mut self) {
        // Whatever failed was told, or nobody is left to be told.
        let _ = self.drain();
    }
}

/// So many commits are under way at most.
const IN_FLIGHT_MAX: usize = 1024;
