//! Measures the delay of a post from its record's timestamp to a visible row, at a share of the service's maximum rate. Both are
//! measured in one run, with a real broker, Postgres and model, and the service's own defaults.
//!
//! ```text
//! cargo bench --bench delay -- [--share 0.5] [--seconds N] [--lines N] [--rounds N] [--model FOLDER] [--against PROGRAM]
//! ```
//!
//! With `--against`, rounds alternate with those of another build's `moodstream`, so that the two can be compared on a
//! shared machine. An observer polls the committed offsets every few milliseconds. Rows and offsets are written in one
//! transaction, so a row is visible once its offset is passed.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use clap::Parser;
use moodstream::{
    post::{self, Envelope, ParseOptions, Parsed},
    telemetry::metric,
};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use sqlx::{Connection as _, PgConnection};
use support::{
    exposition,
    service::{Bench, Service, end_of, model, shared, terminate, wait_for, wait_within},
};

const PARTITIONS: usize = 4;
/// The observer's polling interval, by which a delay may be overestimated.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(8);
/// The share of the feed at its start that is excluded, because the service warms up.
const WARM_UP: f64 = 0.15;
const PATIENCE: Duration = Duration::from_secs(1_800);
/// Postgres settings of a default installation, unlike in the tests: a commit waits for the disk.
const POSTGRES: [&str; 2] = ["fsync=on", "full_page_writes=on"];

#[derive(Parser)]
struct Args {
    /// The feed rate as a share of the rate under full load.
    #[arg(long, default_value_t = 0.5)]
    share: f64,
    /// Seconds to feed at that rate.
    #[arg(long, default_value_t = 30.0)]
    seconds: f64,
    /// The number of lines of the archive to use under full load.
    #[arg(long, default_value_t = 20_000)]
    lines: usize,
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    #[arg(long)]
    model: Option<PathBuf>,
    /// Another build's program to alternate with.
    #[arg(long)]
    against: Option<PathBuf>,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let args = Args::parse();
    let Some(shared) = shared() else { return };
    let model = args.model.clone().unwrap_or_else(model);
    let archive = archive(&shared);
    assert!(
        args.lines < archive.len(),
        "the archive has {} lines in all",
        archive.len()
    );
    let (backlog, live) = archive.split_at(args.lines);
    let bench = Bench::start_with(&POSTGRES);
    bench.feed(backlog, "backlog", PARTITIONS as u32);
    println!(
        "{}, {PARTITIONS} partitions: {} lines at full load, then others at {} of that rate",
        model.file_name().unwrap_or_default().display(),
        args.lines,
        args.share
    );
    println!(
        "{:>5} {:>9} {:>11} {:>9} {:>7} {:>7} {:>7} {:>7} {:>7}",
        "round", "program", "full, rec/s", "fed rec/s", "posts", "p50 ms", "p90 ms", "p99 ms", "max ms"
    );
    let programs: Vec<(&str, Option<&Path>)> = [("this", None)]
        .into_iter()
        .chain(args.against.as_deref().map(|program| ("other", Some(program))))
        .collect();
    let mut pages = Vec::new();
    for round in 1..=args.rounds {
        for (name, program) in &programs {
            let run = format!("{name}-{round}");
            let service = bench.service("backlog").with_group(&run).with_model(&model);
            let full = full_load(command(&service, *program));
            let topic = format!("live-{run}");
            bench.broker.create_topic(&topic, PARTITIONS as i32);
            let service = bench.service(&topic).with_model(&model);
            let (delays, fed, page) = delays(
                &bench,
                &service,
                *program,
                &topic,
                live,
                full * args.share,
                args.seconds,
            );
            println!(
                "{round:>5} {name:>9} {full:>11.0} {fed:>9.0} {:>7} {:>7.0} {:>7.0} {:>7.0} {:>7.0}",
                delays.len(),
                quantile(&delays, 0.5),
                quantile(&delays, 0.9),
                quantile(&delays, 0.99),
                quantile(&delays, 1.0)
            );
            pages.push((run, page));
        }
    }
    for (run, page) in pages {
        println!("\nthe parts of the delay of {run}, from its own metrics, including the warm-up:");
        print_means(&page);
    }
}

