//! How old keys are deleted, including those of deletions of posts never seen.

use moodstream::store::{Retention, StoreErrorKind};
use sqlx::{Connection as _, PgConnection};
use time::{Duration, OffsetDateTime};

use crate::support::store::{Harness, NOON, deletion, flush, offset_range, post};

/// A stored post, a deleted one, and the deletion of a post never seen. Both deletions were stored on 1 July 2019.
async fn three_keys() -> Harness {
    let harness = Harness::with_partitions(1).await;
    let mut all = flush();
    all.ranges.push(offset_range(0, 0, 4));
    all.posts
        .extend([post("stands", NOON, 0, 0), post("deleted", NOON, 0, 1)]);
    all.deletions
        .extend([deletion("deleted", 0, 2), deletion("unseen", 0, 3)]);
    harness.flush(&all).await;
    harness
        .execute("UPDATE post_key SET deleted_at = '2019-07-01' WHERE deleted_at IS NOT NULL")
        .await;
    harness
}

#[tokio::test]
async fn only_deletions_of_posts_never_seen_are_forgotten() {
    let harness = three_keys().await;
    let stored = NOON - Duration::days(2) - Duration::hours(12);
    assert_eq!(harness.store.forget_unseen_deletions(stored).await.unwrap(), 0);
    let after = stored + Duration::seconds(1);
    assert_eq!(harness.store.forget_unseen_deletions(after).await.unwrap(), 1);
    assert_eq!(harness.store.forget_unseen_deletions(NOON).await.unwrap(), 0);
    assert_eq!(harness.count("post_key").await, 2);
    // As documented, such a post is now stored when it arrives. No post is late, and copies still count once.
    assert_eq!(harness.store.retention_mark().await.unwrap().0, None);
    let mut late = flush();
    late.ranges.push(offset_range(0, 4, 8));
    for (offset, id) in (4..).zip(["unseen", "unseen", "stands", "deleted"]) {
        late.posts.push(post(id, NOON, 0, offset));
    }
    let flushed = harness.flush(&late).await.total();
    assert_eq!((flushed.inserted, flushed.duplicates), (1, 3));
    harness.assert_whole().await;
}

#[tokio::test]
async fn one_member_at_a_time_forgets_keys() {
    let harness = three_keys().await;
    let mut other = PgConnection::connect(&harness.url).await.unwrap();
    let mut busy = other.begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(x'6d6f6f6475706b65'::bigint)")
        .execute(&mut *busy)
        .await
        .unwrap();
    assert_eq!(harness.store.forget_unseen_deletions(NOON).await.unwrap(), 0);
    busy.rollback().await.unwrap();
    assert_eq!(harness.store.forget_unseen_deletions(NOON).await.unwrap(), 1);
}

