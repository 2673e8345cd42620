//! Reads labelled sets in their published formats.
//!
//! [`read`] supports the formats of [`Format`], repairs the known damage of such files ([`mod@repair`]), and names file and row
//! in its errors.

mod formats;
mod label_map;
mod repair;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

pub use label_map::{LabelMap, LabelMapError};
pub use repair::repair;

use crate::files::{self, FileError};

/// The prefix of a label of which it is not known whether the text has it.
pub const UNKNOWN: char = '?';

/// Whether a column can be a language: a subtag of two or three letters, optionally followed by others, as in BCP 47. A
/// label in this column by mistake is usually longer.
#[must_use]
pub fn is_language(tag: &str) -> bool {
    let mut subtags = tag.split('-');
    let first = subtags.next().unwrap_or_default();
    (2..=3).contains(&first.len())
        && first.bytes().all(|byte| byte.is_ascii_lowercase())
        && subtags.all(|one| (2..=8).contains(&one.len()) && one.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

/// A text and its labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// The text: repaired, in NFC, on one line.
    pub text: String,
    /// The labels as its set names them, without repeats; may be empty.
    pub labels: Vec<String>,
    /// Labels of which it is not known whether the text has them, without repeats and not among `labels`.
    pub unknown: Vec<String>,
    /// Its language (a BCP 47 tag), if the file or recipe has one.
    pub language: Option<Arc<str>>,
    /// Its place in the file.
    pub origin: Origin,
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The file.
    pub file: Arc<Path>,
    /// The line, from 1.
    pub row: u64,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.row)
    }
}

/// The format of a labelled file. All may be compressed with zstd (`.zst`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Detected from the file's name and first line.
    #[default]
    Auto,
    /// `text<TAB>label[,label][<TAB>language]`, without a header; `prepare` writes it. `?label` is a label that the
    /// text may or may not have.
    Tsv,
    /// `text,label[,label]`, quoted where needed, with or without a header.
    Csv,
    /// One object per line: `text`, and `label` or `labels`.
    Jsonl,
    /// CrowdFlower's "Emotion in Text": CSV `tweet_id,sentiment,author,content`.
    Crowdflower,
    /// GoEmotions: `text<TAB>number[,number]<TAB>comment id`, where the numbers are lines of
    /// `labels.txt` in the same folder, from 0.
    Goemotions,
    /// TweetEval: texts in `NAME_text.txt`, numbers in `NAME_labels.txt`, their names in `mapping.txt`.
    Tweeteval,
    /// CARER (dair-ai/emotion): `text;label`.
    Carer,
    /// SemEval-2018 task 1 E-c: TSV with a header and a column of 0 and 1 for each label. A text without labels is `neutral`:
    /// the task's page calls it "neutral or no emotion".
    SemevalEc,
    /// SemEval-2017 task 4 A: `id<TAB>label<TAB>text`.
    Semeval4a,
    /// NRC Twitter Emotion Corpus: `id:<TAB>text<TAB>:: label`.
    NrcTec,
    /// BRIGHTER: CSV with a header, `id,text` and a column of 0 and 1 for each emotion. An emotion whose column is absent or
    /// blank is unknown. A text with 0 for all six is `neutral`.
    Brighter,
    /// XED: `text<TAB>number[, number]`, 1 to 8 for Plutchik's emotions; in `neu_*`, `9<TAB>text`, which is neutral. Lines
    /// of another form, which the projections have, are left out. It looks like other TSV, so it is not detected.
    Xed,
}

/// A file that can't be read as labelled text.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// It can't be opened or decompressed.
    #[error("{} can't be read", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// It can't be written.
    #[error(transparent)]
    Write(#[from] FileError),
    /// A row is not in the file's format.
    #[error("{origin}: {detail}")]
    Row {
        /// The row.
        origin: Origin,
        /// What is wrong with it.
        detail: String,
    },
    /// A file of label mappings is not valid.
    #[error("{}: {fault}", file.display())]
    LabelMap {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        fault: LabelMapError,
    },
    /// The file as a whole is not valid.
    #[error("{}: {detail}", file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
}

/// Reads a labelled file. Texts that are empty after repair are left out.
///
/// # Errors
///
/// [`DataError`] naming the file and, where there is one, the row.
pub fn read(path: &Path, format: Format) -> Result<Vec<Example>, DataError> {
    let mut examples = read_rows(path, format)?;
    examples.retain(|example| !example.text.is_empty());
    if examples.is_empty() {
        return Err(empty(path));
    }
    Ok(examples)
}

