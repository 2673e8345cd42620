//! `/metrics`, `/live`, `/ready`, the retry of quarantined partitions, and the live page.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{Html, IntoResponse},
    routing::{get, post},
};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{connections, page::Page};
use crate::telemetry::health::Health;

/// How often histograms are folded into their buckets, so that memory doesn't grow if nothing scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

#[derive(Clone)]
struct AppState {
    metrics: PrometheusHandle,
    health: Health,
    stall: Duration,
}

/// Binds the listener and serves until `stop`, with the live page if `page` is given. `/live` fails if no work is done for
/// longer than `stall`. Returns the bound address and the server's task.
///
/// # Errors
/// The address can't be bound.
pub async fn serve(
    listen: SocketAddr,
    metrics: PrometheusHandle,
    health: Health,
    stall: Duration,
    page: Option<Page>,
    stop: CancellationToken,
) -> anyhow::Result<(SocketAddr, tokio::task::JoinHandle<()>)> {
    let listener = TcpListener::bind(listen).await.with_context(|| {
        format!("can't listen on {listen}: choose another http.listen, or stop the program that uses the port")
    })?;
    let bound = listener.local_addr()?;
    let upkeep = metrics.clone();
    let upkeep_stop = stop.clone();
    tokio::spawn(async move {
        while tokio::time::timeout(UPKEEP, upkeep_stop.cancelled()).await.is_err() {
            upkeep.run_upkeep();
        }
    });
    let page = match page {
        Some(page) => page.router(bound, stop.clone()),
        None => Router::new().route("/", get(home)),
    };
    let router = Router::new()
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/metrics", get(render))
        .route("/quarantine/retry", post(retry_quarantined))
        .with_state(AppState { metrics, health, stall })
        .merge(page);
    let task = tokio::spawn(connections::serve(listener, router, connections::WRITE_TIMEOUT, stop));
    Ok((bound, task))
}

async fn live(State(state): State<AppState>) -> impl IntoResponse {
    match state.health.stalled(state.stall) {
        None => (StatusCode::OK, "live\n".to_owned()),
        Some(since) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!(
                "stuck: records are in flight, but no work has been done or attempted for {} seconds\n",
                since.as_secs()
            ),
        ),
    }
}

async fn ready(State(state): State<AppState>) -> impl IntoResponse {
    let mut lines = state.health.faults();
    let status = if lines.is_empty() {
        lines.push("ready".to_owned());
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    // Neither another member nor a restart would help, so they don't make this member unready.
    let quarantined = state.health.quarantined().into_iter();
    lines.extend(quarantined.map(|partition| format!("quarantined: {partition}")));
    let notes = state.health.notes().into_iter();
    lines.extend(notes.map(|note| format!("note: {note}")));
    (status, lines.join("\n") + "\n")
}

/// Retries the quarantined partitions now. That does no more than an automatic retry, and is done at most once a second.
async fn retry_quarantined(State(state): State<AppState>, headers: HeaderMap) -> (StatusCode, String) {
    // A browser sends the origin of a POST, and no page of this service sends a POST.
    if headers.contains_key(header::ORIGIN) {
        let message = "refused: the request comes from a web page; use curl, for example\n";
        return (StatusCode::FORBIDDEN, message.to_owned());
    }
    let quarantined = state.health.quarantined();
    if quarantined.is_empty() {
        return (
            StatusCode::OK,
            "no partition of this member is quarantined\n".to_owned(),
        );
    }
    tracing::info!(
        partitions = quarantined.len(),
        "retrying quarantined partitions on request"
    );
    state.health.request_retry();
    let lines: Vec<String> = quarantined.iter().map(|line| format!("retrying: {line}\n")).collect();
    (StatusCode::ACCEPTED, lines.concat())
}

async fn render(State(state): State<AppState>) -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        state.metrics.render(),
    )
}

/// `/` if the live page is disabled.
async fn home() -> Html<&'static str> {
    Html(concat!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>moodstream</title><h1>moodstream ",
        env!("CARGO_PKG_VERSION"),
        "</h1><ul><li><a href=metrics>metrics</a><li><a href=ready>ready</a><li><a href=live>live</a></ul>"
    ))
}
