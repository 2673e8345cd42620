//! The whole service as a black box: the binary with a real broker, Postgres and model.

mod database;
mod dead_letters;
mod exactly_once;
mod linear;
mod quarantine;
mod upgrades;
mod windows;

use std::{io::Read as _, process::Stdio, time::Duration};

use exactly_once::synthetic_stream;

use crate::support::service::{Bench, Service, end_of, model, terminate, wait_for};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

/// Rows of `post` without the time of ingestion, which differs between runs, and without the predictions, whose last digits
/// depend on the batch.
const POSTS: &str = "SELECT concat_ws('|', source, post_id, created_at, author_id, lang, text, repost_of, model_id,
    subjects, hashtags, kafka_partition, kafka_offset) FROM post ORDER BY source, post_id";
/// The scores, in the order of [`POSTS`].
const SCORES: &str = "SELECT score FROM post ORDER BY source, post_id";
/// Longer than the usual limit, for the whole archive.
const PATIENCE: Duration = Duration::from_secs(900);
const TALLY: &str = "SELECT coalesce(sum(records), 0)::bigint FROM consumer_tally";

async fn lines(url: &str, sql: &str) -> Vec<String> {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_all(&mut connection)
        .await
        .unwrap()
}

async fn scores(url: &str) -> Vec<f64> {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar(SCORES).fetch_all(&mut connection).await.unwrap()
}

/// Returns a count, or 0 if the table does not exist yet.
async fn number(url: &str, sql: &str) -> i64 {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_one(&mut connection)
        .await
        .unwrap_or(0)
}

fn number_now(url: &str, sql: &str) -> i64 {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(number(url, sql)))
}

