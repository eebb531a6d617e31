//! SET, SHOW, RESET.

use std::time::Duration;

use datafusion::sql::sqlparser::ast::{
    ContextModifier, Expr, Ident, Reset, ResetStatement, Set, TransactionAccessMode, TransactionMode, Value,
};
use highwater_log::Lsn;
use highwater_log::sequencer::Durability;
use highwater_materializers::Catalog;

use super::transactions::{isolation, isolation_name};
use super::{Done, MIN_LSN_TIMEOUT, Session, TransactionState, one_column, text_columns};
use crate::error::SqlError;
use crate::names::folded;
use crate::sqlstate;
use crate::statement::RowStream;
use crate::transaction::Isolation;

/// A session's settings.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    is_buffered: bool,
    min_lsn: Lsn,
    min_lsn_timeout: Duration,
    search_path: String,
    is_read_only: bool,
    isolation: Isolation,
    application_name: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            is_buffered: false,
            min_lsn: Lsn::ORIGIN,
            min_lsn_timeout: MIN_LSN_TIMEOUT,
            search_path: Catalog::PUBLIC.to_owned(),
            is_read_only: false,
            isolation: Isolation::default(),
            application_name: String::new(),
        }
    }
}

impl Settings {
    pub(super) const fn durability(&self) -> Durability {
        if self.is_buffered { Durability::Buffered } else { Durability::Synced }
    }

    pub(super) const fn min_lsn(&self) -> Lsn {
        self.min_lsn
    }

    pub(super) const fn min_lsn_timeout(&self) -> Duration {
        self.min_lsn_timeout
    }

    pub(super) fn namespace(&self) -> &str {
        &self.search_path
    }

    /// What transactions begin with.
    pub(super) const fn isolation(&self) -> Isolation {
        self.isolation
    }

    pub(super) const fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<(), SqlError> {
        let invalid = || {
            let message = format!("invalid value for parameter \"{name}\": \"{value}\"");
            SqlError::new(sqlstate::INVALID_PARAMETER_VALUE, message)
        };
        let lower = value.to_lowercase();
        match name {
            "synchronous_commit" => {
                self.is_buffered = match lower.as_str() {
                    "off" | "false" | "0" => true,
                    "on" | "true" | "1" | "local" | "remote_write" | "remote_apply" => false,
                    _ => return Err(invalid()),
                }
            }
            "hw.min_lsn" => self.min_lsn = Lsn::new(value.parse().map_err(|_| invalid())?),
            "hw.min_lsn_timeout" => self.min_lsn_timeout = duration(&lower).ok_or_else(invalid)?,
            "search_path" => {
                let first = value.split(',').map(|part| part.trim().trim_matches('"')).find(|part| *part != "$user");
                self.search_path = first.filter(|name| !name.is_empty()).unwrap_or(Catalog::PUBLIC).to_owned();
            }
            "default_transaction_read_only" => {
                self.is_read_only = match lower.as_str() {
                    "on" | "true" | "1" => true,
                    "off" | "false" | "0" => false,
                    _ => return Err(invalid()),
                }
            }
            "default_transaction_isolation" => self.isolation = named_isolation(&lower).ok_or_else(invalid)?,
            // Of a transaction; outside of one there is none that it could be said of.
            "transaction_isolation" => drop(named_isolation(&lower).ok_or_else(invalid)?),
            "application_name" => self.application_name = value.to_owned(),
            _ => match FIXED.iter().find(|(known, _)| *known == name) {
                Some((_, only)) if accepts(name, only, &lower) => {}
                Some((_, only)) => {
                    return Err(SqlError::unsupported(&format!("{name} other than {only}")));
                }
                None => return Err(unknown(name)),
            },
        }
        Ok(())
    }

