//! SQL over Highwater: sessions, planning, execution, transactions.
//!
//! Planning and execution are DataFusion's; what it plans over is ours: the catalog and the rows at one LSN, under a transaction's own
//! writes. DML is a query whose rows become a write set.

mod activity;
mod cast;
mod catalog;
mod ddl;
mod direct;
mod dml;
mod engine;
mod error;
mod expansion;
mod feeds;
mod fixed;
mod functions;
mod indexes;
mod interrupt;
mod literals;
mod names;
mod operators;
mod parameter;
mod parser;
mod prepared;
mod providers;
mod results;
mod rewrite;
mod rows;
mod scan;
mod session;
mod short_circuit;
mod sql_type;
pub mod sqlstate;
mod statement;
mod system;
mod transaction;
pub mod types;
mod write;

pub use activity::StatementMeter;
pub use catalog::QualifiedName;
pub use ddl::{ColumnDefinition, SchemaDump, TableDefinition, parse_schema_dump};
pub use engine::{Engine, EngineOptions};
pub use error::SqlError;
pub use feeds::{ArrowChanges, ArrowEncoder};
pub use interrupt::Interrupt;
pub use parameter::Parameter;
pub use parser::{Parsed, STATEMENT_BYTES_MAX, Statements, parse};
pub use prepared::Prepared;
pub use results::ResultMeter;
pub use session::{Done, Outcome, Session};
pub use statement::RowStream;
pub use system::{LiveTable, LiveValue, bigint, text};
pub use write::{DeletedRow, Hold, Ordered, Write, WritePipeline};