/// Compares the rollups by minute, hour and day with a recount.
async fn assert_rollups_equal_recount(url: &str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let differences: Vec<(String, String)> = sqlx::query_as(include_str!("../../support/recount.sql"))
        .fetch_all(&mut connection)
        .await
        .unwrap();
    assert!(differences.is_empty(), "{differences:#?}");
    assert_ne!(number(url, "SELECT count(*) FROM emotion_rollup_day").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn posts_in_languages_that_the_manifest_does_not_list_are_marked() {
    let bench = Bench::start();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("moodstream.toml"), "[languages]\nen = 0.63\n").unwrap();
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json", "onnx"] {
        std::os::unix::fs::symlink(model().join(file), folder.join(file)).unwrap();
    }
    let post = |id: usize, lang: &str| {
        format!(
            "{{\"id\":\"{id}\",\"text\":\"so happy today\",\"lang\":\"{lang}\",\"created_at\":\"2026-03-01T12:00:00Z\"}}"
        )
        .into_bytes()
    };
    let posts = [post(1, "en"), post(2, "th"), post(3, "zxx")];
    bench.feed(&posts, "languages", 1);
    let marks =
        "SELECT concat_ws(' ', lang, emotion, score > 0, lang_supported, scores ? 'joy') FROM post ORDER BY post_id";
    for (policy, thai) in [("keep", "th joy t f t"), ("replace", "th unsupported f f t")] {
        let config = format!(
            "[model]\npath = \"{}\"\nunsupported_languages = \"{policy}\"\n",
            folder.display()
        );
        let config = bench.write(&format!("{policy}.toml"), config);
        // Its own group and database, so that it reads the whole topic again.
        let service = bench.service("languages").with_group(policy).with_config(&config);
        let output = service
            .command()
            .env_remove("MOODSTREAM_MODEL__PATH")
            .arg("--until-caught-up")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(lines(&service.url, marks).await, ["en joy t t t", thai, "zxx joy t t"]);
        assert_eq!(lines(&service.url, "SELECT lang FROM model_language").await, ["en"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn serves_metrics_and_health_and_stops_on_sigterm() {
    let bench = Bench::start();
    bench.feed(&synthetic_stream(200), "served", 2);
    let service = bench.service("served");
    let mut child = service.command().stderr(Stdio::piped()).spawn().unwrap();
    wait_for("readiness", || {
        service
            .get("/ready")
            .is_some_and(|page| page.starts_with("HTTP/1.1 200"))
    });
    // The series exist from the start, with the value 0.
    wait_for("stored posts", || {
        service.get("/metrics").is_some_and(|page| {
            let mut lines = page.lines().filter(|line| line.contains("outcome=\"inserted\""));
            lines.any(|line| !line.ends_with(" 0"))
        })
    });
    // The lag comes a little later, with librdkafka's statistics.
    for name in [
        "records_total",
        "batch_posts_bucket",
        "transactions_total",
        "event_delay_seconds_count",
        "lag_records",
    ] {
        wait_for(name, || {
            service
                .get("/metrics")
                .is_some_and(|page| page.contains(&format!("moodstream_{name}")))
        });
    }
    assert!(service.get("/live").unwrap().starts_with("HTTP/1.1 200"));
    terminate(&child);
    let status = end_of(&mut child);
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert_eq!(status.code(), Some(0), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn languages_are_filtered_and_subjects_tracked_as_configured() {
    let bench = Bench::start();
    bench.feed(&synthetic_stream(300), "filtered", 2);
    let settings = "[posts]\nlanguages = [\"en\"]\n
        [[subjects]]\nname = \"joyful\"\nkeywords = [\"happy\"]\n
        [[subjects]]\nname = \"tagged\"\nhashtags = [\"tag4\"]\n";
    let service = bench
        .service("filtered")
        .with_config(&bench.write("filter.toml", settings));
    let summary = service.run_until_caught_up();
    assert!(summary["filtered"].as_u64() > Some(0));
    assert_eq!(
        number(&service.url, "SELECT count(*) FROM post WHERE lang <> 'en'").await,
        0
    );
    assert!(
        number(
            &service.url,
            "SELECT count(*) FROM post WHERE subjects = '{joyful}' AND text LIKE '%happy%'"
        )
        .await
            > 0
    );
    assert!(
        number(
            &service.url,
            "SELECT sum(posts)::bigint FROM emotion_by_minute WHERE subject = 'tagged'"
        )
        .await
            > 0
    );
    assert_rollups_equal_recount(&service.url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_succeeds_while_a_query_reads_posts_past_retention() {
    let bench = Bench::start();
    bench.feed(&synthetic_stream(20), "read", 1);
    let service = bench.service("read");
    service.run_until_caught_up();
    let count = "SELECT count(*) FROM post";
    let posts = number(&service.url, count).await;
    let short = bench.write("short.toml", "[store]\nretention_days = 1\n");
    let service = service.with_config(&short);
    let mut reader = PgConnection::connect(&service.url).await.unwrap();
    let mut reading = reader.begin().await.unwrap();
    sqlx::query("SELECT FROM post").execute(&mut *reading).await.unwrap();
    service.run_until_caught_up();
    assert_eq!(number(&service.url, count).await, posts);
    reading.rollback().await.unwrap();
    service.run_until_caught_up();
    assert_eq!(number(&service.url, count).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn posts_of_a_recreated_topic_or_another_cluster_are_not_duplicates() {
    let texts = |count| -> Vec<Vec<u8>> {
        (0..count)
            .map(|n| format!("nothing but the sea {n}").into_bytes())
            .collect()
    };
    let counts = |service: &Service| {
        let summary = service.run_until_caught_up();
        ["inserted", "duplicates"].map(|name| summary[name].as_u64().unwrap())
    };
    let mut bench = Bench::start();
    bench.feed(&texts(20), "anew", 1);
    let settings = bench.write("anew.toml", "[kafka]\non_offset_out_of_range = \"earliest\"\n");
    let service = bench.service("anew").with_config(&settings);
    assert_eq!(counts(&service), [20, 0]);

    // The broker forgets everything: the recreated topic begins at offset 0, with the same texts.
    bench.broker.restart();
    bench.feed(&texts(10), "anew", 1);
    // By default the run fails instead of claiming that it has caught up.
    let stopped = bench
        .service("anew")
        .with_url(&service.url)
        .command()
        .arg("--until-caught-up")
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&stopped.stderr);
    assert!(
        !stopped.status.success() && words.contains("the topic was recreated") && words.contains("in quarantine"),
        "{words}"
    );
    assert_eq!(counts(&service), [10, 0], "posts at offsets that were used before");
    assert_eq!(counts(&service.with_group("again")), [0, 10], "the same, read again");

    let other = Bench::start();
    other.feed(&texts(10), "anew", 1);
    let elsewhere = other.service("anew").with_url(&service.url).with_group("elsewhere");
    assert_eq!(counts(&elsewhere), [10, 0], "posts of another cluster");
    assert_rollups_equal_recount(&service.url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn raising_the_retention_counts_no_post_twice() {
    let bench = Bench::start();
    let stream = synthetic_stream(200);
    bench.feed(&stream, "raised", 2);
    let service = bench.service("raised");
    let posts = service.run_until_caught_up()["inserted"].as_u64().unwrap();
    let counted = "SELECT concat_ws('|', bucket, subject, lang, source, emotion, shard, posts) FROM emotion_rollup_day ORDER BY 1";
    let days = lines(&service.url, counted).await;
    // Retention drops the posts, then a service that keeps everything reads them again.
    let short = bench.write("short.toml", "[store]\nretention_days = 1\n");
    service.with_config(&short).run_until_caught_up();
    assert_eq!(number(&service.url, "SELECT count(*) FROM post").await, 0);
    let again = service.with_group("again").run_until_caught_up();
    assert_eq!(again["inserted"].as_u64(), Some(0), "{again}");
    assert!(again["late"].as_u64() >= Some(posts), "{again}");
    assert_eq!(again["texts"].as_u64(), Some(0), "late posts were classified: {again}");
    assert_eq!(lines(&service.url, counted).await, days);
}
