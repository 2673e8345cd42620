//! The service at full load for any length of time: `MINUTES=60 make soak`. Its memory must stay flat, and its threads,
//! connections and open files must not grow. At the end all records must be committed and the rollups equal a recount.
//!
//! Without `MINUTES` it runs for a few seconds, as part of the tests, which detects growth of threads, connections and
//! files. Memory is only checked in runs of more than ten minutes, when caches and pools are full. A separate test binary,
//! so that nothing else runs at the same time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

use std::{
    collections::BTreeMap,
    fs,
    process::Stdio,
    time::{Duration, Instant},
};

use moodstream_demo::Writer;
use sqlx::{Connection as _, PgConnection};
use support::service::{Bench, Service, end_of, terminate, wait_for};
use time::OffsetDateTime;

/// Caches, pools and buffers are full after this time, and memory must stay flat.
const WARM: Duration = Duration::from_secs(600);
/// How much the resident memory may still grow after [`WARM`]: 5 % and 16 MiB, for memory that allocators retain.
const GROWTH: f64 = 1.05;
const GROWTH_KIB: u64 = 16 << 10;
/// Parsing threads start on demand and exit when idle, so there may be this many more than in a sample without any.
const BLOCKING: u64 = 8;
/// `database.max_connections`, which are opened on demand.
const POOL: u64 = 4;
/// Records fed ahead of those that are committed: the service always has work, and the broker never holds many.
const AHEAD: u64 = 6_000;
const CHUNK: usize = 2_000;
const PARTITIONS: i32 = 4;

/// The resources of the process at one moment.
#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    rss_kib: u64,
    threads: u64,
    files: u64,
    sockets: u64,
    /// Connections to Postgres.
    connections: u64,
}

/// The median of each figure, because single samples vary.
fn median(samples: &[Usage]) -> Usage {
    let of = |figure: fn(&Usage) -> u64| {
        let mut figures: Vec<u64> = samples.iter().map(figure).collect();
        figures.sort_unstable();
        figures.get(figures.len() / 2).copied().unwrap_or(0)
    };
    Usage {
        rss_kib: of(|usage| usage.rss_kib),
        threads: of(|usage| usage.threads),
        files: of(|usage| usage.files),
        sockets: of(|usage| usage.sockets),
        connections: of(|usage| usage.connections),
    }
}

/// A figure of `/proc/PID/status`; 0 for a process that has ended.
fn status(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let figure = line.and_then(|rest| rest.trim_start_matches(':').split_whitespace().next());
    figure.and_then(|figure| figure.parse().ok()).unwrap_or(0)
}

/// The number of threads of each name.
fn threads(pid: u32) -> BTreeMap<String, u32> {
    let mut names = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        *names.entry(name.trim().to_owned()).or_insert(0) += 1;
    }
    names
}

async fn usage(pid: u32, database: &mut PgConnection) -> Usage {
    let open: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| fs::read_link(entry.path()).unwrap_or_default())
        .collect();
    let connections: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'moodstream'",
    )
    .fetch_one(database)
    .await
    .unwrap();
    Usage {
        rss_kib: status(pid, "VmRSS"),
        threads: status(pid, "Threads"),
        files: open.len() as u64,
        sockets: open
            .iter()
            .filter(|target| target.to_string_lossy().starts_with("socket:"))
            .count() as u64,
        connections: connections.unsigned_abs(),
    }
}

async fn committed(database: &mut PgConnection) -> u64 {
    let records: i64 = sqlx::query_scalar("SELECT coalesce(sum(records), 0)::bigint FROM consumer_tally")
        .fetch_one(database)
        .await
        .unwrap();
    records.unsigned_abs()
}

