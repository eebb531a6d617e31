//! gRPC's `Changefeed`: feeds with credit, and those that have a name.

mod request;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use highwater_changefeed::{Batch, BatchKind, Cursor, Feed, FeedError, FeedOptions, FeedStatus, NamedFeed};
use highwater_log::{LogId, Lsn};
use highwater_materializers::FeedPosition;
use highwater_proto::v1::changefeed_server::Changefeed;
use highwater_proto::v1::subscribe_request::Request as Wanted;
use highwater_proto::v1::{
    ArrowChanges as WireChanges, Cursor as WireCursor, DropFeedRequest, DropFeedResponse, EventKind,
    FeedStatus as WireStatus, ListFeedsRequest, ListFeedsResponse, SubscribeRequest, SubscribeResponse, SubscribeStart,
    TableSelection,
};
use highwater_query::{ArrowChanges, SqlError, sqlstate};
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use super::error::{failed, status};
use super::health::{Health, Subscribed};
use crate::Database;
use crate::told::{TellingEncoder, Told};

pub(super) struct ChangefeedService {
    database: Arc<Database>,
    health: Arc<Health>,
    stopping: watch::Receiver<bool>,
}

impl ChangefeedService {
    pub(super) const fn new(database: Arc<Database>, health: Arc<Health>, stopping: watch::Receiver<bool>) -> Self {
        Self { database, health, stopping }
    }

    /// The feed that a call asks for, when it may be read.
    async fn open(&self, start: &SubscribeStart) -> Result<Reader, FeedStatusError> {
        let options = match start.progress_ms {
            Some(ms) => FeedOptions { progress_after: Duration::from_millis(ms) },
            None => FeedOptions::default(),
        };
        let (tables, from) = (request::tables(start)?, request::beginning(start)?);
        if start.name.is_empty() {
            if start.claim != 0 {
                return Err(invalid("a claim is laid to a feed that has a name").into());
            }
            return Ok(Reader::Nameless(Box::new(self.database.subscribe_to(&tables, from, options)?)));
        }
        let feeds = self.database.named_feeds();
        let feed = feeds.open(&start.name, &tables, from, request::claim(start)?, options).await?;
        let mut durable = feed.durable();
        // Where it stands is told at first, if it stands anywhere.
        durable.mark_changed();
        Ok(Reader::Named { feed: Box::new(feed), durable, log: self.database.log_id() })
    }
}

/// Why a feed is not opened.
enum FeedStatusError {
    Feed(FeedError),
    Status(Box<Status>),
}

impl From<FeedError> for FeedStatusError {
    fn from(error: FeedError) -> Self {
        Self::Feed(error)
    }
}

impl From<Status> for FeedStatusError {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl From<FeedStatusError> for Status {
    fn from(error: FeedStatusError) -> Self {
        match error {
            FeedStatusError::Feed(error) => status(&SqlError::from(error)),
            FeedStatusError::Status(status) => *status,
        }
    }
}

/// What a subscription reads.
enum Reader {
    Nameless(Box<Feed>),
    Named { feed: Box<NamedFeed>, durable: watch::Receiver<Option<FeedPosition>>, log: LogId },
}

/// What comes next of it.
enum Next {
    Batch(Batch),
    /// More is acknowledged for good.
    Durable(Cursor),
}

impl Reader {
    async fn next(&mut self, encoder: &mut TellingEncoder, bytes_target: usize) -> Result<Next, FeedError> {
        match self {
            Self::Nameless(feed) => feed.next(encoder, bytes_target).await.map(Next::Batch),
            Self::Named { feed, durable, log } => tokio::select! {
                biased;
                // Now and then; there may always be another batch.
                cursor = moved(durable, *log) => cursor.map(Next::Durable),
                batch = feed.next(encoder, bytes_target) => batch.map(Next::Batch),
            },
        }
    }

    /// Waits for what comes without credit: that the feed is taken away, or that more is acknowledged for good.
    async fn durable(&mut self) -> Result<Cursor, FeedError> {
        match self {
            Self::Nameless(_) => std::future::pending().await,
            Self::Named { feed, durable, log } => tokio::select! {
                over = feed.over() => Err(over),
                cursor = moved(durable, *log) => cursor,
            },
        }
    }

