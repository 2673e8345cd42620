//! Measures how the cost of a flush and of reading grows with the posts stored and with the shards of the rollups, in a throwaway
//! Postgres:
//!
//! ```text
//! cargo bench --bench growth -- [--posts N,N,...] [--shards N,N,...]
//! ```
//!
//! The posts are spread over 8 days, so that more posts mean a higher rate. 10^7 posts with one number of shards take about 12 GB of disk
//! and six minutes.
//! docs/benchmarks.md has the results.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../../tests/support/postgres.rs"]
mod postgres;
#[path = "../support/mod.rs"]
mod support;

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser;
use moodstream::{
    model::ModelInfo,
    post::Origin,
    store::{
        Flush, OffsetRange, Store, StoreOptions,
        live_page::{LivePageQuery, LivePageReader},
    },
};
use sqlx::{AssertSqlSafe, PgPool, postgres::PgPoolOptions};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

const GROUP: &str = "bench";
const DAYS: i64 = 8;
const FLUSHED_POSTS: u64 = 32;
const FLUSHES: usize = 50;
const QUERY_ROUNDS: usize = 5;
/// Posts inserted by one statement.
const CHUNK: i64 = 250_000;

/// The dashboards' main queries, with their usual ranges up to `NOW`, and one for a rare subject.
const QUERIES: [(&str, &str); 12] = [
    (
        "share of each emotion, 6 h",
        "SELECT * FROM emotion_trend(NOW - interval '6 hours', NOW)",
    ),
    (
        "share of each emotion, 24 h, English",
        "SELECT * FROM emotion_trend(NOW - interval '24 hours', NOW, langs => '{en}')",
    ),
    (
        "share of each group, 7 d",
        "SELECT * FROM group_trend(NOW - interval '7 days', NOW)",
    ),
    (
        "top risers",
        "SELECT * FROM emotion_unusual(history => '7 days', until => NOW) WHERE z > 0 ORDER BY unusual DESC, z DESC LIMIT 15",
    ),
    (
        "against an hour, a day and a week ago",
        "SELECT * FROM emotion_change('1 hour', NOW)",
    ),
    (
        "rolling hour, 6 h",
        "SELECT * FROM emotion_rolling('1 hour', NOW - interval '6 hours', NOW)",
    ),
    (
        "by language, 24 h",
        "SELECT * FROM emotion_by('language', NOW - interval '24 hours', NOW) ORDER BY posts DESC LIMIT 40",
    ),
    (
        "by language, 7 d",
        "SELECT * FROM emotion_by('language', NOW - interval '7 days', NOW) ORDER BY posts DESC LIMIT 40",
    ),
    (
        "drift of the label mix, 7 d",
        "SELECT * FROM label_drift(NOW - interval '7 days', NOW - interval '6 days', NOW, '1 hour')",
    ),
    (
        "hashtags by emotion, 24 h",
        "SELECT p.emotion, h.hashtag, count(*), avg(p.score) FROM newest_posts(NULL, NOW - interval '24 hours', NOW, 20000) p, \
         unnest(p.hashtags) AS h (hashtag) GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2 LIMIT 30",
    ),
    (
        "newest posts, 24 h",
        "SELECT created_at, text FROM newest_posts(NULL, NOW - interval '24 hours', NOW, 50)",
    ),
    (
        "newest posts of a rare subject in a rare language, 7 d",
        "SELECT created_at, text FROM newest_posts(NULL, NOW - interval '7 days', NOW, 50, of_subject => 'food', langs => '{ca}')",
    ),
];

