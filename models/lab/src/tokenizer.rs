//! A checkpoint's `tokenizer.json`, read as the service reads it.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use moodstream::model::Subwords;
use serde_json::Value;

/// Reads `tokenizer.json` in a folder.
///
/// # Errors
///
/// When the file is absent or not a tokenizer that the library supports.
pub fn read(folder: &Path) -> Result<Subwords> {
    let path = folder.join("tokenizer.json");
    let text = fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
    parse(&text).with_context(|| format!("{}: not a supported tokenizer", path.display()))
}

/// Parses the content of a `tokenizer.json`.
///
/// # Errors
///
/// When it is not JSON or not a tokenizer that the library supports.
pub fn parse(text: &str) -> Result<Subwords> {
    let mut json: Value = serde_json::from_str(text)?;
    Ok(Subwords::from_json(&mut json)?)
}

/// Copies the tokenizer's files from one checkpoint folder to another.
///
/// # Errors
///
/// When one can't be copied; `tokenizer_config.json` may be absent.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        let from = from.join(file);
        if from.exists() {
            fs::copy(&from, to.join(file)).with_context(|| format!("can't copy {}", from.display()))?;
        }
    }
    Ok(())
}
