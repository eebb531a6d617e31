//! `highwater ingest`: change events from a file or standard input.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use highwater_connectors::sources::file::{FileIngest, Summary, open_lines};
use highwater_log::Lsn;
use highwater_proto::v1::{IngestFormat, IngestResponse, IngestStart};
use highwater_query::parse_schema_dump;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::mpsc;

use super::place::{Found, Place};
use super::{CliError, INCOMPLETE, open_database};
use crate::client::Client;

/// Ingest change events, one upstream transaction a commit. Given again, it goes on after what is stored.
#[derive(Debug, Args)]
pub(super) struct IngestCommand {
    /// The events' format.
    #[arg(long, value_enum)]
    format: Format,

    /// A `pg_dump --schema-only` that tells the columns of tables that are not there yet.
    #[arg(long)]
    tables: Option<PathBuf>,

    #[command(flatten)]
    place: Place,

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
        let dump = match &self.tables {
            Some(path) => std::fs::read_to_string(path).map_err(CliError::Input)?,
            None => String::new(),
        };
        let input: Box<dyn Read + Send> = if self.input.as_os_str() == "-" {
            Box::new(io::stdin())
        } else {
            Box::new(File::open(&self.input).map_err(CliError::Input)?)
        };
        let runtime = super::runtime()?;
        let summary = match self.place.find() {
            Found::Directory(data) => embedded(&data, &dump, input, &runtime),
            Found::Server(url) => runtime.block_on(remote(&url, dump, input)),
        }?;
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

fn embedded(
    data: &Path,
    dump: &str,
    input: Box<dyn Read + Send>,
    runtime: &tokio::runtime::Runtime,
) -> Result<Summary, CliError> {
    let dump = parse_schema_dump(dump)?;
    dump.skipped.iter().for_each(|statement| note_skipped(statement));
    let input = open_lines(input).map_err(CliError::Input)?;
    let database = open_database(data)?;
    let ingest = FileIngest::new(database.engine().clone(), Some(dump));
    let bar = progress_bar();
    let told = |summary: &Summary| {
        show(&bar, summary.lines, summary.commits);
        ControlFlow::Continue(())
    };
    let finished = runtime.block_on(ingest.run(input, told));
    bar.finish_and_clear();
    let closed = database.close();
    let summary = finished?;
    closed?;
    Ok(summary)
}

async fn remote(url: &str, dump: String, mut input: Box<dyn Read + Send>) -> Result<Summary, CliError> {
    let client = Client::connect(url).await?;
    let (pieces, sent) = mpsc::channel(PIECES_AHEAD);
    let start = IngestStart { format: IngestFormat::Debezium.into(), schema_dump: dump };
    // Pieces are sent as they arrive. A thread that waits for standard input is left behind when the call ends before.
    let (told, mut reading) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut read = || -> io::Result<()> {
            let mut piece = vec![0; PIECE_BYTES];
            loop {
                let count = match input.read(&mut piece) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    count => count?,
                };
                if count == 0 || pieces.blocking_send(piece[..count].to_vec()).is_err() {
                    return Ok(());
                }
            }
        };
        let _ = told.send(read());
    });
    let mut answers = client.ingest(start, sent).await?;
    let bar = progress_bar();
    let mut last = IngestResponse::default();
    while let Some(answer) = answers.message().await.map_err(crate::client::ClientError::from)? {
        answer.passed_over.iter().for_each(|statement| note_skipped(statement));
        show(&bar, answer.lines, answer.commits);
        last = answer;
    }
    bar.finish_and_clear();
    if let Ok(Err(error)) = reading.try_recv() {
        return Err(CliError::Input(error));
    }
    if !last.is_end {
        return Err(CliError::Input(io::Error::new(io::ErrorKind::UnexpectedEof, "the server ended the call")));
    }
    Ok(Summary {
        lines: last.lines,
        events: last.events,
        skipped: last.skipped,
        commits: last.commits,
        last: last.last_lsn.map(Lsn::new),
        snapshot_end: None,
        is_open: last.is_open,
    })
}

fn note_skipped(statement: &str) {
    eprintln!("passed over: {statement}");
}

fn show(bar: &ProgressBar, lines: u64, commits: u64) {
    bar.set_position(lines);
    bar.set_message(format!("{commits} commits"));
}

fn progress_bar() -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {pos} lines, {per_sec}, {msg}");
    ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
}

const PIECE_BYTES: usize = 256 * 1024;
const PIECES_AHEAD: usize = 4;
