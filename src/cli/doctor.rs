//! `highwater doctor`: verifies everything on disk, and says what to do.

use std::path::Path;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use highwater_log::{LogError, LogId, LogView, error_chain};
use highwater_materializers::FoldError;
use indicatif::{ProgressBar, ProgressStyle};

use super::log::Directory;
use super::{CliError, DAMAGED, FAILED, open_database};
use crate::database::{drop_fold, verify_folds};
use crate::{Finding, OpenError};

/// Verify everything on disk: the log, what was folded from it, and that both fit together; exit code 3 when something is damaged.
///
/// The log is verified whether or not a server runs. What was folded is looked at where none does, and is then opened as any command
/// opens it.
#[derive(Debug, Args)]
pub(super) struct DoctorCommand {
    #[command(flatten)]
    directory: Directory,

    /// Drop what this materializer has folded and fold it anew, where the log is whole.
    #[arg(long, value_name = "NAME", value_enum)]
    rebuild: Option<Rebuilt>,

    /// Also fold the log once more, beside what is there, and compare. It takes as long as a rebuild, and as much space.
    #[arg(long, conflicts_with = "rebuild")]
    refold: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Rebuilt {
    /// Which tables there are.
    Catalog,
    /// The rows and indexes.
    Kv,
    /// Everything that is folded.
    All,
}

impl DoctorCommand {
    pub(super) fn run(self) -> Result<ExitCode, CliError> {
        let data = &self.directory.data;
        let Some(view) = self.log()? else { return Ok(ExitCode::from(DAMAGED)) };
        let log = view.id();
        if view.is_backup() {
            println!("folds    none: it is a backup that was not opened yet");
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(rebuilt) = self.rebuild {
            let names: &[&str] = match rebuilt {
                Rebuilt::Catalog => &["catalog"],
                Rebuilt::Kv => &["kv"],
                Rebuilt::All => &["kv", "catalog"],
            };
            names.iter().try_for_each(|name| drop_fold(data, name))?;
            println!("{:<8} dropped, and folded anew", names.join(", "));
        }
        let found = match files(data, log) {
            Err(CliError::Open(OpenError::Log(LogError::Locked { holder, .. }))) => {
                println!("folds    in use by {holder}: stop it to have them looked through");
                // What was asked for beyond the log was not done.
                return Ok(if self.refold { ExitCode::from(FAILED) } else { ExitCode::SUCCESS });
            }
            found => found?,
        };
        if !found.is_empty() {
            return Ok(tell(data, &found));
        }
        let found = self.state(data)?;
        Ok(if found.is_empty() { ExitCode::SUCCESS } else { tell(data, &found) })
    }

    /// The log, if it is whole.
    fn log(&self) -> Result<Option<LogView>, CliError> {
        let (log, damages) = match self.directory.verify() {
            Err(CliError::Log(error @ (LogError::Damaged(_) | LogError::BaseDamaged { .. }))) => {
                (None, vec![error.to_string()])
            }
            verified => {
                let (view, found) = verified?;
                let (segments, commits, bytes) = (found.segments, found.commits, found.bytes);
                println!(
                    "log      {segments} segments, {commits} commits up to lsn {}, {bytes} bytes",
                    view.complete()
                );
                (Some(view), found.damages.iter().map(ToString::to_string).collect())
            }
        };
        if damages.is_empty() {
            return Ok(log);
        }
        self.tell_damaged_log(&damages);
        Ok(None)
    }

    fn tell_damaged_log(&self, damages: &[String]) {
        damages.iter().for_each(|damage| println!("damaged  {damage}"));
        println!(
            "advice   the log is the truth, and nothing was changed. Put the file back from a copy of it, or go on from a backup \
             (`highwater server --data BACKUP`). Before that, save what was folded: copy {} whole; do not rebuild it.",
            self.directory.data.display()
        );
    }

    /// Opens the database and looks through its rows.
    fn state(&self, data: &Path) -> Result<Vec<Finding>, CliError> {
        let database = open_database(data)?;
        let bar = progress("rows");
        let verified = database.verify(|counted| bar.set_position(counted.rows + counted.entries));
        bar.finish_and_clear();
        let mut found = match verified {
            Ok((counted, found)) => {
                println!("rows     {} at lsn {}, {} index entries", counted.rows, database.visible(), counted.entries);
                found
            }
            Err(error) => vec![unreadable(&error)],
        };
        if self.refold && found.is_empty() {
            let scratch = tempfile::Builder::new().prefix("doctor-").tempdir_in(data).map_err(CliError::Input)?;
            let bar = progress("commits folded once more");
            let compared =
                database.compare_with_log(scratch.path(), |progress| bar.set_position(progress.applied.value()));
            bar.finish_and_clear();
            match compared {
                Ok(compared) if compared.is_empty() => println!("refold   the rows are what the log says"),
                Ok(compared) => found.extend(compared),
                Err(error) => found.push(unreadable(&error)),
            }
        }
        database.close()?;
        Ok(found)
    }
}

/// Looks through the files of what was folded.
fn files(data: &Path, log: LogId) -> Result<Vec<Finding>, CliError> {
    let bar = progress("bytes of folds");
    let mut bytes = 0;
    let found = verify_folds(data, log, |read| {
        bytes += read;
        bar.set_position(bytes);
    });
    bar.finish_and_clear();
    let found = found?;
    println!("folds    {bytes} bytes of files");
    Ok(found)
}

fn unreadable(error: &FoldError) -> Finding {
    Finding { materializer: "kv", what: error_chain(error) }
}

fn tell(data: &Path, found: &[Finding]) -> ExitCode {
    found.iter().for_each(|found| println!("damaged  {}: {}", found.materializer, found.what));
    let mut names: Vec<_> = found.iter().map(|found| found.materializer).collect();
    names.dedup();
    let name = if let [name] = names[..] { name } else { "all" };
    println!(
        "advice   the log is whole, and nothing is lost: `highwater doctor --data {} --rebuild {name}` folds it anew.",
        data.display()
    );
    ExitCode::from(DAMAGED)
}

fn progress(of: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {pos} {msg}");
    ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner())).with_message(of)
}
