//! gRPC's `Changefeed`: feeds with credit.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, Stream, StreamExt};
use highwater_changefeed::format::PlainLines;
use highwater_changefeed::{Batch, BatchKind, Cursor, Feed, FeedOptions, FeedStart};
use highwater_log::{LogId, Lsn};
use highwater_proto::v1::changefeed_server::Changefeed;
use highwater_proto::v1::subscribe_request::Request as Wanted;
use highwater_proto::v1::subscribe_start::From;
use highwater_proto::v1::{Cursor as WireCursor, EventKind, SubscribeRequest, SubscribeResponse, SubscribeStart};
use highwater_query::{SqlError, sqlstate};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::error::{failed, status};
use super::health::{Health, Subscribed};
use crate::Database;

pub(super) struct ChangefeedService {
    database: Arc<Database>,
    health: Arc<Health>,
    stopping: watch::Receiver<bool>,
}

impl ChangefeedService {
    pub(super) const fn new(database: Arc<Database>, health: Arc<Health>, stopping: watch::Receiver<bool>) -> Self {
        Self { database, health, stopping }
    }
}

/// One subscription.
struct Subscription {
    feed: Feed,
    /// Bytes that may still be sent; `None`: the transport alone bounds it. Below zero when a batch was larger.
    credit: Option<i64>,
    requests: Streaming<SubscribeRequest>,
    stopping: watch::Receiver<bool>,
    _counted: Subscribed,
}

impl Subscription {
    /// Sends batch after batch, until something ends it.
    async fn run(self, answers: mpsc::Sender<SubscribeResponse>) -> Result<(), Status> {
        let Self { mut feed, mut credit, mut requests, mut stopping, _counted } = self;
        let mut lines = PlainLines::default();
        let mut is_half_closed = false;
        loop {
            let has_credit = credit.is_none_or(|credit| credit > 0);
            if !has_credit && is_half_closed {
                return Ok(());
            }
            let room = credit.map_or(BATCH_BYTES_TARGET, |credit| usize::try_from(credit).unwrap_or(0));
            tokio::select! {
                biased;
                () = stopped(&mut stopping) => {
                    return Err(failed(sqlstate::CANNOT_CONNECT_NOW, "the server is stopping"));
                }
                request = requests.message(), if !is_half_closed => match request?.map(|message| message.request) {
                    // The client has said all that it will.
                    None => is_half_closed = true,
                    Some(Some(Wanted::CreditBytes(bytes))) => match &mut credit {
                        Some(credit) => *credit = credit.saturating_add_unsigned(bytes),
                        None => return Err(invalid("there is credit only where the start gives some")),
                    },
                    Some(_) => return Err(invalid("after the first message there is only credit")),
                },
                batch = feed.next(&mut lines, room.min(BATCH_BYTES_TARGET)), if has_credit => {
                    let batch = batch.map_err(|error| status(&SqlError::from(error)))?;
                    let text = lines.take();
                    if let Some(credit) = &mut credit {
                        *credit = credit.saturating_sub_unsigned(text.len() as u64);
                    }
                    // Nobody to answer: the call's end drops this future.
                    let _ = answers.send(response(batch, text)).await;
                }
            }
        }
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
        let first = tokio::select! {
            biased;
            () = stopped(&mut stopping) => {
                return Err(failed(sqlstate::CANNOT_CONNECT_NOW, "the server is stopping"));
            }
            first = requests.message() => first?,
        };
        let start = match first.and_then(|first| first.request) {
            Some(Wanted::Start(start)) => start,
            _ => return Err(invalid("the first message says where to start")),
        };
        let options = match start.progress_ms {
            Some(ms) => FeedOptions { progress_after: Duration::from_millis(ms) },
            None => FeedOptions::default(),
        };
        let tables: Vec<&str> = start.tables.iter().map(String::as_str).collect();
        let feed = self.database.subscribe(&tables, beginning(&start)?, options);
        let subscription = Subscription {
            feed: feed.map_err(|error| status(&SqlError::from(error)))?,
            credit: start.credit_bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
            requests,
            stopping: self.stopping.clone(),
            _counted: self.health.subscription(),
        };
        let (sender, receiver) = mpsc::channel(1);
        // The work goes on while answers are asked for, and ends when they are dropped.
        let ended = subscription.run(sender).into_stream();
        let ended = ended.filter_map(|outcome| futures::future::ready(outcome.err().map(Err)));
        Ok(Response::new(Box::pin(futures::stream::select(ReceiverStream::new(receiver).map(Ok), ended))))
    }
}

fn beginning(start: &SubscribeStart) -> Result<FeedStart, Status> {
    Ok(match &start.from {
        None | Some(From::Snapshot(_)) => FeedStart::Snapshot,
        Some(From::Now(_)) => FeedStart::Now,
        Some(From::AfterLsn(lsn)) => FeedStart::After(Lsn::new(*lsn)),
        Some(From::After(cursor)) => {
            let log = cursor.log_id[..].try_into().map_err(|_| invalid("a log id is 16 bytes"))?;
            let (log, lsn) = (LogId::from_bytes(log), Lsn::new(cursor.lsn));
            FeedStart::Cursor(Cursor { log, lsn, position: cursor.position })
        }
    })
}

fn response(batch: Batch, lines: String) -> SubscribeResponse {
    let kind = match batch.kind {
        BatchKind::Schema => EventKind::Schema,
        BatchKind::Snapshot => EventKind::Snapshot,
        BatchKind::Changes => EventKind::Changes,
        BatchKind::Ready => EventKind::Ready,
        BatchKind::Progress => EventKind::Progress,
    };
    let cursor = batch.cursor.map(|cursor| WireCursor {
        log_id: cursor.log.bytes().to_vec().into(),
        lsn: cursor.lsn.value(),
        position: cursor.position,
    });
    SubscribeResponse {
        cursor,
        kind: kind.into(),
        lines: lines.into(),
        line_count: batch.count,
        ends_commit: batch.ends_commit,
    }
}

fn invalid(message: &'static str) -> Status {
    failed(sqlstate::INVALID_PARAMETER_VALUE, message)
}

const BATCH_BYTES_TARGET: usize = 64 * 1024;
