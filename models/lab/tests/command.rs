//! The binary as its users run it: what it says of unfit input, and going on after a kill.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use moodstream::model::{ModelFolder, ModelOptions};
use support::{fixture, lab, posts, runtime};

/// A folder with a carried checkpoint and posts for it.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        fs::write(bench.path("train.tsv"), posts(120, 1)).unwrap();
        fs::write(bench.path("valid.tsv"), posts(40, 2)).unwrap();
        let carry = lab()
            .arg("carry")
            .args(["--vocabulary", "300", "--source"])
            .arg(fixture("bert"))
            .arg("--text")
            .arg(bench.path("train.tsv"))
            .arg("--out")
            .arg(bench.path("base"))
            .output()
            .unwrap();
        assert!(carry.status.success(), "{}", String::from_utf8_lossy(&carry.stderr));
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    /// A copy of the carried checkpoint with one file changed.
    fn damaged(&self, name: &str, file: &str, change: impl Fn(Vec<u8>) -> Vec<u8>) {
        self.damaged_copy(&self.path("base"), name, file, change);
    }

    fn damaged_copy(&self, from: &Path, name: &str, file: &str, change: impl Fn(Vec<u8>) -> Vec<u8>) {
        fs::create_dir(self.path(name)).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let bytes = fs::read(entry.path()).unwrap();
            let bytes = if entry.file_name() == file {
                change(bytes)
            } else {
                bytes
            };
            fs::write(self.path(name).join(entry.file_name()), bytes).unwrap();
        }
    }

    /// The arguments that `words` names, where `@x` is a path in the folder.
    fn arguments(&self, words: &str) -> Vec<OsString> {
        let argument = |word: &str| match word.strip_prefix('@') {
            Some(name) => self.path(name).into_os_string(),
            None => word.into(),
        };
        words.split(' ').map(argument).collect()
    }

    /// What the lab says, in one line, to a step that must fail; `words` are its arguments. Nothing may be left of it.
    fn refusal(&self, words: &str) -> String {
        let names = |folder: &Path| -> Vec<_> {
            let mut names: Vec<_> = fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect();
            names.sort();
            names
        };
        let before = names(self.folder.path());
        let output = lab().args(self.arguments(words)).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "`{words}`: {said}");
        assert_eq!(said.lines().count(), 1, "`{words}`: {said}");
        assert!(said.starts_with("error: "), "`{words}`: {said}");
        assert_eq!(names(self.folder.path()), before, "`{words}` left something");
        said
    }
}

fn renamed(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = bytes
        .windows(from.len())
        .position(|window| window == from.as_bytes())
        .unwrap();
    [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat()
}

#[test]
fn unfit_posts_are_refused_in_one_line_that_names_file_and_row() {
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
        ("one.tsv", "one label alone, `joy`"),
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
fn unfit_checkpoints_are_refused_in_one_line_that_names_file_or_tensor() {
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
        "an encoder without a head is no classifier: {said}"
    );
    let said = bench.refusal("carry --source @base --text @train.tsv --out @out");
    assert!(said.contains("a RoBERTa or an MPNet already"), "{said}");
}

/// Changes a JSON file's value.
fn json(bytes: &[u8], change: impl Fn(&mut serde_json::Value)) -> Vec<u8> {
    let mut json = serde_json::from_slice(bytes).unwrap();
    change(&mut json);
    json.to_string().into_bytes()
}

#[test]
fn ids_that_a_model_has_no_embeddings_for_are_refused_before_any_work() {
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
            said.contains(source) && said.contains("gives id 9999, but the model has"),
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
        said.contains("mask") && said.contains("gives id 9999, but the model has"),
        "{said}"
    );
}

