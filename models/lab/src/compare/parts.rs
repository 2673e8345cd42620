//! Reads, cleans, de-duplicates and splits the posts of a comparison.
//!
//! As in `prepare`, duplicates are removed over all files before posts are split; equal cleaned texts are duplicates too,
//! since classical models only see these. One post of each group of duplicates is kept, or those of a given test part. So no
//! post has a duplicate in another part or fold; over-sampling adds copies within the training part of a fold only.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use moodstream::clean::{Profile, Steps};
use rand::seq::SliceRandom as _;
use serde::Serialize;

use crate::{
    data::{self, Example, Format, LabelMap},
    prepare::{self, Part},
};

/// The Jaccard similarity of near duplicates, as in `prepare`.
const NEAR: f64 = 0.8;

/// The files, and the settings of cleaning and splitting.
#[derive(Debug, Clone)]
pub(super) struct Input<'a> {
    pub(super) train: &'a [PathBuf],
    /// If empty, a share of the training posts becomes the test part.
    pub(super) test: &'a [PathBuf],
    pub(super) format: Format,
    pub(super) map: &'a LabelMap,
    pub(super) test_share: f64,
    pub(super) folds: usize,
    pub(super) seed: u64,
    /// The steps of cleaning. Duplicates are found in texts cleaned with all steps, so that the split doesn't depend on this.
    pub(super) steps: Steps,
    /// False to keep duplicates, to measure their effect.
    pub(super) deduplicate: bool,
}

/// A post with one label.
#[derive(Debug, Clone)]
pub(super) struct Post {
    /// The text as read and its place in the file.
    pub(super) example: Example,
    /// The text cleaned with the `classical` profile.
    pub(super) cleaned: String,
    /// Its label's position.
    pub(super) class: usize,
}

/// The posts of a comparison.
#[derive(Debug, Clone)]
pub(super) struct Parts {
    pub(super) labels: Vec<String>,
    pub(super) train: Vec<Post>,
    pub(super) test: Vec<Post>,
    pub(super) removed: Removed,
}

/// The names of the parts written by `--write-parts`.
pub(super) const FILES: [&str; 2] = ["train.tsv", "test.tsv"];

/// Posts left out, by reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// Without a label, or with a label that the map drops.
    pub without_label: usize,
    /// With several labels.
    pub several_labels: usize,
    /// Without words after cleaning.
    pub empty: usize,
    /// The first of these, as `file:row`.
    pub first_empty: Option<String>,
    /// Training posts that are duplicates of a given test post.
    pub leaked_from_test: usize,
    /// Duplicates of a post that was kept.
    pub duplicates: usize,
    /// Duplicates whose labels contradict each other.
    pub contradictory: usize,
}

impl Parts {
    /// Reads and splits.
    ///
    /// # Errors
    ///
    /// When a file is invalid or its labels don't allow a comparison; the error is one line that names file, row and label.
    pub(super) fn read(input: &Input<'_>) -> anyhow::Result<Self> {
        let mut removed = Removed::default();
        let mut posts = Vec::new();
        for (files, part) in [
            (input.train, (!input.test.is_empty()).then_some(Part::Train)),
            (input.test, Some(Part::Test)),
        ] {
            for file in files {
                read_file(file, input, part, &mut posts, &mut removed)?;
            }
        }
        if posts.is_empty() {
            bail!(nothing_left(input.train, "train", &removed));
        }
        if input.deduplicate {
            posts = deduplicate(posts, &mut removed);
        }
        if input.steps != Steps::ALL {
            for open in &mut posts {
                open.cleaned = input.steps.clean(&open.example.text);
            }
        }
        if input.test.is_empty() {
            let labels: Vec<&[String]> = posts.iter().map(|open| open.example.labels.as_slice()).collect();
            let mut random = prepare::random(input.seed, 16);
            let parts = prepare::split(&labels, 0.0, input.test_share, &mut random);
            for (open, part) in posts.iter_mut().zip(parts) {
                open.part = Some(part);
            }
        }
        Self::join(posts, input, removed)
    }

