//! HTTP: whether the process lives, whether it is ready, what it is, and how it does in numbers.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use tokio::net::TcpListener;

use super::health::{Health, Phase};
use super::metrics;

/// Answers until the task is ended.
pub(super) async fn serve(listener: TcpListener, health: Arc<Health>) -> std::io::Result<()> {
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/info", get(info))
        .route("/metrics", get(metrics))
        .with_state(health);
    axum::serve(listener, router).await
}

/// 200 once every materializer has applied the durable LSN found at opening, also while nothing can be written.
async fn readyz(State(health): State<Arc<Health>>) -> Response {
    let facts = health.facts();
    let is_ready = health.phase() == Phase::Serving && facts.is_some();
    let replay = health
        .replay()
        .map(|progress| json!({ "applied_lsn": progress.applied.value(), "durable_lsn": progress.durable.value() }));
    let body = json!({
        "ready": is_ready,
        "phase": match health.phase() {
            Phase::Opening => "opening",
            Phase::Serving => "serving",
            Phase::Stopping => "stopping",
        },
        "writable": facts.as_ref().is_some_and(|facts| facts.not_writable.is_none()),
        "visible_lsn": facts.map(|facts| facts.visible.value()),
        "replay": replay,
    });
    let code = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(body)).into_response()
}

/// One page at a time: a page of many feeds reads many places of the log.
async fn metrics(State(health): State<Arc<Health>>) -> Response {
    let turn = health.metrics_turn().await;
    let render = move || {
        // It ends with the page, also when nobody waits for that any more.
        let _turn = turn;
        metrics::render(&health)
    };
    match tokio::task::spawn_blocking(render).await {
        Ok(Ok(page)) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], page).into_response(),
        _ => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn info(State(health): State<Arc<Health>>) -> Response {
    let facts = health.facts();
    let facts = facts.as_ref();
    let body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": health.uptime().as_secs(),
        "grpc": health.addresses.grpc.to_string(),
        "http": health.addresses.http.to_string(),
        "log_id": facts.map(|facts| facts.log_id.to_string()),
        "visible_lsn": facts.map(|facts| facts.visible.value()),
        "durable_lsn": facts.map(|facts| facts.durable.value()),
        "writable": facts.is_some_and(|facts| facts.not_writable.is_none()),
        "not_writable_reason": facts.and_then(|facts| facts.not_writable.as_deref()),
        "log_damages": facts.map(|facts| &facts.damages),
        "sessions": facts.map(|facts| facts.sessions),
        "subscriptions": facts.map(|facts| facts.subscriptions),
    });
    Json(body).into_response()
}
