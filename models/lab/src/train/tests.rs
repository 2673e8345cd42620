#![allow(clippy::unwrap_used, clippy::expect_used)]

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;
use crate::{
    encoder::{HeadActivation, Loss, Pooling, Shape, normal},
    testing::{arguments, linear_model},
    training::Progress,
};

/// A folder with a small random checkpoint, its tokenizer, and posts whose first word tells the label.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let base = bench.path("base");
        fs::create_dir(&base).unwrap();
        let shape = Shape {
            hidden: 16,
            heads: 2,
            layers: 2,
            intermediate: 32,
            positions: 20,
            first_position: 2,
            relative_buckets: 0,
            pooling: Pooling::default(),
            head_activation: HeadActivation::default(),
            vocabulary: 12,
            labels: 0,
            epsilon: 1e-5,
        };
        let mut encoder = Encoder::zeros(shape);
        let mut rng = StdRng::seed_from_u64(5);
        for weight in encoder.weights.words.iter_mut().chain(&mut encoder.weights.dense) {
            *weight = 0.2 * normal(&mut rng);
        }
        for tensor in encoder
            .layout
            .tensors
            .iter()
            .filter(|tensor| tensor.name.ends_with("LayerNorm.weight"))
        {
            encoder.weights.dense[tensor.place.clone()].fill(1.0);
        }
        Checkpoint {
            encoder,
            labels: Vec::new(),
            loss: None,
            family: Family::default(),
        }
        .write(&base)
        .unwrap();
        let words = [
            "<s>", "<pad>", "</s>", "<unk>", "<mask>", "good", "bad", "odd", "it", "is", "so", "now",
        ];
        let vocabulary: serde_json::Map<String, serde_json::Value> = words
            .iter()
            .zip(0..)
            .map(|(word, id)| ((*word).to_owned(), id.into()))
            .collect();
        let tokenizer = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "post_processor": {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0],
                "trim_offsets": true, "add_prefix_space": false},
            "decoder": null,
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"}
        });
        fs::write(base.join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let mut posts = String::new();
        for _ in 0..96 {
            let label = rng.random_range(0..3);
            posts += words[5 + label];
            for _ in 0..rng.random_range(0..6) {
                posts += " ";
                posts += words[rng.random_range(8..12)];
            }
            posts += ["\tjoy\n", "\tanger\n", "\tsurprise\n"][label];
        }
        fs::write(bench.path("posts.tsv"), posts).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The labels and the tokenised posts.
    fn examples(&self, args: &Args) -> (Vec<String>, Vec<Example>) {
        let rows = data::read(&args.train, args.common.profile).unwrap();
        let labels = data::label_names(&rows);
        let tokenizer = tokenizer::read(&args.common.base).unwrap();
        let examples = data::examples(&rows, &labels, &tokenizer, 18, &args.train).unwrap();
        (labels, examples)
    }

    fn args(&self, out: &str, more: &[&str]) -> Args {
        let path = |name: &str| self.path(name).into_os_string().into_string().unwrap();
        let (base, posts, out) = (path("base"), path("posts.tsv"), path(out));
        let fixed = ["--base", &base, "--train", &posts, "--valid", &posts, "--out", &out];
        let rest = [
            "--lr",
            "2e-3",
            "--head-lr-factor",
            "10",
            "--pooling",
            "mean",
            "--batch",
            "8",
            "--threads",
            "2",
            "--patience",
            "100",
        ];
        arguments(fixed.iter().chain(&rest).chain(more)).unwrap()
    }
}

