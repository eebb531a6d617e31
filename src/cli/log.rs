//! `highwater log ls|cat|verify`.

mod render;

use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use highwater_log::env::Env;
use highwater_log::{LogError, LogView, Lsn, SegmentState};

use super::{CliError, DAMAGED};
use render::Renderer;

/// Look into the log of a data directory, with the server stopped or running.
#[derive(Debug, Args)]
pub(super) struct LogCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Args)]
struct Directory {
    /// The data directory.
    #[arg(long, value_name = "DIR", default_value = "highwater-data")]
    data: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the segments: id, bytes, state, first commit.
    Ls {
        #[command(flatten)]
        directory: Directory,
    },
    /// Print the commits, decoded, one JSON object a line. Values stand as PostgreSQL writes them in text.
    ///
    /// Shows what a later frame says was synced. What a running server has appended since is in flight: it is counted on standard
    /// error.
    Cat {
        #[command(flatten)]
        directory: Directory,
        /// Begin behind this LSN.
        #[arg(long, value_name = "LSN", default_value_t = 0)]
        after: u64,
        /// Print at most this many commits.
        #[arg(long, value_name = "COUNT")]
        limit: Option<u64>,
    },
    /// Read every byte and check every checksum; exit code 3 when something is damaged.
    Verify {
        #[command(flatten)]
        directory: Directory,
    },
}

impl LogCommand {
    pub(super) fn run(self) -> Result<ExitCode, CliError> {
        match self.action {
            Action::Ls { directory } => list(&directory.open()?),
            Action::Cat { directory, after, limit } => {
                cat(&directory.open()?, Lsn::new(after), limit.unwrap_or(u64::MAX))
            }
            Action::Verify { directory } => match directory.open() {
                // The end is looked at first, and may be damaged itself.
                Err(CliError::Log(LogError::Damaged(damage))) => {
                    eprintln!("highwater: {damage}");
                    Ok(ExitCode::from(DAMAGED))
                }
                view => verify(&view?),
            },
        }
    }
}

impl Directory {
    fn open(&self) -> Result<LogView, CliError> {
        Ok(LogView::open(&Env::system(), &self.data.join("log"))?)
    }
}

fn list(view: &LogView) -> Result<ExitCode, CliError> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    writeln!(out, "{:>20}  {:>12}  {:<8}  {:>20}", "segment", "bytes", "state", "first lsn")?;
    for segment in view.segments()? {
        let state = match segment.state {
            SegmentState::Sealed => "sealed",
            SegmentState::Active => "active",
            SegmentState::Prepared => "prepared",
        };
        let first = segment.first.map_or_else(|| "-".to_owned(), |lsn| lsn.to_string());
        writeln!(out, "{:>20}  {:>12}  {state:<8}  {first:>20}", segment.id, segment.bytes)?;
    }
    out.flush()?;
    eprintln!(
        "log {}, epoch {}, synced to lsn {}, written to lsn {}",
        view.id(),
        view.epoch(),
        view.synced(),
        view.complete()
    );
    Ok(ExitCode::SUCCESS)
}

fn cat(view: &LogView, after: Lsn, limit: u64) -> Result<ExitCode, CliError> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut renderer = Renderer::default();
    let mut printed = 0;
    let mut outcome = Ok(());
    // Rows are named by the catalog, and so reading begins with the first commit.
    view.commits(Lsn::ORIGIN, |encoded| {
        if printed == limit {
            return ControlFlow::Break(());
        }
        outcome = (|| {
            let lsn = encoded.lsn();
            let commit = encoded.decode().map_err(|source| LogError::Envelope { lsn, source })?;
            renderer.learn(&commit)?;
            if lsn > after {
                serde_json::to_writer(&mut out, &renderer.render(&commit)?).map_err(std::io::Error::from)?;
                out.write_all(b"\n")?;
                printed += 1;
            }
            Ok::<_, CliError>(())
        })();
        if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    outcome?;
    out.flush()?;
    if view.complete() > view.synced() && printed < limit {
        eprintln!("{} more commits are in flight", view.complete().value() - view.synced().value());
    }
    Ok(ExitCode::SUCCESS)
}

fn verify(view: &LogView) -> Result<ExitCode, CliError> {
    let found = view.verify(|_| {})?;
    for damage in &found.damages {
        eprintln!("highwater: {damage}");
    }
    let damaged = found.damages.len();
    println!(
        "{} segments, {} commits, {} bytes read, {damaged} damaged places",
        found.segments, found.commits, found.bytes
    );
    Ok(if damaged == 0 { ExitCode::SUCCESS } else { ExitCode::from(DAMAGED) })
}
