//! Prepares labelled sets: reads, repairs, maps, merges, de-duplicates, splits and balances them.
//!
//! The order avoids leaks: duplicates are removed over all files before posts are split, weighted or over-sampled. So no
//! post of a test part or a near duplicate of one is in training or validation, and copies made for balance are in training
//! only.

mod duplicates;
mod recipe;
mod report;
mod split;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use rand::seq::SliceRandom as _;

pub(crate) use self::{
    duplicates::groups,
    split::{random, split},
};
pub use self::{
    duplicates::key,
    recipe::{Recipe, RecipeError, RecipeFault, RelativeTo, Set, Several},
    report::{FileReport, Removed, Report},
    split::Part,
};
use crate::{
    data::{self, Example, Format, LabelMap},
    files::{self, Staging},
};

/// The files of the parts: training, validation, test.
const FILES: [&str; 3] = ["train.tsv", "valid.tsv", "test.tsv"];
const REPORT: &str = "prepare.json";

/// The command line arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Recipe with the sets, their label maps and weights
    #[arg(long, value_name = "FILE", required_unless_present_any = ["train", "all"], conflicts_with_all = ["train", "valid", "test", "all", "labels_map"])]
    recipe: Option<PathBuf>,
    /// Folder of the recipe's files
    #[arg(long, value_name = "DIR", default_value = "../shared/data", requires = "recipe")]
    data: PathBuf,
    /// Labelled files for training, instead of a recipe
    #[arg(long, value_name = "FILE", num_args = 1..)]
    train: Vec<PathBuf>,
    /// Labelled files for validation
    #[arg(long, value_name = "FILE", num_args = 1..)]
    valid: Vec<PathBuf>,
    /// Labelled files for testing
    #[arg(long, value_name = "FILE", num_args = 1..)]
    test: Vec<PathBuf>,
    /// Labelled files to split, stratified by label
    #[arg(long, value_name = "FILE", num_args = 1..)]
    all: Vec<PathBuf>,
    /// Mapping file that renames, groups and drops labels
    #[arg(long, value_name = "FILE")]
    labels_map: Option<PathBuf>,
    /// Format of the files, if it can't be detected
    #[arg(long, value_enum, default_value_t, conflicts_with = "recipe")]
    format: Format,
    /// What to do with training and validation posts that have several labels [default: the recipe's, or keep]
    #[arg(long, value_enum)]
    several: Option<Several>,
    /// Cleaning profile of the written texts [default: the recipe's, or raw]
    #[arg(long, value_name = "NAME")]
    profile: Option<moodstream::clean::Profile>,
    /// Over-sample minority classes of the training part to this share of the largest class
    #[arg(long, value_name = "SHARE")]
    oversample: Option<f64>,
    /// Seed of splitting, sampling and shuffling [default: the recipe's, or 1]
    #[arg(long)]
    seed: Option<u64>,
    /// Folder for train.tsv, valid.tsv, test.tsv and prepare.json
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl Args {
    fn recipe(self) -> anyhow::Result<(Recipe, PathBuf)> {
        let mut recipe = match &self.recipe {
            Some(path) => Recipe::read(path, &self.data)?,
            None => {
                let set = Set {
                    name: "data".to_owned(),
                    format: self.format,
                    language: None,
                    labels_map: self.labels_map,
                    relative_to: RelativeTo::default(),
                    train: self.train,
                    valid: self.valid,
                    test: self.test,
                    held_out: Vec::new(),
                    all: self.all,
                    weight: 1.0,
                    shares: BTreeMap::new(),
                };
                Recipe {
                    sets: vec![set],
                    ..Recipe::default()
                }
            }
        };
        recipe.several = self.several.unwrap_or(recipe.several);
        recipe.profile = self.profile.or(recipe.profile);
        recipe.oversample = self.oversample.or(recipe.oversample);
        recipe.seed = self.seed.unwrap_or(recipe.seed);
        recipe.check()?;
        Ok((recipe, self.out))
    }
}

/// Runs the step: writes the parts and the report into the folder, and a table to standard output.
///
/// # Errors
///
/// When the input is invalid (the error names file and row) or the output can't be written.
pub fn run(args: Args) -> anyhow::Result<()> {
    let (recipe, out) = args.recipe()?;
    let prepared = prepare(&recipe)?;
    prepared.write(&out)?;
    print!("{}", prepared.report.table());
    println!("written to {}", out.display());
    Ok(())
}