    fn acknowledge(&self, cursor: Cursor) -> Result<(), Status> {
        match self {
            Self::Nameless(_) => Err(invalid("there is something to acknowledge only where a feed has a name")),
            Self::Named { feed, .. } => feed.acknowledge(cursor).map_err(|error| status(&SqlError::from(error))),
        }
    }
}

/// Waits until more is acknowledged for good.
async fn moved(durable: &mut watch::Receiver<Option<FeedPosition>>, log: LogId) -> Result<Cursor, FeedError> {
    loop {
        durable.changed().await.map_err(|_| FeedError::Gone)?;
        if let Some(FeedPosition { lsn, position }) = *durable.borrow_and_update() {
            return Ok(Cursor { log, lsn, position });
        }
    }
}

/// One subscription.
struct Subscription {
    reader: Reader,
    encoder: TellingEncoder,
    /// Bytes that may still be sent; `None`: the transport alone bounds it. Below zero when a batch was larger.
    credit: Option<i64>,
    requests: Streaming<SubscribeRequest>,
    is_half_closed: bool,
    stopping: watch::Receiver<bool>,
    _counted: Subscribed,
}

impl Subscription {
    /// The next batch, when there is one and credit for it; `None` when no more credit can come.
    async fn next(&mut self) -> Result<Option<SubscribeResponse>, Status> {
        loop {
            let has_credit = self.credit.is_none_or(|credit| credit > 0);
            if !has_credit && self.is_half_closed {
                return Ok(None);
            }
            let room = self.credit.map_or(BATCH_BYTES_TARGET, |credit| usize::try_from(credit).unwrap_or(0));
            tokio::select! {
                biased;
                () = stopped(&mut self.stopping) => {
                    return Err(failed(sqlstate::CANNOT_CONNECT_NOW, "the server is stopping"));
                }
                request = self.requests.message(), if !self.is_half_closed => {
                    match request?.map(|message| message.request) {
                        // The client has said all that it will.
                        None => self.is_half_closed = true,
                        Some(wanted) => self.take(wanted)?,
                    }
                }
                next = async {
                    match has_credit {
                        true => self.reader.next(&mut self.encoder, room.min(BATCH_BYTES_TARGET)).await,
                        false => self.reader.durable().await.map(Next::Durable),
                    }
                } => {
                    match next.map_err(|error| status(&SqlError::from(error)))? {
                        Next::Batch(batch) => {
                            let told = self.encoder.take().map_err(|error| status(&error))?;
                            if let Some(credit) = &mut self.credit {
                                *credit = credit.saturating_sub_unsigned(told.byte_len() as u64);
                            }
                            return Ok(Some(response(batch, told)));
                        }
                        Next::Durable(cursor) => return Ok(Some(acknowledged(cursor))),
                    }
                }
            }
        }
    }

    /// What the client says behind its first message.
    fn take(&mut self, wanted: Option<Wanted>) -> Result<(), Status> {
        match wanted {
            Some(Wanted::CreditBytes(bytes)) => match &mut self.credit {
                Some(credit) => *credit = credit.saturating_add_unsigned(bytes),
                None => return Err(invalid("there is credit only where the start gives some")),
            },
            Some(Wanted::Acknowledge(cursor)) => self.reader.acknowledge(request::cursor(&cursor)?)?,
            _ => return Err(invalid("after the first message there is only credit and what is acknowledged")),
        }
        Ok(())
    }
}

/// Waits until the server stops.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // Also when the server is gone.
    let _ = stopping.wait_for(|is_stopping| *is_stopping).await;
}

