//! gRPC's `Sql`: statements, sessions, transactions.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use highwater_log::commit::{ProducerId, ProducerSequence};
use highwater_proto::v1::execute_response::Answer;
use highwater_proto::v1::sql_server::Sql;
use highwater_proto::v1::{
    BeginRequest, BeginResponse, CloseSessionRequest, CloseSessionResponse, CommitRequest, CommitResponse, Completion,
    Durability, ExecuteRequest, ExecuteResponse, Format, OpenSessionRequest, OpenSessionResponse, RollbackRequest,
    RollbackResponse, Value, WriteNumber, value::Kind,
};
use highwater_query::{
    Done, Interrupt, Outcome, Parameter, Prepared, RowStream, Session, SqlError, Statements, sqlstate,
};
use prost::Message;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use super::call::{Answers, Call};
use super::error::status;
use super::pipeline::Pipeline;
use super::results::ResultEncoder;
use super::sessions::{Entry, Held, Kept, Sessions};
use crate::Database;

#[derive(Clone)]
pub(super) struct SqlService {
    database: Arc<Database>,
    sessions: Arc<Sessions>,
    /// Where statements run that are not short: a query that computes for long takes no thread from connections, feeds and probes.
    threads: Handle,
    stopping: watch::Receiver<bool>,
}

/// The session that a request is to run in.
enum Wanted {
    /// One that ends with it.
    Own(Box<Session>),
    /// Its call's.
    Kept(Arc<Entry>),
    /// The one of this id.
    Named(String),
}

/// The same, at hand.
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

/// What a call asks for: statements, or one with values for its parameters.
enum Asked {
    Parsed(Statements),
    Prepared(Prepared, Vec<Parameter>),
}

impl Asked {
    fn of(session: &mut Session, sql: &str, parameters: Vec<Parameter>) -> Result<Self, SqlError> {
        if parameters.is_empty() {
            return session.parse(sql).map(Self::Parsed);
        }
        Ok(Self::Prepared(session.prepare(sql)?, parameters))
    }

    /// The only statement.
    fn into_single(self) -> Result<(Prepared, Vec<Parameter>), SqlError> {
        match self {
            Self::Prepared(prepared, parameters) => Ok((prepared, parameters)),
            Self::Parsed(statements) => match statements.single() {
                Some(statement) => Ok((Prepared::from(statement), Vec::new())),
                None => Err(invalid("a numbered write is one statement")),
            },
        }
    }
}

fn parameter(value: Value) -> Parameter {
    match value.kind {
        None => Parameter::Null,
        Some(Kind::Bool(value)) => Parameter::Bool(value),
        Some(Kind::Int(value)) => Parameter::Int(value),
        Some(Kind::Double(value)) => Parameter::Double(value),
        Some(Kind::Bytes(bytes)) => Parameter::Bytes(bytes.into()),
        Some(Kind::Text(text)) => Parameter::Text(text),
    }
}

impl SqlService {
    pub(super) const fn new(
        database: Arc<Database>,
        sessions: Arc<Sessions>,
        threads: Handle,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        Self { database, sessions, threads, stopping }
    }

    fn check_stopping(&self) -> Result<(), SqlError> {
        match *self.stopping.borrow() {
            true => Err(SqlError::new(sqlstate::CANNOT_CONNECT_NOW, "the server is stopping")),
            false => Ok(()),
        }
    }

    /// Begins with a request; what names no session runs in `own`, or in one that ends with it.
    pub(super) fn begin_call(&self, mut request: ExecuteRequest, own: Option<&Kept>) -> Call {
        let is_small = request.encoded_len() <= SHORT_BYTES_MAX;
        let parameters: Vec<_> = std::mem::take(&mut request.parameters).into_iter().map(parameter).collect();
        let (sql, service) = (&request.sql, self.clone());
        let (is_short, session) = match (request.session.as_str(), own) {
            ("", None) => {
                let session = Box::new(self.database.session());
                (session.is_short(sql, &parameters), Wanted::Own(session))
            }
            ("", Some(own)) => (own.is_short(sql, &parameters), Wanted::Kept(own.entry())),
            (id, _) => (false, Wanted::Named(id.to_owned())),
        };
        let run = |interrupt, answers| service.run(request, parameters, session, interrupt, answers);
        if is_small && is_short { Call::here(run) } else { Call::elsewhere(&self.threads, run) }
    }

