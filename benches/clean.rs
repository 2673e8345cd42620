//! What cleaning by the profile `classical` costs, and how much of that its lemmas are.
//!
//! The whole profile and the profile without lemmas take turns on the same posts, on one thread; of each the fastest round
//! counts, so that other work on the machine does not.

use std::{
    fs,
    hint::black_box,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Parser;
use moodstream::clean::Steps;

#[derive(Parser)]
struct Args {
    /// A file with a post a line.
    #[arg(long)]
    posts: Option<PathBuf>,
    #[arg(long, default_value_t = 40)]
    rounds: usize,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Posts in a round: some 3 ms, less than a time slice.
const ROUND: usize = 500;

fn main() {
    let args = Args::parse();
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/crowdflower/text_emotion.csv");
    let file = args.posts.unwrap_or(shared);
    let Ok(text) = fs::read_to_string(&file) else {
        println!("skipped: {} is not there", file.display());
        return;
    };
    let posts: Vec<&str> = text.lines().collect();
    let without = Steps {
        lemmas: false,
        ..Steps::ALL
    };
    // The whole profile, the profile without lemmas, and lemmas alone.
    let mut times = [Duration::ZERO; 3];
    // Each round of posts has its own fastest time: some posts are longer.
    for round in posts.chunks(ROUND) {
        let words: Vec<String> = round.iter().map(|post| without.clean(post)).collect();
        let mut fastest = [Duration::MAX; 3];
        for _ in 0..args.rounds.max(1) {
            for (fastest, steps) in fastest.iter_mut().zip([Steps::ALL, without]) {
                let start = Instant::now();
                for post in round {
                    black_box(steps.clean(black_box(post)));
                }
                *fastest = (*fastest).min(start.elapsed());
            }
            let copies = words.clone();
            let start = Instant::now();
            for text in copies {
                black_box(Steps::ALL.lemmatise(black_box(text)));
            }
            fastest[2] = fastest[2].min(start.elapsed());
        }
        for (time, fastest) in times.iter_mut().zip(fastest) {
            *time += fastest;
        }
    }
    let [whole, rest, lemmas] = times.map(|time| time.as_secs_f64() * 1e6 / posts.len() as f64);
    println!(
        "{} posts: {whole:.2} us a post; lemmas alone {lemmas:.2}, {:.1} %; {rest:.2} without them, {:.1} % less",
        posts.len(),
        100.0 * lemmas / whole,
        100.0 * (1.0 - rest / whole)
    );
}
