//! Measures rows and deletions per second written to a throwaway Postgres through one connection:
//! `cargo bench --bench store`. Each figure is the median over its flushes.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../tests/support/postgres.rs"]
mod postgres;
mod support;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use moodstream::{
    model::ModelInfo,
    post::{Deletion, Origin, Source},
    store::{DeletionRow, Flush, OffsetRange, PostRow, Store, StoreOptions},
};
use sqlx::PgPool;
use time::macros::datetime;

fn origin(topic: &Arc<str>, offset: i64) -> Origin {
    Origin {
        topic: topic.clone(),
        partition: 0,
        offset,
    }
}

/// The post at an offset: 50 per second of event time.
fn post(topic: &Arc<str>, offset: i64) -> PostRow {
    let number = offset.unsigned_abs();
    let created_at = datetime!(2019-07-03 12:00 UTC) + Duration::from_millis(number * 20);
    support::post(origin(topic, offset), number, created_at)
}

/// A deletion of a post never seen.
fn deletion(topic: &Arc<str>, offset: i64) -> DeletionRow {
    let id = 400_000_000_000_000_000 + support::mix(offset.unsigned_abs());
    DeletionRow {
        deletion: Deletion {
            source: Source::Twitter,
            post_id: id.to_string().try_into().unwrap(),
        },
        origin: origin(topic, offset),
    }
}

struct Bench {
    store: Store,
    pool: PgPool,
    topic: Arc<str>,
    model: Arc<ModelInfo>,
    next: i64,
}

impl Bench {
    async fn new(cluster: &postgres::Postgres) -> Self {
        let url = cluster.database().unwrap();
        let store = Store::connect(&StoreOptions {
            url: url.as_str().into(),
            ..StoreOptions::default()
        })
        .await
        .unwrap();
        store.migrate().await.unwrap();
        store
            .insert_start_offsets("bench", &[(("posts".into(), 0), 0)], None)
            .await
            .unwrap();
        Self {
            store,
            pool: PgPool::connect(&url).await.unwrap(),
            topic: "posts".into(),
            model: support::model(),
            next: 0,
        }
    }

    fn flush(&mut self, records: i64, is_post: impl Fn(i64) -> bool) -> Flush {
        let (from, next) = (self.next, self.next + records);
        self.next = next;
        let mut flush = Flush::new("bench".into(), self.model.clone());
        let topic = self.topic.clone();
        flush.ranges.push(OffsetRange {
            topic: topic.clone(),
            partition: 0,
            expected: from,
            next,
            filtered: 0,
            late: 0,
            rejected: 0,
            last: None,
        });
        for offset in from..next {
            if is_post(offset) {
                flush.posts.push(post(&topic, offset));
            } else {
                flush.deletions.push(deletion(&topic, offset));
            }
        }
        flush
    }

    /// Returns records per second: the median over flushes, after a warm-up.
    async fn measure(&mut self, records: i64, flushes: usize, is_post: impl Fn(i64) -> bool) -> f64 {
        let mut rates = Vec::new();
        for turn in 0..flushes + 3 {
            let flush = self.flush(records, &is_post);
            let start = Instant::now();
            self.store.flush(&flush).await.unwrap();
            if turn >= 3 {
                rates.push(records as f64 / start.elapsed().as_secs_f64());
            }
        }
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    }
}

#[tokio::main]
async fn main() {
    let cluster = postgres::Postgres::start().unwrap();
    println!("{:>34} {:>8} {:>12}", "what", "records", "records/s");
    for records in [100, 1_000, 4_000, 8_000] {
        let flushes = usize::try_from(160_000 / records).unwrap().min(60);
        let rate = Bench::new(&cluster).await.measure(records, flushes, |_| true).await;
        println!("{:>34} {records:>8} {rate:>12.0}", "posts");
        let rate = Bench::new(&cluster).await.measure(records, flushes, |_| false).await;
        println!("{:>34} {records:>8} {rate:>12.0}", "deletions of posts never seen");
        let rate = Bench::new(&cluster)
            .await
            .measure(records, flushes, |offset| offset % 4 == 0)
            .await;
        println!(
            "{:>34} {records:>8} {rate:>12.0}",
            "the real stream: 1 post, 3 deletions"
        );
    }
    // The cost of each index: the same with that index dropped.
    for (index, what) in [
        ("post_created_at", "posts, without index created_at"),
        ("post_emotion_created_at", "posts, without index emotion"),
        ("post_hashtags", "posts, without index hashtags"),
    ] {
        let mut bench = Bench::new(&cluster).await;
        sqlx::query(sqlx::AssertSqlSafe(format!("DROP INDEX {index}")))
            .execute(&bench.pool)
            .await
            .unwrap();
        let rate = bench.measure(4_000, 40, |_| true).await;
        println!("{what:>34} {:>8} {rate:>12.0}", 4_000);
    }
}
