//! Request after request in one call.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{Stream, StreamExt};
use highwater_proto::v1::execute_response::Answer;
use highwater_proto::v1::{ExecuteRequest, ExecuteResponse, Failure, RequestEnd};
use highwater_query::{SqlError, sqlstate};
use tokio::sync::watch;
use tonic::{Status, Streaming};

use super::call::Call;
use super::error::failed;
use super::sessions::Kept;
use super::sql::SqlService;

/// The answers to the requests of a call. The next request is taken when all answers to the one before are.
pub(super) struct Pipeline {
    service: SqlService,
    requests: Streaming<ExecuteRequest>,
    /// The request that is being done. Before the session: it holds it.
    call: Option<Call>,
    session: Kept,
    stopped: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// The call ends with an error, which was told.
    is_over: bool,
}

impl Pipeline {
    pub(super) fn new(
        service: SqlService,
        session: Kept,
        requests: Streaming<ExecuteRequest>,
        mut stopping: watch::Receiver<bool>,
    ) -> Self {
        let stopped = Box::pin(async move {
            // Also when the sender is gone.
            let _ = stopping.wait_for(|is_stopping| *is_stopping).await;
        });
        Self { service, requests, call: None, session, stopped, is_over: false }
    }
}

impl Stream for Pipeline {
    type Item = Result<ExecuteResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(call) = &mut this.call {
                let failure = match ready!(call.poll_next_unpin(context)) {
                    Some(Ok(answer)) => return Poll::Ready(Some(Ok(answer))),
                    Some(Err(error)) => Some(failure(error)),
                    None => None,
                };
                this.call = None;
                let answer = Some(Answer::End(RequestEnd { failure }));
                return Poll::Ready(Some(Ok(ExecuteResponse { answer })));
            }
            if this.is_over {
                return Poll::Ready(None);
            }
            // Before the next request, of which there may be one for ever.
            let error = if this.stopped.as_mut().poll(context).is_ready() {
                failed(sqlstate::CANNOT_CONNECT_NOW, "the server is stopping")
            } else {
                match ready!(this.requests.poll_next_unpin(context)) {
                    None => return Poll::Ready(None),
                    Some(Ok(request)) => {
                        this.call = Some(this.service.begin_call(request, Some(&this.session)));
                        continue;
                    }
                    Some(Err(error)) => error,
                }
            };
            this.is_over = true;
            return Poll::Ready(Some(Err(error)));
        }
    }
}

fn failure(error: SqlError) -> Failure {
    let SqlError { sqlstate, message, committed_at, .. } = error;
    let committed_at = committed_at.map(|lsn| lsn.value());
    Failure { sqlstate: sqlstate.to_owned(), message: message.to_string(), committed_at }
}
