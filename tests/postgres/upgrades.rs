//! Programs on a schema that a newer version has migrated.

use moodstream::store::{FlushError, Schema, Store, StoreErrorKind, schema_version};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use time::macros::datetime;

use crate::{
    support::store::{GROUP, Harness, NOON, deletion, flush, insert_start_offset, offset_range, post},
    trends::NOW,
};

/// Applies a migration of a later version; without `min_writer` it has no row in `schema_compat`.
async fn apply_later_migration(harness: &Harness, min_writer: Option<i64>, sql: &str) {
    let mut connection = PgConnection::connect(&harness.url).await.unwrap();
    let mut tx = connection.begin().await.unwrap();
    // As `migrate` does.
    sqlx::raw_sql("LOCK TABLE consumer_offset IN EXCLUSIVE MODE")
        .execute(&mut *tx)
        .await
        .unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!(
        "{sql}; INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9001, 'later', true, '\\x00', 0)"
    )))
    .execute(&mut *tx)
    .await
    .unwrap();
    if let Some(min_writer) = min_writer {
        sqlx::query("INSERT INTO schema_compat (version, min_writer) VALUES (9001, $1)")
            .bind(min_writer)
            .execute(&mut *tx)
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();
}

/// Flushes of one partition: two posts each, and the deletion of one that the other member may have stored.
async fn work(store: &Store, partition: i32, flushes: std::ops::Range<i64>) {
    for place in flushes {
        let first = place * 3;
        let mut all = flush();
        all.ranges.push(offset_range(partition, first, first + 3));
        for offset in [first, first + 1] {
            let id = format!("{partition}-{offset}");
            all.posts.push(post(&id, NOON, partition, offset));
        }
        let other = format!("{}-{first}", 1 - partition);
        all.deletions.push(deletion(&other, partition, first + 2));
        loop {
            match store.flush(&all).await {
                Ok(_) => break,
                Err(error) => assert!(error.is_transient(), "{error}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_keep_writing_during_and_after_an_additive_migration() {
    let harness = Harness::with_partitions(2).await;
    let (old, new) = (harness.another_store().await, harness.another_store().await);
    work(&old, 0, 0..5).await;
    let running = tokio::spawn(async move {
        work(&old, 0, 5..40).await;
        old
    });
    // Every kind of additive change: a column with a default, a table, an index, a nullable column.
    apply_later_migration(
        &harness,
        Some(schema_version()),
        "ALTER TABLE post ADD COLUMN mood real NOT NULL DEFAULT 0; CREATE TABLE later (id bigint PRIMARY KEY);
         CREATE INDEX later_author ON post (author_id); ALTER TABLE consumer_offset ADD COLUMN later_note text;
         ALTER TABLE emotion_rollup ADD COLUMN mood_sum float8 NOT NULL DEFAULT 0",
    )
    .await;
    // The newer member writes at the same time, including to the new column.
    work(&new, 1, 0..40).await;
    harness
        .execute("UPDATE post SET mood = 1 WHERE kafka_partition = 1")
        .await;
    let old = running.await.unwrap();
    work(&old, 0, 40..45).await;
    harness.assert_whole().await;
    assert_eq!(harness.count("post WHERE kafka_partition = 0 AND mood = 0").await, 50);

    // A member of this version can still start, and its `migrate` changes nothing.
    let starting = harness.another_store().await;
    let ahead = Schema::Ahead { version: 9001 };
    assert_eq!(starting.schema().await.unwrap(), ahead);
    assert_eq!(starting.migrate().await.unwrap(), ahead);
    starting.ensure_partitions(NOON, 40).await.unwrap();
    work(&starting, 0, 45..46).await;
    harness.assert_whole().await;
}

#[tokio::test]
async fn a_schema_that_requires_newer_programs_stops_older_members() {
    let harness = Harness::with_partitions(2).await;
    work(&harness.store, 0, 0..1).await;
    apply_later_migration(
        &harness,
        Some(9001),
        "ALTER TABLE emotion_rollup ADD COLUMN required text",
    )
    .await;
    let says = "programs of schema version 9001 or later";
    let mut next = flush();
    next.ranges.push(offset_range(0, 3, 4));
    next.posts.push(post("next", NOON, 0, 3));
    let error = harness.store.flush(&next).await.unwrap_err();
    assert!(
        matches!(&error, FlushError::Outdated(why) if why.to_string().contains(says)) && !error.is_transient(),
        "{error}"
    );
    assert_eq!(harness.count("post WHERE post_id = 'next'").await, 0);
    let starting = harness.another_store().await;
    for error in [
        starting.schema().await.unwrap_err(),
        starting.migrate().await.unwrap_err(),
    ] {
        assert!(
            error.kind == StoreErrorKind::Schema && error.to_string().contains(says),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_newer_migration_without_a_min_writer_is_refused() {
    let harness = Harness::new().await;
    apply_later_migration(&harness, None, "SELECT 1").await;
    let error = harness.store.schema().await.unwrap_err();
    assert!(
        error.kind == StoreErrorKind::Schema && error.to_string().contains("9001"),
        "{error}"
    );
}

/// A migration that had altered one table and waited for another once deadlocked with a flush that held the second and waited
/// for the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrating_waits_for_running_flushes_and_blocks_new_ones() {
    let harness = Harness::with_partitions(1).await;
    // As if migration 15 were not applied yet.
    harness
        .execute(
            "DELETE FROM _sqlx_migrations WHERE version = 15; DELETE FROM schema_compat WHERE version = 15;
             DROP TABLE rollup_unmerged",
        )
        .await;
    let mut flushing = harness.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM consumer_offset FOR UPDATE")
        .execute(&mut *flushing)
        .await
        .unwrap();
    let goes_on = async {
        while harness.count("pg_locks WHERE NOT granted").await == 0 {
            tokio::task::yield_now().await;
        }
        // The flush continues with the tables that are to be altered.
        sqlx::query("DELETE FROM post_key")
            .execute(&mut *flushing)
            .await
            .unwrap();
        sqlx::query("DELETE FROM emotion_rollup")
            .execute(&mut *flushing)
            .await
            .unwrap();
        flushing.commit().await.unwrap();
    };
    let (migrated, ()) = tokio::join!(harness.store.migrate(), goes_on);
    assert_eq!(migrated.unwrap(), Schema::Behind);
    assert_eq!(harness.store.schema().await.unwrap(), Schema::Current);
    work(&harness.store, 0, 0..1).await;
    harness.assert_whole().await;
}

/// Queries of everything that has subjects; `{subject}` is the word for them in that schema version.
const ANSWERS: &[&str] = &[
    "emotion_counts('hour', '2026-03-08', '2026-03-09', 'football', NULL, NULL, NULL, true, true)",
    "emotion_steps('1 hour', '2026-03-08', '2026-03-09 13:30', NULL, NULL, NULL, NULL, true, true)",
    "emotion_sum('2026-03-08', '2026-03-09', NULL, NULL, NULL, NULL, true)",
    "emotion_share('2026-03-08', '2026-03-09', of_{subject} => 'football')",
    "group_share('2026-03-08', '2026-03-09', of_{subject} => 'football')",
    "emotion_trend('2026-03-08', '2026-03-09', of_{subject} => 'weather')",
    "group_trend('2026-03-08', '2026-03-09', of_{subject} => 'weather')",
    "emotion_rolling('1 hour', '2026-03-09 12:00+00', '2026-03-09 12:30+00', of_{subject} => 'football')",
    "group_rolling('1 hour', '2026-03-09 12:00+00', '2026-03-09 12:30+00', of_{subject} => 'football')",
    "emotion_change('1 day', '2026-03-09 14:00+00', of_{subject} => 'football')",
    "emotion_unusual('1 hour', '7 days', 3.5, '2026-03-09 14:00+00', 1, of_{subject} => 'football')",
    "emotion_by('{subject}', '2026-03-08', '2026-03-09')",
    "newest_posts('joy', '2026-03-08', '2026-03-09', of_{subject} => 'football')",
    "top_hashtags('joy', '2026-03-08', '2026-03-09', of_{subject} => 'football')",
    "top_authors('joy', '2026-03-08', '2026-03-09', of_{subject} => 'football')",
    "top_posts('joy', '2026-03-08', '2026-03-09', of_{subject} => 'football')",
    "label_drift('2026-03-01', '2026-03-08', '2026-03-09', of_{subject} => 'football')",
    "(SELECT * FROM emotion_by_minute WHERE {subject} = 'football')",
    "(SELECT * FROM emotion_by_hour WHERE {subject} = 'football')",
    "(SELECT * FROM emotion_by_day WHERE {subject} = 'football')",
    "(SELECT * FROM post WHERE 'football' = ANY ({subject}s))",
];

/// The rows of each query, as sorted text.
async fn answers(harness: &Harness, subject: &str) -> Vec<String> {
    let mut answers = Vec::new();
    let mut connection = harness.pool.acquire().await.unwrap();
    // Sums of logarithms depend on the order of addition.
    sqlx::raw_sql("SET extra_float_digits = -3")
        .execute(&mut *connection)
        .await
        .unwrap();
    for call in ANSWERS {
        let call = call.replace("{subject}", subject);
        let sql = format!(
            "SELECT coalesce(string_agg(answer::text, E'\\n' ORDER BY answer::text), '') FROM {call} AS answer"
        );
        let rows: String = sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_one(&mut *connection)
            .await
            .unwrap_or_else(|error| panic!("{call}: {error}"));
        assert!(!rows.is_empty(), "{call}");
        answers.push(rows);
    }
    answers
}

/// Migration 18 renames tracked topics to subjects.
#[tokio::test]
async fn data_about_topics_is_kept_as_subjects_after_the_migration() {
    let harness = Harness::at_migration(17).await;
    // The seed in the old schema.
    let seed = include_str!("../support/seed.sql").replace("{now}", NOW);
    sqlx::raw_sql(AssertSqlSafe(seed.replace("subject", "topic")))
        .execute(&harness.pool)
        .await
        .unwrap();
    // A role that was granted views by hand.
    harness
        .execute("CREATE ROLE looks_at_now; GRANT SELECT ON emotion_now, emotion_by_minute TO looks_at_now")
        .await;
    let before = answers(&harness, "topic").await;
    assert_eq!(harness.store.migrate().await.unwrap(), Schema::Behind);
    assert_eq!(harness.store.schema().await.unwrap(), Schema::Current);
    let after = answers(&harness, "subject").await;
    for ((call, before), after) in ANSWERS.iter().zip(&before).zip(&after) {
        assert!(before == after, "{call}: {before} became {after}");
    }
    let kept: bool = sqlx::query_scalar(
        "SELECT has_table_privilege('looks_at_now', 'emotion_now', 'SELECT')
                AND has_table_privilege('looks_at_now', 'emotion_by_minute', 'SELECT')",
    )
    .fetch_one(&harness.pool)
    .await
    .unwrap();
    assert!(kept);
    harness
        .execute("DROP OWNED BY looks_at_now; DROP ROLE looks_at_now")
        .await;
    let left: Vec<String> = sqlx::query_scalar(
        "SELECT p.oid::regprocedure::text FROM pg_proc p
         WHERE p.pronamespace = current_schema()::regnamespace 
           AND replace(pg_get_functiondef(p.oid), 'kafka_topic', '') ~* 'topic'
         UNION ALL SELECT a.attrelid::regclass || '.' || a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
         WHERE c.relnamespace = current_schema()::regnamespace AND a.attname IN ('topic', 'topics') AND c.relkind IN ('r', 'p', 'v')
           AND c.relname NOT LIKE 'consumer_%'",
    )
    .fetch_all(&harness.pool)
    .await
    .unwrap();
    assert_eq!(left, [""; 0]);

    // New records apply to the migrated data: here, the deletion of a post about football.
    insert_start_offset(&harness.store, GROUP, 0, 0).await;
    let mut next = flush();
    next.ranges.push(offset_range(0, 0, 2));
    let mut row = post("new", datetime!(2026-03-09 13:00 UTC), 0, 0);
    row.subjects = vec!["football".into(), "work".into()];
    next.posts.push(row);
    next.deletions.push(deletion("0", 0, 1));
    let football = harness.count("post WHERE 'football' = ANY (subjects)").await;
    harness.flush(&next).await;
    assert_eq!(harness.count("post WHERE 'football' = ANY (subjects)").await, football);
    assert_eq!(harness.count("post WHERE post_id = '0'").await, 0);
    harness.assert_whole().await;
}
