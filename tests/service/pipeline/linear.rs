//! A linear model instead of an encoder: the same guarantees, without ONNX Runtime.

use std::path::Path;

use serde_json::Value;

use super::{
    exactly_once::{assert_same_tables, run_killed_ten_times, synthetic_stream},
    number,
};
use crate::support::{
    linear,
    service::{Bench, moodstream},
};

/// A path where there is no ONNX Runtime.
const NO_LIBRARY: &str = "/nowhere/libonnxruntime.so";

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_group_with_a_linear_model_writes_the_same_tables() {
    let folder = tempfile::tempdir().unwrap();
    linear::write_folder(folder.path());
    let bench = Bench::start();
    let stream = synthetic_stream(3_000);
    let total = i64::try_from(stream.len()).unwrap();
    bench.feed(&stream, "posts", 4);

    let calm = bench.service("posts").with_model(folder.path());
    let summary = calm.run_until_caught_up();
    assert_eq!(summary["records"].as_i64(), Some(total));
    let happy = "SELECT count(*) FROM post WHERE text LIKE 'i am so happy today%' AND emotion <> 'joy'";
    assert_eq!(number(&calm.url, happy).await, 0);
    let of_model = "SELECT count(*) FROM post WHERE model_id LIKE 'tiny-linear@%'";
    assert!(number(&calm.url, of_model).await > 2_000);

    let killed = bench.service("posts").with_model(folder.path()).with_group("killed");
    run_killed_ten_times(&killed, total);
    assert_same_tables(&calm, &killed, total).await;
}

fn classify(folder: &Path, text: &str) -> std::process::Output {
    moodstream()
        .args(["classify", "--model"])
        .arg(folder)
        .arg(text)
        .env("ORT_DYLIB_PATH", NO_LIBRARY)
        .env("MOODSTREAM_LOG__LEVEL", "off")
        .output()
        .unwrap()
}

#[test]
fn a_linear_model_classifies_and_is_checked_without_onnx_runtime() {
    let folder = tempfile::tempdir().unwrap();
    linear::write_folder(folder.path());
    let output = classify(folder.path(), "so happy, my friends!");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["emotion"], "joy");
    let sum: f64 = ["anger", "joy", "sadness"]
        .map(|label| answer["scores"][label].as_f64().unwrap())
        .iter()
        .sum();
    assert!((sum - 1.0).abs() < 1e-5, "{answer}");

    let check = moodstream()
        .args(["check", "--model"])
        .arg(folder.path())
        .env("ORT_DYLIB_PATH", NO_LIBRARY)
        .env("MOODSTREAM_KAFKA__TOPICS", "posts")
        .env("MOODSTREAM_KAFKA__BROKERS", "127.0.0.1:1")
        .env("MOODSTREAM_DATABASE__URL", "postgres://127.0.0.1:1/x")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    let model = said
        .lines()
        .find(|line| line.starts_with("+ model"))
        .unwrap_or_else(|| panic!("{said}"));
    assert!(
        model.contains("ok: tiny-linear@") && model.contains("(fp32, cpu), labels anger, joy, sadness"),
        "{model}"
    );
}

#[test]
fn a_damaged_linear_model_is_reported_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    linear::write_folder(folder.path());
    let file = folder.path().join("linear.safetensors");
    let whole = std::fs::read(&file).unwrap();
    for (content, reason) in [
        (Some(&whole[..whole.len() / 2]), "not a valid safetensors file"),
        (Some(&b"{}"[..]), "not a valid safetensors file"),
        (None, "can't be read"),
    ] {
        match content {
            Some(bytes) => std::fs::write(&file, bytes).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
        let output = classify(folder.path(), "so happy");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.lines().count() == 1, "{said}");
        assert!(said.contains("linear.safetensors") && said.contains(reason), "{said}");
    }
}