/// The prepared parts.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// Training posts: weighted, over-sampled, shuffled.
    pub train: Vec<Example>,
    /// Validation posts.
    pub valid: Vec<Example>,
    /// Test posts.
    pub test: Vec<Example>,
    /// The report.
    pub report: Report,
}

/// A post that is being prepared.
struct Post {
    example: Example,
    /// Position of its set in the recipe.
    set: usize,
    /// `None` until the `all` files are split.
    part: Option<Part>,
    /// False for held-out posts, which only keep their duplicates out.
    is_written: bool,
}

/// Prepares the sets of a recipe.
///
/// # Errors
///
/// When the input is invalid; the error names file and row.
pub fn prepare(recipe: &Recipe) -> anyhow::Result<Prepared> {
    let mut report = Report::new(recipe);
    let posts = read(recipe, &mut report)?;
    let mut posts = deduplicate(posts, recipe.near, &mut report.removed);
    split_open(&mut posts, recipe);

    let mut weights = split::random(recipe.seed, 1);
    let (mut train, mut valid, mut test) = (Vec::new(), Vec::new(), Vec::new());
    for Post {
        example,
        set,
        part,
        is_written,
    } in posts
    {
        match part {
            _ if !is_written => {}
            Some(Part::Test) => test.push(example),
            Some(Part::Valid) => valid.push(example),
            _ => {
                let set = &recipe.sets[set];
                let shares = example.labels.iter().filter_map(|label| set.shares.get(label));
                let share = shares.copied().reduce(f64::max).unwrap_or(1.0);
                let copies = split::copies(set.weight * share, &mut weights);
                train.extend(std::iter::repeat_n(example, copies));
            }
        }
    }
    if let Some(profile) = recipe.profile {
        for part in [&mut train, &mut valid, &mut test] {
            let before = part.len();
            part.iter_mut()
                .for_each(|example| example.text = profile.clean(&example.text));
            part.retain(|example| !example.text.is_empty());
            report.removed.empty += before - part.len();
        }
    }
    if let Some(ratio) = recipe.oversample {
        let labels: Vec<&[String]> = train.iter().map(|example| example.labels.as_slice()).collect();
        let added = split::oversample(&labels, ratio, &mut split::random(recipe.seed, 2));
        report.oversampled = added.len();
        train.extend(added.into_iter().map(|at| train[at].clone()).collect::<Vec<_>>());
    }
    train.shuffle(&mut split::random(recipe.seed, 3));
    if train.is_empty() {
        bail!("no post is left for training");
    }
    for (part, examples) in [(Part::Train, &train), (Part::Valid, &valid), (Part::Test, &test)] {
        report.count_after(part, examples);
    }
    Ok(Prepared {
        train,
        valid,
        test,
        report,
    })
}

fn read(recipe: &Recipe, report: &mut Report) -> anyhow::Result<Vec<Post>> {
    let mut posts = Vec::new();
    for (at, set) in recipe.sets.iter().enumerate() {
        let map = match &set.labels_map {
            Some(path) => LabelMap::read(path)?,
            None => LabelMap::identity(),
        };
        report.add_labels(map.labels());
        for (part, files, is_written) in [
            (Some(Part::Train), &set.train, true),
            (Some(Part::Valid), &set.valid, true),
            (Some(Part::Test), &set.test, true),
            (Some(Part::Test), &set.held_out, false),
            (None, &set.all, true),
        ] {
            for file in files {
                let mut file_report = FileReport::new(&set.name, file, part);
                for mut example in data::read_rows(file, set.format)? {
                    file_report.rows += 1;
                    map.apply(&mut example)?;
                    if let Some(language) = &set.language {
                        example.language = Some(language.as_str().into());
                    }
                    if example.labels.is_empty() && example.unknown.is_empty() {
                        file_report.without_label += 1;
                    } else if example.labels.len() > 1 && recipe.several == Several::Drop && part != Some(Part::Test) {
                        file_report.several_labels += 1;
                    } else {
                        report.count_before(part, &example);
                        posts.push(Post {
                            example,
                            set: at,
                            part,
                            is_written,
                        });
                    }
                }
                report.files.push(file_report);
            }
        }
    }
    Ok(posts)
}

