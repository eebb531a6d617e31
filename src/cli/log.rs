//! `highwater log ls|cat|verify`.

mod render;

use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use highwater_log::base::{BaseReader, BaseState};
use highwater_log::env::Env;
use highwater_log::{LogError, LogView, Lsn, SegmentState, SegmentSummary, Verification};

use highwater_materializers::Materialized;
use indicatif::{ProgressBar, ProgressStyle};

use super::{CliError, DAMAGED};
use render::Renderer;

/// Look into the log of a data directory, with the server stopped or running.
#[derive(Debug, Args)]
pub(super) struct LogCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Args)]
pub(super) struct Directory {
    /// The data directory; a server may be running on it.
    #[arg(long, value_name = "DIR", default_value = "./highwater-data", env = "HIGHWATER_DATA")]
    pub(super) data: PathBuf,
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
        /// Begin after this LSN; without it, with the earliest commit that is not trimmed away.
        #[arg(long, value_name = "LSN")]
        after: Option<u64>,
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
            Action::Ls { directory } => {
                let (view, segments) = directory.look(LogView::segments, |_| true)?;
                list(&view, &segments)
            }
            Action::Cat { directory, after, limit } => {
                cat(&directory.open()?, after.map(Lsn::new), limit.unwrap_or(u64::MAX))
            }
            Action::Verify { directory } => match directory.verify() {
                // The end is looked at first, and may be damaged itself.
                Err(CliError::Log(LogError::Damaged(damage))) => {
                    eprintln!("highwater: {damage}");
                    Ok(ExitCode::from(DAMAGED))
                }
                verified => Ok(tell(&verified?.1)),
            },
        }
    }
}

impl Directory {
    fn open(&self) -> Result<LogView, CliError> {
        let env = Env::system();
        // First: a running server goes on meanwhile.
        let witnesses = Materialized::witnesses(&env, &self.data.join("materialized"));
        Ok(LogView::open_witnessed(&env, &self.data.join("log"), &witnesses)?)
    }

    /// Reads every byte of the log; [`LogError::Damaged`] where its end is.
    pub(super) fn verify(&self) -> Result<(LogView, Verification), CliError> {
        self.look(verify, |found| found.damages.is_empty())
    }

    /// Looks at the log; again, where something looks wrong and the log was trimmed meanwhile: files have gone then.
    fn look<T>(
        &self,
        look: impl Fn(&LogView) -> Result<T, LogError>,
        is_sound: impl Fn(&T) -> bool,
    ) -> Result<(LogView, T), CliError> {
        let mut view = self.open()?;
        loop {
            let seen = look(&view);
            if !seen.as_ref().is_ok_and(&is_sound) {
                let now = self.open()?;
                if (now.earliest(), now.base()) != (view.earliest(), view.base()) {
                    view = now;
                    continue;
                }
            }
            return Ok((view, seen?));
        }
    }
}

/// Reads everything; long work shows a bar.
fn verify(view: &LogView) -> Result<Verification, LogError> {
    let bytes = view.segments()?.iter().map(|segment| segment.bytes).sum();
    let bar = ProgressBar::new(bytes).with_style(ProgressStyle::default_bar());
    let found = view.verify(|bytes| bar.set_position(bytes));
    bar.finish_and_clear();
    found
}

fn list(view: &LogView, segments: &[SegmentSummary]) -> Result<ExitCode, CliError> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    writeln!(out, "{:>20}  {:>12}  {:<8}  {:>20}", "segment", "bytes", "state", "first lsn")?;
    for segment in segments {
        let state = match segment.state {
            SegmentState::Sealed => "sealed",
            SegmentState::Active => "active",
            SegmentState::Prepared => "prepared",
        };
        let first = segment.first.map_or_else(|| "-".to_owned(), |lsn| lsn.to_string());
        writeln!(out, "{:>20}  {:>12}  {state:<8}  {first:>20}", segment.id, segment.bytes)?;
    }
    out.flush()?;
    if let Some(base) = view.base() {
        eprintln!("trimmed up to lsn {}, base image at lsn {base}", view.earliest().previous());
    }
    eprintln!(
        "log {}, epoch {}, synced to lsn {}, written to lsn {}",
        view.id(),
        view.epoch(),
        view.synced(),
        view.complete()
    );
    Ok(ExitCode::SUCCESS)
}

fn cat(view: &LogView, after: Option<Lsn>, limit: u64) -> Result<ExitCode, CliError> {
    let trimmed = view.earliest().previous();
    let after = after.unwrap_or(trimmed);
    if after < trimmed {
        return Err(LogError::BelowRetained { after, earliest: view.earliest() }.into());
    }
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut renderer = Renderer::default();
    let mut printed = 0;
    let mut outcome = Ok(());
    // Rows are named by the catalog, and so reading begins with the base image, or the first commit.
    let mut base = if trimmed > Lsn::ORIGIN { view.read_base()? } else { None };
    while let Some(record) = base.as_mut().map(BaseReader::try_next).transpose()?.flatten() {
        let BaseState::Catalog { entry, .. } = record.state else { break };
        entry.map_or(Ok(()), |entry| renderer.learn_entry(record.lsn, &entry))?;
    }
    view.commits(trimmed, |encoded| {
        if printed == limit {
            return ControlFlow::Break(());
        }
        outcome = (|| {
            let lsn = encoded.lsn();
            let commit = encoded.decode()?;
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

/// Says what was found.
fn tell(found: &Verification) -> ExitCode {
    for damage in &found.damages {
        eprintln!("highwater: {damage}");
    }
    let damaged = found.damages.len();
    println!(
        "{} segments, {} commits, {} bytes read, {damaged} damaged places",
        found.segments, found.commits, found.bytes
    );
    if damaged == 0 { ExitCode::SUCCESS } else { ExitCode::from(DAMAGED) }
}
