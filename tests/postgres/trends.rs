//! The trend functions against plain recounts of the posts, and the examples of docs/sql.md against the database's results.

use std::fmt::Write as _;

use sqlx::{AssertSqlSafe, Column as _, Executor as _, Row as _, ValueRef as _};

use time::Duration;

use crate::support::store::{Harness, NOON, Random, flush, offset_range, post};

/// The moment at which the seeded posts end: "now" in the examples.
pub const NOW: &str = "2026-03-09 14:00:00+00";

pub async fn seeded() -> Harness {
    let harness = Harness::new().await;
    let sql = include_str!("../support/seed.sql").replace("{now}", NOW);
    let mut connection = harness.pool.acquire().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&mut *connection)
        .await
        .unwrap();
    drop(connection);
    let differences: Vec<(String, String)> = sqlx::query_as(include_str!("../support/recount.sql"))
        .fetch_all(&harness.pool)
        .await
        .unwrap();
    assert!(differences.is_empty(), "{differences:?}");
    harness
}

/// Fails with the rows in which two queries differ, or if they return none.
async fn assert_same(harness: &Harness, name: &str, left: &str, right: &str) {
    assert!(assert_equal(harness, name, left, right).await > 0, "{name}: no rows");
}

/// Fails with the rows in which two queries differ; returns the number of rows.
pub async fn assert_equal(harness: &Harness, name: &str, left: &str, right: &str) -> i64 {
    let sql = format!(
        "WITH l AS ({left}), r AS ({right})
         SELECT (SELECT count(*) FROM l), x.side || ' ' || x.row FROM (SELECT 1) one LEFT JOIN (
             (SELECT '<' AS side, d::text AS row FROM (SELECT * FROM l EXCEPT ALL SELECT * FROM r) d LIMIT 3)
             UNION ALL (SELECT '>', d::text FROM (SELECT * FROM r EXCEPT ALL SELECT * FROM l) d LIMIT 3)) x ON true"
    );
    let rows: Vec<(i64, Option<String>)> = sqlx::query_as(AssertSqlSafe(sql))
        .fetch_all(&harness.pool)
        .await
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(
        rows.iter().filter_map(|row| row.1.as_ref()).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "{name}"
    );
    rows[0].0
}

