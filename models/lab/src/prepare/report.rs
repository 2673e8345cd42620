//! The report of `prepare`, as JSON and as a table.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use serde::Serialize;

use super::{Part, Recipe};
use crate::data::Example;

/// Posts by label.
type Counts = BTreeMap<String, usize>;

/// The report of one run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The recipe.
    pub recipe: Recipe,
    /// All labels, in the order of the label maps.
    pub labels: Vec<String>,
    /// The files that were read.
    pub files: Vec<FileReport>,
    /// The posts that were removed.
    pub removed: Removed,
    /// Training posts added by over-sampling.
    pub oversampled: usize,
    /// Posts by part and label after mapping, before any were removed; `all` until it is split.
    pub before: BTreeMap<String, Counts>,
    /// Posts by part and label as written.
    pub after: BTreeMap<String, Counts>,
    /// Posts by part as written; those with several labels count once.
    pub posts: BTreeMap<String, usize>,
}

/// One file that was read.
#[derive(Debug, Clone, Serialize)]
pub struct FileReport {
    /// Its set.
    pub set: String,
    /// Its name without folders, so that the report does not depend on where files are.
    pub file: String,
    /// What it is for: `train`, `valid`, `test` or `all`.
    pub part: String,
    /// Rows read.
    pub rows: usize,
    /// Rows without a label, or whose labels the map drops.
    pub without_label: usize,
    /// Rows left out for having several labels.
    pub several_labels: usize,
}

/// Posts that were removed, by reason.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Removed {
    /// Duplicates or near duplicates of a test post.
    pub leaked_from_test: usize,
    /// Training posts that are duplicates or near duplicates of a validation post.
    pub leaked_from_valid: usize,
    /// Duplicates of a post that was kept.
    pub exact: usize,
    /// Near duplicates of a post that was kept.
    pub near: usize,
    /// Duplicates whose labels contradict each other.
    pub contradictory: usize,
    /// Posts without words: only links, handles and punctuation.
    pub empty: usize,
}

fn name(part: Option<Part>) -> String {
    match part {
        Some(Part::Train) => "train",
        Some(Part::Valid) => "valid",
        Some(Part::Test) => "test",
        None => "all",
    }
    .to_owned()
}

impl FileReport {
    pub(super) fn new(set: &str, file: &Path, part: Option<Part>) -> Self {
        let file = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self {
            set: set.to_owned(),
            file,
            part: name(part),
            rows: 0,
            without_label: 0,
            several_labels: 0,
        }
    }
}

impl Report {
    pub(super) fn new(recipe: &Recipe) -> Self {
        let mut recipe = recipe.clone();
        for set in &mut recipe.sets {
            for path in set.files_mut() {
                *path = path.file_name().unwrap_or_default().into();
            }
            if let Some(path) = &mut set.labels_map {
                *path = path.file_name().unwrap_or_default().into();
            }
        }
        Self {
            recipe,
            labels: Vec::new(),
            files: Vec::new(),
            removed: Removed::default(),
            oversampled: 0,
            before: BTreeMap::new(),
            after: BTreeMap::new(),
            posts: BTreeMap::new(),
        }
    }

    pub(super) fn add_labels(&mut self, labels: &[String]) {
        for label in labels {
            if !self.labels.contains(label) {
                self.labels.push(label.clone());
            }
        }
    }

    pub(super) fn count_before(&mut self, part: Option<Part>, example: &Example) {
        self.add_labels(&example.labels);
        count(self.before.entry(name(part)).or_default(), example);
    }

    pub(super) fn count_after(&mut self, part: Part, examples: &[Example]) {
        let counts = self.after.entry(name(Some(part))).or_default();
        examples.iter().for_each(|example| count(counts, example));
        self.posts.insert(name(Some(part)), examples.len());
    }

    /// The labels before and after, and the removed posts, as a table for a terminal.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = String::new();
        for FileReport {
            set,
            file,
            part,
            rows,
            without_label,
            several_labels,
        } in &self.files
        {
            let _ = write!(out, "{set}: {file} ({part}): {rows} rows");
            for (count, why) in [
                (without_label, "without label"),
                (several_labels, "with several labels"),
            ] {
                if *count > 0 {
                    let _ = write!(out, ", {count} {why}");
                }
            }
            out.push('\n');
        }
        let columns: Vec<(&str, &str, Option<&Counts>)> = ["all", "train", "valid", "test"]
            .into_iter()
            .flat_map(|part| {
                [
                    (part, "before", self.before.get(part)),
                    (part, "after", self.after.get(part)),
                ]
            })
            .filter(|(.., counts)| counts.is_some_and(|counts| !counts.is_empty()))
            .collect();
        let width = self
            .labels
            .iter()
            .map(|label| label.chars().count())
            .max()
            .unwrap_or(0)
            .max(6);
        let _ = write!(out, "\n{:width$}", "label");
        for (part, when, _) in &columns {
            let _ = write!(out, "  {:>13}", format!("{part} {when}"));
        }
        out.push('\n');
        for label in &self.labels {
            let _ = write!(out, "{label:width$}");
            for (.., counts) in &columns {
                let count = counts.and_then(|counts| counts.get(label)).unwrap_or(&0);
                let _ = write!(out, "  {count:13}");
            }
            out.push('\n');
        }
        let Removed {
            leaked_from_test,
            leaked_from_valid,
            exact,
            near,
            contradictory,
            empty,
        } = self.removed;
        let _ = writeln!(
            out,
            "\nremoved: {leaked_from_test} duplicates of a test post, {leaked_from_valid} of a validation post, {exact} exact and {near} near duplicates, \
             {contradictory} with contradictory labels, {empty} without words; added by over-sampling: {}",
            self.oversampled
        );
        out
    }
}

fn count(counts: &mut Counts, example: &Example) {
    for label in &example.labels {
        *counts.entry(label.clone()).or_default() += 1;
    }
}
