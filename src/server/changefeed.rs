//! gRPC's `Changefeed`: feeds with credit.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use highwater_changefeed::format::PlainLines;
use highwater_changefeed::{Batch, BatchKind, Cursor, Feed, FeedOptions, FeedStart};
use highwater_log::{LogId, Lsn};
use highwater_proto::v1::changefeed_server::Changefeed;
use highwater_proto::v1::subscribe_request::Request as Wanted;
use highwater_proto::v1::subscribe_start::From;
use highwater_proto::v1::{Cursor as WireCursor, EventKind, SubscribeRequest, SubscribeResponse, SubscribeStart};
use highwater_query::{SqlError, sqlstate};
use tokio::sync::watch;
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
    lines: PlainLines,
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
                        Some(Some(Wanted::CreditBytes(bytes))) => match &mut self.credit {
                            Some(credit) => *credit = credit.saturating_add_unsigned(bytes),
                            None => return Err(invalid("there is credit only where the start gives some")),
                        },
                        Some(_) => return Err(invalid("after the first message there is only credit")),
                    }
                }
                batch = self.feed.next(&mut self.lines, room.min(BATCH_BYTES_TARGET)), if has_credit => {
                    let batch = batch.map_err(|error| status(&SqlError::from(error)))?;
                    let text = self.lines.take();
                    if let Some(credit) = &mut self.credit {
                        *credit = credit.saturating_sub_unsigned(text.len() as u64);
                    }
                    return Ok(Some(response(batch, text)));
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
            lines: PlainLines::default(),
            credit: start.credit_bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
            requests,
            is_half_closed: false,
            stopping: self.stopping.clone(),
            _counted: self.health.subscription(),
        };
        // The work goes on while answers are asked for, and ends when they are dropped.
        let answers = futures::stream::try_unfold(subscription, |mut subscription| async {
            Ok(subscription.next().await?.map(|answer| (answer, subscription)))
        });
        Ok(Response::new(Box::pin(answers)))
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
