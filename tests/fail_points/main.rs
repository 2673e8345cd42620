//! A crash, an error or a delay at every step of a flush: the next attempt or the next owner must end with the same tables.
//!
//! A separate test binary, because fail points are configured for the whole process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    dead_code
)]

#[path = "../support/mod.rs"]
mod support;

use std::{
    os::unix::process::ExitStatusExt as _,
    process::Command,
    sync::Arc,
    thread::{self, JoinHandle},
};

use fail::FailScenario;
use moodstream::{
    fail_point::STEPS,
    store::{Flush, FlushError, Flushed, Store},
};
use support::store::{GROUP, Harness, NOON, TOPIC, deletion, flush, offset_range, options, post};

/// The environment variable with the child process's database URL.
const URL: &str = "MOODSTREAM_TEST_URL";

/// The steps within [`Store::flush`].
fn steps() -> impl Iterator<Item = &'static str> {
    STEPS.into_iter().filter(|step| step.starts_with("flush-"))
}

/// Two posts. The second flush deletes one of them and adds another.
fn first() -> Flush {
    let mut all = flush();
    all.ranges.push(offset_range(0, 0, 2));
    all.posts.push(post("stays", NOON, 0, 0));
    all.posts.push(post("goes", NOON, 0, 1));
    all
}

fn second() -> Flush {
    let mut all = flush();
    all.ranges.push(offset_range(0, 2, 4));
    all.posts.push(post("comes", NOON, 0, 2));
    all.deletions.push(deletion("goes", 0, 3));
    all
}

async fn begun() -> Harness {
    let harness = Harness::with_partitions(1).await;
    harness.flush(&first()).await;
    harness
}

async fn next_offset(store: &Store) -> i64 {
    let asked: Vec<(Arc<str>, i32)> = vec![(TOPIC.into(), 0)];
    store.next_offsets(GROUP, &asked).await.unwrap()[&asked[0]]
}

/// Checks that the second flush was applied exactly once.
async fn assert_done(harness: &Harness, step: &str) {
    assert_eq!(harness.ids().await, ["comes", "stays"], "{step}");
    assert_eq!(next_offset(&harness.store).await, 4, "{step}");
    harness.assert_whole().await;
}

#[tokio::test]
async fn after_an_error_at_any_step_the_next_attempt_succeeds() {
    let scenario = FailScenario::setup();
    for step in steps() {
        let harness = begun().await;
        let flush = second();
        fail::cfg(step, "1*return(error)").unwrap();
        let error = harness.store.flush(&flush).await.unwrap_err();
        assert!(
            error.is_transient() && error.to_string().contains(step),
            "{step}: {error}"
        );
        let committed = step == "flush-commit-after";
        assert_eq!(
            next_offset(&harness.store).await,
            if committed { 4 } else { 2 },
            "{step}"
        );
        let flushed = harness.store.flush(&flush).await.unwrap();
        assert_eq!(flushed.replayed, committed, "{step}");
        assert_eq!(
            flushed.total().removed,
            1,
            "{step}: known even if the response to the commit was lost"
        );
        assert_done(&harness, step).await;
    }
    scenario.teardown();
}

/// Whether a flush holds the lock on the partition's offset.
async fn fence_is_held(harness: &Harness) -> bool {
    let free: Option<i64> = sqlx::query_scalar("SELECT next_offset FROM consumer_offset FOR UPDATE SKIP LOCKED")
        .fetch_optional(&harness.pool)
        .await
        .unwrap();
    free.is_none()
}

/// Flushes on a separate thread, because a pause at a fail point blocks the thread.
fn flush_apart(url: &str) -> JoinHandle<Result<Flushed, FlushError>> {
    let url = url.to_owned();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let store = Store::connect(&options(&url)).await.unwrap();
            store.flush(&second()).await
        })
    })
}

/// While one flush is delayed, another consumer flushes the same offsets: one of them writes, and the other is fenced.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_a_delay_at_any_step_only_one_owner_writes() {
    let scenario = FailScenario::setup();
    for step in steps() {
        let harness = begun().await;
        let other = harness.another_store().await;
        fail::cfg(step, "1*pause").unwrap();
        let slow = flush_apart(&harness.url);
        match step {
            "flush-begin" => {}
            "flush-commit-after" => while next_offset(&other).await < 4 {},
            _ => while !fence_is_held(&harness).await {},
        }
        let quick = flush_apart(&harness.url);
        if matches!(step, "flush-begin" | "flush-commit-after") {
            // The delayed flush holds no lock, so the other one finishes.
            while !slow.is_finished() && !quick.is_finished() {
                tokio::task::yield_now().await;
            }
        } else {
            while harness.count("pg_locks WHERE NOT granted").await == 0 {}
        }
        fail::remove(step);
        let outcomes = [slow.join().unwrap(), quick.join().unwrap()];
        let written = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        let fenced = outcomes
            .iter()
            .filter(|outcome| matches!(outcome, Err(FlushError::Fenced(_))))
            .count();
        assert_eq!((written, fenced), (1, 1), "{step}: {outcomes:?}");
        assert_done(&harness, step).await;
    }
    scenario.teardown();
}

/// A process that dies at the step leaves its whole flush or none of it; the next owner continues.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_step_leaves_all_or_nothing() {
    // Keeps out the fail points of other tests, which would affect the flushes of this process.
    let scenario = FailScenario::setup();
    for step in steps() {
        let harness = begun().await;
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "flushes_in_a_child_process", "--ignored", "--nocapture"])
            .env(URL, &harness.url)
            .env("FAILPOINTS", format!("{step}=return(crash)"))
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(6), "{step}: {stderr}");
        assert!(stderr.contains(&format!("fail point {step}: crash")), "{stderr}");

        // The server may notice the crash only when it reads from the connection.
        let store = harness.another_store().await;
        let committed = step == "flush-commit-after";
        assert_eq!(next_offset(&store).await, if committed { 4 } else { 2 }, "{step}");
        match store.flush(&second()).await {
            Ok(_) => assert!(!committed, "{step}: stored twice"),
            Err(error) => assert!(committed && matches!(error, FlushError::Fenced(_)), "{step}: {error}"),
        }
        assert_done(&harness, step).await;
    }
    scenario.teardown();
}

/// Not a test: [`a_crash_at_any_step_leaves_all_or_nothing`] starts it.
#[test]
#[ignore = "the crash test runs it in a child process"]
fn flushes_in_a_child_process() {
    let Ok(url) = std::env::var(URL) else { return };
    let _scenario = FailScenario::setup();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = Store::connect(&options(&url)).await.unwrap();
        store.flush(&second()).await.unwrap();
    });
}

/// The crate for fail points is not a dependency of the released binary.
#[test]
fn release_builds_have_no_fail_points() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "tree",
            "--package",
            "moodstream",
            "--edges",
            "normal,build",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .args(["--locked", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let tree = String::from_utf8_lossy(&output.stdout);
    assert!(
        tree.contains("rdkafka v"),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(!tree.lines().any(|line| line.starts_with("fail v")), "{tree}");
}
