//! Checkpoints that `dequantize` makes of int8 model folders.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use moodstream::{
    classify::{Classifier, ClassifyOptions},
    clean::Profile,
    model::{self, ModelFolder, ModelOptions},
};
use moodstream_lab::{
    checkpoint::Checkpoint,
    dequantize::{self, DequantizeError},
    export::{Args, GraphStyle, Precision, export},
};
use ndarray::Array2;

use crate::{
    export::{args, calibration_texts, environment, expected, largest_difference, logits, matrix, wide_checkpoint},
    support::{fixture, runtime},
};

/// The families of which checkpoints can be written.
const FAMILIES: [&str; 4] = ["roberta", "xlm-roberta", "mpnet", "mpnet-mean"];

fn exported(checkpoint: &Path, out: &Path, precision: Precision) -> Args {
    args(checkpoint, out, &[precision], GraphStyle::Fused)
}

fn dequantize(model: &Path, out: PathBuf) -> PathBuf {
    dequantize::run(dequantize::Args {
        model: model.to_owned(),
        out: out.clone(),
    })
    .unwrap();
    out
}

fn rows(logits: &Array2<f32>) -> Vec<Vec<f32>> {
    logits.rows().into_iter().map(|row| row.to_vec()).collect()
}

/// Exports a checkpoint to int8, that to a checkpoint, and that to fp32 and int8. Returns the logits of the first int8 file, and
/// of the fp32 and int8 files.
fn round_trip(
    folder: &Path,
    checkpoint: &Path,
    family: &str,
    word_bits: u8,
    texts: Option<PathBuf>,
) -> Option<[Array2<f32>; 3]> {
    let environment = environment()?;
    let truth = expected(family);
    let path = |name: &str| folder.join(format!("{name}-{family}-{word_bits}"));
    export(&Args {
        word_bits,
        calibrate: texts,
        ..exported(checkpoint, &path("int8"), Precision::Int8)
    })
    .unwrap();
    let again = dequantize(&path("int8"), path("checkpoint"));
    export(&exported(&again, &path("fp32"), Precision::Fp32)).unwrap();
    export(&Args {
        word_bits,
        ..exported(&again, &path("again"), Precision::Int8)
    })
    .unwrap();
    let run = |folder: &str, file: &str| {
        logits(
            &environment,
            &path(folder).join("onnx").join(file),
            &matrix(&truth.input_ids),
            &matrix(&truth.attention_mask),
        )
    };
    Some([
        run("int8", "model_int8.onnx"),
        run("fp32", "model.onnx"),
        run("again", "model_int8.onnx"),
    ])
}

#[test]
fn a_dequantized_checkpoint_has_the_logits_of_the_original_and_of_int8() {
    let folder = tempfile::tempdir().unwrap();
    let texts = calibration_texts(folder.path());
    for family in FAMILIES {
        let Some([int8, fp32, _]) = round_trip(folder.path(), &fixture(family), family, 8, Some(texts.clone())) else {
            return;
        };
        let (original, quantised) = (
            largest_difference(&fp32, &expected(family).logits),
            largest_difference(&fp32, &rows(&int8)),
        );
        assert!(original < 0.1 && quantised < 0.05, "{family}: {original}, {quantised}");
    }
}

#[test]
fn the_same_int8_file_results_from_a_dequantized_checkpoint_without_calibration() {
    let folder = tempfile::tempdir().unwrap();
    let wide = folder.path().join("wide");
    wide_checkpoint(&wide);
    let mut cases: Vec<(&str, PathBuf, u8)> = FAMILIES.map(|family| (family, fixture(family), 8)).to_vec();
    cases.extend([("xlm-roberta", wide.clone(), 8), ("xlm-roberta", wide, 4)]);
    for (index, (family, checkpoint, word_bits)) in cases.into_iter().enumerate() {
        let folder = folder.path().join(index.to_string());
        fs::create_dir(&folder).unwrap();
        let Some([int8, fp32, again]) = round_trip(&folder, &checkpoint, family, word_bits, None) else {
            return;
        };
        let (quantised, change) = (
            largest_difference(&fp32, &rows(&int8)),
            largest_difference(&again, &rows(&int8)),
        );
        assert!(quantised < 0.05 && change < 1e-4, "{family}: {quantised}, {change}");
    }
}

