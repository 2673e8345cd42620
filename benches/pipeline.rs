//! Compares the complete service with its own sessions: the real archive from a real broker through the real model into a real
//! Postgres, against the same texts as prepared batches. Also measures all other stages with inference at no cost, and parsing,
//! cleaning and tokenising alone. The comparisons alternate in one run, so that the ratios are valid on any machine.
//!
//! ```text
//! cargo bench --bench pipeline -- [--lines N] [--rounds N] [--partitions N] [--model FOLDER]
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    collections::HashSet,
    fs,
    hint::black_box,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser;
use moodstream::{
    classify::{Classifier, ClassifyOptions, Order, PreparedBatches},
    config::Settings,
    model::{ModelFolder, ModelOptions},
    pipeline::{self, RunUntil, Summary},
    post::{self, Envelope, ParseOptions, Parsed},
    telemetry::health::Health,
};
use serde_json::Value;
use support::service::{Bench, Service, model, shared, wait_within};

const TOPIC: &str = "archive";
/// The complete archive takes a minute or two on two cores. Much longer means that the service is stuck.
const PATIENCE: Duration = Duration::from_secs(1_800);

#[derive(Parser)]
struct Args {
    /// The number of lines of the archive; all of them by default.
    #[arg(long)]
    lines: Option<usize>,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// The number of partitions of the topic.
    #[arg(long, default_value_t = 4)]
    partitions: u32,
    #[arg(long)]
    model: Option<PathBuf>,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let args = Args::parse();
    let Some(shared) = shared() else { return };
    let lines = archive(&shared, args.lines.unwrap_or(usize::MAX));
    let path = args.model.unwrap_or_else(model);
    let folder = ModelFolder::open(&path, &ModelOptions::default()).expect("a model folder");
    let texts = distinct_texts(&lines, &folder);
    println!(
        "{} lines, of which {} distinct cleaned texts for {} ({}), {} partitions, {} rounds",
        lines.len(),
        texts.len(),
        folder.info().id,
        folder.info().precision,
        args.partitions,
        args.rounds
    );

    let window = Settings::default().window.max_posts;
    let mut ready = PreparedBatches::prepare(&folder, &ClassifyOptions::default(), &texts, window, Order::Length)
        .expect("prepared batches");
    let bench = Bench::start();
    bench.feed(&lines, TOPIC, args.partitions);

    println!(
        "\n{:>5} {:>12} {:>12} {:>8} {:>10} {:>10} {:>9} {:>9}",
        "round", "ready texts/s", "served texts/s", "ratio", "cpu ratio", "records/s", "padding", "peak MiB"
    );
    let mut ratios = Vec::new();
    let mut cpu_ratios = Vec::new();
    for round in 1..=args.rounds {
        let before = processor_ticks(Whose::Own);
        let bare = ready.run().expect("a pass over the batches");
        let bare_ticks = processor_ticks(Whose::Own) - before;

        let service = bench.service(TOPIC).with_group(&format!("round-{round}"));
        let before = processor_ticks(Whose::Children);
        let (summary, peak_kib) = serve(&service, &path);
        let served_ticks = processor_ticks(Whose::Children) - before;
        let number = |name: &str| summary[name].as_f64().unwrap();
        assert_eq!(number("records") as usize, lines.len(), "a record is not accounted for");
        let computed = number("texts") - number("texts_cached");
        let bare_rate = bare.texts as f64 / bare.elapsed.as_secs_f64();
        let served_rate = computed / number("seconds");
        ratios.push(served_rate / bare_rate);
        cpu_ratios.push(bare_ticks / served_ticks);
        println!(
            "{round:>5} {bare_rate:>13.0} {served_rate:>14.0} {:>8.3} {:>10.3} {:>10.0} {:>8.2}% {:>9.0}",
            served_rate / bare_rate,
            bare_ticks / served_ticks,
            number("records_per_second"),
            number("padding_share") * 100.0,
            peak_kib as f64 / 1024.0
        );
    }
    println!(
        "\nserved relative to prepared batches, median: {:.3} by wall time, {:.3} by the service's own CPU time",
        median(&mut ratios),
        median(&mut cpu_ratios)
    );

    let mut rates = Vec::new();
    for round in 1..=args.rounds {
        let service = bench.service(TOPIC).with_group(&format!("constant-{round}"));
        let summary = without_inference(&bench, &service, &path, &format!("constant-{round}"));
        assert_eq!(summary.totals.records as usize, lines.len());
        println!(
            "inference replaced by a constant, round {round}: {:.0} records/s, {:.0} posts/s",
            summary.records_per_second, summary.posts_per_second
        );
        rates.push(summary.posts_per_second);
    }
    println!("median: {:.0} posts/s", median(&mut rates));
}