/// The learning rate and the pooling succeed with each of 30 seeds, so that another processor's rounding makes no difference.
#[test]
fn a_model_learns_labels_from_words() {
    let bench = Bench::new();
    for (head, r_drop) in [("softmax", "0"), ("sigmoid", "0"), ("softmax", "1")] {
        let name = format!("{head}-{r_drop}");
        let more = ["--epochs", "30", "--head", head, "--r-drop", r_drop];
        run(bench.args(&name, &more)).unwrap();
        let out = bench.path(&name);
        let report: serde_json::Value =
            serde_json::from_slice(&fs::read(out.join("report/report.json")).unwrap()).unwrap();
        assert!(
            report["valid"]["macro_f1"].as_f64().unwrap() > 0.98,
            "{head}: {}",
            report["valid"]
        );
        let read = Checkpoint::read(&out).unwrap();
        assert_eq!(read.labels, ["anger", "joy", "surprise"]);
        assert!(read.loss.is_some() && out.join("tokenizer.json").exists());
        assert!(
            !bench.path(&format!("{name}.work")).exists(),
            "the run's state is removed"
        );
    }
}

#[test]
fn a_killed_run_has_the_same_result_as_one_that_was_not_killed() {
    let bench = Bench::new();
    // The run is killed in the first epoch, before or after averaging begins.
    let weights = |out: &str, kill_after: Option<usize>| {
        let args = bench.args(out, &["--epochs", "2", "--average", "0.7"]);
        let (labels, posts) = bench.examples(&args);
        let base = || Checkpoint::read(&args.common.base).unwrap().encoder;
        if let Some(batches) = kill_after {
            let mut run = Run::new(&args, (base(), Family::default()), &labels, &posts).unwrap();
            for batch in &data::batches(&posts, 8, args.common.seed, 0)[..batches] {
                let batch: Vec<&Example> = batch.iter().map(|&index| &posts[index]).collect();
                let done = (run.training.progress.steps as f32 + 1.0) / 25.0;
                let mut step = |training: &mut _, batch: &Vec<_>, rate| run.tuner.step(training, batch, rate);
                run.training.advance(&batch, done, &mut step).unwrap();
            }
            run.training.save().unwrap();
        }
        let mut run = Run::new(&args, (base(), Family::default()), &labels, &posts).unwrap();
        run.go(&posts, &posts).unwrap();
        let (model, steps) = (run.training.model, run.training.progress.steps);
        assert_eq!((steps, model.average.steps), (24, 17));
        (model.encoder.weights.dense, model.average.weights.dense)
    };
    let whole = weights("whole", None);
    assert_eq!(whole, weights("before", Some(5)));
    assert_eq!(whole, weights("after", Some(10)));
}

#[test]
fn the_mean_of_the_last_steps_is_evaluated_and_written() {
    let bench = Bench::new();
    let weights = |out: &str, more: &[&str]| {
        let args = bench.args(out, more);
        run(args.clone()).unwrap();
        Checkpoint::read(&args.common.out).unwrap().encoder.weights.dense
    };
    // The mean over the last step alone is that step's weights.
    let last = weights("last", &["--epochs", "1"]);
    assert_eq!(last, weights("one", &["--epochs", "1", "--average", "0.05"]));
    assert_ne!(last, weights("mean", &["--epochs", "1", "--average", "0.9"]));
}

#[test]
fn a_run_does_not_resume_with_other_settings() {
    let bench = Bench::new();
    let args = bench.args("out", &["--epochs", "1"]);
    fs::create_dir_all(bench.path("out.work")).unwrap();
    let progress = Progress::<Journal> {
        settings: "others".to_owned(),
        ..Progress::default()
    };
    let progress = serde_json::to_vec(&progress).unwrap();
    fs::write(bench.path("out.work/progress.json"), progress).unwrap();
    let error = format!("{:#}", run(args.clone()).unwrap_err());
    assert!(error.contains("other settings"), "{error}");
    assert!(!args.common.out.exists(), "nothing half-written is left");
}