/// Without calibration, each weight is the multiple of its column's step that is nearest to the original.
#[test]
fn weights_differ_from_the_original_by_half_a_step_at_most() {
    let folder = tempfile::tempdir().unwrap();
    for family in FAMILIES {
        let out = folder.path().join(family);
        export(&exported(&fixture(family), &out, Precision::Int8)).unwrap();
        let again = dequantize(&out, folder.path().join(format!("{family}-checkpoint")));
        let original = Checkpoint::read(&fixture(family)).unwrap();
        let again = Checkpoint::read(&again).unwrap();
        assert_eq!(again.encoder.shape, original.encoder.shape);
        assert_eq!(
            (again.labels, again.loss, again.family),
            (original.labels, original.loss, original.family)
        );
        for tensor in &original.encoder.layout.tensors {
            let [weights, exact] =
                [&again.encoder, &original.encoder].map(|encoder| &encoder.weights.dense[tensor.place.clone()]);
            let largest = exact.iter().fold(0.0_f32, |most, weight| most.max(weight.abs()));
            // Only matrices are rounded.
            let bound = if tensor.decays() { largest / 127.0 * 0.51 } else { 1e-6 };
            // Relative positions that no text reaches are not in the file.
            let may_be_zero = tensor.name.contains("relative");
            for (weight, exact) in weights.iter().zip(exact) {
                assert!(
                    (weight - exact).abs() <= bound || may_be_zero && weight.abs() == 0.0,
                    "{family} {}: {weight} {exact}",
                    tensor.name
                );
            }
        }
        let largest = original
            .encoder
            .weights
            .words
            .iter()
            .fold(0.0_f32, |most, word| most.max(word.abs()));
        for (word, exact) in again.encoder.weights.words.iter().zip(&original.encoder.weights.words) {
            assert!(
                (word - exact).abs() <= largest / 127.0 * 0.51,
                "{family}: {word} {exact}"
            );
        }
    }
}

#[test]
fn the_manifest_and_the_tokenizer_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("moods");
    export(&exported(&fixture("roberta"), &model, Precision::Int8)).unwrap();
    let manifest = "name = \"moods\"\nprofile = \"raw\"\n\n[thresholds]\njoy = 0.4\n";
    fs::write(model.join("moodstream.toml"), manifest).unwrap();
    let checkpoint = dequantize(&model, folder.path().join("checkpoint"));
    assert_eq!(
        fs::read_to_string(checkpoint.join("moodstream.toml")).unwrap(),
        manifest
    );
    let tokenizer = |folder: &Path| fs::read(folder.join("tokenizer.json")).unwrap();
    assert_eq!(tokenizer(&checkpoint), tokenizer(&model));
    let error = dequantize::run(dequantize::Args { model, out: checkpoint });
    assert!(error.unwrap_err().to_string().contains("exists already"));
}

#[test]
fn other_files_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    let both = Args {
        precision: vec![Precision::Int8, Precision::Fp32],
        ..exported(&fixture("roberta"), &model, Precision::Int8)
    };
    export(&both).unwrap();
    let (onnx, config) = (model.join("onnx/model_int8.onnx"), model.join("config.json"));
    let (int8, settings) = (fs::read(&onnx).unwrap(), fs::read_to_string(&config).unwrap());
    let refusal = || match dequantize::read(&model) {
        Err(error @ DequantizeError::NotExported { .. }) => {
            let message = error.to_string();
            assert!(
                message.starts_with(&*onnx.to_string_lossy()) && message.lines().count() == 1,
                "{message}"
            );
            message
        }
        Err(error) => error.to_string(),
        Ok(_) => panic!("not refused"),
    };
    let other =
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/exporters/optimum/model_quantized.onnx"));
    for (bytes, reason) in [
        (other.unwrap(), "its producer is `onnx.quantize`"),
        (
            fs::read(model.join("onnx/model.onnx")).unwrap(),
            "constant embeddings/word_embeddings_scale is absent",
        ),
        (int8[..int8.len() / 2].to_vec(), "not ONNX"),
        (b"version https://git-lfs.github.com/spec/v1".to_vec(), "not ONNX"),
        (Vec::new(), "its producer is ``"),
    ] {
        fs::write(&onnx, bytes).unwrap();
        let message = refusal();
        assert!(
            message.contains(&format!("not an int8 file of `moodstream-lab export`: {reason}")),
            "{message}"
        );
    }
    fs::write(&onnx, &int8).unwrap();
    for (from, to, reason) in [
        (
            "\"num_hidden_layers\": 2",
            "\"num_hidden_layers\": 1",
            "more layers than config.json says, 1",
        ),
        (
            "\"num_hidden_layers\": 2",
            "\"num_hidden_layers\": 3",
            "scope layer.2/attention has 0 nodes",
        ),
        (
            "\"num_attention_heads\": 2",
            "\"num_attention_heads\": 4",
            "its heads are not 4",
        ),
        (
            "\"vocab_size\": 96",
            "\"vocab_size\": 16777216",
            "is [96, 16], but config.json says [16777216, 16]",
        ),
        (
            "\"model_type\": \"roberta\"",
            "\"model_type\": \"bert\"",
            "only roberta, xlm-roberta and mpnet",
        ),
        (
            "\"model_type\": \"roberta\"",
            "\"model_type\": \"distilbert\"",
            "model_type is `distilbert`",
        ),
        (
            "\"model_type\"",
            "\"classifier_pooling\": \"mean\", \"model_type\"",
            "is not the output of a Squeeze",
        ),
    ] {
        assert!(settings.contains(from), "{from}: {settings}");
        fs::write(&config, settings.replace(from, to)).unwrap();
        let message = refusal();
        assert!(message.contains(reason), "{to}: {message}");
    }
}