    /// Adds the posts of further files to the training part, if their label is known and they are no duplicates.
    pub(super) fn add(&mut self, input: &Input<'_>, files: &[PathBuf]) -> anyhow::Result<()> {
        let mut posts: Vec<UnsplitPost> = Vec::new();
        let kept = self.train.iter().chain(&self.test);
        posts.extend(kept.map(|post| UnsplitPost {
            example: post.example.clone(),
            cleaned: post.cleaned.clone(),
            // Like posts of a test part, they are kept and their duplicates removed.
            part: Some(Part::Test),
        }));
        let before = posts.len();
        let mut added = Removed::default();
        for file in files {
            read_file(file, input, None, &mut posts, &mut added)?;
        }
        let new = deduplicate(posts, &mut added).into_iter().skip(before);
        for open in new {
            if let Some(class) = self.labels.iter().position(|label| label == open.label()) {
                self.train.push(Post {
                    example: open.example,
                    cleaned: open.cleaned,
                    class,
                });
            }
        }
        Ok(())
    }

    /// Writes the cleaned texts and labels of both parts as `train.tsv` and `test.tsv`.
    pub(super) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("can't make the folder {}", folder.display()))?;
        for (name, posts) in FILES.into_iter().zip([&self.train, &self.test]) {
            let cleaned: Vec<Example> = posts
                .iter()
                .map(|post| Example {
                    text: post.cleaned.clone(),
                    ..post.example.clone()
                })
                .collect();
            data::write_tsv(&folder.join(name), &cleaned)?;
        }
        Ok(())
    }

    fn join(posts: Vec<UnsplitPost>, input: &Input<'_>, removed: Removed) -> anyhow::Result<Self> {
        let (test, train): (Vec<UnsplitPost>, Vec<UnsplitPost>) =
            posts.into_iter().partition(|open| open.part == Some(Part::Test));
        let mut members: HashMap<&str, usize> = HashMap::new();
        for open in &train {
            *members.entry(open.label()).or_default() += 1;
        }
        let mut labels: Vec<String> = members.keys().map(ToString::to_string).collect();
        let known = input.map.labels();
        labels.sort_by_key(|label| (known.iter().position(|known| known == label), label.clone()));
        match &labels[..] {
            [] => bail!(nothing_left(input.train, "train", &removed)),
            [label] => bail!(
                "{}: all training posts have the same label, `{label}`",
                first(input.train)
            ),
            _ => {}
        }
        if let Some(open) = train.iter().find(|open| members[open.label()] < input.folds) {
            bail!(
                "{}: the label `{}` has {} training posts, fewer than the {} folds: group it with --labels-map, or lower --folds",
                open.example.origin,
                open.label(),
                members[open.label()],
                input.folds
            );
        }
        if let Some(open) = test.iter().find(|open| !members.contains_key(open.label())) {
            bail!(
                "{}: no training post has the label `{}`",
                open.example.origin,
                open.label()
            );
        }
        if test.is_empty() {
            let files = if input.test.is_empty() { input.train } else { input.test };
            bail!(nothing_left(files, "test", &removed));
        }
        let numbers: HashMap<&str, usize> = labels.iter().map(String::as_str).zip(0..).collect();
        let close = |opens: Vec<UnsplitPost>| -> Vec<Post> {
            let with_class = opens.into_iter().filter_map(|open| {
                let class = *numbers.get(open.label())?;
                Some(Post {
                    example: open.example,
                    cleaned: open.cleaned,
                    class,
                })
            });
            with_class.collect()
        };
        let (train, test) = (close(train), close(test));
        Ok(Self {
            labels,
            train,
            test,
            removed,
        })
    }
}

/// The first file, for errors that concern no single row.
fn first(files: &[PathBuf]) -> String {
    let file = files.first().map(|file| file.display().to_string());
    file.unwrap_or_default()
}

/// The error that no post is left for a part, with the reasons for which posts were left out.
fn nothing_left(files: &[PathBuf], part: &str, removed: &Removed) -> String {
    let empty = match &removed.first_empty {
        Some(first) => format!("without words after cleaning, the first {first}"),
        None => String::new(),
    };
    let reasons: Vec<String> = [
        (removed.empty, &*empty),
        (removed.without_label, "without a label"),
        (removed.several_labels, "with several labels"),
        (removed.leaked_from_test, "duplicates of a test post"),
        (removed.contradictory, "duplicates with contradictory labels"),
    ]
    .into_iter()
    .filter(|&(count, _)| count > 0)
    .map(|(count, reason)| format!("{count} {reason}"))
    .collect();
    let reasons = match reasons.is_empty() {
        true => String::new(),
        false => format!(": {}", reasons.join("; ")),
    };
    format!("{}: no post is left to {part} on{reasons}", first(files))
}

