#![allow(clippy::unwrap_used)]

use std::{collections::HashMap, fs};

use proptest::prelude::*;
use safetensors::{Dtype, tensor::TensorView};

use super::*;

/// A model of two labels with the features `so`, `happy` and the characters ` s`.
fn model() -> LinearModel {
    let mut hashes = Vec::new();
    Ngrams::default().each("so happy", |kind, hash| hashes.push((kind, hash)));
    // The first n-gram is the word `so`, the second the characters ` s`. `happy` is the next word after them.
    let words: Vec<u64> = hashes
        .iter()
        .filter(|(kind, _)| *kind == NgramKind::Word)
        .map(|&(_, hash)| hash)
        .collect();
    let characters = hashes.iter().find(|(kind, _)| *kind == NgramKind::Character).unwrap().1;
    let feature = |kind, hash, idf| Feature { kind, hash, idf };
    let vectorizer = Vectorizer::new(vec![
        feature(NgramKind::Word, words[0], 1.0),
        feature(NgramKind::Word, words[1], 2.0),
        feature(NgramKind::Character, characters, 1.5),
    ]);
    LinearModel::new(vectorizer, &[1.0, -1.0, 2.0, 0.5, 0.25, 4.0], vec![0.1, 0.2]).unwrap()
}

fn logits(model: &LinearModel, text: &str) -> Vec<f32> {
    let (mut columns, mut logits) = (Vec::new(), Vec::new());
    model.vectorizer().columns(text, &mut Ngrams::default(), &mut columns);
    model.logits(&columns, &mut Sums::default(), &mut logits);
    logits
}

#[test]
fn logits_are_intercepts_and_weighted_tf_idf() {
    let model = model();
    let near = |found: Vec<f32>, expected: [f32; 2]| {
        let far = found
            .iter()
            .zip(expected)
            .any(|(found, expected)| (found - expected).abs() > 1e-6);
        assert!(!far && found.len() == 2, "{found:?} are not {expected:?}");
    };
    near(logits(&model, "nothing known"), [0.1, 0.2]);
    near(logits(&model, "happy"), [0.1 + 2.0, 0.2 + 0.5]);
    // `so` occurs twice: (1 + ln 2) · 1, next to `happy`'s 2. ` s` is the only character feature, so it is scaled to 1.
    let so = 1.0 + 2.0_f32.ln();
    let length = (so * so + 4.0).sqrt();
    let (so, happy) = (so / length, 2.0 / length);
    near(
        logits(&model, "so so happy"),
        [0.1 + so + 2.0 * happy + 0.25, 0.2 - so + 0.5 * happy + 4.0],
    );
}

#[test]
fn rows_have_the_values_used_for_logits() {
    let (model, mut scratch) = (model(), Scratch::default());
    for text in ["so so happy", "happy", "so", "zzz"] {
        let mut expected = [0.1_f32, 0.2];
        for &(column, value) in model.vectorizer().row(text, &mut scratch) {
            let weights = model.weights_of(column as usize);
            expected
                .iter_mut()
                .zip(weights)
                .for_each(|(sum, weight)| *sum += weight * value);
        }
        for (found, expected) in logits(&model, text).iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{text}");
        }
    }
}

#[test]
fn weights_and_labels_must_match() {
    let vectorizer = || model().vectorizer().clone();
    assert!(LinearModel::new(vectorizer(), &[0.0; 6], vec![0.0; 3]).is_none());
    assert!(LinearModel::new(vectorizer(), &[], Vec::new()).is_none());
}

fn read(bytes: &[u8], labels: usize) -> Result<LinearModel, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE);
    fs::write(&path, bytes).unwrap();
    let read = LinearModel::read(&path, labels);
    read.map(|(model, _)| model)
        .map_err(|error| format!("{:#}", anyhow::Error::from(error)))
}

#[test]
fn a_file_holds_the_model() {
    let model = model();
    assert_eq!(read(&model.to_bytes().unwrap(), 2).unwrap(), model);
}

/// Returns a file with one tensor changed.
fn changed(name: &str, dtype: Dtype, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let bytes = model().to_bytes().unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut views: Vec<(String, TensorView<'_>)> = tensors.tensors();
    views.retain(|(other, _)| other != name);
    if !shape.is_empty() {
        views.push((name.to_owned(), TensorView::new(dtype, shape.to_vec(), data).unwrap()));
    }
    let metadata = HashMap::from([("format".to_owned(), "moodstream-linear-1".to_owned())]);
    safetensors::serialize(views, Some(metadata)).unwrap()
}

#[test]
fn invalid_files_are_refused_in_one_line() {
    let whole = model().to_bytes().unwrap();
    let nan = [1.0, 2.0, f32::NAN].map(f32::to_le_bytes).concat();
    let none = [0.0_f32; 3].map(f32::to_le_bytes).concat();
    let other_format = safetensors::serialize(
        [("weights", TensorView::new(Dtype::U8, vec![1], &[0]).unwrap())],
        Some(HashMap::from([("format".to_owned(), "pt".to_owned())])),
    );
    for (bytes, labels, reason) in [
        (Vec::new(), 2, "not a valid safetensors file"),
        (b"so happy".to_vec(), 2, "not a valid safetensors file"),
        (whole[..whole.len() - 1].to_vec(), 2, "not a valid safetensors file"),
        (
            other_format.unwrap(),
            2,
            "its format is \"pt\", not \"moodstream-linear-1\"",
        ),
        (whole, 3, "`weights` is F32 with the shape [3, 2]"),
        (
            changed("ngrams.hash", Dtype::U8, &[], &[]),
            2,
            "no tensor `ngrams.hash`",
        ),
        (changed("ngrams.hash", Dtype::U64, &[0], &[]), 2, "it has 0 n-grams"),
        (
            changed("ngrams.hash", Dtype::U64, &[3], &[7; 24]),
            2,
            "element 1 of `ngrams.hash`",
        ),
        (changed("ngrams.hash", Dtype::U8, &[3, 1], &[7; 3]), 2, "not [features]"),
        (
            changed("ngrams.kind", Dtype::U8, &[3], &[0, 1, 2]),
            2,
            "element 2 of `ngrams.kind` is 2",
        ),
        (
            changed("ngrams.kind", Dtype::U8, &[2], &[0, 1]),
            2,
            "`ngrams.kind` is U8 with the shape [2]",
        ),
        (
            changed("ngrams.idf", Dtype::F32, &[3], &nan),
            2,
            "element 2 of `ngrams.idf` is NaN",
        ),
        (changed("ngrams.idf", Dtype::F32, &[3], &none), 2, "not above 0"),
        (
            changed("intercepts", Dtype::F64, &[2], &[0; 16]),
            2,
            "`intercepts` is F64",
        ),
    ] {
        let said = read(&bytes, labels).unwrap_err();
        assert!(said.contains(reason) && said.contains(FILE), "{reason}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

proptest! {
    #[test]
    fn no_content_of_a_file_panics(at in any::<prop::sample::Index>(), byte in any::<u8>(), keep in any::<prop::sample::Index>()) {
        let mut bytes = model().to_bytes().unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = read(&bytes, 2).map(|model| logits(&model, "so happy"));
        bytes.truncate(keep.index(bytes.len()));
        prop_assert!(read(&bytes, 2).is_err());
    }

    /// A word of `n` letters has at most `4 n` n-grams.
    #[test]
    fn n_grams_are_bounded_by_the_text_s_length(text in "[ab é]{0,40}") {
        let mut count = 0;
        Ngrams::default().each(&text, |_, _| count += 1);
        prop_assert!(count <= 4 * text.len());
    }
}
