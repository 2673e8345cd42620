//! Labelled sets, read as they were published.
//!
//! [`read`] knows the formats of [`Format`], mends the damage that such files are known for
//! ([`mod@mend`]) and says file and row of what it can't read.

mod formats;
mod label_map;
mod mend;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

pub use label_map::{LabelMap, LabelMapError};
pub use mend::mend;

use crate::files::{self, FileError};

/// What stands before a label of which it is not known whether the text has it.
pub const UNKNOWN: char = '?';

/// Whether a column may name a language: a subtag of two or three letters and maybe others behind it, as in BCP 47. A label
/// that stands there by mistake mostly is longer.
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
    /// The text: mended, in NFC, on one line.
    pub text: String,
    /// The labels in the words of its set, without repeats; none if its set gives none.
    pub labels: Vec<String>,
    /// Labels of which its set doesn't say whether the text has them, without repeats and not among `labels`.
    pub unknown: Vec<String>,
    /// Its language (a tag of BCP 47), where its file or recipe says.
    pub language: Option<Arc<str>>,
    /// Where it stands.
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

/// How a labelled file is written. All may be compressed with zstd (`.zst`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Found from the file's name and first line.
    #[default]
    Auto,
    /// `text<TAB>label[,label][<TAB>language]`, without a header; what `prepare` writes. `?label` stands for one that
    /// the text may have or not.
    Tsv,
    /// `text,label[,label]` in quotes where needed, with or without a header.
    Csv,
    /// One object a line: `text`, and `label` or `labels`.
    Jsonl,
    /// CrowdFlower's "Emotion in Text": CSV `tweet_id,sentiment,author,content`.
    Crowdflower,
    /// GoEmotions: `text<TAB>number[,number]<TAB>comment id`, the numbers lines of `labels.txt`
    /// beside it, from 0.
    Goemotions,
    /// TweetEval: texts in `NAME_text.txt`, numbers in `NAME_labels.txt`, their names in `mapping.txt`.
    Tweeteval,
    /// CARER (dair-ai/emotion): `text;label`.
    Carer,
    /// SemEval-2018 task 1 E-c: TSV with a header and one column of 0 and 1 a label. A text without
    /// any is labelled `neutral`, as the task's page names it "neutral or no emotion".
    SemevalEc,
    /// SemEval-2017 task 4 A: `id<TAB>label<TAB>text`.
    Semeval4a,
    /// NRC Twitter Emotion Corpus: `id:<TAB>text<TAB>:: label`.
    NrcTec,
    /// BRIGHTER: CSV with a header, `id,text` and one column of 0 and 1 an emotion. One whose column is absent or blank
    /// is not known. A text that is known to have none of the six is `neutral`.
    Brighter,
    /// XED: `text<TAB>number[, number]`, 1 to 8 for Plutchik's emotions; in `neu_*`, `9<TAB>text`, which is neutral. Lines
    /// of another form, of which the projections have some, are left out. It looks like any TSV: it has to be named.
    Xed,
}

/// A file that can't be read as labelled text.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// It can't be opened, decompressed or is not UTF-8.
    #[error("{} can't be read", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// It can't be written.
    #[error(transparent)]
    Write(#[from] FileError),
    /// A row does not have the form that its format asks for.
    #[error("{origin}: {detail}")]
    Row {
        /// The row.
        origin: Origin,
        /// What is wrong with it.
        detail: String,
    },
    /// A file of label mappings that can't be followed.
    #[error("{}: {fault}", file.display())]
    LabelMap {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        fault: LabelMapError,
    },
    /// The file as a whole is unfit.
    #[error("{}: {detail}", file.display())]
    Unfit {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
}

/// Reads a labelled file. Texts that are empty once mended are left out.
///
/// # Errors
///
/// [`DataError`] naming the file and, where there is one, the row.
pub fn read(path: &Path, format: Format) -> Result<Vec<Example>, DataError> {
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
        example.text = mend(&example.text);
    }
    examples.retain(|example| !example.text.is_empty());
    if examples.is_empty() {
        return Err(empty(path));
    }
    Ok(examples)
}

/// Writes examples as `text<TAB>label[,label][<TAB>language]`, whole or not at all.
///
/// # Errors
///
/// [`DataError::Row`] for a text or label that this form can't hold, [`DataError::Io`].
pub fn write_tsv<'a>(path: &Path, examples: impl IntoIterator<Item = &'a Example>) -> Result<(), DataError> {
    let mut out = String::new();
    for example in examples {
        let unfit = |detail| {
            Err(DataError::Row {
                origin: example.origin.clone(),
                detail,
            })
        };
        if example.text.contains(['\t', '\n', '\r']) {
            return unfit("the text has tabs or line ends".to_owned());
        }
        if let Some(label) = example
            .labels
            .iter()
            .chain(&example.unknown)
            .find(|label| label.contains([',', '\t', '\n', '\r']) || label.is_empty())
        {
            return unfit(format!("the label `{label}` is empty or has commas, tabs or line ends"));
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
    DataError::Unfit {
        file: path.to_owned(),
        detail: "no labelled text in it".to_owned(),
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
            let detail = "no known form of labelled text: expected `text<TAB>label`; name the format if it is another";
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
