//! BEGIN, COMMIT, ROLLBACK.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use datafusion::sql::sqlparser::ast::{TransactionAccessMode, TransactionIsolationLevel, TransactionMode};
use highwater_log::Lsn;

use super::{Done, Session};
use crate::error::SqlError;
use crate::sqlstate;
use crate::transaction::{Isolation, Transaction};

/// Whether the session is in a transaction.
pub(super) enum TransactionState {
    None,
    Open {
        transaction: Box<Transaction>,
        is_read_only: bool,
        /// Set by a stream of rows that fails while it is read.
        has_failed: Arc<AtomicBool>,
        /// A statement runs. Found at the next one's beginning, it says that its future was dropped.
        is_running: bool,
        /// It has read something, or may have.
        has_run: bool,
    },
    /// A statement failed; only its end is left.
    Failed,
}

impl Session {
    pub(super) async fn begin(&mut self, modes: &[TransactionMode], as_of: Option<Lsn>) -> Result<Done, SqlError> {
        if !matches!(self.state, TransactionState::None) {
            let message = "there is already a transaction in progress";
            return Err(SqlError::new(sqlstate::ACTIVE_TRANSACTION, message));
        }
        let (mut is_read_only, mut level) = (self.settings.is_read_only(), self.settings.isolation());
        for mode in modes {
            match mode {
                TransactionMode::AccessMode(mode) => is_read_only = *mode == TransactionAccessMode::ReadOnly,
                TransactionMode::IsolationLevel(asked) => level = isolation(*asked)?,
            }
        }
        if as_of.is_some() && !is_read_only {
            return Err(SqlError::unsupported("AS OF LSN for a transaction that may write (say READ ONLY)"));
        }
        let mut transaction = Box::new(self.snapshot(as_of).await?);
        transaction.set_isolation(level);
        let (has_failed, is_running, has_run) = (Arc::default(), false, false);
        self.state = TransactionState::Open { transaction, is_read_only, has_failed, is_running, has_run };
        Ok(Done::tag("BEGIN"))
    }

    pub(super) async fn commit(&mut self) -> Result<Done, SqlError> {
        match std::mem::replace(&mut self.state, TransactionState::None) {
            TransactionState::None => {
                Err(SqlError::new(sqlstate::NO_ACTIVE_TRANSACTION, "there is no transaction in progress"))
            }
            // As PostgreSQL answers the COMMIT of a transaction that has failed.
            TransactionState::Failed => Ok(Done::tag("ROLLBACK")),
            TransactionState::Open { transaction, .. } => {
                let (lsn, is_duplicate) = self.commit_transaction(*transaction).await?;
                Ok(Done { lsn, is_duplicate, ..Done::tag("COMMIT") })
            }
        }
    }

    pub(super) fn rollback(&mut self) -> Done {
        self.state = TransactionState::None;
        Done::tag("ROLLBACK")
    }
}

/// READ COMMITTED and weaker are given REPEATABLE READ, as SHOW says.
pub(super) fn isolation(level: TransactionIsolationLevel) -> Result<Isolation, SqlError> {
    match level {
        TransactionIsolationLevel::Serializable => Ok(Isolation::Serializable),
        TransactionIsolationLevel::Snapshot => Err(SqlError::syntax("SNAPSHOT is no isolation level")),
        TransactionIsolationLevel::ReadUncommitted
        | TransactionIsolationLevel::ReadCommitted
        | TransactionIsolationLevel::RepeatableRead => Ok(Isolation::Snapshot),
    }
}

pub(super) const fn isolation_name(isolation: Isolation) -> &'static str {
    match isolation {
        Isolation::Snapshot => "repeatable read",
        Isolation::Serializable => "serializable",
    }
}
