//! The demo's summary, read as users would: by SQL and from `/metrics`.

mod queries;
mod text;

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use moodstream::telemetry::metric;
use moodstream_demo::Intent;
use sqlx::{PgPool, Row};
use time::OffsetDateTime;

use self::{
    queries::{agreement, count, examples, hashtags, shares, tally, trend},
    text::one_line,
};
use super::{
    exposition, http,
    plot::{Screen, Trend, colour_of},
};

/// The outcomes of all records, as the service counted them.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    records: u64,
    inserted: u64,
    duplicates: u64,
    deletions: u64,
    filtered: u64,
    late: u64,
    rejected: u64,
    removed: u64,
}

/// Emotions with their most frequent hashtags.
type Hashtags = Vec<(String, Vec<(String, u64)>)>;

struct Example {
    emotion: String,
    score: f64,
    lang: String,
    text: String,
}

/// By language: how many posts got the emotion that they were written to express, and how many posts there are.
type Agreement = BTreeMap<&'static str, (u64, u64)>;

/// The contents of the summary.
pub(super) struct Report {
    trend: Trend,
    tally: Tally,
    rows: u64,
    rejects: BTreeMap<String, u64>,
    dead_letters: u64,
    hashtags: Hashtags,
    examples: Vec<Example>,
    sources: Vec<(String, u64)>,
    languages: Vec<(String, u64)>,
    agreement: Agreement,
    model: String,
}

/// Times that the demo measured.
pub(super) struct Timing {
    /// From the start of the demo to the first committed posts.
    pub(super) first_results: Duration,
    /// From the service's readiness to the last record of the sample.
    pub(super) catch_up: Duration,
}

pub(super) async fn gather(
    pool: &PgPool,
    address: SocketAddr,
    since: OffsetDateTime,
    intents: &[Intent],
) -> Result<Report> {
    let metrics = http::get(address, "/metrics").await?;
    let trend = trend(pool, since).await.context("emotion_by_minute can't be read")?;
    let each = if trend.series.len() > 4 { 1 } else { 2 };
    Ok(Report {
        trend,
        tally: tally(pool).await.context("consumer_tally can't be read")?,
        rows: count(
            sqlx::query("SELECT count(*) FROM post")
                .fetch_one(pool)
                .await?
                .try_get(0)?,
        ),
        rejects: exposition::by_label(&metrics, metric::REJECTS, "reason")
            .into_iter()
            .filter(|(_, records)| *records > 0.0)
            .map(|(reason, records)| (reason, records as u64))
            .collect(),
        dead_letters: exposition::total(&metrics, metric::DEAD_LETTERS) as u64,
        hashtags: hashtags(pool).await.context("hashtags can't be read")?,
        examples: examples(pool, each).await.context("examples can't be read")?,
        sources: shares(pool, "SELECT source, count(*) FROM post GROUP BY 1 ORDER BY 2 DESC").await?,
        languages: shares(
            pool,
            "SELECT lang, count(*) FROM post GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 8",
        )
        .await?,
        agreement: agreement(pool, intents)
            .await
            .context("emotions by text can't be read")?,
        model: sqlx::query("SELECT model_id FROM post LIMIT 1")
            .fetch_optional(pool)
            .await?
            .map_or(Ok(String::new()), |row| row.try_get(0))?,
    })
}

/// Returns the newest post as one line.
pub(super) async fn newest(pool: &PgPool, screen: Screen) -> Result<String> {
    let row = sqlx::query(
        "SELECT emotion, score, text FROM post WHERE created_at > now() - interval '10 minutes' ORDER BY created_at DESC LIMIT 1",
    )
    .fetch_optional(pool)
    .await?;
    let Some(row) = row else { return Ok(String::new()) };
    let (emotion, score, text): (String, f64, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    Ok(format!(
        "{} {score:.2}  {}",
        screen.paint(colour_of(&emotion), &emotion),
        one_line(&text)
    ))
}
