//! The classifier with real sessions.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
    time::Duration,
};

use moodstream::{
    classify::{Classifier, ClassifyError, ClassifyOptions, ModelFault},
    model::{ModelFolder, ModelOptions, Precision, Prediction, ProblemType, Provider},
};
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::{runtime::Runtime, time::timeout};

pub(crate) fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-roberta")
}

fn open(precision: Precision) -> ModelFolder {
    ModelFolder::open(
        fixture(),
        &ModelOptions {
            precision,
            ..ModelOptions::default()
        },
    )
    .unwrap()
}

pub(crate) fn uncached() -> ClassifyOptions {
    ClassifyOptions {
        sessions: 2,
        cache_entries: 0,
        ..ClassifyOptions::default()
    }
}

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

pub(crate) fn classify<T: AsRef<str>>(classifier: &Classifier, texts: &[T]) -> Vec<Result<Prediction, ModelFault>> {
    let texts = texts.iter().map(|text| Arc::from(text.as_ref())).collect();
    RUNTIME.block_on(async {
        timeout(Duration::from_secs(60), classifier.classify(texts))
            .await
            .unwrap()
    })
}

fn assert_same(a: &Prediction, b: &Prediction) {
    for (a, b) in a.scores.iter().zip(b.scores.iter()) {
        assert!((a - b).abs() <= 1e-3, "{a} and {b}");
    }
    // Two labels within the tolerance may be swapped; otherwise the label must be equal.
    let mut sorted = a.scores.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    assert!(
        a.emotion == b.emotion || sorted[0] - sorted[1] <= 2e-3,
        "{} and {}",
        a.emotion,
        b.emotion
    );
}

/// Arbitrary posts, from a single character to far above the model's limit.
fn posts() -> impl Strategy<Value = Vec<String>> {
    let post = prop_oneof![4 => "[a-zA-Z ,.!?#@]{1,60}", 2 => any::<String>(), 1 => "(\u{1F600}|é|日|[a-z]){1,200}", 1 => "(</s>|<pad>|<mask>| ){1,8}"];
    prop::collection::vec(post, 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn predictions_do_not_depend_on_the_batch_or_the_order((posts, shuffled) in posts().prop_flat_map(|posts| (Just(posts.clone()), Just(posts).prop_shuffle()))) {
        static ALONE: LazyLock<Classifier> = LazyLock::new(|| {
            Classifier::start(&open(Precision::Fp32), &ClassifyOptions { max_batch_posts: 1, ..uncached() }).unwrap()
        });
        static TOGETHER: LazyLock<Classifier> = LazyLock::new(|| {
            Classifier::start(&open(Precision::Fp32), &ClassifyOptions { max_batch_posts: 16, ..uncached() }).unwrap()
        });
        static BOUND: LazyLock<Classifier> = LazyLock::new(|| {
            Classifier::start(&open(Precision::Fp32), &ClassifyOptions { io_binding: true, ..uncached() }).unwrap()
        });
        static FIXED_SHAPES: LazyLock<Classifier> = LazyLock::new(|| {
            let options = ClassifyOptions { cuda_graphs: true, max_batch_posts: 16, ..uncached() };
            Classifier::start(&open(Precision::Fp32), &options).unwrap()
        });
        let alone = classify(&ALONE, &posts);
        let bound = classify(&BOUND, &posts);
        let fixed_shapes = classify(&FIXED_SHAPES, &posts);
        let together = classify(&TOGETHER, &posts);
        let elsewhere = classify(&TOGETHER, &shuffled);
        for (place, post) in posts.iter().enumerate() {
            let alone = alone[place].as_ref().unwrap();
            for other in [&together, &bound, &fixed_shapes] {
                assert_same(alone, other[place].as_ref().unwrap());
            }
            let moved = shuffled.iter().position(|other| other == post).unwrap();
            assert_same(alone, elsewhere[moved].as_ref().unwrap());
        }
    }
}

#[test]
fn the_cache_changes_no_prediction() {
    let folder = open(Precision::Fp32);
    let cached = Classifier::start(
        &folder,
        &ClassifyOptions {
            cache_entries: 100,
            ..uncached()
        },
    )
    .unwrap();
    let posts = ["so happy", "so sad", "so happy", "what now"];
    let first = classify(&cached, &posts);
    assert_eq!(classify(&cached, &posts), first);
    assert_eq!(cached.stats().cached, 4);
}

#[test]
fn posts_on_which_the_session_fails_are_isolated() {
    let classifier = Classifier::start(&open(Precision::Fp32), &uncached()).unwrap();
    let mut posts: Vec<String> = (0..40).map(|n| format!("an ordinary post, number {n}")).collect();
    posts[7] = "beyond the embedding: POISON".to_owned();
    posts[31] = "no number: NANNAN".to_owned();
    let answers = classify(&classifier, &posts);
    let alone = Classifier::start(
        &open(Precision::Fp32),
        &ClassifyOptions {
            max_batch_posts: 1,
            ..uncached()
        },
    )
    .unwrap();
    for (place, answer) in answers.iter().enumerate() {
        match place {
            7 => assert!(matches!(answer, Err(ModelFault::Inference(_))), "{answer:?}"),
            31 => assert!(matches!(answer, Err(ModelFault::NotFinite(_))), "{answer:?}"),
            _ => assert_same(
                answer.as_ref().unwrap(),
                classify(&alone, &[&posts[place]])[0].as_ref().unwrap(),
            ),
        }
    }
    assert!(classify(&classifier, &["still there"])[0].is_ok());
}

#[test]
fn half_precision_is_supported() {
    let full = Classifier::start(&open(Precision::Fp32), &uncached()).unwrap();
    let half = Classifier::start(&open(Precision::Fp16), &uncached()).unwrap();
    let posts = ["so happy", "a longer post about nothing in particular", "!"];
    for (full, half) in classify(&full, &posts).iter().zip(classify(&half, &posts)) {
        for (a, b) in full.as_ref().unwrap().scores.iter().zip(half.unwrap().scores.iter()) {
            assert!((a - b).abs() < 0.02, "{a} and {b}");
        }
    }
}

#[test]
fn long_posts_are_truncated_and_special_tokens_in_posts_are_text() {
    let folder = open(Precision::Fp32);
    let tokenizer = folder.tokenizer();
    // max_position_embeddings is 66, of which RoBERTa uses 64. The 8 in tokenizer.json is ignored.
    assert_eq!(tokenizer.max_tokens(), 64);
    let ids = tokenizer.encode(&"z".repeat(1_000_000)).unwrap();
    assert_eq!((ids.len(), ids[0], ids[63]), (64, 0, 2));
    assert_eq!(tokenizer.encode("</s>").unwrap().len(), 6);
    assert_eq!(tokenizer.encode("").unwrap(), [0, 2]);
}

#[test]
fn an_unavailable_provider_is_an_error() {
    let folder = ModelFolder::open(
        fixture(),
        &ModelOptions {
            provider: Provider::Cuda,
            ..ModelOptions::default()
        },
    )
    .unwrap();
    assert_eq!(folder.info().precision, Precision::Fp16, "auto selects fp16 on a GPU");
    match Classifier::start(&folder, &ClassifyOptions::default()) {
        Err(
            error @ ClassifyError::Provider {
                provider: Provider::Cuda,
                ..
            },
        ) => assert_eq!(error.to_string().lines().count(), 1),
        Err(other) => unreachable!("{other}"),
        // On a machine with a GPU it must work.
        Ok(classifier) => assert!(classify(&classifier, &["hello"])[0].is_ok()),
    }
}

#[test]
fn a_missing_library_is_an_error() {
    let options = ClassifyOptions {
        onnxruntime: Some("/nowhere/libonnxruntime.so".into()),
        ..uncached()
    };
    let error = Classifier::start(&open(Precision::Fp32), &options)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("/nowhere/libonnxruntime.so") && error.contains("ORT_DYLIB_PATH"),
        "{error}"
    );
}

