//! A tiny linear model: naive Bayes over the n-grams of a few texts of our own, as a folder.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use moodstream::{
    clean::Profile,
    model::linear::{FILE, Feature, LinearModel, NgramKind, Ngrams, Vectorizer},
};

const LABELS: [&str; 3] = ["anger", "joy", "sadness"];

const TEXTS: [(&str, usize); 12] = [
    ("this makes me furious", 0),
    ("so angry at the trains again", 0),
    ("I hate waiting, I hate it!", 0),
    ("what an outrage, shame on you", 0),
    ("i am so happy today", 1),
    ("what a lovely surprise!", 1),
    ("I love my friends :)", 1),
    ("best day ever, happy and glad", 1),
    ("i miss her so much", 2),
    ("crying again, so lonely", 2),
    ("what a sad and grey day", 2),
    ("nothing to live for, I miss home :(", 2),
];

/// Writes a folder whose model learnt from these texts.
pub fn write_folder(folder: &Path) {
    let mut counts: BTreeMap<(NgramKind, u64), [f64; LABELS.len()]> = BTreeMap::new();
    for (text, label) in TEXTS {
        Ngrams::default().each(&Profile::Classical.clean(text), |kind, hash| {
            counts.entry((kind, hash)).or_insert([0.5; LABELS.len()])[label] += 1.0;
        });
    }
    let mut all = [0.0; LABELS.len()];
    for counts in counts.values() {
        all.iter_mut().zip(counts).for_each(|(all, count)| *all += count);
    }
    let features = counts.keys().map(|&(kind, hash)| Feature { kind, hash, idf: 1.5 });
    let weights: Vec<f32> = counts
        .values()
        .flat_map(|counts| counts.iter().zip(all).map(|(count, all)| (count / all).ln() as f32))
        .collect();
    let model = LinearModel::new(Vectorizer::new(features.collect()), &weights, vec![0.0; LABELS.len()]).unwrap();
    let labels: HashMap<String, &str> = LABELS
        .iter()
        .enumerate()
        .map(|(at, label)| (at.to_string(), *label))
        .collect();
    let config = serde_json::json!({
        "model_type": "moodstream-linear",
        "problem_type": "single_label_classification",
        "id2label": labels,
    });
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    fs::write(
        folder.join("moodstream.toml"),
        "name = \"tiny-linear\"\nprofile = \"classical\"\n",
    )
    .unwrap();
    fs::write(folder.join(FILE), model.to_bytes().unwrap()).unwrap();
}