/// Like [`read`], with the texts that are empty after repair, for callers that count them.
///
/// # Errors
///
/// As [`read`].
pub fn read_rows(path: &Path, format: Format) -> Result<Vec<Example>, DataError> {
    let content = read_text(path)?;
    if content.trim().is_empty() {
        return Err(empty(path));
    }
    let format = match format {
        Format::Auto => detect(path, &content)?,
        format => format,
    };
    let mut examples = formats::parse(path, &content, format)?;
    for example in &mut examples {
        example.text = repair(&example.text);
    }
    if examples.is_empty() {
        return Err(empty(path));
    }
    Ok(examples)
}

/// Writes examples as `text<TAB>label[,label][<TAB>language]`, atomically.
///
/// # Errors
///
/// [`DataError::Row`] for a text or label that this format can't represent, [`DataError::Write`].
pub fn write_tsv<'a>(path: &Path, examples: impl IntoIterator<Item = &'a Example>) -> Result<(), DataError> {
    let mut out = String::new();
    for example in examples {
        let invalid = |detail| {
            Err(DataError::Row {
                origin: example.origin.clone(),
                detail,
            })
        };
        if example.text.contains(['\t', '\n', '\r']) {
            return invalid("the text has tabs or line ends".to_owned());
        }
        if let Some(label) = example
            .labels
            .iter()
            .chain(&example.unknown)
            .find(|label| label.contains([',', '\t', '\n', '\r']) || label.is_empty())
        {
            return invalid(format!("the label `{label}` is empty or has commas, tabs or line ends"));
        }
        out.push_str(&example.text);
        out.push('\t');
        let unknown = example.unknown.iter().map(|label| format!("{UNKNOWN}{label}"));
        out.push_str(
            &example
                .labels
                .iter()
                .cloned()
                .chain(unknown)
                .collect::<Vec<_>>()
                .join(","),
        );
        if let Some(language) = &example.language {
            out.push('\t');
            out.push_str(language);
        }
        out.push('\n');
    }
    Ok(files::write(path, out.as_bytes())?)
}

fn empty(path: &Path) -> DataError {
    DataError::Invalid {
        file: path.to_owned(),
        detail: "no labelled text".to_owned(),
    }
}

fn read_text(path: &Path) -> Result<String, DataError> {
    let fail = |source| DataError::Io {
        file: path.to_owned(),
        source,
    };
    let bytes = fs::read(path).map_err(fail)?;
    let bytes = match path.extension().is_some_and(|extension| extension == "zst") {
        true => zstd::decode_all(bytes.as_slice()).map_err(fail)?,
        false => bytes,
    };
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text.strip_prefix('\u{FEFF}').map(str::to_owned).unwrap_or(text)),
        Err(error) => {
            let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let row = 1 + valid.iter().filter(|&&b| b == b'\n').count() as u64;
            let origin = Origin { file: path.into(), row };
            Err(DataError::Row {
                origin,
                detail: "not UTF-8: convert the file first".to_owned(),
            })
        }
    }
}

fn detect(path: &Path, content: &str) -> Result<Format, DataError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(".zst").unwrap_or(&name);
    let line = content.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let fields: Vec<&str> = line.trim_end_matches('\t').split('\t').collect();
    let digits = |field: &str| !field.is_empty() && field.bytes().all(|b| b.is_ascii_digit());
    let format = match fields.as_slice() {
        _ if name.ends_with("_text.txt") => Format::Tweeteval,
        _ if name.ends_with(".jsonl") || name.ends_with(".json") || line.starts_with('{') => Format::Jsonl,
        _ if line.starts_with("tweet_id,") => Format::Crowdflower,
        _ if line.starts_with("id,text,") => Format::Brighter,
        _ if name.ends_with(".csv") => Format::Csv,
        ["ID", "Tweet", ..] => Format::SemevalEc,
        [id, _, label] if id.strip_suffix(':').is_some_and(digits) && label.starts_with("::") => Format::NrcTec,
        [id, _, _] if digits(id) => Format::Semeval4a,
        [_, numbers, _] if numbers.split(',').all(digits) => Format::Goemotions,
        [_, _] | [_, _, _] => Format::Tsv,
        [line] if line.contains(';') => Format::Carer,
        _ => {
            let detail =
                "unknown format of labelled text: expected `text<TAB>label`; for another format, give its name";
            return Err(DataError::Row {
                origin: Origin {
                    file: path.into(),
                    row: 1,
                },
                detail: detail.to_owned(),
            });
        }
    };
    Ok(format)
}

#[cfg(test)]
mod tests;
