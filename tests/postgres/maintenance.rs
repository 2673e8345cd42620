//! Migrations, retention, and the schema as users see it.

use moodstream::store::{FlushError, Retention, RetentionOutcome, Schema, Store, StoreErrorKind};
use time::{
    Duration,
    macros::{date, datetime},
};

use crate::support::store::{Harness, NOON, apply_migrations, cluster, deletion, flush, offset_range, options, post};

#[tokio::test]
async fn migrations_apply_once_and_together() {
    let url = cluster().database().unwrap();
    let store = Store::connect(&options(&url)).await.unwrap();
    assert_eq!(store.schema().await.unwrap(), Schema::Behind);
    let another = Store::connect(&options(&url)).await.unwrap();
    let (first, second) = tokio::join!(store.migrate(), another.migrate());
    first.unwrap();
    second.unwrap();
    store.migrate().await.unwrap();
    assert_eq!(store.schema().await.unwrap(), Schema::Current);
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    sqlx::query("UPDATE _sqlx_migrations SET checksum = ''")
        .execute(&pool)
        .await
        .unwrap();
    assert_eq!(store.schema().await.unwrap_err().kind, StoreErrorKind::Schema);
    assert_eq!(store.migrate().await.unwrap_err().kind, StoreErrorKind::Schema);
}

#[tokio::test]
async fn the_error_for_a_missing_schema_says_what_to_do() {
    let store = Store::connect(&options(&cluster().database().unwrap())).await.unwrap();
    let error = store.next_offsets("g", &[("t".into(), 0)]).await.unwrap_err();
    assert!(error.to_string().contains("moodstream migrate"), "{error}");
}

#[tokio::test]
async fn every_table_view_and_column_has_a_comment() {
    let harness = Harness::with_partitions(1).await;
    let bare: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname || coalesce('.' || a.attname, '')
         FROM pg_class c
         CROSS JOIN LATERAL (SELECT NULL AS attname, 0 AS attnum
                             UNION ALL SELECT attname, attnum FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0) a
         WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition
           AND c.relname <> '_sqlx_migrations'
           AND NOT EXISTS (SELECT FROM pg_description d WHERE d.objoid = c.oid AND d.objsubid = a.attnum)",
    )
    .fetch_all(&harness.pool)
    .await
    .unwrap();
    assert!(bare.is_empty(), "without a comment: {bare:?}");
}

#[tokio::test]
async fn the_view_adds_up_shards_and_models() {
    let harness = Harness::with_partitions(2).await;
    let mut all = flush();
    all.ranges.extend([offset_range(0, 0, 1), offset_range(1, 0, 1)]);
    all.posts
        .extend([post("a", NOON, 0, 0), post("b", NOON + Duration::seconds(59), 1, 0)]);
    let sum = all.posts[0].prediction.score + all.posts[1].prediction.score;
    harness.flush(&all).await;
    let rows: Vec<(time::OffsetDateTime, String, i64, f64)> =
        sqlx::query_as("SELECT bucket, subject, posts, mean_score FROM emotion_by_minute ORDER BY subject")
            .fetch_all(&harness.pool)
            .await
            .unwrap();
    assert_eq!(
        rows,
        [(NOON, String::new(), 2, sum / 2.0), (NOON, "work".into(), 2, sum / 2.0)]
    );
}

#[tokio::test]
async fn retention_drops_whole_days_and_their_keys() {
    let harness = Harness::with_partitions(1).await;
    let now = datetime!(2019-07-10 08:00 UTC);
    let retention = Retention::days(2);
    let mut all = flush();
    all.ranges.push(offset_range(0, 0, 10));
    for (offset, hours) in (0..).zip([0, 24, 48, 72, 96]) {
        all.posts
            .push(post(&format!("p{offset}"), now - Duration::hours(hours), 0, offset));
    }
    all.deletions.extend([deletion("old", 0, 5), deletion("young", 0, 6)]);
    harness.flush(&all).await;
    harness.execute("UPDATE post_key SET deleted_at = CASE post_id WHEN 'old' THEN '2019-07-01' ELSE '2019-07-10' END::timestamptz WHERE deleted_at IS NOT NULL").await;
    assert_eq!(
        harness.store.apply_retention(&Retention::default(), now).await.unwrap(),
        RetentionOutcome::default()
    );

    let outcome = harness.store.apply_retention(&retention, now).await.unwrap();
    assert_eq!(
        outcome,
        RetentionOutcome {
            days: vec![date!(2019 - 07 - 06), date!(2019 - 07 - 07)],
            partitions: 4,
            keys: 3
        }
    );
    assert_eq!(harness.ids().await, ["p0", "p1", "p2"]);
    assert_eq!(harness.count("post_key WHERE post_id = 'young'").await, 1);
    assert_eq!(harness.count("emotion_rollup WHERE bucket < '2019-07-08'").await, 0);
    let differences: Vec<(String, String)> = sqlx::query_as(include_str!("../support/recount.sql"))
        .fetch_all(&harness.pool)
        .await
        .unwrap();
    assert!(differences.is_empty(), "{differences:?}");
    assert_eq!(
        harness.store.apply_retention(&retention, now).await.unwrap(),
        RetentionOutcome::default()
    );
}