#[derive(Parser)]
struct Args {
    /// Numbers of posts, comma-separated.
    #[arg(long, value_delimiter = ',', default_values_t = [100_000, 1_000_000])]
    posts: Vec<i64>,
    /// Numbers of shards in the rollups, comma-separated. Each number of posts is measured with each of them.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 16, 64])]
    shards: Vec<i32>,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// One column of the table: the name of each figure, and the figure.
struct Column {
    heading: String,
    figures: Vec<(String, f64)>,
}

struct Bench {
    store: Store,
    pool: PgPool,
    page: LivePageReader,
    topic: Arc<str>,
    model: Arc<ModelInfo>,
    end: OffsetDateTime,
    /// The next offset of each partition.
    next: Vec<i64>,
    /// The number of posts flushed.
    flushed: u64,
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    let partitions = usize::try_from(args.shards.iter().copied().max().unwrap()).unwrap();
    let mut columns = Vec::new();
    for &posts in &args.posts {
        // Its files are removed before the next one is filled.
        let cluster = postgres::Postgres::start_with(&["shared_buffers=512MB", "synchronous_commit=off"]).unwrap();
        let mut bench = Bench::new(&cluster, partitions).await;
        let server: (String, bool) = sqlx::query_as("SELECT current_setting('server_version'), pg_jit_available()")
            .fetch_one(&bench.pool)
            .await
            .unwrap();
        eprintln!("PostgreSQL {}, compiles queries: {}", server.0, server.1);
        let start = Instant::now();
        bench.fill(posts).await;
        eprintln!("{posts} posts inserted in {:.0} s", start.elapsed().as_secs_f64());
        for &shards in &args.shards {
            let start = Instant::now();
            bench.rollups(shards).await;
            eprintln!("{shards} shards rolled up in {:.0} s", start.elapsed().as_secs_f64());
            let heading = format!("{posts} posts, {shards} shards");
            columns.push(bench.measure(heading.clone(), shards).await);
            let start = Instant::now();
            let merged = bench.merge().await;
            let seconds = start.elapsed().as_secs_f64();
            bench.vacuum().await;
            let mut column = bench.measure(format!("{heading}, merged"), shards).await;
            column
                .figures
                .push(("rows merged into others".to_owned(), merged as f64));
            column.figures.push(("seconds of merging".to_owned(), seconds));
            columns.push(column);
        }
    }
    print_table(&columns);
}

impl Bench {
    async fn new(cluster: &postgres::Postgres, partitions: usize) -> Self {
        let url = cluster.database().unwrap();
        let options = StoreOptions {
            url: url.as_str().into(),
            // Merging a piece of the largest table must not be cancelled.
            statement_timeout_seconds: 600,
            ..StoreOptions::default()
        };
        let store = Store::connect(&options).await.unwrap();
        store.migrate().await.unwrap();
        let topic: Arc<str> = "posts".into();
        let starts: Vec<_> = (0..partitions)
            .map(|partition| ((Arc::clone(&topic), i32::try_from(partition).unwrap()), 0))
            .collect();
        store.insert_start_offsets(GROUP, &starts, None).await.unwrap();
        Self {
            store,
            // One connection, so that its memory is that of all queries.
            pool: PgPoolOptions::new().max_connections(1).connect(&url).await.unwrap(),
            page: LivePageReader::new(&options),
            topic,
            model: support::model(),
            end: OffsetDateTime::now_utc(),
            next: vec![0; partitions],
            flushed: 0,
        }
    }

    async fn execute(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.pool).await.unwrap();
    }

    async fn scalar(&self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    /// Inserts posts and keys, up to now.
    async fn fill(&mut self, posts: i64) {
        let start = self.end - time::Duration::days(DAYS);
        self.store
            .ensure_partitions(start, u16::try_from(DAYS).unwrap() + 1)
            .await
            .unwrap();
        self.execute("SELECT setseed(0.5)").await;
        for first in (0..posts).step_by(usize::try_from(CHUNK).unwrap()) {
            sqlx::query(include_str!("posts.sql"))
                .bind(first)
                .bind((first + CHUNK).min(posts))
                .bind(posts)
                .bind(start)
                .bind(self.end)
                .execute(&self.pool)
                .await
                .unwrap();
        }
        self.execute(
            "INSERT INTO emotion_group SELECT 'bench@00000000', e, g FROM (VALUES ('joy', 'positive'), ('anger', 'negative'),
             ('sadness', 'negative'), ('fear', 'negative'), ('disgust', 'negative'), ('neutral', 'neutral')) v (e, g)",
        )
        .await;
        self.vacuum().await;
    }

    async fn rollups(&self, shards: i32) {
        let sql = include_str!("rollups.sql").replace("SHARDS", &shards.to_string());
        self.execute(&sql).await;
        self.vacuum().await;
    }

    /// Merges the shards of closed days as the service does. Returns the number of rows merged into others.
    async fn merge(&self) -> u64 {
        self.store.merge_shards(OffsetDateTime::now_utc()).await.unwrap()
    }

    /// Autovacuum would do it, but while the queries are measured.
    async fn vacuum(&self) {
        self.execute("VACUUM (ANALYZE)").await;
    }

    async fn measure(&mut self, heading: String, shards: i32) -> Column {
        eprintln!("measuring: {heading}");
        let mut figures = vec![
            (
                "rows by minute".to_owned(),
                self.scalar("SELECT count(*) FROM emotion_rollup").await as f64,
            ),
            (
                "rows by hour".to_owned(),
                self.scalar("SELECT count(*) FROM emotion_rollup_hour").await as f64,
            ),
            (
                "database, MiB".to_owned(),
                mebibytes(self.scalar("SELECT pg_database_size(current_database())").await),
            ),
        ];
        figures.push((
            format!("flush of {FLUSHED_POSTS} posts, ms"),
            self.flush_time(shards).await,
        ));
        figures.push(("live page, ms".to_owned(), self.page_time().await));
        let moment = format!("'{}'::timestamptz", self.end.format(&Rfc3339).unwrap());
        for (name, sql) in QUERIES {
            // As Grafana sends it: with constants the planner excludes branches and partitions.
            let sql = sql.replace("NOW", &moment);
            let mut times = Vec::new();
            for _ in 0..QUERY_ROUNDS {
                let start = Instant::now();
                let rows = sqlx::raw_sql(AssertSqlSafe(sql.as_str()))
                    .fetch_all(&self.pool)
                    .await
                    .unwrap();
                times.push(start.elapsed());
                assert!(
                    !rows.is_empty() || name.contains("rare") || name.contains("risers"),
                    "{name}"
                );
            }
            figures.push((format!("{name}, ms"), median_ms(times)));
        }
        let (queries, flushes) = self.backend_memory().await;
        figures.push(("memory of the queries' backend, MiB".to_owned(), queries));
        figures.push(("memory of the flushes' backend, MiB".to_owned(), flushes));
        Column { heading, figures }
    }

