//! Merging the shards of closed days: every sum still equals a recount.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use moodstream::store::StoreErrorKind;
use time::{Duration, OffsetDateTime};

use crate::{
    oracle::fill,
    support::store::{Harness, NOON, Random, deletion, flush, offset_range, post},
};

/// A moment at which everything written until now is due for merging.
fn due() -> OffsetDateTime {
    OffsetDateTime::now_utc() + Duration::hours(2)
}

const SHARDS: &str = "(SELECT shard FROM emotion_rollup UNION ALL SELECT shard FROM emotion_rollup_hour
                       UNION ALL SELECT shard FROM emotion_rollup_day) r WHERE shard";

#[tokio::test]
async fn a_closed_day_has_one_row_for_each_key() {
    let harness = Harness::with_partitions(3).await;
    let mut all = flush();
    for partition in 0..3 {
        all.ranges.push(offset_range(partition, 0, 2));
        for offset in 0..2 {
            let id = format!("{partition}-{offset}");
            all.posts
                .push(post(&id, NOON + Duration::minutes(offset), partition, offset));
        }
    }
    harness.flush(&all).await;
    let view = "SELECT string_agg(concat_ws('|', bucket, subject, lang, source, emotion, posts, mean_score, reposts), ',' ORDER BY bucket, subject)
                FROM emotion_by_minute";
    let read = async || -> String { sqlx::query_scalar(view).fetch_one(&harness.pool).await.unwrap() };
    let before = read().await;
    // By minute: two minutes, each for all posts and one subject. By hour and by day: all posts and one subject, each also as
    // totals.
    assert_eq!(
        harness.count(&format!("{SHARDS} >= 0")).await,
        3 * (2 * 2 + 2 * 2 + 2 * 2)
    );
    assert_eq!(
        harness.store.merge_shards(OffsetDateTime::now_utc()).await.unwrap(),
        0,
        "too soon"
    );
    assert_eq!(harness.store.merge_shards(due()).await.unwrap(), 3 * 12);
    assert_eq!(harness.count(&format!("{SHARDS} >= 0")).await, 0);
    assert_eq!(harness.count(&format!("{SHARDS} = -1")).await, 12);
    assert_eq!(harness.count("rollup_unmerged").await, 0);
    assert_eq!(read().await, before);
    harness.assert_whole().await;
    assert_eq!(harness.store.merge_shards(due()).await.unwrap(), 0);

    // Later records of that day: a post, its deletion, and deletions of posts that were merged.
    let mut later = flush();
    later.ranges.push(offset_range(1, 2, 6));
    later.posts.push(post("late", NOON, 1, 2));
    for (offset, id) in (3..).zip(["0-0", "1-0", "late"]) {
        later.deletions.push(deletion(id, 1, offset));
    }
    assert_eq!(harness.flush(&later).await.total().removed, 3);
    harness.assert_whole().await;
    let mut last = flush();
    last.ranges.push(offset_range(2, 2, 6));
    for (offset, id) in (2..).zip(["2-0", "0-1", "1-1", "2-1"]) {
        last.deletions.push(deletion(id, 2, offset));
    }
    harness.flush(&last).await;
    harness.assert_whole().await;
    assert_eq!(harness.count("emotion_rollup_day").await, 0);
}

/// The deletion of a merged post is subtracted from a late post's row, because both belong to the same shard.
#[tokio::test]
async fn scores_stay_exact_if_a_late_post_and_a_merged_one_share_a_shard() {
    let harness = Harness::with_partitions(1).await;
    let step = async |first: i64, posts: &[&str], gone: &[&str]| {
        let mut all = flush();
        all.ranges.push(offset_range(0, first, first + 10));
        for (offset, id) in (first..).zip(posts) {
            all.posts.push(post(id, NOON, 0, offset));
        }
        for (offset, id) in (first + 5..).zip(gone) {
            all.deletions.push(deletion(id, 0, offset));
        }
        harness.flush(&all).await;
        harness.assert_whole().await;
    };
    step(0, &["merged", "merged too"], &[]).await;
    // A single shard would not be merged, so this sets what merging with another partition's rows would leave.
    harness
        .execute("UPDATE emotion_rollup SET shard = -1; UPDATE emotion_rollup_hour SET shard = -1; UPDATE emotion_rollup_day SET shard = -1")
        .await;
    step(10, &["late"], &[]).await;
    step(20, &[], &["merged"]).await;
    assert_eq!(
        harness.count(&format!("{SHARDS} >= 0")).await,
        0,
        "rows without posts are deleted"
    );
    step(30, &["later"], &["late", "merged too"]).await;
    step(40, &[], &["later"]).await;
    assert_eq!(harness.count(&format!("{SHARDS} >= -1")).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn merging_concurrently_with_random_flushes_changes_no_sum() {
    let harness = Harness::with_partitions(4).await;
    let stop = Arc::new(AtomicBool::new(false));
    let merging = {
        let (store, stop) = (harness.another_store().await, Arc::clone(&stop));
        tokio::spawn(async move {
            let mut rows = 0;
            while !stop.load(Ordering::Relaxed) {
                match store.merge_shards(due()).await {
                    Ok(merged) => rows += merged,
                    // A lock timeout while flushes that have recorded their days are running, but never a deadlock.
                    Err(error) => assert!(error.to_string().contains("55P03"), "{error}"),
                }
            }
            rows
        })
    };
    let mut consumers = Vec::new();
    for partition in 0..4 {
        let store = harness.another_store().await;
        consumers.push(tokio::spawn(async move {
            let mut random = Random(700 + u64::try_from(partition).unwrap());
            let mut next = 0;
            for _ in 0..40 {
                let mut all = flush();
                next = fill(&mut all, &mut random, 300, partition, next, |_, _, _| {});
                store.flush(&all).await.unwrap();
            }
        }));
    }
    for consumer in consumers {
        consumer.await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    let rows = merging.await.unwrap();
    assert!(rows > 0, "nothing was merged during the flushes");
    harness.assert_whole().await;
    harness.store.merge_shards(due()).await.unwrap();
    harness.assert_whole().await;
    assert_eq!(harness.count("rollup_unmerged").await, 0);
    let keys_of_several_rows = harness
        .count(
            "(SELECT FROM emotion_rollup GROUP BY bucket, subject, lang, source, emotion, model_id HAVING count(*) > 1
              UNION ALL SELECT FROM emotion_rollup_day GROUP BY bucket, subject, lang, source, emotion, model_id HAVING count(*) > 1) k",
        )
        .await;
    assert_eq!(keys_of_several_rows, 0);
}

/// A running flush has found its day in `rollup_unmerged`. If the day were claimed before that flush commits, its rows
/// would never be merged.
#[tokio::test]
async fn a_day_is_not_claimed_while_a_flush_relies_on_its_row() {
    let harness = Harness::with_partitions(2).await;
    let mut all = flush();
    all.ranges.extend([offset_range(0, 0, 1), offset_range(1, 0, 1)]);
    all.posts.extend([post("a", NOON, 0, 0), post("b", NOON, 1, 0)]);
    harness.flush(&all).await;
    let mut flushing = harness.pool.begin().await.unwrap();
    sqlx::query("INSERT INTO rollup_unmerged (day, claimed) VALUES ('2019-07-03', false) ON CONFLICT DO NOTHING")
        .execute(&mut *flushing)
        .await
        .unwrap();
    assert_eq!(
        harness.store.merge_shards(due()).await.unwrap_err().kind,
        StoreErrorKind::Busy
    );
    flushing.commit().await.unwrap();
    assert!(harness.store.merge_shards(due()).await.unwrap() > 0);
}
