//! The checkpoint's tokenizer, and the texts for calibrating int8.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use moodstream::clean::Profile;
use moodstream::model::{Subwords, largest_id};
use serde_json::Value;

use super::classifier::Classifier;
use super::error::ExportError;

/// The longest text in tokens, as in the service's defaults.
const MAX_TOKENS: usize = 128;

/// The texts of a calibration file in two disjoint parts.
#[derive(Debug)]
pub(crate) struct CalibrationTexts {
    pub(crate) calibration: Vec<Arc<str>>,
    pub(crate) held_out: Vec<Arc<str>>,
}

impl CalibrationTexts {
    /// Reads at most `count` texts for each part, evenly from the whole file. A line's first column is its text. Texts are
    /// cleaned, and duplicates are dropped after that.
    pub(crate) fn read(path: &Path, count: usize, profile: Profile) -> Result<Self, ExportError> {
        let lines = read_lines(path, profile).map_err(|source| ExportError::Read {
            path: path.to_owned(),
            source,
        })?;
        if lines.len() < 2 || count == 0 {
            let why = "has too few texts for calibration, which needs hundreds".to_owned();
            return Err(ExportError::Invalid {
                path: path.to_owned(),
                why,
            });
        }
        let stride = (lines.len() / count.saturating_mul(2)).max(1);
        let mut taken = lines.into_iter().step_by(stride).map(Arc::from);
        let (mut calibration, mut held_out) = (Vec::new(), Vec::new());
        while let (Some(one), Some(other)) = (taken.next(), taken.next()) {
            if calibration.len() == count {
                break;
            }
            calibration.push(one);
            held_out.push(other);
        }
        Ok(Self { calibration, held_out })
    }
}

/// A tokenizer that was checked against its model.
pub(crate) struct CheckpointTokenizer {
    tokenizer: Subwords,
    path: PathBuf,
    max_tokens: usize,
}

impl CheckpointTokenizer {
    /// Reads `tokenizer.json` of the folder `checkpoint` and checks that it agrees with `model`.
    pub(crate) fn open(checkpoint: &Path, model: &Classifier) -> Result<Self, ExportError> {
        let path = checkpoint.join("tokenizer.json");
        let bytes = std::fs::read(&path).map_err(|source| ExportError::Read {
            path: path.clone(),
            source,
        })?;
        let invalid = |why: String| ExportError::Invalid {
            path: path.clone(),
            why,
        };
        let mut json: Value = serde_json::from_slice(&bytes).map_err(|error| invalid(format!("not JSON: {error}")))?;
        if let Some(largest) = largest_id(&json).filter(|&id| id >= model.vocabulary() as u64) {
            return Err(invalid(format!(
                "its largest id is {largest}, but the model's word embeddings have {} rows: it is another model's tokenizer",
                model.vocabulary()
            )));
        }
        if let Some(pad) = json
            .pointer("/padding/pad_id")
            .and_then(Value::as_i64)
            .filter(|&pad| pad != model.pad_token_id)
        {
            return Err(invalid(format!(
                "it pads with id {pad}, but config.json says pad_token_id {}",
                model.pad_token_id
            )));
        }
        let tokenizer =
            Subwords::from_json(&mut json).map_err(|error| invalid(format!("not a supported tokenizer: {error}")))?;
        Ok(Self {
            tokenizer,
            path,
            max_tokens: model.max_tokens().min(MAX_TOKENS),
        })
    }

    /// The ids of each text.
    pub(crate) fn encode_all(&self, texts: &[Arc<str>]) -> Result<Vec<Vec<u32>>, ExportError> {
        texts.iter().map(|text| self.encode(text)).collect()
    }

    /// The ids of one text with special tokens, truncated to what the model supports.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, ExportError> {
        self.tokenizer
            .encode(text, self.max_tokens)
            .map_err(|error| ExportError::Invalid {
                path: self.path.clone(),
                why: error.to_string(),
            })
    }
}

/// The cleaned, distinct texts of a file: the first column of each line that is not empty.
fn read_lines(path: &Path, profile: Profile) -> std::io::Result<Vec<String>> {
    let file = File::open(path)?;
    let reader: Box<dyn Read> = match path.extension() {
        Some(extension) if extension == "zst" => Box::new(zstd::Decoder::new(file)?),
        _ => Box::new(file),
    };
    let (mut lines, mut seen) = (Vec::new(), HashSet::new());
    for line in BufReader::new(reader).split(b'\n') {
        let line = line?;
        let text = String::from_utf8_lossy(&line);
        let text = profile.clean(text.split('\t').next().unwrap_or_default().trim());
        if !text.is_empty() && seen.insert(text.clone()) {
            lines.push(text);
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn calibration_texts_are_cleaned_and_distinct() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("posts.tsv");
        let posts =
            "@ann thanks https://a.example/1\tjoy\n@bob thanks https://b.example/2\tjoy\n\tjoy\nso sad\tsadness\n";
        std::fs::write(&path, posts).unwrap();
        let texts = |profile| {
            let texts = CalibrationTexts::read(&path, 512, profile).unwrap();
            [texts.calibration, texts.held_out].concat()
        };
        assert_eq!(
            texts(Profile::TwitterRoberta),
            ["@user thanks http".into(), Arc::from("so sad")]
        );
        assert_eq!(texts(Profile::Classical), ["thank".into(), Arc::from("sad")]);
    }
}
