//! The server: a database behind gRPC and HTTP.

mod call;
mod changefeed;
mod error;
mod health;
mod http;
mod ingest;
mod metrics;
mod operations;
mod pipeline;
mod results;
mod sessions;
mod sql;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use highwater_log::env::Env;
use highwater_materializers::Progress;
use highwater_proto::DESCRIPTORS;
use highwater_proto::v1::changefeed_server::ChangefeedServer;
use highwater_proto::v1::ingest_server::IngestServer;
use highwater_proto::v1::operations_server::OperationsServer;
use highwater_proto::v1::sql_server::SqlServer;
use highwater_query::STATEMENT_BYTES_MAX;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::Server as GrpcServer;
use tonic::transport::server::TcpIncoming;

use crate::database::SettingsTable;
use crate::{Database, settings};
use changefeed::ChangefeedService;
use health::{Health, Phase};
use ingest::IngestService;
use operations::OperationsService;
use sessions::Sessions;
use sql::SqlService;

/// How a server listens.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// gRPC. Port 0 takes any free one.
    pub grpc_listen: SocketAddr,
    /// HTTP.
    pub http_listen: SocketAddr,
    /// Takes addresses that other machines reach, though nobody is asked who he is.
    pub is_insecure: bool,
    /// A session that no call has used for so long is closed.
    pub session_idle_max: Duration,
    /// Sessions that may be open together.
    pub sessions_max: usize,
    /// When the server stops, calls that are under way get so long to end.
    pub grace: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            grpc_listen: SocketAddr::from(([127, 0, 0, 1], 7433)),
            http_listen: SocketAddr::from(([127, 0, 0, 1], 7434)),
            is_insecure: false,
            session_idle_max: Duration::from_secs(300),
            sessions_max: 10_000,
            grace: Duration::from_secs(10),
        }
    }
}

/// Why a server does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address is not this machine's alone, and anybody would be let in.
    #[error(
        "{address} can be reached from other machines and no credentials are asked for: say --insecure if that is meant"
    )]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system answered.
        source: std::io::Error,
    },
    /// gRPC cannot be served.
    #[error("cannot serve gRPC")]
    Grpc(#[from] tonic::transport::Error),
    /// The description of the interface cannot be served.
    #[error("cannot serve reflection")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// Threads for statements cannot be started.
    #[error("cannot start threads")]
    Threads(#[source] std::io::Error),
    /// A sync of the log failed; the database must be opened again.
    #[error("{cause}")]
    Poisoned {
        /// What failed.
        cause: Arc<str>,
    },
}

/// A server that listens. HTTP answers from the beginning, gRPC when there is a database.
pub struct Server {
    options: ServerOptions,
    grpc: TcpListener,
    addresses: Addresses,
    health: Arc<Health>,
    http: JoinSet<std::io::Result<()>>,
}

#[derive(Clone, Copy, Debug)]
struct Addresses {
    grpc: SocketAddr,
    http: SocketAddr,
}

impl Server {
    /// Listens.
    ///
    /// # Errors
    /// [`ServerError::NotLoopback`], [`ServerError::Listen`].
    pub async fn bind(options: ServerOptions) -> Result<Self, ServerError> {
        let (grpc, grpc_address) = listen(options.grpc_listen, options.is_insecure).await?;
        let (http_listener, http_address) = listen(options.http_listen, options.is_insecure).await?;
        let addresses = Addresses { grpc: grpc_address, http: http_address };
        let health = Arc::new(Health::opening(addresses, Env::system().clock));
        let mut http = JoinSet::new();
        http.spawn(http::serve(http_listener, Arc::clone(&health)));
        Ok(Self { options, grpc, addresses, health, http })
    }

    /// Where gRPC listens.
    #[must_use]
    pub const fn grpc_address(&self) -> SocketAddr {
        self.addresses.grpc
    }

    /// Where HTTP listens.
    #[must_use]
    pub const fn http_address(&self) -> SocketAddr {
        self.addresses.http
    }

    /// Takes how far the log was folded, while the database is opened; `/readyz` tells it.
    pub fn replaying(&self) -> impl FnMut(Progress) + Send + 'static {
        let health = Arc::clone(&self.health);
        move |progress| health.note_replay(progress)
    }

    /// Takes the database that is to be served. From now on it is ready, and calls that come wait until it runs.
    #[must_use]
    pub fn ready(self, database: Arc<Database>) -> ReadyServer {
        database.note_owner(&format!("process {}, grpc http://{}", std::process::id(), self.addresses.grpc));
        let sessions = Arc::new(Sessions::new(&self.options, Env::system()));
        let settings = database.settings().iter().cloned().chain(settings::of_server(&self.options)).collect();
        database.engine().put_live_table(Arc::new(SettingsTable(settings)));
        self.health.serve(Arc::clone(&database), Arc::clone(&sessions));
        ReadyServer { server: self, database, sessions }
    }
}

/// A server that has what it serves.
pub struct ReadyServer {
    server: Server,
    database: Arc<Database>,
    sessions: Arc<Sessions>,
}

