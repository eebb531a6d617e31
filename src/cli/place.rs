//! Where a command finds the database: a directory that it opens itself, or a server.

use std::path::PathBuf;

use clap::Args;

/// A data directory, or a server.
#[derive(Clone, Debug, Args)]
pub(super) struct Place {
    /// The data directory, opened by this process: no server may run on it.
    #[arg(long, default_value = "./highwater-data", env = "HIGHWATER_DATA", conflicts_with = "url")]
    pub(super) data: PathBuf,

    /// A server instead: the address of its gRPC, like http://127.0.0.1:7433.
    #[arg(long, env = "HIGHWATER_URL")]
    pub(super) url: Option<String>,
}