/// Returns the lines of the real stream's archive.
fn archive(shared: &Path) -> Vec<Vec<u8>> {
    let file = fs::File::open(shared.join("stream/spritzer_2019-07-03_0629-0641.jsonl.zst")).unwrap();
    BufReader::new(zstd::Decoder::new(file).unwrap())
        .split(b'\n')
        .map(|line| line.unwrap().trim_ascii_end().to_vec())
        .filter(|line| !line.is_empty())
        .collect()
}

/// Returns the service's command, of this build or of another program.
fn command(service: &Service, program: Option<&Path>) -> Command {
    let own = service.command();
    let mut command = Command::new(program.map_or(own.get_program(), Path::as_os_str));
    command.args(own.get_args());
    for (name, value) in own.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
        .env("MOODSTREAM_LOG__LEVEL", "warn")
        .stdout(Stdio::null())
        .stderr(Stdio::inherit());
    command
}

/// Returns the records per second while there is a backlog.
fn full_load(mut command: Command) -> f64 {
    let output = command
        .arg("--until-caught-up")
        .stdout(Stdio::piped())
        .output()
        .unwrap();
    assert!(output.status.success());
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    summary["records_per_second"].as_f64().unwrap()
}

/// Feeds at a rate. Returns each post's delay in milliseconds, ascending, the actual records per second, and the final `/metrics`.
fn delays(
    bench: &Bench,
    service: &Service,
    program: Option<&Path>,
    topic: &str,
    lines: &[Vec<u8>],
    rate: f64,
    seconds: f64,
) -> (Vec<f64>, f64, String) {
    let mut child = Guard(command(service, program).spawn().unwrap());
    wait_for("readiness", || {
        service
            .get("/ready")
            .is_some_and(|page| page.starts_with("HTTP/1.1 200"))
    });
    let observer = Observer::start(service.url.clone());
    let begun = Instant::now();
    let sent = feed(bench, topic, lines, rate, seconds);
    let fed = sent.iter().map(Vec::len).sum::<usize>() as f64 / begun.elapsed().as_secs_f64();
    let ends: Vec<i64> = sent.iter().map(|sent| sent.len() as i64).collect();
    wait_within(PATIENCE, "the rows", || observer.reached(&ends));
    let seen = observer.end();
    let page = service.get("/metrics").unwrap();
    terminate(&child.0);
    assert!(end_of(&mut child.0).success());

    let counted = begun + Duration::from_secs_f64(seconds * WARM_UP);
    let mut delays = Vec::new();
    for (partition, sent) in sent.iter().enumerate() {
        for (offset, (at, is_post)) in sent.iter().enumerate() {
            if *is_post && *at >= counted {
                let visible = seen.partition_point(|(_, next)| next[partition] <= offset as i64);
                delays.push((seen[visible].0 - *at).as_secs_f64() * 1_000.0);
            }
        }
    }
    delays.sort_by(f64::total_cmp);
    (delays, fed, page)
}

/// Sends lines at random moments at an average rate. Returns for each partition and offset the time, and whether it is a post.
fn feed(bench: &Bench, topic: &str, lines: &[Vec<u8>], rate: f64, seconds: f64) -> Vec<Vec<(Instant, bool)>> {
    let count = ((rate * seconds) as usize).min(lines.len());
    let envelope = Envelope {
        timestamp: None,
        fallback_id: "none".try_into().ok(),
    };
    // Parsed beforehand, so that it does not take time during the feed.
    let lines: Vec<(&[u8], bool)> = lines[..count]
        .iter()
        .map(|line| {
            let parsed = post::parse(line, &envelope, &ParseOptions::default());
            (line.as_slice(), matches!(parsed, Ok(Parsed::Post(_))))
        })
        .collect();
    let producer: BaseProducer = bench.broker.config().create().unwrap();
    let mut random = fastrand::Rng::with_seed(19);
    let mut sent = vec![Vec::new(); PARTITIONS];
    let mut due = Instant::now();
    for (line, is_post) in lines {
        due += Duration::from_secs_f64(-(1.0 - random.f64()).ln() / rate);
        producer.poll(Duration::ZERO);
        pause(due.saturating_duration_since(Instant::now()));
        let partition = random.usize(..PARTITIONS);
        sent[partition].push((Instant::now(), is_post));
        producer
            .send(
                BaseRecord::<(), [u8]>::to(topic)
                    .partition(partition as i32)
                    .payload(line),
            )
            .map_err(|(error, _)| error)
            .unwrap();
    }
    producer.flush(Duration::from_secs(30)).unwrap();
    sent
}

