//! Models that `export` wrote, run by ONNX Runtime and compared with `transformers`.

use std::fs;
use std::path::{Path, PathBuf};

use moodstream::classify::{self, ClassifyOptions};
use moodstream_lab::checkpoint::{Checkpoint, Family};
use moodstream_lab::encoder::{Encoder, HeadActivation, Loss, Pooling, Shape};
use moodstream_lab::export::{Args, Classifier, ExportError, GraphStyle, Precision, export};
use ndarray::Array2;
use ort::environment::Environment;
use ort::session::Session;
use ort::value::TensorRef;
use serde::Deserialize;

use crate::support::{fixture, runtime};

/// Tiny checkpoints with random weights that `transformers` wrote, and their logits; `make.py` made them.
const FAMILIES: [&str; 6] = ["roberta", "xlm-roberta", "bert", "distilbert", "mpnet", "mpnet-mean"];

#[derive(Deserialize)]
pub(crate) struct Expected {
    pub(crate) input_ids: Vec<Vec<i64>>,
    pub(crate) attention_mask: Vec<Vec<i64>>,
    pub(crate) logits: Vec<Vec<f32>>,
}

pub(crate) fn expected(family: &str) -> Expected {
    serde_json::from_slice(&fs::read(fixture(family).join("expected.json")).unwrap()).unwrap()
}

pub(crate) fn args(checkpoint: &Path, out: &Path, precision: &[Precision], graph: GraphStyle) -> Args {
    Args {
        checkpoint: checkpoint.to_owned(),
        out: out.to_owned(),
        precision: precision.to_vec(),
        graph,
        word_bits: 8,
        calibrate: None,
        calibrate_texts: 512,
        min_agreement: None,
        name: None,
    }
}

/// The service's ONNX Runtime environment, if the library is installed: a process can have only one.
pub(crate) fn environment() -> Option<Environment> {
    let options = ClassifyOptions {
        onnxruntime: Some(runtime()?),
        ..ClassifyOptions::default()
    };
    Some(classify::environment(&options).unwrap())
}

pub(crate) fn matrix(rows: &[Vec<i64>]) -> Array2<i64> {
    Array2::from_shape_vec((rows.len(), rows[0].len()), rows.concat()).unwrap()
}

pub(crate) fn logits(runtime: &Environment, onnx: &Path, ids: &Array2<i64>, mask: &Array2<i64>) -> Array2<f32> {
    let mut session = Session::builder(runtime)
        .unwrap()
        .with_intra_threads(1)
        .unwrap()
        .with_config_entry("session.x64quantprecision", "1")
        .unwrap()
        .commit_from_file(onnx)
        .unwrap();
    let types = Array2::<i64>::zeros(ids.raw_dim());
    let mut inputs = ort::inputs! {
        "input_ids" => TensorRef::from_array_view(ids.view()).unwrap(),
        "attention_mask" => TensorRef::from_array_view(mask.view()).unwrap(),
    };
    if session.inputs().iter().any(|input| input.name() == "token_type_ids") {
        inputs.push((
            "token_type_ids".into(),
            TensorRef::from_array_view(types.view()).unwrap().into(),
        ));
    }
    let outputs = session.run(inputs).unwrap();
    outputs["logits"]
        .try_extract_array::<f32>()
        .unwrap()
        .to_owned()
        .into_dimensionality()
        .unwrap()
}

