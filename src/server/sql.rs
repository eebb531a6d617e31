//! gRPC's `Sql`: statements, sessions, transactions.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures::{FutureExt, Stream, StreamExt};
use highwater_log::commit::{ProducerId, ProducerSequence};
use highwater_proto::v1::execute_response::Answer;
use highwater_proto::v1::sql_server::Sql;
use highwater_proto::v1::{
    BeginRequest, BeginResponse, CloseSessionRequest, CloseSessionResponse, CommitRequest, CommitResponse, Completion,
    ExecuteRequest, ExecuteResponse, Format, OpenSessionRequest, OpenSessionResponse, RollbackRequest,
    RollbackResponse, WriteNumber,
};
use highwater_query::{Outcome, RowStream, Session, SqlError, sqlstate};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::error::status;
use super::results::ResultEncoder;
use super::sessions::{Held, Sessions};
use crate::Database;

#[derive(Clone)]
pub(super) struct SqlService {
    database: Arc<Database>,
    sessions: Arc<Sessions>,
    stopping: watch::Receiver<bool>,
}

/// The session of a call: its own, or one that lasts.
enum Borrowed {
    Own(Box<Session>),
    Held(Held),
}

impl Borrowed {
    fn session(&mut self) -> &mut Session {
        match self {
            Self::Own(session) => session,
            Self::Held(held) => held,
        }
    }
}

type Answers = mpsc::Sender<ExecuteResponse>;

impl SqlService {
    pub(super) const fn new(database: Arc<Database>, sessions: Arc<Sessions>, stopping: watch::Receiver<bool>) -> Self {
        Self { database, sessions, stopping }
    }

    fn check_stopping(&self) -> Result<(), SqlError> {
        match *self.stopping.borrow() {
            true => Err(SqlError::new(sqlstate::CANNOT_CONNECT_NOW, "the server is stopping")),
            false => Ok(()),
        }
    }

    /// Runs a call's statements, giving its answers one after another.
    async fn run(self, request: ExecuteRequest, answers: Answers) -> Result<(), SqlError> {
        self.check_stopping()?;
        let format = Format::try_from(request.format).map_err(|_| invalid("the format is none that there is"))?;
        let mut borrowed = match request.session.as_str() {
            "" => Borrowed::Own(Box::new(self.database.session())),
            id => Borrowed::Held(self.sessions.hold(id).await?),
        };
        let session = borrowed.session();
        if request.min_lsn > 0 {
            session.configure("hw.min_lsn", &request.min_lsn.to_string())?;
        }
        let statements = session.parse(&request.sql)?;
        if let Some(number) = request.number {
            let number = write_number(&number)?;
            if statements.len() != 1 || !request.session.is_empty() {
                return Err(invalid("a numbered write is one statement without a session"));
            }
            if let Some(lsn) = self.database.engine().committed(number)? {
                let completion =
                    Completion { commit_lsn: Some(lsn.value()), is_duplicate: true, ..Completion::default() };
                let _ = answers.send(ExecuteResponse { answer: Some(Answer::Completion(completion)) }).await;
                return Ok(());
            }
            session.number_commit(number);
        }
        for statement in statements {
            let completion = match session.run(statement).await? {
                Outcome::Rows(rows) => send_rows(rows, format, &answers).await?,
                Outcome::Done(done) => Completion {
                    tag: done.tag,
                    rows: done.rows,
                    commit_lsn: done.lsn.map(|lsn| lsn.value()),
                    is_duplicate: false,
                },
            };
            // Nobody to answer: the call's end drops this future.
            let _ = answers.send(ExecuteResponse { answer: Some(Answer::Completion(completion)) }).await;
        }
        Ok(())
    }
}

async fn send_rows(mut rows: RowStream, format: Format, answers: &Answers) -> Result<Completion, SqlError> {
    let (mut encoder, header) = ResultEncoder::begin(&rows, format)?;
    let _ = answers.send(header).await;
    let mut count = 0;
    while let Some(batch) = rows.next().await {
        let batch = batch?;
        let mut from = 0;
        while from < batch.num_rows() {
            let (taken, message) = encoder.encode(&batch, from)?;
            let _ = answers.send(message).await;
            from += taken;
        }
        count += batch.num_rows() as u64;
    }
    Ok(Completion { tag: format!("SELECT {count}"), rows: Some(count), ..Completion::default() })
}