#[allow(clippy::disallowed_methods)] // the feed's own pace
fn pause(length: Duration) {
    thread::sleep(length);
}

/// A sample of the committed offsets: the time, and the next offset of each partition.
type Sample = (Instant, [i64; PARTITIONS]);

/// Records when offsets are passed, as any reader of the tables sees it.
struct Observer {
    stop: Arc<AtomicBool>,
    samples: JoinHandle<Vec<Sample>>,
    latest: Arc<std::sync::Mutex<[i64; PARTITIONS]>>,
}

impl Observer {
    fn start(url: String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let latest = Arc::new(std::sync::Mutex::new([0; PARTITIONS]));
        let (stopped, shown) = (Arc::clone(&stop), Arc::clone(&latest));
        let samples = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let mut connection = PgConnection::connect(&url).await.unwrap();
                let mut ticks = tokio::time::interval(SAMPLE_INTERVAL);
                ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                let mut samples: Vec<Sample> = Vec::new();
                while !stopped.load(Ordering::Acquire) {
                    ticks.tick().await;
                    let rows: Vec<(i32, i64)> = sqlx::query_as("SELECT partition, next_offset FROM consumer_offset")
                        .fetch_all(&mut connection)
                        .await
                        .unwrap();
                    let mut next = [0; PARTITIONS];
                    for (partition, offset) in rows {
                        next[partition as usize] = offset;
                    }
                    if samples.last().is_none_or(|(_, known)| *known != next) {
                        samples.push((Instant::now(), next));
                        *shown.lock().unwrap() = next;
                    }
                }
                samples
            })
        });
        Self { stop, samples, latest }
    }

    fn reached(&self, ends: &[i64]) -> bool {
        let latest = *self.latest.lock().unwrap();
        latest.iter().zip(ends).all(|(next, end)| next >= end)
    }

    fn end(self) -> Vec<Sample> {
        self.stop.store(true, Ordering::Release);
        self.samples.join().unwrap()
    }
}

/// Prints the averages of what the service measured itself.
fn print_means(page: &str) {
    let mean = |name: &str, label: Option<(&str, &str)>| {
        let of = |suffix: &str| -> f64 {
            exposition::samples(page)
                .filter(|sample| sample.name.strip_suffix(suffix) == Some(name))
                .filter(|sample| label.is_none_or(|(name, value)| sample.label(name) == Some(value)))
                .map(|sample| sample.value)
                .sum()
        };
        of("_sum") / of("_count")
    };
    let stage = |stage: &'static str| mean(metric::STAGE_DELAY, Some(("stage", stage))) * 1_000.0;
    println!(
        "of a post: fetch {:.1} ms, window {:.1}, classify {:.1}, store {:.1}",
        stage("fetch"),
        stage("window"),
        stage("classify"),
        stage("store")
    );
    let read = mean(metric::STAGE_SECONDS, Some(("stage", "read")));
    println!(
        "of a window: {:.1} records; decoding a chunk {:.2} ms, tokenising {:.2}; of a batch: {:.1} posts, inference {:.1} ms; \
         of a transaction: {:.1} posts, {:.1} ms",
        mean(metric::WINDOW_RECORDS, None),
        read * 1_000.0,
        mean(metric::TOKENIZE_SECONDS, None) * 1_000.0,
        mean(metric::BATCH_POSTS, None),
        mean(metric::INFERENCE_SECONDS, None) * 1_000.0,
        mean(metric::FLUSH_POSTS, None),
        mean(metric::TRANSACTION_SECONDS, None) * 1_000.0
    );
}

fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = (sorted.len() as f64 * share) as usize;
    sorted
        .get(place.min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or(f64::NAN)
}

/// Kills the process if the bench fails.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
