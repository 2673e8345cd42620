#![allow(clippy::unwrap_used)]

use std::{fs, sync::Arc};

use super::*;
use crate::testing::{Real, arguments};

fn arcs(labels: &[&str]) -> Vec<Arc<str>> {
    labels.iter().map(|&label| Arc::from(label)).collect()
}

fn map(text: &str) -> LabelMap {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("map.toml");
    fs::write(&path, text).unwrap();
    LabelMap::read(&path).unwrap()
}

fn served(emotions: &[usize], scores: &[[f64; 3]]) -> Served {
    let speed = Speed {
        seconds: 1.0,
        posts_per_second: 1.0,
        tokens_per_second: 1.0,
        padding_share: 0.0,
    };
    Served {
        emotions: emotions.to_vec(),
        scores: scores.iter().map(|scores| scores.to_vec()).collect(),
        speed,
    }
}

fn example(labels: &[&str]) -> Example {
    let origin = data::Origin {
        file: Path::new("a.tsv").into(),
        row: 4,
    };
    Example {
        text: "x".to_owned(),
        labels: labels.iter().map(|&label| label.to_owned()).collect(),
        unknown: Vec::new(),
        language: None,
        origin,
    }
}

#[test]
fn predictions_of_dropped_labels_are_replaced_with_the_next_best() {
    let map = map("labels = ['good', 'bad']\ndrop = ['neutral']\n[map]\njoy = 'good'\nanger = 'bad'");
    let evaluated = EvaluatedLabels::new(&arcs(&["joy", "anger", "neutral"]), &map).unwrap();
    let served = served(&[0, 2], &[[0.6, 0.3, 0.1], [0.1, 0.2, 0.7]]);
    let decided = evaluated.decide(&served, ProblemType::SingleLabelClassification, &[0.5; 3]);
    assert_eq!(decided.emotions, [0, 1]);
    assert_eq!(decided.confidence, [0.6, 0.2]);
    assert!(EvaluatedLabels::new(&arcs(&["fear"]), &map).is_err_and(|error| error.to_string().contains("`fear`")));
    assert!(EvaluatedLabels::new(&arcs(&["neutral"]), &map).is_err());
}

#[test]
fn the_confidence_in_a_group_is_the_sum_over_its_labels() {
    let map = map("labels = ['good', 'bad']\n[map]\njoy = 'good'\nlove = 'good'\nanger = 'bad'");
    let evaluated = EvaluatedLabels::new(&arcs(&["joy", "anger", "love"]), &map).unwrap();
    let served = served(&[0], &[[0.5, 0.25, 0.25]]);
    let confidence = |problem_type| evaluated.decide(&served, problem_type, &[0.5; 3]).confidence;
    assert_eq!(confidence(ProblemType::SingleLabelClassification), [0.75]);
    assert_eq!(confidence(ProblemType::MultiLabelClassification), [0.5]);
}

#[test]
fn a_multi_label_model_predicts_labels_above_their_thresholds_and_the_emotion() {
    let evaluated = EvaluatedLabels::new(&arcs(&["joy", "anger", "neutral"]), &LabelMap::identity()).unwrap();
    let served = served(&[1, 2], &[[0.4, 0.9, 0.1], [0.1, 0.2, 0.3]]);
    let decided = evaluated.decide(&served, ProblemType::MultiLabelClassification, &[0.3, 0.5, 0.5]);
    assert_eq!(decided.sets, [vec![0, 1], vec![2]]);
}

#[test]
fn languages_are_evaluated_separately_without_neutral_and_unknown_labels() {
    let labels = ["joy", "fear", "neutral"].map(str::to_owned);
    let of = |language: &str, labels: &[&str], unknown: &[&str]| Example {
        language: Some(language.into()),
        unknown: unknown.iter().map(|&label| label.to_owned()).collect(),
        ..example(labels)
    };
    let examples = [
        of("ro", &["joy"], &[]),
        of("ro", &["fear"], &[]),
        of("ro", &["neutral"], &[]),
        of("en", &["joy"], &["fear"]),
    ];
    let flags = |sets: [&[usize]; 4]| {
        sets.map(|set| (0..3).map(|label| set.contains(&label)).collect())
            .to_vec()
    };
    let truth = flags([&[0], &[1], &[2], &[0]]);
    let given = flags([&[0], &[2], &[0], &[0]]);
    let reports = report::by_language(&labels, &examples, &truth, &given);
    let found: Vec<_> = reports.iter().map(|one| (one.language.as_str(), one.posts)).collect();
    assert_eq!(found, [("en", 1), ("ro", 3)]);
    assert!((reports[0].macro_f1 - 1.0).abs() < 1e-12 && !reports[0].f1.contains_key("fear"));
    // Joy has 2/3 and fear 0; neutral, which is never right, does not count.
    assert!((reports[1].macro_f1 - 1.0 / 3.0).abs() < 1e-12, "{:?}", reports[1]);
    let evaluated = EvaluatedLabels::new(&arcs(&["joy", "fear", "neutral"]), &LabelMap::identity()).unwrap();
    assert_eq!(evaluated.unknown(&examples[3..]), [[1]]);
}

#[test]
fn a_label_that_the_model_lacks_is_named_with_its_row() {
    let evaluated = EvaluatedLabels::new(&arcs(&["joy", "anger"]), &LabelMap::identity()).unwrap();
    assert_eq!(evaluated.truth(&[example(&["anger", "joy"])]).unwrap(), [[1, 0]]);
    let error = evaluated.truth(&[example(&["optimism"])]).unwrap_err().to_string();
    assert_eq!(
        error,
        "a.tsv:4: the model has no label `optimism` (it has joy, anger): give --labels-map"
    );
}

/// Evaluates a real model on real posts, which are not in the repository.
#[test]
fn a_real_model_is_evaluated_and_compared_with_itself() {
    let Some(real) = Real::find() else { return };
    let against = ["--against".as_ref(), real.model.as_os_str()];
    let figures = real.figures(run, &real.model, &against);
    assert_eq!(figures["report"]["posts"], 374);
    assert_eq!(figures["precision"], "int8");
    assert_eq!(figures["against"]["agreement"], 1.0);
    // Its card says 0.74 to 0.75.
    let macro_f1 = figures["report"]["macro_f1"].as_f64().unwrap();
    assert!((0.65..0.85).contains(&macro_f1), "{macro_f1}");
    assert!(arguments::<Args>(["--model", "m", "--data", "d", "--precision", "int4"]).is_err());
}
