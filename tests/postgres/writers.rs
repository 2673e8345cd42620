//! Older programs on today's schema: their recorded statements are replayed.
//!
//! `tests/fixtures/writers/N.sql` contains the statements that a program of schema version N sends for two flushes. To record
//! today's program, once its schema is released: `MOODSTREAM_RENEW=1 cargo test --test postgres writers`. Files are only
//! ever added.

use std::{collections::BTreeMap, env, fs, path::PathBuf};

use moodstream::{
    post::Fingerprint,
    store::{Flush, Store, schema_version},
};
use regex::Regex;
use sqlx::{AssertSqlSafe, Executor as _};

use crate::support::{
    postgres::Postgres,
    store::{GROUP, Harness, NOON, deletion, flush, insert_start_offset, offset_range, options, post},
};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/writers")
}

/// Two posts; then a third one, and the deletion of the first.
fn two_flushes() -> [Flush; 2] {
    let (mut first, mut second) = (flush(), flush());
    first.ranges.push(offset_range(0, 0, 2));
    first.posts.extend([post("one", NOON, 0, 0), post("two", NOON, 0, 1)]);
    second.ranges.push(offset_range(0, 2, 4));
    second.posts.push(post("three", NOON, 0, 2));
    second.deletions.push(deletion("one", 0, 3));
    for all in [&mut first, &mut second] {
        all.ranges[0].last = Some(Fingerprint::of(Some(NOON), None, Some(b"the last record")));
    }
    [first, second]
}

/// The statements in a server's log, each with its parameters substituted.
fn statements(log: &str) -> Vec<String> {
    let entry =
        Regex::new(r"(?m)^(LOG|DETAIL):  (?:execute [^:]*|statement|Parameters|parameters): ((?:.*)(?:\n\t.*)*)")
            .unwrap();
    let parameter = Regex::new(r"\$(\d+) = (NULL|'(?:[^']|'')*')").unwrap();
    let place = Regex::new(r"\$(\d+)").unwrap();
    let mut found: Vec<String> = Vec::new();
    for captures in entry.captures_iter(log) {
        let text = captures[2].replace("\n\t", "\n");
        if &captures[1] == "LOG" {
            found.push(text);
            continue;
        }
        let values: BTreeMap<String, String> = parameter
            .captures_iter(&text)
            .map(|found| (found[1].to_owned(), found[2].to_owned()))
            .collect();
        let statement = found.last_mut().unwrap();
        *statement = place
            .replace_all(statement, |found: &regex::Captures<'_>| values[&found[1]].clone())
            .into_owned();
    }
    found
}

async fn record() {
    let settings = ["log_statement=all", "log_parameter_max_length=-1", "log_line_prefix="];
    let postgres = Postgres::start_with(&settings).unwrap();
    let url = postgres.database().unwrap();
    let store = Store::connect(&options(&url)).await.unwrap();
    store.migrate().await.unwrap();
    insert_start_offset(&store, GROUP, 0, 0).await;
    let before = postgres.log().len();
    for all in two_flushes() {
        store.flush(&all).await.unwrap();
    }
    let version = schema_version();
    let sql = format!(
        "-- What a program of schema version {version} sends for two flushes: see tests/postgres/writers.rs.\n\n{};\n",
        statements(&postgres.log()[before..]).join(";\n\n")
    );
    fs::create_dir_all(folder()).unwrap();
    fs::write(folder().join(format!("{version:04}.sql")), sql).unwrap();
}

#[tokio::test]
async fn every_older_program_writes_correctly_or_is_refused() {
    if env::var_os("MOODSTREAM_RENEW").is_some() {
        record().await;
    }
    let mut recorded = 0;
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let version: i64 = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        recorded += 1;
        let harness = Harness::with_partitions(1).await;
        let min_writer: i64 = sqlx::query_scalar("SELECT max(min_writer) FROM schema_compat")
            .fetch_one(&harness.pool)
            .await
            .unwrap();
        if version < min_writer {
            // It is refused: see `a_schema_that_requires_newer_programs_stops_older_members`.
            continue;
        }
        let sql = fs::read_to_string(&path).unwrap();
        let mut connection = harness.pool.acquire().await.unwrap();
        if let Err(error) = connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await {
            panic!("{}: {error}", path.display());
        }
        assert_eq!(harness.ids().await, ["three", "two"], "{version}");
        harness.assert_whole().await;
        // Today's program continues from there, also with a copy of the post that the older one has deleted.
        let mut next = flush();
        next.ranges.push(offset_range(0, 4, 7));
        next.posts.extend([post("one", NOON, 0, 4), post("four", NOON, 0, 5)]);
        next.deletions.push(deletion("two", 0, 6));
        harness.flush(&next).await;
        assert_eq!(harness.ids().await, ["four", "three"], "{version}");
        harness.assert_whole().await;
    }
    assert!(recorded > 0);
}
