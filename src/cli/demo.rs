//! `highwater demo`: the main job on recorded input, watched.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{CliError, FAILED};
use crate::demo::{self, DemoOptions, Recording, Verdict};

/// Ingest a recorded PostgreSQL change stream, watch what comes out, and compare it with what PostgreSQL held.
///
/// Runs an embedded server in a temporary directory. A changefeed, aggregate queries and a streaming SELECT follow the ingest, all
/// through gRPC. Ends by comparing every table and sum with the recording; exit code 1 when anything differs.
#[derive(Debug, Args)]
pub(super) struct DemoCommand {
    /// Go on serving at the end, until Ctrl-C.
    #[arg(long)]
    keep: bool,

    /// Another recording: Debezium's change events as JSON lines, plain or zstd.
    #[arg(long)]
    stream: Option<PathBuf>,

    /// A `pg_dump --schema-only` that tells its tables' columns.
    #[arg(long, requires = "stream")]
    tables: Option<PathBuf>,

    /// A folder with each table as it must be at the end: `TABLE.csv`, as COPY … (FORMAT csv, HEADER) writes it in key order.
    #[arg(long, requires = "stream")]
    expected: Option<PathBuf>,
}

impl DemoCommand {
    pub(super) fn run(self) -> Result<ExitCode, CliError> {
        let recording = match &self.stream {
            None => Recording::built_in(),
            Some(stream) => Recording::open(stream, self.tables.as_deref(), self.expected.as_deref()),
        };
        let recording = recording.map_err(demo::DemoError::from)?;
        let runtime = super::runtime()?;
        let verdict = runtime.block_on(demo::run(recording, DemoOptions { is_kept: self.keep }))?;
        Ok(match verdict {
            Verdict::Equal => ExitCode::SUCCESS,
            Verdict::Different => ExitCode::from(FAILED),
        })
    }
}
