//! gRPC's `Ingest`: change streams, as a file has them.

use std::io::{self, Read};
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::{Stream, StreamExt};
use highwater_connectors::sources::file::{FileIngest, IngestCause, IngestError, Summary, open_lines};
use highwater_log::error_chain;
use highwater_proto::v1::ingest_request::Request as Wanted;
use highwater_proto::v1::ingest_server::Ingest;
use highwater_proto::v1::{IngestFormat, IngestRequest, IngestResponse};
use highwater_query::{SchemaDump, SqlError, parse_schema_dump, sqlstate};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::error::{failed, status};
use crate::Database;

pub(super) struct IngestService {
    database: Arc<Database>,
    threads: Handle,
    stopping: watch::Receiver<bool>,
    room: Arc<Semaphore>,
}

impl IngestService {
    pub(super) fn new(database: Arc<Database>, threads: Handle, stopping: watch::Receiver<bool>) -> Self {
        Self { database, threads, stopping, room: Arc::new(Semaphore::new(INGESTS_MAX)) }
    }
}

#[tonic::async_trait]
impl Ingest for IngestService {
    type IngestStream = Pin<Box<dyn Stream<Item = Result<IngestResponse, Status>> + Send>>;

    async fn ingest(&self, request: Request<Streaming<IngestRequest>>) -> Result<Response<Self::IngestStream>, Status> {
        let mut requests = request.into_inner();
        let mut stopping = self.stopping.clone();
        let first = tokio::select! {
            biased;
            _ = stopping.wait_for(|is_stopping| *is_stopping) => {
                return Err(failed(sqlstate::CANNOT_CONNECT_NOW, "the server is stopping"));
            }
            first = requests.message() => first?,
        };
        let start = match first.and_then(|first| first.request) {
            Some(Wanted::Start(start)) => start,
            _ => return Err(invalid("the first message says what comes")),
        };
        if start.format() != IngestFormat::Debezium {
            return Err(status(&SqlError::unsupported("this format")));
        }
        let room = Arc::clone(&self.room).try_acquire_owned();
        let room = room.map_err(|_| failed(sqlstate::TOO_MANY_CONNECTIONS, "too many streams are being ingested"))?;
        let (pieces, input) = mpsc::channel(PIECES_AHEAD);
        let (answers, told) = mpsc::channel(ANSWERS_AHEAD);
        tokio::spawn(forward(requests, pieces, self.stopping.clone()));
        let (ingest, threads) = (self.work(start.schema_dump), self.threads.clone());
        self.threads.spawn_blocking(move || ingest(Pieces { input, piece: Bytes::new() }, &threads, &answers, room));
        Ok(Response::new(ReceiverStream::new(told).boxed()))
    }
}

type Answers = mpsc::Sender<Result<IngestResponse, Status>>;

impl IngestService {
    /// What a thread does for one stream.
    fn work(&self, dump: String) -> impl FnOnce(Pieces, &Handle, &Answers, OwnedSemaphorePermit) + use<> {
        let engine = self.database.engine().clone();
        move |pieces, runtime, answers, _room| {
            let dump = match parse_schema_dump(&dump) {
                Ok(dump) => dump,
                Err(error) => {
                    let _ = answers.try_send(Err(status(&error)));
                    return;
                }
            };
            let _ = answers.try_send(Ok(passed_over(&dump)));
            let ingest = FileIngest::new(engine, Some(dump));
            let told = |summary: &Summary| {
                // Who does not read hears less often.
                let _ = answers.try_send(Ok(response(summary)));
                if answers.is_closed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let read = open_lines(pieces).map_err(|error| IngestError { line: 1, cause: IngestCause::Input(error) });
            let outcome = read.and_then(|input| runtime.block_on(ingest.run(input, told)));
            let last = match outcome {
                Ok(summary) => Ok(IngestResponse { is_end: true, is_open: summary.is_open, ..response(&summary) }),
                Err(error) => Err(refused(&error)),
            };
            // Nobody to answer: the call has ended, or its client reads nothing.
            let _ = runtime.block_on(async { tokio::time::timeout(ANSWER_PATIENCE, answers.send(last)).await });
        }
    }
}

/// Hands the input on, as fast as it is taken. What ends it in its middle is told as such.
async fn forward(
    mut requests: Streaming<IngestRequest>,
    pieces: mpsc::Sender<io::Result<Bytes>>,
    mut stopping: watch::Receiver<bool>,
) {
    loop {
        let piece = tokio::select! {
            biased;
            _ = stopping.wait_for(|is_stopping| *is_stopping) => Err(io::Error::other("the server is stopping")),
            request = requests.message() => match request {
                Ok(None) => return,
                Ok(Some(IngestRequest { request: Some(Wanted::Piece(piece)) })) => Ok(piece),
                Ok(Some(_)) => Err(io::Error::other("after the first message there are only pieces of the input")),
                Err(status) => Err(io::Error::other(status.message().to_owned())),
            },
        };
        let is_over = piece.is_err();
        if pieces.send(piece).await.is_err() || is_over {
            return;
        }
    }
}

/// The pieces of an input as one. It blocks while there is none.
struct Pieces {
    input: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.input.blocking_recv() {
                None => return Ok(0),
                Some(piece) => self.piece = piece?,
            }
        }
        let count = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// What of a schema dump was passed over, as much of it as people read.
fn passed_over(dump: &SchemaDump) -> IngestResponse {
    let mut passed_over: Vec<String> = dump.skipped.iter().take(PASSED_OVER_MAX).cloned().collect();
    if let Some(more @ 1..) = dump.skipped.len().checked_sub(PASSED_OVER_MAX) {
        passed_over.push(format!("{more} more statements"));
    }
    IngestResponse { passed_over, ..IngestResponse::default() }
}

fn response(summary: &Summary) -> IngestResponse {
    IngestResponse {
        lines: summary.lines,
        events: summary.events,
        skipped: summary.skipped,
        commits: summary.commits,
        last_lsn: summary.last.map(highwater_log::Lsn::value),
        ..IngestResponse::default()
    }
}

fn refused(error: &IngestError) -> Status {
    let sqlstate = match &error.cause {
        IngestCause::Sql(cause) => cause.sqlstate,
        IngestCause::Input(_) => sqlstate::IO_ERROR,
        IngestCause::TooLarge { .. } => sqlstate::PROGRAM_LIMIT_EXCEEDED,
        _ => sqlstate::DATA_EXCEPTION,
    };
    failed(sqlstate, error_chain(error))
}

fn invalid(message: &'static str) -> Status {
    failed(sqlstate::INVALID_PARAMETER_VALUE, message)
}

/// Each holds two threads.
const INGESTS_MAX: usize = 32;
/// So long the last answer waits for its reader.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);
const PASSED_OVER_MAX: usize = 1_000;
const PIECES_AHEAD: usize = 4;
const ANSWERS_AHEAD: usize = 4;