    /// Runs a request's statements, giving its answers one after another.
    async fn run(
        self,
        request: ExecuteRequest,
        parameters: Vec<Parameter>,
        session: Wanted,
        interrupt: Interrupt,
        answers: Answers,
    ) -> Result<(), SqlError> {
        self.check_stopping()?;
        let format = Format::try_from(request.format).map_err(|_| invalid("the format is none that there is"))?;
        let mut borrowed = match session {
            Wanted::Own(session) => Borrowed::Own(session),
            Wanted::Kept(entry) => Borrowed::Held(Sessions::hold_entry(entry).await?),
            Wanted::Named(id) => Borrowed::Held(self.sessions.hold(&id).await?),
        };
        let session = borrowed.session();
        session.interrupted_by(interrupt);
        set_min_lsn(session, request.min_lsn)?;
        let durability = durability_of(request.durability)?;
        if request.number.is_some() && durability == Durability::Buffered {
            return Err(invalid("a numbered write is acknowledged when it is synced"));
        }
        set_durability(session, durability)?;
        let statements = Asked::of(session, &request.sql, parameters)?;
        let Some(number) = request.number else {
            match statements {
                Asked::Parsed(statements) => {
                    for statement in statements {
                        let outcome = session.run(statement?).await?;
                        give_outcome(outcome, format, &answers).await?;
                    }
                }
                Asked::Prepared(prepared, parameters) => {
                    let outcome = session.run_prepared(&prepared, &parameters).await?;
                    give_outcome(outcome, format, &answers).await?;
                }
            }
            return Ok(());
        };
        let number = write_number(&number)?;
        let (prepared, parameters) = statements.into_single()?;
        if !request.session.is_empty() || session.is_in_transaction() {
            return Err(invalid("a numbered write without BEGIN has no session, and is in no transaction"));
        }
        // What an earlier request of the call has set.
        if session.is_buffered() {
            return Err(invalid("a numbered write is acknowledged when it is synced, and synchronous_commit is off"));
        }
        let engine = self.database.engine();
        let outcome = match engine.committed(number)? {
            Some(_) => None,
            None => {
                session.number_commit(number);
                let outcome = session.run_prepared(&prepared, &parameters).await;
                if session.is_in_transaction() {
                    session.execute("ROLLBACK").await?;
                    return Err(invalid("a number is a write's, and BEGIN is none: the call Begin takes one"));
                }
                Some(outcome)
            }
        };
        // Without a commit of its own it may have met the rows of an earlier attempt that became visible meanwhile.
        let has_commit =
            matches!(&outcome, Some(Ok(Outcome::Done(done) | Outcome::Returned(_, done))) if done.lsn.is_some());
        let earlier = if has_commit { None } else { engine.committed(number)? };
        match (earlier, outcome) {
            // The commit is this attempt's own, and what was to come of it did not.
            (_, Some(Err(error))) if error.committed_at.is_some() => Err(error),
            (None, Some(outcome)) => give_outcome(outcome?, format, &answers).await,
            (earlier, _) => {
                let commit_lsn = earlier.map(|lsn| lsn.value());
                let completion = Completion { commit_lsn, is_duplicate: true, ..Completion::default() };
                give(&answers, ExecuteResponse { answer: Some(Answer::Completion(completion)) }).await
            }
        }
    }
}

/// Gives a statement's rows, if it has some, and its completion.
async fn give_outcome(outcome: Outcome, format: Format, answers: &Answers) -> Result<(), SqlError> {
    let completion = match outcome {
        Outcome::Rows(rows) => send_rows(rows, format, answers).await?,
        Outcome::Done(done) => completion(done),
        Outcome::Returned(rows, done) => {
            send_rows(rows, format, answers).await?;
            completion(done)
        }
    };
    give(answers, ExecuteResponse { answer: Some(Answer::Completion(completion)) }).await
}

fn completion(done: Done) -> Completion {
    Completion {
        tag: done.tag,
        rows: done.rows,
        commit_lsn: done.lsn.map(|lsn| lsn.value()),
        is_duplicate: done.is_duplicate,
    }
}

/// Has reads wait for an LSN. A transaction that reads below it can never see it.
fn set_min_lsn(session: &mut Session, lsn: u64) -> Result<(), SqlError> {
    if lsn == 0 {
        return Ok(());
    }
    if let Some(read) = session.read_lsn().filter(|read| read.value() < lsn) {
        let message = format!("the transaction reads at lsn {read}, below {lsn}: begin another one");
        return Err(SqlError::new(sqlstate::LSN_NOT_REACHED, message));
    }
    session.configure("hw.min_lsn", &lsn.to_string())
}

fn durability_of(number: i32) -> Result<Durability, SqlError> {
    Durability::try_from(number).map_err(|_| invalid("the durability is none that there is"))
}

