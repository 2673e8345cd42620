//! What the live page shows of the tables: the last minutes by emotion, the tracked subjects, the newest posts, and the
//! counts of records by outcome. It is read over a separate read-only connection, not the pipeline's pool.

use std::time::Duration;

use sqlx::{Connection as _, PgConnection, Row as _, postgres::PgRow};
use time::OffsetDateTime;

use super::{StoreError, StoreErrorKind, StoreOptions};

/// Maximum number of rows of tracked subjects (a subject and an emotion) that are read.
const MAX_SUBJECT_ROWS: i64 = 4_000;
/// Maximum length of a post's text, in characters; longer texts are truncated.
const MAX_TEXT_CHARS: i32 = 600;
/// Short, because the page repeats the query soon.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// What to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LivePageQuery {
    /// The consumer group whose records are counted.
    pub group: String,
    /// Number of minutes, including the current one.
    pub minutes: u16,
    /// Number of newest posts; 0 reads none.
    pub posts: u16,
}

/// Number of posts with an emotion in a minute.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct MinuteCount {
    /// Start of the minute.
    pub bucket: OffsetDateTime,
    /// The emotion.
    pub emotion: String,
    /// Number of posts.
    pub posts: i64,
    /// Sum of their scores.
    pub score_sum: f64,
}

/// Number of posts with an emotion in a tracked subject, over all the minutes.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct SubjectCount {
    /// The subject's name.
    pub subject: String,
    /// The emotion.
    pub emotion: String,
    /// Number of posts.
    pub posts: i64,
}

/// One of the newest posts.
#[derive(Debug, Clone, PartialEq, serde::Serialize, sqlx::FromRow)]
pub struct RecentPost {
    /// Event time, serialized as seconds since 1970.
    #[serde(rename = "at", with = "time::serde::timestamp")]
    pub created_at: OffsetDateTime,
    /// Where it was published.
    pub source: String,
    /// BCP 47 language; `und` where unknown.
    pub lang: String,
    /// The emotion that the model predicted.
    pub emotion: String,
    /// Its score, 0 to 1.
    pub score: f64,
    /// The text as its author wrote it, truncated to 600 characters. Untrusted.
    pub text: String,
    /// Whether it is a repost.
    pub repost: bool,
    /// Tracked subjects that it touches.
    pub subjects: Vec<String>,
}

/// Counts of the group's records by outcome, over all partitions: see the columns of `consumer_tally`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, sqlx::FromRow)]
#[allow(missing_docs)]
pub struct GroupTally {
    pub records: i64,
    pub inserted: i64,
    pub duplicates: i64,
    pub deletions: i64,
    pub filtered: i64,
    pub late: i64,
    pub rejected: i64,
    pub removed: i64,
}

/// What was read, all from one snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct LivePageData {
    /// The database's clock at the snapshot.
    pub now: OffsetDateTime,
    /// Start of the first minute.
    pub start: OffsetDateTime,
    /// End of the last minute: that of the current minute, or, if there are no posts in the minutes up to now, of the
    /// newest minute that has posts.
    pub end: OffsetDateTime,
    /// Counts by minute and emotion; combinations that are not listed have no posts.
    pub minutes: Vec<MinuteCount>,
    /// Counts by tracked subject and emotion.
    pub subjects: Vec<SubjectCount>,
    /// Newest first; `None` if none were requested.
    pub posts: Option<Vec<RecentPost>>,
    /// The group's counts.
    pub tally: GroupTally,
}

/// Reads [`LivePageData`]s over one read-only connection, which is opened when it is needed.
#[derive(Debug)]
pub struct LivePageReader {
    options: StoreOptions,
    connection: Option<PgConnection>,
}

impl LivePageReader {
    /// A reader that has not connected yet.
    #[must_use]
    pub fn new(options: &StoreOptions) -> Self {
        Self {
            options: options.clone(),
            connection: None,
        }
    }

    /// Reads it in one snapshot of the database. After an error the next call reconnects.
    ///
    /// # Errors
    /// The database is unreachable, too slow or denies access, or its schema does not exist yet.
    pub async fn read(&mut self, query: &LivePageQuery) -> Result<LivePageData, StoreError> {
        // Taken out, so that a connection is not reused after an error or after this future was dropped midway.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let reading = read(&mut connection, query);
        // Normally the server's own timeout applies; this one is for a server that does not answer at all.
        let data = tokio::time::timeout(STATEMENT_TIMEOUT * 2, reading)
            .await
            .map_err(|_| StoreError::new(StoreErrorKind::Unreachable, READING, "no answer in time"))?
            .map_err(StoreError::when(READING))?;
        self.connection = Some(connection);
        Ok(data)
    }

    /// Closes the connection, if there is one.
    pub async fn disconnect(&mut self) {
        if let Some(connection) = self.connection.take() {
            // If this times out, dropping the connection closes it.
            let _ = tokio::time::timeout(Duration::from_secs(1), connection.close()).await;
        }
    }

