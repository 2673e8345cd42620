//! Reads and tokenises labelled text, and makes batches.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, bail, ensure};
use moodstream::{clean::Profile, model::Subwords};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};

use crate::data::{UNKNOWN, is_language};

/// One labelled post.
#[derive(Debug, Clone)]
pub(super) struct Example {
    pub(super) ids: Vec<u32>,
    /// Its classes, each once and in rising order.
    pub(super) labels: Vec<usize>,
    /// Classes of which it is not known whether the post has them, in rising order.
    pub(super) unknown: Vec<usize>,
}

/// A row of a file.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// Its line, from 1.
    number: usize,
    text: String,
    labels: Vec<String>,
    /// Labels of which it is not known whether the text has them.
    unknown: Vec<String>,
}

/// Reads `text<TAB>label[,label]` lines, with `?label` for an unknown label and optionally a language in a third
/// column, and cleans the texts.
pub(super) fn read(path: &Path, profile: Profile) -> Result<Vec<Row>> {
    let bytes = fs::read(path).with_context(|| format!("can't read {}", path.display()))?;
    let text = String::from_utf8(bytes)
        .ok()
        .with_context(|| format!("{}: not UTF-8", path.display()))?;
    let mut rows = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.is_empty() {
            continue;
        }
        let columns: Vec<&str> = line.split('\t').collect();
        let text_and_labels = match columns[..] {
            [text, labels] => Some((text, labels)),
            [text, labels, language] if is_language(language) => Some((text, labels)),
            _ => None,
        };
        let Some((text, labels)) = text_and_labels else {
            bail!(
                "{} row {number}: {} columns, not text<TAB>label[,label]",
                path.display(),
                columns.len()
            );
        };
        let (unknown, labels): (Vec<&str>, Vec<&str>) = labels
            .split(',')
            .map(str::trim)
            .partition(|label| label.starts_with(UNKNOWN));
        let unknown = unknown.iter().map(|label| &label[UNKNOWN.len_utf8()..]);
        ensure!(
            labels
                .iter()
                .copied()
                .chain(unknown.clone())
                .all(|label| !label.is_empty()),
            "{} row {number}: an empty label",
            path.display()
        );
        rows.push(Row {
            number,
            text: profile.clean(text),
            unknown: unknown.map(str::to_owned).collect(),
            labels: labels.into_iter().map(str::to_owned).collect(),
        });
    }
    ensure!(!rows.is_empty(), "{}: no rows", path.display());
    Ok(rows)
}

/// The labels that occur, in alphabetical order.
pub(super) fn label_names(rows: &[Row]) -> Vec<String> {
    let mut names: Vec<String> = rows.iter().flat_map(|row| row.labels.iter().cloned()).collect();
    names.sort();
    names.dedup();
    names
}

/// Tokenises rows; a label outside `names` is an error that names its row.
pub(super) fn examples(
    rows: &[Row],
    names: &[String],
    tokenizer: &Subwords,
    longest: usize,
    path: &Path,
) -> Result<Vec<Example>> {
    let classes: BTreeMap<&str, usize> = names.iter().enumerate().map(|(id, name)| (name.as_str(), id)).collect();
    let example = |Row {
                       number,
                       text,
                       labels,
                       unknown,
                   }: &Row| {
        let row = || format!("{} row {number}", path.display());
        let mut ids = Vec::with_capacity(labels.len());
        for label in labels {
            let known = classes.get(label.as_str()).copied();
            ids.push(known.with_context(|| format!("{}: label `{label}` is not in the training file", row()))?);
        }
        ids.sort_unstable();
        ids.dedup();
        // A label that no training post has is not a class.
        let mut unknown: Vec<usize> = unknown
            .iter()
            .filter_map(|label| classes.get(label.as_str()).copied())
            .filter(|label| !ids.contains(label))
            .collect();
        unknown.sort_unstable();
        unknown.dedup();
        Ok(Example {
            ids: tokenizer.encode(text, longest).with_context(row)?,
            labels: ids,
            unknown,
        })
    };
    rows.iter().map(example).collect()
}

/// Refuses posts with unknown labels, which a softmax head can't learn from.
pub(super) fn ensure_labelled(examples: &[Example], rows: &[Row], path: &Path) -> Result<()> {
    let bad = examples
        .iter()
        .zip(rows)
        .find(|(example, _)| example.labels.is_empty() || !example.unknown.is_empty());
    if let Some((_, row)) = bad {
        bail!(
            "{} row {}: unknown labels need --head sigmoid",
            path.display(),
            row.number
        );
    }
    Ok(())
}

/// Makes batches of posts of similar length, in an order that depends on the seed and epoch alone.
pub(super) fn batches(examples: &[Example], size: usize, seed: u64, epoch: usize) -> Vec<Vec<usize>> {
    const WINDOW: usize = 50;
    let mut rng = StdRng::seed_from_u64(seed ^ (epoch as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut order: Vec<usize> = (0..examples.len()).collect();
    order.shuffle(&mut rng);
    let mut batches = Vec::with_capacity(examples.len().div_ceil(size));
    for window in order.chunks_mut(size * WINDOW) {
        window.sort_by_key(|&index| examples[index].ids.len());
        batches.extend(window.chunks(size).map(<[usize]>::to_vec));
    }
    batches.shuffle(&mut rng);
    batches
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_bad_row_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tsv");
        for (content, expected) in [
            ("a\tjoy\nb\n", "row 2: 1 columns"),
            ("a\tjoy\nb\tx\ty\tz\n", "row 2: 4 columns"),
            ("a\tjoy,\n", "row 1: an empty label"),
            ("a\tjoy,?\n", "row 1: an empty label"),
            ("\n", "no rows"),
        ] {
            fs::write(&path, content).unwrap();
            let error = format!("{:#}", read(&path, Profile::default()).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn batches_hold_each_example_once_and_follow_the_seed() {
        let examples: Vec<Example> = (0..1003)
            .map(|i| Example {
                ids: vec![0; 1 + i * 7 % 40],
                labels: vec![0],
                unknown: Vec::new(),
            })
            .collect();
        let batches = |seed, epoch| super::batches(&examples, 8, seed, epoch);
        let mut all: Vec<usize> = batches(1, 0).concat();
        all.sort_unstable();
        assert_eq!(all, (0..1003).collect::<Vec<_>>());
        assert_eq!(batches(1, 0), batches(1, 0));
        assert_ne!(batches(1, 0), batches(1, 1));
        assert_ne!(batches(1, 0), batches(2, 0));
    }
}
