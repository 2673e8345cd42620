//! Offsets, fences, commits whose response is lost, and database errors.

use std::{sync::Arc, time::Duration};

use moodstream::store::{FencedRange, Flush, FlushError, Flushed, Store, StoreErrorKind, StoreOptions, Tally};

use crate::{
    support::proxy::{Cut, Proxy},
    support::store::{
        GROUP, Harness, NOON, TOPIC, cluster, deletion, flush, insert_start_offset, offset_range, options, post,
    },
};

fn batch(partition: i32, from: i64) -> Flush {
    let mut all = flush();
    all.ranges.push(offset_range(partition, from, from + 2));
    all.posts
        .push(post(&format!("{partition}-{from}"), NOON, partition, from));
    all.deletions.push(deletion("unseen", partition, from + 1));
    all
}

fn fault(error: &FlushError) -> StoreErrorKind {
    match error {
        FlushError::Store(error) => error.kind,
        other => panic!("not a database error: {other}"),
    }
}

#[tokio::test]
async fn start_offsets_are_stored_once() {
    let harness = Harness::new().await;
    let asked: Vec<(Arc<str>, i32)> = vec![(TOPIC.into(), 0), (TOPIC.into(), 1), ("other".into(), 0)];
    assert!(harness.store.next_offsets(GROUP, &asked).await.unwrap().is_empty());
    assert_eq!(insert_start_offset(&harness.store, GROUP, 1, 40).await, 40);
    assert_eq!(insert_start_offset(&harness.store, GROUP, 1, 99).await, 40);
    assert_eq!(insert_start_offset(&harness.store, "another group", 0, 7).await, 7);
    harness.flush(&batch(1, 40)).await;
    let offsets = harness.store.next_offsets(GROUP, &asked).await.unwrap();
    assert_eq!(offsets, [((TOPIC.into(), 1), 42)].into());
}

#[tokio::test]
async fn a_slow_owner_is_fenced_and_can_flush_its_other_partitions() {
    let harness = Harness::with_partitions(3).await;
    harness.flush(&batch(1, 0)).await;
    // This consumer still assumes that it owns all partitions; the group has no offset for partition 9.
    let mut slow = flush();
    for partition in [0, 1, 2, 9] {
        slow.ranges.push(offset_range(partition, 0, 2));
        slow.posts.push(post(&format!("slow-{partition}"), NOON, partition, 0));
        slow.deletions
            .push(deletion(&format!("slow-deletion-{partition}"), partition, 1));
    }
    let FlushError::Fenced(fenced) = harness.store.flush(&slow).await.unwrap_err() else {
        panic!("not fenced")
    };
    let fenced_range = |partition, found| FencedRange {
        topic: TOPIC.into(),
        partition,
        expected: 0,
        found,
    };
    assert_eq!(fenced, [fenced_range(1, Some(2)), fenced_range(9, None)]);
    assert_eq!(harness.ids().await, ["1-0"], "nothing of a fenced flush is stored");

    for range in &fenced {
        slow.drop_partition(&range.topic, range.partition);
    }
    let flushed = harness.flush(&slow).await;
    assert_eq!(
        flushed.total(),
        Tally {
            inserted: 2,
            deletions: 2,
            ..Tally::default()
        }
    );
    assert_eq!(harness.ids().await, ["1-0", "slow-0", "slow-2"]);
    harness.assert_whole().await;
}

#[tokio::test]
async fn a_second_flush_of_the_same_offsets_waits_and_is_fenced() {
    let harness = Harness::with_partitions(1).await;
    let mut owner = harness.pool.begin().await.unwrap();
    sqlx::query("UPDATE consumer_offset SET next_offset = 5")
        .execute(&mut *owner)
        .await
        .unwrap();
    let store = harness.store.clone();
    let second = tokio::spawn(async move { store.flush(&batch(0, 0)).await });
    // Until the second one waits for the lock.
    while harness.count("pg_locks WHERE NOT granted").await == 0 {
        tokio::task::yield_now().await;
    }
    owner.commit().await.unwrap();
    let error = second.await.unwrap().unwrap_err();
    assert!(
        matches!(&error, FlushError::Fenced(ranges) if ranges[0].found == Some(5)),
        "{error}"
    );
}

