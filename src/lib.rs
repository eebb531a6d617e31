//! Highwater, the database as a whole: embedded as [`Database`], and the command line.

pub mod cli;
mod database;

pub use database::{Database, OpenError, Options};
pub use highwater_log::Lsn;
pub use highwater_materializers::Progress;
pub use highwater_query::{Done, Outcome, RowStream, Session, SqlError, sqlstate, types};
