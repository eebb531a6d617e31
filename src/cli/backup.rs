//! `highwater backup`: a copy that is a database.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use highwater_log::{BackupHeader, BackupPiece, LogError, LogId, Lsn};
use highwater_proto::v1::BackupFile;
use highwater_proto::v1::backup_response::Piece;
use indicatif::{ProgressBar, ProgressStyle};

use super::CliError;
use super::place::{Found, Place};
use crate::client::{Client, ClientError};
use crate::database::{back_up_closed, write_backup};
use crate::{Backup, BackupProgress, OpenError};

/// Copy the database into a directory, while it is in use or not: up to the last commit, verified. To use the copy, open it.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct BackupCommand {
    /// The directory, empty or not there yet.
    directory: PathBuf,

    #[command(flatten)]
    place: Place,
}

impl BackupCommand {
    pub(super) fn run(self) -> Result<ExitCode, CliError> {
        let Backup { header, commits } = match self.place.find() {
            Found::Server(url) => remote(&url, &self.directory)?,
            Found::Directory(data) => {
                let bar = Bar::default();
                back_up_closed(&data, &self.directory, |progress| bar.show(progress))?
            }
        };
        eprintln!(
            "{} is a backup of log {} up to lsn {}: {commits} commits, {} bytes, verified",
            self.directory.display(),
            header.log,
            header.lsn,
            header.bytes
        );
        Ok(ExitCode::SUCCESS)
    }
}

fn remote(url: &str, directory: &Path) -> Result<Backup, CliError> {
    let runtime = super::runtime()?;
    let mut pieces = runtime.block_on(async { Client::connect(url).await?.backup().await })?;
    let mut next = || runtime.block_on(pieces.message()).map_err(|status| CliError::from(ClientError::from(status)));
    let start = match next()?.and_then(|answer| answer.piece) {
        Some(Piece::Start(start)) => start,
        _ => return Err(other("no beginning")),
    };
    let log = start.log_id[..].try_into().map_err(|_| other("a log id that is none"))?;
    let header = BackupHeader { log: LogId::from_bytes(log), lsn: Lsn::new(start.lsn), bytes: start.byte_count };
    let bar = Bar::default();
    let next = || match next()?.map(|answer| answer.piece) {
        None => Ok(None),
        Some(Some(Piece::File(BackupFile { name, byte_count: bytes }))) => Ok(Some(BackupPiece::File { name, bytes })),
        Some(Some(Piece::Content(bytes))) => Ok(Some(BackupPiece::Bytes(bytes))),
        Some(Some(Piece::Start(_)) | None) => Err(other("a piece of no kind")),
    };
    write_backup(directory, header, next, |progress| bar.show(progress))
}

fn other(what: &str) -> CliError {
    OpenError::from(LogError::NotABackup { what: what.to_owned() }).into()
}

struct Bar(ProgressBar);

impl Default for Bar {
    fn default() -> Self {
        let style = ProgressStyle::with_template("{msg} {binary_bytes}, {binary_bytes_per_sec}");
        Self(ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner())))
    }
}

impl Bar {
    fn show(&self, progress: BackupProgress) {
        let (message, bytes) = match progress {
            BackupProgress::Copied(bytes) => ("copied", bytes),
            BackupProgress::Verified(bytes) => ("read again", bytes),
        };
        self.0.set_message(message);
        self.0.set_position(bytes);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

const HELP: &str = "\
The copy is the log, which is the truth: `highwater server --data DIR` folds its rows anew when it opens it. From its first opening on
it is a log of its own; cursors of feeds that were given by the original hold in it up to the backup's last commit.";