    /// Returns the median time of a flush. Its posts are spread over the partitions, as in a member that has all of them.
    async fn flush_time(&mut self, shards: i32) -> f64 {
        let mut times = Vec::new();
        for turn in 0..FLUSHES + 5 {
            let flush = self.flush(usize::try_from(shards).unwrap());
            let start = Instant::now();
            let flushed = self.store.flush(&flush).await.unwrap();
            if turn >= 5 {
                times.push(start.elapsed());
            }
            assert_eq!(flushed.written.len() as u64, FLUSHED_POSTS);
        }
        median_ms(times)
    }

    fn flush(&mut self, shards: usize) -> Flush {
        let mut flush = Flush::new(GROUP.into(), Arc::clone(&self.model));
        let before = self.next.clone();
        for number in self.flushed..self.flushed + FLUSHED_POSTS {
            let place = number as usize % shards;
            let origin = Origin {
                topic: Arc::clone(&self.topic),
                partition: i32::try_from(place).unwrap(),
                offset: self.next[place],
            };
            self.next[place] += 1;
            // 50 posts per second of event time, up to now. The ids follow those of any number of posts inserted before.
            let created_at = self.end - Duration::from_secs(600) + Duration::from_millis(number * 20);
            flush
                .posts
                .push(support::post(origin, 1_000_000_000 + number, created_at));
        }
        self.flushed += FLUSHED_POSTS;
        for (partition, (expected, &next)) in before.into_iter().zip(&self.next).enumerate() {
            if expected < next {
                flush.ranges.push(OffsetRange {
                    topic: Arc::clone(&self.topic),
                    partition: i32::try_from(partition).unwrap(),
                    expected,
                    next,
                    filtered: 0,
                    late: 0,
                    rejected: 0,
                    last: None,
                });
            }
        }
        flush
    }

    async fn page_time(&mut self) -> f64 {
        let query = LivePageQuery {
            group: GROUP.to_owned(),
            minutes: 60,
            posts: 20,
        };
        let mut times = Vec::new();
        for _ in 0..QUERY_ROUNDS {
            let start = Instant::now();
            self.page.read(&query).await.unwrap();
            times.push(start.elapsed());
        }
        median_ms(times)
    }

    /// Returns the private memory of the server processes of the queries and of the flushes, in MiB.
    async fn backend_memory(&self) -> (f64, f64) {
        let pids: Vec<(i32, bool)> = sqlx::query_as(
            "SELECT pid, pid = pg_backend_pid() FROM pg_stat_activity
             WHERE datname = current_database() AND backend_type = 'client backend' AND application_name <> 'moodstream-page'",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap();
        let largest = |own: bool| {
            let processes = pids.iter().filter(|(_, queries)| *queries == own);
            processes.map(|&(pid, _)| private_mib(pid)).fold(0.0, f64::max)
        };
        (largest(true), largest(false))
    }
}

/// Returns a process's anonymous memory (proc_pid_status(5)), or 0 if not on Linux.
fn private_mib(pid: i32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib: Option<f64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.unwrap_or_default() / 1024.0
}

fn mebibytes(bytes: i64) -> f64 {
    bytes as f64 / 1_048_576.0
}

fn median_ms(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1_000.0
}

fn print_table(columns: &[Column]) {
    let headings: Vec<&str> = columns.iter().map(|column| column.heading.as_str()).collect();
    println!("| | {} |", headings.join(" | "));
    println!("|---|{}", "---|".repeat(columns.len()));
    let longest = columns.iter().max_by_key(|column| column.figures.len()).unwrap();
    for (name, _) in &longest.figures {
        let figures = columns.iter().map(|column| {
            let figure = column.figures.iter().find(|(other, _)| other == name);
            figure.map_or(String::new(), |(_, figure)| match figure {
                figure if *figure < 100.0 => format!("{figure:.1}"),
                figure => format!("{figure:.0}"),
            })
        });
        println!("| {name} | {} |", figures.collect::<Vec<_>>().join(" | "));
    }
}
