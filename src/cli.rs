//! The command line: standard output holds what was asked for and nothing else, exit codes mean something.

mod log;

use std::io::ErrorKind;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A streaming, event-sourced database: one log, and everything else folded from it.
#[derive(Debug, Parser)]
#[command(name = "highwater", version, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Look into the log of a data directory, with the server stopped or running.
    Log(log::LogCommand),
}

impl Cli {
    /// Runs the command; errors go to standard error.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let outcome = match self.command {
            Command::Log(command) => command.run(),
        };
        match outcome {
            Ok(code) => code,
            // Whoever reads our output has seen enough.
            Err(CliError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("highwater: {}", chain(&error));
                ExitCode::from(FAILED)
            }
        }
    }
}

/// Why a command failed.
#[derive(Debug)]
enum CliError {
    Log(highwater_log::LogError),
    Fold(highwater_materializers::FoldError),
    Output(std::io::Error),
}

impl std::fmt::Display for CliError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Log(error) => error.fmt(f),
            Self::Fold(error) => error.fmt(f),
            Self::Output(error) => write!(f, "cannot write to standard output: {error}"),
        }
    }
}

impl std::error::Error for CliError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Log(error) => error.source(),
            Self::Fold(error) => error.source(),
            Self::Output(_) => None,
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

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        Self::Output(error)
    }
}

/// An error with all its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// The command could not do what was asked.
const FAILED: u8 = 1;
/// What was looked at is damaged.
const DAMAGED: u8 = 3;

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong arguments, 3 what was looked at is damaged.";
