//! `highwater ingest`: change events from a file or standard input.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use highwater_connectors::sources::file::{FileIngest, IngestCause, IngestError, open_lines, read_line};
use highwater_query::parse_schema_dump;
use indicatif::{ProgressBar, ProgressStyle};

use super::{CliError, INCOMPLETE, open_database};

/// Ingest change events, one upstream transaction a commit. Given again, it goes on behind what is stored.
#[derive(Debug, Args)]
pub(super) struct IngestCommand {
    /// The events' format.
    #[arg(long, value_enum)]
    format: Format,

    /// A `pg_dump --schema-only` that tells the columns of tables that are not there yet.
    #[arg(long)]
    tables: Option<PathBuf>,

    /// The data directory. It is opened by this process: no server may run on it.
    #[arg(long, default_value = "./highwater-data", env = "HIGHWATER_DATA")]
    data: PathBuf,

    /// The input, plain or zstd; `-` is standard input.
    input: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Debezium's change events as JSON lines: {"topic", "key", "value"}.
    Debezium,
}

impl IngestCommand {
    pub(super) fn run(self) -> Result<ExitCode, CliError> {
        let Format::Debezium = self.format;
        let tables = match &self.tables {
            Some(path) => {
                let dump = parse_schema_dump(&std::fs::read_to_string(path).map_err(CliError::Input)?)?;
                for skipped in &dump.skipped {
                    eprintln!("passed over: {skipped}");
                }
                Some(dump)
            }
            None => None,
        };
        let input: Box<dyn Read + Send> = if self.input.as_os_str() == "-" {
            Box::new(io::stdin())
        } else {
            Box::new(File::open(&self.input).map_err(CliError::Input)?)
        };
        let mut input = open_lines(input).map_err(CliError::Input)?;
        let runtime = super::runtime()?;
        let database = open_database(&self.data)?;
        let mut ingest = FileIngest::new(database.engine().clone(), tables);
        let bar = progress_bar();
        let mut line = String::new();
        let outcome = loop {
            match read_line(&mut *input, &mut line) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => {
                    let line = ingest.summary().lines + 1;
                    break Err(IngestError { line, cause: IngestCause::Input(error) });
                }
            }
            if let Err(error) = runtime.block_on(ingest.line(&line)) {
                break Err(error);
            }
            if ingest.summary().lines.is_multiple_of(PROGRESS_LINES) {
                let summary = ingest.summary();
                bar.set_position(summary.lines);
                bar.set_message(format!("{} commits", summary.commits));
            }
        };
        bar.finish_and_clear();
        let finished = ingest.finish();
        let closed = database.close();
        outcome?;
        let summary = finished?;
        closed?;
        let last = summary.last.map_or(String::new(), |lsn| format!(", last lsn {lsn}"));
        eprintln!(
            "{} lines: {} events in {} commits{last}; {} events were stored already",
            summary.lines, summary.events, summary.commits, summary.skipped
        );
        if summary.is_open {
            eprintln!(
                "the input ended inside a transaction or a snapshot: that part is not committed; give the whole input again"
            );
            return Ok(ExitCode::from(INCOMPLETE));
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn progress_bar() -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {pos} lines, {per_sec}, {msg}");
    ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
}

const PROGRESS_LINES: u64 = 1_000;