/// Removes duplicates. In each group, test posts are kept and all others removed. Without test posts, validation posts
/// take precedence over training posts, and one post is kept, unless their labels contradict each other.
fn deduplicate(posts: Vec<Post>, near: f64, removed: &mut Removed) -> Vec<Post> {
    let keys: Vec<String> = posts.iter().map(|post| duplicates::key(&post.example.text)).collect();
    let groups = duplicates::groups(&keys, near);
    let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (at, &group) in groups.iter().enumerate() {
        members.entry(group).or_default().push(at);
    }

    let mut is_kept = vec![false; posts.len()];
    for group in members.values() {
        let all = group.len();
        let of = |part| -> Vec<usize> {
            group
                .iter()
                .copied()
                .filter(|&at| posts[at].part == Some(part))
                .collect()
        };
        let tests = of(Part::Test);
        if !tests.is_empty() {
            removed.leaked_from_test += group.len() - tests.len();
            tests.into_iter().for_each(|at| is_kept[at] = true);
            continue;
        }
        // Training posts must not affect the validation part.
        let valids = of(Part::Valid);
        let group = if valids.is_empty() { group } else { &valids };
        removed.leaked_from_valid += all - group.len();
        if group.iter().all(|&at| keys[at].is_empty()) {
            removed.empty += group.len();
            continue;
        }
        let first = &posts[group[0]].example.labels;
        let mut others = group.iter().map(|&at| &posts[at].example.labels);
        let shared = first
            .iter()
            .any(|label| others.clone().all(|labels| labels.contains(label)));
        // Posts without a common label contradict each other, unless none of them has a label.
        if !shared && others.any(|labels| labels != first) {
            removed.contradictory += group.len();
            continue;
        }
        let kept = group[0];
        is_kept[kept] = true;
        for &at in &group[1..] {
            match keys[at] == keys[kept] {
                true => removed.exact += 1,
                false => removed.near += 1,
            }
        }
    }
    posts
        .into_iter()
        .zip(is_kept)
        .filter_map(|(post, is_kept)| is_kept.then_some(post))
        .collect()
}

/// Splits the posts of `all` files, separately for each set.
fn split_open(posts: &mut [Post], recipe: &Recipe) {
    for set in 0..recipe.sets.len() {
        let open: Vec<usize> = (0..posts.len())
            .filter(|&at| posts[at].set == set && posts[at].part.is_none())
            .collect();
        let labels: Vec<&[String]> = open.iter().map(|&at| posts[at].example.labels.as_slice()).collect();
        let mut random = split::random(recipe.seed, 16 + set as u64);
        let parts = split::split(&labels, recipe.valid_share, recipe.test_share, &mut random);
        for (at, part) in open.into_iter().zip(parts) {
            posts[at].part = Some(part);
        }
    }
}

impl Prepared {
    /// Writes `train.tsv`, `valid.tsv`, `test.tsv` (unless empty) and `prepare.json`, replacing those of an earlier run.
    /// `prepare.json` is removed first and written last, so where it exists, all files are of the same run. A kill never
    /// leaves parts of two runs, which might share posts.
    ///
    /// # Errors
    ///
    /// When the folder can't be created or a file can't be written.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let staging = Staging::beside(folder)?;
        let parts = [&self.train, &self.valid, &self.test];
        for (name, part) in FILES.iter().zip(parts) {
            if !part.is_empty() {
                data::write_tsv(&staging.path().join(name), part)?;
            }
        }
        let json = serde_json::to_vec_pretty(&self.report)?;
        files::write(&staging.path().join(REPORT), &json)?;

        fs::create_dir_all(folder).with_context(|| format!("can't make the folder {}", folder.display()))?;
        for name in [REPORT].iter().chain(&FILES) {
            let path = folder.join(name);
            if path.exists() {
                fs::remove_file(&path).with_context(|| format!("can't remove {}", path.display()))?;
            }
        }
        for name in FILES.iter().chain(&[REPORT]) {
            let (from, to) = (staging.path().join(name), folder.join(name));
            if from.exists() {
                fs::rename(&from, &to).with_context(|| format!("can't write {}", to.display()))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