    fn value(&self, name: &str) -> Option<String> {
        Some(match name {
            "synchronous_commit" => if self.is_buffered { "off" } else { "on" }.to_owned(),
            "hw.min_lsn" => self.min_lsn.to_string(),
            "hw.min_lsn_timeout" => format!("{}ms", self.min_lsn_timeout.as_millis()),
            "search_path" => self.search_path.clone(),
            "default_transaction_read_only" => if self.is_read_only { "on" } else { "off" }.to_owned(),
            "default_transaction_isolation" | "transaction_isolation" => isolation_name(self.isolation).to_owned(),
            "application_name" => self.application_name.clone(),
            _ => FIXED.iter().find(|(known, _)| *known == name)?.1.to_owned(),
        })
    }
}

fn accepts(name: &str, only: &str, value: &str) -> bool {
    let only = only.to_lowercase();
    value == only
        || match name {
            "timezone" => ["utc", "gmt", "etc/utc", "z", "+00:00", "0"].contains(&value),
            "client_encoding" => ["utf-8", "unicode", "'utf8'"].contains(&value),
            "datestyle" => value.starts_with("iso"),
            "extra_float_digits" => ["1", "2", "3"].contains(&value),
            "statement_timeout" | "lock_timeout" => value == "0ms" || value == "0s",
            _ => false,
        }
}

fn named_isolation(name: &str) -> Option<Isolation> {
    match name {
        "read uncommitted" | "read committed" | "repeatable read" => Some(Isolation::Snapshot),
        "serializable" => Some(Isolation::Serializable),
        _ => None,
    }
}

/// `5s`, `250ms`, `1min`, a bare number of milliseconds.
fn duration(text: &str) -> Option<Duration> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..end].parse().ok()?;
    match text[end..].trim() {
        "" | "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "min" => Some(Duration::from_secs(number.checked_mul(60)?)),
        _ => None,
    }
}

impl Session {
    pub(super) fn change_setting(&mut self, name: &str, value: &str) -> Result<(), SqlError> {
        self.settings.set(name, value)?;
        if name == "application_name" {
            self.watched.note_application(value);
        }
        Ok(())
    }

    pub(super) fn set(&mut self, set: &Set) -> Result<Done, SqlError> {
        match set {
            Set::SingleAssignment { scope, variable, values, .. } => {
                if matches!(scope, Some(ContextModifier::Local | ContextModifier::Global)) {
                    return Err(SqlError::unsupported("SET LOCAL, SET GLOBAL"));
                }
                let name =
                    variable.0.iter().filter_map(|part| part.as_ident()).map(folded).collect::<Vec<_>>().join(".");
                let values: Vec<String> = values.iter().map(setting_text).collect();
                match values[..] {
                    [ref value] if value.eq_ignore_ascii_case("default") => {
                        self.change_setting(&name, &default_of(&name)?)?;
                    }
                    _ => self.change_setting(&name, &values.join(", "))?,
                }
                if name == "transaction_isolation"
                    && let Some(isolation) = named_isolation(&values.join(", ").to_lowercase())
                {
                    self.set_isolation(isolation)?;
                }
            }
            Set::SetTimeZone { value, .. } => self.settings.set("timezone", &setting_text(value))?,
            Set::SetNames { charset_name, .. } => self.settings.set("client_encoding", &charset_name.value)?,
            Set::SetTransaction { modes, snapshot: None, session } => self.set_transaction(modes, *session)?,
            other => return Err(SqlError::unsupported(&other.to_string())),
        }
        Ok(Done::tag("SET"))
    }

    /// Of the open transaction, or of all that the session begins from now on.
    fn set_transaction(&mut self, modes: &[TransactionMode], is_for_session: bool) -> Result<(), SqlError> {
        for mode in modes {
            match mode {
                TransactionMode::IsolationLevel(level) if is_for_session => {
                    self.settings.isolation = isolation(*level)?;
                }
                TransactionMode::AccessMode(mode) if is_for_session => {
                    self.settings.is_read_only = *mode == TransactionAccessMode::ReadOnly;
                }
                TransactionMode::IsolationLevel(level) => self.set_isolation(isolation(*level)?)?,
                TransactionMode::AccessMode(mode) => {
                    // Outside of a transaction there is none that it could be said of.
                    if let TransactionState::Open { is_read_only, .. } = &mut self.state {
                        *is_read_only = *mode == TransactionAccessMode::ReadOnly;
                    }
                }
            }
        }
        Ok(())
    }