/// Returns a copy of the fixture with one file changed.
fn changed(file: &str, change: impl FnOnce(String) -> String) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json", "model.onnx"] {
        fs::copy(fixture().join(name), copy.path().join(name)).unwrap();
    }
    let path = copy.path().join(file);
    fs::write(&path, change(fs::read_to_string(&path).unwrap_or_default())).unwrap();
    copy
}

/// Returns the error of opening a folder with its causes, as the command line prints it.
pub fn open_error(folder: &Path, options: &ModelOptions) -> String {
    let error = anyhow::Error::from(ModelFolder::open(folder, options).unwrap_err());
    let error = format!("{error:#}");
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

fn refused(folder: &TempDir) -> String {
    open_error(folder.path(), &ModelOptions::default())
}

#[test]
fn errors_in_a_folder_are_reported_in_one_line() {
    let folder = changed("config.json", |text| text.replace("\"problem_type\"", "\"other\""));
    assert!(refused(&folder).contains("a wrong guess would give wrong scores"));
    let given = ModelOptions {
        problem_type: Some(ProblemType::MultiLabelClassification),
        ..ModelOptions::default()
    };
    assert!(ModelFolder::open(folder.path(), &given).is_ok());

    let folder = changed("config.json", |text| {
        text.replace("\"vocab_size\": 263", "\"vocab_size\": 262")
    });
    assert!(refused(&folder).contains("has the id 262, but the model's embedding has 262 rows"));

    let folder = changed("tokenizer.json", |_| "{\"version\": \"1.0\"}".to_owned());
    assert!(refused(&folder).contains("tokenizer.json is not valid: not a readable tokenizer"));

    let folder = changed("moodstream.toml", |_| "fallback = \"calm\"".to_owned());
    assert!(refused(&folder).contains("moodstream.toml is not valid: fallback names \"calm\""));

    for file in ["config.json", "tokenizer.json", "model.onnx"] {
        let folder = changed("unused", |_| String::new());
        fs::remove_file(folder.path().join(file)).unwrap();
        let said = match file {
            "model.onnx" => "no ONNX file",
            file => file,
        };
        assert!(refused(&folder).contains(said), "{}", refused(&folder));
    }
    let absent = ModelFolder::open("/nowhere", &ModelOptions::default()).unwrap_err();
    assert!(absent.to_string().contains("/nowhere is not a directory"));
    let few = ModelFolder::open(
        fixture(),
        &ModelOptions {
            max_tokens: 2,
            ..ModelOptions::default()
        },
    )
    .unwrap_err();
    assert!(few.to_string().contains("at least 3"), "{few}");
}

#[test]
fn a_graph_that_does_not_fit_its_labels_is_an_error() {
    let folder = changed("config.json", |text| {
        text.replace("\"3\": \"sadness\"", "\"3\": \"sadness\", \"4\": \"surprise\"")
    });
    let folder = ModelFolder::open(folder.path(), &ModelOptions::default()).unwrap();
    let error = Classifier::start(&folder, &uncached()).unwrap_err().to_string();
    assert!(error.contains("4 logits") && error.contains("5 labels"), "{error}");

    let damaged = changed("model.onnx", |_| "not an ONNX file".to_owned());
    let damaged = ModelFolder::open(damaged.path(), &ModelOptions::default());
    // The temporary folder has been deleted by now, so loading must fail.
    assert!(Classifier::start(&damaged.unwrap(), &uncached()).is_err());
}

#[test]
fn the_id_changes_with_everything_that_affects_predictions() {
    let id = |folder: &Path, options: &ModelOptions| ModelFolder::open(folder, options).unwrap().info().id.to_string();
    let whole = id(&fixture(), &ModelOptions::default());
    assert!(
        whole.starts_with("tiny-roberta@") && whole.len() == "tiny-roberta@".len() + 8,
        "{whole}"
    );
    assert_eq!(whole, id(&fixture(), &ModelOptions::default()));
    assert_ne!(
        whole,
        id(
            &fixture(),
            &ModelOptions {
                max_tokens: 32,
                ..ModelOptions::default()
            }
        )
    );
    assert_ne!(
        whole,
        id(
            &fixture(),
            &ModelOptions {
                precision: Precision::Fp16,
                ..ModelOptions::default()
            }
        )
    );
    let named = changed("moodstream.toml", |_| "name = \"tiny-roberta\"".to_owned());
    assert_ne!(whole, id(named.path(), &ModelOptions::default()));
}

#[test]
fn the_default_model_distinguishes_joy_from_anger() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/emotion-roberta-6x384");
    let folder = ModelFolder::open(&model, &ModelOptions::default()).unwrap();
    assert_eq!(folder.info().precision, Precision::Int8);
    let classifier = Classifier::start(&folder, &ClassifyOptions::default()).unwrap();
    let answers = classify(
        &classifier,
        &[
            "this is the best day of my life, i am so happy!",
            "i hate this, it makes me furious",
        ],
    );
    let emotions: Vec<&str> = answers
        .iter()
        .map(|answer| &*answer.as_ref().unwrap().emotion)
        .collect();
    assert_eq!(emotions, ["joy", "anger"]);
}