#[tokio::test]
async fn trends_equal_a_recount_of_the_posts() {
    let harness = seeded().await;
    let filters = [
        ("", "true"),
        (", of_subject => 'football'", "'football' = ANY (subjects)"),
        (", langs => '{en,pt}'", "lang IN ('en', 'pt')"),
        (", sources => '{bluesky}'", "source = 'bluesky'"),
        (", with_reposts => false", "repost_of IS NULL"),
        (
            ", langs => '{ja}', with_reposts => false, models => '{emotion-roberta-6x384@seed}'",
            "lang = 'ja' AND repost_of IS NULL",
        ),
    ];
    let until = NOW;
    for (arguments, condition) in filters {
        for (step, since) in [
            ("5 minutes", "2026-03-09 08:00+00"),
            ("1 hour", "2026-03-05 00:00+00"),
            ("1 day", "2026-03-01 00:00+00"),
        ] {
            let left = format!("SELECT * FROM emotion_trend('{since}', '{until}', '{step}'{arguments})");
            let right = format!(
                "SELECT date_bin('{step}', created_at, '2001-01-01 00:00+00'), emotion, count(*),
                        (count(*) / sum(count(*)) OVER (PARTITION BY date_bin('{step}', created_at, '2001-01-01 00:00+00')))::float8,
                        sum(score) / count(*)
                 FROM post WHERE created_at >= '{since}' AND created_at < '{until}' AND {condition} GROUP BY 1, 2"
            );
            assert_same(&harness, &format!("trend by {step}{arguments}"), &left, &right).await;
            let left = format!("SELECT * FROM group_trend('{since}', '{until}', '{step}'{arguments})");
            let right = format!(
                "SELECT date_bin('{step}', created_at, '2001-01-01 00:00+00'), group_name, count(*),
                        (count(*) / sum(count(*)) OVER (PARTITION BY date_bin('{step}', created_at, '2001-01-01 00:00+00')))::float8,
                        sum(score) / count(*)
                 FROM post JOIN emotion_group USING (model_id, emotion)
                 WHERE created_at >= '{since}' AND created_at < '{until}' AND {condition} GROUP BY 1, 2"
            );
            assert_same(&harness, &format!("groups by {step}{arguments}"), &left, &right).await;
        }
        for width in ["5 minutes", "1 hour", "24 hours"] {
            let since = "2026-03-09 12:17+00";
            let rolling = |name: &str, by: &str, join: &str| {
                (
                    format!("SELECT * FROM {name}('{width}', '{since}', '{until}'{arguments}) WHERE posts > 0"),
                    format!(
                        "SELECT at, {by}, count(*), (count(*) / sum(count(*)) OVER (PARTITION BY at))::float8, sum(score) / count(*)
                         FROM generate_series('{since}'::timestamptz, '{until}', '1 minute') AS at
                         JOIN post ON created_at >= at - interval '{width}' AND created_at < at {join}
                         WHERE {condition} GROUP BY 1, 2"
                    ),
                )
            };
            let (left, right) = rolling("emotion_rolling", "emotion", "");
            assert_same(&harness, &format!("rolling {width}{arguments}"), &left, &right).await;
            let (left, right) = rolling(
                "group_rolling",
                "group_name",
                "JOIN emotion_group USING (model_id, emotion)",
            );
            assert_same(&harness, &format!("rolling groups {width}{arguments}"), &left, &right).await;
        }
        for since in [
            "2026-03-09 13:10+00",
            "2026-03-09 13:50+00",
            "2026-03-08 13:10+00",
            "2026-03-09 12:00+00",
        ] {
            let left = format!("SELECT * FROM emotion_share('{since}', '{until}'{arguments})");
            let right = format!(
                "SELECT emotion, count(*), (count(*) / sum(count(*)) OVER ())::float8, sum(score) / count(*) FROM post
                 WHERE created_at >= '{since}' AND created_at < '{until}' AND {condition} GROUP BY 1"
            );
            assert_same(&harness, &format!("share since {since}{arguments}"), &left, &right).await;
        }
    }
    for (dimension, by) in [("language", "lang"), ("source", "source"), ("subject", "subject")] {
        for since in ["2026-03-09 10:00+00", "2026-03-05 00:00+00", "2026-03-01 00:00+00"] {
            let left = format!("SELECT * FROM emotion_by('{dimension}', '{since}', '{until}')");
            let right = format!(
                "SELECT {by}, emotion, count(*), (count(*) / sum(count(*)) OVER (PARTITION BY {by}))::float8, sum(score) / count(*)
                 FROM post{} WHERE created_at >= '{since}' AND created_at < '{until}' GROUP BY 1, 2",
                if dimension == "subject" { ", unnest(subjects) AS subject" } else { "" }
            );
            assert_same(&harness, &format!("by {dimension} since {since}"), &left, &right).await;
        }
    }
    let change = "SELECT emotion, posts, share, share_before, share_week_ago FROM emotion_change('1 hour', '2026-03-09 14:00+00')";
    let shares = |from: &str, until: &str| {
        format!("(SELECT share FROM emotion_share('{from}', '{until}') s WHERE s.emotion = n.emotion)")
    };
    let right = format!(
        "SELECT n.emotion, n.posts, n.share, coalesce({}, 0), coalesce({}, 0) FROM emotion_share('2026-03-09 13:00+00', '{NOW}') n",
        shares("2026-03-09 12:00+00", "2026-03-09 13:00+00"),
        shares("2026-03-02 13:00+00", "2026-03-02 14:00+00")
    );
    assert_same(&harness, "change", &format!("{change} WHERE posts > 0"), &right).await;
}