pub(crate) fn largest_difference(a: &Array2<f32>, b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.nrows(), b.len());
    a.iter().zip(b.concat()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn fp32_and_fp16_have_the_logits_of_transformers_in_every_family_and_style() {
    let Some(environment) = environment() else { return };
    let folder = tempfile::tempdir().unwrap();
    for family in FAMILIES {
        let truth = expected(family);
        for graph in [GraphStyle::Fused, GraphStyle::Plain] {
            let out = folder.path().join(format!("{family}-{graph:?}"));
            export(&args(
                &fixture(family),
                &out,
                &[Precision::Fp32, Precision::Fp16],
                graph,
            ))
            .unwrap();
            let run = |file: &str| {
                logits(
                    &environment,
                    &out.join("onnx").join(file),
                    &matrix(&truth.input_ids),
                    &matrix(&truth.attention_mask),
                )
            };
            let single = largest_difference(&run("model.onnx"), &truth.logits);
            assert!(single < 1e-4, "{family} {graph:?}: {single}");
            let half = largest_difference(&run("model_fp16.onnx"), &truth.logits);
            assert!(half < 2e-2, "{family} {graph:?} in half precision: {half}");
        }
    }
}

/// Writes texts for calibration in the words of the fixtures.
pub(crate) fn calibration_texts(folder: &Path) -> PathBuf {
    let texts = folder.join("texts.tsv");
    let lines: Vec<String> = (0..200)
        .map(|i| (0..12).map(|j| format!("w{} ", 4 + (i * 31 + j * 17) % 92)).collect())
        .collect();
    fs::write(&texts, lines.join("\tlabel\n")).unwrap();
    texts
}

#[test]
fn int8_is_close_and_independent_of_batch_and_padding() {
    let Some(environment) = environment() else { return };
    let folder = tempfile::tempdir().unwrap();
    let texts = calibration_texts(folder.path());
    for family in FAMILIES {
        let truth = expected(family);
        let out = folder.path().join(family);
        let wanted = Args {
            calibrate: Some(texts.clone()),
            ..args(&fixture(family), &out, &[Precision::Int8], GraphStyle::Fused)
        };
        export(&wanted).unwrap();
        let onnx = out.join("onnx/model_int8.onnx");
        let (ids, mask) = (matrix(&truth.input_ids), matrix(&truth.attention_mask));
        let together = logits(&environment, &onnx, &ids, &mask);
        let distance = largest_difference(&together, &truth.logits);
        assert!(distance < 0.15, "{family}: {distance}");
        for (index, row) in truth.attention_mask.iter().enumerate() {
            let length = row.iter().sum::<i64>() as usize;
            let part = |x: &Array2<i64>| Array2::from_shape_fn((1, length), |(_, column)| x[(index, column)]);
            let alone = logits(&environment, &onnx, &part(&ids), &part(&mask));
            let change = largest_difference(&alone, &[together.row(index).to_vec()]);
            assert!(change < 1e-4, "{family}, text {index}: {change}");
        }
    }
}

/// A checkpoint with random weights whose width is a multiple of a block, with the tokenizer of a fixture.
pub(crate) fn wide_checkpoint(folder: &Path) {
    let mut encoder = Encoder::zeros(Shape {
        hidden: 64,
        heads: 4,
        layers: 2,
        intermediate: 128,
        positions: 40,
        first_position: 2,
        relative_buckets: 0,
        pooling: Pooling::Mean,
        head_activation: HeadActivation::default(),
        vocabulary: 96,
        labels: 3,
        epsilon: 1e-5,
    });
    let mut state = 1_u64;
    let mut random = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 24) as f32 - 0.5
    };
    let weights = encoder.weights.words.iter_mut().chain(&mut encoder.weights.dense);
    weights.for_each(|weight| *weight = 0.4 * random());
    for tensor in encoder.layout.tensors.clone() {
        if tensor.name.ends_with("LayerNorm.weight") {
            encoder.weights.dense[tensor.place].fill(1.0);
        }
    }
    let checkpoint = Checkpoint {
        encoder,
        labels: ["joy", "anger", "fear"].map(str::to_owned).to_vec(),
        loss: Some(Loss::Sigmoid),
        family: Family::XlmRoberta,
    };
    fs::create_dir(folder).unwrap();
    checkpoint.write(folder).unwrap();
    fs::copy(
        fixture("xlm-roberta").join("tokenizer.json"),
        folder.join("tokenizer.json"),
    )
    .unwrap();
}

#[test]
fn word_embeddings_of_4_bits_are_smaller_and_independent_of_the_batch() {
    let Some(environment) = environment() else { return };
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = folder.path().join("checkpoint");
    wide_checkpoint(&checkpoint);
    let truth = expected("xlm-roberta");
    let (ids, mask) = (matrix(&truth.input_ids), matrix(&truth.attention_mask));
    let exported = |word_bits: u8| {
        let out = folder.path().join(format!("bits-{word_bits}"));
        let precision = [Precision::Fp32, Precision::Int8];
        let wanted = Args {
            word_bits,
            ..args(&checkpoint, &out, &precision, GraphStyle::Fused)
        };
        export(&wanted).unwrap();
        out.join("onnx")
    };
    let (whole, half) = (exported(8), exported(4));
    let size = |onnx: &Path| fs::metadata(onnx.join("model_int8.onnx")).unwrap().len();
    // Half the bytes of 96 words of 64 weights, less the second scale of each word.
    let saved = size(&whole) - size(&half);
    assert!((2_400..=96 * 64 / 2).contains(&saved), "{saved}");
    let exact = logits(&environment, &half.join("model.onnx"), &ids, &mask);
    let together = logits(&environment, &half.join("model_int8.onnx"), &ids, &mask);
    let rows: Vec<Vec<f32>> = exact.rows().into_iter().map(|row| row.to_vec()).collect();
    let distance = largest_difference(&together, &rows);
    assert!(distance < 0.15, "{distance}");
    for (index, row) in truth.attention_mask.iter().enumerate() {
        let length = row.iter().sum::<i64>() as usize;
        let part = |x: &Array2<i64>| Array2::from_shape_fn((1, length), |(_, column)| x[(index, column)]);
        let alone = logits(&environment, &half.join("model_int8.onnx"), &part(&ids), &part(&mask));
        let change = largest_difference(&alone, &[together.row(index).to_vec()]);
        assert!(change < 1e-4, "text {index}: {change}");
    }
    let narrow = Args {
        word_bits: 4,
        ..args(
            &fixture("roberta"),
            &folder.path().join("no"),
            &[Precision::Int8],
            GraphStyle::Fused,
        )
    };
    let error = export(&narrow).unwrap_err().to_string();
    assert!(error.contains("a multiple of 32, not 16"), "{error}");
}

