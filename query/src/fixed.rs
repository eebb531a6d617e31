//! What computes the same of the same rows, whoever asks and whenever.

use datafusion::logical_expr::Volatility;
use datafusion::sql::sqlparser::ast::Function;

use crate::engine::Engine;

/// The name of a function, as it is looked up.
pub(crate) fn function_name(function: &Function) -> String {
    let last = function.name.0.last().and_then(|part| part.as_ident());
    last.map_or_else(String::new, |last| last.value.to_lowercase())
}

/// Whether a function answers the same question always alike; `name` is its [`function_name`].
pub(crate) fn is_fixed(engine: &Engine, name: &str) -> bool {
    let is_session = SESSION_FUNCTIONS.contains(&name) || name.starts_with("hw_") || name.starts_with("pg_");
    !is_session && engine.volatility(name).is_none_or(|known| known == Volatility::Immutable)
}

/// What is the session's, or the clock's.
const SESSION_FUNCTIONS: [&str; 19] = [
    "current_catalog",
    "current_database",
    "current_date",
    "current_role",
    "current_schema",
    "current_setting",
    "current_time",
    "current_timestamp",
    "current_user",
    "gen_random_uuid",
    "localtime",
    "localtimestamp",
    "now",
    "random",
    "session_user",
    "statement_timestamp",
    "transaction_timestamp",
    "user",
    "version",
];