/// A trend by the hour until 04:30 once counted until 05:00, because the rollup by hour has no half hours.
#[tokio::test]
async fn trends_of_any_range_and_step_equal_a_recount() {
    let harness = seeded().await;
    let mut random = Random(3);
    for case in 0..60 {
        // Minutes of the nine days before the seed's end. Half of the cases end on a whole hour or day.
        let mut until = 12_960 - i64::try_from(random.below(9_000)).unwrap();
        until -= [0, 0, until % 60, until % 1_440][random.below(4) as usize];
        let since = (until - 1 - i64::try_from(random.below(5_000)).unwrap()).max(0);
        let step = [1, 7, 60, 90, 120, 720, 1_440, 2_880, 4_321][random.below(9) as usize];
        let (since, until, step) = (
            format!("(timestamptz '2026-02-28 14:00+00' + interval '{since} minutes')"),
            format!("(timestamptz '2026-02-28 14:00+00' + interval '{until} minutes')"),
            format!("interval '{step} minutes'"),
        );
        let left = format!("SELECT bucket, emotion, posts FROM emotion_trend({since}, {until}, {step})");
        let right = format!(
            "SELECT trend_bucket({step}, created_at), emotion, count(*) FROM post
             WHERE created_at >= trend_bucket({step}, {since}) AND created_at < {until} GROUP BY 1, 2"
        );
        let name = format!("case {case}: {since} to {until} by {step}");
        assert_equal(&harness, &name, &left, &right).await;
        let left = format!("SELECT emotion, sum(posts) FROM emotion_by('source', {since}, {until}) GROUP BY 1");
        let right = format!(
            "SELECT emotion, count(*) FROM post
             WHERE created_at >= trend_bucket(CASE WHEN {until} - {since} > interval '7 days' THEN interval '24 hours'
                                                   ELSE trend_step(NULL, {since}, {until}) END, {since})
               AND created_at < {until} GROUP BY 1"
        );
        assert_equal(&harness, &name, &left, &right).await;
    }
}

#[tokio::test]
async fn steps_and_widths_other_than_whole_minutes_are_refused() {
    let harness = seeded().await;
    for (span, says) in [
        ("90 seconds", "whole minutes"),
        ("0 minutes", "whole minutes"),
        ("-1 hour", "whole minutes"),
        ("1 month", "months and years"),
        ("1 year", "months and years"),
    ] {
        for call in [
            format!("emotion_trend('2026-03-09', '2026-03-10', '{span}')"),
            format!("group_trend('2026-03-09', '2026-03-10', '{span}')"),
            format!("emotion_rolling('{span}', '2026-03-09', '2026-03-10')"),
            format!("group_rolling('{span}', '2026-03-09', '2026-03-10')"),
            format!("emotion_change('{span}', '2026-03-10')"),
            format!("emotion_unusual('{span}', '7 days', 3.5, '2026-03-09')"),
            format!("emotion_unusual('1 hour', '{span}', 3.5, '2026-03-09')"),
        ] {
            let error = sqlx::raw_sql(AssertSqlSafe(format!("SELECT count(*) FROM {call}")))
                .execute(&harness.pool)
                .await
                .expect_err(&call);
            assert!(error.to_string().contains(says), "{call}: {error}");
        }
    }
}