fn set_durability(session: &mut Session, durability: Durability) -> Result<(), SqlError> {
    match durability {
        Durability::Unspecified => Ok(()),
        Durability::Synced => session.configure("synchronous_commit", "on"),
        Durability::Buffered => session.configure("synchronous_commit", "off"),
    }
}

/// Gives an answer, when the one before is read. Without anybody to answer, the work is over.
async fn give(answers: &Answers, answer: ExecuteResponse) -> Result<(), SqlError> {
    let gone = |_| SqlError::new(sqlstate::QUERY_CANCELED, "canceling statement due to user request");
    answers.send(answer).await.map_err(gone)
}

async fn send_rows(mut rows: RowStream, format: Format, answers: &Answers) -> Result<Completion, SqlError> {
    let (mut encoder, header) = ResultEncoder::begin(&rows, format)?;
    give(answers, header).await?;
    let mut count = 0;
    while let Some(batch) = rows.next().await {
        let batch = batch?;
        let mut from = 0;
        while from < batch.num_rows() {
            let (taken, message) = encoder.encode(&batch, from)?;
            give(answers, message).await?;
            from += taken;
        }
        count += batch.num_rows() as u64;
    }
    Ok(Completion { tag: format!("SELECT {count}"), rows: Some(count), ..Completion::default() })
}

#[tonic::async_trait]
impl Sql for SqlService {
    type ExecuteStream = Pin<Box<dyn Stream<Item = Result<ExecuteResponse, Status>> + Send>>;

    async fn execute(&self, request: Request<ExecuteRequest>) -> Result<Response<Self::ExecuteStream>, Status> {
        let mut call = self.begin_call(request.into_inner(), None);
        // Before anything of the answer goes out: all of it then goes together.
        let first = if call.is_here() { call.next().await } else { None };
        let answers = futures::stream::iter(first).chain(call);
        Ok(Response::new(Box::pin(answers.map(|answer| answer.map_err(|error| status(&error))))))
    }

    type PipelineStream = Pipeline;

    async fn pipeline(
        &self,
        requests: Request<Streaming<ExecuteRequest>>,
    ) -> Result<Response<Self::PipelineStream>, Status> {
        let begin = || {
            self.check_stopping()?;
            self.sessions.keep(self.database.session())
        };
        let session = begin().map_err(|error| status(&error))?;
        Ok(Response::new(Pipeline::new(self.clone(), session, requests.into_inner(), self.stopping.clone())))
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
            set_min_lsn(&mut session, request.min_lsn)?;
            let begin = match (request.as_of, request.read_only) {
                (Some(lsn), _) => format!("BEGIN READ ONLY AS OF LSN {lsn}"),
                (None, true) => "BEGIN READ ONLY".to_owned(),
                (None, false) => "BEGIN".to_owned(),
            };
            session.execute(&begin).await?;
            if let Some(number) = &request.number {
                let number = write_number(number)?;
                // Behind the beginning: what is not visible now, the transaction does not see, and its commit finds.
                if let Some(lsn) = self.database.engine().committed(number)? {
                    let committed_lsn = Some(lsn.value());
                    return Ok(BeginResponse { committed_lsn, ..BeginResponse::default() });
                }
                session.number_commit(number);
            }
            let read_lsn = session.read_lsn().map_or(0, |lsn| lsn.value());
            let session = self.sessions.open(session)?;
            Ok(BeginResponse { session, read_lsn, idle_ms_max, committed_lsn: None })
        };
        begin.await.map(Response::new).map_err(|error: SqlError| status(&error))
    }

    async fn commit(&self, request: Request<CommitRequest>) -> Result<Response<CommitResponse>, Status> {
        let commit = async {
            let durability = durability_of(request.get_ref().durability)?;
            let mut session = self.sessions.take(&request.get_ref().session).await?;
            set_durability(&mut session, durability)?;
            match session.execute("COMMIT").await? {
                // What PostgreSQL answers with a tag, where a client that reads no tags would take it for done.
                Outcome::Done(done) if done.tag == "ROLLBACK" => {
                    let message = "the transaction had failed, and was rolled back";
                    Err(SqlError::new(sqlstate::FAILED_TRANSACTION, message))
                }
                Outcome::Done(done) => Ok(CommitResponse { commit_lsn: done.lsn.map(|lsn| lsn.value()) }),
                Outcome::Rows(_) | Outcome::Returned(..) => Ok(CommitResponse::default()),
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

/// A call of more bytes goes to the threads of statements.
const SHORT_BYTES_MAX: usize = 16 * 1024;
