//! Measures the effect of sorting by length, of the session layout and of the batch size, and how close the classifier comes to
//! its own sessions on prepared batches. Everything is measured in one run, so that the ratios are valid on any machine.
//!
//! ```text
//! cargo bench --bench classify -- [--model FOLDER] [--provider cpu|cuda|tensorrt] [--posts N] [--rounds N] [--all]
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{
    collections::HashSet,
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use clap::Parser;
use futures::{StreamExt, stream};
use moodstream::{
    classify::{Classifier, ClassifyOptions, Order, PreparedBatches},
    clean::Profile,
    model::{ModelFolder, ModelOptions, Precision, Provider, Weights},
};
use regex::Regex;
use serde::Deserialize;
use serde_json::Value;
use tokio::runtime::Runtime;

#[derive(Parser)]
struct Args {
    /// The model folder.
    #[arg(long)]
    model: Option<PathBuf>,
    #[arg(long, default_value = "cpu")]
    provider: String,
    #[arg(long, default_value = "auto")]
    precision: String,
    /// The number of distinct posts per round.
    #[arg(long, default_value_t = 2048)]
    posts: usize,
    /// The number of posts per window.
    #[arg(long, default_value_t = 1024)]
    window: usize,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Also measure other batch sizes, session layouts and settings.
    #[arg(long)]
    all: bool,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn named<T: for<'de> Deserialize<'de>>(name: &str) -> T {
    serde_json::from_value(Value::String(name.to_owned())).expect("a known name")
}

fn main() {
    let args = Args::parse();
    let model = args
        .model
        .clone()
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("models/emotion-roberta-6x384"));
    if !model.exists() {
        println!("skipped: no model at {}", model.display());
        return;
    }
    let provider: Provider = named(&args.provider);
    let precision: Precision = named(&args.precision);
    let folder = ModelFolder::open(
        &model,
        &ModelOptions {
            provider,
            precision,
            ..ModelOptions::default()
        },
    )
    .expect("a model folder");
    let texts = posts(args.posts);
    if matches!(folder.weights(), Weights::Linear(..)) {
        return linear(&folder, &texts, &args);
    }
    let lengths: Vec<usize> = texts
        .iter()
        .map(|text| folder.tokenizer().encode(text).unwrap().len())
        .collect();
    let mut sorted = lengths.clone();
    sorted.sort_unstable();
    println!(
        "{} {} on {provider}; {} posts, tokens mean {:.1}, median {}, 95th {}, max {}",
        folder.info().id,
        folder.info().precision,
        texts.len(),
        lengths.iter().sum::<usize>() as f64 / lengths.len() as f64,
        sorted[sorted.len() / 2],
        sorted[sorted.len() * 95 / 100],
        sorted[sorted.len() - 1],
    );
    let started = Instant::now();
    for text in &texts {
        std::hint::black_box(folder.tokenizer().encode(text).unwrap());
    }
    println!(
        "tokenisation, one thread: {:.0} posts/s\n",
        texts.len() as f64 / started.elapsed().as_secs_f64()
    );

    let default = ClassifyOptions {
        cache_entries: 0,
        ..ClassifyOptions::default()
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut cases: Vec<(String, Box<dyn Case>)> = Vec::new();
    let mut ready = |name: &str, options: &ClassifyOptions, order: Order| {
        let batches = PreparedBatches::prepare(&folder, options, &texts, args.window, order).expect(name);
        cases.push((format!("prepared, {name}"), Box::new(batches)));
    };
    ready("by length (the default)", &default, Order::Length);
    ready("in arrival order", &default, Order::Arrival);
    ready(
        "one at a time",
        &ClassifyOptions {
            max_batch_posts: 1,
            ..default.clone()
        },
        Order::Arrival,
    );
    ready(
        "one session with all threads",
        &ClassifyOptions {
            sessions: 1,
            intra_threads: cores,
            ..default.clone()
        },
        Order::Length,
    );
    if args.all {
        for posts in [2, 4, 16, 32] {
            ready(
                &format!("{posts} posts per batch"),
                &ClassifyOptions {
                    max_batch_posts: posts,
                    ..default.clone()
                },
                Order::Length,
            );
        }
        let config = |key: &str, value: &str| ClassifyOptions {
            session_config: [(key.into(), value.into())].into(),
            ..default.clone()
        };
        ready(
            "with SkipLayerNormFusion",
            &config("optimization.disable_specified_optimizers", ""),
            Order::Length,
        );
    }
    let classifier = Classifier::start(&folder, &default).expect("a classifier");
    let running = Running {
        classifier,
        texts: texts.clone(),
        window: args.window,
    };
    cases.push(("through classify".to_owned(), Box::new(running)));

    let mut best = vec![Duration::MAX; cases.len()];
    let mut computed = vec![f64::MAX; cases.len()];
    let mut padding = vec![0.0; cases.len()];
    for round in 0..=args.rounds {
        for (number, (_, case)) in cases.iter_mut().enumerate() {
            let before = processor_ticks();
            let (elapsed, share) = case.run();
            // The first round is a warm-up.
            if round > 0 {
                best[number] = best[number].min(elapsed);
                computed[number] = computed[number].min(processor_ticks() - before);
            }
            padding[number] = share;
        }
    }
    // CPU time gives the ratio even if the machine is shared with other work.
    println!(
        "{:44} {:>9} {:>9} {:>9} {:>8}",
        "", "posts/s", "ratio", "cpu ratio", "padding"
    );
    for (number, (name, _)) in cases.iter().enumerate() {
        println!(
            "{name:44} {:>9.0} {:>9.3} {:>9.3} {:>7.1}%",
            texts.len() as f64 / best[number].as_secs_f64(),
            best[0].as_secs_f64() / best[number].as_secs_f64(),
            computed[0] / computed[number],
            padding[number] * 100.0
        );
    }

    let empty = Classifier::start_without_inference(&folder, &default).expect("a classifier");
    let mut running = Running {
        classifier: empty,
        texts,
        window: args.window,
    };
    running.run();
    let (elapsed, _) = running.run();
    println!(
        "\nwith inference replaced by a constant: {:.0} posts/s",
        args.posts as f64 / elapsed.as_secs_f64()
    );
}

/// Measures a linear model: posts per second of CPU time within the classifier, excluding cleaning.
fn linear(folder: &ModelFolder, texts: &[Arc<str>], args: &Args) {
    let profile = Profile::from_name(&folder.info().profile).expect("a profile");
    let options = ClassifyOptions {
        cache_entries: 0,
        ..ClassifyOptions::default()
    };
    let mut running = Running {
        classifier: Classifier::start(folder, &options).expect("a classifier"),
        texts: texts.iter().map(|text| profile.clean(text).into()).collect(),
        window: args.window,
    };
    running.run();
    let (start, before, mut posts) = (Instant::now(), processor_ticks(), 0);
    // A tick is 10 ms.
    while processor_ticks() - before < 200.0 {
        running.run();
        posts += texts.len();
    }
    let stats = running.classifier.stats();
    println!(
        "{}: {} posts of {} n-grams on average; {:.0} posts per second of CPU time, {:.0} per second of wall time",
        folder.info().id,
        texts.len(),
        stats.tokens / stats.texts.max(1),
        posts as f64 / (processor_ticks() - before) * 100.0,
        posts as f64 / start.elapsed().as_secs_f64(),
    );
}

/// Returns the CPU time used by this process, in clock ticks (proc_pid_stat(5), fields 14 and 15); NaN if not on Linux.
fn processor_ticks() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    fields
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse().unwrap_or(f64::NAN))
        .sum()
}