/// On the day after the clocks change, `timestamptz - interval '1 day'` is not the start of a bucket.
#[tokio::test]
async fn days_have_24_hours_even_when_the_clocks_change() {
    let harness = seeded().await;
    // New York's clocks went forward on 8 March 2026.
    let unusual = |zone: &str| {
        format!(
            "SET timezone = '{zone}'; CREATE TEMP TABLE \"{zone}\" ON COMMIT PRESERVE ROWS AS
             SELECT emotion, bucket AT TIME ZONE 'UTC' AS bucket, posts, z
             FROM emotion_unusual('1 day', '5 days', 3.5, '{NOW}', 5, '')"
        )
    };
    let mut connection = harness.pool.acquire().await.unwrap();
    for zone in ["UTC", "America/New_York"] {
        sqlx::raw_sql(AssertSqlSafe(unusual(zone)))
            .execute(&mut *connection)
            .await
            .unwrap();
    }
    let (rows, other): (i64, i64) = sqlx::query_as(
        r#"SELECT (SELECT count(*) FROM "UTC"), count(*)
           FROM (SELECT * FROM "UTC" EXCEPT ALL SELECT * FROM "America/New_York") d"#,
    )
    .fetch_one(&mut *connection)
    .await
    .unwrap();
    assert!(rows > 0);
    assert_eq!(other, 0);
}

/// A history without any variance once gave no score at all.
#[tokio::test]
async fn an_emotion_that_goes_from_no_posts_to_all_posts_is_unusual() {
    let harness = Harness::with_partitions(1).await;
    let mut all = flush();
    all.ranges.push(offset_range(0, 0, 200));
    for offset in 0..200 {
        let hours_ago = if offset < 30 { 1 } else { 2 + offset % 100 };
        let mut row = post(&offset.to_string(), NOON - Duration::hours(hours_ago), 0, offset);
        row.prediction.emotion = if offset < 30 { "joy" } else { "anger" }.into();
        all.posts.push(row);
    }
    harness.flush(&all).await;
    let rows: Vec<(String, f64, bool)> = sqlx::query_as(
        "SELECT emotion, z, unusual FROM emotion_unusual('1 hour', '3 days', 3.5, '2019-07-03 12:00+00', 20, '') ORDER BY 1",
    )
    .fetch_all(&harness.pool)
    .await
    .unwrap();
    assert_eq!(
        rows,
        [
            ("anger".to_owned(), f64::NEG_INFINITY, false),
            ("joy".to_owned(), f64::INFINITY, true)
        ]
    );
}

/// It once read every post of the range: a dashboard that filtered by a rare language took seconds.
#[tokio::test]
async fn a_selective_filter_searches_only_the_newest_posts() {
    let harness = seeded().await;
    sqlx::raw_sql(
        "INSERT INTO post SELECT 'plain', 'new-' || n, timestamptz '2026-03-09 14:00:01+00' + n * interval '1 microsecond', NULL,
             CASE WHEN n IN (1, 100000) THEN 'eo' ELSE 'en' END, '', NULL, 'joy', 0.5, '{}', 'm', '{}', '{}', 'posts', 0, n
         FROM generate_series(0, 100000) n",
    )
    .execute(&harness.pool)
    .await
    .unwrap();
    let count = async |arguments: &str| -> i64 {
        let sql = format!("SELECT count(*) FROM newest_posts(NULL, '2026-03-01', '2026-03-10', {arguments})");
        sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_one(&harness.pool)
            .await
            .unwrap()
    };
    assert_eq!(count("10, langs => '{eo}'").await, 2);
    assert_eq!(count("1, langs => '{eo}'").await, 1);
    assert_eq!(
        count("10, langs => '{pt}'").await,
        0,
        "all of these are older than the posts searched"
    );
    assert!(
        count("200000, langs => '{pt}'").await > 10,
        "at least as many posts as requested are searched"
    );
    assert_eq!(count("100005").await, 100_005);
}

