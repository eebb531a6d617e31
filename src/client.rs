//! The way to a server: what the command line uses with `--url`, and nothing that any other client could not do.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::convert::try_schema_from_ipc_buffer;
use arrow::ipc::reader::StreamDecoder;
use futures::StreamExt;
use highwater_log::Lsn;
use highwater_proto::v1::changefeed_client::ChangefeedClient;
use highwater_proto::v1::execute_response::Answer;
use highwater_proto::v1::ingest_client::IngestClient;
use highwater_proto::v1::ingest_request::Request as Fed;
use highwater_proto::v1::operations_client::OperationsClient;
use highwater_proto::v1::sql_client::SqlClient;
use highwater_proto::v1::subscribe_request::Request as Wanted;
use highwater_proto::v1::{
    BackupRequest, BackupResponse, CloseSessionRequest, Completion, Cursor, DropFeedRequest, ExecuteRequest,
    ExecuteResponse, FeedStatus, Format, IngestRequest, IngestResponse, IngestStart, ListFeedsRequest,
    OpenSessionRequest, SubscribeRequest, SubscribeResponse, SubscribeStart,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

/// A connection to a server. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    channel: Channel,
}

/// What a server, or the way to it, answered instead.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// There is no way to the server.
    #[error("cannot reach the server at {url}")]
    Connect {
        /// Its address.
        url: String,
        /// What is in the way.
        source: tonic::transport::Error,
    },
    /// An address of another kind.
    #[error("the address of a server begins with http:// (there is no TLS yet), not {url}")]
    Scheme {
        /// It.
        url: String,
    },
    /// The call failed.
    #[error("{message}{code}", code = sqlstate.as_ref().map_or(String::new(), |code| format!(" ({code})")))]
    Call {
        /// What the server says.
        message: String,
        /// Its SQLSTATE, when the answer is the database's.
        sqlstate: Option<String>,
    },
    /// A batch of rows cannot be read.
    #[error("cannot read the server's rows")]
    Rows(#[from] ArrowError),
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        let sqlstate = status.metadata().get("sqlstate").and_then(|code| code.to_str().ok()).map(str::to_owned);
        Self::Call { message: status.message().to_owned(), sqlstate }
    }
}

impl ClientError {
    /// Whether the session is gone.
    pub(crate) fn is_no_session(&self) -> bool {
        matches!(self, Self::Call { sqlstate: Some(code), .. } if code == "08003")
    }
}

impl Client {
    pub(crate) async fn connect(url: &str) -> Result<Self, ClientError> {
        let failed = |source| ClientError::Connect { url: url.to_owned(), source };
        if !url.starts_with("http://") {
            return Err(ClientError::Scheme { url: url.to_owned() });
        }
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(failed)?;
        Ok(Self { channel: endpoint.tcp_nodelay(true).connect().await.map_err(failed)? })
    }

    /// A session that lasts from statement to statement.
    pub(crate) async fn session(&self) -> Result<RemoteSession, ClientError> {
        let mut sql = SqlClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
        let opened = sql.open_session(OpenSessionRequest::default()).await?.into_inner();
        Ok(RemoteSession { client: self.clone(), sql, id: opened.session, is_in_transaction: false })
    }

    /// Follows tables, at the pace at which the answers are read, and tells what of a feed that has a name is dealt with.
    pub(crate) async fn subscribe(
        &self,
        start: SubscribeStart,
        acknowledged: mpsc::Receiver<Cursor>,
    ) -> Result<Streaming<SubscribeResponse>, ClientError> {
        let first = SubscribeRequest { request: Some(Wanted::Start(start)) };
        let acknowledged = ReceiverStream::new(acknowledged)
            .map(|cursor| SubscribeRequest { request: Some(Wanted::Acknowledge(cursor)) });
        let requests = futures::stream::iter([first]).chain(acknowledged);
        Ok(self.changefeed().subscribe(requests).await?.into_inner())
    }

    /// The feeds that have a name.
    pub(crate) async fn feeds(&self) -> Result<Vec<FeedStatus>, ClientError> {
        Ok(self.changefeed().list_feeds(ListFeedsRequest {}).await?.into_inner().feeds)
    }

