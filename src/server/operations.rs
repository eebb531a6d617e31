//! gRPC's `Operations`: what state the database is in.

use std::sync::Arc;

use highwater_proto::v1::operations_server::Operations;
use highwater_proto::v1::{StatusRequest, StatusResponse};
use highwater_query::sqlstate;
use tonic::{Request, Response, Status};

use super::error::failed;
use super::health::Health;

pub(super) struct OperationsService {
    health: Arc<Health>,
}

impl OperationsService {
    pub(super) const fn new(health: Arc<Health>) -> Self {
        Self { health }
    }
}

#[tonic::async_trait]
impl Operations for OperationsService {
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
