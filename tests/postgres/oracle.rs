//! Random streams against an independent oracle, with one consumer and with several at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use moodstream::{
    post::Language,
    store::{Flush, Tally},
};
use time::Duration;

use crate::support::store::{Harness, NOON, Random, deletion, flush, offset_range, post};

const PARTITIONS: i32 = 3;

/// What the tables should hold, computed record by record.
#[derive(Default)]
struct Oracle {
    /// Partition and offset of the stored copy.
    posts: BTreeMap<String, (i32, i64)>,
    deleted: BTreeSet<String>,
    tally: Tally,
}

impl Oracle {
    fn post(&mut self, id: &str, partition: i32, offset: i64) {
        if self.deleted.contains(id) || self.posts.contains_key(id) {
            self.tally.duplicates += 1;
            return;
        }
        self.tally.inserted += 1;
        self.posts.insert(id.to_owned(), (partition, offset));
    }

    fn delete(&mut self, id: &str) {
        self.tally.deletions += 1;
        if self.posts.remove(id).is_some() {
            self.tally.removed += 1;
        }
        self.deleted.insert(id.to_owned());
    }
}

/// Fills a flush with random records of a partition and calls `tell` for each. Returns the next offset.
pub fn fill(
    all: &mut Flush,
    random: &mut Random,
    ids: u64,
    partition: i32,
    from: i64,
    mut tell: impl FnMut(&str, bool, i64),
) -> i64 {
    let next = from + i64::try_from(random.below(40)).unwrap();
    for offset in from..next {
        let id = format!("id{}", random.below(ids));
        let deleted = random.below(3) == 0;
        tell(&id, deleted, offset);
        if deleted {
            all.deletions.push(deletion(&id, partition, offset));
            continue;
        }
        // Copies of a post differ in their time, even in their day, and in their subjects.
        let minutes = i64::try_from(random.below(5)).unwrap() + 1440 * i64::try_from(random.below(3)).unwrap();
        let mut row = post(&id, NOON + Duration::minutes(minutes), partition, offset);
        row.subjects = ["work", "play", "home"]
            .into_iter()
            .take(random.below(4) as usize)
            .map(Into::into)
            .collect();
        Arc::make_mut(&mut row.post).repost_of = (random.below(3) == 0).then(|| "original".try_into().unwrap());
        Arc::make_mut(&mut row.post).lang = Language::of_tag(["en", "pt", "und"][random.below(3) as usize]);
        all.posts.push(row);
    }
    all.ranges.push(offset_range(partition, from, next));
    next
}

#[tokio::test]
async fn tables_equal_those_of_an_oracle() {
    for seed in 1..=6 {
        let harness = Harness::with_partitions(PARTITIONS).await;
        let mut random = Random(seed);
        let mut oracle = Oracle::default();
        let mut next = [0; PARTITIONS as usize];
        let mut total = Tally::default();
        for _ in 0..25 {
            let mut all = flush();
            for partition in 0..PARTITIONS {
                let at = &mut next[usize::try_from(partition).unwrap()];
                *at = fill(&mut all, &mut random, 150, partition, *at, |id, deleted, offset| {
                    if deleted {
                        oracle.delete(id);
                    } else {
                        oracle.post(id, partition, offset);
                    }
                });
            }
            // The order within a flush must not matter, only offsets do.
            all.posts.reverse();
            all.ranges.reverse();
            total += harness.flush(&all).await.total();
        }
        assert_eq!(total, oracle.tally, "seed {seed}");
        let rows: Vec<(String, i32, i64)> =
            sqlx::query_as("SELECT post_id, kafka_partition, kafka_offset FROM post ORDER BY post_id COLLATE \"C\"")
                .fetch_all(&harness.pool)
                .await
                .unwrap();
        let expected: Vec<_> = oracle.posts.into_iter().map(|(id, (p, o))| (id, p, o)).collect();
        assert_eq!(rows, expected, "seed {seed}");
        harness.assert_whole().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_consumers_of_the_same_keys_neither_deadlock_nor_double() {
    let harness = Harness::with_partitions(4).await;
    let mut consumers = Vec::new();
    for partition in 0..4 {
        let store = harness.another_store().await;
        consumers.push(tokio::spawn(async move {
            let mut random = Random(100 + u64::try_from(partition).unwrap());
            let (mut posted, mut deleted) = (BTreeSet::new(), BTreeSet::new());
            let mut next = 0;
            for _ in 0..40 {
                let mut all = flush();
                next = fill(&mut all, &mut random, 400, partition, next, |id, gone, _| {
                    if gone {
                        deleted.insert(id.to_owned())
                    } else {
                        posted.insert(id.to_owned())
                    };
                });
                // No retries: a deadlock here would be a bug in the lock order.
                store.flush(&all).await.unwrap();
            }
            (posted, deleted, next)
        }));
    }
    let (mut posted, mut deleted, mut records) = (BTreeSet::new(), BTreeSet::new(), 0);
    for consumer in consumers {
        let (p, d, n) = consumer.await.unwrap();
        posted.extend(p);
        deleted.extend(d);
        records += n;
    }
    let expected: Vec<String> = posted.difference(&deleted).cloned().collect();
    assert!(!expected.is_empty());
    assert_eq!(harness.ids().await, expected);
    harness.assert_whole().await;
    let counted: i64 = sqlx::query_scalar("SELECT sum(records)::bigint FROM consumer_tally")
        .fetch_one(&harness.pool)
        .await
        .unwrap();
    assert_eq!(counted, records);
}
