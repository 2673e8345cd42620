//! The recipe file, which lists the sets and settings of `prepare`.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use moodstream::{clean::Profile, model::toml_mistake};
use serde::{Deserialize, Serialize};

use crate::data::{Format, is_language};

/// A recipe. As a TOML file, for example:
///
/// ```toml
/// seed = 1
/// several = "drop"
///
/// [[sets]]
/// name = "goemotions"
/// labels_map = "labels/goemotions-ekman.toml"  # beside the recipe
/// train = ["goemotions/train.tsv"]             # under the data folder
/// valid = ["goemotions/dev.tsv"]
/// test = ["goemotions/test.tsv"]
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// Seed of all sampling, splitting and shuffling.
    pub seed: u64,
    /// What to do with training and validation posts that have several labels. Test posts are kept.
    pub several: Several,
    /// The cleaning profile of the written texts; without one they are only repaired.
    pub profile: Option<Profile>,
    /// Randomly over-sample minority classes of the training part to this share of the largest class.
    pub oversample: Option<f64>,
    /// The Jaccard similarity of the sets of character 5-grams from which two texts are near duplicates.
    pub near: f64,
    /// Share of a set's `all` files that becomes the validation part.
    pub valid_share: f64,
    /// Share of a set's `all` files that becomes the test part.
    pub test_share: f64,
    /// The sets, merged in this order: the first of several duplicates is kept.
    pub sets: Vec<Set>,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            seed: 1,
            several: Several::default(),
            profile: None,
            oversample: None,
            near: 0.8,
            valid_share: 0.1,
            test_share: 0.1,
            sets: Vec::new(),
        }
    }
}

/// What to do with posts that have several labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Several {
    /// Keep them, for a classifier with several labels a post.
    #[default]
    Keep,
    /// Drop them, for a classifier with one label a post.
    Drop,
}

/// The folder that paths of files are relative to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RelativeTo {
    /// The folder of the data, `--data`.
    #[default]
    Data,
    /// The folder of the recipe, for files that come with it.
    Recipe,
}

/// One labelled set of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Set {
    /// Its name in tables.
    pub name: String,
    /// The format of its files.
    #[serde(default)]
    pub format: Format,
    /// The language of its posts (a BCP 47 tag), written as a third column.
    #[serde(default)]
    pub language: Option<String>,
    /// The mapping file of its labels, relative to the recipe; without one labels are not changed.
    #[serde(default)]
    pub labels_map: Option<PathBuf>,
    /// The folder that the paths of its files are relative to.
    #[serde(default)]
    pub relative_to: RelativeTo,
    /// Files for training.
    #[serde(default)]
    pub train: Vec<PathBuf>,
    /// Files for validation.
    #[serde(default)]
    pub valid: Vec<PathBuf>,
    /// Files for testing: their posts are never dropped as duplicates or trained on.
    #[serde(default)]
    pub test: Vec<PathBuf>,
    /// Files for other evaluations: like `test`, but not written.
    #[serde(default)]
    pub held_out: Vec<PathBuf>,
    /// Files to split, stratified by label.
    #[serde(default)]
    pub all: Vec<PathBuf>,
    /// Copies of each training post; the fraction is the share of posts that get one more.
    #[serde(default = "one")]
    pub weight: f64,
    /// Factors on `weight` by (mapped) label, for labels that are noisier than others.
    #[serde(default)]
    pub shares: BTreeMap<String, f64>,
}

fn one() -> f64 {
    1.0
}

impl Set {
    /// All files.
    pub(super) fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        [
            &mut self.train,
            &mut self.valid,
            &mut self.test,
            &mut self.held_out,
            &mut self.all,
        ]
        .into_iter()
        .flatten()
    }
}