impl ReadyServer {
    /// Serves until `stop` is done: then takes no more calls, ends subscriptions, and gives other calls some time.
    ///
    /// # Errors
    /// [`ServerError`]; with [`ServerError::Poisoned`], nothing more can be done with the database than to open it again.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), ServerError> {
        let Self { server, database, sessions } = self;
        let Server { options, grpc, health, mut http, .. } = server;
        let (stopping, stopped) = watch::channel(false);
        let (reporter, health_service) = tonic_health::server::health_reporter();
        reporter.set_serving::<SqlServer<SqlService>>().await;
        reporter.set_serving::<ChangefeedServer<ChangefeedService>>().await;
        reporter.set_serving::<IngestServer<IngestService>>().await;
        reporter.set_serving::<OperationsServer<OperationsService>>().await;
        let threads = statement_threads()?;
        let sql =
            SqlService::new(Arc::clone(&database), Arc::clone(&sessions), threads.handle().clone(), stopped.clone());
        let sql = SqlServer::new(sql)
            .max_decoding_message_size(STATEMENT_BYTES_MAX + MESSAGE_OVERHEAD_BYTES)
            .max_encoding_message_size(usize::MAX);
        let feeds = ChangefeedService::new(Arc::clone(&database), Arc::clone(&health), stopped.clone());
        let feeds = ChangefeedServer::new(feeds)
            .max_decoding_message_size(FEED_REQUEST_BYTES_MAX)
            .max_encoding_message_size(usize::MAX);
        let ingest = IngestService::new(Arc::clone(&database), threads.handle().clone(), stopped.clone());
        let ingest = IngestServer::new(ingest).max_decoding_message_size(STATEMENT_BYTES_MAX + MESSAGE_OVERHEAD_BYTES);
        let operations = OperationsService::new(Arc::clone(&database), Arc::clone(&health), stopped.clone());
        let operations = OperationsServer::new(operations);
        let router = GrpcServer::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
            .add_service(health_service)
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?)
            .add_service(sql)
            .add_service(feeds)
            .add_service(ingest)
            .add_service(operations);
        let mut ended = stopped.clone();
        let shutdown = async move {
            // Also when the sender is gone.
            let _ = ended.wait_for(|is_stopping| *is_stopping).await;
        };
        // A change goes out when it is there: small messages don't wait for the acknowledgement of those before.
        let incoming = patient(TcpIncoming::from(grpc).with_nodelay(Some(true)));
        let serving = router.serve_with_incoming_shutdown(incoming, shutdown);
        tokio::pin!(serving);
        tokio::pin!(stop);
        let cause = loop {
            tokio::select! {
                outcome = &mut serving => {
                    threads.shutdown_background();
                    return Ok(outcome?);
                }
                () = &mut stop => break None,
                () = tokio::time::sleep(WATCH_EVERY) => {
                    sessions.close_idle();
                    if let Some(cause) = database.engine().sequencer().poisoned() {
                        break Some(Arc::clone(cause));
                    }
                }
            }
        };
        health.enter(Phase::Stopping);
        reporter.set_not_serving::<SqlServer<SqlService>>().await;
        reporter.set_not_serving::<ChangefeedServer<ChangefeedService>>().await;
        reporter.set_not_serving::<IngestServer<IngestService>>().await;
        stopping.send_replace(true);
        // Whoever has not ended by then is cut off.
        let _ = tokio::time::timeout(options.grace, &mut serving).await;
        sessions.close_all();
        threads.shutdown_background();
        health.forget_database();
        http.shutdown().await;
        // A page of metrics that nobody waits for any more holds the database.
        drop(health.metrics_turn().await);
        match cause {
            None => Ok(()),
            Some(cause) => Err(ServerError::Poisoned { cause }),
        }
    }
}

/// Waits for SIGTERM, or for Ctrl-C.
pub(crate) fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// What grpcurl and its like ask; both versions of the question are about.
fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // What the details of errors are.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}

/// The threads that statements run on. More than there are cores: a query that computes for long without giving way is one that the
/// system interrupts for the others.
fn statement_threads() -> Result<tokio::runtime::Runtime, ServerError> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads((cores * 4).max(STATEMENT_THREADS_MIN))
        .thread_name("highwater-statement")
        .thread_stack_size(STATEMENT_STACK_BYTES)
        .enable_all()
        .build()
        .map_err(ServerError::Threads)
}

/// Connections as they come. When the process has no room for another one it goes on as soon as there is some: the error would end the
/// server.
fn patient(
    incoming: impl Stream<Item = io::Result<TcpStream>> + Send,
) -> impl Stream<Item = io::Result<TcpStream>> + Send {
    incoming.filter_map(async |connection| match connection {
        Err(error) if error.raw_os_error().is_some() => {
            // Some of them mean one connection that is gone already.
            if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
                tracing::warn!(%error, "cannot take another connection");
                tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
            }
            None
        }
        connection => Some(connection),
    })
}

async fn listen(address: SocketAddr, is_insecure: bool) -> Result<(TcpListener, SocketAddr), ServerError> {
    if !address.ip().is_loopback() && !is_insecure {
        return Err(ServerError::NotLoopback { address });
    }
    let failed = |source| ServerError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

const MESSAGE_OVERHEAD_BYTES: usize = 64 * 1024;
/// What a feed tells is said in texts of people's making.
const FEED_REQUEST_BYTES_MAX: usize = 1024 * 1024;
const STATEMENT_THREADS_MIN: usize = 8;
const STATEMENT_STACK_BYTES: usize = 8 * 1024 * 1024;
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(30);
/// How often the server looks after idle sessions and the log's health.
const WATCH_EVERY: Duration = Duration::from_millis(500);