/// The folder of the default model, of which there is no other checkpoint.
fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../emotion-xlm-roberta-12x384-multilingual")
}

#[test]
fn the_shipped_model_can_be_read() {
    let checkpoint = dequantize::read(&shipped()).unwrap();
    assert_eq!(checkpoint.labels.len(), 7);
    let shape = &checkpoint.encoder.shape;
    assert_eq!((shape.layers, shape.hidden, shape.vocabulary), (12, 384, 146_223));
    // Its word embeddings have 4 bits, so that a block of 32 weights has at most 16 values.
    for block in checkpoint.encoder.weights.words.chunks_exact(32).step_by(1_000) {
        let distinct: BTreeSet<u32> = block.iter().map(|weight| weight.to_bits()).collect();
        assert!(distinct.len() <= 16);
    }
}

/// The emotions that the service finds with a model's file of that precision.
fn emotions(folder: &Path, precision: model::Precision, library: &Path, texts: &[Arc<str>]) -> Vec<Arc<str>> {
    let model = ModelOptions {
        precision,
        ..ModelOptions::default()
    };
    let options = ClassifyOptions {
        onnxruntime: Some(library.to_owned()),
        ..ClassifyOptions::default()
    };
    let service = Classifier::start(&ModelFolder::open(folder, &model).unwrap(), &options).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let predictions = runtime.block_on(service.classify(texts.to_vec())).into_iter();
    predictions.map(|prediction| prediction.unwrap().emotion).collect()
}

#[test]
#[ignore = "takes ten CPU-seconds"]
fn the_shipped_model_dequantized_to_fp16_finds_the_same_emotions() {
    let Some(library) = runtime() else { return };
    let profile = Profile::from_name("twitter-roberta").unwrap();
    let mut texts: Vec<Arc<str>> = Vec::new();
    for posts in ["languages", "irony"] {
        let posts = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/fixtures")
            .join(posts);
        let files = fs::read_dir(posts).unwrap().map(|file| file.unwrap().path());
        for file in files.filter(|path| path.extension().is_some_and(|extension| extension == "tsv")) {
            let rows = fs::read_to_string(file).unwrap();
            texts.extend(
                rows.lines()
                    .map(|row| profile.clean(row.split('\t').next().unwrap()).into()),
            );
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = dequantize(&shipped(), folder.path().join("checkpoint"));
    let half = folder.path().join("fp16");
    export(&exported(&checkpoint, &half, Precision::Fp16)).unwrap();
    let int8 = emotions(&shipped(), model::Precision::Int8, &library, &texts);
    let fp16 = emotions(&half, model::Precision::Fp16, &library, &texts);
    let same = int8.iter().zip(&fp16).filter(|(int8, fp16)| int8 == fp16).count();
    println!("the same emotion for {same} of {} texts", texts.len());
    assert!(texts.len() >= 480 && same * 1_000 >= texts.len() * 985);
}
