//! Merges the rollup rows of closed days that differ only in their shard.
//!
//! While a day is written, each partition of the topic has its own rows, so that consumers don't wait for each other. Once
//! the day is closed, the shards only make reads slower, and shards of partitions that a topic no longer has would stay
//! forever. Scores are multiples of 2^-20, so the sums are the same in any order: at every moment the sum over the shards
//! equals a recount.
//!
//! Each flush records its days in `rollup_unmerged`, which is free where they are recorded already. To merge a day, its
//! row there is replaced by a claim, under a lock that waits for the flushes that may have relied on the row. Merging then
//! sees what they wrote, and later flushes record the day again.

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use time::{Date, Duration, OffsetDateTime};

use super::{
    Store,
    error::StoreError,
    partition::{day_of, next_day},
    retention::try_lock_maintenance,
    rollup::{MERGED, Resolution},
};

const DOING: &str = "merging shards";

/// How long after its first change a closed day is merged: by then a backfill should be done with it.
const MERGE_DELAY: Duration = Duration::hours(1);

/// Maximum number of days merged in one round; the next round continues.
const DAYS_AT_ONCE: i64 = 64;

impl Store {
    /// Merges the shards of the days before yesterday (UTC) whose first change was at least an hour ago. Returns how many
    /// rows were merged into others. Several consumers may call it at once: one of them does the work.
    pub async fn merge_shards(&self, now: OffsetDateTime) -> Result<u64, StoreError> {
        let claimed = self.run(DOING, async |connection| claim(connection, now).await).await?;
        let mut rows = 0;
        for (day, since) in claimed {
            for (resolution, from, until) in pieces(day) {
                let merged = self
                    .run(DOING, async |connection| {
                        merge(connection, resolution, from, until).await
                    })
                    .await?;
                let Some(merged) = merged else {
                    return Ok(rows);
                };
                rows += merged;
            }
            self.run(DOING, async |connection| mark_merged(connection, day, since).await)
                .await?;
        }
        Ok(rows)
    }
}

/// Claims the days that are due. Returns the claimed days, including those that another member left behind, each with the
/// time of its claim.
async fn claim(connection: &mut PgConnection, now: OffsetDateTime) -> Result<Vec<(Date, OffsetDateTime)>, sqlx::Error> {
    let closed_before = day_of(now - Duration::days(1));
    let due: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM rollup_unmerged WHERE NOT claimed AND day < $1 AND since < $2)")
            .bind(closed_before)
            .bind(now - MERGE_DELAY)
            .fetch_one(&mut *connection)
            .await?;
    if due {
        let mut tx = connection.begin().await?;
        if !try_lock_maintenance(&mut tx).await? {
            return Ok(Vec::new());
        }
        // Waits for the flushes that have recorded their days. Others then queue behind it, so only for a moment.
        sqlx::raw_sql("SET LOCAL lock_timeout = '500ms'; LOCK TABLE rollup_unmerged IN SHARE ROW EXCLUSIVE MODE")
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "WITH due AS (DELETE FROM rollup_unmerged WHERE NOT claimed AND day < $1 AND since < $2 RETURNING day)
             INSERT INTO rollup_unmerged (day, claimed) SELECT day, true FROM due
             ON CONFLICT (day, claimed) DO UPDATE SET since = excluded.since",
        )
        .bind(closed_before)
        .bind(now - MERGE_DELAY)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
    }
    sqlx::query_as("SELECT day, since FROM rollup_unmerged WHERE claimed ORDER BY day LIMIT $1")
        .bind(DAYS_AT_ONCE)
        .fetch_all(connection)
        .await
}

/// The ranges to merge, one transaction each: ten minutes, an hour, or the day. So each stays within the statement timeout
/// even if a busy stream has many partitions.
fn pieces(day: Date) -> Vec<(Resolution, OffsetDateTime, OffsetDateTime)> {
    let (from, until) = (day.midnight().assume_utc(), next_day(day).midnight().assume_utc());
    let mut pieces = Vec::new();
    for (resolution, length) in [
        (Resolution::Minute, Duration::minutes(10)),
        (Resolution::Hour, Duration::hours(1)),
        (Resolution::Day, Duration::days(1)),
    ] {
        let mut at = from;
        while at < until {
            pieces.push((resolution, at, at + length));
            at += length;
        }
    }
    pieces
}