    /// Of the open transaction, as long as it has not read anything.
    fn set_isolation(&mut self, isolation: Isolation) -> Result<(), SqlError> {
        match &mut self.state {
            TransactionState::Open { transaction, .. } if transaction.isolation() == isolation => Ok(()),
            TransactionState::Open { has_run: true, .. } => {
                let message = "SET TRANSACTION ISOLATION LEVEL must be called before any query";
                Err(SqlError::new(sqlstate::ACTIVE_TRANSACTION, message))
            }
            TransactionState::Open { transaction, .. } => {
                transaction.set_isolation(isolation);
                Ok(())
            }
            TransactionState::None | TransactionState::Failed => Ok(()),
        }
    }

    pub(super) fn show(&self, variable: &[Ident]) -> Result<RowStream, SqlError> {
        let words: Vec<String> = variable.iter().map(folded).collect();
        let name = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["transaction", "isolation", "level"] => "transaction_isolation".to_owned(),
            ["time", "zone"] => "timezone".to_owned(),
            ["all"] => return self.show_all(),
            _ => words.join("."),
        };
        let value = match &self.state {
            TransactionState::Open { transaction, .. } if name == "transaction_isolation" => {
                isolation_name(transaction.isolation()).to_owned()
            }
            _ => self.settings.value(&name).ok_or_else(|| unknown(&name))?,
        };
        one_column(&name, std::iter::once(value.as_str()), self.engine.visible())
    }

    fn show_all(&self) -> Result<RowStream, SqlError> {
        let mut names: Vec<_> = CHANGEABLE.iter().copied().chain(FIXED.iter().map(|(name, _)| *name)).collect();
        names.sort_unstable();
        let values = names.iter().map(|name| self.settings.value(name).ok_or_else(|| unknown(name)));
        let values: Vec<String> = values.collect::<Result<_, _>>()?;
        let rows = names.iter().zip(&values).map(|(name, value)| [*name, value.as_str()]);
        text_columns(["name", "setting"], rows, self.engine.visible())
    }

    pub(super) fn reset(&mut self, reset: &ResetStatement) -> Result<Done, SqlError> {
        match &reset.reset {
            Reset::ALL => {
                self.settings = Settings::default();
                self.watched.note_application("");
            }
            Reset::ConfigurationParameter(name) => {
                let name = name.0.iter().filter_map(|part| part.as_ident()).map(folded).collect::<Vec<_>>().join(".");
                self.change_setting(&name, &default_of(&name)?)?;
            }
        }
        Ok(Done::tag("RESET"))
    }
}

fn default_of(name: &str) -> Result<String, SqlError> {
    Settings::default().value(name).ok_or_else(|| unknown(name))
}

fn setting_text(value: &Expr) -> String {
    match value {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) | Value::DoubleQuotedString(text) => text.clone(),
            other => other.to_string(),
        },
        Expr::Identifier(ident) => ident.value.clone(),
        other => other.to_string(),
    }
}

fn unknown(name: &str) -> SqlError {
    SqlError::new(sqlstate::UNDEFINED_OBJECT, format!("unrecognized configuration parameter \"{name}\""))
}

/// What a session may set.
const CHANGEABLE: [&str; 8] = [
    "application_name",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "hw.min_lsn",
    "hw.min_lsn_timeout",
    "search_path",
    "synchronous_commit",
    "transaction_isolation",
];

/// Settings that clients set to the one value that there is.
const FIXED: [(&str, &str); 15] = [
    ("client_encoding", "UTF8"),
    ("server_encoding", "UTF8"),
    ("datestyle", "ISO, MDY"),
    ("intervalstyle", "postgres"),
    ("timezone", "UTC"),
    ("standard_conforming_strings", "on"),
    ("bytea_output", "hex"),
    ("integer_datetimes", "on"),
    ("server_version", "15.0"),
    ("extra_float_digits", "1"),
    ("client_min_messages", "notice"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("row_security", "off"),
    ("check_function_bodies", "off"),
];