/// The answers of a call, and its error at their end. The work goes on while they are asked for, and ends when they are dropped:
/// what the client does not read is not made.
fn answers<F>(work: impl FnOnce(Answers) -> F) -> impl Stream<Item = Result<ExecuteResponse, Status>>
where
    F: Future<Output = Result<(), SqlError>>,
{
    let (sender, receiver) = mpsc::channel(1);
    let work = work(sender).into_stream();
    let failed = work.filter_map(|outcome| futures::future::ready(outcome.err().map(|error| Err(status(&error)))));
    futures::stream::select(ReceiverStream::new(receiver).map(Ok), failed)
}

#[tonic::async_trait]
impl Sql for SqlService {
    type ExecuteStream = Pin<Box<dyn Stream<Item = Result<ExecuteResponse, Status>> + Send>>;

    async fn execute(&self, request: Request<ExecuteRequest>) -> Result<Response<Self::ExecuteStream>, Status> {
        let (service, request) = (self.clone(), request.into_inner());
        Ok(Response::new(Box::pin(answers(|sender| service.run(request, sender)))))
    }

    async fn open_session(
        &self,
        request: Request<OpenSessionRequest>,
    ) -> Result<Response<OpenSessionResponse>, Status> {
        let open = || {
            self.check_stopping()?;
            let mut session = self.database.session();
            for (name, value) in &request.get_ref().settings {
                session.configure(name, value)?;
            }
            self.sessions.open(session)
        };
        let session = open().map_err(|error| status(&error))?;
        Ok(Response::new(OpenSessionResponse { session, idle_ms_max: self.sessions.idle_ms_max() }))
    }

    async fn close_session(
        &self,
        request: Request<CloseSessionRequest>,
    ) -> Result<Response<CloseSessionResponse>, Status> {
        let closed = self.sessions.take(&request.get_ref().session).await;
        drop(closed.map_err(|error| status(&error))?);
        Ok(Response::new(CloseSessionResponse {}))
    }

    async fn begin(&self, request: Request<BeginRequest>) -> Result<Response<BeginResponse>, Status> {
        let begin = async {
            self.check_stopping()?;
            let request = request.get_ref();
            let idle_ms_max = self.sessions.idle_ms_max();
            let mut session = self.database.session();
            if let Some(number) = &request.number {
                let number = write_number(number)?;
                if let Some(lsn) = self.database.engine().committed(number)? {
                    let committed_lsn = Some(lsn.value());
                    return Ok(BeginResponse { committed_lsn, ..BeginResponse::default() });
                }
                session.number_commit(number);
            }
            if request.min_lsn > 0 {
                session.configure("hw.min_lsn", &request.min_lsn.to_string())?;
            }
            let begin = match (request.as_of, request.read_only) {
                (Some(lsn), _) => format!("BEGIN READ ONLY AS OF LSN {lsn}"),
                (None, true) => "BEGIN READ ONLY".to_owned(),
                (None, false) => "BEGIN".to_owned(),
            };
            session.execute(&begin).await?;
            let read_lsn = session.read_lsn().map_or(0, |lsn| lsn.value());
            let session = self.sessions.open(session)?;
            Ok(BeginResponse { session, read_lsn, idle_ms_max, committed_lsn: None })
        };
        begin.await.map(Response::new).map_err(|error: SqlError| status(&error))
    }

    async fn commit(&self, request: Request<CommitRequest>) -> Result<Response<CommitResponse>, Status> {
        let commit = async {
            let mut session = self.sessions.take(&request.get_ref().session).await?;
            match session.execute("COMMIT").await? {
                // What PostgreSQL answers with a tag, where a client that reads no tags would take it for done.
                Outcome::Done(done) if done.tag == "ROLLBACK" => {
                    let message = "the transaction had failed, and was rolled back";
                    Err(SqlError::new(sqlstate::FAILED_TRANSACTION, message))
                }
                Outcome::Done(done) => Ok(CommitResponse { commit_lsn: done.lsn.map(|lsn| lsn.value()) }),
                Outcome::Rows(_) => Ok(CommitResponse::default()),
            }
        };
        commit.await.map(Response::new).map_err(|error: SqlError| status(&error))
    }

    async fn rollback(&self, request: Request<RollbackRequest>) -> Result<Response<RollbackResponse>, Status> {
        let closed = self.sessions.take(&request.get_ref().session).await;
        drop(closed.map_err(|error| status(&error))?);
        Ok(Response::new(RollbackResponse {}))
    }
}

fn write_number(number: &WriteNumber) -> Result<ProducerSequence, SqlError> {
    let producer = number.producer[..].try_into().map_err(|_| invalid("a producer is 16 bytes"))?;
    Ok(ProducerSequence { producer: ProducerId(producer), sequence: number.sequence })
}

fn invalid(message: &'static str) -> SqlError {
    SqlError::new(sqlstate::INVALID_PARAMETER_VALUE, message)
}