/// Without VNNI, ONNX Runtime's products of unsigned and signed bytes saturate by default, which changed the labels of
/// one post in 65.
#[test]
fn int8_scores_are_close_to_those_of_fp16_on_every_processor() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/emotion-roberta-6x384");
    let openings = [
        "today",
        "honestly",
        "@user",
        "well,",
        "since monday",
        "at work again:",
        "my sister says",
    ];
    let endings = [
        "i can't stop smiling",
        "nothing works and nobody answers, thanks a lot",
        "i am scared of what comes next",
        "i miss him so much it hurts",
        "that smell is disgusting",
        "wow, i did not see that coming",
        "the train leaves at nine from platform four",
        "i love this song, it makes the whole week better",
    ];
    let texts: Vec<String> = openings
        .iter()
        .flat_map(|opening| endings.iter().map(move |ending| format!("{opening} {ending}")))
        .collect();
    let scores = |precision| -> Vec<Prediction> {
        let options = ModelOptions {
            precision,
            ..ModelOptions::default()
        };
        let folder = ModelFolder::open(&model, &options).unwrap();
        let classifier = Classifier::start(&folder, &uncached()).unwrap();
        classify(&classifier, &texts).into_iter().map(Result::unwrap).collect()
    };
    let (int8, fp16) = (scores(Precision::Int8), scores(Precision::Fp16));
    let apart: f64 = int8
        .iter()
        .zip(&fp16)
        .map(|(a, b)| {
            a.scores
                .iter()
                .zip(b.scores.iter())
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f64::max)
        })
        .sum();
    let mean = apart / texts.len() as f64;
    println!("scores differ by {mean:.4} on average");
    assert!(mean < 0.012, "{mean}");
}
