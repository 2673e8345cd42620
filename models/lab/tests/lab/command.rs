//! The binary as users run it: what it says about invalid input, and how it resumes after a kill.

use std::{
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use moodstream::model::{ModelFolder, ModelOptions};

use crate::{
    bench::{Bench, json},
    support::{fixture, lab},
};

fn renamed(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = bytes
        .windows(from.len())
        .position(|window| window == from.as_bytes())
        .unwrap();
    [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat()
}

#[test]
fn invalid_posts_are_refused_in_one_line_that_names_file_and_row() {
    let bench = Bench::new();
    let train = "train --base @base --valid @valid.tsv --out @out --train";
    bench.write("columns.tsv", "w5 w6\tjoy\nw7 w8\n");
    bench.write("three.tsv", "w5 w6\tjoy\nw7\tw8\tanger\n");
    bench.write("bytes.tsv", b"w5\tjoy\n\xff\tanger\n");
    bench.write("empty.tsv", "");
    bench.write("one.tsv", "w5\tjoy\nw6\tjoy\n");
    for (file, place) in [
        ("columns.tsv", "row 2: 1 columns"),
        ("three.tsv", "row 2: 3 columns"),
        ("bytes.tsv", "not UTF-8"),
        ("empty.tsv", "no rows"),
        ("one.tsv", "all posts have the same label, `joy`"),
        ("absent.tsv", "can't read"),
    ] {
        let said = bench.refusal(&format!("{train} @{file}"));
        assert!(said.contains(file) && said.contains(place), "{said}");
    }
    bench.write("awe.tsv", "w5 w6\tjoy\nw7 w8\tawe\n");
    let said = bench.refusal("train --base @base --train @train.tsv --valid @awe.tsv --out @out");
    assert!(said.contains("awe.tsv row 2: label `awe`"), "{said}");

    bench.write("map.toml", "labels = [\"joy\"]\n");
    let said = bench.refusal("prepare --train @train.tsv --labels-map @map.toml --out @out");
    assert!(said.contains("train.tsv:1: ") && said.contains("labels map"), "{said}");
    let said = bench.refusal("prepare --train @three.tsv --out @out");
    assert!(said.contains("three.tsv:2: "), "{said}");
}

#[test]
fn invalid_checkpoints_are_refused_in_one_line_that_names_file_or_tensor() {
    let bench = Bench::new();
    bench.damaged("torn", "model.safetensors", |bytes| bytes[..bytes.len() / 2].to_vec());
    bench.damaged("lacking", "model.safetensors", |bytes| {
        renamed(&bytes, "layer.1.output.dense.weight", "layer.1.output.dense.wobble")
    });
    bench.damaged("other", "tokenizer.json", |bytes| {
        let mut json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        for id in json["model"]["vocab"].as_object_mut().unwrap().values_mut() {
            *id = (id.as_u64().unwrap() + 1_000).into();
        }
        json.to_string().into_bytes()
    });
    bench.damaged("sizes", "config.json", |bytes| {
        String::from_utf8(bytes)
            .unwrap()
            .replace("\"hidden_size\": 16", "\"hidden_size\": 32")
            .into_bytes()
    });
    let steps = [
        "train --train @train.tsv --valid @valid.tsv --out @out --base",
        "pretrain --text @train.tsv --out @out --base",
    ];
    for step in steps {
        for (base, place) in [
            ("torn", "not a safetensors file"),
            ("lacking", "layer.1.output.dense.weight is absent"),
            ("other", "don't belong together"),
            ("sizes", ", but config.json says ["),
            ("absent", "config.json"),
        ] {
            let said = bench.refusal(&format!("{step} @{base}"));
            assert!(said.contains(base) && said.contains(place), "{said}");
        }
    }
    let said = bench.refusal("export --checkpoint @base --precision fp32 --out @out");
    assert!(
        said.contains("base"),
        "an encoder without a head is not a classifier: {said}"
    );
    let said = bench.refusal("carry --source @base --text @train.tsv --out @out");
    assert!(said.contains("a RoBERTa or an MPNet already"), "{said}");
}
#[test]
fn token_ids_without_embeddings_are_refused_before_any_work() {
    let bench = Bench::new();
    let bert = fixture("bert");
    bench.damaged_copy(&bert, "pieces", "tokenizer.json", |bytes| {
        json(&bytes, |json| json["model"]["vocab"]["w6"] = 9_999.into())
    });
    bench.damaged_copy(&bert, "frame", "tokenizer.json", |bytes| {
        let tokens = "/post_processor/special_tokens/[SEP]/ids/0";
        json(&bytes, |json| *json.pointer_mut(tokens).unwrap() = 9_999.into())
    });
    for source in ["pieces", "frame"] {
        let said = bench.refusal(&format!("carry --source @{source} --text @train.tsv --out @out"));
        assert!(
            said.contains(source) && said.contains("has the id 9999, but the model has"),
            "{said}"
        );
    }
    bench.damaged("mask", "tokenizer.json", |bytes| {
        json(&bytes, |json| {
            let tokens = json["added_tokens"].as_array_mut().unwrap();
            let mask = tokens.iter_mut().find(|token| token["content"] == "<mask>");
            mask.unwrap()["id"] = 9_999.into();
        })
    });
    let said = bench.refusal("pretrain --base @mask --text @train.tsv --out @out");
    assert!(
        said.contains("mask") && said.contains("has the id 9999, but the model has"),
        "{said}"
    );
}

#[test]
fn too_few_positions_for_a_post_are_refused() {
    let bench = Bench::new();
    let bert = fixture("bert").into_os_string().into_string().unwrap();
    for positions in ["0", "1", "2", "4"] {
        let said = bench.refusal(&format!(
            "carry --source {bert} --text @train.tsv --out @out --positions {positions}"
        ));
        assert!(
            said.contains(&format!("--positions {positions}: must be above 4")),
            "{said}"
        );
    }
}

#[test]
fn sizes_that_differ_from_the_weights_are_refused_before_memory_is_allocated() {
    let bench = Bench::new();
    for (name, size, other) in [
        ("positions", "max_position_embeddings", 100_000_000_000_000_u64),
        ("words", "vocab_size", 1 << 24),
        ("layers", "num_hidden_layers", 1 << 24),
        ("inner", "intermediate_size", 1 << 24),
    ] {
        bench.damaged(name, "config.json", |bytes| {
            json(&bytes, |json| json[size] = other.into())
        });
        let said = bench.refusal(&format!("pretrain --text @train.tsv --out @out --base @{name}"));
        assert!(
            said.contains(", but config.json says [") || said.contains(" is absent"),
            "{said}"
        );
    }
}

#[test]
fn a_trailing_slash_of_the_output_folder_changes_nothing() {
    let bench = Bench::new();
    let bert = fixture("bert").into_os_string().into_string().unwrap();
    for (out, words) in [
        (
            "carried",
            format!("carry --vocabulary 300 --source {bert} --text @train.tsv"),
        ),
        ("adapted", "pretrain --base @base --text @train.tsv".to_owned()),
        (
            "trained",
            "train --epochs 1 --base @base --train @train.tsv --valid @valid.tsv".to_owned(),
        ),
    ] {
        let output = lab()
            .args(bench.arguments(&format!("{words} --out @{out}/")))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{out}: {said}");
        assert!(bench.path(out).join("model.safetensors").is_file(), "{out}");
        for beside in [format!("{out}/.partial"), format!("{out}/.work")] {
            assert!(!bench.path(&beside).exists(), "{beside}");
        }
    }
}

#[test]
fn mistakes_in_recipes_and_label_maps_are_reported_with_file_and_line() {
    let bench = Bench::new();
    bench.write("recipe.toml", "seed = 1\n\nseveral = \"some\"\n");
    let said = bench.refusal("prepare --recipe @recipe.toml --out @out");
    assert!(said.contains("recipe.toml: line 3: unknown variant"), "{said}");
    bench.write("map.toml", "labels = [\"joy\"]\ndrop = joy\n");
    let said = bench.refusal("prepare --train @train.tsv --labels-map @map.toml --out @out");
    assert!(said.contains("map.toml: line 2: "), "{said}");
}

#[test]
fn empty_lines_count_as_rows_in_messages() {
    let bench = Bench::new();
    bench.write("gaps.tsv", "w5 w6\tjoy\n\n\nw7 w8\tawe\n");
    let said = bench.refusal("train --base @base --train @train.tsv --valid @gaps.tsv --out @out");
    assert!(said.contains("gaps.tsv row 4: label `awe`"), "{said}");
}

#[test]
fn labels_that_can_not_be_written_are_refused_before_anything_is_written() {
    let bench = Bench::new();
    for (label, place) in [
        ("\"joy, calm\"", "the label `joy, calm`"),
        ("[\"joy\", \"\"]", "a label is empty"),
        ("\"joy\\tcalm\"", "the label `joy\\tcalm`"),
    ] {
        let line = format!("{{\"text\": \"w5\", \"label\": \"joy\"}}\n{{\"text\": \"w6\", \"label\": {label}}}\n");
        bench.write("labels.jsonl", line);
        let said = bench.refusal("prepare --train @train.tsv --valid @labels.jsonl --out @out");
        assert!(said.contains("labels.jsonl:2: ") && said.contains(place), "{said}");
    }
}

#[test]
fn posts_are_cleaned_in_serving_as_in_training() {
    let bench = Bench::new();
    let run = |words: &str| {
        let output = lab().args(bench.arguments(words)).output().unwrap();
        assert!(
            output.status.success(),
            "{words}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    run("train --epochs 1 --profile classical --base @base --train @train.tsv --valid @valid.tsv --out @trained");
    run("export --checkpoint @trained --precision fp32 --name moods --out @model");
    let model = ModelFolder::open(bench.path("model"), &ModelOptions::default()).unwrap();
    let info = model.info();
    assert_eq!(&*info.profile, "classical");
    assert!(info.id.starts_with("moods@"), "{}", info.id);
    assert!(
        info.groups.values().flatten().any(|label| &**label == "joy"),
        "{:?}",
        info.groups
    );
}

/// Kills a run of many epochs after it has saved its state, resumes it, and compares its weights with those of a run that
/// was not killed.
fn kill_and_resume(bench: &Bench, step: &str, words: &str) {
    let command = |out: &str| {
        let mut command = lab();
        command
            .args([
                step,
                "--epochs",
                "60",
                "--batch",
                "8",
                "--dropout",
                "0.1",
                "--threads",
                "2",
            ])
            .arg("--base")
            .arg(bench.path("base"))
            .arg("--out")
            .arg(bench.path(out))
            .args(bench.arguments(words));
        command
    };
    let (work, out) = (bench.path("out.work"), bench.path("out"));
    let quiet = |mut command: Command| command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let mut first = quiet(command("out"));
    // The state is saved at the end of each epoch, so the file appears when the first is over.
    let started = Instant::now();
    while !work.join("progress.json").exists() {
        assert!(started.elapsed() < Duration::from_secs(60), "no state was saved");
        let ended = first.try_wait().unwrap();
        assert!(ended.is_none(), "it ended before it could be killed");
        std::thread::yield_now();
    }
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(!out.exists(), "a killed run leaves no incomplete checkpoint");

    let second = command("out").output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(second.status.success() && said.contains("resuming in epoch"), "{said}");
    assert!(!work.exists(), "the state of a finished run is removed");

    assert!(command("whole").output().unwrap().status.success());
    let weights = |out: &str| fs::read(bench.path(out).join("model.safetensors")).unwrap();
    assert!(weights("out") == weights("whole"), "the kill changed the weights");
}

#[test]
fn a_killed_training_resumes() {
    let bench = Bench::new();
    let words = "--train @train.tsv --valid @valid.tsv --patience 99 --average 0.5";
    kill_and_resume(&bench, "train", words);
    let report = fs::read(bench.path("out/report/report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["epochs"].as_array().unwrap().len(), 60);
    for picture in ["loss.svg", "confusion.svg"] {
        let svg = fs::read_to_string(bench.path("out/report").join(picture)).unwrap();
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{picture}");
    }
}

#[test]
fn a_killed_adaptation_resumes() {
    let bench = Bench::new();
    let teacher = fixture("bert").into_os_string().into_string().unwrap();
    kill_and_resume(&bench, "pretrain", &format!("--text @train.tsv --teacher {teacher}"));
}