/// The totals of a coarse rollup, as `(bucket, posts)`.
async fn totals(harness: &Harness, table: &'static str) -> Vec<(time::OffsetDateTime, i64)> {
    let sql = format!(
        "SELECT bucket, sum(posts)::bigint FROM {table} WHERE subject = '' AND lang = '' AND source = ''
         GROUP BY 1 ORDER BY 1"
    );
    sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .fetch_all(&harness.pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn each_resolution_has_its_own_retention() {
    let harness = Harness::with_partitions(1).await;
    let now = datetime!(2019-07-10 08:00 UTC);
    let mut all = flush();
    all.ranges.push(offset_range(0, 0, 10));
    for (offset, days) in (0..).zip([0, 3, 8, 40, 400]) {
        all.posts
            .push(post(&format!("p{offset}"), now - Duration::days(days), 0, offset));
    }
    harness.flush(&all).await;
    let retention = Retention {
        days: Some(2),
        minute_days: Some(7),
        hour_days: Some(30),
        day_days: Some(365),
    };
    let outcome = harness.store.apply_retention(&retention, now).await.unwrap();
    assert_eq!(outcome.days.len(), 4);
    // Four days of posts, three of minutes, and two months of hours. 2018 is partly within the 365 days.
    assert_eq!(outcome.partitions, 4 + 3 + 2);
    assert_eq!(harness.ids().await, ["p0"]);
    assert_eq!(harness.count("emotion_rollup WHERE subject = ''").await, 2);
    assert_eq!(totals(&harness, "emotion_rollup_hour").await.len(), 3);
    assert_eq!(totals(&harness, "emotion_rollup_day").await.len(), 5);
    let differences: Vec<(String, String)> = sqlx::query_as(include_str!("../support/recount.sql"))
        .fetch_all(&harness.pool)
        .await
        .unwrap();
    assert!(differences.is_empty(), "{differences:?}");

    let later = now + Duration::days(365);
    let outcome = harness.store.apply_retention(&retention, later).await.unwrap();
    assert_eq!(outcome.days, [date!(2019 - 07 - 10)]);
    assert_eq!(totals(&harness, "emotion_rollup_hour").await, []);
    let days: Vec<i64> = totals(&harness, "emotion_rollup_day")
        .await
        .iter()
        .map(|&(_, posts)| posts)
        .collect();
    assert_eq!(days, [1, 1, 1, 1], "2018 is dropped, 2019 is kept");
}

#[tokio::test]
async fn migrating_creates_the_coarse_rollups_from_existing_data() {
    let harness = Harness::at_migration(1).await;
    let mut connection = harness.pool.acquire().await.unwrap();
    // A time zone with a half-hour offset, to check that buckets don't depend on the session's time zone.
    sqlx::raw_sql(
        "SET timezone = 'Asia/Kolkata';
         CREATE TABLE post_20190703 PARTITION OF post FOR VALUES FROM ('2019-07-03 00:00+00') TO ('2019-07-04 00:00+00');
         CREATE TABLE emotion_rollup_20190703 PARTITION OF emotion_rollup
             FOR VALUES FROM ('2019-07-03 00:00+00') TO ('2019-07-04 00:00+00');
         INSERT INTO post (source, post_id, created_at, lang, text, repost_of, emotion, score, scores, model_id, topics,
                           hashtags, kafka_topic, kafka_partition, kafka_offset)
         SELECT 'plain', n::text, '2019-07-03 12:00+00'::timestamptz + n * interval '7 minutes', (ARRAY['en', 'pt'])[n % 2 + 1],
                't', CASE WHEN n % 3 = 0 THEN '1' END, 'joy', 0.5, '{}', 'm@1',
                CASE WHEN n % 2 = 0 THEN ARRAY['work'] ELSE '{}' END, '{}', 'posts', n % 4, n
         FROM generate_series(1, 60) AS n;
         INSERT INTO emotion_rollup
         SELECT date_trunc('minute', created_at), topic, lang, source, emotion, model_id, kafka_partition, count(*), sum(score)
         FROM post, unnest(topics || ''::text) AS topic GROUP BY 1, 2, 3, 4, 5, 6, 7",
    )
    .execute(&mut *connection)
    .await
    .unwrap();
    apply_migrations(&mut connection, i64::MAX).await;
    let differences: Vec<(String, String)> = sqlx::query_as(include_str!("../support/recount.sql"))
        .fetch_all(&mut *connection)
        .await
        .unwrap();
    assert!(differences.is_empty(), "{differences:#?}");
    let hours: i64 = sqlx::query_scalar("SELECT count(DISTINCT bucket) FROM emotion_rollup_hour_201907")
        .fetch_one(&mut *connection)
        .await
        .unwrap();
    assert_eq!(hours, 8);
    sqlx::query("SELECT FROM emotion_rollup_day_2019")
        .execute(&mut *connection)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_partition_dropped_by_another_process_is_created_again() {
    let harness = Harness::with_partitions(1).await;
    let mut first = flush();
    first.ranges.push(offset_range(0, 0, 1));
    first.posts.push(post("a", NOON, 0, 0));
    harness.flush(&first).await;
    harness
        .execute(
            "SELECT drop_partition('post', '20190703'), drop_partition('emotion_rollup', '20190703');
             TRUNCATE emotion_rollup_hour, emotion_rollup_day; DELETE FROM post_key",
        )
        .await;
    // This store still assumes that the partition exists, so its first attempt fails.
    let mut second = flush();
    second.ranges.push(offset_range(0, 1, 3));
    second.posts.push(post("b", NOON, 0, 1));
    second.deletions.push(deletion("a", 0, 2));
    let error = harness.store.flush(&second).await.unwrap_err();
    assert!(error.is_transient() && matches!(error, FlushError::Store(_)), "{error}");
    harness.flush(&second).await;
    assert_eq!(harness.ids().await, ["b"]);
}

#[tokio::test]
async fn retention_does_not_wait_for_readers() {
    let harness = Harness::with_partitions(1).await;
    let mut all = flush();
    all.ranges.push(offset_range(0, 0, 1));
    all.posts.push(post("a", NOON, 0, 0));
    harness.flush(&all).await;
    let mut reader = harness.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM post").execute(&mut *reader).await.unwrap();
    let (retention, later) = (Retention::days(1), NOON + Duration::days(30));
    let error = harness.store.apply_retention(&retention, later).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Busy, "{error}");
    harness.assert_whole().await;
    reader.rollback().await.unwrap();
    assert_eq!(
        harness
            .store
            .apply_retention(&retention, later)
            .await
            .unwrap()
            .days
            .len(),
        1
    );
}

#[tokio::test]
async fn a_rollup_is_kept_until_the_posts_that_it_counts_are_dropped() {
    let harness = Harness::with_partitions(1).await;
    let day = datetime!(2019-06-30 12:00 UTC);
    let mut all = flush();
    all.ranges.push(offset_range(0, 0, 1));
    all.posts.push(post("a", day, 0, 0));
    harness.flush(&all).await;
    // Rollups by hour are dropped by month: June is past retention, and so are the posts of its last day, which are being read.
    let retention = Retention {
        hour_days: Some(1),
        day_days: Some(1),
        ..Retention::days(1)
    };
    let mut reader = harness.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM post").execute(&mut *reader).await.unwrap();
    let error = harness
        .store
        .apply_retention(&retention, day + Duration::days(400))
        .await;
    assert_eq!(error.unwrap_err().kind, StoreErrorKind::Busy);
    let mut removal = flush();
    removal.ranges.push(offset_range(0, 1, 2));
    removal.deletions.push(deletion("a", 0, 1));
    assert_eq!(harness.flush(&removal).await.total().removed, 1);
    harness.assert_whole().await;
}

#[tokio::test]
async fn posts_of_dropped_days_are_late_for_good_and_count_once() {
    let harness = Harness::with_partitions(1).await;
    let now = datetime!(2019-07-10 08:00 UTC);
    let batch = |first: i64| {
        let mut all = flush();
        all.ranges.push(offset_range(0, first, first + 10));
        for (offset, days) in (first..).zip([9, 4, 0]) {
            all.posts
                .push(post(&format!("p{days}"), now - Duration::days(days), 0, offset));
        }
        // A new post on a dropped day, and the deletion of a dropped post.
        let unseen = now - Duration::days(4) + Duration::hours(1);
        all.posts.push(post(&format!("unseen{first}"), unseen, 0, first + 3));
        all.deletions.push(deletion("p9", 0, first + 4));
        all
    };
    let mut first = batch(0);
    first.deletions.clear();
    harness.flush(&first).await;
    let counted = totals(&harness, "emotion_rollup_day").await;
    assert_eq!(harness.store.retention_mark().await.unwrap().0, None);

    // Another process drops them. This one doesn't know, as if it had a longer retention.
    let another = harness.another_store().await;
    another.apply_retention(&Retention::days(2), now).await.unwrap();
    let until = datetime!(2019-07-07 00:00 UTC);
    assert_eq!(harness.store.retention_mark().await.unwrap().0, Some(until));
    for (store, first) in [
        (&harness.store, 10),
        (&another, 20),
        (&harness.another_store().await, 30),
    ] {
        let flushed = store.flush(&batch(first)).await.unwrap().total();
        assert_eq!(
            (
                flushed.inserted,
                flushed.duplicates,
                flushed.late,
                flushed.deletions,
                flushed.removed
            ),
            (0, 1, 3, 1, 0)
        );
    }
    assert_eq!(harness.ids().await, ["p0"]);
    assert_eq!(totals(&harness, "emotion_rollup_day").await, counted);
    assert_eq!(harness.count("pg_class WHERE relname = 'post_20190706'").await, 0);

    // A longer retention, or none, leaves the mark as it is. Posts of kept days are still stored.
    harness.store.apply_retention(&Retention::days(9), now).await.unwrap();
    harness.store.apply_retention(&Retention::default(), now).await.unwrap();
    assert_eq!(harness.store.retention_mark().await.unwrap().0, Some(until));
    let mut kept = flush();
    kept.ranges.push(offset_range(0, 40, 41));
    kept.posts.push(post("kept", until, 0, 40));
    assert_eq!(harness.flush(&kept).await.total().inserted, 1);
}

#[tokio::test]
async fn deleting_keys_alone_moves_the_mark() {
    let harness = Harness::with_partitions(1).await;
    let mut all = flush();
    all.ranges.push(offset_range(0, 0, 1));
    all.deletions.push(deletion("gone", 0, 0));
    harness.flush(&all).await;
    // A retention that drops nothing sets no mark: posts of old days may still be stored.
    harness.store.apply_retention(&Retention::days(2), NOON).await.unwrap();
    assert_eq!(harness.store.retention_mark().await.unwrap().0, None);
    let stored = time::OffsetDateTime::now_utc();
    let later = stored + Duration::days(5);
    let outcome = harness.store.apply_retention(&Retention::days(2), later).await.unwrap();
    assert_eq!((outcome.keys, outcome.partitions), (1, 0));
    // The mark follows from the deleted keys, not from the clock: a wrong clock must not make future posts late.
    let marked = harness.store.retention_mark().await.unwrap().0.unwrap();
    assert!(marked > stored && marked <= later - Duration::days(3), "{marked}");
}

#[tokio::test]
async fn the_migration_that_adds_the_mark_sets_it_for_days_dropped_before() {
    let harness = Harness::with_partitions(1).await;
    let mut all = flush();
    all.ranges.push(offset_range(0, 0, 2));
    all.posts
        .extend([post("a", NOON, 0, 0), post("b", NOON + Duration::days(1), 0, 1)]);
    harness.flush(&all).await;
    let migrate = async || {
        harness.execute("DROP TABLE retention_mark CASCADE").await;
        harness
            .execute(concat!(
                "SET timezone = 'Asia/Kolkata';",
                include_str!("../../migrations/0011_retention_mark.sql")
            ))
            .await;
        harness.store.retention_mark().await.unwrap().0
    };
    assert_eq!(migrate().await, None);
    harness.execute("SELECT drop_partition('post', '20190703')").await;
    assert_eq!(migrate().await, Some(datetime!(2019-07-04 00:00 UTC)));
}
