//! Windows that slide by the minute: of any width, and reaching into minutes past retention.

use moodstream::store::Retention;
use sqlx::AssertSqlSafe;
use time::macros::datetime;

use crate::{
    support::store::Random,
    trends::{assert_equal, seeded},
};

/// Compares `emotion_rolling` and `group_rolling` with plain recounts.
async fn assert_windows(
    harness: &crate::support::store::Harness,
    since: &str,
    minutes: u64,
    width: u64,
    filter: (&str, &str),
) {
    let (arguments, condition) = filter;
    let until = format!("({since} + interval '{minutes} minutes')");
    for (function, by, join) in [
        ("emotion_rolling", "emotion", ""),
        (
            "group_rolling",
            "group_name",
            "JOIN emotion_group USING (model_id, emotion)",
        ),
    ] {
        let left = format!(
            "SELECT * FROM {function}(interval '{width} minutes', {since}, {until}{arguments}) WHERE posts > 0"
        );
        let right = format!(
            "SELECT at, {by}, count(*), (count(*) / every.posts)::float8, sum(score) / count(*)
             FROM generate_series(trend_bucket('1 minute', {since}), trend_bucket('1 minute', {until}), '1 minute') AS at
             CROSS JOIN LATERAL (SELECT count(*)::numeric AS posts FROM post
                 WHERE created_at >= at - interval '{width} minutes' AND created_at < at AND {condition}) every
             JOIN post ON created_at >= at - interval '{width} minutes' AND created_at < at {join}
             WHERE {condition} GROUP BY 1, 2, every.posts"
        );
        let name = format!("{function} of {width} minutes from {since} for {minutes}{arguments}");
        assert_equal(harness, &name, &left, &right).await;
    }
}

#[tokio::test]
async fn windows_of_any_width_equal_a_recount() {
    let harness = seeded().await;
    let mut random = Random(17);
    let filters = [
        ("", "true"),
        (", of_subject => 'football'", "'football' = ANY (subjects)"),
        (
            ", langs => '{en,pt}', with_reposts => false",
            "lang IN ('en', 'pt') AND repost_of IS NULL",
        ),
        (", sources => '{bluesky}'", "source = 'bluesky'"),
    ];
    for _ in 0..20 {
        let widest = [3, 61, 1_500, 7_000][random.below(4) as usize];
        let width = 1 + random.below(widest);
        let start = random.below(13_000);
        let seconds = random.below(60);
        let since = format!("(timestamptz '2026-02-28 14:00+00' + interval '{start} minutes {seconds} seconds')");
        let minutes = random.below(15);
        assert_windows(&harness, &since, minutes, width, filters[random.below(4) as usize]).await;
    }
}

/// A window wider than the kept minutes once began with counts from the hours, and never subtracted them.
#[tokio::test]
async fn windows_that_reach_into_minutes_past_retention_are_refused() {
    let harness = seeded().await;
    let retention = Retention {
        days: Some(3),
        minute_days: Some(3),
        ..Retention::default()
    };
    let now = datetime!(2026-03-09 14:00 UTC);
    harness.store.apply_retention(&retention, now).await.unwrap();
    for function in ["emotion_rolling", "group_rolling"] {
        for (width, since) in [("4 days", "2026-03-09 13:00+00"), ("1 minute", "2026-03-06 00:00+00")] {
            let sql = format!(
                "SELECT count(*) FROM {function}('{width}', '{since}', timestamptz '{since}' + interval '1 hour')"
            );
            let error = sqlx::raw_sql(AssertSqlSafe(sql))
                .execute(&harness.pool)
                .await
                .expect_err(width);
            assert!(error.to_string().contains("minutes before 2026-03-06"), "{error}");
        }
    }
    // As wide as the kept minutes.
    assert_windows(
        &harness,
        "timestamptz '2026-03-09 13:30+00'",
        20,
        3 * 1_440 + 13 * 60,
        ("", "true"),
    )
    .await;
    assert_windows(&harness, "timestamptz '2026-03-06 00:01+00'", 20, 1, ("", "true")).await;
}
