//! SQL functions called with unusual arguments: they return correct rows, no rows, or an error that says what is wrong.

use sqlx::AssertSqlSafe;

use crate::{support::store::Harness, trends::seeded};

/// The result of a call.
#[derive(Clone, Copy)]
enum Answer {
    /// No rows.
    Nothing,
    /// At least one row.
    Something,
    /// An error that contains these words.
    Refused(&'static str),
}
use Answer::{Nothing, Refused, Something};

/// Calls on nine days of posts that end on 2026-03-09 at 14:00 UTC.
const CALLS: &[(&str, Answer)] = &[
    // Ranges that are empty or end before they begin.
    ("emotion_trend('2026-03-09', '2026-03-08')", Nothing),
    ("emotion_trend('2026-03-09', '2026-03-09')", Nothing),
    ("group_trend('2026-03-09', '2026-03-08', '1 hour')", Nothing),
    ("emotion_share('2026-03-09', '2026-03-08')", Nothing),
    (
        "emotion_share('2026-03-09 10:00:10+00', '2026-03-09 10:00:50+00')",
        Nothing,
    ),
    ("emotion_by('language', '2026-03-09', '2026-03-08')", Nothing),
    ("emotion_rolling('1 hour', '2026-03-09', '2026-03-08')", Nothing),
    ("group_rolling('1 hour', '2026-03-09', '2026-03-08')", Nothing),
    ("top_hashtags('joy', '2026-03-09', '2026-03-08')", Nothing),
    ("label_drift('2026-03-01', '2026-03-09', '2026-03-08')", Nothing),
    // NULLs: a trend without a start once counted the day of its end.
    ("emotion_trend(NULL, '2026-03-09 13:30+00')", Nothing),
    ("emotion_trend(NULL, '2026-03-09 13:30+00', '1 hour')", Nothing),
    ("emotion_trend('2026-03-08', NULL)", Nothing),
    ("group_trend(NULL, NULL)", Nothing),
    ("emotion_by('source', NULL, '2026-03-09 13:30+00')", Nothing),
    ("emotion_share(NULL, '2026-03-09 13:30+00')", Nothing),
    ("emotion_share('2026-03-09 12:30+00', NULL)", Nothing),
    ("group_share('2026-03-09 12:30+00', NULL)", Nothing),
    ("emotion_change(NULL)", Nothing),
    ("emotion_change('1 hour', NULL)", Nothing),
    ("emotion_unusual(NULL)", Nothing),
    ("emotion_unusual('1 hour', NULL, 3.5, '2026-03-09 14:00+00')", Nothing),
    // A window without a width once only grew.
    (
        "emotion_rolling(NULL, '2026-03-09 12:00+00', '2026-03-09 13:00+00')",
        Refused("give a width"),
    ),
    (
        "group_rolling(NULL, '2026-03-09 12:00+00', '2026-03-09 13:00+00')",
        Refused("give a width"),
    ),
    (
        "emotion_rolling('1 hour', NULL, '2026-03-09 13:00+00')",
        Refused("a range"),
    ),
    (
        "emotion_rolling('1 hour', '2026-03-09 13:00+00', NULL)",
        Refused("a range"),
    ),
    // Unbounded ranges: these once ran until they were cancelled.
    (
        "emotion_rolling('1 hour', '-infinity', '2026-03-09')",
        Refused("366 days"),
    ),
    (
        "emotion_rolling('1 hour', '2026-03-09', 'infinity')",
        Refused("366 days"),
    ),
    (
        "group_rolling('1 hour', '1970-01-01', '2026-03-09')",
        Refused("366 days"),
    ),
    ("emotion_trend('-infinity', 'infinity')", Something),
    ("emotion_trend('-infinity', '2026-03-09', '1 hour')", Something),
    ("emotion_trend('2026-03-09', 'infinity', '1 minute')", Something),
    ("emotion_share('-infinity', 'infinity')", Something),
    ("emotion_by('subject', '-infinity', 'infinity')", Something),
    ("label_drift('2026-03-01', '-infinity', 'infinity')", Something),
    ("newest_posts(NULL, '-infinity', 'infinity', 10)", Something),
    ("emotion_trend('4713-01-01 BC', '294276-12-31', '1 day')", Something),
    ("emotion_change('1 hour', 'infinity')", Nothing),
    ("emotion_change('1 hour', '-infinity')", Nothing),
    ("emotion_unusual('1 hour', '7 days', 3.5, 'infinity')", Nothing),
    // Widths and steps.
    (
        "emotion_rolling('infinity', '2026-03-09 12:00+00', '2026-03-09 13:00+00')",
        Refused("at most 36525 days"),
    ),
    (
        "emotion_rolling('36525 days', '2026-03-09 12:00+00', '2026-03-09 13:00+00')",
        Something,
    ),
    (
        "emotion_rolling('1000000000 hours', '2026-03-09', '2026-03-10')",
        Refused("at most 36525 days"),
    ),
    (
        "emotion_trend('2026-03-09', '2026-03-10', '1000000 days')",
        Refused("at most 36525 days"),
    ),
    ("emotion_change('-infinity')", Refused("at most 36525 days")),
    ("emotion_change('0.5 minutes')", Refused("whole minutes")),
    (
        "emotion_trend('2026-03-08', '2026-03-09', '1 day -1439 minutes')",
        Something,
    ),
    (
        "label_drift('2026-03-01', '2026-03-02', '2026-03-09', '1 month')",
        Refused("months and years"),
    ),
    (
        "emotion_unusual('1 hour', '59 minutes', 3.5, '2026-03-09 14:00+00')",
        Refused("has no window"),
    ),
    (
        "emotion_unusual('1 hour', '7 days', 'NaN', '2026-03-09 14:00+00')",
        Something,
    ),
    (
        "emotion_unusual('1 hour', '7 days', NULL, '2026-03-09 14:00+00', NULL)",
        Something,
    ),
    // Words and lists.
    (
        "emotion_by('country', '2026-03-08', '2026-03-09')",
        Refused("language, source or subject, not 'country'"),
    ),
    ("emotion_by(NULL, '2026-03-08', '2026-03-09')", Refused("not NULL")),
    ("emotion_share('2026-03-08', '2026-03-09', langs => '{}')", Nothing),
    ("emotion_share('2026-03-08', '2026-03-09', langs => '{NULL}')", Nothing),
    ("emotion_share('2026-03-08', '2026-03-09', models => '{none}')", Nothing),
    (
        "emotion_trend('2026-03-08', '2026-03-09', of_subject => 'none')",
        Nothing,
    ),
    ("newest_posts('joy', '2026-03-08', '2026-03-09', 0)", Nothing),
    (
        "newest_posts('joy', '2026-03-08', '2026-03-09', -1)",
        Refused("must not be negative"),
    ),
    ("top_posts('', '2026-03-08', '2026-03-09')", Nothing),
    // Leap days.
    ("emotion_trend('2024-02-29', '2024-03-01', '1 day')", Nothing),
];

async fn rows(harness: &Harness, zone: &str, call: &str) -> Result<i64, sqlx::Error> {
    let mut connection = harness.pool.acquire().await?;
    sqlx::raw_sql(AssertSqlSafe(format!(
        "SET timezone = '{zone}'; SET statement_timeout = '20s'"
    )))
    .execute(&mut *connection)
    .await?;
    sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) FROM {call}")))
        .fetch_one(&mut *connection)
        .await
}