#[tokio::test]
async fn a_commit_whose_response_was_lost_is_recognised_by_the_next_attempt() {
    let harness = Harness::with_partitions(2).await;
    let proxy = Proxy::start(cluster().port()).await;
    let through = harness
        .url
        .replace(&cluster().port().to_string(), &proxy.port.to_string());
    let store = Store::connect(&options(&through)).await.unwrap();

    // The commit did not take place: the next attempt does it.
    let lost = batch(0, 0);
    proxy.cut(Cut::Before);
    let error = store.flush(&lost).await.unwrap_err();
    assert!(
        error.is_transient() && fault(&error) == StoreErrorKind::Unreachable,
        "{error}"
    );
    assert!(harness.ids().await.is_empty());
    let flushed = store.flush(&lost).await.unwrap();
    assert!(!flushed.replayed);
    assert_eq!(flushed.written, [0]);

    // The commit took place: the next attempt finds that out, and still knows its result.
    let committed = batch(0, 2);
    proxy.cut(Cut::After);
    let error = store.flush(&committed).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(harness.ids().await, ["0-0", "0-2"]);
    let flushed = store.flush(&committed).await.unwrap();
    assert!(flushed.replayed);
    assert_eq!(
        flushed.total(),
        Tally {
            inserted: 1,
            deletions: 1,
            ..Tally::default()
        }
    );
    // Any other flush of the same records is fenced.
    assert!(matches!(
        store.flush(&batch(0, 2)).await.unwrap_err(),
        FlushError::Fenced(_)
    ));

    // The commit covered two partitions, and another consumer has moved one of them on since.
    let mut both = batch(0, 4);
    both.ranges.push(offset_range(1, 0, 1));
    proxy.cut(Cut::After);
    store.flush(&both).await.unwrap_err();
    harness.flush(&batch(1, 1)).await;
    assert!(store.flush(&both).await.unwrap().replayed);
    // A process that did not send it recognises it too.
    let flushed = harness.another_store().await.flush(&both).await.unwrap();
    assert!(flushed.replayed && flushed.tallies.is_empty());

    // The commit took place, and before the next attempt one of its partitions was revoked.
    let mut shrunk = batch(0, 6);
    shrunk.ranges.push(offset_range(1, 3, 4));
    proxy.cut(Cut::After);
    store.flush(&shrunk).await.unwrap_err();
    shrunk.drop_partition(TOPIC, 1);
    let flushed = store.flush(&shrunk).await.unwrap();
    assert!(flushed.replayed && flushed.tallies.is_empty());
    harness.assert_whole().await;
}

