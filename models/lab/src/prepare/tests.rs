#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::testing::arguments;

const LABELS: &str = "labels = ['anger', 'joy']\ndrop = ['none']\n[map]\nhate = 'anger'\nlove = 'joy'\n";

/// A folder with the given files, `labels.toml` among them.
fn folder(files: &[(&str, String)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("labels.toml"), LABELS).unwrap();
    for (name, content) in files {
        fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

fn recipe(folder: &Path, text: &str) -> anyhow::Result<Recipe> {
    let path = folder.join("recipe.toml");
    fs::write(&path, text)?;
    Ok(Recipe::read(&path, folder)?)
}

fn texts(examples: &[Example]) -> Vec<&str> {
    let mut texts: Vec<&str> = examples.iter().map(|example| example.text.as_str()).collect();
    texts.sort_unstable();
    texts
}

const SETS: &str = "[[sets]]\nname = 'x'\nlabels_map = 'labels.toml'\ntrain = ['train.tsv']\nvalid = ['valid.tsv']\ntest = ['test.tsv']\n";

fn parts() -> Vec<(&'static str, String)> {
    let long = "i really can not believe that this is happening to me";
    let train = format!(
        "{long} todaY\thate\nSo happy!\tlove\nso HAPPY\tjoy\nin both parts\tjoy\nof two minds\tjoy\nOf two minds...\tanger\n\
         dropped label\tnone\nboth of them\thate,joy\n@ann https://t.co/x\tjoy\nalone\tanger\n"
    );
    let valid = "In both parts\tjoy\nvalid alone\tanger\nTEST alone\tjoy\n".to_owned();
    let test = format!("{long} today!\tanger\ntest alone\tjoy,hate\ntest alone\tjoy\n");
    vec![("train.tsv", train), ("valid.tsv", valid), ("test.tsv", test)]
}

#[test]
fn duplicates_are_removed_across_parts_but_not_from_the_test_part() {
    let folder = folder(&parts());
    let recipe = recipe(folder.path(), &format!("several = 'drop'\n{SETS}")).unwrap();
    let prepared = prepare(&recipe).unwrap();
    assert_eq!(texts(&prepared.train), ["So happy!", "alone"]);
    assert_eq!(texts(&prepared.valid), ["In both parts", "valid alone"]);
    assert_eq!(prepared.test.len(), 3);
    assert_eq!(prepared.test[1].labels, ["anger", "joy"]);
    let Removed {
        leaked_from_test,
        leaked_from_valid,
        exact,
        near,
        contradictory,
        empty,
    } = prepared.report.removed;
    assert_eq!((leaked_from_test, leaked_from_valid), (2, 1));
    assert_eq!((exact, near, contradictory, empty), (1, 0, 2, 1));
    let file = &prepared.report.files[0];
    assert_eq!((file.rows, file.without_label, file.several_labels), (10, 1, 1));
    assert_eq!(prepared.report.before["train"]["joy"], 5);
    assert_eq!(prepared.report.after["train"]["joy"], 1);
    assert!(prepared.report.table().contains("2 duplicates of a test post"));
}

#[test]
fn held_out_posts_are_not_written_and_keep_their_duplicates_out() {
    let mut files = parts();
    files.push(("elsewhere.tsv", "so happy\tjoy\nthe other one\tjoy\n".to_owned()));
    files.push((
        "ron.csv",
        "id,text,joy,fear\na,alone here,0,0\nb,alone here,0,0\nc,glad of it,1,0\n".to_owned(),
    ));
    let folder = folder(&files);
    let text = "[[sets]]\nname = 'x'\nlanguage = 'en'\nlabels_map = 'labels.toml'\ntrain = ['train.tsv']\nheld_out = ['elsewhere.tsv']\n\
        [[sets]]\nname = 'y'\nlanguage = 'ro'\nformat = 'brighter'\ntrain = ['ron.csv']\n";
    let prepared = prepare(&recipe(folder.path(), text).unwrap()).unwrap();
    assert!(prepared.test.is_empty() && !texts(&prepared.train).contains(&"So happy!"));
    assert_eq!(prepared.report.removed.leaked_from_test, 2);
    let of = |language: &str| {
        let examples = prepared.train.iter();
        let of = examples.filter(|example| example.language.as_deref() == Some(language));
        of.cloned().collect::<Vec<_>>()
    };
    assert!(of("en").iter().any(|example| example.text == "alone"));
    // The two are equal and their labels don't contradict each other, so one is kept.
    assert_eq!(texts(&of("ro")), ["alone here", "glad of it"]);
    let bad = "[[sets]]\nname = 'x'\nlanguage = ' '\ntrain = ['train.tsv']\n";
    assert!(
        recipe(folder.path(), bad)
            .unwrap_err()
            .to_string()
            .contains("is not a language tag")
    );
}

#[test]
fn files_of_a_set_can_be_relative_to_the_recipe() {
    let folder = folder(&parts());
    fs::create_dir(folder.path().join("data")).unwrap();
    fs::write(folder.path().join("data/own.tsv"), "of the data\tjoy\n").unwrap();
    fs::write(folder.path().join("own.tsv"), "of the recipe\tjoy\tpl\n").unwrap();
    let path = folder.path().join("recipe.toml");
    for (more, expected) in [("", "of the data"), ("relative_to = 'recipe'\n", "of the recipe")] {
        fs::write(&path, format!("[[sets]]\nname = 'x'\n{more}train = ['own.tsv']\n")).unwrap();
        let recipe = Recipe::read(&path, &folder.path().join("data")).unwrap();
        assert_eq!(texts(&prepare(&recipe).unwrap().train), [expected]);
    }
}

#[test]
fn the_command_writes_the_parts_and_the_report() {
    let folder = folder(&parts());
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let command = [
        "--train",
        &path("train.tsv"),
        "--valid",
        &path("valid.tsv"),
        "--labels-map",
        &path("labels.toml"),
        "--profile",
        "classical",
        "--out",
        &path("out"),
    ];
    let args = arguments(command).unwrap();
    fs::create_dir(folder.path().join("out")).unwrap();
    fs::write(folder.path().join("out/test.tsv"), "of an earlier run").unwrap();
    run(args).unwrap();
    let train = data::read(&folder.path().join("out/train.tsv"), Format::Tsv).unwrap();
    assert!(texts(&train).contains(&"really not believe happen today"), "{train:?}");
    assert!(!folder.path().join("out/test.tsv").exists());
    let json: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.path().join("out/prepare.json")).unwrap()).unwrap();
    assert_eq!(json["labels"], serde_json::json!(["anger", "joy"]));
    assert_eq!(json["recipe"]["profile"], "classical");
    assert!(arguments::<Args>(["--out", "y"]).is_err());
}

