//! Calls that are answered by a stream: the work, and what it has answered.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::{FutureExt, Stream};
use highwater_proto::v1::ExecuteResponse;
use highwater_query::{Interrupt, SqlError, sqlstate};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Where a call's work puts its answers. It waits until there is room, and ends when nobody takes them any more.
pub(super) type Answers = mpsc::Sender<ExecuteResponse>;

/// The answers to a request, and its error at their end. The work ends when this is dropped.
pub(super) struct Call {
    answers: mpsc::Receiver<ExecuteResponse>,
    work: Work,
    interrupt: Interrupt,
}

enum Work {
    /// By a task, on the threads of statements.
    Elsewhere(JoinHandle<Result<(), SqlError>>),
    /// By whoever asks for the answers.
    Here(Pin<Box<dyn Future<Output = Result<(), SqlError>> + Send>>),
    /// And how it ended, if it failed.
    Done(Option<SqlError>),
}

impl Call {
    /// Work that may take long. It waits until the answer before is read.
    pub(super) fn elsewhere<F>(threads: &Handle, work: impl FnOnce(Interrupt, Answers) -> F) -> Self
    where
        F: Future<Output = Result<(), SqlError>> + Send + 'static,
    {
        Self::begin(1, work, |work| Work::Elsewhere(threads.spawn(work)))
    }

    /// Work that takes no longer than it takes to hand it to another thread.
    pub(super) fn here<F>(work: impl FnOnce(Interrupt, Answers) -> F) -> Self
    where
        F: Future<Output = Result<(), SqlError>> + Send + 'static,
    {
        Self::begin(ANSWERS_OF_SHORT_WORK, work, |work| {
            // As a task's would, a panic ends the call alone.
            let work = AssertUnwindSafe(work).catch_unwind();
            Work::Here(Box::pin(work.map(|outcome| outcome.unwrap_or_else(|_| Err(given_up("it panicked"))))))
        })
    }

    fn begin<F>(room: usize, work: impl FnOnce(Interrupt, Answers) -> F, how: impl FnOnce(F) -> Work) -> Self {
        let (sender, answers) = mpsc::channel(room);
        let interrupt = Interrupt::default();
        Self { answers, work: how(work(interrupt.clone(), sender)), interrupt }
    }

    /// Whether whoever asks for the answers does the work.
    pub(super) const fn is_here(&self) -> bool {
        matches!(self.work, Work::Here(_))
    }
}

impl Stream for Call {
    type Item = Result<ExecuteResponse, SqlError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            // What was answered comes before how it ended.
            let is_over = match self.answers.poll_recv(context) {
                Poll::Ready(Some(answer)) => return Poll::Ready(Some(Ok(answer))),
                Poll::Ready(None) => true,
                // Also where a task has done so much that it is to give way, whatever waits.
                Poll::Pending => false,
            };
            let outcome = match &mut self.work {
                Work::Done(error) if is_over => return Poll::Ready(error.take().map(Err)),
                Work::Done(_) => return Poll::Pending,
                Work::Here(work) => work.as_mut().poll(context),
                Work::Elsewhere(task) => Pin::new(task)
                    .poll(context)
                    .map(|outcome| outcome.unwrap_or_else(|error| Err(given_up(&error.to_string())))),
            };
            match outcome {
                Poll::Ready(outcome) => self.work = Work::Done(outcome.err()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // A task ends where it gives way, a query that computes where it looks.
        self.interrupt.raise();
        if let Work::Elsewhere(task) = &self.work {
            task.abort();
        }
    }
}

fn given_up(why: &str) -> SqlError {
    SqlError::new(sqlstate::INTERNAL_ERROR, format!("the statement was given up: {why}"))
}

/// A header, a row, and the completion.
const ANSWERS_OF_SHORT_WORK: usize = 3;