    async fn connect(&self) -> Result<PgConnection, StoreError> {
        let options = self.options.connect_options()?.application_name("moodstream-page");
        let session = format!(
            "SET statement_timeout = '{}s'; SET lock_timeout = '1s'; SET idle_in_transaction_session_timeout = '10s';
             SET default_transaction_read_only = on; SET timezone = 'UTC'; SET client_min_messages = warning;
             -- No parallel workers: the pipeline needs the CPUs. Custom plans: they prune partitions.
             SET max_parallel_workers_per_gather = 0; SET jit = off; SET plan_cache_mode = force_custom_plan",
            STATEMENT_TIMEOUT.as_secs()
        );
        let connecting = async {
            let mut connection = PgConnection::connect_with(&options).await?;
            sqlx::raw_sql(sqlx::AssertSqlSafe(session))
                .execute(&mut connection)
                .await?;
            Ok(connection)
        };
        match tokio::time::timeout(self.options.connect_timeout(), connecting).await {
            Ok(connected) => connected.map_err(StoreError::when("connecting")),
            Err(_) => Err(StoreError::sql("connecting", &sqlx::Error::PoolTimedOut)),
        }
    }
}

const READING: &str = "reading recent counts and posts";

async fn read(connection: &mut PgConnection, query: &LivePageQuery) -> Result<LivePageData, sqlx::Error> {
    let mut snapshot = connection
        .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .await?;
    let span = time::Duration::minutes(i64::from(query.minutes.max(1)));
    let row: PgRow = sqlx::query("SELECT now() AS now, date_trunc('minute', now()) + interval '1 minute' AS coming")
        .fetch_one(&mut *snapshot)
        .await?;
    let now: OffsetDateTime = row.try_get("now")?;
    let mut end: OffsetDateTime = row.try_get("coming")?;
    let mut minutes = read_minutes(&mut snapshot, end - span, end).await?;
    if minutes.is_empty() {
        // An archive is being replayed, or the stream has stopped: show its last minutes.
        let newest: Option<OffsetDateTime> = sqlx::query_scalar(
            "SELECT max(bucket) FROM emotion_rollup WHERE subject = '' AND posts > 0 AND bucket < $1",
        )
        .bind(end)
        .fetch_one(&mut *snapshot)
        .await?;
        if let Some(newest) = newest {
            end = newest + time::Duration::MINUTE;
            minutes = read_minutes(&mut snapshot, end - span, end).await?;
        }
    }
    let start = end - span;
    let subjects = sqlx::query_as(
        "SELECT subject, emotion, sum(posts)::bigint AS posts FROM emotion_rollup
         WHERE subject <> '' AND bucket >= $1 AND bucket < $2
         GROUP BY subject, emotion HAVING sum(posts) > 0 ORDER BY subject, emotion LIMIT $3",
    )
    .bind(start)
    .bind(end)
    .bind(MAX_SUBJECT_ROWS)
    .fetch_all(&mut *snapshot)
    .await?;
    let posts = if query.posts == 0 {
        None
    } else {
        Some(read_posts(&mut snapshot, start, end, query.posts).await?)
    };
    let tally = sqlx::query_as(
        "SELECT coalesce(sum(records), 0)::bigint AS records, coalesce(sum(inserted), 0)::bigint AS inserted,
                coalesce(sum(duplicates), 0)::bigint AS duplicates, coalesce(sum(deletions), 0)::bigint AS deletions,
                coalesce(sum(filtered), 0)::bigint AS filtered, coalesce(sum(late), 0)::bigint AS late,
                coalesce(sum(rejected), 0)::bigint AS rejected, coalesce(sum(removed), 0)::bigint AS removed
         FROM consumer_tally WHERE consumer_group = $1",
    )
    .bind(&query.group)
    .fetch_one(&mut *snapshot)
    .await?;
    snapshot.commit().await?;
    Ok(LivePageData {
        now,
        start,
        end,
        minutes,
        subjects,
        posts,
        tally,
    })
}

async fn read_minutes(
    connection: &mut PgConnection,
    start: OffsetDateTime,
    end: OffsetDateTime,
) -> Result<Vec<MinuteCount>, sqlx::Error> {
    sqlx::query_as(
        "SELECT bucket, emotion, sum(posts)::bigint AS posts, sum(score_sum) AS score_sum FROM emotion_rollup
         WHERE subject = '' AND bucket >= $1 AND bucket < $2
         GROUP BY bucket, emotion HAVING sum(posts) > 0 ORDER BY bucket, emotion",
    )
    .bind(start)
    .bind(end)
    .fetch_all(connection)
    .await
}

async fn read_posts(
    connection: &mut PgConnection,
    start: OffsetDateTime,
    end: OffsetDateTime,
    limit: u16,
) -> Result<Vec<RecentPost>, sqlx::Error> {
    sqlx::query_as(
        "SELECT created_at, source, lang, emotion, score, left(text, $3) AS text, repost_of IS NOT NULL AS repost, subjects
         FROM post WHERE created_at >= $1 AND created_at < $2
         ORDER BY created_at DESC, source, post_id LIMIT $4",
    )
    .bind(start)
    .bind(end)
    .bind(MAX_TEXT_CHARS)
    .bind(i64::from(limit))
    .fetch_all(connection)
    .await
}