/// Returns the first lines of the real stream's archive.
fn archive(shared: &Path, count: usize) -> Vec<Vec<u8>> {
    let file = fs::File::open(shared.join("stream/spritzer_2019-07-03_0629-0641.jsonl.zst")).unwrap();
    BufReader::new(zstd::Decoder::new(file).unwrap())
        .split(b'\n')
        .map(|line| line.unwrap().trim_ascii_end().to_vec())
        .filter(|line| !line.is_empty())
        .take(count)
        .collect()
}

/// Returns the distinct cleaned texts that the model has to process, in the order of the lines, and prints the rates of what a post
/// passes before inference, on this thread.
fn distinct_texts(lines: &[Vec<u8>], folder: &ModelFolder) -> Vec<Arc<str>> {
    let profile = pipeline::profile(&Settings::default(), folder).expect("a cleaning profile");
    let envelope = Envelope {
        timestamp: None,
        fallback_id: "none".try_into().ok(),
    };
    let megabytes = lines.iter().map(Vec::len).sum::<usize>() as f64 / 1e6;
    let start = Instant::now();
    let parsed: Vec<_> = lines
        .iter()
        .map(|line| post::parse(line, &envelope, &ParseOptions::default()))
        .collect();
    let parsing = start.elapsed().as_secs_f64();
    let posts: Vec<_> = parsed
        .into_iter()
        .filter_map(|parsed| match parsed {
            Ok(Parsed::Post(post)) => Some(post),
            _ => None,
        })
        .collect();
    let start = Instant::now();
    let texts: Vec<Arc<str>> = posts.iter().map(|post| profile.clean(&post.text).into()).collect();
    let cleaning = start.elapsed().as_secs_f64();
    let start = Instant::now();
    for text in &texts {
        black_box(folder.tokenizer().encode(text).expect("a tokenised text"));
    }
    let tokenising = start.elapsed().as_secs_f64();
    println!(
        "on one thread: parsing {:.0} MB/s and {:.0} records/s, cleaning {:.0} posts/s, tokenising {:.0} posts/s",
        megabytes / parsing,
        lines.len() as f64 / parsing,
        posts.len() as f64 / cleaning,
        posts.len() as f64 / tokenising
    );
    let mut seen: HashSet<Arc<str>> = HashSet::new();
    texts.into_iter().filter(|text| seen.insert(Arc::clone(text))).collect()
}

/// Runs the real binary until it has caught up. Returns its summary, and its peak memory in KiB.
fn serve(service: &Service, model: &Path) -> (Value, u64) {
    let mut child = service
        .command()
        .arg("--until-caught-up")
        .env("MOODSTREAM_MODEL__PATH", model)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .env("MOODSTREAM_LOG__LEVEL", "warn")
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    wait_within(PATIENCE, "the service to catch up", || {
        peak = peak.max(peak_kib(&status));
        child.try_wait().unwrap().is_some()
    });
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    (serde_json::from_slice(&output.stdout).unwrap(), peak)
}

/// Returns the peak resident set size from proc_pid_status(5), or 0 if the process has exited.
fn peak_kib(status: &str) -> u64 {
    let status = fs::read_to_string(status).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// Runs the same stages in this process with a model that costs nothing; texts are still tokenised and batched.
fn without_inference(bench: &Bench, service: &Service, model: &Path, group: &str) -> Summary {
    let raw = format!(
        "kafka = {{ brokers = {:?}, topics = [{TOPIC:?}], group = {group:?}, properties = {{ \"session.timeout.ms\" = \"6000\" }} }}
         model = {{ path = {model:?} }}
         database = {{ url = {:?} }}",
        bench.broker.address(),
        service.url,
    );
    let settings: Settings = toml::from_str(&raw).expect("settings");
    settings.check().expect("settings");
    let folder = ModelFolder::open(model, &settings.model.options()).expect("a model folder");
    let classifier = Classifier::start_without_inference(&folder, &settings.classify).expect("a classifier");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime
        .block_on(pipeline::run_with(
            &settings,
            &folder,
            classifier,
            RunUntil::CaughtUp,
            Health::starting(),
            std::future::pending(),
        ))
        .expect("a run")
}

#[derive(Clone, Copy)]
enum Whose {
    Own,
    /// Child processes that have been waited for.
    Children,
}

/// Returns CPU time in clock ticks (proc_pid_stat(5), fields 14 to 17); NaN if not on Linux.
fn processor_ticks(whose: Whose) -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    let first = match whose {
        Whose::Own => 11,
        Whose::Children => 13,
    };
    fields
        .skip(first)
        .take(2)
        .map(|ticks| ticks.parse().unwrap_or(f64::NAN))
        .sum()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
