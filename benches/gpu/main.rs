//! Measures the classifier on texts of realistic lengths for combinations of sessions and batch limits, printing JSON lines for
//! `benches/gpu/run`. It runs on any provider, but is intended for CUDA GPUs.
//!
//! ```text
//! cargo bench --bench gpu -- --model FOLDER --provider cuda --texts FILE --sessions 1,2,4 --batches 128:8192,512:32768
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser;
use futures::{StreamExt as _, stream};
use moodstream::{
    classify::{Classifier, ClassifyOptions},
    model::{ModelFolder, ModelOptions},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

#[derive(Parser)]
struct Args {
    #[arg(long)]
    model: Option<PathBuf>,
    #[arg(long, default_value = "cpu")]
    provider: String,
    #[arg(long, default_value = "auto")]
    precision: String,
    /// A file with one text per line.
    #[arg(long)]
    texts: Option<PathBuf>,
    /// The number of texts per window, as `window.max_posts`.
    #[arg(long, default_value_t = 4096)]
    window: usize,
    /// Numbers of sessions to measure.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4")]
    sessions: Vec<usize>,
    /// Batch limits to measure, each as posts:tokens.
    #[arg(long, value_delimiter = ',', value_parser = batch_limits, default_value = "64:4096,128:8192,512:32768")]
    batches: Vec<(usize, usize)>,
    /// Seconds to measure each combination; the texts are repeated.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Bind inputs in pinned memory, as `classify.io_binding`.
    #[arg(long)]
    io_binding: bool,
    /// Record CUDA graphs for few fixed shapes, as `classify.cuda_graphs`. Only one session can.
    #[arg(long)]
    cuda_graphs: bool,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn batch_limits(text: &str) -> Result<(usize, usize), String> {
    let parsed = text
        .split_once(':')
        .and_then(|(posts, tokens)| Some((posts.parse().ok()?, tokens.parse().ok()?)));
    parsed.ok_or_else(|| format!("{text:?} is not posts:tokens, such as 128:8192"))
}

/// The encoder's dimensions, from `config.json`.
#[derive(Deserialize)]
struct Size {
    hidden_size: f64,
    intermediate_size: f64,
    num_hidden_layers: f64,
}

impl Size {
    /// Returns the floating point operations for one text without padding: the projections of attention (4 h²), the
    /// feed-forward layers (2 h i), and scores and context (2 h n), each counted twice for multiplication and addition.
    fn flops(&self, tokens: f64) -> f64 {
        let (h, i) = (self.hidden_size, self.intermediate_size);
        self.num_hidden_layers * 2.0 * tokens * (4.0 * h * h + 2.0 * h * i + 2.0 * h * tokens)
    }
}

fn named<T: for<'de> Deserialize<'de>>(name: &str) -> T {
    serde_json::from_value(Value::String(name.to_owned())).expect("a known name")
}

fn main() {
    let args = Args::parse();
    assert!(
        !args.cuda_graphs || args.sessions == [1],
        "--cuda-graphs allows only one session: add --sessions 1"
    );
    let (Some(model), Some(texts)) = (&args.model, &args.texts) else {
        println!("skipped: benches/gpu/run calls it with --model and --texts");
        return;
    };
    let options = ModelOptions {
        provider: named(&args.provider),
        precision: named(&args.precision),
        ..ModelOptions::default()
    };
    let folder = ModelFolder::open(model, &options).expect("a model folder");
    let size: Size = serde_json::from_slice(&fs::read(model.join("config.json")).expect("config.json"))
        .expect("an encoder's config.json");
    let texts: Vec<Arc<str>> = fs::read_to_string(texts)
        .expect("the file of texts")
        .lines()
        .map(Arc::from)
        .collect();
    let tokens: Vec<usize> = texts
        .iter()
        .map(|text| folder.tokenizer().encode(text).expect("a text").len())
        .collect();
    let flops: f64 = tokens.iter().map(|&tokens| size.flops(tokens as f64)).sum();
    let runtime = Runtime::new().expect("a runtime");

    for &sessions in &args.sessions {
        for &(max_batch_posts, max_batch_tokens) in &args.batches {
            let options = ClassifyOptions {
                sessions,
                max_batch_posts,
                max_batch_tokens,
                cache_entries: 0,
                io_binding: args.io_binding,
                cuda_graphs: args.cuda_graphs,
                ..ClassifyOptions::default()
            };
            let classifier = match Classifier::start(&folder, &options) {
                Ok(classifier) => classifier,
                Err(error) => {
                    println!("{}", json!({"sessions": sessions, "error": error.to_string()}));
                    continue;
                }
            };
            // The first pass allocates memory and selects kernels.
            run(&runtime, &classifier, &texts, args.window);
            let before = classifier.stats();
            let start = Instant::now();
            let mut passes = 0.0;
            while passes == 0.0 || start.elapsed() < Duration::from_secs_f64(args.seconds) {
                run(&runtime, &classifier, &texts, args.window);
                passes += 1.0;
            }
            let seconds = start.elapsed().as_secs_f64();
            let after = classifier.stats();
            let (real, padding) = (after.tokens - before.tokens, after.padding - before.padding);
            println!(
                "{}",
                json!({
                    "model": folder.info().id.to_string(),
                    "precision": folder.info().precision.as_str(),
                    "provider": args.provider,
                    "io_binding": args.io_binding,
                    "cuda_graphs": args.cuda_graphs,
                    "sessions": sessions,
                    "max_batch_posts": max_batch_posts,
                    "max_batch_tokens": max_batch_tokens,
                    "posts_per_second": passes * texts.len() as f64 / seconds,
                    "tokens_per_second": real as f64 / seconds,
                    "flops_per_second": passes * flops / seconds,
                    "padding_share": padding as f64 / (real + padding) as f64,
                })
            );
        }
    }
}

fn run(runtime: &Runtime, classifier: &Classifier, texts: &[Arc<str>], window: usize) {
    runtime.block_on(async {
        let answers: Vec<_> = stream::iter(texts.chunks(window).map(<[Arc<str>]>::to_vec))
            .map(|window| classifier.classify(window))
            .buffered(2)
            .collect()
            .await;
        assert!(answers.iter().flatten().all(Result::is_ok), "every text has an answer");
    });
}