/// Why a recipe can't be read or followed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// The file can't be read.
    #[error("{} can't be read", file.display())]
    Read {
        /// The recipe.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// It is not TOML or has unknown keys.
    #[error("{}: {detail}", file.display())]
    Form {
        /// The recipe.
        file: PathBuf,
        /// The line and what is wrong there.
        detail: String,
    },
    /// A setting is not valid.
    #[error("{}: {fault}", file.display())]
    Invalid {
        /// The recipe.
        file: PathBuf,
        /// What is wrong.
        fault: RecipeFault,
    },
}

/// What is wrong with a recipe.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeFault {
    /// `near` is not a similarity.
    #[error("`near` is {0}: expected a similarity above 0, at most 1")]
    Near(f64),
    /// Nothing would be left to train on.
    #[error("`valid_share` and `test_share` must leave something to train on")]
    Shares,
    /// `oversample` is not a share.
    #[error("`oversample` is a share of the largest class: expected 0 to 1")]
    Oversample,
    /// There are no sets.
    #[error("no `[[sets]]`: nothing to prepare")]
    NoSets,
    /// A set, by its name, has no files.
    #[error("set `{0}` has no files: give `train`, `valid`, `test`, `held_out` or `all`")]
    NoFiles(String),
    /// A set's language is not valid.
    #[error("set `{set}`: `{language}` is not a language tag")]
    Language {
        /// The set's name.
        set: String,
        /// Its language.
        language: String,
    },
    /// A set, by its name, has a weight or share out of range.
    #[error("set `{0}`: weights and shares are from 0 to 100")]
    Factor(String),
}

impl Recipe {
    /// Reads a recipe and resolves its paths: mapping files relative to the recipe, a set's files as its `relative_to` says.
    ///
    /// # Errors
    ///
    /// [`RecipeError`] if it can't be read or is not valid.
    pub fn read(path: &Path, data: &Path) -> Result<Self, RecipeError> {
        let text = fs::read_to_string(path).map_err(|source| RecipeError::Read {
            file: path.to_owned(),
            source,
        })?;
        let mut recipe: Self = toml::from_str(&text).map_err(|error| RecipeError::Form {
            file: path.to_owned(),
            detail: toml_mistake(&text, error.span(), error.message()),
        })?;
        let beside = path.parent().unwrap_or(Path::new(""));
        for set in &mut recipe.sets {
            if let Some(map) = &mut set.labels_map {
                *map = beside.join(&*map);
            }
            let folder = match set.relative_to {
                RelativeTo::Data => data,
                RelativeTo::Recipe => beside,
            };
            for file in set.files_mut() {
                *file = folder.join(&*file);
            }
        }
        recipe.check().map_err(|fault| RecipeError::Invalid {
            file: path.to_owned(),
            fault,
        })?;
        Ok(recipe)
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// The first setting that is not valid.
    pub fn check(&self) -> Result<(), RecipeFault> {
        if !(0.0..=1.0).contains(&self.near) || self.near == 0.0 {
            return Err(RecipeFault::Near(self.near));
        }
        if self.valid_share < 0.0 || self.test_share < 0.0 || self.valid_share + self.test_share >= 1.0 {
            return Err(RecipeFault::Shares);
        }
        if self.oversample.is_some_and(|ratio| !(0.0..=1.0).contains(&ratio)) {
            return Err(RecipeFault::Oversample);
        }
        if self.sets.is_empty() {
            return Err(RecipeFault::NoSets);
        }
        for Set {
            name,
            train,
            valid,
            test,
            held_out,
            all,
            weight,
            shares,
            language,
            ..
        } in &self.sets
        {
            if [train, valid, test, held_out, all].into_iter().all(Vec::is_empty) {
                return Err(RecipeFault::NoFiles(name.clone()));
            }
            if let Some(language) = language.as_ref().filter(|tag| !is_language(tag)) {
                return Err(RecipeFault::Language {
                    set: name.clone(),
                    language: language.clone(),
                });
            }
            if ![weight]
                .into_iter()
                .chain(shares.values())
                .all(|factor| (0.0..=100.0).contains(factor))
            {
                return Err(RecipeFault::Factor(name.clone()));
            }
        }
        Ok(())
    }
}
