//! gRPC's `Operations`: what state the database is in, and backups of it.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use highwater_log::{BackupPiece, BackupReader, LogError};
use highwater_materializers::FoldError;
use highwater_proto::v1::backup_response::Piece;
use highwater_proto::v1::operations_server::Operations;
use highwater_proto::v1::{BackupFile, BackupRequest, BackupResponse, BackupStart, StatusRequest, StatusResponse};
use highwater_query::{SqlError, sqlstate};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tonic::{Request, Response, Status};

use super::error::{failed, status};
use super::health::Health;
use crate::Database;

pub(super) struct OperationsService {
    database: Arc<Database>,
    health: Arc<Health>,
    stopping: watch::Receiver<bool>,
    backups: Arc<Semaphore>,
}

impl OperationsService {
    pub(super) fn new(database: Arc<Database>, health: Arc<Health>, stopping: watch::Receiver<bool>) -> Self {
        Self { database, health, stopping, backups: Arc::new(Semaphore::new(BACKUPS_MAX)) }
    }
}

#[tonic::async_trait]
impl Operations for OperationsService {
    type BackupStream = Pin<Box<dyn Stream<Item = Result<BackupResponse, Status>> + Send>>;

    async fn backup(&self, _: Request<BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        let room = Arc::clone(&self.backups).try_acquire_owned();
        let room = room.map_err(|_| failed(sqlstate::TOO_MANY_CONNECTIONS, "too many backups are being made"))?;
        let database = Arc::clone(&self.database);
        let begun = tokio::task::spawn_blocking(move || database.read_backup()).await.map_err(ended)?;
        let reader = begun.map_err(of_log)?;
        let header = reader.header();
        let start = BackupStart {
            log_id: header.log.bytes().to_vec().into(),
            lsn: header.lsn.value(),
            byte_count: header.bytes,
        };
        let start = futures::stream::iter([Ok(BackupResponse { piece: Some(Piece::Start(start)) })]);
        Ok(Response::new(start.chain(pieces(reader, self.stopping.clone(), room)).boxed()))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let facts = self.health.facts();
        let facts = facts.ok_or_else(|| failed(sqlstate::CANNOT_CONNECT_NOW, "the server is stopping"))?;
        Ok(Response::new(StatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            log_id: facts.log_id.bytes().to_vec().into(),
            visible_lsn: facts.visible.value(),
            durable_lsn: facts.durable.value(),
            is_writable: facts.not_writable.is_none(),
            not_writable_reason: facts.not_writable.map(|reason| reason.to_string()).unwrap_or_default(),
            log_damages: facts.damages,
            session_count: facts.sessions,
            subscription_count: facts.subscriptions,
        }))
    }
}

/// The pieces of a backup, each read when the one before it is on its way.
fn pieces(
    reader: BackupReader,
    stopping: watch::Receiver<bool>,
    room: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<BackupResponse, Status>> + Send {
    futures::stream::try_unfold((reader, stopping, room), async |(mut reader, stopping, room)| {
        if *stopping.borrow() {
            return Err(failed(sqlstate::CANNOT_CONNECT_NOW, "the server is stopping"));
        }
        let read = tokio::task::spawn_blocking(move || (reader.try_next(), reader));
        let (piece, reader) = read.await.map_err(ended)?;
        let piece = piece.map_err(of_log)?.map(|piece| match piece {
            BackupPiece::File { name, bytes } => Piece::File(BackupFile { name, byte_count: bytes }),
            BackupPiece::Bytes(bytes) => Piece::Content(bytes),
        });
        Ok(piece.map(|piece| (BackupResponse { piece: Some(piece) }, (reader, stopping, room))))
    })
}

fn of_log(error: LogError) -> Status {
    status(&SqlError::from(FoldError::from(error)))
}

#[expect(clippy::needless_pass_by_value, reason = "as `map_err` hands it over")]
fn ended(error: tokio::task::JoinError) -> Status {
    failed(sqlstate::INTERNAL_ERROR, error.to_string())
}

/// Each costs the disk its bandwidth.
const BACKUPS_MAX: usize = 4;