/// Changes one file of a copy of the RoBERTa fixture, and returns the error of its export.
fn refusal(file: &str, change: impl Fn(String) -> Vec<u8>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = folder.path().join("checkpoint");
    fs::create_dir(&checkpoint).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        fs::copy(fixture("roberta").join(name), checkpoint.join(name)).unwrap();
    }
    let text = String::from_utf8_lossy(&fs::read(checkpoint.join(file)).unwrap()).into_owned();
    fs::write(checkpoint.join(file), change(text)).unwrap();
    let error = export(&args(
        &checkpoint,
        &folder.path().join("out"),
        &[Precision::Fp32],
        GraphStyle::Plain,
    ))
    .unwrap_err();
    let left: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["checkpoint"], "something was left behind");
    let message = error.to_string();
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(message.contains(file), "{message} names no file");
    message
}

#[test]
fn invalid_checkpoints_are_refused_in_one_line_and_leave_nothing() {
    let layers = refusal("model.safetensors", |_| {
        let bytes = fs::read(fixture("roberta").join("model.safetensors")).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let json = std::str::from_utf8(&bytes[8..8 + header]).unwrap();
        let renamed = json.replace(
            "roberta.encoder.layer.1.output.dense.weight",
            "roberta.encoder.layer.1.output.dense.wobble",
        );
        [&bytes[..8], renamed.as_bytes(), &bytes[8 + header..]].concat()
    });
    assert!(
        layers.contains("tensor roberta.encoder.layer.1.output.dense.weight is absent"),
        "{layers}"
    );

    let json = |text: String, change: &dyn Fn(&mut serde_json::Value)| {
        let mut json = serde_json::from_str(&text).unwrap();
        change(&mut json);
        serde_json::to_vec(&json).unwrap()
    };
    let labels = refusal("config.json", |text| {
        json(text, &|config| {
            config["id2label"] = serde_json::json!({"0": "joy", "1": "anger"});
        })
    });
    assert!(labels.contains("2 labels") && labels.contains("3 rows"), "{labels}");
    let activation = refusal("config.json", |text| {
        json(text, &|config| config["hidden_act"] = "relu".into())
    });
    assert!(activation.contains("hidden_act"), "{activation}");
    let family = refusal("config.json", |text| {
        json(text, &|config| config["model_type"] = "t5".into())
    });
    assert!(family.contains("`t5`"), "{family}");
    let tokenizer = refusal("tokenizer.json", |text| {
        json(text, &|tokenizer| tokenizer["model"]["vocab"]["far"] = 4_000.into())
    });
    assert!(
        tokenizer.contains("4000") && tokenizer.contains("96 rows"),
        "{tokenizer}"
    );
    assert!(refusal("model.safetensors", |_| b"not it".to_vec()).contains("not a safetensors file"));
}

#[test]
fn an_existing_folder_is_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("kept");
    fs::write(&kept, "mine").unwrap();
    let error = export(&args(
        &fixture("bert"),
        folder.path(),
        &[Precision::Fp32],
        GraphStyle::Plain,
    ))
    .unwrap_err();
    assert!(matches!(error, ExportError::Exists(_)), "{error}");
    assert_eq!(fs::read_to_string(kept).unwrap(), "mine");
}

#[test]
fn the_service_reads_an_exported_folder() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let wanted = Args {
        name: Some("moods".to_owned()),
        ..args(&fixture("xlm-roberta"), &out, &[Precision::Fp16], GraphStyle::Fused)
    };
    export(&wanted).unwrap();
    let options = moodstream::model::ModelOptions {
        precision: moodstream::model::Precision::Fp16,
        ..Default::default()
    };
    let model = moodstream::model::ModelFolder::open(&out, &options).unwrap();
    assert!(model.info().id.starts_with("moods@"), "{}", model.info().id);
    assert_eq!(
        model.info().labels.len(),
        Classifier::open(&fixture("xlm-roberta")).unwrap().labels()
    );
}