trait Case {
    /// Runs one round, returning its duration and the share of padding.
    fn run(&mut self) -> (Duration, f64);
}

impl Case for PreparedBatches {
    fn run(&mut self) -> (Duration, f64) {
        let run = Self::run(self).expect("a run");
        (run.elapsed, 1.0 - run.tokens as f64 / run.padded as f64)
    }
}

struct Running {
    classifier: Classifier,
    texts: Vec<Arc<str>>,
    window: usize,
}

impl Case for Running {
    fn run(&mut self) -> (Duration, f64) {
        static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));
        let before = self.classifier.stats();
        let start = Instant::now();
        RUNTIME.block_on(async {
            let windows = stream::iter(self.texts.chunks(self.window).map(<[Arc<str>]>::to_vec));
            let answers: Vec<_> = windows
                .map(|window| self.classifier.classify(window))
                .buffered(2)
                .collect()
                .await;
            assert!(answers.iter().flatten().all(Result::is_ok));
        });
        let elapsed = start.elapsed();
        let after = self.classifier.stats();
        let (tokens, padding) = (after.tokens - before.tokens, after.padding - before.padding);
        (elapsed, padding as f64 / (tokens + padding) as f64)
    }
}

/// Returns distinct English posts of the real stream if it is available, cleaned in a simple way.
fn posts(count: usize) -> Vec<Arc<str>> {
    let archive =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/stream/spritzer_2019-07-03_0629-0641.jsonl.zst");
    let Ok(file) = File::open(&archive) else {
        println!(
            "no archive at {}: using made-up posts of about the same lengths",
            archive.display()
        );
        return (0..count)
            .map(|n| format!("post {n} {}", "and on it goes ".repeat(n * n % 13)).into())
            .collect();
    };
    let masks = [
        (Regex::new(r"@\w+").unwrap(), "@user"),
        (Regex::new(r"https?://\S+").unwrap(), "http"),
    ];
    let mut seen = HashSet::new();
    let lines = BufReader::new(zstd::Decoder::new(file).expect("a zstd archive")).lines();
    lines
        .filter_map(|line| serde_json::from_str::<Value>(&line.ok()?).ok())
        .filter(|post| post["lang"] == "en")
        .filter_map(|post| {
            let original = if post["retweeted_status"].is_object() {
                &post["retweeted_status"]
            } else {
                &post
            };
            let text = original
                .pointer("/extended_tweet/full_text")
                .or_else(|| original.get("text"))?
                .as_str()?;
            let text = masks.iter().fold(text.to_owned(), |text, (mask, with)| {
                mask.replace_all(&text, *with).into_owned()
            });
            seen.insert(text.clone()).then(|| text.into())
        })
        .take(count)
        .collect()
}