    /// Drops a feed that has a name; returns the commit that did.
    pub(crate) async fn drop_feed(&self, name: &str) -> Result<Lsn, ClientError> {
        let dropped = self.changefeed().drop_feed(DropFeedRequest { name: name.to_owned() }).await?;
        Ok(Lsn::new(dropped.into_inner().commit_lsn))
    }

    fn changefeed(&self) -> ChangefeedClient<Channel> {
        ChangefeedClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }
}

impl Client {
    /// Has an input ingested, which comes in pieces; answers tell how far it has come.
    pub(crate) async fn ingest(
        &self,
        start: IngestStart,
        pieces: mpsc::Receiver<Vec<u8>>,
    ) -> Result<Streaming<IngestResponse>, ClientError> {
        let first = IngestRequest { request: Some(Fed::Start(start)) };
        let pieces = ReceiverStream::new(pieces).map(|piece| IngestRequest { request: Some(Fed::Piece(piece.into())) });
        let mut ingest = IngestClient::new(self.channel.clone());
        Ok(ingest.ingest(futures::stream::iter([first]).chain(pieces)).await?.into_inner())
    }
}

impl Client {
    /// A copy of the server's log, in pieces.
    pub(crate) async fn backup(&self) -> Result<Streaming<BackupResponse>, ClientError> {
        Ok(OperationsClient::new(self.channel.clone()).backup(BackupRequest {}).await?.into_inner())
    }
}

/// A session on a server.
#[derive(Debug)]
pub(crate) struct RemoteSession {
    client: Client,
    sql: SqlClient<Channel>,
    id: String,
    is_in_transaction: bool,
}

/// One answer of a statement.
#[derive(Debug)]
pub(crate) enum Reply {
    /// Rows of this schema come, read at this LSN.
    Header(SchemaRef, Lsn),
    /// Some of them.
    Batch(RecordBatch),
    /// The statement is done.
    Completion(Completion),
}

/// The answers of statements, one after another.
pub(crate) struct Replies<'a> {
    answers: Streaming<ExecuteResponse>,
    decoder: StreamDecoder,
    /// Bytes of an answer that were not decoded yet.
    rest: Buffer,
    is_in_transaction: &'a mut bool,
}

impl RemoteSession {
    pub(crate) const fn is_in_transaction(&self) -> bool {
        self.is_in_transaction
    }

    /// Another session in its place, with none of its settings.
    pub(crate) async fn again(&self) -> Result<Self, ClientError> {
        self.client.session().await
    }

    /// Runs statements.
    pub(crate) async fn execute(&mut self, sql: &str) -> Result<Replies<'_>, ClientError> {
        let request = ExecuteRequest {
            sql: sql.to_owned(),
            session: self.id.clone(),
            format: Format::Arrow.into(),
            ..ExecuteRequest::default()
        };
        let answers = self.sql.execute(request).await?.into_inner();
        let is_in_transaction = &mut self.is_in_transaction;
        Ok(Replies { answers, decoder: StreamDecoder::new(), rest: Buffer::default(), is_in_transaction })
    }

    /// Closes it; the server would do so by itself later.
    pub(crate) async fn close(mut self) {
        let _ = self.sql.close_session(CloseSessionRequest { session: self.id }).await;
    }
}

impl Replies<'_> {
    /// The next answer; `None` behind the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Reply>, ClientError> {
        loop {
            if let Some(batch) = self.decoder.decode(&mut self.rest)? {
                return Ok(Some(Reply::Batch(batch)));
            }
            let Some(message) = self.answers.message().await? else { return Ok(None) };
            match message.answer {
                Some(Answer::Header(header)) => {
                    let schema = try_schema_from_ipc_buffer(&header.arrow_schema)?;
                    self.decoder = StreamDecoder::new();
                    self.rest = Buffer::from(header.arrow_schema);
                    return Ok(Some(Reply::Header(Arc::new(schema), Lsn::new(header.read_lsn))));
                }
                Some(Answer::Arrow(bytes)) => self.rest = Buffer::from(bytes),
                Some(Answer::Completion(completion)) => {
                    match completion.tag.as_str() {
                        "BEGIN" => *self.is_in_transaction = true,
                        "COMMIT" | "ROLLBACK" => *self.is_in_transaction = false,
                        _ => {}
                    }
                    return Ok(Some(Reply::Completion(completion)));
                }
                Some(Answer::Rows(_) | Answer::End(_)) | None => {}
            }
        }
    }
}
