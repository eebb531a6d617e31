//! The demo: a recorded change stream goes in, and what comes out is watched through the public gRPC alone.

mod compare;
mod panels;
mod recording;
mod screen;
mod watch;

use std::io::{self, IsTerminal};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use highwater_connectors::sources::file::{FileIngest, IngestError, Summary};
use highwater_log::Lsn;
use highwater_query::Engine;
use tokio::sync::{oneshot, watch as channel};

use crate::client::{Client, ClientError};
use crate::{Database, OpenError, Server, ServerError, ServerOptions};
use panels::Panels;
pub(crate) use recording::{Recording, RecordingError};
use screen::Screen;

/// What the demo does beside running.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DemoOptions {
    /// Goes on serving at its end, until it is ended.
    pub(crate) is_kept: bool,
}

/// How a demo ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Every table and sum is the recording's.
    Equal,
    /// Something differs; it was told.
    Different,
}

/// Why a demo could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    #[error(transparent)]
    Recording(#[from] RecordingError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the recording could not be ingested")]
    Ingest(#[from] IngestError),
    #[error("the feed told what it cannot mean: {0}")]
    Feed(String),
    #[error("cannot {action}")]
    Io { action: &'static str, source: io::Error },
    #[error("the demo was ended")]
    Ended,
}

/// Runs the demo in a temporary directory.
pub(crate) async fn run(recording: Recording, options: DemoOptions) -> Result<Verdict, DemoError> {
    let directory = tempfile::tempdir();
    let directory = directory.map_err(|source| DemoError::Io { action: "create a temporary directory", source })?;
    let loopback = ([127, 0, 0, 1], 0).into();
    let server = ServerOptions { grpc_listen: loopback, http_listen: loopback, ..ServerOptions::default() };
    let server = Server::bind(server).await?;
    let url = format!("http://{}", server.grpc_address());
    let database = Arc::new(Database::open(directory.path())?);
    let engine = database.engine().clone();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = server.ready(Arc::clone(&database)).run(async move {
        // Also when the demo is gone.
        let _ = stopped.await;
    });
    let shown = async {
        let shown = show(recording, engine, &url, options, directory.path()).await;
        drop(stop);
        shown
    };
    let (served, shown) = tokio::join!(serving, shown);
    served?;
    if let Some(database) = Arc::into_inner(database) {
        database.close()?;
    }
    shown
}

/// Ingests the recording, and shows what the server tells meanwhile.
async fn show(
    recording: Recording,
    engine: Engine,
    url: &str,
    options: DemoOptions,
    directory: &Path,
) -> Result<Verdict, DemoError> {
    let client = Client::connect(url).await?;
    let panels = Arc::new(Panels::default());
    let (told_end, end) = channel::channel(None);
    let Recording { stream, tables, expected } = recording;
    let ingest = ingest(stream, FileIngest::new(engine, tables), Arc::clone(&panels));
    let ingest = async {
        let summary = ingest.await?;
        panels.note_end(&summary);
        told_end.send_replace(Some(summary.last.unwrap_or(Lsn::ORIGIN)));
        Ok::<_, DemoError>(summary)
    };
    let screen = Screen::open(io::stdout().is_terminal())?;
    let watched = async {
        tokio::try_join!(
            ingest,
            watch::changes(&client, &panels, &expected, end.clone()),
            watch::queries(&client, &panels, &expected, end.clone()),
            watch::rows(&client, &panels, &expected, end.clone()),
        )
    };
    // Drawing ends with what is drawn.
    let outcome = tokio::select! {
        outcome = watched => outcome,
        ended = screen.draw(&panels) => return ended.and(Err(DemoError::Ended)),
    };
    screen.close(&panels)?;
    let (summary, ..) = outcome?;
    println!("ingested: {} lines, {} events in {} commits", summary.lines, summary.events, summary.commits);
    let verdict = compare::compare(&client, &panels, &expected).await?;
    println!("\nconnect to it{}:", if options.is_kept { "" } else { " (with --keep)" });
    println!("  highwater sql --url {url}");
    println!("  highwater feed tail pgbench_tellers --url {url}");
    println!(
        "  grpcurl -plaintext -d '{{\"sql\":\"SELECT hw_lsn()\"}}' {} highwater.v1.Sql/Execute",
        url.trim_start_matches("http://")
    );
    if options.is_kept {
        println!("data in {}; Ctrl-C ends it", directory.display());
        let stop = crate::server::stop_signal();
        stop.map_err(|source| DemoError::Io { action: "wait for signals", source })?.await;
    }
    Ok(verdict)
}

/// Feeds the stream to the ingest on a thread of its own, as fast as it goes.
async fn ingest(
    stream: Box<dyn io::BufRead + Send>,
    ingest: FileIngest,
    panels: Arc<Panels>,
) -> Result<Summary, DemoError> {
    let runtime = tokio::runtime::Handle::current();
    let told = move |summary: &Summary| {
        panels.note_ingest(summary);
        if panels.is_over() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let done = tokio::task::spawn_blocking(move || runtime.block_on(ingest.run(stream, told))).await;
    Ok(done.map_err(|error| DemoError::Io { action: "run the ingest", source: io::Error::other(error) })??)
}

/// How often what is shown is looked at anew.
const REFRESH: Duration = Duration::from_millis(150);