/// Merges the buckets from `from` up to `until`; `None` while another member is merging. Rows locked by a flush are skipped:
/// that flush has recorded the day.
///
/// It can't deadlock with a flush: it waits only for merged rows, in lock order, and a flush that holds one has already
/// finished with the shards' rows of all rollups (see [`super::rollup_rows`]).
async fn merge(
    connection: &mut PgConnection,
    resolution: Resolution,
    from: OffsetDateTime,
    until: OffsetDateTime,
) -> Result<Option<u64>, sqlx::Error> {
    let mut tx = connection.begin().await?;
    if !try_lock_maintenance(&mut tx).await? {
        return Ok(None);
    }
    let table = resolution.partitioned().table;
    let (from, until) = (moment_literal(from), moment_literal(until));
    let sql = format!(
        "WITH crowded AS MATERIALIZED (
             SELECT bucket, subject, lang, source, emotion, model_id FROM {table}
             WHERE bucket >= {from} AND bucket < {until}
             GROUP BY 1, 2, 3, 4, 5, 6 HAVING count(*) > 1),
         taken AS MATERIALIZED (
             SELECT r.bucket, r.subject, r.lang, r.source, r.emotion, r.model_id, r.shard
             FROM crowded c JOIN {table} r ON r.bucket = c.bucket AND r.subject = c.subject AND r.lang = c.lang
                  AND r.source = c.source AND r.emotion = c.emotion AND r.model_id = c.model_id
             WHERE r.shard <> {MERGED} AND r.bucket >= {from} AND r.bucket < {until}
             FOR UPDATE OF r SKIP LOCKED),
         gone AS (
             DELETE FROM {table} r USING taken t
             WHERE r.bucket = t.bucket AND r.subject = t.subject AND r.lang = t.lang AND r.source = t.source
               AND r.emotion = t.emotion AND r.model_id = t.model_id AND r.shard = t.shard
               AND r.bucket >= {from} AND r.bucket < {until}
             RETURNING r.*),
         merged AS (
             INSERT INTO {table} AS r (bucket, subject, lang, source, emotion, model_id, shard,
                                       posts, score_sum, reposts, repost_score_sum)
             SELECT bucket, subject, lang, source, emotion, model_id, {MERGED},
                    sum(posts)::bigint, sum(score_sum), sum(reposts)::bigint, sum(repost_score_sum)
             FROM gone GROUP BY 1, 2, 3, 4, 5, 6
             ORDER BY bucket, subject COLLATE \"C\", lang COLLATE \"C\", source COLLATE \"C\", emotion COLLATE \"C\",
                      model_id COLLATE \"C\"
             ON CONFLICT (bucket, subject, lang, source, emotion, model_id, shard)
             DO UPDATE SET posts = r.posts + excluded.posts, score_sum = r.score_sum + excluded.score_sum,
                           reposts = r.reposts + excluded.reposts,
                           repost_score_sum = r.repost_score_sum + excluded.repost_score_sum)
         SELECT count(*) FROM gone"
    );
    let merged: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
        .persistent(false)
        .fetch_one(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(Some(u64::try_from(merged).unwrap_or(0)))
}

/// Records that the day is merged, unless it was claimed again since.
async fn mark_merged(connection: &mut PgConnection, day: Date, since: OffsetDateTime) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM rollup_unmerged WHERE claimed AND day = $1 AND since = $2")
        .bind(day)
        .bind(since)
        .execute(connection)
        .await
        .map(drop)
}

/// A whole minute (UTC) as an SQL literal: with a constant in the statement's text, the planner prunes all other partitions,
/// so that they are not locked.
fn moment_literal(at: OffsetDateTime) -> String {
    let day = day_of(at);
    format!(
        "'{:04}-{:02}-{:02} {:02}:{:02}:00+00'",
        day.year(),
        u8::from(day.month()),
        day.day(),
        at.hour(),
        at.minute()
    )
}
