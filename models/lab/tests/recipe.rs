//! The recipe from labelled posts to a served model, in one go, on tiny posts and a tiny source.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use support::{fixture, lab, posts, runtime};

fn recipe(folder: &Path, settings: &[(&str, &str)]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/fine-tune");
    let mut command = Command::new(script);
    for file in ["train.tsv", "valid.tsv", "test.tsv", "model"] {
        command.arg(folder.join(file));
    }
    command.env("LAB", lab().get_program()).env("BASE", fixture("bert"));
    command.env("VOCABULARY", "300").env("LR", "4e-3");
    command.envs(settings.iter().copied()).output().unwrap()
}

fn bench() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    for (file, count) in [("train", 240), ("valid", 60), ("test", 60)] {
        fs::write(folder.path().join(format!("{file}.tsv")), posts(count, count as u64)).unwrap();
    }
    let path = folder.path().to_owned();
    (folder, path)
}

#[test]
fn labelled_posts_become_a_served_model_whose_test_figures_come_last() {
    let Some(library) = runtime() else { return };
    let (_kept, folder) = bench();
    let settings = [
        ("ORT_DYLIB_PATH", library.to_str().unwrap()),
        ("EPOCHS", "40"),
        ("ADAPT", "1"),
        ("TRAIN_ARGS", "--batch 8 --patience 99 --fit-bias"),
    ];
    let output = recipe(&folder, &settings);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let figures: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(figures["precision"], "int8", "{figures}");
    assert_eq!(figures["report"]["posts"], 60, "{figures}");
    let f1 = figures["report"]["macro_f1"].as_f64().unwrap();
    assert!(f1 > 0.9, "one word tells the label, but macro-F1 is {f1}: {said}");
    let model = folder.join("model");
    assert!(model.join("onnx/model_int8.onnx").is_file());
    let manifest = fs::read_to_string(model.join("moodstream.toml")).unwrap();
    assert!(
        manifest.contains("name = \"model\"") && manifest.contains("temperature = "),
        "{manifest}"
    );

    let again = recipe(&folder, &settings);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("exists already"));

    // Another run goes on from what this one trained: at a rate that teaches nothing from scratch.
    fs::rename(folder.join("model.recipe/trained"), folder.join("trained")).unwrap();
    fs::remove_dir_all(&model).unwrap();
    fs::remove_dir_all(folder.join("model.recipe")).unwrap();
    let from = folder.join("trained");
    let settings = [
        ("ORT_DYLIB_PATH", library.to_str().unwrap()),
        ("EPOCHS", "4"),
        ("LR", "1e-3"),
        ("FROM", from.to_str().unwrap()),
    ];
    let output = recipe(&folder, &settings);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let figures: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let f1 = figures["report"]["macro_f1"].as_f64().unwrap();
    assert!(f1 > 0.9, "what was learnt is kept, but macro-F1 is {f1}: {said}");
    assert!(!folder.join("model.recipe/carried").exists());
}

#[test]
fn a_step_that_fails_ends_the_recipe_without_a_model() {
    let (_kept, folder) = bench();
    fs::write(folder.join("valid.tsv"), "w5 w6\tawe\n").unwrap();
    let output = recipe(&folder, &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && output.stdout.is_empty(), "{said}");
    assert!(said.contains("valid.tsv row 1: label `awe`"), "{said}");
    assert!(!folder.join("model").exists());

    fs::remove_file(folder.join("test.tsv")).unwrap();
    let output = recipe(&folder, &[]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("test.tsv"), "{said}");
}
