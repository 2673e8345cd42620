//! A stock Postgres has room for 6,400 locks: a dump takes one for each table, and a query without pruning one for each
//! partition and index.

use std::process::Stdio;

use moodstream::store::Retention;
use time::{Duration, OffsetDateTime};

use crate::support::store::{Harness, cluster, flush, offset_range, post};

const RECORDS: i64 = 100_000;

/// Runs `pg_dump` of the whole database, and counts that read every partition.
async fn assert_can_be_dumped_and_counted(harness: &Harness, posts: i64) {
    let database = harness.url.rsplit('/').next().unwrap().to_owned();
    let dump = tokio::task::spawn_blocking(move || {
        let mut dump = cluster().client("pg_dump").unwrap();
        dump.args(["--format=plain", "--dbname", &database])
            .stdout(Stdio::null());
        dump.output().unwrap()
    })
    .await
    .unwrap();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    assert_eq!(harness.count("post").await, posts);
    for rollup in ["emotion_by_minute", "emotion_by_hour", "emotion_by_day"] {
        assert_eq!(
            harness
                .count(&format!("(SELECT FROM {rollup} WHERE subject = '' GROUP BY bucket) b"))
                .await
                > 0,
            posts > 0,
            "{rollup}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_posts_of_arbitrary_days_can_be_dumped_and_counted() {
    let harness = Harness::with_partitions(1).await;
    let store = harness.another_store().await.with_retention(Retention::default());
    let now = OffsetDateTime::now_utc();
    let days = (now - OffsetDateTime::UNIX_EPOCH).whole_days();
    // Each flush touches almost as many days as it may, spread over all days from 1970 to today.
    let at_once = 250;
    for first in (0..RECORDS).step_by(at_once) {
        let mut odd = flush();
        let next = first + at_once as i64;
        for offset in first..next {
            let day = OffsetDateTime::UNIX_EPOCH + Duration::days(offset * 7_919 % days);
            odd.posts.push(post(&offset.to_string(), day, 0, offset));
        }
        odd.ranges.push(offset_range(0, first, next));
        store.flush(&odd).await.unwrap();
    }
    assert_can_be_dumped_and_counted(&harness, RECORDS).await;
}

/// Partitions as they are created day by day: one a month if posts are kept for ever, and one for each day of the last year
/// otherwise.
#[tokio::test]
async fn ten_years_of_regular_partitions_can_be_dumped_and_counted() {
    for (post_span, posts) in [("1 month", 120), ("1 day", 366)] {
        let harness = Harness::with_partitions(1).await;
        let sql = format!(
            "DO $$
             DECLARE at timestamp;
             BEGIN
                 FOR at IN SELECT generate_series(timestamp '2026-12-31' - {posts} * interval '{post_span}', '2026-12-30', '{post_span}') LOOP
                     at := date_trunc('{}', at);
                     PERFORM add_partition(parent, to_char(at, '{}'), at AT TIME ZONE 'UTC', (at + interval '{post_span}') AT TIME ZONE 'UTC')
                     FROM unnest('{{post,emotion_rollup}}'::text[]) AS parent;
                 END LOOP;
                 FOR at IN SELECT generate_series(timestamp '2017-01-01', '2026-12-01', '1 month') LOOP
                     PERFORM add_partition('emotion_rollup_hour', to_char(at, 'YYYYMM'), at AT TIME ZONE 'UTC', (at + interval '1 month') AT TIME ZONE 'UTC');
                 END LOOP;
                 FOR at IN SELECT generate_series(timestamp '2017-01-01', '2026-12-01', '1 year') LOOP
                     PERFORM add_partition('emotion_rollup_day', to_char(at, 'YYYY'), at AT TIME ZONE 'UTC', (at + interval '1 year') AT TIME ZONE 'UTC');
                 END LOOP;
             END
             $$",
            if post_span == "1 day" { "day" } else { "month" },
            if post_span == "1 day" { "YYYYMMDD" } else { "YYYYMM" },
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
            .execute(&harness.pool)
            .await
            .unwrap();
        let partitions = harness.count("pg_inherits WHERE inhparent = 'post'::regclass").await;
        assert!(partitions >= posts, "{partitions}");
        let mut all = flush();
        all.ranges.push(offset_range(0, 0, 100));
        for offset in 0..100 {
            let at = time::macros::datetime!(2026-12-30 12:00 UTC) - Duration::days(offset * 3);
            all.posts.push(post(&offset.to_string(), at, 0, offset));
        }
        harness.flush(&all).await;
        assert_can_be_dumped_and_counted(&harness, 100).await;
    }
}

/// 3,000 made-up days once created 21,371 relations, and a query over all of them ran out of locks.
#[tokio::test]
async fn posts_of_arbitrary_days_create_a_bounded_number_of_partitions() {
    let harness = Harness::with_partitions(1).await;
    let store = harness.another_store().await.with_retention(Retention::default());
    let mut first = 0;
    for chunk in 0..12_i64 {
        let mut odd = flush();
        for offset in first..first + 250 {
            let day = time::macros::datetime!(1970-01-01 12:00 UTC) + Duration::days(offset * 7 % 20_000);
            odd.posts.push(post(&format!("{chunk}-{offset}"), day, 0, offset));
        }
        odd.ranges.push(offset_range(0, first, first + 250));
        store.flush(&odd).await.unwrap();
        first += 250;
    }
    assert_eq!(harness.count("post").await, first);
    let partitions = harness.count("pg_inherits WHERE inhparent = 'post'::regclass").await;
    assert!((50..=90).contains(&partitions), "{partitions} partitions");
    let relations = harness
        .count("pg_class WHERE relnamespace = current_schema()::regnamespace")
        .await;
    assert!(relations < 3_000, "{relations} relations");
    harness.assert_whole().await;
}
