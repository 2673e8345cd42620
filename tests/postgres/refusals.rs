//! Flushes that the store or the database refuses, and what is reported.

use moodstream::store::{Flush, FlushError, MAX_DAYS, StoreErrorKind};
use time::Duration;

use crate::support::store::{Harness, NOON, deletion, flush, offset_range, post};

#[tokio::test]
async fn a_flush_of_too_many_days_is_refused() {
    let harness = Harness::with_partitions(1).await;
    let of_days = |days: usize| {
        let mut all = flush();
        all.ranges.push(offset_range(0, 0, 1000));
        all.posts = (0..days)
            .map(|day| {
                let day = i64::try_from(day).unwrap();
                post(&day.to_string(), NOON + Duration::days(day), 0, day)
            })
            .collect();
        all
    };
    let error = harness.store.flush(&of_days(MAX_DAYS + 1)).await.unwrap_err();
    assert!(
        matches!(error, FlushError::TooManyDays { .. }) && !error.is_transient(),
        "{error}"
    );
    assert_eq!(harness.count("pg_inherits").await, 0, "no partition was created for it");
    harness.flush(&of_days(MAX_DAYS)).await;
    assert_eq!(harness.count("post").await, i64::try_from(MAX_DAYS).unwrap());
    harness.assert_whole().await;
}

#[tokio::test]
async fn inconsistent_flushes_are_refused_before_anything_is_written() {
    let harness = Harness::with_partitions(1).await;
    type Spoil = fn(&mut Flush);
    let cases: [(&str, Spoil); 9] = [
        ("belongs to no range", |f| f.posts.push(post("a", NOON, 9, 0))),
        ("belongs to no range", |f| f.deletions.push(deletion("a", 9, 0))),
        ("lies outside its range", |f| f.posts.push(post("a", NOON, 0, 10))),
        ("two ranges of posts/0", |f| f.ranges.push(offset_range(0, 0, 1))),
        ("goes from 5 to 4", |f| f.ranges.push(offset_range(1, 5, 4))),
        ("1 scores, but the model has 2 labels", |f| {
            f.posts.push(post("a", NOON, 0, 0));
            f.posts[0].prediction.scores = [0.5].into();
        }),
        ("not a multiple of 2^-20", |f| {
            f.posts.push(post("a", NOON, 0, 0));
            f.posts[0].prediction.score = 0.1;
        }),
        ("not a multiple of 2^-20", |f| {
            f.posts.push(post("a", NOON, 0, 0));
            f.posts[0].prediction.scores = [f64::NAN, 0.5].into();
        }),
        ("has 11 records between offsets 0 and 10", |f| {
            f.ranges[0].rejected = 11;
        }),
    ];
    for (expected, spoil) in cases {
        let mut bad = flush();
        bad.ranges.push(offset_range(0, 0, 10));
        spoil(&mut bad);
        let error = harness.store.flush(&bad).await.unwrap_err();
        assert!(matches!(error, FlushError::Invalid(_)), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!error.is_transient());
    }
    assert_eq!(harness.count("post_key").await, 0);
}

#[tokio::test]
async fn a_rollup_changed_by_hand_is_detected() {
    let harness = Harness::with_partitions(1).await;
    let mut all = flush();
    all.ranges.push(offset_range(0, 0, 1));
    all.posts.push(post("a", NOON, 0, 0));
    harness.flush(&all).await;
    harness.execute("TRUNCATE emotion_rollup").await;
    let mut gone = flush();
    gone.ranges.push(offset_range(0, 1, 2));
    gone.deletions.push(deletion("a", 0, 1));
    let error = harness.store.flush(&gone).await.unwrap_err();
    assert!(
        matches!(error, FlushError::Inconsistent(_)) && !error.is_transient(),
        "{error}"
    );
    assert_eq!(harness.ids().await, ["a"], "the post is still there");
}

/// The store distinguishes a record whose row is refused from a database that refuses every row, and leaves nothing behind.
#[tokio::test]
async fn a_plain_row_shows_whether_the_row_or_the_database_is_at_fault() {
    let harness = Harness::with_partitions(1).await;
    let mut first = flush();
    first.ranges.push(offset_range(0, 0, 1));
    first.posts.push(post("kept", NOON, 0, 0));
    harness.flush(&first).await;
    let mut posted = flush();
    posted.ranges.push(offset_range(0, 1, 2));
    posted.posts.push(post("refused", NOON, 0, 1));
    let mut deleted = flush();
    deleted.ranges.push(offset_range(0, 1, 2));
    deleted.deletions.push(deletion("kept", 0, 1));
    let refuses = async |all: &Flush| {
        let error = harness.store.flush(all).await.unwrap_err();
        assert!(
            matches!(&error, FlushError::Store(error) if error.kind == StoreErrorKind::Row),
            "{error}"
        );
        !harness.store.takes_plain_rows(all).await.unwrap()
    };
    let all_posts = "ALTER TABLE post ADD CHECK (text = '') NOT VALID";
    for (change, undone, all, every_row) in [
        ("ALTER TABLE post ADD CONSTRAINT c CHECK (post_id <> 'refused')", "ALTER TABLE post DROP CONSTRAINT c", &posted, false),
        ("CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not here'; END $$;
          CREATE TRIGGER no BEFORE INSERT ON post FOR EACH ROW EXECUTE FUNCTION no()", "DROP TRIGGER no ON post", &posted, true),
        ("CREATE TRIGGER no BEFORE INSERT ON post_key FOR EACH ROW EXECUTE FUNCTION no()", "DROP TRIGGER no ON post_key", &posted, true),
        ("CREATE TRIGGER no BEFORE DELETE ON post FOR EACH ROW EXECUTE FUNCTION no()", "DROP TRIGGER no ON post", &deleted, true),
        ("CREATE TABLE mine (source text, post_id text, created_at timestamptz, FOREIGN KEY (source, post_id, created_at)
          REFERENCES post (source, post_id, created_at)); INSERT INTO mine SELECT source, post_id, created_at FROM post",
         "DROP TABLE mine", &deleted, false),
        (all_posts, "SELECT 1", &posted, true),
    ] {
        harness.execute(change).await;
        assert_eq!(refuses(all).await, every_row, "{change}");
        harness.execute(undone).await;
        assert_eq!(harness.ids().await, ["kept"]);
        harness.assert_whole().await;
    }
    assert_eq!(harness.count("post_key").await, 1);
    assert_eq!(harness.count("consumer_offset WHERE next_offset = 1").await, 1);
    // The fence is checked before any row.
    deleted.ranges[0].expected = 0;
    assert!(matches!(
        harness.store.takes_plain_rows(&deleted).await,
        Err(FlushError::Fenced(_))
    ));
}
