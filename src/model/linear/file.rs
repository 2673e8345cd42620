//! `linear.safetensors`: the features and weights of a linear model.
//!
//! The file is in the [safetensors](https://github.com/huggingface/safetensors) format. Its tensors have one row per feature:
//!
//! | tensor | type | shape | content |
//! |---|---|---|---|
//! | `ngrams.hash` | `U64` | features | the XXH3 hash of the n-gram's UTF-8 bytes, seeded by its kind ([`NgramKind`]); unique |
//! | `ngrams.kind` | `U8` | features | 0 for words, 1 for characters |
//! | `ngrams.idf` | `F32` | features | the inverse document frequency, above 0 |
//! | `weights` | `F32` | features, labels | the weights, with the labels in the order of `config.json` |
//! | `intercepts` | `F32` | labels | |
//!
//! The metadata must contain `"format": "moodstream-linear-1"`. A change to how n-grams are made requires a new format.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::Path,
};

use safetensors::{Dtype, SafeTensorError, SafeTensors, tensor::TensorView};

use super::{Feature, LinearModel, NgramKind, Vectorizer};
use crate::model::{
    ModelError,
    error::LinearFileError,
    files::{check_fetched, read},
};

const FORMAT: &str = "moodstream-linear-1";
/// The maximum file size in bytes, enough for a million features of 200 labels.
const MAX_BYTES: u64 = 1 << 30;

impl LinearModel {
    /// Reads the weights file of a model with `labels` labels. Also returns the file's bytes.
    pub(in crate::model) fn read(path: &Path, labels: usize) -> Result<(Self, Vec<u8>), ModelError> {
        let invalid = ModelError::invalid(path);
        check_fetched(path)?;
        if let Ok(bytes) = fs::metadata(path).map(|data| data.len())
            && bytes > MAX_BYTES
        {
            return Err(invalid(LinearFileError::TooLarge { bytes, max: MAX_BYTES }));
        }
        let bytes = read(path)?;
        let model = Self::parse(&bytes, labels).map_err(invalid)?;
        Ok((model, bytes))
    }

    /// Parses the content of a weights file.
    fn parse(bytes: &[u8], labels: usize) -> Result<Self, LinearFileError> {
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let format = header.metadata().as_ref().and_then(|metadata| metadata.get("format"));
        if format.is_none_or(|format| format != FORMAT) {
            return Err(LinearFileError::Format {
                found: format.cloned(),
                expected: FORMAT,
            });
        }
        let tensors = SafeTensors::deserialize(bytes)?;
        let hashes = tensors
            .tensor("ngrams.hash")
            .map_err(|_| LinearFileError::NoTensor("ngrams.hash"))?;
        let &[features] = hashes.shape() else {
            return Err(LinearFileError::HashShape(hashes.shape().to_vec()));
        };
        if u32::try_from(features).is_err() || features == 0 {
            return Err(LinearFileError::Ngrams(features));
        }
        let hashes = numbers(&tensors, "ngrams.hash", Dtype::U64, &[features], u64::from_le_bytes)?;
        let kinds = numbers(&tensors, "ngrams.kind", Dtype::U8, &[features], u8::from_le_bytes)?;
        let idf = numbers(&tensors, "ngrams.idf", Dtype::F32, &[features], f32::from_le_bytes)?;
        let weights = numbers(&tensors, "weights", Dtype::F32, &[features, labels], f32::from_le_bytes)?;
        let intercepts = numbers(&tensors, "intercepts", Dtype::F32, &[labels], f32::from_le_bytes)?;
        for (name, numbers) in [("ngrams.idf", &idf), ("weights", &weights), ("intercepts", &intercepts)] {
            if let Some(at) = numbers.iter().position(|number| !number.is_finite()) {
                return Err(LinearFileError::NotFinite {
                    name,
                    at,
                    value: numbers[at],
                });
            }
        }
        if let Some(at) = idf.iter().position(|&idf| idf <= 0.0) {
            return Err(LinearFileError::Idf { at, value: idf[at] });
        }
        let mut seen = HashSet::with_capacity(features);
        if let Some(at) = hashes.iter().position(|hash| !seen.insert(hash)) {
            return Err(LinearFileError::RepeatedNgram(at));
        }
        let features = hashes.into_iter().zip(kinds).zip(idf).enumerate();
        let features = features
            .map(|(at, ((hash, kind), idf))| {
                let known = NgramKind::ALL.get(usize::from(kind));
                let &kind = known.ok_or(LinearFileError::Kind { at, kind })?;
                Ok(Feature { kind, hash, idf })
            })
            .collect::<Result<Vec<_>, LinearFileError>>()?;
        Self::new(Vectorizer::new(features), &weights, intercepts).ok_or(LinearFileError::NoLabels)
    }

    /// Serializes the model as the content of a weights file.
    ///
    /// # Errors
    /// Returns an error if the result would exceed the format's limits.
    pub fn to_bytes(&self) -> Result<Vec<u8>, SafeTensorError> {
        let features = self.vectorizer.features();
        let (rows, labels) = (features.len(), self.labels);
        let bytes =
            |numbers: &mut dyn Iterator<Item = f32>| -> Vec<u8> { numbers.flat_map(f32::to_le_bytes).collect() };
        let hashes: Vec<u8> = features.iter().flat_map(|feature| feature.hash.to_le_bytes()).collect();
        let kinds: Vec<u8> = features.iter().map(|feature| feature.kind as u8).collect();
        let idf = bytes(&mut features.iter().map(|feature| feature.idf));
        let weights = bytes(&mut (0..rows).flat_map(|row| self.weights_of(row).iter().copied()));
        let intercepts = bytes(&mut self.intercepts.iter().copied());
        let tensors = [
            ("ngrams.hash", TensorView::new(Dtype::U64, vec![rows], &hashes)?),
            ("ngrams.kind", TensorView::new(Dtype::U8, vec![rows], &kinds)?),
            ("ngrams.idf", TensorView::new(Dtype::F32, vec![rows], &idf)?),
            ("weights", TensorView::new(Dtype::F32, vec![rows, labels], &weights)?),
            ("intercepts", TensorView::new(Dtype::F32, vec![labels], &intercepts)?),
        ];
        let metadata = HashMap::from([("format".to_owned(), FORMAT.to_owned())]);
        safetensors::serialize(tensors, Some(metadata))
    }
}

/// Returns the elements of a tensor, checking its type and shape.
fn numbers<const BYTES: usize, N>(
    tensors: &SafeTensors<'_>,
    name: &'static str,
    dtype: Dtype,
    shape: &[usize],
    number: fn([u8; BYTES]) -> N,
) -> Result<Vec<N>, LinearFileError> {
    let tensor = tensors.tensor(name).map_err(|_| LinearFileError::NoTensor(name))?;
    if tensor.dtype() != dtype || tensor.shape() != shape {
        return Err(LinearFileError::Tensor {
            name,
            found: tensor.dtype(),
            shape: tensor.shape().to_vec(),
            expected: dtype,
            expected_shape: shape.to_vec(),
        });
    }
    Ok(tensor.data().as_chunks().0.iter().map(|&bytes| number(bytes)).collect())
}
