#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::timeout;

use super::*;
use crate::model::ModelOptions;

/// The token ids of two words in the fixture that make the model fail.
const NAN: i64 = 261;
const POISON: i64 = 262;

type Rows = Vec<Vec<i64>>;

/// A fake session that applies a function to the texts of a batch.
struct FakeSession<F>(F);

impl<F: FnMut(&Rows) -> Result<(), &'static str> + Send> Backend for FakeSession<F> {
    fn run(&mut self, batch: &backend::Padded, logits: &mut Vec<f32>) -> Result<(), error::BackendError> {
        let rows: Rows = (0..batch.rows)
            .map(|row| {
                let cells = row * batch.columns..(row + 1) * batch.columns;
                batch.ids[cells.clone()]
                    .iter()
                    .zip(&batch.mask[cells])
                    .filter(|(_, mask)| **mask == 1)
                    .map(|(id, _)| *id)
                    .collect()
            })
            .collect();
        (self.0)(&rows).map_err(|reason| error::BackendError::Runtime(ort::Error::new(reason)))?;
        for row in rows {
            if row.contains(&NAN) {
                logits.extend([f32::NAN; 4]);
            } else {
                // Depends only on this text, and differs between texts.
                let sum = row
                    .iter()
                    .enumerate()
                    .map(|(place, id)| (place as i64 + 1) * id)
                    .sum::<i64>();
                logits.extend([
                    0.0,
                    (sum % 97) as f32 / 10.0,
                    row.len() as f32 / 10.0,
                    (sum % 89) as f32 / 10.0,
                ]);
            }
        }
        Ok(())
    }
}

fn folder() -> ModelFolder {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-roberta");
    ModelFolder::open(
        path,
        &ModelOptions {
            max_tokens: 64,
            ..ModelOptions::default()
        },
    )
    .unwrap()
}

fn options() -> ClassifyOptions {
    ClassifyOptions {
        sessions: 1,
        ..ClassifyOptions::default()
    }
}

fn start<F: FnMut(&Rows) -> Result<(), &'static str> + Send + 'static>(
    options: &ClassifyOptions,
    sessions: Vec<F>,
) -> Classifier {
    let folder = folder();
    let options = options.resolved(folder.info().provider);
    Classifier::with_backends(&folder, &options, sessions.into_iter().map(FakeSession).collect()).unwrap()
}

fn texts(texts: &[&str]) -> Vec<Arc<str>> {
    texts.iter().map(|text| Arc::from(*text)).collect()
}

async fn classify(classifier: &Classifier, window: &[&str]) -> Vec<Result<Prediction, ModelFault>> {
    timeout(Duration::from_secs(20), classifier.classify(texts(window)))
        .await
        .unwrap()
}

fn is_probe(rows: &Rows) -> bool {
    let probe = folder().tokenizer().encode("good morning").unwrap();
    rows.len() == 1 && rows[0].iter().map(|&id| id as u32).eq(probe)
}

#[tokio::test]
async fn answers_are_in_the_order_of_the_texts() {
    let classifier = start(
        &ClassifyOptions {
            sessions: 3,
            max_batch_posts: 4,
            ..options()
        },
        vec![|_: &Rows| Ok(()); 3],
    );
    let window: Vec<String> = (0..200).map(|n| format!("{n} {}", "x".repeat(n * 7 % 40))).collect();
    let window: Vec<&str> = window.iter().map(String::as_str).collect();
    let together = classify(&classifier, &window).await;
    let alone = start(
        &ClassifyOptions {
            max_batch_posts: 1,
            ..options()
        },
        vec![|_: &Rows| Ok(())],
    );
    for (text, answer) in window.iter().zip(together) {
        assert_eq!(classify(&alone, &[text]).await[0], answer);
    }
    assert_eq!(classifier.stats().texts, 200);
}

#[test]
fn answers_are_complete_when_the_last_hold_is_dropped() {
    let (answers, mut complete) = cache::Answers::new(1, None);
    let held = answers.hold();
    answers.set(0, Err(ModelFault::Stopped("tested".into())));
    assert!(complete.try_recv().is_err());
    drop(held);
    assert_eq!(complete.try_recv().map(|answers| answers.len()), Ok(1));
}