#[test]
fn parts_of_two_runs_are_never_mixed() {
    let folder = folder(&parts());
    let out = folder.path().join("out");
    let mut prepared = prepare(&recipe(folder.path(), SETS).unwrap()).unwrap();
    prepared.write(&out).unwrap();
    let content =
        || ["train.tsv", "valid.tsv", "test.tsv", "prepare.json"].map(|name| fs::read(out.join(name)).unwrap());
    let before = content();

    // A failed write changes nothing.
    prepared.train[0].text.push_str(" and more");
    prepared.valid[0].labels = vec!["joy, calm".to_owned()];
    assert!(prepared.write(&out).is_err());
    assert_eq!(content(), before);
    let names = || fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(names(), 6, "three sets, map, recipe and out: no incomplete folder");

    // A failure while the files are moved leaves neither `prepare.json` nor an old part.
    prepared.valid[0].labels = vec!["joy".to_owned()];
    fs::remove_file(out.join("test.tsv")).unwrap();
    fs::create_dir(out.join("test.tsv")).unwrap();
    assert!(prepared.write(&out).is_err());
    assert!(!out.join("prepare.json").exists() && !out.join("train.tsv").exists());
}

#[test]
fn invalid_input_is_named() {
    let mut files = parts();
    files[0].1.push_str("what\tunheard\n");
    let folder = folder(&files);
    let error = prepare(&recipe(folder.path(), SETS).unwrap()).unwrap_err().to_string();
    assert!(
        error.contains("train.tsv:11: the labels map does not know `unheard`"),
        "{error}"
    );
    for (text, word) in [
        ("seed = 1", "no `[[sets]]`"),
        ("near = 0.0\n[[sets]]\nname = 'x'\ntrain = ['a']", "`near` is 0"),
        ("[[sets]]\nname = 'x'", "set `x` has no files"),
        ("[[sets]]\nname = 'x'\ntrain = ['a']\nweight = -1", "weights and shares"),
        (
            "valid_share = 0.6\ntest_share = 0.4\n[[sets]]\nname = 'x'\ntrain = ['a']",
            "must leave something",
        ),
        ("oversample = 2.0\n[[sets]]\nname = 'x'\ntrain = ['a']", "0 to 1"),
        ("sed = 1", "unknown field"),
    ] {
        let error = recipe(folder.path(), text).unwrap_err().to_string();
        assert!(error.contains("recipe.toml: ") && error.contains(word), "{error}");
    }
    assert!(
        recipe(folder.path(), "[[sets]]\nname = 'x'\ntrain = ['gone.tsv']")
            .is_ok_and(|recipe| { prepare(&recipe).is_err_and(|error| error.to_string().contains("gone.tsv")) })
    );
}

