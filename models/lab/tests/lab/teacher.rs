//! Training with a model folder as a teacher.

use std::fs;

use crate::{
    bench::Bench,
    support::{lab, posts, runtime},
};

/// Training that learns what one word determines from a random checkpoint. A few seeds fail, so tests compare runs instead of
/// demanding a figure.
const TRAIN: &str = "train --epochs 40 --patience 99 --pooling mean --lr 2e-3 --head-lr-factor 10 --batch 8 --base @base --valid @valid.tsv";

/// Posts of the first of two files without labels.
const FIRST: usize = 200;

/// Runs a step, which must succeed, and returns its messages.
fn run(bench: &Bench, words: &str) -> String {
    let output = lab().args(bench.arguments(words)).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{words}: {said}");
    said
}

#[test]
fn a_student_of_few_labelled_posts_learns_from_a_teacher() {
    if runtime().is_none() {
        return;
    }
    let bench = Bench::new();
    run(&bench, &format!("{TRAIN} --train @train.tsv --out @trained"));
    run(&bench, "export --checkpoint @trained --precision fp32 --out @teacher");
    bench.write("few.tsv", "w5 w20\tjoy\nw6 w21\tanger\nw7 w22\tfear\n");
    bench.write("text.tsv", posts(FIRST, 3));
    bench.write("more.tsv", posts(3 * FIRST, 4));
    let macro_f1 = |out: &str, more: &str| {
        let said = run(&bench, &format!("{TRAIN} --train @few.tsv{more} --out @{out}"));
        let report = fs::read(bench.path(out).join("report/report.json")).unwrap();
        let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
        (report["valid"]["macro_f1"].as_f64().unwrap(), said)
    };
    let (alone, _) = macro_f1("alone", "");
    let (taught, said) = macro_f1("taught", " --teacher @teacher --text @text.tsv --text @more.tsv");
    assert!(taught > alone + 0.1, "{alone} alone, {taught} taught: {said}");
    let scored = said.lines().find(|line| line.starts_with("teacher: ")).unwrap();
    let count: usize = scored.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(count > FIRST + 3, "both files are read: {scored}");
}

#[test]
fn teachers_that_do_not_fit_are_refused() {
    let bench = Bench::new();
    run(
        &bench,
        "train --epochs 1 --base @base --train @train.tsv --valid @valid.tsv --out @trained",
    );
    run(&bench, "export --checkpoint @trained --precision fp32 --out @teacher");
    bench.write("two.tsv", "w5\tjoy\nw6\tanger\n");
    bench.write("other.tsv", "w5\tjoy\nw6\tanger\nw7\tfear\nw8\tawe\n");
    let train = "train --base @base --out @out --train";
    for (rest, expected) in [
        (
            "@two.tsv --valid @two.tsv --teacher @teacher",
            "it has labels that no training post has: `fear`",
        ),
        (
            "@other.tsv --valid @two.tsv --teacher @teacher",
            "it lacks labels of the training posts: `awe`",
        ),
        (
            "@train.tsv --valid @valid.tsv --teacher @teacher --head sigmoid",
            "it has a softmax head",
        ),
        ("@train.tsv --valid @valid.tsv --teacher @trained", "no ONNX file"),
        ("@train.tsv --valid @valid.tsv --teacher @absent", "absent"),
        (
            "@train.tsv --valid @valid.tsv --text @train.tsv",
            "--text: posts without labels need --teacher",
        ),
        (
            "@train.tsv --valid @valid.tsv --text-posts 9",
            "--text-posts: must be above 0, and needs --text",
        ),
        (
            "@train.tsv --valid @valid.tsv --teacher @teacher --distill-weight 1.5",
            "--distill-weight 1.5: must be from 0 to 1",
        ),
        (
            "@train.tsv --valid @valid.tsv --teacher @teacher --distill-temperature 0",
            "--distill-temperature 0: must be above 0",
        ),
    ] {
        let said = bench.refusal(&format!("{train} {rest}"));
        assert!(said.contains(expected), "{rest}: {said}");
    }
}
