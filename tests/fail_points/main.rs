//! A crash, an error or a delay at every step of a flush: the next try or the next owner must end with the same tables.
//!
//! A binary of its own, because fail points are set for the whole process.

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
use support::store::{GROUP, Harness, NOON, TOPIC, deletion, flush, options, post, run};

/// Where a child process finds the database.
const URL: &str = "MOODSTREAM_TEST_URL";

/// The steps within [`Store::flush`].
fn steps() -> impl Iterator<Item = &'static str> {
    STEPS.into_iter().filter(|step| step.starts_with("flush-"))
}

/// Two posts, one of them deleted by the second flush, which brings another.
fn first() -> Flush {
    let mut all = flush();
    all.ranges.push(run(0, 0, 2));
    all.posts.push(post("stays", NOON, 0, 0));
    all.posts.push(post("goes", NOON, 0, 1));
    all
}

fn second() -> Flush {
    let mut all = flush();
    all.ranges.push(run(0, 2, 4));
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
    store.start_offsets(GROUP, &asked).await.unwrap()[&asked[0]]
}

/// What the second flush leaves, once.
async fn assert_done(harness: &Harness, step: &str) {
    assert_eq!(harness.ids().await, ["comes", "stays"], "{step}");
    assert_eq!(next_offset(&harness.store).await, 4, "{step}");
    harness.assert_whole().await;
}

#[tokio::test]
async fn an_error_at_any_step_is_made_good_by_the_next_try() {
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
        let landed = step == "flush-commit-after";
        assert_eq!(next_offset(&harness.store).await, if landed { 4 } else { 2 }, "{step}");
        let flushed = harness.store.flush(&flush).await.unwrap();
        assert_eq!(flushed.replayed, landed, "{step}");
        assert_eq!(
            flushed.total().removed,
            1,
            "{step}: known also of a try whose answer was lost"
        );
        assert_done(&harness, step).await;
    }
    scenario.teardown();
}

/// Whether a flush holds the partition's fence.
async fn fence_is_held(harness: &Harness) -> bool {
    let free: Option<i64> = sqlx::query_scalar("SELECT next_offset FROM consumer_offset FOR UPDATE SKIP LOCKED")
        .fetch_optional(&harness.pool)
        .await
        .unwrap();
    free.is_none()
}

/// A consumer on a thread of its own, which a pause at a fail point blocks.
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

/// While one dawdles another takes the partition: one of them writes, and the other is fenced.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_delay_at_any_step_lets_one_owner_write() {
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
            // Nothing holds the other one back.
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

/// A process that ends there, as by SIGKILL, leaves all of its flush or nothing; the next owner does the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_step_leaves_all_or_nothing() {
    // This process's own flushes must not meet what another test has armed.
    let scenario = FailScenario::setup();
    for step in steps() {
        let harness = begun().await;
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "flushes_in_a_process_of_its_own", "--ignored", "--nocapture"])
            .env(URL, &harness.url)
            .env("FAILPOINTS", format!("{step}=return(crash)"))
            .output()
            .unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(6), "{step}: {words}");
        assert!(words.contains(&format!("fail point {step}: crash")), "{words}");

        // The server may find out only when it reads from the connection.
        let store = harness.another_store().await;
        let landed = step == "flush-commit-after";
        assert_eq!(next_offset(&store).await, if landed { 4 } else { 2 }, "{step}");
        match store.flush(&second()).await {
            Ok(_) => assert!(!landed, "{step}: stored twice"),
            Err(error) => assert!(landed && matches!(error, FlushError::Fenced(_)), "{step}: {error}"),
        }
        assert_done(&harness, step).await;
    }
    scenario.teardown();
}

/// Not a test: what [`a_crash_at_any_step_leaves_all_or_nothing`] starts.
#[test]
#[ignore = "the crash test runs it in a process of its own"]
fn flushes_in_a_process_of_its_own() {
    let Ok(url) = std::env::var(URL) else { return };
    let _scenario = FailScenario::setup();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = Store::connect(&options(&url)).await.unwrap();
        store.flush(&second()).await.unwrap();
    });
}

/// The crate that makes fail points is no dependency of what ships, so no fail point can be in it.
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