/// Flushes through a store with a single connection and a proxy that silently loses it. Returns the result of that flush,
/// and of the first successful retry once the proxy forwards bytes again.
async fn flush_into_silence(harness: &Harness, cut: Cut, flush: &Flush) -> (Result<Flushed, FlushError>, Flushed) {
    let proxy = Proxy::start(cluster().port()).await;
    let through = harness
        .url
        .replace(&cluster().port().to_string(), &proxy.port.to_string());
    let single = StoreOptions {
        max_connections: 1,
        statement_timeout_seconds: 1,
        ..options(&through)
    };
    let store = Store::connect(&single).await.unwrap();
    store.ensure_partitions(NOON, 0).await.unwrap();
    proxy.cut(cut);
    let result = store.flush(flush).await;
    while !proxy.has_swallowed() {
        tokio::task::yield_now().await;
    }
    proxy.speak();
    loop {
        match store.flush(flush).await {
            Ok(flushed) => return (result, flushed),
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
    }
}

#[tokio::test]
async fn a_flush_whose_database_falls_silent_before_the_commit_is_stored_by_a_retry() {
    let harness = Harness::with_partitions(1).await;
    let (result, flushed) = flush_into_silence(&harness, Cut::SilentBefore, &batch(0, 0)).await;
    let error = result.unwrap_err();
    assert_eq!(fault(&error), StoreErrorKind::Unreachable, "{error}");
    assert!(error.to_string().contains("has been silent"), "{error}");
    assert!(!flushed.replayed);
    assert_eq!(harness.ids().await, ["0-0"]);
    harness.assert_whole().await;
}

#[tokio::test]
async fn a_flush_whose_database_falls_silent_after_the_commit_is_recognised_by_a_retry() {
    let harness = Harness::with_partitions(1).await;
    let (result, flushed) = flush_into_silence(&harness, Cut::SilentAfter, &batch(0, 0)).await;
    let error = result.unwrap_err();
    assert_eq!(fault(&error), StoreErrorKind::Unreachable, "{error}");
    assert!(flushed.replayed);
    assert_eq!(harness.ids().await, ["0-0"]);
    harness.assert_whole().await;
}

#[tokio::test]
async fn a_database_that_falls_silent_as_its_connection_is_returned_costs_no_slot_of_the_pool() {
    let harness = Harness::with_partitions(1).await;
    let (result, flushed) = flush_into_silence(&harness, Cut::SilentAnswered, &batch(0, 0)).await;
    assert!(!result.unwrap().replayed && flushed.replayed);
    harness.assert_whole().await;
}

#[tokio::test]
async fn filtered_late_and_rejected_records_are_tallied() {
    let harness = Harness::with_partitions(1).await;
    let mut all = flush();
    all.ranges.push(moodstream::store::OffsetRange {
        filtered: 3,
        late: 2,
        rejected: 1,
        ..offset_range(0, 0, 10)
    });
    all.posts.push(post("a", NOON, 0, 0));
    let flushed = harness.flush(&all).await;
    assert_eq!(flushed.total().records(), 7);
    let empty = {
        let mut empty = flush();
        empty.ranges.push(offset_range(0, 10, 30));
        empty
    };
    assert_eq!(
        harness.flush(&empty).await.total().records(),
        0,
        "a gap in a compacted topic"
    );
    let tally: (i64, i64, i64, i64, i64) =
        sqlx::query_as("SELECT records, inserted, filtered, late, rejected FROM consumer_tally")
            .fetch_one(&harness.pool)
            .await
            .unwrap();
    assert_eq!(tally, (7, 1, 3, 2, 1));
}

#[tokio::test]
async fn faults_are_classified() {
    let harness = Harness::with_partitions(1).await;
    let impatient = StoreOptions {
        lock_timeout_seconds: 1,
        ..options(&harness.url)
    };
    let store = Store::connect(&impatient).await.unwrap();
    let mut holder = harness.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE post IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *holder)
        .await
        .unwrap();
    let error = store.flush(&batch(0, 0)).await.unwrap_err();
    assert_eq!(fault(&error), StoreErrorKind::Busy, "{error}");
    holder.rollback().await.unwrap();

    // A primary that is demoted while the service runs: new sessions are read-only.
    let name = harness.url.rsplit('/').next().unwrap();
    let kill = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
    let another = harness.another_store().await;
    cluster()
        .execute(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on"))
        .unwrap();
    cluster().execute(&kill).unwrap();
    let error = another.flush(&batch(0, 0)).await.unwrap_err();
    assert_eq!(fault(&error), StoreErrorKind::ReadOnly, "{error}");
    assert!(
        error.is_transient() && error.to_string().contains("read-only"),
        "{error}"
    );
    cluster()
        .execute(&format!("ALTER DATABASE {name} RESET default_transaction_read_only"))
        .unwrap();

    // Connections that the server closes are replaced without an error.
    cluster().execute(&kill).unwrap();
    store.flush(&batch(0, 0)).await.unwrap();

    cluster().execute(&format!("CREATE ROLE nobody_{name} LOGIN")).unwrap();
    let denied = harness.url.replace("postgres@", &format!("nobody_{name}@"));
    let error = Store::connect(&options(&denied))
        .await
        .unwrap()
        .flush(&batch(0, 2))
        .await
        .unwrap_err();
    assert_eq!(fault(&error), StoreErrorKind::Denied, "{error}");
    assert!(!error.is_transient() && !error.to_string().contains('\n'), "{error}");
}

#[tokio::test]
async fn a_failed_connection_reports_the_cause() {
    let cluster = cluster();
    let closed = {
        std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port()
    };
    let cases = [
        (
            format!("postgres://postgres@127.0.0.1:{closed}/x"),
            StoreErrorKind::Unreachable,
            "refused",
        ),
        (cluster.url("missing"), StoreErrorKind::Schema, "does not exist"),
        (
            cluster.url("postgres").replace("postgres@", "stranger@"),
            StoreErrorKind::Denied,
            "stranger",
        ),
        (
            format!("{}?sslmode=require", cluster.url("postgres")),
            StoreErrorKind::Settings,
            "TLS",
        ),
        ("mysql://x".into(), StoreErrorKind::Settings, "postgres://"),
    ];
    for (url, fault, word) in cases {
        let started = std::time::Instant::now();
        let error = Store::connect(&options(&url)).await.unwrap_err();
        assert_eq!(error.kind, fault, "{url}: {error}");
        assert!(error.to_string().contains(word), "{url}: {error}");
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "{url}: waited for the whole timeout"
        );
    }
}
