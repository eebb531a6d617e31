//! The command line: standard output holds what was asked for and nothing else, exit codes mean something.

mod backup;
mod demo;
mod doctor;
mod feed;
mod ingest;
mod limits;
mod log;
mod output;
mod place;
mod server;
mod sql;

use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use highwater_log::error_chain;
use highwater_materializers::{KvOptions, Progress};
use indicatif::ProgressBar;

use crate::{Database, Options};

pub(crate) use output::{Format, RowWriter};

/// A streaming, event-sourced database: one log, and everything else folded from it.
#[derive(Debug, Parser)]
#[command(name = "highwater", version, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// See it work: a recorded change stream goes in, and what comes out is watched and checked.
    Demo(demo::DemoCommand),
    /// Serve the database by gRPC and HTTP.
    Server(server::ServerCommand),
    /// Follow changes.
    Feed(feed::FeedCommand),
    /// Look into the log of a data directory, with the server stopped or running.
    Log(log::LogCommand),
    /// Verify everything on disk, and say what to do.
    Doctor(doctor::DoctorCommand),
    /// Copy the database while it is in use.
    Backup(backup::BackupCommand),
    /// Ingest change events from a file or standard input.
    Ingest(ingest::IngestCommand),
    /// Run SQL: a statement, a script, or a shell.
    Sql(sql::SqlCommand),
}

impl Cli {
    /// Runs the command; errors go to standard error.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let outcome = match self.command {
            Command::Demo(command) => command.run(),
            Command::Server(command) => command.run(),
            Command::Feed(command) => command.run(),
            Command::Log(command) => command.run(),
            Command::Backup(command) => command.run(),
            Command::Doctor(command) => command.run(),
            Command::Ingest(command) => command.run(),
            Command::Sql(command) => command.run(),
        };
        match outcome {
            Ok(code) => code,
            // Whoever reads our output has seen enough.
            Err(CliError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("highwater: {}", error_chain(&error));
                ExitCode::from(FAILED)
            }
        }
    }
}

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum CliError {
    Log(highwater_log::LogError),
    Fold(highwater_materializers::FoldError),
    Open(crate::OpenError),
    Sql(highwater_query::SqlError),
    Ingest(highwater_connectors::sources::file::IngestError),
    Server(crate::ServerError),
    Client(crate::client::ClientError),
    Demo(crate::demo::DemoError),
    Input(std::io::Error),
    Output(std::io::Error),
    Runtime(std::io::Error),
}

impl std::fmt::Display for CliError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Log(error) => error.fmt(f),
            Self::Fold(error) => error.fmt(f),
            Self::Open(error) => error.fmt(f),
            Self::Sql(error) => write!(f, "{error} ({})", error.sqlstate),
            Self::Ingest(error) => error.fmt(f),
            Self::Server(error) => error.fmt(f),
            Self::Client(error) => error.fmt(f),
            Self::Demo(error) => error.fmt(f),
            Self::Input(error) => write!(f, "cannot read the input: {error}"),
            Self::Runtime(error) => write!(f, "cannot start threads: {error}"),
            Self::Output(error) => write!(f, "cannot write to standard output: {error}"),
        }
    }
}

impl std::error::Error for CliError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Log(error) => error.source(),
            Self::Fold(error) => error.source(),
            Self::Open(error) => error.source(),
            Self::Ingest(error) => error.source(),
            Self::Server(error) => error.source(),
            Self::Client(error) => error.source(),
            Self::Demo(error) => error.source(),
            Self::Sql(_) | Self::Input(_) | Self::Output(_) | Self::Runtime(_) => None,
        }
    }
}

impl From<highwater_log::LogError> for CliError {
    fn from(error: highwater_log::LogError) -> Self {
        Self::Log(error)
    }
}

impl From<highwater_materializers::FoldError> for CliError {
    fn from(error: highwater_materializers::FoldError) -> Self {
        Self::Fold(error)
    }
}

impl From<crate::OpenError> for CliError {
    fn from(error: crate::OpenError) -> Self {
        Self::Open(error)
    }
}

impl From<highwater_query::SqlError> for CliError {
    fn from(error: highwater_query::SqlError) -> Self {
        Self::Sql(error)
    }
}

impl From<highwater_changefeed::FeedError> for CliError {
    fn from(error: highwater_changefeed::FeedError) -> Self {
        Self::Sql(error.into())
    }
}

impl From<highwater_connectors::sources::file::IngestError> for CliError {
    fn from(error: highwater_connectors::sources::file::IngestError) -> Self {
        Self::Ingest(error)
    }
}

impl From<crate::ServerError> for CliError {
    fn from(error: crate::ServerError) -> Self {
        Self::Server(error)
    }
}

impl From<crate::client::ClientError> for CliError {
    fn from(error: crate::client::ClientError) -> Self {
        Self::Client(error)
    }
}

impl From<crate::demo::DemoError> for CliError {
    fn from(error: crate::demo::DemoError) -> Self {
        Self::Demo(error)
    }
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        Self::Output(error)
    }
}

/// Opens the data directory for this process, and leaves its history as long as it is: how long it may be, a server says.
fn open_database(directory: &Path) -> Result<Database, CliError> {
    let rows = KvOptions { history: Duration::MAX, ..KvOptions::default() };
    open_database_with(directory, Options { rows, ..Options::default() }, |_| {})
}

/// Opens the data directory for this process; a long replay shows its progress on standard error.
fn open_database_with(
    directory: &Path,
    options: Options,
    mut told: impl FnMut(Progress),
) -> Result<Database, CliError> {
    let mut shown = None;
    let database = Database::open_with(directory, options, |progress| {
        told(progress);
        let (from, durable) = (progress.from.value(), progress.durable.value());
        if durable - from >= REPLAY_SHOWN_FROM {
            shown.get_or_insert_with(|| Replay::begin(durable - from)).show(progress);
        }
    })?;
    if let Some(Replay { bar, .. }) = shown {
        bar.finish_and_clear();
    }
    Ok(database)
}

/// A replay, shown as a bar, or in lines where nobody would see one.
struct Replay {
    bar: ProgressBar,
    /// Tenths that were told in lines.
    tenths: u64,
}

impl Replay {
    fn begin(commits: u64) -> Self {
        Self { bar: ProgressBar::new(commits).with_prefix("replaying the log"), tenths: 0 }
    }

    fn show(&mut self, progress: Progress) {
        let done = progress.applied.value() - progress.from.value();
        self.bar.set_position(done);
        let tenths = done.saturating_mul(10) / self.bar.length().unwrap_or(1).max(1);
        if self.bar.is_hidden() && tenths > self.tenths {
            self.tenths = tenths;
            eprintln!("replaying the log: lsn {} of {}", progress.applied, progress.durable);
        }
    }
}

/// The threads that a command runs on: one more than there are cores, for one of them may be syncing the log.
fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    threads.worker_threads(cores + 1).enable_all().build().map_err(CliError::Runtime)
}

/// A shorter replay is over before anybody wonders.
const REPLAY_SHOWN_FROM: u64 = 10_000;
/// The command could not do what was asked.
const FAILED: u8 = 1;
/// What `log verify` or `doctor` has looked at is damaged.
const DAMAGED: u8 = 3;
/// The input ended in the middle of something that is not committed.
const INCOMPLETE: u8 = 4;

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong arguments, 3 `log verify` or `doctor` found damage, \
4 the input of `ingest` ended inside a transaction or a snapshot.";
