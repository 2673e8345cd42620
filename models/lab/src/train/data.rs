//! Reads and tokenises labelled text, and makes batches.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use moodstream::{clean::Profile, model::Subwords};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};

use crate::{
    carry,
    data::{UNKNOWN, is_language},
};

/// A post to learn from or to evaluate on.
#[derive(Debug, Clone)]
pub(super) struct Example {
    pub(super) ids: Vec<u32>,
    /// Its classes, each once and in rising order.
    pub(super) labels: Vec<usize>,
    /// Classes of which it is not known whether the post has them, in rising order; all classes for a post without labels.
    pub(super) unknown: Vec<usize>,
    /// The teacher's scores, softened; empty without a teacher.
    pub(super) soft: Vec<f32>,
}

/// A post's text.
#[derive(Debug, Clone)]
pub(super) struct Text {
    /// As in the file. A teacher may clean it in another way.
    pub(super) raw: String,
    clean: String,
}

impl Text {
    fn new(raw: &str, profile: Profile) -> Self {
        Self {
            raw: raw.to_owned(),
            clean: profile.clean(raw),
        }
    }
}

/// A row of a file.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// Its line, from 1.
    number: usize,
    pub(super) text: Text,
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
            text: Text::new(text, profile),
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
            ids: tokenizer.encode(&text.clean, longest).with_context(row)?,
            labels: ids,
            unknown,
            soft: Vec::new(),
        })
    };
    rows.iter().map(example).collect()
}

/// Reads posts without labels and cleans them. Those that are empty, repeated, or equal to a validation post once they are
/// clean are left out, and only the first `most` of the others are returned.
pub(super) fn read_unlabelled(
    paths: &[PathBuf],
    profile: Profile,
    most: Option<usize>,
    valid: &[Row],
) -> Result<Vec<Text>> {
    let mut seen: HashSet<String> = valid.iter().map(|row| row.text.clean.clone()).collect();
    let posts: Vec<Text> = carry::read_texts(paths)?
        .iter()
        .map(|raw| Text::new(raw, profile))
        .filter(|text| !text.clean.is_empty() && seen.insert(text.clean.clone()))
        .take(most.unwrap_or(usize::MAX))
        .collect();
    ensure!(
        !posts.is_empty(),
        "--text: all posts are empty once cleaned, or in the validation file"
    );
    Ok(posts)
}

/// Tokenises posts without labels, for a model of `classes` classes.
pub(super) fn unlabelled_examples(
    texts: &[Text],
    classes: usize,
    tokenizer: &Subwords,
    longest: usize,
) -> Result<Vec<Example>> {
    let example = |text: &Text| {
        Ok(Example {
            ids: tokenizer.encode(&text.clean, longest)?,
            labels: Vec::new(),
            unknown: (0..classes).collect(),
            soft: Vec::new(),
        })
    };
    texts.iter().map(example).collect()
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
    fn posts_without_labels_are_used_once_and_not_if_they_are_for_validation() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("valid.tsv"), "hello @ann\tjoy\n").unwrap();
        // The profile replaces mentions, so these are equal to the validation post.
        fs::write(path("a.txt"), "hello @bob\nso\n\nso\tx\n").unwrap();
        let more = zstd::encode_all(&b"hello @cid\nit is @bob\nso\nit is @ann\nnow\n"[..], 1).unwrap();
        fs::write(path("b.txt.zst"), more).unwrap();
        let valid = super::read(&path("valid.tsv"), Profile::TwitterRoberta).unwrap();
        let paths = [path("a.txt"), path("b.txt.zst")];
        let read = |most| -> Vec<String> {
            let texts = read_unlabelled(&paths, Profile::TwitterRoberta, most, &valid).unwrap();
            texts.into_iter().map(|text| text.raw).collect()
        };
        assert_eq!(read(None), ["so", "it is @bob", "now"]);
        assert_eq!(read(Some(2)), ["so", "it is @bob"]);
        fs::write(path("a.txt"), "hello @bob\n").unwrap();
        let error = read_unlabelled(&paths[..1], Profile::TwitterRoberta, None, &valid).unwrap_err();
        assert!(error.to_string().starts_with("--text: all posts are empty"), "{error}");
    }

    #[test]
    fn batches_hold_each_example_once_and_follow_the_seed() {
        let examples: Vec<Example> = (0..1003)
            .map(|i| Example {
                ids: vec![0; 1 + i * 7 % 40],
                labels: vec![0],
                unknown: Vec::new(),
                soft: Vec::new(),
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