/// Feeds records for this time, never far ahead of the service. Returns the number of records and a sample for each second.
async fn feed(bench: &Bench, service: &Service, pid: u32, length: Duration) -> (u64, Vec<(Duration, Usage)>) {
    let mut database = PgConnection::connect(&service.url).await.unwrap();
    let (mut writer, mut fed, mut samples) = (Writer::new(5), 0, Vec::new());
    let mut ticks = tokio::time::interval(Duration::from_millis(250));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (begun, mut next_sample, mut next_line) = (Instant::now(), Duration::ZERO, Duration::ZERO);
    while begun.elapsed() < length {
        ticks.tick().await;
        let done = committed(&mut database).await;
        while fed < done + AHEAD {
            let records = writer
                .sample(CHUNK, time::Duration::minutes(30), OffsetDateTime::now_utc())
                .records;
            fed += records.len() as u64;
            let placed = (0..)
                .zip(&records)
                .map(|(n, record)| (n % PARTITIONS, record.as_slice()));
            bench
                .broker
                .produce_with(&[("compression.type", "zstd")], "soak", placed);
        }
        let now = begun.elapsed();
        if now < next_sample {
            continue;
        }
        next_sample = now + Duration::from_secs(1);
        // Scraped at the same time, as in production.
        assert!(service.get("/metrics").is_some(), "/metrics does not answer");
        let sample = usage(pid, &mut database).await;
        samples.push((now, sample));
        if now >= next_line {
            next_line = now + Duration::from_secs(60);
            println!(
                "{:>5.1} min  {:>9} committed  {:>7} KiB  {:>3} threads  {:>3} files  {:>3} sockets  {:>2} to Postgres  broker {:>7} KiB",
                now.as_secs_f64() / 60.0,
                done,
                sample.rss_kib,
                sample.threads,
                sample.files,
                sample.sockets,
                sample.connections,
                status(bench.broker.pid(), "VmRSS"),
            );
        }
    }
    (fed, samples)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_grows_at_full_load() {
    let minutes: f64 = std::env::var("MINUTES").map_or(0.15, |minutes| minutes.parse().unwrap());
    let length = Duration::from_secs_f64(minutes * 60.0);
    let bench = Bench::start();
    bench.broker.create_topic("soak", PARTITIONS);
    let service = bench.service("soak");
    let mut child = service
        .command()
        .stderr(Stdio::inherit())
        .env("MOODSTREAM_LOG__LEVEL", "warn")
        .spawn()
        .unwrap();
    wait_for("readiness", || {
        service
            .get("/ready")
            .is_some_and(|page| page.starts_with("HTTP/1.1 200"))
    });

    let (fed, samples) = feed(&bench, &service, child.id(), length).await;
    assert!(child.try_wait().unwrap().is_none(), "the service has exited");
    // The first sixth is the warm-up.
    let warm = length.mul_f64(1.0 / 6.0).min(WARM);
    let window = warm.mul_f64(0.2).max(Duration::from_secs(2));
    let within = |from: Duration, to: Duration| -> Vec<Usage> {
        let inside = samples.iter().filter(|(at, _)| (from..=to).contains(at));
        inside.map(|(_, usage)| *usage).collect()
    };
    let early = median(&within(warm, warm + window));
    let late = median(&within(length.saturating_sub(window), length));
    println!(
        "after {:.1} minutes {early:?}\nat the end {late:?}",
        warm.as_secs_f64() / 60.0
    );

    println!("threads by name: {:?}", threads(child.id()));

    let mut database = PgConnection::connect(&service.url).await.unwrap();
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    let begun = Instant::now();
    while committed(&mut database).await < fed {
        assert!(
            begun.elapsed() < Duration::from_secs(180),
            "not all records are committed"
        );
        ticks.tick().await;
    }
    terminate(&child);
    assert_eq!(end_of(&mut child).code(), Some(0));
    assert_eq!(committed(&mut database).await, fed);
    let differences: Vec<(String, String)> = sqlx::query_as(include_str!("../support/recount.sql"))
        .fetch_all(&mut database)
        .await
        .unwrap();
    assert!(differences.is_empty(), "rollup and recount differ: {differences:#?}");
    println!("{fed} records, {:.0} a second", fed as f64 / length.as_secs_f64());

    assert!(
        late.threads <= early.threads + BLOCKING,
        "threads: {early:?} to {late:?}"
    );
    assert!(late.connections <= POOL, "connections: {early:?} to {late:?}");
    assert!(late.files <= early.files + 2 + POOL, "files: {early:?} to {late:?}");
    if warm >= WARM {
        let most = (early.rss_kib as f64 * GROWTH) as u64 + GROWTH_KIB;
        assert!(late.rss_kib <= most, "memory: {early:?} to {late:?}");
    }
}