/// Every member used to read the whole table, at its start and once a day.
#[tokio::test]
async fn forgetting_keys_reads_only_the_old_ones() {
    let harness = Harness::with_partitions(1).await;
    harness
        .execute(
            "INSERT INTO post_key (source, post_id, created_at)
             SELECT 'twitter', 'young-' || n, '2019-07-03'::timestamptz + n * interval '1 second' FROM generate_series(1, 200000) n;
             INSERT INTO post_key (source, post_id, deleted_at)
             SELECT 'twitter', 'unseen-' || n, '2019-07-03'::timestamptz + n / 500 * interval '1 second' FROM generate_series(1, 200000) n;
             INSERT INTO post_key (source, post_id, created_at, deleted_at)
             SELECT 'twitter', 'old-' || n, '2019-06-02', CASE WHEN n % 2 = 0 THEN '2019-06-03'::timestamptz END FROM generate_series(1, 50) n;
             INSERT INTO post_key (source, post_id, deleted_at)
             SELECT 'twitter', 'gone-' || n, '2019-06-02' FROM generate_series(1, 50) n",
        )
        .await;
    let pages = async || -> (i64, i64) {
        sqlx::query_as(
            "SELECT (heap_blks_read + heap_blks_hit)::bigint, pg_relation_size('post_key') / 8192
             FROM pg_statio_user_tables WHERE relname = 'post_key'",
        )
        .fetch_one(&harness.pool)
        .await
        .unwrap()
    };
    let deleted = "pg_stat_user_tables WHERE relname = 'post_key' AND n_tup_ins = 400100 AND n_tup_del";
    while harness.count(&format!("{deleted} = 0")).await == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let (before, size) = pages().await;
    // The cutoff is the start of 3 July: only the old keys are before it.
    let outcome = harness
        .store
        .apply_retention(&Retention::days(30), NOON + Duration::days(30))
        .await
        .unwrap();
    assert_eq!((outcome.keys, outcome.partitions), (100, 0));
    // A backend reports its statistics only when it is idle, at most once a second.
    while harness.count(&format!("{deleted} = 100")).await == 0 {
        harness.store.ping().await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let read = pages().await.0 - before;
    assert!(size > 3_000 && read < size / 5, "{read} of {size} pages read");
}

#[tokio::test]
async fn one_call_forgets_keys_in_several_transactions() {
    let harness = Harness::with_partitions(1).await;
    harness
        .execute(
            "INSERT INTO post_key (source, post_id, deleted_at)
             SELECT 'twitter', n::text, '2019-07-01'::timestamptz + n / 7000 * interval '1 minute' FROM generate_series(1, 50000) n;
             INSERT INTO post_key (source, post_id, created_at)
             SELECT 'bluesky', n::text, '2019-07-01'::timestamptz + n / 7000 * interval '1 second' FROM generate_series(1, 50000) n",
        )
        .await;
    assert_eq!(harness.store.forget_unseen_deletions(NOON).await.unwrap(), 50_000);
    let outcome = harness
        .store
        .apply_retention(&Retention::days(1), NOON + Duration::days(9))
        .await
        .unwrap();
    assert_eq!(outcome.keys, 50_000);
    assert_eq!(harness.count("post_key").await, 0);
}

/// A key that a flush has locked is skipped until the next call.
#[tokio::test]
async fn locked_keys_are_left_for_the_next_call() {
    let harness = three_keys().await;
    let mut flushing = harness.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM post_key WHERE post_id = 'unseen' FOR UPDATE")
        .execute(&mut *flushing)
        .await
        .unwrap();
    assert_eq!(harness.store.forget_unseen_deletions(NOON).await.unwrap(), 0);
    flushing.rollback().await.unwrap();
    assert_eq!(
        harness
            .store
            .forget_unseen_deletions(OffsetDateTime::now_utc())
            .await
            .unwrap(),
        1
    );
}

/// Windows that would need the dropped minutes are refused by this mark.
#[tokio::test]
async fn dropped_minutes_are_marked() {
    let harness = Harness::with_partitions(1).await;
    let mut all = flush();
    all.ranges.push(offset_range(0, 0, 2));
    all.posts
        .extend([post("a", NOON, 0, 0), post("b", NOON + Duration::days(5), 0, 1)]);
    harness.flush(&all).await;
    harness
        .store
        .apply_retention(&Retention::days(2), NOON + Duration::days(6))
        .await
        .unwrap();
    let kept: Option<OffsetDateTime> = sqlx::query_scalar("SELECT minutes_kept_since()")
        .fetch_one(&harness.pool)
        .await
        .unwrap();
    assert_eq!(kept, Some(NOON + Duration::hours(12)));
    let mut reader = harness.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM post").execute(&mut *reader).await.unwrap();
    let busy = harness
        .store
        .apply_retention(&Retention::days(2), NOON + Duration::days(30))
        .await;
    assert_eq!(busy.unwrap_err().kind, StoreErrorKind::Busy);
    let unmoved: Option<OffsetDateTime> = sqlx::query_scalar("SELECT minutes_kept_since()")
        .fetch_one(&harness.pool)
        .await
        .unwrap();
    assert_eq!(unmoved, kept, "nothing was dropped");
}
