//! `compare`: models evaluated on the same posts, and input that it refuses.

use std::{fs, path::Path};

use moodstream::model::{ModelFolder, ModelOptions};

use crate::{
    bench::Bench,
    support::{lab, runtime},
};

/// Posts with the labels joy, anger and fear, `count` of each; the first word mostly determines the label.
fn feelings(count: usize) -> String {
    let nouns = ["river", "window", "garden", "letter", "summer", "teacher", "kitchen"];
    let mut posts = String::new();
    for at in 0..count {
        for (word, label) in [("delighted", "joy"), ("furious", "anger"), ("afraid", "fear")] {
            // Every tenth post has the word of joy.
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

    // The written parts are those that were used: the same settings give the same figures.
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
        // The card has the same figure as `evaluate`.
        let error = format!(
            "| calibration error | {:.4}",
            judged["calibration_error"].as_f64().unwrap()
        );
        assert!(card.contains(&error), "{error}: {card}");
    }
    let folder = ModelFolder::open(bench.path("lr"), &ModelOptions::default()).unwrap();
    assert!(folder.info().id.starts_with("lr@") && &*folder.info().profile == "classical");
}

/// The service's tests run this folder: written again with `MOODSTREAM_RENEW=1`.
#[test]
fn the_tiny_linear_model_of_the_service_s_tests_is_what_compare_exports() {
    const FILES: [&str; 3] = ["config.json", "moodstream.toml", "linear.safetensors"];
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tiny-linear");
    let bench = Bench::new();
    for file in ["train.tsv", "test.tsv"] {
        fs::copy(fixture.join(file), bench.path(file)).unwrap();
    }
    let words = "compare --train @train.tsv --test @test.tsv --folds 3 --models lr --export lr --out @tiny-linear --json @out.json";
    let output = lab().args(bench.arguments(words)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for file in FILES {
        let written = fs::read(bench.path("tiny-linear").join(file)).unwrap();
        if std::env::var_os("MOODSTREAM_RENEW").is_some() {
            fs::write(fixture.join(file), &written).unwrap();
        }
        assert!(written == fs::read(fixture.join(file)).unwrap(), "{file} differs");
    }
}

#[test]
fn exports_that_can_not_succeed_are_refused_before_training() {
    let bench = Bench::new();
    bench.write("posts.tsv", feelings(20));
    fs::create_dir(bench.path("there")).unwrap();
    for (words, reason) in [
        (
            "--export forest --out @new",
            "--export forest: only the linear models can be served: lr, svc or bayes",
        ),
        (
            "--export lr --out @there",
            "exists already: remove it or choose another --out",
        ),
    ] {
        let said = bench.refusal(&format!("compare --train @posts.tsv --json @out.json {words}"));
        assert!(said.contains(reason), "{said}");
    }
}

#[test]
fn posts_that_can_not_be_compared_on_are_refused_in_one_line() {
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
            "one.tsv: all training posts have the same label, `joy`",
        ),
        (
            "--train @few.tsv",
            "few.tsv:61: the label `sad` has 2 training posts, fewer than the 5 folds",
        ),
        (
            "--train @posts.tsv --test @new.tsv",
            "new.tsv:2: no training post has the label `sad`",
        ),
        (
            "--train @silent.tsv",
            "silent.tsv: no post is left to train on: 2 without words after cleaning, the first ",
        ),
        (
            "--train @posts.tsv --test @silent.tsv",
            "silent.tsv: no post is left to test on: 2 without words after cleaning, the first ",
        ),
        ("--train @columns.tsv", "columns.tsv:2: 1 columns"),
        ("--train @posts.tsv --labels-map @map.toml", "posts.tsv:2: "),
        (
            "--train @absent.tsv",
            "absent.tsv can't be read: No such file or directory (os error 2)\n",
        ),
    ] {
        let said = bench.refusal(&format!("compare --json @out.json {words}"));
        assert!(said.contains(place), "`{words}`: {said}");
    }
    let said = bench.refusal("compare --train @posts.tsv --json @out.html");
    assert!(
        said.contains("out.html: the page would overwrite the figures"),
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
fn five_hundred_labels_are_supported() {
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
fn ablation_leaves_out_one_step_at_a_time() {
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
fn a_model_folder_is_evaluated_on_the_same_posts_by_the_service() {
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

/// Found by a newcomer: an output replaced the posts, and other mistakes were reported only after the training.
#[test]
fn outputs_and_folders_are_checked_before_the_training() {
    let bench = Bench::new();
    let posts = feelings(20);
    bench.write("train.tsv", &posts);
    fs::create_dir(bench.path("parts")).unwrap();
    for (words, reason) in [
        ("--json @train.tsv", "train.tsv is also an input"),
        ("--json @absent/out.json", "can't write"),
        ("--json @parts", "is not a regular file"),
        ("--json @out.json --folder @absent", "absent is not a directory"),
        ("--json @parts/train.tsv --write-parts @parts", "is also another output"),
        ("--json @out.json --min-posts 1000", "lower --min-posts"),
    ] {
        let said = bench.refusal(&format!("compare --train @train.tsv --models bayes {words}"));
        assert!(said.contains(reason), "{words}: {said}");
    }
    assert_eq!(fs::read_to_string(bench.path("train.tsv")).unwrap(), posts);
}

#[test]
fn posts_without_text_are_counted_and_an_empty_part_has_its_reason() {
    let bench = Bench::new();
    bench.write("posts.tsv", feelings(20) + "   \tjoy\n\tanger\n");
    let output = lab()
        .args(bench.arguments("compare --train @posts.tsv --models bayes --json @out.json"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&fs::read(bench.path("out.json")).unwrap()).unwrap();
    assert_eq!(json["data"]["removed"]["empty"], 2, "{}", json["data"]);

    let said = bench.refusal("compare --train @posts.tsv --test @posts.tsv --models bayes --json @other.json");
    assert!(
        said.contains("no post is left to train on: 4 without words") && said.contains("duplicates of a test post"),
        "{said}"
    );
}