#[tokio::test]
async fn equal_texts_are_computed_once() {
    let computed = Arc::new(AtomicUsize::new(0));
    let session = {
        let computed = Arc::clone(&computed);
        move |rows: &Rows| {
            if !is_probe(rows) {
                computed.fetch_add(rows.len(), Ordering::Relaxed);
            }
            Ok(())
        }
    };
    let classifier = start(&options(), vec![session]);
    let answers = classify(&classifier, &["one", "two", "one", "one"]).await;
    assert_eq!(answers[0], answers[2]);
    assert_ne!(answers[0], answers[1]);
    assert_eq!(computed.load(Ordering::Relaxed), 2);
    assert_eq!(classify(&classifier, &["two", "one"]).await[1], answers[0]);
    assert_eq!(
        computed.load(Ordering::Relaxed),
        2,
        "the second window is answered from the cache"
    );
    let stats = classifier.stats();
    assert_eq!((stats.texts, stats.repeated, stats.cached, stats.batches), (6, 2, 2, 1));
}

/// Returns a session that reports each batch it starts, and then waits until it is released.
fn gated() -> (
    impl FnMut(&Rows) -> Result<(), &'static str> + Send + 'static,
    mpsc::Sender<()>,
    mpsc::Receiver<Rows>,
) {
    let (go, gate) = mpsc::channel();
    let (begun, seen) = mpsc::channel();
    let session = move |rows: &Rows| {
        if !is_probe(rows) {
            begun.send(rows.clone()).ok();
            gate.recv().ok();
        }
        Ok(())
    };
    (session, go, seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_in_flight_is_not_computed_again() {
    let (session, go, begun) = gated();
    let classifier = Arc::new(start(
        &ClassifyOptions {
            cache_entries: 0,
            ..options()
        },
        vec![session],
    ));
    let window = |text: &'static str| {
        let classifier = Arc::clone(&classifier);
        tokio::spawn(async move { classify(&classifier, &[text]).await })
    };
    let first = window("same");
    begun.recv().unwrap();
    let second = window("same");
    while classifier.stats().repeated == 0 {
        tokio::task::yield_now().await;
    }
    go.send(()).unwrap();
    assert_eq!(first.await.unwrap(), second.await.unwrap());
    assert_eq!(classifier.stats().batches, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_are_limited_and_run_in_order() {
    let (session, go, begun) = gated();
    let classifier = Arc::new(start(
        &ClassifyOptions {
            max_windows: 2,
            max_batch_posts: 1,
            ..options()
        },
        vec![session],
    ));
    let mut windows = Vec::new();
    for text in ["a", "bb", "ccc"] {
        let mut window = Box::pin({
            let classifier = Arc::clone(&classifier);
            async move { classifier.classify(texts(&[text])).await }
        });
        // The first poll submits the window, or waits for a permit.
        assert!(futures::poll!(&mut window).is_pending());
        windows.push(window);
    }
    assert_eq!(begun.recv().unwrap()[0].len(), 3, "<s> a </s>");
    while classifier.stats().texts < 2 {
        tokio::task::yield_now().await;
    }
    assert!(begun.try_recv().is_err());
    go.send(()).unwrap();
    assert_eq!(begun.recv().unwrap()[0].len(), 4);
    assert_eq!(classifier.stats().texts, 2, "the third one waits");
    go.send(()).unwrap();
    go.send(()).unwrap();
    for window in windows {
        assert!(timeout(Duration::from_secs(20), window).await.unwrap()[0].is_ok());
    }
    assert_eq!(classifier.stats().texts, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_caller_does_not_affect_the_others() {
    let (session, go, begun) = gated();
    let classifier = Arc::new(start(
        &ClassifyOptions {
            max_windows: 2,
            ..options()
        },
        vec![session],
    ));
    let mut gone = Box::pin(classifier.classify(texts(&["same", "other"])));
    assert!(futures::poll!(&mut gone).is_pending());
    begun.recv().unwrap();
    let stays = tokio::spawn({
        let classifier = Arc::clone(&classifier);
        async move { classify(&classifier, &["same"]).await }
    });
    while classifier.stats().repeated == 0 {
        tokio::task::yield_now().await;
    }
    drop(gone);
    go.send(()).unwrap();
    assert!(stays.await.unwrap()[0].is_ok());
    // Its permit is available again.
    for _ in 0..4 {
        assert!(classify(&classifier, &["other"]).await[0].is_ok());
    }
    assert_eq!(classifier.stats().batches, 1);
}

#[tokio::test]
async fn a_failing_text_is_isolated_and_the_others_are_classified() {
    let runs = Arc::new(AtomicUsize::new(0));
    let session = {
        let runs = Arc::clone(&runs);
        move |rows: &Rows| {
            runs.fetch_add(1, Ordering::Relaxed);
            if rows.iter().flatten().any(|&id| id == POISON) {
                Err("out of range")
            } else {
                Ok(())
            }
        }
    };
    let classifier = start(
        &ClassifyOptions {
            max_batch_posts: 64,
            ..options()
        },
        vec![session],
    );
    let mut window: Vec<String> = (0..64).map(|n| format!("text {n}")).collect();
    window[13] = "some POISON here".to_owned();
    window[40] = "some NANNAN here".to_owned();
    let window: Vec<&str> = window.iter().map(String::as_str).collect();
    let answers = classify(&classifier, &window).await;
    for (place, answer) in answers.iter().enumerate() {
        match place {
            13 => assert!(matches!(answer, Err(fault @ ModelFault::Inference(_)) if fault.is_of_the_text())),
            40 => assert!(matches!(answer, Err(fault @ ModelFault::NotFinite(_)) if fault.is_of_the_text())),
            _ => assert!(answer.is_ok(), "{place}: {answer:?}"),
        }
    }
    assert_eq!(classifier.stats().faults, 2);
    // Two paths down a tree of 64 leaves, each followed by a probe, and the probe at startup.
    assert!(runs.load(Ordering::Relaxed) <= 2 * 2 * 7 + 3);
    // A fault is not cached.
    assert!(classify(&classifier, &["some POISON here"]).await[0].is_err());
    assert_eq!(classifier.stats().cached, 0);
}

#[tokio::test]
async fn a_session_that_fails_on_every_text_stops_the_classifier() {
    let healthy = Arc::new(Mutex::new(true));
    let session = {
        let healthy = Arc::clone(&healthy);
        move |_: &Rows| {
            if *healthy.lock().unwrap() {
                Ok(())
            } else {
                Err("device lost")
            }
        }
    };
    let classifier = start(
        &ClassifyOptions {
            max_batch_posts: 4,
            ..options()
        },
        vec![session],
    );
    assert!(classify(&classifier, &["before"]).await[0].is_ok());
    *healthy.lock().unwrap() = false;
    for _ in 0..2 {
        for answer in classify(&classifier, &["a", "b", "c", "d", "e", "f"]).await {
            let fault = answer.unwrap_err();
            assert!(!fault.is_of_the_text());
            assert!(fault.to_string().contains("device lost"), "{fault}");
        }
    }
    assert_eq!(classifier.stats().faults, 0);
}

#[tokio::test]
async fn a_thread_that_panics_stops_the_classifier() {
    let session = |rows: &Rows| {
        if is_probe(rows) {
            Ok(())
        } else {
            panic!("as a test wants")
        }
    };
    let classifier = start(
        &ClassifyOptions {
            max_batch_posts: 1,
            ..options()
        },
        vec![session],
    );
    for _ in 0..2 {
        for answer in classify(&classifier, &["a", "b", "c"]).await {
            assert!(matches!(answer, Err(ModelFault::Stopped(_))), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn batches_respect_their_limits() {
    let session = |rows: &Rows| {
        let columns = rows.iter().map(Vec::len).max().unwrap();
        assert!(rows.len() <= 5 && rows.len() * columns <= 100);
        Ok(())
    };
    let classifier = start(
        &ClassifyOptions {
            max_batch_posts: 5,
            max_batch_tokens: 100,
            ..options()
        },
        vec![session],
    );
    let window: Vec<String> = (0..100).map(|n| "y".repeat(n % 70 + 1) + &n.to_string()).collect();
    let window: Vec<&str> = window.iter().map(String::as_str).collect();
    assert!(classify(&classifier, &window).await.iter().all(Result::is_ok));
}

#[test]
fn limits_too_small_for_a_text_are_refused() {
    let options = ClassifyOptions {
        max_batch_tokens: 32,
        ..options()
    };
    let error = Classifier::start_without_inference(&folder(), &options).unwrap_err();
    assert!(error.to_string().contains("`max_batch_tokens` is 32"), "{error}");
}

#[tokio::test]
async fn a_constant_classifier_needs_no_model() {
    let constant = Classifier::constant(folder().info().clone());
    let answers = classify(&constant, &["a", "b"]).await;
    assert_eq!(&*answers[1].as_ref().unwrap().emotion, "anger");
    let empty = Classifier::start_without_inference(&folder(), &options()).unwrap();
    assert_eq!(classify(&empty, &["a", "b"]).await[0].as_ref().unwrap().score, 0.25);
    assert!(classify(&empty, &[]).await.is_empty());
}