/// A post before the split.
struct UnsplitPost {
    example: Example,
    cleaned: String,
    /// `None` until the posts are split.
    part: Option<Part>,
}

impl UnsplitPost {
    fn label(&self) -> &str {
        self.example.labels.first().map_or("", String::as_str)
    }
}

fn read_file(
    file: &Path,
    input: &Input<'_>,
    part: Option<Part>,
    posts: &mut Vec<UnsplitPost>,
    removed: &mut Removed,
) -> anyhow::Result<()> {
    for mut example in data::read_rows(file, input.format)? {
        input.map.apply(&mut example)?;
        match example.labels.len() {
            0 => removed.without_label += 1,
            1 => {
                let cleaned = Profile::Classical.clean(&example.text);
                if cleaned.is_empty() {
                    removed.empty += 1;
                    removed.first_empty.get_or_insert_with(|| example.origin.to_string());
                    continue;
                }
                posts.push(UnsplitPost { example, cleaned, part });
            }
            _ => removed.several_labels += 1,
        }
    }
    Ok(())
}

fn deduplicate(posts: Vec<UnsplitPost>, removed: &mut Removed) -> Vec<UnsplitPost> {
    let keys: Vec<String> = posts.iter().map(|open| prepare::key(&open.example.text)).collect();
    let cleaned: Vec<&str> = posts.iter().map(|open| open.cleaned.as_str()).collect();
    let groups = joined(&prepare::groups(&keys, NEAR), &prepare::groups(&cleaned, 1.0));
    let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (at, &group) in groups.iter().enumerate() {
        members.entry(group).or_default().push(at);
    }
    let mut stays = vec![false; posts.len()];
    for group in members.values() {
        let tests: Vec<usize> = group
            .iter()
            .copied()
            .filter(|&at| posts[at].part == Some(Part::Test))
            .collect();
        if !tests.is_empty() {
            removed.leaked_from_test += group.len() - tests.len();
            tests.into_iter().for_each(|at| stays[at] = true);
        } else if group.iter().any(|&at| posts[at].label() != posts[group[0]].label()) {
            removed.contradictory += group.len();
        } else {
            removed.duplicates += group.len() - 1;
            stays[group[0]] = true;
        }
    }
    posts
        .into_iter()
        .zip(stays)
        .filter_map(|(open, stays)| stays.then_some(open))
        .collect()
}

/// Joins two groupings: two posts are in one group if they are in one group of either, also through other posts. A group
/// is named by its first member.
fn joined(one: &[usize], other: &[usize]) -> Vec<usize> {
    let mut groups = one.to_vec();
    // Names of groups only decrease, so this terminates; few posts are in groups of both groupings, so it does so quickly.
    loop {
        let mut lowest = groups.clone();
        for (at, &group) in groups.iter().enumerate() {
            for name in [one[at], other[at]] {
                lowest[name] = lowest[name].min(group);
            }
        }
        let next: Vec<usize> = (0..groups.len())
            .map(|at| lowest[one[at]].min(lowest[other[at]]).min(groups[at]))
            .collect();
        if next == groups {
            return groups;
        }
        groups = next;
    }
}

