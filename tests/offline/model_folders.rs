//! Model folders in the wild: without a tokenizer.json, from other exporters, with unusual graphs.

use std::{fs, path::Path, sync::Arc};

use moodstream::{
    classify::{Classifier, ClassifyOptions},
    model::{ModelFolder, ModelOptions, Prediction},
};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::classify::classify;

fn fixture() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-roberta")
}

/// Returns a copy of the fixture.
fn copy() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json", "model.onnx"] {
        fs::copy(fixture().join(name), folder.path().join(name)).unwrap();
    }
    folder
}

fn open(folder: &Path) -> Result<ModelFolder, String> {
    ModelFolder::open(
        folder,
        &ModelOptions {
            max_tokens: 64,
            ..ModelOptions::default()
        },
    )
    .map_err(|error| format!("{:#}", anyhow::Error::from(error)))
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Returns the fixture with its tokenizer in two vocabulary files, as models were published before tokenizer.json existed.
fn with_vocabulary_files() -> TempDir {
    let folder = copy();
    let tokenizer = json_of(&folder.path().join("tokenizer.json"));
    let mut vocabulary = tokenizer["model"]["vocab"].clone();
    for token in tokenizer["added_tokens"].as_array().unwrap() {
        if token["special"] == true {
            vocabulary[token["content"].as_str().unwrap()] = token["id"].clone();
        }
    }
    let merges: String = tokenizer["model"]["merges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|merge| match merge {
            Value::String(pair) => format!("{pair}\n"),
            pair => format!("{} {}\n", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
        })
        .collect();
    fs::write(folder.path().join("vocab.json"), vocabulary.to_string()).unwrap();
    fs::write(folder.path().join("merges.txt"), format!("#version: 0.2\n{merges}")).unwrap();
    fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    folder
}

proptest! {
    #[test]
    fn a_tokenizer_from_vocabulary_files_has_the_ids_of_tokenizer_json(texts in prop::collection::vec(any::<String>(), 1..20)) {
        let made = open(with_vocabulary_files().path()).unwrap();
        let whole = open(&fixture()).unwrap();
        for text in texts.iter().map(String::as_str).chain(["</s> <mask> so happy", " two  spaces"]) {
            // Words that are only in the fixture's tokenizer.json.
            prop_assume!(!text.contains("NANNAN") && !text.contains("POISON"));
            prop_assert_eq!(made.tokenizer().encode(text).unwrap(), whole.tokenizer().encode(text).unwrap());
        }
    }
}

#[test]
fn a_word_piece_vocabulary_is_read_like_bert_s() {
    let folder = copy();
    fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    let tokens = [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "so", "happ", "##y", "!", "日",
    ];
    fs::write(folder.path().join("vocab.txt"), tokens.join("\n")).unwrap();
    let ids = |folder: &Path, text| open(folder).unwrap().tokenizer().encode(text).unwrap();
    assert_eq!(ids(folder.path(), "So HÁPPY!日 xyz"), [2, 5, 6, 7, 8, 9, 1, 3]);
    // Cased, as configured in the file that such models are published with.
    fs::write(
        folder.path().join("tokenizer_config.json"),
        r#"{"do_lower_case": false}"#,
    )
    .unwrap();
    assert_eq!(ids(folder.path(), "So happy"), [2, 1, 6, 7, 3]);
    fs::write(folder.path().join("vocab.txt"), "so\nhappy").unwrap();
    assert!(open(folder.path()).unwrap_err().contains("not a WordPiece vocabulary"));
}

#[test]
fn the_error_for_a_missing_tokenizer_says_how_to_make_one() {
    let folder = copy();
    fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    let error = open(folder.path()).unwrap_err();
    assert!(
        error.contains("no tokenizer.json, and no vocabulary files") && error.contains("save_pretrained"),
        "{error}"
    );
    fs::write(folder.path().join("sentencepiece.bpe.model"), "x").unwrap();
    let error = open(folder.path()).unwrap_err();
    assert!(
        error.contains("only sentencepiece.bpe.model") && error.contains("save_pretrained"),
        "{error}"
    );
}

#[test]
fn external_weights_are_part_of_the_model_s_id() {
    let folder = copy();
    let tensor = [
        int(1, 4),
        int(2, 1),
        text(8, "w"),
        int(14, 1),
        bytes(13, &[text(1, "location"), text(2, "elsewhere.bin")].concat()),
    ]
    .concat();
    fs::write(folder.path().join("model.onnx"), bytes(7, &bytes(5, &tensor))).unwrap();
    let ids = ["one", "two", "one"].map(|weights| {
        fs::write(folder.path().join("elsewhere.bin"), weights).unwrap();
        open(folder.path()).unwrap().info().id.to_string()
    });
    assert_eq!(ids[0], ids[2]);
    assert_ne!(ids[0], ids[1]);
    fs::write(
        folder.path().join("elsewhere.bin"),
        "version https://git-lfs.github.com/spec/v1\noid sha256:0",
    )
    .unwrap();
    assert!(open(folder.path()).unwrap_err().contains("git lfs pull"));
}

/// A graph that computes the mean token id of each row, including padding.
struct MeanGraph {
    /// 6: int32, 7: int64.
    ids: u64,
    softmax: bool,
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value > 0x7f {
        out.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap());
    out
}

/// Encodes fields of a protobuf message: <https://protobuf.dev/programming-guides/encoding/>.
fn int(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn bytes(field: u64, content: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
}

fn text(field: u64, content: &str) -> Vec<u8> {
    bytes(field, content.as_bytes())
}

impl MeanGraph {
    fn node(op: &str, inputs: &[&str], output: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
        let inputs = inputs.iter().flat_map(|input| text(1, input));
        let node: Vec<u8> = inputs
            .chain(text(2, output))
            .chain(text(4, op))
            .chain(attributes.iter().flat_map(|a| bytes(5, a)))
            .collect();
        bytes(1, &node)
    }

    fn value(field: u64, name: &str, kind: u64, shape: &[&str]) -> Vec<u8> {
        let shape: Vec<u8> = shape
            .iter()
            .flat_map(|dimension| bytes(1, &text(2, dimension)))
            .collect();
        let tensor = [int(1, kind), bytes(2, &shape)].concat();
        bytes(field, &[text(1, name), bytes(2, &bytes(1, &tensor))].concat())
    }

    fn tensor(name: &str, dimensions: &[u64], data: &[f32]) -> Vec<u8> {
        let dimensions = dimensions.iter().flat_map(|&size| int(1, size));
        let raw: Vec<u8> = data.iter().flat_map(|value| value.to_le_bytes()).collect();
        let tensor: Vec<u8> = dimensions
            .chain(int(2, 1))
            .chain(text(8, name))
            .chain(bytes(9, &raw))
            .collect();
        bytes(5, &tensor)
    }

    fn to_bytes(&self) -> Vec<u8> {
        let attribute = |name: &str, value: u64| [text(1, name), int(3, value), int(20, 2)].concat();
        let axes = [text(1, "axes"), int(8, 1), int(20, 7)].concat();
        let output = if self.softmax { "dense" } else { "logits" };
        let mut graph = [
            Self::node("Cast", &["input_ids"], "floats", &[attribute("to", 1)]),
            Self::node("ReduceMean", &["floats"], "mean", &[axes, attribute("keepdims", 1)]),
            Self::node("MatMul", &["mean", "weights"], "product", &[]),
            Self::node("Add", &["product", "bias"], output, &[]),
        ]
        .concat();
        if self.softmax {
            graph.extend(Self::node("Softmax", &["dense"], "logits", &[attribute("axis", 1)]));
        }
        graph.extend(text(2, "mean"));
        graph.extend(Self::tensor("weights", &[1, 4], &[0.02, -0.02, 0.01, 0.0]));
        graph.extend(Self::tensor("bias", &[4], &[-1.0, 1.0, 0.0, 0.2]));
        for name in ["input_ids", "attention_mask"] {
            graph.extend(Self::value(11, name, self.ids, &["batch", "sequence"]));
        }
        graph.extend(Self::value(12, "logits", 1, &["batch", "labels"]));
        [
            int(1, 8),
            bytes(8, &[text(1, ""), int(2, 13)].concat()),
            bytes(7, &graph),
        ]
        .concat()
    }

    fn start(&self) -> Classifier {
        let folder = copy();
        fs::write(folder.path().join("model.onnx"), self.to_bytes()).unwrap();
        let options = ClassifyOptions {
            cache_entries: 0,
            sessions: 1,
            ..ClassifyOptions::default()
        };
        Classifier::start(&open(folder.path()).unwrap(), &options).unwrap()
    }
}

const WINDOW: [&str; 3] = [
    "so happy",
    "a text that is a good deal longer than the one before it",
    "x",
];

fn scores(classifier: &Classifier, window: &[&str]) -> Vec<Arc<[f64]>> {
    let scores = |prediction: Result<Prediction, _>| prediction.unwrap().scores;
    classify(classifier, window).into_iter().map(scores).collect()
}

#[test]
fn a_graph_that_ignores_the_mask_is_run_one_text_at_a_time() {
    let classifier = MeanGraph { ids: 7, softmax: false }.start();
    let together = scores(&classifier, &WINDOW);
    let alone: Vec<_> = WINDOW.iter().flat_map(|text| scores(&classifier, &[text])).collect();
    assert_eq!(together, alone);
    assert!(
        classifier.stats().padding == 0 && classifier.stats().batches == 6,
        "{:?}",
        classifier.stats()
    );
    // Different texts have different scores.
    assert_ne!(alone[0], alone[1]);
}

#[test]
fn the_shipped_graphs_are_run_in_batches() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/emotion-roberta-6x384");
    let folder = ModelFolder::open(folder, &ModelOptions::default()).unwrap();
    let classifier = Classifier::start(
        &folder,
        &ClassifyOptions {
            sessions: 1,
            ..ClassifyOptions::default()
        },
    )
    .unwrap();
    scores(&classifier, &WINDOW);
    // A long text may get its own batch if padding the others would cost more.
    assert!(
        classifier.stats().batches < WINDOW.len() as u64,
        "{:?}",
        classifier.stats()
    );
}

#[test]
fn int32_inputs_and_a_list_of_labels_are_supported() {
    let wide = MeanGraph { ids: 7, softmax: false }.start();
    let narrow = MeanGraph { ids: 6, softmax: false }.start();
    assert_eq!(scores(&wide, &WINDOW), scores(&narrow, &WINDOW));
    let folder = copy();
    let mut config = json_of(&folder.path().join("config.json"));
    config["id2label"] = json!(["anger", "joy", "optimism", "sadness"]);
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    assert_eq!(
        open(folder.path()).unwrap().info().labels,
        open(&fixture()).unwrap().info().labels
    );
}

#[test]
fn no_second_softmax_is_applied_to_a_graph_that_ends_in_one() {
    let logits = scores(&MeanGraph { ids: 7, softmax: false }.start(), &WINDOW);
    let probabilities = scores(&MeanGraph { ids: 7, softmax: true }.start(), &WINDOW);
    for (logits, probabilities) in logits.iter().zip(&probabilities) {
        for (logit, probability) in logits.iter().zip(probabilities.iter()) {
            assert!((logit - probability).abs() < 1e-5, "{logits:?} {probabilities:?}");
        }
    }
}

#[test]
fn a_single_label_with_softmax_is_refused() {
    let folder = copy();
    let mut config = json_of(&folder.path().join("config.json"));
    config["id2label"] = json!({"0": "joy"});
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    assert!(open(folder.path()).unwrap_err().contains("always gives 1"));
}

/// `tests/fixtures/tokenizers/make.py` created the expected ids with Hugging Face's own library.
#[test]
fn tokenizers_of_every_kind_match_the_reference_library() {
    let reference = json_of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizers/reference.json"));
    let texts: Vec<&str> = reference["texts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|text| text.as_str().unwrap())
        .collect();
    let folder = copy();
    let mut config = json_of(&folder.path().join("config.json"));
    config["vocab_size"] = json!(1_000);
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let mut differ = Vec::new();
    for case in reference["cases"].as_array().unwrap() {
        fs::write(folder.path().join("tokenizer.json"), case["tokenizer"].to_string()).unwrap();
        let opened = open(folder.path()).unwrap();
        for (text, ids) in texts.iter().zip(case["ids"].as_array().unwrap()) {
            let found = json!(opened.tokenizer().encode(text).unwrap());
            if found != *ids {
                differ.push(format!("{} {text:?}: {ids} {found}", case["name"]));
            }
        }
    }
    assert!(
        differ.is_empty(),
        "{} differ: {:#?}",
        differ.len(),
        &differ[..differ.len().min(20)]
    );
}

#[test]
fn a_single_word_token_that_contains_another_added_token_is_refused() {
    let folder = copy();
    let path = folder.path().join("tokenizer.json");
    let mut tokenizer = json_of(&path);
    let tokens = tokenizer["added_tokens"].as_array_mut().unwrap();
    for (id, content) in [(400, "USERTAG"), (401, "TAG")] {
        tokens.push(
            json!({"id": id, "content": content, "single_word": content == "USERTAG", "lstrip": false,
                           "rstrip": false, "normalized": false, "special": false}),
        );
    }
    let mut config = json_of(&folder.path().join("config.json"));
    config["vocab_size"] = json!(1_000);
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    fs::write(&path, tokenizer.to_string()).unwrap();
    let error = open(folder.path()).unwrap_err();
    assert!(error.contains("\"USERTAG\"") && error.contains("\"TAG\""), "{error}");
}

#[test]
fn an_unsupported_split_is_reported_at_startup() {
    let folder = copy();
    let path = folder.path().join("tokenizer.json");
    let mut tokenizer = json_of(&path);
    tokenizer["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": r"\s+(?!\S)|\s?\S+"}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
    ]});
    fs::write(&path, tokenizer.to_string()).unwrap();
    let error = open(folder.path()).unwrap_err();
    assert!(error.contains("`Split` step") && !error.contains("feature"), "{error}");
}