#[tokio::test]
async fn odd_calls_are_answered_or_refused_in_every_time_zone() {
    let harness = seeded().await;
    for zone in ["UTC", "America/New_York", "Pacific/Apia"] {
        for &(call, answer) in CALLS {
            let found = rows(&harness, zone, call).await;
            match (answer, &found) {
                (Nothing, Ok(0)) | (Something, Ok(1..)) => {}
                (Refused(why), Err(error)) if error.to_string().contains(why) => {}
                _ => panic!("{zone}: {call}: {found:?}"),
            }
        }
    }
}

#[tokio::test]
async fn odd_calls_on_empty_tables_return_no_rows() {
    let harness = Harness::new().await;
    for &(call, answer) in CALLS {
        match (answer, rows(&harness, "UTC", call).await) {
            (Nothing | Something, Ok(0)) => {}
            (Refused(why), Err(error)) if error.to_string().contains(why) => {}
            (_, found) => panic!("{call}: {found:?}"),
        }
    }
}

/// If the history was not a multiple of the width, its first window was partial but was compared as a whole one.
#[tokio::test]
async fn a_history_counts_in_whole_windows() {
    let harness = seeded().await;
    let unusual = |history: &str| {
        format!(
            "SELECT subject, emotion, usual_share, z FROM emotion_unusual('2 hours', '{history}', 3.5, '2026-03-09 14:00+00')"
        )
    };
    let same = crate::trends::assert_equal(
        &harness,
        "history",
        &unusual("11 hours 59 minutes"),
        &unusual("10 hours"),
    )
    .await;
    assert!(same > 0);
}