#[tokio::test]
async fn a_rise_is_unusual_and_the_rest_is_not() {
    let harness = seeded().await;
    let sql = format!("SELECT emotion, z, unusual FROM emotion_unusual('1 hour', '7 days', 3.5, '{NOW}', 5, '')");
    let rows: Vec<(String, Option<f64>, bool)> = sqlx::query_as(AssertSqlSafe(sql))
        .fetch_all(&harness.pool)
        .await
        .unwrap();
    let unusual: Vec<&str> = rows.iter().filter(|row| row.2).map(|row| &*row.0).collect();
    assert_eq!(unusual, ["anger"], "{rows:?}");
    let drift: f64 = sqlx::query_scalar(
        "SELECT max(drift) FROM label_drift('2026-03-01 00:00+00', '2026-03-03 00:00+00', '2026-03-07 00:00+00', '1 day')",
    )
    .fetch_one(&harness.pool)
    .await
    .unwrap();
    assert!((0.0..0.02).contains(&drift), "{drift}");
}

#[tokio::test]
async fn every_function_has_a_comment_and_is_in_the_docs() {
    let harness = Harness::new().await;
    let functions: Vec<(String, bool)> = sqlx::query_as(
        "SELECT proname::text, obj_description(oid, 'pg_proc') IS NOT NULL FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
    )
    .fetch_all(&harness.pool)
    .await
    .unwrap();
    assert!(functions.len() > 10);
    let docs = docs();
    for (name, described) in functions {
        assert!(described, "{name} has no comment");
        assert!(docs.contains(&format!("`{name}")), "{name} is not in docs/sql.md");
    }
}

fn docs_path() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/sql.md")
}

fn docs() -> String {
    std::fs::read_to_string(docs_path()).unwrap()
}

/// The rows as psql would show them, without its frame.
async fn table(harness: &Harness, sql: &str) -> String {
    let mut connection = harness.pool.acquire().await.unwrap();
    (&mut *connection).execute("SET timezone = 'UTC'").await.unwrap();
    let rows = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .fetch_all(&mut *connection)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    assert!(!rows.is_empty(), "no rows: {sql}");
    let head = rows[0]
        .columns()
        .iter()
        .map(|column| column.name().to_owned())
        .collect();
    let mut lines: Vec<Vec<String>> = vec![head];
    for row in &rows {
        let text = |place: usize| {
            let value = row.try_get_raw(place).unwrap();
            if value.is_null() {
                String::new()
            } else {
                value.as_str().unwrap().to_owned()
            }
        };
        lines.push((0..row.len()).map(text).collect());
    }
    let widths: Vec<usize> = (0..lines[0].len())
        .map(|place| lines.iter().map(|line| line[place].chars().count()).max().unwrap_or(0))
        .collect();
    let rule = widths.iter().map(|&width| "-".repeat(width)).collect();
    lines.insert(1, rule);
    let mut out = String::new();
    for line in lines {
        let padded: Vec<String> = line
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:<width$}"))
            .collect();
        writeln!(out, "{}", padded.join("  ").trim_end()).unwrap();
    }
    out
}

/// Runs every example. `MOODSTREAM_RENEW=1` replaces the results in the file.
#[tokio::test]
async fn the_results_in_the_docs_match_the_database() {
    let harness = seeded().await;
    let docs = docs();
    let mut out = String::new();
    let mut rest = &*docs;
    let mut examples = 0;
    while let Some((before, after)) = rest.split_once("```sql\n") {
        let (sql, after) = after.split_once("```\n").unwrap();
        let after = after
            .strip_prefix("\n```text\n")
            .unwrap_or_else(|| panic!("no result after {sql}"));
        let (_, after) = after.split_once("```\n").unwrap();
        write!(
            out,
            "{before}```sql\n{sql}```\n\n```text\n{}```\n",
            table(&harness, sql).await
        )
        .unwrap();
        rest = after;
        examples += 1;
    }
    out.push_str(rest);
    assert!(examples >= 10);
    if std::env::var_os("MOODSTREAM_RENEW").is_some() {
        std::fs::write(docs_path(), out).unwrap();
        return;
    }
    assert!(
        out == docs,
        "docs/sql.md is stale: MOODSTREAM_RENEW=1 cargo test --test postgres docs, then look at git diff"
    );
}
