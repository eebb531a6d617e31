//! Where a command finds the database: a directory that it opens itself, or a server.

use std::path::PathBuf;

use clap::Args;

/// A data directory, or a server.
#[derive(Clone, Debug, Args)]
pub(super) struct Place {
    /// The data directory, opened by this process: no server may run on it. `./highwater-data` unless `HIGHWATER_DATA` says another.
    #[arg(long, conflicts_with = "url")]
    data: Option<PathBuf>,

    /// A server instead: the address of its gRPC, like http://127.0.0.1:7433. `HIGHWATER_URL` says it too, and comes before
    /// `HIGHWATER_DATA`.
    #[arg(long)]
    url: Option<String>,
}

/// Where the database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// In this directory.
    Directory(PathBuf),
    /// Behind this address.
    Server(String),
}

impl Place {
    /// What was said, the command line before the environment.
    pub(super) fn find(&self) -> Found {
        match (&self.url, &self.data, std::env::var("HIGHWATER_URL"), std::env::var_os("HIGHWATER_DATA")) {
            (Some(url), ..) => Found::Server(url.clone()),
            (None, Some(data), ..) => Found::Directory(data.clone()),
            (None, None, Ok(url), _) => Found::Server(url),
            (None, None, Err(_), Some(data)) => Found::Directory(data.into()),
            (None, None, Err(_), None) => Found::Directory("./highwater-data".into()),
        }
    }
}
