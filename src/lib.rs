//! Highwater, the database as a whole: embedded as [`Database`], and the command line.

pub mod cli;
mod client;
mod database;
mod demo;
mod server;
mod settings;
mod told;

pub use database::{Backup, BackupProgress, Database, OpenError, Options};
pub use highwater_changefeed::{
    Batch, BatchKind, Claim, Cursor, EncodeError, Feed, FeedError, FeedOptions, FeedStart, FeedStatus, NamedFeed,
    NamedFeeds, TableSpec, format,
};
pub use highwater_log::value::{ColumnType, OwnedValue};
pub use highwater_log::{BackupHeader, LogId, Lsn};
pub use highwater_materializers::{Counted, FeedPosition, Finding, Progress};
pub use highwater_query::{
    Done, Interrupt, Outcome, Parameter, Prepared, RowStream, Session, SqlError, sqlstate, types,
};
pub use server::{ReadyServer, Server, ServerError, ServerOptions};
