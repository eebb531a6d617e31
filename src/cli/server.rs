//! `highwater server`: the database behind gRPC and HTTP.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use rustix::process::{Resource, Rlimit};

use super::limits::Limits;
use super::{CliError, open_database_with};
use crate::server::stop_signal;
use crate::{Server, ServerOptions};

/// Serve the database: SQL and changefeeds by gRPC, health by HTTP. SIGTERM or Ctrl-C ends it in good order.
#[derive(Debug, Args)]
pub(super) struct ServerCommand {
    /// The data directory.
    #[arg(long, default_value = "./highwater-data", env = "HIGHWATER_DATA")]
    data: PathBuf,

    /// Where gRPC listens; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:7433", env = "HIGHWATER__SERVER__GRPC_LISTEN")]
    grpc_listen: SocketAddr,

    /// Where HTTP listens.
    #[arg(long, default_value = "127.0.0.1:7434", env = "HIGHWATER__SERVER__HTTP_LISTEN")]
    http_listen: SocketAddr,

    /// Listen where other machines can reach it. Nobody is asked for a password: whoever reaches it may do everything.
    #[arg(long)]
    insecure: bool,

    /// Close a session, and roll its transaction back, when no call has used it for so many seconds.
    #[arg(long, default_value_t = 300, env = "HIGHWATER__SERVER__SESSION_IDLE_SECONDS")]
    session_idle_seconds: u64,

    /// Sessions that may be open together; further ones are refused with 53300.
    #[arg(long, default_value_t = 10_000, env = "HIGHWATER__SERVER__SESSIONS_MAX")]
    sessions_max: usize,

    #[command(flatten)]
    limits: Limits,
}

impl ServerCommand {
    pub(super) fn run(self) -> Result<ExitCode, CliError> {
        Self::raise_file_limit();
        let runtime = super::runtime()?;
        let outcome = runtime.block_on(self.serve());
        // Whatever did not end in its time is cut off here.
        runtime.shutdown_timeout(Duration::from_secs(1));
        outcome
    }

    /// Takes as many files as the system allows: each connection is one, and so is each file of rows and of the log.
    fn raise_file_limit() {
        let limit = rustix::process::getrlimit(Resource::Nofile);
        if limit.current != limit.maximum {
            // Without, it goes on with what it has.
            let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
        }
    }

    async fn serve(self) -> Result<ExitCode, CliError> {
        let options = ServerOptions {
            grpc_listen: self.grpc_listen,
            http_listen: self.http_listen,
            is_insecure: self.insecure,
            session_idle_max: Duration::from_secs(self.session_idle_seconds),
            sessions_max: self.sessions_max,
            ..ServerOptions::default()
        };
        let stop = stop_signal().map_err(CliError::Runtime)?;
        let server = Server::bind(options).await?;
        let (grpc, http) = (server.grpc_address(), server.http_address());
        let data = self.data.clone();
        let options = self.limits.options();
        let told = server.replaying();
        let opened = tokio::task::spawn_blocking(move || open_database_with(&data, options, told)).await;
        let database = Arc::new(opened.map_err(|error| CliError::Runtime(io::Error::other(error)))??);
        let server = server.ready(Arc::clone(&database));
        eprintln!(
            "highwater {} serves {} at lsn {}: grpc http://{grpc}, http http://{http}",
            env!("CARGO_PKG_VERSION"),
            self.data.display(),
            database.visible()
        );
        let outcome = server.run(stop).await;
        match Arc::into_inner(database) {
            Some(database) if outcome.is_ok() => tokio::task::spawn_blocking(|| database.close())
                .await
                .map_err(|error| CliError::Runtime(io::Error::other(error)))??,
            // A call that was cut off still holds it, or the log is poisoned: the next start replays a little more.
            _ => tracing::warn!("the database was not closed in good order; nothing acknowledged is lost"),
        }
        outcome?;
        Ok(ExitCode::SUCCESS)
    }
}
