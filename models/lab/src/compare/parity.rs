//! Comparison with scikit-learn on real posts, which are not in the repository.
//!
//! `tests/fixtures/scikit-learn/make.py` computed the figures on the parts that `compare --write-parts` wrote; here the same
//! files are read and split in the same way. To run the slow test:
//! `cargo test --workspace --lib -- --ignored --nocapture crowdflower_as_scikit_learn`.

#![allow(clippy::unwrap_used)]

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use moodstream::clean::Steps;
use serde::Deserialize;

use super::{
    balance::Balance,
    candidate::{Effort, TrainingSet, macro_f1},
    features,
    parts::{Input, Parts},
    trained::{Kind, Model},
};
use crate::data::{Format, LabelMap};

/// The largest allowed difference from scikit-learn's macro-F1.
const ONE_POINT: f64 = 0.01;

#[derive(Deserialize)]
struct Fixture {
    sets: std::collections::BTreeMap<String, Set>,
}

#[derive(Deserialize)]
struct Set {
    train: usize,
    test: usize,
    features: usize,
    models: Vec<Figures>,
}

#[derive(Deserialize)]
struct Figures {
    model: String,
    settings: Settings,
    macro_f1: f64,
    seconds: f64,
    /// The figures of forests are means over this many seeds.
    seeds: u64,
}

#[derive(Deserialize)]
struct Settings {
    c: Option<f64>,
    smoothing: Option<f64>,
    trees: Option<usize>,
}

fn fixture(name: &str) -> Set {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(here.join("tests/fixtures/scikit-learn/figures.json")).unwrap();
    let mut fixture: Fixture = serde_json::from_str(&text).unwrap();
    fixture.sets.remove(name).unwrap()
}

/// A shared set; `None` with a message if it is absent.
fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/data")
        .join(path);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is not there", path.display());
    None
}

fn check(name: &str, train: PathBuf, test: Option<PathBuf>, map: &LabelMap) {
    let expected = fixture(name);
    let parts = Parts::read(&Input {
        train: &[train],
        test: &Vec::from_iter(test),
        format: Format::Auto,
        map,
        test_share: 0.2,
        folds: 5,
        seed: 1,
        steps: Steps::ALL,
        deduplicate: true,
    })
    .unwrap();
    let texts = |posts: &[super::Post]| -> Vec<String> { posts.iter().map(|post| post.cleaned.clone()).collect() };
    let classes = |posts: &[super::Post]| -> Vec<usize> { posts.iter().map(|post| post.class).collect() };
    let vectorizer = features::fit(&texts(&parts.train), 2);
    let (rows, test) = (
        features::rows(&vectorizer, &texts(&parts.train)),
        features::rows(&vectorizer, &texts(&parts.test)),
    );
    let (truth, test_truth) = (classes(&parts.train), classes(&parts.test));
    assert_eq!(
        (rows.len(), test.len(), rows.width()),
        (expected.train, expected.test, expected.features)
    );

    for figures in &expected.models {
        let seeds = figures.seeds;
        let (mut sum, mut seconds) = (0.0, 0.0);
        for seed in 1..=seeds {
            let training = TrainingSet {
                rows: &rows,
                truth: &truth,
                classes: parts.labels.len(),
                balance: Balance::AsIs,
                seed,
            };
            let start = Instant::now();
            let model = fit(&training, figures);
            seconds += start.elapsed().as_secs_f64();
            sum += macro_f1(&test_truth, &model.predict(&test), parts.labels.len());
        }
        let (found, seconds) = (sum / seeds as f64, seconds / seeds as f64);
        println!(
            "{name}, {} {}: macro-F1 {found:.4}, scikit-learn {:.4}; {seconds:.1} s, scikit-learn {:.1} s",
            figures.model,
            figures
                .settings
                .c
                .or(figures.settings.smoothing)
                .map_or(String::new(), |value| value.to_string()),
            figures.macro_f1,
            figures.seconds
        );
        assert!(
            (found - figures.macro_f1).abs() < ONE_POINT,
            "{name}, {}",
            figures.model
        );
    }
}

fn fit(training: &TrainingSet<'_>, figures: &Figures) -> Model {
    let Settings { c, smoothing, trees } = figures.settings;
    let linear = |kind, value| Model::Linear(training.linear_at(kind, value, Effort::Final, None));
    let forest = || training.forest_with(&[trees.unwrap()], &[None]);
    match figures.model.as_str() {
        "bayes" => linear(Kind::Bayes, smoothing.unwrap()),
        "svc" => linear(Kind::Svc, c.unwrap()),
        "lr" => linear(Kind::Lr, c.unwrap()),
        "forest" => forest().model,
        "stack" => {
            let svc = training.linear_with(Kind::Svc, &[c.unwrap()]);
            training.stack(&[svc, forest()]).unwrap().model
        }
        other => panic!("no model {other}"),
    }
}

#[test]
fn emotion_as_scikit_learn() {
    let files = ["train", "val"].map(|part| shared(&format!("tweeteval/emotion/{part}_text.txt")));
    let [Some(train), Some(test)] = files else { return };
    let labels = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/labels/tweeteval-emotion.toml");
    check("emotion", train, Some(test), &LabelMap::read(&labels).unwrap());
}

#[test]
#[ignore = "takes minutes"]
fn crowdflower_as_scikit_learn() {
    let Some(file) = shared("crowdflower/text_emotion.csv") else {
        return;
    };
    check("crowdflower", file.clone(), None, &LabelMap::identity());
    let groups = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/labels/crowdflower-ekman.toml");
    check("crowdflower-grouped", file, None, &LabelMap::read(&groups).unwrap());
}