#[test]
fn a_run_does_not_resume_with_other_data_or_threads() {
    let bench = Bench::new();
    let args = bench.args("out", &["--epochs", "1"]);
    let base = Checkpoint::read(&args.common.base).unwrap().encoder;
    let (labels, posts) = bench.examples(&args);
    let mut killed = Run::new(&args, (base, Family::default()), &labels, &posts).unwrap();
    killed.training.save().unwrap();
    let mut others = args.clone();
    others.common.threads = 3;
    let error = format!("{:#}", run(others).unwrap_err());
    assert!(
        error.contains("other settings") && error.contains("threads 2"),
        "{error}"
    );

    for file in ["posts.tsv", "base/model.safetensors"] {
        let before = fs::read(bench.path(file)).unwrap();
        let mut after = before.clone();
        // Changes a label's last letter, or a bit of a weight.
        let last = after.len() - 2;
        after[last] ^= 1;
        fs::write(bench.path(file), after).unwrap();
        let error = format!("{:#}", run(args.clone()).unwrap_err());
        assert!(error.contains("other settings"), "{file}: {error}");
        fs::write(bench.path(file), before).unwrap();
    }
    run(args.clone()).unwrap();
    let report = fs::read_to_string(args.common.out.join("report/report.json")).unwrap();
    assert!(
        report.contains(" threads 2 ") && report.contains("posts.tsv (xxh3 "),
        "{report}"
    );
}

#[test]
fn a_run_that_was_killed_when_out_of_patience_trains_no_more() {
    let bench = Bench::new();
    let mut args = bench.args("out", &["--epochs", "9"]);
    args.patience = 3;
    let (labels, posts) = bench.examples(&args);
    let base = || Checkpoint::read(&args.common.base).unwrap().encoder;
    let mut killed = Run::new(&args, (base(), Family::default()), &labels, &posts).unwrap();
    killed.training.progress.epoch = 4;
    killed.training.progress.journal = Journal {
        epochs: vec![Epoch::default(); 4],
        best: Some((0, Figures::default())),
    };
    killed.training.save().unwrap();
    let mut run = Run::new(&args, (base(), Family::default()), &labels, &posts).unwrap();
    run.go(&posts, &posts).unwrap();
    assert_eq!(run.training.progress.epoch, 4);

    // After two epochs without a better figure a third is run, and an epoch that has begun is finished.
    for (epochs, batch) in [(3, 0), (4, 1)] {
        run.training.progress.journal.epochs.truncate(epochs);
        run.training.progress.journal.epochs.resize(epochs, Epoch::default());
        run.training.progress.batch = batch;
        assert!(!run.is_over(), "{epochs} epochs, {batch} batches");
    }
}

#[test]
fn fitting_biases_does_not_change_the_saved_run() {
    let bench = Bench::new();
    let args = bench.args("out", &["--epochs", "1", "--fit-bias"]);
    let (labels, posts) = bench.examples(&args);
    let base = Checkpoint::read(&args.common.base).unwrap().encoder;
    let mut killed = Run::new(&args, (base, Family::default()), &labels, &posts).unwrap();
    killed.go(&posts, &posts).unwrap();
    let best = killed.best_folder().join("model.safetensors");
    let trained = fs::read(&best).unwrap();
    // A file of the tokenizer that can't be copied ends the run after the fit.
    let obstacle = bench.path("base/tokenizer_config.json");
    fs::create_dir(&obstacle).unwrap();
    assert!(run(args.clone()).is_err());
    assert!(fs::read(&best).unwrap() == trained, "the fit changed the saved weights");
    fs::remove_dir(&obstacle).unwrap();
    run(args.clone()).unwrap();
    let fitted = fs::read(args.common.out.join("model.safetensors")).unwrap();
    assert!(
        fitted != trained,
        "nothing was fitted after one epoch, so this test shows nothing"
    );
}

#[test]
fn invalid_input_is_named_in_one_line() {
    let bench = Bench::new();
    fs::write(bench.path("valid.tsv"), "so good\tjoy\nit is\tawe\n").unwrap();
    let mut args = bench.args("out", &[]);
    args.valid = bench.path("valid.tsv");
    let error = format!("{:#}", run(args).unwrap_err());
    assert!(error.contains("valid.tsv row 2: label `awe`"), "{error}");

    let mut args = bench.args("out", &[]);
    args.common.lr = f32::NAN;
    assert!(run(args).is_err());
    assert!(!bench.path("out").exists() && !bench.path("out.partial").exists());
}