#[tonic::async_trait]
impl Changefeed for ChangefeedService {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<SubscribeResponse, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let mut requests = request.into_inner();
        let mut stopping = self.stopping.clone();
        let opened = async {
            let start = match requests.message().await?.and_then(|first| first.request) {
                Some(Wanted::Start(start)) => start,
                _ => return Err(invalid("the first message says where to start")),
            };
            let encoder = TellingEncoder::new(request::envelope(&start)?, request::format(&start)?);
            let encoder = encoder.map_err(|error| status(&error))?;
            let reader = self.open(&start).await?;
            Ok((reader, encoder, start.credit_bytes))
        };
        let (reader, encoder, credit_bytes) = tokio::select! {
            biased;
            () = stopped(&mut stopping) => {
                return Err(failed(sqlstate::CANNOT_CONNECT_NOW, "the server is stopping"));
            }
            opened = opened => opened?,
        };
        let subscription = Subscription {
            reader,
            encoder,
            credit: credit_bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
            requests,
            is_half_closed: false,
            stopping,
            _counted: self.health.subscription(),
        };
        // The work goes on while answers are asked for, and ends when they are dropped.
        let answers = futures::stream::try_unfold(subscription, |mut subscription| async {
            Ok(subscription.next().await?.map(|answer| (answer, subscription)))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn list_feeds(&self, _: Request<ListFeedsRequest>) -> Result<Response<ListFeedsResponse>, Status> {
        let (database, log) = (Arc::clone(&self.database), self.database.log_id());
        // It reads files.
        let listed_feeds = tokio::task::spawn_blocking(move || database.named_feeds().list()).await;
        let feeds = listed_feeds.map_err(|error| failed(sqlstate::INTERNAL_ERROR, error.to_string()))?;
        let feeds = feeds.map_err(|error| status(&SqlError::from(error)))?;
        let feeds = feeds.into_iter().map(|feed| listed(feed, log)).collect();
        Ok(Response::new(ListFeedsResponse { feeds }))
    }

    async fn drop_feed(&self, request: Request<DropFeedRequest>) -> Result<Response<DropFeedResponse>, Status> {
        let dropped = self.database.named_feeds().drop_feed(&request.into_inner().name).await;
        let lsn: Lsn = dropped.map_err(|error| status(&SqlError::from(error)))?;
        Ok(Response::new(DropFeedResponse { commit_lsn: lsn.value() }))
    }
}

fn listed(feed: FeedStatus, log: LogId) -> WireStatus {
    let FeedStatus {
        schema, tables, made, acknowledged, is_owned, held_commits, held_bytes, held_since_micros, ..
    } = feed;
    let selections = tables.into_iter().zip(&schema.tables);
    WireStatus {
        name: schema.name.clone(),
        tables: selections
            .map(|(table, told)| TableSelection {
                table,
                r#where: told.filter.clone().unwrap_or_default(),
                columns: told.columns.clone().unwrap_or_default(),
            })
            .collect(),
        created_lsn: made.value(),
        acknowledged: acknowledged.map(|FeedPosition { lsn, position }| wire_cursor(Cursor { log, lsn, position })),
        is_owned,
        held_commits,
        held_bytes,
        held_since_micros,
    }
}

fn response(batch: Batch, told: Told) -> SubscribeResponse {
    let kind = match batch.kind {
        BatchKind::Schema => EventKind::Schema,
        BatchKind::Snapshot => EventKind::Snapshot,
        BatchKind::Changes => EventKind::Changes,
        BatchKind::Ready => EventKind::Ready,
        BatchKind::Progress => EventKind::Progress,
    };
    let (lines, arrow) = match told {
        Told::Lines(lines) => (lines, Vec::new()),
        Told::Arrow(changes) => (String::new(), changes.into_iter().map(arrow_changes).collect()),
    };
    let line_count = lines.bytes().filter(|byte| *byte == b'\n').count();
    SubscribeResponse {
        cursor: batch.cursor.map(wire_cursor),
        kind: kind.into(),
        lines: lines.into(),
        line_count: u32::try_from(line_count).unwrap_or(u32::MAX),
        ends_commit: batch.ends_commit,
        acknowledged: None,
        arrow,
    }
}

fn arrow_changes(changes: ArrowChanges) -> WireChanges {
    let ArrowChanges { table, stream, rows, is_dropped } = changes;
    WireChanges { table, stream, row_count: u32::try_from(rows).unwrap_or(u32::MAX), is_dropped }
}

fn acknowledged(cursor: Cursor) -> SubscribeResponse {
    SubscribeResponse {
        cursor: None,
        kind: EventKind::Acknowledged.into(),
        lines: bytes::Bytes::new(),
        line_count: 0,
        ends_commit: false,
        acknowledged: Some(wire_cursor(cursor)),
        arrow: Vec::new(),
    }
}

fn wire_cursor(cursor: Cursor) -> WireCursor {
    WireCursor { log_id: cursor.log.bytes().to_vec().into(), lsn: cursor.lsn.value(), position: cursor.position }
}

fn invalid(message: impl Into<Arc<str>>) -> Status {
    failed(sqlstate::INVALID_PARAMETER_VALUE, message)
}

const BATCH_BYTES_TARGET: usize = 64 * 1024;