fn numbered(count: usize) -> String {
    (0..count)
        .map(|at| {
            format!(
                "post {} {at}\t{}\n",
                "abcdefghij".repeat(1 + at % 3),
                if at % 10 == 0 { "anger" } else { "joy" }
            )
        })
        .collect()
}

#[test]
fn files_are_split_weighted_and_balanced_by_seed() {
    let folder = folder(&[("all.tsv", numbered(200))]);
    let text = |weight: &str, shares: &str| {
        format!(
            "near = 1.0\noversample = 0.5\n[[sets]]\nname = 'x'\nall = ['all.tsv']\nweight = {weight}\nshares = {{ {shares} }}\n"
        )
    };
    let prepared = prepare(&recipe(folder.path(), &text("1", "")).unwrap()).unwrap();
    assert_eq!((prepared.valid.len(), prepared.test.len()), (20, 20));
    assert_eq!(prepared.report.after["valid"]["anger"], 2);
    assert_eq!(
        prepared.report.after["train"],
        BTreeMap::from([("anger".to_owned(), 72), ("joy".to_owned(), 144)])
    );
    assert_eq!(prepared.report.oversampled, 72 - 16);
    let again = prepare(&recipe(folder.path(), &text("1", "")).unwrap()).unwrap();
    assert_eq!(prepared.train, again.train);
    let weighted = prepare(&recipe(folder.path(), &text("2", "joy = 0.0")).unwrap()).unwrap();
    assert_eq!(
        weighted.report.after["train"],
        BTreeMap::from([("anger".to_owned(), 32)])
    );
    assert_eq!(weighted.valid, prepared.valid);
}

#[test]
fn a_shipped_recipe_can_be_prepared() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let data = root.join("../../../shared/data");
    if !data.is_dir() {
        println!("skipped: {} is not there", data.display());
        return;
    }
    let prepared = prepare(&Recipe::read(&root.join("../recipes/tweeteval-emotion.toml"), &data).unwrap()).unwrap();
    assert_eq!(prepared.report.labels, ["anger", "joy", "optimism", "sadness"]);
    assert!(prepared.train.len() > 3_000 && prepared.valid.len() > 350);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_test_post_is_trained_on(
        train in prop::collection::vec("[ab]{1,3} [cd]{1,3}", 1..30), valid in prop::collection::vec("[ab]{1,3} [CD]{1,3}", 1..10),
        test in prop::collection::vec("[AB]{1,3} [cd]{1,3}!", 1..10),
    ) {
        let lines = |texts: &[String], label: &str| -> String { texts.iter().map(|text| format!("{text}\t{label}\n")).collect() };
        let folder = folder(&[
            ("train.tsv", lines(&train, "joy") + "never elsewhere\tjoy\n"), ("valid.tsv", lines(&valid, "joy")), ("test.tsv", lines(&test, "anger")),
        ]);
        let prepared = prepare(&recipe(folder.path(), SETS).unwrap()).unwrap();
        let keys = |examples: &[Example]| examples.iter().map(|example| key(&example.text)).collect::<std::collections::BTreeSet<_>>();
        let (train, valid, tested) = (keys(&prepared.train), keys(&prepared.valid), keys(&prepared.test));
        prop_assert!(train.is_disjoint(&tested) && valid.is_disjoint(&tested) && train.is_disjoint(&valid));
        prop_assert_eq!(train.len(), prepared.train.len());
        prop_assert_eq!(prepared.test.len(), test.len());
    }
}