/// The fold of each post; the posts of each class are spread evenly.
pub(super) fn folds(truth: &[usize], classes: usize, folds: usize, seed: u64) -> Vec<usize> {
    let mut random = prepare::random(seed, 32);
    let mut assigned = vec![0; truth.len()];
    // A class starts in the fold after the last post of the previous class, so that small classes don't all fill the first.
    let mut next = 0;
    for class in 0..classes {
        let mut members: Vec<usize> = (0..truth.len()).filter(|&at| truth[at] == class).collect();
        members.shuffle(&mut random);
        for at in members {
            assigned[at] = next % folds;
            next += 1;
        }
    }
    assigned
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn read(train: &str, test: Option<&str>) -> anyhow::Result<Parts> {
        let folder = tempfile::tempdir().unwrap();
        let paths = [folder.path().join("train.tsv"), folder.path().join("test.tsv")];
        fs::write(&paths[0], train).unwrap();
        if let Some(test) = test {
            fs::write(&paths[1], test).unwrap();
        }
        Parts::read(&Input {
            train: &paths[..1],
            test: if test.is_some() { &paths[1..] } else { &[] },
            format: Format::Auto,
            map: &LabelMap::identity(),
            test_share: 0.2,
            folds: 2,
            seed: 1,
            steps: Steps::ALL,
            deduplicate: true,
        })
    }

    #[test]
    fn duplicates_of_test_posts_are_not_trained_on() {
        let long = "i really can not believe that this is happening to me";
        let train = format!(
            "{long} todaY\tsad\nSo happy!\tglad\nboth cats\tsad\nsunny\tglad\nrain again\tsad\nthe sunny weather\tglad\n"
        );
        let test = format!(
            "{long} today\tsad\nso HAPPY\tglad\nBOTH cats\tglad\nweather is so sunny\tglad\na sunny weather\tglad\n"
        );
        // One training post of each label is left: the others are duplicates of test posts, exactly, nearly or after cleaning.
        let error = read(&train, Some(&test)).unwrap_err().to_string();
        assert!(
            error.contains("train.tsv:4: the label `glad` has 1 training posts"),
            "{error}"
        );
        let more = format!("{train}what joy\tglad\nmore clouds\tsad\n");
        let parts = read(&more, Some(&test)).unwrap();
        let texts: Vec<&str> = parts.train.iter().map(|post| post.example.text.as_str()).collect();
        assert_eq!(texts, ["sunny", "rain again", "what joy", "more clouds"]);
        assert_eq!((parts.test.len(), parts.removed.leaked_from_test), (5, 4));
        assert_eq!(parts.labels, ["glad", "sad"]);
    }

    #[test]
    fn contradictory_duplicates_are_removed_and_one_of_others_is_kept() {
        let rows = "of two minds\tsad\nOf two minds...\tglad\nso happy\tglad\nSo HAPPY!\tglad\n";
        let others: String = ["rain", "wind", "mud", "fog", "hail", "storm"]
            .map(|word| format!("{word}\tsad\n{word} gone\tglad\n"))
            .concat();
        let parts = read(&format!("{rows}{others}"), None).unwrap();
        assert_eq!((parts.removed.contradictory, parts.removed.duplicates), (2, 1));
        assert_eq!(parts.train.len() + parts.test.len(), 13);
    }

    #[test]
    fn groups_are_joined_through_other_posts() {
        assert_eq!(joined(&[0, 1, 1, 3, 4], &[0, 1, 2, 2, 0]), [0, 1, 1, 1, 0]);
        assert_eq!(joined(&[0, 1, 2, 0], &[0, 1, 2, 2]), [0, 1, 0, 0]);
    }

    proptest! {
        #[test]
        fn no_text_is_in_two_parts_raw_or_cleaned(rows in prop::collection::vec("(so |the |SO )?(happy|sad|rain|sun)( day| days|!)?( today)?", 20..60), given in any::<bool>(), seed in any::<u64>()) {
            let row = |(at, text): (usize, &String)| format!("{text} {}\t{}\n", if at % 3 == 0 { "" } else { "x" }, ["a", "b"][at % 2]);
            let all: Vec<String> = rows.iter().enumerate().map(row).collect();
            let (train, test) = all.split_at(if given { 10 } else { all.len() });
            let Ok(parts) = read(&train.concat(), given.then(|| test.concat()).as_deref()) else { return Ok(()) };
            let of = |posts: &[Post]| -> HashSet<String> {
                posts.iter().flat_map(|post| [prepare::key(&post.example.text), post.cleaned.clone()]).collect()
            };
            prop_assert!(of(&parts.train).is_disjoint(&of(&parts.test)));
            let truth: Vec<usize> = parts.train.iter().map(|post| post.class).collect();
            let folds = folds(&truth, parts.labels.len(), 2, seed);
            let in_fold = |fold| -> Vec<Post> {
                parts.train.iter().zip(&folds).filter(|(_, of)| **of == fold).map(|(post, _)| post.clone()).collect()
            };
            prop_assert!(of(&in_fold(0)).is_disjoint(&of(&in_fold(1))));
        }

        #[test]
        fn folds_have_their_share_of_each_class(truth in prop::collection::vec(0_usize..4, 1..120), seed in any::<u64>()) {
            let folds = folds(&truth, 4, 5, seed);
            for class in 0..4 {
                let of = |fold| (0..truth.len()).filter(|&at| truth[at] == class && folds[at] == fold).count();
                let counts: Vec<usize> = (0..5).map(of).collect();
                prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
            }
        }
    }
}