#[test]
fn positions_that_leave_no_room_for_a_post_are_refused() {
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
fn sizes_that_the_weights_do_not_have_are_refused_before_memory_is_taken() {
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
fn a_slash_after_the_name_of_a_folder_to_make_changes_nothing() {
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
fn damaged_settings_files_are_named_with_their_line_in_one_line() {
    let bench = Bench::new();
    bench.write("recipe.toml", "seed = 1\n\nseveral = \"some\"\n");
    let said = bench.refusal("prepare --recipe @recipe.toml --out @out");
    assert!(said.contains("recipe.toml: line 3: unknown variant"), "{said}");
    bench.write("map.toml", "labels = [\"joy\"]\ndrop = joy\n");
    let said = bench.refusal("prepare --train @train.tsv --labels-map @map.toml --out @out");
    assert!(said.contains("map.toml: line 2: "), "{said}");
}

#[test]
fn rows_are_counted_with_the_empty_lines_between_them() {
    let bench = Bench::new();
    bench.write("gaps.tsv", "w5 w6\tjoy\n\n\nw7 w8\tawe\n");
    let said = bench.refusal("train --base @base --train @train.tsv --valid @gaps.tsv --out @out");
    assert!(said.contains("gaps.tsv row 4: label `awe`"), "{said}");
}

#[test]
fn labels_that_can_not_be_written_are_refused_before_anything_is() {
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
fn posts_are_served_cleaned_as_those_trained_on_were() {
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

/// Kills a run of many epochs when it has saved its state, lets it go on, and holds what it makes against what a run makes
/// that was left alone.
fn kill_and_go_on(bench: &Bench, step: &str, words: &str) {
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
    // State is saved at the end of each epoch: the file's appearance is the sign that one is over.
    let started = Instant::now();
    while !work.join("progress.json").exists() {
        assert!(started.elapsed() < Duration::from_secs(60), "no state was saved");
        let ended = first.try_wait().unwrap();
        assert!(ended.is_none(), "it ended before it could be killed");
        std::thread::yield_now();
    }
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(!out.exists(), "a killed run leaves no half of a checkpoint");

    let second = command("out").output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(second.status.success() && said.contains("going on in epoch"), "{said}");
    assert!(!work.exists(), "the state of a finished run is of no more use");

    assert!(command("whole").output().unwrap().status.success());
    let weights = |out: &str| fs::read(bench.path(out).join("model.safetensors")).unwrap();
    assert!(weights("out") == weights("whole"), "the kill changed the weights");
}

#[test]
fn a_killed_training_goes_on_where_it_was() {
    let bench = Bench::new();
    let words = "--train @train.tsv --valid @valid.tsv --patience 99 --average 0.5";
    kill_and_go_on(&bench, "train", words);
    let report = fs::read(bench.path("out/report/report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["epochs"].as_array().unwrap().len(), 60);
    for picture in ["loss.svg", "confusion.svg"] {
        let svg = fs::read_to_string(bench.path("out/report").join(picture)).unwrap();
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{picture}");
    }
}

#[test]
fn a_killed_adaptation_goes_on_where_it_was() {
    let bench = Bench::new();
    let teacher = fixture("bert").into_os_string().into_string().unwrap();
    kill_and_go_on(&bench, "pretrain", &format!("--text @train.tsv --teacher {teacher}"));
}

/// Posts of the labels joy, anger and fear, `count` of each, told by their first word.
fn feelings(count: usize) -> String {
    let nouns = ["river", "window", "garden", "letter", "summer", "teacher", "kitchen"];
    let mut posts = String::new();
    for at in 0..count {
        for (word, label) in [("delighted", "joy"), ("furious", "anger"), ("afraid", "fear")] {
            // Every tenth post says another label's word.
            let word = if at % 10 == 9 { "delighted" } else { word };
            let (one, other) = (nouns[at % 7], nouns[at / 7 % 7]);
            posts += &format!("{word} {one} of number{at} {other} {label}{}\t{label}\n", at % 3);
        }
    }
    posts
}

#[test]
fn classical_models_are_compared_on_the_same_posts() {
    let bench = Bench::new();
    bench.write("posts.tsv", feelings(40));
    let output = lab()
        .args(bench.arguments("compare --train @posts.tsv --json @out.json --write-parts @parts --seed 3"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let table = String::from_utf8(output.stdout).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&fs::read(bench.path("out.json")).unwrap()).unwrap();
    let page = fs::read_to_string(bench.path("out.html")).unwrap();

    assert_eq!(json["data"]["labels"], serde_json::json!(["anger", "fear", "joy"]));
    assert_eq!(
        (&json["data"]["train_posts"], &json["data"]["test_posts"]),
        (&96.into(), &24.into())
    );
    let models = json["models"].as_array().unwrap();
    let mut names: Vec<&str> = models.iter().map(|model| model["name"].as_str().unwrap()).collect();
    assert_eq!(json["best"], names[0]);
    for model in models {
        let name = model["name"].as_str().unwrap();
        assert!(table.contains(name) && page.contains(&format!(">{name}<")), "{name}");
        let floor = name == "majority";
        let figure = |place: &str| model.pointer(place).and_then(serde_json::Value::as_f64).unwrap();
        for figures in ["accuracy", "macro_precision", "macro_recall", "macro_f1", "weighted_f1"] {
            assert!(
                (0.0..=1.0).contains(&figure(&format!("/test/{figures}"))),
                "{name}: {figures}"
            );
        }
        assert!(floor || figure("/test/macro_f1") > 0.75, "{name}: {model}");
        assert!(
            floor || (figure("/cv/mean") > 0.75 && figure("/cv/sd") < 0.2),
            "{name}: {model}"
        );
        assert_eq!(model["cv"]["folds"].as_array().unwrap().len(), 5);
        let interval = "/test/macro_f1_interval";
        assert!(figure(&format!("{interval}/low")) <= figure("/test/macro_f1"));
        assert!(figure(&format!("{interval}/high")) >= figure("/test/macro_f1"));
        assert!(figure("/posts_per_second") > 0.0 && figure("/bytes") > 0.0 && figure("/train_seconds") >= 0.0);
        let confusion = model.pointer("/test/confusion/0").unwrap().as_array().unwrap();
        assert_eq!(confusion.iter().map(|count| count.as_u64().unwrap()).sum::<u64>(), 8);
        let against = &model["against_best"];
        assert_eq!(against.is_null(), name == names[0]);
        assert!(!floor || against["differs"] == true, "{against}");
    }
    names.sort_unstable();
    assert_eq!(names, ["bayes", "forest", "lr", "majority", "stack", "svc"]);

    // The parts that were written are those that were used: the same settings come to the same figures.
    let words = "compare --train @parts/train.tsv --test @parts/test.tsv --json @again.json --seed 3 --models lr,bayes";
    let output = lab().args(bench.arguments(words)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let again: serde_json::Value = serde_json::from_slice(&fs::read(bench.path("again.json")).unwrap()).unwrap();
    for name in ["lr", "bayes", "majority"] {
        let of = |json: &serde_json::Value| {
            let models = json["models"].as_array().unwrap();
            models.iter().find(|model| model["name"] == name).unwrap()["test"]["macro_f1"].clone()
        };
        assert_eq!(of(&json), of(&again), "{name}");
    }
}

#[test]
fn an_exported_model_is_served_with_the_figures_of_the_comparison() {
    let bench = Bench::new();
    bench.write("posts.tsv", feelings(60));
    for kind in ["lr", "svc", "bayes"] {
        let words = format!(
            "compare --train @posts.tsv --json @out.json --models lr --write-parts @parts --export {kind} --out @{kind}"
        );
        let output = lab().args(bench.arguments(&words)).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let json: serde_json::Value = serde_json::from_slice(&fs::read(bench.path("out.json")).unwrap()).unwrap();
        let models = json["models"].as_array().unwrap();
        let compared = &models.iter().find(|model| model["name"] == kind).unwrap()["test"];

        // The test part as it was read: rows of the file whose cleaned texts are in it.
        let words =
            format!("evaluate --model @{kind} --data @parts/test.tsv --json @judged.json --onnxruntime /nowhere");
        let output = lab().args(bench.arguments(&words)).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let judged: serde_json::Value = serde_json::from_slice(&fs::read(bench.path("judged.json")).unwrap()).unwrap();
        assert_eq!(judged["report"]["confusion"], compared["confusion"], "{kind}");
        assert_eq!(judged["report"]["macro_f1"], compared["macro_f1"], "{kind}");
        assert!(judged["calibration_error"].as_f64().unwrap() < 0.25, "{kind}: {judged}");
        let card = fs::read_to_string(bench.path(kind).join("README.md")).unwrap();
        let figure = format!("| accuracy | {:.4} |", compared["accuracy"].as_f64().unwrap());
        assert!(card.contains(&figure) && card.contains("posts.tsv"), "{card}");
        // What evaluate found is what the card says.
        let error = format!(
            "| calibration error | {:.4}",
            judged["calibration_error"].as_f64().unwrap()
        );
        assert!(card.contains(&error), "{error}: {card}");
    }
    let folder = ModelFolder::open(bench.path("lr"), &ModelOptions::default()).unwrap();
    assert!(folder.info().id.starts_with("lr@") && &*folder.info().profile == "classical");
}

#[test]
fn models_that_are_not_served_or_would_overwrite_are_refused_before_training() {
    let bench = Bench::new();
    bench.write("posts.tsv", feelings(20));
    fs::create_dir(bench.path("there")).unwrap();
    for (words, reason) in [
        (
            "--export forest --out @new",
            "--export forest: of the classical models the linear ones are served: lr, svc or bayes",
        ),
        (
            "--export lr --out @there",
            "is there already: remove it or choose another --out",
        ),
    ] {
        let said = bench.refusal(&format!("compare --train @posts.tsv --json @out.json {words}"));
        assert!(said.contains(reason), "{said}");
    }
}

#[test]
fn posts_that_allow_no_comparison_are_refused_in_one_line() {
    let bench = Bench::new();
    bench.write("posts.tsv", feelings(20));
    bench.write("one.tsv", "so happy\tjoy\nso glad\tjoy\n");
    bench.write("few.tsv", feelings(20) + "grey skies\tsad\nmore rain\tsad\n");
    bench.write("new.tsv", "furious river\tanger\ngrey skies\tsad\n");
    bench.write("silent.tsv", "@ann https://t.co/x\tjoy\n...\tanger\n");
    bench.write("columns.tsv", "so happy\tjoy\nso glad\n");
    bench.write("map.toml", "labels = [\"joy\"]\n");
    for (words, place) in [
        (
            "--train @one.tsv",
            "one.tsv: the training posts have one label alone, `joy`",
        ),
        (
            "--train @few.tsv",
            "few.tsv:61: the label `sad` has 2 training posts, fewer than the 5 folds",
        ),
        (
            "--train @posts.tsv --test @new.tsv",
            "new.tsv:2: the label `sad` is in the test part alone",
        ),
        ("--train @silent.tsv", "silent.tsv: no post is left to train on"),
        ("--train @posts.tsv --test @silent.tsv", "no post is left to test on"),
        ("--train @columns.tsv", "columns.tsv:2: 1 columns"),
        ("--train @posts.tsv --labels-map @map.toml", "posts.tsv:2: "),
        ("--train @absent.tsv", "absent.tsv: "),
    ] {
        let said = bench.refusal(&format!("compare --json @out.json {words}"));
        assert!(said.contains(place), "`{words}`: {said}");
    }
    let said = bench.refusal("compare --train @posts.tsv --json @out.html");
    assert!(
        said.contains("out.html: the page would be written over the figures"),
        "{said}"
    );
}

#[test]
fn posts_without_words_are_left_out_and_named() {
    let bench = Bench::new();
    bench.write("posts.tsv", "@ann https://t.co/x\tjoy\n".to_owned() + &feelings(20));
    let words = "compare --train @posts.tsv --json @out.json --models bayes";
    let output = lab().args(bench.arguments(words)).output().unwrap();
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && table.contains("1 without words (the first: "),
        "{table}"
    );
    assert!(table.contains("posts.tsv:1)"), "{table}");
}

#[test]
fn five_hundred_labels_are_no_fault() {
    let bench = Bench::new();
    let mut posts = String::new();
    let syllables = ["ba", "ke", "di", "lo", "mu", "sa", "te", "ri", "go", "nu"];
    for label in 0..500 {
        let [one, two, three] = [label / 100, label / 10 % 10, label % 10].map(|digit| syllables[digit]);
        let (word, turned) = (format!("{one}{two}{three}"), format!("{three}{one}{two}"));
        for text in [
            format!("{word} {turned}x {turned}{word}"),
            format!("{word} {word}{turned} z{word}z"),
            format!("{word} {word}q{word}"),
        ] {
            posts += &format!("{text}\tlabel{label}\n");
        }
    }
    bench.write("posts.tsv", posts);
    let words = "compare --train @posts.tsv --json @out.json --models lr,svc,bayes --folds 2";
    let output = lab().args(bench.arguments(words)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&fs::read(bench.path("out.json")).unwrap()).unwrap();
    assert_eq!(json["data"]["labels"].as_array().unwrap().len(), 500);
    assert!(
        json["models"][0]["test"]["accuracy"].as_f64().unwrap() > 0.9,
        "{}",
        json["models"][0]["test"]["accuracy"]
    );
}

#[test]
fn steps_are_left_out_one_at_a_time() {
    let bench = Bench::new();
    bench.write("posts.tsv", feelings(40));
    bench.write(
        "map.toml",
        "labels = [\"good\", \"bad\"]\n[map]\njoy = \"good\"\nanger = \"bad\"\nfear = \"bad\"\n",
    );
    bench.write(
        "more.tsv",
        "a lovely breeze\tgood\nquite the storm\tbad\nfurious river\tanger\n",
    );
    let words =
        "compare --train @posts.tsv --json @out.json --ablate --models bayes --labels-map @map.toml --merge @more.tsv";
    let output = lab().args(bench.arguments(words)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let table = String::from_utf8(output.stdout).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&fs::read(bench.path("out.json")).unwrap()).unwrap();
    let variations = json["variations"].as_array().unwrap();
    assert_eq!((variations.len(), table.lines().count()), (8, 10));
    let of = |name: &str| variations.iter().find(|variation| variation["name"] == name).unwrap();
    let posts = |name: &str| of(name)["train_posts"].as_u64().unwrap();
    assert_eq!(of("labels grouped")["labels"], 2);
    assert_eq!(
        posts("labels grouped, another set merged in"),
        posts("labels grouped") + 3
    );
    assert_eq!(posts("stop words kept"), posts("all steps"));
    assert!(posts("minorities over-sampled") >= posts("all steps"));
    assert!(of("stop words kept")["against_whole"].is_object() && of("all steps")["against_whole"].is_null());
}

#[test]
fn a_model_folder_is_judged_on_the_same_posts_in_the_runtime_that_serves_it() {
    let Some(library) = runtime() else { return };
    let bench = Bench::new();
    bench.write("posts.tsv", feelings(40));
    bench.write(
        "map.toml",
        "labels = [\"joy\", \"anger\", \"fear\"]\n[map]\nLABEL_0 = \"joy\"\nLABEL_1 = \"anger\"\nLABEL_2 = \"fear\"\n",
    );
    let exported = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/exporters/optimum");
    bench.damaged_copy(&exported, "optimum", "", |bytes| bytes);
    bench.write(
        "optimum/moodstream.toml",
        "problem_type = \"single_label_classification\"\n",
    );
    let compare = |words: &str| {
        let mut command = lab();
        command.args(bench.arguments(&format!(
            "compare --train @posts.tsv --json @out.json --models bayes{words}"
        )));
        command
            .args(bench.arguments("--folder @optimum --onnxruntime"))
            .arg(&library);
        command.output().unwrap()
    };
    let output = compare(" --labels-map @map.toml");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&fs::read(bench.path("out.json")).unwrap()).unwrap();
    let models = json["models"].as_array().unwrap();
    let judged = models
        .iter()
        .find(|model| model["name"].as_str().unwrap().starts_with("optimum@"))
        .unwrap();
    assert!(judged["cv"].is_null() && judged["train_seconds"].is_null() && judged["settings"].is_null());
    let confusion = judged["test"]["confusion"].as_array().unwrap();
    let count = |row: &serde_json::Value| -> u64 {
        row.as_array()
            .unwrap()
            .iter()
            .filter_map(serde_json::Value::as_u64)
            .sum()
    };
    assert_eq!(confusion.iter().map(count).collect::<Vec<_>>(), [8, 8, 8]);
    assert!(judged["bytes"].as_u64().unwrap() > 10_000);

    let output = compare("");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    assert!(
        said.contains("posts.tsv:") && said.contains("give --labels-map"),
        "{said}"
    );
}
