//! Offsets, fences, commits whose answer is lost, and faults of the database.

use std::{sync::Arc, time::Duration};

use moodstream::store::{Fault, FencedRange, Flush, FlushError, Flushed, Store, StoreOptions, Tally};

use crate::{
    support::proxy::{Cut, Proxy},
    support::store::{GROUP, Harness, NOON, TOPIC, cluster, deletion, flush, options, post, run},
};

fn batch(partition: i32, from: i64) -> Flush {
    let mut all = flush();
    all.ranges.push(run(partition, from, from + 2));
    all.posts
        .push(post(&format!("{partition}-{from}"), NOON, partition, from));
    all.deletions.push(deletion("unseen", partition, from + 1));
    all
}

fn fault(error: &FlushError) -> Fault {
    match error {
        FlushError::Store(error) => error.fault,
        other => panic!("not a failure of the database: {other}"),
    }
}

#[tokio::test]
async fn offsets_begin_once() {
    let harness = Harness::new().await;
    let asked: Vec<(Arc<str>, i32)> = vec![(TOPIC.into(), 0), (TOPIC.into(), 1), ("other".into(), 0)];
    assert!(harness.store.start_offsets(GROUP, &asked).await.unwrap().is_empty());
    assert_eq!(harness.store.begin_offset(GROUP, TOPIC, 1, 40).await.unwrap(), 40);
    assert_eq!(harness.store.begin_offset(GROUP, TOPIC, 1, 99).await.unwrap(), 40);
    assert_eq!(
        harness.store.begin_offset("another group", TOPIC, 0, 7).await.unwrap(),
        7
    );
    harness.flush(&batch(1, 40)).await;
    let offsets = harness.store.start_offsets(GROUP, &asked).await.unwrap();
    assert_eq!(offsets, [((TOPIC.into(), 1), 42)].into());
}