impl Bench {
    /// Makes the folder `teacher` with a model that knows the label of each post.
    fn teacher(&self, loss: Loss) -> String {
        let path = self.path("teacher");
        linear_model(&path, &["surprise", "anger", "joy"], &["odd", "bad", "good"], loss);
        path.into_os_string().into_string().unwrap()
    }

    /// The weights after a run with more arguments.
    fn trained(&self, out: &str, more: &[&str]) -> Vec<f32> {
        run(self.args(out, more)).unwrap();
        Checkpoint::read(&self.path(out)).unwrap().encoder.weights.dense
    }
}

#[test]
fn a_teacher_of_weight_zero_changes_nothing() {
    let bench = Bench::new();
    for (head, loss, r_drop) in [
        ("softmax", Loss::Softmax, "0"),
        ("softmax", Loss::Softmax, "1"),
        ("sigmoid", Loss::Sigmoid, "0"),
    ] {
        let teacher = bench.teacher(loss);
        let alone = [
            "--epochs",
            "2",
            "--head",
            head,
            "--r-drop",
            r_drop,
            "--class-weights",
            "sqrt",
        ];
        let taught = |weight| [&alone[..], &["--teacher", &teacher, "--distill-weight", weight]].concat();
        let name = |kind: &str| format!("{kind}-{head}-{r_drop}");
        let weights = bench.trained(&name("alone"), &alone);
        assert_eq!(weights, bench.trained(&name("zero"), &taught("0")), "{head} {r_drop}");
        assert_ne!(weights, bench.trained(&name("half"), &taught("0.5")), "{head} {r_drop}");
    }
}

#[test]
fn scores_of_a_certain_teacher_alone_are_labels_without_class_weights() {
    let bench = Bench::new();
    let teacher = bench.teacher(Loss::Softmax);
    let labels = bench.trained("labels", &["--epochs", "2"]);
    let taught = ["--epochs", "2", "--class-weights", "inverse", "--teacher", &teacher];
    let alone = [&taught[..], &["--distill-weight", "1", "--distill-temperature", "1"]].concat();
    assert_eq!(labels, bench.trained("scores", &alone));
}

#[test]
fn posts_without_labels_teach_what_the_labelled_ones_lack() {
    let bench = Bench::new();
    // The validation posts are longer, so that few of the texts are left out as equal to one.
    let posts = fs::read_to_string(bench.path("posts.tsv")).unwrap();
    fs::write(bench.path("valid.tsv"), posts.replace('\t', " is now\t")).unwrap();
    fs::write(
        bench.path("few.tsv"),
        "good now\tjoy\nbad it\tanger\nso odd\tsurprise\n",
    )
    .unwrap();
    fs::write(bench.path("text.tsv"), &posts).unwrap();
    let text = bench.path("text.tsv").into_os_string().into_string().unwrap();
    for (head, loss) in [("softmax", Loss::Softmax), ("sigmoid", Loss::Sigmoid)] {
        let teacher = bench.teacher(loss);
        let macro_f1 = |out: &str, more: &[&str]| {
            let out = format!("{out}-{head}");
            let mut args = bench.args(&out, &[&["--head", head, "--epochs", "30"], more].concat());
            (args.train, args.valid) = (bench.path("few.tsv"), bench.path("valid.tsv"));
            (args.common.dropout, args.common.lr, args.head_lr_factor) = (0.0, 2e-3, 10.0);
            run(args).unwrap();
            let report = fs::read(bench.path(&out).join("report/report.json")).unwrap();
            let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
            assert_eq!(report["train_posts"], 3);
            (
                report["valid"]["macro_f1"].as_f64().unwrap(),
                report["text_posts"].as_u64().unwrap(),
            )
        };
        let (alone, none) = macro_f1("alone", &[]);
        let (taught, texts) = macro_f1("taught", &["--teacher", &teacher, "--text", &text]);
        assert!(taught > alone + 0.1, "{head}: {alone} alone, {taught} taught");
        let few = macro_f1("few", &["--teacher", &teacher, "--text", &text, "--text-posts", "9"]).1;
        assert!(none == 0 && texts > 40 && few == 9, "{head}: {none} {texts} {few}");
    }
}
