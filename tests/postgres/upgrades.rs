//! Programs beside a schema that a newer one has migrated.

use moodstream::store::{Fault, FlushError, Schema, Store, schema_version};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::support::store::{Harness, NOON, deletion, flush, post, run};

/// What a later version of this program would apply; `min_writer` null where it says nothing.
async fn apply_later_migration(harness: &Harness, min_writer: Option<i64>, sql: &str) {
    let mut connection = PgConnection::connect(&harness.url).await.unwrap();
    let mut tx = connection.begin().await.unwrap();
    // As `migrate` does first.
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
        all.ranges.push(run(partition, first, first + 3));
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
async fn members_go_on_while_and_after_a_newer_schema_is_applied() {
    let harness = Harness::with_partitions(2).await;
    let (old, new) = (harness.another_store().await, harness.another_store().await);
    work(&old, 0, 0..5).await;
    let running = tokio::spawn(async move {
        work(&old, 0, 5..40).await;
        old
    });
    // All kinds of what is additive: a column, a table, an index, a column of the schema's own.
    apply_later_migration(
        &harness,
        Some(schema_version()),
        "ALTER TABLE post ADD COLUMN mood real NOT NULL DEFAULT 0; CREATE TABLE later (id bigint PRIMARY KEY);
         CREATE INDEX later_author ON post (author_id); ALTER TABLE consumer_offset ADD COLUMN later_note text;
         ALTER TABLE emotion_rollup ADD COLUMN mood_sum float8 NOT NULL DEFAULT 0",
    )
    .await;
    // The newer member writes beside the old one, and what is new to the other.
    work(&new, 1, 0..40).await;
    harness
        .execute("UPDATE post SET mood = 1 WHERE kafka_partition = 1")
        .await;
    let old = running.await.unwrap();
    work(&old, 0, 40..45).await;
    harness.assert_whole().await;
    assert_eq!(harness.count("post WHERE kafka_partition = 0 AND mood = 0").await, 50);

    // One of this version that starts now runs, and its `migrate` leaves all as it is.
    let starting = harness.another_store().await;
    let ahead = Schema::Ahead { version: 9001 };
    assert_eq!(starting.schema().await.unwrap(), ahead);
    assert_eq!(starting.migrate().await.unwrap(), ahead);
    starting.ensure_partitions(NOON, 40).await.unwrap();
    work(&starting, 0, 45..46).await;
    harness.assert_whole().await;
}

#[tokio::test]
async fn a_schema_that_asks_for_newer_programs_ends_older_members() {
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
    next.ranges.push(run(0, 3, 4));
    next.posts.push(post("next", NOON, 0, 3));
    let error = harness.store.flush(&next).await.unwrap_err();
    assert!(
        matches!(&error, FlushError::Outdated(why) if why.contains(says)) && !error.is_transient(),
        "{error}"
    );
    assert_eq!(harness.count("post WHERE post_id = 'next'").await, 0);
    let starting = harness.another_store().await;
    for error in [
        starting.schema().await.unwrap_err(),
        starting.migrate().await.unwrap_err(),
    ] {
        assert!(
            error.fault == Fault::Schema && error.to_string().contains(says),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_newer_migration_that_does_not_say_whom_it_lets_write_is_refused() {
    let harness = Harness::new().await;
    apply_later_migration(&harness, None, "SELECT 1").await;
    let error = harness.store.schema().await.unwrap_err();
    assert!(
        error.fault == Fault::Schema && error.to_string().contains("9001"),
        "{error}"
    );
}

/// A migration that alters one table and waits for another, which a flush holds that waits for the first, once met a deadlock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrating_waits_for_flushes_under_way_and_holds_the_others() {
    let harness = Harness::with_partitions(1).await;
    // As if migration 15 were still to come.
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
        // The flush goes on to the tables that are to be altered.
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