#[tokio::test]
async fn a_slow_owner_is_fenced_and_keeps_the_rest() {
    let harness = Harness::with_partitions(3).await;
    harness.flush(&batch(1, 0)).await;
    // This one still believes that it owns all of them; the group has no offset for partition 9.
    let mut slow = flush();
    for partition in [0, 1, 2, 9] {
        slow.ranges.push(run(partition, 0, 2));
        slow.posts.push(post(&format!("slow-{partition}"), NOON, partition, 0));
        slow.deletions
            .push(deletion(&format!("slow-deletion-{partition}"), partition, 1));
    }
    let FlushError::Fenced(fenced) = harness.store.flush(&slow).await.unwrap_err() else {
        panic!("not fenced")
    };
    let run = |partition, found| FencedRange {
        topic: TOPIC.into(),
        partition,
        expected: 0,
        found,
    };
    assert_eq!(fenced, [run(1, Some(2)), run(9, None)]);
    assert_eq!(harness.ids().await, ["1-0"], "nothing of a fenced flush is stored");

    slow.drop_ranges(&fenced);
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
async fn who_comes_second_to_a_partition_waits_and_is_fenced() {
    let harness = Harness::with_partitions(1).await;
    let mut owner = harness.pool.begin().await.unwrap();
    sqlx::query("UPDATE consumer_offset SET next_offset = 5")
        .execute(&mut *owner)
        .await
        .unwrap();
    let store = harness.store.clone();
    let second = tokio::spawn(async move { store.flush(&batch(0, 0)).await });
    // The server itself says when the second one waits.
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
async fn a_commit_whose_answer_was_lost_is_settled_by_the_next_try() {
    let harness = Harness::with_partitions(2).await;
    let proxy = Proxy::start(cluster().port()).await;
    let through = harness
        .url
        .replace(&cluster().port().to_string(), &proxy.port.to_string());
    let store = Store::connect(&options(&through)).await.unwrap();

    // It did not take place: the next try does it.
    let lost = batch(0, 0);
    proxy.cut(Cut::Before);
    let error = store.flush(&lost).await.unwrap_err();
    assert!(error.is_transient() && fault(&error) == Fault::Unreachable, "{error}");
    assert!(harness.ids().await.is_empty());
    let flushed = store.flush(&lost).await.unwrap();
    assert!(!flushed.replayed);
    assert_eq!(flushed.written, [0]);

    // It took place: the next try finds that out, and still knows what came of it.
    let landed = batch(0, 2);
    proxy.cut(Cut::After);
    let error = store.flush(&landed).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(harness.ids().await, ["0-0", "0-2"]);
    let flushed = store.flush(&landed).await.unwrap();
    assert!(flushed.replayed);
    assert_eq!(
        flushed.total(),
        Tally {
            inserted: 1,
            deletions: 1,
            ..Tally::default()
        }
    );
    // The fence holds for everybody else's flush of the same records.
    assert!(matches!(
        store.flush(&batch(0, 2)).await.unwrap_err(),
        FlushError::Fenced(_)
    ));

    // It took place in two partitions, and another consumer has moved on with one of them since.
    let mut both = batch(0, 4);
    both.ranges.push(run(1, 0, 1));
    proxy.cut(Cut::After);
    store.flush(&both).await.unwrap_err();
    harness.flush(&batch(1, 1)).await;
    assert!(store.flush(&both).await.unwrap().replayed);
    // Known also to a process that did not send it.
    let flushed = harness.another_store().await.flush(&both).await.unwrap();
    assert!(flushed.replayed && flushed.tallies.is_empty());

    // It took place, and before the next try one of its partitions was taken away.
    let mut shrunk = batch(0, 6);
    shrunk.ranges.push(run(1, 3, 4));
    proxy.cut(Cut::After);
    store.flush(&shrunk).await.unwrap_err();
    shrunk.drop_partition(TOPIC, 1);
    let flushed = store.flush(&shrunk).await.unwrap();
    assert!(flushed.replayed && flushed.tallies.is_empty());
    harness.assert_whole().await;
}

/// A store that has a single connection, and a proxy before its database that loses the connection without a word.
/// The flush's result then, and what the next try that is answered brings once the database speaks again.
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
async fn a_database_that_falls_silent_before_a_commit_is_given_up_and_the_next_try_does_it() {
    let harness = Harness::with_partitions(1).await;
    let (result, flushed) = flush_into_silence(&harness, Cut::SilentBefore, &batch(0, 0)).await;
    let error = result.unwrap_err();
    assert_eq!(fault(&error), Fault::Unreachable, "{error}");
    assert!(error.to_string().contains("no sign of life"), "{error}");
    assert!(!flushed.replayed);
    assert_eq!(harness.ids().await, ["0-0"]);
    harness.assert_whole().await;
}

#[tokio::test]
async fn a_database_that_falls_silent_after_a_commit_is_given_up_and_the_next_try_finds_it_done() {
    let harness = Harness::with_partitions(1).await;
    let (result, flushed) = flush_into_silence(&harness, Cut::SilentAfter, &batch(0, 0)).await;
    let error = result.unwrap_err();
    assert_eq!(fault(&error), Fault::Unreachable, "{error}");
    assert!(flushed.replayed);
    assert_eq!(harness.ids().await, ["0-0"]);
    harness.assert_whole().await;
}

#[tokio::test]
async fn a_database_that_falls_silent_as_its_connection_goes_back_costs_no_place_in_the_pool() {
    let harness = Harness::with_partitions(1).await;
    let (result, flushed) = flush_into_silence(&harness, Cut::SilentAnswered, &batch(0, 0)).await;
    assert!(!result.unwrap().replayed && flushed.replayed);
    harness.assert_whole().await;
}

#[tokio::test]
async fn what_others_settled_shows_in_the_tally() {
    let harness = Harness::with_partitions(1).await;
    let mut all = flush();
    all.ranges.push(moodstream::store::OffsetRange {
        filtered: 3,
        late: 2,
        rejected: 1,
        ..run(0, 0, 10)
    });
    all.posts.push(post("a", NOON, 0, 0));
    let flushed = harness.flush(&all).await;
    assert_eq!(flushed.total().records(), 7);
    let empty = {
        let mut empty = flush();
        empty.ranges.push(run(0, 10, 30));
        empty
    };
    assert_eq!(
        harness.flush(&empty).await.total().records(),
        0,
        "a gap of a compacted topic"
    );
    let tally: (i64, i64, i64, i64, i64) =
        sqlx::query_as("SELECT records, inserted, filtered, late, rejected FROM consumer_tally")
            .fetch_one(&harness.pool)
            .await
            .unwrap();
    assert_eq!(tally, (7, 1, 3, 2, 1));
}

#[tokio::test]
async fn faults_are_told_apart() {
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
    assert_eq!(fault(&error), Fault::Busy, "{error}");
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
    assert_eq!(fault(&error), Fault::ReadOnly, "{error}");
    assert!(
        error.is_transient() && error.to_string().contains("read-only"),
        "{error}"
    );
    cluster()
        .execute(&format!("ALTER DATABASE {name} RESET default_transaction_read_only"))
        .unwrap();

    // Connections that the server ends are replaced without a word.
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
    assert_eq!(fault(&error), Fault::Denied, "{error}");
    assert!(!error.is_transient() && !error.to_string().contains('\n'), "{error}");
}

#[tokio::test]
async fn a_connection_that_can_not_be_had_says_why() {
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
            Fault::Unreachable,
            "refused",
        ),
        (cluster.url("missing"), Fault::Schema, "does not exist"),
        (
            cluster.url("postgres").replace("postgres@", "stranger@"),
            Fault::Denied,
            "stranger",
        ),
        (
            format!("{}?sslmode=require", cluster.url("postgres")),
            Fault::Settings,
            "TLS",
        ),
        ("mysql://x".into(), Fault::Settings, "postgres://"),
    ];
    for (url, fault, word) in cases {
        let started = std::time::Instant::now();
        let error = Store::connect(&options(&url)).await.unwrap_err();
        assert_eq!(error.fault, fault, "{url}: {error}");
        assert!(error.to_string().contains(word), "{url}: {error}");
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "{url} took the whole timeout"
        );
    }
}
