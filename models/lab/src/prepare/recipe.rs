//! What is prepared from which sets: the recipe file.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use moodstream::{clean::Profile, model::toml_mistake};
use serde::{Deserialize, Serialize};

use crate::data::{DataError, Format, is_language};

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
    /// What becomes of training and validation posts with several labels. Test posts keep theirs.
    pub several: Several,
    /// The cleaning profile of the written texts; without one they are mended, but raw.
    pub profile: Option<Profile>,
    /// Minority classes of the training part are over-sampled at random to this share of the largest class.
    pub oversample: Option<f64>,
    /// Texts whose sets of character 5-grams have this Jaccard similarity are the same post.
    pub near: f64,
    /// Share of a set's `all` files that becomes the validation part.
    pub valid_share: f64,
    /// Share of a set's `all` files that becomes the test part.
    pub test_share: f64,
    /// The sets, merged in this order: of duplicates, the first is kept.
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

/// What becomes of posts with several labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Several {
    /// They are kept, for a classifier with several labels a post.
    #[default]
    Keep,
    /// They are dropped, for a classifier with one label a post.
    Drop,
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
    /// The language of its posts (a tag of BCP 47), written as a third column; without one there is none.
    #[serde(default)]
    pub language: Option<String>,
    /// The mapping file of its labels, relative to the recipe; without one they stay.
    #[serde(default)]
    pub labels_map: Option<PathBuf>,
    /// Files for training.
    #[serde(default)]
    pub train: Vec<PathBuf>,
    /// Files for validation.
    #[serde(default)]
    pub valid: Vec<PathBuf>,
    /// Files for testing: none of their posts is changed, dropped or trained on.
    #[serde(default)]
    pub test: Vec<PathBuf>,
    /// Files that are judged elsewhere: as `test`, but not written.
    #[serde(default)]
    pub held_out: Vec<PathBuf>,
    /// Files to be split, stratified by label.
    #[serde(default)]
    pub all: Vec<PathBuf>,
    /// Copies of each training post; a fraction is the share of posts that gets one more.
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
    /// All its files.
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

impl Recipe {
    /// Reads a recipe and points its paths to where the files are: mapping files beside the
    /// recipe, data under `data`.
    ///
    /// # Errors
    ///
    /// [`DataError`] if it can't be read, is no recipe, or asks for the impossible.
    pub fn read(path: &Path, data: &Path) -> Result<Self, DataError> {
        let text = fs::read_to_string(path).map_err(|source| DataError::Io {
            file: path.to_owned(),
            source,
        })?;
        let unfit = |detail| DataError::Unfit {
            file: path.to_owned(),
            detail,
        };
        let mut recipe: Self =
            toml::from_str(&text).map_err(|error| unfit(toml_mistake(&text, error.span(), error.message())))?;
        let beside = path.parent().unwrap_or(Path::new(""));
        for set in &mut recipe.sets {
            if let Some(map) = &mut set.labels_map {
                *map = beside.join(&*map);
            }
            for file in set.files_mut() {
                *file = data.join(&*file);
            }
        }
        recipe.check().map_err(unfit)?;
        Ok(recipe)
    }

    /// Says what of the recipe can't be.
    ///
    /// # Errors
    ///
    /// One line for a person.
    pub fn check(&self) -> Result<(), String> {
        if !(0.0..=1.0).contains(&self.near) || self.near == 0.0 {
            return Err(format!(
                "`near` is {}: expected a similarity above 0, at most 1",
                self.near
            ));
        }
        if self.valid_share < 0.0 || self.test_share < 0.0 || self.valid_share + self.test_share >= 1.0 {
            return Err("`valid_share` and `test_share` must leave something to train on".to_owned());
        }
        if self.oversample.is_some_and(|ratio| !(0.0..=1.0).contains(&ratio)) {
            return Err("`oversample` is a share of the largest class: expected 0 to 1".to_owned());
        }
        if self.sets.is_empty() {
            return Err("no `[[sets]]`: nothing to prepare".to_owned());
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
                return Err(format!(
                    "set `{name}` has no files: give `train`, `valid`, `test`, `held_out` or `all`"
                ));
            }
            if let Some(language) = language.as_ref().filter(|tag| !is_language(tag)) {
                return Err(format!("set `{name}`: `{language}` names no language"));
            }
            if ![weight]
                .into_iter()
                .chain(shares.values())
                .all(|factor| (0.0..=100.0).contains(factor))
            {
                return Err(format!("set `{name}`: weights and shares are from 0 to 100"));
            }
        }
        Ok(())
    }
}
